"""Homes: the folders that an embedded server may live in, and the reasons against others."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import COMMAND
from tests.support.homes import (
    IS_ROOT,
    NOBODY,
    PATIENCE_SECONDS,
    authorize,
    build_environment,
    is_running,
    read_mode,
    read_refusal,
    read_state,
    succeed,
    try_as_nobody,
)

ODD_NAMES = (" a ", "a'b", 'a"b', "$(a)", "a,b", "ü日本", "a\\b", "a\u2028b", "a\x0bb", "a\udcffb", "a\tb")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(" a 'b' \"c\" $(d) `e` $HOME, f;g#h\\i %20 ü日本 ", id="every odd character"),
        pytest.param("long/" * 50, id="longer than a socket's path may be"),
        *(pytest.param(name, id=name.encode("unicode_escape", "surrogateescape").decode()) for name in ODD_NAMES),
    ],
)
def test_home_with_any_name_works(folder: Path, name: str) -> None:
    home = folder / name
    succeed(home, "ingest", "-", "--format", "json", events=authorize("p1"))
    assert read_state(home, "p1") == "authorized"
    assert not is_running(home)


def test_home_with_line_break_is_refused(folder: Path) -> None:
    """The refusal comes before anything is created."""
    assert read_refusal(folder / "a\nb") == (
        f"the embedded database cannot live in {folder}/a\\nb: PostgreSQL takes no line break in a path; "
        "set PAYPROC_HOME to another folder"
    )
    assert list(folder.iterdir()) == []


def test_home_with_other_files_is_refused(home: Path) -> None:
    """A folder of something else stays as it was."""

    def look() -> list[tuple[str, int, int, int]]:
        found = [(path.name, path.stat()) for path in (home, *home.iterdir())]
        return [(name, status.st_mode, status.st_uid, status.st_mtime_ns) for name, status in found]

    home.mkdir(mode=0o755)
    (home / "thesis.txt").write_text("years of work")
    before = look()
    assert read_refusal(home) == (
        f"the embedded database needs a folder of its own, but {home} holds other files; "
        f"set PAYPROC_HOME to a new or empty folder, such as {home}/payproc"
    )
    assert look() == before


@pytest.mark.slow
def test_home_in_empty_folder_is_closed(home: Path) -> None:
    home.mkdir(mode=0o755)
    succeed(home, "init")
    assert read_mode(home) == 0o700


@pytest.mark.parametrize(
    ("place", "reason"), [("file", "File exists"), ("file/home", "Not a directory")], ids=["a file", "below a file"]
)
def test_home_at_a_file_is_refused(folder: Path, place: str, reason: str) -> None:
    (folder / "file").write_text("something")
    assert read_refusal(folder / place) == (
        f"the embedded database cannot use {folder / place}: {reason}; "
        "set PAYPROC_HOME to a folder that you may write, or name a server with --database-url"
    )
    assert (folder / "file").read_text() == "something"


def test_home_of_unknown_user_is_refused() -> None:
    assert read_refusal("~no-such-user/home") == (
        "the embedded database has no folder: the home directory is unknown; set PAYPROC_HOME to a full path"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="nobody may write in /proc on Linux alone")
def test_home_without_permission_is_refused() -> None:
    message = read_refusal("/proc/payproc")
    assert message.startswith("the embedded database cannot use /proc/payproc: ")
    assert message.endswith("; set PAYPROC_HOME to a folder that you may write, or name a server with --database-url")


# ---- The default home ----------------------------------------------------------------------------


def init_as_ordinary_user(user_home: Path, payproc_home: Path | None = None) -> "subprocess.CompletedProcess[str]":
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if IS_ROOT else []
    return subprocess.run(
        [*user, COMMAND, "init"],
        capture_output=True,
        text=True,
        cwd="/",
        env=build_environment(payproc_home, HOME=str(user_home)),
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def skip_if_out_of_reach(*programs: Path) -> None:
    for program in programs:
        if IS_ROOT and try_as_nobody(program.stat) != "done":
            pytest.skip(f"the user nobody cannot reach {program}")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere user data has another folder")
def test_home_of_ordinary_user_is_in_user_data(folder: Path) -> None:
    """Without PAYPROC_HOME it lies below HOME. A HOME without permission is refused with advice."""
    skip_if_out_of_reach(COMMAND, Path(sys.executable).resolve())
    folder.chmod(0o777)
    open_home, closed_home = folder / "open", folder / "closed"
    open_home.mkdir()
    open_home.chmod(0o777)
    closed_home.mkdir(mode=0o555)

    done = init_as_ordinary_user(open_home)
    assert (done.returncode, done.stdout) == (0, "created the schema payproc\n"), done.stderr
    place = open_home / ".local" / "share" / "payproc"
    assert read_mode(place) == 0o700
    assert not is_running(place)

    done = init_as_ordinary_user(closed_home)
    assert done.returncode == 1
    assert done.stderr == (
        f"payproc: the embedded database cannot use {closed_home}/.local/share/payproc: {closed_home}/.local: "
        "Permission denied; set PAYPROC_HOME to a folder that you may write, or name a server with --database-url\n"
    )

    done = init_as_ordinary_user(closed_home, open_home / "named")
    assert (done.returncode, done.stdout) == (0, "created the schema payproc\n"), done.stderr
    closed_home.chmod(0o755)
