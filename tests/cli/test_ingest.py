"""`payproc ingest`: its sources, its report, its output files and its exit code."""

import gzip
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.support.command import Finished, Payproc, messages
from tests.support.events import event_line, messy_lines, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, SqlOn, contents
from tests.support.terminal import open_terminal

HUGE_BYTES = 5 << 20
"""Five times the longest line."""


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """A file of five events, one of each outcome and a duplicate, and two malformed lines."""
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


SUMMARY_OF_FIVE = json.loads("""
    {"run_id": 1, "source": ["five.jsonl"], "lines": 7, "malformed": 2, "events": 5,
     "outcomes": {"APPLY": 2, "IGNORE": 1, "REJECT": 1, "MANUAL_REVIEW": 1},
     "reasons": {"event_id_conflict": 1, "duplicate_event": 1, "transition": 2, "predecessor_missing": 1},
     "known_conflicts": 0, "differing_duplicates": 1, "dry_run": false}
""")

OUTCOMES_OF_FIVE = ["APPLY", "IGNORE", None, "REJECT", "MANUAL_REVIEW", None, "APPLY"]

MALFORMED_OF_FIVE = """\
five.jsonl:3: not JSON: "not json", expected one JSON object a line
five.jsonl:7: payment_id: missing, expected a string of 1 to 255 characters
"""


def decisions(finished: Finished, field: str) -> list[object]:
    """Return a field of each decision on stdout, None where it is missing."""
    return [json.loads(row).get(field) for row in finished.stdout.splitlines()]


# ---- The report ----------------------------------------------------------------------------------


def test_summary_table(run_in_process: InProcess, five: Path) -> None:
    """All outcomes are listed, in their order, and malformed lines apart on stderr."""
    finished = run_in_process("ingest", "five.jsonl")
    assert finished.code == 3
    *table, footer, pending, rejected = finished.stdout.splitlines()
    assert pending == "1 event needs review; run payproc review"
    assert rejected == "1 event was rejected; run payproc history --run 1 --outcome REJECT"
    assert [row.split() for row in table] == [
        ["Outcome", "Events", "Share", "Reasons"],
        [table[1]],
        ["APPLY", "2", "40.0%", "transition", "2"],
        ["IGNORE", "1", "20.0%", "duplicate_event", "1", "(1", "differs)"],
        ["run", "payproc", "history", "--reason", "duplicate_event"],
        ["REJECT", "1", "20.0%", "event_id_conflict", "1"],
        ["MANUAL_REVIEW", "1", "20.0%", "predecessor_missing", "1"],
    ]
    assert re.fullmatch(r"5 events · 2 malformed lines · \d+\.\d\d s \([\d,]+ events/s\) · run 1", footer)
    note, *malformed = finished.stderr.splitlines(keepends=True)
    assert note.startswith("payproc: database postgresql://")
    assert note.endswith("(from DATABASE_URL)\n")
    assert "".join(malformed) == MALFORMED_OF_FIVE


def test_summary_json(run_in_process: InProcess, five: Path) -> None:
    summary = run_in_process.summary("five.jsonl", code=3)
    assert summary.pop("elapsed_seconds") > 0
    assert f" {summary.pop('database')} (from" in run_in_process("runs").stderr
    assert summary == SUMMARY_OF_FIVE
    assert list(summary["outcomes"]) == ["APPLY", "IGNORE", "REJECT", "MANUAL_REVIEW"]


def test_quiet_prints_errors_and_requested_output(run_in_process: InProcess, five: Path) -> None:
    assert run_in_process("ingest", "five.jsonl", "--quiet") == (3, "", MALFORMED_OF_FIVE)
    assert json.loads(run_in_process("ingest", "five.jsonl", "-q", "--format", "json").stdout)["lines"] == 7


def test_twenty_malformed_lines_are_listed(run_in_process: InProcess) -> None:
    """The rest is counted, and an advice follows if no line is an object."""
    finished = run_in_process("ingest", "-", stdin=b"oops\n" * 1234)
    *listed, more, advice = messages(finished)
    assert len(listed) == 20
    assert listed[19].startswith("<stdin>:20: not JSON")
    assert more == "… and 1,214 more malformed lines; --malformed FILE keeps them all"
    assert advice.startswith("payproc: no line is an object, expected lines such as {")
    assert finished.stdout.splitlines()[-1].startswith("0 events · 1,234 malformed lines · ")


REJECTED = "REJECT: 1 event was rejected"


def test_pretty_printed_json_gets_one_message(run_in_process: InProcess) -> None:
    """The counts, --malformed and --decisions have each line, and good lines count."""
    objects = [json.loads(event_line(f"e{number}", "p1", "capture")) for number in range(9)]
    pretty = "\n".join(json.dumps(each, indent=2) for each in objects).encode()
    lines = pretty.count(b"\n") + 1
    good = event_line("good", "p2", "authorize")
    outputs = ("--malformed", "bad", "--decisions", "all", "--format", "json")
    finished = run_in_process("ingest", "-", *outputs, stdin=good + b"\n" + pretty)
    first, *_ = messages(finished)
    summary = json.loads(finished.stdout)
    assert first == (
        f"<stdin>:2: JSON that goes over several lines ({lines} malformed lines), expected one JSON object a line; "
        "use: jq -c . FILE | payproc ingest -"
    )
    assert (summary["lines"], summary["malformed"], summary["outcomes"]["APPLY"]) == (lines + 1, lines, 1)
    assert (run_in_process.folder / "bad").read_bytes() == pretty + b"\n"
    decided = [json.loads(row) for row in (run_in_process.folder / "all").read_text().splitlines()]
    assert [each["line"] for each in decided if "error" in each] == [*range(2, lines + 2)]
    assert "no line is an object" not in run_in_process("ingest", "-", stdin=pretty).stderr


def test_messages_stop_after_twenty_files(run_in_process: InProcess) -> None:
    names = [f"{number}.json" for number in range(22)]
    for name in names:
        (run_in_process.folder / name).write_text("{\n}")
    *listed, more = messages(run_in_process("ingest", *names))
    assert len(listed) == 20
    assert more == "… and 4 more malformed lines; --malformed FILE keeps them all"


@pytest.mark.parametrize(
    ("fail_on", "code", "expected"),
    [
        ("REJECT", 3, [REJECTED]),
        (
            "manual_review REJECT reject",
            3,
            ["MANUAL_REVIEW: 1 event was sent to review", REJECTED],
        ),
        ("IGNORE", 0, []),
    ],
)
def test_fail_on_an_outcome(run_in_process: InProcess, fail_on: str, code: int, expected: list[str]) -> None:
    facts = [("e1", "p1", "capture"), ("e1", "p2", "capture"), ("e2", "p3", "authorize")]
    write_lines(run_in_process.folder / "x.jsonl", [event_line(*fact) for fact in facts])
    options = [part for outcome in fail_on.split() for part in ("--fail-on", outcome)]
    finished = run_in_process("ingest", "x.jsonl", "--quiet", *options)
    assert finished[:2] == (code, "")
    assert finished.stderr.splitlines() == [f"payproc: --fail-on {line}" for line in expected]


# ---- Decisions, malformed lines, dry runs --------------------------------------------------------


def test_decisions_on_stdout_are_alone_there(run_in_process: InProcess, five: Path) -> None:
    """The summary goes to stderr then, and to stdout if the decisions go to a file."""
    finished = run_in_process("ingest", "five.jsonl", "--decisions", "-")
    assert decisions(finished, "line") == [1, 2, 3, 5, 6, 7, 8]
    assert decisions(finished, "outcome") == OUTCOMES_OF_FIVE
    assert "MANUAL_REVIEW" in finished.stderr
    assert "MANUAL_REVIEW" in run_in_process("ingest", "five.jsonl", "--decisions", "decided").stdout
    again = [json.loads(row) for row in (run_in_process.folder / "decided").read_text().splitlines()]
    originals = ["APPLY", "APPLY", None, None, "MANUAL_REVIEW", None, "APPLY"]
    assert [decision.get("original_outcome") for decision in again] == originals


def test_malformed_lines_are_kept_byte_for_byte(run_in_process: InProcess, sql: Sql) -> None:
    """Once mended and ingested, they complete the job."""
    good = [event_line(f"e{number}", "p1", kind) for number, kind in enumerate(("authorize", "capture", "refund"))]
    broken = good[1].replace(b"}", b" \xff\x00 oops")
    huge = b"{" + b"x" * HUGE_BYTES
    content = b"\n".join([good[0], broken, b"\xf0\x9f\x92\xb8\r", huge, good[2]])
    summary = run_in_process.summary("-", "--malformed", "bad", stdin=content, code=3)
    assert (summary["lines"], summary["malformed"]) == (5, 3)
    kept = (run_in_process.folder / "bad").read_bytes()
    assert kept == broken + b"\n\xf0\x9f\x92\xb8\r\n" + huge + b"\n"
    mended = kept.replace(broken, good[1]).replace(huge, b"")
    assert run_in_process.summary("-", stdin=mended, code=3)["reasons"] == {"transition": 1}
    recorded = [(entry[2], entry[5]) for entry in contents(sql)["events"]]
    assert recorded == [("e0", "transition"), ("e2", "predecessor_missing"), ("e1", "transition")]


def test_dry_run_reports_and_writes_nothing(run_in_process: InProcess, five: Path, sql: Sql) -> None:
    rehearsed = run_in_process("ingest", "five.jsonl", "--dry-run", "--decisions", "-").stdout
    assert sql.value("SELECT count(*) FROM payproc.runs") == 0
    assert not any(contents(sql).values())
    summary = run_in_process.summary("five.jsonl", "--dry-run", code=3)
    assert (summary["run_id"], summary["dry_run"]) == (None, True)
    assert summary["outcomes"] == SUMMARY_OF_FIVE["outcomes"]
    assert run_in_process("ingest", "five.jsonl", "--decisions", "-").stdout == rehearsed
    assert "dry run: nothing was written" in run_in_process("ingest", "five.jsonl", "--dry-run").stdout


def test_dry_run_creates_no_schema(tmp_path: Path, bare_url: URL, five: Path, sql_on: SqlOn) -> None:
    summary = InProcess(tmp_path, bare_url).summary("five.jsonl", "--dry-run", code=3)
    assert summary["outcomes"] == SUMMARY_OF_FIVE["outcomes"]
    assert sql_on(bare_url).value("SELECT to_regnamespace('payproc')") is None


# ---- Files and pipes -----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["-"], []], ids=["-", "a pipe"])
def test_standard_input_is_read(payproc: Payproc, five: Path, arguments: list[str]) -> None:
    summary = payproc.summary(*arguments, stdin=five.read_bytes(), code=3)
    assert summary["source"] == ["<stdin>"]
    assert summary["outcomes"] == SUMMARY_OF_FIVE["outcomes"]


def test_sources_are_read_in_the_order_given(run_in_process: InProcess) -> None:
    """Standard input is one of them."""
    write_lines(run_in_process.folder / "1.jsonl", [event_line("e1", "p1", "authorize")])
    write_lines(run_in_process.folder / "3.jsonl", [event_line("e3", "p1", "refund")])
    summary = run_in_process.summary("1.jsonl", "-", "3.jsonl", stdin=event_line("e2", "p1", "capture"))
    assert summary["source"] == ["1.jsonl", "<stdin>", "3.jsonl"]
    assert summary["outcomes"]["APPLY"] == 3
    history = json.loads(run_in_process("show", "p1", "--format", "json").stdout)["history"]
    assert [(entry["source"], entry["line"]) for entry in history] == [("1.jsonl", 1), ("<stdin>", 1), ("3.jsonl", 1)]


def test_replay_of_a_dump_changes_nothing(payproc: Payproc, run_in_process: InProcess, sql: Sql) -> None:
    """The dump comes through a pipe, as from zcat."""
    dump = b"\n".join(messy_lines(11, 500))
    run_in_process("ingest", "-", stdin=dump)
    before = contents(sql)
    packed = payproc.folder / "dump.jsonl.gz"
    packed.write_bytes(gzip.compress(dump))
    with subprocess.Popen(["zcat", packed], stdout=subprocess.PIPE) as zcat:
        stdout, _ = payproc.start("ingest", "-", "--format", "json", stdin=zcat.stdout).communicate()
    assert set(json.loads(stdout)["reasons"]) == {"duplicate_event", "event_id_conflict"}
    assert contents(sql) == before


def test_decisions_are_out_before_more_input_comes(payproc: Payproc) -> None:
    """`tail -f | payproc ingest --decisions -`: a batch ends with the input that is there."""
    with payproc.start("ingest", "--decisions", "-", stdin=subprocess.PIPE) as process:
        for number, kind in enumerate(("authorize", "capture", "refund"), 1):
            process.stdin.write(event_line(f"e{number}", "p1", kind) + b"\n")
            process.stdin.flush()
            decision = json.loads(process.stdout.readline())
            assert (decision["line"], decision["outcome"]) == (number, "APPLY")
        process.stdin.close()
        assert process.wait() == 0


def test_fifo_is_read_once(payproc: Payproc) -> None:
    """Process substitution: a look into a pipe beforehand would take its content."""
    fifo = payproc.folder / "fifo"
    os.mkfifo(fifo)
    with payproc.start("ingest", "fifo", "--format", "json") as process:
        fifo.write_bytes(event_line("e1", "p1", "authorize") + b"\n" + event_line("e2", "p1", "capture"))
        stdout, _ = process.communicate()
    assert json.loads(stdout)["outcomes"]["APPLY"] == 2


def test_ingest_on_a_terminal_needs_a_file(payproc: Payproc) -> None:
    with open_terminal() as terminal, payproc.start("ingest", stdin=terminal.stream) as process:
        _, stderr = process.communicate(timeout=30)
    line = "payproc: nothing to ingest: name a file, or pipe events in (- reads the terminal)\n"
    assert (process.returncode, stderr.decode()) == (2, line)


# ---- Notes after the summary ---------------------------------------------------------------------


def test_rejected_events_are_counted_once(run_in_process: InProcess) -> None:
    """The line leads to the rejected events of its run; a replay adds none."""
    day = b"\n".join(
        [event_line("e1", "p1", "fail"), event_line("e2", "p1", "capture"), event_line("e1", "p2", "fail")]
    )
    first, again = (run_in_process("ingest", "-", stdin=day) for _ in range(2))
    line = first.stdout.splitlines()[-1]
    assert line == "2 events were rejected; run payproc history --run 1 --outcome REJECT"
    command = line.partition("run payproc ")[2].split()
    assert len(run_in_process(*command, "--format", "json").stdout.splitlines()) == 2
    assert "rejected" not in again.stdout
    assert "rejected" not in run_in_process("ingest", "-", "--dry-run", stdin=day).stdout
    assert (
        "rejected" in run_in_process("ingest", "-", "--format", "json", stdin=event_line("e9", "p1", "refund")).stderr
    )


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--format", "json"]])
def test_newest_first_input_is_recognized(run_in_process: InProcess, options: list[str]) -> None:
    """The advice works: the same lines in the other order need no review."""
    day = [
        event_line(f"{kind}{number}", f"p{number}", kind) for kind in ("authorize", "capture") for number in range(9)
    ]
    advice = "payproc: the input may be newest first (tac FILE | payproc ingest -; try --dry-run first)"
    assert advice in messages(run_in_process("ingest", "-", *options, stdin=b"\n".join(reversed(day))))
    assert advice not in messages(run_in_process("ingest", "-", "--dry-run", stdin=b"\n".join(day)))
    assert advice not in messages(run_in_process("ingest", "-", "--quiet", stdin=b"\n".join(reversed(day))))
