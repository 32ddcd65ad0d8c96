"""Opening a checkpoint of any format: names and shapes at once, numbers when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pose_lab.checkpoints.archive import open_torch_file
from pose_lab.checkpoints.state import OWN, named_tensors

TRAINED_BY = "trained_by"  # key of a converted file's metadata
JSON_AT = 8  # safetensors: eight bytes of length, then a JSON object


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file; `read` loads it."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint.

    Attributes:
        path: the file.
        format: `zip` or `legacy` (torch), `safetensors`.
        tensors: by published name.
        own: whether this project trained them.
    """

    path: Path
    format: str
    tensors: Mapping[str, StoredTensor]
    own: bool


def open_weights(path: Path) -> Weights:
    """Opens a checkpoint: torch's formats or safetensors, told apart by their content.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: it is no checkpoint, is damaged, or holds something that weights do not need; the message says what.
    """
    with open(path, "rb") as file:
        if file.read(JSON_AT + 1)[JSON_AT:] == b"{":
            return _safetensors(path)
    opened = open_torch_file(path)
    try:
        views = named_tensors(opened.value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    tensors = {name: StoredTensor(view.shape, partial(opened.read, view)) for name, view in views.items()}
    return Weights(path, opened.format, tensors, own=isinstance(opened.value, dict) and OWN in opened.value)


def content_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _safetensors(path: Path) -> Weights:
    try:
        file = safe_open(path, "pt")  # stays open as long as its tensors can be asked for
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}): copy or download it again") from None
    tensors = {name: StoredTensor(shape, partial(file.get_tensor, name)) for name, shape in shapes.items()}
    return Weights(path, "safetensors", tensors, own=(file.metadata() or {}).get(TRAINED_BY) == OWN)
