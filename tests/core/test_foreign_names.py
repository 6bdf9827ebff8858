"""Whom a certificate of another authority names: a machine, and what it is reached as."""

from __future__ import annotations

import re

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import foreign
from handfast.core.names import Names
from handfast.errors import EvidenceRejected
from tests.introducers.x5c_material import p256, san, site, usage

THEIRS = site()
KEY = p256("a leaf")


@pytest.mark.parametrize(
    ("names", "machine", "all_of_them"),
    [
        (("web1.lan",), "web1.lan", ("web1.lan",)),
        (("WEB1.Lan", "a.lan", "10.0.0.7", "fd00::7"), "web1.lan", ("a.lan", "web1.lan", "10.0.0.7", "fd00::7")),
        (("10.0.0.7", "b.lan", "a.lan"), "b.lan", ("a.lan", "b.lan", "10.0.0.7")),
        (("*.lan", "web1.lan"), "web1.lan", ("web1.lan",)),
        (("xn--bcher-kva.lan",), "xn--bcher-kva.lan", ("xn--bcher-kva.lan",)),
        (("web1.lan", "WEB1.lan"), "web1.lan", ("web1.lan",)),
    ],
)
def test_who_it_names(names: tuple[str, ...], machine: str, all_of_them: tuple[str, ...]) -> None:
    """The first DNS name is the machine's; a wildcard is no name; names in A-labels stay what they are."""
    called, found = foreign.names_of(THEIRS.ca.leaf(KEY, *names))
    assert called == machine
    assert found == Names.parse(all_of_them)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ((), "names: "),
        (("10.0.0.7",), "no DNS name that is one machine's"),
        (("*.lan",), "no DNS name that is one machine's"),
        (("*",), "not a DNS name"),
        (("w*.lan",), "not a DNS name"),
        (("a.*.lan",), "not a DNS name"),
        (("under_score.lan",), "not a DNS name"),
        (("web1.lan\x00.example",), "not a DNS name"),
        ((".lan",), "not a DNS name"),
        (("web1.lan", "1.2.3.256"), "ends in a number"),
        (tuple(f"n{number}.lan" for number in range(65)), "65 names, at most 64"),
    ],
)
def test_names_that_are_none(names: tuple[str, ...], why: str) -> None:
    """A certificate with a name that we cannot write down introduces nobody: what it says is not guessed."""
    with pytest.raises(EvidenceRejected, match=re.escape(why)):
        foreign.names_of(THEIRS.ca.leaf(KEY, *names))


def test_an_address_written_as_a_name_is_no_address() -> None:
    """A CA that checks DNS names has checked no address."""
    leaf = THEIRS.ca.leaf(KEY, extra=[(pyca.SubjectAlternativeName([pyca.DNSName("10.0.0.7")]), False)])
    with pytest.raises(EvidenceRejected, match="ends in a number"):
        foreign.names_of(leaf)


def test_a_name_outside_of_ASCII_is_refused() -> None:
    """An IDN is one in its A-label form; the bytes of another form are not read as anything."""
    der = bytearray(THEIRS.ca.leaf(KEY, "bxcher.lan").public_bytes(Encoding.DER))
    at = der.rindex(b"bxcher.lan") + 1
    der[at : at + 1] = b"\xfc"
    with pytest.raises(EvidenceRejected, match="introduces nobody"):
        foreign.names_of(pyca.load_der_x509_certificate(bytes(der)))


def test_only_DNS_names_and_addresses_are_names() -> None:
    """A mail address and a URI are another's business; a common name is nobody's word."""
    both: list[pyca.GeneralName] = [
        pyca.RFC822Name("root@db1.lan"),
        pyca.UniformResourceIdentifier("https://db2.lan"),
        pyca.DNSName("web1.lan"),
    ]
    leaf = THEIRS.ca.issue(KEY, "db3.lan", (pyca.SubjectAlternativeName(both), False))
    assert foreign.names_of(leaf) == ("web1.lan", Names.parse(["web1.lan"]))


def test_a_subject_is_shown_within_bounds() -> None:
    """For people, and never empty."""
    assert (foreign.subject_of(THEIRS.leaf), foreign.issuer_of(THEIRS.leaf)) == ("CN=web1.lan", "CN=their CA")
    assert len(foreign.subject_of(THEIRS.ca.issue(KEY, "x" * 64, (usage(), True)))) < 200
    assert foreign.subject_of(THEIRS.ca.issue(KEY, "", (san("web1.lan"), True))) == "web1.lan"
    assert foreign.subject_of(THEIRS.ca.issue(KEY, "", (usage(), True))) == "nobody"
