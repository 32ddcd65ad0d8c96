"""Wrong values end a run before its data are made, and name the key and what is allowed."""

import pytest

from pose_lab.data import synth
from pose_lab.runs.train import fingerprint, train
from tests.configs import TINY, composed

WRONG = [
    ("training.epochs=abc", "training.epochs is 'abc', but must be a whole number from 0 on"),
    ("training.epochs=-1", "training.epochs is -1, but must be a whole number from 0 on"),
    ("training.epochs=true", "training.epochs is True, but must be a whole number"),
    ("training.limit_batches=0", "training.limit_batches is 0, but must be a whole number from 1 on, or null"),
    ("latency=0", "latency is 0, but must be a whole number from 1 on, or null"),
    ("seed=", "seed is '', but must be a whole number from 0 to 4294967295"),
    ("seed=1.5", "seed is 1.5, but must be a whole number"),
    ("seed=4294967296", "seed is 4294967296, but must be a whole number"),
    ("data.batch_size=0", "data.batch_size is 0, but must be a whole number from 1 on"),
    ("machine.checkpoint_minutes=nan", "machine.checkpoint_minutes is nan, but must be a number from 0 on"),
    ("method.labels.keypoint_box=nan", "labels.keypoint_box is nan, but must be above 0 and at most 1"),
    ("method.labels.keypoint_box=much", "labels.keypoint_box is 'much', but must be above 0 and at most 1"),
    ("method.optimisation.lr=nan", "optimisation.lr is nan, but must be a number from 0 on"),
    ("method.optimisation.optimiser=Best", "optimisation.optimiser is 'Best', which is no class of torch.optim"),
    ("data.settings.train_images=0", "train_images=0 is below 1"),
    (
        "training={evaluate: best, epochs: 2, validate_every: 3}",
        "training.epochs=2 must reach training.validate_every=3",
    ),
    ("data.image_size=65", "data.image_size 65 is no multiple of"),
]


@pytest.mark.parametrize(("override", "message"), WRONG, ids=[override for override, _ in WRONG])
def test_wrong_values_end_before_any_picture_is_drawn(tmp_path, monkeypatch, override, message):
    monkeypatch.setattr(synth, "ensure", lambda *_: pytest.fail("pictures were drawn"))
    cfg = composed(*TINY, override, results=tmp_path / "results", cache=tmp_path / "cache")
    for begin in (train, fingerprint):  # of a run, of a sweep
        with pytest.raises(ValueError, match=r"must|below|no") as error:
            begin(cfg)
        assert message in str(error.value)
        assert not list(tmp_path.iterdir())


def test_whole_and_left_out_values_pass(tmp_path):
    cfg = composed(*TINY, "training.limit_batches=3", "machine.threads=null", "seed=4294967295", cache=tmp_path)
    assert fingerprint(cfg)
