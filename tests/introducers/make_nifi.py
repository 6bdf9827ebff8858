"""
The vectors of NiFi's protocol: what the original wrote, and what is accepted and refused of it.

Tags and one-time tokens are spelled here a second time, from docs/protocols/nifi.md. The original's own messages are
data of ``data/``.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from handfast.core import dn, keys
from handfast.core.records import Invitation
from handfast.core.roles import Role
from tests.introducers import stage, vectors
from tests.introducers.stage import CA_KEY, MASTER, NEW_KEY, NODE, NOW, OTHER_KEY, PIN, SALT, SERVER_SPKI

REAL: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "nifi-toolkit-1.28.1.json").read_text())
SHARED = vectors.SharedToken(
    token=stage.SHARED_TOKEN.reveal().decode(),
    subjects=["CN=*.lan, OU=NIFI", "CN=Kim Lee, OU=Admins"],
    names=["*.lan", "10.0.0.0/24"],
    any_name=False,
)
OPEN = vectors.SharedToken(token=SHARED.token, subjects=[], names=[], any_name=True)
NOBODY = vectors.SharedToken(token=SHARED.token, subjects=[], names=[], any_name=False)
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def key_id(key: PublicKey) -> bytes:
    """SHA-1 over the bits of the key, without tag, length and the count of unused bits."""
    if isinstance(key, rsa.RSAPublicKey):
        bits = key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    else:
        bits = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hashlib.sha1(bits).digest()


def tag(token: str, key: PublicKey) -> bytes:
    """HMAC-SHA256 with the UTF-8 bytes of the token, over the key's identifier."""
    return hmac.digest(token.encode(), key_id(key), "sha256")


def node_token(salt: bytes = SALT) -> str:
    """The one-time token of a salt."""
    derived = hmac.digest(MASTER.reveal(), b"handfast nifi one-time token v1\x00" + salt, "sha256")
    return "handfastnifi1_" + base64.urlsafe_b64encode(derived).decode().rstrip("=")


def unnamed(subject: str) -> str:
    """The machine's name where the subject is not that of a host."""
    return f"dn-{hashlib.sha256(dn.parse(subject).public_bytes()).hexdigest()[:32]}"


def sans(*names: pyca.GeneralName) -> dict[str, Any]:
    """The arguments of a request with these alternative names."""
    return {"names": (), "extensions": (pyca.SubjectAlternativeName(names),)}


@dataclasses.dataclass(frozen=True)
class Case:
    """An honest message, and how this one departs from it."""

    name: str
    describes: str
    outcome: vectors.Outcome = "success"
    shared: vectors.SharedToken | None = None  # whose token is used; None: the one-time token
    request: dict[str, Any] = dataclasses.field(default_factory=dict)
    token: str | None = None
    tagged: PublicKey | None = None  # whose tag is sent, if not the request's key
    sent: dict[str, Any] = dataclasses.field(default_factory=dict)  # put in the message afterwards
    text: tuple[str, str] = ("", "")  # exchanged in the PEM
    payload: str | None = None
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    machine: str = "node1.lan"
    wished: tuple[str, ...] = ("node1.lan",)
    subject: str = NODE
    entitled: tuple[str, ...] | None = None  # the names; None: those wished
    named: bool = True  # whether the shared token allows the subject


WILD, URI = pyca.DNSName("*.lan"), pyca.UniformResourceIdentifier("https://node1.lan")
MANY = [pyca.DNSName(f"n{number}.lan") for number in range(64)]
PERSON = pyca.SubjectAlternativeName([pyca.DNSName("Kim Lee")])
CASES = (
    Case("one-time", "a one-time token"),
    Case("one-time-used", "how many uses are left is for the ledger", record={"spent": 1}),
    Case("one-time-beyond", "a name and a subject beyond the token: found here, refused by policy",
         request={"subject": "CN=other.lan, OU=NIFI", "names": ("other.lan",)}, subject="CN=other.lan, OU=NIFI",
         wished=("other.lan",)),
    Case("shared", "the shared token, for what its patterns allow", shared=SHARED),
    Case("shared-with-names", "with other names and an address", shared=SHARED,
         request={"names": ("node1.lan", "lb.lan", "10.0.0.7")}, wished=("lb.lan", "node1.lan", "10.0.0.7")),
    Case("shared-beyond", "a name, an address and a subject that no pattern allows: refused by policy", shared=SHARED,
         request={"subject": "CN=a.b.lan, OU=NIFI", "names": ("a.b.lan", "lb.lan", "10.0.1.7")},
         subject="CN=a.b.lan, OU=NIFI", machine="a.b.lan", wished=("a.b.lan", "lb.lan", "10.0.1.7"),
         entitled=("lb.lan",), named=False),
    Case("shared-nothing-allowed", "without patterns nothing but what leads to its own address", shared=NOBODY,
         entitled=(), named=False),
    Case("shared-any-name", "what the original does: everything", shared=OPEN,
         request={"subject": "CN=root, OU=Everything", "names": ("bank.example", "192.0.2.1")},
         subject="CN=root, OU=Everything", machine=unnamed("CN=root, OU=Everything"),
         wished=("bank.example", "root", "192.0.2.1")),
    Case("person", "a person's common name is no host, and not certified as one", shared=SHARED,
         request={"subject": "CN=Kim Lee, OU=Admins", "names": (), "extensions": (PERSON,)},
         subject="CN=Kim Lee, OU=Admins", machine=unnamed("CN=Kim Lee, OU=Admins"), wished=()),
    Case("without-alternative-names", "as the clients before 1.2 ask: the common name is one", request={"names": ()}),
    Case("upper-case", "names are compared in lower case", shared=SHARED,
         request={"subject": "CN=Node1.LAN, OU=NIFI", "names": ("NODE1.lan",)}, subject="CN=Node1.LAN, OU=NIFI"),
    Case("new-certificate-request", "the other header of PEM", text=("CERTIFICATE", "NEW CERTIFICATE")),
    Case("crlf", "line ends of another system", text=("\n", "\r\n")),
    Case("token-unicode", "a token is its bytes in UTF-8",
         shared=vectors.SharedToken(token="tökén-unicode-16", subjects=[NODE], names=[], any_name=False)),
    Case("hmac-missing", "no tag", "evidence-rejected", sent={"hmac": None}),
    Case("hmac-empty", "an empty tag", "evidence-rejected", sent={"hmac": ""}),
    Case("hmac-zeros", "a tag of zeros", "evidence-rejected", sent={"hmac": base64.b64encode(bytes(32)).decode()}),
    Case("hmac-unpadded", "base64 without its end", "malformed", sent={"hmac": "A" * 43}),
    Case("other-token", "a token that nobody gave out", "evidence-rejected", token="not a token of this registrar"),
    Case("other-salt", "a token of this registrar that is not open", "evidence-rejected", token=node_token(bytes(32))),
    Case("other-keys-tag", "a tag for another key: a tag that was overheard", "evidence-rejected",
         tagged=OTHER_KEY.public_key()),
    Case("reflected", "our own answer's tag, with a request for the authority's key", "evidence-rejected",
         request={"key": CA_KEY}),
    Case("cancelled", "the token was taken back", "invitation-cancelled", record={"cancelled": "lost"}),
    Case("expired", "at the second of its end", "evidence-rejected", record={"expires_at": NOW}),
    Case("of-another-method", "an invitation is no one-time token", "evidence-rejected",
         record={"method": "invitation"}),
    Case("csr-missing", "no request", "malformed", sent={"csr": None}),
    Case("csr-empty", "an empty request", "malformed", sent={"csr": ""}),
    Case("csr-bare", "base64 without PEM", "malformed",
         sent={"csr": base64.b64encode(stage.node_request().public_bytes(Encoding.DER)).decode()}),
    Case("csr-twice", "two requests", "malformed",
         sent={"csr": stage.node_request().public_bytes(Encoding.PEM).decode() * 2}),
    Case("csr-and-key", "a private key behind the request", "malformed",
         text=("REQUEST-----\n", "REQUEST-----\n-----BEGIN PRIVATE KEY-----\n")),
    Case("certificate", "a certificate instead of a request", "malformed",
         sent={"csr": stage.certificate().public_bytes(Encoding.PEM).decode()}),
    Case("key-p521", "a key that is not certified", "policy-refused",
         request={"key": ec.derive_private_key(3, ec.SECP521R1())}),
    Case("wildcard", "a wildcard", "policy-refused", shared=OPEN, request=sans(WILD)),
    Case("wildcard-common-name", "one in the subject, which Java compares where no other name is", "policy-refused",
         shared=OPEN, request={"subject": "CN=*.lan", "names": ()}),
    Case("uri", "a name that is neither a host nor an address", "policy-refused", shared=OPEN, request=sans(URI)),
    Case("65-names", "more names than a certificate may carry", "policy-refused", shared=OPEN, request=sans(*MANY)),
    Case("authority", "it asks to be an authority", "policy-refused",
         request={"extensions": (pyca.BasicConstraints(ca=True, path_length=None),)}),
    Case("no-common-name", "a subject without a common name", "policy-refused",
         request={"subject": pyca.Name([pyca.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "NIFI")])}),
    Case("subject-line-feed", "a subject with a line feed, for somebody's log", "policy-refused", shared=OPEN,
         request={"subject": pyca.Name([pyca.NameAttribute(NameOID.COMMON_NAME, "node1\nnode2")])}),
    Case("unknown-field", "one field more", "malformed", sent={"profile": "ca"}),
    Case("empty", "no bytes", "malformed", payload=""),
    Case("not-an-object", "JSON, but no object", "malformed", payload="[]"),
    Case("not-json", "no JSON", "malformed", payload="-----BEGIN CERTIFICATE REQUEST-----"),
)  # fmt: skip


def posted(case: Case) -> vectors.Vector:
    """A message of a node."""
    request = stage.node_request(**case.request)
    token = case.token or (node_token() if case.shared is None else case.shared.token)
    key = request.public_key()
    assert isinstance(key, PublicKey)
    message: dict[str, Any] = {
        "hmac": base64.b64encode(tag(token, case.tagged or key)).decode(),
        "csr": request.public_bytes(Encoding.PEM).decode().replace(*case.text),
    } | case.sent
    payload = json.dumps(message, separators=(",", ":")) if case.payload is None else case.payload
    record = stage.a_node(**case.record)
    found = None
    if case.outcome == "success":
        found = _by_node(key, case, record) if case.shared is None else _by_shared(key, case, case.shared.token)
    return _vector(case.describes, payload, case.shared or SHARED, case.outcome, found, records=[record])


def real() -> Iterator[tuple[str, vectors.Vector]]:
    """Requests that the original's client wrote, and that its server answered."""
    client, exchange = REAL["client"], REAL["exchange"]
    ca = _public(pyca.load_pem_x509_certificate(exchange["ca"].encode()))
    shared = vectors.SharedToken(
        token=client["token"], subjects=["CN=*.example, OU=NIFI"], names=["*.example", "192.168.1.1"], any_name=False
    )
    node = Case("", "", subject="CN=node1.example, OU=NIFI", machine="node1.example",
                wished=("a.example", "node1.example", "192.168.1.1"))  # fmt: skip
    key = _public(pyca.load_pem_x509_csr(json.loads(client["body"])["csr"].encode()))
    found = _by_shared(key, node, client["token"])
    yield "real-client", _vector("what the client of 1.28.1 writes", client["body"], shared, "success", found)
    node = Case("", "", subject="CN=probe.example, OU=NIFI", machine="probe.example",
                wished=("b.example", "probe.example"))  # fmt: skip
    key = _public(pyca.load_pem_x509_csr(json.loads(exchange["request"])["csr"].encode()))
    found = _by_shared(key, node, exchange["token"], ca)
    # the tag of the answer is not computed here, but the one that the original's server answered
    found = msgspec.structs.replace(found, transcript=base64.b64decode(json.loads(exchange["answer"])["hmac"]))
    yield (
        "real-exchange",
        _vector("what the server of 1.28.1 answered", exchange["request"], shared, "success", found, ca=ca),
    )


def relayed() -> Iterator[tuple[str, vectors.Vector]]:
    """Somebody between changes what the tag does not cover."""
    der = stage.node_request().public_bytes(Encoding.DER)
    sent = {"hmac": base64.b64encode(tag(node_token(), NEW_KEY.public_key())).decode()}
    changes = {
        "subject-rewritten": (b"node1.lan", b"node2.lan", 1),
        "names-rewritten": (b"node1.lan", b"node2.lan", 2),
    }
    for name, (old, new, nth) in changes.items():
        head, middle, tail = der.split(old)
        forged = head + (new + middle + old if nth == 1 else old + middle + new) + tail
        payload = json.dumps(sent | {"csr": stage.pem(forged)}, separators=(",", ":"))
        describes = "changed on its way: the tag fits, but the request's own signature does not"
        yield name, _vector(describes, payload, SHARED, "evidence-rejected", None, records=[stage.a_node()])


def answers() -> Iterator[tuple[str, vectors.AnswerVector]]:
    """What the client is answered."""
    token, ca, body = (REAL["exchange"][field] for field in ("token", "ca", "answer"))
    fields = json.loads(body)
    certificate = fields["pemEncodedCertificate"]
    other = _certificate_of(stage.OTHER_KEY)
    yield "real-exchange", _answer("what the server of 1.28.1 answered", body, certificate=certificate)
    short = {key: fields[key] for key in ("hmac", "pemEncodedCertificate")}
    yield "no-error-field", _answer("without the field that is always null", json.dumps(short), certificate=certificate)
    refused: dict[str, tuple[str, vectors.Outcome, dict[str, str]]] = {
        "other-key": ("a server with another key: a man in the middle", "evidence-rejected", {"ca": other}),
        "other-token": ("a server with another token", "evidence-rejected", {"token": "not the token of this server"}),
        "request-returned": ("the client's own tag in the answer", "evidence-rejected",
                             {"body": json.dumps(fields | {"hmac": json.loads(REAL["exchange"]["request"])["hmac"]})}),
        "hmac-null": ("no tag", "malformed", {"body": json.dumps(fields | {"hmac": None})}),
        "hmac-empty": ("an empty tag", "malformed", {"body": json.dumps(fields | {"hmac": ""})}),
        "no-certificate": ("a tag alone", "malformed", {"body": json.dumps(fields | {"pemEncodedCertificate": None})}),
        "not-a-certificate": ("something else for the certificate", "malformed",
                              {"body": json.dumps(fields | {"pemEncodedCertificate": "PEM"})}),
        "unknown-field": ("one field more", "malformed", {"body": json.dumps(fields | {"chain": []})}),
        "page": ("a web page", "malformed", {"body": "<html>Server Error</html>"}),
    }  # fmt: skip
    for name, (describes, outcome, changes) in refused.items():
        yield name, _answer(describes, **({"body": body, "ca": ca, "token": token} | changes), outcome=outcome)


def tags() -> Iterator[tuple[str, vectors.TagVector]]:
    """What the original computes, and one token beyond ASCII."""
    spki = base64.b64decode(REAL["tags"]["spki"])
    cases = REAL["tags"]["cases"] | {"tökén-unicode-16": "wR6QnKePrVFx2HeKMD9ER1/yIgsIVBw7PqZy/tuZdR8="}
    for number, (token, value) in enumerate(cases.items(), 1):
        whose = "calculateHMac of 1.28.1" if token.isascii() else "computed from the description"
        yield (
            f"{number}",
            vectors.TagVector(
                describes=whose, token=token, spki=spki, key_id=REAL["tags"]["key_id"], tag=base64.b64decode(value)
            ),
        )


def everything() -> Iterator[tuple[str, vectors.Kind]]:
    """Every vector by its path below vectors/."""
    yield from ((f"nifi/{case.name}.json", posted(case)) for case in CASES)
    yield from ((f"nifi/{name}.json", vector) for name, vector in (*real(), *relayed()))
    yield from ((f"{vectors.TAGS}/{name}.json", vector) for name, vector in tags())
    yield from ((f"{vectors.ANSWERS}/{name}.json", vector) for name, vector in answers())


def _vector(
    describes: str,
    payload: str,
    shared: vectors.SharedToken,
    outcome: vectors.Outcome,
    found: vectors.Found | None,
    *,
    records: Sequence[Invitation] = (),
    ca: PublicKey | None = None,
) -> vectors.Vector:
    key = keys.spki(ca or CA_KEY.public_key())
    return vectors.Vector(
        describes=describes,
        outcome=outcome,
        method="nifi",
        world=vectors.World(
            now=NOW,
            pin=PIN,
            nonce_key=stage.NONCE_KEY.reveal(),
            invitations=[vectors.InvitationOnRecord.of(record) for record in records],
            credentials=[],
            nifi=vectors.NifiConfigured(ca=key, shared=shared, master=MASTER.reveal()),
        ),
        connection=vectors.Connection(server_spki=SERVER_SPKI, client=None),
        payload=payload,
        finding=found,
    )


def _by_node(key: PublicKey, case: Case, record: Invitation) -> vectors.Found:
    found = _found(key, case, node_token(), CA_KEY.public_key())
    return msgspec.structs.replace(
        found,
        machine=record.machine,
        names=list(record.names.texts()),
        subject=record.subject,
        marker=f"invitation:{record.key_id}",
        uses=record.uses,
    )


def _by_shared(key: PublicKey, case: Case, token: str, ca: PublicKey | None = None) -> vectors.Found:
    found = _found(key, case, token, ca or CA_KEY.public_key())
    entitled = case.wished if case.entitled is None else case.entitled
    return msgspec.structs.replace(
        found, names=list(entitled), subject=found.wished_subject if case.named else None, own_address=True
    )


def _found(key: PublicKey, case: Case, token: str, ca: PublicKey) -> vectors.Found:
    spki = keys.spki(key)
    return vectors.Found(
        public_key=spki,
        machine=case.machine,
        roles=[Role.PEER],
        names=[],
        sources=None,
        wished_role=Role.PEER,
        wished_names=list(case.wished),
        marker=f"nifi:{hashlib.sha256(spki).hexdigest()}",
        uses=1,
        transcript=tag(token, ca),
        reintroduction_key=None,
        expired_at=None,
        wished_subject=dn.parse(case.subject).public_bytes(),
    )


def _answer(
    describes: str,
    body: str,
    *,
    certificate: str | None = None,
    ca: str = REAL["exchange"]["ca"],
    token: str = REAL["exchange"]["token"],
    outcome: vectors.Outcome = "success",
) -> vectors.AnswerVector:
    return vectors.AnswerVector(
        describes=describes, outcome=outcome, token=token, ca=ca, body=body, certificate=certificate
    )


def _certificate_of(key: ec.EllipticCurvePrivateKey) -> str:
    return stage.certificate(key.public_key()).public_bytes(Encoding.PEM).decode()


def _public(of: pyca.Certificate | pyca.CertificateSigningRequest) -> PublicKey:
    key = of.public_key()
    assert isinstance(key, PublicKey)
    return key
