"""The commands on a Citus cluster with many events, beside one server with the same ones.

Two of a hundred events are a contested mix, so there are pending reviews, conflicts and duplicates.
"""

import itertools
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import URL

from citus import WORKERS, create_schema, environment
from datasets import contested, fresh, write
from growth import peak_memory
from machines import Cost, Machines
from payproc_process import COMMAND
from tests.support.postgres import Sql

MIXED_SHARE = 0.02

POLL_SECONDS = 0.01

PAYMENT = "PAYMENT_ID"
"""Stands for the id of a payment with three events."""

COMMANDS = (
    ("verify",),
    ("export",),
    ("history", "--format", "jsonl"),
    ("history", "--limit", "20"),
    ("history", "--payment", PAYMENT),
    ("show", PAYMENT),
    ("payments", "--format", "jsonl"),
    ("payments", "--limit", "20"),
    ("review", "--format", "jsonl"),
    ("review", "--limit", "20"),
    ("status",),
)


class Run(NamedTuple):
    """One run of a command."""

    cost: Cost
    peak: int
    """The client's memory in KB."""


def measure_citus_growth(folder: Path, events: int, rounds: int) -> None:
    """Ingest so many events on one server and on the cluster; print the cost of each command."""
    machines = Machines()
    machines.print_settings()
    setups = [machines.setups()[0], machines.setups()[-1]]
    file = folder / "growth.jsonl"
    mixed = round(events * MIXED_SHARE)
    print(f"writing {events:,} events to {file}, {mixed:,} of them a contested mix", flush=True)
    write(file, itertools.chain(fresh(events - mixed, 0), contested(mixed, 0)))
    with ExitStack() as databases:
        urls = {setup.label: databases.enter_context(setup.database()) for setup in setups}
        for setup in setups:
            create_schema(setup, urls[setup.label])
        loaded = {
            label: [_run(machines, url, ["ingest", "--workers", WORKERS, str(file)])] for label, url in urls.items()
        }
        heads = "".join(f" {role:>11}" for role in loaded[setups[0].label][0].cost.cpu)
        print(f"\nprocessor time in seconds\n\n{'':<28} {'':<18} {'seconds':>8} {'MB':>5}{heads}")
        _print_runs(f"ingest --workers {WORKERS}", loaded)
        for url in urls.values():
            with closing(Sql(url)) as sql:
                sql.rows("ANALYZE payproc.payments, payproc.events")
                payment_id = sql.value("SELECT payment_id FROM payproc.events WHERE position = 3 ORDER BY 1 LIMIT 1")
        for command in COMMANDS:
            runs: dict[str, list[Run]] = {label: [] for label in urls}
            for _ in range(rounds):
                for label, url in urls.items():
                    runs[label].append(_run(machines, url, [part.replace(PAYMENT, payment_id) for part in command]))
            _print_runs(" ".join(command), runs)


def _run(machines: Machines, url: URL, arguments: Sequence[str]) -> Run:
    peak = 0
    with (
        machines.timed() as cost,
        subprocess.Popen([COMMAND, *arguments, "--quiet"], env=environment(url), stdout=subprocess.DEVNULL) as process,
    ):
        while process.poll() is None:
            peak = max(peak, peak_memory(process.pid))
            time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"payproc {arguments[0]} exited with {process.returncode}")
    return Run(cost, peak)


def _print_runs(command: str, by_setup: Mapping[str, Sequence[Run]]) -> None:
    """Print a line of medians for each setup, with the most memory of all rounds."""
    for label, runs in by_setup.items():
        seconds = statistics.median(run.cost.seconds for run in runs)
        peak = max(run.peak for run in runs) / 1024
        cpu = "".join(f" {statistics.median(run.cost.cpu[role] for run in runs):>11.2f}" for role in runs[0].cost.cpu)
        print(f"{command:<28} {label:<18} {seconds:>8.2f} {peak:>5.0f}{cpu}", flush=True)
