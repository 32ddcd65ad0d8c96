"""`python -m pose_lab.benchmark method=kapao [scale=..] [checkpoint=..] [latency.batches=[1]]`: its milliseconds."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pose_lab.errors import complain
from pose_lab.runs import resolvers, search_path
from pose_lab.runs.errors import run_command

resolvers.register()
search_path.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="latency")
def main(cfg: DictConfig) -> None:
    """Measures, prints a table, and leaves `latency.json` and `latency.csv`."""
    # torch takes seconds to import, and --help needs none of it
    import torch

    from pose_lab.runs import benchmark
    from pose_lab.runs.table import console

    try:
        if cfg.machine.threads:
            torch.set_num_threads(cfg.machine.threads)
        device = benchmark.check(cfg)
        cfg, where = benchmark.prepared(cfg), benchmark.machine(device)
        timings = benchmark.measure(cfg)
        folder, settings = benchmark.folder(cfg, where), benchmark.settings(cfg)
        benchmark.write(folder, timings, where, settings)
    except (ValueError, OSError, RuntimeError, OmegaConfBaseException) as error:
        complain(error)
        sys.exit(1)
    console().print(benchmark.table(timings, where, settings))
    print(f"{folder / 'latency.json'}\n{folder / 'latency.csv'}")


if __name__ == "__main__":
    run_command(main)
