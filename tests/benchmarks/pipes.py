"""How payproc follows a pipe: how long a single line takes until it is durable and reported, and how fast a flood goes.

A trickle is a line a second, each sent at another moment of whatever payproc does meanwhile. A flood is `cat FILE |
payproc ingest`, in turns with `payproc ingest FILE`.
"""

import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from days import fresh, write
from ground import Ground
from payproc_process import COMMAND, environment, start_empty

PAUSE_SECONDS = 1.0
FLOOD_ROUNDS = 3


def measure_pipes(ground: Ground, folder: Path, lines: int, events: int) -> None:
    """Send so many lines, one a second, and then so many events at once; print what they take."""
    start_empty(ground)
    waits = _trickle(ground, lines)
    print(
        f"\none line a second, {lines} lines: in --decisions after {statistics.median(waits) * 1000:.0f} ms"
        f" ({min(waits) * 1000:.0f} to {max(waits) * 1000:.0f})"
    )
    file = folder / "flood.jsonl"
    seconds: dict[str, list[float]] = {"file": [], "pipe": []}
    for turn in range(FLOOD_ROUNDS):
        write(file, fresh(events, turn))
        for way in ("file", "pipe") if turn % 2 else ("pipe", "file"):
            start_empty(ground)
            ground.main.execute("CHECKPOINT")
            seconds[way].append(_flood(ground, file, piped=way == "pipe"))
    file_rate, pipe_rate = (events / statistics.median(seconds[way]) for way in ("file", "pipe"))
    print(
        f"{events:,} events at once, {FLOOD_ROUNDS} rounds: {file_rate:,.0f}/s from a file,"
        f" {pipe_rate:,.0f}/s through a pipe ({pipe_rate / file_rate:.2f})"
    )


def _trickle(ground: Ground, lines: int) -> Sequence[float]:
    """Seconds from each line to its line in `--decisions -`."""
    command = [COMMAND, "ingest", "-", "--decisions", "-", "--quiet"]
    waits = []
    with subprocess.Popen(
        command, env=environment(ground), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
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


def _flood(ground: Ground, file: Path, *, piped: bool) -> float:
    """Seconds that payproc takes from start to exit."""
    began = time.perf_counter()
    if piped:
        with subprocess.Popen(["cat", file], stdout=subprocess.PIPE) as cat:
            subprocess.run([COMMAND, "ingest", "--quiet"], env=environment(ground), stdin=cat.stdout, check=True)
    else:
        subprocess.run([COMMAND, "ingest", "--quiet", file], env=environment(ground), check=True)
    return time.perf_counter() - began
