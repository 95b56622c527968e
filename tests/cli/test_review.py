"""`payproc review`, `resolve`, `verify`, `rules` and `runs` as processes: for a person, a script, and both at once."""

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Payproc
from tests.support.events import event_line, write_lines
from tests.support.postgres import Sql, fill_queue

COMMAND = Path(sys.executable).with_name("payproc")


@pytest.fixture
def flagged(payproc: Payproc, tmp_path: Path) -> None:
    """Two events wait: a capture that came before its authorize, and a second refund."""
    write_lines(
        tmp_path / "day.jsonl",
        [
            event_line("e1", "p1", "capture"),
            event_line("e2", "p1", "authorize"),
            event_line("e3", "p2", "authorize"),
            event_line("e4", "p2", "capture"),
            event_line("e5", "p2", "refund"),
            event_line("e6", "p2", "refund", by="returns desk"),
        ],
    )
    payproc("ingest", "day.jsonl", "--workers", "1")  # with more, which of the two is recorded first is chance


def last(finished: Any) -> str:
    return str(finished.stderr.splitlines()[-1])


def test_ingest_ends_with_how_many_wait_and_where_to_see_them(payproc: Payproc) -> None:
    clean = payproc("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    assert "wait" not in clean.stdout + clean.stderr
    assert payproc("ingest", "-", stdin=event_line("e2", "p2", "capture")).stdout.splitlines()[-1] == (
        "1 event waits for a person: payproc review"
    )
    again = payproc("ingest", "-", "--format", "json", stdin=event_line("e3", "p3", "capture"))
    assert last(again) == "2 events wait for a person: payproc review"
    assert json.loads(again.stdout)["events"] == 1
    assert "wait" not in payproc("ingest", "-", "--quiet", stdin=b"").stderr


def test_review_lists_what_waits_oldest_first(payproc: Payproc, flagged: None) -> None:
    wide = payproc("review", env={"COLUMNS": "160"}).stdout.splitlines()
    assert re.split(r"  +", wide[0].strip()) == [
        "Event",
        "Payment",
        "Now",
        "Type",
        "Why a person must look",
        "Age",
        "From",
    ]
    assert re.split(r"  +", re.sub(r"\d+ s\b", "N s", wide[2]).strip()) == [
        "e1",
        "p1",
        "authorized",
        "capture",
        "the step before it has not been seen",
        "N s",
        "run 1, day.jsonl:1",
    ]
    assert wide[3].split()[:4] == ["e6", "p2", "refunded", "refund"]
    narrow = payproc("review").stdout.splitlines()
    assert [row.split()[:2] for row in narrow[3:5]] == [["e1", "capture"], ["p1", "authorized"]]
    assert "e6" not in payproc("review", "--limit", "1").stdout
    assert "e1" not in payproc("review", "--reason", "repeated_refund").stdout


def test_review_for_a_script_is_one_object_a_line(payproc: Payproc, flagged: None) -> None:
    first, second = (json.loads(row) for row in payproc("review", "--format", "json").stdout.splitlines())
    assert first.pop("recorded_at").endswith("Z")
    assert first == {
        "event_id": "e1",
        "payment_id": "p1",
        "state": "authorized",
        "version": 2,
        "type": "capture",
        "reason": "predecessor_missing",
        "state_when_flagged": "created",
        "run_id": 1,
        "source": "day.jsonl",
        "line": 1,
        "payload": {"event_id": "e1", "payment_id": "p1", "type": "capture"},
    }
    assert second["payload"]["by"] == "returns desk"


def test_an_empty_queue_says_so_to_a_person_and_nothing_to_a_script(payproc: Payproc) -> None:
    assert payproc("review").stdout == "nothing waits for a person\n"
    assert payproc("review", "--format", "json").stdout == ""


def test_a_reason_that_nothing_can_wait_for_is_refused(payproc: Payproc, flagged: None) -> None:
    assert payproc("review", "--reason", "capture_after_refund").stdout == (
        "nothing waits for a person with the reason capture_after_refund\n"
    )
    refused = payproc("review", "--reason", "transition")
    assert refused.code == 2
    assert last(refused).startswith(
        "payproc: --reason: transition never waits for a person, expected one of predecessor"
    )


@pytest.mark.parametrize("reader", ["true", pytest.param("head -c 1", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "command", ["review", "review --format json", "runs --format json", "show p1", "rules", "show --help"]
)
def test_a_reader_that_goes_away_ends_any_command_quietly(
    payproc: Payproc, flagged: None, command: str, reader: str
) -> None:
    script = f'(sleep 0.05; "$0" {command} --quiet; echo $? >&2) | {reader}'.replace("rules --quiet", "rules")
    finished = subprocess.run(
        ["bash", "-c", script, COMMAND],
        cwd=payproc.folder,
        env=payproc.environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert finished.stderr in ({"141\n"} if reader == "true" else {"141\n", "0\n"})


def test_resolve_without_a_terminal_needs_yes(payproc: Payproc, flagged: None, sql: Sql) -> None:
    refused = payproc("resolve", "e1", "--apply", "--note", "paid")
    assert refused.code == 2
    assert last(refused) == (
        "payproc: there is no terminal to ask on: add --yes, and --expect STATE to be on the safe side"
    )
    done = payproc("resolve", "e1", "--apply", "--note", "paid", "--by", "alice", "--yes", "--expect", "Authorized")
    assert (done.code, done.stdout) == (0, "applied e1: p1 went from authorized to captured (entry 3, by alice)\n")
    stays = payproc("resolve", "e6", "--dismiss", "--note", "never left the bank", "--yes")
    login = sql.value("SELECT resolved_by FROM payproc.resolutions WHERE event_id = 'e6'")
    assert stays.stdout == f"dismissed e6: p2 stays refunded (entry 5, by {login})\n"
    assert login
    assert payproc("review").stdout == "nothing waits for a person\n"
    assert payproc("verify").code == 0


def test_show_tells_what_was_decided(payproc: Payproc, flagged: None) -> None:
    payproc("resolve", "e1", "--apply", "--note", "seen in the bank's file", "--by", "alice", "--yes")
    shown = json.loads(payproc("show", "p1", "--format", "json").stdout)
    assert shown["open_reviews"] == []
    entry = shown["history"][2]
    assert entry.pop("recorded_at").endswith("Z")
    assert entry == {
        "kind": "resolution",
        "position": 3,
        "event_id": "e1",
        "resolution": "apply",
        "state_before": "authorized",
        "state_after": "captured",
        "note": "seen in the bank's file",
        "resolved_by": "alice",
    }
    wide = payproc("show", "p1", env={"COLUMNS": "160"}).stdout.splitlines()
    assert re.split(r"  +", wide[-1].strip())[:5] == ["3", "e1", "resolution", "applied", "by alice"]
    assert wide[-1].rstrip().endswith("seen in the bank's file")
    assert "waiting" not in "".join(wide)
    assert "seen in the bank's" in payproc("show", "p1").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope", "--apply"], 'event "nope": is not on record'),
        (["e2", "--apply"], 'event "e2": came out APPLY (transition), so there is nothing to decide'),
        (
            ["e1", "--apply", "--expect", "created"],
            'payment "p1": is authorized, expected created; nothing was changed',
        ),
    ],
)
def test_what_cannot_be_resolved_is_one_line_and_exit_1(
    payproc: Payproc, flagged: None, arguments: list[str], said: str
) -> None:
    finished = payproc("resolve", *arguments, "--note", "x", "--yes")
    assert (finished.code, finished.stdout, last(finished)) == (1, "", f"payproc: {said}")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"y\n", 0),
        (b"n\n", 1),
        pytest.param(b"\n", 1, marks=pytest.mark.slow),
        (b"\x03", 130),
        pytest.param(b"\x04", 130, marks=pytest.mark.slow),
    ],
)
def test_on_a_terminal_it_shows_state_and_effect_and_asks(
    payproc: Payproc, flagged: None, sql: Sql, answer: bytes, code: int
) -> None:
    terminal, its_end = pty.openpty()
    process = payproc.start(
        "resolve",
        "e1",
        "--apply",
        "--note",
        "x",
        "--quiet",
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )
    os.close(its_end)
    shown = b""
    while b"?" not in shown:
        assert select.select([terminal], [], [], 30)[0], shown
        shown += os.read(terminal, 4096)
    text = shown.decode().replace("\r\n", "\n")
    assert text.startswith(
        "capture of payment p1, event e1\n"
        "waits because the step before it has not been seen (predecessor_missing)\n"
        "the payment is authorized now, created when it came\n"
        'received: {"event_id": "e1", "payment_id": "p1", "type": "capture"}\n'
        "apply e1: p1 goes from authorized to captured?"
    )
    os.write(terminal, answer)
    assert process.wait(timeout=30) == code
    assert sql.value("SELECT count(*) FROM payproc.resolutions") == (code == 0)
    os.close(terminal)


def test_verify_tells_that_the_books_are_right(payproc: Payproc, flagged: None) -> None:
    finished = payproc("verify")
    assert (finished.code, finished.stdout) == (0, "2 payments, 6 entries: the books are right\n")
    assert json.loads(payproc("verify", "--format", "json").stdout) == {
        "findings": [],
        "payments": 2,
        "entries": 6,
        "problems": {},
        "wrong": 0,
    }


def test_verify_names_each_fault_and_exits_with_3(payproc: Payproc, flagged: None, sql: Sql) -> None:
    sql.rows("UPDATE payproc.payments SET state = 'failed' WHERE payment_id = 'p2'")
    sql.rows("UPDATE payproc.events SET outcome = 'REJECT', reason = 'payment_failed' WHERE event_id = 'e1'")
    finished = payproc("verify")
    assert finished.code == 3
    assert finished.stdout.splitlines() == [
        "payment p1: entry 1: rules_changed: found REJECT payment_failed, created to created, "
        "expected MANUAL_REVIEW predecessor_missing, created to created",
        "payment p2: wrong_state: found failed, expected refunded",
        "2 payments, 6 entries: 1 fault in the books",
        "1 recorded decision would come out differently by today's rules; "
        "the books are consistent with the rules of their time",
    ]
    as_json = payproc("verify", "--format", "json")
    assert as_json.code == 3
    report = json.loads(as_json.stdout)
    assert report["problems"] == {"wrong_state": 1, "rules_changed": 1}
    assert report["findings"][1] == {
        "payment_id": "p2",
        "problem": "wrong_state",
        "position": None,
        "found": "failed",
        "expected": "refunded",
    }


def test_rules_are_the_table(tmp_path: Path) -> None:
    payproc = Payproc(tmp_path, None)
    rules = json.loads(payproc("rules", "--format", "json").stdout)
    assert len(rules["table"]) == 25
    assert rules["table"][0] == {
        "state": "created",
        "type": "authorize",
        "outcome": "APPLY",
        "reason": "transition",
        "next_state": "authorized",
    }
    assert [rule["reason"] for rule in rules["before_the_state"]] == ["event_id_conflict", "duplicate_event"]
    printed = payproc("rules").stdout.splitlines()
    rows = [row.split() for row in printed[2 : printed.index("")] if row.strip()]
    assert rows == [
        [rule[key] for key in ("state", "type", "outcome", "reason", "next_state")] for rule in rules["table"]
    ]
    assert max(map(len, printed)) <= 80
    assert not (payproc.folder / "home").exists(), "the rules need no database"


def test_runs_lists_past_ingests_finished_or_not(payproc: Payproc, sql: Sql, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [event_line("e1", "p1", "authorize"), b"oops"])
    payproc("ingest", "a.jsonl", "-", stdin=b"")
    sql.rows("INSERT INTO payproc.runs (sources) VALUES ('{killed.jsonl}')")
    newest, oldest = (json.loads(row) for row in payproc("runs", "--format", "json").stdout.splitlines())
    assert (newest["run_id"], newest["finished_at"], newest["source"]) == (2, None, ["killed.jsonl"])
    assert oldest["finished_at"] >= oldest["started_at"]
    assert (oldest["source"], oldest["lines"], oldest["malformed"], oldest["events"]) == (
        ["a.jsonl", "<stdin>"],
        2,
        1,
        1,
    )
    assert oldest["outcomes"] == {"APPLY": 1, "IGNORE": 0, "REJECT": 0, "MANUAL_REVIEW": 0}
    table = "\n".join(row.rstrip() for row in payproc("runs").stdout.splitlines())
    assert re.search(r"2  \d{4}-.* 0  none +killed.jsonl\n +0.00 s, not finished +0", table)
    assert re.search(r"1  \d{4}-.* 1  APPLY 1 +a.jsonl\n +0.\d\d s, finished +1 +<stdin>", table)
    assert len(payproc("runs", "--limit", "1", "--format", "json").stdout.splitlines()) == 1


@pytest.mark.slow
def test_a_run_of_many_files_is_a_few_lines_in_a_table_and_whole_in_json(payproc: Payproc, tmp_path: Path) -> None:
    names = [f"delivery-{number:04}.json" for number in range(2000)]
    for number, name in enumerate(names):
        write_lines(tmp_path / name, [event_line(f"e{number}", f"p{number % 5}", "capture")])
    assert payproc("ingest", "--quiet", *names).code == 0
    table = payproc("runs", "--quiet").stdout.splitlines()
    assert [row.rstrip().rpartition("  ")[2] for row in table[3:]] == [*names[:4], "… and 1,996 more"]
    assert json.loads(payproc("runs", "--format", "json").stdout)["source"] == names
    waiting = [json.loads(row) for row in payproc("review", "--format", "json").stdout.splitlines()]
    assert {review["event_id"]: review["source"] for review in waiting} == {
        f"e{number}": name for number, name in enumerate(names)
    }
    history = json.loads(payproc("show", "p3", "--format", "json").stdout)["history"]
    assert [entry["source"] for entry in history] == names[3::5]


@pytest.mark.parametrize("columns", ["80", *(pytest.param(wide, marks=pytest.mark.slow) for wide in ("130", "160"))])
def test_long_ids_and_notes_neither_break_a_table_nor_are_cut_in_json(payproc: Payproc, columns: str) -> None:
    event, payment, note = "e" * 255, "p" * 255, "why " * 100
    payproc(
        "ingest",
        "-",
        "--workers",
        "1",
        stdin=event_line(event, payment, "capture") + b"\n" + event_line("e1", "p1", "refund"),
    )
    screen = {"COLUMNS": columns, "NO_COLOR": "1"}
    listed = payproc("review", env=screen).stdout
    assert max(map(len, listed.splitlines())) <= int(columns)
    assert listed.count("p" * 5) > 10
    assert json.loads(payproc("review", "--format", "json", "--limit", "1", env=screen).stdout)["payment_id"] == payment
    payproc("resolve", event, "--dismiss", "--note", note, "--by", "b" * 100, "--yes")
    shown = payproc("show", payment, env=screen).stdout
    assert max(map(len, shown.splitlines()[1:])) <= int(columns)
    entry = json.loads(payproc("show", payment, "--format", "json", env=screen).stdout)["history"][1]
    assert (entry["note"], entry["resolved_by"]) == (note.strip(), "b" * 100)
    assert max(map(len, payproc("runs", env=screen).stdout.splitlines())) <= int(columns)


def test_notes_and_names_are_data_and_cannot_drive_the_terminal(payproc: Payproc, flagged: None) -> None:
    hostile = "[red]x[/]\x1b[31m\n\u202ey"
    done = payproc("resolve", "e1", "--dismiss", "--note", hostile, "--by", hostile, "--yes")
    assert done.stdout.count("\n") == 1
    again = payproc("resolve", "e1", "--dismiss", "--note", "x", "--yes")
    shown = payproc("show", "p1", env={"COLUMNS": "200"})
    for text in (done.stdout, last(again), shown.stdout):
        assert "[red]x[/]\\x1b[31m\\n\\u202ey" in text
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.slow
@pytest.mark.parametrize(("form", "many"), [("table", 60_000), ("json", 300_000)])
def test_a_long_queue_is_listed_in_flat_memory(payproc: Payproc, sql: Sql, form: str, many: int) -> None:
    """Peak memory for so many waiting events is that for a few, give or take 15 MB."""
    few = 3_000
    peaks = []
    for first, last_one in ((1, few), (few + 1, many)):
        fill_queue(sql, first, last_one)
        process = payproc.start("review", "--quiet", "--format", form)
        listed = 0
        status = ""
        for row in process.stdout:
            listed += b"capture" in row
            if listed == last_one:
                status = status or Path(f"/proc/{process.pid}/status").read_text()
        process.communicate()
        assert listed == last_one
        peaks.append(int(status.partition("VmHWM:")[2].split()[0]))
    assert peaks[1] < peaks[0] + 15_000, f"peaks in kB: {peaks}"


@pytest.mark.slow
def test_a_queue_of_long_lines_takes_no_more_memory_than_a_part_of_it(payproc: Payproc, sql: Sql) -> None:
    """600 waiting events whose lines have nearly 1 MiB each."""
    size, count = 1_000_000, 600
    fill_queue(sql, 1, count, size)
    process = payproc.start("review", "--quiet", "--format", "json")
    for _ in range(count):
        assert len(process.stdout.readline()) > size
    status = Path(f"/proc/{process.pid}/status").read_text()
    process.communicate()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    assert peak < count * size * 0.7, f"it took {peak:,} bytes"
