"""Host keys are proved for one request, in one connection, to one registrar: whatever is moved elsewhere is refused."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import hostproof, sshsig
from handfast.core.hostproof import NAMESPACE, HostClaim, HostKeyProof, HostKeys
from handfast.core.sshkeys import SshKey
from handfast.errors import EvidenceRejected
from tests.core.sshmaterial import key, new_key, signer

PIN, SPKI = b"p" * 32, b"s" * 32
KINDS = ("ed25519", "p256", "rsa2048")


@dataclass(frozen=True)
class Request:
    """What a request has for its host keys to sign."""

    nonce: bytes = b"n" * 56
    newcomer_nonce: bytes = b"o" * 32
    csr: bytes = b"c" * 300
    host: HostClaim | None = None


def claimed(*kinds: str, ports: tuple[int, ...] = (22,), method: str = "invitation") -> Request:
    """An honest request with these keys."""
    keys = HostKeys(tuple(signer(kind) for kind in kinds or KINDS), ports)
    made = hostproof.claim(keys, Request(), method=method, pin=PIN, server_spki=SPKI)
    return Request(host=made)


def proved(request: Request, *, method: str = "invitation", pin: bytes = PIN, spki: bytes = SPKI) -> tuple[SshKey, ...]:
    """What the registrar concludes."""
    return hostproof.proved(request, method=method, pin=pin, server_spki=spki)


def with_first(request: Request, **changes: bytes) -> Request:
    """The first key or its proof changed."""
    assert request.host is not None
    first, *others = request.host.keys
    return replace(request, host=HostClaim([msgspec.structs.replace(first, **changes), *others], request.host.ports))


def test_every_kind_is_proved() -> None:
    """Honest proofs of keys of each family are proofs of these keys, in a steady order."""
    assert proved(claimed()) == tuple(sorted(signer(kind).public for kind in KINDS))


def test_without_a_claim_nothing_is_proved() -> None:
    """A request that claims no host keys has none, and commits to none."""
    assert hostproof.claim(None, Request(), method="invitation", pin=PIN, server_spki=SPKI) is None
    assert proved(Request()) == ()
    assert hostproof.commitment(None) == b""


@pytest.mark.parametrize(
    "changes",
    [{"nonce": b"x" * 56}, {"newcomer_nonce": b"x" * 32}, {"csr": b"x" * 300}],
    ids=lambda each: next(iter(each)),
)
def test_P14_a_proof_is_for_one_request(changes: dict[str, Any]) -> None:
    """A proof that somebody has seen is worth nothing in a request of his own."""
    with pytest.raises(EvidenceRejected, match="an SSH host key is not proved"):
        proved(replace(claimed(), **changes))


@pytest.mark.parametrize("where", ["method", "pin", "spki"])
def test_P14_a_proof_is_for_one_place(where: str) -> None:
    """Neither another method, nor another authority, nor another connection takes it."""
    elsewhere: dict[str, Any] = {"method": "renewal"} if where == "method" else {where: b"x" * 32}
    with pytest.raises(EvidenceRejected, match="an SSH host key is not proved"):
        proved(claimed(), **elsewhere)


def test_fields_do_not_run_into_each_other() -> None:
    """What is at the end of one field is not at the beginning of the next."""
    request = claimed("ed25519")
    moved = replace(request, newcomer_nonce=request.newcomer_nonce + b"n", nonce=request.nonce[1:])
    assert moved.newcomer_nonce + moved.nonce == request.newcomer_nonce + request.nonce
    with pytest.raises(EvidenceRejected):
        proved(moved)


def test_P14_a_proof_is_by_the_key_that_it_stands_with() -> None:
    """Somebody who has a key of his own cannot prove another's with it."""
    victim = key("ssh-ed25519", b"v" * 32)
    with pytest.raises(EvidenceRejected, match=f"the proof for the SSH host key {victim.fingerprint} is by SHA256:"):
        proved(with_first(claimed(), key=victim.blob))


def test_P14_proofs_of_two_keys_are_not_interchangeable() -> None:
    """Each proof is one key's, though both signed the same."""
    request = claimed("ed25519", "p256")
    assert request.host is not None
    one, two = request.host.keys
    swapped = HostClaim([HostKeyProof(one.key, two.signature), HostKeyProof(two.key, one.signature)], [22])
    with pytest.raises(EvidenceRejected, match="is by"):
        proved(replace(request, host=swapped))


@pytest.mark.parametrize("namespace", ["file", "hostkeys@handfast ", "hostkeys"])
def test_a_signature_for_another_purpose(namespace: str) -> None:
    """What a host key signed elsewhere, in another namespace, proves nothing here."""
    message = hostproof._message(Request(), "invitation", PIN, SPKI)
    with pytest.raises(EvidenceRejected, match="not for 'hostkeys@handfast'"):
        proved(with_first(claimed(), signature=signer("ed25519").sign(message, namespace)))


def test_what_the_request_signs_is_no_proof() -> None:
    """Its commitment and the message to its host keys are under labels of their own."""
    request = claimed("ed25519")
    other = signer("ed25519").sign(hostproof.commitment(request.host), NAMESPACE)
    with pytest.raises(EvidenceRejected, match="does not fit"):
        proved(with_first(request, signature=other))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("no key", {"key": b""}),
        ("no signature", {"signature": b""}),
        ("zeros", {"signature": bytes(83)}),
        ("armored", {"signature": sshsig.armor(signer("ed25519").sign(b"", NAMESPACE)).encode()}),
        ("a type of tomorrow", {"key": key("ssh-mldsa-44@openssh.com", bytes(1312)).blob}),
        ("a certificate", {"key": b"\0\0\0\x20ssh-ed25519-cert-v01@openssh.com" + bytes(32)}),
        ("something behind it", {"key": signer("ed25519").public.blob + b"\0"}),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_P14_what_cannot_be_proved(name: str, changes: dict[str, bytes]) -> None:
    """One bad key or proof refuses the claim: no key of it becomes known."""
    with pytest.raises(EvidenceRejected):
        proved(with_first(claimed(), **changes))


def test_a_key_that_is_claimed_twice_is_one() -> None:
    """To repeat a key adds nothing."""
    assert proved(claimed("ed25519", "ed25519")) == (signer("ed25519").public,)


def test_one_wrong_proof_of_two_for_a_key() -> None:
    """A good proof of a key does not carry a bad one of it."""
    request = claimed("ed25519", "ed25519")
    with pytest.raises(EvidenceRejected):
        proved(with_first(request, signature=signer("ed25519").sign(b"another message", NAMESPACE)))


@pytest.mark.parametrize(
    "body",
    [
        {"keys": [], "ports": [22]},
        {"keys": [{"key": "", "signature": ""}] * 33, "ports": [22]},
        {"keys": [{"key": "", "signature": ""}], "ports": []},
        {"keys": [{"key": "", "signature": ""}], "ports": [0]},
        {"keys": [{"key": "", "signature": ""}], "ports": [65536]},
        {"keys": [{"key": "", "signature": ""}], "ports": [22] * 65},
        {"keys": [{"key": "", "signature": ""}], "ports": ["22"]},
        {"keys": [{"key": "", "signature": "", "name": "db"}], "ports": [22]},
        {"keys": [{"key": "", "signature": ""}], "ports": [22], "names": ["db"]},
        {"keys": [{"key": ""}], "ports": [22]},
        {"keys": [{"key": "", "signature": ""}]},
    ],
)
def test_a_claim_has_its_bounds(body: object) -> None:
    """From 1 to 32 keys, each with its proof, from 1 to 64 ports, and nothing else: no name, above all."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(body), type=HostClaim)


def test_the_commitment_covers_all_of_it() -> None:
    """Keys, proofs, their order and the ports: a change of any is another commitment."""
    request = claimed("ed25519", "p256", ports=(22, 2222))
    host = request.host
    assert host is not None
    one, two = host.keys
    others = [
        None,
        HostClaim([one], host.ports),
        HostClaim([two, one], host.ports),
        HostClaim([one, two, two], host.ports),
        HostClaim([HostKeyProof(one.key, two.signature), two], host.ports),
        HostClaim([HostKeyProof(one.key + one.signature, b""), two], host.ports),
        HostClaim(host.keys, [22]),
        HostClaim(host.keys, [2222, 22]),
        HostClaim(host.keys, [22, 2222, 2222]),
    ]
    made = [hostproof.commitment(each) for each in (host, *others)]
    assert len(set(made)) == len(made)


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_anything_is_refused(blob: bytes, signature: bytes) -> None:
    """Whatever bytes are claimed, they are refused as evidence, and in no other way."""
    with pytest.raises(EvidenceRejected):
        proved(Request(host=HostClaim([HostKeyProof(blob, signature)], [22])))


@pytest.mark.peer("ssh-keygen")
def test_openssh_reads_our_proof(tmp_path: Path) -> None:
    """What a host key signs for us is an SSH signature like any other, for whoever wants to look into one."""
    path = new_key(tmp_path, "ed25519")
    host = sshsig.load_private(path.read_bytes())
    made = hostproof.claim(HostKeys((host,)), Request(), method="invitation", pin=PIN, server_spki=SPKI)
    assert made is not None
    (tmp_path / "allowed").write_text(f"host {host.public}\n")
    (tmp_path / "sig").write_text(sshsig.armor(made.keys[0].signature))
    arguments: list[str | Path] = [
        "-Y",
        "verify",
        "-f",
        tmp_path / "allowed",
        "-I",
        "host",
        "-n",
        NAMESPACE,
        "-s",
        tmp_path / "sig",
    ]
    message = hostproof._message(Request(), "invitation", PIN, SPKI)
    subprocess.run(["ssh-keygen", *arguments], input=message, check=True, capture_output=True)
