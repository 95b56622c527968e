"""Wrong arguments of the commands that write, and of none, and the line on stderr that each gets.

A line that ends with `…` continues with the hint at the command's help. No row needs a database.
"""

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
NO_DATABASE = (
    "no database is named, and PAYPROC_EMBEDDED=never forbids the embedded one; name one with --database-url, "
    "DATABASE_URL, or DATABASE_URL in .env"
)

REFUSED_BY_WRITERS = {
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
        ("--no-citus", "--no-citus: no such option, it belongs after a command, as in payproc init --no-citus …"),
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
        ("day.jsonl --format csv", "--format: unknown 'csv', expected one of 'table', 'json', 'jsonl' …"),
        ("day.jsonl --format", "option '--format' requires an argument …"),
        ("day.jsonl --json", "--json: no such option (did you mean --format json?) …"),
        ("day.jsonl --dry_run", "--dry_run: no such option (did you mean --dry-run?) …"),
        ("day.jsonl --dry-run=true", "option '--dry-run' does not take a value …"),
        ("day.jsonl --fail-on review", f"--fail-on: unknown 'review', expected one of {OUTCOMES} …"),
        ("day.jsonl --fail-on=", f"--fail-on: unknown '', expected one of {OUTCOMES} …"),
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
    "resolve": [
        ("", "no event, expected EVENT_ID, --all or --from FILE …"),
        ("evt_4004", "no decision, expected --apply or --dismiss"),
        ("evt_4004 --apply --yes", "--note: missing, expected some text"),
        ("evt_4004 --note x --yes", "no decision, expected --apply or --dismiss"),
        ("evt_4004 --apply --dismiss --note x --yes", "--apply and --dismiss: given together, expected one of them"),
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
            f"--expect: unknown 'paid', expected one of {STATES} …",
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
            f"--state: unknown 'paid', expected one of {STATES} …",
        ),
        ("--all --apply --note x --yes --payment ''", "--payment: empty, expected some text"),
        ("--all --apply --note x --yes --run first", f"--run: expected {LIMIT} …"),
        (
            "--all --apply --note x --yes --reason duplicate_event",
            f"--reason: unknown 'duplicate_event', expected one of {REASONS} …",
        ),
        ("--from day.jsonl --reason flagged", "--reason: does not go with --from, expected --all"),
        ("--from day.jsonl --dry-run", "--dry-run: does not go with --from, expected --all"),
        ("--from day.jsonl --apply --dismiss", "--apply and --dismiss: given together, expected one of them"),
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
        ("pay_coat --to paid --note x --yes", f"--to: unknown 'paid', expected one of {STATES} …"),
        ("pay_coat --to '' --note x --yes", f"--to: unknown '', expected one of {STATES} …"),
        (
            "pay_coat --to captured --expect paid --note x",
            f"--expect: unknown 'paid', expected one of {STATES} …",
        ),
        (
            "pay_coat --to captured --expect Captured --note x --yes",
            "--to and --expect: both are captured, expected two different states",
        ),
        (
            f"pay_coat --to captured --note {'n' * 10_001} --yes",
            "--note: 10,001 characters, expected at most 10,000",
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
        ("--no-cytus", "--no-cytus: no such option (did you mean --no-citus?) …"),
        ("--reader --no-citus", "--reader: needs a value, but the option --no-citus follows it"),
    ],
    "exec": [
        ("-c 'SELECT 1'", "-c: no such option …"),
        ("--writ psql", "--writ: no such option (did you mean --write?) …"),
        ("--write=yes psql", "option '--write' does not take a value …"),
        ("--read-only psql", "--read-only: no such option …"),
        ("--format json psql", "--format: no such option …"),
        ("--quite psql", "--quite: no such option (did you mean --quiet?) …"),
        (
            "--database postgresql://localhost/payments psql",
            "--database: no such option (did you mean --database-url?) …",
        ),
        ("--database-url", "option '--database-url' requires an argument …"),
        ("--database-url --write psql", f"{EXPECTED_URL}, found no postgresql:// at its start"),
        ("--database-url mysql://localhost/payments psql", f"{EXPECTED_URL}, found a URL of mysql"),
        ("''", "COMMAND: empty name, expected a program and its arguments"),
        ("-- '' psql", "COMMAND: empty name, expected a program and its arguments"),
        ("psql --write", NO_DATABASE),
        ("-- psql -c 'SELECT 1'", NO_DATABASE),
    ],
}
