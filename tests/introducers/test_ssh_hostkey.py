"""The host-key challenge: an honest host, what may be asked for, and what a host signs for."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from handfast.core import wire
from handfast.core.challenge import Challenge, Parameters, to_look
from handfast.core.flow import Once
from handfast.core.hosts import Grade, Host, How, Place
from handfast.core.sshcert import Kind
from handfast.core.sshdata import string
from handfast.errors import Malformed, Refused, UntrustedPeer
from handfast.introducers.ssh_hostkey import (
    PROOF_NAMESPACE,
    TOKEN_NAMESPACE,
)
from tests.introducers.challenges import (
    CA,
    ECDSA,
    ED25519,
    KEYS,
    LOOK,
    PLAY,
    RANDOM,
    SECOND,
    THIEF,
    SshStage,
    accept,
    changed,
    judged,
    rsa_key,
    verify,
)
from tests.introducers.stage import NOW

# --- honest ---


def test_both_halves_agree() -> None:
    """All five steps: the finding has the keys, names and addresses that were asked about, and the payload's nonce."""
    challenge = PLAY.challenge()
    assert judged(challenge) == CA.public
    assert accept(PLAY.proof(challenge)) == LOOK
    evidence, signed = PLAY.presented()
    found = verify(evidence)
    assert (found.method, found.kind, found.holder) == ("ssh-hostkey", Kind.HOST, "web1.lan")
    assert found.keys == LOOK.keys
    assert found.once == Once(f"ssh-hostkey:{RANDOM.hex()}")
    assert found.transcript == signed
    assert found.host is not None
    assert (found.host.machine, found.host.how, found.host.how.grade) == ("web1.lan", How.SSH_HOSTKEY, Grade.CHALLENGED)
    assert found.host.place == Place.parse(["web1.lan", "www.web.lan", "10.0.0.7", "2001:db8::7"], ports=(22, 2222))
    assert found.host.keys == LOOK.keys
    assert not found.host.complete
    assert found.host.detail == "asked at 2026-11-22 12:00:00Z, 10.0.0.7, 2001:db8::7"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa", "all"])
def test_every_kind_of_key(kind: str) -> None:
    """ed25519, ECDSA and RSA sign for themselves, alone and together."""
    signers = {"ed25519": (ED25519,), "ecdsa": (ECDSA,), "rsa": (rsa_key(),), "all": (*KEYS, rsa_key())}[kind]
    play = PLAY.but(signers=signers, look=dataclasses.replace(LOOK, keys=tuple(key.public for key in signers)))
    judged(play.challenge(), play=play)
    accept(play.proof())
    assert verify(play.evidence()).keys == play.look.keys


def test_keys_that_are_a_machines() -> None:
    """A host whose key is known is that machine, whatever its first name is now."""
    stage = SshStage(hosts={ECDSA.public: Host("old-name", Place(), ())})
    found = verify(PLAY.evidence(), stage)
    assert found.holder == "old-name"
    assert found.host is not None
    assert found.host.machine == "old-name"


def test_keys_of_two_machines() -> None:
    """Two machines that share a host have somebody's key too many: refused, and said to whoever has both."""
    stage = SshStage(hosts={ED25519.public: Host("a", Place(), ()), ECDSA.public: Host("b", Place(), ())})
    with pytest.raises(Refused, match="the keys are those of several machines: a, b") as caught:
        verify(PLAY.evidence(), stage)
    assert caught.value.code == "refused"


def test_verifying_changes_nothing() -> None:
    """The same evidence leads to the same finding: what may be used once is the ledger's to count."""
    assert verify(PLAY.evidence()) == verify(PLAY.evidence())


# --- step 1: what may be asked for ---


BAD_PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"names": []}, "names"),
    "65 names": ({"names": [f"w{n}.lan" for n in range(65)]}, "names"),
    "63 names, 2 addresses": ({"names": [f"w{n}.lan" for n in range(63)]}, "over 64 names and addresses"),
    "a wildcard": ({"names": ["*.lan"]}, r"not a DNS name: '\*\.lan'"),
    "a trailing dot": ({"names": ["web1.lan."]}, r"the name 'web1\.lan\.' is not in its one form"),
    "upper case": ({"names": ["Web1.lan"]}, "the name 'Web1.lan' is not in its one form"),
    "IDN": ({"names": ["bücher.lan"]}, "not a DNS name: 'bücher.lan'"),
    "the Kelvin sign": ({"names": ["\u212a.lan"]}, "not a DNS name"),
    "an underscore": ({"names": ["_ssh.lan"]}, "not a DNS name"),
    "a single label": ({"names": ["web1"]}, "not a full DNS name: 'web1'"),
    "an address as name": ({"names": ["10.0.0.7"]}, "not a DNS name"),
    "a line feed": ({"names": ["web1.lan\n"]}, "not a DNS name"),
    "a comma": ({"names": ["web1.lan,web2.lan"]}, "not a DNS name"),
    "a name twice": ({"names": ["web1.lan", "web1.lan"]}, "one of the names stands there twice"),
    "a name of 254": ({"names": ["a." * 126 + "lan"]}, "names"),
    "no address": ({"addresses": []}, "addresses"),
    "17 addresses": ({"addresses": [f"10.0.0.{n}" for n in range(17)]}, "addresses"),
    "10,000 addresses": ({"addresses": [f"10.0.{n >> 8}.{n & 255}" for n in range(10_000)]}, "addresses"),
    "a name as address": ({"addresses": ["web1.lan"]}, "not an IP address: 'web1.lan'"),
    "a network": ({"addresses": ["10.0.0.0/8"]}, "not an IP address"),
    "a zone": ({"addresses": ["fe80::1%eth0"]}, "not an IP address: 'fe80::1%eth0'"),
    "leading zeros": ({"addresses": ["10.0.0.07"]}, "not an IP address"),
    "a number": ({"addresses": [1]}, "addresses"),
    "IPv6 in full": ({"addresses": ["2001:0db8::7"]}, "the address '2001:0db8::7' is not in its one form"),
    "a mapped one": ({"addresses": ["::ffff:10.0.0.7"]}, "the address '::ffff:10.0.0.7' is not in its one form"),
    "an address twice": ({"addresses": ["10.0.0.7", "10.0.0.7"]}, "one of the addresses stands there twice"),
    "no port": ({"ports": []}, "ports"),
    "five ports": ({"ports": [1, 2, 3, 4, 5]}, "ports"),
    "port 0": ({"ports": [0]}, "ports"),
    "port 65536": ({"ports": [65536]}, "ports"),
    "a port twice": ({"ports": [22, 22]}, "one of the ports stands there twice"),
    "no key": ({"keys": []}, "keys"),
    "five keys": ({"keys": [ED25519.public.blob] * 5}, "keys"),
    "a key twice": ({"keys": [ED25519.public.blob] * 2}, "one of the keys stands there twice"),
    "no key at all": ({"keys": [b"key"]}, "not an SSH public key"),
    "a key too long": ({"keys": [string(b"ssh-rsa") + bytes(2048)]}, "keys"),
    "a short RSA key": ({"keys": [rsa_key(1024).public.blob]}, "an RSA key of 1024 bits"),
    "DSA": ({"keys": [string(b"ssh-dss") + string(b"x")]}, "signatures by 'ssh-dss' are not verified here"),
    "a hardware token's": (
        {"keys": [string(b"sk-ssh-ed25519@openssh.com") + string(bytes(32)) + string(b"ssh:")]},
        "keys in hardware tokens",
    ),
    "a certificate": ({"keys": [string(b"ssh-ed25519-cert-v01@openssh.com") + b"x"]}, "a certificate"),
    "a short nonce": ({"newcomer_nonce": bytes(31)}, "newcomer_nonce"),
    "another field": ({"surprise": 1}, "surprise"),
}


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_parameters_that_are_refused(name: str) -> None:
    """Whatever stands not in its one form, or is too much, is Malformed before anything is looked up."""
    change, message = BAD_PARAMETERS[name]
    body = msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(PLAY.asked())) | change)
    with pytest.raises(Malformed, match=message) as caught:
        to_look(wire.decode(body, Parameters))
    assert caught.value.code == "malformed"
    assert caught.value.hint


def test_parameters_and_looks_are_the_same() -> None:
    """What the newcomer wants looked at is what the registrar looks at, in the same order."""
    assert to_look(PLAY.asked()) == LOOK


# --- step 2: what a host signs for ---


WRONG_PAYLOADS: dict[str, tuple[dict[str, Any], str]] = {
    "a name added": ({"names": ["web1.lan", "www.web.lan", "db.lan"]}, "names"),
    "another name": ({"names": ["web1.lan", "db.lan"]}, "names"),
    "names in another order": ({"names": ["www.web.lan", "web1.lan"]}, "names"),
    "another address": ({"addresses": ["10.0.0.8", "2001:db8::7"]}, "addresses"),
    "an address less": ({"addresses": ["10.0.0.7"]}, "addresses"),
    "another port": ({"ports": [22]}, "ports"),
    "another key": ({"keys": [THIEF.public.blob, ECDSA.public.blob]}, "keys"),
    "a key less": ({"keys": [ED25519.public.blob]}, "keys"),
    "another registrar's root": ({"pin": bytes(32)}, "pin"),
    "another authority": ({"trust_domain": "elsewhere.lan"}, "trust domain"),
    "for another newcomer": ({"newcomer_nonce": bytes(32)}, "newcomer nonce"),
    "of the past": ({"issued_at": NOW - 61 * SECOND, "expires_at": NOW}, "issued at"),
    "of the future": ({"issued_at": NOW + 301 * SECOND, "expires_at": NOW + 310 * SECOND}, "issued at"),
    "for five minutes": ({"expires_at": NOW + 300 * SECOND}, "expires at"),
    "for a year": ({"expires_at": NOW + timedelta(days=365)}, "expires at"),
    "over before it begins": ({"expires_at": NOW}, "expires at"),
}


@pytest.mark.parametrize("name", WRONG_PAYLOADS)
def test_P20_a_host_signs_nothing_that_it_has_not_asked_for(name: str) -> None:
    """A registrar that wants a signature for another name, key, time or authority gets none."""
    change, field = WRONG_PAYLOADS[name]
    with pytest.raises(UntrustedPeer, match=f"something else than this host has asked for: {field}$"):
        judged(PLAY.challenge(changed(PLAY.payload(), **change)))


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[]", b"null", PLAY.payload()[:-1], PLAY.payload() + b" ", changed(PLAY.payload(), version=2)],
)
def test_what_is_no_payload_is_not_signed(payload: bytes) -> None:
    """Neither half of one, nor one with a space behind it, nor that of another version."""
    with pytest.raises(UntrustedPeer, match="signatures over no payload"):
        judged(PLAY.challenge(payload))


@pytest.mark.parametrize("namespace", [TOKEN_NAMESPACE, PROOF_NAMESPACE, "file"])
def test_a_payload_in_another_namespace_is_not_signed(namespace: str) -> None:
    """Not even where the content is the same."""
    with pytest.raises(UntrustedPeer, match="no payload: the SSH signature is for"):
        judged(PLAY.but(payload_namespace=namespace).challenge())


def test_a_payload_without_its_signature_is_not_signed() -> None:
    """A changed payload under the signature of another."""
    challenge = PLAY.challenge()
    with pytest.raises(UntrustedPeer, match="does not fit"):
        judged(Challenge(changed(challenge.payload, names=["db.lan"]), challenge.ca_signature))


def test_our_own_key_is_no_authority() -> None:
    """A host that is made to sign payloads itself would sign for everybody."""
    with pytest.raises(UntrustedPeer, match=r"asked for: CA$"):
        judged(PLAY.but(ca=ED25519).challenge())


def test_a_slow_registrar_is_believed() -> None:
    """Looking takes a while: the payload is younger than the registrar's hello."""
    assert judged(PLAY.challenge(), time=NOW - 90 * SECOND) == CA.public
