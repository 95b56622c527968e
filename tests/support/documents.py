"""The documents of the repository: names, code blocks, sessions, tables, and a shell for them."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

FRONT = "README.md"
INSIDE = "payproc/README.md"
REFERENCE = "payproc/cli/README.md"
UNATTENDED = "payproc/cli/unattended.md"
SAMPLES = "sample_events/README.md"
FILTERS = "sample_events/psp/README.md"
OTHER_PSPS = "sample_events/psp/your_own.md"
BENCHMARKS = "tests/benchmarks/README.md"
CHANGELOG = ".github/CHANGELOG.md"

DOCUMENTS = (
    FRONT,
    INSIDE,
    REFERENCE,
    UNATTENDED,
    "payproc/db/README.md",
    "payproc/db/citus.md",
    SAMPLES,
    FILTERS,
    OTHER_PSPS,
    "tests/README.md",
    BENCHMARKS,
    ".github/CONTRIBUTING.md",
    CHANGELOG,
)
"""Every document, from the root of the repository. All checks of documents go through this list."""

SCRIPTS = Path(sys.executable).parent
"""The folder of the installed command."""


class Step(NamedTuple):
    """One command of a session, with its output."""

    command: str
    output: str


def read(document: str) -> str:
    """Return the text of a document."""
    return (ROOT / document).read_text("utf-8")


def blocks(document: str, language: str) -> list[str]:
    """Return the code blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(document), re.MULTILINE | re.DOTALL)


def prose(document: str) -> str:
    """Return the text of a document without its code blocks."""
    return re.sub(r"^```.*?^```$", "", read(document), flags=re.MULTILINE | re.DOTALL)


def sessions(document: str) -> list[list[Step]]:
    """Return the sessions of a document."""
    result = []
    for block in blocks(document, "console"):
        _, *steps = re.split(r"^\$ ", block, flags=re.MULTILINE)
        result.append([Step(command, output) for command, _, output in (step.partition("\n") for step in steps)])
    return result


def section(document: str, heading: str) -> str:
    """Return the text below a heading, up to the next one of the same level."""
    return read(document).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def tables(text: str, header: str) -> list[list[str]]:
    """Return the rows, cell by cell, of all tables with this header line."""
    rows = []
    for found in text.split(f"\n{header}\n|")[1:]:
        _, *lines = found.partition("\n\n")[0].rstrip("\n").split("\n")
        rows += [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return rows


def anchors(document: str) -> set[str]:
    """Return the anchors of a document, as GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def run_script(
    script: str, folder: Path, environment: Mapping[str, str], *options: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in bash, with the installed command on its path and an empty standard input."""
    return subprocess.run(
        ["bash", *options, "-c", script],
        cwd=folder,
        env={**environment, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"},
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
