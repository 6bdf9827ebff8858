"""Trust in a chain: from the pinned root, in the expected role, at the given time, or not at all."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import chain, x509
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.errors import Malformed, UntrustedPeer
from tests.authority.helpers import DAY, HOUR, LEAF_KEY, NOW, SERIAL, Pki, grant, new_key

PKI = Pki.make()
OTHER = Pki.make()


def verify(leaf: pyca.Certificate, *, pki: Pki = PKI, role: Role = Role.SERVER, **changes: Any) -> chain.Identity:
    """Verify a leaf with everything else as it should be, but for ``changes``."""
    arguments: dict[str, Any] = {"pin": pki.pin, "role": role, "at": NOW} | changes
    intermediates = arguments.pop("intermediates", [pki.issuing])
    return chain.verify_chain(leaf, intermediates, arguments.pop("roots", [pki.root]), **arguments)


def _alternative_names(*names: pyca.GeneralName) -> pyca.SubjectAlternativeName:
    return pyca.SubjectAlternativeName(list(names))


def _uri(text: str) -> pyca.UniformResourceIdentifier:
    return pyca.UniformResourceIdentifier(text)


@pytest.mark.parametrize("role", Role)
def test_every_role_verifies_as_itself(role: Role) -> None:
    """A leaf of our profile gives back who holds it, for which names and until when."""
    identity = verify(PKI.leaf(grant(PKI.domain, role)), role=role)
    assert identity == chain.Identity(
        trust_domain=PKI.domain,
        role=role,
        machine="web1.home.lan",
        names=Names.parse(["web1.home.lan", "10.0.0.7", "fd00::7"]),
        not_before=NOW - HOUR,
        not_after=NOW + DAY,
    )


@pytest.mark.parametrize("expected", Role)
@pytest.mark.parametrize("role", Role)
def test_p6_no_role_stands_in_for_another(role: Role, expected: Role) -> None:
    """P6: a genuine credential of one role is refused wherever another is expected; a web server is no registrar."""
    if role is expected:
        return
    with pytest.raises(UntrustedPeer, match=f"is a {role}, not a {expected}"):
        verify(PKI.leaf(grant(PKI.domain, role)), role=expected)


def test_p1_another_root_is_refused() -> None:
    """P1: a man in the middle with a root of his own is refused, and both pins are named."""
    with pytest.raises(UntrustedPeer, match=f"{PKI.pin.hex()}.*{OTHER.pin.hex()}"):
        verify(OTHER.leaf(), roots=[OTHER.root], intermediates=[OTHER.issuing])


def test_p1_a_foreign_root_beside_the_right_one_is_worth_nothing() -> None:
    """P1: appending a root to the bundle does not make its leaves trusted."""
    for roots in ([OTHER.root, PKI.root], [PKI.root, OTHER.root]):
        with pytest.raises(UntrustedPeer, match="does not chain to the pinned root"):
            verify(OTHER.leaf(), roots=roots, intermediates=[OTHER.issuing, PKI.issuing, OTHER.root])


def test_p1_a_look_alike_of_the_root_is_refused() -> None:
    """P1: the root's subject and key identifier under another key do not pass for it."""
    twin = Pki.make()
    builder = pyca.CertificateBuilder(subject_name=PKI.root.subject, issuer_name=PKI.root.subject)
    builder = builder.public_key(twin.root_key.public_key()).serial_number(PKI.root.serial_number)
    builder = builder.not_valid_before(NOW - HOUR).not_valid_after(NOW + DAY)
    for extension in PKI.root.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    with pytest.raises(UntrustedPeer, match="no root with the pin"):
        verify(PKI.leaf(), roots=[builder.sign(twin.root_key, SHA256())])


def test_p1_a_foreign_certificate_over_the_root_key_is_no_root() -> None:
    """P1: somebody else's certificate over our root's public key is not the root's own word."""
    crossed = x509.issuing(OTHER.root, OTHER.root_key, PKI.root_key.public_key(), name="home", generation=1, now=NOW)
    with pytest.raises(UntrustedPeer, match="no root with the pin"):
        verify(PKI.leaf(), roots=[crossed])
    verify(PKI.leaf(), roots=[crossed, PKI.root])


def test_a_root_whose_key_cannot_be_read_is_passed_over() -> None:
    """A bundle may hold a certificate of a kind that we do not know; it is not the pinned one."""
    der = PKI.root.public_bytes(Encoding.DER)
    unknown = chain.load_certificate(der.replace(bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d027f")))
    verify(PKI.leaf(), roots=[unknown, PKI.root])
    with pytest.raises(UntrustedPeer, match="the peer offered unreadable"):
        verify(PKI.leaf(), roots=[unknown])


@pytest.mark.parametrize("roots", [[], [PKI.issuing], [PKI.leaf()]], ids=["none", "issuing", "leaf"])
def test_without_the_pinned_root_nothing_is_trusted(roots: list[pyca.Certificate]) -> None:
    """Empty means no, and neither an issuing CA nor a leaf may act as the root."""
    with pytest.raises(UntrustedPeer, match="no root with the pin"):
        verify(PKI.leaf(), roots=roots)


@pytest.mark.parametrize(
    "pin",
    [b"", bytes(32), PKI.pin[:16], PKI.pin[:-1] + bytes([PKI.pin[-1] ^ 1])],
    ids=["empty", "zeros", "half", "almost"],
)
def test_only_the_whole_pin_matches(pin: bytes) -> None:
    """An empty, short or almost right pin matches no root."""
    with pytest.raises(UntrustedPeer):
        verify(PKI.leaf(), pin=pin)


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (NOW - 2 * HOUR, "valid from 2026-11-22 11:00"),
        (NOW + DAY + timedelta(seconds=1), "to 2026-11-23 12:00"),
        (NOW + timedelta(days=700), "valid from"),
    ],
)
def test_outside_its_validity_a_leaf_is_refused_with_its_times(at: datetime, words: str) -> None:
    """Too early and too late are refused; the message has the times and the hint speaks of the clock."""
    with pytest.raises(UntrustedPeer, match=words) as caught:
        verify(PKI.leaf(), at=at)
    assert "clock" in caught.value.hint


def test_an_expired_root_or_issuing_ca_is_refused() -> None:
    """A leaf is worth no more than the CAs above it."""
    long = PKI.forged(lambda b: _revalid(b, NOW + timedelta(days=9000)))
    verify(long, at=NOW + timedelta(days=1000))
    with pytest.raises(UntrustedPeer):
        verify(long, at=NOW + timedelta(days=1100))


def _revalid(builder: pyca.CertificateBuilder, not_after: datetime) -> pyca.CertificateBuilder:
    """The same with another end; the builder refuses a second ``not_valid_after``."""
    builder._not_valid_after = None
    return builder.not_valid_after(not_after)


def test_without_the_issuing_ca_there_is_no_path() -> None:
    """A leaf alone does not chain to the root."""
    with pytest.raises(UntrustedPeer, match="does not chain"):
        verify(PKI.leaf(), intermediates=[])


@pytest.mark.parametrize("certificate", [PKI.issuing, PKI.root], ids=["issuing", "root"])
def test_a_ca_is_no_leaf(certificate: pyca.Certificate) -> None:
    """A CA's own certificate authenticates nobody."""
    with pytest.raises(UntrustedPeer):
        verify(certificate)


def test_a_leaf_signs_no_leaf() -> None:
    """A newcomer with a good certificate cannot issue others, for all that it names another machine."""
    template = grant(PKI.domain, Role.REGISTRAR, public_key=new_key().public_key())
    mine = PKI.leaf(grant(PKI.domain))
    below = x509.LeafProfile(mine).builder(template, SERIAL).sign(LEAF_KEY, SHA256())
    with pytest.raises(UntrustedPeer):
        verify(below, role=Role.REGISTRAR, intermediates=[mine, PKI.issuing])


def test_a_ca_below_the_issuing_ca_is_refused() -> None:
    """The issuing CA has path length 0: a CA which it signed is worth nothing."""
    key = new_key()
    below = x509.issuing(PKI.issuing, PKI.issuing_key, key.public_key(), name="sub", generation=1, now=NOW)
    sub = Pki(PKI.root_key, PKI.root, key, below)
    with pytest.raises(UntrustedPeer):
        verify(sub.leaf(grant(PKI.domain)), intermediates=[below, PKI.issuing])


def test_a_chain_of_many_certificates_is_not_searched() -> None:
    """Path building costs grow with what a peer sends, so more than eight certificates are refused at once."""
    with pytest.raises(UntrustedPeer, match="a chain of 9 certificates, at most 8"):
        verify(PKI.leaf(), intermediates=[PKI.issuing] * 9)


@pytest.mark.parametrize(
    "names", [("web1.evil.lan",), ("10.1.0.1",), ("web1.home.lan.evil",), ("fd00::1",), ("xhome.lan",)]
)
def test_names_beyond_the_constraints_are_refused(names: tuple[str, ...]) -> None:
    """A name outside the issuing CA's constraints makes the leaf worthless, whoever signed it."""
    pki = Pki.make(x509.name_constraints(["home.lan"], [ip_network("10.0.0.0/24")]))
    verify(pki.leaf(grant(pki.domain, names=("web1.home.lan", "home.lan", "10.0.0.7"))), pki=pki)
    with pytest.raises(UntrustedPeer, match="does not chain"):
        verify(pki.leaf(grant(pki.domain, names=names)), pki=pki)


def test_constraints_on_one_kind_of_name_exclude_the_other() -> None:
    """With only DNS suffixes no address is allowed, and with only networks no DNS name."""
    dns = Pki.make(x509.name_constraints(["home.lan"], []))
    ips = Pki.make(x509.name_constraints([], [ip_network("10.0.0.0/24")]))
    verify(dns.leaf(grant(dns.domain, names=("a.home.lan",))), pki=dns)
    verify(ips.leaf(grant(ips.domain, names=("10.0.0.1",))), pki=ips)
    for pki, name in ((dns, "10.0.0.1"), (dns, "fd00::1"), (ips, "a.home.lan"), (ips, "fd00::1")):
        with pytest.raises(UntrustedPeer):
            verify(pki.leaf(grant(pki.domain, names=(name,))), pki=pki)


@pytest.mark.parametrize(
    "usages",
    [
        [ExtendedKeyUsageOID.CLIENT_AUTH],
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
        [ExtendedKeyUsageOID.CODE_SIGNING],
    ],
)
def test_the_extended_key_usages_must_be_exactly_the_roles(usages: list[pyca.ObjectIdentifier]) -> None:
    """The SPIFFE path alone makes no role: fewer, more or other usages are refused and named."""
    with pytest.raises(UntrustedPeer, match=r"the certificate of the server 'web1.home.lan' is for [a-z0-9]"):
        verify(PKI.forged(replace=pyca.ExtendedKeyUsage(usages)))


def test_a_leaf_without_usages_is_refused() -> None:
    """No extended key usage means any, and any is no role."""
    with pytest.raises(UntrustedPeer):
        verify(PKI.forged(drop=pyca.ExtendedKeyUsage))


def test_an_unknown_critical_extension_is_refused() -> None:
    """What is critical and not understood ends the matter (RFC 5280 §4.2)."""
    unknown = pyca.UnrecognizedExtension(pyca.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    verify(PKI.forged(lambda b: b.add_extension(unknown, critical=False)))
    with pytest.raises(UntrustedPeer):
        verify(PKI.forged(lambda b: b.add_extension(unknown, critical=True)))


def test_another_trust_domain_is_refused() -> None:
    """A SPIFFE ID in a trust domain that the pinned root does not state is refused, and both are named."""
    foreign = PKI.forged(replace=_alternative_names(_uri(f"spiffe://{OTHER.domain}/server/web1.home.lan")))
    with pytest.raises(UntrustedPeer, match=f"{OTHER.domain}.*{PKI.domain}"):
        verify(foreign)


def test_a_root_that_states_no_trust_domain_is_refused() -> None:
    """A pinned root which is not one of ours has no machines of ours."""
    key = new_key()
    name = pyca.Name([pyca.NameAttribute(NameOID.COMMON_NAME, "plain")])
    builder = pyca.CertificateBuilder(subject_name=name, issuer_name=name).public_key(key.public_key())
    builder = builder.not_valid_before(NOW - HOUR).not_valid_after(NOW + DAY).serial_number(1)
    for extension in PKI.root.extensions:
        if not isinstance(extension.value, pyca.SubjectAlternativeName | pyca.SubjectKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    identifier = pyca.SubjectKeyIdentifier.from_public_key(key.public_key())
    plain = builder.add_extension(identifier, critical=False).sign(key, SHA256())
    with pytest.raises(Malformed, match="states no trust domain"):
        x509.issuing(plain, key, new_key().public_key(), name="x", generation=1, now=NOW)
    with pytest.raises(UntrustedPeer, match="states no trust domain"):
        chain._domain_of(plain)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((pyca.DNSName("web1.home.lan"),), "0 SPIFFE IDs"),
        ((_uri(f"spiffe://{PKI.domain}/server/a"), _uri(f"spiffe://{PKI.domain}/server/b")), "2 SPIFFE IDs"),
        ((_uri(f"https://{PKI.domain}/server/a"),), "has no role of ours"),
        ((_uri(f"spiffe://{PKI.domain}"),), "has no role of ours"),
        ((_uri(f"spiffe://{PKI.domain}/king/a"),), "has no role of ours"),
        ((_uri(f"spiffe://{PKI.domain}/server/a/b"),), "has no role of ours"),
        ((_uri(f"spiffe://{PKI.domain}/server/"),), "has no role of ours"),
        ((_uri(f"spiffe://{PKI.domain}/server/a?x"),), "has no role of ours"),
        ((_uri(f"spiffe://{PKI.domain}/server/a..b"),), "not a machine name"),
        ((_uri(f"spiffe://{PKI.domain}/SERVER/a"),), "has no role of ours"),
        ((_uri(f"spiffe://{PKI.domain}/server/a"), pyca.RFC822Name("a@b")), "neither DNS, IP nor SPIFFE"),
        ((_uri(f"spiffe://{PKI.domain}/server/a"), pyca.DNSName("*.lan")), "not a DNS name"),
    ],
)
def test_a_leaf_that_names_no_machine_of_ours_is_refused(names: tuple[pyca.GeneralName, ...], words: str) -> None:
    """Exactly one SPIFFE ID of our form, and beside it DNS names and addresses only."""
    with pytest.raises(UntrustedPeer, match=re.escape(words)):
        chain.read_identity(PKI.forged(replace=_alternative_names(*names)))


def test_a_leaf_without_alternative_names_is_refused() -> None:
    """A common name alone names nobody."""
    with pytest.raises(UntrustedPeer, match="no readable alternative name"):
        chain.read_identity(PKI.forged(drop=pyca.SubjectAlternativeName))


def test_certificates_are_read_from_der() -> None:
    """One DER certificate is read; PEM, garbage, trailing bytes and a megabyte are refused."""
    der = PKI.leaf().public_bytes(Encoding.DER)
    assert chain.load_certificate(der).public_bytes(Encoding.DER) == der
    for bad in (b"", b"x", der + b"\0", der[:-1], PKI.leaf().public_bytes(Encoding.PEM)):
        with pytest.raises(Malformed, match="not a certificate"):
            chain.load_certificate(bad)
    with pytest.raises(Malformed, match="1048576 bytes"):
        chain.load_certificate(b"0" * (1 << 20))


@pytest.mark.parametrize("kind", ["twice", "x400"])
def test_unreadable_extensions_are_refused(kind: str) -> None:
    """Extensions that stand twice, and names of a kind that nobody parses, are refused by our own errors."""
    uri = pyca.SubjectAlternativeName([_uri(f"spiffe://{PKI.domain}/server/a")])
    if kind == "twice":
        unknown = pyca.UnrecognizedExtension(pyca.ObjectIdentifier("2.5.29.117"), uri.public_bytes())
        der = PKI.forged(lambda b: b.add_extension(unknown, critical=False)).public_bytes(Encoding.DER)
        leaf = chain.load_certificate(der.replace(b"\x55\x1d\x75", b"\x55\x1d\x11"))
    else:
        unreadable = pyca.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x02\xa3\x00")
        leaf = PKI.forged(replace=unreadable)
    with pytest.raises(UntrustedPeer, match="no readable alternative name"):
        chain.read_identity(leaf)
    with pytest.raises(UntrustedPeer):
        verify(leaf)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_serial_that_is_not_positive_is_refused() -> None:
    """Serial numbers are positive (RFC 5280 §4.1.2.2); ours are 128 random bits."""
    der = PKI.leaf().public_bytes(Encoding.DER)
    serial = b"\x02\x11\x00" + SERIAL.to_bytes(16)
    with pytest.raises(Malformed, match="serial number is not positive"):
        chain.load_certificate(der.replace(serial, b"\x02\x11\x80" + SERIAL.to_bytes(16)))


DER = PKI.leaf().public_bytes(Encoding.DER)
UNUSED_BITS = len(DER) - len(chain.load_certificate(DER).signature) - 1


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
def test_no_changed_byte_of_a_leaf_survives(place: int, change: int) -> None:
    """
    Whatever single byte of a leaf is changed, it is refused by one of our errors.

    But for what nobody signs: the count of unused bits before the signature may change when it ends in zeros.
    """
    mutated = bytearray(DER)
    mutated[place] ^= change
    if place == UNUSED_BITS:
        return
    with pytest.raises((UntrustedPeer, Malformed)):
        verify(chain.load_certificate(bytes(mutated)))
