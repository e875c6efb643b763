"""Hostile folders of kinds that are read as another one: whatever is wrong with them is refused.

A folder of each kind is made wrong in every systematic way; what must be refused stands in a list.
"""

from __future__ import annotations

import itertools
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pemath
from pemath.errors import (
    ConfigError,
    InputError,
    LayoutError,
    NonFiniteValue,
    PemathError,
    UnknownDtype,
    UnsupportedFeature,
)
from pemath.formats.peft import PeftFolder
from pemath.kinds import _compiled, open_adapter
from pemath.limits import LIMITS

from ..unit.compiled_references import MAKERS, SITES, Draw, Made
from .judge import check_refused, leftovers, outcome

PREFIX = f"base_model.model.{SITES[0]}."
_numbers = itertools.count()
every_kind = pytest.mark.parametrize("name", MAKERS)
Change = Callable[[np.ndarray], np.ndarray]

SHAPES: dict[str, Change] = {
    "longer": lambda x: np.resize(x, (x.shape[0] + 1, *x.shape[1:])) if x.ndim else x,
    "wider": lambda x: np.resize(x, (*x.shape[:-1], x.shape[-1] + 1)) if x.ndim else x,
    "shorter": lambda x: x[1:],
    "narrower": lambda x: x[..., 1:],
    "flat": np.ravel,
    "with a dimension more": lambda x: x[None],
    "with a dimension behind": lambda x: x[..., None],
    "transposed": lambda x: x.T,
    "a number": lambda x: x.reshape(-1)[0] if x.size else np.zeros((), x.dtype),
    "without rows": lambda x: x[:0],
    "without columns": lambda x: x[..., :0],
    "of whole numbers": lambda x: (8 * x).astype(np.int32),
    "of large whole numbers": lambda x: np.full(x.shape, 1 << 62, np.int64),
    "of negative whole numbers": lambda x: np.full(x.shape, -1, np.int8),
    "of halves": lambda x: np.full(x.shape, 0.5, np.float32),
}
FIELDS: list[Any] = [
    None,
    True,
    "2",
    -1,
    0,
    1 << 70,
    1 << 2000,
    2.5,
    [2],
    {"a": {"b": 1}},
    {"(a+)+$": 3},
]


def composed(made: Made, tmp_path: Path) -> PemathError | None:
    """The error of opening the adapter, else of composing and looking at it, or None."""
    folder = made.write(tmp_path / f"a{next(_numbers)}")
    error = outcome(lambda: open_adapter(PeftFolder.open(folder)))
    if error is None:
        out = folder.with_name(f"{folder.name} out")
        operands = {"a": str(folder)}
        error = outcome(lambda: pemath.compose("0.5*a + a", out, operands=operands))
        assert out.exists() == (error is None)
        if error is None:
            assert np.isfinite(pemath.inspect(str(folder)).norm)
    assert error is None or isinstance(error, InputError), error
    return error


def changed(made: Made, tensor: str, values: np.ndarray | None) -> Made:
    kept = {name: old for name, old in made.tensors.items() if name != tensor}
    return replace(made, tensors=kept if values is None else kept | {tensor: values})


@every_kind
def test_shapes(name: str, tmp_path: Path) -> None:
    """Every tensor in every wrong shape: refused, or read as the adapter that it then is."""
    made = MAKERS[name](Draw(11))
    assert composed(made, tmp_path) is None
    refused = 0
    for tensor, values in made.tensors.items():
        if tensor.startswith("base_model.model.") and not tensor.startswith(PREFIX):
            continue
        for change in SHAPES.values():
            wrong = np.asarray(change(values))
            if wrong.shape != values.shape or wrong.dtype != values.dtype:
                refused += composed(changed(made, tensor, wrong), tmp_path) is not None
    assert refused >= 10


@every_kind
def test_a_tensor_too_few_or_too_many(name: str, tmp_path: Path) -> None:
    made = MAKERS[name](Draw(11))
    for tensor, values in made.tensors.items():
        if made.kind == "GRALORA" and "general" in tensor:
            continue  # the hybrid part is optional as a whole
        copied = made.kind == "RANDLORA" and tensor.startswith(PREFIX)
        if made.kind != "C3A" and not copied:  # there is a site less
            check_refused(composed(changed(made, tensor, None), tmp_path), InputError)
        twice = replace(made, tensors=made.tensors | {f"{tensor}.other": values})
        if not tensor.endswith(".weight"):
            check_refused(composed(twice, tmp_path), InputError)
    strange = {f"{PREFIX}lora_A.weight": values, "norm.weight": values, "base_model.x": values}
    for tensor in strange:
        more = replace(made, tensors=made.tensors | {tensor: np.zeros((2, 2), np.float32)})
        error = composed(more, tmp_path)
        check_refused(error, LayoutError)
        assert f"`{tensor}`" in str(error)
    nothing = replace(made, tensors={"base_model.model.x": np.zeros(2, np.float32)})
    check_refused(composed(nothing, tmp_path), InputError)


@every_kind
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(name: str, bad: float, tmp_path: Path) -> None:
    made = MAKERS[name](Draw(11))
    for tensor, values in made.tensors.items():
        if values.dtype != np.float32 or not values.size:
            continue
        wrong = values.copy()
        wrong.reshape(-1)[0] = bad
        error = composed(changed(made, tensor, wrong), tmp_path)
        if "logits" in tensor and bad == -np.inf:
            continue  # never chosen: so PEFT fills up what it loads from the top weights alone
        if "indices" in tensor:
            check_refused(error, LayoutError)
        else:
            check_refused(error, NonFiniteValue)
            assert f"`{tensor}`" in str(error)


@every_kind
def test_products_that_overflow(name: str, tmp_path: Path) -> None:
    """Finite numbers whose product is not: refused where it does not fit, and never infinite."""
    made = MAKERS[name](Draw(11))
    huge = {
        tensor: values * np.float64(1e200) if values.dtype == np.float32 and "indices" not in tensor
        else values
        for tensor, values in made.tensors.items()
    }  # fmt: skip
    folder = replace(made, tensors=huge).write(tmp_path / "a")
    error = outcome(lambda: pemath.compose("a", tmp_path / "out", operands={"a": str(folder)}))
    if error is not None:
        assert error.exit_code in {3, 4}
        assert leftovers(tmp_path, "a") == []
    else:
        assert np.isfinite(pemath.inspect(str(tmp_path / "out")).norm)


@every_kind
def test_fields_of_the_config(name: str, tmp_path: Path) -> None:
    """A field of another type or size is refused, or means nothing for the weights."""
    made = MAKERS[name](Draw(11))
    fields = [*made.config, "rank_pattern", "alpha_pattern", "target_modules", "bias"]
    for field in dict.fromkeys(fields):
        for value in FIELDS:
            folder = replace(made, config=made.config | {field: value}).write(
                tmp_path / f"a{next(_numbers)}"
            )
            error = outcome(lambda folder=folder: open_adapter(PeftFolder.open(folder)))
            assert error is None or isinstance(error, InputError)


@dataclass(frozen=True)
class Attack:
    made: Callable[[], Made]
    error: type[PemathError]


def of(
    kind: str, *, shared: dict[str, Any] | None = None, config: Any = None, **tensors: Any
) -> Made:
    """A folder with one site of these tensors, of zeros where a shape is given."""
    made = Made(kind, config=config or {})
    made.add(SITES[0], **{role: _filled(values) for role, values in tensors.items()})
    made.tensors |= {f"base_model.{name}": _filled(v) for name, v in (shared or {}).items()}
    return made


def _filled(values: Any) -> np.ndarray:
    return np.zeros(values, np.float16) if isinstance(values, tuple) else values


def _positions(outputs: int, inputs: int) -> np.ndarray:
    places = np.zeros((2, outputs + inputs), np.int32)
    places[:, -1] = outputs - 1, inputs - 1
    return places


FOUR = {"r": 4, "alpha": 4}
EXPLOSIONS = {
    "LoKr of large factors": lambda: of(
        "LOKR", config=FOUR, lokr_w1=(300, 300), lokr_w2=(300, 300)
    ),
    "C3A of one long kernel": lambda: of("C3A", c3a_kernel=(1, 1, 40_000)),
    "SHiRA of a large layer": lambda: of(
        "SHIRA", config={"r": 1}, shira_weight=(60_000,), shira_indices=_positions(30_000, 30_000)
    ),
    "GraLoRA of many parts": lambda: of(
        "GRALORA",
        config={"r": 1000, "gralora_k": 1000, "alpha": 1},
        gralora_A=(1000, 1, 1000),
        gralora_B=(1000, 1000, 1),
    ),
    "VB-LoRA of long vectors": lambda: of(
        "VBLORA",
        config={"topk": 1},
        shared={"vblora_vector_bank": (1, 1 << 16)},
        vblora_logits_A=(100, 1000, 1),
        vblora_logits_B=(1000, 100, 1),
    ),
    "AdaLoRA of no rank and a large layer": lambda: of(
        "ADALORA",
        config={"init_r": 4, "lora_alpha": 4, "rank_pattern": {f"{SITES[0]}.lora_E": []}},
        lora_A=(0, 1 << 36),
        lora_B=(1 << 36, 0),
        lora_E=(0, 1),
    ),
}


@pytest.mark.parametrize("name", EXPLOSIONS)
def test_small_files_of_large_matrices(name: str, tmp_path: Path) -> None:
    """Refused from the header, with nothing of the size allocated."""
    made = EXPLOSIONS[name]()
    folder = str(made.write(tmp_path / "a"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for call in (pemath.inspect, lambda a: pemath.compose("a", tmp_path / "o", operands={"a": a})):
        error = outcome(lambda call=call: call(folder))
        check_refused(error, LayoutError)
        assert "too large" in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


@every_kind
@pytest.mark.parametrize("limit", ["computed_site_elements", "computed_elements"])
def test_both_limits_hold_for_every_kind(
    name: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compiled, "LIMITS", replace(LIMITS, **{limit: 1}))
    error = composed(MAKERS[name](Draw(11)), tmp_path)
    check_refused(error, LayoutError)
    assert "too large" in str(error)


def _rank_two(site: str = SITES[0]) -> Iterator[tuple[str, np.ndarray]]:
    yield f"base_model.model.{site}.lora_A.weight", np.ones((2, 3), np.float32)
    yield f"base_model.model.{site}.lora_B.weight", np.ones((4, 2), np.float32)


MUST_BE_REFUSED = {
    "a LoRA that says LOHA": Attack(
        lambda: Made("LOHA", dict(_rank_two()), {"r": 2, "alpha": 2}), LayoutError
    ),
    "a LoRA that says ADALORA": Attack(
        lambda: Made("ADALORA", dict(_rank_two()), {"init_r": 2, "lora_alpha": 2}), LayoutError
    ),
    "one core of two": Attack(
        lambda: of("LOHA", config=FOUR, hada_w1_a=(4, 4), hada_w1_b=(4, 3), hada_w2_a=(4, 4),
                   hada_w2_b=(4, 3), hada_t1=(4, 4, 3, 3)),
        LayoutError,
    ),
    "a core of another rank": Attack(
        lambda: of("LOHA", config=FOUR, hada_w1_a=(4, 4), hada_w1_b=(4, 3), hada_w2_a=(4, 4),
                   hada_w2_b=(4, 3), hada_t1=(3, 4, 3, 3), hada_t2=(3, 4, 3, 3)),
        LayoutError,
    ),
    "another rank than the config's": Attack(
        lambda: of("LOHA", config={"r": 3, "alpha": 1}, hada_w1_a=(4, 2), hada_w1_b=(2, 3),
                   hada_w2_a=(4, 2), hada_w2_b=(2, 3)),
        LayoutError,
    ),
    "alpha that is text": Attack(
        lambda: of("LOHA", config={"r": 2, "alpha": "8"}, hada_w1_a=(4, 2), hada_w1_b=(2, 3),
                   hada_w2_a=(4, 2), hada_w2_b=(2, 3)),
        ConfigError,
    ),
    "a full matrix beside its factors": Attack(
        lambda: of("LOKR", config=FOUR, lokr_w1=(2, 2), lokr_w1_a=(2, 4), lokr_w1_b=(4, 2),
                   lokr_w2=(2, 2)),
        LayoutError,
    ),
    "half of a factor": Attack(
        lambda: of("LOKR", config=FOUR, lokr_w1=(2, 2), lokr_w2_a=(2, 4)), LayoutError
    ),
    "factors of two ranks": Attack(
        lambda: of("LOKR", config=FOUR, lokr_w1_a=(2, 4), lokr_w1_b=(4, 2), lokr_w2_a=(2, 3),
                   lokr_w2_b=(3, 2)),
        LayoutError,
    ),
    "a rank that no tensor has, of zero": Attack(
        lambda: of("LOKR", config={"r": 0, "alpha": 1}, lokr_w1=(2, 2), lokr_w2=(2, 2)), ConfigError
    ),
    "more outputs than the projection": Attack(
        lambda: of("VERA", shared={"vera_A": (2, 3), "vera_B": (4, 2)}, vera_lambda_b=(5,),
                   vera_lambda_d=(2,)),
        LayoutError,
    ),
    "positions beyond the vector": Attack(
        lambda: of("UNILORA", shared={"unilora_theta_d": (3,)},
                   unilora_indices_A=np.full((2, 3), 3), unilora_indices_B=np.zeros((4, 2), int),
                   unilora_scales_A=(2, 3), unilora_scales_B=(4, 2)),
        LayoutError,
    ),
    "positions beyond the bank": Attack(
        lambda: of("VBLORA", config={"topk": 2}, shared={"vblora_vector_bank": (3, 2)},
                   vblora_logits_A_topk_indices=np.full((2, 1, 2), 3, np.uint8),
                   vblora_logits_A_topk_weights=(2, 1, 1), vblora_logits_B=(2, 2, 3)),
        LayoutError,
    ),
    "more vectors chosen than there are": Attack(
        lambda: of("VBLORA", config={"topk": 4}, shared={"vblora_vector_bank": (3, 2)},
                   vblora_logits_A=(2, 1, 3), vblora_logits_B=(2, 2, 3)),
        LayoutError,
    ),
    "positions that leave the shape open": Attack(
        lambda: of("SHIRA", config={"r": 1}, shira_weight=(9,), shira_indices=_positions(4, 5) // 2),
        UnsupportedFeature,
    ),
    "a vector for each of very many groups": Attack(
        lambda: of("TINYLORA", shared={f"tinylora_v.{i}": (1,) for i in range(40_000)},
                   tinylora_A=(1, 3), tinylora_B=(4, 1), tinylora_P=(1, 1, 1)),
        UnsupportedFeature,
    ),
    "an embedding": Attack(
        lambda: Made("TINYLORA", {
            "base_model.tinylora_v.0": _filled((1,)),
            **{f"base_model.model.wte.tinylora_{role}": _filled(shape)
               for role, shape in (("A", (1, 3)), ("B", (4, 1)), ("P", (1, 1, 1)))},
        }),
        UnsupportedFeature,
    ),
    "positions beyond the layer": Attack(
        lambda: of("SUPERTUNING", config={"r": 2, "lora_alpha": 2}, supertuning_values=(2,),
                   supertuning_indices=np.array([0, 12], np.int32),
                   supertuning_lora_A__weight=(2, 3), supertuning_lora_B__weight=(4, 2)),
        LayoutError,
    ),
    "a kernel of whole numbers": Attack(
        lambda: of("C3A", c3a_kernel=np.ones((1, 1, 2), np.int32)), UnknownDtype
    ),
    "a budget that is not the tensors'": Attack(
        lambda: of("ADALORA", lora_A=(2, 3), lora_B=(4, 2), lora_E=(2, 1),
                   config={"init_r": 2, "lora_alpha": 2,
                           "rank_pattern": {f"{SITES[0]}.lora_E": [True, False]}}),
        LayoutError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUST_BE_REFUSED)
def test_must_be_refused(name: str, tmp_path: Path) -> None:
    attack = MUST_BE_REFUSED[name]
    check_refused(composed(attack.made(), tmp_path), attack.error)
