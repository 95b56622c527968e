"""How a handler is timed that takes one event at a time: in a loop, and in two processes at once.

What belongs here: loops, processes and the clock. What a handler does with an event is in its own module.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from typing import Protocol

from days import Line
from ground import BenchDatabase, Day, Ground, Measured, Row
from payproc.logic import EventType, Reason

PROCESSES = 2
"""How many handle the contested mix at once. Processes, so that neither waits for the other's interpreter."""

START_SECONDS = 60
"""How long they may take to get ready."""


class Incoming:
    """An event as a handler reads it from a line: decoded, and hardly checked."""

    def __init__(self, text: str) -> None:
        content = json.loads(text)
        self.event_id: str = content["event_id"]
        self.payment_id: str = content["payment_id"]
        self.type = EventType(content["type"])


class RecordedEvent:
    """What an event_id stands for, as it is stored."""

    def __init__(self, payment_id: str, event_type: str) -> None:
        self.payment_id = payment_id
        self.type = EventType(event_type)


class Handler(Protocol):
    """Connected to its database, with whatever it needs there."""

    def handle(self, text: str) -> Reason:
        """Process one line; what it tells is durable."""

    def close(self) -> None:
        """Disconnect."""


Connect = Callable[[BenchDatabase], Handler]


def measure_handler(connect: Connect, events: int, ground: Ground, day: Day) -> Iterator[Measured]:
    """Time a handler that works on payproc's tables, in all rows."""
    with ground.database(with_schema=True) as database:
        yield from measure_loop(connect, database, events, ground, day)
        database.check_books(len(day.warm_up) + len(day.part(events)))
    lines = day.contested(len(day.part(events)))
    with ground.database(with_schema=True) as database:
        yield _measure_contested(connect, database, lines, ground)
        database.check_books(len({line.event_id for line in lines}))


def measure_loop(
    connect: Connect, database: BenchDatabase, events: int, ground: Ground, day: Day, threads: int = 1
) -> Iterator[Measured]:
    """Time a handler over the first fresh events and over the same again, after a warm-up.

    Threads share the payments, each payment keeping its order.
    """
    lines = day.part(events)
    with closing(connect(database)) as handler:
        for line in day.warm_up:
            handler.handle(line.text)
        for row, expected in ((Row.FRESH, Reason.TRANSITION), (Row.DUPLICATES, Reason.DUPLICATE_EVENT)):
            with ground.timed(row, len(lines)) as result:
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


def _measure_contested(connect: Connect, database: BenchDatabase, lines: Sequence[Line], ground: Ground) -> Measured:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES + 1)
    processes = [context.Process(target=_work, args=(connect, database, lines, barrier)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    barrier.wait(START_SECONDS)  # they are connected
    with ground.timed(Row.CONTESTED, PROCESSES * len(lines)) as result:
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
