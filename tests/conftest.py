"""Where the fixtures lie, and how the tests are shared out among processes.

Small numeric fixtures are in `tests/fixtures`. Larger ones and real pictures are never committed: they are read from a
folder `shared` beside the checkout (or from `POSE_LAB_SHARED`), and tests that need them are skipped elsewhere.
"""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes beside each other, not threads

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("POSE_LAB_SHARED", ROOT.parent / "shared"))
LONGEST = ("tests/slurm/", "tests/runs/", "tests/test_")  # begin first, so that they do not end last


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: [not item.nodeid.startswith(start) for start in LONGEST])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """One process more than there are cores: that of the private Slurm mostly waits."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file stay together, and all that need the private Slurm: it runs once."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return LONGEST[0] if nodeid.startswith(LONGEST[0]) else super()._split_scope(nodeid)

    return Files(config, log)


@pytest.fixture(autouse=True)
def _seeded():
    """Chance is the same in whatever order and process a test runs."""
    import torch  # not by the process that only shares out the tests

    torch.manual_seed(0)


def fixture_path(relative: str) -> Path:
    """A fixture's path: in `tests/fixtures`, else in `shared/parity`; skips the test if it is in neither."""
    for folder in (ROOT / "tests" / "fixtures", SHARED / "parity"):
        if (folder / relative).exists():
            return folder / relative
    pytest.skip(f"fixture {relative} is not committed and {SHARED / 'parity'} does not hold it")


def shared_data(relative: str) -> Path:
    """A folder of real data below `shared/data`; skips the test if it is absent."""
    path = SHARED / "data" / relative
    if not path.exists():
        pytest.skip(f"real data {relative} is not at {path}")
    return path
