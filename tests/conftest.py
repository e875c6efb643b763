"""What every test shares: the environment of numeric libraries, hypothesis profiles."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Read when numpy and torch are first imported, so before any test module is. Idle OpenMP threads
# that spin make a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that needs the network is a bug

# A slow machine is no error: neither a deadline nor `too_slow`. The default suite draws the same
# examples on every run of the CI, and new ones everywhere else.
settings.register_profile(
    "suite",
    max_examples=2_000,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("laws", settings.get_profile("suite"), max_examples=20_000)
settings.register_profile("quick", settings.get_profile("suite"), max_examples=50)
settings.load_profile("suite")  # --hypothesis-profile=NAME overrules it


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets that no package may carry, where this machine has it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PEMATH_SHARED_DATA", beside))
    if not (folder / "glue").is_dir():
        pytest.skip(f"no folder glue under {folder}: set PEMATH_SHARED_DATA to have these rows")
    return folder
