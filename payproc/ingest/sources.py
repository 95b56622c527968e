"""Sources: the inputs of a run, their names, and the files that it refuses.

Belongs here: everything about an input but its lines.
"""

import os
import re
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path

from payproc.errors import WrongUsage

STDIN = "<stdin>"
"""Name of standard input in messages and reports."""

FROM_STDIN = "payproc ingest -"
"""Command that ingests the output of a tool."""

_UNREADABLE = {
    b"\x1f\x8b": ("compressed with gzip", "zcat"),
    b"BZh": ("compressed with bzip2", "bzcat"),
    b"\xfd7zXZ": ("compressed with xz", "xzcat"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "zstdcat"),
    b"PK\x03\x04": ("compressed with zip", "unzip -p"),
    b"\xff\xfe{\0": ("UTF-16", "iconv -f UTF-16 -t UTF-8"),  # as Windows PowerShell writes with >
    b"\xfe\xff\0{": ("UTF-16", "iconv -f UTF-16 -t UTF-8"),
}
"""First bytes of files that have to be converted, with their kind and a tool.

No JSON Lines in UTF-8 start like this.
"""


def check_sources(names: Sequence[str], command: str = FROM_STDIN) -> None:
    """Refuse sources that cannot be read, before anything is done. Raises WrongUsage.

    `command` reads the output of a tool. Only regular files are opened for a look, because
    opening a pipe would consume its content.
    """
    if list(names).count("-") > 1:
        raise WrongUsage("-: given twice, but standard input can be read only once")
    for name in names:
        if name == "-":
            continue
        if not name:
            raise WrongUsage("FILE: empty name, expected a file name, or - for standard input")
        try:
            _check_file(name, command)
        except OSError as error:
            # A shell passes a pattern on unchanged if it matches nothing.
            hint = "; a pattern that matches no file?" if re.search(r"[*?]", name) else ""
            raise WrongUsage(f"{name}: cannot be read: {error.strerror}{hint}") from error


def refuse_unreadable(name: str, start: bytes, command: str = FROM_STDIN) -> None:
    """Raise WrongUsage if these are the first bytes of a file that has to be converted first."""
    for magic, (kind, tool) in _UNREADABLE.items():
        if start.startswith(magic):
            use = f"{tool} {format_argument(name)} | {command}"
            raise WrongUsage(f"{name}: is {kind}, expected JSON Lines in UTF-8; use: {use}")


def format_argument(name: str) -> str:
    """Return a source as an argument for the shell, or FILE for a pipe, which is empty by now."""
    if name == STDIN or name.startswith(("/dev/fd/", "/proc/")):
        return "FILE"
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


def format_name(name: str) -> str:
    """Return a source's name as text. File names may hold bytes that no text can."""
    return STDIN if name == "-" else os.fsencode(name).decode(errors="backslashreplace")


def _check_file(name: str, command: str) -> None:
    mode = Path(name).stat().st_mode
    if stat.S_ISDIR(mode):
        raise WrongUsage(f"{name}: is a directory, expected a file of JSON Lines; name its files, as in {name}/*")
    if stat.S_ISREG(mode):
        with Path(name).open("rb") as file:
            refuse_unreadable(name, file.read(8), command)
