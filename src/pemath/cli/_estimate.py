"""What `pemath reproduce --dry-run` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pemath.cli._output import show_facts, show_json, show_table, size_text
from pemath.names import display

if TYPE_CHECKING:
    from pemath.lab.estimate.parts import Estimate, Kept, Line, Rows

_UNKNOWN = "unknown"
_WORK = {
    "train": "train",
    "choose": "choose among candidates",
    "evaluate": "evaluate compositions",
    "write": "write texts",
    "read": "read texts",
    "gram": "measure Gram matrices",
    "fisher": "measure Fisher information",
}


def show_estimate(estimate: Estimate, *, as_json: bool) -> None:
    """What would be done, and what it would cost."""
    if as_json:
        show_json(estimate.as_dict())
        return
    _show_facts(estimate)
    print()
    _show_rows(estimate)
    _show_work(estimate)
    _show_modules(estimate)
    for note in (*estimate.notes, *_rules()):
        print(f"note: {note}")


def _show_facts(estimate: Estimate) -> None:
    size = estimate.size
    (core, gpu), (core_most, gpu_most) = (estimate.hours(likely=it) for it in (True, False))
    model = f"{display(estimate.model)}, "
    if size is None:
        model += "of unknown size"
    else:
        model += f"{_millions(size.parameters)} parameters, {_millions(size.working)} working"
    tokens = (
        f"likely {_short(estimate.total('likely'))}, at most {_short(estimate.total('tokens'))}"
    )
    operations = f"likely {_short(estimate.total('likely_operations'))}"
    show_facts(
        f"{estimate.experiment}: nothing is done, this is what would be",
        [
            ("model", model),
            ("cells", str(estimate.cells)),
            ("seeds", str(estimate.seeds)),
            ("tokens", tokens),
            ("operations", f"{operations}, at most {_short(estimate.total('operations'))}"),
            ("disk", _UNKNOWN if estimate.bytes is None else size_text(estimate.bytes)),
            ("on one core", f"likely {_time(core)}, at most {_time(core_most)}"),
            ("on one GPU", f"likely {_time(gpu)}, at most {_time(gpu_most)} (assumed speed)"),
        ],
    )


def _show_rows(estimate: Estimate) -> None:
    show_table(
        "Rows (of each task or text: to train a module, held out, asked)",
        ["task", "train", "validation", "test", "usual tokens"],
        [_row_cells(rows) for rows in estimate.rows],
    )


def _row_cells(rows: Rows) -> tuple[str, ...]:
    def shown(part: str, amount: int | None) -> str:
        if part not in rows.all_of:
            return "" if amount == 0 else _count(amount)
        return "all" if amount is None else f"all, {amount:,}"

    return (
        display(rows.task),
        shown("train", rows.train),
        shown("validation", rows.validation),
        shown("test", rows.test),
        _count(rows.tokens),
    )


def _show_work(estimate: Estimate) -> None:
    show_table(
        "Work (over all tasks and seeds)",
        [
            "work",
            "module",
            "times",
            "rows each",
            "steps",
            "tokens, at most",
            "likely",
            "operations",
        ],
        [_line_cells(line) for line in estimate.summed()],
        text_columns=2,
    )


def _line_cells(line: Line) -> tuple[str, ...]:
    return (
        _WORK[line.work],
        line.pem,
        f"{line.times:,}",
        _UNKNOWN if line.rows is None else f"≤ {line.rows:,}",
        _count(line.steps) if line.work == "train" else "",
        _count(line.tokens),
        _count(line.likely),
        _short(line.likely_operations),
    )


def _show_modules(estimate: Estimate) -> None:
    show_table(
        "Kept in the store",
        [
            "module",
            "candidates",
            "trained",
            "parameters",
            "each",
            "statistics",
            "each",
            "together",
            "composed",
        ],
        [_kept_cells(kept) for kept in estimate.kept],
    )


def _kept_cells(kept: Kept) -> tuple[str, ...]:
    return (
        kept.pem,
        str(kept.candidates),
        f"{kept.modules:,}",
        _count(kept.trainable),
        _size(kept.module_bytes),
        f"{kept.statistics:,}" if kept.statistics else "",
        _size(kept.statistics_bytes) if kept.statistics else "",
        _size(kept.bytes),
        f"{kept.compositions:,}",
    )


def _rules() -> tuple[str, ...]:
    from pemath.lab.estimate.parts import RULES

    return RULES


def _count(amount: int | None) -> str:
    return _UNKNOWN if amount is None else f"{amount:,}"


def _short(amount: int | None) -> str:
    """Few digits: what is estimated has no more."""
    if amount is None:
        return _UNKNOWN
    return f"{amount:.2g}" if amount >= 1e9 else f"{amount:,}"


def _millions(amount: int) -> str:
    return f"{amount / 1e6:.1f} M"


def _size(amount: int | None) -> str:
    return _UNKNOWN if amount is None else size_text(amount)


def _time(hours: float | None) -> str:
    if hours is None:
        return _UNKNOWN
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} seconds"
    if hours < 2:
        return f"{hours * 60:.0f} minutes"
    return f"{hours:,.1f} hours" if hours < 100 else f"{hours:,.0f} hours"
