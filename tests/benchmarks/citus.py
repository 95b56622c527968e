"""payproc on a Citus cluster beside one server: events per second, and processor time by machine.

All databases are on the cluster that PAYPROC_TEST_CITUS names. A round has a new database for each
measurement but the second, which repeats the input of the first.
"""

import json
import os
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import URL

from datasets import contested, fresh, write
from machines import SERVERS, Cost, Machines, Setup
from payproc_process import COMMAND

WORKERS = "4"
"""Connections of the process that is alone."""

PROCESSES = 4
"""Processes at once on the same events. Each has the default number of connections."""

FRESH = f"fresh events, --workers {WORKERS}"
DUPLICATES = f"the same events again, --workers {WORKERS}"
CONTESTED = f"fresh events, the same ones in {PROCESSES} processes at once"
MIX = f"a contested mix, the same one in {PROCESSES} processes at once"


class Run(NamedTuple):
    """One timed run: the events of all its processes, and their cost."""

    events: int
    cost: Cost

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.cost.seconds


class Inputs(NamedTuple):
    """The files of a round."""

    fresh: Path
    half: Path
    mix: Path


def measure_citus(folder: Path, events: int, rounds: int) -> None:
    """Measure in interleaved rounds; print a table for each kind of input."""
    machines = Machines()
    machines.print_settings()
    setups = machines.setups()
    runs: dict[str, dict[str, list[Run]]] = {
        row: {setup.label: [] for setup in setups} for row in (FRESH, DUPLICATES, CONTESTED, MIX)
    }
    for turn in range(rounds):
        inputs = _write_inputs(folder, events, turn)
        first = turn % len(setups)
        for setup in setups[first:] + setups[:first]:
            print(f"round {turn + 1} of {rounds}: {setup.label} ...", end="", flush=True)
            for row, run in _measure(machines, setup, inputs):
                runs[row][setup.label].append(run)
                print(f" {run.rate:,.0f}/s", end="", flush=True)
            print()
    print("\nprocessor time in us an event")
    for row, by_setup in runs.items():
        _print_table(row, by_setup)


def environment(url: URL) -> dict[str, str]:
    """Return the environment of a user of this database."""
    return {**os.environ, "DATABASE_URL": url.render_as_string(hide_password=False)}


def create_schema(setup: Setup, url: URL) -> None:
    """Create payproc's tables, on a cluster the distributed ones."""
    choice = ["--citus"] if setup.is_cluster else []
    subprocess.run([COMMAND, "init", "--quiet", *choice], env=environment(url), check=True)


def check_books(url: URL, events: int) -> None:
    """Exit unless `payproc verify` finds so many entries, and no problem."""
    command = [COMMAND, "verify", "--quiet", "--format", "json"]
    found = json.loads(subprocess.run(command, env=environment(url), stdout=subprocess.PIPE, check=True).stdout)
    if (found["entries"], found["findings"]) != (events, []):
        raise SystemExit(f"expected {events} entries and no findings; verify found {found}")


def _write_inputs(folder: Path, events: int, seed: int) -> Inputs:
    inputs = Inputs(folder / "fresh.jsonl", folder / "half.jsonl", folder / "mix.jsonl")
    lines = list(fresh(events, seed))
    write(inputs.fresh, lines)
    write(inputs.half, lines[: events // 2])
    write(inputs.mix, contested(events // 2, seed))
    return inputs


def _measure(machines: Machines, setup: Setup, inputs: Inputs) -> Iterator[tuple[str, Run]]:
    with setup.database() as url:
        create_schema(setup, url)
        for row in (FRESH, DUPLICATES):
            yield row, _ingest(machines, url, inputs.fresh, 1, "--workers", WORKERS)
        check_books(url, _count_ids(inputs.fresh))
    for row, file in ((CONTESTED, inputs.half), (MIX, inputs.mix)):
        with setup.database() as url:
            create_schema(setup, url)
            yield row, _ingest(machines, url, file, PROCESSES)
            check_books(url, _count_ids(file))


def _ingest(machines: Machines, url: URL, file: Path, processes: int, *options: str) -> Run:
    command = [COMMAND, "ingest", "--quiet", "--format", "json", *options, str(file)]
    with machines.timed() as cost:
        running = [
            subprocess.Popen(command, env=environment(url), stdout=subprocess.PIPE, text=True) for _ in range(processes)
        ]
        summaries: list[dict[str, Any]] = [json.loads(process.communicate()[0]) for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"payproc ingest exited with {[process.returncode for process in running]}")
    return Run(sum(summary["events"] for summary in summaries), cost)


def _count_ids(file: Path) -> int:
    with file.open() as lines:
        return len({json.loads(line)["event_id"] for line in lines})


def _print_table(row: str, by_setup: Mapping[str, Sequence[Run]]) -> None:
    """Print a line of medians for each setup, with ratios to the first."""
    base, *_ = by_setup.values()
    heads = "".join(f" {role:>11}" for role in base[0].cost.cpu)
    print(f"\n{row}\n\n{'':<18} {'events/s':>9} {'min to max':>17} {'ratio':>6}{heads} {'ratio':>6}")
    for label, runs in by_setup.items():
        rates = [run.rate for run in runs]
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        cpu = "".join(f" {_cpu(runs, role):>11,.0f}" for role in runs[0].cost.cpu)
        rate, servers = _rate(runs) / _rate(base), _cpu(runs, SERVERS) / _cpu(base, SERVERS)
        print(f"{label:<18} {_rate(runs):>9,.0f} {spread:>17} {rate:>6.2f}{cpu} {servers:>6.2f}")


def _rate(runs: Sequence[Run]) -> float:
    return statistics.median(run.rate for run in runs)


def _cpu(runs: Sequence[Run], role: str) -> float:
    """Return the median of the processor time, in microseconds an event."""
    return statistics.median(run.cost.cpu[role] / run.events for run in runs) * 1e6
