"""The one certificate that is root, issuer and TLS server; ours, and those of others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID

from handfast.core import dn, keys, nifi_x509
from handfast.errors import Malformed, Refused, UsageError
from tests.authority.helpers import DAY, HOUR, NOW, Pki
from tests.core.nifi_material import (
    CLIENT_AUTH,
    EC_KEY,
    NODE,
    ROOT,
    RSA_KEY,
    SERVER_AUTH,
    forged,
    general_names,
    leaf,
    node,
    oids,
    root,
    toolkit_root,
    usages,
)

# ------------------------------------------------------------------------------------------------- root


@pytest.mark.parametrize(
    "key", [RSA_KEY, EC_KEY, ec.generate_private_key(ec.SECP384R1())], ids=["RSA", "P-256", "P-384"]
)
def test_the_root_is_ca_and_server_at_once(key: keys.LeafPrivateKey) -> None:
    """It signs certificates, lists and TLS handshakes, for as many days as asked, from an hour ago on."""
    made = root(key=key)
    made.verify_directly_issued_by(made)
    assert oids(made) == [
        (ExtensionOID.BASIC_CONSTRAINTS, True),
        (ExtensionOID.KEY_USAGE, True),
        (ExtensionOID.SUBJECT_KEY_IDENTIFIER, False),
        (ExtensionOID.EXTENDED_KEY_USAGE, False),
        (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, False),
    ]
    basic = made.extensions.get_extension_for_class(pyca.BasicConstraints).value
    assert (basic.ca, basic.path_length) == (True, 0)
    usage = made.extensions.get_extension_for_class(pyca.KeyUsage).value
    assert usage.public_bytes().hex() == "03020186"  # digitalSignature, keyCertSign, cRLSign
    assert usages(made) == [CLIENT_AUTH, SERVER_AUTH]
    assert (made.not_valid_before_utc, made.not_valid_after_utc) == (NOW - HOUR, NOW + 825 * DAY)
    assert made.signature_hash_algorithm is not None
    assert made.signature_hash_algorithm.name == keys.signature_hash(key).name


def test_java_shows_the_subject_as_it_was_typed() -> None:
    """The subject is encoded as the original encodes a CA's: the unit, then the common name."""
    assert [attribute.rfc4514_string() for attribute in ROOT.subject] == ["OU=NIFI", "CN=ca.lan"]
    assert dn.written(ROOT.subject) == dn.written(ROOT.issuer) == "CN=ca.lan, OU=NIFI"


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("CN=ca.lan, OU=NIFI", "ca.lan"),
        ("CN=CA.Lan", "ca.lan"),
        ("CN=10.0.0.1, OU=NIFI", "[10.0.0.1]"),
        ("CN=fd00::1", "[fd00::1]"),
    ],
)
def test_the_root_is_called_by_its_common_name(subject: str, expected: str) -> None:
    """The common name is the one alternative name, an address as an address: that is what Java compares."""
    assert general_names(root(dn.parse(subject))) == [expected]


@pytest.mark.parametrize("name", ["nifi_ca", "The CA"])
def test_what_is_no_host_name_is_no_alternative_name(name: str) -> None:
    """Then there is none at all, and Java's clients go by the common name."""
    made = root(dn.parse(f"CN={name}, OU=NIFI"))
    assert dn.common_name(made.subject) == name
    assert ExtensionOID.SUBJECT_ALTERNATIVE_NAME not in [oid for oid, _ in oids(made)]


def test_a_root_without_a_common_name_is_refused() -> None:
    """No client would accept it: all compare the common name with the host they call."""
    with pytest.raises(Malformed, match="the CA's subject 'OU=NIFI' has no common name") as caught:
        root(dn.parse("OU=NIFI"))
    assert "CN=ca.lan" in caught.value.hint


@pytest.mark.parametrize("days", [-1, 0, 36526, 10**9])
def test_days_that_cannot_be_are_refused(days: int) -> None:
    """None at all, or more than the dates of a certificate hold."""
    with pytest.raises(UsageError, match=f"a certificate for {days} days"):
        root(days=days)


def test_a_weak_root_key_is_refused() -> None:
    """A root signs with no key that it would not certify."""
    with pytest.raises(Malformed, match="'RSA 1024' is not certified"):
        root(key=rsa.generate_private_key(65537, 1024))


# ---------------------------------------------------------------------------------------- a root of others

CA = (pyca.BasicConstraints(ca=True, path_length=None), False)


def _usage(**changes: bool) -> tuple[pyca.KeyUsage, bool]:
    bits = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    ) | {"decipher_only": False, "digital_signature": True, "key_cert_sign": True, "crl_sign": True}
    return pyca.KeyUsage(**(bits | changes)), True


def test_the_toolkits_own_root_is_accepted() -> None:
    """The certificate that the real toolkit made can be taken over, and nothing is to be said."""
    certificate, _ = toolkit_root()
    assert nifi_x509.check_root(certificate, now=certificate.not_valid_before_utc) == ()


@pytest.mark.parametrize("extensions", [(CA,), (CA, _usage()), (CA, _usage(crl_sign=False))])
def test_a_root_may_say_little_of_its_usage(extensions: Sequence[tuple[pyca.ExtensionType, bool]]) -> None:
    """A CA without key usage may be used for everything; ours needs certificates and handshakes."""
    assert nifi_x509.check_root(forged(*extensions), now=NOW) == ()


def test_a_root_that_ends_soon_is_accepted_with_a_remark() -> None:
    """In its last thirty days the operator is told when."""
    assert nifi_x509.check_root(ROOT, now=NOW + 795 * DAY) == ()
    (remark,) = nifi_x509.check_root(ROOT, now=NOW + 795 * DAY + HOUR)
    assert "'CN=ca.lan, OU=NIFI' expires at 2029-02-24 12:00 UTC" in remark


@pytest.mark.parametrize(
    ("certificate", "now", "message"),
    [
        (ROOT, NOW + 825 * DAY, "'CN=ca.lan, OU=NIFI' expired at 2029-02-24 12:00 UTC"),
        (ROOT, NOW - 2 * HOUR, "valid from 2026-11-22 11:00 UTC only"),
        (leaf(node()), NOW, "'CN=web1.home.lan, OU=NIFI' is not self-signed"),
        (Pki.make().issuing, NOW, "is not self-signed"),
        (forged(CA, issuer=NODE), NOW, "is not self-signed"),
        (forged(), NOW, "is not a CA's"),
        (forged((pyca.BasicConstraints(ca=False, path_length=None), True)), NOW, "is not a CA's"),
        (forged(CA, _usage(key_cert_sign=False)), NOW, "may not sign both certificates and TLS handshakes"),
        (forged(CA, _usage(digital_signature=False)), NOW, "may not sign both certificates and TLS handshakes"),
    ],
    ids=["expired", "early", "leaf", "issued", "renamed", "silent", "no CA", "no certificates", "no handshakes"],
)
def test_a_root_that_cannot_be_used_is_refused(certificate: pyca.Certificate, now: datetime, message: str) -> None:
    """Each reason is found before the first node is given a certificate that verifies nowhere."""
    with pytest.raises(Refused, match=message) as caught:
        nifi_x509.check_root(certificate, now=now)
    assert caught.value.hint


def test_a_root_with_a_weak_key_is_refused() -> None:
    """What is too weak for a leaf is too weak for a root."""
    with pytest.raises(Malformed, match="'RSA 1024' is not certified"):
        nifi_x509.check_root(forged(CA, key=rsa.generate_private_key(65537, 1024)), now=NOW)
