"""The command line: one file per verb, loaded when the verb is used."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

import cyclopts

import pemath
from pemath.cli._output import show_error
from pemath.errors import Bug, PemathError, UsageError
from pemath.names import display

# Verb: what it does, and an example.
_VERBS = {
    "compose": (
        "Evaluate an expression over adapters and write the result as an adapter folder.",
        'pemath compose "0.6*a + 0.4*b - 0.3*toxic" a=./a b=./b toxic=user/toxic --out merged',
    ),
    "inspect": (
        "Say what an adapter is: kind, base model, rank, sites, dtype, norms, size.",
        "pemath inspect example:sentiment-lora-a",
    ),
    "compare": (
        "Say how two adapters relate, and what each arithmetic would do to them.",
        "pemath compare a=example:sentiment-lora-a b=example:sentiment-lora-b",
    ),
    "convert": (
        "Convert an adapter or a checkpoint to another form, or merge it into its base.",
        "pemath convert ./adapter --to checkpoint --base-weights ./base --out merged",
    ),
    "verify": ("Check a composed folder against its lock file.", "pemath verify merged"),
    "rebuild": (
        "Make a composed folder again from its lock file, byte for byte.",
        "pemath rebuild merged --out merged-again",
    ),
    "demo": ("Compose the adapters shipped with pemath and measure the result.", "pemath demo"),
    "kinds": ("List the kinds of PEM and what they compute.", "pemath kinds"),
    "methods": ("List the merge methods and their options.", "pemath methods"),
    "train": (
        "Train a module on a file of labelled texts, or on a known task.",
        "pemath train a --model pip:minilm --data a.csv --text text --label label",
    ),
    "evaluate": (
        "Say what an expression over adapters, or one adapter folder, is worth on labelled rows.",
        'pemath evaluate "0.5*a + 0.5*b" a=./a b=./b --data test.csv',
    ),
    "sweep": (
        "Choose the weights of an expression on a validation part, and judge it on the test part.",
        'pemath sweep "(1-t)*a + t*b" t=0:1:0.1 a=./a b=./b --validation v.csv --data test.csv',
    ),
    "fit": (
        "Learn the weights of a sum of adapters from data, and write the composition.",
        "pemath fit cat a=./a b=./b --data rows.csv --test test.csv --out merged",
    ),
    "reproduce": (
        "Carry out an experiment of the paper, or a recipe of your own, and report on it.",
        "pemath reproduce distribution --preset smoke",
    ),
    "report": (
        "Make tables, figures and a page from the run folder of an experiment.",
        "pemath report runs/distribution --out results/distribution-cpu",
    ),
    "lab": (
        "What experiments need: models and data that packages carry.",
        "pemath lab assets --json",
    ),
}

app = cyclopts.App(
    name="pemath",
    help="Arithmetic for parameter-efficient modules: compose adapters with + - * and a certificate."
    "\n\nExample: pemath compose '0.5*a + 0.5*b' a=FOLDER b=FOLDER --out merged",
    version=pemath.__version__,
    help_format="plaintext",
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
)
for _verb, (_summary, _example) in _VERBS.items():
    app.command(
        f"pemath.cli.{_verb}:{_verb}", name=_verb, help=f"{_summary}\n\nExample: {_example}"
    )
app.register_install_completion_command(add_to_startup=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 ok, 1 a bug, 2 usage, 3 input refused, 4 incompatible
    operands, 5 reading or writing failed, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(words, result_action="return_value")
        sys.stdout.flush()
    except PemathError as error:
        _leave(error, words)
    except cyclopts.CycloptsError as error:
        _leave(UsageError(display(error, 400), hint="add --help to see the options"), words)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Nobody reads on. What is still buffered goes nowhere, or Python would complain at its end.
        with open(os.devnull, "w") as nowhere, suppress(OSError, ValueError):
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - the last resort: say whose fault it is
        traceback.print_exc()
        _leave(Bug(f"this is a bug in pemath: {type(error).__name__}: {error}"), words)


def _leave(error: PemathError, words: Sequence[str]) -> None:
    show_error(error, as_json="--json" in words)
    sys.exit(error.exit_code)
