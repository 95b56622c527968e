"""Location: the database that a command works on.

Belongs here: the places where a database can be named, their order, and the parsing of its
URL.
"""

import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.errors import CannotFinish, WrongUsage

if TYPE_CHECKING:
    from payproc.notes import Note

URL_VARIABLE = "DATABASE_URL"
"""Environment variable, or entry of .env, that names the database."""

EMBEDDED_VARIABLE = "PAYPROC_EMBEDDED"
"""Environment variable that can forbid the embedded database."""

MAX_PORT = 65535


@contextmanager
def open_database(option: str | None, note: "Note", *, interruptible: bool = True) -> Iterator[Database]:
    """Yield the database of --database-url, DATABASE_URL, `.env`, or else the embedded one.

    `note` gets one line that names it, and progress while a person waits for the embedded server.
    """
    found = _choose_url(option)
    if found is not None:
        parameters, origin = found
        yield Database(parameters, interruptible=interruptible, note=lambda where: note(f"database {where} ({origin})"))
        return
    _check_embedded_is_allowed()
    if sys.platform == "win32":
        raise CannotFinish("the embedded database needs Linux or macOS; name a PostgreSQL server with --database-url")
    from payproc.embedded.home import choose_home  # with the server 23 ms, which other databases save
    from payproc.embedded.server import run_server

    home = choose_home()
    with run_server(home, note=note) as server:
        note(f"database: the embedded PostgreSQL {server.version} in {home}")
        # libpq completes the parameters from the environment. PGHOSTADDR would even take precedence
        # over the host. Nothing else in this process uses libpq.
        for variable in [each for each in os.environ if each.startswith("PG")]:
            del os.environ[variable]
        # Without this libpq would look for ~/.pgpass, and may complain about its permissions.
        parameters = {**server.connect_args, "passfile": str(server.socket_folder / "no-passwords")}
        where = os.fsencode(home).decode(errors="backslashreplace")  # a path may hold bytes that no text can
        yield Database(parameters, where, interruptible=interruptible, is_embedded=True, explain_end=server.explain_end)


def parse_url(given: str, origin: str) -> dict[str, str]:
    """Return the libpq parameters of a URL.

    `postgresql+driver://`, as SQLAlchemy writes it, is accepted.

    Raises WrongUsage, which names `origin` and never quotes the URL, because it may hold a
    password.
    """
    expected = f"{origin}: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    rest = _strip_scheme(given, expected)
    try:
        parameters: dict[str, str] = psycopg2.extensions.parse_dsn(f"postgresql://{rest}")
    except (psycopg2.Error, ValueError) as error:  # ValueError: not UTF-8, or a NUL
        found = "a URL"
        unknown = re.search(r'invalid URI query parameter: "(\w+)"', str(error))
        if unknown and "@" not in rest.partition("?")[2]:  # after an @ it would be part of a password with a ? in it
            found = f'the parameter "{unknown[1]}"'
        raise WrongUsage(f"{expected}, found {found} that PostgreSQL's client library does not accept") from error
    ports = parameters.get("port", "").split(",")  # each may be empty
    has_ports = all(re.fullmatch("[0-9]{0,5}", port) and 0 < int(port or 1) <= MAX_PORT for port in ports)
    if not has_ports or _shows_password(rest, parameters):
        found = "" if has_ports else f", found a port that is not a number from 1 to {MAX_PORT}"
        raise WrongUsage(f"{expected}{found}; in a user or password write @ : / ? # as %40 %3A %2F %3F %23")
    return parameters


def _check_embedded_is_allowed() -> None:
    """Raise WrongUsage if PAYPROC_EMBEDDED forbids the embedded database."""
    setting = os.environ.get(EMBEDDED_VARIABLE, "")
    if setting == "never":
        raise WrongUsage(
            f"no database is named, and {EMBEDDED_VARIABLE}=never forbids the embedded one; name one with "
            f"--database-url, {URL_VARIABLE}, or {URL_VARIABLE} in .env"
        )
    if setting:
        raise WrongUsage(f'{EMBEDDED_VARIABLE}: unknown "{setting}", expected never or nothing')


def _choose_url(option: str | None) -> tuple[dict[str, str], str] | None:
    """Return the parameters of the first given URL, and its origin; None without a URL."""
    if option is not None:
        return parse_url(option, "--database-url"), "from --database-url"
    if variable := os.environ.get(URL_VARIABLE):
        return parse_url(variable, URL_VARIABLE), f"from {URL_VARIABLE}"
    if entry := _read_dotenv(Path(".env")):
        return parse_url(entry, f"{URL_VARIABLE} in .env"), "from .env"
    return None


def _read_dotenv(path: Path) -> str | None:
    """Return the URL in a .env file, or None.

    Raises WrongUsage if the file or the entry cannot be read, because the command would work on
    another database than the user wrote down.
    """
    advice = "fix it, or name the database with --database-url"
    try:
        text = path.read_text("utf-8")  # also from a pipe, as password managers provide it
    except IsADirectoryError:  # a virtual environment
        return None
    except UnicodeDecodeError as error:
        raise WrongUsage(f".env: is not UTF-8, expected UTF-8 text; {advice}") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            return None
        raise WrongUsage(f".env: cannot be read: {error.strerror}; {advice}") from error
    import logging

    from dotenv import dotenv_values  # with logging 12 ms, which commands without a .env save

    logging.getLogger("dotenv").setLevel(logging.ERROR)  # it warns of every line that it cannot parse
    url = dotenv_values(stream=io.StringIO(text), interpolate=False).get(URL_VARIABLE)
    if url is None and (entry := re.search(rf"^[ \t]*(export[ \t]+)?{URL_VARIABLE}\b", text, re.MULTILINE)):
        number = text.count("\n", 0, entry.start()) + 1
        raise WrongUsage(f".env:{number}: cannot be parsed, expected {URL_VARIABLE}=URL; {advice}")
    return url


def _strip_scheme(given: str, expected: str) -> str:
    """Return the part of a URL after its scheme.

    Raises WrongUsage if the scheme is not PostgreSQL's.
    """
    scheme, is_url, rest = given.strip().partition("://")
    if not given.strip():
        raise WrongUsage(f"{expected}, found nothing")
    if not is_url:
        raise WrongUsage(f"{expected}, found no postgresql:// at its start")
    if scheme[:1] in ("'", '"'):
        raise WrongUsage(f"{expected}, found quotation marks around it")
    if not re.fullmatch(r"postgres(ql)?(\+\w+)?", scheme):
        kind = scheme if re.fullmatch(r"[\w+.-]+", scheme) else "another kind"
        raise WrongUsage(f"{expected}, found a URL of {kind}")
    return rest


def _shows_password(rest: str, parameters: Mapping[str, str]) -> bool:
    """Return whether a name that messages show may hold a part of the password.

    An unescaped character in a password, or an escaped one beside it, moves it there.
    """
    authority, _, path = rest.partition("?")[0].partition("/")
    return bool(
        authority.count("@") > 1
        or "@" in path
        or re.search("[:/@]", parameters.get("user", ""))
        or re.search(r"[^,]@|[=\s]", parameters.get("hostaddr", "") + _list_hosts(parameters))
        or re.search(r":.*@|://|(password|passwd|pwd)\s*=", parameters.get("dbname", ""), re.IGNORECASE)
    )


def _list_hosts(parameters: Mapping[str, str]) -> str:
    """Return the hosts, without the folders of sockets, whose names may hold any character."""
    return ",".join(host for host in parameters.get("host", "").split(",") if not host.startswith("/"))
