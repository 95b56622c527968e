"""The progress of listings: a line for a person whose database sorts before the first row."""

import threading
from collections.abc import Iterator

import pytest

from payproc.cli import console


@pytest.mark.parametrize("is_wait_noted", [True, False])
def test_slow_first_row_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_wait_noted: bool
) -> None:
    def sort() -> Iterator[str]:
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
        yield "row"

    monkeypatch.setattr(console, "SLOW_START_SECONDS", 0)
    reported: list[int] = []
    assert list(console.report_progress(sort(), reported.append, is_wait_noted=is_wait_noted)) == ["row"]
    assert reported == [1]
    assert capsys.readouterr().err == ("payproc: the database is sorting; rows follow\n" if is_wait_noted else "")
