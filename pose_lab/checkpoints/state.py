"""From the value of a checkpoint to its named tensors: modules flattened as `state_dict` does, wrappers taken off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pose_lab.checkpoints.pickles import Module, TensorView, shown

MAX_DEPTH = 32  # of modules in modules
MAX_MODULES = 100_000  # visited; the largest published networks have a few thousand

# where weights are, best first: an average is better than the last weights
KEYS = ("ema", "model", "state_dict")
WRAPPERS = ("module.",)  # of names: torch's parallel modules
OWN = "pose_lab"  # key of this project's checkpoints, whose networks are called `net`
OWN_WRAPPER = "net."


def named_tensors(value: Any) -> dict[str, TensorView]:
    """The weights of a checkpoint under their published names.

    `ema` is taken where it is there and not None, else `model`, else `state_dict`, else the value itself: each a module
    or a dictionary of tensors.

    Raises:
        ValueError: there are no weights in it, or its modules do not end.
    """
    found = _weights(value)
    if not found:
        keys = list(value)[:10] if isinstance(value, dict) else [type(value).__name__]
        held = ", ".join(shown(str(key)) for key in keys)
        raise ValueError(f"it holds no weights under {', '.join(KEYS)} (it holds: {held})")
    if isinstance(value, dict) and OWN in value:
        return {name.removeprefix(OWN_WRAPPER): tensor for name, tensor in found.items()}
    for wrapper in WRAPPERS:
        while all(name.startswith(wrapper) for name in found):
            found = {name.removeprefix(wrapper): tensor for name, tensor in found.items()}
    return found


def _weights(value: Any) -> dict[str, TensorView]:
    candidates = [value.get(key) for key in KEYS] if isinstance(value, dict) else []
    for candidate in (*candidates, value):
        if isinstance(candidate, Module):
            return dict(_flattened(candidate))
        tensors = _tensors(candidate)
        if tensors:
            return tensors
    return {}


def _tensors(value: Any) -> dict[str, TensorView]:
    if not isinstance(value, dict):
        return {}
    return {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, TensorView)}


def _flattened(root: Module) -> Iterator[tuple[str, TensorView]]:
    """Parameters and persistent buffers of a module and of those in it, in the order of `state_dict`."""
    waiting, visited = [("", 0, root)], 0
    while waiting:
        prefix, depth, module = waiting.pop()
        visited += 1
        if depth > MAX_DEPTH or visited > MAX_MODULES:
            raise ValueError(f"its modules contain each other too often or too deep, at {shown(prefix)!r}")
        transient = module.attributes.get("_non_persistent_buffers_set", ())
        for name, tensor in _tensors(module.attributes.get("_parameters")).items():
            yield prefix + name, tensor
        for name, tensor in _tensors(module.attributes.get("_buffers")).items():
            if name not in transient:
                yield prefix + name, tensor
        children = _children(module.attributes.get("_modules"))
        waiting += [(f"{prefix}{name}.", depth + 1, child) for name, child in reversed(list(children.items()))]


def _children(value: Any) -> Mapping[str, Module]:
    if not isinstance(value, dict):
        return {}
    return {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, Module)}
