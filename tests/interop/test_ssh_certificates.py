"""Debian's ssh and sshd on loopback: what they believe of our certificates and lists, and where we are stricter."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from handfast.core import krl, sshcert, sshsig
from handfast.core.knownhosts import authority_line
from handfast.core.krl import Krl, revoked
from handfast.core.sshcert import Kind, SshCertificate
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import SshLeaf, issue
from handfast.core.sshoptions import Critical
from handfast.core.sshsig import Signer
from tests.core.certmaterial import crafted, options
from tests.core.sshmaterial import signer
from tests.interop.hosts import Done, Host, Process, program

pytestmark = pytest.mark.peer("ssh", "sshd", "ssh-keygen")
KINDS = {"ed25519": (), "ecdsa": ("-b", "256"), "rsa": ("-b", "2048")}
NAME, PLACE = "localhost", "127.0.0.1"
HOST_CA, USER_CA, STRANGER = signer("ed25519"), signer("rsa"), signer("p384")
NOW = datetime.now(UTC).replace(microsecond=0)
NOTHING = Krl(1, NOW)


def grant(kind: Kind, key: SshKey, principal: str) -> SshLeaf:
    """What is sound for a day: the suite may take longer than an hour."""
    return SshLeaf(
        kind=kind,
        key=key,
        key_id=f"{kind} of the tests",
        principals=(principal,),
        valid_after=NOW - timedelta(minutes=5),
        valid_before=NOW + timedelta(days=1),
        evidence="of the tests",
    )


def expired(sound: SshLeaf) -> SshLeaf:
    """The same, but over since a minute."""
    return replace(sound, valid_before=NOW - timedelta(minutes=1))


def later(sound: SshLeaf) -> SshLeaf:
    """The same, but not before tomorrow."""
    return replace(sound, valid_after=NOW + timedelta(days=1), valid_before=NOW + timedelta(days=2))


@dataclass(slots=True)
class Site:
    """Keys of hosts and users, an sshd, and a user whose known_hosts is the CA's line."""

    host: Host
    directory: Path
    process: Process | None = None
    port: int = 0
    sound: bool = False

    @classmethod
    def make(cls, host: Host, name: str) -> Site:
        """Have ssh-keygen make the keys."""
        directory = host.directory / name
        directory.mkdir()
        for kind, flags in KINDS.items():
            for whose in ("host", "user"):
                path = directory / f"{whose}-{kind}"
                host.run(program("ssh-keygen"), "-q", "-t", kind, *flags, "-N", "", "-f", path)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks itself up; packages leave it to systemd
        (directory / "user-ca.pub").write_text(f"{USER_CA.public}\n")
        (directory / "known_hosts").write_text(authority_line(["*"], HOST_CA.public) + "\n")
        site = cls(host, directory)
        site.revoke(NOTHING, hosts=NOTHING)
        return site

    def signer(self, name: str) -> Signer:
        """A key with its private half."""
        return sshsig.load_private((self.directory / name).read_bytes())

    def revoke(self, users: Krl, *, hosts: Krl = NOTHING) -> None:
        """Publish lists of what is revoked: for sshd, and for ssh."""
        (self.directory / "revoked").write_bytes(krl.build(users))
        (self.directory / "revoked-hosts").write_bytes(krl.build(hosts))

    def start(self, kind: str, certificate: SshCertificate) -> None:
        """Start sshd with one key and its certificate, in the place of the one that runs."""
        self.stop()
        self.sound = False
        with socket.create_server((PLACE, 0)) as probe:
            self.port = probe.getsockname()[1]
        (self.directory / "host-cert.pub").write_text(f"{certificate}\n")
        lines = [
            f"ListenAddress {PLACE}:{self.port}",
            f"HostKey {self.directory}/host-{kind}",
            f"HostCertificate {self.directory}/host-cert.pub",
            f"TrustedUserCAKeys {self.directory}/user-ca.pub",
            f"RevokedKeys {self.directory}/revoked",
            "AuthorizedKeysFile none",
            "PermitRootLogin prohibit-password",
            "UsePAM no",
            "StrictModes no",
            "PidFile none",
        ]
        config = self.host.put("sshd.conf", "".join(f"{line}\n" for line in lines))
        self.process = self.host.start(program("sshd"), "-D", "-e", "-f", config)
        self.process.expect(f"Server listening on {PLACE}")

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    def login(self, kind: str, certificate: SshCertificate, command: str = "echo in it") -> Done:
        """Log in as root, and have the command run."""
        (self.directory / "user-cert.pub").write_text(f"{certificate}\n")
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": self.directory / "known_hosts",
            "GlobalKnownHostsFile": "none",
            "RevokedHostKeys": self.directory / "revoked-hosts",
            "IdentitiesOnly": "yes",
            "IdentityFile": self.directory / f"user-{kind}",
            "CertificateFile": self.directory / "user-cert.pub",
            "PreferredAuthentications": "publickey",
        }
        flags = [flag for name, value in settings.items() for flag in ("-o", f"{name}={value}")]
        where = ("-p", str(self.port), f"root@{NAME}")
        return self.host.run(program("ssh"), "-F", "none", *flags, *where, command, code=None)


def accepted(done: Done) -> bool:
    """Whether the command ran; ssh has no other words for it."""
    assert (done.code, done.stdout) in {(0, "in it\n"), (255, "")}, done
    return done.code == 0


@pytest.fixture(scope="module")
def site(here: Host) -> Iterator[Site]:
    """Keys and lists, and no sshd yet."""
    made = Site.make(here, "certificates")
    yield made
    made.stop()


@pytest.fixture
def serving(site: Site) -> Site:
    """An sshd with a host certificate that is sound, whatever other tests have started; nothing is revoked."""
    if not site.sound:
        site.start("ed25519", sound_host(site))
        site.sound = True
    site.revoke(NOTHING)
    return site


def sound_host(site: Site, kind: str = "ed25519") -> SshCertificate:
    """A host's certificate that ssh has to accept."""
    key = site.signer(f"host-{kind}").public
    return issue(grant(Kind.HOST, key, NAME), HOST_CA, serial=7)


def sound_user(site: Site, kind: str = "ed25519") -> SshCertificate:
    """A user's certificate that sshd has to accept."""
    key = site.signer(f"user-{kind}").public
    return issue(grant(Kind.USER, key, "root"), USER_CA, serial=8)


# --- users ---

Change = Callable[[SshLeaf], SshLeaf]
USERS: dict[str, Change] = {
    "sound": lambda sound: sound,
    "several": lambda sound: replace(sound, principals=("alice", "root")),
    "other-principal": lambda sound: replace(sound, principals=("alice",)),
    "other-case": lambda sound: replace(sound, principals=("Root",)),
    "expired": expired,
    "later": later,
    "from-here": lambda sound: replace(sound, critical=Critical(source_address=(ip_network("127.0.0.0/8"),))),
    "from-elsewhere": lambda sound: replace(sound, critical=Critical(source_address=(ip_network("10.0.0.0/8"),))),
    "host": lambda sound: replace(sound, kind=Kind.HOST),
}


@pytest.mark.parametrize("name", USERS)
def test_sshd_judges_users_as_we_do(serving: Site, name: str) -> None:
    """sshd lets in whom we believe, and nobody else."""
    sound = grant(Kind.USER, serving.signer("user-ed25519").public, "root")
    certificate = issue(USERS[name](sound), USER_CA, serial=8)
    reasons = sshcert.against(
        certificate,
        authorities=[USER_CA.public],
        kind=Kind.USER,
        principal="root",
        at=datetime.now(UTC),
        source=ip_address(PLACE),
    )
    assert (
        accepted(serving.login("ed25519", certificate))
        == (reasons == ())
        == (name in {"sound", "several", "from-here"})
    )


@pytest.mark.parametrize("kind", KINDS)
def test_users_with_keys_of_every_kind(serving: Site, kind: str) -> None:
    """Keys of every kind log in with a certificate by an RSA authority, over SHA-512."""
    assert accepted(serving.login(kind, sound_user(serving, kind)))


def test_the_forced_command_runs(serving: Site) -> None:
    """Whoever has a forced command gets it, whatever he asks for."""
    sound = grant(Kind.USER, serving.signer("user-ed25519").public, "root")
    certificate = issue(replace(sound, critical=Critical("echo in it")), USER_CA, serial=8)
    assert accepted(serving.login("ed25519", certificate, "echo something else"))


def test_what_is_not_permitted_is_refused(serving: Site) -> None:
    """Without permissions there is a command, and no terminal: sshd takes what is left out for forbidden."""
    done = serving.login("ed25519", sound_user(serving), "test -t 0 || echo in it")
    assert accepted(done)


def test_a_stranger_certifies_nobody(serving: Site) -> None:
    """A certificate by an authority that sshd does not know lets nobody in."""
    sound = grant(Kind.USER, serving.signer("user-ed25519").public, "root")
    assert not accepted(serving.login("ed25519", issue(sound, STRANGER, serial=8)))


LISTS: dict[str, Callable[[SshCertificate], Krl]] = {
    "serial": lambda each: Krl(2, NOW, (revoked(USER_CA.public, serials=[each.serial]),)),
    "range": lambda each: Krl(2, NOW, (revoked(USER_CA.public, serials=range(1, 100)),)),
    "key-id": lambda each: Krl(2, NOW, (revoked(USER_CA.public, key_ids=[each.key_id]),)),
    "key": lambda each: Krl(2, NOW, keys=frozenset({each.key})),
    "digest": lambda each: Krl(2, NOW, digests=frozenset({each.key.digest})),
    "authority": lambda each: Krl(2, NOW, keys=frozenset({each.authority})),
    "nothing": lambda each: NOTHING,
    "other-serial": lambda each: Krl(2, NOW, (revoked(USER_CA.public, serials=[each.serial + 1]),)),
    "other-authority": lambda each: Krl(2, NOW, (revoked(HOST_CA.public, serials=[each.serial]),)),
}


@pytest.mark.parametrize("name", LISTS)
def test_sshd_reads_our_list(serving: Site, name: str) -> None:
    """What the list revokes is shut out at the next login, without a word to sshd, and nothing else is."""
    certificate = sound_user(serving)
    listed = LISTS[name](certificate)
    serving.revoke(listed)
    reason = krl.is_revoked(listed, certificate)
    assert accepted(serving.login("ed25519", certificate)) == (reason is None) == (name == "nothing" or "other" in name)


def test_a_list_that_is_damaged_lets_nobody_in(serving: Site) -> None:
    """sshd refuses every key while the list is cut off or away: a new one has to be renamed into its place, whole."""
    whole = krl.build(LISTS["other-serial"](sound_user(serving)))
    (serving.directory / "revoked").write_bytes(whole[:-3])
    assert not accepted(serving.login("ed25519", sound_user(serving)))
    (serving.directory / "revoked").unlink()
    assert not accepted(serving.login("ed25519", sound_user(serving)))


# --- hosts ---

HOSTS: dict[str, Change] = {
    "sound": lambda sound: sound,
    "several": lambda sound: replace(sound, principals=("web1.example", NAME)),
    "other-principal": lambda sound: replace(sound, principals=("web1.example",)),
    "address-only": lambda sound: replace(sound, principals=(PLACE,)),
    "expired": expired,
    "later": later,
}


@pytest.mark.parametrize("name", HOSTS)
def test_ssh_judges_hosts_as_we_do(site: Site, name: str) -> None:
    """With nothing but the CA's line in known_hosts, ssh goes on where we believe the host, and nowhere else."""
    site.revoke(NOTHING)
    sound = grant(Kind.HOST, site.signer("host-ed25519").public, NAME)
    certificate = issue(HOSTS[name](sound), HOST_CA, serial=7)
    site.start("ed25519", certificate)
    reasons = sshcert.against(
        certificate, authorities=[HOST_CA.public], kind=Kind.HOST, principal=NAME, at=datetime.now(UTC)
    )
    assert accepted(site.login("ed25519", sound_user(site))) == (reasons == ()) == (name in {"sound", "several"})


@pytest.mark.parametrize("kind", KINDS)
def test_hosts_with_keys_of_every_kind(site: Site, kind: str) -> None:
    """Host keys of every kind are believed by their certificate, until it is on the list."""
    site.revoke(NOTHING)
    certificate = sound_host(site, kind)
    site.start(kind, certificate)
    assert accepted(site.login("ed25519", sound_user(site)))
    for listed in (
        Krl(2, NOW, (revoked(HOST_CA.public, serials=[certificate.serial]),)),
        Krl(3, NOW, digests=frozenset({certificate.key.digest})),
    ):
        site.revoke(NOTHING, hosts=listed)
        assert krl.is_revoked(listed, certificate)
        assert not accepted(site.login("ed25519", sound_user(site)))


def test_a_stranger_certifies_no_host(site: Site) -> None:
    """A host's certificate by an authority that known_hosts does not name is believed by nobody."""
    site.revoke(NOTHING)
    sound = grant(Kind.HOST, site.signer("host-ed25519").public, NAME)
    site.start("ed25519", issue(sound, STRANGER, serial=7))
    assert not accepted(site.login("ed25519", sound_user(site)))


# What is signed by an authority that is not careful: what ssh makes of it, and we.
CARELESS: dict[str, tuple[dict[str, object], bool | None, bool]] = {
    "plain": ({}, True, True),
    "everybody": ({"principals": []}, None, False),  # its version decides
    "pattern": ({"principals": [b"loc*"]}, None, False),  # likewise
    "critical": ({"critical": options((b"force-command", b"\0\0\0\4true"))}, False, False),
    "unknown-extension": ({"extensions": options((b"x@example", b"\0\0\0\1x"))}, True, True),
}


@pytest.mark.parametrize("name", CARELESS)
def test_where_we_are_stricter_than_ssh(site: Site, name: str) -> None:
    """To ssh, no principal may be every host, and ``*`` a pattern: so we issue neither, and believe neither."""
    site.revoke(NOTHING)
    changes, theirs, ours = CARELESS[name]
    key = site.signer("host-ed25519").public
    fields = {"algorithm": b"ssh-ed25519-cert-v01@openssh.com", "principals": [NAME.encode()], **changes}
    certificate = sshcert.read(crafted(key=key, ca=HOST_CA, **fields))  # type: ignore[arg-type]
    site.start("ed25519", certificate)
    assert accepted(site.login("ed25519", sound_user(site))) in ({True, False} if theirs is None else {theirs})
    reasons = sshcert.against(
        certificate, authorities=[HOST_CA.public], kind=Kind.HOST, principal=NAME, at=datetime.now(UTC)
    )
    assert (reasons == ()) == ours
