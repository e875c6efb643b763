"""`check_method` and `check_kind` hold for all that is registered, and find what is broken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest

from pemath.errors import OperandError, PemathError, RequestError
from pemath.formats.floats import Stored
from pemath.kinds import kinds
from pemath.kinds.full import FullDelta
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods import Method, Stack, methods, named_method
from pemath.testing import (
    ConformanceError,
    check_kind,
    check_method,
    kind_conformance,
    method_conformance,
)

from . import bias_kind as wrong
from .bias_kind import Bias, BiasFolders, described

_PEFT_SUMS = "PEFT adds the vectors l of (IA)³ themselves, so that nothing is l = 0 and not l = 1"

# What cannot hold, with the reason.
METHODS: Mapping[str, Mapping[str, str]] = {
    "peft_linear": dict.fromkeys(
        ["missing_site_counts_as_zero", "no_weight_gives_nothing", "nothing_gives_nothing"],
        _PEFT_SUMS,
    ),
}
KINDS: Mapping[str, Mapping[str, str]] = {}


@pytest.mark.parametrize("name", methods())
def test_every_method_conforms(name: str) -> None:
    check_method(name, known_failures=METHODS.get(name))


@pytest.mark.parametrize("name", kinds())
def test_every_kind_conforms(name: str) -> None:
    check_kind(name, known_failures=KINDS.get(name))


def test_the_exceptions_are_of_what_there_is() -> None:
    assert METHODS.keys() <= methods().keys()
    assert KINDS.keys() <= kinds().keys()


def failing(check: Callable[[Any], None], subject: Any) -> dict[str, str]:
    """What each failed check found, by its name."""
    with pytest.raises(ConformanceError) as caught:
        check(subject)
    text = str(caught.value)
    for failure in caught.value.failures:
        assert failure.check in text
        assert all(found in text for found in failure.found)
        assert failure.expected
    return {failure.check: "\n".join(failure.found) for failure in caught.value.failures}


# ------------------------------------------------------------------------------------- methods


def method_of(function: Callable[..., Any], **fields: Any) -> Method:
    usual = {
        "name": function.__name__,
        "space": "core",
        "summary": "A method that is wrong.",
        "source": "nowhere",
        "check": lambda stack: None,
        "rank": lambda ranks, operands, **options: sum(ranks),
    }
    return Method(**{**usual, "function": function, **fields})


def weighted(stack: Stack) -> Any:
    return reduce(add, (v * w for v, w in zip(stack.values, stack.weights, strict=True)))


def right(stack: Stack, *, t: float = 0.5, word: str = "plain", rank: int | None = None) -> Any:
    """The sum; `t` and `rank` do nothing, and `word` is `plain`."""
    if word != "plain":
        raise RequestError("`word` is `plain`", found=word)
    return weighted(stack)


def test_a_method_that_is_right_passes() -> None:
    check_method(method_of(right))


def part_of(value: Any) -> Any:
    return value.blocks[0].parts[0] if isinstance(value, Lora) and value.blocks[0].parts else None


def mutating(stack: Stack) -> Any:
    """Spoils the A of its first operand."""
    part = part_of(stack.values[0])
    if part is not None:
        part.a.raw.reshape(-1)[:1] = 3
    return weighted(stack)


def reweighting(stack: Stack) -> Any:
    """Changes the weights in place."""
    stack.weights[0] = 2.0  # type: ignore[index]
    return weighted(stack)


def unseeded(stack: Stack) -> Any:
    """Multiplies by what comes."""
    return weighted(stack) * float(np.random.default_rng().integers(1, 1 << 30))


_CALLS: list[int] = []


def counting(stack: Stack) -> Any:
    """Depends on how often it was called."""
    _CALLS.append(0)
    return weighted(stack) * (1.0 + len(_CALLS))


def dense(stack: Stack) -> Any:
    """Looks at the delta itself."""
    total = weighted(stack)
    if isinstance(total, Lora):
        total.delta_weight()
    return total


def offset(stack: Stack) -> Any:
    """Adds one to a full delta."""
    total = weighted(stack)
    if isinstance(total, FullDelta):
        return FullDelta(total.shape, ((1.0, Stored.of(total.delta_weight() + 1.0)),))
    return total


def unweighted(stack: Stack) -> Any:
    """Takes no notice of the weights."""
    return reduce(add, stack.values)


def averaging(stack: Stack) -> Any:
    """Divides by the number of those that have the site."""
    return weighted(stack) * (1 / len(stack.values))


def other_kind(stack: Stack) -> Any:
    """Gives a full delta for a LoRA."""
    total = weighted(stack)
    if isinstance(total, Lora):
        return FullDelta(total.delta_weight().shape, ((1.0, Stored.of(total.delta_weight())),))
    return total


def transposed(stack: Stack) -> Any:
    """Turns a full delta around."""
    total = weighted(stack)
    if isinstance(total, FullDelta):
        dense = total.delta_weight().T
        return FullDelta(dense.shape, ((1.0, Stored.of(dense)),))
    return total


def not_finite(stack: Stack) -> Any:
    """Divides by a norm that may be zero."""
    total = weighted(stack)
    with np.errstate(all="ignore"):
        return total * float(np.float64(1.0) / np.float64(total.norm()))


def overflowing(stack: Stack) -> Any:
    """Cubes the norm eleven times."""
    total = weighted(stack)
    with np.errstate(all="ignore"):
        return total * float(np.float64(total.norm()) ** 33)


def factorwise(stack: Stack) -> Any:
    """Adds the A and the B of linear LoRAs, and says that it works on deltas."""
    parts = [part_of(value) for value in stack.values]
    total = weighted(stack)
    if not isinstance(total, Lora) or total.geometry.layout != "linear" or None in parts:
        return total
    if len({part.a.shape for part in parts}) > 1 or not any(stack.weights) or len(parts) == 1:
        return total
    pairs = list(zip(stack.weights, parts, strict=True))
    a = sum(abs(w) * part.a.widen() for w, part in pairs)
    b = sum(w * part.scale * part.b.widen() for w, part in pairs)
    return Lora(
        total.geometry, (LowRank(total.blocks[0].shape, (Part(Stored.of(a), Stored.of(b)),)),)
    )


def crashing(stack: Stack) -> Any:
    """Needs two operands, and does not say so."""
    return stack.values[0] * stack.weights[0] + stack.values[1] * stack.weights[1]


def refusing(stack: Stack) -> Any:
    """Refuses everything."""
    raise OperandError("no")


def reading(stack: Stack) -> PemathError | None:
    """A check that looks at the numbers."""
    return None if stack.values[0].norm() >= 0 else OperandError("negative")


def plain(stack: Stack) -> Any:
    """The sum."""
    return weighted(stack)


def without_default(stack: Stack, *, t: float) -> Any:
    """Needs `t`."""
    return weighted(stack) * t


def without_type(stack: Stack, *, t=0.5) -> Any:  # type: ignore[no-untyped-def]
    """Takes any `t`."""
    return weighted(stack)


def of_a_list(stack: Stack, *, t: list[float] | None = None) -> Any:
    """Takes a list `t`."""
    return weighted(stack)


def wrong_default(stack: Stack, *, t: int = 0.5) -> Any:  # type: ignore[assignment]
    """The default of `t` is no whole number."""
    return weighted(stack)


def by_position(stack: Stack, t: float = 0.5) -> Any:
    """Takes `t` by position."""
    return weighted(stack)


def no_stack(values: list[Any], *, t: float = 0.5) -> Any:
    """Takes values and `t`."""
    return values


def unexplained(stack: Stack, *, t: float = 0.5) -> Any:
    """Says nothing of its option."""
    return weighted(stack)


def endless(stack: Stack, *, most: float = math.inf) -> Any:
    """The default of `most` is no number that can be written."""
    return weighted(stack)


def unchecked(stack: Stack, *, t: float = 0.5) -> Any:
    """Divides by `t`."""
    return weighted(stack) * float(np.divide(1.0, t))


def any_word(stack: Stack, *, word: str = "plain") -> Any:
    """Takes any `word`."""
    return weighted(stack)


BROKEN_METHODS = [
    (method_of(mutating), "leaves_operands_alone", "changed operands: lora"),
    (method_of(reweighting), "leaves_operands_alone", "changed operands: "),
    (method_of(unseeded), "same_call_gives_same_bytes threads_do_not_matter", "another result"),
    (method_of(counting), "same_call_gives_same_bytes", "another result"),
    (method_of(dense), "holds_no_dense_matrix", "2048×2048"),
    (method_of(offset), "nothing_gives_nothing no_weight_gives_nothing", "a change of norm"),
    (method_of(unweighted), "no_weight_gives_nothing", "a change of norm"),
    (method_of(averaging), "missing_site_counts_as_zero", "without the site"),
    (method_of(other_kind), "gives_a_value_like_its_operands", "a FullDelta for lora"),
    (method_of(transposed), "gives_a_value_like_its_operands", "another geometry"),
    (method_of(not_finite), "gives_a_value_like_its_operands", "NaN or infinity"),
    (method_of(overflowing), "extreme_numbers_stay_finite", "times 1e+10"),
    (method_of(factorwise), "only_the_delta_counts", "a distance of"),
    (method_of(crashing), "gives_a_value_or_refuses", "IndexError at"),
    (method_of(refusing), "takes_some_kind", "admits dora, and every call is refused"),
    (method_of(plain, check=lambda s: OperandError("no")), "takes_some_kind", "admits nothing"),
    (method_of(plain, check=reading), "check_reads_no_tensor", "a tensor was read"),
    (method_of(plain, check=lambda s: "no"), "check_reads_no_tensor", "'no'"),
    (method_of(plain, rank=lambda *a, **o: 1), "rank_stays_within_its_bound", "at most 1"),
    (method_of(plain, summary="x" * 101), "says_what_it_does", "summary `xxx"),
    (method_of(plain, source=" "), "says_what_it_does", "no source"),
    (method_of(plain, name="other"), "takes_a_stack_and_options", "for the method `other`"),
    (method_of(by_position), "takes_a_stack_and_options", "not keyword-only"),
    (method_of(no_stack), "takes_a_stack_and_options", "first parameter"),
    (method_of(without_default), "options_have_types_and_defaults", "`t` without a default"),
    (method_of(without_type), "options_have_types_and_defaults", "`t` without a type"),
    (method_of(of_a_list), "options_have_types_and_defaults", "of type list"),
    (method_of(wrong_default), "defaults_are_values_that_bind", "wrong value"),
    (method_of(unexplained), "explains_its_options", "no `t` in the docstring"),
    (method_of(unchecked), "wrong_options_are_refused", "`t=0` gives NaN or infinity"),
    (method_of(any_word), "wrong_options_are_refused", "'no such thing'"),
    (method_of(endless), "call_can_be_written", "Infinity"),
]


@pytest.mark.parametrize(
    ("broken", "check", "found"),
    BROKEN_METHODS,
    ids=lambda part: part.name if isinstance(part, Method) else None,
)
@pytest.mark.filterwarnings("ignore")
def test_a_broken_method_is_found(broken: Method, check: str, found: str) -> None:
    told = failing(check_method, broken)
    for name in check.split():
        assert found in told[name]


def test_a_method_that_adds_factors_in_the_factor_space_may() -> None:
    check_method(method_of(factorwise, space="factor"))


def test_all_that_is_wrong_is_said_at_once() -> None:
    broken = method_of(unweighted, summary="", source="", rank=lambda *a, **o: 0)
    names = {"says_what_it_does", "no_weight_gives_nothing", "rank_stays_within_its_bound"}
    assert names <= failing(check_method, broken).keys()
    with pytest.raises(AssertionError, match=r"method `unweighted` fails \d+ of \d+ checks"):
        check_method(broken)


def test_known_failures_must_fail_and_exist() -> None:
    broken = method_of(unweighted)
    reason = "it has no use for weights"
    check_method(broken, known_failures=dict.fromkeys(failing(check_method, broken), reason))
    with pytest.raises(ConformanceError, match=f"a failure: {reason}"):
        check_method("exact", known_failures={"no_weight_gives_nothing": reason})
    with pytest.raises(ConformanceError, match="no such check"):
        check_method("exact", known_failures={"unheard_of": ""})


def test_a_method_is_found_by_its_name() -> None:
    check_method(replace(named_method("exact")))
    with pytest.raises(RequestError, match="no method `exakt`"):
        check_method("exakt")


# --------------------------------------------------------------------------------------- kinds


def test_a_kind_that_is_right_passes() -> None:
    check_kind(described(Bias))
    check_kind(described(Bias, BiasFolders()))


BROKEN_KINDS = [
    (described(wrong.WrongSign), "negative_cancels scaling_scales_the_delta", "a distance of"),
    (
        described(wrong.NotAssociative),
        "addition_is_associative sum_is_the_sum_of_deltas",
        "a distance of",
    ),
    (described(wrong.NotCommutative), "addition_is_commutative", "a distance of"),
    (described(wrong.Affine), "scaling_is_associative scaling_distributes", "a distance of"),
    (described(wrong.AnyShape), "other_shapes_are_refused", "is taken"),
    (described(wrong.Eager), "arithmetic_reads_no_tensor", "a tensor was read"),
    (described(wrong.Mutating), "operands_stay_as_they_are", "changed: bias"),
    (described(wrong.WrongNorm), "norm_is_that_of_the_deviation", " for "),
    (described(wrong.WrongInner), "inner_is_that_of_the_deviations", " for "),
    (described(wrong.WrongDistance), "distance_is_that_of_the_difference", " for "),
    (described(wrong.WrongGap), "gap_measures_distance_and_norm", "norm "),
    (described(wrong.AlwaysFinite), "finds_what_is_not_finite", "true with nan"),
    (
        described(wrong.AlwaysFinite, BiasFolders(wrong.AlwaysFinite)),
        "opening_reads_no_tensor",
        "is taken for a number",
    ),
    (described(wrong.Talkative), "describes_itself", "TensorRead"),
    (described(wrong.Open), "values_are_frozen", "no dataclass"),  # type: ignore[arg-type]
    (described(Bias, zero_like=lambda v: v), "zero_changes_nothing", "zero_like of bias"),
    (described(Bias, summary=""), "says_what_it_is", "summary ``"),
    (described(Bias, name="bi as"), "says_what_it_is", "name `bi as`"),
    (described(Bias, wrong.Halving()), "folder_gives_back_what_was_stored", "a distance of"),
    (described(Bias, wrong.Promising()), "folder_gives_back_what_was_stored", "promised"),
    (described(Bias, wrong.Rounding()), "stored_values_are_stored_alike", "another adapter_m"),
    (described(Bias, wrong.Lenient()), "strange_tensors_are_refused", "is ignored"),
    (described(Bias, wrong.Reading()), "opening_reads_no_tensor", "is taken for a number"),
]


@pytest.mark.parametrize(
    ("broken", "check", "found"),
    BROKEN_KINDS,
    ids=lambda part: None if isinstance(part, str) else part.value.__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_a_broken_kind_is_found(broken: Any, check: str, found: str) -> None:
    told = failing(check_kind, broken)
    for name in check.split():
        assert found in told[name]


@pytest.mark.parametrize(
    ("module", "broken"),
    [(method_conformance, BROKEN_METHODS), (kind_conformance, BROKEN_KINDS)],
)
def test_every_check_finds_something(module: Any, broken: list[tuple[Any, str, str]]) -> None:
    found = {name for _, checks, _ in broken for name in checks.split()}
    assert found == {check.__name__ for check in module.CHECKS}


def test_a_kind_needs_a_strategy() -> None:
    with pytest.raises(LookupError, match="no strategy draws values of kind bias"):
        check_kind(wrong.kind_of(Bias))
