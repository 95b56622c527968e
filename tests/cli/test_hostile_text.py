"""Text made to harm, through every command that shows or stores it; and passwords, which nothing ever shows.

What belongs here: the whole command, as a process or, where many runs are needed, in this one. How a single text is
shown is in tests/unit/test_text.py, what a line may hold in tests/unit/test_schemas.py.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import sys
import termios
import threading
import tty
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2.extensions
import pytest
from sqlalchemy import URL

from payproc.cli import main as cli
from tests.support.command import Payproc
from tests.support.events import event_line, write_lines
from tests.support.hostile import IDS, INJECTIONS, SEQUENCE, TEXTS, harmful, meant
from tests.support.postgres import NewDatabase, Sql, assert_books_right, contents
from tests.support.tally import count

slow = pytest.mark.slow


class Ran(NamedTuple):
    """What the command left that ran in this process."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


Here = Callable[..., Ran]

WIDE = 5_000
"""Columns in which every row of every table is one line."""


# ---- What a terminal shows ------------------------------------------------------------------------


class World(NamedTuple):
    """Ids and texts to show: hostile ones, or as many that are not."""

    ids: Sequence[str]
    texts: Sequence[str]

    @property
    def note(self) -> str:
        return " ".join(self.texts) + "."

    @property
    def files(self) -> list[str]:
        return [text.replace("/", "") for text in self.texts]


HOSTILE = World(IDS, TEXTS)
BENIGN = World([f"id_{number}" for number in range(len(IDS))], [f"text_{number}" for number in range(len(TEXTS))])


def fill(payproc: Payproc, sql: Sql, world: World) -> list[str]:
    """Record the ids: each as an event and as a payment that waits for a person. Give the names of the files."""
    others = [*world.ids[1:], world.ids[0]]
    raw = world.note.translate(dict.fromkeys(range(0x20), " ")).replace("\\", "").replace('"', "").encode()
    captures = [event_line(each, each, "capture")[:-1] + b',\t"x":"' + raw + b'",\r"y":1}' for each in world.ids]
    conflicts = [event_line(each, other, "refund") for each, other in zip(world.ids, others, strict=True)]
    wrong = [event_line("e", "p", text) for text in world.texts] + [
        event_line(text, "p", "fail") for text in world.texts[:20]
    ]
    (payproc.folder / world.files[0]).write_bytes(b"\n".join([*captures, *conflicts]))
    for name, malformed in zip(world.files[1:], wrong, strict=False):
        (payproc.folder / name).write_bytes(malformed)
    return world.files


def see_all(
    run: Callable[..., str], sql: Sql, world: World, files: list[str], shown_ids: Sequence[int]
) -> dict[str, str]:
    """Everything that shows text from outside, by what showed it."""
    first, last = world.ids[0], world.ids[-1]
    note = ["--note", world.note, "--by", world.note]
    seen = {
        "ingest": run("ingest", "--", *files),
        "decisions": run("ingest", "--decisions", "-", "--", *files),
        "review": run("review"),
        "review as json": run("review", "--format", "json"),
        "resolve, asked": run("resolve", "--apply", *note, "--", world.ids[1], answer=b"n\n"),
        "resolve": run("resolve", "--dismiss", *note, "--yes", "--", first),
        "resolve again": run("resolve", "--dismiss", *note, "--yes", "--", first),
        "resolve what is not there": run("resolve", "--dismiss", *note, "--yes", "--", world.note),
        "resolve, expecting another": run("resolve", "--apply", *note, "--yes", "--expect", "failed", "--", last),
        "show what is not there": run("show", "--", world.note),
        "ingest what is not there": run("ingest", "--", *(f"{name}.none" for name in files[:1])),
        "ingest to nowhere": run("ingest", "--decisions", f"no/{files[1]}", "--", files[0]),
        "runs": run("runs"),
        "runs as json": run("runs", "--format", "json"),
        **{
            f"usage of {each}": run(*each.split(), world.note.replace("://", ""))
            for each in ("ingest --workers", "show a", "review")
        },
        **{f"usage of --{each}": run("runs", f"--{text}") for each, text in enumerate(world.texts[:3])},
    }
    for place in shown_ids:
        seen[f"show {place}"] = run("show", "--", world.ids[place])
        seen[f"show {place} as json"] = run("show", "--format", "json", "--", world.ids[place])
    sql.rows("UPDATE payproc.payments SET state = 'failed'")
    seen["verify"] = run("verify")
    seen["verify as json"] = run("verify", "--format", "json")
    return seen


class Screens(NamedTuple):
    """What was seen of a hostile world, and of a benign one that is like it in everything else."""

    hostile: dict[str, str]
    benign: dict[str, str]


def tour(way: str, tmp_path: Path, new_world: Callable[[], tuple[URL, Any]], here: Here) -> Screens:
    places = range(0, len(IDS), 25 if way == "on a terminal" else 40)
    seen = []
    for world in (HOSTILE, BENIGN):
        url, sql = new_world()
        payproc = Payproc(tmp_path, url)
        payproc.environment["COLUMNS"] = str(WIDE)
        if way == "on a terminal":
            payproc.environment["TERM"] = "xterm-256color"

        def run(*arguments: str, answer: bytes = b"", payproc: Payproc = payproc) -> str:
            if way == "in this process":
                os.environ.update({name: payproc.environment[name] for name in ("DATABASE_URL", "COLUMNS")})
                return here(*arguments).said
            if way == "on a terminal":
                return on_terminal(payproc, arguments, answer)
            finished = payproc(*map(os.fsencode, arguments), stdin=answer)
            return str(finished.stdout + finished.stderr)

        files = fill(payproc, sql, world)
        seen.append(see_all(run, sql, world, files, places))
    return Screens(*seen)


def on_terminal(payproc: Payproc, arguments: Sequence[str], answer: bytes) -> str:
    """Run the command on a terminal that changes nothing; give the very bytes that it would show."""
    terminal, its_end = pty.openpty()
    tty.setraw(its_end)
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDE, 0, 0))
    process = payproc.start(*map(os.fsencode, arguments), stdin=its_end, stdout=its_end, stderr=its_end)
    os.close(its_end)
    shown = b""
    with process, contextlib.suppress(OSError):  # which is how a terminal ends
        while True:
            assert select.select([terminal], [], [], 60)[0], shown
            shown += (block := os.read(terminal, 65_536))
            if answer and shown.endswith(b"[y/N]: "):
                os.write(terminal, answer)
            if not block:
                break
    os.close(terminal)
    assert b"Traceback" not in shown
    return shown.decode()


@pytest.fixture
def new_world(new_database: NewDatabase, template: str, sql: Sql) -> Iterator[Callable[[], tuple[URL, Any]]]:
    """Makes databases, each with a connection."""
    with contextlib.ExitStack() as stack:

        def make() -> tuple[URL, Any]:
            url = new_database(template)
            return url, stack.enter_context(contextlib.closing(type(sql)(url)))

        yield make


@pytest.mark.parametrize(
    "way", ["in this process", *(pytest.param(way, marks=slow) for way in ("piped", "on a terminal"))]
)
def test_hostile_text_changes_neither_what_a_terminal_does_nor_how_many_lines_there_are(
    way: str, tmp_path: Path, new_world: Callable[[], tuple[URL, Any]], here: Here
) -> None:
    screens = tour(way, tmp_path, new_world, here)
    for name, hostile in screens.hostile.items():
        benign = screens.benign[name]
        # A bar may be drawn once more or less; what it is drawn with is the same few sequences.
        allowed = set(SEQUENCE.findall(benign))
        assert set(SEQUENCE.findall(hostile)) <= allowed, name
        assert bool(allowed) == (way == "on a terminal" and "\x1b" in benign), name
        text, benign_text = SEQUENCE.sub("", hostile), SEQUENCE.sub("", benign)
        assert harmful(text) <= harmful(benign_text) <= {"\r"}, name
        assert text.replace("\r", "").count("\n") == benign_text.replace("\r", "").count("\n"), name
    count("screens of hostile text looked at", len(screens.hostile))

    rows = [row.split() for row in SEQUENCE.sub("", screens.hostile["review"]).splitlines()]
    listed = [row[0] for row in rows if "authorize" not in row and "created" in row]
    assert len(listed) == len(set(listed)) == len(IDS)
    assert {meant(shown) for shown in listed} == set(IDS), "what is shown says exactly which id it is"
    objects = [json.loads(row) for row in screens.hostile["review as json"].splitlines() if row.startswith("{")]
    assert sorted(each["event_id"] for each in objects) == sorted(IDS)


def test_json_gives_every_text_back_exactly(payproc: Payproc, here: Here, sql: Sql) -> None:
    files = fill(payproc, sql, HOSTILE)
    ingested = here("ingest", "--format", "json", "--decisions", "decided", "--malformed", "bad", "--", *files)
    assert json.loads(ingested.out)["source"] == files
    decided = [json.loads(row) for row in (payproc.folder / "decided").read_text().splitlines()]
    assert [each["source"] for each in decided if "error" in each] == files[1 : len(decided) - 2 * len(IDS) + 1]
    assert [each["event_id"] for each in decided if "error" not in each] == [*IDS, *IDS]
    for place in (7, 30, 40):
        shown = here("show", "--format", "json", "--", IDS[place]).out
        payment = json.loads(shown)
        assert (payment["payment_id"], payment["history"][0]["event_id"]) == (IDS[place], IDS[place])
        assert payment["history"][0]["source"] == files[0]
        payload = sql.value("SELECT payload::text FROM payproc.events WHERE event_id = %s", IDS[place])
        assert payment["history"][0]["payload"] == json.loads(payload)
        assert harmful(payload), "what is stored is what came"
        assert not harmful(shown)
    assert here("resolve", "--dismiss", "--note", HOSTILE.note, "--by", HOSTILE.note, "--yes", "--", IDS[7]).code == 0
    entry = json.loads(here("show", "--format", "json", "--", IDS[7]).out)["history"][1]
    assert entry["note"] == entry["resolved_by"] == HOSTILE.note.strip()


@pytest.mark.parametrize("columns", [80, *(pytest.param(columns, marks=slow) for columns in (60, 130))])
def test_a_narrow_table_breaks_hostile_ids_and_loses_nothing_of_them(
    payproc: Payproc, here: Here, sql: Sql, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    fill(payproc, sql, HOSTILE)
    here("ingest", "--", HOSTILE.files[0])
    shown = here("review", "--limit", "1000").out
    assert not harmful(shown)
    rows = shown.splitlines()
    width = rows[0].index("Payment" if "Payment" in rows[0] else "Type")
    body = "".join(first_cell(row, width).strip() for row in rows)
    for each in ("\\u202e" * 3, "cafe\\u0301", "[red]x[/red]", "pay\u24231", "\U0001f600" * 3, "\\u1161"):
        assert each in body


def first_cell(row: str, width: int) -> str:
    """What is in the first columns of a row, as a terminal counts them."""
    cell = ""
    for character in row:
        width -= 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        if width < 0:
            break
        cell += character
    return cell


# ---- What a database does -------------------------------------------------------------------------


@pytest.fixture
def here(
    url: URL, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Here]:
    """Runs the command in this process, which takes a tenth of the time; gives its exit code and all that it said."""
    rendered = url.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", rendered)
    for name, value in (("PAYPROC_HOME", str(tmp_path / "home")), ("HOME", str(tmp_path)), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["payproc", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capfd.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, captured.out, captured.err)

    yield run
    psycopg2.extensions.set_wait_callback(None)
    for number, handler in handlers.items():
        signal.signal(number, handler)


CATALOG = """
    SELECT 'relation', nspname::text, relname::text, relkind::text
    FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname NOT LIKE 'pg_%%'
    UNION ALL SELECT 'function', nspname, proname, md5(prosrc) FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema')
    UNION ALL SELECT 'schema', nspname, '', '' FROM pg_namespace WHERE nspname NOT LIKE 'pg_%%'
    UNION ALL SELECT 'type', typname, typcategory::text, '' FROM pg_type WHERE typnamespace = 'payproc'::regnamespace
    UNION ALL SELECT 'database settings', setdatabase::text, setrole::text, setconfig::text FROM pg_db_role_setting
    ORDER BY 1, 2, 3, 4
"""
"""Everything that a statement which got through could have made, dropped or changed."""


def test_sql_in_any_field_is_an_id_like_any_other(payproc: Payproc, sql: Sql) -> None:
    catalog = sql.rows(CATALOG)
    lines = []
    for each in INJECTIONS:
        lines += [event_line(each, each, "authorize", x=each, **{each: each}), event_line(f"{each} 2", each, "capture")]
        lines += [event_line(each, f"{each} 3", "refund"), event_line("e", "p", each)]
    (payproc.folder / INJECTIONS[0]).write_bytes(b"\n".join(lines))
    summary = payproc.summary(INJECTIONS[0], code=3)
    assert summary["outcomes"] == {
        "APPLY": 2 * len(INJECTIONS),
        "IGNORE": 0,
        "REJECT": len(INJECTIONS),
        "MANUAL_REVIEW": 0,
    }
    assert summary["malformed"] == len(INJECTIONS)
    assert [row[0] for row in contents(sql)["payments"]] == sorted(INJECTIONS)
    payloads = [row[-1].encode() for name in ("events", "conflicts") for row in contents(sql)[name]]
    assert sorted(payloads) == sorted(each for each in lines if b'"e", "payment_id": "p"' not in each)
    assert sql.value("SELECT sources FROM payproc.runs") == [INJECTIONS[0]]
    assert sql.rows(CATALOG) == catalog
    assert_books_right(sql)


@pytest.mark.parametrize("injections", [INJECTIONS[::3], pytest.param(INJECTIONS, marks=slow)], ids=["some", "all"])
def test_sql_in_any_argument_does_nothing(
    here: Here, url: URL, sql: Sql, tmp_path: Path, injections: Sequence[str]
) -> None:
    (tmp_path / "day").write_bytes(event_line("e1", "p1", "capture") + b"\n" + event_line("e2", "p2", "capture"))
    here("ingest", "day")
    catalog, before, databases = (
        sql.rows(CATALOG),
        contents(sql),
        sql.rows("SELECT datname FROM pg_database ORDER BY 1"),
    )
    socket_folder = url.query["host"]
    with_url = ("review", "--database-url")
    for each in injections:
        encoded = "".join(f"%{byte:02x}" for byte in each.encode())
        for code, arguments in (
            (1, ("show", "--", each)),
            (1, ("show", "--format", "json", "--", each)),
            (1, ("resolve", "--apply", "--note", each, "--by", each, "--yes", "--", each)),
            (2, ("resolve", "e1", "--apply", "--note", "x", "--yes", "--expect", each)),
            (2, ("review", "--reason", each)),
            (2, ("review", "--limit", each)),
            (2, ("runs", "--limit", each)),
            (2, ("ingest", "--", each)),
            (2, ("ingest", "day", "--workers", each)),
            (2, ("ingest", "day", "--fail-on", each)),
            (2, (*with_url, each)),
            (1, (*with_url, f"postgresql://{encoded}@/{url.database}?host={socket_folder}")),
            (1, (*with_url, f"postgresql://payproc@/{encoded}?host={socket_folder}")),
            (1, (*with_url, f"postgresql://payproc@/{url.database}?host={socket_folder}&options={encoded}")),
            (0, (*with_url, f"postgresql://payproc@/{url.database}?host={socket_folder}&client_encoding={encoded}")),
            (0, (*with_url, f"postgresql://payproc@/{url.database}?host={socket_folder}&application_name={encoded}")),
            # The names that payproc uses are its own, whatever the path says.
            (
                0,
                (
                    *with_url,
                    f"postgresql://payproc@/{url.database}?host={socket_folder}"
                    "&options=-csearch_path%3Dx%20-cstandard_conforming_strings%3Doff",
                ),
            ),
        ):
            found = here(*arguments)
            assert found.code in ({1, 2} if "--database-url" in arguments and code else {code}), (arguments, found)
            assert "fault in payproc" not in found.said
            # What reads could not write either; but that it says so would mean that the statement got there.
            assert code != 1 or "--database-url" in arguments or "on record" in found.said, (arguments, found)
            count("statements tried in arguments", 1)
    assert here("resolve", "e1", "--dismiss", "--note", INJECTIONS[0], "--by", INJECTIONS[1], "--yes").code == 0
    assert sql.rows("SELECT note, resolved_by FROM payproc.resolutions") == [(INJECTIONS[0], INJECTIONS[1])]
    after = contents(sql)
    assert sql.rows(CATALOG) == catalog
    assert sql.rows("SELECT datname FROM pg_database ORDER BY 1") == databases
    assert (after["events"], after["conflicts"]) == (before["events"], before["conflicts"])
    assert after["payments"] == [("p1", "created", 2), ("p2", "created", 1)]


# ---- Passwords ------------------------------------------------------------------------------------

SECRET = "s3cr:et/?#[@]! 'pä$"
"""A password with everything in it that has a meaning in a URL, a connection string, a shell or .env."""

ENCODED = "".join(f"%{byte:02X}" for byte in SECRET.encode())
PARTLY = "s3cr%3Aet%2F%3F%23%5B%40%5D%21%20%27p%C3%A4%24"

NOWHERE = "127.0.0.1:1"

URLS = [
    # As they should be.
    *(f"postgresql://u:{password}@{NOWHERE}/d" for password in ("s3cret", ENCODED, PARTLY, "s3c%72et")),
    *(f"{scheme}://u:s3cret@{NOWHERE}/d" for scheme in ("postgres", "postgresql+psycopg2", "postgresql+asyncpg")),
    *(f"postgresql://u@{NOWHERE}/d?password={password}" for password in ("s3cret", ENCODED, PARTLY)),
    *(f"postgresql://{NOWHERE}/d?user=u&{key}=s3cret" for key in ("password", "%70assword", "sslpassword")),
    f"postgresql://u:s3cret@{NOWHERE}/d?password=s3cret&sslpassword=s3cret&sslmode=disable",
    f"postgresql://u:s3cret@{NOWHERE},127.0.0.2:1/d",
    f"postgresql://u:s3cret@/d?host=127.0.0.1,127.0.0.1&port=1,1&password={ENCODED}",
    "postgresql://u:s3cret@/d?host=/no/such/folder",
    f"postgresql://:s3cret@{NOWHERE}/d",
    f" postgresql://u:s3cret@{NOWHERE}/d ",
    # With characters that should have been escaped, and with escapes where there should be none.
    *(f"postgresql://u:s3c{character}ret@{NOWHERE}/d" for character in "/?#[]@:!'\"\\ &=%;,"),
    *(f"postgresql://u:{character}s3cret@{NOWHERE}/d" for character in "/?#[]@:%"),
    f"postgresql://u:1/s3cret@{NOWHERE}/d",
    f"postgresql://u%3As3cret%40{NOWHERE}/d",
    f"postgresql://u%3As3cret@{NOWHERE}/d",
    f"postgresql://u:s3cret%40{NOWHERE}/d",
    f"postgresql%3A//u:s3cret@{NOWHERE}/d",
    f"postgresql://{NOWHERE}/u:s3cret%40h",
    f"postgresql://{NOWHERE}/postgresql://u:s3cret@h/d",
    f"postgresql://{NOWHERE}/d?dbname=postgresql://u:s3cret@h/d",
    f"postgresql://{NOWHERE}/d?dbname=password%3Ds3cret",
    "postgresql:///d?host=u:s3cret@h",
    "postgresql:///d?hostaddr=u:s3cret@h",
    f"postgresql://{NOWHERE}/d;password=s3cret",
    f"postgresql://{NOWHERE}/d&password=s3cret",
    f"postgresql://{NOWHERE}/d%3Fpassword=s3cret",
    f"postgresql://{NOWHERE},password=s3cret/d",
    f"postgresql://{NOWHERE}/d?PASSWORD=s3cret",
    f"postgresql://u@{NOWHERE}:s3cret/d",
    "postgresql://u@127.0.0.1/d?port=s3cret",
    f"postgresql://u:s3cret@u:s3cret@{NOWHERE}/d",
    "postgresql://u:s3cret@[::1/d",
    f"postgresql://u:s3cret%ff@{NOWHERE}/d",
    f"postgresql://u:s3cret%00@{NOWHERE}/d",
    f"postgresql://u:s3cret\udcff@{NOWHERE}/d",
    "postgresql://u:s3cret",
    "postgresql:u:s3cret@h",
    # Something else.
    "host=127.0.0.1 port=1 user=u password=s3cret",
    "postgresql://host=127.0.0.1 port=1 user=u password=s3cret",
    f"mysql://u:s3cret@{NOWHERE}/d",
    f"jdbc:postgresql://{NOWHERE}/d?user=u&password=s3cret",
    f"u:s3cret@{NOWHERE}/d",
    "s3cret",
]

SIGNS = ("s3c", ENCODED, PARTLY, "s%33c", SECRET, "ret@", "%72et", "cret", "pä$")
"""What of these passwords must be nowhere: pieces, too, because a URL may be cut anywhere."""


def assert_no_password(said: str, about: object) -> None:
    assert [sign for sign in SIGNS if sign.lower() in said.lower()] == [], (about, said)


def test_no_url_gives_its_password_away_whatever_is_wrong_with_it(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for url in URLS:
        ran = here("init", "--database-url", url)
        assert ran.code in (1, 2), url
        assert_no_password(ran.said, url)
        assert "fault in payproc" not in ran.said
        assert ran.said.count("\n") <= 2
        monkeypatch.setenv("DATABASE_URL", url)
        assert_no_password(here("show", "p").said, url)
        if url in URLS[:3]:
            assert_no_password(here("ingest", "--help").said + here("--help").said + here("rules").said, url)
        monkeypatch.delenv("DATABASE_URL")
        (tmp_path / ".env").write_bytes(b"DATABASE_URL='" + os.fsencode(url.replace("'", "")) + b"'\n")
        assert_no_password(here("verify").said, url)
        (tmp_path / ".env").unlink()
        count("URLs with a password tried", 1)


@pytest.mark.parametrize("all_of_them", [False, pytest.param(True, marks=slow)])
def test_a_url_that_stands_where_something_else_should_is_not_shown(here: Here, all_of_them: bool) -> None:
    for url in [url for url in URLS if re.search("://.*@|password", url)][:: 1 if all_of_them else 5]:
        for arguments in (
            ("init", url),
            ("ingest", url),
            ("ingest", "--decisions", f"no/{url}", os.devnull),
            (url,),
            ("show", url),
            ("ingest", f"--malformed=no/{url}", os.devnull),
            ("ingest", f"--database-url:{url}"),
            ("runs", "--limit", url),
            ("ingest", f"--no-such={url}"),
            ("ingest", f"-{url}"),
            ("resolve", url, "--apply", "--note", "x", "--yes"),
            ("review", "--reason", url),
            ("resolve", "e", "--apply", "--note", "x", "--yes", "--expect", url),
        ):
            ran = here(*arguments)
            assert ran.code in (1, 2), arguments
            assert_no_password(ran.said, arguments)


@contextlib.contextmanager
def server_that_repeats_the_password() -> Iterator[tuple[int, list[str]]]:
    """A PostgreSQL server that lets nobody in, and says in its answer what it was told. Gives its port, and that."""
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def read(client: socket.socket, kind: bytes) -> bytes:
            assert client.recv(len(kind), socket.MSG_WAITALL) == kind
            (length,) = struct.unpack("!I", client.recv(4, socket.MSG_WAITALL))
            return client.recv(length - 4, socket.MSG_WAITALL)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    with client:
                        while struct.unpack("!I", read(client, b"")[:4])[0] >> 16 != 3:  # TLS or GSSAPI
                            client.sendall(b"N")
                        client.sendall(b"R" + struct.pack("!II", 8, 3))  # the password, please
                        told.append(read(client, b"p")[:-1].decode())
                        fields = f'SFATAL\0VFATAL\0C28P01\0Mpassword "{told[-1]}" is wrong for user "u"\0\0'.encode()
                        client.sendall(b"E" + struct.pack("!I", len(fields) + 4) + fields)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], told
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("how", ["in the url", "encoded", "as a parameter", "PGPASSWORD"])
def test_a_wrong_password_is_not_shown_even_if_the_server_repeats_it(tmp_path: Path, how: str) -> None:
    with server_that_repeats_the_password() as (port, told):
        url, more = {
            "in the url": (f"postgresql://u:{PARTLY}@127.0.0.1:{port}/d", {}),
            "encoded": (f"postgresql://u:{ENCODED}@127.0.0.1:{port}/d", {}),
            "as a parameter": (f"postgresql+psycopg2://u@127.0.0.1:{port}/d?password={PARTLY}", {}),
            "PGPASSWORD": (f"postgresql://u@127.0.0.1:{port}/d", {"PGPASSWORD": SECRET}),
        }[how]
        # Python's own debugging aids, and payproc's, know no password either.
        aids = {"PYTHONDEVMODE": "1", "PYTHONFAULTHANDLER": "1", "PAYPROC_DEBUG": "1"}
        finished = Payproc(tmp_path, None)("init", "--database-url", url, env={**more, **aids})
    assert told == [SECRET], "the password did get to the server"
    assert finished.code == 1
    assert 'password "***" is wrong for user "u"' in finished.stderr
    assert_no_password(finished.stdout + finished.stderr, url)


@pytest.mark.parametrize("password", ["a", "wrong", "for", "password"])
def test_a_mask_does_not_tell_which_ordinary_word_is_the_password(tmp_path: Path, password: str) -> None:
    """With a mask wherever it stands, the words around tell what is under it."""
    with server_that_repeats_the_password() as (port, told):
        url = f"postgresql://u:{password}@127.0.0.1:{port}/d"
        finished = Payproc(tmp_path, None)("init", "--database-url", url)
    assert told == [password]
    assert finished.stderr.endswith(f':{port}/d: password "***" is wrong for user "u"\n')


@pytest.mark.parametrize("password", ["a", "server", "refused"])
def test_a_mask_does_not_stand_for_a_word_of_libpq(tmp_path: Path, password: str) -> None:
    finished = Payproc(tmp_path, None)("init", "--database-url", f"postgresql://u:{password}@127.0.0.1:1/d")
    assert finished.stderr.endswith("127.0.0.1:1/d: Connection refused\n")


@slow
def test_a_password_is_shown_neither_when_the_server_goes_away_nor_in_what_it_keeps(
    payproc: Payproc, sql: Sql, server: Any, url: URL, tmp_path: Path
) -> None:
    write_lines(tmp_path / "first", [event_line("e1", "p1", "authorize")])
    write_lines(tmp_path / "more", [event_line("e2", "p1", "capture")])
    aids = {"PYTHONDEVMODE": "1", "PAYPROC_DEBUG": "1", "DATABASE_URL": ""}
    given = f"postgresql://payproc:{PARTLY}@/{url.database}?host={url.query['host']}&sslpassword={ENCODED}"
    finished = payproc("ingest", "first", "--database-url", given, env=aids)
    assert finished.code == 0, finished
    said = finished.stdout + finished.stderr
    with sql.locked_payment("p1"):
        process = payproc.start("ingest", "more", "--workers", "1", "--database-url", given, env=aids)
        blocked = sql.wait_for_blocked_call()
        seen_by_server = sql.rows("SELECT * FROM pg_stat_activity WHERE pid = %s", blocked)
        server.execute(f'ALTER DATABASE "{url.database}" WITH ALLOW_CONNECTIONS false')
        server.execute(f"SELECT pg_terminate_backend({blocked})")
        out, err = process.communicate(timeout=60)
    server.execute(f'ALTER DATABASE "{url.database}" WITH ALLOW_CONNECTIONS true')
    assert process.returncode == 1
    assert b"not currently accepting connections" in err
    missing = payproc("init", "--database-url", given.replace(url.database or "", "nowhere"), env=aids)
    assert 'database "nowhere" does not exist' in missing.stderr
    kept = sql.rows("SELECT to_jsonb(runs)::text FROM payproc.runs")
    everything = [said, out.decode(), err.decode(), missing.stdout, missing.stderr, str(kept), str(seen_by_server)]
    log = Path(str(url.query["host"])) / "log"
    if log.exists():  # of the embedded server; another one keeps its log elsewhere
        everything.append(log.read_text(errors="replace"))
    for each in everything:
        assert_no_password(each, "")
