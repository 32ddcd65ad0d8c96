"""A private Slurm of two nodes for these tests; where it cannot be they are skipped, with the reason."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

DEV_CLUSTER = ROOT / "slurm" / "dev_cluster"


def why_not() -> str | None:
    """Why there can be no Slurm here."""
    if shutil.which("slurmctld") is None or shutil.which("munged") is None:
        return "Slurm is not installed (slurm/dev_cluster install)"
    return None if os.geteuid() == 0 else "a private Slurm needs root"


@pytest.fixture(scope="package")
def cluster(tmp_path_factory):
    """The folder of a running cluster, which Slurm's commands find by SLURM_CONF."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    place = tmp_path_factory.mktemp("cluster")
    environment = {"POSE_LAB_SLURM": str(place), "POSE_LAB_SLURM_PORT": str(free_ports(3))}
    started = subprocess.run(
        [DEV_CLUSTER, "start"], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert started.returncode == 0, started.stdout + started.stderr
    # with the processes' own thread pools four ranks would fight for two cores
    changes = environment | {"SLURM_CONF": str(place / "slurm.conf"), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield place
        subprocess.run([DEV_CLUSTER, "stop"], check=True)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def free_ports(count: int) -> int:
    """The first of some neighbouring ports that nobody listens on."""
    import socket

    for first in range(17100, 18000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, one in enumerate(sockets):
                one.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
        return first
    raise RuntimeError("no free ports")


@pytest.fixture
def results(cluster, tmp_path) -> Path:
    """An empty folder for results, on a cluster without jobs."""
    yield tmp_path
    for partition in ("gpu", "high"):
        subprocess.run(["scancel", f"--partition={partition}"], check=True)
