"""Places: folders with a home, in which commands run that signals end."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from tests.support.command import COMMAND
from tests.support.homes import copy_home, find_fast_folder
from tests.support.postgres import wait_for

Process = subprocess.Popen[bytes]

SOON_SECONDS = 5
"""The longest time from a signal to the end of a command."""


class Place(NamedTuple):
    """A folder with the home of an embedded server, in which commands run."""

    folder: Path

    @property
    def home(self) -> Path:
        """The home."""
        return self.folder / "home"

    def start(self, *arguments: str, stdin: int = subprocess.PIPE, stderr: int = subprocess.PIPE) -> Process:
        """Start a command and leave it running."""
        environment = {"PATH": os.environ["PATH"], "PAYPROC_HOME": str(self.home), "HOME": str(self.folder)}
        # Under nohup, this process ignores SIGHUP, and so would the command.
        command: list[str | Path] = ["env", "--default-signal=HUP,INT", COMMAND, *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr
        )

    def run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run a command that must succeed, as proof of a free way. Return its stdout."""
        process = self.start(*arguments)
        stdout, stderr = process.communicate(stdin, timeout=60)
        assert process.returncode == 0, stderr.decode()
        return stdout

    def find_processes(self) -> list[int]:
        """Return the processes that live in the home: a server's, or those of its creation."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "cwd").resolve(strict=True).is_relative_to(self.home):
                    found.append(int(process.name))
        return found

    @contextmanager
    def server_suspended(self) -> Iterator[None]:
        """Suspend all processes of the server in the middle of their work."""
        processes = self.find_processes()
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)


@contextmanager
def temporary_place(template: Path | None = None) -> Iterator[Place]:
    """Make a place, with a copy of a home. At the end no server may be left in it."""
    place = Place(Path(tempfile.mkdtemp(prefix="signals-", dir=find_fast_folder())))
    place.folder.chmod(0o755)  # the server's user passes through
    if template is not None:
        copy_home(template, place.home)
    try:
        yield place
    finally:
        left = place.find_processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not place.find_processes())
        shutil.rmtree(place.folder)
    assert not left, "a server was left behind"


def build_lines(first: int, last: int, event_type: str = "authorize") -> bytes:
    """Return input lines, one event a payment."""
    return b"".join(
        json.dumps({"event_id": f"e{number}", "payment_id": f"p{number}", "type": event_type}).encode() + b"\n"
        for number in range(first, last)
    )


def open_pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """Return a stream of a process, which must be a pipe."""
    assert stream is not None
    return stream


def end_soon(process: Process) -> str:
    """Wait for the end, which must come soon. Return the command's stderr."""
    began = time.monotonic()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    took = time.monotonic() - began
    output = b""
    with suppress(OSError):  # of a terminal that no process has open any more
        while block := open_pipe(process.stderr).read(65_536):
            output += block
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    assert took < SOON_SECONDS, f"it took {took:.1f} s, and its stderr was {output.decode()!r}"
    return output.decode()
