"""`payproc resolve --all` and `--from`: counts, questions, result lines, and refused lines."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Finished, Payproc, messages
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, contents
from tests.support.terminal import open_terminal

DAY = [
    event_line("e1", "p1", "capture"),
    event_line("e2", "p1", "authorize"),
    event_line("e3", "p2", "capture"),
    event_line("e4", "p2", "authorize"),
    event_line("e5", "p2", "refund"),
    event_line("e6", "p3", "flag"),
]
"""Four events need review: two captures before their authorize, a refund behind one, and a flag."""

APPLY = ("--apply", "--note", "out of order", "--by", "alice")

RESULT = {
    "source": "orders.jsonl",
    "line": 1,
    "event_id": "e1",
    "payment_id": "p1",
    "resolution": "apply",
    "result": "resolved",
    "state_before": "authorized",
    "state_after": "captured",
    "position": 3,
    "error": None,
    "legal": True,
}


@pytest.fixture
def flagged(run_in_process: InProcess) -> InProcess:
    """The command on the day above."""
    write_lines(run_in_process.folder / "day.jsonl", DAY)
    run_in_process("ingest", "day.jsonl", "--workers", "1")
    return run_in_process


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def counts(finished: Finished) -> tuple[int, ...]:
    """Return the numbers resolved, already, refused and malformed of a summary in JSON."""
    summary = json.loads(finished.stdout)
    return tuple(summary[name] for name in ("resolved", "already", "refused", "malformed"))


def write_orders(folder: Path, *orders: dict[str, object] | bytes) -> None:
    lines = [order if isinstance(order, bytes) else json.dumps(order).encode() for order in orders]
    write_lines(folder / "orders.jsonl", lines)


def test_all_names_moves_against_the_table(flagged: InProcess) -> None:
    """Without --legal-now the refund is applied as told, and the plan and the summary say so."""
    filters = ("--all", "--type", "refund", "--yes")
    planned = flagged("resolve", *filters, *APPLY, "--dry-run")
    done = flagged("resolve", *filters, *APPLY)
    for finished in (planned, done):
        assert "1 against the table" in finished.stdout


# ---- --all ---------------------------------------------------------------------------------------


def test_all_legal_events_are_applied(flagged: InProcess, sql: Sql) -> None:
    """The chain of p2 goes in one run, and the flag stays."""
    done = flagged("resolve", "--all", "--legal-now", *APPLY, "--yes")
    assert (done.code, messages(done)) == (0, [])
    rows = [row.split() for row in done.stdout.splitlines()]
    assert rows[0] == ["Result", "Decisions"]
    assert rows[2:6] == [["resolved", "3"], ["already", "0"], ["refused", "0"], ["malformed", "0"]]
    assert rows[6][:2] == ["predecessor_missing", "3"]
    assert sql.rows("SELECT payment_id, state FROM payproc.payments ORDER BY 1") == [
        ("p1", "captured"), ("p2", "refunded"), ("p3", "created"),
    ]  # fmt: skip
    assert sql.rows("SELECT DISTINCT note, resolved_by FROM payproc.resolutions") == [("out of order", "alice")]
    again = flagged("resolve", "--all", "--legal-now", *APPLY, "--yes")
    assert again.stdout == "no events need review (legal now)\n"
    assert flagged("verify").code == 0


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_all_is_quiet_about_no_events(flagged: InProcess, dry_run: list[str]) -> None:
    finished = flagged("resolve", "--all", "--payment", "p9", *APPLY, "--yes", "--quiet", *dry_run)
    assert finished == (0, "", "")


def test_all_refuses_flags(flagged: InProcess) -> None:
    done = flagged("resolve", "--all", *APPLY, "--yes", "--format", "json", "--decisions", "results.jsonl")
    assert (done.code, counts(done)) == (3, (3, 0, 1, 0))
    assert messages(done)[-1].startswith('event "e6": is a flag, which names no state to apply')
    results = objects((flagged.folder / "results.jsonl").read_text())
    assert [(each["event_id"], each["result"]) for each in results] == [
        ("e1", "resolved"), ("e3", "resolved"), ("e5", "resolved"), ("e6", "refused"),
    ]  # fmt: skip
    assert {**results[0], "source": "orders.jsonl", "line": 1} == RESULT


def test_dry_run_has_the_same_counts(flagged: InProcess, sql: Sql) -> None:
    before = contents(sql)
    arguments = ("resolve", "--all", *APPLY, "--format", "json", "--decisions")
    planned = flagged(*arguments, "planned.jsonl", "--dry-run")
    assert contents(sql) == before
    assert sql.value("SELECT count(*) FROM payproc.resolutions") == 0
    done = flagged(*arguments, "done.jsonl", "--yes")
    summaries = [json.loads(each.stdout) for each in (planned, done)]
    assert [summary.pop("dry_run") for summary in summaries] == [True, False]
    assert all(summary.pop("elapsed_seconds") > 0 for summary in summaries)
    assert summaries[0] == summaries[1]
    assert planned.code == done.code == 3
    planned_lines, done_lines = ((flagged.folder / name).read_text() for name in ("planned.jsonl", "done.jsonl"))
    assert planned_lines == done_lines


def test_all_takes_the_filters_of_review(flagged: InProcess) -> None:
    def planned(*filters: str) -> list[str]:
        arguments = ("--dismiss", "--note", "x", "--dry-run", "--quiet", "--decisions", "-")
        return [each["event_id"] for each in objects(flagged("resolve", "--all", *arguments, *filters).stdout)]

    for filters in (
        (), ("--type", "capture"), ("--reason", "flagged"), ("--state", "authorized"), ("--payment", "p2"),
        ("--run", "1"), ("--run", "2"), ("--limit", "2"), ("--legal-now",),
    ):  # fmt: skip
        listed = objects(flagged("review", "--format", "json", *filters).stdout)
        assert planned(*filters) == [each["event_id"] for each in listed], filters


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 3), (b"n\n", 1)], ids=["y", "n"])
def test_all_on_a_terminal_asks_once(payproc: Payproc, flagged: InProcess, sql: Sql, answer: bytes, code: int) -> None:
    with open_terminal(cooked=True) as terminal:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.stream)
        with payproc.start("resolve", "--all", *APPLY, "--quiet", **streams) as process:
            try:
                shown = terminal.read_until(b"[y/N]: ").replace(b"\r\n", b"\n").decode()
                assert shown.splitlines() == [
                    "apply 3 events: the step before it is missing (predecessor_missing)",
                    "refuse 1 flag, which can only be dismissed",
                    'apply 3 events with the note "out of order", by alice? [y/N]: ',
                ]
                terminal.type(answer)
                assert process.wait(timeout=30) == code
            finally:
                process.kill()
    assert sql.value("SELECT count(*) FROM payproc.resolutions") == (3 if code == 3 else 0)


# ---- --from --------------------------------------------------------------------------------------


def test_from_takes_lines_of_review(flagged: InProcess, sql: Sql) -> None:
    """Their versions are those before the batch, and a rerun finds all of it done."""
    orders = [
        {**each, "resolution": "dismiss" if each["type"] == "flag" else "apply", "note": "checked"}
        for each in objects(flagged("review", "--format", "json").stdout)
    ]
    write_orders(flagged.folder, *orders)
    arguments = ("resolve", "--from", "orders.jsonl", "--format", "json", "--by", "alice")
    done = flagged(*arguments, "--decisions", "results.jsonl")
    assert (done.code, counts(done)) == (0, (4, 0, 0, 0))
    assert json.loads(done.stdout)["reasons"] == {"predecessor_missing": 3, "flagged": 1}
    first, *rest = objects((flagged.folder / "results.jsonl").read_text())
    assert list(first.items()) == list(RESULT.items())
    assert [each["line"] for each in rest] == [2, 3, 4]
    before = contents(sql)
    again = flagged(*arguments)
    assert (again.code, counts(again)) == (0, (0, 4, 0, 0))
    assert contents(sql) == before


def test_from_lists_refused_lines(flagged: InProcess, sql: Sql) -> None:
    """The rest goes on."""
    write_orders(
        flagged.folder,
        {"event_id": "e1", "expect": "created"},
        {"event_id": "nope"},
        {"event_id": "e2"},
        {"event_id": "e6"},
        b"not json",
        {"event_id": "e3", "version": 1},
        {"event_id": "e3", "resolution": "void"},
        {"event_id": "e3", "version": 3},
        {"event_id": "e3", "resolution": "dismiss"},
        {"event_id": "e3"},
    )
    done = flagged("resolve", "--from", "orders.jsonl", *APPLY, "--format", "json")
    assert (done.code, counts(done)) == (3, (1, 1, 6, 2))
    listed = [line.removeprefix("orders.jsonl:") for line in messages(done)]
    assert [line.partition(": ")[0] for line in listed] == ["1", "2", "3", "4", "5", "6", "7", "9"]
    assert listed[:6] == [
        '1: payment "p1": is authorized at version 2, expected created; nothing was changed',
        '2: event "nope": not found',
        '3: event "e2": has the outcome APPLY (transition), expected MANUAL_REVIEW; nothing was changed',
        '4: event "e6": is a flag, which names no state to apply, expected --dismiss; nothing was changed',
        '5: not JSON: "not json", expected one JSON object a line',
        '6: payment "p2": is authorized at version 3, expected version 1; nothing was changed',
    ]
    assert sql.rows("SELECT event_id FROM payproc.resolutions") == [("e3",)]


def test_from_names_the_command_that_mends(flagged: InProcess) -> None:
    (flagged.folder / "orders.json").write_text(json.dumps([{"event_id": "e1"}, {"event_id": "e3"}], indent=2))
    done = flagged("resolve", "--from", "orders.json", *APPLY, "--format", "json")
    assert (done.code, counts(done)) == (3, (0, 0, 0, 8))
    assert messages(done) == [
        "orders.json:1: JSON that goes over several lines (8 malformed lines), expected one JSON object a line; "
        "use: jq -c '.[]' orders.json | payproc resolve --from -"
    ]


def test_from_reads_standard_input(flagged: InProcess) -> None:
    done = flagged("resolve", "--from", "-", *APPLY, "--quiet", "--decisions", "-", stdin=b'{"event_id": "e1"}\n')
    assert (done.code, done.stderr) == (0, "")
    assert objects(done.stdout) == [{**RESULT, "source": "<stdin>"}]


def test_refused_input_keeps_old_results(flagged: InProcess) -> None:
    (flagged.folder / "results.jsonl").write_text("old\n")
    done = flagged("resolve", "--from", "-", *APPLY, "--decisions", "results.jsonl", stdin=b"\x1f\x8b\x08")
    assert done.code == 2
    assert messages(done)[-1] == (
        "payproc: <stdin>: is compressed with gzip, expected JSON Lines in UTF-8; "
        "use: zcat FILE | payproc resolve --from -"
    )
    assert (flagged.folder / "results.jsonl").read_text() == "old\n"


def test_from_an_empty_file_does_nothing(flagged: InProcess) -> None:
    (flagged.folder / "orders.jsonl").write_text("\n")
    done = flagged("resolve", "--from", "orders.jsonl", *APPLY, "--format", "json")
    assert (done.code, counts(done)) == (0, (0, 0, 0, 0))
