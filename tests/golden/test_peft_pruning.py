"""PEFT's pruning combinations: the tensors that released PEFT's `add_weighted_adapter` saves.

Those that end in svd are compared up to the signs of the singular pairs. For DARE, torch.bernoulli is
replaced by our masks: then all else must agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraModel

import pemath
from pemath.errors import KindMismatch, PemathError, RankMismatch, RequestError
from pemath.methods._peft_pruning import Pruning

from . import adapters, oracle
from .conftest import Operands
from .released_peft import add_weighted_adapter
from .test_peft_linear import assert_same_tensors
from .test_peft_svd import assert_same_singular_pairs, factors

Make = Callable[[str], Operands]

SEED = 3
ON_FACTORS: dict[str, dict[str, Any]] = {
    "magnitude_prune": {"density": 0.4},
    "ties": {"density": 0.4},
    "ties by frequency": {"density": 0.7, "majority_sign_method": "frequency"},
    "ties of all": {"density": 1.0},
    "dare_linear": {"density": 0.6},
    "dare_ties": {"density": 0.6},
    "dare_ties by frequency": {"density": 0.6, "majority_sign_method": "frequency"},
}
ON_DELTAS = {name.replace(" ", "_svd ", 1) if " " in name else f"{name}_svd": options
             for name, options in ON_FACTORS.items()}  # fmt: skip
WEIGHTS = [(0.5, 0.5), (1.0, -1.0), (-0.7, 0.3)]
LAYOUTS = ["plain", "shared A", "alpha_pattern", "embedding", "fan_in_fan_out", "t5", "conv2d",
           "conv2d 1x1", "multihead attention"]  # fmt: skip
# Nothing is truncated in 32 × 32 matrices.
WHOLE = {"svd_rank": 32}


@contextmanager
def our_masks() -> Iterator[None]:
    """torch.bernoulli gives what pemath draws with `SEED`."""
    calls: list[tuple[str, list[int], bool, bool]] = []
    drawing: list[int] = []

    def noting(name: str, at: int, dense: bool) -> Any:
        original = getattr(LoraModel, name)

        def wrapped(self: Any, combination: str, names: list[str], weights: list[float],
                    *rest: Any, **options: Any) -> Any:  # fmt: skip
            target = rest[at]
            present = [
                place
                for place, n in enumerate(names)
                if n in target.lora_A or n in target.lora_embedding_A
            ]
            site = next(n for n, module in self.model.named_modules() if module is target)
            turned = bool(getattr(target, "fan_in_fan_out", False)) or bool(target.lora_embedding_A)
            calls.append((site, present, dense, turned))
            drawing[:] = [0]
            return original(self, combination, names, weights, *rest, **options)

        return wrapped

    def bernoulli(chances: torch.Tensor) -> torch.Tensor:
        site, places, dense, turned = calls[-1]
        number = drawing[0]
        drawing[0] += 1
        label = site if dense else f"{site} {'A' if number < len(places) else 'B'}"
        pruning = Pruning(round(float(chances.flatten()[0]), 6), SEED)  # float32 has rounded it
        shape = chances.flatten(1).shape
        rows, columns = reversed(shape) if dense and turned else shape
        draws = pruning.draws(label, f"x{places[number % len(places)]}", columns)
        mask = torch.tensor(pruning.drawn(draws, 0, rows))
        return (mask.T if dense and turned else mask).reshape(chances.shape).to(chances.dtype)

    with pytest.MonkeyPatch.context() as patch:
        for name, at, dense in (
            ("_generalized_task_arithmetic_weighted_adapter", 0, False),
            ("_svd_generalized_task_arithmetic_weighted_adapter", 1, True),
        ):
            patch.setattr(LoraModel, name, noting(name, at, dense))
        patch.setattr(torch, "bernoulli", bernoulli)
        yield


def both(
    label: str,
    base: str,
    folders: Sequence[Path],
    weights: Sequence[float],
    tmp_path: Path,
    **options: Any,
) -> tuple[Path, Path]:
    """The composite of pemath, and PEFT's."""
    combination = label.partition(" ")[0]
    names = [f"x{number}" for number in range(len(folders))]
    shown = "".join(f", {name}={json.dumps(value)}" for name, value in options.items())
    if "dare" in combination:
        shown += f", seed={SEED}"
    done = pemath.compose(
        f"peft_{combination}({', '.join(names)}, weights={list(weights)}{shown})",
        tmp_path / "ours",
        operands={name: str(folder) for name, folder in zip(names, folders, strict=True)},
    )
    with our_masks():
        theirs = add_weighted_adapter(
            base, folders, weights, tmp_path / "theirs", combination_type=combination, **options
        )
    return done.folder, theirs


# ---------------------------------------------------------------------------------- on factors


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["ties", "dare_linear"])
def test_layouts_on_factors(operands: Make, tmp_path: Path, name: str, layout: str) -> None:
    made = operands(layout)
    folders = [made.folders["a"], made.folders["b"]]
    pair = both(name, made.layout.base, folders, (1.0, -0.5), tmp_path, **ON_FACTORS[name])
    assert_same_tensors(*pair)
    oracle.load(made.layout.base, pair[0])


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", ON_FACTORS)
def test_weights_on_factors(
    operands: Make, tmp_path: Path, name: str, weights: tuple[float, float]
) -> None:
    folders = [operands("alpha_pattern").folders[operand] for operand in "ab"]
    assert_same_tensors(*both(name, "bert", folders, weights, tmp_path, **ON_FACTORS[name]))


@pytest.mark.parametrize("name", ON_FACTORS)
def test_three_operands_on_factors(operands: Make, tmp_path: Path, name: str) -> None:
    folders = [operands(layout).folders["a"] for layout in ("plain", "alpha_pattern", "shared A")]
    options = ON_FACTORS[name]
    assert_same_tensors(*both(name, "bert", folders, [0.5, -0.3, 1.5], tmp_path, **options))


@pytest.mark.parametrize("name", [*ON_FACTORS, *ON_DELTAS])
def test_one_operand_is_linear(operands: Make, tmp_path: Path, name: str) -> None:
    """PEFT prunes nothing where there is but one adapter, and does not truncate it."""
    options = (ON_FACTORS | ON_DELTAS)[name]
    folders = [operands("alpha_pattern").folders["b"]]
    assert_same_tensors(*both(name, "bert", folders, [-0.6], tmp_path, **options))


@pytest.mark.parametrize("name", ["ties", "dare_ties"])
def test_a_convolution_in_groups(tmp_path: Path, name: str) -> None:
    """Pruned as one tensor, whatever its groups."""
    settings: dict[str, Any] = {"target_modules": ["grouped", "stem"], "r": 4, "lora_alpha": 8}
    folders = [adapters.lora("grouped_net", tmp_path / key, **settings) for key in "ab"]
    options = ON_FACTORS[name]
    assert_same_tensors(*both(name, "grouped_net", folders, (0.7, -0.4), tmp_path, **options))


@pytest.mark.parametrize("name", ["magnitude_prune", "dare_ties", "ties_svd", "dare_linear_svd"])
def test_sites_that_only_one_has(tmp_path: Path, name: str) -> None:
    folders = [
        adapters.lora("bert", tmp_path / "a", target_modules=["query"], lora_alpha=3),
        adapters.lora("bert", tmp_path / "b", target_modules=["query", "value"]),
    ]
    if name.endswith("svd"):
        pair = both(name, "bert", folders, [0.5, -2.0], tmp_path, density=0.5, **WHOLE)
        assert_same_singular_pairs(*pair)
    else:
        assert_same_tensors(*both(name, "bert", folders, [0.5, -2.0], tmp_path, density=0.5))


@pytest.mark.parametrize("name", ["dare_linear", "ties", "magnitude_prune_svd"])
def test_rslora_keeps_its_scaling(tmp_path: Path, name: str) -> None:
    folders = [adapters.lora("bert", tmp_path / key, use_rslora=True) for key in "ab"]
    options = {"density": 0.5, **(WHOLE if name.endswith("svd") else {})}
    ours, theirs = both(name, "bert", folders, [0.5, 0.5], tmp_path, **options)
    wanted = oracle.deltas(oracle.load("bert", theirs))
    found = oracle.deltas(oracle.load("bert", ours))
    assert max(oracle.relative_errors(found, wanted).values()) <= 1e-5


@pytest.mark.parametrize("name", ["ties", "ties_svd"])
def test_filters_of_the_first_lose_sites(tmp_path: Path, name: str) -> None:
    folders = [
        adapters.lora("bert", tmp_path / "a", layers_to_transform=[0]),
        adapters.lora("bert", tmp_path / "b"),
    ]
    ours, theirs = both(name, "bert", folders, [0.5, 0.5], tmp_path, density=0.5)
    found = adapters.load_file(ours / adapters.WEIGHTS)
    wanted = adapters.load_file(theirs / adapters.WEIGHTS)
    lost = [tensor for key, tensor in found.items() if key not in wanted]
    assert lost
    assert not any(tensor.any() for tensor in lost)


# ----------------------------------------------------------------------------------- on deltas


@pytest.mark.parametrize("layout", [*LAYOUTS, "different ranks and alphas"])
@pytest.mark.parametrize("name", ["ties_svd", "dare_linear_svd"])
def test_layouts_on_deltas(operands: Make, tmp_path: Path, name: str, layout: str) -> None:
    made = operands(layout)
    folders = [made.folders["a"], made.folders["b"]]
    # No more than the smaller side: PEFT cannot load a rank above it.
    rank = {"conv2d": 6, "conv2d 1x1": 6, "multihead attention": 8}.get(layout, 32)
    options = {**ON_DELTAS[name], "svd_rank": rank}
    ours, theirs = both(name, made.layout.base, folders, (1.0, -0.5), tmp_path, **options)
    assert_same_singular_pairs(ours, theirs)
    oracle.load(made.layout.base, ours)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", ON_DELTAS)
def test_weights_on_deltas(
    operands: Make, tmp_path: Path, name: str, weights: tuple[float, float]
) -> None:
    folders = [operands("alpha_pattern").folders[operand] for operand in "ab"]
    options = {**ON_DELTAS[name], **WHOLE}
    assert_same_singular_pairs(*both(name, "bert", folders, weights, tmp_path, **options))


@pytest.mark.parametrize("name", ON_DELTAS)
def test_three_operands_on_deltas(operands: Make, tmp_path: Path, name: str) -> None:
    folders = list(operands("different ranks and alphas").folders.values())
    options = {**ON_DELTAS[name], **WHOLE}
    assert_same_singular_pairs(*both(name, "bert", folders, [0.5, -0.3, 1.5], tmp_path, **options))


@pytest.mark.parametrize("name", ["ties_svd", "dare_linear_svd"])
def test_the_rank_of_peft(operands: Make, tmp_path: Path, name: str) -> None:
    """The largest operand's, though the result has no low rank."""
    folders = list(operands("different ranks and alphas").folders.values())
    ours, theirs = both(name, "bert", folders, (0.5, 0.5, -1.0), tmp_path, **ON_DELTAS[name])
    assert_same_singular_pairs(ours, theirs)
    assert {len(A) for A, _ in factors(ours).values()} == {5}


# ------------------------------------------------------------------------- what PEFT cannot do


@pytest.mark.parametrize("name", ["magnitude_prune", "ties", "dare_linear", "dare_ties"])
def test_ranks_that_differ_are_refused_by_both(tmp_path: Path, name: str) -> None:
    folders = [adapters.lora("bert", tmp_path / key, r=r) for key, r in (("a", 4), ("b", 2))]
    with pytest.raises(ValueError, match="same r"):
        add_weighted_adapter(
            "bert", folders, [1, 1], tmp_path / "theirs", combination_type=name, density=0.5
        )
    bound = {key: str(folder) for key, folder in zip("ab", folders, strict=True)}
    with pytest.raises(RankMismatch):
        pemath.compose(f"peft_{name}(a, b, density=0.5)", tmp_path / "out", operands=bound)


def test_one_r_is_asked_for_even_where_the_factors_fit(tmp_path: Path) -> None:
    """PEFT compares r and the patterns of the configurations, not the tensors."""
    folders = [
        adapters.lora("bert", tmp_path / "a", r=4),
        adapters.lora("bert", tmp_path / "b", r=8, rank_pattern={"query": 4, "value": 4}),
    ]
    with pytest.raises(ValueError, match="same r"):
        add_weighted_adapter(
            "bert", folders, [1, 1], tmp_path / "theirs", combination_type="ties", density=0.5
        )
    bound = {key: str(folder) for key, folder in zip("ab", folders, strict=True)}
    with pytest.raises(RankMismatch, match="one r"):
        pemath.compose("peft_ties(a, b)", tmp_path / "out", operands=bound)


@pytest.mark.parametrize("name", ["ties", "dare_ties_svd"])
def test_ia3_is_refused_by_both(operands: Make, tmp_path: Path, name: str) -> None:
    made = operands("ia3 bert")
    folders = [made.folders["a"], made.folders["b"]]
    with pytest.raises(TypeError):
        add_weighted_adapter(
            "bert", folders, [1, 1], tmp_path / "theirs", combination_type=name, density=0.5
        )
    bound = {key: str(folder) for key, folder in zip("ab", folders, strict=True)}
    with pytest.raises(KindMismatch):
        pemath.compose(f"peft_{name}(a, b)", tmp_path / "out", operands=bound)


@pytest.mark.parametrize("name", ["ties", "magnitude_prune_svd"])
def test_experts_are_refused_by_both(operands: Make, tmp_path: Path, name: str) -> None:
    made = operands("experts")
    folders = [made.folders["a"], made.folders["b"]]
    with pytest.raises(ValueError, match=r"nn\.Parameter"):
        add_weighted_adapter(
            "mixtral", folders, [1, 1], tmp_path / "theirs", combination_type=name, density=0.5
        )
    bound = {key: str(folder) for key, folder in zip("ab", folders, strict=True)}
    with pytest.raises(KindMismatch):
        pemath.compose(f"peft_{name}(a, b)", tmp_path / "out", operands=bound)


def test_peft_fails_without_a_density(operands: Make, tmp_path: Path) -> None:
    """Its default is None; ours is 1."""
    folders = [operands("plain").folders[operand] for operand in "ab"]
    with pytest.raises(TypeError):
        add_weighted_adapter("bert", folders, [1, 1], tmp_path, combination_type="ties")


@pytest.mark.parametrize("density", [-0.1, 0.0])
def test_densities_that_make_no_sense(operands: Make, tmp_path: Path, density: float) -> None:
    """Below 0 PEFT refuses; at 0 its DARE divides by zero, and saves NaN, or fails on them."""
    folders = [operands("plain").folders[operand] for operand in "ab"]
    call: Callable[[], Path] = lambda: add_weighted_adapter(  # noqa: E731
        "bert", folders, [1, 1], tmp_path, combination_type="dare_linear", density=density
    )
    if density < 0:
        with pytest.raises(ValueError, match="Density"):
            call()
    else:
        saved = adapters.load_file(call() / adapters.WEIGHTS)
        assert all(tensor.isnan().all() for tensor in saved.values())
        with pytest.raises(RuntimeError, match=r"linalg\.svd"):
            add_weighted_adapter(
                "bert", folders, [1, 1], tmp_path, combination_type="dare_ties_svd", density=density
            )
    bound = {key: str(folder) for key, folder in zip("ab", folders, strict=True)}
    with pytest.raises(RequestError, match="density"):
        pemath.compose(
            f"peft_dare_linear(a, b, density={density})", tmp_path / "out", operands=bound
        )


def test_nothing_is_kept_at_density_zero(operands: Make, tmp_path: Path) -> None:
    folders = [operands("plain").folders[operand] for operand in "ab"]
    assert_same_tensors(*both("ties", "bert", folders, [1.0, 1.0], tmp_path, density=0.0))


def test_torch_draws_other_masks(operands: Make, tmp_path: Path) -> None:
    """And other ones each time: PEFT has no seed."""
    folders = [operands("plain").folders[operand] for operand in "ab"]
    saved = []
    for number in range(2):
        torch.manual_seed(number)
        folder = add_weighted_adapter(
            "bert", folders, [1, 1], tmp_path / str(number), combination_type="dare_ties",
            density=0.5,
        )  # fmt: skip
        saved.append(adapters.load_file(folder / adapters.WEIGHTS))
    assert any(not torch.equal(saved[0][key], saved[1][key]) for key in saved[0])


def test_errors_have_the_exit_code_of_operands(operands: Make, tmp_path: Path) -> None:
    made = operands("ia3 bert")
    bound = {key: str(made.folders[key]) for key in "ab"}
    with pytest.raises(PemathError) as refused:
        pemath.compose("peft_ties(a, b)", tmp_path / "out", operands=bound)
    assert refused.value.exit_code == 4
    assert not (tmp_path / "out").exists()
