"""Pickles of weights as plain data: a machine that walks the opcodes and never imports, calls or builds what they name.

`torch.save` writes a pickle that names classes and functions. Python's own reader imports and runs them, so a file can
do anything. Here a name is only a name: the few that build containers and tensors have a meaning below, classes of
network modules become a `Module` (a dictionary of attributes), other harmless values an `Opaque`, and every other name
is refused. The opcodes are those that `pickle` writes for such data at protocols 2 to 4.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NoReturn, cast

import torch

MAX_BYTES = 32 * 2**20  # of one pickle; the largest published ones have about 1 MB
MAX_OPCODES = 2_000_000  # ten times those of the largest published ones; bounds time and memory
MAX_SHOWN = 80  # characters of a name in a message
MAX_DIMENSIONS = 16
MAX_WHOLE = 2**60 - 1  # of keys, sizes and strides

STORAGES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
BUILTINS = ("builtins", "__builtin__")  # of Python 3 and of Python 2, whose names protocol 2 uses
MODULES = ("models.common.", "models.experimental.", "models.yolo.", "torch.nn.modules.", "torch.nn.parallel.")
HARMLESS = frozenset(  # values beside the weights: options, scores, arrays; what they hold is not looked at
    [
        "_codecs.encode",
        "argparse.Namespace",
        *(f"numpy{core}.multiarray.{name}" for core in (".core", "._core") for name in ("_reconstruct", "scalar")),
        "numpy.dtype",
        "numpy.ndarray",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.WindowsPath",
        "torch.Size",
        "torch.device",
        *(f"torch.{name}" for name in ("bfloat16", "float16", "float32", "float64", "int32", "int64", "uint8", "bool")),
        *(f"{room}.{name}" for room in BUILTINS for name in ("bool", "dict", "float", "int", "list")),
    ]
)


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names."""

    full: str


@dataclass
class Module:
    """An object of a network's class: its class and its attributes."""

    kind: str
    attributes: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Opaque:
    """Some other harmless object."""

    kind: str


@dataclass(frozen=True)
class Storage:
    """A stretch of numbers outside the pickle: its key there, their type, and how many the pickle says there are."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class TensorView:
    """Where in a storage a tensor's numbers are; `offset` and `strides` count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pickle(stream: BytesIO, storages: dict[str, Storage] | None = None) -> Any:
    """The value of the pickle at the stream's position, which is then behind it.

    Args:
        stream: the pickle, and perhaps more.
        storages: is filled with the storages that the pickle refers to, by key.

    Returns:
        Numbers, strings, bytes, None, lists, tuples, sets and dictionaries of these, `Module`, `Opaque`, `TensorView`.

    Raises:
        ValueError: it is no whole pickle, or holds an opcode or a name that pickles of weights do not hold.
    """
    return _Machine(stream, {} if storages is None else storages).run()


class _Machine:
    """The stack, its marks and the memo of one pickle."""

    def __init__(self, stream: BytesIO, storages: dict[str, Storage]) -> None:
        self.stream = stream
        self.storages = storages
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}
        self.opcode, self.position = "", 0

    def run(self) -> Any:
        try:
            for count, (opcode, argument, position) in enumerate(pickletools.genops(self.stream)):
                self.opcode, self.position = opcode.name, cast(int, position)
                if count == MAX_OPCODES:
                    self.refuse(f"more than {MAX_OPCODES} opcodes")
                if opcode.name == "STOP":
                    break
                action = _ACTIONS.get(opcode.name)
                if action is None:
                    self.refuse("an opcode that pickles of weights do not have")
                action(self, argument)
            return self.pop()
        except _RefusedError:
            raise
        except IndexError:
            self.refuse("takes more from the stack than is there")
        except (ValueError, EOFError, OverflowError, struct.error) as error:
            # of pickletools: an unknown opcode, or the end before STOP
            raise ValueError(f"the pickle is damaged or none: {shown(str(error))}") from None

    def refuse(self, what: str) -> NoReturn:
        raise _RefusedError(f"opcode {self.opcode} at byte {self.position} of the pickle: {what}")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_last(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """What lies above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            self.refuse(f"takes number {index} from the memo, where nothing is")
        self.push(self.memo[index])

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def add(self, items: list[Any]) -> None:
        self.top(set).update(self.key(item) for item in items)

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            self.refuse("a key without a value")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.key(key)] = value

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            self.refuse(f"fills a {_kind(self.stack[-1])} as if it were a {kind.__name__}")
        return self.stack[-1]

    def key(self, key: Any) -> Any:
        # a deeply nested tuple would overflow the interpreter's stack; large whole numbers can share one hash
        if not isinstance(key, str | bytes | None) and not (isinstance(key, int) and abs(key) <= MAX_WHOLE):
            self.refuse(f"a {_kind(key)} as a key")
        return key

    def name(self, module: Any, attribute: Any) -> None:
        full = f"{module}.{attribute}" if isinstance(module, str) and isinstance(attribute, str) else ""
        if not (full in _CALLS or full in HARMLESS or full in STORAGES or full.startswith(MODULES)):
            self.refuse(f"names {shown(full)}, which is no part of published weights; nothing was imported or run")
        self.push(Name(full))

    def new_object(self) -> None:
        name, arguments = self.pop_last(2)
        if isinstance(name, Name) and name.full.startswith(MODULES):
            self.push(Module(name.full))
        else:
            self.call(name, arguments)

    def call(self, name: Any, arguments: Any) -> None:
        full = name.full if isinstance(name, Name) else ""
        build = _CALLS.get(full)
        if not isinstance(arguments, tuple) or (build is None and full not in HARMLESS):
            self.refuse(f"calls a {_kind(name)}; nothing was imported or run")
        if build is None:
            self.push(Opaque(full))
            return
        try:
            self.push(build(*arguments))
        except (TypeError, ValueError) as error:
            self.refuse(f"{full}: {shown(str(error))}")

    def build(self) -> None:
        target, state = self.stack[-2], self.pop()
        if isinstance(target, Module) and isinstance(state, dict):
            target.attributes.update(state)
        elif not isinstance(target, Opaque | dict):  # attributes of ordered dictionaries say nothing about the weights
            self.refuse(f"gives a {_kind(state)} as attributes to a {_kind(target)}")

    def persistent(self) -> None:
        match self.pop():
            case ("storage", Name(full), str(key), str(), int(count), *views) if full in STORAGES and not any(views):
                self.storages[key] = Storage(key, STORAGES[full], count)
                self.push(self.storages[key])
            case ("module", Name() as kind, *_):  # legacy: the class of a module, with its source code
                self.push(kind)
            case _:
                self.refuse("a reference to something outside the pickle that is no storage of numbers")


class _RefusedError(ValueError):
    """The pickle holds what it must not hold."""


def shown(text: str) -> str:
    """Text from a file as a message may show it: short, without control characters."""
    plain = text[: MAX_SHOWN + 1].encode("unicode_escape").decode()
    return plain if len(plain) <= MAX_SHOWN else f"{plain[:MAX_SHOWN]}..."


def _kind(value: Any) -> str:
    return shown(value.full if isinstance(value, Name) else type(value).__name__)


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any = None, hooks: Any = None, meta: Any = None
) -> TensorView:
    """`torch._utils._rebuild_tensor_v2`; that the numbers are really there is checked when they are read."""
    if not isinstance(storage, Storage):
        raise ValueError(f"a tensor of a {_kind(storage)}")
    for sizes in (shape, strides, (offset,)):
        whole = isinstance(sizes, tuple) and len(sizes) <= MAX_DIMENSIONS
        if not (whole and all(type(size) is int and 0 <= size <= MAX_WHOLE for size in sizes)):
            raise ValueError("shape, strides and offset must be few whole numbers, none negative or huge")
    if len(shape) != len(strides):
        raise ValueError(f"{len(shape)} dimensions with {len(strides)} strides")
    return TensorView(storage, offset, shape, strides)


def _parameter(tensor: Any, requires_grad: Any = None, hooks: Any = None, state: Any = None) -> TensorView:
    """`torch._utils._rebuild_parameter`, also with the parameter's attributes."""
    if not isinstance(tensor, TensorView):
        raise ValueError(f"a parameter of a {_kind(tensor)}")
    return tensor


def _ordered(items: Any = ()) -> dict[Any, Any]:
    """`collections.OrderedDict`; old versions of Python give the items at once."""
    if items:
        raise ValueError("a dictionary that is filled as it is made")
    return {}


def _default(factory: Any = None) -> dict[Any, Any]:
    """`collections.defaultdict`."""
    return {}


def _set(items: Any = ()) -> set[Any]:
    """`set` and `frozenset` of names and numbers."""
    if not (isinstance(items, list | tuple) and all(isinstance(item, str | int) for item in items)):
        raise ValueError("a set of something else than names and numbers")
    return set(items)


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _default,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    **{f"{room}.{name}": _set for room in BUILTINS for name in ("set", "frozenset")},
}

_Action = Callable[[_Machine, Any], None]


def _simple(action: Callable[[_Machine], None]) -> _Action:
    """An opcode without an argument."""
    return lambda machine, _: action(machine)


def _push_new(make: Callable[[], Any]) -> _Action:
    return lambda machine, _: machine.push(make())


_ACTIONS: dict[str, _Action] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"), _Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _Machine.push),
    "NONE": _push_new(lambda: None),
    "NEWTRUE": _push_new(lambda: True),
    "NEWFALSE": _push_new(lambda: False),
    "EMPTY_TUPLE": _push_new(tuple),
    "EMPTY_LIST": _push_new(list),
    "EMPTY_DICT": _push_new(dict),
    "EMPTY_SET": _push_new(set),
    "MARK": _simple(_Machine.mark),
    "TUPLE": _simple(lambda machine: machine.push(tuple(machine.pop_mark()))),
    "TUPLE1": _simple(lambda machine: machine.push(tuple(machine.pop_last(1)))),
    "TUPLE2": _simple(lambda machine: machine.push(tuple(machine.pop_last(2)))),
    "TUPLE3": _simple(lambda machine: machine.push(tuple(machine.pop_last(3)))),
    "APPEND": _simple(lambda machine: machine.extend(machine.pop_last(1))),
    "APPENDS": _simple(lambda machine: machine.extend(machine.pop_mark())),
    "SETITEM": _simple(lambda machine: machine.set_items(machine.pop_last(2))),
    "SETITEMS": _simple(lambda machine: machine.set_items(machine.pop_mark())),
    "ADDITEMS": _simple(lambda machine: machine.add(machine.pop_mark())),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _simple(lambda machine: machine.put(len(machine.memo))),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": lambda machine, names: machine.name(*names.split(" ", 1)),  # pickletools joins its two lines
    "STACK_GLOBAL": _simple(lambda machine: machine.name(*machine.pop_last(2))),
    "NEWOBJ": _simple(_Machine.new_object),
    "REDUCE": _simple(lambda machine: machine.call(*machine.pop_last(2))),
    "BUILD": _simple(_Machine.build),
    "BINPERSID": _simple(_Machine.persistent),
}
