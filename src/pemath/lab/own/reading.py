"""How well a language model with a composition in it predicts a text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from pemath.composition.run import compose
from pemath.errors import StorageError
from pemath.lab.evaluate import Host
from pemath.lab.models import load_model, require
from pemath.lab.own.agreement import model_of
from pemath.lab.own.bench import Asking
from pemath.lab.own.operands import check_expression, check_names, open_operands
from pemath.lab.perplexity import perplexity
from pemath.names import display

BASE = "the base model alone"


def read_text(
    expression: str,
    operands: Mapping[str, str | os.PathLike[str]],
    text: str | os.PathLike[str],
    asking: Asking | None = None,
) -> dict[str, float]:
    """Perplexities on the text file: of `expression`, of each operand, and of the base alone.

    Raises: UsageError, InputError, OperandError, StorageError.
    """
    asking = asking or Asking()
    bound = {name: os.fspath(reference) for name, reference in operands.items()}
    check_names(expression, bound)
    modules = open_operands(bound, asking.statistics)
    check_expression(expression, modules, asking.statistics)
    require("torch", "transformers", "peft")
    try:
        content = Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError("cannot read the text", where=display(text), found=error) from None
    cards = {name: one.card for name, one in modules.items() if one.card is not None}
    model = model_of(asking.model, asking.dtype, asking.max_length, cards)
    base = load_model(model.name, dtype=model.dtype)
    alone = perplexity(base, base.model, content, progress=asking.progress)
    found: dict[str, float] = {}
    host: Host | None = None
    with TemporaryDirectory(prefix="pemath-") as spare:
        for asked in dict.fromkeys([expression, *bound]):
            folder = compose(
                asked,
                Path(spare, "composed"),
                operands={
                    name: path for name, path in bound.items() if _occurs(name, asked, bound)
                },
                statistics={n: p for n, p in asking.statistics.items() if asked == expression},
                heads="drop",
                force=True,
            ).folder
            host = host or Host(base, next(iter(modules.values())).pem, folder)
            host.swap(folder)
            found[asked] = perplexity(base, host.model, content, progress=asking.progress)
    return found | {BASE: alone}


def _occurs(name: str, expression: str, bound: Mapping[str, str]) -> bool:
    from pemath.expression.parser import parse
    from pemath.expression.tree import occurrences

    return any(one.name == name for one in occurrences(parse(expression, dict(bound))))
