"""What the pages of all experiments share: how a run is introduced, what is odd, how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any

from pemath.lab.report import names, numbers
from pemath.lab.report.blocks import Code, Figure, Group, Section, Table, Tile, columns, row
from pemath.lab.report.claims import FAILS, HOLDS, TIE
from pemath.lab.report.read import Run

Block = Table | Figure | Code
_SHOWN = 12  # of what is missing


def subtitle(run: Run) -> str:
    """Model, tasks, kinds of module, seeds and preset."""
    model = run.facts.recipe.get("model") or {}
    tasks = run.facts.recipe.get("tasks") or []
    parts = [
        f"model {model['name']}" if model.get("name") else "",
        f"{len(tasks)} task" + "s" * (len(tasks) != 1) if tasks else "",
        ", ".join(map(names.pem, run.pems)),
        f"{len(run.seeds)} seed" + "s" * (len(run.seeds) != 1),
        f"preset {run.facts.preset}" if run.facts.preset else "",
    ]
    return " · ".join(part for part in parts if part)


def tiles(run: Run, verdicts: Iterable[str], what: str) -> tuple[Tile, ...]:
    """How often the claim holds in what is judged (`what`, in the plural), and the time it took."""
    found = list(verdicts)
    holds, ties, fails = (found.count(each) for each in (HOLDS, TIE, FAILS))
    shown = []
    if found:
        shown = [
            Tile(
                f"{holds} of {len(found)}",
                f"{what} where the claim holds",
                "good" if holds else "faint",
            ),
            Tile(f"{ties}", "ties", "faint"),
            Tile(f"{fails}", "where it fails", "bad" if fails else "faint"),
        ]
    if run.facts.seconds is not None:
        note = f"of training and asking; {run.facts.device or 'device unknown'}"
        shown.append(Tile(numbers.duration(run.facts.seconds), note))
    return tuple(shown)


def warnings(run: Run, lacking: Sequence[str]) -> tuple[str, ...]:
    """What is odd about a run that lacks this."""
    notes = list(run.notes)
    if lacking:
        shown = "; ".join(lacking[:_SHOWN]) + (
            f"; and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        )
        notes.insert(
            0,
            f"The run is not complete: {len(lacking)} of its cells and seeds lack compositions. "
            f"Missing: {shown}.",
        )
    if len(run.seeds) == 1:
        notes.append("There is one seed only: nothing here says how much training varies.")
    return tuple(notes)


def material(*blocks: Block | None) -> Section:
    """Data and training."""
    return Section("material", "Data and training", (), present(blocks))


def provenance(run: Run) -> Section:
    """Command, device, seeds, versions and recipe."""
    stated = run.facts
    lines = [
        f"Made by `{stated.command}`" if stated.command else "",
        f"Started {stated.started}" if stated.started else "",
        f"Training and asking took {numbers.duration(stated.seconds)} over all processes"
        if stated.seconds is not None
        else "",
        f"On {stated.device}" if stated.device else "",
        f"Seeds {', '.join(map(str, run.seeds))}",
        f"{run.checked} of {len(run.records)} stored metrics were computed again from the stored "
        "predictions and agree",
    ]
    versions = Table(
        "versions",
        "Versions",
        columns("", "version", text=("version",)),
        (Group("", tuple(row(name, version) for name, version in stated.versions.items())),),
    )
    blocks: list[Block] = [versions, Code("The recipe", _yaml(stated.recipe))]
    return Section(
        "provenance",
        "How it was made",
        (". ".join(line for line in lines if line) + ".",),
        present(blocks),
    )


def present(blocks: Iterable[Block | None]) -> tuple[Block, ...]:
    """Those that are there, without empty tables."""
    return tuple(
        block
        for block in blocks
        if block is not None and not (isinstance(block, Table) and block.is_empty)
    )


def _yaml(recipe: dict[str, Any]) -> str:
    from ruamel.yaml import YAML

    writer: Any = YAML(typ="safe", pure=True)
    written = StringIO()
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # the recipe's own order
    writer.dump(recipe, written)
    return written.getvalue()
