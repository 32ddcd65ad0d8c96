"""Fetching one file over HTTP: goes on where it broke off, and has its final name only when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte
_ATTEMPTS = 5  # in a row that bring nothing new
_PAUSE = 1.0  # seconds before the next attempt, times how many have brought nothing
_BROKE_OFF = (http.client.HTTPException, TimeoutError, ConnectionError)

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Wanted:
    """A file to fetch.

    Attributes:
        url: its address.
        size: published size in bytes; None if none is published.
        sums: published sums in hexadecimal digits, by algorithm.
    """

    url: str
    size: int | None = None
    sums: tuple[tuple[str, str], ...] = ()


class DownloadError(OSError):
    """A file that cannot be fetched, or that is not what was published."""


def fetch(wanted: Wanted, target: Path, progress: Progress = lambda done, total: None) -> None:
    """Fetches a file; does nothing if it is there. What has arrived so far lies in `TARGET.part`.

    Args:
        wanted: the file.
        target: where it will lie; its folder must exist.
        progress: told how many bytes have arrived, and of how many, if the server says so.

    Raises:
        DownloadError: if the server refuses, breaks off without bringing anything new, or sends something else than was
            published; the message has the address.
        OSError: if it cannot be written.
    """
    if target.exists():
        return
    part = target.with_name(f"{target.name}.part")
    idle, most = 0, _size(part)
    while True:
        total, trouble = _go_on(wanted, part, progress)
        if trouble is None:
            break
        arrived = _size(part)
        idle = 0 if arrived > most else idle + 1
        most = max(most, arrived)
        time.sleep(_PAUSE * idle)
        if idle == _ATTEMPTS:
            of = f" of {total:,}" if total is not None else ""
            raise DownloadError(f"{wanted.url} broke off at {arrived:,}{of} bytes ({trouble}); start again to go on")
    _verify(wanted, part)
    part.replace(target)
    _state_file(part).unlink(missing_ok=True)


def _go_on(wanted: Wanted, part: Path, progress: Progress) -> tuple[int | None, str | None]:
    """One request for what is missing: the size that the server states, and why it broke off, if it did."""
    have = _size(part)
    request = urllib.request.Request(wanted.url, headers=_headers(part, have))
    total = None
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            start, total = _place(response, have)
            _remember_version(part, response)
            if total is not None and wanted.size is not None and total != wanted.size:
                raise DownloadError(f"{wanted.url} has {total:,} bytes, but {wanted.size:,} are published")
            _append(response, part, start, total, progress)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            part.unlink()  # longer than the file is now
            return None, "the file has changed"
        raise DownloadError(f"{wanted.url}: the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        return total, str(error.reason)
    except _BROKE_OFF as error:
        return total, str(error) or type(error).__name__
    arrived = part.stat().st_size
    if total is not None and arrived < total:
        return total, "the connection was closed"
    return total, None


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _headers(part: Path, have: int) -> dict[str, str]:
    """Asks for the rest, and, if the server told a version of the file, only if it still is that version."""
    if not have:
        return {}
    version = _state(part).get("version")
    return {"Range": f"bytes={have}-"} | ({"If-Range": version} if version else {})


def _place(response: Any, have: int) -> tuple[int, int | None]:
    """Where the answer begins in the file, and the file's size."""
    length = response.headers.get("Content-Length")
    if response.status == http.client.PARTIAL_CONTENT:
        stated = response.headers.get("Content-Range", "")
        span, _, total = stated.removeprefix("bytes ").partition("/")
        start = span.partition("-")[0]
        if not start.isdigit() or int(start) > have:
            raise DownloadError(f"{response.url}: the server answers a range that was not asked for ({stated})")
        return int(start), int(total) if total.isdigit() else None
    return 0, int(length) if length is not None else None  # the server sends all of it again


def _append(response: Any, part: Path, start: int, total: int | None, progress: Progress) -> None:
    with part.open("r+b" if part.exists() else "wb") as file:
        file.truncate(start)
        file.seek(start)
        progress(start, total)
        while chunk := response.read1(_CHUNK):
            file.write(chunk)
            progress(file.tell(), total)


def _verify(wanted: Wanted, part: Path) -> None:
    """Compares size and sums with the published ones; what differs is removed."""
    size = part.stat().st_size
    wrong = f"{size:,} bytes, but {wanted.size:,} are published" if wanted.size not in (None, size) else ""
    for algorithm, expected in wanted.sums:
        with part.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != expected.lower():
            wrong = f"the {algorithm} sum {found}, but {expected} is published"
    if wrong:
        part.unlink()
        _state_file(part).unlink(missing_ok=True)
        raise DownloadError(f"{wanted.url} has {wrong}; what arrived is removed")


def _state_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _state(part: Path) -> dict[str, Any]:
    try:
        state = json.loads(_state_file(part).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _remember_version(part: Path, response: Any) -> None:
    """Notes the file's version for `If-Range`, for which a weak tag is of no use (RFC 9110, 13.1.5)."""
    tag = response.headers.get("ETag", "")
    version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    _state_file(part).write_text(json.dumps({"version": version}))
