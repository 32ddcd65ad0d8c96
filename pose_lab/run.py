"""`python -m pose_lab.run experiment=NAME [group=option] [key=value]`: one run, or the sweep that it names."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pose_lab.runs import launcher, resolvers, search_path

resolvers.register()
search_path.register()
launcher.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="run")
def main(cfg: DictConfig) -> None:
    """Trains and evaluates one run; a sweep calls this in one process per run."""
    # torch and Lightning take seconds to import, and --help needs none of them
    from pose_lab.runs.checkpoints import InterruptedRun
    from pose_lab.runs.train import train

    try:
        train(cfg)
    except InterruptedRun as stop:
        print(f"\n{stop}", flush=True)
        sys.exit(130)
    except (ValueError, OSError, RuntimeError, OmegaConfBaseException) as error:
        trace = Path(tempfile.mkstemp(prefix="pose_lab-", suffix=".txt")[1])
        trace.write_text(traceback.format_exc())
        print(f"\nerror: {error}\n(where it was raised: {trace})", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
