"""Random stories for payproc and the model: runs over odd lines, and decisions between them."""

import json
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.support.model import Fact, Line

Row = dict[str, Any]


class Run(NamedTuple):
    """One ingest: its files, its workers, and its lines a round."""

    files: list[list[Line]]
    workers: int
    round_lines: int


class PersonDecides(NamedTuple):
    """A resolution of one pending event, picked by number."""

    number: int
    resolution: str
    note: str
    by: str


class PersonCorrects(NamedTuple):
    """A correction of one payment, picked by number."""

    number: int
    state: str
    note: str
    by: str


class PersonDecidesAll(NamedTuple):
    """A resolution of all pending events, or of those that are legal at their turn."""

    resolution: str
    legal_now: bool
    note: str
    by: str


Story = list[Run | PersonDecides | PersonDecidesAll | PersonCorrects]


# ---- Stories -------------------------------------------------------------------------------------

_ODD_IDS = (
    "e",
    "E",
    "e1",
    "'; DROP TABLE payproc.events; --",
    "{}",
    "{a,b}",
    '"',
    "\\",
    "\\x1f",
    "$1",
    "%s",
    "%(x)s",
    "NULL",
    "[red]x[/]",
    "á",
    "a\u0301",
    "\u202eabc",
    "p\u2028q",
    "\u200b",
    "\ufeff",
    "𝒳" * 255,
    "a b",
    "-q",
    "--yes",
)
_ids = st.sampled_from(_ODD_IDS) | st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=255
).filter(lambda text: text == text.strip())

_NOT_EVENTS = (
    b"",
    b" \t",
    b"not json",
    b"[]",
    b"{}",
    b"null",
    b'{"event_id":"e","payment_id":"p","type":"void"}',
    b"\xff\xfe",
    b'{"event_id":"e","payment_id":"p"}',
    b'{"event_id":"e","payment_id":"p","type":"fail","x":"\\u0000"}',
    b'{"event_id":"e","payment_id":"p","type":"fail"',
    b'{"type":"fail","event_id":"e","payment_id":"p","type":"fail"}',
    b'{"event_id":" e","payment_id":"p","type":"fail"}',
    b'{"event_id":"","payment_id":"p","type":"fail"}',
    b'{"event_id":"e","payment_id":1,"type":"fail"}',
    b'{"event_id":"e","payment_id":"p","type":"fail","x":NaN}',
)
_STATES = ("created", "authorized", "captured", "refunded", "failed")
_MORE: tuple[Row, ...] = (
    {},
    {"attempt": 2},
    {"note": "naïve \u202e 💶 \\ ' \" {}"},
    {"nested": {"event_id": "x", "type": [None, 1.5]}},
)


@st.composite
def _good_lines(draw: st.DrawFn, event_ids: list[str], payment_ids: list[str]) -> Line:
    fact = Fact(
        draw(st.sampled_from(event_ids)),
        draw(st.sampled_from(payment_ids)),
        draw(st.sampled_from(("authorize", "capture", "refund", "fail", "flag"))),
    )
    content = list({**fact._asdict(), **draw(st.sampled_from(_MORE))}.items())
    if draw(st.booleans()):
        content.reverse()
    raw = json.dumps(dict(content), ensure_ascii=draw(st.booleans())).encode()
    return Line(raw + draw(st.sampled_from((b"", b"", b"\r", b" \r\r"))), fact)


@st.composite
def draw_stories(draw: st.DrawFn) -> Story:
    """Draw colliding runs over few events of few payments, with decisions of people in between."""
    event_ids = draw(st.lists(_ids, min_size=5, max_size=30, unique=True))
    payment_ids = draw(st.lists(_ids, min_size=1, max_size=4, unique=True))
    malformed = st.sampled_from(_NOT_EVENTS).map(lambda raw: Line(raw, None))
    line = st.one_of(*[_good_lines(event_ids, payment_ids)] * 5, malformed)
    run = st.builds(
        Run,
        st.lists(st.lists(line, min_size=10, max_size=40) | st.lists(line, max_size=3), min_size=1, max_size=3),
        st.sampled_from((1, 2, 3, 8)),
        st.sampled_from((1, 2, 3, 7, 4000)),
    )
    text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
    person = st.builds(PersonDecides, st.integers(0, 50), st.sampled_from(("apply", "dismiss")), text, text)
    correction = st.builds(PersonCorrects, st.integers(0, 50), st.sampled_from(_STATES), text, text)
    everything = st.builds(PersonDecidesAll, st.sampled_from(("apply", "dismiss")), st.booleans(), text, text)
    people = person | person | everything | correction
    # Hypothesis drops a repeated strategy, so each of these is made anew.
    runs = [run.map(lambda each: each) for _ in range(4)]
    return draw(st.lists(st.one_of(*runs, people), min_size=3, max_size=9))
