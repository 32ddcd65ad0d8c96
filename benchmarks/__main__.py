"""`python -m benchmarks [NAME ...]`: runs all measurements, or the named ones, and prints one table."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

NAMES = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def main(names: list[str]) -> None:
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        sys.exit(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    table = Table("what", "measured", "unit", "target", "reference, ratio", title=_machine())
    for name in names or NAMES:
        for row in importlib.import_module(f"benchmarks.bench_{name}").measure():
            rest = {k: v for k, v in row.items() if k not in ("what", "value", "unit", "target")}
            table.add_row(
                row["what"],
                _number(row["value"]),
                row["unit"],
                _number(row.get("target", "")),
                ", ".join(f"{k} {_number(v)}" for k, v in rest.items()),
            )
        table.add_section()
    Console().print(table)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value if value is not None else "")


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {cores} cores, Python {platform.python_version()}, torch {torch.__version__}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main(sys.argv[1:])
