"""The command in this process, which takes a tenth of the time of a process of its own."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator

import psycopg2.extensions
import pytest

from payproc.cli.main import main
from payproc.signals import SIGNALS
from tests.support.command import Finished

RunInProcess = Callable[..., Finished]


@contextlib.contextmanager
def commands_in_process(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[RunInProcess]:
    """Yield a function that runs the command; restore this process's handlers at the end."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def run(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["payproc", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Finished(code if isinstance(code, int) else 0, *capfd.readouterr())

    yield run
    psycopg2.extensions.set_wait_callback(None)
    for number, handler in handlers.items():
        signal.signal(number, handler)
