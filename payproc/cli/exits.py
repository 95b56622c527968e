"""The end of a command: exit codes, the line for an error, and the standard streams.

Belongs here: everything between an error or a signal and the end of the process. The rules for
signals are in signals.py.

Exit codes:

    0              done
    1              could not finish, not found, or refused
    2              wrong usage
    3              done, with findings, such as malformed lines or inconsistent records
    130, 143, 129  interrupted by SIGINT, SIGTERM or SIGHUP
    141            the reader of stdout went away
"""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

import typer

from payproc.cli.console import print_message
from payproc.errors import PayprocError, WrongUsage
from payproc.signals import interrupt

DONE_WITH_FINDINGS = 3
BROKEN_PIPE = 128 + signal.SIGPIPE


def repair_streams() -> None:
    """Make the standard streams safe to use. Exit with 2 if stdin or stdout is closed."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - open for as long as the process lives
    if sys.stdin is None or sys.stdout is None:
        # The next file that is opened would reuse the closed stream's descriptor.
        print_message("standard input or output is closed; use /dev/null for one that is not needed")
        raise SystemExit(WrongUsage.exit_code)
    _buffer_stdout()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _buffer_stdout() -> None:
    """Give stdout a buffer under PYTHONUNBUFFERED.

    A short write to a raw stream loses its rest silently.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and isinstance(sys.stdout.buffer, io.RawIOBase):
        buffered = open(sys.stdout.fileno(), "wb", closefd=False)  # noqa: SIM115
        sys.stdout = io.TextIOWrapper(buffered, sys.stdout.encoding, line_buffering=True)


def abandon_stdout() -> None:
    """Redirect stdout to /dev/null, because flushing it at exit would fail once more."""
    with contextlib.suppress(OSError):  # the process may have no descriptor left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def exit_on_errors() -> Iterator[None]:
    """Turn errors and signals into one line and an exit code. No traceback reaches a user."""
    try:
        interrupt.install()
        with interrupt.raised():
            yield
            sys.stdout.flush()
        interrupt.check()
    except PayprocError as error:
        if interrupt.signal is not None:  # an interrupted wait looks like an error of the database
            _exit_interrupted()
        print_message(str(error))
        try:
            sys.stdout.flush()
        except OSError:  # possibly the subject of the error
            abandon_stdout()
        raise typer.Exit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):  # the latter for Ctrl-C and Ctrl-D at a question
        _exit_interrupted()
    except BrokenPipeError:
        abandon_stdout()
        raise typer.Exit(BROKEN_PIPE) from None
    except OSError as error:
        abandon_stdout()
        print_message(f"{error.filename or 'output could not be written'}: {error.strerror}")
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception as error:
        _exit_unexpectedly(error)


def _exit_interrupted() -> NoReturn:
    print_message("interrupted")
    raise typer.Exit(get_interrupt_code()) from None


def get_interrupt_code() -> int:
    """Return the exit code for the signal that arrived, or for Ctrl-C."""
    return 128 + (interrupt.signal or signal.SIGINT)


def _exit_unexpectedly(error: Exception) -> NoReturn:
    """Report an unexpected error; with PAYPROC_DEBUG, raise it again for its traceback."""
    if _is_about_limits(error):
        print_message(f"this session's limits are too low: {str(error) or 'out of memory'}; see ulimit -a")
        raise typer.Exit(1) from None
    if os.environ.get("PAYPROC_DEBUG"):
        raise error
    print_message(f"internal error: {type(error).__name__}: {error} (PAYPROC_DEBUG=1 shows where)")
    raise typer.Exit(1) from None


def _is_about_limits(error: Exception) -> bool:
    """Return whether memory ran out, a library could not be mapped or a thread not be started."""
    words = {RuntimeError: "start new thread", ImportError: "failed to map"}.get(type(error))
    return isinstance(error, MemoryError) or (words is not None and words in str(error))
