"""Signals: the effect of SIGINT, SIGTERM and SIGHUP on a command.

The rules, except while `payproc exec` waits for a program, which gets the signals instead:

1. The first signal interrupts the command. It raises KeyboardInterrupt at once. During an ingest it
   requests a stop after the batches in flight instead. An export completes its block of lines
   first, and `resolve` the decision being recorded.
2. Later signals are only noted, so nothing disturbs the clean-up. Signals come in bursts, because
   systemd and closing terminals send two, and people press Ctrl-C again.
3. A signal BURST_SECONDS or more after the first ends the process at once, without a clean-up. A
   server that does not answer, or a reader that does not read, must not block the process for ever.
   The kernel releases its locks, and the next command stops an embedded server that was left
   running.
4. Signals are held while the embedded server starts or stops and its locks change hands. A start
   checks for signals at each poll, a stop has a time limit of its own, and rule 3 applies to
   neither.

A Python handler waits until the main thread leaves its current C function, such as the driver's
wait for an answer. So a thread watches the signals for rule 3. It reads them from the descriptor
given to signal.set_wakeup_fd. It also wakes a main thread that waits in select, because a signal
just before a system call interrupts nothing.
"""

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subprocess import Popen

# Few imports here, because Ctrl-C ends in a traceback until `let_signals_kill` is called.

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

BURST_SECONDS = 0.5
"""Signals within this time of the first belong to the same burst."""


class Mode(Enum):
    """Effect of the first signal on the main thread, in a section of the code."""

    RAISED = "raises KeyboardInterrupt at once"
    NOTED = "is noted; the work checks for it at a suitable point"
    HELD = "is noted, and raises KeyboardInterrupt at the next check"
    PUT_OFF = "is noted until the section ends"


class Interrupt:
    """The signals of this process. `signal` is the first one, None before it."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.wake_up = -1
        """A descriptor that becomes readable with the first signal."""
        self._is_ending = False
        self._mode = Mode.NOTED

    def install(self) -> None:
        """Take over the signals, and forget earlier ones. Rule 3 counts those of the whole process.

        Ignored signals, as under nohup, stay ignored.
        """
        self.signal = None
        self._is_ending = False
        self._mode = Mode.NOTED
        if self.wake_up < 0:
            self._start_watching()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def raised(self) -> "Section":
        """Let a signal raise KeyboardInterrupt at once."""
        return Section(self, Mode.RAISED)

    def noted(self) -> "Section":
        """Note a signal in `signal` alone. It raises nothing, even at the end of the section."""
        return Section(self, Mode.NOTED)

    def held(self) -> "Section":
        """Let a signal raise KeyboardInterrupt only in `check`."""
        return Section(self, Mode.HELD)

    def put_off(self) -> "Section":
        """Put signals off until the end of the section."""
        return Section(self, Mode.PUT_OFF)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived, except while signals are put off."""
        if self.signal is not None and self._mode is not Mode.PUT_OFF:
            self._raise()

    def take(self) -> int | None:
        """Return the signal, if any, and forget it. The caller ends the command by it."""
        number, self.signal = self.signal, None
        return number

    def enter(self, mode: Mode) -> Mode:
        """Begin a section, and return the previous mode.

        Raise KeyboardInterrupt if a signal is pending for this one.
        """
        before, self._mode = self._mode, mode
        if mode is Mode.RAISED and self.signal is not None and not self._is_ending:
            self._mode = before
            self._raise()
        return before

    def leave(self, before: Mode, *, is_failing: bool) -> None:
        """End a section. Raise its pending signal, unless another exception is under way."""
        if self._mode is Mode.NOTED and self.signal is not None:
            self._is_ending = True
        self._mode = before
        if before is Mode.RAISED and self.signal is not None and not (is_failing or self._is_ending):
            self._raise()

    def _handle(self, number: int, _: object) -> None:
        # Raise once, because a second exception would hit the code that cleans up after the first.
        if self._is_ending:
            return
        if self.signal is None:
            # Note it as well, because an exception in a callback of the garbage collector is lost.
            self.signal = number
        if self._mode is Mode.RAISED:
            self._raise()

    def _raise(self) -> None:
        self._is_ending = True
        raise KeyboardInterrupt

    def _start_watching(self) -> None:
        from threading import Thread  # 1 ms, in which Ctrl-C would end in a traceback

        signals, wakeup = os.pipe()
        self.wake_up, wake = os.pipe()
        for descriptor in (wakeup, wake):
            os.set_blocking(descriptor, False)
        Thread(target=self._watch, args=(signals, wake), name="payproc-signals", daemon=True).start()
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)

    def _watch(self, signals: int, wake: int) -> None:
        block_signals()
        first: int | None = None
        first_at = 0.0
        while True:
            for number in os.read(signals, 1024):
                if signal.getsignal(number) != self._handle:  # such as SIGWINCH
                    continue
                if first is None:
                    first, first_at = number, time.monotonic()
                    os.write(wake, b"\0")
                elif time.monotonic() - first_at >= BURST_SECONDS and self._mode in (Mode.RAISED, Mode.NOTED):
                    _end_at_once(first)


interrupt = Interrupt()
"""The one instance, because signals belong to a process."""


class Section:
    """A part of the code with a mode of its own.

    A class, because a signal may arrive between any two steps of a generator.
    """

    def __init__(self, interrupt: Interrupt, mode: Mode) -> None:
        self._interrupt = interrupt
        self._mode = mode

    def __enter__(self) -> Interrupt:
        self._before = self._interrupt.enter(self._mode)
        return self._interrupt

    def __exit__(self, kind: object, *_: object) -> None:
        self._interrupt.leave(self._before, is_failing=kind is not None)


@contextmanager
def pass_signals_on(process: "Popen[bytes]") -> Iterator[None]:
    """Pass signals on to a child, and let them end only that.

    A terminal sends Ctrl-C to the child as well, so then it is not passed on.
    """

    def pass_on(number: int, _: object) -> None:
        if number == signal.SIGTERM or not _is_in_foreground():
            process.send_signal(number)

    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGQUIT)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    try:
        if (early := interrupt.take()) is not None:
            pass_on(early, None)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_in_foreground() -> bool:
    """Return whether this process group gets the signals of a terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def let_signals_kill() -> None:
    """Let Ctrl-C end the process without a traceback during imports, as SIGTERM and SIGHUP do."""
    if os.getpid() == 1:  # in a container: the kernel drops signals to process 1 that have no handler
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: os._exit(128 + number))
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def block_signals() -> None:
    """Keep signals away from this thread, so that the main thread gets them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _end_at_once(number: int) -> None:
    if select.select([], [2], [], 0)[1]:  # a write would wait if nobody reads stderr
        os.write(2, b"payproc: interrupted without cleaning up\n")
    os._exit(128 + number)
