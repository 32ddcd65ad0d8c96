"""Where the fixtures lie.

Small numeric fixtures are in `tests/fixtures`. Larger ones and real pictures are never committed: they are read from a
folder `shared` beside the checkout (or from `POSE_LAB_SHARED`), and tests that need them are skipped elsewhere.
"""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("POSE_LAB_SHARED", ROOT.parent / "shared"))


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
