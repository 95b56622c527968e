"""Run: one ingest, from its first line to its last count.

Belongs here: the course of a run: lines in, batches out to workers, results back in input order.
Nothing here decides.

Lines are read into rounds. A round is split by payment among the workers, each with a thread and a
connection of its own that takes its parts in order, so each payment keeps its order. A few rounds
are in flight at once: one is parsed while the server works on the one before. Rounds are reported
in input order, each when all of its parts are durable.

The same event_id under different payments may belong to different workers. The later line then
waits until everything before it is recorded, so the first line wins with any number of workers.

Memory is flat: the constants below bound the lines and bytes in flight.
"""

import contextlib
import gc
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import msgspec

from payproc.batch import InputEvent
from payproc.db.connection import Database
from payproc.errors import CannotFinish
from payproc.explain import Malformed
from payproc.handlers import DryRun, Recorder
from payproc.ingest.decisions import LineWriter
from payproc.ingest.lines import LineReader, OversizedLine
from payproc.ingest.rounds import Handler, MalformedLine, Round, choose_worker
from payproc.ingest.sources import format_name
from payproc.logic import OUTCOME_OF, Outcome, Reason
from payproc.runs import open_run, save_counts
from payproc.schemas import MAX_LINE_BYTES, TOO_LONG, parse_lines
from payproc.signals import Interrupt, block_signals

ROUND_LINES = 4_000
"""Lines in one round at most.

Enough for cheap round trips and flushes, and few enough to answer Ctrl-C at once.
"""

ROUND_BYTES = 4 << 20
"""Bytes of lines that close a round. One more line, of at most 1 MiB, may be in it."""

ROUNDS_IN_FLIGHT = 3
"""Rounds submitted and not reported yet: one at the server, one behind it, one being collected."""

PROGRESS_SECONDS = 1.0
"""Seconds between two writes of a run's counts to its row."""


class IngestSummary(msgspec.Struct):
    """Counts of an ingest so far. Field for field the object that `ingest --format json` prints."""

    run_id: int | None
    source: list[str]
    database: str = ""
    """The database's name, as in messages."""
    lines: int = 0
    malformed: int = 0
    events: int = 0
    outcomes: dict[Outcome, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    reasons: dict[Reason, int] = msgspec.field(default_factory=dict)
    known_conflicts: int = 0
    """Conflicts that were on record already."""
    differing_duplicates: int = 0
    """Duplicates with other content than the event on record."""
    elapsed_seconds: float = 0.0
    dry_run: bool = False

    def add(self, malformed: int, reasons: Counter[Reason], known_conflicts: int, differing_duplicates: int) -> None:
        """Add the counts of a round."""
        self.malformed += malformed
        self.events += reasons.total()
        self.lines = self.malformed + self.events
        for reason, count in reasons.items():
            self.outcomes[OUTCOME_OF[reason]] += count
        counts = Counter(self.reasons) + reasons
        self.reasons = {reason: counts[reason] for reason in Reason if counts[reason]}
        self.known_conflicts += known_conflicts
        self.differing_duplicates += differing_duplicates


class Options(msgspec.Struct, frozen=True):
    """Options of an ingest. `decisions` and `malformed` are files to write, already opened."""

    workers: int
    dry_run: bool = False
    decisions: IO[bytes] | None = None
    malformed: IO[bytes] | None = None
    label: str | None = None
    """Name of the run for people."""


class Ingest:
    """One run: it reads the sources in order, has workers record the events, and reports."""

    def __init__(
        self,
        database: Database | None,
        names: Sequence[str],
        options: Options,
        *,
        on_open: Callable[[], None] = lambda: None,
        on_malformed: Callable[[str, int, Malformed], None] = lambda *_: None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Prepare. `database` is None for a dry run if nothing is recorded yet.

        `on_open` is called before the first write, once the first source is readable.
        `on_malformed` gets source, line and reason of each malformed line, `on_progress` the bytes
        read so far.
        """
        self.summary = IngestSummary(None, [format_name(name) for name in names], dry_run=options.dry_run)
        self._database = database
        self._names = names
        self._options = options
        self._on_open = on_open
        self._on_malformed = on_malformed
        self._on_progress = on_progress
        self._writer = LineWriter(options.decisions, options.malformed, self.summary.source)
        # The memory of a dry run is not shared, so it has one worker.
        self._workers = 1 if options.dry_run else options.workers
        self._handlers: list[Handler] = []
        self._executors: list[ThreadPoolExecutor] = []
        self._forming = Round(self._workers)
        self._in_flight: deque[Round] = deque()
        self._worker_of: dict[str, int] = {}
        self._bytes_read = 0
        self._has_unsaved_counts = False
        self._began = time.monotonic()
        self._progress_at = self._began

    def run(self, stop: Interrupt) -> None:
        """Process all sources, or stop early after a signal.

        `summary` is correct even after an exception.

        Raises CannotFinish, WrongUsage for unreadable input, BrokenPipeError if the reader of a
        report is gone.
        """
        # No cycles arise here, so collections would only cost time.
        collects = gc.isenabled()
        gc.disable()
        try:
            for index, name in enumerate(self._names):
                if stop.signal is None:
                    with contextlib.closing(LineReader(name, index, self._options.malformed is not None)) as reader:
                        self._read(reader, stop)
            self._wait_for_all()
            self._close()  # before the last write, which may need the connection
            self._save_counts(finished=stop.signal is None)
            self._has_unsaved_counts = False
        finally:
            self._close()
            self._save_progress()
            self.summary.elapsed_seconds = round(time.monotonic() - self._began, 3)
            if collects:
                gc.enable()

    def _open(self) -> None:
        """Open the run, and a handler with a thread of its own for each worker."""
        self._on_open()
        if self._options.dry_run:
            self._handlers.append(DryRun(self._database))
        elif self._database is not None:
            self.summary.run_id = run_id = open_run(self._database, self.summary.source, self._options.label)
            for _ in range(self._workers):
                self._handlers.append(Recorder(self._database, run_id))
        self._executors += [ThreadPoolExecutor(1, "payproc-worker", block_signals) for _ in self._handlers]

    def _close(self) -> None:
        """End the threads and close the connections; cancel the batches that have not begun."""
        for executor in self._executors:
            executor.shutdown(cancel_futures=True)
        for handler in self._handlers:
            handler.close()

    def _read(self, reader: LineReader, stop: Interrupt) -> None:
        """Read one source to its end, reporting rounds as they are done."""
        while reader.is_open and stop.signal is None:
            if not reader.wait(stop.wake_up, 0):
                # The source is silent for now: submit and report its lines, and only then wait.
                self._submit()
                if self._in_flight:
                    self._report(self._in_flight.popleft())
                else:
                    self._save_progress()
                    reader.wait(stop.wake_up, None)
                continue
            before = reader.bytes_read
            lines = reader.read()
            if not self._executors:
                self._open()  # only now, because a source that its first bytes refuse must leave no trace
            self._add(lines, reader.index)
            self._bytes_read += reader.bytes_read - before
            while self._in_flight and self._in_flight[0].is_done():
                self._report(self._in_flight.popleft())

    def _add(self, lines: Sequence[tuple[int, bytes | OversizedLine]], source: int) -> None:
        """Parse numbered lines and add them to the forming round."""
        workers, worker_of_event = self._workers, self._worker_of
        parsed = iter(parse_lines([raw.removesuffix(b"\r") for _, raw in lines if isinstance(raw, bytes)]))
        for line, raw in lines:
            if isinstance(raw, bytes):
                result, size = next(parsed), len(raw)
            else:
                # Its spool takes a file descriptor, so few of them fill a round.
                result, size = Malformed(TOO_LONG), MAX_LINE_BYTES
            if isinstance(result, Malformed):
                self._forming.add_malformed(MalformedLine(raw, source, line, result))
            else:
                event, text = result
                worker = choose_worker(event.payment_id, workers)
                if worker_of_event.setdefault(event.event_id, worker) != worker:
                    self._wait_for_all()  # the first line of an event_id wins, for every timing of workers
                    worker_of_event[event.event_id] = worker
                self._forming.add(InputEvent(event, text, source, line), worker)
            self._forming.bytes += size
            if len(self._forming.entries) >= ROUND_LINES or self._forming.bytes >= ROUND_BYTES:
                self._submit()

    def _wait_for_all(self) -> None:
        """Submit the forming round, and report everything in flight."""
        self._submit()
        while self._in_flight:
            self._report(self._in_flight.popleft())

    def _submit(self) -> None:
        """Submit the forming round; report old ones if too many are in flight."""
        if not self._forming.entries:
            return
        self._forming.submit(self._executors, self._handlers)
        self._in_flight.append(self._forming)
        self._forming = Round(self._workers)
        while len(self._in_flight) > ROUNDS_IN_FLIGHT:
            self._report(self._in_flight.popleft())

    def _report(self, finished: Round) -> None:
        """Wait for a round; count and write the result of each of its lines."""
        malformed = known_conflicts = differing_duplicates = 0
        reasons: Counter[Reason] = Counter()
        writer, worker_of_event = self._writer, self._worker_of
        for result in finished.collect_results():
            if isinstance(result, MalformedLine):
                malformed += 1
                self._on_malformed(self.summary.source[result.source], result.line, result.reason)
                writer.add_malformed(result)
            else:
                worker_of_event.pop(result.input_event.event.event_id, None)  # it is on record now
                reasons[result.decision.reason] += 1
                known_conflicts += result.is_known
                differing_duplicates += result.differs
                writer.add(result)
        self.summary.add(malformed, reasons, known_conflicts, differing_duplicates)
        self._has_unsaved_counts = True
        writer.write()
        self._on_progress(self._bytes_read)
        if time.monotonic() - self._progress_at > PROGRESS_SECONDS:
            self._save_progress()

    def _save_progress(self) -> None:
        """Save interim counts for `payproc runs`, best effort; only the final save must succeed."""
        if self._has_unsaved_counts:
            with contextlib.suppress(CannotFinish):
                self._save_counts(finished=False)
        self._has_unsaved_counts = False
        self._progress_at = time.monotonic()

    def _save_counts(self, *, finished: bool) -> None:
        """Write the counts to the run's row. An interrupted run gets no finishing time."""
        summary = self.summary
        if self._database is None or summary.run_id is None:
            return
        outcomes = list(summary.outcomes.values())
        save_counts(self._database, summary.run_id, summary.lines, summary.malformed, outcomes, finished=finished)
