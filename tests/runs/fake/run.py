"""A program like `pose_lab.run` whose runs take a moment and end as they are told."""

import os
import signal
import sys
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

from pose_lab.runs import launcher, slurm_launcher
from pose_lab.runs.errors import run_command
from pose_lab.runs.folder import InterruptedRun, RunFolder
from pose_lab.runs.identity import run_folder
from pose_lab.runs.slurm_job import requeued

launcher.register()
slurm_launcher.register()


def fingerprint(cfg: DictConfig) -> str:
    if cfg.data.root is not None:
        raise FileNotFoundError(f"data.root={cfg.data.root} is no data set")
    return "synth"


def is_decided(cfg: DictConfig) -> bool:
    return cfg.data.root is None


def prepare(cfg: DictConfig) -> str:
    return f"{cfg.data.name}: no pictures at all"


def device(_: DictConfig) -> str:
    return "no device"


def logs(_: DictConfig) -> str:
    return "W&B: never"


@hydra.main(version_base="1.3", config_path=".", config_name="fake")
def main(cfg: DictConfig) -> None:
    folder = RunFolder(run_folder(cfg, fingerprint(cfg)))
    if cfg.method.box in cfg.machine.lost_ranks and os.environ.get("SLURM_PROCID", "0") != "0":
        sys.exit(3)
    stubborn = cfg.method.box in cfg.machine.stubborn
    signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: sys.exit(143))
    while cfg.method.box in cfg.machine.late:
        print("not yet", flush=True)
        time.sleep(0.02)
    try:
        with requeued(), folder.training():
            folder.write_config(cfg)
            train(cfg, folder)
    except InterruptedRun:
        sys.exit(130)


def train(cfg: DictConfig, folder: RunFolder) -> None:
    with open(folder.path / "starts.txt", "a") as starts:
        starts.write(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    print("training\x1b[32m with colours")
    done = folder.path / "checkpoint.txt"
    for epoch in range(int(done.read_text()) if done.exists() else 0, cfg.machine.epochs):
        time.sleep(cfg.machine.sleep)
        with open(folder.history, "a") as table:
            table.write(("epoch,loss,AP\n" if epoch == 0 else "") + f"{epoch + 1},{1 / (epoch + 1)},{epoch / 10}\n")
        where = {"epoch": epoch, "epochs": cfg.machine.epochs, "metrics": {"AP": epoch / 10}}
        folder.write_progress({"phase": "train", "step": epoch + 1, "steps": 2, "seconds_left": 1.0, **where})
        done.write_text(str(epoch + 1))
        misbehave(cfg)
    folder.write_metrics({"AP": 0.5 - cfg.method.box + cfg.seed / 100, "AR": 0.6, "seconds": 1.0, "device": "CPU"})


def misbehave(cfg: DictConfig) -> None:
    if Path(cfg.results, "go").exists():
        return
    if cfg.method.box in cfg.machine.raises:
        raise ValueError(f"diverged at box {cfg.method.box}")
    if cfg.method.box in cfg.machine.dies:
        os.kill(os.getpid(), signal.SIGKILL)
    while cfg.method.box in cfg.machine.waits and not Path(cfg.results, "go").exists():
        time.sleep(0.02)


if __name__ == "__main__":
    run_command(main)
