"""`join --ssh-hostkey` for real: OpenSSH's sshd and ssh, names from Knot, cables, and whoever sits between."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.core import sshkeys
from tests.interop.challenge_stage import OFFICE, SERVER, Fleet, certificate
from tests.interop.hosts import HANDFAST, Host, Process, network, program
from tests.interop.look_stage import ZONE, answer_slowly
from tests.interop.ssh_stage import make_key
from tests.interop.sshd_stage import OwnSshd

PEERS = ("ip", "knotd", "ssh", "sshd", "ssh-keygen", "ssh-agent")
pytestmark = [pytest.mark.peer(*PEERS), pytest.mark.root, pytest.mark.timeout(300)]
ELSEWHERE = f"'db1.{ZONE}' does not lead to the addresses given, or not only to these"


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """A registrar and two machines, of which one is called db1 in DNS."""
    with network() as machines:
        fleet = Fleet(machines)
        fleet.names.names(f"db1 A {SERVER}", "db CNAME db1", f"web A {OFFICE}")
        yield fleet


def did_not_show(sshd: OwnSshd, address: str, *, port: int = 22, kind: str = "ed25519") -> str:
    """What is said where somebody else answers, or nobody."""
    return f"{address} at port {port} did not show {sshd.keys[kind].fingerprint}"


# --- enrolment ---


def test_one_command(fleet: Fleet) -> None:
    """
    After one command plain ssh logs in by either name and port, with nothing in its known_hosts but the CA's line.

    With keys of every kind; by another name, or before the command, it does not.
    """
    sshd = fleet.sshd(fleet.network.server, "ed25519", "p256", "rsa", more="Port 2222")
    assert "Host key verification failed" in fleet.login("db1", code=255).stderr
    done = fleet.join(sshd, "db1", "db", flags=("--ssh-port", "22", "--ssh-port", "2222"))
    for kind in sshd.keys:
        made = certificate(sshd, kind)
        assert made.key == sshd.keys[kind]
        assert set(made.principals) == {f"db1.{ZONE}", f"db.{ZONE}", SERVER}
        assert f"sshd shows the certificate {made.serial}" in done.stderr
    for name in ("db1", "db"):
        for port in ("22", "2222"):
            assert fleet.login(name, "-p", port).stdout == "in it\n"
    for algorithm in ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512"):
        only = f"-oHostKeyAlgorithms={algorithm}-cert-v01@openssh.com"
        assert fleet.login("db1", only).stdout == "in it\n"
    fleet.names.names(f"web A {SERVER}")
    assert "Host key verification failed" in fleet.login("web", code=255).stderr


def test_ssh_keygen_reads_it(fleet: Fleet) -> None:
    """Its principals, its CA, and how its holder was accepted are what `ssh-keygen -L` shows."""
    sshd = fleet.sshd(fleet.network.server)
    told = fleet.join(sshd, "db1", install=False, flags=("--json",)).json()
    (view,) = told["ssh_certificates"]
    assert (view["serial"], view["evidence"]) == (str(certificate(sshd).serial), "ssh-hostkey challenged")
    assert sshkeys.parse(told["ssh"]["host_ca"]) == sshkeys.parse(fleet.host_ca)
    shown = sshd.host.run("ssh-keygen", "-L", "-f", sshd.certificate_file()).stdout
    for line in (f"db1.{ZONE}", SERVER, "host certificate", sshkeys.parse(fleet.host_ca).fingerprint):
        assert line in shown
    assert "evidence@handfast" in shown


def test_said_again_it_is_the_same(fleet: Fleet) -> None:
    """The key at this address is the certificate's identity: the second run gets the same bytes; nothing is spent."""
    sshd = fleet.sshd(fleet.network.server)
    fleet.join(sshd, "db1")
    first = sshd.certificate_file().read_text()
    fleet.join(sshd, "db1")
    assert sshd.certificate_file().read_text() == first


def test_a_renewal_is_a_look(fleet: Fleet) -> None:
    """What a look alone vouches for is looked at again; where that fails the key will do, while policy says so."""
    sshd = fleet.sshd(fleet.network.server)
    fleet.join(sshd, "db1")
    again = sshd.host.handfast("renew", "--ssh", "--out", "identity")
    assert "did not look" not in again.stderr
    assert len(fleet.registrar.process.told("hostkey/nonce", 2)) == 2
    fleet.names.names()
    without = sshd.host.handfast("renew", "--ssh", "--out", "identity")
    assert f"the registrar did not look at this host again: 'db1.{ZONE}' does not lead to" in without.stderr
    asked = fleet.registrar.process.told('"route":"/v1/ssh/certificates/{method}"', 3)
    assert len(asked) == 3
    assert certificate(sshd).key == sshd.keys["ed25519"]


def test_its_own_name_and_addresses(fleet: Fleet) -> None:
    """Without flags: the name that the machine has, and the address from which it reaches the registrar."""
    sshd = fleet.sshd(fleet.network.server)
    hosts = sshd.host.put("hosts", f"127.0.1.1 db1.{ZONE} db1\n")
    own = 'hostname db1 && mount --bind "$0" /etc/hosts && exec "$@"'
    line = ("join", "--ssh-hostkey", fleet.registrar.line, "--ssh-dir", sshd.etc, "--out", "identity")
    command = ("unshare", "--mount", "--uts", "sh", "-c", own, hosts)
    sshd.host.run(*command, *HANDFAST, *line)
    assert certificate(sshd).principals == (f"db1.{ZONE}", SERVER)


def test_another_key_for_a_known_name(fleet: Fleet) -> None:
    """
    A host that was set up anew comes with other keys: it waits (exit code 6) until a person has compared them.

    The same command then succeeds, and ssh goes on as before; the old key's certificate is revoked.
    """
    old = fleet.sshd(fleet.network.server)
    fleet.join(old, "db1")
    before = certificate(old)
    old.stop()
    shutil.rmtree(old.etc)
    (old.host.directory / "identity" / "ssh.json").unlink()
    new = fleet.sshd(fleet.network.server)
    assert new.keys != old.keys
    assert "a person has to" in fleet.join(new, "db1", code=6).stderr
    assert not new.certificate_file().exists()
    registrar, data = fleet.registrar.host, fleet.registrar.data
    (waiting,) = registrar.handfast("approve", "list", "--data", data, "--json").json()
    shown = registrar.handfast("approve", "show", waiting["approval_id"], "--data", data).stdout
    for sshd in (old, new):
        assert sshd.keys["ed25519"].fingerprint in shown
    registrar.handfast("approve", "accept", waiting["approval_id"], "--data", data, "--reason", "reinstalled")
    fleet.join(new, "db1")
    assert fleet.login("db1").stdout == "in it\n"
    registrar.handfast("ca", "krl", "--data", data, "--out", "krl")
    registrar.put("before", f"{before}\n")
    assert "REVOKED" in registrar.run("ssh-keygen", "-Q", "-f", "krl", "before", code=1).stdout


# --- keys that we cannot read ---


def start_agent(host: Host, *keys: Path) -> tuple[Process, dict[str, str]]:
    """An ssh-agent that has these keys, which are nowhere else any more."""
    socket = host.directory / "agent"
    agent = host.start("ssh-agent", "-D", "-a", socket)
    agent.expect("SSH_AUTH_SOCK")
    env = {"SSH_AUTH_SOCK": str(socket)}
    for key in keys:
        host.run("ssh-add", key, env=env)
    return agent, env


@pytest.mark.parametrize("kind", ["ed25519", "p256", "rsa"])
def test_a_key_in_ssh_agent(fleet: Fleet, kind: str) -> None:
    """sshd and we have the public half, an agent the private one (HostKeyAgent): it signs both times."""
    host = fleet.network.server
    sshd = fleet.sshd(host, kind)
    sshd.stop()
    _, env = start_agent(host, sshd.key_file(kind))
    sshd.key_file(kind).unlink()
    text = sshd.config.read_text().replace(f"{sshd.key_file(kind)}\n", f"{sshd.key_file(kind)}.pub\n")
    sshd.config.write_text(f"{text}HostKeyAgent {env['SSH_AUTH_SOCK']}\n")
    sshd.start()
    fleet.join(sshd, "db1", env=env)
    first = certificate(sshd, kind)
    assert first.key == sshd.keys[kind]
    assert fleet.login("db1").stdout == "in it\n"
    host.handfast("renew", "--ssh", "--out", "identity")  # the agent's socket is remembered: a timer has no other
    assert certificate(sshd, kind).key == sshd.keys[kind]


def lock(sshd: OwnSshd) -> dict[str, str]:
    """Give the key a passphrase, of which sshd has a copy without; return what tells ssh-keygen the passphrase."""
    plain = sshd.etc / "plain"
    shutil.copy(sshd.key_file(), plain)
    sshd.config.write_text(sshd.config.read_text().replace(f"HostKey {sshd.key_file()}\n", f"HostKey {plain}\n"))
    sshd.stop()
    sshd.start()
    sshd.host.run("ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", sshd.key_file())
    askpass = sshd.host.put("askpass", "#!/bin/sh\necho secret\n")
    askpass.chmod(0o700)
    return {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}


def test_a_key_that_only_ssh_keygen_reads(fleet: Fleet) -> None:
    """
    A key that we cannot read is signed with by `ssh-keygen -Y sign`, which shows what it does.

    Here it has a passphrase, which ssh-keygen is told by an askpass program, and sshd has a copy without.
    """
    host = fleet.network.server
    sshd = fleet.sshd(host)
    env = lock(sshd)
    fleet.join(sshd, "db1", install=False, env=env)
    assert certificate(sshd).key == sshd.keys["ed25519"]
    wrong = host.put("wrong", "#!/bin/sh\necho wrong\n")
    wrong.chmod(0o700)
    done = fleet.join(sshd, "db1", install=False, code=3, env=env | {"SSH_ASKPASS": str(wrong)})
    assert "ssh-keygen did not sign with" in done.stderr


# --- what is not as it was said ---


def nothing_came_of_it(fleet: Fleet, sshd: OwnSshd) -> None:
    """No certificate, no machine, and nobody who looks at the refusal learns what our network is like."""
    assert not sshd.certificate_file().exists()
    with sqlite3.connect(fleet.registrar.data / "ledger.sqlite3") as ledger:
        assert ledger.execute("select count(*) from ssh_certificates").fetchone() == (0,)
        assert ledger.execute("select count(*) from hosts").fetchone() == (0,)


def test_DNS_leads_elsewhere(fleet: Fleet) -> None:
    """A name that is another machine's, or nobody's: refused with exit code 3, and the name said."""
    sshd = fleet.sshd(fleet.network.server)
    fleet.names.names(f"db1 A {OFFICE}")
    done = fleet.join(sshd, "db1", flags=("--address", SERVER), code=3)
    assert ELSEWHERE in done.stderr
    assert OFFICE not in done.stderr
    fleet.names.names(f"db1 A {SERVER}", f"db1 A {OFFICE}")
    assert ELSEWHERE in fleet.join(sshd, "db1", flags=("--address", SERVER), code=3).stderr
    fleet.names.names()
    assert ELSEWHERE in fleet.join(sshd, "db1", flags=("--address", SERVER), code=3).stderr
    nothing_came_of_it(fleet, sshd)


def test_another_host_at_one_of_the_addresses(fleet: Fleet) -> None:
    """Two addresses of which one is another machine's, with a key of its own: refused; what it showed is not told."""
    sshd = fleet.sshd(fleet.network.server)
    other = fleet.sshd(fleet.network.office, address=OFFICE)
    fleet.names.names(f"db1 A {SERVER}", f"db1 A {OFFICE}")
    done = fleet.join(sshd, "db1", flags=("--address", SERVER, "--address", OFFICE), code=3)
    assert did_not_show(sshd, OFFICE) in done.stderr
    assert did_not_show(sshd, SERVER) not in done.stderr
    assert other.keys["ed25519"].fingerprint not in done.stderr
    log = fleet.registrar.process.expect('"event":"looked"')
    assert other.keys["ed25519"].fingerprint in log
    nothing_came_of_it(fleet, sshd)


def test_somebody_elses_address(fleet: Fleet) -> None:
    """A thief in the fleet who asks for another's name: at its address his key does not answer, theirs he has not."""
    fleet.sshd(fleet.network.server)
    thief = fleet.sshd(fleet.network.office, address=OFFICE)
    done = fleet.join(thief, "db1", flags=("--address", SERVER), code=3)
    assert did_not_show(thief, SERVER) in done.stderr
    assert ELSEWHERE in fleet.join(thief, "db1", flags=("--address", OFFICE), code=3).stderr
    shutil.copy(fleet.network.server.directory / "etc/ssh_host_ed25519_key.pub", thief.etc / "ssh_host_x_key.pub")
    thief.key_file().unlink()
    thief.key_file().with_suffix(".pub").unlink()
    done = fleet.join(thief, "db1", flags=("--address", SERVER), install=False, code=3)
    assert "its private half is neither there nor in an ssh-agent" in done.stderr


def hold_up(sshd: OwnSshd) -> tuple[Path, dict[str, str]]:
    """Have the host's ssh-keygen wait before it signs, until somebody writes into the pipe that is returned."""
    env, may = lock(sshd), sshd.host.directory / "may"
    os.mkfifo(may)
    (sshd.host.directory / "bin").mkdir()
    real = program("ssh-keygen")
    wrapper = sshd.host.put("bin/ssh-keygen", f'#!/bin/sh\nread _ <{may}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    return may, env | {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}


def test_a_man_in_the_middle_of_one_look(fleet: Fleet) -> None:
    """
    Whoever answers for the address at the first look and not at the second gets no token.

    He has the address, asks for its name with a key of his own, and is looked at. While his key signs, the address is
    its owner's again, as that of somebody who poisoned an ARP cache for a moment would be. The ledger's log has it.
    """
    thief = fleet.sshd(fleet.network.server)
    may, env = hold_up(thief)
    line = ("join", "--ssh-hostkey", fleet.registrar.line, "--ssh-dir", thief.etc, "--out", "identity")
    joining = thief.host.start(*HANDFAST, *line, "--name", f"db1.{ZONE}", env=env)
    assert '"status":200' in fleet.registrar.process.expect('"route":"/v1/ssh/hostkey/nonce"')
    thief.stop()
    owner = Host(thief.host.directory / "owner", thief.host.namespace)
    try:
        sshd = fleet.sshd(owner)
        may.write_text("\n")  # his key signs: the proof is good, and the second look is somebody else's
        assert joining.wait() == 3
        assert did_not_show(thief, SERVER) in str(joining)
        assert sshd.keys["ed25519"].fingerprint not in str(joining)
        log = fleet.registrar.host.handfast("log", "show", "--data", fleet.registrar.data).stdout
        assert "introduction.refused" in log
    finally:
        owner.close()
    nothing_came_of_it(fleet, thief)


def test_a_host_that_never_answers_or_drips(fleet: Fleet) -> None:
    """Nobody at the port, one who says nothing, one byte a second: refused in bounded time, in the same words."""
    host = fleet.network.server
    directory = host.directory / "keys"
    directory.mkdir()
    key = make_key(directory / "ssh_host_ed25519_key")
    expected = f"{SERVER} at port 22 did not show {key.fingerprint}"
    line = ("join", "--ssh-hostkey", fleet.registrar.line, "--ssh-dir", directory, "--name", f"db1.{ZONE}")
    for pace in (None, 0.0, 1.0):
        slow = None if pace is None else answer_slowly(host, SERVER, pace=pace)
        done = host.handfast(*line, "--out", "identity", code=3)
        assert expected in done.stderr
        for private in ("refused", "timed out", "closed", "in time"):
            assert private not in done.stderr.partition("error:")[2].partition("hint")[0].replace("policy-refused", "")
        if slow is not None:
            slow.kill()


def test_names_for_which_the_authority_does_not_speak(fleet: Fleet) -> None:
    """Whoever has another domain, and leads it to his host, does not get into the registry with it."""
    sshd = fleet.sshd(fleet.network.server)
    done = fleet.join(sshd, flags=("--name", "db1.elsewhere.example", "--address", SERVER), code=3)
    assert "'db1.elsewhere.example' is not a name for which this authority speaks" in done.stderr
    nothing_came_of_it(fleet, sshd)


def test_where_we_may_not_look(fleet: Fleet) -> None:
    """Loopback, another port, and a private network that is not listed: refused before any packet is sent for it."""
    sshd = fleet.sshd(fleet.network.server)
    for flags, reason in (
        (("--address", "127.0.0.1"), "'127.0.0.1' is not one to scan: loopback"),
        (("--address", "169.254.169.254"), "'169.254.169.254' is not one to scan: a cloud's metadata service"),
        (("--address", "10.78.0.1"), "'10.78.0.1' is not one to scan: private"),
        (("--ssh-port", "25"), "port 25 is not one to scan"),
    ):
        done = fleet.join(sshd, "db1", flags=flags, code=3)
        assert reason in done.stderr


def test_another_registrar(fleet: Fleet) -> None:
    """Of another root: exit code 5, and nothing was sent. None at all: 4. A registrar that does not do this: 3."""
    sshd = fleet.sshd(fleet.network.server)
    url = fleet.registrar.ready["url"]
    for line, code, words in (
        (f"{url}#{'0' * 64}", 5, "pin"),
        (f"https://{fleet.network.REGISTRAR}:9#{'0' * 64}", 4, "cannot reach"),
    ):
        flags = ("--ssh-dir", sshd.etc, "--name", f"db1.{ZONE}", "--out", "identity")
        assert words in sshd.host.handfast("join", "--ssh-hostkey", line, *flags, code=code).stderr
    nothing_came_of_it(fleet, sshd)


def test_what_cannot_be_meant(fleet: Fleet) -> None:
    """Names that are none, flags of other ways, and a URL without a pin: exit code 2, before anything is done."""
    sshd = fleet.sshd(fleet.network.server)
    for flags, words in (
        (("--name", "*.lan"), "not a DNS name"),
        (("--name", "bücher.lan"), "not a DNS name"),
        (("--address", "fe80::1%eth0"), "not an IP address: 'fe80::1%eth0'"),
        (("--san", "web1.lan"), "--ssh-hostkey is for SSH certificates alone"),
        (("--role", "server"), "--ssh-hostkey is for SSH certificates alone"),
    ):
        assert words in fleet.join(sshd, "db1", flags=flags, code=2).stderr
    done = sshd.host.handfast("join", "--ssh-hostkey", str(fleet.registrar.ready["url"]), code=2)
    assert "no pin in" in done.stderr
    assert "mean nothing without --ssh-hostkey" in sshd.host.handfast("join", "--name", "a.lan", code=2).stderr
