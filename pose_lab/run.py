"""`python -m pose_lab.run experiment=NAME [group=option] [key=value]`: one run, or the sweep that it names."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pose_lab.runs import launcher, resolvers, search_path, slurm_launcher
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
        print(f"\n{_where_it_was_raised()}\nerror: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def _where_it_was_raised() -> str:
    """The traceback in a job's log; for people at a terminal the file that holds it."""
    if "SLURM_JOB_ID" in os.environ:
        return traceback.format_exc()
    trace = Path(tempfile.mkstemp(prefix="pose_lab-", suffix=".txt")[1])
    trace.write_text(traceback.format_exc())
    return f"(where it was raised: {trace})"


if __name__ == "__main__":
    main()
