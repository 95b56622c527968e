"""Full disks: under the embedded server, while it is created, and under an output file.

The disk is a real one, mounted in memory. Each run ends with one line. Once there is room, a rerun
completes the job.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL

from payproc.embedded.initdb import SUPERUSER
from payproc.embedded.server import run_server
from tests.support.command import Payproc
from tests.support.events import event_line
from tests.support.model import Line
from tests.support.postgres import Sql, contents
from tests.support.reports import DECISIONS, assert_decisions_recorded, assert_verified, error_of, read_decisions
from tests.support.servers import IS_ROOT, Pristine, new_folder
from tests.support.workload import expected_day, messy_day

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IS_ROOT, reason="only root can mount a small disk: run this once as root"),
]

MEGABYTE = 1 << 20


class Disk:
    """A small disk that can be filled and freed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, leave: int) -> None:
        """Fill the disk up to this many free bytes."""
        status = os.statvfs(self.folder)
        with self._ballast.open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, status.f_bavail * status.f_frsize - leave)

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink()


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk of 200 MB in memory."""
    folder = new_folder()
    mount: list[str | Path] = ["mount", "-t", "tmpfs", "-o", "size=200m,mode=755", "tmpfs", folder]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("this root may not mount a disk: run it with the capability SYS_ADMIN")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


@contextmanager
def home_on(disk: Disk, pristine: Pristine, part: str) -> Iterator[Path]:
    """Create the home of an embedded server with this part of it on the small disk."""
    elsewhere = new_folder()
    try:
        home = (elsewhere if part == "write-ahead log" else disk.folder) / "home"
        subprocess.run(["cp", "-a", pristine.home, home], check=True)
        if part != "everything":
            log, moved = home / "data" / "pg_wal", (disk.folder if part == "write-ahead log" else elsewhere) / "pg_wal"
            subprocess.run(["cp", "-a", "--", log, moved], check=True)
            shutil.rmtree(log)
            log.symlink_to(moved)
            elsewhere.chmod(0o755)
        yield home
    finally:
        shutil.rmtree(elsewhere)


@pytest.mark.parametrize(
    ("part", "leave", "message"),
    [
        ("data", 4 * MEGABYTE, "could not extend file"),
        ("write-ahead log", 4 * MEGABYTE, "its server has ended: .*(PANIC|FATAL).*pg_wal"),
        ("everything", 10 * MEGABYTE, ""),
    ],
    ids=["data", "write-ahead log", "everything"],
)
def test_disk_full_under_the_embedded_server(
    disk: Disk, pristine: Pristine, tmp_path: Path, part: str, leave: int, message: str
) -> None:
    """The server survives if its data cannot grow.

    If its write-ahead log cannot, it panics and may stay down.
    """
    day = expected_day(messy_day(20, 30_000))
    with home_on(disk, pristine, part) as home:
        payproc = Payproc(tmp_path, None)
        payproc.environment["PAYPROC_HOME"] = str(home)
        disk.fill(leave)
        first = error_of(*payproc("ingest", "-", "--decisions", DECISIONS, stdin=day.text)[::2])
        second = error_of(*payproc("ingest", "-", stdin=day.text)[::2])
        assert re.search(message, first), first
        for error in (first, second):
            assert "No space left on device" in error
        disk.free()
        with run_server(home) as server:
            query = {"host": str(server.socket_folder)}
            url = URL.create("postgresql", SUPERUSER, database="postgres", query=query)
            with closing(Sql(url)) as sql:
                decisions = read_decisions(payproc.folder / DECISIONS)
                assert decisions, "nothing was reported before the disk was full"
                assert len(decisions) < len(day.lines) // 2, "the disk was not full"
                assert_decisions_recorded(decisions, sql)
                assert payproc("ingest", "-", "--quiet", stdin=day.text).code == 3
                assert contents(sql) == day.contents
                assert_verified(payproc)


@pytest.mark.parametrize("leave", [0, 8, 30, 38])
def test_disk_full_during_initdb(disk: Disk, tmp_path: Path, leave: int) -> None:
    """The embedded server is created by the next command, once there is room."""
    payproc = Payproc(tmp_path, None)
    payproc.environment["PAYPROC_HOME"] = str(disk.folder / "home")
    disk.fill(leave * MEGABYTE)
    finished = payproc("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    assert finished.code == 1, finished
    *notes, error = finished.stderr.splitlines()
    assert "No space left on device" in error
    assert all(re.match("payproc: (creating|copying|database)", note) for note in notes), notes
    disk.free()
    assert payproc.summary("-", stdin=event_line("e1", "p1", "authorize"))["outcomes"]["APPLY"] == 1
    assert_verified(payproc)


@pytest.mark.parametrize(
    ("option", "oversized", "message"),
    [
        (
            "--decisions",
            [],
            "--decisions: cannot be written: No space left on device; recorded events stay recorded",
        ),
        (
            "--malformed",
            [],
            "--malformed: cannot be written: No space left on device; recorded events stay recorded",
        ),
        (
            "--malformed",
            [Line(b"x" * 4 * MEGABYTE, None)],
            "<stdin>: a line too long to be an event cannot be kept for --malformed in the folder for temporary files",
        ),
    ],
    ids=["decisions", "malformed", "an oversized line on its way to --malformed"],
)
def test_disk_full_under_an_output_file(
    disk: Disk, payproc: Payproc, sql: Sql, tmp_path: Path, option: str, oversized: list[Line], message: str
) -> None:
    """The file or the folder for temporary files is on the full disk."""
    lines = [Line(b"x" * 700, None) if line.raw.startswith(b"not") else line for line in messy_day(21, 8000)]
    day = expected_day(lines + oversized)
    disk.fill(16_000)
    output = (option, str((tmp_path if oversized else disk.folder) / "output"))
    finished = payproc("ingest", "-", *output, stdin=day.text, env={"TMPDIR": str(disk.folder)})
    error = error_of(*finished[::2])
    assert error.startswith(message)
    assert "No space left on device" in error
    disk.free()
    assert payproc("ingest", "-", *output, stdin=day.text).code == 3
    assert contents(sql) == day.contents
    assert_verified(payproc)
