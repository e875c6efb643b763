"""A recipe: one YAML file that says everything about an experiment, checked before anything runs.

Presets are recipes shipped with pemath.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pemath.errors import RequestError
from pemath.formats.yaml import read_yaml
from pemath.lab.recipes.common import Common
from pemath.lab.recipes.mistakes import nearest, refuse
from pemath.lab.recipes.recipe import Recipe
from pemath.lab.recipes.subtraction import Detox, Unlearning
from pemath.lab.recipes.transfer import Transfer
from pemath.names import display

RECIPES: Mapping[str, type[Common]] = MappingProxyType(
    {
        "distribution": Recipe,
        "multitask": Recipe,
        "unlearning": Unlearning,
        "transfer": Transfer,
        "detox": Detox,
    }
)
EXPERIMENTS = tuple(RECIPES)
PRESETS = ("smoke", "packages", "cpu", "paper")


def read_recipe(path: Path) -> Common:
    """The recipe in a YAML file; paths in it start at its folder.

    Raises: StorageError, ConfigError listing every mistake at once.
    """
    return parse_recipe(read_yaml(path), where=display(path), folder=path.parent)


def preset_recipe(experiment: str, name: str) -> Common:
    """A recipe shipped with pemath. Raises RequestError for an unknown name."""
    for given, known, what in ((experiment, EXPERIMENTS, "experiment"), (name, PRESETS, "preset")):
        if given not in known:
            raise RequestError(nearest(given, known, what))
    file = files("pemath.lab.recipes").joinpath("presets", f"{experiment}-{name}.yaml")
    return read_recipe(Path(str(file)))


def parse_recipe(content: Any, *, where: str | None = None, folder: Path = Path()) -> Common:
    """The recipe in plain values, of whatever experiment it names.

    Raises ConfigError listing every mistake at once.
    """
    name = content.get("experiment") if isinstance(content, Mapping) else None
    if not isinstance(name, str) or name not in RECIPES:
        if isinstance(content, Mapping):
            known = list(RECIPES)
            message = nearest(name, known, "experiment") if name is not None else "is missing"
            raise refuse([(("experiment",), message)], where)
        raise refuse([((), "a recipe has keys and values: experiment, model, …")], where)
    return RECIPES[name].parse(content, where=where, folder=folder)
