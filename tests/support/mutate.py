"""Damaged lines: events of many shapes, mutated from a seed in the ways in which lines get damaged.

This file only makes lines. The reference parser decides which of them are still events.
"""

import json
import re
from collections.abc import Iterator
from random import Random

TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[\[\]{}:,]|\s+|.', re.DOTALL)

GOOD = [
    b'{"event_id":"e1","payment_id":"p1","type":"capture"}',
    b' { "event_id" : "e2" , "payment_id" : "p1" ,\t"type" : "authorize" } ',
    b'{"type":"fail","payment_id":"p2","event_id":"e3"}\r',
    b'{"event_id":"\\u00653","payment_id":"p\\u0032","type":"re\\u0066und"}',
    b'{"event_\\u0069d":"e4","\\u0070ayment_id":"p3","\\u0074\\u0079\\u0070\\u0065":"capture"}',
    '{"event_id":"платёж-№7-支付","payment_id":"é\u0301\u200b\u202e","type":"fail"}'.encode(),
    '{"event_id":"\U0001f600","payment_id":"\\ud83d\\ude00","type":"capture","note":"\u2028\u2029\x7f\x85"}'.encode(),
    b'{"event_id":"a\\"b\\\\c\\/d","payment_id":"{1,\\\\N,NULL}","type":"refund"}',
    b'{"event_id":"\'; DROP TABLE payproc.events; --","payment_id":"$1 %s %(x)s","type":"refund"}',
    b'{"event_id":"' + b"x" * 255 + b'","payment_id":"' + "€".encode() * 255 + b'","type":"authorize"}',
    b'{"event_id":"e5","payment_id":"p4","type":"capture","amount":12.50,"tags":["a",null,true,false,-0,1E+2,[]],"o":{}}',
    b'{"event_id":"e6","payment_id":"p4","type":"fail","x":{"event_id":"e7","payment_id":3,"type":"void","type":1}}',
    b'{"event_id":"e7","payment_id":"p4","type":"fail","s":"\\"event_id\\":\\"e2\\"","event_id ":1,"Type":"void"}',
    b'{"x":"\\b\\f\\n\\r\\t\\u001f\\u001b[31m\\u0085","event_id":"e8","payment_id":"p5","type":"refund"}',
    b'{"x":"\\\\u0000 \\\\ud800 \\\\\\\\u0000","event_id":"e9","payment_id":"p5","type":"authorize"}',
    b'{"x":[[[[{"y":[{"z":{}}]}]]]],"event_id":"e10","payment_id":"p6","type":"authorize"}',
    b'{"x":' + b"[" * 99 + b"]" * 99 + b',"event_id":"e11","payment_id":"p6","type":"capture"}',
    b'{"x":"' + b"[{" * 120 + b'","event_id":"e12","payment_id":"p6","type":"capture"}',
    b'{"x":' + b"9" * 400 + b',"y":-1e99999,"event_id":"e13","payment_id":"p7","type":"capture"}',
    b'{"":"","event_id":"e14","payment_id":"p7","type":"refund","a\\u0062":1,"ab":2}',
]

PIECES: list[str | bytes] = [
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b'\\"', b"\\\\", b"'", b"/", b" ", b"\t", b"\r", b"\n"),
    *(bytes([control]) for control in (0, 1, 7, 8, 0x0B, 0x0C, 0x1B, 0x1C, 0x1F, 0x7F)),
    *(b"\\u0000", b"\\u001f", b"\\u001F", b"\\u001b", b"\\u0085", b"\\u009b", b"\\u00a0", b"\\u3000", b"\\ufeff"),
    *(b"\\u2028", b"\\u202e", b"\\ud800", b"\\uDBFF", b"\\udc00", b"\\ud83d\\ude00", b"\\ude00\\ud83d", b"\\\\u0000"),
    *(b"\\u", b"\\u00", b"\\u00g0", b"\\U00000041", b"\\x41", b"\\0", b"\\'", b"\\n", b"\\/", b"\\u0022", b"\\u005c"),
    *("\ufeff", "\u2028", "\u2029", "\u0085", "\u009b", "\u00a0", "\u200b", "\u202e", "\u2066", "\u3000", "\ufffe"),
    *(b"\xff", b"\xfe", b"\x80", b"\xc0\x80", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88"),
    *("é", "e\u0301", "€", "\U0001f600", "\U0010ffff", "\U000e0001"),
    *(b"0", b"-", b".", b"e", b"00", b"-0", b"1.", b".5", b"1e", b"1e5", b"0x1", b"9" * 400, b"9" * 5_000, b"1e999999"),
    *(b"true", b"null", b"false", b"NaN", b"-Infinity", b"nul"),
    *(b"{}", b"[]", b'""', b'"x"', b"[1,2]", b'{"a":{"b":1}}'),
    *(b"[" * 100, b"[" * 101, b'{"a":' * 101, b"[" * 50 + b"]" * 50, b"[" * 120 + b"]" * 120, b"x" * 255, b"x" * 256),
    *(b"//", b"/* */", b"#", b"<!--", b"\\N", b"\x1f\x8b", b"%00", b"$1", b"%s", b"'; --"),
]
"""Tokens with a meaning to a parser, a terminal or a database, good and bad."""

PAIRS = [
    *(b'"event_id":"e99",', b'"payment_id":"p99",', b'"type":"fail",', b'"type":"void",', b'"event_id":1,'),
    *(b'"event_\\u0069d":"e98",', b'"\\u0070ayment_id":"p98",', b'"typ\\u0065":"capture",', b'"payment_id":null,'),
    *(b'"x":{"event_id":"e97"},', b'"x":"event_id",', b'"x":1,"x":2,', b'"\\u0000":0,', b'"\\ud800":0,', b'"":"",'),
]
"""Pairs to put in front of those of an object: repeated keys, plain or escaped, and other keys."""

_PIECES: list[bytes] = [piece.encode() if isinstance(piece, str) else piece for piece in PIECES]
_GOOD_TOKENS = [TOKENS.findall(line) for line in GOOD]
_ALL_TOKENS = sorted({token for tokens in _GOOD_TOKENS for token in tokens})


def mutated(seed: int, count: int) -> Iterator[bytes]:
    """Return damaged lines, the same for the same seed.

    A few are still whole, and some hold line feeds.
    """
    chance = Random(seed)
    for _ in range(count):
        line = chance.choice(GOOD)
        for _ in range(1 if chance.random() < 0.6 else chance.randrange(2, 5)):
            line = chance.choice(_MUTATIONS)(chance, line)
        yield line


def _flip(chance: Random, line: bytes) -> bytes:
    if not line:
        return line
    place = chance.randrange(len(line))
    return line[:place] + bytes([line[place] ^ (1 << chance.randrange(8))]) + line[place + 1 :]


def _insert(chance: Random, line: bytes) -> bytes:
    place = chance.randrange(len(line) + 1)
    return line[:place] + chance.choice(_PIECES) + line[place:]


def _insert_in_string(chance: Random, line: bytes) -> bytes:
    """Insert a piece after a quote, mostly into a string, which may stay valid."""
    place = line.find(b'"', chance.randrange(len(line) + 1)) + 1
    return line[:place] + chance.choice(_PIECES) + line[place:]


def _insert_in_id(chance: Random, line: bytes) -> bytes:
    place = line.find(b'_id":"', chance.randrange(len(line) + 1)) + 6
    place += chance.choice((0, 0, 1, 2)) if place > 5 else 0
    return line[:place] + chance.choice(_PIECES) + line[place:]


def _delete(chance: Random, line: bytes) -> bytes:
    place = chance.randrange(len(line) + 1)
    return line[:place] + line[place + chance.choice((1, 1, 2, 5, 20)) :]


def _truncate(chance: Random, line: bytes) -> bytes:
    place = chance.randrange(len(line) + 1)
    return line[:place] if chance.random() < 0.7 else line[place:]


def _splice(chance: Random, line: bytes) -> bytes:
    other = chance.choice(GOOD)
    return line[: chance.randrange(len(line) + 1)] + other[chance.randrange(len(other)) :]


def _repeat(chance: Random, line: bytes) -> bytes:
    start = chance.randrange(len(line) + 1)
    end = start + chance.randrange(30)
    return line[:end] + line[start:end] * chance.choice((1, 1, 2, 8)) + line[end:]


def _swap_tokens(chance: Random, line: bytes) -> bytes:
    tokens = TOKENS.findall(line)
    if len(tokens) > 1:
        one, other = chance.randrange(len(tokens)), chance.randrange(len(tokens))
        tokens[one], tokens[other] = tokens[other], tokens[one]
    return b"".join(tokens)


def _replace_token(chance: Random, line: bytes) -> bytes:
    tokens = TOKENS.findall(line) or [b""]
    tokens[chance.randrange(len(tokens))] = chance.choice(_ALL_TOKENS)
    return b"".join(tokens)


def _add_pair(chance: Random, line: bytes) -> bytes:
    place = line.find(b"{") + 1
    return line[:place] + chance.choice(PAIRS) + line[place:]


def _replace_all(chance: Random, line: bytes) -> bytes:
    """Replace the whole line by a few pieces."""
    return b"".join(chance.choices(_PIECES, k=chance.choice((0, 1, 1, 1, 5, 25))))


def _escape_a_letter(chance: Random, line: bytes) -> bytes:
    """Escape one letter as JSON may: harmless in a string, and wrong elsewhere."""
    place = chance.randrange(len(line) + 1)
    letter = line[place : place + 1]
    return line[:place] + b"\\u%04x" % ord(letter) + line[place + 1 :] if letter.isalnum() else line


_MUTATIONS = [
    *(_flip, _insert, _insert_in_string, _insert_in_string, _insert_in_id, _delete, _truncate, _splice, _repeat),
    *(_swap_tokens, _replace_token, _replace_all, _add_pair, _escape_a_letter),
]


def good_neighbour(name: str) -> bytes:
    """Return an event of a payment of its own, in a payload that is unlike a program's output."""
    return b'{ "event_id":%s,"payment_id":%s, "type":"authorize","x":[1.50,"\\u00e9\xc3\xa9"]}' % (
        json.dumps(f"good {name}").encode(),
        json.dumps(f"paid {name}").encode(),
    )
