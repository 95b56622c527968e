"""Lines: the bytes of a source, cut at line feeds.

Belongs here: reading a source as its bytes arrive. Nothing here knows the meaning of a line.
"""

import os
import select
import stat
import tempfile
from typing import IO

import msgspec

from payproc.errors import CannotFinish, PayprocError, WrongUsage
from payproc.ingest.sources import format_name, refuse_unreadable
from payproc.schemas import MAX_LINE_BYTES

READ_BYTES = 256 << 10
"""Bytes per read. Below MAX_LINE_BYTES, so a line within one block is never oversized."""

_BOM = b"\xef\xbb\xbf"


class OversizedLine(msgspec.Struct, frozen=True):
    """A line too long to be an event. Its bytes are kept on disk, and only for `--malformed`."""

    spool: IO[bytes] | None


class LineReader:
    """Reader of the numbered non-blank lines of one source, as they arrive.

    It holds one read and one line at most.
    """

    def __init__(self, name: str, index: int, keep_oversized: bool) -> None:
        """Open the source. Raises WrongUsage or CannotFinish if that fails."""
        self.name = format_name(name)
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
                # Opening a FIFO must not wait for its writer, deaf to signals; `wait` does that.
                os.set_blocking(self._descriptor, True)
        except OSError as error:
            raise self._unreadable(f"{self.name}: cannot be read: {error.strerror}") from error
        # Reading a regular file never has to wait for a writer.
        self._may_wait = not stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def wait(self, wake_up: int, seconds: float | None) -> bool:
        """Wait until a read would not block, or `wake_up` is readable; return True for a read."""
        if not self._may_wait:
            return True
        ready, _, _ = select.select([self._descriptor, wake_up], [], [], seconds)
        return self._descriptor in ready

    def read(self) -> list[tuple[int, bytes | OversizedLine]]:
        """Read once; return the lines that this completes, without their newline.

        At the end of the source, `is_open` becomes false.
        """
        try:
            block = os.read(self._descriptor, READ_BYTES)
        except OSError as error:
            raise CannotFinish(f"{self.name}: reading failed: {error.strerror}") from error
        if self.bytes_read == 0:
            try:
                refuse_unreadable(self.name, block)
            except WrongUsage as error:
                raise self._unreadable(str(error)) from error
        self.bytes_read += len(block)
        if not block:
            self.is_open = False
            block = b"\n"
        *complete, rest = block.split(b"\n")
        first = self._number + 1
        self._number += len(complete)
        lines: list[bytes | OversizedLine] = list(complete)
        if lines:  # only the first may have begun before this block, and so be oversized
            lines[0] = self._complete(complete[0], first)
        self._keep(rest)
        return [
            (number, line)
            for number, line in enumerate(lines, first)
            if isinstance(line, OversizedLine) or line.strip(b" \t\r")
        ]

    def close(self) -> None:
        """Close the source; standard input stays open."""
        self.is_open = False
        if self._descriptor > 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _complete(self, end: bytes, number: int) -> bytes | OversizedLine:
        """Return a line with its beginning from earlier blocks."""
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
        """Keep the beginning of a line until it is oversized, and then on disk if it is wanted."""
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

    def _unreadable(self, problem: str) -> PayprocError:
        """Return the error of an unreadable source: wrong usage while nothing is recorded yet."""
        return CannotFinish(problem) if self.index else WrongUsage(problem)
