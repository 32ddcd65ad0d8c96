"""`python -m pose_lab.compare experiment=NAME [scale=..] [data=..] [results=..]`: an experiment's table and figure.

Made from the run folders alone, at any time, also while runs go on. Takes the arguments that `pose_lab.run` was given,
or the folder of a sweep.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from pose_lab.errors import complain
from pose_lab.runs import formats, launcher, report, resolvers, search_path, slurm_launcher
from pose_lab.runs.identity import resolved, sweep_folder
from pose_lab.runs.table import console

resolvers.register()
search_path.register()
launcher.register()
slurm_launcher.register()


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the report of an experiment and writes its files beside its runs."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    screen = console()
    try:
        made = report.build(*find(arguments))
        formats.show(made, screen)
        files = formats.write(made)
    except (OSError, ValueError, HydraException, OmegaConfBaseException) as error:
        complain(error)
        sys.exit(1)
    screen.print("\n".join(map(str, files)), soft_wrap=True, markup=False)


def find(arguments: Sequence[str]) -> tuple[Path, Mapping[str, Any] | None]:
    """The sweep's folder and its `report`: of the experiment as it is configured now, or a folder as it is.

    Raises:
        FileNotFoundError: no such folder.
        HydraException: no such experiment or config key.
    """
    if len(arguments) == 1 and "=" not in arguments[0] and not Path(arguments[0]).is_dir():
        raise FileNotFoundError(f"{arguments[0]} is no folder of a sweep, nor an argument such as experiment=NAME")
    if len(arguments) == 1 and Path(arguments[0]).is_dir():
        return Path(arguments[0]), None
    arguments = [argument for argument in arguments if argument not in ("-m", "--multirun")]
    swept = [override.is_sweep_override() for override in OverridesParser.create().parse_overrides(list(arguments))]
    single = [argument for argument, is_swept in zip(arguments, swept, strict=True) if not is_swept]
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        cfg = compose("run", overrides=single)
    return sweep_folder(cfg), resolved(cfg).get("report")


if __name__ == "__main__":
    main()
