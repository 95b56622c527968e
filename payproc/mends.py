"""Commands that mend a file of malformed lines. Each prints the mended FILE.

Belongs here: shell commands made of sed, jq, tr, grep and python3. GNU sed and jq 1.6 run them all.

No command sends a number through jq that is an id. jq before 1.7 rounds long numbers, so two
payments would become one.
"""

import re
from decimal import Decimal

MAX_EXACT_DIGITS = 15
"""Digits of a number that every program keeps."""

_MIN_ROUNDED_DIGITS = 18
"""Digits from which on few numbers are equal to their rounded form."""

_NUMBER_ID = re.compile(rb'"(?:event|payment)_id"\s*:\s*(-?\d+)')

JOIN = "jq -c . FILE"
ARRAY = "jq -c '.[]' FILE"
LIST = "sed 's/^},/}/' FILE | jq -c ."
"""For objects over several lines with commas between them, and no brackets around them."""

LIST_ON_A_LINE = r"sed 's/^\xef\xbb\xbf//; s/,[[:space:]]*$//; s/.*/[&]/' FILE | jq -c '.[]'"
COMMAS = "sed 's/^[[:space:]]*,//; s/,[[:space:]]*$//' FILE"
AROUND = r"sed 's/^[^{]*\({.*}\)[^}]*$/\1/' FILE"
COMMENTS = "grep -vE '^ *(#|//)' FILE"
QUOTE_IDS = r"""sed -E 's/("(event|payment)_id" *: *)(-?[0-9]+)/\1"\3"/g'"""
QUOTE = f"{QUOTE_IDS} FILE"
KEYS = r"""sed -E 's/([{,] *)([A-Za-z_]+) *:/\1"\2":/g' FILE"""
LAST_COMMAS = r"sed -E 's/,[[:space:]]*([]}])/\1/g' FILE"
NULLS = r"sed -E -e :a -e 's/([:,[] *)-?(NaN|nan|Infinity|None|undefined)( *[],}])/\1null\3/' -e ta FILE"
STRAIGHT_QUOTES = r"""sed -e 's/\xe2\x80\x9c/"/g' -e 's/\xe2\x80\x9d/"/g' FILE"""
BOMS = r"sed 's/\xef\xbb\xbf/\n/g' FILE"
SEPARATORS = r"tr '\036' '\n' < FILE"
NULS = r"tr -d '\000\376\377' < FILE"
TEXTS = "jq -r . FILE"
_READ = 'sys.stdin.reconfigure(encoding="utf-8-sig")'
PYTHON = (
    f"python3 -c 'import ast, json, sys; {_READ}; "
    r'[print(json.dumps(ast.literal_eval(line)) if line[:2] == "{\x27" else line) for line in sys.stdin]'
    "' < FILE"
)
CSV_CELLS = f"python3 -c 'import csv, sys; {_READ}; [print(row[0]) for row in csv.reader(sys.stdin) if row]' < FILE"
CSV = (
    f"python3 -c 'import csv, json, sys; {_READ}; "
    'lines = (line for line in sys.stdin if line[:4] != "sep="); '
    '[print(json.dumps(row)) for row in csv.DictReader(lines, delimiter="{}", skipinitialspace=True)]\' < FILE'
)
STRIPE = "jq -cf sample_events/psp/stripe.jq FILE"
ADYEN = "jq -cf sample_events/psp/adyen.jq FILE"


def choose_mend(first: str, others: set[str]) -> str:
    """Return the mend of a value over several lines, by those of its first line and of all."""
    for recipe in (STRIPE, ADYEN):
        if recipe in others:
            return recipe
    if "" in others:
        return ""  # there is none for rounded ids
    mend = ARRAY if is_array(first) else LIST if LIST in others else JOIN
    return _quote_ids_first(mend) if any(other.startswith(QUOTE_IDS) for other in others) else mend


def is_array(mend: str) -> bool:
    """Return whether a command takes an array apart."""
    return mend in (ARRAY, _quote_ids_first(ARRAY))


def keep_ids(mend: str, line: bytes) -> str:
    """Return a command of jq, after one that quotes ids if the line has numbers for ids.

    There is none for rounded ids, because two payments may have become one.
    """
    if any(is_rounded(number.decode()) for number in _NUMBER_ID.findall(line)):
        return ""
    return _quote_ids_first(mend) if has_number_id(line) else mend


def has_number_id(line: bytes) -> bool:
    """Return whether an id is a number, at any depth."""
    return _NUMBER_ID.search(line) is not None


def is_rounded(number: str) -> bool:
    """Return whether a number looks as jq or JavaScript writes it.

    One long id in forty does so by chance. Of shorter ones, too many do.
    """
    if len(number) < _MIN_ROUNDED_DIGITS or number[_MIN_ROUNDED_DIGITS - 1 :].strip("0"):
        return False  # a rounded number has 17 digits and zeros
    written = Decimal(number)
    return written in (Decimal(repr(float(number))), Decimal(f"{float(number):.17g}"))


def _quote_ids_first(mend: str) -> str:
    """Return a command after the one that quotes ids."""
    return f"{QUOTE_IDS} FILE | {mend.replace(' FILE', '', 1)}"
