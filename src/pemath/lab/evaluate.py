"""What modules answer: one base model, into which one composition after the other is swapped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pemath.errors import LayoutError
from pemath.formats.peft import PREFIX
from pemath.lab.data.rows import Row
from pemath.lab.encoding import Encoder
from pemath.lab.models import Base, on_device_of
from pemath.lab.modules import attach, parameters_of, read_tensors
from pemath.names import display, listing
from pemath.references import CONFIG

Prediction = int | float


class Host:
    """A base model with a module in it that is replaced in place, without loading either again.

    Takes folders that pemath has composed (scaling folded in) of one type of PEM.
    """

    def __init__(self, base: Base, pem: str, first: Path) -> None:
        self._pem = pem
        if pem == "full":
            self._start: dict[str, Any] = parameters_of(base)
            self.model = base.model
            self.places = dict(base.model.named_parameters())
        else:
            self.model = attach(base, pem, first).eval()
            self.places = _places(self.model)
        self._fixed = set(self.places)
        _keep_output_small(self.model)
        self.swap(first)

    def swap(self, folder: Path) -> None:
        """Put the module in `folder` in the place of the present one.

        Raises LayoutError if its tensors are not those of the module that the host was made with.
        """
        import torch

        tensors = {n.removeprefix(PREFIX): t for n, t in read_tensors(folder).items()}
        strange = sorted(set(tensors) ^ self._fixed)
        if self._pem == "full" and not strange:  # the others may change their rank
            strange = [n for n, t in tensors.items() if t.shape != self._start[n].shape]
        if strange:
            raise LayoutError(
                "the module does not fit the model that it is to be swapped into",
                where=display(folder),
                found=listing(strange[:4]),
                expected="the same tensors in all compositions",
            )
        with torch.no_grad():
            if self._pem == "lora":
                _fold_scaling(self.model, folder)
            for name, tensor in tensors.items():
                place = self.places[name]
                if self._pem == "full":
                    place.copy_(self._start[name] + tensor)
                else:
                    place.data = tensor.to(place)


def _keep_output_small(model: Any) -> None:
    """Hand the output layer contiguous rows: of the last positions alone, which are a slice, torch
    would multiply every row with a copy of the whole output matrix.
    """
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if output is not None:
        output.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))


def _places(model: Any) -> dict[str, Any]:
    """The parameters of the one module on a PEFT model, by their names in its file."""
    found = {}
    for name, parameter in model.named_parameters():
        if ".default" in name and ".original_module." not in name:
            stored = name.replace(".modules_to_save.default.", ".").replace(".default", "")
            found[stored.removeprefix(PREFIX)] = parameter
    return found


def _fold_scaling(model: Any, folder: Path) -> None:
    """alpha / r of the folder, as every layer's scaling."""
    from pemath.formats.peft import read_json

    config = read_json(folder / CONFIG)
    alpha, rank = float(config.get("lora_alpha", 8)), float(config.get("r", 8))
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict) and "default" in module.scaling:
            module.scaling["default"] = scaling


class Questions:
    """The rows of one task, encoded and cut into batches of like length once, asked many times."""

    def __init__(self, encoder: Encoder, rows: Sequence[Row], batch_size: int) -> None:
        self.encoder = encoder
        self.count = len(rows)
        single = all(len(word) == 1 for word in self._words())
        self._ask = {"encoder": _classes, "seq2seq": _words_after_encoder}.get(
            encoder.base.family, _next_word if single else _words_after_prompt
        )
        encoded = [self._encoded(row) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: (len(encoded[i]["input_ids"]), i))
        self._batches = [
            (part, [encoded[i] for i in part])
            for start in range(0, len(order), batch_size)
            for part in [order[start : start + batch_size]]
        ]

    def ask(
        self, model: Any, progress: Callable[[str, int, int], None] = lambda w, d, t: None
    ) -> list[Prediction]:
        """What `model` answers: the likeliest class or label word, or the predicted number."""
        import torch

        answers: list[Prediction] = [0] * self.count
        kind = float if self.encoder.task.is_regression else int
        with torch.inference_mode():
            for batch in range(len(self.sizes)):
                positions, scores = self.scores(model, batch)
                found = scores.squeeze(-1) if kind is float else scores.argmax(-1)
                for position, answer in zip(positions, found, strict=True):
                    answers[position] = kind(answer)
                progress("evaluating", batch + 1, len(self.sizes))
        return answers

    @property
    def sizes(self) -> list[int]:
        """How many rows each batch has."""
        return [len(positions) for positions, _ in self._batches]

    def scores(self, model: Any, batch: int) -> tuple[list[int], Any]:
        """The positions of a batch's rows, and what `model` says to them, as a tensor [rows, labels]:
        logits of a head (of a regression [rows, 1]), or the log-likelihoods of label words, up to a
        constant for each row.
        """
        positions, features = self._batches[batch]
        return positions, self._ask(self.encoder, model, features)

    def _words(self) -> list[list[int]]:
        return [] if self.encoder.base.family == "encoder" else self.encoder.word_ids()

    def _encoded(self, row: Row) -> dict[str, Any]:
        if self.encoder.base.family == "encoder":
            return self.encoder.features(row)
        return {"input_ids": self.encoder.prompt_ids(row)}


def _classes(encoder: Encoder, model: Any, features: list[dict[str, Any]]) -> Any:
    batch = encoder.collate(features)
    batch.pop("labels")
    return model(**on_device_of(model)(batch)).logits


def _next_word(encoder: Encoder, model: Any, features: list[dict[str, Any]]) -> Any:
    """Label words where each is one token: one look at the last position."""
    import torch

    from pemath.lab.encoding import padded

    ids, mask = padded([f["input_ids"] for f in features], encoder.pad_id, left=True)
    batch = on_device_of(model)(encoder.on_the_left(ids, mask))
    logits = model(**batch, logits_to_keep=1).logits[:, -1].float()
    words = torch.tensor([word[0] for word in encoder.word_ids()], device=logits.device)
    return logits[:, words]


def _words_after_prompt(encoder: Encoder, model: Any, features: list[dict[str, Any]]) -> Any:
    """Label words of several tokens: their summed log-likelihood after the prompt."""
    import torch

    scores = []
    for word in encoder.word_ids():
        lines = [{"input_ids": f["input_ids"] + word, "answer": len(word)} for f in features]
        batch = on_device_of(model)(encoder.collate(lines))
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch).logits[:, :-1].float().log_softmax(-1)
        scores.append(logits.gather(-1, labels.unsqueeze(-1)).sum((1, 2)))
    return torch.stack(scores, -1)


def _words_after_encoder(encoder: Encoder, model: Any, features: list[dict[str, Any]]) -> Any:
    """The same for a sequence-to-sequence model, whose encoder runs once for all words."""
    import torch

    from pemath.lab.encoding import padded

    ids, mask = padded([f["input_ids"] for f in features], encoder.pad_id, left=False)
    inputs = on_device_of(model)({"input_ids": ids, "attention_mask": mask})
    encoded = model.get_encoder()(**inputs)
    scores = []
    for word in encoder.word_ids():
        labels = torch.tensor([word] * len(features), device=ids.device).to(inputs["input_ids"])
        logits = model(
            encoder_outputs=encoded, attention_mask=inputs["attention_mask"], labels=labels
        ).logits.float()
        scores.append(logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).sum((1, 2)))
    return torch.stack(scores, -1)
