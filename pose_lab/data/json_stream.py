"""The elements of a JSON list, one at a time: a file of any size is read in the memory of its largest element."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

import rich.progress
from rich.console import Console

CHUNK = 1 << 20  # characters that are read at once
LONG = 1 << 26  # bytes from which a file's progress is shown on a terminal
LARGEST = 1 << 24  # characters that one element may have
_SPACE = " \t\r\n"
_IN_NUMBERS = ".eE"  # where the parser stops if the rest of a number is missing
_LONGEST_TOKEN = 16  # characters, of those that are no strings
_decoder = json.JSONDecoder()


def list_elements(path: Path, expected: str) -> Iterator[Any]:
    """The elements of the list that a file holds, in order; `expected` says in messages what that list should be.

    Raises:
        ValueError: if the file is cut off, is not JSON, or holds something else than a list; the message has the
            element's index.
    """
    with _opened(path) as file:
        try:
            yield from _Reader(path, file, expected).elements()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None


def _opened(path: Path) -> AbstractContextManager[TextIO]:
    """The file's text; of a long file the progress is shown while it is read, if a person looks on."""
    console = Console(stderr=True)
    quiet = not console.is_terminal or path.stat().st_size < LONG
    return rich.progress.open(
        path, "r", encoding="utf-8-sig", description=path.name, console=console, transient=True, disable=quiet
    )


class _Reader:
    """A window on the file's text, `position` is in it; what lies before is forgotten."""

    def __init__(self, path: Path, file: TextIO, expected: str) -> None:
        self.path, self.file, self.expected = path, file, expected
        self.text, self.position = "", 0
        self.index = 0
        self.ended = False

    def elements(self) -> Iterator[Any]:
        if self._next() != "[":
            raise ValueError(f"{self.path} {self._instead()}")
        self.position += 1
        if self._next() == "]":
            self.position += 1
        else:
            yield self._element()
            while self._separator() == ",":
                self.index += 1
                self._next()
                yield self._element()
        if self._next():
            raise ValueError(f"{self.path} goes on after the end of its list (after {self.index + 1} elements)")

    def _instead(self) -> str:
        kind = {"{": "holds an object", '"': "holds text", "": "is empty"}.get(self._next()) or self._single()
        return f"{kind}, expected {self.expected}"

    def _single(self) -> str:
        try:
            value = json.loads(self.text[self.position :])
        except (ValueError, RecursionError):
            return "is cut off or not JSON"
        return "holds null" if value is None else "holds true or false" if isinstance(value, bool) else "holds a number"

    def _separator(self) -> str:
        found = self._next()
        if found not in (",", "]") or not found:
            raise ValueError(f"{self.path} is cut off or not JSON after record {self.index}")
        self.position += 1
        return found

    def _next(self) -> str:
        """The next character that is no space, without passing it; empty at the end."""
        while True:
            while self.position < len(self.text):
                if self.text[self.position] not in _SPACE:
                    return self.text[self.position]
                self.position += 1
            if not self._more():
                return ""

    def _element(self) -> Any:
        while True:
            try:
                value, end = _decoder.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                self._read_on(error)
                continue
            except (ValueError, RecursionError) as error:
                raise self._fault(str(error)) from None
            if (end == len(self.text) or self.text[end] in _IN_NUMBERS) and self._more():
                continue  # a number may go on in the next chunk
            self.position = end
            return value

    def _read_on(self, error: json.JSONDecodeError) -> None:
        """Reads more if the error may come from the window's end."""
        at_the_end = error.msg.startswith("Unterminated") or error.pos > len(self.text) - _LONGEST_TOKEN
        if not at_the_end:
            raise self._fault(error.msg)
        if len(self.text) - self.position > LARGEST:
            raise ValueError(f"{self.path}: record {self.index} has more than {LARGEST} characters")
        if not self._more():
            raise self._fault(error.msg)

    def _fault(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is cut off or not JSON in record {self.index}: {what}")

    def _more(self) -> bool:
        """Reads on; whether there was anything."""
        size = max(CHUNK, len(self.text) - self.position)  # doubling keeps a long element's repeated parsing linear
        chunk = "" if self.ended else self.file.read(size)
        self.ended = not chunk
        self.text, self.position = self.text[self.position :] + chunk, 0
        return bool(chunk)
