"""Certificates of other authorities as introductions: what they lead to, and who comes with one that is not his."""

from __future__ import annotations

import base64
import dataclasses
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import csr
from handfast.core.flow import Evidence, Finding
from handfast.core.hostproof import HostClaim, HostKeys
from handfast.core.hosts import How
from handfast.core.invitation import Address
from handfast.core.names import NamePattern, Names
from handfast.core.revocation import RevocationList
from handfast.core.roles import Role
from handfast.errors import EvidenceRejected, HandfastError, Malformed, PolicyRefused, Refused, Revoked, UntrustedPeer
from handfast.introducers import x5c
from handfast.introducers.x5c import X5cIntroducer
from handfast.newcomer.x5c import KeyFile
from tests.core import sshmaterial
from tests.introducers import stage
from tests.introducers.stage import NOW, OTHER_KEY, PIN, THEIRS, X5C, X5C_RULES, Honest, by_x5c
from tests.introducers.x5c_material import DAY, p256, root

KEY = p256("another leaf")
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")  # an AlgorithmIdentifier
HOST_KEY = sshmaterial.signer()


def verified(honest: Honest, introducer: X5cIntroducer = X5C) -> Finding:
    """What is found."""
    return introducer.verify(honest.evidence, honest.stage)


def refused(honest: Honest, why: str, kind: type[HandfastError] = EvidenceRejected, by: X5cIntroducer = X5C) -> None:
    """It is refused, in this class and for this reason."""
    with pytest.raises(kind, match=why) as caught:
        verified(honest, by)
    assert type(caught.value) is kind


def fields(honest: Honest) -> dict[str, Any]:
    """The message."""
    decoded: dict[str, Any] = msgspec.json.decode(honest.evidence.payload)
    return decoded


def sent(honest: Honest, **changes: Any) -> Honest:
    """The same with other fields, and the signature as it was."""
    payload = msgspec.json.encode(fields(honest) | changes)
    return dataclasses.replace(honest, evidence=dataclasses.replace(honest.evidence, payload=payload))


def der(*certificates: pyca.Certificate) -> list[str]:
    """As in the message."""
    return [base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in certificates]


def host_keys() -> HostKeys:
    """SSH host keys that can sign."""
    return HostKeys((HOST_KEY,), (22, 2222))


def test_P24_a_certificate_entitles_to_what_stands_in_it() -> None:
    """Its names and no other, the machine by the first of them, the role that is configured, once."""
    finding = verified(by_x5c())
    assert finding.entitlement.machine == "web1.lan"
    assert finding.entitlement.names == Names.parse(["web1.lan", "10.0.0.7"])
    assert finding.entitlement.roles == {Role.SERVER}
    assert (finding.entitlement.sources, finding.entitlement.until, finding.shared) == (None, None, False)
    assert finding.once.marker == x5c.marker(THEIRS.leaf)
    assert finding.once.uses == 1
    assert "by 'CN=their CA'" in finding.proof
    assert finding.host is None


def test_host_keys_are_at_exactly_the_names_in_the_certificate() -> None:
    """They are proved, become known by ``x5c``, and are reached as what the certificate says."""
    finding = verified(by_x5c(host=host_keys())).host
    assert finding is not None
    assert (finding.machine, finding.how, finding.complete) == ("web1.lan", How.X5C, True)
    assert finding.keys == (HOST_KEY.public,)
    assert finding.place is not None
    assert finding.place.hosts() == ("web1.lan", "10.0.0.7")
    assert finding.place.ports == (22, 2222)
    assert "'CN=web1.lan'" in finding.detail


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate(),
     rsa.generate_private_key(65537, 2048)],
    ids=["P-384", "Ed25519", "RSA"],
)  # fmt: skip
def test_every_kind_of_leaf_key_introduces(key: CertificateIssuerPrivateKeyTypes) -> None:
    """Whatever another authority certifies and is verified with here."""
    leaf = THEIRS.ca.leaf(key, "web1.lan")
    assert verified(by_x5c(site=THEIRS.having(leaf, key))).entitlement.machine == "web1.lan"


def test_its_end_counts_only_where_that_is_said() -> None:
    """``cut``: the credential ends with the certificate."""
    cut = X5cIntroducer(dataclasses.replace(X5C_RULES, cut=True))
    assert verified(by_x5c(), cut).entitlement.until == NOW + DAY


def test_P24_somebody_who_only_has_the_certificate_is_refused() -> None:
    """It is public. The signature has to be by its own key, for this request, registrar, and connection."""
    refused(by_x5c(key=OTHER_KEY), "does not fit this connection and request")
    refused(by_x5c(key=THEIRS.ca.key), "does not fit")
    recorded = by_x5c()
    again = fields(by_x5c())
    refused(sent(recorded, nonce=again["nonce"], newcomer_nonce=again["newcomer_nonce"]), "does not fit")


def test_P24_a_request_is_not_taken_over() -> None:
    """Who stands in between and exchanges chain, key, role or host keys breaks the signature."""
    honest = by_x5c(host=host_keys())
    other = fields(by_x5c(host=host_keys(), csr_der=csr.build(OTHER_KEY)))
    for change in (
        {"csr": other["csr"]},
        {"reintroduction_key": base64.b64encode(bytes(32)).decode()},
        {"role": "client"},
        {"host": None},
        {"host": other["host"]},
        {"chain": der(THEIRS.leaf)},
        {"chain": der(*THEIRS.chain, THEIRS.root.certificate)},
    ):
        refused(sent(honest, **change), "does not fit")


def test_a_host_key_of_somebody_else_is_refused() -> None:
    """A claim whose proof is for another request proves nothing in this one."""
    other = fields(by_x5c(host=host_keys(), csr_der=csr.build(OTHER_KEY)))["host"]
    claim = msgspec.convert(other, HostClaim)
    honest = by_x5c()
    request = msgspec.structs.replace(msgspec.json.decode(honest.evidence.payload, type=x5c.X5cRequest), host=claim)
    signed = x5c.transcript(request, pin=PIN, server_spki=stage.SERVER_SPKI)
    request = msgspec.structs.replace(request, signature=KeyFile(THEIRS.key).sign(signed))
    evidence = Evidence("x5c", msgspec.json.encode(request), honest.evidence.channel)
    refused(dataclasses.replace(honest, evidence=evidence), "an SSH host key is not proved")


def test_P24_who_chains_to_no_root_is_a_stranger() -> None:
    """The right names, by the holder's own hand or by another authority."""
    own = root("web1.lan", KEY)
    refused(by_x5c(chain=(own.leaf(KEY, "web1.lan"),), key=KEY), "candidates exhausted")
    other = root("their root", p256("mallory")).below("their CA", p256("mallory's CA"))
    refused(by_x5c(chain=(other.leaf(KEY, "web1.lan"), other.certificate), key=KEY), "candidates exhausted")
    refused(by_x5c(chain=(THEIRS.leaf,)), "candidates exhausted")


def test_without_configuration_nobody_is_introduced() -> None:
    """What is known in this folder is not enabled."""
    refused(by_x5c(), "no root of another authority is configured", by=x5c.REGISTRAR_HALF)


def test_an_expired_leaf_is_refused() -> None:
    """By our clock, at the second after its end."""
    old = by_x5c(chain=(THEIRS.ca.leaf(THEIRS.key, "web1.lan", end=NOW - timedelta(seconds=1)), *THEIRS.chain[1:]))
    refused(old, "valid from")


def test_a_CA_is_no_machine() -> None:
    """Who has a CA's key may make leaves; the CA itself is nobody."""
    refused(by_x5c(chain=(THEIRS.ca.certificate,), key=THEIRS.ca.key), "must not be asserted in an EE")


@pytest.mark.parametrize("which", [0, 1])
def test_every_changed_byte_of_the_chain_is_refused(which: int) -> None:
    """
    Also where its holder signs what he has changed: nothing that a certificate may hold ends in anything else.

    But for the count of unused bits before a signature that ends in zeros: it changes nothing, nor the marker.
    """
    whole = [each.public_bytes(Encoding.DER) for each in THEIRS.chain]
    request = msgspec.json.decode(by_x5c().evidence.payload, type=x5c.X5cRequest)
    channel, world, finding = by_x5c().evidence.channel, by_x5c().stage, verified(by_x5c())
    for position in range(len(whole[which])):
        changed = bytearray(whole[which])
        changed[position] ^= 1
        chain = [*whole[:which], bytes(changed), *whole[which + 1 :]]
        request = msgspec.structs.replace(request, chain=chain)
        signed = x5c.transcript(request, pin=PIN, server_spki=stage.SERVER_SPKI)
        message = msgspec.json.encode(msgspec.structs.replace(request, signature=KeyFile(THEIRS.key).sign(signed)))
        try:
            again = X5C.verify(Evidence("x5c", message, channel), world)
        except Refused:
            continue
        assert position == len(whole[which]) - len(THEIRS.chain[which].signature) - 1
        assert (again.once, again.entitlement) == (finding.once, finding.entitlement)


@pytest.mark.parametrize("number", [6, 100])
def test_a_long_chain_is_not_read(number: int) -> None:
    """Before anything of it is."""
    refused(sent(by_x5c(), chain=der(THEIRS.leaf) * number), "Expected `array` of length <= 5", Malformed)


def test_no_chain_and_no_certificate_is_malformed() -> None:
    """What cannot be read is named as that."""
    refused(sent(by_x5c(), chain=[]), "length >= 1", Malformed)
    refused(sent(by_x5c(), chain=["AAAA"]), "not a certificate", Malformed)
    large = base64.b64encode(bytes(16 * 1024 + 1)).decode()
    refused(sent(by_x5c(), chain=[large]), "length <= 16384", Malformed)


@pytest.mark.parametrize(
    "names", [("db1.example",), ("web1.lan", "db1.example"), ("web1.lan", "10.0.1.7"), ("a.b.lan",)]
)
def test_P24_names_beyond_what_is_allowed_are_refused(names: tuple[str, ...]) -> None:
    """Not left out: whoever has such a certificate is not who was thought of."""
    leaf = THEIRS.ca.leaf(KEY, *names)
    refused(by_x5c(site=THEIRS.having(leaf, KEY)), rf"no certificate introduces {names[-1]} here", PolicyRefused)


def test_all_names_beyond_are_told_at_once() -> None:
    """As policy does."""
    leaf = THEIRS.ca.leaf(KEY, "a.example", "web1.lan", "b.example", "192.0.2.7")
    refused(by_x5c(site=THEIRS.having(leaf, KEY)), "a.example, b.example, 192.0.2.7", PolicyRefused)


def test_without_allowed_names_none_is() -> None:
    """Empty means no."""
    none = X5cIntroducer(dataclasses.replace(X5C_RULES, names=()))
    refused(by_x5c(), "web1.lan, 10.0.0.7", PolicyRefused, none)


def test_a_wildcard_is_no_name() -> None:
    """Not the machine's, nor one that it is reached as, whatever patterns allow."""
    every = X5cIntroducer(dataclasses.replace(X5C_RULES, names=(NamePattern.parse("*.lan"), NamePattern.parse("*"))))
    finding = verified(by_x5c(site=THEIRS.having(THEIRS.ca.leaf(KEY, "*.lan", "web1.lan"), KEY)), every)
    assert finding.entitlement.names == Names.parse(["web1.lan"])
    only = THEIRS.having(THEIRS.ca.leaf(KEY, "*.lan"), KEY)
    refused(by_x5c(site=only), "no DNS name that is one machine's", by=every)


def with_lists(*lists: pyca.CertificateRevocationList) -> X5cIntroducer:
    """The introducer with these lists."""
    read = [RevocationList.read(each.public_bytes(Encoding.DER), "list") for each in lists]
    return X5cIntroducer(X5C_RULES, lambda: read)


def test_P24_who_was_revoked_is_refused() -> None:
    """By its own authority, once that says so."""
    assert verified(by_x5c(), with_lists(THEIRS.ca.crl())).once.uses == 1
    refused(by_x5c(), "on the revocation list of its CA", Revoked, with_lists(THEIRS.ca.crl(THEIRS.leaf)))
    both = with_lists(THEIRS.ca.crl(), THEIRS.root.crl(THEIRS.ca.certificate))
    refused(by_x5c(), "'CN=their CA' is on", Revoked, both)


def test_P24_where_a_list_is_missing_or_stale_nobody_is_introduced() -> None:
    """Keeping a list back gains nothing."""
    refused(by_x5c(), "no current list of its CA is there", by=with_lists())
    refused(by_x5c(), "no current list of its CA is there", by=with_lists(THEIRS.ca.crl(end=NOW)))


def test_a_stranger_learns_nothing_of_revocation() -> None:
    """Who has not proved the key hears of the signature, and of nothing else."""
    revoked = with_lists(THEIRS.ca.crl(THEIRS.leaf))
    refused(by_x5c(key=OTHER_KEY), "does not fit", by=revoked)


def test_lists_are_looked_through_for_allowed_names_only() -> None:
    """They may be large: a certificate for names that are not allowed here costs us no look at them."""

    def never() -> list[RevocationList]:
        raise AssertionError("the lists were asked for")

    none = X5cIntroducer(dataclasses.replace(X5C_RULES, names=()), never)
    refused(by_x5c(), "web1.lan, 10.0.0.7", PolicyRefused, none)


def test_P24_one_certificate_has_one_marker() -> None:
    """
    Another signature over the same content is the same certificate.

    An ECDSA signature (r, s) is as good as (r, n - s), which anybody can compute: counted by the whole, a certificate
    would be good for two keys.
    """
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    r, s = decode_dss_signature(THEIRS.leaf.signature)
    signature = b"\x00" + encode_dss_signature(r, order - s)
    content = THEIRS.leaf.tbs_certificate_bytes + ECDSA_SHA256 + b"\x03" + bytes([len(signature)]) + signature
    other = pyca.load_der_x509_certificate(b"\x30\x82" + len(content).to_bytes(2, "big") + content)
    assert other != THEIRS.leaf
    assert verified(by_x5c(site=THEIRS.having(other))).once == verified(by_x5c()).once


def test_another_certificate_has_another_marker() -> None:
    """Renewed by its authority it may come with another key: nobody has to keep a key that was lost."""
    renewed = THEIRS.ca.leaf(THEIRS.key, "web1.lan", serial=7)
    assert verified(by_x5c(site=THEIRS.having(renewed))).once != verified(by_x5c()).once


def certified(leaf: pyca.Certificate = THEIRS.leaf) -> x5c.Certified:
    """The newcomer's half."""
    return x5c.Certified((leaf, *THEIRS.chain[1:]), KeyFile(THEIRS.key), PIN, (Address("registrar.lan", 7443),))


def test_the_newcomer_insists_on_its_names() -> None:
    """A registrar that answers with others is refused; and the same certificate gets the same keys."""
    way = certified()
    assert way.wish.names == Names.parse(["web1.lan", "10.0.0.7"])
    assert way.purpose == x5c.marker(THEIRS.leaf)
    assert (way.method, way.pin) == ("x5c", PIN)


@pytest.mark.parametrize(
    ("late", "kind", "why"),
    [
        (DAY, Refused, "the certificate of 'CN=web1.lan' ended at 2026-11-23 12:00Z"),
        (-DAY - timedelta(minutes=6), UntrustedPeer, "before the certificate was made"),
    ],
)
def test_the_newcomer_judges_the_registrars_clock(late: timedelta, kind: type[HandfastError], why: str) -> None:
    """Within the certificate's own times, so that an old certificate of a registrar is not made valid again."""
    certified().check_time(NOW)
    certified().check_time(NOW - DAY - timedelta(minutes=4))
    with pytest.raises(kind, match=why) as caught:
        certified().check_time(NOW + late)
    assert type(caught.value) is kind
