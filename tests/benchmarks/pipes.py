"""Pipes: seconds until a single line is durable and reported, and the speed of a flood.

A trickle is a line a second, each sent at another moment of payproc's work. A flood is `cat FILE |
payproc ingest`, in turns with `payproc ingest FILE`.
"""

import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from datasets import fresh, write
from harness import BenchServer
from payproc_process import COMMAND, environment, start_empty

PAUSE_SECONDS = 1.0
FLOOD_ROUNDS = 3


def measure_pipes(bench: BenchServer, folder: Path, lines: int, events: int) -> None:
    """Send single lines, one a second, then a flood of events; print the times."""
    start_empty(bench)
    waits = _trickle(bench, lines)
    print(
        f"\none line a second, {lines} lines: in --decisions after {statistics.median(waits) * 1000:.0f} ms"
        f" ({min(waits) * 1000:.0f} to {max(waits) * 1000:.0f})"
    )
    file = folder / "flood.jsonl"
    seconds: dict[str, list[float]] = {"file": [], "pipe": []}
    for turn in range(FLOOD_ROUNDS):
        write(file, fresh(events, turn))
        for way in ("file", "pipe") if turn % 2 else ("pipe", "file"):
            start_empty(bench)
            bench.main.execute("CHECKPOINT")
            seconds[way].append(_flood(bench, file, piped=way == "pipe"))
    file_rate, pipe_rate = (events / statistics.median(seconds[way]) for way in ("file", "pipe"))
    print(
        f"{events:,} events at once, {FLOOD_ROUNDS} rounds: {file_rate:,.0f}/s from a file,"
        f" {pipe_rate:,.0f}/s through a pipe ({pipe_rate / file_rate:.2f})"
    )


def _trickle(bench: BenchServer, lines: int) -> Sequence[float]:
    """Seconds from each line to its line in `--decisions -`."""
    command = [COMMAND, "ingest", "-", "--decisions", "-", "--quiet"]
    waits = []
    with subprocess.Popen(
        command, env=environment(bench), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in fresh(lines + 1, 0):
            sent = time.perf_counter()
            process.stdin.write(f"{line.text}\n")
            process.stdin.flush()
            if line.event_id not in process.stdout.readline():
                raise SystemExit("payproc reported something else")
            waits.append(time.perf_counter() - sent)
            time.sleep(PAUSE_SECONDS)
        process.stdin.close()
    return waits[1:]  # the first waits for Python to start


def _flood(bench: BenchServer, file: Path, *, piped: bool) -> float:
    """Seconds that payproc takes from start to exit."""
    began = time.perf_counter()
    if piped:
        with subprocess.Popen(["cat", file], stdout=subprocess.PIPE) as cat:
            subprocess.run([COMMAND, "ingest", "--quiet"], env=environment(bench), stdin=cat.stdout, check=True)
    else:
        subprocess.run([COMMAND, "ingest", "--quiet", file], env=environment(bench), check=True)
    return time.perf_counter() - began
