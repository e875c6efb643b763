"""`pemath evaluate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from pemath.cli._bindings import bindings
from pemath.cli._flags import Flag
from pemath.cli._output import ProgressLine, show_json, show_table
from pemath.cli._own import Dtype, Metric, show_scores, subject
from pemath.errors import RequestError
from pemath.names import display

if TYPE_CHECKING:
    from pemath.lab.own import Asking


def evaluate(
    expression: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *operands: str,
    data: Path | None = None,
    model: str | None = None,
    text: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    metric: Metric | Literal["perplexity"] | None = None,
    prompt: str | None = None,
    words: str | None = None,
    task: str | None = None,
    data_dir: Path | None = None,
    statistics: tuple[str, ...] = (),
    max_length: int | None = None,
    dtype: Dtype | None = None,
    start_seed: int | None = None,
    batch_size: int = 32,
    store: Path | None = None,
    only: Flag = False,
    json: Flag = False,
) -> None:
    """Say what an expression over adapters, or one adapter folder, is worth on labelled rows.

    Operands that pemath trained know their model, columns and labels (training.json); others need
    the options. The base model is loaded once. Heads are averaged.

    Parameters
    ----------
    expression
        For example "0.5*a + 0.5*b"; or an adapter's folder, without operands.
    operands
        Bindings NAME=REFERENCE, as for compose.
    data
        A CSV, TSV, JSONL or Parquet file with the rows to ask about.
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
        How answers are judged. Default: accuracy. With perplexity, --data is a plain text that a
        causal model is to predict; windows of 1024 tokens move on by 512.
    prompt
        For a model that generates: the question, with {0} (and {1}) where the texts stand.
    words
        The answers to the prompt with commas, one for each of --labels.
    task
        A known task, such as packages/movies or glue/rte, in place of a file: its test part.
    data_dir
        The folder with data files.
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
    only
        Ask the expression only, not each operand alone.
    json
        Print JSON.
    """
    # Without it torch's idle threads take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pemath.lab import own

    line = ProgressLine("batches")
    asking = own.Asking(
        model=model,
        dtype=dtype,
        max_length=max_length,
        start_seed=start_seed,
        batch_size=batch_size,
        statistics=bindings(statistics),
        store=store,
        progress=line,
    )
    if metric == "perplexity":
        _show_perplexities(expression, bindings(operands), data, asking, as_json=json)
        return
    try:
        done = own.evaluate(
            expression,
            bindings(operands),
            data=data,
            subject=subject(
                task=task,
                data_dir=data_dir,
                validation_rows=None,
                text=text,
                label=label,
                labels=labels,
                metric=metric,
                prompt=prompt,
                words=words,
            ),
            asking=asking,
            only=only,
        )
    finally:
        line.close()
    if json:
        show_json({"expression": expression, **done.as_dict()})
        return
    for note in done.notes:
        print(f"note: {note}")
    of = display(", ".join(done.labels)) or "numbers"
    show_scores(f"{done.rows} rows, labels: {of}", done.metric, done.scores)


def _show_perplexities(
    expression: str, operands: dict[str, str], data: Path | None, asking: Asking, *, as_json: bool
) -> None:
    from pemath.lab.own.reading import read_text

    if data is None:
        raise RequestError("a perplexity needs a text", hint="name a file with --data")
    try:
        found = read_text(expression, operands, data, asking)
    finally:
        if isinstance(asking.progress, ProgressLine):
            asking.progress.close()
    if as_json:
        show_json({"expression": expression, "perplexity": found})
        return
    rows = [[name, f"{value:.4g}"] for name, value in found.items()]
    show_table(f"Perplexity on {display(data)}", ["composition", "perplexity"], rows)
