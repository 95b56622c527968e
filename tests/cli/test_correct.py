"""`payproc correct`: a person's correction, given with --yes or at the question."""

import json

import pytest

from tests.support.command import Payproc, error_line
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, assert_books_right
from tests.support.terminal import open_terminal, take_terminal

DAY = [
    event_line("e1", "p1", "fail"),
    event_line("e2", "p1", "authorize"),
    event_line("e3", "p1", "capture"),
    event_line("e3", "p2", "capture"),
]
"""The authorize needs review, the capture is rejected, and the last event is a conflict."""

QUESTION = """\
payment p1 is failed since {since} UTC
its history has 3 entries: 1 event rejected, 1 pending review
correct: p1 moves from failed to captured? [y/N]: """

SINCE = "SELECT to_char(state_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM payproc.payments"

CORRECT = ("correct", "p1", "--to", "captured", "--note", "seen at the bank", "--by", "alice")


@pytest.fixture
def failed(run_in_process: InProcess) -> InProcess:
    """The command on the day above."""
    write_lines(run_in_process.folder / "day.jsonl", DAY)
    run_in_process("ingest", "day.jsonl", "--workers", "1")
    return run_in_process


def test_refused_capture_is_put_right(failed: InProcess, sql: Sql) -> None:
    """From a decline that was none to right books, with the commands alone."""
    run = failed
    shown = run("show", "p1").stdout
    assert "1 event was rejected\nif the state is wrong: payproc correct p1 --to STATE --note TEXT\n" in shown

    decide = ("--note", "the decline was of another attempt", "--by", "alice", "--yes")
    assert run("resolve", "e2", "--apply", *decide).code == 0
    again = run.summary("-", stdin=DAY[2])
    assert again["reasons"] == {"duplicate_event": 1}, "the capture can neither be resolved nor redelivered"
    corrected = run(*CORRECT, "--yes", "--expect", "Authorized")
    assert corrected[:2] == (0, "corrected: p1 moved from authorized to captured (entry 5, by alice)\n")

    payment = json.loads(run("show", "p1", "--format", "json").stdout)
    assert payment["state"] == "captured"
    entry = payment["history"][4]
    assert entry.pop("recorded_at").endswith("Z")
    assert entry == {
        "kind": "correction",
        "position": 5,
        "state_before": "authorized",
        "state_after": "captured",
        "note": "seen at the bank",
        "corrected_by": "alice",
    }
    assert run.summary("-", stdin=event_line("e5", "p1", "refund"))["reasons"] == {"transition": 1}
    assert run("verify")[:2] == (0, "1 payment, 6 entries: no problems found\n")
    assert run("review").stdout == "no events need review\n"
    assert_books_right(sql)


def test_correct_without_a_terminal_needs_yes(failed: InProcess, sql: Sql) -> None:
    line = error_line(failed(*CORRECT), 2)
    assert line == "payproc: no terminal to ask on; add --yes, and --expect STATE to be safe"
    assert sql.value("SELECT count(*) FROM payproc.corrections") == 0


def test_correct_is_signed_with_the_login_name(failed: InProcess, sql: Sql) -> None:
    corrected = failed(*CORRECT[:-2], "--yes")
    login = sql.value("SELECT corrected_by FROM payproc.corrections")
    assert login
    assert corrected[:2] == (0, f"corrected: p1 moved from failed to captured (entry 4, by {login})\n")


def test_correct_refused_exits_with_1(failed: InProcess) -> None:
    """The other refusals are in tests/integration."""
    finished = failed("correct", "p1", "--to", "captured", "--expect", "created", "--note", "x", "--yes")
    assert error_line(finished, 1) == 'payproc: payment "p1": is failed, expected created; nothing was changed'
    assert finished.stdout == ""


@pytest.mark.parametrize(
    ("answer", "code"),
    [(b"y\n", 0), (b"n\n", 1), (b"\x03", 130)],
    ids=["y", "n", "Ctrl-C"],
)
def test_correct_on_a_terminal_asks(payproc: Payproc, failed: InProcess, sql: Sql, answer: bytes, code: int) -> None:
    """The question shows the payment's state, its open matters and the correction's effect."""
    with open_terminal(cooked=True) as terminal:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.stream)
        with payproc.start(*CORRECT, "--quiet", **streams, start_new_session=True, preexec_fn=take_terminal) as process:
            try:
                shown = terminal.read_until(b"[y/N]: ").replace(b"\r\n", b"\n").decode()
                assert shown == QUESTION.format(since=sql.value(SINCE))
                terminal.type(answer)
                assert process.wait(timeout=30) == code
            finally:
                process.kill()
    assert sql.value("SELECT count(*) FROM payproc.corrections") == (code == 0)
