"""The installed command as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, NamedTuple

from sqlalchemy import URL

COMMAND = Path(sys.executable).with_name("payproc")


class Finished(NamedTuple):
    """Exit code and output of a finished command."""

    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Both streams."""
        return self.stdout + self.stderr


class RunningCommand(subprocess.Popen[bytes]):
    """A command that runs, with a pipe to each of its streams unless the test gave another."""

    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def __exit__(self, failure: type[BaseException] | None, *rest: Any) -> None:
        """Wait for its end, but not after a failure, which may be that it does not end."""
        if failure is not None:
            self.kill()
        super().__exit__(failure, *rest)


class Payproc:
    """The installed command, with a working directory and an environment of its own."""

    def __init__(self, folder: Path, url: URL | None) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TZ", "TMPDIR")}
        # No terminal, no user's settings; COLUMNS as a pipe would have it.
        self.environment = {**kept, "HOME": str(folder), "PAYPROC_HOME": str(folder / "home"), "COLUMNS": "80"}
        if url is not None:
            rendered = url.set(drivername="postgresql").render_as_string(hide_password=False)
            self.environment["DATABASE_URL"] = rendered

    def start(self, *arguments: str | bytes | Path, **options: Any) -> RunningCommand:
        """Start the command and leave it running."""
        environment = {**self.environment, **options.pop("env", {})}
        return RunningCommand(
            [options.pop("command", COMMAND), *arguments],
            cwd=self.folder,
            env=environment,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def __call__(self, *arguments: str | bytes | Path, stdin: bytes | None = None, **options: Any) -> Finished:
        """Run the command to its end."""
        if stdin is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(*arguments, **options) as process:
            stdout, stderr = process.communicate(stdin, timeout=120)
        assert b"Traceback" not in (stderr or b""), stderr.decode()
        return Finished(process.returncode, (stdout or b"").decode(), (stderr or b"").decode())

    def summary(self, *arguments: str | bytes | Path, code: int = 0, **options: Any) -> dict[str, Any]:
        """Ingest, and return the summary in JSON."""
        return parse_summary(self("ingest", "--format", "json", *arguments, **options), code)


def parse_summary(finished: Finished, code: int = 0) -> dict[str, Any]:
    """Return the summary that an ingest printed; it must have ended with this code."""
    assert finished.code == code, finished
    summary: dict[str, Any] = json.loads(finished.stdout)
    return summary


def messages(finished: Finished) -> list[str]:
    """Return the lines on stderr, without the one that names the database."""
    return [row for row in finished.stderr.splitlines() if not row.startswith("payproc: database ")]


def error_line(finished: Finished, code: int) -> str:
    """Return the one line on stderr that a failed command ends with."""
    assert finished.code == code, finished
    (line,) = messages(finished)
    return line
