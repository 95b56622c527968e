"""Every command tried wrongly, as a new user would who has read only the README.

The tries are sessions in the folder wrong_usage, a file a command: what is typed, all of stderr but the line on which
database it is, and the exit code. `{folder}` is where it is typed, `{database}` the name of the test's database.

To add one, write it down as it should be. No try depends on another, and none may record anything.
"""

import gzip
import json
import re
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.command import Payproc
from tests.support.postgres import Sql, contents
from tests.support.tally import count

SESSIONS = sorted(Path(__file__).with_name("wrong_usage").glob("*.txt"))
SAMPLES = Path(__file__).parents[2] / "sample_events"
FEWEST = 40


class Try(NamedTuple):
    """What is typed into a shell, and what comes of it."""

    typed: str
    stderr: str
    code: int

    def __str__(self) -> str:
        return f"$ {self.typed}\n{self.stderr}[{self.code}]\n"


def tries(session: Path) -> list[Try]:
    """The tries of a session, in the order of the file."""
    found = re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*?)\[(\d+)\]\n", session.read_text("utf-8"), re.MULTILINE)
    return [Try(typed, stderr, int(code)) for typed, stderr, code in found]


@pytest.fixture
def world(payproc: Payproc) -> Payproc:
    """The command on a database with two samples in it, in a folder with files of many kinds."""
    event = {"event_id": "new_1", "payment_id": "pay_new", "type": "authorize"}
    line = json.dumps(event)
    folder: Path = payproc.folder
    for name, sample in (("day.jsonl", "clean_day.jsonl"), ("race.jsonl", "refund_race.jsonl")):
        shutil.copy(SAMPLES / sample, folder / name)
    (folder / "day.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    with zipfile.ZipFile(folder / "day.zip", "w") as archive:
        archive.writestr("day.jsonl", line)
    for name in ("folder", "no_events", "mine"):
        (folder / name).mkdir()
    for name, text in {
        "array.json": f"[{line}]",
        "pretty.json": json.dumps(event, indent=2),
        "wrapped.json": json.dumps({"events": [event]}),
        "events.csv": "event_id,payment_id,type\nnew_1,pay_new,authorize\n",
        "page.html": "<!DOCTYPE html>\n",
        "id.jsonl": line.replace("event_id", "id"),
        "camel.jsonl": line.replace("_id", "Id"),
        "payment.jsonl": line.replace("payment_id", "payment"),
        "upper.jsonl": line.replace("authorize", "AUTHORIZE"),
        "dotted.jsonl": line.replace("authorize", "payment.authorized"),
        "past.jsonl": line.replace("authorize", "authorized"),
        "number.jsonl": line.replace('"new_1"', "1"),
        "null.jsonl": line.replace('"new_1"', "null"),
        "space.jsonl": line.replace("new_1", "new_1 "),
        "single.jsonl": line.replace('"', "'"),
        "comma.jsonl": line.replace("}", ",}"),
        "two.jsonl": line + line,
        "nested.jsonl": json.dumps({"data": event}),
        "string.jsonl": '"new_1"',
        "mine/notes": "mine",
    }.items():
        (folder / name).write_text(text, "utf-8")
    (folder / "utf16.jsonl").write_text(line, "utf-16")
    (folder / "latin.jsonl").write_bytes(line.replace("new", "é").encode("latin-1"))
    (folder / "binary.jsonl").write_bytes(bytes(range(256)))
    for number, entry in enumerate(("DATABASE_URL", "DATABASE_URL: x", 'DATABASE_URL="x', "DATABASE_URL=x", "\xff")):
        (folder / f"env{number}").mkdir()
        (folder / f"env{number}" / ".env").write_bytes(entry.encode("latin-1"))
    assert payproc("ingest", "day.jsonl", "race.jsonl", "--quiet").code == 0
    return payproc


def run(payproc: Payproc, typed: str) -> Try:
    """Type it, in the folder of the world, as a session file has it."""
    path = f"{Path(sys.executable).parent}:{payproc.environment['PATH']}"
    finished = payproc("-c", typed, command="bash", env={"PATH": path})
    database = re.search("payproc_test_.*", payproc.environment["DATABASE_URL"])
    assert database
    kept = re.sub(r"^payproc: (database |creating |the embedded PostgreSQL).*\n", "", finished.stderr, flags=re.M)
    shown = re.sub(rf"postgresql://\S*/{re.escape(database[0].partition('?')[0])}", "{database}", kept)
    return Try(typed, shown.replace(str(payproc.folder), "{folder}"), finished.code)


def check(payproc: Payproc, chosen: list[Try], sql: Sql) -> None:
    """Each try ends as its session says, and nothing is recorded."""
    before = contents(sql)
    with ThreadPoolExecutor(2) as pool:
        came_out = list(pool.map(lambda each: run(payproc, each.typed), chosen))
    assert "\n".join(map(str, came_out)) == "\n".join(map(str, chosen))
    assert contents(sql) == before


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.stem)
def test_wrong_usage_is_answered_with_a_line_that_helps(world: Payproc, session: Path, sql: Sql) -> None:
    every = tries(session)
    check(world, every[:: len(every) // 2], sql)


@pytest.mark.slow
@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.stem)
def test_wrong_usage_of_every_kind_is_answered_with_a_line_that_helps(world: Payproc, session: Path, sql: Sql) -> None:
    every = tries(session)
    check(world, every, sql)
    count("wrong ways to call a command", len(every))


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.stem)
def test_every_command_is_tried_in_many_ways_and_answers_in_its_own_voice(session: Path) -> None:
    every = tries(session)
    assert "\n".join(map(str, every)) == session.read_text("utf-8"), "a part of the file is no try"
    assert len({each.typed for each in every}) == len(every) >= FEWEST
    for each in every:
        own = [line for line in each.stderr.splitlines() if not re.match(r"[\w.<>]+:\d+: ", line)]
        assert each.stderr, each
        assert len(own) <= 1, each
        assert all(line.startswith("payproc: ") for line in own), each


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "pay_coat", "--format", "JSON"],
        ["rules", "--format", "Markdown"],
        ["review", "--reason", "Repeated_Refund"],
        ["ingest", "day.jsonl", "--fail-on", "reject"],
    ],
)
def test_the_case_of_a_choice_does_not_matter(world: Payproc, arguments: list[str]) -> None:
    assert world(*arguments).code == 0
    assert world(*arguments[:-1], arguments[-1].swapcase()).code == 0


def test_every_command_is_tried(tmp_path: Path) -> None:
    commands = re.findall(
        r"^  (\w+)  ", Payproc(tmp_path, None)("--help").stdout.partition("Commands:")[2], re.MULTILINE
    )
    assert commands
    assert {session.stem for session in SESSIONS} == {"payproc", *commands}
