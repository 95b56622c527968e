"""Rounds: lines in input order, split by payment among the workers.

Belongs here: the split, and putting results back into input order.
"""

import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import msgspec

from payproc.batch import InputEvent, Result
from payproc.ingest.lines import OversizedLine


class MalformedLine(msgspec.Struct, frozen=True):
    """A line that is not an event, its place, and the error in it."""

    raw: bytes | OversizedLine
    source: int
    line: int
    error: str


Entry = InputEvent | MalformedLine


class Handler(Protocol):
    """A processor of batches: a Recorder or a DryRun."""

    def handle(self, batch: Sequence[InputEvent]) -> list[Result]: ...

    def close(self) -> None: ...


class Round:
    """Lines in input order, and the parts of them that the workers have."""

    def __init__(self, workers: int) -> None:
        self.entries: list[Entry] = []
        self.bytes = 0
        self._parts: list[list[InputEvent]] = [[] for _ in range(workers)]
        self._owners: list[int | None] = []
        """The worker of each entry; None for a malformed line."""
        self._futures: list[Future[list[Result]]] = []

    def add(self, input_event: InputEvent, worker: int) -> None:
        """Add an event for a worker."""
        self.entries.append(input_event)
        self._owners.append(worker)
        self._parts[worker].append(input_event)

    def add_malformed(self, malformed: MalformedLine) -> None:
        """Add a line for no worker."""
        self.entries.append(malformed)
        self._owners.append(None)

    def submit(self, executors: Sequence[ThreadPoolExecutor], handlers: Sequence[Handler]) -> None:
        """Hand each part to its worker."""
        self._futures = [
            executor.submit(handler.handle, part)
            for executor, handler, part in zip(executors, handlers, self._parts, strict=True)
        ]

    def is_done(self) -> bool:
        """Return whether all parts are durable, or failed."""
        return all(future.done() for future in self._futures)

    def results(self) -> Iterator[tuple[Entry, Result | None]]:
        """Wait for all parts; yield entries in input order with their results, None if malformed."""
        results = [iter(future.result()) for future in self._futures]
        for entry, owner in zip(self.entries, self._owners, strict=True):
            yield entry, None if owner is None else next(results[owner])


def worker_of(payment_id: str, workers: int) -> int:
    """Return the worker of a payment: the same in every run, so that a failure can be repeated."""
    return zlib.crc32(payment_id.encode()) % workers
