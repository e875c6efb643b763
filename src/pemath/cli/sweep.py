"""`pemath sweep`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from pemath.cli._bindings import bindings
from pemath.cli._flags import Flag
from pemath.cli._output import ProgressLine, show_json, show_table
from pemath.cli._own import Dtype, Metric, metric_text, show_scores, subject
from pemath.names import display

if TYPE_CHECKING:
    from pemath.lab.own import Swept

# What begins like a number and is no path is the values of a weight.
_VALUES = re.compile(r"[-+]?\.?\d[^/\\]*")


def sweep(
    expression: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *operands: str,
    validation: Path | None = None,
    data: Path | None = None,
    search: Literal["grid", "optuna"] = "grid",
    trials: int = 30,
    seed: int = 0,
    model: str | None = None,
    text: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    metric: Metric | None = None,
    prompt: str | None = None,
    words: str | None = None,
    task: str | None = None,
    data_dir: Path | None = None,
    validation_rows: int | None = None,
    statistics: tuple[str, ...] = (),
    max_length: int | None = None,
    dtype: Dtype | None = None,
    start_seed: int | None = None,
    batch_size: int = 32,
    store: Path | None = None,
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Choose the weights of an expression on a validation part, and judge it on the test part.

    The base model is loaded once and the compositions are swapped into it. Heads are averaged.

    Parameters
    ----------
    expression
        With free weights, for example "(1-t)*a + t*b".
    operands
        Bindings NAME=REFERENCE for adapters and NAME=START:STOP:STEP for weights, such as
        t=0:1:0.1. A range without a step, t=0:1, is for --search optuna. A folder whose name begins
        with a digit is written ./1.
    validation
        A CSV, TSV, JSONL or Parquet file: the rows that choose the weights.
    data
        The file with the test rows. Rows that the validation file has too choose nothing.
    search
        grid tries every combination, optuna --trials of them.
    trials
        How many combinations optuna tries.
    seed
        Draws what optuna tries.
    model
        The base model: a pip-shipped one such as pip:minilm, a folder, or a name on the hub.
    text
        The column of the texts; two with a comma between them for pairs.
    label
        The column of the labels.
    labels
        The labels in the order in which they were trained, with commas. Without it, and without
        training.json, they are those in the validation file, sorted.
    metric
        How answers are judged. Default: accuracy.
    prompt
        For a model that generates: the question, with {0} (and {1}) where the texts stand.
    words
        The answers to the prompt with commas, one for each of --labels.
    task
        A known task, such as packages/movies or glue/rte, in place of files.
    data_dir
        The folder with data files.
    validation_rows
        Rows of a known task that are held out of training and choose the weights: as many as train
        was told to. Default: 200.
    statistics
        NAME=FILE, any number: what regmean and fisher need to know about an operand.
    max_length
        Tokens per row; what is longer is cut. Default: 128.
    dtype
        The type of the base weights.
    start_seed
        Draws the head that full fine-tuning began with. Default: 0.
    batch_size
        Rows at a time.
    store
        Keep the answers in this folder for another time.
    out
        Write the chosen composition into this folder, for evaluate with training.json.
    force
        Replace an existing adapter folder.
    json
        Print JSON.
    """
    # Without it torch's idle threads take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pemath.lab import own

    bound = bindings(operands)
    weights = {
        name: value
        for name, value in bound.items()
        if _VALUES.fullmatch(value) and not Path(value).is_dir()
    }
    adapters = {name: value for name, value in bound.items() if name not in weights}
    line = ProgressLine("batches")
    try:
        done = own.sweep(
            expression,
            adapters,
            weights,
            validation=validation,
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
            asking=own.Asking(
                model=model,
                dtype=dtype,
                max_length=max_length,
                start_seed=start_seed,
                batch_size=batch_size,
                statistics=bindings(statistics),
                store=store,
                progress=line,
            ),
            kind=search,
            trials=trials,
            seed=seed,
            out=out,
            force=force,
        )
    finally:
        line.close()
    if json:
        show_json({"sweep": expression, **done.as_dict()})
        return
    _show(done)


def _show(done: Swept) -> None:
    """The curve, what the chosen weights are worth, and how to keep them."""
    from pemath.expression.tree import number_text

    for note in done.notes:
        print(f"note: {note}")
    names = list(done.chosen.weights)
    show_table(
        f"{done.validation_rows} validation rows: the weights are chosen here",
        [*names, done.metric, ""],
        [
            (
                *(number_text(one.weights[name]) for name in names),
                metric_text(done.metric, one.score),
                "chosen" if one is done.chosen else "",
            )
            for one in done.tried
        ],
        text_columns=0,
    )
    show_scores(f"{done.rows} test rows, which chose nothing", done.metric, done.scores)
    if done.folder is not None:
        print(f"The chosen composition is in {display(done.folder, 400)}.")
    else:
        print("Add --out FOLDER to keep the chosen composition.")
