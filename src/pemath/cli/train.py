"""`pemath train`."""

from __future__ import annotations

import os
from pathlib import Path

from pemath.cli._flags import Flag
from pemath.cli._output import ProgressLine, show_facts, show_json
from pemath.cli._own import Dtype, Metric, Pem, parted, subject
from pemath.names import display


def train(
    out: Path,
    /,
    *,
    model: str,
    data: Path | None = None,
    text: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    metric: Metric | None = None,
    prompt: str | None = None,
    words: str | None = None,
    task: str | None = None,
    data_dir: Path | None = None,
    validation_rows: int | None = None,
    pem: Pem = "lora",
    rank: int | None = None,
    alpha: int | None = None,
    dropout: float | None = None,
    target_modules: str | None = None,
    feedforward_modules: str | None = None,
    learning_rate: float | None = None,
    epochs: float = 3,
    max_steps: int | None = None,
    batch_size: int | None = None,
    max_length: int = 128,
    dtype: Dtype = "float32",
    seed: int = 0,
    start_seed: int = 0,
    report_to: str | None = None,
    store: Path | None = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Train a module on a file of labelled texts, or on a known task.

    Modules that are to be added up need one model, one start (--start-seed, and equal settings of
    the module) and the same labels in the same order.

    Parameters
    ----------
    out
        The folder to write: an adapter that PEFT loads, and training.json, from which evaluate and
        sweep know how to ask it. Full fine-tuning writes the change of all weights.
    model
        The base model: a pip-shipped one such as pip:minilm, a folder, or a name on the hub.
    data
        A CSV, TSV, JSONL or Parquet file; all of its rows are trained on.
    text
        The column of the texts; two with a comma between them for pairs.
    label
        The column of the labels.
    labels
        The labels in order, with commas. Without it they are those in the file, sorted.
    metric
        How answers are judged. Default: accuracy. pearson_spearman makes labels numbers.
    prompt
        For a model that generates: the question, with {0} (and {1}) where the texts stand.
    words
        The answers to the prompt with commas, one for each of --labels.
    task
        A known task, such as packages/movies or glue/rte, in place of a file.
    data_dir
        The folder with data files.
    validation_rows
        Rows of a known task that are held out of training, for sweep. Default: 200.
    pem
        lora, ia3 or full.
    rank
        Of a LoRA. Default: 8.
    alpha
        Of a LoRA. Default: 8.
    dropout
        Of a LoRA. Default: 0.
    target_modules
        Which modules of the model to adapt, with commas. Default: PEFT's for the architecture.
    feedforward_modules
        Which of them an (IA)³ scales at their input.
    learning_rate
        Default: 5e-4 for lora, 1e-3 for ia3, 1e-4 for full.
    epochs
        How often each row is seen.
    max_steps
        Steps in place of epochs.
    batch_size
        Rows in a step. Default: 16.
    max_length
        Tokens per row; what is longer is cut.
    dtype
        The type of the base weights.
    seed
        Orders the rows.
    start_seed
        Draws the start. All modules with one start seed and equal settings begin as one.
    report_to
        Trackers of transformers' Trainer, with commas: tensorboard, wandb, …
    store
        Where the start and interrupted work are kept. Default: `store` beside the output.
    force
        Replace an existing adapter folder.
    json
        Print JSON.
    """
    # Without it torch's idle threads take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pemath.lab import own

    given = {
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "target_modules": parted(target_modules),
        "feedforward_modules": parted(feedforward_modules),
        "learning_rate": learning_rate,
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
    }
    line = ProgressLine("steps")
    try:
        done = own.train(
            out,
            model=model,
            data=data,
            subject=subject(
                task=task,
                data_dir=data_dir,
                validation_rows=validation_rows,
                text=text,
                label=label,
                labels=labels,
                metric=metric,
                prompt=prompt,
                words=words,
            ),
            pem=pem,
            settings={name: value for name, value in given.items() if value is not None},
            dtype=dtype,
            max_length=max_length,
            seed=seed,
            start_seed=start_seed,
            report_to=parted(report_to) or (),
            store=store,
            force=force,
            progress=line,
        )
    finally:
        line.close()
    card, facts = done.card, done.facts
    if json:
        shown = {"folder": str(done.folder), "pem": pem, **card.model_dump(), "facts": dict(facts)}
        show_json(shown)
        return
    show_facts(
        f"{display(data or task)} → {display(out)}",
        [
            ("module", f"{pem} on {display(card.model)}, {facts['trainable']:,} parameters"),
            ("labels", display(", ".join(card.labels)) or "numbers"),
            ("rows", f"{facts['rows']}, {facts['steps']} steps in {facts['seconds']:.0f} s"),
            ("loss", f"{facts['train_loss']:.3f} at the end"),
            ("start", f"seed {start_seed}"),
        ],
    )
