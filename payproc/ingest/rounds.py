"""Rounds: lines in input order, split by payment among the workers."""

import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import msgspec

from payproc.batch import InputEvent, Result
from payproc.ingest.lines import OversizedLine


class MalformedLine(msgspec.Struct, frozen=True):
    """A line that is not an event, where it is and why."""

    raw: bytes | OversizedLine
    source: int
    line: int
    error: str


Entry = InputEvent | MalformedLine


class Handler(Protocol):
    """What processes a batch: a Recorder or a Rehearsal."""

    def handle(self, batch: Sequence[InputEvent]) -> list[Result]: ...

    def close(self) -> None: ...


_NOBODY = -1


class Round:
    """Some lines in input order, and the parts of them that the workers have."""

    def __init__(self, workers: int) -> None:
        self.entries: list[Entry] = []
        self.bytes = 0
        self._parts: list[list[InputEvent]] = [[] for _ in range(workers)]
        self._owners: list[int] = []
        """For each entry, which worker has it; of a malformed line, nobody."""
        self._futures: list[Future[list[Result]]] = []

    def add(self, received: InputEvent, worker: int) -> None:
        self.entries.append(received)
        self._owners.append(worker)
        self._parts[worker].append(received)

    def add_malformed(self, malformed: MalformedLine) -> None:
        self.entries.append(malformed)
        self._owners.append(_NOBODY)

    def submit(self, executors: Sequence[ThreadPoolExecutor], handlers: Sequence[Handler]) -> None:
        self._futures = [
            executor.submit(handler.handle, part)
            for executor, handler, part in zip(executors, handlers, self._parts, strict=True)
        ]

    def is_done(self) -> bool:
        return all(future.done() for future in self._futures)

    def results(self) -> Iterator[tuple[Entry, Result | None]]:
        """Wait for all parts; give each entry in input order with its result, None for a malformed line."""
        results = [iter(future.result()) for future in self._futures]
        for entry, owner in zip(self.entries, self._owners, strict=True):
            yield entry, None if owner == _NOBODY else next(results[owner])


def worker_of(payment_id: str, workers: int) -> int:
    """Which worker has a payment: the same in every run, so that what goes wrong in one can be repeated."""
    return zlib.crc32(payment_id.encode()) % workers
