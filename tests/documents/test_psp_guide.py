"""The guide to the recipes runs as printed, and says what the recipes do."""

import re
import shutil

import pytest

from tests.support.command import Payproc
from tests.support.documents import FILTERS, ROOT, blocks, read, run_script, tables
from tests.support.postgres import Sql, contents
from tests.support.psp import RECIPES, needs_jq, run_recipe, sample


@needs_jq
def test_guide_runs_as_printed(payproc: Payproc, sql: Sql) -> None:
    """A replay of good dumps exits 0 and changes nothing.

    So does the one with the records in front.
    """
    shutil.copytree(RECIPES, payproc.folder / "sample_events" / "psp")
    samples = blocks(FILTERS, "sh")
    (daily,) = re.findall(r"^  ```sh\n(.*?)^  ```$", read(FILTERS), re.M | re.S)
    first = run_script(samples[0], payproc.folder, payproc.environment)
    assert first.returncode == 0, first.stderr
    assert "malformed" not in first.stdout
    before = contents(sql)
    decided = [run_recipe(name, sample(name)).decide()[1] for name in ("stripe", "adyen")]
    assert {payment_id: state for payment_id, state, _ in before["payments"]} == decided[0] | decided[1]
    for script in (samples[0], daily):
        again = run_script(script, payproc.folder, payproc.environment)
        assert again.returncode == 0, again.stderr
        assert contents(sql) == before


@needs_jq
def test_guide_shows_the_report() -> None:
    assert blocks(FILTERS, "text") == ["\n".join(run_recipe("adyen", sample("adyen")).report) + "\n"]


def test_guide_lists_every_recipe() -> None:
    """If this fails, add the recipe to the first table of the guide, with its sample."""
    listed = [[cell.strip("`") for cell in row[1:]] for row in tables(read(FILTERS), "| PSP | recipe | sample dump |")]
    found = sorted(path.name for path in RECIPES.glob("*.jq"))
    assert sorted(recipe for recipe, _ in listed) == found
    assert all((RECIPES / dump).is_file() and recipe == dump.removesuffix("l")[:-4] + "jq" for recipe, dump in listed)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("stripe", r"\b(?:payment_intent|charge|refund|review|radar)\.[a-z]+(?:[._][a-z]+)*"),
        ("adyen", r"\b[A-Z]{6,}(?:_[A-Z]+)*\b"),
    ],
)
def test_guide_names_tested_kinds(name: str, pattern: str) -> None:
    tested = (ROOT / "tests" / "documents" / f"test_psp_{name}.py").read_text() + sample(name)
    named = set(re.findall(pattern, read(FILTERS).replace("README", "")))
    assert named
    assert {kind for kind in named if kind not in tested} == set()
