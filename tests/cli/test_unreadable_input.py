"""Input that cannot be read: refused in one line before anything is done, or malformed lines."""

import bz2
import gzip
import io
import json
import os
import socket
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.command import error_line, messages
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
HUGE_BYTES = 5 << 20


def unsuitable(kind: str, advice: str) -> str:
    return f"is {kind}, expected JSON Lines in UTF-8; use: {advice} | payproc ingest -"


def pack_tar(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("day.jsonl")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def pack_zip(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, "x")
    return packed.getvalue()


SPREADSHEET = "is a spreadsheet, expected JSON Lines in UTF-8; save it as CSV in UTF-8 first"

UNREADABLE: list[tuple[str, bytes | None, str]] = [
    ("missing", None, "cannot be read: No such file or directory"),
    ("good.jsonl/b", None, "cannot be read: Not a directory"),
    ("a day.bz2", bz2.compress(b"{}"), unsuitable("compressed with bzip2", "bzcat 'a day.bz2'")),
    ("be", '\ufeff{"event_id":"e1"}'.encode("utf-16-be"), unsuitable("UTF-16", "iconv -f UTF-16 -t UTF-8 be")),
    ("list", "\ufeff[\r\n{}]".encode("utf-16-le"), unsuitable("UTF-16", "iconv -f UTF-16 -t UTF-8 list")),
    ("wide", '\ufeff{"event_id":"e1"}'.encode("utf-32-le"), unsuitable("UTF-32", "iconv -f UTF-32 -t UTF-8 wide")),
    ("day.tar", pack_tar(b'{"event_id":"e1"}'), unsuitable("a tar archive", "tar -xOf day.tar")),
    ("book.xlsx", pack_zip("[Content_Types].xml"), SPREADSHEET),
    ("book.ods", pack_zip("mimetype"), SPREADSHEET),
    ("book.xls", bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 504, SPREADSHEET),
]
"""Names, contents and messages. tests/cli/test_usage.py has more kinds."""


@pytest.mark.parametrize(("name", "content", "message"), UNREADABLE, ids=[name for name, _, _ in UNREADABLE])
def test_unreadable_input_is_refused(shared: InProcess, name: str, content: bytes | None, message: str) -> None:
    """The good file before it is not ingested, either."""
    write_lines(shared.folder / "good.jsonl", [event_line("e1", "p1", "authorize")])
    if content is not None:
        (shared.folder / name).write_bytes(content)
    assert error_line(shared("ingest", "good.jsonl", name), 2) == f"payproc: {name}: {message}"
    assert shared("export").stdout == ""


@needs_permissions
def test_input_without_permission_is_refused(shared: InProcess) -> None:
    (shared.folder / "closed").touch(mode=0)
    line = error_line(shared("ingest", "closed"), 2)
    assert line == "payproc: closed: cannot be read: Permission denied"


def test_refused_first_source_leaves_no_trace(run_in_process: InProcess, good: Path) -> None:
    """No run is left unfinished, and an output keeps its content. Later sources stop the run."""
    kept = good.with_name("kept")
    kept.write_text("from yesterday")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(good.with_name("socket")))
    finished = run_in_process("ingest", "-", "--decisions", "kept", stdin=gzip.compress(b"{}"))
    assert error_line(finished, 2) == f"payproc: <stdin>: {unsuitable('compressed with gzip', 'zcat FILE')}"
    line = error_line(run_in_process("ingest", "socket", "--decisions", "kept"), 2)
    assert line == "payproc: socket: cannot be read: No such device or address"
    assert run_in_process("runs", "--format", "json").stdout == ""
    assert kept.read_text() == "from yesterday"
    assert run_in_process("ingest", "good.jsonl", "-", stdin=gzip.compress(b"{}")).code == 1
    assert json.loads(run_in_process("runs", "--format", "json").stdout)["finished_at"] is None


@pytest.mark.parametrize("content", [b"", b"\n \n\r\n", b"\xef\xbb\xbf"], ids=["empty", "blank", "a BOM"])
def test_empty_file_is_a_run_of_no_lines(shared: InProcess, content: bytes) -> None:
    summary = shared.summary("-", stdin=content)
    assert (summary["lines"], summary["events"], summary["reasons"]) == (0, 0, {})


def test_binary_file_is_malformed_lines(shared: InProcess) -> None:
    summary = shared.summary("-", stdin=bytes(range(256)) * 1000 + b"\n" + b"\0" * 5000, code=3)
    assert summary["lines"] == summary["malformed"] > 2
    assert shared("export").stdout == ""


def test_good_lines_around_bad_ones_are_recorded(run_in_process: InProcess) -> None:
    huge = b'{"event_id":"e9","payment_id":"p1","type":"refund","x":"' + b"y" * HUGE_BYTES + b'"}'
    lines = [event_line("e1", "p1", "authorize"), b"\xff", huge, event_line("e2", "p1", "capture")]
    write_lines(run_in_process.folder / "x", lines)
    finished = run_in_process("ingest", "x")
    assert messages(finished) == [
        "x:2: not UTF-8: byte 0xff at offset 0, expected UTF-8 text",
        "x:3: line too long: over 1,048,576 bytes, expected one JSON object a line of at most 1 MiB",
    ]
    assert "2 events · 2 malformed lines" in finished.stdout
