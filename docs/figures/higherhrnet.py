"""What HigherHRNet learns of a synthetic picture: `python docs/figures/higherhrnet.py` draws it."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from hydra import compose, initialize_config_module

from pose_lab.methods.bottom_up_scene import tagged_maps
from pose_lab.methods.higherhrnet import STRIDE, Candidates, HigherHRNet, find, heatmaps
from pose_lab.ops.drawing import draw_poses
from pose_lab.runs import launcher, resolvers, search_path
from pose_lab.runs.train import LABELS, build

TARGET = Path(__file__).parents[1] / "images" / "higherhrnet.png"
CONFIG = ("method=higherhrnet", "data.image_size=256", "data.settings.width=256", "data.settings.height=256")
DATA = ("data.settings.train_images=8", "data.settings.val_images=8", "data.settings.people=[2,2]", "data.batch_size=8")
KEYPOINT, PICTURE = "left_knee", 1


def main() -> None:
    """Writes the figure."""
    for part in (resolvers, search_path, launcher):
        part.register()
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        cfg = compose("run", overrides=[*CONFIG, *DATA])
    data, method = build(cfg.data), build(cfg.method, LABELS)
    assert isinstance(method, HigherHRNet)
    data.prepare_data()
    data.setup()
    batch = next(iter(data.val_dataloader()))
    shown = batch.images[PICTURE].permute(1, 2, 0).numpy()
    people = batch.instances[batch.instances.image_index == PICTURE]
    people.image_index.zero_()
    frame = (shown.shape[0], shown.shape[1])
    kind = data.skeleton.keypoints.index(KEYPOINT)

    _, axes = plt.subplots(1, 4, figsize=(16, 4.2), constrained_layout=True)
    extent = (0, frame[1], frame[0], 0)
    for axis, stride in zip(axes, method.net.strides, strict=False):
        target = heatmaps(people, (1, frame[0] // stride, frame[1] // stride), stride, method.labels)
        _panel(axis, f"heatmaps at 1/{stride}", shown)
        axis.imshow(target[0].amax(0), extent=extent, alpha=0.6, cmap="magma")
    _, tags = tagged_maps(people.keypoints[..., :2], frame, (method.net.strides[-1], STRIDE), tags=1)
    _panel(axes[2], f"tags of the {KEYPOINT.replace('_', ' ')}", shown)
    axes[2].imshow(tags[0, kind, 0], extent=extent, alpha=0.6, cmap="coolwarm")
    found = find(Candidates(target, tags), frame, method.inference.kinds(data.skeleton), method.inference)
    keypoints = torch.cat([found.keypoints + 0.5, 2.0 * (found.keypoint_scores > 0)[..., None]], 2).numpy()
    _panel(axes[3], "people grouped by their tags", shown)
    axes[3].imshow(draw_poses(np.ascontiguousarray(shown), keypoints, data.skeleton, zoom=3), extent=extent)
    plt.savefig(TARGET, dpi=70)


def _panel(axis: plt.Axes, title: str, picture: np.ndarray) -> None:
    axis.set_title(title)
    axis.set_axis_off()
    axis.imshow(picture)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
