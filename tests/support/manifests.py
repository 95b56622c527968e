"""A parser for the part of YAML that the documents use.

That part is block mappings and lists, plain or quoted scalars, and lists in brackets.
"""

import json
import re
from typing import Any


def parse_yaml(text: str) -> Any:
    """Return the value of a document. Raises ValueError for YAML beyond the part above."""
    lines = [(len(line) - len(line.lstrip(" ")), line.strip()) for line in text.splitlines() if line.strip()]
    value = _parse_block(lines)
    if lines:
        raise ValueError(f"unexpected indentation: {lines[0][1]}")
    return value


def _parse_block(lines: list[tuple[int, str]]) -> Any:
    """Take one mapping or list from the lines: the first line and all with its indentation."""
    indent = lines[0][0]
    result: Any = [] if lines[0][1].startswith("- ") else {}
    while lines and lines[0][0] == indent:
        _, content = lines.pop(0)
        if isinstance(result, list):
            lines.insert(0, (indent + 2, content.removeprefix("- ")))
            result.append(_parse_block(lines))
            continue
        found = re.fullmatch(r"(\w+):(?: (.+))?", content)
        if found is None or found[1] in result:
            raise ValueError(f"no mapping, or a repeated key: {content}")
        if found[2] is None and not (lines and lines[0][0] > indent):
            raise ValueError(f"a key without a value: {content}")
        result[found[1]] = _parse_scalar(found[2]) if found[2] else _parse_block(lines)
    return result


def _parse_scalar(text: str) -> Any:
    """Return a scalar: JSON, or a plain string."""
    try:
        return json.loads(text)
    except ValueError:
        if not re.fullmatch(r"[\w./-]+", text):
            raise ValueError(f"a string that needs quotes: {text}") from None
        return text
