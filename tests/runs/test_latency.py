"""The milliseconds that a run leaves beside its accuracy."""

import pytest
import torch

from pose_lab.runs import latency
from pose_lab.runs.latency import Laps
from pose_lab.runs.train import train
from tests.configs import TINY, composed

PARTS = ("ms_load", "ms_network", "ms_people")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("asked", "timed"), [(3, 3), (50, 4)])
def test_a_run_is_timed_on_its_evaluation_pictures(asked, timed, tmp_path, cache):
    """There are four of them."""
    cfg = composed(*TINY, "training.epochs=1", f"latency={asked}", results=tmp_path, cache=cache)
    numbers = train(cfg).metrics()
    assert numbers["latency_pictures"] == timed
    assert all(0 < numbers[part] < numbers["ms_total"] for part in PARTS)
    assert {"AP", "steps"} < numbers.keys()


@pytest.mark.parametrize("asked", ["0", "-1", "1.5", "true", "all"])
def test_what_is_no_number_of_pictures_is_refused_before_training(asked, tmp_path, cache):
    with pytest.raises(ValueError, match=r"latency is .*, but must be a whole number from 1 on"):
        train(composed(*TINY, f"latency={asked}", results=tmp_path, cache=cache))
    assert not list(tmp_path.iterdir())


def test_laps_are_the_milliseconds_between_marks(monkeypatch):
    seconds = iter([1.0, 1.25, 3.25])
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(seconds))
    laps = Laps(torch.device("cpu"))
    for _ in range(3):
        laps.mark()
    assert laps.read() == [250.0, 2000.0]
