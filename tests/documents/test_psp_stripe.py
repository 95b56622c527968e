"""The recipe for Stripe maps each kind of event as its guide says."""

import re
from typing import Any

import pytest

from tests.support.psp import needs_jq, run_recipe, sample

pytestmark = needs_jq


def expected_lines(text: str) -> list[str]:
    """Return the lines of a text that omits the common part of Stripe's ids."""
    return re.sub(r"\b(evt|pi|ch)_", r"\1_3Qinvented", text).strip().splitlines()


SUMMARY = expected_lines("""
evt_Lamp2 pi_Lamp authorize transition
evt_Lamp4 pi_Lamp capture transition
evt_Lamp5 pi_Lamp refund transition
evt_Lamp4 pi_Lamp capture duplicate_event
evt_Bike3:authorize pi_Bike authorize transition
evt_Bike3:capture pi_Bike capture transition
evt_Bike4:flag pi_Bike flag flagged
evt_Bike5 pi_Bike refund transition
evt_Bike3:authorize pi_Bike authorize duplicate_event
evt_Bike3:capture pi_Bike capture duplicate_event
evt_Book2 pi_Book refund predecessor_missing
evt_Book1:authorize pi_Book authorize transition
evt_Book1:capture pi_Book capture transition
evt_Room1 pi_Room authorize transition
evt_Room2 pi_Room authorize already_in_state
evt_Room4 pi_Room fail transition
evt_Sofa2 pi_Sofa fail transition
evt_Desk2 pi_Desk fail transition
evt_Desk1 pi_Desk authorize authorize_after_failure
evt_Wine1 pi_Wine authorize transition
evt_Wine2 pi_Wine capture transition
evt_Coat1:authorize pi_Coat authorize transition
evt_Coat1:capture pi_Coat capture transition
evt_Coat3 pi_Coat refund transition
evt_Coat4:flag pi_Coat flag flagged
evt_Coat5:flag pi_Coat flag flagged
evt_Ring1:authorize pi_Ring authorize transition
evt_Ring1:capture pi_Ring capture transition
evt_Ring2:flag pi_Ring flag flagged
evt_Vase1 ch_Vase refund predecessor_missing
evt_Tent1:flag pi_Tent flag flagged
evt_Oven1:authorize pi_Oven authorize transition
evt_Oven1:capture pi_Oven capture transition
evt_Oven2 pi_Oven refund transition
evt_Oven3:flag pi_Oven flag flagged
evt_Sled4 pi_Sled capture predecessor_missing
""")
"""Decisions on the sample, in order."""


def test_sample_is_mapped() -> None:
    found = run_recipe("stripe", sample("stripe"))
    assert found.code == 0
    lines, _ = found.decide()
    assert lines == SUMMARY
