"""`pemath fit`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from pemath.cli._bindings import bindings
from pemath.cli._flags import Flag
from pemath.cli._output import ProgressLine, show_facts, show_json
from pemath.cli._own import Dtype, Metric, show_scores, subject
from pemath.names import display

if TYPE_CHECKING:
    from pemath.lab.fitting.fit import Fitted


def fit(
    method: Literal["adamerging", "cat", "lorahub"],
    /,
    *operands: str,
    out: Annotated[Path, Parameter(alias="-o")],
    data: Path | None = None,
    test: Path | None = None,
    per: Literal["layer", "module"] | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    trials: int | None = None,
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
    max_length: int | None = None,
    dtype: Dtype | None = None,
    start_seed: int | None = None,
    batch_size: int = 32,
    store: Path | None = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Learn the weights of a sum of adapters from data, and write the composition.

    What comes out is an expression with numbers, composed exactly. The loss is measured on the base
    model with all adapters in it, whose weights nothing changes. Heads get equal shares.

    Parameters
    ----------
    method
        lorahub: search weights on a few labelled rows, without gradients. adamerging: make
        predictions certain, by gradient; labels are not looked at. cat: labelled rows, by gradient.
    operands
        Bindings NAME=REFERENCE, as for compose.
    out
        The folder to write, with fit.json beside the adapter.
    data
        A CSV, TSV, JSONL or Parquet file: the rows that the weights are fitted to.
    test
        A file with other rows, on which the result is judged beside equal weights and each operand.
    per
        What has a weight of its own in each operand: layer (adamerging, cat) or module.
    steps
        Steps of adamerging and cat, each on all rows, or on 256 of more. Default: 50.
    learning_rate
        Of their Adam. Default: 0.01.
    trials
        How many weights lorahub tries. Default: 40.
    seed
        Draws what lorahub tries, and which rows go together where they are more than 256.
    model
        The base model: a pip-shipped one such as pip:minilm, a folder, or a name on the hub.
    text
        The column of the texts; two with a comma between them for pairs.
    label
        The column of the labels.
    labels
        The labels in the order in which they were trained, with commas. Without it, and without
        training.json, they are those in the file, sorted.
    metric
        How answers are judged on the test part. Default: accuracy.
    prompt
        For a model that generates: the question, with {0} (and {1}) where the texts stand.
    words
        The answers to the prompt with commas, one for each of --labels.
    task
        A known task, such as packages/movies or glue/rte, in place of files: fitted to its
        validation part, judged on its test part.
    data_dir
        The folder with data files.
    validation_rows
        Rows of a known task that are held out of training, and fitted to. Default: 200.
    max_length
        Tokens per row; what is longer is cut. Default: 128.
    dtype
        The type of the base weights.
    start_seed
        Draws the head that full fine-tuning began with. Default: 0.
    batch_size
        Rows at a time.
    store
        Keep the answers to the test part in this folder for another time.
    force
        Replace an existing adapter folder.
    json
        Print JSON.
    """
    # Without it torch's idle threads take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pemath.lab import own
    from pemath.lab.fitting.fit import fit as fitted

    given = {"steps": steps, "learning_rate": learning_rate, "trials": trials}
    line = ProgressLine("steps")
    try:
        done = fitted(
            method,
            bindings(operands),
            out,
            data=data,
            test=test,
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
                store=store,
                progress=line,
            ),
            per=per,
            options={name: value for name, value in given.items() if value is not None},
            seed=seed,
            force=force,
        )
    finally:
        line.close()
    if json:
        show_json(done.as_dict())
        return
    _show(done)


def _show(done: Fitted) -> None:
    """The expression, its loss beside that of equal weights, and what it is worth on other rows."""
    for note in done.notes:
        print(f"note: {note}")
    if not done.improved:
        print("note: nothing better than equal weights was found, so these are the result")
    show_facts(
        f"{display(done.expression, 4000)} → {display(done.composition.folder)}",
        [
            ("loss", f"{done.loss}, on {done.rows} rows"),
            ("equal", f"{done.before:.4f}"),
            ("fitted", f"{done.after:.4f}"),
            ("passes", f"{done.evaluations:.4g} over these rows"),
        ],
    )
    if done.scores:
        show_scores(f"{done.test_rows} other rows", done.metric, done.scores)
    else:
        print("Add --test FILE to see what it is worth on rows that it was not fitted to.")
