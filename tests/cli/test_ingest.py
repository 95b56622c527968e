"""`payproc ingest` as a process: what it prints, what it writes, what it ends with."""

import gzip
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Payproc
from tests.support.events import event_line, messy_lines, write_lines
from tests.support.postgres import NewDatabase, Sql, contents


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """Five events, one of each outcome and a duplicate, and two malformed lines."""
    lines = [
        event_line("e1", "p1", "authorize"),
        event_line("e1", "p1", "authorize", attempt=2),
        b"not json",
        b"",
        event_line("e1", "p2", "authorize"),
        event_line("e2", "p3", "capture"),
        b'{"event_id": "e3"}',
        event_line("e4", "p4", "fail"),
    ]
    return write_lines(tmp_path / "five.jsonl", lines)


SUMMARY_OF_FIVE = {
    "run_id": 1,
    "source": ["five.jsonl"],
    "lines": 7,
    "malformed": 2,
    "events": 5,
    "outcomes": {"APPLY": 2, "IGNORE": 1, "REJECT": 1, "MANUAL_REVIEW": 1},
    "reasons": {"event_id_conflict": 1, "duplicate_event": 1, "transition": 2, "predecessor_missing": 1},
    "known_conflicts": 0,
    "dry_run": False,
}

MALFORMED_OF_FIVE = """\
five.jsonl:3: not JSON: invalid character (byte 4), expected one JSON object a line
five.jsonl:7: payment_id: missing, expected a string of 1 to 255 characters
"""


def test_the_summary_table_has_all_outcomes_in_order_and_malformed_lines_apart(payproc: Payproc, five: Path) -> None:
    finished = payproc("ingest", "five.jsonl")
    assert finished.code == 3
    *table, footer, waiting = finished.stdout.splitlines()
    assert waiting == "1 event waits for a person: payproc review"
    assert [row.split() for row in table] == [
        ["Outcome", "Events", "Share", "Reasons"],
        [table[1]],
        ["APPLY", "2", "40.0%", "transition", "2"],
        ["IGNORE", "1", "20.0%", "duplicate_event", "1"],
        ["REJECT", "1", "20.0%", "event_id_conflict", "1"],
        ["MANUAL_REVIEW", "1", "20.0%", "predecessor_missing", "1"],
    ]
    assert footer.startswith("5 events · 2 malformed lines · 0.")
    assert footer.endswith(" events/s) · run 1")
    note, *malformed = finished.stderr.splitlines(keepends=True)
    assert note.startswith("payproc: database postgresql://")
    assert note.endswith("(from DATABASE_URL)\n")
    assert "".join(malformed) == MALFORMED_OF_FIVE


def test_json_is_one_object_with_the_promised_fields(payproc: Payproc, five: Path) -> None:
    summary = payproc.summary("five.jsonl", code=3)
    assert summary.pop("elapsed_seconds") > 0
    assert f" {summary.pop('database')} (from" in payproc("runs").stderr
    assert summary == SUMMARY_OF_FIVE
    assert list(summary["outcomes"]) == ["APPLY", "IGNORE", "REJECT", "MANUAL_REVIEW"]


@pytest.mark.parametrize("arguments", [["-"], []], ids=["-", "a pipe"])
def test_standard_input_is_read(payproc: Payproc, five: Path, arguments: list[str]) -> None:
    summary = payproc.summary(*arguments, stdin=five.read_bytes(), code=3)
    assert summary["source"] == ["<stdin>"]
    assert summary["outcomes"] == SUMMARY_OF_FIVE["outcomes"]


def test_files_are_processed_in_the_order_given_and_standard_input_among_them(payproc: Payproc, tmp_path: Path) -> None:
    write_lines(tmp_path / "1.jsonl", [event_line("e1", "p1", "authorize")])
    write_lines(tmp_path / "3.jsonl", [event_line("e3", "p1", "refund")])
    summary = payproc.summary("1.jsonl", "-", "3.jsonl", stdin=event_line("e2", "p1", "capture"))
    assert summary["source"] == ["1.jsonl", "<stdin>", "3.jsonl"]
    assert summary["outcomes"]["APPLY"] == 3
    shown = json.loads(payproc("show", "p1", "--format", "json").stdout)
    assert [(entry["source"], entry["line"]) for entry in shown["history"]] == [
        ("1.jsonl", 1),
        ("<stdin>", 1),
        ("3.jsonl", 1),
    ]


def test_decisions_on_stdout_are_nothing_but_decisions(payproc: Payproc, five: Path) -> None:
    finished = payproc("ingest", "five.jsonl", "--decisions", "-")
    decisions = [json.loads(row) for row in finished.stdout.splitlines()]
    assert [decision["line"] for decision in decisions] == [1, 2, 3, 5, 6, 7, 8]
    assert [decision.get("outcome", "malformed") for decision in decisions] == [
        "APPLY",
        "IGNORE",
        "malformed",
        "REJECT",
        "MANUAL_REVIEW",
        "malformed",
        "APPLY",
    ]
    assert "MANUAL_REVIEW" in finished.stderr, "the summary goes where the decisions do not"
    written = payproc("ingest", "five.jsonl", "--decisions", "decisions.jsonl")
    assert "MANUAL_REVIEW" in written.stdout
    again = [json.loads(row) for row in (payproc.folder / "decisions.jsonl").read_text().splitlines()]
    assert [decision.get("original_outcome") for decision in again] == [
        "APPLY",
        "APPLY",
        None,
        None,
        "MANUAL_REVIEW",
        None,
        "APPLY",
    ]


def test_malformed_lines_are_kept_byte_for_byte_and_complete_the_job_once_mended(payproc: Payproc, sql: Sql) -> None:
    good = [event_line(f"e{number}", "p1", kind) for number, kind in enumerate(("authorize", "capture", "refund"))]
    broken = good[1].replace(b"}", b" \xff\x00 oops")
    huge = b"{" + b"x" * (50 << 20)
    content = b"\n".join([good[0], broken, b"\xf0\x9f\x92\xb8\r", huge, good[2]])
    summary = payproc.summary("-", "--malformed", "bad", stdin=content, code=3)
    assert (summary["lines"], summary["malformed"]) == (5, 3)
    kept = (payproc.folder / "bad").read_bytes()
    assert kept == broken + b"\n\xf0\x9f\x92\xb8\r\n" + huge + b"\n"
    mended = payproc.summary("-", stdin=kept.replace(broken, good[1]).replace(huge, b""), code=3)
    assert mended["reasons"] == {"transition": 1}
    assert [(entry[2], entry[5]) for entry in contents(sql)["events"]] == [
        ("e0", "transition"),
        ("e2", "predecessor_missing"),
        ("e1", "transition"),
    ]


def test_a_dry_run_gives_the_same_report_and_writes_nothing(payproc: Payproc, five: Path, sql: Sql) -> None:
    rehearsed = payproc("ingest", "five.jsonl", "--dry-run", "--decisions", "-").stdout
    assert sql.value("SELECT count(*) FROM payproc.runs") == 0
    assert not any(contents(sql).values())
    summary = payproc.summary("five.jsonl", "--dry-run", code=3)
    assert (summary["run_id"], summary["dry_run"]) == (None, True)
    assert summary["outcomes"] == SUMMARY_OF_FIVE["outcomes"]
    assert payproc("ingest", "five.jsonl", "--decisions", "-").stdout == rehearsed
    assert "dry run: nothing was written" in payproc("ingest", "five.jsonl", "--dry-run").stdout


def test_a_dry_run_does_not_even_create_the_schema(tmp_path: Path, bare_url: Any, five: Path, server: Any) -> None:
    payproc = Payproc(tmp_path, bare_url)
    assert payproc.summary("five.jsonl", "--dry-run", code=3)["outcomes"] == SUMMARY_OF_FIVE["outcomes"]
    with server.connect(bare_url.database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace('payproc')")
        assert cursor.fetchall() == [(None,)]
    connection.close()


@pytest.mark.parametrize(
    ("fail_on", "code", "said"),
    [
        (["REJECT"], 3, ["payproc: --fail-on REJECT: 1 came out so"]),
        (
            ["manual_review", "REJECT", "reject"],
            3,
            ["payproc: --fail-on MANUAL_REVIEW: 1 came out so", "payproc: --fail-on REJECT: 1 came out so"],
        ),
        (["IGNORE"], 0, []),
    ],
)
def test_a_script_can_be_gated_by_outcome(
    payproc: Payproc, tmp_path: Path, fail_on: list[str], code: int, said: list[str]
) -> None:
    write_lines(
        tmp_path / "x.jsonl",
        [event_line("e1", "p1", "capture"), event_line("e1", "p2", "capture"), event_line("e2", "p3", "authorize")],
    )
    options = [part for outcome in fail_on for part in ("--fail-on", outcome)]
    finished = payproc("ingest", "x.jsonl", "--quiet", *options)
    assert (finished.code, finished.stdout, finished.stderr.splitlines()) == (code, "", said)


def test_quiet_leaves_only_errors_and_what_was_asked_for(payproc: Payproc, five: Path) -> None:
    finished = payproc("ingest", "five.jsonl", "--quiet")
    assert (finished.code, finished.stdout, finished.stderr) == (3, "", MALFORMED_OF_FIVE)
    assert json.loads(payproc("ingest", "five.jsonl", "-q", "--format", "json").stdout)["lines"] == 7


def test_the_first_twenty_malformed_lines_are_listed_and_the_rest_counted(payproc: Payproc) -> None:
    finished = payproc("ingest", "-", stdin=b"oops\n" * 1234)
    listed = finished.stderr.splitlines()[1:]
    assert len(listed) == 22
    assert listed[19].startswith("<stdin>:20: not JSON")
    assert listed[20] == "… and 1,214 more malformed lines; --malformed FILE keeps them all"
    assert listed[21].startswith("payproc: no line is an object, expected lines such as {")
    assert finished.stdout.splitlines()[-1].startswith("0 events · 1,234 malformed lines · ")


def test_a_replay_of_a_dump_through_a_pipe_changes_nothing(payproc: Payproc, sql: Sql) -> None:
    dump = b"\n".join(messy_lines(11, 500))
    payproc("ingest", stdin=dump)
    before = contents(sql)
    packed = payproc.folder / "dump.jsonl.gz"
    packed.write_bytes(gzip.compress(dump))
    with subprocess.Popen(["zcat", packed], stdout=subprocess.PIPE) as zcat:
        process = payproc.start("ingest", "-", "--format", "json", stdin=zcat.stdout)
        stdout, _ = process.communicate()
    summary = json.loads(stdout)
    assert set(summary["reasons"]) == {"duplicate_event", "event_id_conflict"}
    assert contents(sql) == before


def test_results_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, new_database: NewDatabase, template: str
) -> None:
    write_lines(tmp_path / "messy.jsonl", messy_lines(5, 3000))
    outputs = {
        Payproc(tmp_path, new_database(template))(
            "ingest", "messy.jsonl", "--workers", workers, "--decisions", "-"
        ).stdout
        for workers in ("1", "2", "5")
    }
    assert len(outputs) == 1


def test_each_decision_is_out_before_more_input_comes(payproc: Payproc) -> None:
    """`tail -f | payproc ingest --decisions -`: a batch is what is there now, not what may come."""
    process = payproc.start("ingest", "--decisions", "-", stdin=subprocess.PIPE)
    for number, kind in enumerate(("authorize", "capture", "refund"), 1):
        process.stdin.write(event_line(f"e{number}", "p1", kind) + b"\n")
        process.stdin.flush()
        decision = json.loads(process.stdout.readline())
        assert (decision["line"], decision["outcome"]) == (number, "APPLY")
    process.stdin.close()
    assert process.wait() == 0
    process.stdout.close()
    process.stderr.close()


def test_events_of_an_ordinary_file_beside_a_fifo_are_read_once(payproc: Payproc) -> None:
    """Process substitution: looking into a pipe beforehand would take what is in it."""
    fifo = payproc.folder / "fifo"
    os.mkfifo(fifo)
    process = payproc.start("ingest", "fifo", "--format", "json")
    fifo.write_bytes(event_line("e1", "p1", "authorize") + b"\n" + event_line("e2", "p1", "capture"))
    stdout, _ = process.communicate()
    assert json.loads(stdout)["outcomes"]["APPLY"] == 2


# ---- Conflicts that are on record already ---------------------------------------------------------

CONFLICTS = [("e1", "p1", "authorize"), ("e1", "p2", "authorize"), ("e1", "p1", "refund"), ("e1", "p2", "authorize")]


@pytest.fixture
def conflicts(tmp_path: Path) -> Path:
    """An event and three lines that contradict it, the last of which repeats the first of them."""
    return write_lines(tmp_path / "conflicts.jsonl", [event_line(*fact) for fact in CONFLICTS])


def known_in(finished: Any) -> list[Any]:
    """The field `known` of each decision, None where it is missing."""
    return [json.loads(row).get("known") for row in finished.stdout.splitlines()]


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["real", "dry run"])
def test_known_conflicts_are_marked_and_counted_apart(payproc: Payproc, conflicts: Path, dry_run: list[str]) -> None:
    command = ("ingest", "conflicts.jsonl", "--workers", "1", *dry_run)
    assert known_in(payproc(*command, "--decisions", "-")) == [None, None, None, True]
    payproc("ingest", "conflicts.jsonl")
    assert known_in(payproc(*command, "--decisions", "-")) == [None, True, True, True]
    summary = payproc.summary("conflicts.jsonl", *dry_run)
    assert summary["known_conflicts"] == 3
    assert summary["reasons"] == {"event_id_conflict": 3, "duplicate_event": 1}
    assert sum(summary["outcomes"].values()) == summary["events"] == 4


def test_a_replay_of_a_day_with_conflicts_stays_clean(payproc: Payproc, conflicts: Path, sql: Sql) -> None:
    gate = ("ingest", "-", "--quiet", "--fail-on", "REJECT")
    day = conflicts.read_bytes()
    first = payproc(*gate, stdin=day)
    assert (first.code, first.stderr) == (3, "payproc: --fail-on REJECT: 2 came out so\n")
    assert payproc(*gate, stdin=day) == (0, "", "")
    more = day + event_line("e1", "p3", "fail") + b"\n"
    assert payproc(*gate, "--dry-run", stdin=more).code == 3
    assert "event_id_conflict 4 (3 known)" in payproc("ingest", "-", stdin=more).stdout
    assert payproc(*gate, stdin=more) == (0, "", "")
    assert sql.value("SELECT rejected FROM payproc.runs ORDER BY run_id DESC LIMIT 1") == 4


def test_known_conflicts_do_not_depend_on_how_the_work_is_split(
    tmp_path: Path, new_database: NewDatabase, template: str
) -> None:
    """The conflicts with one event are under several payments, which several workers have."""
    facts = [("e1", "p0", "authorize"), *[("e1", f"p{number % 7}", "capture") for number in range(50)]]
    write_lines(tmp_path / "day.jsonl", [event_line(*fact) for fact in facts])
    expected = [None] + [None] * 7 + [True] * 43
    for workers in ("1", "2", "5"):
        payproc = Payproc(tmp_path, new_database(template))
        decided = payproc("ingest", "day.jsonl", "--workers", workers, "--decisions", "-")
        assert known_in(decided) == expected


def test_a_conflict_recorded_by_a_cut_off_attempt_of_the_run_is_not_known(
    payproc: Payproc, tmp_path: Path, sql: Sql
) -> None:
    write_lines(tmp_path / "first.jsonl", [event_line("e0", "slow", "authorize"), event_line("e1", "p1", "authorize")])
    payproc("ingest", "first.jsonl")
    facts = [("e1", "p2", "authorize"), ("e2", "slow", "capture"), ("e1", "p2", "authorize")]
    write_lines(tmp_path / "day.jsonl", [event_line(*fact) for fact in facts])
    with sql.locked_payment("slow"):
        process = payproc.start("ingest", "day.jsonl", "--workers", "1", "--decisions", "-")
        backend = sql.wait_for_blocked_call()
        assert sql.value("SELECT count(*) FROM payproc.event_conflicts") == 1
        assert sql.value("SELECT pg_terminate_backend(%s, 30000)", backend)
    stdout, _ = process.communicate()
    assert [json.loads(row).get("known") for row in stdout.splitlines()] == [None, None, True]
