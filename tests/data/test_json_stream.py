"""A JSON list read one element at a time: what it gives, wherever the pieces end, and what it says of bad files."""

import json
import random
import tracemalloc
from pathlib import Path

import pytest

from pose_lab.data import json_stream
from pose_lab.data.json_stream import list_elements

EXPECTED = "a list of things"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "list.json"


def some_values() -> list:
    draw = random.Random(0)
    kinds = [
        lambda: draw.random() * 10.0 ** draw.randint(-9, 9),
        lambda: draw.randint(-(10**12), 10**12),
        lambda: 'quoted " \\ é \u2028',
        lambda: {"keypoints": [1.5, None, True], "deep": [[], {}]},
    ]
    return [draw.choice(kinds)() for _ in range(300)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_elements_are_those_of_the_file_wherever_pieces_end(
    chunk: int, indent: int | None, file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    values = some_values()
    for ascii_only in (True, False):
        file.write_text(json.dumps(values, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
        assert list(list_elements(file, EXPECTED)) == values


@pytest.mark.parametrize(
    ("text", "values"), [("[]", []), (" \n[ ] ", []), ("\ufeff[1]\n", [1]), ("[1e5,-2]", [1e5, -2])]
)
def test_short_lists(text: str, values: list, file: Path):
    file.write_text(text, encoding="utf-8")
    assert list(list_elements(file, EXPECTED)) == values


BAD = {
    "": "is empty, expected a list of things",
    "{}": "holds an object, expected a list of things",
    '"text"': "holds text, expected",
    "nope": "is cut off or not JSON, expected",
    "[": "is cut off or not JSON in record 0",
    "[1": "is cut off or not JSON after record 0",
    "[1,": "is cut off or not JSON in record 1",
    "[1,]": "is cut off or not JSON in record 1",
    "[1 2]": "is cut off or not JSON after record 0",
    '[1, "a': "is cut off or not JSON in record 1",
    "[1] 2": "goes on after the end of its list",
    "[[1, x], 2]": "is cut off or not JSON in record 0",
    "[" * 100_000: "is cut off or not JSON in record 0",
    "[" + "1" * 5000 + "]": "is cut off or not JSON in record 0",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_bad_files_are_named_with_the_record(text: str, file: Path):
    file.write_text(text)
    with pytest.raises(ValueError, match=BAD[text]) as raised:
        list(list_elements(file, EXPECTED))
    assert str(file) in str(raised.value)


def test_other_bytes_than_text_are_refused(file: Path):
    file.write_bytes(b"[\x93NUMPY]")
    with pytest.raises(ValueError, match="is not JSON"):
        list(list_elements(file, EXPECTED))


def test_an_element_without_end_is_refused_before_it_fills_the_memory(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_stream, "CHUNK", 64)
    monkeypatch.setattr(json_stream, "LARGEST", 4096)
    file.write_text('[1, "' + "a" * 100_000)
    with pytest.raises(ValueError, match="record 1 has more than 4096 characters"):
        list(list_elements(file, EXPECTED))


def test_the_progress_of_a_long_file_is_shown_on_a_terminal(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    file.write_text(json.dumps(list(range(1000))))
    monkeypatch.setattr(json_stream, "LONG", 1000)
    assert list(list_elements(file, EXPECTED)) == list(range(1000))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    assert list(list_elements(file, EXPECTED)) == list(range(1000))
    output = capsys.readouterr()
    assert output.out == ""
    assert file.name in output.err


def test_the_memory_is_that_of_a_piece(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_stream, "CHUNK", 1 << 12)
    file.write_text(json.dumps([{"keypoints": [0.5] * 51}] * 5000))
    tracemalloc.start()
    count = sum(1 for _ in list_elements(file, EXPECTED))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5000
    assert peak < 200_000 < file.stat().st_size
