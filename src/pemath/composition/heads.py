"""What happens to heads: weights that replace the base's (modules_to_save, trained biases)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from pemath.errors import HeadChoiceNeeded, OutOfRange, RequestError, ShapeMismatch
from pemath.formats.floats import FLOAT_TYPES, Raw, Stored, common_type, is_finite, narrow
from pemath.formats.safetensors import Spec
from pemath.kinds import Adapter
from pemath.names import display, listing

# Elements averaged in one go: a few megabytes in float64.
_SLAB = 1 << 19


@dataclass(frozen=True, eq=False)
class HeadPlan:
    """One head of the result: the operands that it is made of, with weights that sum to one."""

    module: str
    sources: Sequence[tuple[str, Adapter, float]]
    story: str

    @property
    def config_name(self) -> str | None:
        """The name that `modules_to_save` uses, None for a bias or an embedding."""
        return self.sources[0][1].heads[self.module].config_name

    def specs(self) -> list[Spec]:
        """The tensors to write."""
        return [
            Spec(name, self._dtype(name), self.sources[0][1].folder.tensors.entries[tensor].shape)
            for name, tensor in self._tensors(0).items()
        ]

    def stored(self, name: str) -> Stored:
        """The tensor of a single source. Raises UnknownDtype."""
        return self.sources[0][1].folder.tensors.stored(self._tensors(0)[name])

    def slabs(self, name: str) -> Iterator[tuple[int, Raw | memoryview]]:
        """One tensor's bytes with their offsets: copied from a single source, else the weighted
        average, a few megabytes at a time.
        """
        first = self.sources[0][1].folder.tensors
        if len(self.sources) == 1:
            yield 0, first.raw_bytes(self._tensors(0)[name])
            return
        flat = [
            (adapter.folder.tensors.stored(self._tensors(index)[name]).flat(), weight)
            for index, (_, adapter, weight) in enumerate(self.sources)
        ]
        kind = FLOAT_TYPES[self._dtype(name)]
        for start in range(0, flat[0][0].shape[0], _SLAB):
            terms = (stored[start : start + _SLAB].widen() * weight for stored, weight in flat)
            raw = narrow(reduce(add, terms), kind)
            if not is_finite(raw, kind):
                raise OutOfRange(
                    f"the average of head `{display(self.module)}` does not fit into {kind.name}",
                    hint="drop the head, or take one operand's",
                )
            yield start * kind.size, raw

    def check_finite(self) -> None:
        """Raise NonFiniteValue if a source tensor of floats is not finite."""
        for index, (_, adapter, _) in enumerate(self.sources):
            for tensor in self._tensors(index).values():
                if adapter.folder.tensors.entries[tensor].dtype in FLOAT_TYPES:
                    adapter.folder.tensors.refuse_non_finite(tensor)

    def _tensors(self, index: int) -> Mapping[str, str]:
        return self.sources[index][1].heads[self.module].tensors

    def _dtype(self, name: str) -> str:
        files = [
            (a.folder.tensors, self._tensors(i)[name]) for i, (_, a, _) in enumerate(self.sources)
        ]
        if len(files) == 1:
            return files[0][0].entries[files[0][1]].dtype
        return common_type(file.float_type(tensor) for file, tensor in files).code


def plan_heads(
    operands: Sequence[tuple[str, Adapter, Callable[[str], float]]], choice: str | None
) -> tuple[list[HeadPlan], list[str]]:
    """The result's heads, and what was done, one sentence per head.

    `operands` are (name, adapter, what it weighs in a head of this name: NaN where nobody said).
    Raises: HeadChoiceNeeded, RequestError, ShapeMismatch.
    """
    reserved = {"average", "drop"} & {name for name, _, _ in operands}
    if reserved and any(adapter.heads for _, adapter, _ in operands):
        raise RequestError(
            f"an operand with heads cannot be called {listing(sorted(reserved))}",
            hint="--heads average and --heads drop have meanings of their own",
        )
    modules = list(dict.fromkeys(m for _, adapter, _ in operands for m in adapter.heads))
    names = [name for name, _, _ in operands]
    if choice not in (None, "average", "drop", *names):
        raise RequestError(
            f"`{display(choice)}` is no choice for the heads",
            expected=f"average, drop, or an operand: {listing(names)}",
        )
    if choice in names and not next(a for n, a, _ in operands if n == choice).heads:
        raise RequestError(f"`{display(choice)}` has no heads", hint="take another operand's")
    plans, stories = [], []
    for module in modules:
        weighed = [(name, adapter, weight(module)) for name, adapter, weight in operands]
        having = [entry for entry in weighed if module in entry[1].heads]
        plan = None if choice == "drop" else _plan(module, weighed, having, choice)
        if plan is not None:
            plans.append(plan)
        lost = f"{_shown(module, having[0][1])} dropped"
        if choice in names:
            lost += f": {choice} has none"
        stories.append(plan.story if plan else lost)
    return plans, stories


def _plan(
    module: str,
    operands: Sequence[tuple[str, Adapter, float]],
    having: Sequence[tuple[str, Adapter, float]],
    choice: str | None,
) -> HeadPlan | None:
    shown = _shown(module, having[0][1])
    named = [entry for entry in having if entry[0] == choice]
    if named:
        return HeadPlan(module, named, f"{shown} taken from {named[0][0]}, as chosen")
    if choice not in (None, "average"):
        return None
    total = sum(weight for _, _, weight in having)
    is_bias = having[0][1].heads[module].is_bias
    if len(having) == 1 and (not is_bias or abs(total - 1) < 1e-9 or choice == "average"):
        story = f"{shown} kept from {having[0][0]}"
        if len(operands) > 1:
            story = f"{shown} taken over from {having[0][0]}, the only operand that has it"
        return HeadPlan(module, having, story)
    _check_alike(module, having)
    if len(having) > 1 and _identical(module, having):
        return HeadPlan(module, having[:1], f"{shown} is the same in all operands that have it")
    # A bias that an operand lacks is the base's there: b = b0 + Σc(b - b0) is known if Σc = 1.
    exact = abs(total - 1) < 1e-9 and (is_bias or len(having) == len(operands))
    if choice is None and not exact:
        raise _choice_needed(module, operands, having, total)
    if not abs(total) > 1e-9:
        why = "the weights of the operands that have it sum to zero"
        if math.isnan(total):
            why = "no key of the weights by layer names it"
        raise HeadChoiceNeeded(
            f"{shown} cannot be averaged: {why}",
            hint="choose --heads drop, or " + _offers(having),
        )
    parts = [(name, adapter, weight / total) for name, adapter, weight in having]
    sizes = ", ".join(f"{weight:.4g} {name}" for name, _, weight in parts)
    return HeadPlan(module, parts, f"{shown} averaged: {sizes}")


def _choice_needed(
    module: str,
    operands: Sequence[tuple[str, Adapter, float]],
    having: Sequence[tuple[str, Adapter, float]],
    total: float,
) -> HeadChoiceNeeded:
    lacking = [name for name, adapter, _ in operands if module not in adapter.heads]
    reason = f"the weights sum to {total:.6g}, not to 1"
    if math.isnan(total):
        reason = "no key of the weights by layer names it"
    if lacking and abs(total - 1) < 1e-9:
        reason = f"operands without it: {listing(lacking)}"
    average = "--heads average (weights divided by their sum), " if abs(total) > 1e-9 else ""
    return HeadChoiceNeeded(
        f"{_shown(module, having[0][1])} replaces base weights, and cannot be composed by itself: "
        f"{reason}",
        where=", ".join(f"{name} ({_weight(weight)})" for name, _, weight in having),
        expected="weights that sum to 1 over operands that all have it",
        hint=f"choose {average}--heads drop, or {_offers(having)}",
    )


def _weight(weight: float) -> str:
    return "no weight" if math.isnan(weight) else f"weight {weight:.6g}"


def _offers(having: Sequence[tuple[str, Adapter, float]]) -> str:
    return " or ".join(f"--heads {name}" for name, _, _ in having[:4])


def _shown(module: str, adapter: Adapter) -> str:
    kind = "trained bias of" if adapter.heads[module].is_bias else "head"
    return f"{kind} `{display(module)}`"


def _check_alike(module: str, having: Sequence[tuple[str, Adapter, float]]) -> None:
    first = _shapes(module, having[0][1])
    for name, adapter, _ in having[1:]:
        if _shapes(module, adapter) != first:
            raise ShapeMismatch(
                f"{_shown(module, adapter)} differs in shape between {having[0][0]} and {name}",
                found=_shapes(module, adapter),
                expected=first,
                hint=f"the label sets differ: choose --heads {having[0][0]}, --heads {name} "
                "or --heads drop",
            )


def _shapes(module: str, adapter: Adapter) -> dict[str, tuple[int, ...]]:
    tensors = adapter.heads[module].tensors
    return {n: adapter.folder.tensors.entries[t].shape for n, t in sorted(tensors.items())}


def _identical(module: str, having: Sequence[tuple[str, Adapter, float]]) -> bool:
    def content(adapter: Adapter) -> list[tuple[str, str, bytes]]:
        file = adapter.folder.tensors
        items = sorted(adapter.heads[module].tensors.items())
        return [(name, file.entries[t].dtype, bytes(file.raw_bytes(t))) for name, t in items]

    first = content(having[0][1])
    return all(content(adapter) == first for _, adapter, _ in having[1:])
