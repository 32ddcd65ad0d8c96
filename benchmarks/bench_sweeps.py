"""A finished sweep started again, and a sweep of 1,000 finished runs: its status, its report, its files.

The runs are fakes with the configs and the files of real ones; `docs/scaling.md` says what follows for shared disks.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from pose_lab.compare import sweep_folder
from pose_lab.runs import code
from pose_lab.runs.files import write_json, write_table
from pose_lab.runs.folder import RunFolder
from pose_lab.runs.report import PLAN

BOXES, SEEDS = (0.01, 0.025, 0.05, 0.075, 0.1), range(200)
EPOCHS = 6
REPEATS = 3
PROGRAM = "benchmarks.bench_sweeps"
EXPERIMENT = "experiment=kapao_bs_sweep"
SMALL = ("data.settings.train_images=16", "data.settings.val_images=4", "logger.mode=offline")


def measure() -> list[dict[str, Any]]:
    """Wall and CPU seconds, the best of three; and how many files a snapshot of the code has."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        places = [f"results={folder}/results", f"machine.cache={folder}/cache"]
        again = [sys.executable, "-m", "pose_lab.run", EXPERIMENT, *SMALL, *places]
        subprocess.run([*again, f"hydra.launcher.program={PROGRAM}"], check=True, stdout=subprocess.DEVNULL)
        rows.append(_timed("a finished sweep of 5 runs started again", again, 15))
    with tempfile.TemporaryDirectory() as folder:
        sweep = _thousand_runs(Path(folder))
        for name in ("sweep status", "compare"):
            command = [sys.executable, "-m", *f"pose_lab.{name}".split(), str(sweep)]
            rows.append(_timed(f"python -m pose_lab.{name} FOLDER, 1,000 runs", command, 5))
        snapshot, _ = code.snapshot(Path(folder))
        files = sum(path.is_file() for path in snapshot.rglob("*"))
        rows.append({"what": "a snapshot of the code", "value": files, "unit": "files", "target": ""})
    return rows


def finish(folder: RunFolder, number: int = 0) -> None:
    """Makes a run a finished one, with numbers."""
    score = 0.2 + (number * 7919 % 1000) / 10000
    with folder.training():
        table = [{"epoch": epoch, "train/loss": 1 / epoch, "val/AP": score / epoch} for epoch in range(1, EPOCHS + 1)]
        write_table(folder.history, table)
        metrics = dict.fromkeys(("AP", "AP50", "AP75", "APM", "APL", "AR"), score)
        folder.write_metrics({**metrics, "seconds": 60.0, "device": "none", "pose_lab": "0", "torch": "0"})
    code.origin().write(folder.path)


def _thousand_runs(results: Path) -> Path:
    """The folder of a sweep; configs are made once for each box, as only the seed differs."""
    runs = []
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        configs = {box: _config(results, box) for box in BOXES}
    folder = sweep_folder(configs[BOXES[0]])
    texts = {}
    for box, cfg in configs.items():
        model = RunFolder(results / f"model-{box}")
        model.write_config(cfg)
        texts[box] = (model.path / "config.yaml").read_text()
    for number, (box, seed) in enumerate(product(BOXES, SEEDS)):
        run = RunFolder(folder / f"keypoint_box-{box}-seed-{seed}-{number:08x}")
        run.path.mkdir(parents=True)
        (run.path / "config.yaml").write_text(texts[box].replace("seed: 0\n", f"seed: {seed}\n"))
        finish(run, number)
        runs.append({"folder": run.name, "command": []})
    write_json(folder / PLAN, {"started": time.time(), "runs": runs})
    return folder


def _config(results: Path, box: float) -> DictConfig:
    return compose("run", overrides=[EXPERIMENT, f"method.labels.keypoint_box={box}", f"results={results}"])


def _timed(what: str, command: list[str], target: float) -> dict[str, Any]:
    """The fastest of some starts."""
    measured = []
    for _ in range(REPEATS):
        began, used = time.monotonic(), _cpu()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        measured.append((time.monotonic() - began, _cpu() - used))
    wall, cpu = min(measured)
    return {"what": what, "value": round(wall, 2), "unit": "s", "target": f"< {target:g}", "CPU": round(cpu, 2)}


def _cpu() -> float:
    """Seconds that ended children have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    own = [argument for argument in sys.argv if argument.startswith("hydra.run.dir=")]
    if own:  # started as the program of a sweep: a run that is finished at once
        finish(RunFolder(own[0].partition("=")[2].strip("'")))
    else:
        for line in measure():
            print(line)
