"""What a new user touches first: help with examples that work, the version, and completion in real shells."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.command import Payproc

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
COMMANDS = ("ingest", "show", "review", "resolve", "verify", "rules", "runs", "export", "init")


# ---- Help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", ["80", pytest.param("200", marks=pytest.mark.slow)])
def test_the_help_of_every_command_is_readable_at_80_columns_and_ends_with_an_example(
    tmp_path: Path, width: str
) -> None:
    payproc = Payproc(tmp_path, None)
    for command in ([], *([each] for each in COMMANDS)):
        finished = payproc(*command, "--help", env={"COLUMNS": width})
        assert (finished.code, finished.stderr) == (0, "")
        assert max(map(len, finished.stdout.splitlines())) <= 80
        assert examples(finished.stdout), command


def examples(shown: str) -> list[str]:
    """The commands at the end of a help text."""
    return re.findall(r"^    (.*payproc .*)$", shown.partition("\n  Example")[2], re.MULTILINE)


@pytest.mark.slow
def test_every_example_of_the_help_works(payproc: Payproc) -> None:
    """As they stand there, one after the other; only the database servers named in them are the test's."""
    for name in ("day.jsonl", "dump.jsonl"):
        shutil.copy(ROOT / "sample_events" / "refund_race.jsonl", payproc.folder / name)
    subprocess.run(["gzip", "dump.jsonl"], cwd=payproc.folder, check=True)
    named = "postgresql://alice@db.example/payments"
    tried = []
    for command in ("", *COMMANDS):
        for example in examples(payproc(*command.split(), "--help").stdout):
            environment = {**payproc.environment, "PATH": f"{SCRIPTS}:{payproc.environment['PATH']}"}
            environment["COPY_URL"] = environment["DATABASE_URL"]
            script = example.replace(named, f"'{payproc.environment['DATABASE_URL']}'")
            if " resolve " in script and "--yes" not in script:  # it asks, on a terminal
                script += " --yes"
            finished = subprocess.run(
                ["bash", "-o", "pipefail", "-c", script],
                cwd=payproc.folder,
                env=environment,
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
            assert finished.returncode == 0, (example, finished)
            assert finished.stdout or " > " in example, example
            tried.append(example)
    assert len(tried) > len(COMMANDS)


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert Payproc(tmp_path, None)("--version").stdout == f"payproc {version[1]}\n"


def test_the_module_is_the_command(tmp_path: Path) -> None:
    payproc = Payproc(tmp_path, None)
    assert payproc("-m", "payproc", "rules", command=sys.executable) == payproc("rules")
    refused = payproc("-m", "payproc", "shw", command=sys.executable)
    assert refused.stderr.startswith('payproc: "shw": no such command')


# ---- The first ten minutes -----------------------------------------------------------------------


@pytest.mark.slow  # it makes a virtual environment
def test_the_first_ten_minutes_go_as_the_script_says(tmp_path: Path) -> None:
    """In an empty folder, with what a fresh machine has, from a clone of what is in this folder."""
    repository = tmp_path / "repository"
    _snapshot(repository)
    home = tempfile.mkdtemp(prefix="payproc-minutes-")
    try:
        finished = subprocess.run(
            ["bash", "-e", Path(__file__).with_name("first_ten_minutes.sh"), repository],
            cwd=tmp_path,
            env=_fresh_environment(home),
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=600,
        )
    finally:
        shutil.rmtree(home)
    assert finished.returncode == 0, finished
    said = finished.stdout
    for expected in [
        "11 events · ",
        "dry run: nothing was written",
        "duplicate_event 11",
        "6 malformed lines",
        "1 event waits for a person",
        "3 events wait for a person",
        "payment pay_coat is refunded",
        "dismissed evt_4004",
        "dismissed evt_4005",
        "applied evt_7002",
        "nothing waits for a person",
        "payment pay_map is failed",
        ": the books are right",
    ]:
        assert expected in said, (expected, finished)
        said = said.partition(expected)[2]  # in this order


def _snapshot(repository: Path) -> None:
    """A repository of what is in this folder now, committed or not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, listed)):
        if (ROOT / name).is_file():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, repository / name)
    git = ["git", "-c", "user.name=payproc", "-c", "user.email=payproc@example.invalid", "-C", str(repository)]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Everything"]):
        subprocess.run([*git, *arguments], check=True)


def _fresh_environment(home: str) -> dict[str, str]:
    """The person's own, without this program and its settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE", "PAYPROC", "PYTHON"))}
    path = ":".join(each for each in os.environ["PATH"].split(":") if Path(each) != SCRIPTS)
    return {**kept, "PATH": path, "PAYPROC_HOME": home, "COLUMNS": "80"}


# ---- Completion ----------------------------------------------------------------------------------


class Terminal:
    """An interactive shell, with a person's home folder, on a terminal of its own."""

    def __init__(self, shell: list[str], folder: Path) -> None:
        self._terminal, its_end = pty.openpty()
        environment = {
            "HOME": str(folder),
            "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
            "TERM": "dumb",
            "PS1": "ready> ",
            "COLUMNS": "80",
            "LC_ALL": "C.UTF-8",
        }
        self._process = subprocess.Popen(
            shell, cwd=folder, env=environment, stdin=its_end, stdout=its_end, stderr=its_end, start_new_session=True
        )
        os.close(its_end)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._terminal, keys.encode())

    def until(self, expected: str) -> str:
        """What the terminal shows, until something expected is in it."""
        shown = ""
        deadline = time.monotonic() + 60
        while expected not in shown:
            ready, _, _ = select.select([self._terminal], [], [], deadline - time.monotonic())
            assert ready, f"expected {expected!r} on the terminal, found {shown!r}"
            shown += os.read(self._terminal, 4096).decode(errors="replace")
        return shown

    def close(self) -> None:
        """Leave."""
        os.close(self._terminal)
        self._process.kill()
        self._process.wait()


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Callable[[list[str]], Terminal]]:
    """Opens shells on terminals of their own."""
    with ExitStack() as opened:

        def start(shell: list[str]) -> Terminal:
            terminal = Terminal(shell, tmp_path)
            opened.callback(terminal.close)
            return terminal

        yield start


@pytest.mark.parametrize("shell", ["bash", pytest.param("zsh", marks=pytest.mark.slow)])
def test_completion_is_installed_with_one_command_and_completes_in_the_next_shell(
    open_terminal: Callable[[list[str]], Terminal], tmp_path: Path, shell: str
) -> None:
    """Commands, options, the values of options, and files."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    (tmp_path / f".{shell}rc").write_text("PS1='ready> '\n")  # a person has one; zsh asks questions where it is missing
    (tmp_path / "day.jsonl").touch()
    first = open_terminal([shell, "-i"])
    first.until("ready> ")
    first.type("payproc --install-completion\r")
    assert f"{shell} completion installed" in first.until("ready> ")
    terminal = open_terminal([shell, "-i"])
    terminal.until("ready> ")
    if shell == "zsh":  # with what Typer writes, the first Tab of a session only loads the completion
        terminal.type("payproc \t")
        terminal.until("\x07")
        terminal.type("\x15")
    for typed, completed in [
        ("payproc reso", "lve "),
        ("payproc ingest --deci", "sions "),
        ("payproc rules --format merm", "aid "),
        ("payproc ingest --fail-on MAN", "UAL_REVIEW "),
        ("payproc ingest da", "y.jsonl "),
        ("payproc ingest --malformed da", "y.jsonl "),
    ]:
        terminal.type(typed + "\t")
        assert typed + completed in terminal.until(completed).replace("\x07", "")
        terminal.type("\x15")  # Ctrl-U: clear the line
