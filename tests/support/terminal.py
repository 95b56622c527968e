"""Terminals: a command's streams on one, and everything that it shows."""

import fcntl
import os
import pty
import select
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PATIENCE_SECONDS = 60


class Terminal:
    """Two ends of a terminal: the screen's, and the one for a command's streams."""

    def __init__(self) -> None:
        self._screen, self.stream = pty.openpty()

    def type(self, keys: bytes) -> None:
        """Send keys to the command."""
        os.write(self._screen, keys)

    def read_until(self, end: bytes) -> bytes:
        """Return the bytes shown so far, as soon as they end like this."""
        shown = b""
        while not shown.endswith(end):
            assert select.select([self._screen], [], [], PATIENCE_SECONDS)[0], shown
            shown += os.read(self._screen, 65_536)
        return shown

    def read_all(self) -> bytes:
        """Return everything shown until the command closes its streams. Closes the test's own."""
        self._close_stream()
        shown = b""
        with suppress(OSError):  # the end of a terminal is an error of read
            while True:
                assert select.select([self._screen], [], [], PATIENCE_SECONDS)[0], shown
                shown += os.read(self._screen, 65_536)
        return shown

    def close(self) -> None:
        """Close both ends."""
        self._close_stream()
        os.close(self._screen)

    def _close_stream(self) -> None:
        if self.stream >= 0:
            os.close(self.stream)
            self.stream = -1


@contextmanager
def open_terminal(columns: int = 80, *, cooked: bool = False) -> Iterator[Terminal]:
    """Open a terminal. Only a cooked one edits lines, and makes a signal of Ctrl-C."""
    terminal = Terminal()
    if not cooked:
        tty.setraw(terminal.stream)
    fcntl.ioctl(terminal.stream, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    try:
        yield terminal
    finally:
        terminal.close()


def take_terminal() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C there becomes a signal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
