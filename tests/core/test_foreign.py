"""Which certificates of other authorities lead to a root that somebody has named, and whom they name."""

from __future__ import annotations

import re
import subprocess
import time
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from handfast.core import foreign
from handfast.core.foreign import Usage
from handfast.errors import EvidenceRejected, Malformed
from tests.introducers.x5c_material import CLIENT, DAY, NOW, SERVER, Ca, Extension, p256, root, san, site, usage

THEIRS = site()
ROOTS = (THEIRS.root.certificate,)
SERVERS = frozenset({Usage.SERVER})
KEY = p256("a leaf")


def pem(certificate: pyca.Certificate) -> str:
    """As it stands in files."""
    return certificate.public_bytes(Encoding.PEM).decode()


def path(
    leaf: pyca.Certificate,
    *above: pyca.Certificate,
    roots: tuple[pyca.Certificate, ...] = ROOTS,
    usages: frozenset[Usage] = SERVERS,
    at: timedelta = timedelta(0),
) -> tuple[pyca.Certificate, ...]:
    """The path, as of a time from now."""
    return foreign.verified_path(leaf, above, roots=roots, usages=usages, at=NOW + at)


def refused(leaf: pyca.Certificate, *above: pyca.Certificate, why: str, **how: object) -> None:
    """It introduces nobody, for that reason."""
    with pytest.raises(EvidenceRejected, match=why) as caught:
        path(leaf, *above, **how)  # type: ignore[arg-type]
    assert caught.value.hint


def test_a_leaf_leads_to_its_root() -> None:
    """The path is the leaf's, whether or not its root comes along with it."""
    assert path(*THEIRS.chain) == path(*THEIRS.chain, *ROOTS) == (*THEIRS.chain, *ROOTS)


def test_a_chain_is_in_order() -> None:
    """Each certificate is by the next, and none comes twice: there is one path to try, whatever a stranger sends."""
    stranger = root("stranger").below("another CA").certificate
    refused(THEIRS.leaf, stranger, THEIRS.ca.certificate, why="'CN=another CA' comes after 'CN=web1.lan', and is not")
    refused(*THEIRS.chain, stranger, why="'CN=another CA' comes after 'CN=their CA', and is not its issuer")
    again = THEIRS.root.below("their root", p256("again")).certificate
    refused(THEIRS.root.leaf(KEY, "web1.lan"), again, *ROOTS, why="one CA comes twice")


def test_a_leaf_may_be_directly_below_its_root() -> None:
    """Small authorities have no CA between."""
    leaf = THEIRS.root.leaf(KEY, "web1.lan")
    assert path(leaf) == (leaf, *ROOTS)


def test_without_roots_nobody_is_known() -> None:
    """No root, no path."""
    refused(*THEIRS.chain, roots=(), why="no root of another authority is configured")


def test_a_self_signed_leaf_is_nobodys() -> None:
    """The right names in a certificate that its holder made, also under the root's own name."""
    for subject in ("web1.lan", "their root", "their CA"):
        refused(root(subject, KEY).leaf(KEY, "web1.lan"), why="candidates exhausted")


def test_a_leaf_of_another_root_is_refused() -> None:
    """Also with a CA and a root that are called the same, and come along."""
    other = root("their root", p256("mallory"))
    ca = other.below("their CA", p256("mallory's CA"))
    refused(ca.leaf(KEY, "web1.lan"), ca.certificate, other.certificate, why="candidates exhausted")
    refused(ca.leaf(KEY, "web1.lan"), THEIRS.ca.certificate, why="candidates exhausted")


def test_a_leaf_without_its_CA_is_refused() -> None:
    """Nothing is fetched: what is missing, is missing."""
    refused(THEIRS.leaf, why="candidates exhausted")


@pytest.mark.parametrize("late", [DAY + timedelta(seconds=1), timedelta(days=400), -DAY - timedelta(seconds=1)])
def test_outside_of_its_time_it_is_refused(late: timedelta) -> None:
    """And it is said when it is valid."""
    refused(*THEIRS.chain, at=late, why=r"\(valid from 2026-11-21 12:00 to 2026-11-23 12:00 UTC\)")


def test_an_expired_CA_vouches_for_nobody() -> None:
    """Every certificate in the path has to be valid, not the leaf alone."""
    ca = THEIRS.root.below("their CA", end=NOW - timedelta(seconds=1))
    refused(ca.leaf(KEY, "web1.lan"), ca.certificate, why="candidates exhausted|not valid")


def test_a_CA_is_no_leaf() -> None:
    """Neither a CA below the root nor the root itself introduces anybody."""
    extra = ((san("web1.lan"), False), (pyca.ExtendedKeyUsage([SERVER]), False))
    below = THEIRS.ca.below("web1.lan", KEY, *extra)
    refused(below.certificate, THEIRS.ca.certificate, why="must not be asserted in an EE")
    refused(THEIRS.root.certificate, why="must not be asserted in an EE")


def test_a_leaf_is_no_CA() -> None:
    """Who has a server's key makes no certificates with it."""
    mallory = Ca(THEIRS.leaf, THEIRS.key)
    refused(mallory.leaf(KEY, "db1.lan"), *THEIRS.chain, why="is no CA's")


def test_path_lengths_count() -> None:
    """A CA that may have none below has none below."""
    below = THEIRS.ca.below("a CA too many")
    refused(below.leaf(KEY, "web1.lan"), below.certificate, THEIRS.ca.certificate, why="path length")


@pytest.mark.parametrize(
    ("eku", "usages"),
    [([CLIENT], {Usage.SERVER}), ([SERVER], {Usage.CLIENT}), ([ExtendedKeyUsageOID.EMAIL_PROTECTION], set(Usage)),
     ([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], set(Usage)), ([SERVER, CLIENT], set())],
)  # fmt: skip
def test_a_leaf_for_something_else_is_refused(eku: list[pyca.ObjectIdentifier], usages: set[Usage]) -> None:
    """What it has to be for is said by an operator, and "anything" in a leaf is no answer."""
    leaf = THEIRS.ca.leaf(KEY, "web1.lan", eku=eku)
    refused(leaf, THEIRS.ca.certificate, usages=frozenset(usages), why="is not for")


def test_a_leaf_for_nothing_is_refused() -> None:
    """Without an extended key usage it is for anything, and so for nothing here."""
    refused(THEIRS.ca.leaf(KEY, "web1.lan", eku=()), THEIRS.ca.certificate, why="missing required extension")


def test_each_usage_leads_where_it_counts() -> None:
    """A client's certificate counts where clients do."""
    leaf = THEIRS.ca.leaf(KEY, "web1.lan", eku=[CLIENT])
    assert path(leaf, THEIRS.ca.certificate, usages=frozenset({Usage.CLIENT}))
    assert path(leaf, THEIRS.ca.certificate, usages=frozenset(Usage))


@pytest.mark.parametrize(
    ("eku", "fits"), [([SERVER], True), ([CLIENT], False), ([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], True)]
)
def test_usages_hold_along_the_path(eku: list[pyca.ObjectIdentifier], fits: bool) -> None:
    """A CA for clients makes no servers, whatever it writes into their certificates."""
    ca = THEIRS.root.below("their CA", None, (pyca.ExtendedKeyUsage(eku), False))
    leaf = ca.leaf(KEY, "web1.lan", eku=[SERVER, CLIENT])
    if fits:
        assert path(leaf, ca.certificate)
    else:
        refused(leaf, ca.certificate, why="it, or a CA above it, is not for serverAuth")


def test_one_usage_has_to_hold_all_along() -> None:
    """A leaf for clients below a CA for servers is for neither."""
    ca = THEIRS.root.below("their CA", None, (pyca.ExtendedKeyUsage([SERVER]), False))
    refused(ca.leaf(KEY, "web1.lan", eku=[CLIENT]), ca.certificate, usages=frozenset(Usage), why="is not for")


def test_a_key_that_may_not_sign_proves_nothing() -> None:
    """The leaf's key signs our request, so its usage has to allow that."""
    refused(THEIRS.ca.leaf(KEY, "web1.lan", sign=False), THEIRS.ca.certificate, why="the key may not sign")


def test_name_constraints_hold() -> None:
    """A CA for one part of the names vouches for no other, nor for what it may not."""
    only = pyca.NameConstraints([pyca.DNSName("lan")], [pyca.DNSName("db.lan")])
    ca = THEIRS.root.below("their CA", None, (only, True))
    assert path(ca.leaf(KEY, "web1.lan"), ca.certificate)
    for names in (("web1.example",), ("web1.lan", "web1.example"), ("db.lan",), ("x.db.lan",)):
        refused(ca.leaf(KEY, *names), ca.certificate, why="name constraint")


def test_constraints_on_addresses_hold() -> None:
    """Also for addresses, in both directions."""
    only = pyca.NameConstraints([pyca.DNSName("lan"), pyca.IPAddress(ip_network("10.0.0.0/24"))], None)
    ca = THEIRS.root.below("their CA", None, (only, True))
    assert path(ca.leaf(KEY, "web1.lan", "10.0.0.7"), ca.certificate)
    refused(ca.leaf(KEY, "web1.lan", "10.0.1.7"), ca.certificate, why="name constraint")


def test_an_unknown_critical_extension_is_refused() -> None:
    """What its CA says has to be understood is not passed over."""
    extra = (pyca.UnrecognizedExtension(pyca.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
    refused(THEIRS.ca.leaf(KEY, "web1.lan", extra=[extra]), THEIRS.ca.certificate, why="unaccounted-for critical")


def test_no_more_CAs_are_read_than_there_are_between() -> None:
    """A hundred certificates cost nothing but their length."""
    above = [root(f"{number}").certificate for number in range(100)]
    begin = time.process_time()
    refused(THEIRS.leaf, *above, why="100 CAs come with it, at most 4 are read")
    assert time.process_time() - begin < 0.1


def test_a_loop_of_CAs_ends() -> None:
    """CAs that all certify each other make no path, and no work."""
    one, two = root("one"), root("two")
    loop = [one.below("two", two.key), two.below("one", one.key)]
    above = [each.certificate for each in loop]
    refused(loop[0].leaf(KEY, "web1.lan"), *above, why="candidates exhausted")
    refused(loop[0].leaf(KEY, "web1.lan"), *above, *above, why="one CA comes twice")


@pytest.mark.parametrize("bits", [1024, 16384])
def test_CAs_with_huge_or_weak_keys_cost_nothing(bits: int) -> None:
    """What a stranger sends as a CA is looked at before anything is verified with its key."""
    # openssl's primes of 8192 bits take a minute: the modulus need not be one that anybody can sign with.
    numbers = rsa.RSAPublicNumbers(65537, (1 << bits - 1) + 1)
    key = numbers.public_key()
    name = THEIRS.leaf.issuer
    basic = pyca.BasicConstraints(ca=True, path_length=None)
    builder = pyca.CertificateBuilder(name, name, key, 1, NOW - DAY, NOW + DAY).add_extension(basic, True)
    ca = builder.sign(p256("anybody"), hashes.SHA256())
    refused(THEIRS.leaf, ca, why=f"RSA {bits}")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (rsa.generate_private_key(65537, 1024), "RSA 1024"),
        (rsa.generate_private_key(3, 2048), "RSA exponent '0x3'"),
        (ec.generate_private_key(ec.SECP521R1()), "P-521"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
    ],
)
def test_weak_and_strange_leaf_keys_are_refused(key: CertificateIssuerPrivateKeyTypes, why: str) -> None:
    """The verifier of the path does not look at the leaf's key; we do."""
    leaf = THEIRS.ca.leaf(key, "web1.lan")
    with pytest.raises(EvidenceRejected, match=re.escape(why)):
        foreign.leaf_key(leaf)


@pytest.mark.parametrize(
    "key",
    [p256("x"), ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate(),
     rsa.generate_private_key(65537, 2048)],
    ids=["P-256", "P-384", "Ed25519", "RSA"],
)  # fmt: skip
def test_every_key_that_is_used_signs_and_verifies(key: CertificateIssuerPrivateKeyTypes) -> None:
    """What one half signs the other takes, for this key and this message only."""
    leaf = THEIRS.ca.leaf(key, "web1.lan")
    public_key = foreign.leaf_key(leaf)
    signature = foreign.sign(key, b"message")
    assert foreign.verify(public_key, signature, b"message")
    assert not foreign.verify(public_key, signature, b"massage")
    assert not foreign.verify(public_key, b"", b"message")
    assert not foreign.verify(public_key, signature[:-1], b"message")
    assert not foreign.verify(foreign.leaf_key(THEIRS.leaf), signature, b"message")
    assert path(leaf, THEIRS.ca.certificate)


def test_RSA_signs_in_both_ways_with_SHA_256_only() -> None:
    """Some modules know one padding only; none needs SHA-1."""
    key = rsa.generate_private_key(65537, 2048)
    both = [padding.PKCS1v15(), padding.PSS(padding.MGF1(hashes.SHA256()), 32)]
    for scheme in both:
        assert foreign.verify(key.public_key(), key.sign(b"message", scheme, hashes.SHA256()), b"message")
        assert not foreign.verify(key.public_key(), key.sign(b"message", scheme, hashes.SHA1()), b"message")


def test_other_keys_do_not_sign() -> None:
    """A key that no certificate of ours may have is refused by name."""
    with pytest.raises(Malformed, match="cannot sign here"):
        foreign.sign(object(), b"message")


def test_roots_are_read_from_PEM() -> None:
    """As many as there are, with what people write between them."""
    other = root("another root")
    text = "\n".join(f"# {each.certificate.subject}\n{pem(each.certificate)}" for each in (THEIRS.root, other))
    assert foreign.read_roots(text.encode()) == (THEIRS.root.certificate, other.certificate)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no PEM certificates"),
        ("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "no PEM certificates"),
        ("leaf", "the certificate of 'CN=web1.lan' is no CA's"),
        ("many", "65 certificates, at most 64"),
    ],
)
def test_what_is_no_root_is_refused(text: str, why: str) -> None:
    """A file that would be trusted for nothing, or for more than was meant, is an error and not passed over."""
    text = {"leaf": pem(THEIRS.leaf), "many": 65 * pem(THEIRS.root.certificate)}.get(text, text)
    with pytest.raises(Malformed, match=re.escape(why)):
        foreign.read_roots(text.encode())


_BASIC = (pyca.BasicConstraints(ca=True, path_length=None), True)
_SIGNS_CERTIFICATES = (usage(sign=False, ca=True), True)


@pytest.mark.parametrize(
    ("extensions", "why"),
    [
        ((_BASIC, _SIGNS_CERTIFICATES), ""),
        ((_BASIC, (usage(sign=False, ca=True), False)), ""),
        ((_BASIC, _SIGNS_CERTIFICATES, (pyca.NameConstraints([pyca.DNSName("lan")], None), True)), ""),
        ((_BASIC, _SIGNS_CERTIFICATES, (pyca.ExtendedKeyUsage([SERVER]), True)), ""),
        ((_BASIC, _SIGNS_CERTIFICATES, (san("ca.lan"), True)), ""),
        ((_BASIC,), "its key usage does not allow to sign any"),
        ((_BASIC, (usage(sign=True), True)), "its key usage does not allow to sign any"),
        (((_BASIC[0], False), _SIGNS_CERTIFICATES), "the extension 2.5.29.19 not marked as critical"),
        (
            (_BASIC, _SIGNS_CERTIFICATES, (pyca.UnrecognizedExtension(pyca.ObjectIdentifier("1.2.3"), b"\5\0"), True)),
            "the extension 1.2.3 marked as critical",
        ),
    ],
)  # fmt: skip
def test_a_root_is_one_that_a_path_can_end_at(extensions: tuple[Extension, ...], why: str) -> None:
    """What is read as a root has leaves that are accepted; where all of them would be refused, that is said at once."""
    key = p256("a root")
    own = Ca(root("a root", key).issue(key, "a root", *extensions), key)
    leaf = own.leaf(KEY, "web1.lan")
    if not why:
        assert path(leaf, roots=foreign.read_roots(pem(own.certificate).encode())) == (leaf, own.certificate)
        return
    with pytest.raises(
        Malformed, match=f"every certificate by 'CN=a root' would be refused: .*{re.escape(why)}"
    ) as caught:
        foreign.read_roots(pem(own.certificate).encode())
    assert "with the same key" in caught.value.hint
    refused(leaf, why="candidates exhausted", roots=(own.certificate,))


@pytest.mark.peer("openssl")
def test_openssl_agrees(tmp_path: Path) -> None:
    """What OpenSSL verifies for the same purpose, and what it does not, is the same here."""
    other = root("their root", p256("mallory")).below("their CA", p256("mallory's CA"))
    only = pyca.NameConstraints([pyca.DNSName("other.example")], None)
    narrow = THEIRS.root.below("their CA", None, (only, True))
    cases = [
        (THEIRS.leaf, THEIRS.ca, True),
        (other.leaf(KEY, "web1.lan"), other, False),
        (narrow.leaf(KEY, "web1.lan"), narrow, False),
        (THEIRS.ca.leaf(KEY, "web1.lan", eku=[CLIENT]), THEIRS.ca, False),
        (THEIRS.ca.below("below").leaf(KEY, "web1.lan"), THEIRS.ca, False),
    ]
    (tmp_path / "root").write_text(pem(THEIRS.root.certificate))
    for leaf, ca, good in cases:
        (tmp_path / "leaf").write_text(pem(leaf))
        (tmp_path / "ca").write_text(pem(ca.certificate))
        command = ["openssl", "verify", "-CAfile", "root", "-untrusted", "ca", "-purpose", "sslserver", "-attime",
                   str(int(NOW.timestamp())), "leaf"]  # fmt: skip
        theirs = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
        assert theirs is good
        if good:
            path(leaf, ca.certificate)
        else:
            refused(leaf, ca.certificate, why="introduces nobody")
