"""Everyday files that are no JSON Lines: their messages, and the commands in them, run by a shell.

Belongs here: files of several lines. The sentences on one line are in test_malformed_lines.py.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from payproc import mends
from payproc.cli.problems import LineProblems
from payproc.explain import Malformed
from payproc.schemas import parse_lines

ROOT = Path(__file__).parents[2]
AN_OBJECT = "expected one JSON object a line"
RAW = "expected event_id, payment_id and type"
BOM = b"\xef\xbb\xbf"

needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")


def line(event_id: str | int = "e1", **more: object) -> str:
    return json.dumps({"event_id": event_id, "payment_id": "p", "type": "capture", **more})


ONE, TWO, THREE = line("e1"), line("e2", x="a, }b{ 'c'"), line("e3")
ALL = ["e1", "e2", "e3"]
PRETTY = [json.dumps(json.loads(each), indent=2) for each in (ONE, TWO, THREE)]
LONG = [389404469112233445, 389404469112233446]
"""Ids that differ in a digit which jq 1.6 drops."""


class File(NamedTuple):
    """A file, the messages about it (without its name), and the ids of its events once mended."""

    content: str | bytes
    messages: list[str]
    mend: str
    ids: list[str] = ALL


FILES = {
    "a comma at each end": File(f"{ONE},\n{TWO} , \r\n{THREE},\n", ["1: a comma ends the line"], mends.COMMAS),
    "a comma at each beginning": File(f"{ONE}\n,{TWO}\n, {THREE}", ["2: a comma begins the line"], mends.COMMAS),
    "a comma on its own line": File(f"{ONE}\n,\n{TWO}\n,\n{THREE}", ["2: a comma without an object"], mends.COMMAS),
    "an array on one line": File(f"[{ONE},{TWO}, {THREE}]\n", ["1: an array"], mends.ARRAY),
    "an array, an object a line": File(
        f"[\n{ONE},\n{TWO},\n{THREE}\n]\n", ["1: JSON that goes over several lines (4 malformed lines)"], mends.ARRAY
    ),
    "an array as psql's json_agg prints it": File(
        f"[{ONE}, \n {TWO}, \n {THREE}]\n", ["1: JSON that goes over several lines (3 malformed lines)"], mends.ARRAY
    ),
    "a pretty-printed array": File(
        json.dumps([json.loads(each) for each in (ONE, TWO, THREE)], indent=4),
        ["1: JSON that goes over several lines (18 malformed lines)"],
        mends.ARRAY,
    ),
    "pretty-printed objects": File(
        "\n".join(PRETTY), ["1: JSON that goes over several lines (16 malformed lines)"], mends.JOIN
    ),
    "pretty-printed objects, blank lines between": File(
        "\n\n".join(PRETTY), ["1: JSON that goes over several lines (16 malformed lines)"], mends.JOIN
    ),
    "pretty-printed objects with commas between": File(
        ",\n".join(PRETTY) + ",\n", ["1: JSON that goes over several lines (16 malformed lines)"], mends.LIST
    ),
    "pretty-printed, with all kinds of values": File(
        json.dumps(
            {**json.loads(ONE), "a": [], "b": {}, "c": ["x", 1.5, None, [], {}, ["y"]], "d": {"e": True}}, indent=1
        ),
        ["1: JSON that goes over several lines (20 malformed lines)"],
        mends.JOIN,
        ["e1"],
    ),
    "an object over two lines": File(
        f"{TWO}\n{ONE[:18]}\n{ONE[18:]}\n{THREE}",
        ["2: JSON that goes over several lines (2 malformed lines)"],
        mends.JOIN,
        ["e2", "e1", "e3"],
    ),
    "two objects on a line": File(f"{ONE}{TWO}\n{THREE}", ["1: several JSON values on a line"], mends.JOIN),
    "objects with commas between on a line": File(
        f"{ONE},{TWO}, {THREE},\n", ["1: several objects with commas between them"], mends.LIST_ON_A_LINE
    ),
    "two files on a line, the second with a BOM": File(
        ONE.encode() + BOM + TWO.encode() + b"\n" + THREE.encode(),
        ["1: a byte order mark inside the line"],
        mends.BOMS,
    ),
    "RFC 7464": File(
        "".join(f"\x1e{each}\n" for each in (ONE, TWO, THREE)), ["1: a record separator (RFC 7464)"], mends.SEPARATORS
    ),
    "RFC 7464 without line feeds": File(
        f"\x1e{ONE}\x1e{TWO}\x1e{THREE}", ["1: a record separator (RFC 7464)"], mends.SEPARATORS
    ),
    "a log": File(
        f"2026-11-20T09:01:37Z INFO [api] {ONE}\n2026-11-20T09:01:38Z INFO [api] {TWO} +12ms\n{THREE}\n",
        ['1: "2026-11-20T09:01:37Z INFO [api]" before the object'],
        mends.AROUND,
    ),
    "comments behind objects": File(
        f"{ONE} // one\n{TWO} # two\n{THREE}", ["1: a comment after the object"], mends.AROUND
    ),
    "comments": File(f"# a day\n{ONE}\n  // more\n{TWO}\n{THREE}\n", ["1: a comment"], mends.COMMENTS),
    "Python's dicts": File(
        "".join(f"{json.loads(each) | {'ok': True, 'n': None}!r}\n" for each in (ONE, TWO)) + THREE,
        ["1: single quotes, as Python writes them"],
        mends.PYTHON,
    ),
    "curly quotes": File(
        ONE.replace('"', "\u201c", 1).replace('"', "\u201d") + f"\n{TWO}\n{THREE}",
        ["1: curly quotes"],
        mends.STRAIGHT_QUOTES,
    ),
    "keys without quotes": File(
        "{event_id: 'e1'}".replace("'e1'", '"e1", payment_id: "p", type: "fail"'),
        ["1: a key without double quotes"],
        mends.KEYS,
        ["e1"],
    ),
    "a comma before the brace": File(
        f'{ONE[:-1]},}}\n{TWO[:-1]}, "y": [1, ] }}\n{THREE}',
        ["1: a comma before a closing bracket"],
        mends.LAST_COMMAS,
    ),
    "NaN": File(
        f"{line('e1', x=float('nan'))}\n{line('e2', x=[float('inf'), -float('inf')], y='is: NaN ')}\n{THREE}",
        ["1: NaN, which JSON lacks"],
        mends.NULLS,
    ),
    "UTF-16 appended by PowerShell": File(
        ONE.encode() + b"\r\n" + f"\ufeff{TWO}\r\n{THREE}\r\n".encode("utf-16-le"),
        ["2: UTF-16 text, expected UTF-8 text"],
        mends.NULS,
    ),
    "JSON in strings": File("\n".join(map(json.dumps, (ONE, TWO, THREE))), ["1: JSON inside a string"], mends.TEXTS),
    "JSON in cells of CSV": File(
        "\n".join('"{}"'.format(each.replace('"', '""')) for each in (ONE, TWO, THREE)),
        ["1: JSON in a cell of CSV"],
        mends.CSV_CELLS,
    ),
    "an envelope": File(
        "\n".join(json.dumps({"id": 1, "data": json.loads(each)}) for each in (ONE, TWO, THREE)),
        ["1: an event inside .data"],
        "jq -c '.data' FILE",
    ),
    "SNS": File(
        "\n".join(json.dumps({"Type": "Notification", "Message": each}) for each in (ONE, TWO, THREE)),
        ["1: an event inside .Message"],
        "jq -r '.Message' FILE",
    ),
    "SNS in SQS": File(
        json.dumps({"Records": [{"body": json.dumps({"Message": each})} for each in (ONE, TWO, THREE)]}),
        ["1: an event inside .Records[].body"],
        "jq -r '.Records[].body | fromjson.Message' FILE",
    ),
    "an envelope with an id of its own": File(
        json.dumps({"event_id": "x", "type": "capture", "payload": json.loads(ONE)}),
        ["1: an event inside .payload"],
        "jq -c '.payload' FILE",
        ["e1"],
    ),
    "a map of events by their ids": File(
        json.dumps({each: json.loads(text) for each, text in zip(ALL, (ONE, TWO, THREE), strict=True)}),
        ["1: an event inside .[]"],
        "jq -c '.[]' FILE",
    ),
    "EventBridge": File(
        json.dumps({"detail-type": "x", "my-detail": json.loads(ONE)}),
        ['1: an event inside ."my-detail"'],
        """jq -c '."my-detail"' FILE""",
        ["e1"],
    ),
    "number ids": File(
        "\n".join(map(line, LONG)),
        [f"1: event_id: the number {LONG[0]}, which jq before 1.7 rounds, expected a string of 1 to 255 characters"],
        mends.QUOTE,
        [*map(str, LONG)],
    ),
    "number ids in an array": File(
        json.dumps([json.loads(line(each)) for each in LONG]),
        ["1: an array"],
        f"{mends.QUOTE} | jq -c '.[]'",
        [*map(str, LONG)],
    ),
    "number ids, pretty-printed": File(
        "\n".join(json.dumps(json.loads(line(each)), indent=2) for each in LONG),
        ["1: JSON that goes over several lines (10 malformed lines)"],
        f"{mends.QUOTE} | jq -c .",
        [*map(str, LONG)],
    ),
    "number ids in an array, an object a line": File(
        f"[{line(LONG[0])},\n{line(LONG[1])}]",
        ["1: JSON that goes over several lines (2 malformed lines)"],
        f"{mends.QUOTE} | jq -c '.[]'",
        [*map(str, LONG)],
    ),
    "number ids in two objects on a line": File(
        line(LONG[0]) + line(LONG[1]),
        ["1: several JSON values on a line"],
        f"{mends.QUOTE} | jq -c .",
        [*map(str, LONG)],
    ),
    "number ids in an envelope": File(
        json.dumps({"data": json.loads(line(LONG[0]))}),
        ["1: an event inside .data"],
        f"{mends.QUOTE} | jq -c '.data'",
        [str(LONG[0])],
    ),
    "number ids and commas": File(
        f"{line(LONG[0])},\n{line(LONG[1])},",
        ["1: a comma ends the line"],
        f"{mends.QUOTE} | {mends.COMMAS.replace(' FILE', '')}",
        [*map(str, LONG)],
    ),
} | {
    f"CSV with {name}": File(
        "".join(
            f"{delimiter.join(row)}\n"
            for row in (["event_id", "payment_id", "type"], *([each, "p", "fail"] for each in ALL))
        ),
        ["1: the header of CSV"],
        mends.CSV.replace("{}", shown),
    )
    for name, delimiter, shown in (
        ("commas", ",", ","),
        ("commas and blanks", ", ", ","),
        ("semicolons", ";", ";"),
        ("tabs", "\t", r"\t"),
        ("pipes", "|", "|"),
    )
}


def tell(content: str | bytes, source: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the messages of `payproc ingest` on a file with this content."""
    content = content.encode() if isinstance(content, str) else content
    problems = LineProblems("payproc ingest -")
    lines = [each.removesuffix(b"\r") for each in content.removeprefix(BOM).split(b"\n")]
    parsed = parse_lines(lines)
    for number, (raw, result) in enumerate(zip(lines, parsed, strict=True), 1):
        if raw.strip() and isinstance(result, Malformed):
            problems.add_line(source, number, result)
    problems.close("malformed line")
    return capsys.readouterr().err.splitlines()


def find_ids(content: bytes) -> list[str]:
    """Return the ids of the events in lines."""
    parsed = parse_lines([each.removesuffix(b"\r") for each in content.split(b"\n")])
    return [each[0].event_id for each in parsed if not isinstance(each, Malformed)]


@needs_jq
@pytest.mark.parametrize("locale", ["C.UTF-8", pytest.param("C", marks=pytest.mark.slow)])
@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_command_of_a_message_mends_the_file(
    file: File, locale: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a day's.json"
    content = file.content.encode() if isinstance(file.content, str) else file.content
    (tmp_path / name).write_bytes(content)
    first, *_ = tell(content, name, capsys)
    found, _, use = first.removeprefix(f"{name}:").partition("; use: ")
    command, _, reader = use.rpartition(" | ")
    assert found.removesuffix(f", {AN_OBJECT}") == file.messages[0]
    assert reader == "payproc ingest -"
    assert command == file.mend.replace("FILE", "'a day'\"'\"'s.json'")
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LC_ALL": locale}
    run = ["bash", "-o", "pipefail", "-c", command]
    mended = subprocess.run(run, cwd=tmp_path, capture_output=True, env=environment, check=False)
    assert (mended.returncode, mended.stderr) == (0, b"")
    assert find_ids(mended.stdout) == file.ids


@needs_jq
@pytest.mark.parametrize(
    ("recipe", "raw", "kind"),
    [
        (
            mends.STRIPE,
            {
                "id": "evt_1",
                "object": "event",
                "type": "payment_intent.succeeded",
                "livemode": True,
                "data": {"object": {"id": "pi_1", "object": "payment_intent", "capture_method": "automatic"}},
            },
            "a raw Stripe event",
        ),
        (
            mends.ADYEN,
            {
                "live": "true",
                "notificationItems": [
                    {"NotificationRequestItem": {"eventCode": "AUTHORISATION", "success": "true", "pspReference": "A"}}
                ],
            },
            "a raw Adyen webhook",
        ),
    ],
)
def test_raw_events_lead_to_their_filter(
    recipe: str, raw: dict[str, object], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "raw.json"
    command = recipe.replace("FILE", str(path))
    use = f"use: {command} | payproc ingest -"
    over_lines = f"JSON that goes over several lines ({json.dumps(raw, indent=1).count(chr(10)) + 1} malformed lines)"
    for content, found in (
        (json.dumps(raw), f"{kind}, {RAW}"),
        (json.dumps([raw]), f"{kind}, {RAW}"),
        (json.dumps(raw, indent=1), f"{over_lines}, {AN_OBJECT}"),
    ):
        path.write_text(content)
        assert tell(content, str(path), capsys) == [f"{path}:1: {found}; {use}"]
        if not (ROOT / command.split()[2]).exists():
            pytest.skip("the filter is not there")
        run = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, check=True)
        assert find_ids(run.stdout)


@pytest.mark.parametrize(
    ("name", "argument"), [("-day.json", "./-day.json"), ("/dev/fd/63", "FILE"), ("<stdin>", "FILE"), ("a;b", "'a;b'")]
)
def test_name_is_an_argument(name: str, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    (message,) = tell(f"[{ONE}]", name, capsys)
    assert message == f"{name}:1: an array, {AN_OBJECT}; use: jq -c '.[]' {argument} | payproc ingest -"


def test_first_line_of_excel_is_no_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "sep=;\nevent_id;payment_id;type\ne1;p;fail\n"
    first, second, _ = tell(text, "f", capsys)
    assert first == f"f:1: Excel's first line of CSV, {AN_OBJECT}"
    (tmp_path / "f").write_text(text)
    command = second.partition("; use: ")[2].rpartition(" | ")[0]
    assert find_ids(subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True).stdout) == ["e1"]


def test_events_in_several_places_get_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A path to one of them would lose the other."""
    (message,) = tell(json.dumps({"old": json.loads(ONE), "id": 1, "new": json.loads(TWO)}), "f", capsys)
    assert message == f"f:1: events in several places, {AN_OBJECT}"


def test_thin_stripe_event_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    thin = {"id": "evt_1", "object": "v2.core.event", "type": "v1.charge.refunded"}
    (message,) = tell(json.dumps(thin), "f", capsys)
    assert message == f"f:1: a thin Stripe event, which names no state, {RAW}; subscribe to snapshot events"


@pytest.mark.parametrize("indent", [None, 2])
def test_rounded_ids_get_no_command(indent: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    """jq 1.6 makes both of these of ids that differ; in quotes they would be one event."""
    for rounded in (389404469112233500, 1760000000000000000):
        (message,) = tell(
            json.dumps({"event_id": rounded, "payment_id": "p", "type": "fail"}, indent=indent), "f", capsys
        )
        assert "use:" not in message
        assert (", probably rounded, " in message) == (indent is None)


def test_utf_16_beyond_ascii_gets_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Without its NULs, this name would be the two letters "-N"."""
    (message,) = tell(ONE.replace("e1", "\u4e2d").encode("utf-16-le"), "f", capsys)
    assert message == "f:1: UTF-16 text, expected UTF-8 text"


def test_broken_lines_apart_are_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line that was cut off has a message of its own, in the order of the lines."""
    lines = [ONE[:-1], TWO, "oops", TWO, ONE[:-1], TWO, TWO, ONE[:18], TWO]
    assert tell("\n".join(lines), "f", capsys) == [
        f"f:1: the line ends before its JSON does, {AN_OBJECT}",
        f'f:3: not JSON: "oops", {AN_OBJECT}',
        f"f:5: the line ends before its JSON does, {AN_OBJECT}",
        f"f:8: the line ends before its JSON does, {AN_OBJECT}",
    ]


def test_command_is_shown_once_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    messages = tell(f"{ONE},\n{line(7)}\n{TWO},\n{line(8)}", "f", capsys)
    assert ["use:" in message for message in messages] == [True, True, False, False]
