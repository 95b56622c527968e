"""The command inside the test's process, in a tenth of the time that a process of its own takes."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import psycopg2.extensions
import pytest
import typer
from sqlalchemy import URL

from payproc.cli import main as cli
from tests.support.command import Finished, Payproc, parse_summary

# Typer reads the signatures of all commands for each run, which takes as long as many a command.
typer.main.get_command = cache(typer.main.get_command)


class InProcess:
    """The command, called as a function, with a working directory and an environment of its own.

    Signals, pipes, limits and the end of a process need `Payproc`.
    """

    def __init__(self, folder: Path, url: URL | None) -> None:
        self.process = Payproc(folder, url)
        """The same as a process."""
        self.folder = folder
        self.environment = self.process.environment

    def __call__(self, *arguments: str | Path, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Finished:
        """Run the command to its end."""
        with ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write(stdin)
            files[0].seek(0)
            stack.enter_context(_surroundings(self.folder, {**self.environment, **(env or {})}))
            stack.enter_context(_streams(files))
            code = _run([str(argument) for argument in arguments])
            stdout, stderr = (_content(file) for file in files[1:])
        assert "Traceback" not in stderr, stderr
        return Finished(code, stdout, stderr)

    def summary(self, *arguments: str | Path, code: int = 0, **options: Any) -> dict[str, Any]:
        """Ingest, and return the summary in JSON."""
        return parse_summary(self("ingest", "--format", "json", *arguments, **options), code)


def _run(arguments: list[str]) -> int:
    """Call the console script; return its exit code."""
    sys.argv = ["payproc", *arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    sys.stdout.flush()
    sys.stderr.flush()
    return ended.value.code if isinstance(ended.value.code, int) else 0


@contextmanager
def _surroundings(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Replace the environment and the working directory.

    Restores them, the arguments and the handlers of signals.
    """
    arguments, before, cwd = sys.argv, dict(os.environ), Path.cwd()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        os.chdir(cwd)
        sys.argv = arguments
        psycopg2.extensions.set_wait_callback(None)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _streams(files: Sequence[IO[bytes]]) -> Iterator[None]:
    """Replace the standard streams and the descriptors below them."""
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in range(3)]
    for number, file in enumerate(files):
        os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - descriptors
        for number, mode in enumerate("rww")
    )
    try:
        yield
    finally:
        for number, descriptor in enumerate(kept):
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdin, sys.stdout, sys.stderr = before


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()
