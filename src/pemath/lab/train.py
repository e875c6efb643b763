"""One module trained on one list of rows, through transformers' Trainer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pemath.errors import RequestError
from pemath.lab.data.rows import Row
from pemath.lab.encoding import Encoder
from pemath.lab.models import missing_lab, quiet
from pemath.lab.writing import Writer
from pemath.names import display

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Training:
    """The optimiser's settings. The defaults are those of the paper's scripts (arXiv 2306.14870,
    code of the authors): AdamW, linear decay after 6 % warm-up, gradients clipped at 1.
    """

    learning_rate: float
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 16
    weight_decay: float = 0.01
    warmup_ratio: float = 0.06
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    adam_epsilon: float = 1e-6
    max_grad_norm: float = 1.0
    schedule: str = "linear"


@dataclass(frozen=True)
class Facts:
    """What a training run was: steps, the mean loss of its last tenth, seconds, and the number of
    trainable parameters.
    """

    steps: int
    train_loss: float
    seconds: float
    trainable: int


def train(
    model: Any,
    encoder: Encoder | Writer,
    rows: Sequence[Row],
    training: Training,
    *,
    seed: int,
    scratch: Path,
    report_to: Sequence[str] = (),
    progress: Report = lambda what, done, total: None,
) -> Facts:
    """Train what requires a gradient in `model` on `rows`; `seed` orders them and drops out.

    Checkpoints go to `scratch`: training goes on from the last one there. Raises MissingExtra.
    """
    try:
        from transformers import Trainer, TrainerCallback, TrainingArguments
        from transformers.trainer_utils import get_last_checkpoint
    except ImportError as missing:
        raise missing_lab(str(missing.name)) from missing

    class Shown(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress("training", state.global_step, state.max_steps)

    features = [encoder.features(row) for row in rows]
    per_epoch = -(-len(rows) // training.batch_size)
    steps = training.max_steps or max(1, round(training.epochs * per_epoch))
    # A resumed run draws the same batches only in the first epoch and from the start of others.
    save_steps = 100 if steps <= per_epoch else per_epoch * -(-100 // per_epoch)
    arguments = TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=_share_of(training.batch_size),
        learning_rate=training.learning_rate,
        max_steps=steps,
        weight_decay=training.weight_decay,
        warmup_steps=round(training.warmup_ratio * steps),
        adam_beta1=training.adam_beta1,
        adam_beta2=training.adam_beta2,
        adam_epsilon=training.adam_epsilon,
        max_grad_norm=training.max_grad_norm,
        lr_scheduler_type=training.schedule,
        optim="adamw_torch",
        train_sampling_strategy="group_by_length",
        seed=seed,
        data_seed=seed,
        logging_steps=max(1, steps // 10),
        save_strategy="steps" if steps > 2 * save_steps else "no",
        save_steps=save_steps,
        save_total_limit=1,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=list(report_to) or "none",
        use_cpu=encoder.base.device.type == "cpu",
        dataloader_pin_memory=False,
    )
    started = time.perf_counter()
    with quiet():
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=features,
            data_collator=encoder.collate,
            callbacks=[Shown()],
        )
        trainer.remove_callback(_printer())
        checkpoint = get_last_checkpoint(str(scratch)) if scratch.is_dir() else None
        trainer.train(resume_from_checkpoint=checkpoint)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    model.eval()
    return Facts(
        steps=trainer.state.global_step,
        train_loss=float(losses[-1]) if losses else float("nan"),
        seconds=time.perf_counter() - started,
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def _share_of(batch_size: int) -> int:
    """The rows of a batch that each GPU gets: the batch is the recipe's on any number of them."""
    import torch

    count = int(os.environ.get("WORLD_SIZE", "0")) or max(1, torch.cuda.device_count())
    if batch_size % count:
        raise RequestError(
            f"a batch of {batch_size} rows cannot be shared by {count} GPUs",
            hint="name fewer in CUDA_VISIBLE_DEVICES, or change batch_size",
        )
    return batch_size // count


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that transformers does not know, or that are not installed.

    Raises: RequestError, MissingExtra.
    """
    if not names:
        return
    try:
        from transformers.integrations import get_reporting_integration_callbacks
    except ImportError as missing:
        raise missing_lab(str(missing.name)) from missing
    try:
        for tracker in get_reporting_integration_callbacks(list(names)):
            tracker()
    except (ValueError, RuntimeError, ImportError) as error:
        raise RequestError("training cannot be reported there", found=display(error, 300)) from None


def _printer() -> Any:
    """The callback that would print every log entry."""
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback
