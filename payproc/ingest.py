"""Lines in, batches out to workers, results back in input order.

What belongs here: reading input, splitting work and putting it together again. Nothing here decides.

Lines are read into rounds. A round is split by payment among the workers, each with a thread and a connection of its
own that takes its parts in order, so each payment keeps its order. A few rounds are in flight at once: one is parsed
while the server works on the one before. Rounds are reported in input order, each when all of its parts are durable.

The same event_id under different payments may belong to different workers. Then the later line waits until everything
before it is recorded, so that the first line always wins, whatever the worker count and timing.

Memory is flat: the constants below bound the lines and bytes in flight.
"""

import contextlib
import gc
import os
import re
import select
import shutil
import stat
import tempfile
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol

import msgspec

from payproc.db import Database
from payproc.errors import CannotFinish, WrongUsage
from payproc.handlers import Received, Recorder, Rehearsal, Result, Verdict
from payproc.logic import OUTCOME_OF, Outcome, Reason
from payproc.runs import open_run, save_counts
from payproc.schemas import MAX_LINE_BYTES, TOO_LONG, Malformed, parse_lines
from payproc.signals import Interrupt, block_signals
from payproc.text import plain_json

ROUND_LINES = 4_000
"""Most lines in one round: enough to make round trips and flushes cheap, few enough to answer Ctrl-C at once."""

ROUND_BYTES = 4 << 20
"""A round is closed once its lines have this many bytes; one more line, of at most 1 MiB, may be in it."""

ROUNDS_IN_FLIGHT = 3
"""Rounds handed out and not reported yet: one at the server, one behind it, one being collected."""

READ_BYTES = 256 << 10
"""Bytes asked for in one read; a pipe gives what is there. Fewer than a line may have, so none in it is too long."""

PROGRESS_SECONDS = 1.0
"""How often the counts of a run are written to its row while it goes on."""

STDIN = "<stdin>"
"""What standard input is called in messages and reports."""

_BOM = b"\xef\xbb\xbf"

_UNREADABLE = {
    b"\x1f\x8b": ("compressed with gzip", "zcat"),
    b"BZh": ("compressed with bzip2", "bzcat"),
    b"\xfd7zXZ": ("compressed with xz", "xzcat"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "zstdcat"),
    b"PK\x03\x04": ("compressed with zip", "unzip -p"),
    b"\xff\xfe{\0": ("UTF-16", "iconv -f UTF-16 -t UTF-8"),  # as Windows PowerShell writes with >
    b"\xfe\xff\0{": ("UTF-16", "iconv -f UTF-16 -t UTF-8"),
}
"""First bytes of files that somebody forgot to convert; JSON Lines in UTF-8 cannot start like this."""


class Summary(msgspec.Struct):
    """What an ingest did, so far. Field for field the object that `ingest --format json` prints."""

    run_id: int | None
    source: list[str]
    database: str = ""
    """Its name, as in messages."""
    lines: int = 0
    malformed: int = 0
    events: int = 0
    outcomes: dict[Outcome, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    reasons: dict[Reason, int] = msgspec.field(default_factory=dict)
    known_conflicts: int = 0
    """How many of the conflicts were on record already."""
    elapsed_seconds: float = 0.0
    dry_run: bool = False


class Options(msgspec.Struct, frozen=True):
    """How to ingest. `decisions` and `malformed` are files to write, already opened."""

    workers: int
    dry_run: bool = False
    decisions: IO[bytes] | None = None
    malformed: IO[bytes] | None = None


class OversizedLine(msgspec.Struct, frozen=True):
    """A line too long to be an event. Its bytes are kept, on disk, only if somebody wants them."""

    spool: IO[bytes] | None


class MalformedLine(msgspec.Struct, frozen=True):
    """A line that is not an event, where it is and why."""

    raw: bytes | OversizedLine
    source: int
    line: int
    error: str


Entry = Received | MalformedLine


class Handler(Protocol):
    """What processes a batch: a Recorder or a Rehearsal."""

    def handle(self, batch: Sequence[Received]) -> list[Result]: ...

    def close(self) -> None: ...


# ---- Reading -------------------------------------------------------------------------------------


def check_sources(names: Sequence[str]) -> None:
    """Refuse what cannot be ingested, before anything is. Raises WrongUsage.

    Only regular files are opened for a look: opening a pipe would take what is in it.
    """
    if list(names).count("-") > 1:
        raise WrongUsage("-: given twice, but standard input can be read only once")
    for name in names:
        if name == "-":
            continue
        if not name:
            raise WrongUsage("FILE: is empty, expected the name of a file, or - for standard input")
        try:
            kind = Path(name).stat().st_mode
            if stat.S_ISDIR(kind):
                raise WrongUsage(
                    f"{name}: is a directory, expected a file of JSON Lines; name its files, as in {name}/*"
                )
            if stat.S_ISREG(kind):
                with Path(name).open("rb") as file:
                    refuse_unreadable(name, file.read(8))
        except OSError as error:
            # A shell passes a pattern on as it stands where it matches nothing.
            hint = "; a pattern that matches no file?" if re.search(r"[*?]", name) else ""
            raise WrongUsage(f"{name}: cannot be read: {error.strerror}{hint}") from error


def refuse_unreadable(name: str, start: bytes) -> None:
    """Raise WrongUsage if these are the first bytes of a file that has to be converted first."""
    for magic, (kind, tool) in _UNREADABLE.items():
        if start.startswith(magic):
            file = "FILE" if name == STDIN else name
            raise WrongUsage(f"{name}: is {kind}, expected JSON Lines in UTF-8; use: {tool} {file} | payproc ingest -")


class LineReader:
    """Reads numbered non-blank lines from one source as they come, never holding more than a read and a line."""

    def __init__(self, name: str, index: int, keep_oversized: bool) -> None:
        """Open the source. Raises CannotFinish if that fails."""
        self.name = _shown_name(name)
        self.index = index
        self.is_open = True
        self.bytes_read = 0
        self._keep_oversized = keep_oversized
        self._number = 0
        self._rest = bytearray()
        self._spool: IO[bytes] | None = None
        self._is_oversized = False
        try:
            self._descriptor = 0 if name == "-" else os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            if self._descriptor:
                # Opening must not wait for a FIFO's writer, where no signal would be heard; `wait` does that.
                os.set_blocking(self._descriptor, True)
        except OSError as error:
            raise CannotFinish(f"{self.name}: cannot be read: {error.strerror}") from error
        # Reading a regular file never has to wait for a writer.
        self._may_wait = not stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def wait(self, wake_up: int, seconds: float | None) -> bool:
        """Wait until a read would give something, or `wake_up` is readable; tell whether a read would."""
        if not self._may_wait:
            return True
        ready, _, _ = select.select([self._descriptor, wake_up], [], [], seconds)
        return self._descriptor in ready

    def read(self) -> list[tuple[int, bytes | OversizedLine]]:
        """Read once; give the lines that this completes, without their newline.

        At the end of the source, `is_open` becomes false.
        """
        try:
            block = os.read(self._descriptor, READ_BYTES)
        except OSError as error:
            raise CannotFinish(f"{self.name}: reading failed: {error.strerror}") from error
        if self.bytes_read == 0:
            self._refuse_unreadable(block)
        self.bytes_read += len(block)
        if not block:
            self.is_open = False
            block = b"\n"
        *complete, rest = block.split(b"\n")
        first = self._number + 1
        self._number += len(complete)
        lines: list[bytes | OversizedLine] = list(complete)
        if lines:  # only the first may have begun before this block, and so be too long
            lines[0] = self._completed(complete[0], first)
        self._keep(rest)
        return [
            (number, line)
            for number, line in enumerate(lines, first)
            if isinstance(line, OversizedLine) or line.strip(b" \t\r")
        ]

    def _completed(self, end: bytes, number: int) -> bytes | OversizedLine:
        if self._rest or self._is_oversized:
            self._keep(end)
            if self._is_oversized:
                oversized = OversizedLine(self._spool)
                self._is_oversized, self._spool = False, None
                return oversized
            end = bytes(self._rest)
            self._rest.clear()
        if number == 1:
            end = end.removeprefix(_BOM)
        return end

    def _keep(self, part: bytes) -> None:
        """Keep the beginning of a line, until it is too long to be one."""
        self._rest += part
        is_too_long = len(self._rest) > MAX_LINE_BYTES + len(_BOM) + len(b"\r")
        if not (self._is_oversized or is_too_long):
            return
        try:
            if not self._is_oversized:
                self._is_oversized = True
                self._spool = tempfile.TemporaryFile() if self._keep_oversized else None  # noqa: SIM115 - outlives this
            if self._spool is not None:
                self._spool.write(self._rest)
        except OSError as error:
            raise CannotFinish(
                f"{self.name}: a line too long to be an event cannot be kept for --malformed in the folder for "
                f"temporary files (TMPDIR): {error.strerror}"
            ) from error
        self._rest.clear()

    def _refuse_unreadable(self, start: bytes) -> None:
        try:
            refuse_unreadable(self.name, start)
        except WrongUsage as error:
            if self.index == 0:
                raise
            raise CannotFinish(str(error)) from error  # the sources before it may be recorded by now

    def close(self) -> None:
        """Close the source; standard input stays open."""
        self.is_open = False
        if self._descriptor > 0:
            os.close(self._descriptor)
            self._descriptor = -1


# ---- Working -------------------------------------------------------------------------------------


_NOBODY = -1


class _Round:
    """Some lines in input order, and the parts of them that the workers have."""

    def __init__(self, workers: int) -> None:
        self.entries: list[Entry] = []
        self.bytes = 0
        self._parts: list[list[Received]] = [[] for _ in range(workers)]
        self._owners: list[int] = []
        """For each entry, which worker has it; of a malformed line, nobody."""
        self._futures: list[Future[list[Result]]] = []

    def add(self, received: Received, worker: int) -> None:
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


class _DecisionLine(msgspec.Struct, omit_defaults=True):
    """One object of `--decisions`, for an event."""

    source: str
    line: int
    event_id: str
    payment_id: str
    type: str
    outcome: str
    reason: str
    state_before: str
    state_after: str
    original_outcome: str | None = None
    recorded: dict[str, str] | None = None
    known: bool = False


class Ingest:
    """One run: reads the sources in order, hands the events to workers, and reports what became of them."""

    def __init__(
        self,
        database: Database | None,
        names: Sequence[str],
        options: Options,
        *,
        on_malformed: Callable[[str], None] = lambda _: None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Prepare. `database` None is for a dry run where nothing is recorded yet.

        `on_malformed` gets `FILE:LINE: what` for each malformed line, `on_progress` the bytes read so far.
        """
        self.summary = Summary(None, [_shown_name(name) for name in names], dry_run=options.dry_run)
        self._database = database
        self._names = names
        self._options = options
        self._on_malformed = on_malformed
        self._on_progress = on_progress
        # What a rehearsal remembers is not shared, so it works alone.
        self._workers = 1 if options.dry_run else options.workers
        self._handlers: list[Handler] = []
        self._executors: list[ThreadPoolExecutor] = []
        self._forming = _Round(self._workers)
        self._in_flight: deque[_Round] = deque()
        self._worker_of: dict[str, int] = {}
        self._reasons: Counter[Reason] = Counter()
        self._known_conflicts = 0
        self._bytes_read = 0
        self._has_unsaved_counts = False
        self._began = time.monotonic()
        self._progress_at = self._began

    def run(self, stop: Interrupt) -> None:
        """Process everything, or until `stop` is requested; `summary` tells how far it got, also after an exception.

        Raises CannotFinish, WrongUsage for unreadable input, BrokenPipeError if nobody reads a report any more.
        """
        # Nothing here makes cycles, so the collector would only look through events in flight, again and again.
        collects = gc.isenabled()
        gc.disable()
        try:
            self._open()
            for index, name in enumerate(self._names):
                if stop.signal is None:
                    with contextlib.closing(LineReader(name, index, self._options.malformed is not None)) as reader:
                        self._read(reader, stop)
            self._submit()
            while self._in_flight:
                self._report(self._in_flight.popleft())
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
        if self._options.dry_run:
            self._handlers.append(Rehearsal(self._database))
        elif self._database is not None:
            self.summary.run_id = run_id = open_run(self._database, self.summary.source)
            for _ in range(self._workers):
                self._handlers.append(Recorder(self._database, run_id))
        self._executors += [ThreadPoolExecutor(1, "payproc-worker", block_signals) for _ in self._handlers]

    def _close(self) -> None:
        for executor in self._executors:
            executor.shutdown(cancel_futures=True)
        for handler in self._handlers:
            handler.close()

    def _read(self, reader: LineReader, stop: Interrupt) -> None:
        while reader.is_open and stop.signal is None:
            if not reader.wait(stop.wake_up, 0):
                # Nothing more right now: work with what there is, then report it, and only then wait.
                self._submit()
                if self._in_flight:
                    self._report(self._in_flight.popleft())
                else:
                    self._save_progress()
                    reader.wait(stop.wake_up, None)
                continue
            before = reader.bytes_read
            self._add(reader.read(), reader.index)
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
                # Its spool takes a file descriptor, so few of them make a round, too.
                result, size = Malformed(TOO_LONG), MAX_LINE_BYTES
            if isinstance(result, Malformed):
                self._forming.add_malformed(MalformedLine(raw, source, line, result.error))
            else:
                event, text = result
                worker = worker_of(event.payment_id, workers)
                if worker_of_event.setdefault(event.event_id, worker) != worker:
                    self._wait_for_all()
                    worker_of_event[event.event_id] = worker
                self._forming.add(Received(event, text, source, line), worker)
            self._forming.bytes += size
            if len(self._forming.entries) >= ROUND_LINES or self._forming.bytes >= ROUND_BYTES:
                self._submit()

    def _wait_for_all(self) -> None:
        """Record everything before a line whose event_id another worker has under another payment: the first wins."""
        self._submit()
        while self._in_flight:
            self._report(self._in_flight.popleft())

    def _submit(self) -> None:
        """Hand out the forming round; report old ones if too many are in flight."""
        if not self._forming.entries:
            return
        self._forming.submit(self._executors, self._handlers)
        self._in_flight.append(self._forming)
        self._forming = _Round(self._workers)
        while len(self._in_flight) > ROUNDS_IN_FLIGHT:
            self._report(self._in_flight.popleft())

    def _report(self, finished: _Round) -> None:
        """Wait for a round; count and write what became of each of its lines."""
        decisions = bytearray()
        malformed = 0
        malformed_lines: list[bytes | OversizedLine] = []
        reasons = self._reasons
        worker_of_event = self._worker_of
        writes_decisions = self._options.decisions is not None
        for entry, result in finished.results():
            if isinstance(result, Verdict):
                worker_of_event.pop(result.received.event.event_id, None)  # on record from here on
                reasons[result.decision.reason] += 1
                if result.is_known:
                    self._known_conflicts += 1
                if writes_decisions:
                    decisions += self._decision_line(result)
                continue
            if isinstance(entry, Received) and isinstance(result, Malformed):
                entry = MalformedLine(entry.payload.encode(), entry.source, entry.line, result.error)  # noqa: PLW2901
            if isinstance(entry, MalformedLine):
                malformed += 1
                malformed_lines.append(entry.raw)
                decisions += self._report_malformed(entry)
        self._count(len(finished.entries), malformed)
        self._has_unsaved_counts = True
        if self._options.decisions is not None:
            _write("--decisions", self._options.decisions, decisions)
        if self._options.malformed is not None:
            for raw in malformed_lines:
                _write("--malformed", self._options.malformed, raw)
        self._on_progress(self._bytes_read)
        if time.monotonic() - self._progress_at > PROGRESS_SECONDS:
            self._save_progress()

    def _decision_line(self, verdict: Verdict) -> bytes:
        received, decision, on_record = verdict.received, verdict.decision, verdict.recorded
        event = received.event
        line = _DecisionLine(
            self.summary.source[received.source], received.line, event.event_id, event.payment_id, event.type,
            decision.outcome, decision.reason, decision.state_before, decision.state_after,
        )  # fmt: skip
        if on_record is not None and decision.reason is Reason.DUPLICATE_EVENT:
            line.original_outcome = on_record.outcome
        elif on_record is not None:
            line.recorded = {"payment_id": on_record.payment_id, "type": on_record.type}
            line.known = verdict.is_known
        return _json_line(line)

    def _report_malformed(self, malformed: MalformedLine) -> bytes:
        """List a malformed line; give its line for `--decisions`."""
        source = self.summary.source[malformed.source]
        self._on_malformed(f"{source}:{malformed.line}: {malformed.error}")
        return _json_line({"source": source, "line": malformed.line, "error": malformed.error})

    def _count(self, lines: int, malformed: int) -> None:
        summary = self.summary
        summary.lines += lines
        summary.malformed += malformed
        summary.events = summary.lines - summary.malformed
        summary.reasons = {reason: self._reasons[reason] for reason in Reason if self._reasons[reason]}
        summary.outcomes = dict.fromkeys(Outcome, 0)
        for reason, count in summary.reasons.items():
            summary.outcomes[OUTCOME_OF[reason]] += count
        summary.known_conflicts = self._known_conflicts

    def _save_progress(self) -> None:
        """Save the counts for those who watch. If that fails, so be it: the last time, at the end, has to work."""
        if self._has_unsaved_counts:
            with contextlib.suppress(CannotFinish):
                self._save_counts(finished=False)
        self._has_unsaved_counts = False
        self._progress_at = time.monotonic()

    def _save_counts(self, *, finished: bool) -> None:
        """Write the counts to the run's row. A run that was interrupted keeps no finishing time."""
        summary = self.summary
        if self._database is None or summary.run_id is None:
            return
        outcomes = list(summary.outcomes.values())
        save_counts(self._database, summary.run_id, summary.lines, summary.malformed, outcomes, finished=finished)


def worker_of(payment_id: str, workers: int) -> int:
    """Which worker has a payment: the same in every run, so that what goes wrong in one can be repeated."""
    return zlib.crc32(payment_id.encode()) % workers


def _json_line(value: object) -> bytes:
    """One object of `--decisions`, which may be read on a terminal."""
    encoded = msgspec.json.encode(value)
    is_plain = encoded.isascii() and b"\x7f" not in encoded
    return (encoded if is_plain else plain_json(encoded.decode()).encode()) + b"\n"


def _shown_name(name: str) -> str:
    """A source's name as text: file names may hold bytes that no text can."""
    return STDIN if name == "-" else os.fsencode(name).decode(errors="backslashreplace")


def _write(option: str, file: IO[bytes], content: bytes | bytearray | OversizedLine) -> None:
    """Write decisions, or a malformed line as it came, byte for byte, so that it can be mended and ingested."""
    try:
        if isinstance(content, OversizedLine):
            if content.spool is not None:
                content.spool.seek(0)
                shutil.copyfileobj(content.spool, file)
                content.spool.close()
        else:
            file.write(content)
        if option == "--malformed":
            file.write(b"\n")
        file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotFinish(
            f"{option}: cannot be written: {error.strerror}; what was recorded stays recorded, and is reported as "
            "duplicates when the same command is run again"
        ) from error
