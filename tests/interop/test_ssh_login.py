"""`ssh-login` with a real OpenID provider, a real ssh-agent, and a real sshd that knows nothing but our CA."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from handfast.cli.exit_codes import INTERRUPTED
from tests.core.sshmaterial import keygen
from tests.interop.hosts import HANDFAST, Done, Host, Process, Registrar, clock, local_host, program
from tests.interop.openid_stage import CLIENT, NEEDED, OpenId, openid_provider
from tests.interop.ssh_stage import Sshd, make_key
from tests.newcomer.agents import ssh_add
from tests.newcomer.agents import ssh_agent as running_agent

pytestmark = [
    pytest.mark.peer(*NEEDED, "faketime", "ssh", "sshd", "ssh-agent", "ssh-keygen"),
    pytest.mark.root,
    pytest.mark.timeout(180),
]

RULES = """
[[oidc]]
name = "corp"
issuer = "{issuer}"
client_id = "{client}"

[[ssh.users]]
origins = ["oidc:corp"]
emails = ["limited@example.org"]
principals = ["fleet"]
force_command = "echo forced"
source_address = ["127.0.0.1/32"]

[[ssh.users]]
origins = ["oidc:corp"]
emails = ["away@example.org"]
principals = ["fleet"]
source_address = ["192.0.2.0/24"]

[[ssh.users]]
origins = ["oidc:corp"]
emails = ["*@example.org"]
groups = ["admins"]
principals = ["fleet", "backup"]
own = "local-part"
lifetime = "8h"

[[ssh.users]]
origins = ["operator"]
principals = ["fleet"]
"""


@dataclass
class Site:
    """A registrar, a provider, and a machine whose root is whoever has the principal ``fleet``."""

    host: Host
    registrar: Registrar
    provider: OpenId
    sshd: Sshd
    url: str
    agent: Path

    def login(self, user: str, *flags: str, code: int = 0) -> Done:
        """Log in as a user of the provider does: run the command, open what it shows, allow it."""
        process = self.start(*flags)
        self.provider.allow(shown(process), user)
        return ended(process, code)

    def start(self, *flags: str) -> Process:
        """Start the command, as a terminal's shell does: one in the background would have it ignore Ctrl-C."""
        shell = ("env", "--default-signal=INT", *HANDFAST)
        return self.host.start(*shell, "ssh-login", self.url, *flags, env={"SSH_AUTH_SOCK": str(self.agent)})

    def ssh(self, *arguments: str, user: str = "root", code: int | None = 0) -> Done:
        """Connect with what the agent has, or what ``arguments`` say."""
        known = self.host.put("known_hosts", f"[127.0.0.1]:{self.sshd.port} {self.sshd.key}\n")
        settings = ("BatchMode=yes", f"UserKnownHostsFile={known}", "GlobalKnownHostsFile=none", "IdentitiesOnly=no")
        flags = [part for each in settings for part in ("-o", each)]
        line = (program("ssh"), "-F", "none", *flags, "-p", str(self.sshd.port), *arguments)
        command = () if "-N" in arguments else ("echo in as $(id -un)",)
        return self.host.run(*line, f"{user}@127.0.0.1", *command, env={"SSH_AUTH_SOCK": str(self.agent)}, code=code)

    def forget(self) -> None:
        """Have an empty agent."""
        ssh_add(self.agent, "-D")


def shown(process: Process) -> str:
    """The address that a person opens."""
    process.expect("enter the code")
    return process.expect("or open http").partition("or open ")[2].strip()


def ended(process: Process, code: int = 0) -> Done:
    """How it ended, once it has."""
    assert process.wait() == code, process
    return Done(code, "\n".join(process.lines), "")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """All of them, on loopback."""
    with local_host() as host, openid_provider(host.directory / "openid") as provider, running_agent() as agent:
        data = host.directory / "registrar"
        data.mkdir(mode=0o700)
        (data / "config.toml").write_text(RULES.format(issuer=provider.issuer, client=CLIENT))
        registrar = Registrar(host)
        shown: dict[str, Any] = host.handfast("ca", "show", "--data", data, "--json").json()
        (host.directory / "user_ca.pub").write_text(user_ca(data) + "\n")
        host.put("fleet", "fleet\n")
        (host.directory / "revoked").write_bytes(b"")
        make_key(host.directory / "id")
        settings = (
            f"TrustedUserCAKeys {host.directory}/user_ca.pub\nAuthorizedPrincipalsFile {host.directory}/fleet\n"
            "AuthorizedKeysFile none\nMaxAuthTries 3\n"
        )
        sshd = Sshd(host, "web1", settings=settings)
        for name, more in {
            "ada": {"email": "ada@example.org", "email_verified": "yes", "groups": ["admins", "staff"]},
            "eve": {"email": "eve@example.org", "email_verified": "no", "groups": ["admins"]},
            "bob": {"email": "bob@example.org", "email_verified": "yes", "groups": ["staff"]},
            "limited": {"email": "limited@example.org", "email_verified": "yes", "groups": ["staff"]},
            "away": {"email": "away@example.org", "email_verified": "yes", "groups": ["staff"]},
        }.items():
            provider.add_user(name, **more)
        yield Site(host, registrar, provider, sshd, f"https://{registrar.ready['listen']}#{shown['pin']}", agent)


def user_ca(data: Path) -> str:
    """The public key of the CA for users."""
    return next((data / "authority").glob("*user*.pub")).read_text().strip()


@pytest.fixture(autouse=True)
def empty(site: Site) -> None:
    """Nothing of an earlier test is in the agent."""
    site.forget()


def test_a_person_logs_in(site: Site) -> None:
    """One command and one click in a browser: ssh is let in as whom the rule says, and nothing is on the disk."""
    before = {path for path in site.host.directory.rglob("*") if "registrar" not in str(path)}
    said = site.login("ada").stdout
    assert "user ada@example.org by oidc:corp: may log in as fleet, backup, ada, until" in said
    assert site.ssh().stdout == "in as root\n"
    listed = ssh_add(site.agent, "-L")
    assert listed.count("\n") == 1
    assert listed.startswith("ssh-ed25519-cert-v01@openssh.com ")
    made = {path for path in site.host.directory.rglob("*") if "registrar" not in str(path)} - before
    assert {path for path in made if "openid" not in str(path)} <= {site.host.directory / "known_hosts"}
    certificate = site.host.put("shown.pub", listed)
    described = keygen("-L", "-f", certificate).stdout.decode()
    assert 'Key ID: "user ada@example.org by oidc:corp"' in described
    assert "permit-pty" in described
    assert "permit-agent-forwarding" not in described


def test_P41_the_principals_are_those_of_the_rule_and_no_others(site: Site) -> None:
    """Who asks for fewer gets fewer, and sshd holds them to it; who asks for more is refused."""
    site.login("ada", "--principal", "backup")
    assert "Permission denied" in site.ssh(code=255).stderr
    site.forget()
    process = site.start("--principal", "fleet", "--principal", "root")
    site.provider.allow(shown(process), "ada")
    said = ended(process, 3).stdout
    assert "not entitled to the principals root (only fleet, backup, ada)" in said
    assert ssh_add(site.agent, "-l") == "The agent has no identities.\n"


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("bob", "e-mail bob@example.org, groups staff"),
        ("eve", "e-mail none that is verified, groups admins"),
    ],
)
def test_P41_whoever_no_rule_is_for(site: Site, user: str, words: str) -> None:
    """Another group, or an address that nobody verified, though it would fit: refused, saying what was looked for."""
    said = site.login(user, code=3).stdout
    assert "no rule of 4 in [[ssh.users]] is for origin 'oidc:corp'" in said
    assert words in said


def test_P41_a_forced_command_and_a_source_address(site: Site) -> None:
    """sshd runs what the rule forces, whatever is asked for, and lets in from the rule's networks only."""
    said = site.login("limited").stdout
    assert "limited: force-command echo forced" in said
    assert site.ssh().stdout == "forced\n"
    site.forget()
    site.login("away")
    assert "Permission denied" in site.ssh(code=255).stderr


def test_the_end(site: Site) -> None:
    """The agent drops it when it ends; a machine that is past its end refuses it, though somebody has kept the key."""
    out = site.host.directory / "kept"
    site.login("ada", "--lifetime", "1h", "--out", str(out))
    shown_ = keygen("-L", "-f", Path(f"{out}-cert.pub")).stdout.decode()
    assert "Type: ssh-ed25519-cert-v01@openssh.com user certificate" in shown_
    assert out.stat().st_mode & 0o777 == 0o600
    assert site.ssh("-i", str(out)).stdout == "in as root\n"
    settings = (
        f"TrustedUserCAKeys {site.host.directory}/user_ca.pub\nAuthorizedPrincipalsFile {site.host.directory}/fleet\n"
    )
    late = Sshd(site.host, "late", settings=settings, env=clock("+61m"))
    kept, site.sshd = site.sshd, late
    try:
        assert "Permission denied" in site.ssh("-i", str(out), code=255).stderr
        assert late.process.told("Certificate invalid: expired")
    finally:
        site.sshd = kept


def test_a_certificate_that_was_taken_back(site: Site) -> None:
    """Revoked by its serial, and on the list that sshd reads: refused at once."""
    process = site.start("--json")
    site.provider.allow(shown(process), "ada")
    about = json.loads(ended(process).stdout.splitlines()[-1])
    assert about["principals"] == ["fleet", "backup", "ada"]
    revoked = site.host.directory / "krl"
    site.host.handfast("revoke", about["serial"], "--ssh", "--reason", "keyCompromise", "--data", site.registrar.data)
    site.host.handfast("ca", "krl", "--data", site.registrar.data, "--out", revoked)
    settings = (
        f"TrustedUserCAKeys {site.host.directory}/user_ca.pub\nAuthorizedPrincipalsFile {site.host.directory}/fleet\n"
        f"RevokedKeys {revoked}\n"
    )
    careful = Sshd(site.host, "careful", settings=settings)
    kept, site.sshd = site.sshd, careful
    try:
        assert "Permission denied" in site.ssh(code=255).stderr
        assert careful.process.told("revoked by file")
    finally:
        site.sshd = kept


def test_again_is_one_entry(site: Site) -> None:
    """Who logs in again has no old certificate beside the new one: a server counts the keys that are tried."""
    for _ in range(2):
        site.login("ada")
    assert ssh_add(site.agent, "-l").count("ED25519-CERT") == 1
    assert ssh_add(site.agent, "-l").count("\n") == 1


def test_an_operator_logs_in(site: Site) -> None:
    """Without a provider, by the credential alone; when that is revoked, so is what it led to."""
    line = site.registrar.invite("ada-laptop", "--role", "operator")
    identity = site.host.join(line, "operator")
    environment = {"SSH_AUTH_SOCK": str(site.agent)}
    done = site.host.handfast("ssh-login", "--identity", identity, "--json", env=environment)
    assert "user ada-laptop by operator: may log in as fleet, until" in done.stderr
    assert site.ssh().stdout == "in as root\n"
    assert done.json()["principals"] == ["fleet"]
    site.registrar.revoke("ada-laptop")
    refused = site.host.handfast("ssh-login", "--identity", identity, env=environment, code=3)
    assert "revoked" in refused.stderr
    listed = site.host.handfast("list", "--ssh", "--data", site.registrar.data, "--json").json()
    mine = [each for each in listed if each["serial"] == done.json()["serial"]]
    assert [each["status"] for each in mine] in (["revoked"], [])


def test_who_holds_another_credential_is_no_operator(site: Site) -> None:
    """A machine's credential is refused before anything is sent."""
    identity = site.host.join(site.registrar.invite("web9"), "web9")
    done = site.host.handfast("ssh-login", "--identity", identity, env={"SSH_AUTH_SOCK": str(site.agent)}, code=3)
    assert "is for role server" in done.stderr


def test_a_key_of_ones_own_is_not_overwritten(site: Site) -> None:
    """A file that an earlier login wrote is replaced, and any other is left alone, before anybody opens a browser."""
    out = site.host.directory / "login"
    for _ in range(2):
        site.login("ada", "--out", str(out))
    mine = site.host.put("id_mine", "my own key\n")
    done = site.host.handfast("ssh-login", site.url, "--out", mine, code=3)
    assert "is there, and not from an earlier login" in done.stderr
    assert mine.read_text() == "my own key\n"


def test_who_gives_up(site: Site) -> None:
    """Ctrl-C ends the waiting at once, with its own exit code and without a trace."""
    process = site.start()
    shown(process)
    process.kill_with(signal.SIGINT)
    assert process.wait() == INTERRUPTED
    assert not any("Traceback" in line for line in process.lines)
    assert ssh_add(site.agent, "-l") == "The agent has no identities.\n"


@pytest.mark.parametrize(
    ("flags", "environment", "code", "words"),
    [
        ((), {}, 2, "there is no ssh-agent (SSH_AUTH_SOCK is not set)"),
        ((), {"SSH_AUTH_SOCK": "/nonexistent/agent"}, 4, "no ssh-agent at '/nonexistent/agent'"),
        (("--provider", "corp", "--identity", "x"), {}, 2, "--identity says which registrar"),
        (("--provider", "else", "--out", "new"), {}, 3, "no provider 'else' at the registrar (it has corp)"),
        (("--principal", "a,b", "--out", "new"), {}, 2, "not a user's principal: 'a,b'"),
        (("--lifetime", "5", "--out", "new"), {}, 2, "not a duration: '5'"),
        (("--out", "nowhere/new"), {}, 3, "no directory 'nowhere'"),
    ],
)
def test_what_cannot_be(site: Site, flags: tuple[str, ...], environment: dict[str, str], code: int, words: str) -> None:
    """Each mistake is named before anybody is asked to open a browser."""
    assert words in site.host.handfast("ssh-login", site.url, *flags, env=environment, code=code).stderr


def test_no_registrar(site: Site) -> None:
    """Without a registrar there is nobody to ask; it may stand in the environment, and a wrong pin is a wrong peer."""
    state = {"XDG_STATE_HOME": str(site.host.directory / "state"), "HANDFAST_OUT": "none"}
    assert "which registrar?" in site.host.handfast("ssh-login", "--out", "new", env=state, code=2).stderr
    wrong = {"HANDFAST_REGISTRAR": site.url[:-4] + "0000"} | state
    assert "handfast: error" in site.host.handfast("ssh-login", "--out", "new", env=wrong, code=5).stderr
