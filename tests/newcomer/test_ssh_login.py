"""Where a login is kept: an agent, or files that were not there before; and which provider is asked."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from handfast.core import sshsig
from handfast.core.openid import ProviderView
from handfast.core.sshcert import Kind, parse
from handfast.core.sshleaf import SshLeaf, issue
from handfast.errors import Fault, NotFound, Refused, UsageError
from handfast.newcomer.ssh_agent import Agent
from handfast.newcomer.ssh_login import Login, check_file, choose, into_agent, into_file, new_key
from tests.core.sshmaterial import keygen, signer
from tests.newcomer.agents import ssh_agent

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC).replace(microsecond=0)


def login(*, who: str = "ada", ca: sshsig.Signer | None = None, serial: int = 7, evidence: str = "oidc:corp") -> Login:
    """What a registrar has just certified."""
    key, by = new_key(), ca or signer()
    leaf = SshLeaf(
        kind=Kind.USER,
        key=key.public,
        key_id=f"user {who} by oidc:corp",
        principals=("fleet",),
        valid_after=NOW - HOUR,
        valid_before=NOW + HOUR,
        evidence=evidence,
    )
    return Login(key, issue(leaf, by, serial=serial), by.public, NOW)


def test_keys_are_new() -> None:
    """Each login has a key of its own."""
    assert new_key().public != new_key().public


@pytest.mark.peer("ssh-agent")
def test_an_agent_has_the_newest() -> None:
    """The one before, by the same CA for the same person, goes; others stay."""
    first, second, another, foreign = login(), login(serial=8), login(who="bob"), login(ca=signer("p256"))
    with ssh_agent() as socket, Agent(socket) as agent:
        for each in (first, another, foreign, second, second):
            into_agent(each, agent)
        held = {each.certificate.blob for each in agent.identities() if each.certificate is not None}
    assert held == {each.certificate.blob for each in (second, another, foreign)}


@pytest.mark.peer("ssh-agent")
def test_a_login_that_is_over() -> None:
    """Nothing is added for no time, which an agent would keep for ever."""
    over = login()
    late = Login(over.signer, over.certificate, over.user_ca, NOW + HOUR)
    with ssh_agent() as socket, Agent(socket) as agent:
        with pytest.raises(UsageError, match="keeps nothing for"):
            into_agent(late, agent)
        assert agent.identities() == ()


@pytest.mark.peer("ssh-keygen")
def test_files(tmp_path: Path) -> None:
    """The key is for its owner alone, the certificate where ssh looks for it; ssh-keygen reads both."""
    made = login()
    previous = os.umask(0)
    try:
        key, certificate = into_file(made, tmp_path / "id")
    finally:
        os.umask(previous)
    assert (key.stat().st_mode & 0o777, certificate.name) == (0o600, "id-cert.pub")
    assert parse(certificate.read_text()) == made.certificate
    assert sshsig.load_private(key.read_bytes()).public == made.signer.public
    assert keygen("-y", "-f", key).stdout.split()[1].decode() == made.signer.public.base64
    assert (tmp_path / "id.pub").read_text() == f"{made.signer.public}\n"


def test_a_key_that_was_made_there_since_is_not_replaced(tmp_path: Path) -> None:
    """The certificate beside it is an earlier login's, and not that key's."""
    path = tmp_path / "id"
    into_file(login(), path)
    path.unlink()
    (tmp_path / "id.pub").unlink()
    assert keygen("-q", "-t", "ed25519", "-N", "", "-f", path).returncode == 0
    before = path.read_bytes()
    with pytest.raises(Refused, match="not from an earlier login"):
        into_file(login(), path)
    assert path.read_bytes() == before


def test_only_a_login_is_replaced(tmp_path: Path) -> None:
    """A key of one's own is not, nor one with another CA's certificate, nor a link, nor a directory."""
    path = tmp_path / "id"
    into_file(login(), path)
    newer = login(serial=9)
    into_file(newer, path)
    assert parse((tmp_path / "id-cert.pub").read_text()) == newer.certificate
    for content in ("", "nonsense\n", f"{login(evidence='').certificate}\n", "ssh-ed25519 AAAA\n"):
        (tmp_path / "id-cert.pub").write_text(content)
        with pytest.raises(Refused, match="is there, and not from an earlier login"):
            into_file(login(), path)
    (tmp_path / "id-cert.pub").unlink()
    with pytest.raises(Refused, match="not from an earlier login"):
        check_file(path)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Refused, match="not from an earlier login"):
        check_file(tmp_path / "link")
    with pytest.raises(Refused, match="not from an earlier login"):
        check_file(tmp_path)
    (tmp_path / "other.pub").write_text("ssh-ed25519 AAAA of a key that lies elsewhere\n")
    with pytest.raises(Refused, match="not from an earlier login"):
        check_file(tmp_path / "other")  # ssh would show that one, and sign with ours


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    """No directory, and one that takes no file."""
    with pytest.raises(NotFound, match="no directory"):
        check_file(tmp_path / "none" / "id")
    with pytest.raises((Fault, NotFound)):
        into_file(login(), Path("/proc/id"))


def test_which_provider() -> None:
    """The only one, or the one that is named; where it has to be said, all are named."""
    one, other = (ProviderView(name, "https://id.example.org", "handfast", ["openid"]) for name in ("one", "other"))
    assert choose([one], None) == one
    assert choose([one, other], "other") == other
    with pytest.raises(NotFound, match="several providers: one, other"):
        choose([one, other], None)
    with pytest.raises(NotFound, match=r"no provider 'x' at the registrar \(it has one, other\)"):
        choose([one, other], "x")
    with pytest.raises(NotFound, match=r"no provider 'x' at the registrar \(it has none\)"):
        choose([], "x")
    with pytest.raises(NotFound, match="the registrar has no OpenID provider"):
        choose([], None)
