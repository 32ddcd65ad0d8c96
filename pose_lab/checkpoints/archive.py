"""Files of `torch.save`: where they keep the pickle and the numbers, and reading these without trusting the file.

Two formats. Zip (since torch 1.6): `<folder>/data.pkl` and one entry `<folder>/data/<key>` per storage, uncompressed.
Legacy: four pickles (a magic number, a version, the machine, the value), a pickle with the keys of the storages, and
behind it each storage's length and numbers. Nothing is unpacked to the disk, and only those numbers are read that a
tensor asks for, after it was checked that the file really holds them.
"""

from __future__ import annotations

import math
import struct
import sys
import zipfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from pose_lab.checkpoints.pickles import MAX_BYTES, MAX_SHOWN, Storage, TensorView, read_pickle, shown

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"
LOCAL_HEADER = 30  # bytes of an entry's header before its name
LENGTH_BYTES = 8  # of a legacy storage's length
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the legacy format


@dataclass(frozen=True)
class Extent:
    """Bytes of the file; `crc` where the format has one."""

    start: int
    size: int
    crc: int | None = None


@dataclass(frozen=True)
class TorchFile:
    """An opened file.

    Attributes:
        path: the file.
        format: `zip` or `legacy`.
        value: what was saved, see `read_pickle`.
        extents: where the numbers of each storage are.
    """

    path: Path
    format: str
    value: Any
    extents: dict[str, Extent]

    def read(self, view: TensorView) -> Tensor:
        """The tensor, in memory of its own.

        Raises:
            ValueError: the file does not hold the numbers that it says, or they are damaged.
        """
        storage = view.storage
        try:
            start, count = self._range(view)
            if not count:
                return torch.empty(view.shape, dtype=storage.dtype)
            content = self._bytes(start, count * storage.dtype.itemsize, self.extents[storage.key])
        except ValueError as error:
            raise ValueError(f"{self.path}, storage {shown(storage.key)!r}: {error}") from None
        return torch.frombuffer(content, dtype=storage.dtype).as_strided(view.shape, view.strides).contiguous()

    def _bytes(self, start: int, size: int, extent: Extent) -> bytearray:
        with open(self.path, "rb") as file:
            file.seek(start)
            content = bytearray(file.read(size))
        sums = (None, zlib.crc32(content)) if size == extent.size else (extent.crc,)  # of a part there is no checksum
        if len(content) < size or extent.crc not in sums:
            raise ValueError("its numbers are damaged: copy or download the file again")
        return content

    def _range(self, view: TensorView) -> tuple[int, int]:
        """At which byte of the file a tensor begins, and how many numbers of its storage it spans."""
        storage, count = view.storage, math.prod(view.shape)
        extent, size = self.extents.get(storage.key), storage.count * storage.dtype.itemsize
        if extent is None or extent.size < size:
            held = "nothing" if extent is None else f"{extent.size} bytes"
            raise ValueError(f"it should have {size} bytes, but the file holds {held}")
        steps = zip(view.shape, view.strides, strict=True)
        span = 1 + sum((size - 1) * stride for size, stride in steps) if count else 0
        what = f"a tensor of shape {view.shape} with strides {view.strides}"
        if view.offset + span > storage.count:
            raise ValueError(f"{what} at {view.offset} does not fit into its {storage.count} numbers")
        if count > span:
            raise ValueError(f"{what} repeats its numbers: a small file could fill the memory")
        return extent.start + view.offset * storage.dtype.itemsize, span


def open_torch_file(path: Path) -> TorchFile:
    """Reads what is in a file, without the numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no whole file of `torch.save`, or holds what weights do not need; the message says what.
    """
    with open(path, "rb") as file:
        start = file.read(len(ZIP_START))
        try:
            if start == ZIP_START:
                return _open_zip(path, file)
            if start.startswith(PICKLE_START):
                return _open_legacy(path, file)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, OverflowError, struct.error) as error:
            raise ValueError(f"{path} is truncated or damaged ({error}): copy or download it again") from None
        except ValueError as error:
            raise ValueError(f"{path} is not read: {error}") from None
        if not start:
            raise ValueError(f"{path} is empty: copy or download it again")
        file.seek(0)
        beginning = shown(file.read(MAX_SHOWN).decode("latin-1"))
    raise ValueError(f"{path} is no checkpoint of torch or safetensors; it begins with: {beginning}")


# ---------------------------------------------------------------------------------------------------------------------
# Zip
# ---------------------------------------------------------------------------------------------------------------------


def _open_zip(path: Path, file: IO[bytes]) -> TorchFile:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_entries(entries, file.seek(0, 2))
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"a zip archive with {len(pickles)} entries data.pkl; torch.save writes one")
        if pickles[0].file_size > MAX_BYTES:
            raise ValueError(f"entry data.pkl has {pickles[0].file_size} bytes, more than any weights need")
        folder = pickles[0].filename.removesuffix("data.pkl")
        _check_byte_order(archive, f"{folder}byteorder")
        value = read_pickle(BytesIO(archive.read(pickles[0])))
    prefix = f"{folder}data/"
    stored = [entry for entry in entries if entry.filename.startswith(prefix)]
    extents = {entry.filename.removeprefix(prefix): _extent(entry, file) for entry in stored}
    return TorchFile(path, "zip", value, extents)


def _check_entries(entries: list[zipfile.ZipInfo], file_size: int) -> None:
    """Refuses what `torch.save` never writes: compression, lying sizes, odd and repeated names."""
    names = set()
    for entry in entries:
        name = shown(entry.filename)
        if entry.filename.startswith("/") or ".." in entry.filename.split("/") or "\\" in entry.filename:
            raise ValueError(f"entry {name!r} has a name that leads out of the archive")
        if entry.filename in names:
            raise ValueError(f"entry {name!r} is there twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"entry {name!r} is compressed ({entry.compress_size} to {entry.file_size} bytes)")
        if entry.flag_bits & 1:
            raise ValueError(f"entry {name!r} is encrypted")
        names.add(entry.filename)
    declared = sum(entry.file_size for entry in entries)
    if declared > file_size:
        raise ValueError(f"its entries have {declared} bytes together, but the file has {file_size}")


def _check_byte_order(archive: zipfile.ZipFile, name: str) -> None:
    if name in archive.namelist():
        order = archive.open(name).read(MAX_SHOWN).decode("ascii", "replace")
        if order != sys.byteorder:
            raise ValueError(f"its numbers are {shown(order)}-endian, this machine's are {sys.byteorder}-endian")


def _extent(entry: zipfile.ZipInfo, file: IO[bytes]) -> Extent:
    """Where an entry's bytes are: its own header tells how long its name and its padding are."""
    file.seek(max(entry.header_offset, 0))
    header = file.read(LOCAL_HEADER)
    if len(header) < LOCAL_HEADER or not header.startswith(ZIP_START):
        raise ValueError(f"entry {shown(entry.filename)!r} is damaged")
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return Extent(entry.header_offset + LOCAL_HEADER + name + extra, entry.file_size, entry.CRC)


# ---------------------------------------------------------------------------------------------------------------------
# Legacy
# ---------------------------------------------------------------------------------------------------------------------


def _open_legacy(path: Path, file: IO[bytes]) -> TorchFile:
    file.seek(0)
    stream = BytesIO(file.read(MAX_BYTES))
    if read_pickle(stream) != MAGIC:
        raise ValueError("a pickle, but none of torch.save (its magic number is missing)")
    version, machine = read_pickle(stream), read_pickle(stream)
    if version != VERSION or not isinstance(machine, dict):
        raise ValueError("the legacy format in an unknown version")
    if machine.get("little_endian") is not (sys.byteorder == "little"):
        raise ValueError("its numbers have another byte order than this machine")
    storages: dict[str, Storage] = {}
    value, keys = read_pickle(stream, storages), read_pickle(stream)
    return TorchFile(path, "legacy", value, _legacy_extents(file, stream.tell(), keys, storages))


def _legacy_extents(file: IO[bytes], start: int, keys: Any, storages: dict[str, Storage]) -> dict[str, Extent]:
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("the list of its storages is damaged")
    end, extents = file.seek(0, 2), {}
    for key in keys:
        if key in extents or key not in storages:
            raise ValueError(f"storage {shown(key)!r} is there twice, or belongs to no tensor")
        file.seek(start)
        length = int.from_bytes(file.read(LENGTH_BYTES), "little", signed=True)
        size = length * storages[key].dtype.itemsize
        start += LENGTH_BYTES
        if length < 0 or start + size > end:
            raise ValueError(f"storage {shown(key)!r} should have {size} bytes, but the file ends {end - start} later")
        extents[key] = Extent(start, size)
        start += size
    return extents
