"""NiFi's protocol at the registrar: what its wire leaves open is held here, one attack after the other."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from datetime import timedelta

import msgspec
import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from handfast.core import dn, keys
from handfast.core.flow import Channel, Evidence, Finding
from handfast.core.names import NamePattern, Names, network
from handfast.core.secret import Secret
from handfast.errors import EvidenceRejected, HandfastError, InvitationCancelled, Malformed, PolicyRefused, UsageError
from handfast.introducers import nifi
from handfast.introducers.nifi import MOST_TOKENS, REGISTRAR_HALF, NifiIntroducer, SharedToken, check_token
from tests.introducers import stage
from tests.introducers.stage import (
    CA_KEY,
    MASTER,
    NEW_KEY,
    NIFI,
    NODE_TOKEN,
    NOW,
    OTHER_KEY,
    SALT,
    SHARED_TOKEN,
    Stage,
    a_node,
    by_nifi,
    node_request,
    pem,
)

ANY = NifiIntroducer(CA_KEY.public_key(), SharedToken(SHARED_TOKEN, any_name=True), MASTER)
RSA_KEY = rsa.generate_private_key(65537, 2048)
DER = node_request().public_bytes(Encoding.DER)
COMMON_NAME = b"\x55\x04\x03"


def shown(token: Secret, csr: str, *, key: CertificateIssuerPrivateKeyTypes = NEW_KEY) -> Evidence:
    """A message with any text for the request, and a tag that fits ``key``."""
    body = msgspec.json.encode(nifi.NifiRequest(hmac=nifi.tag(token, key.public_key()), csr=csr))
    return Evidence("nifi", body, Channel(stage.SERVER_SPKI))


def asked(request: pyca.CertificateSigningRequest, introducer: NifiIntroducer = ANY) -> Finding:
    """What is found for the holder of the shared token."""
    evidence = Evidence("nifi", nifi.encode_request(SHARED_TOKEN, request), Channel(stage.SERVER_SPKI))
    return introducer.verify(evidence, Stage())


def tlv(tag: int, content: bytes) -> bytes:
    """DER."""
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def encoded(subject: bytes) -> str:
    """A request with these bytes for its subject, signed by its key."""
    info = tlv(0x30, tlv(2, b"\0") + subject + stage.NEW_SPKI + tlv(0xA0, b""))
    algorithm = tlv(0x30, tlv(6, bytes.fromhex("2a8648ce3d040302")))
    signature = NEW_KEY.sign(info, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return pem(tlv(0x30, info + algorithm + tlv(3, b"\0" + signature)))


# ------------------------------------------------------------------------------------------- who answers, who asks


def test_by_itself_it_accepts_nobody() -> None:
    """Being known is not being configured: without an authority and a token no tag fits."""
    honest = by_nifi()
    halves = (
        REGISTRAR_HALF,
        NifiIntroducer(CA_KEY.public_key()),
        NifiIntroducer(shared=NIFI.shared, master=MASTER),
        NifiIntroducer(CA_KEY.public_key(), shared=NIFI.shared),
        NifiIntroducer(CA_KEY.public_key(), master=Secret(bytes(32))),
    )
    for half in halves:
        with pytest.raises(EvidenceRejected):
            half.verify(honest.evidence, honest.stage)


@pytest.mark.parametrize("ca", [CA_KEY, RSA_KEY], ids=["P-256", "RSA"])
def test_attack_reflection(ca: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    """
    Our answer's tag is that of a request with our own key: whoever saw one may not present it.

    Even a request that our key did sign (the CA's own certificate request, found in a backup) is refused.
    """
    half = dataclasses.replace(ANY, ca=ca.public_key())
    reflected = node_request(ca, "CN=evil.lan", ("evil.lan",))
    answered = nifi.tag(SHARED_TOKEN, ca.public_key())
    assert answered == nifi.tag(SHARED_TOKEN, reflected.public_key())
    body = msgspec.json.encode({"hmac": answered, "csr": reflected.public_bytes(Encoding.PEM).decode()})
    with pytest.raises(EvidenceRejected, match="reflects"):
        half.verify(Evidence("nifi", body, Channel(b"")), Stage())


def test_attack_reflection_under_another_algorithm() -> None:
    """The tag covers the key's bits and not its algorithm: the same bits as RSASSA-PSS key are our key still."""
    half = dataclasses.replace(ANY, ca=RSA_KEY.public_key())
    der = node_request(RSA_KEY, "CN=evil.lan", ("evil.lan",)).public_bytes(Encoding.DER)
    plain, pss = bytes.fromhex("06092a864886f70d010101"), bytes.fromhex("06092a864886f70d01010a")
    assert der.count(plain) == 1
    evidence = shown(SHARED_TOKEN, pem(der.replace(plain, pss)), key=RSA_KEY)
    with pytest.raises((EvidenceRejected, Malformed)):
        half.verify(evidence, Stage())


@pytest.mark.parametrize("nth", [0, 1], ids=["subject", "alternative name"])
def test_attack_a_relay_rewrites_what_the_tag_does_not_cover(nth: int) -> None:
    """The tag is only over the key, and the original signs anything with it; here the request's signature breaks."""
    places = [place for place in range(len(DER)) if DER.startswith(b"node1.lan", place)]
    assert len(places) == 2
    forged = bytearray(DER)
    forged[places[nth] : places[nth] + 9] = b"admin.lan"
    evidence = shown(NODE_TOKEN, pem(bytes(forged)))
    assert pyca.load_der_x509_csr(bytes(forged)).public_key() == NEW_KEY.public_key()
    with pytest.raises(PolicyRefused, match="not signed by the key in it"):
        NIFI.verify(evidence, by_nifi().stage)


def test_attack_another_key_under_an_overheard_tag() -> None:
    """A tag that was seen on its way is of no use for a thief's own key."""
    stolen = shown(NODE_TOKEN, node_request(OTHER_KEY).public_bytes(Encoding.PEM).decode())
    with pytest.raises(EvidenceRejected, match="forbidden"):
        NIFI.verify(stolen, by_nifi().stage)


def test_a_replay_is_for_the_same_key_only() -> None:
    """The wire has no nonce: what is sent again finds the same key and the same marker, which the ledger spends once."""
    honest = by_nifi()
    later = dataclasses.replace(honest.stage, time=NOW + timedelta(minutes=59))
    again = NIFI.verify(honest.evidence, later)
    assert (again.public_key, again.once) == (stage.NEW_SPKI, NIFI.verify(honest.evidence, honest.stage).once)


def test_a_shared_token_is_once_for_each_key() -> None:
    """The marker is the key's, so that one key has one certificate, and two have two."""
    first, again, other = (asked(node_request(key)).once for key in (NEW_KEY, NEW_KEY, OTHER_KEY))
    assert first == again != other
    assert first.uses == 1
    assert first.marker == f"nifi:{hashlib.sha256(stage.NEW_SPKI).hexdigest()}"


# ------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("token", [b"", b"x" * 32, SHARED_TOKEN.reveal()[:-1], SHARED_TOKEN.reveal() + b"\n"])
def test_attack_wrong_token(token: bytes) -> None:
    """No token but the whole one fits, and the stranger learns one word."""
    with pytest.raises(EvidenceRejected, match="^forbidden$"):
        ANY.verify(by_nifi(token=Secret(token)).evidence, Stage())


@pytest.mark.parametrize("fields", [{}, {"hmac": None}, {"hmac": ""}, {"hmac": "AAAA"}])
def test_attack_no_tag(fields: dict[str, object]) -> None:
    """Nothing is not equal to anything."""
    body = msgspec.json.encode(fields | {"csr": pem(DER)})
    with pytest.raises(EvidenceRejected):
        ANY.verify(Evidence("nifi", body, Channel(b"")), by_nifi().stage)


def test_one_of_all_the_tokens_there_may_be_fits() -> None:
    """Each is tried, in well under the time of a handshake; only the one that fits says what it is for."""
    nodes = {}
    for number in range(MOST_TOKENS):
        salt = hashlib.sha256(bytes([number & 255, number >> 8])).digest()
        nodes[str(number)] = a_node(key_id=f"{number:016x}", public_half=salt, machine=f"node{number}")
    scene = Stage(invitations=nodes)
    for number in (0, MOST_TOKENS // 2, MOST_TOKENS - 1):
        evidence = by_nifi(token=nifi.one_time_token(MASTER, nodes[str(number)].public_half)).evidence
        finding = NIFI.verify(evidence, scene)
        assert (finding.entitlement.machine, finding.once.marker) == (f"node{number}", f"invitation:{number:016x}")
    begin = time.process_time()
    with pytest.raises(EvidenceRejected):
        NIFI.verify(by_nifi(token=Secret(b"none of these is it")).evidence, scene)
    assert time.process_time() - begin < 0.1


def test_a_stolen_ledger_admits_nobody() -> None:
    """What the ledger keeps, presented as the token, is none; another master makes other tokens of it."""
    node = a_node()
    for guess in (SALT, SALT.hex().encode(), node.key_id.encode()):
        with pytest.raises(EvidenceRejected):
            NIFI.verify(by_nifi(token=Secret(guess)).evidence, Stage(invitations={node.key_id: node}))
    assert nifi.one_time_token(Secret(bytes(32)), SALT).reveal() != NODE_TOKEN.reveal()


def test_one_time_tokens_are_strong_and_say_whose_they_are() -> None:
    """They pass what is asked of a shared one, and are recognized where somebody lost one."""
    check_token(NODE_TOKEN)
    assert NODE_TOKEN.reveal().startswith(b"handfastnifi1_")
    assert len(NODE_TOKEN.reveal()) == len("handfastnifi1_") + 43


def test_attack_cancelled() -> None:
    """Its holder is told, in any order of presenting, and a stranger is not."""
    honest = by_nifi(record=a_node(cancelled="lost"))
    with pytest.raises(InvitationCancelled, match=a_node().key_id):
        NIFI.verify(honest.evidence, honest.stage)
    with pytest.raises(EvidenceRejected):
        NIFI.verify(by_nifi(token=Secret(b"x" * 16)).evidence, honest.stage)


@pytest.mark.parametrize(("late", "fits"), [(timedelta(minutes=59, seconds=59), True), (timedelta(hours=1), False)])
def test_attack_expired(late: timedelta, fits: bool) -> None:
    """A token has an end, and is tried no more from that second."""
    honest = by_nifi()
    honest.stage.time += late
    if fits:
        assert NIFI.verify(honest.evidence, honest.stage).once.marker == f"invitation:{a_node().key_id}"
    else:
        with pytest.raises(EvidenceRejected, match="forbidden"):
            NIFI.verify(honest.evidence, honest.stage)


def test_attack_an_invitation_is_no_token() -> None:
    """The public key of an invitation stands in the log: what derives from it is tried for no node."""
    salt = stage.LINE.public_key()
    honest = by_nifi(token=nifi.one_time_token(MASTER, salt))
    honest.stage.invitations = {stage.LINE.key_id: stage.an_invitation()}
    with pytest.raises(EvidenceRejected):
        NIFI.verify(honest.evidence, honest.stage)
    honest.stage.invitations = {stage.LINE.key_id: a_node(public_half=salt)}
    assert NIFI.verify(honest.evidence, honest.stage)


def test_a_token_beyond_ascii() -> None:
    """It is its bytes in UTF-8: not normalized, not folded."""
    token = Secret("tökén-unicode-16".encode())
    half = dataclasses.replace(ANY, shared=SharedToken(token, any_name=True))
    assert half.verify(by_nifi(token=token).evidence, Stage()).transcript == nifi.tag(token, CA_KEY.public_key())
    for other in ("token-unicode-16", "to\u0308ke\u0301n-unicode-16", "TÖKÉN-UNICODE-16"):
        with pytest.raises(EvidenceRejected):
            half.verify(by_nifi(token=Secret(other.encode())).evidence, Stage())


@pytest.mark.parametrize(
    "token",
    [b"", b"fifteen bytes !", b"a" * 32, b"abababababababab", b"myTestTokenUseSomethingStronger", b"SIXTEENcharacters"],
)
def test_a_token_that_can_be_guessed_is_refused(token: bytes) -> None:
    """Who poses as the CA has a tag to try at leisure; the message has no token in it."""
    with pytest.raises(UsageError) as caught:
        check_token(Secret(token))
    assert "openssl rand" in caught.value.hint
    assert not token or token.decode() not in caught.value.message


@pytest.mark.parametrize("token", [b"0123456789abcdee", "tökén-unicode-16".encode(), b"\xff" * 9 + b"1234567"])
def test_a_token_of_sixteen_bytes_will_do(token: bytes) -> None:
    """As the original has it, in bytes and not characters."""
    check_token(Secret(token))


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
    """The Kelvin sign is no k: such a common name is a person's, and no machine's name."""
    finding = asked(node_request(NEW_KEY, "CN=\u212aafka.lan, OU=NIFI", ()))
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
    with pytest.raises(Malformed, match="not one PEM|not a certificate request"):
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


def test_both_halves_read_each_other() -> None:
    """What the client's half writes is found, and what the registrar proves is accepted, by this CA's key only."""
    finding = asked(node_request(), NIFI)
    leaf = stage.certificate(NEW_KEY.public_key())
    body = msgspec.json.encode(nifi.NifiAnswer(finding.transcript, leaf.public_bytes(Encoding.PEM).decode()))
    ca, other = (stage.certificate(key.public_key()) for key in (CA_KEY, OTHER_KEY))
    assert nifi.decode_answer(body, SHARED_TOKEN, ca) == leaf
    for token, shower in ((NODE_TOKEN, ca), (SHARED_TOKEN, other)):
        with pytest.raises(EvidenceRejected, match="man in the middle"):
            nifi.decode_answer(body, token, shower)


@pytest.mark.parametrize("body", [b"", b"{}", b" " * (nifi.MAX_BODY + 1), b"<html>", b'{"hmac":"AAAA"}'])
def test_an_answer_that_is_none(body: bytes) -> None:
    """Of whatever answers there: one of our errors, and nothing is read beyond the limit."""
    with pytest.raises(HandfastError) as caught:
        nifi.decode_answer(body, SHARED_TOKEN, stage.certificate(CA_KEY.public_key()))
    assert caught.value.hint


def test_the_tag_is_over_the_identifier_of_the_key() -> None:
    """The same key in a request and in a certificate has one tag, of 32 bytes."""
    whole = nifi.tag(SHARED_TOKEN, node_request().public_key())
    assert whole == nifi.tag(SHARED_TOKEN, stage.certificate(NEW_KEY.public_key()).public_key())
    assert len(whole) == 32
    assert keys.spki(node_request().public_key()) == stage.NEW_SPKI
