"""The progress of listings: a line for a person whose database sorts before the first row."""

import threading
from collections.abc import Iterator

import pytest

from payproc.cli import console


@pytest.mark.parametrize("quiet", [True, False])
def test_slow_first_row_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    def sort() -> Iterator[str]:
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
        yield "row"

    monkeypatch.setattr(console, "SLOW_START_SECONDS", 0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    reported: list[int] = []
    assert list(console.report_progress(sort(), reported.append, quiet=quiet)) == ["row"]
    assert reported == [1]
    assert capsys.readouterr().err == ("" if quiet else "payproc: the database is sorting; rows follow\n")
