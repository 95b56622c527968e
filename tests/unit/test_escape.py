"""Text from outside on the screen: harmless, readable, unambiguous, and without passwords."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payproc.escape import cell_text, printable, printable_json, redact, unambiguous
from tests.support.hostile import IDS, TEXTS, harmful, unescape

ALL = sorted({*IDS, *TEXTS})

ANYTHING = st.text(
    st.one_of(st.characters(), st.sampled_from("\\\x1b\x9b\u202e\u2066\u200b\u0301\u3164\ufe0f\u2423 xun0\n\r\t"))
)


@pytest.mark.parametrize("text", ["pay_1", "Zahlung für Müller", "платёж-№7", "支付 7", "ก่ำ", "नमस्ते", "שלום"])
def test_printable_keeps_ordinary_text(text: str) -> None:
    assert printable(text) == unambiguous(text) == text
    assert printable_json(json.dumps(text, ensure_ascii=False)) == json.dumps(text, ensure_ascii=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m\n\r\t\x7f\x9b", "\\x1b[31m\\n\\r\\t\\x7f\\x9b"),
        ("a\u202eb\u2066c\u200bd\u2028", "a\\u202eb\\u2066c\\u200bd\\u2028"),
        ("a\u3164b\ufe0fc\U000e0100\u2800", "a\\u3164b\\ufe0fc\\U000e0100\\u2800"),
        ("caf\u00e9", "caf\u00e9"),
        ("cafe\u0301", "cafe\\u0301"),
        ("\u0301x", "\\u0301x"),
        ("x" + "\u0302" * 5, "x\u0302\u0302\u0302\\u0302\\u0302"),
        ("\u1100\u1161 \u212b", "\u1100\\u1161 \\u212b"),
        ("\udcff", "\\udcff"),
    ],
)
def test_printable_escapes_invisible_and_look_alike(text: str, shown: str) -> None:
    assert printable(text) == unambiguous(text) == shown


def test_unambiguous_doubles_a_backslash() -> None:
    assert unambiguous("\u202e") == "\\u202e"
    assert unambiguous("\\u202e") == "\\\\u202e"
    assert printable("\\u202e") == "\\u202e", "a message may hold escapes already"


def test_cell_text_shows_spaces() -> None:
    assert cell_text("a b") == "a\u2423b"
    assert cell_text("a\u2423b") == "a\\u2423b"


@pytest.mark.parametrize("shown", [unambiguous, cell_text])
def test_different_texts_look_different(shown: Callable[[str], str]) -> None:
    assert len({shown(text) for text in ALL}) == len(ALL)


@given(ANYTHING)
@settings(max_examples=200)
def test_shown_text_is_harmless_and_reversible(text: str) -> None:
    for shown in (unambiguous(text), cell_text(text)):
        assert not harmful(shown)
        assert "\n" not in shown
        assert unescape(shown) == text
        assert printable(shown) == shown
    assert printable(printable(text)) == printable(text)


@given(st.dictionaries(ANYTHING, st.lists(ANYTHING)), st.sampled_from([None, 2]))
@settings(max_examples=60)
def test_printable_json_is_harmless_and_equal(value: object, indent: int | None) -> None:
    shown = printable_json(json.dumps(value, ensure_ascii=False, indent=indent))
    assert not harmful(shown)
    assert ("\n" in shown) == (indent is not None and value != {})
    assert json.loads(shown) == value
    assert json.loads(printable_json('{\t"a"\r:\x20"\x7f\x9b\U000e0001"}')) == {"a": "\x7f\x9b\U000e0001"}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("postgresql://u:s3cret@h/d: cannot be read", "postgresql://***: cannot be read"),
        ('"postgresql://u:s3cret@h/d": not in postgresql://u@h/d', '"postgresql://***": not in postgresql://u@h/d'),
        ("unexpected (mysql://u:s3c@ret@h)", "unexpected (mysql://***)"),
        ("postgresql://u:s3c ret@h/d: cannot be read", "postgresql://***: cannot be read"),
        ("postgresql://u:1/s3cret@h/d", "postgresql://***"),
        ("postgresql://u%3As3cret%40h/d", "postgresql://***"),
        ("postgresql://u@h:s3cret/d", "postgresql://***"),
        ("postgresql://h/postgresql://u:s3cret@h/d", "postgresql://***"),
        ("jdbc:postgresql://h/d?user=u&%70assword=s3cret", "jdbc:postgresql://***"),
        ("--x=postgresql://u:s3cret", "--x=postgresql://***"),
        ("host=h password=s3cret user=u", "host=h password=*** user=u"),
        ("PASSWORD = 's3c ret': no", "PASSWORD=***: no"),
        ("dbname=password%3Ds3cret", "dbname=password%3D***"),
    ],
)
def test_redact_masks_a_password(message: str, shown: str) -> None:
    assert redact(message) == shown


@pytest.mark.parametrize(
    "message",
    [
        "cannot reach the database postgresql://alice@db.example:5432/d: refused, ask dba@example",
        'in the database postgresql://[::1]:5432/d; it is an event_id of payment "a:b@c"',
        'cannot reach the database postgresql://a,b:1,2/d: invalid port number: "99999"',
        "in the database postgresql://payproc@/run/postgresql/d",
        "the database postgresql://?service=prod refused: a:b@c",
        "the database postgresql://local socket/: no",
        "expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE; in a user or password write @ : / as %40 %3A %2F",
        "found no postgresql:// at its start",
        'password "***" is wrong for user "u"',
        "https://example.com/day.jsonl: cannot be read",
    ],
)
def test_redact_keeps_a_message_without_a_password(message: str) -> None:
    assert redact(message) == message


@pytest.mark.parametrize("part", ["://", "a:1/", "://a:1/", "a@", "password=", "?"])
def test_redact_takes_linear_time(part: str) -> None:
    """A quadratic pattern would take minutes."""
    redact("x://" + part * 20_000)
