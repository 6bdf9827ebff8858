"""SSH certificates that others show: read in one way or refused, and believed for nothing but what they say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handfast.core import sshcert
from handfast.core.sshcert import FOREVER, Kind, SshCertificate
from handfast.core.sshdata import string
from handfast.core.sshoptions import Critical, Permit
from handfast.errors import EvidenceRejected, HandfastError, Malformed
from tests.core.certmaterial import CA, GRANT, NOW, OTHER_CA, USER, crafted, issued, options
from tests.core.sshmaterial import KINDS, key, keygen, new_key, public, rsa_key, signer
from tests.core.test_sshleaf import LIMITS, keygen_l

HOST = issued()
ALICE = issued(USER, critical=LIMITS, permits=frozenset({Permit.PTY}))


def believed(
    certificate: SshCertificate,
    *,
    kind: Kind = Kind.HOST,
    principal: str = "web1.example",
    at: datetime = NOW,
    source: str | None = None,
    authorities: Any = (CA.public,),
) -> tuple[str, ...]:
    """Every reason against it."""
    address = None if source is None else ip_address(source)
    return sshcert.against(certificate, authorities=authorities, kind=kind, principal=principal, at=at, source=address)


# --- certificates of others ---


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("kind", KINDS)
def test_those_of_ssh_keygen(kind: str, tmp_path: Path) -> None:
    """What ssh-keygen makes is read, printed as it prints it, and believed from its authority."""
    (tmp_path / "ca").mkdir()
    ca, path = new_key(tmp_path / "ca", "rsa"), new_key(tmp_path, kind)
    flags = ("-I", "the id", "-n", "alice,deploy", "-V", "20261122110000Z:20261123Z", "-z", str(2**64 - 1))
    limits = ("-O", "force-command=/bin/true", "-O", "source-address=10.0.0.0/8,::1/128", "-O", "verify-required")
    assert keygen("-q", "-s", ca, *flags, *limits, path.with_name(path.name + ".pub")).returncode == 0
    file = path.with_name(path.name + "-cert.pub")
    read = sshcert.parse(file.read_text())
    assert sshcert.describe(read) == keygen_l(file)
    assert (read.key, read.authority) == (public(path), public(ca))
    assert read.critical.verify_required
    reasons = believed(read, kind=Kind.USER, principal="alice", source="10.1.2.3", authorities=[public(ca)])
    assert reasons == ()


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("validity", ["always:forever", "20200101Z:forever", "always:20300101Z"])
def test_without_an_end(validity: str, tmp_path: Path) -> None:
    """A certificate without end or beginning is read and printed as such; FOREVER stands for no end."""
    ca, path = new_key(tmp_path, "ed25519"), new_key(tmp_path, "p256")
    keygen("-q", "-s", ca, "-h", "-I", "x", "-V", validity, path.with_name("p256.pub"))
    read = sshcert.parse((tmp_path / "p256-cert.pub").read_text())
    assert sshcert.describe(read) == keygen_l(tmp_path / "p256-cert.pub")
    assert (read.valid_before == FOREVER) == validity.endswith("forever")


def test_a_token_in_hardware_may_hold_the_key() -> None:
    """A user's certificate for a key in a token is read; we certify none ourselves."""
    sk = key("sk-ssh-ed25519@openssh.com", b"k" * 32, b"ssh:")
    blob = crafted(algorithm=b"sk-ssh-ed25519-cert-v01@openssh.com", key=sk, kind=1, principals=[b"alice"])
    assert sshcert.read(blob).key == sk
    assert believed(sshcert.read(blob), kind=Kind.USER, principal="alice") == ()


# --- what is refused before anything is believed ---

PAIR = (b"permit-pty", b"")
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "plain-key": ({"algorithm": b"ecdsa-sha2-nistp384"}, "type that we know"),
    "signature-algorithm": ({"algorithm": b"rsa-sha2-512-cert-v01@openssh.com"}, "type that we know"),
    "dsa": ({"algorithm": b"ssh-dss-cert-v01@openssh.com"}, "type that we know"),
    "other-type": ({"algorithm": b"ssh-ed25519-cert-v01@openssh.com"}, "not a key of"),
    "no-nonce": ({"nonce": b""}, "nonce of 0"),
    "long-nonce": ({"nonce": b"n" * 65}, "nonce of 65"),
    "kind-0": ({"kind": 0}, "kind 0"),
    "kind-3": ({"kind": 3}, "kind 3"),
    "no-key-id": ({"key_id": b""}, "key id"),
    "key-id-line": ({"key_id": b"a\nb"}, "key id"),
    "key-id-nul": ({"key_id": b"root\0x"}, "key id"),
    "key-id-latin": ({"key_id": b"\xff"}, "key id"),
    "many": ({"principals": [b"a"] * 257}, "257 principals"),
    "empty-principal": ({"principals": [b""]}, "a principal"),
    "comma": ({"principals": [b"alice,root"]}, "with a comma"),
    "nul": ({"principals": [b"root\0.example"]}, "a principal"),
    "escape": ({"principals": [b"\x1b[2J"]}, "a principal"),
    "ends-first": ({"after": 10, "before": 10}, "before it begins"),
    "unknown-critical": ({"critical": options((b"only-on-sunday@example", b""))}, "do not know: 'only-on-sunday"),
    "flag-with-data": ({"critical": options((b"verify-required", string(b"no")))}, "do not know"),
    "empty-command": ({"critical": options((b"force-command", b""))}, "no command"),
    "command-latin": ({"critical": options((b"force-command", string(b"\xff")))}, "no command"),
    "empty-string": ({"critical": options((b"force-command", string(b"")))}, "empty string"),
    "two-strings": ({"critical": options((b"force-command", string(b"a") + string(b"b")))}, "behind its end"),
    "command-lines": ({"critical": options((b"force-command", string(b"true\nsh")))}, "no command"),
    "no-sources": ({"critical": options((b"source-address", b""))}, "not source addresses"),
    "bad-source": ({"critical": options((b"source-address", string(b"10.0.0.1/8")))}, "not source addresses"),
    "not-source": ({"critical": options((b"source-address", string(b"!10.0.0.0/8")))}, "not source addresses"),
    "many-sources": ({"critical": options((b"source-address", string(b",".join([b"::1"] * 65))))}, "65 source"),
    "twice": ({"extensions": options(PAIR, PAIR)}, "not in order"),
    "out-of-order": ({"extensions": options((b"permit-user-rc", b""), PAIR)}, "not in order"),
    "half-a-pair": ({"extensions": string(b"permit-pty")}, "not pairs"),
    "no-name": ({"extensions": options((b"", b""))}, "no name"),
    "blank-name": ({"extensions": options((b"a b", b""))}, "no name"),
    "too-many": ({"extensions": options(*((f"{n:03}".encode(), b"") for n in range(65)))}, "over 64"),
    "reserved": ({"reserved": b"x"}, "reserved"),
    "chained": ({"authority": HOST.blob}, "a certificate"),
    "no-authority": ({"authority": b""}, "not an SSH public key"),
    "behind": ({"behind": b"\0"}, "behind its end"),
    "weak-key": ({"algorithm": b"ssh-rsa-cert-v01@openssh.com", "key": rsa_key(1024)}, "1024 bits"),
    "long": ({"key_id": b"a" * 40_000}, "at most 32768"),
}


@pytest.mark.parametrize("name", BAD)
def test_never_read(name: str) -> None:
    """What has two forms or two readings is no certificate, though its authority has signed it."""
    changes, message = BAD[name]
    with pytest.raises(Malformed, match=message):
        sshcert.read(crafted(**changes))


def test_the_sound_one_is_read() -> None:
    """The certificate from which the bad ones differ is believed."""
    assert believed(sshcert.read(crafted())) == ()


def test_a_key_in_another_form() -> None:
    """A key is in its one form: the same one written otherwise has a fingerprint that nobody has revoked."""
    modulus = (1 << 2048) - 12345
    long = key("ssh-rsa", b"\0\x01\0\x01", modulus.to_bytes(257))
    with pytest.raises(Malformed, match="one form"):
        sshcert.read(crafted(algorithm=b"ssh-rsa-cert-v01@openssh.com", key=long))


@pytest.mark.parametrize("line", ["", "ssh-ed25519-cert-v01@openssh.com", "x !!!!", str(CA.public), "x " + "A" * 40])
def test_no_line(line: str) -> None:
    """A line that holds no certificate is refused."""
    with pytest.raises(Malformed, match="certificate"):
        sshcert.parse(line)


def test_a_line_that_contradicts_itself() -> None:
    """The line names the certificate's own type."""
    with pytest.raises(Malformed, match="the line says 'ssh-rsa'"):
        sshcert.parse(f"ssh-rsa {str(HOST).split()[1]}")


# --- what is believed ---


def test_believed() -> None:
    """Our certificates are believed for whom they name, in their time, from where they may be used."""
    assert believed(HOST) == believed(HOST, principal="10.0.0.7") == believed(HOST, principal="WEB1.example") == ()
    assert believed(ALICE, kind=Kind.USER, principal="alice", source="10.9.9.9") == ()
    sshcert.verify(HOST, authorities=[CA.public], kind=Kind.HOST, principal="web1.example", at=NOW)


def test_every_reason_is_given() -> None:
    """A refusal has all that is wrong, in one sentence each."""
    late = GRANT.valid_before
    with pytest.raises(EvidenceRejected) as caught:
        sshcert.verify(ALICE, authorities=[], kind=Kind.HOST, principal="web2", at=late, source=ip_address("::1"))
    assert caught.value.message.split("; ") == [
        f"its authority {CA.public.fingerprint} is not one that is trusted here",
        "it is a user certificate, not a host certificate",
        "it is for alice, deploy, not for 'web2'",
        "it has expired at 2026-11-23T12:00:00Z",
        "it has critical options, with which ssh refuses every host certificate",
        "it is for 10.0.0.0/8, fd00::/64 only, not for ::1",
    ]


def test_the_first_and_the_last_second() -> None:
    """It is valid from its first second until just before its last, as sshd counts."""
    assert believed(HOST, at=GRANT.valid_after) == ()
    assert believed(HOST, at=GRANT.valid_before - timedelta(microseconds=1)) == ()
    assert believed(HOST, at=GRANT.valid_before) == ("it has expired at 2026-11-23T12:00:00Z",)
    early = GRANT.valid_after - timedelta(microseconds=1)
    assert believed(HOST, at=early) == ("it is not valid before 2026-11-22T11:59:00Z",)


def test_attack_a_certificate_for_everybody() -> None:
    """An authority that forgets the principals does not make its holder everybody, as it did with OpenSSH."""
    nobody = sshcert.read(crafted(principals=[]))
    assert believed(nobody) == ("it is for nobody by name, not for 'web1.example'",)
    assert believed(nobody, principal="") == ("it is for nobody by name, not for ''",)


def test_attack_a_pattern_for_every_host() -> None:
    """A host's principals are names, though ssh may take them for patterns: ``*`` is not every host."""
    assert believed(sshcert.read(crafted(principals=[b"*", b"web?.example", b"*.example"]))) != ()


def test_attack_a_user_poses_as_a_host() -> None:
    """A user's certificate is no host's, and the reverse, though one authority signs both."""
    assert believed(issued(USER, principals=("web1.example",))) == ("it is a user certificate, not a host certificate",)
    wrong = believed(issued(principals=("alice",)), kind=Kind.USER, principal="alice")
    assert wrong == ("it is a host certificate, not a user certificate",)


def test_attack_his_own_authority() -> None:
    """A certificate of an authority that nobody trusts says nothing, whatever name it gives that authority."""
    assert "not one that is trusted" in believed(issued(ca=OTHER_CA))[0]
    assert believed(sshcert.read(crafted(ca=signer("ed25519"), authority=OTHER_CA.public.blob)), authorities=[
        OTHER_CA.public
    ]) != ()  # fmt: skip


def test_attack_sha1() -> None:
    """An RSA authority's signature over SHA-1, for which collisions are sold, proves nothing."""
    ca = signer("rsa")
    reasons = believed(sshcert.read(crafted(ca=ca, sha1=True)), authorities=[ca.public])
    assert reasons == ("it is signed with 'ssh-rsa', which proves nothing",)


def test_attack_the_signature_of_another_certificate() -> None:
    """A signature is over all of one certificate: behind another it fits nothing."""
    stolen = issued(principals=("mallory",))
    mixed = HOST.signed + string(stolen.signature)
    assert believed(sshcert.read(mixed)) == (f"the signature of its authority {CA.public.fingerprint} does not fit",)


def test_attack_from_an_address_that_nobody_knows() -> None:
    """A certificate that is limited to addresses is not believed where the address is not known."""
    (reason,) = believed(ALICE, kind=Kind.USER, principal="alice")
    assert reason == "it is for 10.0.0.0/8, fd00::/64 only, not for an unknown address"


def test_users_differ_by_case() -> None:
    """To sshd ``Alice`` is not ``alice``; to ssh a host's name has no case."""
    assert believed(ALICE, kind=Kind.USER, principal="Alice", source="10.0.0.1") != ()


@pytest.mark.parametrize("signature", [b"", string(b"ssh-ed25519"), string(b"ssh-ed25519") + string(b"short")])
def test_signatures_that_are_none(signature: bytes) -> None:
    """A signature that cannot be read is refused, or does not fit; nothing else happens."""
    try:
        found = sshcert.read(HOST.signed + string(signature))
    except Malformed:
        return
    assert believed(found) != ()


# --- whatever comes ---


@given(st.binary(max_size=400))
@example(b"")
def test_whatever_comes(blob: bytes) -> None:
    """Bytes are no certificate, and end in no other error."""
    with pytest.raises(HandfastError):
        sshcert.read(blob)


@given(st.sampled_from([HOST, ALICE]), st.data())
def test_attack_one_changed_byte(certificate: SshCertificate, data: st.DataObject) -> None:
    """Whatever is changed, cut off, or put in between, nothing else is believed than what was signed."""
    blob = certificate.blob
    place = data.draw(st.integers(0, len(blob) - 1))
    other = data.draw(st.binary(max_size=9))
    changed = blob[:place] + other + blob[place + data.draw(st.integers(0, 9)) :]
    try:
        found = sshcert.read(changed)
    except Malformed:
        return
    if found.blob != blob:
        for principal in (*found.principals, *certificate.principals):
            assert believed(found, kind=found.kind, principal=principal, source="10.0.0.1")


@given(
    key_id=st.text(st.characters(codec="utf-8"), max_size=20),
    principals=st.lists(st.text(max_size=12), max_size=4),
    after=st.integers(0, 2**64 - 1),
    before=st.integers(0, 2**64 - 1),
    extensions=st.dictionaries(st.text(max_size=8), st.binary(max_size=8), max_size=4),
)
def test_whatever_an_authority_signs(
    key_id: str, principals: list[str], after: int, before: int, extensions: dict[str, bytes]
) -> None:
    """What is read of a stranger's certificate is text that may be shown, and can be described."""
    try:
        blob = crafted(
            key_id=key_id.encode(),
            principals=[each.encode() for each in principals],
            after=after,
            before=before,
            extensions=options(*((name.encode(), string(data)) for name, data in extensions.items())),
        )
        found = sshcert.read(blob)
    except (Malformed, UnicodeEncodeError):
        return
    assert (found.key_id, list(found.principals)) == (key_id, principals)
    assert all(line.isprintable() for line in sshcert.describe(found).splitlines())
    assert found.valid_after <= found.valid_before


def test_no_limits_are_none() -> None:
    """A certificate without critical options has no limits, and one with an empty limit is not made."""
    assert HOST.critical == Critical()
    assert Critical().options() == ()
    assert NOW.tzinfo is UTC
