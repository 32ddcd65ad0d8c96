"""`python -m pose_lab.checkpoints.convert IN OUT.safetensors`: published weights as a plain file that every tool reads.

IN is any file that `checkpoint=` takes. Tensors keep their published names and the type that they are stored in
(float16 in most published files); what training left beside the weights is dropped. The metadata say whose weights
these are, their keypoints, the numbers of the network (of KAPAO; anchors in pixels) or its HRNet, and SHA-256 of IN.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from pose_lab.checkpoints import hrnet, kapao
from pose_lab.checkpoints.reading import TRAINED_BY, Weights, content_hash, open_weights
from pose_lab.checkpoints.state import OWN
from pose_lab.errors import complain

SUFFIX = ".safetensors"
# by method on HRNet: the tensor of its heatmap head, and the number of keypoints from the number of its outputs
HEADS = {
    "DEKR": ("head_heatmap.1.weight", lambda outputs: outputs - 1),  # one is the centre's
    "HigherHRNet": ("final_layers.0.weight", lambda outputs: outputs // 2),  # half are tags
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Converts a file; ends with status 1 and one line if it cannot."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    try:
        if len(arguments) != 2:
            raise ValueError(f"give two files, IN and OUT{SUFFIX}; {len(arguments)} were given")
        print(convert(*map(Path, arguments)))
    except (OSError, ValueError) as error:
        complain(error)
        sys.exit(1)


def convert(source: Path, target: Path) -> str:
    """Writes the weights of `source` to `target`, whole or not at all; returns what was written, in words.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: `source` is no checkpoint that is known here, or `target` is not named `.safetensors`.
    """
    if target.suffix != SUFFIX:
        raise ValueError(f"{target}: the second file's name must end in {SUFFIX}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no folder {target.parent}")
    weights = open_weights(source)
    described = metadata(weights)
    tensors = _read(weights)
    with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as folder:
        temporary = Path(folder) / target.name
        temporary.write_bytes(save(tensors, described))
        temporary.replace(target)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    keypoints = f", {described['keypoints']} keypoints" if "keypoints" in described else ""
    return f"{target}: {described['method']}{keypoints}, {len(tensors)} tensors, {numbers:,} numbers"


def metadata(weights: Weights) -> dict[str, str]:
    """What a converted file says about itself; lists as JSON.

    Raises:
        ValueError: the weights are of no architecture that is known here.
    """
    on_hrnet = any(name.startswith("stage2.") for name in weights.tensors)
    method, keypoints, found = _on_hrnet(weights) if on_hrnet else _kapao(weights)
    of_method = {"method": method} if keypoints is None else {"method": method, "keypoints": str(keypoints)}
    source = {"source_format": weights.format, "source_sha256": content_hash(weights.path)}
    source |= {TRAINED_BY: OWN} if weights.own else {}
    return of_method | {name: json.dumps(value) for name, value in found.items()} | source


def _kapao(weights: Weights) -> tuple[str, int | None, dict[str, Any]]:
    found = asdict(kapao.architecture(weights))
    keypoints = found.pop("num_keypoints")
    return "YOLOv5 detector" if keypoints is None else "KAPAO", keypoints, found


def _on_hrnet(weights: Weights) -> tuple[str, int | None, dict[str, Any]]:
    found = hrnet.architecture(weights)
    for method, (head, keypoints) in HEADS.items():
        if head in weights.tensors and weights.tensors[head].shape:
            return method, keypoints(weights.tensors[head].shape[0]), found
    if hrnet.is_trunk(weights):
        return "HRNet", None, found
    raise ValueError(f"{weights.path} has the trunk of an HRNet, but the head of no method that is known here")


def _read(weights: Weights) -> dict[str, Tensor]:
    """All tensors in memory, which cannot be more than the file."""
    left = weights.path.stat().st_size
    tensors = {}
    for name, stored in weights.tensors.items():
        tensors[name] = stored.read()
        left -= tensors[name].nbytes
        if left < 0:
            raise ValueError(f"{weights.path}: its tensors share numbers, which no known weights do")
    return tensors


if __name__ == "__main__":
    main()
