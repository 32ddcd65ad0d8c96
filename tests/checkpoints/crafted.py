"""Checkpoint files made for the tests: as the published training scripts write them, and hostile ones."""

import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from pose_lab.nets import csp
from pose_lab.nets.csp import CSPPose
from tests.methods.kapao_cases import net

BLOCKS = (csp.Conv, csp.Bottleneck, csp.C3, csp.SPP, csp.Focus, csp.Concat)


class Model(nn.Module):
    """The published wrapper of the blocks."""

    def __init__(self, network: CSPPose):
        super().__init__()
        self.model = network.model
        self.names = ["person"]


@contextmanager
def published_names() -> Iterator[None]:
    """Within, our classes are pickled under the published ones' names."""
    rooms: dict[str, tuple[type, ...]] = {"models.common": BLOCKS, "models.yolo": (Model, csp.Head)}
    before = {kind: kind.__module__ for kinds in rooms.values() for kind in kinds}
    sys.modules["models"] = ModuleType("models")
    for room, kinds in rooms.items():
        sys.modules[room] = ModuleType(room)
        for kind in kinds:
            kind.__module__ = room
            setattr(sys.modules[room], kind.__name__, kind)
    try:
        yield
    finally:
        for name in ("models", *rooms):
            del sys.modules[name]
        for kind, room in before.items():
            kind.__module__ = room


def save_published(path: Path, content: dict[str, Any], **options: Any) -> Path:
    """Saves a dictionary in which networks of ours stand as published modules."""
    wrapped = {key: Model(value) if isinstance(value, CSPPose) else value for key, value in content.items()}
    with published_names():
        torch.save(wrapped, path, **options)
    return path


def tiny_net(num_keypoints: int = 17, seed: int = 0, **changes: Any) -> CSPPose:
    """KAPAO's published layout, as narrow and shallow as it gets."""
    torch.manual_seed(seed)
    return net(num_keypoints, 0.0625, 0.1, **changes)


def archive(path: Path, pickle: bytes, entries: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A zip file with a pickle in it, as torch.save lays them out."""
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", pickle)
        for name, content in (entries or {}).items():
            file.writestr(name, content)
    return path


def text(value: str) -> bytes:
    """The opcode that pushes a string."""
    content = value.encode()
    return b"X" + len(content).to_bytes(4, "little") + content


def number(value: int) -> bytes:
    """The opcode that pushes a whole number below 2**2040."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def name(module: str, attribute: str) -> bytes:
    """The opcode that names a class or function."""
    return f"c{module}\n{attribute}\n".encode()


def sizes(*values: int) -> bytes:
    """A tuple of numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str, count: int, kind: str = "FloatStorage") -> bytes:
    """The reference to a storage."""
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cuda:0") + number(count) + b"tQ"


def tensor(numbers: bytes, offset: int, shape: bytes, strides: bytes) -> bytes:
    """The call that makes a tensor."""
    call = name("torch._utils", "_rebuild_tensor_v2")
    return call + b"(" + numbers + number(offset) + shape + strides + b"\x89" + b"}" + b"tR"


def state_dict(**values: bytes) -> bytes:
    """A whole pickle of a dictionary."""
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in values.items()) + b"u."
