"""SSH certificates that we issue: ssh-keygen reads in them what was granted, and nothing is signed that says more."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_identity
from cryptography.hazmat.primitives.serialization.ssh import SSHCertificate
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import sshcert
from handfast.core.sshcert import FOREVER, Kind
from handfast.core.sshleaf import SshLeaf
from handfast.core.sshoptions import Critical, Permit
from handfast.errors import HandfastError, Malformed
from tests.core.certmaterial import CA, GRANT, NOW, USER, issued, written
from tests.core.sshmaterial import KINDS, key, rsa_key, signer

TOKEN = key("sk-ssh-ed25519@openssh.com", b"k" * 32, b"ssh:")
LIMITS = Critical("/usr/bin/rsync --server", (ip_network("10.0.0.0/8"), ip_network("fd00::/64")))


def keygen_l(path: Path) -> str:
    """What the real one prints, with times in UTC, without the file's name and the tab before each line."""
    shown = subprocess.run(
        ["ssh-keygen", "-L", "-f", path], capture_output=True, text=True, check=True, env={"TZ": "UTC"}
    )
    return "\n".join(line.removeprefix(" " * 8).rstrip() for line in shown.stdout.splitlines()[1:])


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("ca", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_ssh_keygen_reads_what_was_granted(kind: str, ca: str, tmp_path: Path) -> None:
    """Every kind of key is certified by every kind of CA, and ssh-keygen prints of it what we print."""
    made = issued(key=signer(kind).public, ca=signer(ca), serial=2**64 - 1)
    assert sshcert.describe(made) == keygen_l(written(tmp_path, made))
    assert made.signed_with == ("rsa-sha2-512" if ca == "rsa" else signer(ca).public.algorithm)
    assert sshcert.against(
        made, authorities=[signer(ca).public], kind=Kind.HOST, principal="web1.example", at=NOW
    ) == ()  # fmt: skip


@pytest.mark.peer("ssh-keygen")
def test_ssh_keygen_reads_the_options(tmp_path: Path) -> None:
    """A user's limits and permissions are what ssh-keygen prints; our own extension is in hex there."""
    made = issued(USER, critical=LIMITS, permits=frozenset(Permit), evidence="invitation 0123")
    ours, theirs = sshcert.describe(made).splitlines(), keygen_l(written(tmp_path, made)).splitlines()
    assert [line for line in ours if "@handfast" not in line] == [line for line in theirs if "@handfast" not in line]
    assert "        evidence@handfast 'invitation 0123'" in ours
    assert any(b"invitation 0123".hex() in line for line in theirs)


def test_the_library_reads_what_was_granted() -> None:
    """Another reader finds every field, and the signature sound."""
    made = issued(USER, critical=LIMITS, permits=frozenset({Permit.PTY}))
    theirs = load_ssh_public_identity(str(made).encode())
    assert isinstance(theirs, SSHCertificate)
    theirs.verify_cert_signature()
    assert (theirs.serial, theirs.key_id) == (5, b"alice")
    assert theirs.valid_principals == [b"alice", b"deploy"]
    assert theirs.extensions == {b"permit-pty": b""}
    assert theirs.critical_options == {
        b"force-command": b"/usr/bin/rsync --server",
        b"source-address": b"10.0.0.0/8,fd00::/64",
    }


def test_what_is_read_back() -> None:
    """A certificate holds the grant, the serial, and the authority that signed it."""
    made = issued(USER, critical=LIMITS, permits=frozenset({Permit.PTY}), evidence="by proof")
    assert sshcert.read(made.blob) == sshcert.parse(f"{made} a comment") == made
    assert (made.kind, made.key, made.serial, made.key_id) == (Kind.USER, USER.key, 5, "alice")
    assert (made.principals, made.critical) == (("alice", "deploy"), LIMITS)
    assert made.extensions == (("evidence@handfast", b"by proof"), ("permit-pty", b""))
    assert (made.valid_after, made.valid_before) == (GRANT.valid_after, GRANT.valid_before)
    assert made.authority == CA.public


@pytest.mark.peer("ssh-keygen")
def test_a_token_in_hardware(tmp_path: Path) -> None:
    """A user's key may be in a token, and sshd be told to have it ask who its user is."""
    made = issued(USER, key=TOKEN, critical=Critical(verify_required=True))
    assert sshcert.read(made.blob) == made
    assert sshcert.describe(made) == keygen_l(written(tmp_path, made))


def test_no_two_are_alike() -> None:
    """The same grant is signed over another nonce each time: nobody prepares a collision for a known text."""
    assert issued().blob != issued().blob


BAD: dict[str, tuple[SshLeaf, dict[str, Any], str]] = {
    "nobody": (GRANT, {"principals": ()}, "without a principal"),
    "twice": (GRANT, {"principals": ("a", "a")}, "each once"),
    "many": (GRANT, {"principals": tuple(f"h{n}" for n in range(257))}, "257 principals"),
    "large": (GRANT, {"principals": tuple(f"h{n:03}" + "x" * 200 for n in range(256))}, "bytes"),
    "wildcard": (GRANT, {"principals": ("*.example",)}, "not a host's principal"),
    "question-mark": (GRANT, {"principals": ("web?",)}, "not a host's principal"),
    "negation": (GRANT, {"principals": ("!web1",)}, "not a host's principal"),
    "host-list": (GRANT, {"principals": ("web1,web2",)}, "not a host's principal"),
    "upper-case": (GRANT, {"principals": ("Web1",)}, "not a host's principal"),
    "final-dot": (GRANT, {"principals": ("web1.example.",)}, "not a host's principal"),
    "port": (GRANT, {"principals": ("[web1]:2222",)}, "not a host's principal"),
    "zone": (GRANT, {"principals": ("fe80::1%eth0",)}, "not a host's principal"),
    "long-address": (GRANT, {"principals": ("fd00:0::1",)}, "not a host's principal"),
    "short-address": (GRANT, {"principals": ("10.1",)}, "not a host's principal"),
    "one-number": (GRANT, {"principals": ("167772161",)}, "not a host's principal"),
    "idn": (GRANT, {"principals": ("bücher.example",)}, "not a host's principal"),
    "empty-host": (GRANT, {"principals": ("",)}, "not a host's principal"),
    "user-list": (USER, {"principals": ("alice,root",)}, "not a user's principal"),
    "user-pattern": (USER, {"principals": ("*",)}, "not a user's principal"),
    "user-comment": (USER, {"principals": ("#alice",)}, "not a user's principal"),
    "user-option": (USER, {"principals": ("-alice",)}, "not a user's principal"),
    "user-space": (USER, {"principals": ("alice root",)}, "not a user's principal"),
    "user-line": (USER, {"principals": ("alice\nroot",)}, "not a user's principal"),
    "user-nul": (USER, {"principals": ("alice\0",)}, "not a user's principal"),
    "empty-user": (USER, {"principals": ("",)}, "not a user's principal"),
    "no-key-id": (GRANT, {"key_id": ""}, "not a key id"),
    "log-line": (USER, {"key_id": 'alice" (serial 1) CA'}, "not a key id"),
    "line-break": (USER, {"key_id": "alice\nAccepted"}, "not a key id"),
    "long-key-id": (USER, {"key_id": "a" * 256}, "not a key id"),
    "ends-first": (GRANT, {"valid_before": GRANT.valid_after}, "an SSH certificate from 2026"),
    "before-1970": (GRANT, {"valid_after": NOW.replace(year=1969)}, "from 1969"),
    "forever": (GRANT, {"valid_before": FOREVER}, "9999"),
    "no-zone": (GRANT, {"valid_before": datetime(2027, 1, 1)}, "without their zone"),  # noqa: DTZ001
    "host-command": (GRANT, {"critical": LIMITS}, "options of a user"),
    "host-permits": (GRANT, {"permits": frozenset({Permit.PTY})}, "options of a user"),
    "empty-command": (USER, {"critical": Critical(" ")}, "no command to force"),
    "two-commands": (USER, {"critical": Critical("true\nsh")}, "no command to force"),
    "long-command": (USER, {"critical": Critical("x" * 4097)}, "no command to force"),
    "from-nowhere": (USER, {"critical": Critical(source_address=())}, "0 source addresses"),
    "many-sources": (USER, {"critical": Critical(source_address=(ip_network("::/0"),) * 65)}, "65 source"),
    "no-token": (USER, {"critical": Critical(verify_required=True)}, "no.* hardware token"),
    "evidence-line": (GRANT, {"evidence": "a\nb"}, "no line"),
    "evidence-long": (GRANT, {"evidence": "a" * 256}, "no line"),
    "small-rsa": (GRANT, {"key": rsa_key(1024)}, "1024 bits"),
    "token-of-a-host": (GRANT, {"key": TOKEN}, "hardware token for a host"),
    "short-token": (USER, {"key": key("sk-ssh-ed25519@openssh.com", b"k" * 31, b"ssh:")}, "not a key of"),
    "token-for-the-web": (USER, {"key": key("sk-ssh-ed25519@openssh.com", b"k" * 32, b"https:")}, "not a key of"),
    "other-key": (GRANT, {"key": key("ssh-dss", b"1", b"2", b"3", b"4")}, "ssh-dss"),
}


@pytest.mark.parametrize("name", BAD)
def test_never_issued(name: str) -> None:
    """What OpenSSH would refuse, or take for more than it says, is not signed, whoever has decided on it."""
    grant, changes, message = BAD[name]
    with pytest.raises(Malformed, match=message):
        issued(grant, **changes)


@pytest.mark.parametrize("serial", [0, -1, 2**64])
def test_serials(serial: int) -> None:
    """A serial is one that a list of revoked certificates can name: 0 means none there."""
    with pytest.raises(Malformed, match="not a serial"):
        issued(serial=serial)


@pytest.mark.parametrize("name", ["web1", "node_1", "fd00::1", "10.0.0.7", "xn--bcher-kva.example", "a.b-c"])
def test_names_of_hosts(name: str) -> None:
    """What ssh looks for may stand in a certificate: names, addresses, and what a machine is called."""
    assert issued(principals=(name,)).principals == (name,)


@pytest.mark.parametrize("name", ["alice", "alice@example.org", "LAB\\alice", "host$", "a/b", "_svc", "9lives"])
def test_names_of_users(name: str) -> None:
    """What systems call their users may stand in a certificate."""
    assert issued(USER, principals=(name,)).principals == (name,)


def test_seconds() -> None:
    """Parts of a second, which the format does not have, are cut off."""
    made = issued(valid_before=NOW + timedelta(milliseconds=900))
    assert made.valid_before == NOW


@given(
    st.sampled_from([GRANT, USER]),
    st.lists(st.text(max_size=20), max_size=4).map(tuple),
    st.text(max_size=20),
    st.none() | st.text(max_size=20),
)
def test_whatever_is_asked_for(grant: SshLeaf, principals: tuple[str, ...], key_id: str, command: str | None) -> None:
    """Either a grant is refused, or the certificate holds exactly it, and nothing that is a pattern or a list."""
    asked = replace(grant, principals=principals, key_id=key_id, critical=Critical(command))
    try:
        made = issued(asked)
    except HandfastError:
        return
    assert sshcert.read(made.blob) == made
    assert (made.principals, made.key_id, made.critical.force_command) == (principals, key_id, command)
    assert made.principals
    assert not set("".join(made.principals)) & set("*?!, \n\0")
