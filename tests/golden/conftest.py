"""Operands and composites, each made once per session."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from . import adapters, oracle
from .layouts import EXPRESSIONS, IA3, LORA, Layout


@dataclass(frozen=True)
class Operands:
    """The three adapters of a layout: their folders, and what PEFT makes of them."""

    layout: Layout
    folders: dict[str, Path]

    @functools.cached_property
    def deltas(self) -> dict[str, oracle.Deltas]:
        return {
            name: oracle.deltas(oracle.load(self.layout.base, folder))
            for name, folder in self.folders.items()
        }

    @functools.cached_property
    def vectors(self) -> dict[str, dict[str, torch.Tensor]]:
        return {
            name: oracle.vectors(oracle.load(self.layout.base, folder))
            for name, folder in self.folders.items()
        }

    def weighted_sum(self, expression: str) -> oracle.Deltas:
        """What `expression` must add to the base."""
        terms = EXPRESSIONS[expression].items()
        return oracle.weighted_sum((c, self.deltas[name]) for name, c in terms)

    def affine_sum(self, expression: str) -> dict[str, torch.Tensor]:
        """The vectors that `expression` must have."""
        terms = EXPRESSIONS[expression].items()
        return oracle.affine_sum((c, self.vectors[name]) for name, c in terms)


@pytest.fixture(scope="session")
def operands(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Operands]:
    """The operands of the layout that is called so."""

    @functools.cache
    def make(name: str) -> Operands:
        layout = LORA[name] if name in LORA else IA3[name.removeprefix("ia3 ")]
        folder = tmp_path_factory.mktemp("operands")
        return Operands(layout, adapters.operands(layout, folder, name))

    return make


@pytest.fixture(scope="session")
def composite(
    operands: Callable[[str], Operands], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """The folder of an expression over the operands of a layout."""

    @functools.cache
    def make(name: str, expression: str) -> Path:
        import pemath

        folders = {key: str(path) for key, path in operands(name).folders.items()}
        used = {key: folders[key] for key in EXPRESSIONS[expression]}
        out = tmp_path_factory.mktemp("composites") / "composite"
        return Path(pemath.compose(expression, out, operands=used).folder)

    return make


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the matrices are tiny
