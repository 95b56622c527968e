"""Ages and times as people type them."""

from datetime import datetime, timedelta, timezone

import pytest

from payproc.moments import MAX_AGE_DAYS, parse_age, parse_moment

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("45s", timedelta(seconds=45)),
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(days=14)),
        ("0d", timedelta(0)),
        ("36500d", timedelta(MAX_AGE_DAYS)),
    ],
)
def test_age_is_a_number_and_a_unit(text: str, age: timedelta) -> None:
    assert parse_age(text) == age
    assert parse_moment(text, NOW) == NOW - age


@pytest.mark.parametrize(
    "text", ["", "7", "d", "7 d", "-7d", "7D", "1.5h", "7d12h", "7days", "36501d", "9999999999d", "٧d"]
)
def test_age_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected an age such as 7d, 12h or 30m") as refused:
        parse_age(text)
    assert str(refused.value).startswith(f"'{text}' is not an age")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-18", "2026-11-18T00:00:00+00:00"),
        ("2026-11-18T04:47:54Z", "2026-11-18T04:47:54+00:00"),
        ("2026-11-18t04:47:54z", "2026-11-18T04:47:54+00:00"),
        ("2026-11-18 04:47:54", "2026-11-18T04:47:54+00:00"),
        ("2026-11-18T04:47", "2026-11-18T04:47:00+00:00"),
        ("2026-11-18T04:47:54.25Z", "2026-11-18T04:47:54.250000+00:00"),
        ("2026-11-18T04:47:54.123456789Z", "2026-11-18T04:47:54.123456+00:00"),
        ("2026-11-18T01:00:00+02:00", "2026-11-17T23:00:00+00:00"),
    ],
)
def test_time_is_in_utc(text: str, moment: str) -> None:
    assert parse_moment(text, NOW).isoformat() == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "18.11.2026",
        "2026-11",
        "2026-02-30",
        "2026-11-18T25:00:00Z",
        "2026-11-18T",
        "0001-01-01T00:00+02:00",
    ],
)
def test_time_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a time such as 2026-11-18T04:47:54Z, or an age such as 7d") as refused:
        parse_moment(text, NOW)
    assert str(refused.value).startswith(f"'{text}' is not a time")
