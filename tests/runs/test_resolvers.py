import pytest

from tests.configs import composed


@pytest.mark.parametrize(("cpus", "workers"), [(None, 0), ("1", 0), ("8", 7)])
def test_loaders_follow_the_cpus_of_a_slurm_job(monkeypatch, cpus, workers):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if cpus is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", cpus)
    assert composed().data.workers == workers
    assert composed("machine.workers=3").data.workers == 3
