"""The output files of `ingest` and `resolve`: opened, compared with the inputs, emptied and closed.

Belongs here: the whole life of a file that a command writes, except its lines.
"""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from payproc.errors import WrongUsage


class OutputFiles(NamedTuple):
    """The opened files of --decisions and --malformed."""

    decisions: IO[bytes] | None
    malformed: IO[bytes] | None

    def empty(self) -> None:
        """Drop the old content of regular files."""
        for file in self:
            if file is not None and file is not sys.stdout.buffer and identify_file(file.fileno()):
                file.truncate(0)


@contextlib.contextmanager
def open_outputs(inputs: Sequence[str], decisions: str | None, malformed: str | None) -> Iterator[OutputFiles]:
    """Open the output files, and close them at the end.

    Their old content stays until `empty`, because a command that is refused must destroy nothing.
    Raises WrongUsage for a file that is also an input, and for the same file twice.
    """
    read = {identify_file(0 if name == "-" else name) for name in inputs} - {None}
    option_of: dict[object, str] = {}
    files: list[IO[bytes] | None] = []
    with contextlib.ExitStack() as stack:
        for option, name in (("--decisions", decisions), ("--malformed", malformed)):
            if name is None:
                files.append(None)
                continue
            file = _open_output(stack, option, name)
            identity = identify_file(file.fileno()) or name
            if identity in read:
                raise WrongUsage(f"{option}: {name} is also an input; name another file")
            if identity in option_of:
                raise WrongUsage(f"{option_of[identity]} and {option} both name {name}; name two files")
            option_of[identity] = option
            files.append(file)
        yield OutputFiles(*files)


def _open_output(stack: contextlib.ExitStack, option: str, name: str) -> IO[bytes]:
    if name == "-":
        return sys.stdout.buffer
    if not name:
        raise WrongUsage(f"{option}: empty name, expected a file name, or - for stdout")
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return stack.enter_context(_close_at_end(open(descriptor, "wb")))  # noqa: PTH123 - a descriptor, not a path
    except OSError as error:
        raise WrongUsage(f"{option}: {name} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _close_at_end(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Close the file; after an error, ignore failures of close itself."""
    try:
        yield file
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        raise
    file.close()


def identify_file(file: int | str) -> tuple[int, int] | None:
    """Return device and inode of a regular file; None for pipes, terminals and missing files."""
    try:
        status = os.stat(file)  # noqa: PTH116 - a descriptor or a path
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
