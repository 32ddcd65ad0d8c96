"""`python -m pose_lab.run experiment=NAME [group=option] [key=value]`: one run, or the sweep that it names."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pose_lab.runs import launcher, resolvers, search_path, slurm_launcher
from pose_lab.runs.errors import report, run_command
from pose_lab.runs.folder import InterruptedRun
from pose_lab.runs.slurm_job import INTERRUPTED, requeued

resolvers.register()
search_path.register()
launcher.register()
slurm_launcher.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="run")
def main(cfg: DictConfig) -> None:
    """Trains and evaluates one run; a sweep calls this in one process per run."""
    try:
        with requeued():
            # torch and Lightning take seconds to import, and --help needs none of them
            from pose_lab.runs.train import train

            train(cfg)
    except InterruptedRun as stop:
        print(f"\n{stop}", flush=True)
        sys.exit(INTERRUPTED)
    except (ValueError, OSError, RuntimeError, OmegaConfBaseException) as error:
        report(error)
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
