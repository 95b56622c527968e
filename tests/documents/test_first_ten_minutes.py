"""The first ten minutes of a new user run as the script shows."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.documents import ROOT, SCRIPTS


@pytest.mark.slow  # it makes a virtual environment
def test_first_ten_minutes_run_as_shown(tmp_path: Path) -> None:
    """In an empty folder, from a clone of the working tree, with the tools of a fresh machine."""
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
    output = finished.stdout
    for expected in [
        "11 events · ",
        "dry run: nothing was written",
        "duplicate_event 11",
        "6 malformed lines",
        "1 event needs review",
        "3 events need review",
        "payment pay_coat is refunded",
        "dismissed evt_4004",
        "dismissed evt_4005",
        "applied evt_7002",
        "no events need review",
        "payment pay_map is failed",
        ": no problems found",
    ]:
        assert expected in output, (expected, finished)
        output = output.partition(expected)[2]  # in this order


def _snapshot(repository: Path) -> None:
    """Create a repository of the working tree, with uncommitted files."""
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
    """Return the user's environment without this program and its settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE", "PAYPROC", "PYTHON"))}
    path = ":".join(each for each in os.environ["PATH"].split(":") if Path(each) != SCRIPTS)
    return {**kept, "PATH": path, "PAYPROC_HOME": home, "COLUMNS": "80"}
