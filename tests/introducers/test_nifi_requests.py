"""NiFi's requests: what is found in them, what is never certified, and how they may be written."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from handfast.core import dn
from handfast.core.flow import Channel, Evidence
from handfast.core.names import NamePattern, Names, network
from handfast.core.secret import Secret
from handfast.errors import EvidenceRejected, Malformed, PolicyRefused
from handfast.introducers.nifi import SharedToken
from tests.introducers import stage
from tests.introducers.nifi_messages import ANY, COMMON_NAME, DER, RSA_KEY, asked, encoded, shown, tlv
from tests.introducers.stage import (
    NEW_KEY,
    NIFI,
    NODE_TOKEN,
    SHARED_TOKEN,
    Stage,
    a_node,
    by_nifi,
    node_request,
    pem,
)

# --------------------------------------------------------------------------------- what is found, and never certified


def test_a_node_is_found_as_its_token_says() -> None:
    """Bounds are the token's, wishes the request's; the subject is turned to a certificate's order."""
    sources = (network("10.0.0.0/8"),)
    honest = by_nifi(record=a_node(sources=sources, uses=3))
    finding = NIFI.verify(honest.evidence, honest.stage)
    entitled, wish = finding.entitlement, finding.wish
    assert (entitled.machine, entitled.names, entitled.sources) == ("node1", stage.NODE_NAMES, sources)
    assert entitled.subject == wish.subject == dn.parse(stage.NODE).public_bytes()
    assert (wish.names.texts(), finding.once.uses, entitled.own_address) == (("node1.lan",), 3, False)
    assert "one-time token" in finding.proof


def test_attack_a_name_beyond_the_token() -> None:
    """What is asked for beyond it is found as a wish and not as a right: policy refuses it by name."""
    honest = by_nifi(request=node_request(NEW_KEY, "CN=admin, OU=NIFI", ("node1.lan", "admin.lan")))
    finding = NIFI.verify(honest.evidence, honest.stage)
    assert finding.wish.names.beyond(finding.entitlement.names) == ("admin", "admin.lan")
    assert finding.wish.subject != finding.entitlement.subject


def test_attack_a_name_beyond_the_patterns() -> None:
    """A shared token is for its patterns: neither another domain, a deeper name, an address nor a subject."""
    request = node_request(NEW_KEY, "CN=node1.lan, OU=Admins", ("a.b.lan", "bank.example", "lb.lan", "10.0.1.7"))
    finding = asked(request, NIFI)
    assert finding.wish.names.beyond(finding.entitlement.names) == ("a.b.lan", "bank.example", "10.0.1.7")
    assert finding.entitlement.subject is None
    assert finding.entitlement.own_address


def test_an_allowed_subject_brings_its_own_name_and_no_other() -> None:
    """Who may be `CN=node1.lan` may be reached as node1.lan; that allows no second name."""
    shared = SharedToken(SHARED_TOKEN, subjects=(dn.SubjectPattern.parse("CN=*.lan, OU=NIFI"),))
    finding = asked(node_request(names=("node1.lan", "lb.lan")), dataclasses.replace(NIFI, shared=shared))
    assert finding.entitlement.names.texts() == ("node1.lan",)
    alone = SharedToken(SHARED_TOKEN, names=(NamePattern.parse("lb.lan"),))
    finding = asked(node_request(names=("node1.lan", "lb.lan")), dataclasses.replace(NIFI, shared=alone))
    assert (finding.entitlement.names.texts(), finding.entitlement.subject) == (("lb.lan",), None)


def test_an_address_is_a_name() -> None:
    """An IP address stays one, as the toolkit before 1.24 had it; as the common name it is an address as well."""
    finding = asked(node_request(NEW_KEY, "CN=10.0.0.9, OU=NIFI", ("10.0.0.7", "fd00::7")), NIFI)
    assert finding.wish.names.texts() == ("10.0.0.7", "10.0.0.9", "fd00::7")
    assert finding.entitlement.names.texts() == ("10.0.0.7", "10.0.0.9")
    assert finding.entitlement.machine == "10.0.0.9"


def test_a_person_has_no_host_name() -> None:
    """The original lists any common name as a DNS name; here the subject alone is the person's."""
    person = pyca.SubjectAlternativeName([pyca.DNSName("Kim Lee")])
    finding = asked(node_request(NEW_KEY, "CN=Kim Lee, OU=Admins", (), extensions=(person,)), NIFI)
    assert finding.wish.names == Names()
    assert finding.entitlement.subject == finding.wish.subject
    assert finding.entitlement.machine.startswith("dn-")


@pytest.mark.parametrize("stop", "\u3002\uff0e\uff61\u2024", ids=lambda stop: f"U+{ord(stop):04X}")
def test_attack_a_dot_that_only_java_reads_as_one(stop: str) -> None:
    """Java 17 took a certificate for one label, within ``CN=node*``, as that of the host node9.corp.lan."""
    bounds = SharedToken(SHARED_TOKEN, (dn.SubjectPattern.parse("CN=node*, OU=NIFI"),))
    half = dataclasses.replace(ANY, shared=bounds)
    request = node_request(NEW_KEY, f"CN=node9{stop}corp{stop}lan, OU=NIFI", ())
    with pytest.raises(PolicyRefused, match="that Java reads as others"):
        half.verify(by_nifi(token=SHARED_TOKEN, request=request).evidence, Stage())


@pytest.mark.parametrize("letter", "\u212a\uff2b", ids=lambda letter: f"U+{ord(letter):04X}")
def test_attack_a_letter_that_java_reads_as_another(letter: str) -> None:
    """The Kelvin sign and a wide K: older Javas compare both as k with the name of a host."""
    with pytest.raises(PolicyRefused, match="that Java reads as others"):
        asked(node_request(NEW_KEY, f"CN={letter}afka.lan, OU=NIFI", ()))


def test_without_alternative_names_the_common_name_is_one() -> None:
    """As the clients of 1.0 and 1.1 ask, which the original of 1.24 answers with a stack trace."""
    assert asked(node_request(names=()), NIFI).wish.names.texts() == ("node1.lan",)


@pytest.mark.parametrize(
    "name",
    [
        pyca.DNSName("*.lan"),
        pyca.DNSName("*"),
        pyca.DNSName("node1.lan\x00.evil"),
        pyca.DNSName("node_1.lan"),
        pyca.DNSName(""),
        pyca.DNSName("10.0.0.300"),
        pyca.UniformResourceIdentifier("spiffe://home.handfast.internal/operator/me"),
        pyca.RFC822Name("kim@lan"),
        pyca.DirectoryName(dn.parse("CN=node1.lan")),
        pyca.RegisteredID(NameOID.COMMON_NAME),
    ],
    ids=lambda name: f"{type(name).__name__} {name.value!r}"[:40],
)
def test_attack_names_that_are_never_certified(name: pyca.GeneralName) -> None:
    """Not even by the token that is for any name."""
    names = pyca.SubjectAlternativeName([pyca.DNSName("node1.lan"), name])
    with pytest.raises(PolicyRefused):
        asked(node_request(names=(), extensions=(names,)))


@pytest.mark.parametrize("subject", ["CN=*.lan", "CN=*", "CN=n*.lan, OU=NIFI", "OU=*, CN=a", "CN=a, CN=*.lan"])
def test_attack_a_wildcard_in_the_subject(subject: str) -> None:
    """Java compares a host with the common name where a certificate has no DNS name: a `*` there is a wildcard."""
    with pytest.raises(PolicyRefused, match="wildcard"):
        asked(node_request(NEW_KEY, subject, ()))


def test_attack_sixty_five_names() -> None:
    """The common name counts: more than fit in a certificate are refused, and what is listed twice is one."""
    many = tuple(f"n{number}.lan" for number in range(64))
    assert len(asked(node_request(names=many[:63])).wish.names.texts()) == 64
    assert len(asked(node_request(NEW_KEY, "CN=n1.lan", many)).wish.names.texts()) == 64
    with pytest.raises(PolicyRefused, match="65 names"):
        asked(node_request(names=many))


@pytest.mark.parametrize(
    "extension",
    [
        pyca.BasicConstraints(ca=True, path_length=None),
        pyca.BasicConstraints(ca=False, path_length=None),
        pyca.ExtendedKeyUsage([pyca.oid.ExtendedKeyUsageOID.SERVER_AUTH]),
        pyca.TLSFeature([pyca.TLSFeatureType.status_request]),
        pyca.UnrecognizedExtension(pyca.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
    ],
    ids=lambda extension: type(extension).__name__ + str(getattr(extension, "ca", "")),
)
def test_attack_other_extensions(extension: pyca.ExtensionType) -> None:
    """Usages are the authority's to give; what nobody would copy is refused by its number, not dropped."""
    with pytest.raises(PolicyRefused, match=rf"extension {extension.oid.dotted_string} is not certified"):
        asked(node_request(extensions=(extension,)))


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (rsa.generate_private_key(65537, 1024), "RSA 1024"),
        (rsa.generate_private_key(3, 2048), "exponent"),
        (ec.derive_private_key(5, ec.SECP521R1()), "secp521r1|P-521"),
        (ec.derive_private_key(5, ec.SECP256K1()), "secp256k1"),
        (ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)), "(?i)ed25519"),
    ],
    ids=["RSA-1024", "exponent", "P-521", "secp256k1", "Ed25519"],
)
def test_attack_weak_keys(key: CertificateIssuerPrivateKeyTypes, says: str) -> None:
    """The original signs any key; here a holder of the token is told which are certified."""
    names = pyca.SubjectAlternativeName([pyca.DNSName("node1.lan")])
    builder = pyca.CertificateSigningRequestBuilder(dn.parse("CN=node1.lan")).add_extension(names, critical=False)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    with pytest.raises(PolicyRefused, match=says) as caught:
        asked(builder.sign(key, digest))
    assert caught.value.hint


def test_attack_a_signature_with_sha_1() -> None:
    """A request that anybody could have made collide proves no possession."""
    der = bytearray(node_request(RSA_KEY).public_bytes(Encoding.DER))
    sha256, sha1 = bytes.fromhex("06092a864886f70d01010b"), bytes.fromhex("06092a864886f70d010105")
    weak = bytes(der).replace(sha256, sha1)
    with pytest.raises(PolicyRefused, match="signed with 'sha1'"):
        ANY.verify(shown(SHARED_TOKEN, pem(weak), key=RSA_KEY), Stage())


@pytest.mark.parametrize(
    "subject",
    [
        tlv(0x30, b""),
        tlv(0x30, tlv(0x31, b"")),
        *(
            tlv(0x30, tlv(0x31, tlv(0x30, tlv(6, COMMON_NAME) + tlv(kind, value))))
            for kind, value in (
                (12, b"\xff\xfe"),
                (12, b"node1.lan\0.evil"),
                (12, b"node1.lan\nnode2.lan"),
                (12, "node1.lan\u202e".encode()),
                (20, b"node1\xe9.lan"),
                (30, b"\0n\0"),
                (2, b"\x01"),
                (3, b"\0ab"),
            )
        ),
        tlv(0x30, tlv(0x31, tlv(0x30, tlv(6, COMMON_NAME) + tlv(12, b"a")) * 2)),
        tlv(0x30, tlv(0x31, tlv(0x30, tlv(6, COMMON_NAME) + tlv(12, b"a" * 20))) * 60),
    ],
)
def test_attack_subjects_that_cannot_be_shown(subject: bytes) -> None:
    """Whatever the bytes are: one of our errors, in text that drives no terminal."""
    with pytest.raises((PolicyRefused, Malformed)) as caught:
        ANY.verify(shown(SHARED_TOKEN, encoded(subject)), Stage())
    assert caught.value.message.isprintable()


def test_attack_a_name_that_looks_like_a_hosts() -> None:
    """A Cyrillic a is no a: such a common name is a person's, and no machine's name."""
    finding = asked(node_request(NEW_KEY, "CN=k\u0430fka.lan, OU=NIFI", ()))
    assert finding.wish.names == Names()
    assert finding.entitlement.machine.startswith("dn-")


# -------------------------------------------------------------------------------------------------- how it is written


@pytest.mark.parametrize(
    "text",
    [
        pem(DER).replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"),
        pem(DER).replace("\n", "\r\n"),
        "\n\n" + pem(DER) + "\n",
        pem(DER).rstrip("\n"),
    ],
    ids=["NEW", "CRLF", "lines around", "no last line"],
)
def test_pem_as_it_is_written_elsewhere(text: str) -> None:
    """What the original accepts, and reads the same."""
    honest = by_nifi()
    assert NIFI.verify(shown(NODE_TOKEN, text), honest.stage) == NIFI.verify(honest.evidence, honest.stage)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        pem(DER) * 2,
        pem(DER) + "-----BEGIN CERTIFICATE-----\n",
        "-----BEGIN PRIVATE KEY-----\n" + pem(DER),
        "Subject: node1\n" + pem(DER),
        pem(DER).replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        "".join(pem(DER).splitlines()[1:-1]),
        pem(b""),
        pem(DER[:-1]),
        pem(DER + b"\0"),
        pem(b"\x30\x80" + b"\x30" * 5000),
    ],
)
def test_attack_what_is_not_one_request(text: str) -> None:
    """Two blocks, something before, bare base64, garbage: refused before any token is tried."""
    with pytest.raises(Malformed, match=r"not one PEM|not a certificate request"):
        ANY.verify(shown(SHARED_TOKEN, text), Stage())


@pytest.mark.parametrize(
    "body",
    [
        b'{"hmac":"AAAA","csr":"x","role":"operator"}',
        b'{"hmac":[1,2],"csr":"x"}',
        b'{"hmac":"A","csr":"x"}',
        b'{"hmac":"AAAA","csr":5}',
        b'{"hmac":"AA\\nAA","csr":"x"}',
        b'{"HMAC":"AAAA","csr":"x"}',
    ],
)
def test_attack_other_json(body: bytes) -> None:
    """Unknown fields and other types are refused, as everywhere."""
    with pytest.raises(Malformed):
        ANY.verify(Evidence("nifi", body, Channel(b"")), Stage())


def test_a_stranger_learns_nothing_of_a_bad_request() -> None:
    """What is wrong with a request is for a holder of a token: others hear the same word of every request."""
    for request in (node_request(names=("node1.lan", "lb.lan")), node_request(NEW_KEY, "CN=*.lan", ())):
        with pytest.raises(EvidenceRejected) as caught:
            NIFI.verify(by_nifi(token=Secret(b"a token of a stranger"), request=request).evidence, Stage())
        assert (caught.value.message, caught.value.hint) == ("forbidden", "")
