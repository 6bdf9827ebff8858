"""`handfast ssh` before somebody who has more than a network: a stolen key, a moment, or the trust of a realm."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from handfast.cli import ssh_run
from handfast.core.hosts import How
from handfast.core.sshkeys import SshKey
from handfast.ssh.wrapper import Setting, prepare
from tests.interop import kerberos
from tests.interop.hosts import PATIENCE, local_host, program
from tests.interop.ssh_stage import HeldUp, Sshd, Stage, make_key

pytestmark = [pytest.mark.peer("ssh", "sshd", "ssh-keygen"), pytest.mark.root, pytest.mark.timeout(180)]
ALIAS = "-oHostKeyAlias=web1"  # whatever port it is


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A user, with an empty registry."""
    with local_host() as host:
        yield Stage(host)


def keys(stage: Stage) -> set[SshKey]:
    """The keys of web1 that are registered."""
    return {each.key for each in stage.known("web1").keys}


def test_P13_a_session_that_was_held_up_teaches_nothing(stage: Stage) -> None:
    """
    What ssh learns over a connection whose host key was taken back meanwhile is neither believed nor registered.

    The thief of web1's key lets a session check that key and holds it up; the operator notices, and web1 has another
    key; sessions go on; then the thief lets go, and proves a key of his own on the old connection.
    """
    thief = Sshd(stage.host, "thief", kinds=("ed25519", "ecdsa"), settings="LoginGraceTime 0\n")
    web = Sshd(stage.host, "web1")
    stolen, own = thief.key, thief.keys["ecdsa"]
    stage.register("web1", stolen)
    between = HeldUp(thief)
    files = f"{stage.host.directory}/s/handfast/ssh-hosts/*/machines/web1/known_hosts*"
    learned = f"for i in $(seq 300); do grep -qF '{own}' {files} && exit 0; sleep 0.1; done; exit 1"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(stage.ssh, ALIAS, f"-p{between.port}", "127.0.0.1", learned, code=None)
        assert between.held.wait(PATIENCE)
        stage.register("web1", web.key)
        stage.retire("web1", stolen)
        assert stage.ssh(ALIAS, f"-p{web.port}", "127.0.0.1", "echo $SSHD").stdout == "web1\n"
        between.release.set()
        assert first.result(PATIENCE * 2).code == 0  # it was written down; where nobody reads it
    assert stage.ssh(ALIAS, f"-p{web.port}", "127.0.0.1", "echo $SSHD").stdout == "web1\n"
    assert keys(stage) == {web.key}
    thief.restart("ecdsa")
    done = stage.ssh(ALIAS, f"-p{thief.port}", "127.0.0.1", "echo $SSHD", code=255)
    assert f"this is not web1: it shows ecdsa-sha2-nistp256 {own.fingerprint}" in done.stderr
    assert keys(stage) == {web.key}


@pytest.mark.parametrize("how", ["retired", "removed", "known no better than reported"])
def test_P13_a_key_that_is_taken_back_meanwhile_proves_nothing(stage: Stage, how: str) -> None:
    """Between our look into the registry and what we record there, the operator takes the key back: he wins."""
    stolen, newer, learned = (make_key(stage.host.directory / name) for name in ("stolen", "newer", "learned"))
    stage.register("web1", stolen, at=("web1.lan",))
    hosts, least, register = ssh_run.from_data(stage.data)

    def overtaken(machine: str, known: tuple[SshKey, ...], *, basis: tuple[SshKey, ...], detail: str) -> None:
        if how == "removed":
            stage.remove("web1")
        else:
            stage.retire("web1", stolen)
            again = stolen if how == "known no better than reported" else newer
            stage.register("web1", again, at=("web1.lan",), how=How.OPERATOR)
        register(machine, known, basis=basis, detail=detail)

    said: list[str] = []
    setting = Setting(Path(program("ssh")), hosts, least, stage.host.directory / "state", ("us",), said.append)
    prepare(["-F/dev/null", "web1"], setting)
    (file,) = setting.state.rglob("known_hosts.*")
    with file.open("a") as known_hosts:  # as ssh does it
        known_hosts.write(f"web1 {learned}\n")
    prepare(["-F/dev/null", "web1"], replace(setting, register=overtaken))
    assert learned not in keys(stage)
    assert "were not recorded: the connection to 'web1' was authenticated with a host key that does not" in said[0]


@pytest.mark.peer(*kerberos.PEERS)
def test_P13_a_realm_does_not_vouch_for_a_machine(stage: Stage) -> None:
    """
    Where Kerberos stands for the host key, another host of the realm is let in by ssh, and what it proves is learned.

    So it does not, whatever the user has configured; plain ssh is the proof that this thief could.
    """
    realm = kerberos.Realm(stage.host)
    settings = "GSSAPIKeyExchange yes\nGSSAPIStrictAcceptorCheck no\n"
    thief = Sshd(stage.host, "thief", settings=settings, env=realm.service)
    web = make_key(stage.host.directory / "web1")
    stage.register("web1", web, ports=(thief.port,))
    option = "-oGSSAPIKeyExchange=yes"
    line = ("-F", stage.config, f"-p{thief.port}", "localhost", "echo $SSHD")
    strict = ("-oStrictHostKeyChecking=yes", "-oUserKnownHostsFile=/dev/null", "-oGlobalKnownHostsFile=/dev/null")
    assert stage.run("ssh", option, *strict, *line, code=0, **realm.user).stdout == "thief\n"
    stage.configure("GSSAPIKeyExchange yes\n")
    for given in ((), (option,)):
        done = stage.run("handfast-ssh", *given, *line, code=255, **realm.user)
        assert "this is not web1: it shows ssh-ed25519" in done.stderr
        assert done.stdout == ""
    assert keys(stage) == {web}
