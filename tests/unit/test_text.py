"""What text from outside looks like: nothing in it is more than seen, and what is seen says exactly what it is."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payproc.escape import printable, printable_json, unambiguous, unbroken
from tests.support.hostile import IDS, TEXTS, harmful, unescape

ALL = sorted({*IDS, *TEXTS})

ANYTHING = st.text(
    st.one_of(st.characters(), st.sampled_from("\\\x1b\x9b\u202e\u2066\u200b\u0301\u3164\ufe0f\u2423 xun0\n\r\t"))
)


@pytest.mark.parametrize("text", ["pay_1", "Zahlung für Müller", "платёж-№7", "支付 7", "ก่ำ", "नमस्ते", "שלום"])
def test_ordinary_text_of_any_script_is_shown_as_it_is(text: str) -> None:
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
def test_what_is_not_visible_or_looks_like_something_else_is_an_escape(text: str, shown: str) -> None:
    assert printable(text) == unambiguous(text) == shown


def test_a_backslash_is_told_apart_from_an_escape() -> None:
    assert unambiguous("\u202e") == "\\u202e"
    assert unambiguous("\\u202e") == "\\\\u202e"
    assert printable("\\u202e") == "\\u202e", "a message may hold escapes already"


def test_spaces_are_seen_where_lines_are_broken() -> None:
    assert unbroken("a b") == "a\u2423b"
    assert unbroken("a\u2423b") == "a\\u2423b"


@pytest.mark.parametrize("shown", [unambiguous, unbroken])
def test_no_two_texts_look_the_same(shown: "type[str]") -> None:
    assert len({shown(text) for text in ALL}) == len(ALL)


@given(ANYTHING)
@settings(derandomize=True, deadline=None, max_examples=500)
def test_what_is_shown_is_harmless_and_can_be_read_back(text: str) -> None:
    for shown in (unambiguous(text), unbroken(text)):
        assert not harmful(shown)
        assert "\n" not in shown
        assert unescape(shown) == text
        assert printable(shown) == shown
    assert printable(printable(text)) == printable(text)


@given(st.dictionaries(ANYTHING, st.lists(ANYTHING)), st.sampled_from([None, 2]))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_json_is_harmless_and_means_the_same(value: object, indent: int | None) -> None:
    shown = printable_json(json.dumps(value, ensure_ascii=False, indent=indent))
    assert not harmful(shown)
    assert ("\n" in shown) == (indent is not None and value != {})
    assert json.loads(shown) == value
    assert json.loads(printable_json('{\t"a"\r:\x20"\x7f\x9b\U000e0001"}')) == {"a": "\x7f\x9b\U000e0001"}
