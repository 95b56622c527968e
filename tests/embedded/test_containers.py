"""Containers: uids without a name, volumes of root, read-only root file systems, process 1."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.command import COMMAND
from tests.support.containers import UNNAMED, Container, in_namespaces
from tests.support.homes import NOBODY, authorize, copy_home, is_running, read_mode
from tests.support.postgres import wait_for

pytestmark = [in_namespaces, pytest.mark.slow]


@pytest.fixture
def volume(folder: Path) -> Path:
    """The folder of a volume, which belongs to root."""
    path = folder / "volume"
    path.mkdir()
    return path


@pytest.fixture
def template(folder: Path, home_template: Path) -> Path:
    """A home as an image has one: readable by all."""
    template = copy_home(home_template, folder / "template")
    subprocess.run(["chmod", "-R", "a+rX", template], check=True)
    return template


@pytest.fixture
def users_home(made_home: Path) -> Path:
    """A home of an ordinary user, with a stopped database in it."""
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", made_home], check=True)
    return made_home


# ---- Uids and volumes ----------------------------------------------------------------------------


def test_unnamed_user_needs_a_template(folder: Path, volume: Path) -> None:
    volume.chmod(0o777)
    container = Container(folder / "c", volume / "home", UNNAMED)
    assert container.refusal() == (
        f"the embedded database cannot be created in {volume}/home: the uid {UNNAMED} has no line in /etc/passwd, "
        "which initdb needs; add one, set PAYPROC_TEMPLATE to a home made by `payproc init`, or name a server with "
        "--database-url"
    )


def test_unnamed_user_copies_a_template(folder: Path, volume: Path, template: Path) -> None:
    """Also on a read-only root file system. The copy is closed to others."""
    volume.chmod(0o777)
    home = volume / "home"
    container = Container(folder / "c", home, UNNAMED, read_only=True, PAYPROC_TEMPLATE=str(template))
    for events in (authorize("p1"), authorize("p2")):
        done = container.run("ingest", "-", "--quiet", events=events)
        assert done.returncode == 0, done
    assert json.loads(container.run("status", "--format", "json").stdout)["payments"]["authorized"] == 2
    assert {path.lstat().st_uid for path in (home, *home.rglob("*"))} == {UNNAMED}
    assert [path for path in (home, *home.rglob("*")) if read_mode(path) & 0o077] == []
    assert not is_running(home)


def test_full_disk_leaves_no_half_copy(folder: Path, template: Path) -> None:
    """A home on a disk that is too small for the template."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=1777", "tmpfs", disk], check=True)
    try:
        container = Container(folder / "c", disk / "home", UNNAMED, PAYPROC_TEMPLATE=str(template))
        message = container.refusal()
        assert str(template) not in message
        assert "No space left on device; free some space, set PAYPROC_HOME to a folder on another disk" in message
        assert not (disk / "home" / "data-half-done").exists()
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    ("mode", "remedy"),
    [(0o755, f"or give this one to the uid {NOBODY} (chown)"), (0o2777, "such as {volume}/payproc")],
    ids=["closed", "open"],
)
def test_volume_of_root_is_no_home_of_a_user(folder: Path, volume: Path, mode: int, remedy: str) -> None:
    volume.chmod(mode)
    assert Container(folder / "c", volume, NOBODY).refusal() == (
        f"the embedded database cannot use {volume}: it belongs to the uid 0, expected {NOBODY}; set PAYPROC_HOME to "
        f"a folder of your own, {remedy.format(volume=volume)}, or name a server with --database-url"
    )


def test_subfolder_of_a_volume_works(folder: Path, volume: Path) -> None:
    """Of root's volume. With fsGroup, Kubernetes gives a group rights to it at each mount."""
    (volume / "lost+found").mkdir()
    home = volume / "payproc"
    for _ in range(2):
        subprocess.run(["chmod", "-R", "g+rwX", volume], check=True)
        subprocess.run(["find", volume, "-type", "d", "-exec", "chmod", "g+s", "{}", "+"], check=True)
        done = Container(folder / "c", home, NOBODY).run("init")
        assert done.returncode == 0, done
        assert read_mode(home) & 0o777 == read_mode(home / "data") & 0o777 == 0o700


def test_read_only_root_needs_a_short_home(folder: Path, volume: Path) -> None:
    """The socket of a long one would lie in /tmp."""
    volume.chmod(0o777)
    assert Container(folder / "c", volume / "home", NOBODY, read_only=True).run("init").returncode == 0
    message = Container(folder / "c", volume / ("long" * 25), NOBODY, read_only=True).refusal()
    assert message.endswith(
        "Read-only file system; set PAYPROC_HOME to a path of at most 86 ASCII characters, then it needs none"
    )


# ---- Root ----------------------------------------------------------------------------------------


def test_root_without_useradd_needs_a_users_home(folder: Path, volume: Path) -> None:
    container = Container(folder / "c", volume / "home", read_only=True)
    message = container.refusal()
    assert message.startswith(
        "PostgreSQL refuses to run as root, and the system user payproc could not be created: useradd: "
    )
    assert message.endswith(
        "; add that user, set PAYPROC_HOME to a folder of another user, or run payproc as an ordinary user"
    )
    (volume / "home").mkdir()
    os.chown(volume / "home", NOBODY, NOBODY)
    assert container.run("init").returncode == 0


def test_root_without_capabilities_is_refused(folder: Path, volume: Path) -> None:
    (volume / "home").mkdir()
    os.chown(volume / "home", NOBODY, NOBODY)
    assert Container(folder / "c", volume / "home").refusal(drop="-all") == (
        "PostgreSQL refuses to run as root, and root may not run it as another user here: Operation not permitted; "
        "run payproc as an ordinary user, allow the capabilities SETUID, SETGID and CHOWN, or name a server with "
        "--database-url"
    )


# ---- Process 1 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_ends_process_1(folder: Path, users_home: Path, number: signal.Signals) -> None:
    """No server is left."""
    with Container(folder / "c", users_home, NOBODY).start(COMMAND, "ingest", "-") as process:
        wait_until_noted(process, "payproc: database: ")
        os.kill(find_child(process), number)
        assert process.wait(timeout=20) == 128 + number
    assert not is_running(users_home)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_ends_process_1_during_imports(folder: Path, number: signal.Signals) -> None:
    """The kernel drops a signal to process 1 that has no handler."""
    script = "from payproc.signals import *; let_signals_kill(); os.write(2, b'ready\\n'); time.sleep(60)"
    with Container(folder / "c", folder / "home", NOBODY).start(sys.executable, "-c", script) as process:
        wait_until_noted(process, "ready")
        os.kill(find_child(process), number)
        assert process.wait(timeout=20) == 128 + number


def wait_until_noted(process: "subprocess.Popen[str]", note: str) -> None:
    """Wait for a note of the command on stderr."""
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith(note):
        assert line, "it has ended"


def find_child(process: "subprocess.Popen[str]") -> int:
    """Wait for the one child of a process. Return it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return int(wait_for(lambda: children.read_text().strip()))


# ---- Two containers, one volume ------------------------------------------------------------------


def test_containers_create_one_database(folder: Path, volume: Path) -> None:
    """Four begin at once, on an empty volume."""
    volume.chmod(0o777)
    containers = [Container(folder / f"c{number}", volume / "home", NOBODY) for number in range(4)]
    with ExitStack() as running:
        started = [running.enter_context(each.start(COMMAND, "ingest", "-", "--quiet")) for each in containers]
        for number, process in enumerate(started):
            assert process.stdin is not None
            process.stdin.write(authorize(f"p{number}"))
            process.stdin.close()
        assert [process.wait(timeout=60) for process in started] == [0, 0, 0, 0]
    done = containers[0].run("status", "--format", "json")
    assert json.loads(done.stdout)["payments"]["authorized"] == 4
    assert not is_running(volume / "home")


@pytest.mark.parametrize("end", ["the others end", "a signal"])
def test_process_1_waits_for_other_containers(folder: Path, users_home: Path, end: str) -> None:
    """Its server ends with it. A signal ends the wait, and then the other command exits with 1."""
    arguments = (COMMAND, "ingest", "-")
    with ExitStack() as running:
        first = running.enter_context(Container(folder / "a", users_home, NOBODY).start(*arguments))
        wait_until_noted(first, "payproc: database: ")
        second = running.enter_context(Container(folder / "b", users_home, NOBODY).start(*arguments))
        wait_until_noted(second, "payproc: database: ")
        assert first.stdin is not None
        first.stdin.close()
        wait_until_noted(first, "payproc: waiting up to 60 s for commands in other containers")
        if end == "a signal":
            os.kill(find_child(first), signal.SIGTERM)
            assert first.wait(timeout=20) == 128 + signal.SIGTERM
        _, message = second.communicate(authorize("p1"), timeout=60)
        if end == "a signal":
            assert (second.returncode, "its server has ended" in message) == (1, True), message
        else:
            assert (second.returncode, first.wait(timeout=20)) == (0, 0)
    assert not is_running(users_home)
