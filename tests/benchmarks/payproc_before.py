"""Another version of payproc, as a whole process: the one that a wheel holds, in a virtual
environment of its own.

Compare two versions by the processor time of both in the same rounds.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import payproc_process
from harness import BenchServer, Dataset, Measured

LABEL = "payproc of another version, the whole process"

_VARIABLE = "PAYPROC_BENCHMARK_BEFORE"


def install(wheel: Path, folder: Path) -> None:
    """Install the wheel with its dependencies."""
    environment = folder / "before"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    subprocess.run([environment / "bin" / "pip", "install", "--quiet", wheel], check=True)
    os.environ[_VARIABLE] = str(environment / "bin" / "payproc")


def measure(bench: BenchServer, dataset: Dataset) -> Iterator[Measured]:
    """Run it in all rows, as payproc itself."""
    yield from payproc_process.measure(bench, dataset, os.environ[_VARIABLE])
