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
    rb"\x1f\x8b": ("compressed with gzip", "zcat"),
    rb"BZh": ("compressed with bzip2", "bzcat"),
    rb"\xfd7zXZ": ("compressed with xz", "xzcat"),
    rb"\x28\xb5\x2f\xfd": ("compressed with zstd", "zstdcat"),
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("a spreadsheet", ""),  # .xls
    rb"PK\x03\x04.{26}(\[Content_Types\]|_rels/|docProps/|xl/|mimetype)": ("a spreadsheet", ""),  # .xlsx, .ods
    rb"PK\x03\x04": ("compressed with zip", "unzip -p"),
    rb".{257}ustar": ("a tar archive", "tar -xOf"),
    rb"\xff\xfe\0\0|\0\0\xfe\xff": ("UTF-32", "iconv -f UTF-32 -t UTF-8"),
    rb"\xff\xfe[\t-~]\0|\xfe\xff\0[\t-~]": ("UTF-16", "iconv -f UTF-16 -t UTF-8"),  # Windows PowerShell's >
}
"""Patterns of the first bytes of files that have to be converted, with their kind and a tool.

The first match counts. No JSON Lines in UTF-8 start like this.
"""

_START_BYTES = 512
"""Bytes that the patterns look at: the first block of a tar archive."""


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
    for pattern, (kind, tool) in _UNREADABLE.items():
        if re.match(pattern, start, re.DOTALL):
            fix = f"use: {tool} {format_argument(name)} | {command}" if tool else "save it as CSV in UTF-8 first"
            raise WrongUsage(f"{name}: is {kind}, expected JSON Lines in UTF-8; {fix}")


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
            refuse_unreadable(name, file.read(_START_BYTES), command)
