"""The layouts of annotation files, each a function `(path, rules) -> Content` that raises ValueError on other files.

All give records in COCO's manner (`pose_lab/data/records.py`), whose checks and arrays are shared. Keypoints stay in
the coordinates of the file; boxes are continuous.
"""

from collections.abc import Callable
from pathlib import Path

from pose_lab.data.layouts import aic, coco, flic, lsp, mpii, poses3d
from pose_lab.data.records import Content
from pose_lab.data.rules import ReadingRules

LAYOUTS: dict[str, Callable[[Path, ReadingRules], Content]] = {
    "coco": coco.read,
    "wholebody": coco.read_wholebody,
    "video": coco.read_video,
    "mpii": mpii.read,
    "lsp": lsp.read,
    "flic": flic.read,
    "aic": aic.read,
    "poses3d": poses3d.read,
}
