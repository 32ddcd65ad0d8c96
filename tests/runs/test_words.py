import pytest

from pose_lab.runs.words import duration, epoch_text, percent, value_text


@pytest.mark.parametrize(("seconds", "text"), [(None, "?"), (0, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_durations(seconds, text):
    assert duration(seconds, unknown="?") == text


def test_numbers():
    assert [percent(value) for value in (None, 0.4567)] == ["", "45.7"]
    assert [value_text(value) for value in (None, 0.05, 1e-05, 3, True, "s")] == ["", "0.05", "1e-05", "3", "True", "s"]


def test_epochs_count_from_one_for_people():
    assert [epoch_text({"epoch": epoch, "epochs": 7}) for epoch in (0, 6, 7)] == ["1/7", "7/7", "7/7"]
    assert epoch_text({}) == epoch_text({"epoch": 3, "epochs": None}) == ""
