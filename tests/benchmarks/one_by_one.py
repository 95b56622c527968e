"""Timing of handlers that take one event at a time: in a loop, and in two processes at once.

Loops, processes and the clock belong here; each handler has a module of its own.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from typing import Protocol

from datasets import Line
from harness import BenchDatabase, BenchServer, Dataset, Measured, Row
from payproc.logic import EventType, Reason

PROCESSES = 2
"""Processes that handle the contested mix at once. Threads would share one interpreter."""

START_SECONDS = 60
"""Seconds that they may take to connect."""


class Incoming:
    """An event as a handler reads it from a line: decoded, and hardly checked."""

    def __init__(self, text: str) -> None:
        content = json.loads(text)
        self.event_id: str = content["event_id"]
        self.payment_id: str = content["payment_id"]
        self.type = EventType(content["type"])


class RecordedEvent:
    """The event recorded under an event_id."""

    def __init__(self, payment_id: str, event_type: str) -> None:
        self.payment_id = payment_id
        self.type = EventType(event_type)


class Handler(Protocol):
    """A handler that is connected to its database."""

    def handle(self, text: str) -> Reason:
        """Process one line; return the reason once it is durable."""

    def close(self) -> None:
        """Disconnect."""


Connect = Callable[[BenchDatabase], Handler]


def measure_handler(connect: Connect, events: int, bench: BenchServer, dataset: Dataset) -> Iterator[Measured]:
    """Time a handler that works on payproc's tables, in all rows."""
    with bench.database(with_schema=True) as database:
        yield from measure_loop(connect, database, events, bench, dataset)
        database.check_books(len(dataset.warm_up) + len(dataset.part(events)))
    lines = dataset.contested(len(dataset.part(events)))
    with bench.database(with_schema=True) as database:
        yield _measure_contested(connect, database, lines, bench)
        database.check_books(len({line.event_id for line in lines}))


def measure_loop(
    connect: Connect, database: BenchDatabase, events: int, bench: BenchServer, dataset: Dataset, threads: int = 1
) -> Iterator[Measured]:
    """Time a handler over the first fresh events and over the same again, after a warm-up.

    Threads share the payments, each payment keeping its order.
    """
    lines = dataset.part(events)
    with closing(connect(database)) as handler:
        for line in dataset.warm_up:
            handler.handle(line.text)
        for row, expected in ((Row.FRESH, Reason.TRANSITION), (Row.DUPLICATES, Reason.DUPLICATE_EVENT)):
            with bench.timed(row, len(lines)) as result:
                reasons = _handle_all(handler, lines, threads)
            if reasons != {expected}:
                raise SystemExit(f"expected nothing but {expected.value}, found {reasons}")
            note = f"{threads} threads" if threads > 1 else ""
            yield replace(result[0], note=note)


def _handle_all(handler: Handler, lines: Sequence[Line], threads: int) -> set[Reason]:
    if threads == 1:
        return {handler.handle(line.text) for line in lines}
    payments = list(dict.fromkeys(line.payment_id for line in lines))
    owner = {payment_id: number % threads for number, payment_id in enumerate(payments)}
    shares = [[line for line in lines if owner[line.payment_id] == own] for own in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return set().union(*pool.map(lambda share: _handle_all(handler, share, 1), shares))


def _measure_contested(
    connect: Connect, database: BenchDatabase, lines: Sequence[Line], bench: BenchServer
) -> Measured:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES + 1)
    processes = [context.Process(target=_work, args=(connect, database, lines, barrier)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    barrier.wait(START_SECONDS)  # they are connected
    with bench.timed(Row.CONTESTED, PROCESSES * len(lines)) as result:
        barrier.wait(START_SECONDS)
        for process in processes:
            process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process that was to handle the contested mix has failed")
    return result[0]


def _work(connect: Connect, database: BenchDatabase, lines: Sequence[Line], barrier: Barrier) -> None:
    with closing(connect(database)) as handler:
        barrier.wait(START_SECONDS)
        barrier.wait(START_SECONDS)
        for line in lines:
            handler.handle(line.text)
