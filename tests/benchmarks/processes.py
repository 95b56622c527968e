"""payproc in several processes at once, each on its part of the same events, split by payment.

One process has a ceiling: its own half of the work is Python in one interpreter. Several have
several of those, until the server or the cores are busy.
"""

import hashlib
import json
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

from datasets import Line, fresh, write
from harness import BenchServer, Measured, Row
from payproc_process import COMMAND, environment, start_empty


def measure_processes(bench: BenchServer, folder: Path, counts: Sequence[int], events: int, rounds: int) -> None:
    """Print the rate for each number of processes, in interleaved rounds."""
    runs: dict[int, list[Measured]] = {count: [] for count in counts}
    for turn in range(rounds):
        lines = list(fresh(events, turn))
        for count in counts:
            runs[count].append(_measure(bench, _parts(folder, lines, count), events))
    print(f"\n{events:,} fresh events, {rounds} rounds, split by payment\n")
    print(f"{'processes':>9} {'events/s':>9} {'min to max':>17} {'CPU us/event':>13}")
    for count, found in runs.items():
        rates = [run.rate for run in found]
        client = statistics.median(run.client_cpu / run.events for run in found) * 1e6
        server = statistics.median((run.server_cpu or 0) / run.events for run in found) * 1e6
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        print(f"{count:>9} {statistics.median(rates):>9,.0f} {spread:>17} {f'{client:,.0f} + {server:,.0f}':>13}")


def _parts(folder: Path, lines: Sequence[Line], count: int) -> list[Path]:
    paths = [folder / f"part-{number}.jsonl" for number in range(count)]
    for number, path in enumerate(paths):
        write(path, [line for line in lines if _part_of(line.payment_id, count) == number])
    return paths


def _part_of(payment_id: str, count: int) -> int:
    """Return the part that a payment belongs to. By another hash than workers use, or each would
    have one of them."""
    return hashlib.sha256(payment_id.encode()).digest()[0] % count


def _measure(bench: BenchServer, parts: Sequence[Path], events: int) -> Measured:
    start_empty(bench)
    with bench.timed(Row.FRESH, events) as measured:
        running = [
            subprocess.Popen(
                [COMMAND, "ingest", "--quiet", "--format", "json", part],
                env=environment(bench),
                stdout=subprocess.PIPE,
                text=True,
            )
            for part in parts
        ]
        applied = sum(json.loads(process.communicate()[0])["outcomes"]["APPLY"] for process in running)
    if applied != events:
        raise SystemExit(f"payproc: expected {events} events applied, got {applied}")
    bench.main.check_books(events)
    return measured[0]
