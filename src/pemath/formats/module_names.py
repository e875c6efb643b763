"""Module names of a base model, found by other spellings of them."""

from __future__ import annotations

from collections.abc import Iterable

from pemath.errors import LayoutError
from pemath.names import display, listing

# What is expected of a name, and what to do, where the modules of the base are known.
OF_THE_BASE = (
    "a module of the base weights",
    "these are another model's; --component chooses the part that they belong to",
)


class Modules:
    """The modules of a base model, found by names with underscores in the place of dots.

    CLIP's text encoders have a module `text_model` around all others, or not, as the version of
    transformers has it: a name is found with and without.
    """

    def __init__(self, parameters: Iterable[str]) -> None:
        self._spelled: dict[str, list[str]] = {}
        ending = ".weight"
        for name in sorted({n.removesuffix(ending) for n in parameters if n.endswith(ending)}):
            self._spelled.setdefault(underscored(name), []).append(name)

    def find(self, name: str) -> list[str]:
        """The modules that `name` may be: several where it is ambiguous."""
        wrapper = "text_model_"
        other = name.removeprefix(wrapper) if name.startswith(wrapper) else f"{wrapper}{name}"
        return self._spelled.get(name) or self._spelled.get(other) or []


def underscored(site: str) -> str:
    """A module's name with underscores in the place of dots."""
    return site.replace(".", "_")


def the_one(found: list[str], name: str, where: str, expected: str, hint: str) -> str:
    """The only one of `found`. Raises LayoutError if there are none or several."""
    if len(found) != 1:
        raise LayoutError(
            f"which module `{display(name)}` is cannot be known",
            where=where,
            found=listing(found) if found else "none that fits",
            expected=expected,
            hint=hint,
        )
    return found[0]
