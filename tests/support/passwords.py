"""Passwords: correct and incorrect URLs that hold one, and a server that repeats one."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

SECRET = "s3cr:et/?#[@]! 'pä$"
"""A password of characters with a meaning in a URL, a connection string, a shell or .env."""

ENCODED = "".join(f"%{byte:02X}" for byte in SECRET.encode())
PARTLY = "s3cr%3Aet%2F%3F%23%5B%40%5D%21%20%27p%C3%A4%24"

NOWHERE = "127.0.0.1:1"

URLS = [
    # Correct.
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
    # Characters that should have been escaped, and escapes where there should be none.
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
    # No URLs of PostgreSQL.
    "host=127.0.0.1 port=1 user=u password=s3cret",
    "postgresql://host=127.0.0.1 port=1 user=u password=s3cret",
    f"mysql://u:s3cret@{NOWHERE}/d",
    f"jdbc:postgresql://{NOWHERE}/d?user=u&password=s3cret",
    f"u:s3cret@{NOWHERE}/d",
    "s3cret",
]
"""Correct and incorrect URLs, each with a password in it."""

SIGNS = ("s3c", ENCODED, PARTLY, "s%33c", SECRET, "ret@", "%72et", "cret", "pä$")
"""Pieces of these passwords, because a URL may be cut anywhere. None may be printed."""


def assert_no_password(output: str, about: object) -> None:
    assert [sign for sign in SIGNS if sign.lower() in output.lower()] == [], (about, output)


class EchoServer(NamedTuple):
    """A server that refuses every password, and repeats it in its answer."""

    port: int
    received: list[str]


@contextmanager
def echo_server() -> Iterator[EchoServer]:
    """Run a server that speaks PostgreSQL's protocol up to the password."""
    received: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    with client:
                        received.append(_refuse(client))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield EchoServer(listening.getsockname()[1], received)
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def _refuse(client: socket.socket) -> str:
    """Ask a client for its password, refuse it, and return it."""
    while struct.unpack("!I", _read(client, b"")[:4])[0] >> 16 != 3:  # a request for TLS or GSSAPI
        client.sendall(b"N")
    client.sendall(b"R" + struct.pack("!II", 8, 3))  # the request for a password
    password = _read(client, b"p")[:-1].decode()
    fields = f'SFATAL\0VFATAL\0C28P01\0Mpassword "{password}" is wrong for user "u"\0\0'.encode()
    client.sendall(b"E" + struct.pack("!I", len(fields) + 4) + fields)
    return password


def _read(client: socket.socket, kind: bytes) -> bytes:
    """Return the body of the next message, which must be of this kind."""
    assert client.recv(len(kind), socket.MSG_WAITALL) == kind
    (length,) = struct.unpack("!I", client.recv(4, socket.MSG_WAITALL))
    return client.recv(length - 4, socket.MSG_WAITALL)
