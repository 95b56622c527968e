"""URLs of databases: accepted, refused with a reason, and never quoted.

Belongs here: anything about `payproc.db.location.parse_url`.
"""

import psycopg2.extensions
import pytest

from payproc.db.connection import Database
from payproc.db.location import parse_url
from payproc.errors import PayprocError, WrongUsage
from tests.support.passwords import ENCODED, PARTLY, SECRET, assert_no_password

EXPECTED = "--database-url: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
ESCAPE = "; in a user or password write @ : / ? # as %40 %3A %2F %3F %23"
NO_PORT = ", found a port that is not a number from 1 to 65535"
NOT_ACCEPTED = "that PostgreSQL's client library does not accept"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:s3cret@h/d", {"user": "u", "password": "s3cret", "host": "h", "dbname": "d"}),
        ("postgres://u@h/d", {"user": "u", "host": "h", "dbname": "d"}),
        ("postgresql+psycopg2://h/d", {"host": "h", "dbname": "d"}),
        ("postgresql+asyncpg://h/d", {"host": "h", "dbname": "d"}),
        (" postgresql://h/d \n", {"host": "h", "dbname": "d"}),
        ("postgresql://", {}),
        ("postgresql:///d", {"dbname": "d"}),
        ("postgresql://h:5433", {"host": "h", "port": "5433"}),
        ("postgresql://[::1]:5433/d", {"host": "::1", "port": "5433", "dbname": "d"}),
        ("postgresql://a,b:1/d", {"host": "a,b", "port": ",1", "dbname": "d"}),
        ("postgresql:///d?host=a,b&port=1,2", {"host": "a,b", "port": "1,2", "dbname": "d"}),
        ("postgresql:///d?host=/a%3Db@c/d", {"host": "/a=b@c/d", "dbname": "d"}),
        ("postgresql:///d?service=s&sslmode=require", {"service": "s", "sslmode": "require", "dbname": "d"}),
        ("postgresql:///d?host=@abstract", {"host": "@abstract", "dbname": "d"}),
        (f"postgresql://u:{ENCODED}@h/d", {"user": "u", "password": SECRET, "host": "h", "dbname": "d"}),
        (f"postgresql://u:{PARTLY}@h/d", {"user": "u", "password": SECRET, "host": "h", "dbname": "d"}),
        (f"postgresql://u@h/d?password={ENCODED}", {"user": "u", "password": SECRET, "host": "h", "dbname": "d"}),
    ],
)
def test_parse_url_returns_parameters(url: str, expected: dict[str, str]) -> None:
    assert parse_url(url, "--database-url") == expected


@pytest.mark.parametrize(
    ("url", "rest"),
    [
        ("", ", found nothing"),
        (" \n", ", found nothing"),
        ("not a url s3cret", ", found no postgresql:// at its start"),
        ("postgresql:u:s3cret@h", ", found no postgresql:// at its start"),
        ("host=127.0.0.1 port=1 user=u password=s3cret", ", found no postgresql:// at its start"),
        ("u:s3cret@h/d", ", found no postgresql:// at its start"),
        ("s3cret", ", found no postgresql:// at its start"),
        ("postgresql%3A//u:s3cret@h/d", ", found no postgresql:// at its start"),
        ("'postgresql://u:s3cret@h/d'", ", found quotation marks around it"),
        ('"postgresql://u:s3cret@h/d"', ", found quotation marks around it"),
        ("mysql://u:s3cret@h/d", ", found a URL of mysql"),
        ("jdbc:postgresql://h/d?user=u&password=s3cret", ", found a URL of another kind"),
        ("postgresql://u:s3cret@h/d?no_such=1", f', found the parameter "no_such" {NOT_ACCEPTED}'),
        ("postgresql://h/d?PASSWORD=s3cret", f', found the parameter "PASSWORD" {NOT_ACCEPTED}'),
        ("postgresql://u:p/x?s3cret=1@h/d", f", found a URL {NOT_ACCEPTED}"),
        ("postgresql://u:s3cret@[::1/d", f", found a URL {NOT_ACCEPTED}"),
        ("postgresql://u:s3cret%ff@h/d", f", found a URL {NOT_ACCEPTED}"),
        ("postgresql://u:s3cret%00@h/d", f", found a URL {NOT_ACCEPTED}"),
        ("postgresql://u:s3cret\udcff@h/d", f", found a URL {NOT_ACCEPTED}"),
        ("postgresql://u:%s3cret@h/d", f", found a URL {NOT_ACCEPTED}"),
        ("postgresql://h:54x/d", NO_PORT + ESCAPE),
        ("postgresql://h:0/d", NO_PORT + ESCAPE),
        ("postgresql://h:1,h:65536/d", NO_PORT + ESCAPE),
        ("postgresql://u:12345678", NO_PORT + ESCAPE),
        ("postgresql://u@h:s3cret/d", NO_PORT + ESCAPE),
        ("postgresql://u@h/d?port=s3cret", NO_PORT + ESCAPE),
        ("postgresql://u:s3cret", NO_PORT + ESCAPE),
        ("postgresql://u:p/s3cret@h/d", NO_PORT + ESCAPE),
        ("postgresql://u:1/s3cret@h/d", ESCAPE),
        ("postgresql://u:p@s3cret@h/d", ESCAPE),
        ("postgresql://u:s3cret@u:s3cret@h/d", NO_PORT + ESCAPE),
        ("postgresql://u%3As3cret@h/d", ESCAPE),
        ("postgresql://u%3As3cret%40h/d", ESCAPE),
        ("postgresql://h/u:s3cret%40h", ESCAPE),
        ("postgresql://h/postgresql://u:s3cret@h/d", ESCAPE),
        ("postgresql://h/d?dbname=postgresql://u:s3cret@h/d", ESCAPE),
        ("postgresql://h/d?dbname=password%3Ds3cret", ESCAPE),
        ("postgresql://h/d;password=s3cret", ESCAPE),
        ("postgresql://h/d&password=s3cret", ESCAPE),
        ("postgresql://h/d%3Fpassword=s3cret", ESCAPE),
        ("postgresql://h,password=s3cret/d", ESCAPE),
        ("postgresql:///d?host=u:s3cret@h", ESCAPE),
        ("postgresql:///d?hostaddr=u:s3cret@h", ESCAPE),
        ("postgresql://host=h port=1 user=u password=s3cret", ESCAPE),
    ],
)
def test_parse_url_refuses(url: str, rest: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        parse_url(url, "--database-url")
    assert str(caught.value) == EXPECTED + rest


@pytest.mark.parametrize("origin", ["DATABASE_URL", "DATABASE_URL in .env"])
def test_parse_url_names_the_origin(origin: str) -> None:
    with pytest.raises(WrongUsage, match=f"^{origin}: expected postgresql://"):
        parse_url("mysql://h/d", origin)


ODD_CHARACTERS = [
    *(f"postgresql://u:s3c{character}ret@h/d" for character in "/?#[]@:!'\"\\ &=%;,"),
    *(f"postgresql://u:{character}s3cret@h/d" for character in "/?#[]@:%"),
]

GOOD_URLS = [
    *(f"{scheme}://u:s3cret@h/d" for scheme in ("postgres", "postgresql+psycopg2", "postgresql+asyncpg")),
    " postgresql://u:s3cret@h/d ",
    *(f"postgresql://u:{password}@h/d" for password in ("s3cret", ENCODED, PARTLY, "s3c%72et")),
    *(f"postgresql://u@h/d?password={password}" for password in ("s3cret", ENCODED, PARTLY)),
    *(f"postgresql://h/d?user=u&{key}=s3cret" for key in ("password", "%70assword", "sslpassword")),
    "postgresql://u:s3cret@h/d?password=s3cret&sslpassword=s3cret&sslmode=disable",
    "postgresql://u:s3cret@h,127.0.0.2:1/d",
    f"postgresql://u:s3cret@/d?host=127.0.0.1,127.0.0.1&port=1,1&password={ENCODED}",
    "postgresql://u:s3cret@/d?host=/no/such/folder",
    "postgresql://:s3cret@h/d",
    "postgresql://u:s3cret%40h/d",
]


@pytest.mark.parametrize("url", ODD_CHARACTERS + GOOD_URLS)
def test_no_password_in_a_message_or_a_name(url: str) -> None:
    """The URL is refused, or its database has a name; neither holds a piece of the password."""
    try:
        message = Database(parse_url(url, "--database-url")).where
    except PayprocError as error:
        message = str(error)
    assert_no_password(message, url)


def test_parsed_parameters_are_libpqs() -> None:
    """libpq accepts its own parameters again, as `connect` does."""
    parameters = parse_url(f"postgresql://u:{ENCODED}@h:1/d?sslmode=disable", "--database-url")
    assert psycopg2.extensions.parse_dsn(psycopg2.extensions.make_dsn(**parameters)) == parameters
