"""Files that want to do harm: each ends in an error that names what is wrong with it, and nothing of it runs."""

import io
import os
import pickle
import re
import sys
import tracemalloc
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch

from pose_lab.checkpoints import pickles
from pose_lab.checkpoints.reading import open_weights
from tests.checkpoints.crafted import (
    archive,
    name,
    number,
    save_published,
    sizes,
    state_dict,
    storage,
    tensor,
    text,
    tiny_net,
)

LEGACY = {"_use_new_zipfile_serialization": False}


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def read_all(path):
    return {key: stored.read() for key, stored in open_weights(path).tensors.items()}


def refused(path, match):
    """The file is refused, at the latest when its tensors are read, and the message names it."""
    with pytest.raises(ValueError, match=match) as error:
        read_all(path)
    assert str(path) in str(error.value)


def refused_in_little_memory(path, match):
    tracemalloc.start()
    try:
        refused(path, match)
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()


ATTACKS = {
    "posix.system": lambda mark: Call(os.system, f"touch {mark}"),
    "builtins.eval": lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"),
    "builtins.exec": lambda mark: Call(exec, f"open({str(mark)!r}, 'w')"),
    "io.open": lambda mark: Call(open, str(mark), "w"),
    "_pickle.loads": lambda mark: Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {mark}"))),
    "posixpath.join": lambda mark: Call(os.path.join, "", Call(eval, f"open({str(mark)!r}, 'w').name")),
    "torch.serialization.load": lambda mark: [Call(torch.load, Call(open, str(mark), "w"))],
}


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_calls_are_refused_by_name(tmp_path, attack, options):
    path, mark = tmp_path / "a.pt", tmp_path / "mark"
    content = {"model": ATTACKS[attack](mark), "state_dict": {"a": torch.ones(2)}}
    torch.save(content, path, pickle_protocol=4, **options)
    refused(path, rf"opcode STACK_GLOBAL at byte \d+ of the pickle: names {re.escape(attack)}, ")
    assert not mark.exists()


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_the_attacks_would_work_on_a_careless_reader(tmp_path, options):
    for attack, content in ATTACKS.items():
        mark = tmp_path / attack
        torch.save({"model": content(mark)}, tmp_path / "a.pt", **options)
        with suppress(io.UnsupportedOperation):  # of the last one, after the harm is done
            torch.load(tmp_path / "a.pt", weights_only=False)
        assert mark.exists()


def test_nothing_is_imported(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    for room in ("models", "models/common"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text(f"open({str(mark)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    module = name("models.common", "Conv") + b")\x81}" + text("_parameters") + b"}" + text("a")
    module += tensor(storage("0", 1), 0, sizes(1), sizes(1)) + b"ssb"
    path = archive(tmp_path / "a.pt", b"\x80\x02" + module + b".", {"archive/data/0": b"\0" * 4})
    assert open_weights(path).tensors["a"].read().tolist() == [0]
    assert not mark.exists()
    assert "models" not in sys.modules
    with pytest.raises(AttributeError):  # the same pickle for a careless reader
        pickle.loads(b"\x80\x02" + name("models.common", "Conv") + b".")
    assert mark.exists()
    for loaded in ("models", "models.common"):
        monkeypatch.delitem(sys.modules, loaded)


BAD_PICKLES = [
    (r"opcode INST at byte \d+ of the pickle: an opcode that", b"(ios\nsystem\n."),
    ("opcode OBJ ", b"(" + name("collections", "OrderedDict") + b"o."),
    ("opcode EXT1 ", b"\x82\x01."),
    ("opcode NEWOBJ_EX ", name("collections", "OrderedDict") + b")}\x92."),
    ("opcode PERSID ", b"P0\n."),
    ("opcode GET ", b"g0\n."),
    ("opcode DUP ", b"N2."),
    ("damaged or none: .*xff.* unknown", b"\xff."),
    ("opcode STACK_GLOBAL .*names posix.system", text("posix") + text("system") + b"\x93."),
    ("names subprocess.Popen", name("subprocess", "Popen") + b"."),
    ("names torch.hub.load", name("torch.hub", "load") + b"."),
    ("names models.evil.Model", name("models.evil", "Model") + b"."),
    ("names numpy.load", name("numpy", "load") + b"."),
    (r"names a\\nb\.c", text("a\nb") + text("c") + b"\x93."),
    ("names x{80}[.]{3},", name("x" * 100_000, "y") + b"."),
    ("calls a models.yolo.Model", name("models.yolo", "Model") + b")R."),
    ("calls a torch.nn.modules.conv.Conv2d", name("torch.nn.modules.conv", "Conv2d") + b")R."),
    ("calls a torch.FloatStorage", name("torch", "FloatStorage") + b")R."),
    ("calls a dict", b"})R."),
    ("calls a Opaque", name("torch", "Size") + b")R)R."),
    ("calls a str", text("os.system") + b")R."),
    ("gives a dict as attributes to a models.yolo.Model", name("models.yolo", "Model") + b"}b."),
    ("gives a tuple as attributes to a Module", name("models.yolo", "Model") + b")\x81)b."),
    ("fills a Module as if it were a dict", name("models.yolo", "Model") + b")\x81NNs."),
    ("fills a dict as if it were a list", b"}Na."),
    ("a tuple as a key", b"})Ns."),
    ("a int as a key", b"}" + number(2**61 - 1) + b"Ns."),
    ("a key without a value", b"}(Nu."),
    ("number 7 from the memo", b"h\x07."),
    ("opcode REDUCE .*more from the stack", b"R."),
    ("opcode TUPLE .*more from the stack", b"t."),
    ("no storage of numbers", text("storage") + b"Q."),
    ("no storage of numbers", b"(" + text("storage") + name("torch", "Size") + text("0") + text("cpu") + b"K\x01tQ."),
    ("a tensor of a str", tensor(text("x"), 0, sizes(1), sizes(1)) + b"."),
    ("none negative or huge", tensor(storage("0", 1), 0, sizes(-1), sizes(1)) + b"."),
    ("none negative or huge", tensor(storage("0", 1), 0, sizes(2**70), sizes(1)) + b"."),
    ("few whole numbers", tensor(storage("0", 1), 0, sizes(*[1] * 17), sizes(*[1] * 17)) + b"."),
    ("1 dimensions with 2 strides", tensor(storage("0", 1), 0, sizes(1), sizes(1, 1)) + b"."),
    ("a parameter of a NoneType", name("torch._utils", "_rebuild_parameter") + b"(N\x89NtR."),
    ("a set of something else", name("builtins", "set") + b"(](]etR."),
    ("filled as it is made", name("collections", "OrderedDict") + b"(](]etR."),
    ("damaged or none: .*exhausted before seeing STOP", b"N"),
    ("damaged or none: .*expected 1099511627776 bytes", b"\x8d" + (2**40).to_bytes(8, "little") + b"x."),
    ("damaged or none: .*decode", b"X\x01\0\0\0\xff."),
]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(("match", "content"), BAD_PICKLES)
def test_pickles_that_no_checkpoint_holds(tmp_path, match, content, legacy):
    path, content = tmp_path / "a.pt", b"\x80\x02" + content
    if legacy:
        machine = state_dict(little_endian=b"\x88")
        head = [number(0x1950A86A20F9469CFC6C), number(1001)]
        path.write_bytes(b"".join(b"\x80\x02" + value + b"." for value in head) + machine + content + b"\x80\x02].")
    else:
        archive(path, content)
    refused(path, match)


TENSORS = {
    "should have 4398046511104 bytes, but the file holds 4 bytes": (2**40, 0, (1,), (1,)),
    "does not fit into its 1 numbers": (1, 0, (2**40,), (1,)),
    r"at 1 does not fit into its 1 numbers": (1, 1, (1,), (1,)),
    "at 0 does not fit into its 1 numbers": (1, 0, (2, 1), (2**59, 1)),
    "repeats its numbers": (1, 0, (2**40, 2**40), (0, 0)),
}


@pytest.mark.parametrize("match", TENSORS)
def test_tensors_that_are_larger_than_the_file(tmp_path, match):
    count, offset, shape, strides = TENSORS[match]
    content = state_dict(a=tensor(storage("0", count), offset, sizes(*shape), sizes(*strides)))
    refused_in_little_memory(archive(tmp_path / "a.pt", content, {"archive/data/0": b"\0" * 4}), match)


def test_a_storage_that_is_not_there(tmp_path):
    content = state_dict(a=tensor(storage("../../etc/passwd", 1), 0, sizes(1), sizes(1)))
    refused(archive(tmp_path / "a.pt", content), r"storage '\.\./\.\./etc/passwd': .* the file holds nothing")


WEIGHTS = state_dict(a=tensor(storage("0", 1), 0, sizes(1), sizes(1)))


@pytest.mark.parametrize("entry", ["../evil", "archive/../../evil", "/etc/evil", "archive\\..\\evil"])
def test_names_that_lead_out_of_the_archive(tmp_path, entry):
    path = archive(tmp_path / "a.pt", WEIGHTS, {"archive/data/0": b"\0" * 4, entry: b"x"})
    refused(path, "leads out of the archive")
    assert [file.name for file in tmp_path.rglob("*")] == ["a.pt"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(tmp_path):
    path = archive(tmp_path / "a.pt", WEIGHTS, {"archive/data/0": b"\0" * 4})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/data/0", b"\1" * 4)
    refused(path, "entry 'archive/data/0' is there twice")


def test_two_pickles(tmp_path):
    refused(archive(tmp_path / "a.pt", WEIGHTS, {"other/data.pkl": WEIGHTS}), "2 entries data.pkl")


def test_a_zip_bomb(tmp_path):
    bomb = {"archive/data/0": b"\0" * 50_000_000}
    path = archive(tmp_path / "a.pt", WEIGHTS, bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    refused_in_little_memory(path, r"entry 'archive/data.pkl' is compressed")


def test_entries_that_share_their_bytes(tmp_path):
    path = archive(tmp_path / "a.pt", WEIGHTS, {f"archive/data/{key}": b"\0" * 100_000 for key in range(20)})
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
        directory = file.start_dir
    with open(path, "r+b") as file:
        file.seek(directory)
        end = file.read()
        for entry in entries[2:]:  # all at the first one's place, and the others' bytes cut out
            end = end.replace(entry.header_offset.to_bytes(4, "little"), entries[1].header_offset.to_bytes(4, "little"))
        start = entries[2].header_offset
        file.seek(start)
        file.truncate()
        file.write(end.replace(directory.to_bytes(4, "little"), start.to_bytes(4, "little")))
    refused_in_little_memory(path, "its entries have 2000[0-9]+ bytes together, but the file has 10[0-9]+")


def test_modules_without_end(tmp_path):
    def module(inside: bytes) -> bytes:
        return name("models.yolo", "Model") + b")\x81q\x00}" + text("_modules") + b"}(" + inside + b"usb"

    refused(archive(tmp_path / "a.pt", b"\x80\x02" + module(text("a") + b"h\x00") + b"."), "contain each other")
    twice = b"\x80\x02N"
    for _ in range(28):  # each holds the one before twice: 2**28 of them when written out
        twice += b"q\x01" + name("models.yolo", "Model") + b")\x81}" + text("_modules") + b"}("
        twice += text("a") + b"h\x01" + text("b") + b"h\x01" + b"usb"
    refused(archive(tmp_path / "b.pt", twice + b"."), "contain each other too often")


@pytest.mark.parametrize("nested", [b"]q\x00" + b"]h\x00aq\x00" * 100_000, b")" + b"\x85" * 100_000])
def test_a_hundred_thousand_containers_in_each_other(tmp_path, nested):
    refused(archive(tmp_path / "a.pt", b"\x80\x02" + nested + b"."), "holds no weights")


def test_endless_pickles(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_OPCODES", 1000)
    refused(archive(tmp_path / "a.pt", b"\x80\x02" + b"N" * 1000 + b"."), "more than 1000 opcodes")
    monkeypatch.setattr("pose_lab.checkpoints.archive.MAX_BYTES", 1000)
    refused(archive(tmp_path / "b.pt", b"\x80\x02" + b"N" * 1000 + b"."), r"entry data.pkl has 1003 bytes")


def test_numbers_that_were_damaged(tmp_path):
    path = archive(tmp_path / "a.pt", WEIGHTS, {"archive/data/0": b"abcd"})
    path.write_bytes(path.read_bytes().replace(b"abcd", b"abce"))
    refused(path, "storage '0': its numbers are damaged")


@pytest.mark.parametrize("order", [b"big", b"\xff\x00"])
def test_another_byte_order(tmp_path, order):
    path = archive(tmp_path / "a.pt", WEIGHTS, {"archive/data/0": b"abcd", "archive/byteorder": order})
    refused(path, "-endian, this machine's are")


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_truncated_anywhere(tmp_path, options):
    content = save_published(tmp_path / "whole.pt", {"model": tiny_net()}, **options).read_bytes()
    path = tmp_path / "a.pt"
    for share in np.linspace(0, 0.9999, 12):
        path.write_bytes(content[: int(share * len(content))])
        refused(path, r"a\.pt")


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_single_wrong_bytes_end_in_a_message_or_in_weights(tmp_path, options):
    path, draw = tmp_path / "a.pt", np.random.default_rng(0)
    torch.save({"state_dict": {"a": torch.ones(5), "b": torch.ones(2, 3).half()}, "epoch": 3}, path, **options)
    content = path.read_bytes()
    failed = 0
    for place, value in zip(draw.integers(len(content), size=400), draw.integers(256, size=400), strict=True):
        path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
        try:
            assert sum(tensor.numel() for tensor in read_all(path).values()) <= 11
        except ValueError:
            failed += 1
    assert failed > 50


OTHER_FILES = {
    r"it begins with: <!DOCTYPE html>\\n": b"<!DOCTYPE html>\n<title>Too many downloads</title>",
    "it begins with: version https://git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a",
    "is empty: copy or download it again": b"",
    "is no checkpoint of torch or safetensors": b"\0",
    "magic number": pickle.dumps({"a": 1}, 2),
    "no whole safetensors file .*[Hh]eader": (2**40).to_bytes(8, "little") + b'{"a": 1}',
    "no whole safetensors file": (2).to_bytes(8, "little") + b"{}" + b"more",
    "truncated or damaged": b"PK\x03\x04" + b"\0" * 100,
}


@pytest.mark.parametrize("match", OTHER_FILES)
def test_other_files(tmp_path, match):
    (tmp_path / "a.pt").write_bytes(OTHER_FILES[match])
    refused(tmp_path / "a.pt", match)


def test_checkpoints_without_weights(tmp_path):
    torch.save({"epoch": 3, "ema": None, "model": "name"}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", r"no weights under ema, model, state_dict \(it holds: epoch, ema, model\)")
    torch.save([1, 2], tmp_path / "b.pt")
    refused(tmp_path / "b.pt", r"\(it holds: list\)")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_weights(tmp_path / "nowhere.pt")
