"""Growth: speed and memory of one `payproc ingest` over millions of fresh events, by slice.

The lines are generated into a file first, so the generator does not compete with the run. Speed is
read from the row of the run, which payproc brings up to date once a second, and peak memory from
the kernel; both disturb nothing.
"""

import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import psycopg2.extensions

from datasets import fresh, write
from harness import BenchServer
from payproc_process import COMMAND, cpu_seconds, environment, start_empty

SLICE_LINES = 500_000

POLL_SECONDS = 0.1


def measure_growth(bench: BenchServer, folder: Path, events: int) -> None:
    """Ingest so many events in one run; print the speed of each slice, first against last, and peak
    memory."""
    file = folder / "growth.jsonl"
    print(f"writing {events:,} fresh events to {file}", flush=True)
    write(file, fresh(events, 0))
    start_empty(bench)
    bench.main.execute("CHECKPOINT")
    points, peak = _watch(bench, file)
    if points[-1][1] != events:
        raise SystemExit(f"payproc ingested {points[-1][1]:,} of {events:,} events")
    slice_lines = min(SLICE_LINES, max(1, events // 4))
    rates = []
    print(f"\n{'events so far':>14} {'events/s':>10}")
    for end in range(slice_lines, events + 1, slice_lines):
        rates.append(slice_lines / (_moment(points, end) - _moment(points, end - slice_lines)))
        print(f"{end:>14,} {rates[-1]:>10,.0f}", flush=True)
    seconds = points[-1][0]
    print(f"\nwhole run: {events / seconds:,.0f} events/s in {seconds:,.1f} s")
    print(f"last slice against first: {rates[-1] / rates[0]:.2f}")
    print(f"peak memory of the process: {_megabytes(peak)}")
    _look_back(bench, events)


def _watch(bench: BenchServer, file: Path) -> tuple[list[tuple[float, int]], int]:
    """Run payproc; give when it had recorded how many lines, and its peak memory in KB."""
    points: list[tuple[float, int]] = []
    with closing(bench.main.connect()) as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        peak = _run(bench, ["ingest", "--quiet", str(file)], lambda: _note(points, began, cursor))
        _note(points, began, cursor)
    return points, peak


def _run(
    bench: BenchServer, arguments: list[str], meanwhile: Callable[[], None] = lambda: None, stdout: int | None = None
) -> int:
    """Run a command to its end; give its peak memory in KB."""
    peak = 0
    with subprocess.Popen([COMMAND, *arguments], env=environment(bench), stdout=stdout) as process:
        while process.poll() is None:
            peak = max(peak, peak_memory(process.pid))
            meanwhile()
            time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"payproc exited with {process.returncode}")
    return peak


def _look_back(bench: BenchServer, events: int) -> None:
    """Measure `verify`, `export` and `show` on the recorded events."""
    print("\npayproc verify: ", end="", flush=True)
    began = time.perf_counter()
    peak = _run(bench, ["verify", "--quiet"])
    print(f"in {time.perf_counter() - began:,.1f} s, peak memory {_megabytes(peak)}")
    began = time.perf_counter()
    peak = _run(bench, ["export", "--quiet"], stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    print(f"payproc export: {events / seconds:,.0f} events/s, peak memory {_megabytes(peak)}", flush=True)
    with closing(bench.main.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT payment_id FROM payproc.events WHERE position = 3 LIMIT 1")
        ((payment_id,),) = cursor.fetchall()
        scans = "SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname IN ('payments', 'events')"
        cursor.execute(scans)
        before = cursor.fetchone()
        used = cpu_seconds(bench, "show", payment_id)
        cursor.execute(scans)
        print(f"payproc show: {used:.2f} s of CPU, " + ("by index" if cursor.fetchone() == before else "NOT by index"))


def _note(points: list[tuple[float, int]], began: float, cursor: psycopg2.extensions.cursor) -> None:
    """Add how far the run is, if that has changed. The first slice begins with the run, not with
    starting Python, and the run may have ended before the first look."""
    cursor.execute("SELECT lines, extract(epoch FROM clock_timestamp() - started_at)::float FROM payproc.runs")
    for lines, age in cursor.fetchall():
        moment = time.perf_counter() - began
        if not points:
            points.append((moment - age, 0))
        if lines > points[-1][1]:
            points.append((moment, lines))


def _moment(points: list[tuple[float, int]], line: int) -> float:
    """Return the time at which this line was recorded, interpolated between two observations."""
    for (before, fewer), (after, more) in pairwise(points):
        if fewer <= line <= more:
            return before + (after - before) * (line - fewer) / (more - fewer)
    raise ValueError(f"line {line} was never recorded")


def _megabytes(kilobytes: int) -> str:
    return f"{kilobytes / 1024:,.0f} MB" if kilobytes else "unknown on this system"


def peak_memory(pid: int) -> int:
    """In KB; 0 where the system does not tell, or the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    peaks = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
    return peaks[0] if peaks else 0
