"""`check_method`: what every merge method has to hold to, whoever wrote it."""

from __future__ import annotations

import inspect
import math
import tracemalloc
import types
import typing
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from pemath.errors import PemathError, RequestError
from pemath.expression.parser import parse
from pemath.expression.tree import Call, thaw
from pemath.formats.floats import Stored
from pemath.kinds import kinds
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods import Method, Stack, named_method
from pemath.testing import _arrays as arrays
from pemath.testing import _conformance as conformance
from pemath.testing._method_trials import Subject, plain_family, trial_of

_TYPES = {bool, int, float, str}
# Results that should be equal, computed in another order.
_CLOSE = 1e-9
_SIDE = 2048


def check_method(method: str | Method, *, known_failures: Mapping[str, str] | None = None) -> None:
    """Check a merge method, and report everything that is wrong with it at once.

    `method` is a registered one by name, or a `Method`. It is tried on values of every registered
    kind for which `families` has a strategy. `known_failures` names checks that the method cannot
    pass, each with the reason: these must fail, so that the list stays true.

    Raises: ConformanceError, an AssertionError whose `failures` say which check, what was found and
    what is expected; RequestError if there is no such method.
    """
    found = named_method(method) if isinstance(method, str) else method
    conformance.run_checks(f"method `{found.name}`", CHECKS, Subject(found), known_failures or {})


# ------------------------------------------------------------------------------- what it says


def takes_a_stack_and_options(subject: Subject) -> Iterator[str]:
    """def name(stack: Stack, *, option: type = default, ...)."""
    function = subject.method.function
    if function.__name__ != subject.method.name or not subject.method.name.isidentifier():
        yield f"function `{function.__name__}` for the method `{subject.method.name}`"
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        yield "no first parameter by position"
        return
    if parameters[0].annotation is not Stack:
        yield f"first parameter `{parameters[0]}`"
    for parameter in parameters[1:]:
        if parameter.kind is not parameter.KEYWORD_ONLY:
            yield f"parameter `{parameter}` that is not keyword-only"


def options_have_types_and_defaults(subject: Subject) -> Iterator[str]:
    """Options of type bool, int, float, str or a union with None, each with a default."""
    for name, option in subject.method.options.items():
        if name == "weights":
            yield "an option `weights`, which every method has already"
        if option.default is inspect.Parameter.empty:
            yield f"option `{name}` without a default"
        if option.annotation is inspect.Parameter.empty:
            yield f"option `{name}` without a type"
            continue
        union = typing.get_origin(option.annotation) in (typing.Union, types.UnionType)
        wanted = typing.get_args(option.annotation) if union else (option.annotation,)
        if strange := [kind for kind in wanted if kind not in _TYPES | {type(None)}]:
            yield f"option `{name}` of type {strange[0]}"


def defaults_are_values_that_bind(subject: Subject) -> Iterator[str]:
    """Every default given by hand is the same value again."""
    for name, option in subject.method.options.items():
        if option.default in (None, inspect.Parameter.empty):
            continue
        bound = subject.method.bind({name: option.default})[name]
        if bound != option.default or type(bound) is not type(option.default):
            yield f"`{name}={option.default!r}` becomes {bound!r}"


def call_can_be_written(subject: Subject) -> Iterator[str]:
    """The method and its options can be spelled in an expression."""
    given = {n: p.default for n, p in subject.method.options.items() if p.default is not None}
    text = subject.method.call("a", "b", **given)
    read = parse(text, a="x", b="y")
    if not isinstance(read, Call) or {n: thaw(v) for n, v in read.options} != given:
        yield f"`{text}` is read as {read}"


def says_what_it_does(subject: Subject) -> Iterator[str]:
    """A docstring whose first line is a sentence of at most 100 characters, and a source."""
    summary = subject.method.summary
    if not summary or len(summary) > 100 or not summary.endswith((".", "`")):
        yield f"summary `{summary}`"
    if not subject.method.source.strip():
        yield "no source"


def explains_its_options(subject: Subject) -> Iterator[str]:
    """Every option in the docstring, between backquotes."""
    text = subject.method.function.__doc__ or ""
    for name in subject.method.options:
        if f"`{name}" not in text:
            yield f"no `{name}` in the docstring"


# ------------------------------------------------------------------------ what it takes and gives


def check_reads_no_tensor(subject: Subject) -> Iterator[str]:
    """`check` looks at shapes and names only, and returns None or a PemathError."""
    for trial in subject.trials:
        try:
            found: object = subject.method.check(trial.stack(arrays.sealed))
        except arrays.TensorRead:
            yield f"a tensor was read: {trial}"
            continue
        if not isinstance(found, PemathError | None):
            yield f"{found!r} for {trial}"


def gives_a_value_or_refuses(subject: Subject) -> Iterator[str]:
    """A call that `check` admits gives a value or a PemathError, nothing else."""
    for trial in subject.admitted:
        try:
            subject.call(trial)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            yield f"{conformance.told(error)}: {trial}"


def takes_some_kind(subject: Subject) -> Iterator[str]:
    """Of every kind that `check` admits, some call gives a value; of one kind at least."""
    admitted = {trial.kind for trial in subject.admitted}
    computed = {trial.kind for trial, _ in subject.computed}
    for kind in sorted(admitted - computed):
        yield f"`check` admits {kind}, and every call is refused"
    if not admitted:
        yield "`check` admits nothing"


def gives_a_value_like_its_operands(subject: Subject) -> Iterator[str]:
    """From one operand or more, a finite value of their kind and geometry."""
    for trial, value in subject.computed:
        if not isinstance(value, kinds()[trial.kind].value):
            yield f"a {type(value).__name__} for {trial}"
            continue
        try:
            trial.values[0] + value
        except PemathError as error:
            yield f"another geometry, {error.found}: {trial}"
            continue
        if not np.isfinite(trial.family.delta(value)).all():
            yield f"NaN or infinity for {trial}"


def leaves_operands_alone(subject: Subject) -> Iterator[str]:
    """No tensor of an operand changes, and no weight."""
    for trial in subject.admitted:
        stack = trial.stack(arrays.copied)
        before = [array.tobytes() for array in arrays.arrays_of(stack.values)]
        with suppress(Exception), np.errstate(all="ignore"):
            subject.method.function(stack)
        after = [array.tobytes() for array in arrays.arrays_of(stack.values)]
        if before != after or list(trial.weights) != list(stack.weights):
            yield f"changed operands: {trial}"


def same_call_gives_same_bytes(subject: Subject) -> Iterator[str]:
    """A call gives the same bits whenever it is made."""
    first = [subject.delta(trial) for trial in subject.repeated]
    for trial, before in zip(reversed(subject.repeated), reversed(first), strict=True):
        again = subject.delta(trial)
        if before is None or again is None or not arrays.same_bytes(before, again):
            yield f"another result the second time: {trial}"


def threads_do_not_matter(subject: Subject) -> Iterator[str]:
    """A call gives the same bits whatever runs beside it."""
    trials = subject.repeated
    alone = [subject.delta(trial) for trial in trials]
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(subject.delta, trials * 3))
    for trial, wanted, found in zip(trials * 3, alone * 3, beside, strict=True):
        if wanted is None or found is None or not arrays.same_bytes(wanted, found):
            yield f"another result beside other calls: {trial}"


def rank_stays_within_its_bound(subject: Subject) -> Iterator[str]:
    """The rank of the value is at most what `rank` says before any tensor is read."""
    for trial, value in subject.computed:
        bound = subject.method.rank(trial.ranks(), trial.stack().operands)
        if getattr(value, "rank", 0) > bound:
            yield f"rank {value.rank}, where at most {bound} was said: {trial}"


# ------------------------------------------------------------------------------- laws of its own


def missing_site_counts_as_zero(subject: Subject) -> Iterator[str]:
    """An operand without the site has the effect of "no change", or is refused."""
    if subject.method.needs:
        return  # refused for all of them, before the method is called
    for trial in subject.admitted:
        if len(trial.values) != 2:
            continue
        zero = kinds()[trial.kind].zero_like
        for absent in (0, 1):
            present = 1 - absent
            values = [zero(v) if i == absent else v for i, v in enumerate(trial.values)]
            whole = subject.delta(replace(trial, values=values))
            part = replace(
                trial,
                values=[trial.values[present]],
                weights=[trial.weights[present]],
                places=[present],
            )
            found = subject.delta(part)
            if whole is None or found is None:
                continue
            if wrong := arrays.off(found, whole, part.size(), 1e-6):
                yield f"{wrong}: {part}"


def no_weight_gives_nothing(subject: Subject) -> Iterator[str]:
    """With all weights zero the value is "no change", or the call is refused."""
    for trial in subject.trials:
        found = subject.delta(replace(trial, weights=[0.0] * len(trial.values)))
        if found is not None and found.any():
            yield f"a change of norm {np.linalg.norm(found):.3g}: {trial}"


def nothing_gives_nothing(subject: Subject) -> Iterator[str]:
    """Operands that change nothing give a value that changes nothing, or are refused."""
    for trial in subject.trials:
        for zero in (kinds()[trial.kind].zero_like, lambda value: value * 0.0):
            found = subject.delta(trial.changed(zero))
            if found is not None and found.any():
                yield f"a change of norm {np.linalg.norm(found):.3g} from zeros: {trial}"


def only_the_delta_counts(subject: Subject) -> Iterator[str]:
    """In the spaces core and delta, A/s and sB give what A and B give."""
    if subject.method.space == "factor":
        return
    for trial in subject.plain:
        pairs = zip(trial.values, (4.0, 0.5, 16.0), strict=False)
        other = replace(trial, values=[_rescaled(value, scale) for value, scale in pairs])
        wanted, found = subject.delta(trial), subject.delta(other)
        if wanted is None or found is None:
            if (wanted is None) != (found is None):
                yield f"only one of both is refused: {trial}"
        elif wrong := arrays.off(found, wanted, trial.size(), _CLOSE):
            yield f"{wrong}: {trial}"


def _rescaled(value: Lora, scale: float) -> Lora:
    def change(block: LowRank) -> LowRank:
        parts = (
            Part(Stored.of(part.a.widen() / scale), Stored.of(part.b.widen() * scale), part.scale)
            for part in block.parts
        )
        return LowRank(block.shape, tuple(parts))

    return value.mapped(change)


def extreme_numbers_stay_finite(subject: Subject) -> Iterator[str]:
    """Operands of size 1e-20 and 1e10 give finite numbers, or are refused."""
    for trial in [*subject.plain, *(trial for trial, _ in subject.computed[::3])]:
        for pattern in ((1e-20,) * 3, (1e10,) * 3, (1e10, 1e-20, 1.0), (1e-20, 1e10, 1e10)):
            pairs = zip(trial.values, pattern, strict=False)
            found = subject.delta(replace(trial, values=[v * scale for v, scale in pairs]))
            if found is not None and not np.isfinite(found).all():
                shown = ", ".join(f"{scale:g}" for scale in pattern[: len(trial.values)])
                yield f"NaN or infinity for operands times {shown}: {trial}"
                break


def wrong_options_are_refused(subject: Subject) -> Iterator[str]:
    """A value of a wrong type or out of range is a RequestError; no other value gives NaN."""
    trial = next((trial for trial, _ in reversed(subject.computed)), None)
    for name, option in subject.method.options.items():
        wanted = set(typing.get_args(option.annotation) or (option.annotation,))
        for value in _strange(wanted):
            try:
                bound = subject.method.bind({name: value})
            except RequestError:
                continue
            if _is_foreign(value, wanted):
                yield f"`{name}={value!r}` is taken, and it is no {option.annotation}"
                continue
            result = trial and subject.call(trial, **bound)
            if isinstance(result, PemathError) or trial is None:
                continue
            if value == _NO_WORD:
                yield f"`{name}={value!r}` is taken"
            elif not np.isfinite(trial.family.delta(result)).all():
                yield f"`{name}={value!r}` gives NaN or infinity"


_NO_WORD = "no such thing"


def _strange(wanted: set[Any]) -> list[Any]:
    """Values to try on an option: wrong types first, then what is at the ends of a range."""
    found: list[Any] = [[], [1.0], {"a": 1.0}, _NO_WORD, True]
    if wanted & {int, float}:
        found += [-1, 0, 1, 7, 1000]
    if float in wanted:
        found += [math.nan, math.inf, -0.5, 0.5, 1e-20, 1e10]
    if int in wanted:
        found += [0.5, 1e40 if float in wanted else 2.5]
    return found


def _is_foreign(value: Any, wanted: set[Any]) -> bool:
    if isinstance(value, bool):
        return bool not in wanted
    if isinstance(value, str):
        return str not in wanted
    if isinstance(value, int | float):
        return not wanted & {int, float} or not math.isfinite(value)
    return True


def holds_no_dense_matrix(subject: Subject) -> Iterator[str]:
    """In the spaces factor and core, nothing has the size out × in."""
    if subject.method.space == "delta":
        return
    # A Gram matrix of the inputs has the size in × in, which is no such thing.
    outputs, inputs = (8 * _SIDE, _SIDE // 8) if subject.method.needs else (_SIDE, _SIDE)
    for size in (2, 3):
        family = plain_family(size, outputs, inputs, 4)
        weights = list(map(float, subject.method.default_weights(size)))
        stack = trial_of("lora", family, weights).stack()
        if subject.method.check(stack) is not None:
            continue
        tracemalloc.start()
        try:
            with np.errstate(all="ignore"):
                subject.method.function(stack)
            _, peak = tracemalloc.get_traced_memory()
        except PemathError:
            continue
        finally:
            tracemalloc.stop()
        if peak >= outputs * inputs:
            yield f"{peak / 1e6:.1f} MB for {size} operands of rank 4 at {outputs}×{inputs}"


CHECKS: tuple[conformance.Check[Subject], ...] = (
    takes_a_stack_and_options,
    options_have_types_and_defaults,
    defaults_are_values_that_bind,
    call_can_be_written,
    says_what_it_does,
    explains_its_options,
    check_reads_no_tensor,
    gives_a_value_or_refuses,
    takes_some_kind,
    gives_a_value_like_its_operands,
    leaves_operands_alone,
    same_call_gives_same_bytes,
    threads_do_not_matter,
    rank_stays_within_its_bound,
    missing_site_counts_as_zero,
    no_weight_gives_nothing,
    nothing_gives_nothing,
    only_the_delta_counts,
    extreme_numbers_stay_finite,
    wrong_options_are_refused,
    holds_no_dense_matrix,
)
