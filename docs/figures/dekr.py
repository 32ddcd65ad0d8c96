"""What DEKR learns of a synthetic picture: `python docs/figures/dekr.py` draws `docs/images/dekr.png`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from hydra import compose, initialize_config_module

from pose_lab.methods.dekr import STRIDE, Dekr, heatmaps, joints, offsets
from pose_lab.ops.drawing import draw_poses
from pose_lab.runs import launcher, resolvers, search_path
from pose_lab.runs.train import LABELS, build

TARGET = Path(__file__).parents[1] / "images" / "dekr.png"
CONFIG = ("method=dekr", "data.image_size=256", "data.settings.width=256", "data.settings.height=256")
DATA = ("data.settings.train_images=8", "data.settings.val_images=8", "data.settings.people=[2,2]", "data.batch_size=8")
KEYPOINT, PICTURE = "left_ankle", 1


def main() -> None:
    """Writes the figure."""
    for part in (resolvers, search_path, launcher):
        part.register()
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        cfg = compose("run", overrides=[*CONFIG, *DATA])
    data, method = build(cfg.data), build(cfg.method, LABELS)
    assert isinstance(method, Dekr)
    data.prepare_data()
    data.setup()
    batch = next(iter(data.val_dataloader()))
    shown = batch.images[PICTURE].permute(1, 2, 0).numpy()
    shape = (len(batch), *(side // STRIDE for side in shown.shape[:2]))
    people = joints(batch.instances, batch.to_input, method.labels)
    centres = heatmaps(people, shape, method.labels)[PICTURE, -1]
    target = offsets(people, shape, method.labels)

    _, axes = plt.subplots(1, 3, figsize=(12, 4.2), constrained_layout=True)
    titles = ("centre map", f"offsets of {KEYPOINT.replace('_', ' ')}", "poses")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)
        axis.set_axis_off()
        axis.imshow(shown)
    extent = (0, shown.shape[1], shown.shape[0], 0)
    axes[0].imshow(centres, extent=extent, alpha=0.6, cmap="magma")

    kind = data.skeleton.keypoints.index(KEYPOINT)
    rows = people.image_index == PICTURE
    learnt = target.weights[rows, kind, :, 0] > 0
    places = target.index[rows, kind][learnt] % (shape[1] * shape[2])
    start = torch.stack([places % shape[2], places // shape[2]], -1) * STRIDE + 0.5
    arrow = -target.values[rows, kind][learnt] * STRIDE
    axes[1].quiver(*start.T, *arrow.T, color="orange", angles="xy", scale_units="xy", scale=1, width=0.003)

    keypoints = batch.instances.keypoints[batch.instances.image_index == PICTURE].numpy()
    axes[2].imshow(draw_poses(np.ascontiguousarray(shown), keypoints, data.skeleton, zoom=3), extent=extent)
    plt.savefig(TARGET, dpi=80)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
