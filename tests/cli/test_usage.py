"""Wrong usage: each call gets one line and exit code 2.

The table holds each command's wrong arguments and the line on stderr. A line that ends with `…`
continues with the hint at the command's help. No row needs a database.
"""

import gzip
import re
import shlex
import zipfile
from pathlib import Path

import pytest

from tests.support.command import Payproc
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, contents

REASONS = (
    "'predecessor_missing', 'failure_after_capture', 'capture_after_refund', 'repeated_refund', "
    "'authorize_after_failure', 'flagged'"
)
OUTCOMES = "'APPLY', 'IGNORE', 'REJECT', 'MANUAL_REVIEW'"
STATES = "'created', 'authorized', 'captured', 'refunded', 'failed'"
PLAIN_STATES = STATES.replace("'", "")
TYPES = "'authorize', 'capture', 'refund', 'fail', 'flag'"
CONVERT = "expected JSON Lines in UTF-8; use"
LIMIT = "a whole number from 1 to 1,000,000,000"
COUNTS = "a whole number from 0 to 1,000,000,000"
AGES = "expected an age such as 7d, 12h or 30m, and at most 36500d"
TIMES = "expected a date such as 2026-11-18, a time such as 2026-11-18T04:47:54Z, or an age such as 7d, 12h or 30m"
EXPECTED_URL = "--database-url: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
ESCAPES = "; in a user or password write @ : / ? # as %40 %3A %2F %3F %23"
HIDDEN = "an argument that may hold a password is in the wrong place; a database is named with --database-url"

REFUSED = {
    "": [
        ("help", "no such command 'help' …"),
        ("version", "no such command 'version'. Did you mean 'verify'? …"),
        ("-?", "-?: no such option …"),
        ("-v", "-v: no such option …"),
        ("--verison", "--verison: no such option (did you mean --version?) …"),
        ("--Help", "--Help: no such option (did you mean --help?) …"),
        ("-help", "-e: no such option …"),
        ("--", "missing command …"),
        ("''", "no such command '' …"),
        ("ingset day.jsonl", "no such command 'ingset'. Did you mean 'ingest', 'init'? …"),
        ("INGEST day.jsonl", "no such command 'INGEST' …"),
        ("day.jsonl", "no such command 'day.jsonl'. Did you mean 'payproc ingest day.jsonl'? …"),
        ("nothing.jsonl", "no such command 'nothing.jsonl' …"),
        ("--quiet", "--quiet: no such option, it belongs after a command, as in payproc ingest --quiet …"),
        ("-q ingest day.jsonl", "-q: no such option, it belongs after a command, as in payproc ingest -q …"),
        (
            "--database-url postgresql://localhost/payments ingest day.jsonl",
            "--database-url: no such option, it belongs after a command, as in payproc ingest --database-url …",
        ),
        (
            "--format json rules",
            "--format: no such option, it belongs after a command, as in payproc ingest --format …",
        ),
        ("--version=1", "option '--version' does not take a value …"),
        ("postgresql://alice:secret@localhost/payments", HIDDEN),
        ('"\x1b[31mred"', "no such command '\\x1b[31mred' …"),
        ("reviews", "no such command 'reviews'. Did you mean 'review'? …"),
        ("pay_coat", "no such command 'pay_coat' …"),
        ("x" * 300, f"no such command '{'x' * 300}' …"),
    ],
    "ingest": [
        ("day.jsonl --label ''", "--label: empty, expected some text"),
        ("day.jsonl --label --quiet", "--label: needs a value, but the option --quiet follows it"),
        ("missing.jsonl", "missing.jsonl: cannot be read: No such file or directory"),
        ("''", "FILE: empty name, expected a file name, or - for standard input"),
        ("folder", "folder: is a directory, expected a file of JSON Lines; name its files, as in folder/*"),
        (
            "'no_events/*.jsonl'",
            "no_events/*.jsonl: cannot be read: No such file or directory; a pattern that matches no file?",
        ),
        (
            "day.jsonl.gz",
            f"day.jsonl.gz: is compressed with gzip, {CONVERT}: zcat day.jsonl.gz | payproc ingest -",
        ),
        (
            "day.zip",
            f"day.zip: is compressed with zip, {CONVERT}: unzip -p day.zip | payproc ingest -",
        ),
        (
            "utf16.jsonl",
            f"utf16.jsonl: is UTF-16, {CONVERT}: iconv -f UTF-16 -t UTF-8 utf16.jsonl | payproc ingest -",
        ),
        ("- -", "-: given twice, but standard input can be read only once"),
        ("-- --dry-run", "--dry-run: cannot be read: No such file or directory"),
        ("day.jsonl --format csv", "invalid value for '--format': 'csv' is not one of 'table', 'json' …"),
        ("day.jsonl --format", "option '--format' requires an argument …"),
        ("day.jsonl --json", "--json: no such option (did you mean --format json?) …"),
        ("day.jsonl --dry_run", "--dry_run: no such option (did you mean --dry-run?) …"),
        ("day.jsonl --dry-run=true", "option '--dry-run' does not take a value …"),
        ("day.jsonl --fail-on review", f"invalid value for '--fail-on': 'review' is not one of {OUTCOMES} …"),
        ("day.jsonl --fail-on=", f"invalid value for '--fail-on': '' is not one of {OUTCOMES} …"),
        ("day.jsonl --workers 0", "--workers: expected a whole number from 1 to 64 …"),
        ("day.jsonl --workers two", "--workers: expected a whole number from 1 to 64 …"),
        ("day.jsonl --decisions --quiet", "--decisions: needs a value, but the option --quiet follows it"),
        ("day.jsonl --decisions ''", "--decisions: empty name, expected a file name, or - for stdout"),
        ("day.jsonl --decisions folder", "--decisions: folder cannot be written: Is a directory"),
        (
            "day.jsonl --decisions day.jsonl",
            "--decisions: day.jsonl is also an input; name another file",
        ),
        (
            "day.jsonl --malformed ./day.jsonl",
            "--malformed: ./day.jsonl is also an input; name another file",
        ),
        (
            "day.jsonl --decisions d.jsonl --malformed d.jsonl",
            "--decisions and --malformed both name d.jsonl; name two files",
        ),
        ("day.jsonl --db postgresql://alice:secret@localhost/payments", "--db: no such option …"),
        (
            "day.jsonl postgresql://alice:secret@localhost/payments",
            "postgresql://***: cannot be read: No such file or directory",
        ),
        ("day.jsonl --quite", "--quite: no such option (did you mean --quiet?) …"),
    ],
    "show": [
        ("", "missing argument 'PAYMENT_ID' …"),
        ("pay_coat pay_lamp", "got unexpected extra argument(s) (pay_lamp) …"),
        ("-1", "-1: no such option …"),
        ("pay_coat --format yaml", "invalid value for '--format': 'yaml' is not one of 'table', 'json' …"),
        ("pay_coat --format=", "invalid value for '--format': '' is not one of 'table', 'json' …"),
        ("pay_coat --fromat json", "--fromat: no such option (did you mean --format?) …"),
        ("pay_coat --jsonl", "--jsonl: no such option (did you mean --format json?) …"),
        ("--payment pay_coat", "--payment: no such option …"),
        ("--payment-id pay_coat", "--payment-id: no such option …"),
        ("pay_coat --limit 1", "--limit: no such option …"),
        ("pay_coat --quiet=1", "option '--quiet' does not take a value …"),
        ("-- pay_coat -q", "got unexpected extra argument(s) (-q) …"),
        ("--database-url pay_coat", "missing argument 'PAYMENT_ID' …"),
        ("pay_coat --database-url ''", f"{EXPECTED_URL}, found nothing"),
    ],
    "review": [
        ("repeated_refund", "got unexpected extra argument(s) (repeated_refund) …"),
        ("--reason", "option '--reason' requires an argument …"),
        ("--reason duplicate_event", f"invalid value for '--reason': 'duplicate_event' is not one of {REASONS} …"),
        ("--reason repeated-refund", f"invalid value for '--reason': 'repeated-refund' is not one of {REASONS} …"),
        ("--reason=", f"invalid value for '--reason': '' is not one of {REASONS} …"),
        ("--reasons repeated_refund", "--reasons: no such option (did you mean --reason?) …"),
        ("--limit 0", f"--limit: expected {LIMIT} …"),
        ("--limit ten", f"--limit: expected {LIMIT} …"),
        ("--limit 1e3", f"--limit: expected {LIMIT} …"),
        ("--limit=", f"--limit: expected {LIMIT} …"),
        ("--limit 99999999999", f"--limit: expected {LIMIT} …"),
        ("-l 5", "-l: no such option …"),
        ("--json", "--json: no such option (did you mean --format json?) …"),
        ("--state paid", f"invalid value for '--state': 'paid' is not one of {STATES} …"),
        ("--type void", f"invalid value for '--type': 'void' is not one of {TYPES} …"),
        ("--run first", f"--run: expected {LIMIT} …"),
        ("--run 0", f"--run: expected {LIMIT} …"),
        ("--payment --legal-now", "--payment: needs a value, but the option --legal-now follows it"),
        ("--legal", "--legal: no such option (did you mean --legal-now?) …"),
        ("-- --limit 5", "got unexpected extra argument(s) (--limit 5) …"),
    ],
    "resolve": [
        ("", "no event, expected EVENT_ID, --all or --from FILE …"),
        ("evt_4004", "no decision, expected --apply or --dismiss"),
        ("evt_4004 --apply --yes", "--note: missing, expected some text"),
        ("evt_4004 --note x --yes", "no decision, expected --apply or --dismiss"),
        ("evt_4004 --apply --dismiss --note x --yes", "no decision, expected --apply or --dismiss"),
        (
            "evt_4004 --apply --note x",
            "no terminal to ask on; add --yes, and --expect STATE to be safe",
        ),
        ("evt_4004 --apply --note --yes", "--note: needs a value, but the option --yes follows it"),
        (
            "evt_4004 --apply --note --expect=captured --yes",
            "--note: needs a value, but the option --expect follows it",
        ),
        ("evt_4004 --apply --by -y --note x", "--by: needs a value, but the option -y follows it"),
        ("evt_4004 --apply --note '' --yes", "--note: empty, expected some text"),
        ("evt_4004 --apply --note '  ' --yes", "--note: empty, expected some text"),
        ("evt_4004 --apply --note never left the bank --yes", "got unexpected extra argument(s) (left the bank) …"),
        ("evt_4004 --dismiss --note x --yes --by ''", "--by: empty, expected some text"),
        ("evt_4004 --dismiss --note x --yes --by", "option '--by' requires an argument …"),
        (
            "evt_4004 --dismiss --note x --yes --expect paid",
            f"invalid value for '--expect': 'paid' is not one of {STATES} …",
        ),
        ("evt_4004 --dismissed --note x --yes", "--dismissed: no such option (did you mean --dismiss?) …"),
        ("evt_4004 --dismiss --notes x --yes", "--notes: no such option (did you mean --note?) …"),
        (
            "evt_4004 --dismiss --note x --yes --format json",
            "--format: does not go with EVENT_ID, expected --all or --from",
        ),
        (
            "evt_4004 --dismiss --note x --yes --decisions d",
            "--decisions: does not go with EVENT_ID, expected --all or --from",
        ),
        ("evt_4004 --dismiss --note x --yes --type refund", "--type: does not go with EVENT_ID, expected --all"),
        ("evt_4004 --dismiss --note x --dry-run", "--dry-run: does not go with EVENT_ID, expected --all"),
        (
            "evt_4004 --all --dismiss --note x --yes",
            "EVENT_ID and --all: given together, expected one of EVENT_ID, --all and --from FILE",
        ),
        (
            "evt_4004 --from day.jsonl",
            "EVENT_ID and --from: given together, expected one of EVENT_ID, --all and --from FILE",
        ),
        (
            "--all --from day.jsonl --dismiss --note x",
            "--all and --from: given together, expected one of EVENT_ID, --all and --from FILE",
        ),
        ("--all --note x --yes", "no decision, expected --apply or --dismiss"),
        ("--all --apply --yes", "--note: missing, expected some text"),
        ("--all --apply --note x", "no terminal to ask on; add --yes, or --dry-run to be safe"),
        ("--all --legal-now --apply --note x", "no terminal to ask on; add --yes, or --dry-run to be safe"),
        ("--all --apply --note x --yes --expect captured", "--expect: does not go with --all; use --state"),
        (
            "--all --apply --note x --yes --state paid",
            f"invalid value for '--state': 'paid' is not one of {STATES} …",
        ),
        ("--all --apply --note x --yes --run first", f"--run: expected {LIMIT} …"),
        (
            "--all --apply --note x --yes --reason duplicate_event",
            f"invalid value for '--reason': 'duplicate_event' is not one of {REASONS} …",
        ),
        ("--from day.jsonl --reason flagged", "--reason: does not go with --from, expected --all"),
        ("--from day.jsonl --dry-run", "--dry-run: does not go with --from, expected --all"),
        ("--from day.jsonl --apply --dismiss", "no decision, expected --apply or --dismiss"),
        ("--from day.jsonl --note ''", "--note: empty, expected some text"),
        ("--from missing.jsonl", "missing.jsonl: cannot be read: No such file or directory"),
        (
            "--from folder",
            "folder: is a directory, expected a file of JSON Lines; name its files, as in folder/*",
        ),
        (
            "--from day.jsonl.gz",
            "day.jsonl.gz: is compressed with gzip, expected JSON Lines in UTF-8; "
            "use: zcat day.jsonl.gz | payproc resolve --from -",
        ),
        ("--from ''", "--from: empty name, expected a file name, or - for standard input"),
        ("--from --yes", "--from: needs a value, but the option --yes follows it"),
        ("--from day.jsonl --decisions day.jsonl", "--decisions: day.jsonl is also an input; name another file"),
    ],
    "correct": [
        ("", "missing argument 'PAYMENT_ID' …"),
        ("pay_coat", f"missing option '--to'. Choose from: {PLAIN_STATES} …"),
        ("pay_coat --note x --yes", f"missing option '--to'. Choose from: {PLAIN_STATES} …"),
        ("pay_coat --to captured --yes", "missing option '--note' …"),
        ("pay_coat --to captured --note x", "no terminal to ask on; add --yes, and --expect STATE to be safe"),
        ("pay_coat --to paid --note x --yes", f"invalid value for '--to': 'paid' is not one of {STATES} …"),
        ("pay_coat --to '' --note x --yes", f"invalid value for '--to': '' is not one of {STATES} …"),
        (
            "pay_coat --to captured --expect paid --note x",
            f"invalid value for '--expect': 'paid' is not one of {STATES} …",
        ),
        ("pay_coat --to captured --note --yes", "--note: needs a value, but the option --yes follows it"),
        ("pay_coat --note --to=captured --to failed", "--note: needs a value, but the option --to follows it"),
        ("pay_coat --to captured --note ' ' --yes", "--note: empty, expected some text"),
        ("pay_coat --to captured --note x --by '' --yes", "--by: empty, expected some text"),
        ("pay_coat captured --note x --to failed", "got unexpected extra argument(s) (captured) …"),
        ("pay_coat --state captured --note x", "--state: no such option …"),
        ("pay_coat --to captured --note x --format json", "--format: no such option …"),
        ("pay_coat --too captured --note x", "--too: no such option (did you mean --to?) …"),
    ],
    "verify": [
        ("pay_coat", "got unexpected extra argument(s) (pay_coat) …"),
        ("--fix", "--fix: no such option …"),
        ("--limit 5", "--limit: no such option …"),
        ("--format jsonl", "invalid value for '--format': 'jsonl' is not one of 'table', 'json' …"),
        ("--format 'json '", "invalid value for '--format': 'json ' is not one of 'table', 'json' …"),
        ("--quit", "--quit: no such option (did you mean --quiet?) …"),
        ("--quiet true", "got unexpected extra argument(s) (true) …"),
        ("--no-quiet", "--no-quiet: no such option (did you mean --quiet?) …"),
        ("-qv", "-v: no such option …"),
        ("--database postgresql://localhost/payments", "--database: no such option (did you mean --database-url?) …"),
        ("--database-url payments", f"{EXPECTED_URL}, found no postgresql:// at its start"),
        ("postgresql://alice:secret@localhost/payments", HIDDEN),
    ],
    "rules": [
        ("authorize", "got unexpected extra argument(s) (authorize) …"),
        ("captured refund", "got unexpected extra argument(s) (captured refund) …"),
        ("--format md", "invalid value for '--format': 'md' is not one of 'table', 'json', 'markdown', 'mermaid' …"),
        ("--format", "option '--format' requires an argument …"),
        ("--json", "--json: no such option (did you mean --format json?) …"),
        ("--quiet", "--quiet: no such option …"),
        ("--markdown", "--markdown: no such option …"),
        ("--database-url postgresql://localhost/payments", "--database-url: no such option …"),
        ("--formt json", "--formt: no such option (did you mean --format?) …"),
        ("--format=table json", "got unexpected extra argument(s) (json) …"),
        ("--all", "--all: no such option …"),
    ],
    "runs": [
        ("1", "got unexpected extra argument(s) (1) …"),
        ("show 1", "got unexpected extra argument(s) (show 1) …"),
        ("--run 1", "--run: no such option …"),
        ("--limit", "option '--limit' requires an argument …"),
        ("--limit 0", f"--limit: expected {LIMIT} …"),
        ("--limit --quiet", f"--limit: expected {LIMIT} …"),
        ("--limit 1000000001", f"--limit: expected {LIMIT} …"),
        ("-n 5", "-n: no such option …"),
        ("--json", "--json: no such option (did you mean --format json?) …"),
        ("--database-url localhost:5432", f"{EXPECTED_URL}, found no postgresql:// at its start"),
        ("--database-url --quiet", f"{EXPECTED_URL}, found no postgresql:// at its start"),
        (
            "--database-url postgresql://localhost:54x/payments",
            f"{EXPECTED_URL}, found a port that is not a number{ESCAPES}",
        ),
        (
            "--database-url postgresql://localhost/payments?schema=public",
            f'{EXPECTED_URL}, found the parameter "schema" that PostgreSQL\'s client library does not accept',
        ),
    ],
    "payments": [
        ("pay_coat", "got unexpected extra argument(s) (pay_coat) …"),
        ("--state paid", f"invalid value for '--state': 'paid' is not one of {STATES} …"),
        ("--state", "option '--state' requires an argument …"),
        ("--older-than", "option '--older-than' requires an argument …"),
        ("--older-than 7", f"invalid value for '--older-than': '7' is not an age, {AGES} …"),
        ("--older-than week", f"invalid value for '--older-than': 'week' is not an age, {AGES} …"),
        ("--older-than -7d", f"invalid value for '--older-than': '-7d' is not an age, {AGES} …"),
        ("--older-than 2026-11-18", f"invalid value for '--older-than': '2026-11-18' is not an age, {AGES} …"),
        ("--older-than 100000d", f"invalid value for '--older-than': '100000d' is not an age, {AGES} …"),
        ("--older 7d", "--older: no such option (did you mean --older-than?) …"),
        ("--waiting yes", "got unexpected extra argument(s) (yes) …"),
        ("--limit 0", f"--limit: expected {LIMIT} …"),
        ("--json", "--json: no such option (did you mean --format json?) …"),
    ],
    "history": [
        ("pay_coat", "got unexpected extra argument(s) (pay_coat) …"),
        ("--run first", f"--run: expected {LIMIT} …"),
        ("--run 0", f"--run: expected {LIMIT} …"),
        ("--run 9223372036854775808", f"--run: expected {LIMIT} …"),
        (
            "--outcome REJECTED",
            "invalid value for '--outcome': 'REJECTED' is not one of 'APPLY', 'IGNORE', 'REJECT', 'MANUAL_REVIEW' …",
        ),
        (
            "--type void",
            "invalid value for '--type': 'void' is not one of 'authorize', 'capture', 'refund', 'fail', 'flag' …",
        ),
        (
            "--kind review",
            "invalid value for '--kind': 'review' is not one of 'event', 'resolution', 'correction', 'conflict' …",
        ),
        ("--since yesterday", f"invalid value for '--since': 'yesterday' is not a time, {TIMES} …"),
        ("--since 18.11.2026", f"invalid value for '--since': '18.11.2026' is not a time, {TIMES} …"),
        ("--until 2026-02-30", f"invalid value for '--until': '2026-02-30' is not a time, {TIMES} …"),
        ("--since ''", f"invalid value for '--since': '' is not a time, {TIMES} …"),
        (
            "--since 2026-11-18 --until 2026-11-18",
            "--until: 2026-11-18 00:00:00 UTC is not later than --since, so nothing can fit",
        ),
        ("--limit -1", f"--limit: expected {LIMIT} …"),
        ("--by", "option '--by' requires an argument …"),
        ("--by --run=7", "--by: needs a value, but the option --run follows it"),
        ("--payments pay_coat", "--payments: no such option (did you mean --payment?) …"),
    ],
    "status": [
        ("pay_coat", "got unexpected extra argument(s) (pay_coat) …"),
        ("--max-waiting many", f"--max-waiting: expected {COUNTS} …"),
        ("--max-waiting -1", f"--max-waiting: expected {COUNTS} …"),
        ("--max-waiting 1000000001", f"--max-waiting: expected {COUNTS} …"),
        ("--max-waiting", "option '--max-waiting' requires an argument …"),
        ("--max-age 7", f"invalid value for '--max-age': '7' is not an age, {AGES} …"),
        ("--max-age 1.5h", f"invalid value for '--max-age': '1.5h' is not an age, {AGES} …"),
        ("--max-age tomorrow", f"invalid value for '--max-age': 'tomorrow' is not an age, {AGES} …"),
        ("--max-aeg 7d", "--max-aeg: no such option (did you mean --max-age?) …"),
        ("--limit 5", "--limit: no such option …"),
        ("--format text", "invalid value for '--format': 'text' is not one of 'table', 'json' …"),
        ("--quiet yes", "got unexpected extra argument(s) (yes) …"),
    ],
    "export": [
        ("events.jsonl", "got unexpected extra argument(s) (events.jsonl) …"),
        ("--output events.jsonl", "--output: no such option …"),
        ("--format json", "--format: no such option …"),
        ("--json", "--json: no such option …"),
        ("--quit", "--quit: no such option (did you mean --quiet?) …"),
        ("-qv", "-v: no such option …"),
        ("-help", "-e: no such option …"),
        ("-- -q", "got unexpected extra argument(s) (-q) …"),
        ("''", "got unexpected extra argument(s) () …"),
        ("--database-url", "option '--database-url' requires an argument …"),
        ("--database-url ''", f"{EXPECTED_URL}, found nothing"),
        ("postgresql://alice:secret@localhost/copy", HIDDEN),
    ],
    "init": [
        ("mydb", "got unexpected extra argument(s) (mydb) …"),
        ("--yes", "--yes: no such option …"),
        ("--force", "--force: no such option …"),
        ("--database postgresql://localhost/payments", "--database: no such option (did you mean --database-url?) …"),
        (
            "--database_url postgresql://localhost/payments",
            "--database_url: no such option (did you mean --database-url?) …",
        ),
        ("--password secret", "--password: no such option …"),
        ("DATABASE_URL=postgresql://localhost/payments", HIDDEN),
        (
            "--database-url 'host=localhost dbname=payments password=secret'",
            f"{EXPECTED_URL}, found no postgresql:// at its start",
        ),
        ("--database-url mysql://alice:secret@localhost/payments", f"{EXPECTED_URL}, found a URL of mysql"),
        ("--database-url postgresql://alice:se@cret@localhost/payments", f"{EXPECTED_URL}{ESCAPES}"),
        ("--database-url \"'postgresql://localhost/payments'\"", f"{EXPECTED_URL}, found quotation marks around it"),
        ("--database-url '$DATABASE_URL'", f"{EXPECTED_URL}, found no postgresql:// at its start"),
        ("--citus yes", "got unexpected extra argument(s) (yes) …"),
        ("--citus=on", "option '--citus' does not take a value …"),
        ("--cytus", "--cytus: no such option (did you mean --citus?) …"),
    ],
}


@pytest.fixture
def run(tmp_path: Path) -> InProcess:
    """Runs the command in a folder with a few files, where no database may be used."""
    line = '{"event_id": "new_1", "payment_id": "pay_new", "type": "authorize"}'
    (tmp_path / "day.jsonl").write_text(line)
    (tmp_path / "day.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    with zipfile.ZipFile(tmp_path / "day.zip", "w") as archive:
        archive.writestr("day.jsonl", line)
    (tmp_path / "utf16.jsonl").write_text(line, "utf-16")
    for name in ("folder", "no_events"):
        (tmp_path / name).mkdir()
    run = InProcess(tmp_path, None)
    run.environment["PAYPROC_EMBEDDED"] = "never"
    return run


@pytest.mark.parametrize("command", REFUSED)
def test_wrong_usage_of_a_command(run: InProcess, command: str) -> None:
    """Each row is tried in this process; the line is compared as a whole."""
    path = " ".join(["payproc", *filter(None, [command])])
    for arguments, line in REFUSED[command]:
        finished = run(*command.split(), *shlex.split(arguments))
        expected = re.sub(r"(\??) …$", lambda end: f"{end[1] or ';'} see {path} --help", line)
        assert (finished.code, finished.stdout) == (2, ""), arguments
        assert _without_version(finished.stderr) == f"payproc: {expected}\n", arguments


def _without_version(stderr: str) -> str:
    """Return the text as the newest Typer has it."""
    return re.sub(r"extra arguments? \(", "extra argument(s) (", stderr)


def test_every_command_is_tried(run: InProcess) -> None:
    commands = re.findall(r"^  (\w+)  ", run("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert {"", *commands} == set(REFUSED)
    assert all(len(rows) >= 10 for rows in REFUSED.values())


def test_undecodable_arguments_are_refused(run: InProcess) -> None:
    name = "pay_\udcff"
    assert run("show", name).stderr == "payproc: PAYMENT_ID: is not UTF-8, expected UTF-8 text\n"
    resolve = ("resolve", "--dismiss", "--yes")
    assert run(*resolve, "e", "--note", name).stderr == "payproc: --note: is not UTF-8, expected UTF-8 text\n"
    correct = ("correct", "--to", "failed", "--yes")
    assert run(*correct, name, "--note", "x").stderr == "payproc: PAYMENT_ID: is not UTF-8, expected UTF-8 text\n"
    assert run(*resolve, name, "--note", "x").stderr == "payproc: EVENT_ID: is not UTF-8, expected UTF-8 text\n"


def test_a_password_stays_hidden(run: InProcess) -> None:
    for command in REFUSED:
        for option in ("", "--no-such=", "--format=", "-", "--note "):
            finished = run(*command.split(), *f"{option}postgresql://alice:secret@h/d".split())
            assert "secret" not in finished.stdout + finished.stderr, (command, option)


@pytest.mark.parametrize(
    "arguments",
    [
        ["rules", "--format", "MARKDOWN"],
        ["review", "--reason", "Repeated_Refund"],
        ["ingest", "day.jsonl", "--fail-on", "reject"],
        ["show", "pay_new", "--format", "JSON"],
    ],
)
def test_a_choice_is_taken_in_any_case(payproc: Payproc, arguments: list[str]) -> None:
    line = b'{"event_id": "new_1", "payment_id": "pay_new", "type": "authorize"}'
    (payproc.folder / "day.jsonl").write_bytes(line)
    assert payproc("ingest", "day.jsonl").code == 0
    assert payproc(*arguments).code == 0


def test_wrong_usage_ends_a_process_with_2(payproc: Payproc, sql: Sql) -> None:
    """Closed streams, which only a process has, are tried in tests/cli/test_output.py."""
    before = contents(sql)
    (payproc.folder / "day.jsonl").write_bytes(b'{"event_id": "e1", "payment_id": "p1", "type": "authorize"}')
    finished = payproc("ingest", "day.jsonl", "--workers", "none")
    line = "payproc: --workers: expected a whole number from 1 to 64; see payproc ingest --help\n"
    assert finished == (2, "", line)
    assert contents(sql) == before
