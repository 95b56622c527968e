"""payproc as a whole process, from start to exit, as a person runs it: `payproc ingest FILE` on the
embedded server.

Its time takes in starting Python, reading the file, and joining the server. In the contested row
two such processes work on the same file at once.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import write
from harness import BenchServer, Dataset, Measured, Row, client_cpu

LABEL = "payproc ingest FILE, the whole process"

COMMAND = str(Path(sys.executable).with_name("payproc"))


def measure(bench: BenchServer, dataset: Dataset, command: str = COMMAND) -> Iterator[Measured]:
    """Fresh events, the same file again, and two processes on a contested file."""
    start_empty(bench, command)
    with bench.timed(Row.FRESH, len(dataset.fresh)) as fresh:
        (summary,) = _ingest(bench, command, dataset.fresh_file)
    _expect(summary["outcomes"]["APPLY"], len(dataset.fresh))
    yield from fresh

    with bench.timed(Row.DUPLICATES, len(dataset.fresh)) as duplicates:
        (summary,) = _ingest(bench, command, dataset.fresh_file)
    _expect(summary["reasons"].get("duplicate_event"), len(dataset.fresh))
    yield from duplicates

    lines = dataset.contested(dataset.size)
    file = dataset.folder / "contested.jsonl"
    write(file, lines)
    start_empty(bench, command)
    with bench.timed(Row.CONTESTED, 2 * len(lines)) as contested:
        summaries = _ingest(bench, command, file, processes=2)
    _expect(sum(summary["events"] for summary in summaries), 2 * len(lines))
    bench.main.check_books(len({line.event_id for line in lines}))
    yield from contested


def environment(bench: BenchServer) -> dict[str, str]:
    """Return the environment of a user, with this benchmark's embedded server."""
    others = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return {**others, "PAYPROC_HOME": str(bench.server.home)}


def cpu_seconds(bench: BenchServer, *arguments: str) -> float:
    """User and system time of one command, its best of five."""
    best = float("inf")
    for _ in range(5):
        before = client_cpu()
        subprocess.run([COMMAND, *arguments], env=environment(bench), capture_output=True, check=False)
        best = min(best, client_cpu() - before)
    return best


def start_empty(bench: BenchServer, command: str = COMMAND) -> None:
    """Forget everything that payproc has recorded in the embedded database, and create its schema
    again."""
    bench.main.execute("DROP SCHEMA IF EXISTS payproc CASCADE")
    subprocess.run([command, "init", "--quiet"], env=environment(bench), check=True)


def _ingest(bench: BenchServer, command: str, file: Path, processes: int = 1) -> list[dict[str, Any]]:
    arguments = [command, "ingest", "--quiet", "--format", "json", str(file)]
    running = [
        subprocess.Popen(arguments, env=environment(bench), stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    summaries = [json.loads(process.communicate()[0]) for process in running]
    _expect([process.returncode for process in running], [0] * processes)
    return summaries


def _expect(found: object, expected: object) -> None:
    if found != expected:
        raise SystemExit(f"payproc: expected {expected}, got {found}")
