"""Downloading from a server on this machine that breaks off, lies, or does not know ranges."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import yaml

from pose_lab.data.check.sources import names
from pose_lab.data.download import __main__ as command
from pose_lab.data.download import fetch as fetching
from pose_lab.data.download.fetch import DownloadError, Wanted, fetch
from pose_lab.data.download.unpack import unpack

CONTENT = np.random.default_rng(0).bytes(300_000)


class Site:
    """A server whose answers a test decides; it notes the ranges that were asked for."""

    def __init__(self, files):
        self.files = files
        self.asked = []
        self.cut = []  # after how many bytes the next answers break off
        self.ranges = True
        self.status = None  # answered in place of the file
        self.stated = None  # added to the true length
        self.tag = '"1"'
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def handler(self):
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.answer(self)

            def log_message(self, *_):
                pass

        return Handler

    def answer(self, request):
        asked = request.headers.get("Range")
        self.asked.append(asked)
        content = self.files.get(request.path.lstrip("/"))
        if self.status or content is None:
            request.send_error(self.status or 404)
            return
        total, start = len(content) + (self.stated or 0), 0
        same = request.headers.get("If-Range", self.tag) == self.tag
        if asked and self.ranges and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(total - start))
        request.send_header("ETag", self.tag)
        request.end_headers()
        end = start + self.cut.pop(0) if self.cut else len(content)
        request.wfile.write(content[start:end])
        request.close_connection = True


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(fetching, "_PAUSE", 0)
    monkeypatch.setenv("no_proxy", "*")
    site = Site({"a.bin": CONTENT})
    yield site
    site.server.shutdown()
    site.server.server_close()


def wanted(site, name="a.bin", **published):
    return Wanted(f"{site.address}/{name}", **published)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_is_not_fetched_again(site, tmp_path):
    told = []
    sums = (("sha256", hashlib.sha256(CONTENT).hexdigest()), ("md5", hashlib.md5(CONTENT).hexdigest().upper()))
    fetch(wanted(site, size=len(CONTENT), sums=sums), tmp_path / "a.bin", lambda *progress: told.append(progress))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert left(tmp_path) == ["a.bin"]
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    fetch(wanted(site), tmp_path / "a.bin")
    assert site.asked == [None]


def test_a_broken_transfer_goes_on_where_it_was(site, tmp_path):
    site.cut = [100_000, 50_000, 0, 1]
    fetch(wanted(site), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert site.asked == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=150001-"]


def test_a_later_start_goes_on_too(site, tmp_path):
    site.cut = [120_000, *[0] * 5]
    with pytest.raises(DownloadError, match=r"broke off at 120,000 of 300,000 bytes .*; start again to go on"):
        fetch(wanted(site), tmp_path / "a.bin")
    assert left(tmp_path) == ["a.bin.part", "a.bin.part.json"]
    site.asked.clear()
    fetch(wanted(site), tmp_path / "a.bin")
    assert site.asked == ["bytes=120000-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert left(tmp_path) == ["a.bin"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(site, tmp_path):
    site.cut = [120_000, *[0] * 5]
    with pytest.raises(DownloadError):
        fetch(wanted(site), tmp_path / "a.bin")
    site.files["a.bin"], site.tag = CONTENT[::-1], '"2"'
    fetch(wanted(site), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


def test_a_file_that_became_shorter_is_fetched_anew(site, tmp_path):
    site.cut, site.tag = [120_000, *[0] * 5], ""
    with pytest.raises(DownloadError):
        fetch(wanted(site), tmp_path / "a.bin")
    site.files["a.bin"] = CONTENT[:1000]
    (tmp_path / "a.bin.part.json").unlink()
    fetch(wanted(site), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[:1000]


def test_a_server_without_ranges_begins_anew(site, tmp_path):
    site.ranges, site.cut = False, [100_000, 200_000]
    fetch(wanted(site), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert site.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_a_server_without_ranges_that_always_breaks_off(site, tmp_path):
    site.ranges, site.cut = False, [1000] * 20
    with pytest.raises(DownloadError, match="broke off at 1,000 of 300,000 bytes"):
        fetch(wanted(site), tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_states_too_long_a_length(site, tmp_path, ranges):
    site.ranges, site.stated = ranges, 77
    with pytest.raises(DownloadError, match=r"broke off at .* of 300,077 bytes|broke off at 0 bytes"):
        fetch(wanted(site), tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_a_server_that_states_too_short_a_length(site, tmp_path):
    site.stated = -77
    with pytest.raises(DownloadError, match="has 299,923 bytes, but 300,000 are published"):
        fetch(wanted(site, size=len(CONTENT)), tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_a_wrong_sum_is_refused_and_removed(site, tmp_path):
    with pytest.raises(DownloadError, match=r"has the md5 sum \w+, but 00ff is published; what arrived is removed"):
        fetch(wanted(site, sums=(("md5", "00ff"),)), tmp_path / "a.bin")
    assert left(tmp_path) == []


@pytest.mark.parametrize(("status", "complaint"), [(404, "answers 404 Not Found"), (503, "answers 503")])
def test_refusals_name_the_address(site, tmp_path, status, complaint):
    site.status = status
    with pytest.raises(DownloadError, match=f"{site.address}/a.bin: the server {complaint}"):
        fetch(wanted(site), tmp_path / "a.bin")
    assert left(tmp_path) == []


def test_nobody_listens(site, tmp_path):
    site.server.shutdown()
    site.server.server_close()
    with pytest.raises(DownloadError, match="broke off at 0 bytes"):
        fetch(wanted(site), tmp_path / "a.bin")


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(name, content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_archives_join_what_is_there(tmp_path):
    (tmp_path / "root/annotations").mkdir(parents=True)
    (tmp_path / "root/annotations/mine.json").write_text("mine")
    (tmp_path / "a.zip").write_bytes(zipped(**{"annotations/a.json": "a", "b.txt": "b"}))
    (tmp_path / "c.tar.gz").write_bytes(tarred("annotations/c.json", b"c"))
    for archive in ("a.zip", "c.tar.gz"):
        unpack(tmp_path / archive, tmp_path / "aside", tmp_path / "root")
    found = {str(path.relative_to(tmp_path / "root")): path.read_text() for path in (tmp_path / "root").rglob("*.*")}
    assert found == {
        "annotations/mine.json": "mine",
        "annotations/a.json": "a",
        "annotations/c.json": "c",
        "b.txt": "b",
    }
    assert not (tmp_path / "aside").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.zip", zipped(**{"../evil.txt": "x", "good.txt": "x"})),
        ("a.tar.gz", tarred("../evil.txt", b"x")),
        ("a.zip", zipped(**{"good.txt": "x" * 9000})[:-30]),
        ("a.zip", zipped(**{"good.txt": "x" * 9000}).replace(b"xxxx", b"yyyy", 1)),
        ("a.tar.gz", tarred("good.txt", CONTENT)[:-1000]),
        ("a.zip", b"<html>"),
    ],
    ids=["zip-outside", "tar-outside", "zip-cut", "zip-changed", "tar-cut", "no-zip"],
)
def test_bad_archives_leave_nothing(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged or no archive|would be written outside"):
        unpack(tmp_path / name, tmp_path / "deep/aside", tmp_path / "deep/root")
    assert left(tmp_path) == [name, "deep"]
    assert left(tmp_path / "deep") == []


@pytest.fixture
def shop(site, tmp_path):
    """A data set of two archives on the server, and its addresses."""
    site.files |= {
        "annotations.zip": zipped(**{"annotations/people.json": "{}"}),
        "val.zip": zipped(**{f"val/{n}.jpg": CONTENT[:1000] for n in range(20)}),
    }
    files = {
        "annotations": {"url": f"{site.address}/annotations.zip", "makes": ["annotations/people.json"]},
        "val": {"url": f"{site.address}/val.zip", "makes": ["val"]},
    }
    addresses = tmp_path / "addresses.yaml"
    content = {"mini": {"files": files}, "form": {"ask": "https://example.org has a form"}}
    addresses.write_text(yaml.safe_dump(content))
    return content, addresses


def run(addresses, root, *arguments):
    return command.main([*arguments, f"root={root}", f"addresses={addresses}"])


def test_a_data_set_is_fetched_unpacked_and_known_to_be_there(site, shop, tmp_path, capsys):
    root = tmp_path / "root"
    site.cut = [700]
    assert run(shop[1], root, "mini") == 0
    assert left(root) == ["annotations", "val"]
    assert len(left(root / "val")) == 20
    site.asked.clear()
    assert run(shop[1], root, "mini") == 0
    assert site.asked == []
    assert "val is there" in capsys.readouterr().err


def test_some_files_only(site, shop, tmp_path, capsys):
    assert run(shop[1], tmp_path / "root", "mini", "only=val") == 0
    assert left(tmp_path / "root") == ["val"]
    assert run(shop[1], tmp_path / "root", "mini", "only=train") == 1
    assert "there is no file train; there are: annotations, val" in capsys.readouterr().err


def test_one_failure_does_not_stop_the_others_and_is_told(site, shop, tmp_path, capsys):
    del site.files["annotations.zip"]
    assert run(shop[1], tmp_path / "root", "mini") == 1
    assert "annotations.zip: the server answers 404" in capsys.readouterr().err
    assert left(tmp_path / "root") == [".download", "val"]
    site.files["annotations.zip"] = zipped(**{"annotations/people.json": "{}"})
    assert run(shop[1], tmp_path / "root", "mini") == 0
    assert left(tmp_path / "root") == ["annotations", "val"]


def test_addresses_that_end_alike_do_not_share_a_file(site, tmp_path):
    site.files |= {f"{name}/data.zip": zipped(**{f"{name}/1.txt": name}) for name in ("train", "val")}
    files = {name: {"url": f"{site.address}/{name}/data.zip", "makes": [name]} for name in ("train", "val")}
    addresses = tmp_path / "addresses.yaml"
    addresses.write_text(yaml.safe_dump({"twins": {"files": files}}))
    assert run(addresses, tmp_path / "root", "twins") == 0
    assert left(tmp_path / "root") == ["train", "val"]
    assert [(tmp_path / "root" / name / "1.txt").read_text() for name in files] == ["train", "val"]


def test_a_damaged_archive_is_removed_and_nothing_unpacked(site, shop, tmp_path, capsys):
    site.files["val.zip"] = site.files["val.zip"][:-40]
    assert run(shop[1], tmp_path / "root", "mini", "only=val") == 1
    assert "is damaged or no archive" in capsys.readouterr().err
    assert left(tmp_path / "root") == [".download"]
    assert not list((tmp_path / "root/.download").glob("val*"))


def test_an_archive_that_lacks_what_it_should_make(site, shop, tmp_path, capsys):
    site.files["val.zip"] = zipped(**{"other/1.jpg": "x"})
    assert run(shop[1], tmp_path / "root", "mini", "only=val") == 1
    assert "val.zip does not hold val" in capsys.readouterr().err


def test_an_interrupted_unpacking_is_done_again(site, shop, tmp_path):
    root = tmp_path / "root"
    (root / "val").mkdir(parents=True)
    (root / "val/0.jpg").write_bytes(b"x")
    (root / ".download/val").mkdir(parents=True)
    (root / ".download/val/val.zip").write_bytes(site.files["val.zip"])
    assert run(shop[1], root, "mini", "only=val") == 0
    assert len(left(root / "val")) == 20
    assert (root / "val/0.jpg").read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["form"], "form has no plain public address: https://example.org has a form"),
        (["nothing"], "no address of 'nothing' is known; there are: form, mini"),
        ([], "expected the name of one data set, but none was given"),
        (["mini", "parallel=0"], "parallel=0 is no positive number"),
        (["mini", "roots=x"], "'roots=x' is none of root=, only="),
    ],
)
def test_wrong_arguments(shop, tmp_path, capsys, arguments, complaint):
    assert run(shop[1], tmp_path / "root", *arguments) == 1
    assert complaint in capsys.readouterr().err


def test_root_is_needed(capsys):
    assert command.main(["coco"]) == 1
    assert "root=FOLDER is missing" in capsys.readouterr().err


def test_every_data_set_has_addresses_or_says_where_to_ask():
    known = yaml.safe_load(command._ADDRESSES.read_text())
    assert set(known) == set(names())
    for name, values in known.items():
        assert ("ask" in values) != ("files" in values)
        if "files" in values:
            assert {"sha256", "md5", "bytes"} <= set.intersection(*(set(file) for file in values["files"].values()))
            assert all(item.makes for item in command._items(name, command._ADDRESSES))
