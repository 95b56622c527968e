"""Completion is installed with one command and works in real shells."""

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.documents import SCRIPTS


class Terminal:
    """An interactive shell with a home folder, on a terminal of its own."""

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
        """Return the terminal's output up to an expected text, in lower case."""
        shown = ""
        deadline = time.monotonic() + 60
        while expected.lower() not in shown:
            ready, _, _ = select.select([self._terminal], [], [], deadline - time.monotonic())
            assert ready, f"expected {expected!r} on the terminal, found {shown!r}"
            shown += os.read(self._terminal, 4096).decode(errors="replace").lower()
        return shown

    def close(self) -> None:
        """Kill the shell."""
        os.close(self._terminal)
        self._process.kill()
        self._process.wait()


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Callable[[list[str]], Terminal]]:
    """Open shells on terminals of their own."""
    with ExitStack() as opened:

        def start(shell: list[str]) -> Terminal:
            terminal = Terminal(shell, tmp_path)
            opened.callback(terminal.close)
            return terminal

        yield start


@pytest.mark.parametrize("shell", ["bash", pytest.param("zsh", marks=pytest.mark.slow)])
def test_completion_works_in_the_next_shell(
    open_terminal: Callable[[list[str]], Terminal], tmp_path: Path, shell: str
) -> None:
    """Commands, options, the values of options, and files."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    (tmp_path / f".{shell}rc").write_text("PS1='ready> '\n")  # without one, zsh asks questions
    (tmp_path / "day.jsonl").touch()
    first = open_terminal([shell, "-i"])
    first.until("ready> ")
    first.type("payproc --install-completion\r")
    assert f"{shell} completion installed" in first.until("ready> ")
    terminal = open_terminal([shell, "-i"])
    terminal.until("ready> ")
    if shell == "zsh":  # the first Tab of a session only loads Typer's completion
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
        word = typed.split()[-1] + completed  # of which older Typers replace the case
        assert word.lower() in terminal.until(completed).replace("\x07", "")
        terminal.type("\x15")  # Ctrl-U: clear the line
