"""Hostile text through every command that shows or stores it.

It changes neither the terminal nor the number of lines, and no two ids look alike. The escapes of
a single text are in tests/unit.
"""

import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.command import Payproc, messages
from tests.support.events import event_line, write_lines
from tests.support.hostile import IDS, SEQUENCE, TEXTS, harmful, unescape
from tests.support.in_process import InProcess
from tests.support.postgres import NewDatabase, Sql, SqlOn
from tests.support.tally import count
from tests.support.terminal import open_terminal

slow = pytest.mark.slow

WIDE = 8_000
"""Columns in which every row of every table is one line."""


class Corpus(NamedTuple):
    """Ids and texts to show."""

    ids: Sequence[str]
    texts: Sequence[str]

    @property
    def note(self) -> str:
        """All texts, as one note."""
        return " ".join(self.texts) + "."

    @property
    def files(self) -> list[str]:
        """The texts, as names of files."""
        return [text.replace("/", "") for text in self.texts]


HOSTILE = Corpus(IDS, TEXTS)
BENIGN = Corpus([f"id_{number}" for number in range(len(IDS))], [f"text_{number}" for number in range(len(TEXTS))])
"""As many ordinary ids and texts, to compare with."""


def write_files(folder: Path, corpus: Corpus) -> None:
    """Write files: the first has an event and a conflict for each id, the others bad lines."""
    others = [*corpus.ids[1:], corpus.ids[0]]
    raw = corpus.note.translate(dict.fromkeys(range(0x20), " ")).replace("\\", "").replace('"', "").encode()
    captures = [event_line(each, each, "capture")[:-1] + b',\t"x":"' + raw + b'",\r"y":1}' for each in corpus.ids]
    conflicts = [event_line(each, other, "refund") for each, other in zip(corpus.ids, others, strict=True)]
    malformed = [event_line("e", "p", text) for text in corpus.texts]
    malformed += [event_line(text, "p", "fail") for text in corpus.texts[:20]]
    write_lines(folder / corpus.files[0], [*captures, *conflicts])
    for name, line in zip(corpus.files[1:], malformed, strict=False):
        write_lines(folder / name, [line])


Run = Callable[..., str]
"""Runs the command with arguments and an answer to its question; returns its output."""


def tour(run: Run, sql: Sql, corpus: Corpus, places: Sequence[int]) -> dict[str, str]:
    """Run every command that shows text from outside; return the output by the command's name."""
    first, last, note = corpus.ids[0], corpus.ids[-1], corpus.note
    decision = ["--note", note, "--by", note]
    seen = {
        "ingest": run("ingest", "--", *corpus.files),
        "decisions": run("ingest", "--label", note, "--decisions", "-", "--", *corpus.files),
        "review": run("review"),
        "review as json": run("review", "--format", "json"),
        "resolve, asked": run("resolve", "--apply", *decision, "--", corpus.ids[1], answer=b"n\n"),
        "resolve": run("resolve", "--dismiss", *decision, "--yes", "--", first),
        "resolve again": run("resolve", "--dismiss", *decision, "--yes", "--", first),
        "resolve an unknown event": run("resolve", "--dismiss", *decision, "--yes", "--", note),
        "resolve, expecting another": run("resolve", "--apply", *decision, "--yes", "--expect", "failed", "--", last),
        "review of an unknown payment": run("review", f"--payment={note}"),
        "resolve all, asked": run("resolve", "--all", "--apply", *decision, answer=b"n\n"),
        "resolve all": run("resolve", "--all", "--dismiss", *decision, "--dry-run", "--decisions", "-"),
        "resolve from a file": run("resolve", *decision, "--apply", "--from", corpus.files[0], "--decisions", "-"),
        "correct, asked": run("correct", "--to", "refunded", *decision, "--", corpus.ids[1], answer=b"n\n"),
        "correct": run("correct", "--to", "captured", *decision, "--yes", "--", last),
        "correct again": run("correct", "--to", "captured", *decision, "--yes", "--", last),
        "correct an unknown payment": run("correct", "--to", "captured", *decision, "--yes", "--", note),
        "show an unknown payment": run("show", "--", note),
        "ingest a missing file": run("ingest", "--", f"{corpus.files[0]}.none"),
        "ingest to nowhere": run("ingest", "--decisions", f"no/{corpus.files[1]}", "--", corpus.files[0]),
        "history": run("history"),
        "decisions in history": run("history", "--by", note),
        "history as json": run("history", "--format", "json"),
        "payments": run("payments"),
        "payments as json": run("payments", "--format", "json"),
        "status": run("status", "--max-age", "0s"),
        "status as json": run("status", "--format", "json"),
        "runs": run("runs"),
        "runs as json": run("runs", "--format", "json"),
    }
    for command in ("ingest --workers", "show a", "review", "history --since", "payments --older-than"):
        seen[f"usage of {command}"] = run(*command.split(), note.replace("://", ""))
    for number, text in enumerate(corpus.texts[:3]):
        seen[f"usage of --{number}"] = run("runs", f"--{text}")
    for place in places:
        seen[f"show {place}"] = run("show", "--", corpus.ids[place])
        seen[f"show {place} as json"] = run("show", "--format", "json", "--", corpus.ids[place])
    sql.rows("UPDATE payproc.payments SET state = 'failed'")
    seen["verify"] = run("verify")
    seen["verify as json"] = run("verify", "--format", "json")
    return seen


def runner(way: str, command: InProcess) -> Run:
    """Return a function that runs the command in one of three ways."""
    command.environment["COLUMNS"] = str(WIDE)
    if way == "in this process":
        return lambda *arguments, answer=b"": command(*arguments, stdin=answer).output
    if way == "piped":
        return lambda *arguments, answer=b"": command.process(*map(os.fsencode, arguments), stdin=answer).output
    command.environment["TERM"] = "xterm-256color"
    return lambda *arguments, answer=b"": on_terminal(command.process, arguments, answer)


def on_terminal(payproc: Payproc, arguments: Sequence[str], answer: bytes) -> str:
    """Run the command on a terminal; return the very bytes that it shows."""
    with open_terminal(WIDE) as terminal:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.stream)
        with payproc.start(*map(os.fsencode, arguments), **streams):
            asked = terminal.read_until(b"[y/N]: ") if answer else b""
            terminal.type(answer)
            shown = asked + terminal.read_all()
    assert b"Traceback" not in shown
    return shown.decode().replace("payproc: the database is sorting; rows follow\n", "")  # if it takes 2 s


@pytest.mark.parametrize(
    "way", ["in this process", pytest.param("piped", marks=slow), pytest.param("on a terminal", marks=slow)]
)
def test_hostile_text_has_no_effect(
    way: str, tmp_path: Path, new_database: NewDatabase, template: str, sql_on: SqlOn
) -> None:
    """Every screen is compared with the one of an ordinary text."""
    places = range(0, len(IDS), {"on a terminal": 25, "piped": 40}.get(way, 80))
    screens = []
    for corpus in (HOSTILE, BENIGN):
        url = new_database(template)
        write_files(tmp_path, corpus)
        screens.append(tour(runner(way, InProcess(tmp_path, url)), sql_on(url), corpus, places))
    for name, benign in screens[1].items():
        assert way == "on a terminal" or "\x1b" not in benign
        assert_same_effect(name, screens[0][name], benign)
    count("screens of hostile text looked at", len(screens[0]))
    assert_ids_are_distinct(screens[0])


def assert_same_effect(name: str, hostile: str, benign: str) -> None:
    """Check that two screens have the same lines and control sequences, and nothing harmful."""
    assert set(SEQUENCE.findall(hostile)) <= set(SEQUENCE.findall(benign)), name
    text, benign_text = SEQUENCE.sub("", hostile), SEQUENCE.sub("", benign)
    assert harmful(text) <= harmful(benign_text) <= {"\r"}, name
    assert text.replace("\r", "").count("\n") == benign_text.replace("\r", "").count("\n"), name


def assert_ids_are_distinct(hostile: dict[str, str]) -> None:
    """Check that a list shows each id in a way that names no other."""
    rows = [row.split() for row in SEQUENCE.sub("", hostile["review"]).splitlines()]
    listed = [row[0] for row in rows if "authorize" not in row and "created" in row]
    assert len(listed) == len(set(listed)) == len(IDS)
    assert {unescape(shown) for shown in listed} == set(IDS)
    objects = [json.loads(row) for row in hostile["review as json"].splitlines() if row.startswith("{")]
    assert sorted(each["event_id"] for each in objects) == sorted(IDS)


def test_json_returns_every_text_exactly(run_in_process: InProcess, sql: Sql) -> None:
    """The database stores the text as it came. JSON escapes it, and says the same."""
    run = run_in_process
    files = HOSTILE.files
    write_files(run.folder, HOSTILE)
    ingested = run("ingest", "--format", "json", "--decisions", "decided", "--malformed", "bad", "--", *files)
    assert json.loads(ingested.stdout)["source"] == files
    decided = [json.loads(row) for row in (run.folder / "decided").read_text().splitlines()]
    assert [each["source"] for each in decided if "error" in each] == files[1 : len(decided) - 2 * len(IDS) + 1]
    assert [each["event_id"] for each in decided if "error" not in each] == [*IDS, *IDS]
    for place in (7, 30, 40):
        shown = run("show", "--format", "json", "--", IDS[place]).stdout
        payment = json.loads(shown)
        assert (payment["payment_id"], payment["history"][0]["event_id"]) == (IDS[place], IDS[place])
        assert payment["history"][0]["source"] == files[0]
        payload = sql.value("SELECT payload::text FROM payproc.events WHERE event_id = %s", IDS[place])
        assert payment["history"][0]["payload"] == json.loads(payload)
        assert harmful(payload)
        assert not harmful(shown)
    assert run("resolve", "--dismiss", "--note", HOSTILE.note, "--by", HOSTILE.note, "--yes", "--", IDS[7]).code == 0
    entry = json.loads(run("show", "--format", "json", "--", IDS[7]).stdout)["history"][1]
    assert entry["note"] == entry["resolved_by"] == HOSTILE.note.strip()


@pytest.mark.parametrize("columns", [80, pytest.param(60, marks=slow), pytest.param(130, marks=slow)])
def test_narrow_table_wraps_hostile_ids_uncut(run_in_process: InProcess, columns: int) -> None:
    write_files(run_in_process.folder, HOSTILE)
    run_in_process("ingest", "--", HOSTILE.files[0])
    shown = run_in_process("review", "--limit", "1000", env={"COLUMNS": str(columns)}).stdout
    assert not harmful(shown)
    rows = shown.splitlines()
    (type_,) = [row for row in rows[:3] if "Type" in row]
    width = type_.index("Payment" if "Payment" in type_ else "Type")
    body = "".join(first_cell(row, width).strip() for row in rows)
    for each in ("\\u202e" * 3, "cafe\\u0301", "[red]x[/red]", "pay\u24231", "\U0001f600" * 3, "\\u1161"):
        assert each in body


def first_cell(row: str, width: int) -> str:
    """Return the start of a row that fills so many of a terminal's columns."""
    cell = ""
    for character in row:
        width -= 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        if width < 0:
            break
        cell += character
    return cell


def test_ids_and_notes_are_shown_literally(run_in_process: InProcess) -> None:
    """Markup is text, and invisible characters are escapes: in tables, sentences and errors."""
    event, note = ":smile:[link=http://x]e\u200b", "[red]x[/]\x1b[31m\n\u202ey"
    run_in_process("ingest", "-", stdin=event_line(event, "[bold red]p[/]\u202e\u2066evil", "capture"))
    decision = ("resolve", event, "--dismiss", "--note", note, "--by", note, "--yes")
    done, again = run_in_process(*decision), run_in_process(*decision)
    shown = run_in_process("show", "[bold red]p[/]\u202e\u2066evil", env={"COLUMNS": "200", "FORCE_COLOR": "1"})
    assert done.stdout.count("\n") == len(messages(again)) == 1
    for output in (done.stdout, again.stderr, shown.stdout):
        assert "[red]x[/]\\x1b[31m\\n\\u202ey" in output
        assert ":smile:[link=http://x]e\\u200b" in output
        assert not harmful(SEQUENCE.sub("", output))
        assert "\x1b[31m" not in output
    assert "[bold red]p[/]\\u202e\\u2066evil" in shown.stdout
