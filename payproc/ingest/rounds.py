"""Rounds: lines in input order, split by payment among the workers.

Belongs here: the split, and putting results back into input order.
"""

import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import msgspec

from payproc.batch import EventResult, InputEvent, Result
from payproc.explain import Malformed
from payproc.ingest.lines import OversizedLine


class MalformedLine(msgspec.Struct, frozen=True):
    """A line that is not an event, its place, and the reason."""

    raw: bytes | OversizedLine
    source: int
    line: int
    reason: Malformed


Entry = MalformedLine | int
"""A malformed line, or the number of the worker that has the line's event."""


class Handler(Protocol):
    """A processor of batches: a Recorder or a DryRun."""

    def handle(self, batch: Sequence[InputEvent]) -> list[Result]:
        """Process events in order; return their results in the same order."""

    def close(self) -> None:
        """Close the connection."""


class Round:
    """Lines in input order, and the parts of them that the workers have."""

    def __init__(self, workers: int) -> None:
        self.entries: list[Entry] = []
        self.bytes = 0
        self._parts: list[list[InputEvent]] = [[] for _ in range(workers)]
        self._futures: list[Future[list[Result]]] = []

    def add(self, input_event: InputEvent, worker: int) -> None:
        """Add an event for a worker."""
        self.entries.append(worker)
        self._parts[worker].append(input_event)

    def add_malformed(self, malformed: MalformedLine) -> None:
        """Add a line for no worker."""
        self.entries.append(malformed)

    def submit(self, executors: Sequence[ThreadPoolExecutor], handlers: Sequence[Handler]) -> None:
        """Hand each part to its worker."""
        self._futures = [
            executor.submit(handler.handle, part)
            for executor, handler, part in zip(executors, handlers, self._parts, strict=True)
        ]

    def is_done(self) -> bool:
        """Return whether all parts are durable, or failed."""
        return all(future.done() for future in self._futures)

    def collect_results(self) -> Iterator[EventResult | MalformedLine]:
        """Wait for all parts; yield the result of each entry in input order."""
        parts = [
            zip(part, future.result(), strict=True) for part, future in zip(self._parts, self._futures, strict=True)
        ]
        for entry in self.entries:
            if isinstance(entry, MalformedLine):
                yield entry
            else:
                input_event, result = next(parts[entry])
                yield result if isinstance(result, EventResult) else _make_malformed(input_event, result)


def choose_worker(payment_id: str, workers: int) -> int:
    """Return the worker of a payment: the same in every run, so that a failure can be repeated."""
    return zlib.crc32(payment_id.encode()) % workers


def _make_malformed(input_event: InputEvent, refusal: Malformed) -> MalformedLine:
    """Return the line of an event that the database refused to store."""
    return MalformedLine(input_event.payload.encode(), input_event.source, input_event.line, refusal)
