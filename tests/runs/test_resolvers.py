import pytest

from pose_lab.runs.resolvers import loaders
from tests.configs import composed


@pytest.mark.parametrize(("cpus", "workers"), [(None, 0), ("1", 0), ("8", 7)])
def test_loaders_follow_the_cpus_of_a_slurm_job(monkeypatch, cpus, workers):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if cpus is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", cpus)
    assert composed().data.workers == workers
    assert composed("machine.workers=3").data.workers == 3


def test_outside_of_a_job_there_are_no_more_loaders_than_cores(monkeypatch):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(3)))
    assert loaders(8) == 3
    assert loaders(2) == 2
