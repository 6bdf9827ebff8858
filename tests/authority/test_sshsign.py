"""The SSH authority signs what was intended, with the key for its kind, and nothing twice."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from handfast.authority import ceremony
from handfast.authority.authority import FileAuthority
from handfast.authority.sshsign import SshSigner
from handfast.core import sshcert, sshkeys, sshsig
from handfast.core.flow import SshIntent
from handfast.core.ssh_ports import SshAuthority
from handfast.core.sshcert import Kind
from handfast.core.sshleaf import SshLeaf
from handfast.errors import EvidenceRejected, Malformed
from tests.authority.helpers import NOW
from tests.registrar.hosts import signer


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> FileAuthority:
    """An authority made at NOW."""
    directory: Path = tmp_path_factory.mktemp("made") / "authority"
    ceremony.create(directory, name="home", now=NOW)
    return FileAuthority.open(directory)


def leaf(kind: Kind, *principals: str) -> SshLeaf:
    """What a certificate is to hold."""
    start = NOW.replace(microsecond=0)
    return SshLeaf(
        kind=kind,
        key=signer(1).public,
        key_id=f"{kind} web1",
        principals=principals or ("web1",),
        valid_after=start,
        valid_before=start + timedelta(hours=1),
    )


@pytest.mark.parametrize("kind", list(Kind))
def test_each_kind_has_its_own_key(opened: FileAuthority, kind: Kind) -> None:
    """A host's certificate is by the host CA, a user's by the user CA, and each says exactly what was intended."""
    authority: SshAuthority = SshSigner.of(opened)
    assert (str(authority.host_ca), str(authority.user_ca)) == (opened.public.ssh_host_ca, opened.public.ssh_user_ca)
    made = authority.certify(SshIntent(4711, leaf(kind)))
    assert (made.serial, made.leaf) == (4711, leaf(kind))
    read = sshcert.read(made.certificate)
    right, wrong = authority.host_ca, authority.user_ca
    if kind is Kind.USER:
        right, wrong = wrong, right
    assert (read.serial, read.authority) == (4711, right)
    assert sshcert.against(read, authorities={right}, kind=kind, principal="web1", at=NOW) == ()
    assert sshcert.against(read, authorities={wrong}, kind=kind, principal="web1", at=NOW) != ()


def test_what_was_signed_before_is_not_signed_again(opened: FileAuthority) -> None:
    """An intent that has its certificate gets that one: two of one serial could only be revoked together."""
    authority = SshSigner.of(opened)
    first = authority.certify(SshIntent(4711, leaf(Kind.HOST)))
    again = authority.certify(SshIntent(4711, leaf(Kind.HOST), first.certificate))
    assert again == first


def test_what_openssh_would_read_as_more_is_not_signed(opened: FileAuthority) -> None:
    """Whatever was decided."""
    with pytest.raises(Malformed, match="not a host's principal"):
        SshSigner.of(opened).certify(SshIntent(1, leaf(Kind.HOST, "*.example.org")))
    with pytest.raises(Malformed, match="not a serial"):
        SshSigner.of(opened).certify(SshIntent(0, leaf(Kind.HOST)))


def test_the_host_ca_signs_for_one_purpose_at_a_time(opened: FileAuthority) -> None:
    """What it signs for the challenge is known again by its namespace, and is no certificate."""
    authority = SshSigner.of(opened)
    signature = authority.sign(b"payload", namespace="hostkey-nonce@handfast")
    assert sshsig.verify(signature, b"payload", namespace="hostkey-nonce@handfast") == authority.host_ca
    with pytest.raises(EvidenceRejected):
        sshsig.verify(signature, b"payload", namespace="hostkey-token@handfast")


def test_no_key_is_shown(opened: FileAuthority) -> None:
    """Neither private half is in what Python prints of it."""
    authority = SshSigner.of(opened)
    shown = repr(authority)
    assert "private" not in shown
    assert sshkeys.parse(opened.public.ssh_host_ca).fingerprint
