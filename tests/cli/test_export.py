"""`payproc export` as a process: through pipes, to files, onto terminals; and what it says of what it leaves out."""

import fcntl
import itertools
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from payproc.embedded import server as embedded
from tests.support.command import Payproc
from tests.support.events import event_line, messy_lines, write_lines
from tests.support.hostile import IDS, TEXTS, harmful
from tests.support.postgres import NewDatabase, Sql, SqlOn, assert_books_right, contents, wait_for

COMMAND = Path(sys.executable).with_name("payproc")


slow = pytest.mark.slow


def said(finished: Any) -> list[str]:
    """What is on stderr, but which database it is."""
    return [row for row in finished.stderr.splitlines() if not row.startswith("payproc: database ")]


@pytest.fixture
def copy_url(new_database: NewDatabase) -> URL:
    """An empty database, without a schema even."""
    return new_database("template0")


def shell(payproc: Payproc, script: str, copy_url: URL | None = None, **options: Any) -> "subprocess.Popen[str]":
    """Start a shell script; payproc is $0, and the copy's URL $1."""
    copy = "" if copy_url is None else copy_url.set(drivername="postgresql").render_as_string(hide_password=False)
    environment = {**payproc.environment, **options.pop("env", {})}
    return subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", script, COMMAND, copy],
        cwd=payproc.folder,
        env=environment,
        text=True,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


# ---- From one database into another ---------------------------------------------------------------


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


def test_through_a_pipe_while_the_source_goes_on_the_copy_is_the_source_as_of_one_moment(
    payproc: Payproc, sql: Sql, copy_url: URL, sql_on: SqlOn, tmp_path: Path
) -> None:
    write_lines(tmp_path / "before.jsonl", messy_lines(1, 1500))
    assert payproc("ingest", "before.jsonl", "--quiet").code == 3
    before, conflicts_before = histories(sql), conflicts(sql)
    meanwhile = itertools.cycle(messy_lines(2, 20_000))
    with payproc.start("ingest", "-", "--quiet", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
        copying = shell(payproc, '"$0" export | "$0" ingest --format json --database-url "$1" -', copy_url)
        while copying.poll() is None:  # never more than a pipe holds ahead of what is recorded
            writer.stdin.write(b"".join(next(meanwhile) + b"\n" for _ in range(50)))
            writer.stdin.flush()
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
    assert (summary["malformed"], summary["reasons"].get("duplicate_event", 0)) == (0, 0)
    assert f"exported {summary['events'] - len(conflicts(copy)):,} events and {len(conflicts(copy))} con" in stderr


def test_exports_of_the_same_books_are_the_same_bytes_and_so_is_that_of_a_copy(
    payproc: Payproc, copy_url: URL, tmp_path: Path
) -> None:
    """A line that ends in two carriage returns has one of its own, and blanks around JSON are kept."""
    odd = [
        b'{"event_id":"odd","payment_id":"odd","type":"fail"}\r\r',
        b' \t{"type" : "capture", "event_id":"odd2","payment_id":"odd", "\xe2\x82\xac": 1e999} \r\t\r\r',
    ]
    assert payproc("ingest", "-", "--quiet", stdin=b"\n".join([*messy_lines(5, 400), *odd])).code == 3
    with shell(
        payproc, '"$0" export > first; "$0" export -q > second; "$0" ingest -q --database-url "$1" first', copy_url
    ) as process:
        process.communicate()
    assert process.returncode == 0
    with shell(Payproc(tmp_path, copy_url), '"$0" export > third') as process:
        process.communicate()
    first, second, third = ((payproc.folder / name).read_bytes() for name in ("first", "second", "third"))
    assert first == second == third
    assert odd[0] + b"\n" in first
    assert odd[1] + b"\n" in first


def test_into_the_database_that_it_comes_from_everything_is_a_duplicate(payproc: Payproc, sql: Sql) -> None:
    payproc("ingest", "-", "--quiet", stdin=b"\n".join(messy_lines(6, 400)))
    before = contents(sql)
    with shell(payproc, '"$0" export -q | "$0" ingest -q --format json -') as process:
        stdout, _ = process.communicate()
    assert json.loads(stdout)["reasons"] == {
        "event_id_conflict": len(before["conflicts"]),
        "duplicate_event": len(before["events"]),
    }
    assert contents(sql) == before


# ---- What it says ---------------------------------------------------------------------------------


def test_what_people_decided_is_left_out_and_counted(payproc: Payproc, tmp_path: Path) -> None:
    def decide(event_id: str, decision: str) -> None:
        assert payproc("resolve", event_id, decision, "--note", "n", "--by", "a", "--yes").code == 0

    day = write_lines(tmp_path / "day.jsonl", [event_line("e1", "p1", "capture"), event_line("e2", "p2", "refund")])
    payproc("ingest", "day.jsonl")
    exported = payproc("export")
    assert (exported.code, exported.stdout) == (0, day.read_text())
    assert said(exported) == ["payproc: exported 2 events and 0 conflicts"]

    decide("e2", "--dismiss")
    exported = payproc("export")
    assert (exported.code, exported.stdout) == (0, day.read_text())
    left_out = (
        "payproc: left out 1 resolution (0 applied, 1 dismissed): what people decided is not replayed; in a copy "
        "2 events wait for a person"
    )
    assert said(exported) == ["payproc: exported 2 events and 0 conflicts", left_out]

    decide("e1", "--apply")
    payproc("ingest", "-", stdin=event_line("e3", "p1", "authorize") + b"\n" + event_line("e3", "p9", "fail"))
    exported = payproc("export")
    assert exported.code == 0
    assert said(exported) == [
        "payproc: exported 3 events and 1 conflict",
        "payproc: left out 2 resolutions (1 applied, 1 dismissed): what people decided is not replayed; in a copy "
        "2 events wait for a person",
        "payproc: in a copy 1 event comes out differently, and 1 payment ends in another state",
    ]
    quiet = payproc("export", "--quiet")
    assert (quiet.code, quiet.stdout) == (0, exported.stdout)
    assert quiet.stderr.splitlines() == said(exported)[1:], "what a copy will lack is said in any case"


def test_quiet_says_nothing_where_nothing_is_left_out(payproc: Payproc) -> None:
    payproc("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    assert payproc("export", "--quiet") == (0, event_line("e1", "p1", "authorize").decode() + "\n", "")


def test_records_that_contradict_their_lines_are_named_twenty_of_them_and_counted(payproc: Payproc, sql: Sql) -> None:
    payproc("ingest", "-", stdin=b"\n".join(event_line(f"e{n:02}", f"p{n:02}\u202e", "authorize") for n in range(23)))
    sql.rows("UPDATE payproc.events SET type = 'fail' WHERE event_id <> 'e07'")
    for quiet in ([], ["--quiet"]):
        exported = payproc("export", *quiet)
        assert exported.code == 3
        assert [json.loads(row)["event_id"] for row in exported.stdout.splitlines()] == ["e07"]
        *listed, more, counted, copied = (row for row in said(exported) if not row.startswith("payproc: exported"))
        assert listed[0] == (
            'event "e00" of payment "p00\\u202e": left out: its line has the type authorize, the record fail'
        )
        assert len(listed) == 20
        assert more == "… and 2 more records"
        assert counted == (
            "payproc: left out 22 records: ingested again, they would not be what is on record; somebody has changed "
            "the tables by hand, or the database has another encoding than UTF8"
        )
        assert copied == "payproc: in a copy 0 events come out differently, and 22 payments end in another state"


def test_a_database_in_which_nothing_is_recorded_is_an_empty_one(payproc: Payproc) -> None:
    exported = payproc("export")
    assert (exported.code, exported.stdout, said(exported)) == (0, "", ["payproc: exported 0 events and 0 conflicts"])


# ---- Where it goes, and how it ends ---------------------------------------------------------------


@pytest.fixture
def many(sql: Sql) -> Callable[..., None]:
    """Records as many events, with lines as long as told."""

    def fill(count: int, size: int = 200) -> None:
        sql.rows(
            """
            WITH payment AS (
                INSERT INTO payproc.payments (payment_id, state, version)
                SELECT 'p' || lpad(n::text, 9, '0'), 'authorized', 1 FROM generate_series(1, %s) AS n
                ON CONFLICT DO NOTHING RETURNING payment_id
            )
            INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason, state_before,
                                        state_after, source, run_id, line, payload)
            SELECT 'e' || payment_id, payment_id, 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 1,
                   1, ('{"event_id": "e' || payment_id || '", "payment_id": "' || payment_id
                       || '", "type": "authorize", "x": "' || repeat('x', %s) || '"}')::json
            FROM payment
            """,
            count,
            size,
        )

    return fill


@pytest.fixture
def stalled(payproc: Payproc, many: Callable[..., None]) -> Iterator["subprocess.Popen[bytes]"]:
    """An export whose reader has read nothing yet, so that it waits in the middle of a line, with much of it to go."""
    many(30, 100_000)
    with payproc.start("export") as process:

        def waiting() -> int:
            (unread,) = struct.unpack("i", fcntl.ioctl(process.stdout, termios.FIONREAD, b"\0" * 4))
            return int(unread)

        wait_for(lambda: waiting() >= 60_000)
        yield process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_export_ends_with_a_whole_line(
    payproc: Payproc, stalled: "subprocess.Popen[bytes]", number: signal.Signals, code: int
) -> None:
    stalled.send_signal(number)
    # Taken in before anything is read: otherwise the write may come to its end first.
    wait_for(lambda: f"ShdPnd:\t{0:016x}\n" in Path(f"/proc/{stalled.pid}/status").read_text())
    stdout, stderr = stalled.communicate(timeout=30)
    assert stalled.returncode == code
    assert stderr.decode().splitlines()[-1] == "payproc: interrupted"
    assert stdout.endswith(b'"}\n')
    whole = payproc("export").stdout.encode()
    assert whole.startswith(stdout)
    assert len(stdout) < len(whole)


def test_a_second_interrupt_ends_an_export_whose_reader_does_not_read(stalled: "subprocess.Popen[bytes]") -> None:
    """Those of the same burst do not; the one that does comes later."""
    _send_until_gone(stalled, signal.SIGINT)
    assert stalled.returncode == 130


def test_a_second_signal_of_another_kind_ends_it_too(stalled: "subprocess.Popen[bytes]") -> None:
    stalled.send_signal(signal.SIGTERM)
    wait_for(lambda: f"ShdPnd:\t{0:016x}\n" in Path(f"/proc/{stalled.pid}/status").read_text())
    _send_until_gone(stalled, signal.SIGINT)
    assert stalled.returncode == 143


def _send_until_gone(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    def is_gone() -> bool:
        process.send_signal(number)
        return process.poll() is not None

    wait_for(is_gone)
    assert process.stderr is not None
    assert process.stderr.read().splitlines()[-1] == b"payproc: interrupted without cleaning up"


def test_a_reader_that_goes_away_ends_it_quietly(payproc: Payproc, many: Callable[..., None]) -> None:
    many(3000)
    with shell(payproc, '"$0" export -q | head -n 2; echo ${PIPESTATUS[0]}') as process:
        stdout, stderr = process.communicate()
    *lines, code = stdout.splitlines()
    assert [json.loads(each)["payment_id"] for each in lines] == ["p000000001", "p000000002"]
    assert (code, stderr) == ("141", "")


@pytest.mark.slow
def test_a_reader_that_goes_away_leaves_no_trace_of_it_on_the_embedded_server_either(tmp_path: Path) -> None:
    """Where the last command stops the server, nothing may still hold on to a connection."""
    payproc = Payproc(tmp_path, None)
    day = b"\n".join(event_line(f"e{n}", f"p{n}", "capture", x="x" * 200) for n in range(2000))
    assert payproc("ingest", "-", "--quiet", stdin=day).code == 0
    for command in ("export", "review --format json"):
        with shell(payproc, f'"$0" {command} --quiet | head -n 1 >&2; exit ${{PIPESTATUS[0]}}') as process:
            _, stderr = process.communicate()
        assert process.returncode == 141
        assert len(stderr.splitlines()) == 1, stderr


def test_a_full_disk_is_one_line(payproc: Payproc) -> None:
    payproc("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    with Path("/dev/full").open("wb") as full:
        exported = payproc("export", stdout=full)
    assert exported.code == 1
    assert said(exported) == ["payproc: output could not be written: No space left on device"]


@slow
def test_memory_stays_flat_however_much_is_on_record(payproc: Payproc, many: Callable[..., None]) -> None:
    """Peak memory for 300,000 events is that for 3,000, give or take 10 MB."""
    peaks = []
    for events in (3_000, 300_000):
        many(events)
        process = payproc.start("export", "--quiet", stdout=subprocess.PIPE)
        lines = sum(1 for _ in process.stdout)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.communicate()
        assert (lines, process.returncode) == (events, 0)
        peaks.append(usage.ru_maxrss)
    assert peaks[1] < peaks[0] + 10_000, f"peaks in kB: {peaks}"


# ---- Hostile text ---------------------------------------------------------------------------------


@pytest.fixture
def hostile(payproc: Payproc) -> list[bytes]:
    """Lines with text made to harm in ids and elsewhere, recorded; in the order of an export."""
    text = " ".join(TEXTS).translate(dict.fromkeys(range(0x20), " ")).replace("\\", "").replace('"', "").encode()
    lines = [
        (
            json.dumps({"event_id": each, "payment_id": each, "type": "fail"}, ensure_ascii=False)[:-1] + ',\t"x":"'
        ).encode()
        + text
        + b'",\r"y":1}'
        for each in sorted(IDS)
    ]
    assert payproc("ingest", "-", "--quiet", stdin=b"\n".join(lines)).code == 0
    return lines


def test_a_pipe_gets_hostile_text_byte_for_byte(payproc: Payproc, hostile: list[bytes]) -> None:
    with payproc.start("export") as process:
        stdout, _ = process.communicate()
    assert stdout == b"".join(each + b"\n" for each in hostile)
    assert harmful(stdout.decode())


def test_a_terminal_gets_the_same_events_in_lines_that_do_nothing_to_it(payproc: Payproc, hostile: list[bytes]) -> None:
    terminal, its_end = pty.openpty()
    tty.setraw(its_end)
    shown = b""
    with payproc.start("export", "--quiet", stdout=its_end, env={"TERM": "xterm"}) as process, suppress(OSError):
        os.close(its_end)
        while select.select([terminal], [], [], 60)[0] and (block := os.read(terminal, 65_536)):
            shown += block
    os.close(terminal)
    assert process.returncode == 0
    assert not harmful(shown.decode())
    assert [json.loads(each) for each in shown.splitlines()] == [json.loads(each) for each in hostile]


@pytest.mark.parametrize("into", ["a file", "a pipe"])
def test_a_bar_is_drawn_only_where_no_reader_may_draw_one_too(payproc: Payproc, into: str) -> None:
    payproc("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    terminal, its_end = pty.openpty()
    script = '"$0" export > file' if into == "a file" else '"$0" export | cat > file'
    with shell(payproc, script, stderr=its_end, env={"TERM": "xterm"}):
        os.close(its_end)
        drawn = b""
        with suppress(OSError):
            while select.select([terminal], [], [], 60)[0] and (block := os.read(terminal, 65_536)):
                drawn += block
    os.close(terminal)
    assert (payproc.folder / "file").read_bytes() == event_line("e1", "p1", "authorize") + b"\n"
    assert (b"1/1" in drawn) == (into == "a file")
    assert b"exported 1 event and 0 conflicts" in drawn


# ---- Everything, with what people decided ---------------------------------------------------------


@slow
def test_pg_dump_moves_all_of_it_as_the_readme_says(payproc: Payproc, copy_url: URL, url: URL, tmp_path: Path) -> None:
    with embedded.running_server(tmp_path / "home"):
        programs = Path(f"/proc/{(tmp_path / 'home/data/postmaster.pid').read_text().split()[0]}/exe").resolve().parent
    payproc("ingest", "-", "--quiet", stdin=b"\n".join(messy_lines(8, 300)))
    for decision, row in zip(
        ("--apply", "--dismiss"), payproc("review", "--format", "json").stdout.splitlines(), strict=False
    ):
        payproc("resolve", json.loads(row)["event_id"], decision, "--note", "n", "--by", "a", "--yes")
    source, target = (
        each.set(drivername="postgresql").render_as_string(hide_password=False) for each in (url, copy_url)
    )
    script = f"{programs}/pg_dump -n payproc '{source}' | {programs}/psql -q -v ON_ERROR_STOP=1 '{target}' >/dev/null"
    with shell(payproc, script) as process:
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")
    copy = Payproc(tmp_path, copy_url)
    assert copy("verify").stdout == payproc("verify").stdout
    for command in (["review", "--format", "json"], ["runs", "--format", "json"], ["export", "-q"]):
        assert copy(*command)[:2] == payproc(*command)[:2]
    assert "left out 2 resolutions" in copy("export").stderr
    with closing(Sql(copy_url)) as sql:
        assert sql.value("SELECT count(*) FROM payproc.resolutions") == 2
