import pytest

from pose_lab.runs import known
from pose_lab.runs.train import is_decided
from tests.configs import composed


@pytest.fixture
def configs(tmp_path):
    return [composed(f"seed={seed}", results=tmp_path) for seed in (0, 1)]


def test_equal_configs_have_the_fingerprints_that_were_found_before(configs, tmp_path):
    assert known.recalled(configs) is None
    known.remember(configs[:1], ["a"])
    assert known.recalled(configs) is None
    known.remember(configs[1:], ["b"])
    assert known.recalled(configs[::-1]) == ["b", "a"]
    moved = composed("seed=1", "machine.devices=2", "logger=none", results=tmp_path)
    assert known.recalled([moved]) == ["b"]
    assert known.recalled([composed("seed=1", "data.settings.train_images=5", results=tmp_path)]) is None


def test_other_code_and_a_damaged_file_know_nothing(configs, tmp_path, monkeypatch):
    known.remember(configs, ["a", "b"])
    (file,) = tmp_path.glob(f"*/*/{known.FILE}")
    text = file.read_text()
    file.write_text(text[:20])
    assert known.recalled(configs) is None
    file.write_text(text)
    assert known.recalled(configs) == ["a", "b"]
    monkeypatch.setattr(known.code, "fingerprint", lambda: "edited")
    assert known.recalled(configs) is None
    known.remember(configs[:1], ["c"])
    assert known.recalled(configs[:1]) == ["c"]
    assert known.recalled(configs) is None


@pytest.mark.parametrize(
    ("overrides", "decided"),
    [((), True), (("data=coco", "data.root=/somewhere"), False), (("checkpoint=weights.pt",), False)],
)
def test_what_lies_in_files_is_asked_for_each_time(overrides, decided):
    assert is_decided(composed(*overrides)) == decided
