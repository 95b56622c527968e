"""`payproc export` from one database into another, and its messages about omissions."""

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from tests.support.command import Payproc, messages
from tests.support.events import event_line, messy_lines
from tests.support.in_process import InProcess
from tests.support.postgres import NewDatabase, Sql, SqlOn, assert_books_right, contents
from tests.support.servers import Pristine
from tests.support.shell import Shell


@pytest.fixture
def copy_url(new_database: NewDatabase) -> URL:
    """An empty database, even without a schema."""
    return new_database("template0")


# ---- From one database into another --------------------------------------------------------------


HISTORIES = """
    SELECT payment_id, event_id, type::text, outcome::text, reason::text, state_before::text, state_after::text,
           payload::text
    FROM payproc.events ORDER BY payment_id, position
"""


def histories(sql: Sql) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for payment_id, *entry in sql.rows(HISTORIES):
        found.setdefault(payment_id, []).append(tuple(entry))
    return found


def conflicts(sql: Sql) -> set[tuple[Any, ...]]:
    return set(sql.rows("SELECT event_id, payment_id, type::text, payload::text FROM payproc.event_conflicts"))


@pytest.mark.slow
def test_copy_of_a_busy_database_is_a_snapshot(
    payproc: Payproc, run_in_process: InProcess, sql: Sql, copy_url: URL, sql_on: SqlOn
) -> None:
    """The copy is made while another process ingests. It has a prefix of each history."""
    assert run_in_process("ingest", "-", "--quiet", stdin=b"\n".join(messy_lines(1, 1500))).code == 3
    before, conflicts_before = histories(sql), conflicts(sql)
    meanwhile = (line for seed in itertools.count(2) for line in messy_lines(seed, 2_000))
    with payproc.start("ingest", "-", "--quiet", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:

        def feed() -> None:  # at most a pipe's content is ahead of the record
            writer.stdin.write(b"".join(next(meanwhile) + b"\n" for _ in range(50)))
            writer.stdin.flush()

        while sql.value("SELECT max(run_id) FROM payproc.events") == 1:
            feed()
        copying = Shell(payproc, copy_url).start('"$0" export | "$0" ingest --format json --database-url "$1" -')
        while copying.poll() is None:
            feed()
        feed()  # certainly after the snapshot
        stdout, stderr = copying.communicate()
    assert copying.returncode == 0, stderr
    summary = json.loads(stdout)
    copy = sql_on(copy_url)
    assert_books_right(copy)
    now, copied = histories(sql), histories(copy)
    assert sum(map(len, before.values())) <= sum(map(len, copied.values())) < sum(map(len, now.values()))
    for payment_id, history in now.items():
        of_copy = copied.pop(payment_id, [])
        assert of_copy == history[: len(of_copy)]
        assert len(of_copy) >= len(before.get(payment_id, []))
    assert not copied, "the copy knows payments that the source does not"
    assert conflicts_before <= conflicts(copy) <= conflicts(sql)
    redeliveries = summary["differing_duplicates"]
    assert (summary["malformed"], summary["reasons"].get("duplicate_event", 0)) == (0, redeliveries)
    events = summary["events"] - len(conflicts(copy)) - redeliveries
    assert f"exported {events:,} events, {len(conflicts(copy)):,} conflicts and {redeliveries:,} red" in stderr


def test_export_is_deterministic(run_in_process: InProcess, copy_url: URL, sql: Sql, tmp_path: Path) -> None:
    """An export, another, and that of a copy are the same bytes.

    Ingested into the database that it comes from, they are duplicates.

    A line that ends in two carriage returns owns one of them, and blanks around JSON are kept.
    """
    odd = [
        b'{"event_id":"odd","payment_id":"odd","type":"fail"}\r\r',
        b' \t{"type" : "capture", "event_id":"odd2","payment_id":"odd", "\xe2\x82\xac": 1e999} \r\t\r\r',
    ]
    run, copy = run_in_process, InProcess(tmp_path, copy_url)
    assert run("ingest", "-", "--quiet", stdin=b"\n".join([*messy_lines(5, 200), *odd])).code == 3
    first, second = (run("export", "--quiet").stdout for _ in range(2))
    assert copy("ingest", "-", "--quiet", stdin=first.encode()) == (0, "", "")
    assert first == second == copy("export", "--quiet").stdout
    assert {odd[0], odd[1]} <= {*first.encode().split(b"\n")}
    before = contents(sql)
    assert run.summary("-", stdin=first.encode())["reasons"] == {
        "event_id_conflict": len(before["conflicts"]),
        "duplicate_event": len(before["events"]) + len(before["redeliveries"]),
    }
    assert contents(sql) == before


@pytest.mark.slow
def test_pg_dump_moves_resolutions(
    payproc: Payproc, copy_url: URL, url: URL, pristine: Pristine, sql_on: SqlOn, tmp_path: Path
) -> None:
    """The README's way to copy everything, resolutions included."""
    payproc("ingest", "-", "--quiet", stdin=b"\n".join(messy_lines(8, 300)))
    pending = payproc("review", "--format", "json").stdout.splitlines()
    for decision, row in zip(("--apply", "--dismiss"), pending, strict=False):
        payproc("resolve", json.loads(row)["event_id"], decision, "--note", "n", "--by", "a", "--yes")
    source = url.set(drivername="postgresql").render_as_string(hide_password=False)
    dump, load = pristine.programs / "pg_dump", pristine.programs / "psql"
    script = f"{dump} -n payproc '{source}' | {load} -q -v ON_ERROR_STOP=1 \"$1\" >/dev/null"
    assert Shell(payproc, copy_url)(script) == (0, "", "")
    copy = Payproc(tmp_path, copy_url)
    assert copy("verify").stdout == payproc("verify").stdout
    for command in (["review", "--format", "json"], ["runs", "--format", "json"], ["export", "-q"]):
        assert copy(*command)[:2] == payproc(*command)[:2]
    assert "omitted 2 resolutions" in copy("export").stderr
    assert sql_on(copy_url).value("SELECT count(*) FROM payproc.resolutions") == 2


# ---- Its messages --------------------------------------------------------------------------------


def test_export_of_an_empty_database(run_in_process: InProcess) -> None:
    exported = run_in_process("export")
    assert exported[:2] == (0, "")
    assert messages(exported) == ["payproc: exported 0 events and 0 conflicts"]


def test_resolutions_are_omitted_and_counted(run_in_process: InProcess) -> None:
    """The counts are printed even with --quiet, because a copy lacks these records."""
    run = run_in_process

    def decide(event_id: str, decision: str) -> None:
        assert run("resolve", event_id, decision, "--note", "n", "--by", "a", "--yes").code == 0

    day = event_line("e1", "p1", "capture") + b"\n" + event_line("e2", "p2", "refund") + b"\n"
    run("ingest", "-", stdin=day)
    exported = run("export")
    assert exported[:2] == (0, day.decode())
    assert messages(exported) == ["payproc: exported 2 events and 0 conflicts"]
    assert run("export", "--quiet") == (0, day.decode(), "")

    decide("e2", "--dismiss")
    exported = run("export")
    assert exported[:2] == (0, day.decode())
    assert messages(exported) == ["payproc: exported 2 events and 0 conflicts", omitted(applied=0, dismissed=1)]

    decide("e1", "--apply")
    run("ingest", "-", stdin=event_line("e3", "p1", "authorize") + b"\n" + event_line("e3", "p9", "fail"))
    exported = run("export")
    assert exported.code == 0
    assert messages(exported) == [
        "payproc: exported 3 events and 1 conflict",
        omitted(applied=1, dismissed=1),
        "payproc: in a copy 1 event has another outcome, and 1 payment ends in another state",
    ]
    quiet = run("export", "--quiet")
    assert quiet[:2] == (0, exported.stdout)
    assert quiet.stderr.splitlines() == messages(exported)[1:]


def test_corrections_are_omitted_and_counted(run_in_process: InProcess) -> None:
    """Twenty of the payments that end in another state are named; the exit code stays 0."""
    run = run_in_process
    day = b"\n".join(event_line(f"e{number:02}", f"p{number:02}", "fail") for number in range(22))
    run("ingest", "-", stdin=day)
    for number in range(22):
        correct = ("correct", f"p{number:02}", "--to", "captured", "--note", "n", "--by", "a", "--yes")
        assert run(*correct).code == 0
    exported = run("export", "--quiet")
    assert exported[:2] == (0, day.decode() + "\n")
    named = [f'payment "p{number:02}": corrected: captured here, failed in a copy' for number in range(20)]
    assert exported.stderr.splitlines() == [
        *named,
        "… and 2 more corrected payments",
        "payproc: omitted 22 corrections: a replay contains events alone; in a copy 0 events need review",
        "payproc: in a copy 0 events have another outcome, and 22 payments end in another state",
    ]


def omitted(*, applied: int, dismissed: int) -> str:
    count = applied + dismissed
    return (
        f"payproc: omitted {count} resolution{'s' * (count > 1)} ({applied} applied, {dismissed} dismissed): "
        "a replay contains events alone; in a copy 2 events need review"
    )


FIRST_OMITTED = 'event "e00" of payment "p00\\u202e": omitted: its line has the type authorize, the record fail'
OMITTED_RECORDS = [
    "… and 2 more records",
    "payproc: omitted 22 records: a copy would differ; the tables were edited manually, "
    "or the database encoding is not UTF8",
    "payproc: in a copy 0 events have another outcome, and 22 payments end in another state",
]


@pytest.mark.parametrize("options", [[], ["--quiet"]], ids=["loud", "quiet"])
def test_records_unlike_their_lines_are_omitted(run_in_process: InProcess, sql: Sql, options: list[str]) -> None:
    """Twenty are named, the rest is counted, and the exit code is 3."""
    lines = [event_line(f"e{n:02}", f"p{n:02}\u202e", "authorize") for n in range(23)]
    run_in_process("ingest", "-", stdin=b"\n".join(lines))
    sql.rows("UPDATE payproc.events SET type = 'fail' WHERE event_id <> 'e07'")
    exported = run_in_process("export", *options)
    assert exported.code == 3
    assert [json.loads(row)["event_id"] for row in exported.stdout.splitlines()] == ["e07"]
    listed = [row for row in messages(exported) if not row.startswith("payproc: exported")]
    assert listed[0] == FIRST_OMITTED
    assert all(re.match(r'event "e\d\d" of ', row) for row in listed[:20])
    assert listed[20:] == OMITTED_RECORDS
