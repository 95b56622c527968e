"""`payproc resolve`: a person's decision, given with --yes or at the question."""

import pytest

from tests.support.command import Payproc, error_line
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql
from tests.support.terminal import open_terminal, take_terminal

DAY = [
    event_line("e1", "p1", "capture"),
    event_line("e2", "p1", "authorize"),
    event_line("e3", "p2", "authorize"),
    event_line("e4", "p2", "capture"),
    event_line("e5", "p2", "refund"),
    event_line("e6", "p2", "refund"),
]
"""Two events need review: the capture before its authorize, and the second refund."""

QUESTION = b"""\
capture of payment p1, event e1
needs review because the step before it is missing (predecessor_missing)
the payment is authorized now, created when the event arrived
received: {"event_id": "e1", "payment_id": "p1", "type": "capture"}
apply e1: p1 moves from authorized to captured? [y/N]: """


@pytest.fixture
def flagged(run_in_process: InProcess) -> InProcess:
    """The command on the day above."""
    write_lines(run_in_process.folder / "day.jsonl", DAY)
    run_in_process("ingest", "day.jsonl", "--workers", "1")
    return run_in_process


def test_resolve_without_a_terminal_needs_yes(flagged: InProcess, sql: Sql) -> None:
    line = error_line(flagged("resolve", "e1", "--apply", "--note", "paid"), 2)
    assert line == "payproc: no terminal to ask on; add --yes, and --expect STATE to be safe"
    assert sql.value("SELECT count(*) FROM payproc.resolutions") == 0


def test_resolve_prints_the_effect(flagged: InProcess, sql: Sql) -> None:
    decision = ("--apply", "--note", "paid", "--by", "alice", "--yes", "--expect", "Authorized")
    applied = flagged("resolve", "e1", *decision)
    assert applied[:2] == (0, "applied e1: p1 moved from authorized to captured (entry 3, by alice)\n")
    dismissed = flagged("resolve", "e6", "--dismiss", "--note", "never left the bank", "--yes")
    login = sql.value("SELECT resolved_by FROM payproc.resolutions WHERE event_id = 'e6'")
    assert login
    assert dismissed[:2] == (0, f"dismissed e6: p2 stays refunded (entry 5, by {login})\n")
    assert flagged("review").stdout == "no events need review\n"
    assert flagged("verify").code == 0


def test_resolve_without_login_name_needs_by(flagged: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run as a uid without a name."""
    monkeypatch.setattr("os.getuid", lambda: 2_000_000_000)
    line = error_line(flagged("resolve", "e1", "--apply", "--note", "paid", "--yes"), 2)
    assert line == "payproc: --by: the uid 2000000000 has no login name; add --by NAME"
    assert flagged("resolve", "e1", "--apply", "--note", "paid", "--yes", "--by", "alice").code == 0


def test_resolve_refused_exits_with_1(flagged: InProcess) -> None:
    """The other refusals are in tests/integration."""
    finished = flagged("resolve", "e1", "--apply", "--expect", "created", "--note", "x", "--yes")
    assert error_line(finished, 1) == 'payproc: payment "p1": is authorized, expected created; nothing was changed'
    assert finished.stdout == ""


@pytest.mark.parametrize(
    ("answer", "code"),
    [(b"y\n", 0), (b"n\n", 1), (b"\n", 1), (b"\x03", 130), (b"\x04", 130)],
    ids=["perhaps, then y", "n", "Enter", "Ctrl-C", "Ctrl-D"],
)
def test_resolve_on_a_terminal_asks(payproc: Payproc, flagged: InProcess, sql: Sql, answer: bytes, code: int) -> None:
    """The question shows the payment's state and the decision's effect."""
    arguments = ("resolve", "e1", "--apply", "--note", "x", "--quiet")
    with open_terminal(cooked=True) as terminal:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.stream)
        with payproc.start(*arguments, **streams, start_new_session=True, preexec_fn=take_terminal) as process:
            try:
                shown = terminal.read_until(b"[y/N]: ")
                assert shown.replace(b"\r\n", b"\n") == QUESTION
                if code == 0:
                    terminal.type(b"perhaps\n")
                    assert b"expected y or n" in terminal.read_until(b"[y/N]: ")
                terminal.type(answer)
                assert process.wait(timeout=30) == code
            finally:
                process.kill()
    assert sql.value("SELECT count(*) FROM payproc.resolutions") == (code == 0)
