"""Crashes at random moments: a run, the moment of its crash, and the rerun that completes it.

A seed decides the day, how it arrives (from a file, or trickling through a pipe) and the moment of
the crash.
"""

import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

from tests.support.command import Payproc, RunningCommand
from tests.support.postgres import TABLES, Sql, contents, wait_for
from tests.support.reports import DECISIONS, assert_verified
from tests.support.workload import Day, expected_day, messy_day

DAYS = 10
FILE = "day.jsonl"


@cache
def day_of(seed: int) -> Day:
    """Return one of ten days, shorter or longer than a batch."""
    number = seed % DAYS
    return expected_day(messy_day(number, (700, 1500, 2500, 5000)[number % 4]))


@contextmanager
def ingesting(payproc: Payproc, day: Day, chance: random.Random) -> Iterator[RunningCommand]:
    """Ingest a day from a file or a trickling pipe in the background.

    Kill the process at the end.
    """
    (payproc.folder / FILE).write_bytes(day.text)
    (payproc.folder / DECISIONS).unlink(missing_ok=True)
    trickles = chance.random() < 0.5
    with (payproc.folder / "stderr").open("wb") as stderr:
        process = payproc.start(
            *("ingest", "-" if trickles else FILE, "--decisions", DECISIONS, "--quiet"),
            stdin=subprocess.PIPE if trickles else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    feeder = threading.Thread(target=_feed, args=(process, day.raw, random.Random(chance.random())))
    if trickles:
        feeder.start()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if trickles:
            feeder.join()


def _feed(process: RunningCommand, lines: list[bytes], chance: random.Random) -> None:
    """Write lines to the process in small pieces, until it is gone."""
    with suppress(BrokenPipeError), process.stdin as stdin:
        while lines:
            size = chance.choice((1, 10, 100, 400))
            stdin.write(b"".join(line + b"\n" for line in lines[:size]))
            stdin.flush()
            del lines[:size]
            time.sleep(chance.random() / 100)


def wait_for_random_moment(
    process: RunningCommand, payproc: Payproc, day: Day, chance: random.Random, sql: Sql
) -> None:
    """Wait for a random number of events, a random size of the decision file, or a random time."""
    reported = payproc.folder / DECISIONS
    events, size = chance.randrange(len(day.lines)), chance.randrange(150 * len(day.lines))
    deadline = time.monotonic() + chance.random()
    moments: list[Callable[[], bool]] = [
        lambda: bool(sql.value("SELECT count(*) FROM payproc.events") > events),
        lambda: reported.exists() and reported.stat().st_size > size,
        lambda: time.monotonic() > deadline,
    ]
    has_come = chance.choice(moments)
    wait_for(lambda: has_come() or process.poll() is not None)
    time.sleep(chance.random() / 50)


def wait_for_dead_clients(sql: Sql) -> None:
    """Wait for the commits that the server still makes for clients that are gone."""
    backends = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'payproc' AND datname = current_database()"
    )
    wait_for(lambda: sql.value(backends) == 0)


def rerun(payproc: Payproc, day: Day, sql: Sql) -> None:
    """Ingest the same file again; check that the records equal those of an uninterrupted run."""
    finished = payproc("ingest", FILE, "--quiet")
    assert finished.code == 3, finished.stderr  # some lines are malformed
    assert contents(sql) == day.contents
    assert_verified(payproc)


def empty_tables(sql: Sql) -> None:
    """Empty the tables."""
    sql.rows(f"TRUNCATE {TABLES}")
