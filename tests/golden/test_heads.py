"""Heads (modules_to_save): averaged where that is exact, taken over, or the user's choice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pemath
from pemath.errors import PemathError

from . import adapters, oracle
from .bases import forward
from .layouts import EXPRESSIONS

HEAD = ("classifier.weight", "classifier.bias")


@pytest.fixture(scope="module", params=["SEQ_CLS", None])
def folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """`a`, `b` and `c` have a head, `bare` has none."""
    folder = tmp_path_factory.mktemp("heads")
    trained = {"modules_to_save": ["classifier"], "task_type": request.param}
    written = {name: adapters.lora("bert", folder / name, **trained) for name in "abc"}
    written["bare"] = adapters.lora("bert", folder / "bare")
    return written


def head(folder: Path) -> dict[str, torch.Tensor]:
    stored = adapters.load_file(folder / adapters.WEIGHTS)
    return {name: stored[f"base_model.model.{name}"].double() for name in HEAD}


def check(
    done: Path, folders: dict[str, Path], terms: dict[str, float], heads: dict[str, float]
) -> None:
    """The composite is the base plus its terms, with the weighted sum of `heads` as its head."""
    changes = oracle.weighted_sum(
        (c, oracle.deltas(oracle.load("bert", folders[name]))) for name, c in terms.items()
    )
    model = oracle.load("bert", done)
    found = oracle.deltas(model)
    assert max(oracle.relative_errors(found, changes).values()) <= 1e-6
    wanted = oracle.with_deltas("bert", changes)
    if heads:
        new = oracle.weighted_sum((c, head(folders[name])) for name, c in heads.items())
        wanted.load_state_dict(new, strict=False)
    torch.testing.assert_close(
        forward("bert", model), forward("bert", wanted), rtol=1e-5, atol=1e-5
    )


def compose(expression: str, folders: dict[str, Path], names: str, out: Path, **options: str):
    used = {name: str(folders[name]) for name in names.split()}
    return pemath.compose(expression, out, operands=used, **options).folder


def test_average(folders: dict[str, Path], tmp_path: Path) -> None:
    done = compose("0.6*a + 0.4*b", folders, "a b", tmp_path / "out")
    terms = EXPRESSIONS["0.6*a + 0.4*b"]
    check(done, folders, terms, terms)


def test_average_with_a_negative_weight(folders: dict[str, Path], tmp_path: Path) -> None:
    done = compose("a + 0.5*b - 0.5*c", folders, "a b c", tmp_path / "out")
    terms = {"a": 1.0, "b": 0.5, "c": -0.5}
    check(done, folders, terms, terms)


def test_taken_over_where_only_one_has_it(folders: dict[str, Path], tmp_path: Path) -> None:
    done = compose("0.5*a + 2*bare", folders, "a bare", tmp_path / "out")
    check(done, folders, {"a": 0.5, "bare": 2.0}, {"a": 1.0})


@pytest.mark.parametrize(
    ("expression", "names"), [("a - b", "a b"), ("a + b", "a b"), ("a + b - bare", "a b bare")]
)
def test_a_choice_is_asked_for(
    folders: dict[str, Path], tmp_path: Path, expression: str, names: str
) -> None:
    with pytest.raises(PemathError) as refused:
        compose(expression, folders, names, tmp_path / "out")
    assert refused.value.exit_code == 4
    assert all(choice in str(refused.value) for choice in ("drop", "--heads a", "classifier"))
    # No average divides by weights that sum to zero.
    assert ("average" in str(refused.value)) == (expression != "a - b")
    assert not (tmp_path / "out").exists()


def test_one_operand_s_head(folders: dict[str, Path], tmp_path: Path) -> None:
    done = compose("a - b", folders, "a b", tmp_path / "out", heads="b")
    check(done, folders, {"a": 1.0, "b": -1.0}, {"b": 1.0})


def test_no_head(folders: dict[str, Path], tmp_path: Path) -> None:
    """PEFT demands a head where the task type is that of a classifier, so that must go as well."""
    done = compose("a - b", folders, "a b", tmp_path / "out", heads="drop")
    check(done, folders, {"a": 1.0, "b": -1.0}, {})


def test_a_head_of_several_modules(tmp_path: Path) -> None:
    trained = {"modules_to_save": ["pooler", "classifier"], "target_modules": ["query"]}
    folders = {name: adapters.lora("bert", tmp_path / name, **trained) for name in "ab"}
    done = compose("0.6*a + 0.4*b", folders, "a b", tmp_path / "out")
    stored = adapters.load_file(done / adapters.WEIGHTS)
    for name in ("bert.pooler.dense.weight", "bert.pooler.dense.bias", *HEAD):
        a, b = (
            adapters.load_file(folders[key] / adapters.WEIGHTS)[f"base_model.model.{name}"].double()
            for key in "ab"
        )
        found = stored[f"base_model.model.{name}"].double()
        torch.testing.assert_close(found, 0.6 * a + 0.4 * b, rtol=1e-6, atol=1e-6)
    oracle.load("bert", done)


def test_ia3(tmp_path: Path) -> None:
    sites = {"target_modules": ["key", "output.dense"], "feedforward_modules": ["output.dense"]}
    folders = {
        name: adapters.ia3("bert", tmp_path / name, task_type="SEQ_CLS", **sites) for name in "ab"
    }
    done = compose("0.6*a + 0.4*b", folders, "a b", tmp_path / "out")
    model = oracle.load("bert", done)
    vectors = oracle.affine_sum(
        (c, oracle.vectors(oracle.load("bert", folders[name])))
        for name, c in {"a": 0.6, "b": 0.4}.items()
    )
    wanted = oracle.with_vectors("bert", vectors, oracle.feedforward_sites(model))
    new = oracle.weighted_sum([(0.6, head(folders["a"])), (0.4, head(folders["b"]))])
    wanted.load_state_dict(new, strict=False)
    torch.testing.assert_close(
        forward("bert", model), forward("bert", wanted), rtol=1e-5, atol=1e-5
    )
