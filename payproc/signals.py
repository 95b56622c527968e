"""Signals: what SIGINT, SIGTERM and SIGHUP do to a command.

The rule:

1. The first signal interrupts the command. It raises KeyboardInterrupt at once, or, during an ingest, requests a stop
   after the batches in flight. An export writes its line to the end first.
2. Later signals are only noted, so nothing disturbs cleaning up. Signals come in bursts: systemd and closing terminals
   send two, and people press Ctrl-C again.
3. A signal that arrives BURST_SECONDS or more after the first ends the process at once, without cleaning up: a server
   that does not answer, or a reader that does not read, must not hold it for ever. The kernel gives back its locks, and
   the next command stops an embedded server that was left running.
4. While the embedded server starts or stops, and its locks change hands, signals are held. A start looks for them each
   time it polls, a stop has a limit of its own, and rule 3 does not apply to either.

A handler in Python waits until the main thread leaves the C function that it is in, such as the driver's wait for an
answer. So a thread watches the signals for rule 3. It learns of them from the descriptor that signal.set_wakeup_fd
names, and wakes up a main thread that waits in select, because a signal just before a system call interrupts nothing.
"""

import os
import signal
from enum import Enum

# No more imports here: until `let_signals_kill` is called, Ctrl-C ends in a traceback.

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

BURST_SECONDS = 0.5
"""Signals that arrive within this time of the first belong to the same burst."""


class Mode(Enum):
    """Effect of the first signal on the main thread."""

    RAISED = "raises KeyboardInterrupt at once"
    NOTED = "is noted; the work looks at it where that suits"
    HELD = "is noted, and raises KeyboardInterrupt at the next check"
    PUT_OFF = "is noted until the section ends"


class Interrupt:
    """The signals of this process. `signal` is the first one that arrived."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.wake_up = -1
        """A descriptor that becomes readable with the first signal."""
        self._is_ending = False
        self._mode = Mode.NOTED

    def install(self) -> None:
        """Take over the signals, and forget earlier ones. Ignored ones, as under nohup, stay ignored."""
        self.signal = None
        self._is_ending = False
        self._mode = Mode.NOTED
        if self.wake_up < 0:
            self._start_watching()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def raised(self) -> "Section":
        """Let a signal raise KeyboardInterrupt at once."""
        return Section(self, Mode.RAISED)

    def noted(self) -> "Section":
        """Let a signal be noted in `signal` alone; it raises nothing at the end of the section, either."""
        return Section(self, Mode.NOTED)

    def held(self) -> "Section":
        """Let a signal raise KeyboardInterrupt in `check` alone."""
        return Section(self, Mode.HELD)

    def put_off(self) -> "Section":
        """Put signals off until the end of the section."""
        return Section(self, Mode.PUT_OFF)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived, except where signals are put off."""
        if self.signal is not None and self._mode is not Mode.PUT_OFF:
            self._raise()

    def take(self) -> int | None:
        """Return the signal that has arrived, if any, and forget it: the caller ends the command by it."""
        number, self.signal = self.signal, None
        return number

    def enter(self, mode: Mode) -> Mode:
        """Begin a section; return the mode to go back to. Raise KeyboardInterrupt if a signal was put off for this."""
        before, self._mode = self._mode, mode
        if mode is Mode.RAISED and self.signal is not None and not self._is_ending:
            self._mode = before
            self._raise()
        return before

    def leave(self, before: Mode, *, is_failing: bool) -> None:
        """End a section. What it put off is raised, unless another exception is on its way."""
        if self._mode is Mode.NOTED and self.signal is not None:
            self._is_ending = True
        self._mode = before
        if before is Mode.RAISED and self.signal is not None and not (is_failing or self._is_ending):
            self._raise()

    def _note(self, number: int, _: object) -> None:
        # Raised once: a second exception would hit the code that cleans up after the first.
        if self._is_ending:
            return
        if self.signal is None:
            # Noted as well as raised: an exception in a callback of the garbage collector, say, is lost.
            self.signal = number
        if self._mode is Mode.RAISED:
            self._raise()

    def _raise(self) -> None:
        self._is_ending = True
        raise KeyboardInterrupt

    def _start_watching(self) -> None:
        from threading import Thread

        signals, wakeup = os.pipe()
        self.wake_up, wake = os.pipe()
        for descriptor in (wakeup, wake):
            os.set_blocking(descriptor, False)
        Thread(target=self._watch, args=(signals, wake), name="payproc-signals", daemon=True).start()
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)

    def _watch(self, signals: int, wake: int) -> None:
        from time import monotonic

        block_signals()
        first: int | None = None
        first_at = 0.0
        while True:
            for number in os.read(signals, 1024):
                if signal.getsignal(number) != self._note:  # such as a window's new size
                    continue
                if first is None:
                    first, first_at = number, monotonic()
                    os.write(wake, b"\0")
                elif monotonic() - first_at >= BURST_SECONDS and self._mode in (Mode.RAISED, Mode.NOTED):
                    _end_at_once(first)


interrupt = Interrupt()
"""Signals belong to a process, so there is one."""


class Section:
    """A part of the code with a mode of its own. A class, because a signal may arrive between any two of its steps."""

    def __init__(self, interrupt: Interrupt, mode: Mode) -> None:
        self._interrupt = interrupt
        self._mode = mode

    def __enter__(self) -> Interrupt:
        self._before = self._interrupt.enter(self._mode)
        return self._interrupt

    def __exit__(self, kind: object, *_: object) -> None:
        self._interrupt.leave(self._before, is_failing=kind is not None)


def let_signals_kill() -> None:
    """Let Ctrl-C end the process without a traceback while modules are imported, as SIGTERM and SIGHUP do."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def block_signals() -> None:
    """Keep signals away from this thread, so that the main thread gets them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _end_at_once(number: int) -> None:
    from select import select

    if select([], [2], [], 0)[1]:  # where nobody reads stderr, writing would wait
        os.write(2, b"payproc: interrupted without cleaning up\n")
    os._exit(128 + number)
