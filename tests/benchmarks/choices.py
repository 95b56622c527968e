"""The cost of each choice in the schema and in the embedded server's settings, one at a time.

Every round ingests the same events once for each choice, on a server of its own that differs in
that choice alone, and once as payproc has it. On a noisy machine processor time tells more than
speed, but not of waiting for the disk.
"""

import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import fresh, write
from harness import BenchServer, Measured, Row
from payproc.db.schema import read_procedure
from payproc.embedded.server import run_server
from payproc_process import COMMAND


class Choice(NamedTuple):
    """Another way to have it: SQL that changes the schema, lines for postgresql.conf, or options of
    `ingest`."""

    name: str
    schema: Sequence[str] = ()
    settings: Sequence[str] = ()
    options: Sequence[str] = ()


AS_IT_IS = Choice("as payproc has it")

CHOICES = (
    AS_IT_IS,
    Choice(
        "without the key (payment_id, position) of events",
        ["ALTER TABLE payproc.events DROP CONSTRAINT histories_have_one_entry_a_position"],
    ),
    Choice("without the index of the review queue", ["DROP INDEX payproc.events_for_review"]),
    Choice(
        "with a foreign key from events to payments",
        ["ALTER TABLE payproc.events ADD FOREIGN KEY (payment_id) REFERENCES payproc.payments"],
    ),
    Choice("payments with a fill factor of 80", ["ALTER TABLE payproc.payments SET (fillfactor = 80)"]),
    Choice(
        "jsonb instead of json",
        [
            "DROP VIEW payproc.report_history, payproc.report_queue",  # the ingest creates them again
            *(
                f"ALTER TABLE payproc.{table} ALTER payload TYPE jsonb"
                for table in ("events", "event_conflicts", "redeliveries")
            ),
        ],
    ),
    Choice(
        "every commit waits; with 16 workers",
        [read_procedure(for_citus=False).replace("SET LOCAL synchronous_commit = off;", "")],
        options=["--workers", "16"],
    ),
    Choice("shared_buffers 128MB", settings=["shared_buffers = 128MB"]),
    Choice("shared_buffers 2GB", settings=["shared_buffers = 2GB"]),
    Choice("max_wal_size 1GB, checkpoint_timeout 5min", settings=["max_wal_size = 1GB", "checkpoint_timeout = 5min"]),
    Choice("max_wal_size 8GB", settings=["max_wal_size = 8GB"]),
    Choice("wal_compression pglz", settings=["wal_compression = pglz"]),
    Choice("wal_level replica", settings=["wal_level = replica", "max_wal_senders = 10"]),
    Choice("jit on", settings=["jit = on"]),
)


def measure_choices(folder: Path, events: int, rounds: int) -> None:
    """Ingest so many events under each choice, in interleaved rounds; print medians against
    payproc's own."""
    file = folder / "choices.jsonl"
    runs: dict[str, list[Measured]] = {choice.name: [] for choice in CHOICES}
    for turn in range(rounds):
        write(file, fresh(events, turn))
        first = turn * len(CHOICES) // rounds
        for choice in CHOICES[first:] + CHOICES[:first]:
            measured = _measure(choice, file, events)
            runs[choice.name].append(measured)
            print(f"round {turn + 1} of {rounds}: {choice.name}: {measured.rate:,.0f}/s", flush=True)
    print(f"\n{events:,} fresh events, {rounds} rounds; x: against payproc as it is\n")
    print(f"{'':<52} {'events/s':>9} {'min to max':>17} {'x':>5} {'CPU us/event':>13} {'x':>5}")
    own_rate, own_cpu = _medians(runs[AS_IT_IS.name])
    for name, found in runs.items():
        rate, cpu = _medians(found)
        spread = f"{min(run.rate for run in found):,.0f} to {max(run.rate for run in found):,.0f}"
        print(f"{name:<52} {rate:>9,.0f} {spread:>17} {rate / own_rate:>5.2f} {cpu:>13.1f} {cpu / own_cpu:>5.2f}")


def _medians(runs: Sequence[Measured]) -> tuple[float, float]:
    """Events per second, and processor time for an event in microseconds, payproc's and the
    server's together."""
    cpu = [(run.client_cpu + (run.server_cpu or 0)) / run.events * 1e6 for run in runs]
    return statistics.median(run.rate for run in runs), statistics.median(cpu)


def _measure(choice: Choice, file: Path, events: int) -> Measured:
    """From start to exit of payproc, on a new server that has this choice."""
    home = Path(tempfile.mkdtemp(prefix="payproc-benchmark-"))
    environment = {**os.environ, "PAYPROC_HOME": str(home)}
    environment.pop("DATABASE_URL", None)
    try:
        subprocess.run([COMMAND, "init", "--quiet"], env=environment, check=True)
        with (home / "data" / "postgresql.conf").open("a") as settings:
            settings.writelines(f"{line}\n" for line in choice.settings)
        with run_server(home) as server:
            bench = BenchServer(server)
            bench.main.execute(*choice.schema)
            with bench.timed(Row.FRESH, events) as measured:
                subprocess.run([COMMAND, "ingest", "--quiet", *choice.options, file], env=environment, check=True)
            return measured[0]
    finally:
        shutil.rmtree(home)
