"""SQL in events and in arguments: to the database it is text, and nothing else."""

from collections.abc import Sequence

import pytest
from sqlalchemy import URL

from tests.support.events import event_line, write_lines
from tests.support.hostile import INJECTIONS
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, assert_books_right, contents
from tests.support.tally import count

CATALOG = """
    SELECT 'relation', nspname::text, relname::text, relkind::text
    FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname NOT LIKE 'pg_%%'
    UNION ALL SELECT 'function', nspname, proname, md5(prosrc) FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema')
    UNION ALL SELECT 'schema', nspname, '', '' FROM pg_namespace WHERE nspname NOT LIKE 'pg_%%'
    UNION ALL SELECT 'type', typname, typcategory::text, '' FROM pg_type WHERE typnamespace = 'payproc'::regnamespace
    UNION ALL SELECT 'database settings', setdatabase::text, setrole::text, setconfig::text FROM pg_db_role_setting
    WHERE setdatabase IN (SELECT oid FROM pg_database WHERE datname = current_database() UNION ALL SELECT 0)
    ORDER BY 1, 2, 3, 4
"""
"""Everything that an injected statement could have made, dropped or changed."""


def test_sql_in_any_field_is_text(run_in_process: InProcess, sql: Sql) -> None:
    """Also as an event's id, a key, a type and the file's name."""
    catalog = sql.rows(CATALOG)
    lines, malformed = [], []
    for each in INJECTIONS:
        lines += [event_line(each, each, "authorize", x=each, **{each: each}), event_line(f"{each} 2", each, "capture")]
        lines += [event_line(each, f"{each} 3", "refund")]
        malformed += [event_line("e", "p", each)]
    write_lines(run_in_process.folder / INJECTIONS[0], [*lines, *malformed])
    summary = run_in_process.summary(INJECTIONS[0], code=3)
    assert (summary["outcomes"]["APPLY"], summary["outcomes"]["REJECT"]) == (2 * len(INJECTIONS), len(INJECTIONS))
    assert (summary["events"], summary["malformed"]) == (len(lines), len(malformed))
    stored = contents(sql)
    assert [row[0] for row in stored["payments"]] == sorted(INJECTIONS)
    assert sorted(row[-1].encode() for name in ("events", "conflicts") for row in stored[name]) == sorted(lines)
    assert sql.value("SELECT sources FROM payproc.runs") == [INJECTIONS[0]]
    assert sql.rows(CATALOG) == catalog
    assert_books_right(sql)


def attempts(injection: str, url: URL) -> list[tuple[set[int], tuple[str, ...]]]:
    """Return commands with an injection in each argument, and the exit codes that each may have."""
    encoded = "".join(f"%{byte:02x}" for byte in injection.encode())
    here = f"postgresql://payproc@/{url.database}?host={url.query['host']}"
    options = "-csearch_path%3Dx%20-cstandard_conforming_strings%3Doff"
    return [
        ({1}, ("show", "--", injection)),
        ({1}, ("show", "--format", "json", "--", injection)),
        ({1}, ("resolve", "--apply", "--note", injection, "--by", injection, "--yes", "--", injection)),
        ({2}, ("resolve", "e1", "--apply", "--note", "x", "--yes", "--expect", injection)),
        ({1}, ("correct", "--to", "failed", "--note", injection, "--by", injection, "--yes", "--", injection)),
        ({2}, ("correct", "p1", "--note", "x", "--yes", "--to", injection)),
        ({2}, ("review", "--reason", injection)),
        ({2}, ("review", "--limit", injection)),
        ({2}, ("review", "--run", injection)),
        ({0}, ("review", f"--payment={injection}")),
        ({0}, ("resolve", "--all", "--dismiss", "--note", injection, "--yes", f"--payment={injection}")),
        ({2}, ("resolve", "--from", injection)),
        ({2}, ("runs", "--limit", injection)),
        ({0}, ("history", f"--by={injection}", "--kind", "correction")),
        ({0}, ("history", f"--payment={injection}", "--kind", "event")),
        ({2}, ("history", "--run", injection)),
        ({2}, ("history", "--since", injection)),
        ({2}, ("payments", "--older-than", injection)),
        ({2}, ("status", "--max-age", injection)),
        ({0}, ("ingest", f"--label={injection}", "--quiet", "day")),
        ({2}, ("ingest", "--", injection)),
        ({2}, ("ingest", "day", "--workers", injection)),
        ({2}, ("ingest", "day", "--fail-on", injection)),
        *(
            (codes, ("review", "--database-url", given))
            for codes, given in (
                ({1, 2}, injection),
                ({1, 2}, here.replace("payproc@", f"{encoded}@")),
                ({1, 2}, f"postgresql://payproc@/{encoded}?host={url.query['host']}"),
                ({1, 2}, f"{here}&options={encoded}"),
                ({0}, f"{here}&client_encoding={encoded}"),
                ({0}, f"{here}&application_name={encoded}"),
                ({0}, f"{here}&options={options}"),  # payproc qualifies its names, so the path has no effect
            )
        ),
    ]


@pytest.mark.parametrize(
    "injections", [INJECTIONS[::6], pytest.param(INJECTIONS, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_sql_in_any_argument_is_text(run_in_process: InProcess, url: URL, sql: Sql, injections: Sequence[str]) -> None:
    run = run_in_process
    write_lines(run.folder / "day", [event_line("e1", "p1", "capture"), event_line("e2", "p2", "capture")])
    run("ingest", "day")
    databases = "SELECT datname FROM pg_database WHERE datname NOT LIKE 'payproc%' ORDER BY 1"  # of other tests
    before = (sql.rows(CATALOG), contents(sql), sql.rows(databases))
    for injection in injections:
        for codes, arguments in attempts(injection, url):
            finished = run(*arguments)
            assert finished.code in codes, (arguments, finished)
            assert "fault in payproc" not in finished.output
            # A read-only transaction refuses writes as well. The message shows that none was tried.
            assert codes != {1} or "not found" in finished.output, (arguments, finished)
            count("statements tried in arguments")
    assert (sql.rows(CATALOG), contents(sql), sql.rows(databases)) == before


def test_sql_in_a_note_is_text(run_in_process: InProcess, sql: Sql) -> None:
    run_in_process("ingest", "-", stdin=event_line("e1", "p1", "capture"))
    catalog = sql.rows(CATALOG)
    decision = ("--dismiss", "--note", INJECTIONS[0], "--by", INJECTIONS[1], "--yes")
    assert run_in_process("resolve", "e1", *decision).code == 0
    assert sql.rows("SELECT note, resolved_by FROM payproc.resolutions") == [(INJECTIONS[0], INJECTIONS[1])]
    assert contents(sql)["payments"] == [("p1", "created", 2)]
    assert sql.rows(CATALOG) == catalog
