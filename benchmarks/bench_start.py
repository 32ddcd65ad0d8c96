"""How long a person waits: for `--help`, and from the command to the first training step."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUN = [sys.executable, "-m", "pose_lab.run"]
SMALL = ["data.settings.train_images=64", "data.settings.val_images=8", "logger.mode=offline", "training.epochs=1"]


def measure() -> list[dict[str, Any]]:
    """Wall seconds; the data set is made before the second measurement."""
    with tempfile.TemporaryDirectory() as folder:
        where = [f"results={folder}/results", f"machine.cache={folder}/cache"]
        help_seconds = min(_seconds([*RUN, "--help"]) for _ in range(3))
        first = _first_step([*RUN, *SMALL, *where], Path(folder))
        again = _seconds([*RUN, *SMALL, *where])
    return [
        {"what": "python -m pose_lab.run --help", "value": help_seconds, "unit": "s", "target": "< 3"},
        {"what": "command to first training step", "value": first, "unit": "s", "target": "< 15"},
        {"what": "a finished run started again", "value": again, "unit": "s", "target": ""},
    ]


def _seconds(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def _first_step(command: list[str], folder: Path) -> float:
    """Until progress.json tells of a step; the data set of 72 pictures is drawn within this time."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        for path in folder.glob("results/*/*/*/progress.json"):
            if json.loads(path.read_text()).get("step"):
                seconds = time.monotonic() - began
                process.wait()
                return seconds
        time.sleep(0.05)
    raise RuntimeError(f"the run ended with {process.returncode} before its first step")


if __name__ == "__main__":
    for row in measure():
        print(row)
