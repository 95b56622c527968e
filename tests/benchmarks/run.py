"""The speed of payproc beside other ways to do the same work, in one run on one server.

    python tests/benchmarks/run.py [--events 100000] [--rounds 3] [--only NAME ...] [--svg FILE]
    python tests/benchmarks/run.py --before payproc-0.1.0-py3-none-any.whl [--only payproc]
    python tests/benchmarks/run.py ... [--line-bytes 2000]
    python tests/benchmarks/run.py --growth 5000000
    python tests/benchmarks/run.py --pipes 30 [--events 100000]
    python tests/benchmarks/run.py --people 1300
    python tests/benchmarks/run.py --reviews [10000]
    python tests/benchmarks/run.py --choices [--events 100000] [--rounds 3]
    python tests/benchmarks/run.py --processes 1 2 4 [--events 100000] [--rounds 3]
    python tests/benchmarks/run.py --ceiling [--events 100000] [--rounds 3]
    python tests/benchmarks/run.py --instructions 2000
    python tests/benchmarks/run.py --recipes 1000000
    python tests/benchmarks/run.py --citus [--events 20000] [--rounds 3]
    python tests/benchmarks/run.py --citus --growth 1000000

All contenders use the same embedded PostgreSQL, with payproc's own settings and with fsync and
synchronous_commit on, each in a database of its own that is new in every round, after a checkpoint.
Rounds are interleaved: each has every contender once, beginning with another one. Read the figures
as ratios: machines differ.

Slow contenders are timed over fewer events, since their rate does not depend on how many follow;
the tables say over how many. Processor time is the contender's own plus the server's. The top of
each module says what its contender does and omits. The libraries are in the extra `bench`; a
contender whose library is not installed is left out, and a line says so.
"""

import argparse
import importlib
import json
import os
import platform
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pipes import measure_pipes
from typing import cast

import chart
import payproc_before
from ceiling import measure_ceiling
from choices import measure_choices
from growth import measure_growth
from harness import BenchServer, Contender, Dataset, Measured, Row
from instructions import measure_instructions
from payproc.embedded.server import run_server
from payproc_process import cpu_seconds
from people import measure_people
from processes import measure_processes
from recipes import measure_recipes
from reviews import measure_reviews

CONTENDERS = {
    "payproc": "payproc_process",
    "orm": "orm_handler",
    "psycopg2": "psycopg2_handler",
    "eventsourcing": "eventsourcing_app",
    "dbos": "dbos_workflow",
    "pgbench": "pgbench_statement",
    "async": "pgbench_asynchronous",
    "copy": "copy_rows",
}
"""By the name that --only takes: the module of each."""

COMPARED_WITH = ("orm", "pgbench", "async", "copy")

BEFORE = "before"
"""The name of another version of payproc, which takes part if its wheel is named."""

Runs = Mapping[Row, Mapping[str, Sequence[Measured]]]
"""Measurements by row and contender, in the order of the rounds."""


def main() -> None:
    """Measure in interleaved rounds; print medians, spread and ratios."""
    options = _arguments()
    home = Path(tempfile.mkdtemp(prefix="payproc-benchmark-"))
    folder = Path(tempfile.mkdtemp(prefix="payproc-benchmark-lines-"))
    try:
        if options.citus:
            _measure_cluster(folder, options)
            return
        with run_server(home) as server:
            bench = BenchServer(server)
            print(f"{bench.check_settings()}; {os.cpu_count()} cores, Python {platform.python_version()}", flush=True)
            if (alone := _choose_measurement(options, bench, folder)) is not None:
                alone()
                return
            contenders = _load(options.only or list(CONTENDERS))
            if options.before:
                payproc_before.install(options.before, folder)
                contenders[BEFORE] = cast(Contender, payproc_before)
            runs = _run(bench, contenders, options, folder)
            commands = {command: cpu_seconds(bench, *command.split()) for command in ("--help", "show unknown")}
    finally:
        shutil.rmtree(home)
        shutil.rmtree(folder)
    labels = {name: module.LABEL for name, module in contenders.items()}
    for row in runs:
        _print_table(row, runs, labels)
    if options.before and "payproc" in contenders:
        for row in (Row.FRESH, Row.DUPLICATES):
            _print_change(row, runs[row])
    print("\nCPU of a command: " + ", ".join(f"payproc {name} {used:.2f} s" for name, used in commands.items()))
    if options.json:
        found = {
            row.name.lower(): {
                name: [{**asdict(run), "rate": run.rate} for run in rounds] for name, rounds in by_name.items()
            }
            for row, by_name in runs.items()
        }
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.svg:
        options.svg.write_text(_chart(runs, labels, options.events, options.rounds))


def _choose_measurement(options: argparse.Namespace, bench: BenchServer, folder: Path) -> Callable[[], None] | None:
    """Return the measurement of payproc alone that an option asks for, or None."""
    measurements: list[tuple[object, Callable[[], None]]] = [
        (options.growth, lambda: measure_growth(bench, folder, options.growth)),
        (options.pipes, lambda: measure_pipes(bench, folder, options.pipes, options.events)),
        (options.people, lambda: measure_people(bench, folder, options.people)),
        (options.reviews, lambda: measure_reviews(bench, folder, options.reviews)),
        (
            options.processes,
            lambda: measure_processes(bench, folder, options.processes, options.events, options.rounds),
        ),
        (options.ceiling, lambda: measure_ceiling(bench, folder, options.events, options.rounds)),
        (options.instructions, lambda: measure_instructions(options.instructions)),
        (options.recipes, lambda: measure_recipes(options.recipes)),
        (options.choices, lambda: measure_choices(folder, options.events, options.rounds)),
    ]
    return next((measure for option, measure in measurements if option), None)


def _measure_cluster(folder: Path, options: argparse.Namespace) -> None:
    # They need the tests' helpers, and so the extra `test`.
    from citus import measure_citus
    from citus_growth import measure_citus_growth

    if options.growth:
        measure_citus_growth(folder, options.growth, options.rounds)
    else:
        measure_citus(folder, options.events, options.rounds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000, help="events of a round (default 100000)")
    parser.add_argument("--line-bytes", type=int, default=0, metavar="N", help="length of a fresh event (default ~180)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the fresh events as a chart")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round")
    parser.add_argument("--growth", type=int, metavar="N", help="only one payproc run over N events, slice by slice")
    parser.add_argument("--pipes", type=int, metavar="N", help="only payproc on a pipe: N single lines, and a flood")
    parser.add_argument("--people", type=int, metavar="N", help="only the commands of people, on N pending reviews")
    parser.add_argument(
        "--reviews",
        type=int,
        nargs="?",
        const=10_000,
        metavar="N",
        help="only the reviews of N payments (default 10000)",
    )
    parser.add_argument("--choices", action="store_true", help="only payproc under other schemas and settings")
    parser.add_argument("--before", type=Path, metavar="WHEEL", help="also measure another version of payproc")
    parser.add_argument("--processes", type=int, nargs="+", metavar="N", help="only payproc in N processes at once")
    parser.add_argument("--ceiling", action="store_true", help="only payproc's own half, with the server left out")
    parser.add_argument("--instructions", type=int, metavar="N", help="only the server's instructions, in batches of N")
    parser.add_argument("--recipes", type=int, metavar="N", help="only jq with the recipes for PSPs, over N messages")
    parser.add_argument("--citus", action="store_true", help="only payproc, on the cluster of PAYPROC_TEST_CITUS")
    return parser.parse_args()


def _load(names: Sequence[str]) -> dict[str, Contender]:
    """Import the contenders; say which cannot take part."""
    contenders = {}
    for name in names:
        try:
            contenders[name] = cast(Contender, importlib.import_module(CONTENDERS[name]))
        except ModuleNotFoundError as error:
            if error.name is None or error.name in CONTENDERS.values():
                raise
            print(f"left out: {name}: {error.name} is not installed; it is in the extra: pip install '.[bench]'")
    return contenders


def _run(bench: BenchServer, contenders: Mapping[str, Contender], options: argparse.Namespace, folder: Path) -> Runs:
    runs: dict[Row, dict[str, list[Measured]]] = {row: defaultdict(list) for row in Row}
    for turn in range(rounds := options.rounds):
        dataset = Dataset(folder, options.events, turn, options.line_bytes)
        first = turn % len(contenders)
        order = [*contenders][first:] + [*contenders][:first]
        for name in order:
            print(f"round {turn + 1} of {rounds}: {name} ...", end="", flush=True)
            for measured in contenders[name].measure(bench, dataset):
                runs[measured.row][name].append(measured)
                print(f" {measured.rate:,.0f}/s", end="", flush=True)
            print()
    return runs


def _print_table(row: Row, runs: Runs, labels: Mapping[str, str]) -> None:
    """Print a line for each contender, the slowest first."""
    by_name = runs[row]
    medians = {name: _median(rounds) for name, rounds in by_name.items()}
    compared = [name for name in COMPARED_WITH if name in medians]
    heads = [f"x {name}" for name in compared] + (["x its fresh"] if row is not Row.FRESH else [])
    print(f"\n{row.value}\n")
    print(
        f"{'':<50} {'events':>8} {'events/s':>9} {'min to max':>19}"
        + "".join(f" {head:>11}" for head in heads)
        + ("" if row is Row.CONTESTED else f" {'CPU us/event':>15}")
    )
    for name in sorted(medians, key=medians.__getitem__):
        rounds = by_name[name]
        rates = [run.rate for run in rounds]
        ratios = [medians[name] / medians[other] for other in compared]
        if row is not Row.FRESH:
            ratios.append(medians[name] / _median(runs[Row.FRESH][name]))
        print(
            f"{labels[name]:<50} {min(run.events for run in rounds):>8,} {medians[name]:>9,.0f}"
            f" {f'{min(rates):,.0f} to {max(rates):,.0f}':>19}"
            + "".join(f" {ratio:>11.2f}" for ratio in ratios)
            + ("" if row is Row.CONTESTED else f" {_cpu(rounds):>15}")  # there it would count starting processes
            + _notes(rounds)
        )


def _print_change(row: Row, runs: Mapping[str, Sequence[Measured]]) -> None:
    """Print the processor time of this version and the other, and the median of their ratios round
    by round."""
    print(f"\n{row.value}\n\n{'CPU us/event':<12} {'before':>8} {'now':>8} {'now / before':>14}")
    for name, cost in _COSTS.items():
        now, before = ([cost(run) for run in runs[each]] for each in ("payproc", BEFORE))
        ratio = statistics.median(one / other for one, other in zip(now, before, strict=True))
        print(f"{name:<12} {statistics.median(before):>8.1f} {statistics.median(now):>8.1f} {ratio:>14.2f}")


_COSTS: Mapping[str, Callable[[Measured], float]] = {
    "client": lambda run: run.client_cpu / run.events * 1e6,
    "server": lambda run: (run.server_cpu or 0) / run.events * 1e6,
    "total": lambda run: (run.client_cpu + (run.server_cpu or 0)) / run.events * 1e6,
}
"""Processor time of a run, in microseconds an event."""


def _median(rounds: Sequence[Measured]) -> float:
    return statistics.median(run.rate for run in rounds)


def _cpu(rounds: Sequence[Measured]) -> str:
    """Microseconds of processor time an event: of the contender, and of the server."""
    client = statistics.median(run.client_cpu / run.events for run in rounds)
    servers = [run.server_cpu / run.events for run in rounds if run.server_cpu is not None]
    server = f"{statistics.median(servers) * 1e6:,.0f}" if servers else "?"
    return f"{client * 1e6:,.0f} + {server}"


def _notes(rounds: Sequence[Measured]) -> str:
    notes = dict.fromkeys(run.note for run in rounds if run.note)
    return f"  best with {', '.join(notes)}" if notes else ""


def _chart(runs: Runs, labels: Mapping[str, str], events: int, rounds: int) -> str:
    medians = {name: _median(measured) for name, measured in runs[Row.FRESH].items()}
    unit = medians.get("orm")
    bars = [
        chart.Bar(labels[name], medians[name], _ratio(medians[name] / unit) if unit else "", name == "payproc")
        for name in sorted(medians, key=medians.__getitem__)
    ]
    subtitles = (
        f"{events:,} fresh events, each in a transaction of its own (COPY: all in one), durable before it is reported",
        f"one server for all, fsync on, {os.cpu_count()} cores, median of {rounds} rounds; x: against the ORM handler",
    )
    return chart.draw("Payment events recorded per second", subtitles, bars)


def _ratio(ratio: float) -> str:
    return f"{ratio:,.0f} x" if ratio >= 10 else f"{ratio:.1f} x"


if __name__ == "__main__":
    main()
