"""Names for the host-key challenge: what the patterns of the CA leave out is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.policy.challenge import against_names
from handfast.policy.rules import CertificateRules, Rules


def rules(*patterns: str) -> Rules:
    """Rules whose CA speaks for these."""
    default = Rules()
    return replace(default, ssh=replace(default.ssh, certificates=CertificateRules(patterns=patterns)))


@pytest.mark.parametrize(
    ("patterns", "name"),
    [
        (("*.lan",), "web1.lan"),
        (("*.lan",), "a.b.lan"),
        (("*.LAN",), "web1.lan"),
        (("web?.lan",), "web1.lan"),
        (("*.lan", "web1.org"), "web1.org"),
        (("!db.lan", "*.lan"), "web1.lan"),
        ((), "web1.lan"),
    ],
)
def test_a_name_for_which_the_ca_speaks(patterns: tuple[str, ...], name: str) -> None:
    """As ssh reads patterns; without any nothing is limited."""
    assert against_names((name,), rules(*patterns)) == ()


@pytest.mark.parametrize(
    ("patterns", "name"),
    [
        (("*.lan",), "web1.org"),
        (("*.lan",), "lan"),
        (("*.lan",), "web1.lan.evil.org"),
        (("web?.lan",), "web10.lan"),
        (("web1.lan",), "web1xlan"),
        (("!db.lan", "*.lan"), "db.lan"),
        (("!*.lan",), "web1.org"),
    ],
)
def test_a_name_for_which_it_does_not(patterns: tuple[str, ...], name: str) -> None:
    """Each such name is a reason, and the others none; a negation alone fits nothing."""
    assert against_names((name,), rules(*patterns)) == (
        f"{name!r} is not a name for which this authority speaks ([ssh.certificates] patterns)",
    )


@given(st.lists(st.text("ab.*?!", min_size=1, max_size=20), min_size=1, max_size=4), st.text("ab.", max_size=60))
def test_any_pattern_ends(patterns: list[str], name: str) -> None:
    """Whatever an operator writes, the answer is there, for this name alone."""
    assert len(against_names((name,), rules(*patterns))) <= 1
