"""Claims: what is tested, and by whom."""

from __future__ import annotations

import pytest

from nat.errors import ConfigError
from nat.scoring.claims import Claim, Finding, describe_claims, examine, parse_claim

REFERENCES = [f"the {i} small test sentences are here" for i in range(40)]


def test_a_clear_difference_is_significant_and_none_is_not() -> None:
    outputs = {
        "right": REFERENCES,
        "same": list(REFERENCES),
        "poor": [line.replace("small test", "big") for line in REFERENCES],
    }
    clear = examine(Claim("right", "poor"), outputs, REFERENCES)
    assert clear.holds
    assert clear.better == pytest.approx(100)
    assert clear.p_value < 0.01
    none = examine(Claim("right", "same"), outputs, REFERENCES)
    assert not none.holds
    assert none.p_value > 0.3
    assert examine(Claim("poor", "right"), outputs, REFERENCES).holds is False


@pytest.mark.parametrize("text", ["A > B", "A>B", "A >= B"])
def test_claims_are_read(text: str) -> None:
    assert parse_claim(text, ["A", "B"]) == Claim("A", "B")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A", "claims: 'A' does not compare two systems; write A > B"),
        ("A > B > A", "claims: 'A > B > A' does not compare two systems; write A > B"),
        ("A > A", "claims: 'A > A' does not compare two systems; write A > B"),
        ("A > C", "claims: 'A > C' names 'C', but the systems are A, B"),
    ],
)
def test_other_claims_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_claim(text, ["A", "B"])
    assert str(error.value) == message


def test_the_table_says_what_holds() -> None:
    text = describe_claims([Finding(Claim("A", "B"), 20.0, 18.5, 0.012), Finding(Claim("B", "A"), 18.5, 20.0, 0.9)])
    assert "| A > B | 20.00, 18.50 | +1.50 | 0.012 | holds |" in text
    assert "| B > A | 18.50, 20.00 | -1.50 | 0.900 | does not hold |" in text
