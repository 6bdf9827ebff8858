"""The configuration file and the environment: every mistake at once, and no secret left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from handfast import config
from handfast.adapters.process import child_environment
from handfast.config import duration, parse_listen, parse_role, secret_from, settings
from handfast.config.settings import Config
from handfast.core.hosts import Grade, How
from handfast.core.invitation import Address
from handfast.core.names import network
from handfast.core.roles import GRANTABLE, Role
from handfast.errors import ConfigError, TooMuch, Unsafe, UsageError
from handfast.policy.rules import HostRules, Readers
from handfast.wiring import Overrides, open_service

WHOLE = """
[registrar]
name = "lab"
listen = "[::1]:7443"
crl_listen = "127.0.0.1:0"
addresses = ["registrar.lan:7443", "192.0.2.1:443"]

[constraints]
dns = ["lan"]
networks = ["10.0.0.0/8"]

[lifetime]
default = "12h"
server = "90s"
registrar = "1h"

[renewal]
return_within = "2w"

[methods]
invitation = ["server", "client"]
reintroduction = []

[ssh]
evidence = ["invitation", "scan"]
accept = "seen"
readers = "anybody"
"""


def load(tmp_path: Path, text: str) -> Config:
    """Read a file with this text."""
    (tmp_path / "config.toml").write_text(text)
    return settings.load(tmp_path / "config.toml")


def test_no_file_and_an_empty_file_mean_the_defaults(tmp_path: Path) -> None:
    """A registrar needs no configuration."""
    assert settings.load(tmp_path / "none.toml") == load(tmp_path, "") == Config()
    assert Config().listen == Address("0.0.0.0", 7443)
    assert set(Config().rules.methods) == {"invitation", "renewal", "reintroduction"}


def test_everything_can_be_set(tmp_path: Path) -> None:
    """Each key reaches its field; what is not named keeps its default."""
    read = load(tmp_path, WHOLE)
    assert (read.name, read.listen, read.crl_listen) == ("lab", Address("::1", 7443), Address("127.0.0.1", 0))
    assert read.addresses == (Address("registrar.lan", 7443), Address("192.0.2.1", 443))
    assert (read.permitted_dns, read.permitted_ips) == (("lan",), (network("10.0.0.0/8"),))
    rules = read.rules
    assert rules.lifetime == timedelta(hours=12)
    assert rules.lifetimes == {Role.SERVER: timedelta(seconds=90), Role.REGISTRAR: timedelta(hours=1)}
    assert rules.return_within == timedelta(weeks=2)
    assert rules.methods == {"invitation": {Role.SERVER, Role.CLIENT}, "renewal": GRANTABLE}


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    """Unknown keys, values that mean nothing and values of the wrong kind, each with its key."""
    text = """
    stray = 1
    [registrar]
    name = "-"
    listen = "nowhere"
    adresses = []
    addresses = "registrar.lan:7443"
    [constraints]
    networks = [5]
    dns = ["*.lan"]
    [lifetime]
    default = 24
    server = "0h"
    gardener = "1h"
    [methods]
    invitation = ["root"]
    renewal = ["registrar"]
    reintroduction = "server"
    [surprise]
    a = 1
    """
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    keys = [mistake.split(":")[0] for mistake in caught.value.message.split(" has mistakes: ")[1].split("; ")]
    assert sorted(keys) == sorted(
        [
            "stray",
            "registrar.name",
            "registrar.listen",
            "registrar.adresses",
            "registrar.addresses",
            "constraints.networks",
            "constraints.dns",
            "lifetime.default",
            "lifetime.server",
            "lifetime.gardener",
            "methods.invitation",
            "methods.renewal",
            "methods.reintroduction",
            "surprise.a",
        ]
    )
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


def test_host_rules(tmp_path: Path) -> None:
    """What counts for SSH host keys; a list that is empty lets nothing count."""
    assert load(tmp_path, WHOLE).rules.ssh == HostRules(
        frozenset({How.INVITATION, How.SCAN}), Grade.SEEN, Readers.ANYBODY
    )
    assert load(tmp_path, "[ssh]\nevidence = []").rules.ssh == HostRules(evidence=frozenset())
    assert load(tmp_path, "").rules.ssh == HostRules()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('evidence = ["word-of-mouth"]', "'word-of-mouth' is none of invitation, renewal"),
        ('evidence = "scan"', "ssh.evidence"),
        ('accept = "proven"', "not a grade: 'proven'; one of seen, challenged, reported, proved"),
        ('accept = "PROVED"', "not a grade"),
        ("accept = 3", "ssh.accept"),
        ('readers = "everybody"', "'everybody' is none of operators, holders, anybody"),
        ("readers = true", "ssh.readers"),
        ('trust = "anything"', "ssh.trust"),
    ],
)
def test_a_mistake_in_the_host_rules(tmp_path: Path, setting: str, words: str) -> None:
    """What cannot be read is refused: nothing falls back to something weaker, or stronger."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"[ssh]\n{setting}")
    assert words in caught.value.message + caught.value.hint


def test_any_method_may_be_named_here(tmp_path: Path) -> None:
    """Which methods there are is not configuration's to know: a new one changes no line of it."""
    read = load(tmp_path, "[methods]\nssh_hostkey = ['server']")
    assert read.rules.methods["ssh-hostkey"] == {Role.SERVER}


def test_a_method_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """At the start, not at the first machine that wants to use it."""
    (tmp_path / "config.toml").write_text("[methods]\nparchment = ['server']")
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match="no method 'parchment'"):
        open_service(tmp_path, Overrides(), passphrase=None)


@pytest.mark.parametrize("text", ["[", "a = ", 'a = "\x00"', "[a]\nb=1\nb=2"])
def test_what_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    """With the reason that the parser gives."""
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path, text)


def test_what_cannot_be_read_is_not_taken_for_nothing(tmp_path: Path) -> None:
    """A directory, or bytes that are no text, do not mean the defaults."""
    with pytest.raises(ConfigError, match="cannot read"):
        settings.load(tmp_path)
    (tmp_path / "latin").write_bytes(b'[registrar]\nname = "b\xfcro"')
    with pytest.raises(ConfigError, match="cannot read"):
        settings.load(tmp_path / "latin")


def test_no_roles_disable_a_method(tmp_path: Path) -> None:
    """Empty means no, for all three."""
    text = "[methods]\ninvitation = []\nrenewal = []\nreintroduction = []"
    assert load(tmp_path, text).rules.methods == {}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), (" 1h ", 3600), ("7d", 604800), ("2w", 1209600)]
)
def test_durations_have_a_unit(text: str, seconds: int) -> None:
    """The five units."""
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "1", "h", "0h", "-1h", "1.5h", "1 h", "1y", "1H", "9999999999s", "\u0661h", "1h1m"]
)
def test_a_duration_without_a_clear_meaning_is_refused(text: str) -> None:
    """No unit, no number, zero, a fraction: a person meant something else."""
    with pytest.raises(UsageError, match="not a duration") as caught:
        duration(text)
    assert "90s" in caught.value.hint


@pytest.mark.parametrize("text", ["36501d", "999999999w"])
def test_a_duration_beyond_the_calendar_is_refused(text: str) -> None:
    """It would end in an overflow at the first newcomer."""
    with pytest.raises(UsageError, match="too long"):
        duration(text)


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::]:0", "localhost:7443"])
def test_port_0_asks_the_system(text: str) -> None:
    """Only an address to listen on may have it."""
    assert str(parse_listen(text)) == text


@pytest.mark.parametrize("text", ["", ":0", "7443", "0", "localhost:", "::1:0", "a b:0"])
def test_a_bad_listening_address_is_a_mistake_of_usage(text: str) -> None:
    """With how to write it."""
    with pytest.raises(UsageError) as caught:
        parse_listen(text)
    assert caught.value.hint


def test_roles_that_may_be_granted_are_read() -> None:
    """The registrar's is not among them, and the hint lists those that are."""
    assert {parse_role(role) for role in GRANTABLE} == GRANTABLE
    for text in ("registrar", "root", "", "Server"):
        with pytest.raises(UsageError) as caught:
            parse_role(text)
        assert "server" in caught.value.hint


def test_directories_come_from_the_environment_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then root's place, then XDG's."""
    assert config.data_directory({"HANDFAST_DATA": "/d"}) == Path("/d")
    assert config.identity_directory({"HANDFAST_OUT": "/o"}) == Path("/o")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert config.data_directory({}) == Path("/var/lib/handfast")
    assert config.identity_directory({}) == Path("/etc/handfast/identity")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert config.data_directory({"XDG_STATE_HOME": "/s"}) == Path("/s/handfast/registrar")
    assert config.identity_directory({"XDG_STATE_HOME": "/s"}) == Path("/s/handfast/identity")


def private(path: Path, text: str) -> None:
    """Write a file that is ours alone."""
    path.write_text(text)
    path.chmod(0o600)


def test_secrets_are_looked_for_in_order(tmp_path: Path) -> None:
    """A file named by a flag, one named by a variable, the variable, the systemd credential, nothing."""
    for name in ("flag", "named", "handfast.invitation"):
        private(tmp_path / name, f" {name}\n")
    everything = {
        "HANDFAST_INVITATION_FILE": str(tmp_path / "named"),
        "HANDFAST_INVITATION": "variable",
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }
    found = []
    secret = secret_from("invitation", file=tmp_path / "flag", environ=everything)
    for variable in (*everything, ""):
        assert secret is not None
        found.append(secret.reveal())
        secret = secret_from("invitation", environ=everything)
        everything.pop(variable, None)
    assert found == [b"flag", b"named", b"variable", b"handfast.invitation"]
    assert secret_from("invitation", environ={}) is None
    assert secret_from("passphrase", environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None


def test_P12_a_secret_does_not_stay_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is used or a file comes first: no child inherits it."""
    private(tmp_path / "file", "other")
    for file in (None, tmp_path / "file"):
        monkeypatch.setenv("HANDFAST_PASSPHRASE", "canary")
        assert secret_from("passphrase", file=file) is not None
        assert "HANDFAST_PASSPHRASE" not in os.environ
    monkeypatch.setenv("HANDFAST_PASSPHRASE", "canary")
    monkeypatch.setenv("HANDFAST_INVITATION", "canary")
    child = child_environment(HANDFAST_OUT="/o")
    assert "canary" not in child.values()
    assert child["HANDFAST_OUT"] == "/o"


def test_a_source_that_is_named_has_a_secret(tmp_path: Path) -> None:
    """A missing or empty file, or an empty variable, is a mistake: an empty passphrase would protect nothing."""
    private(tmp_path / "empty", " \n")
    for environ in ({"HANDFAST_PASSPHRASE": ""}, {"HANDFAST_PASSPHRASE_FILE": str(tmp_path / "empty")}):
        with pytest.raises(UsageError, match="is empty"):
            secret_from("passphrase", environ=environ)
    with pytest.raises(UsageError, match="cannot read"):
        secret_from("passphrase", environ={"HANDFAST_PASSPHRASE_FILE": str(tmp_path / "none")})
    with pytest.raises(UsageError, match="cannot read"):
        secret_from("passphrase", file=tmp_path)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o606])
def test_a_passphrase_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Whoever can read it opens the authority's keys; whoever can write it chooses it."""
    path = tmp_path / "passphrase"
    path.write_text("secret")
    path.chmod(mode)
    with pytest.raises(Unsafe, match="by others"):
        secret_from("passphrase", file=path)
    with pytest.raises(Unsafe):
        secret_from("passphrase", environ={"HANDFAST_PASSPHRASE_FILE": str(path)})


def test_an_invitation_that_others_can_read_is_told(tmp_path: Path) -> None:
    """A shell's > makes such files, and it is good for an hour: it works, and the danger has a name."""
    path = tmp_path / "invitation"
    path.write_text("line\n")
    path.chmod(0o644)
    told: list[str] = []
    secret = secret_from("invitation", file=path, warn=told.append)
    assert secret is not None
    assert secret.reveal() == b"line"
    assert ["whoever reads the invitation first may use it" in text for text in told] == [True]
    path.chmod(0o600)
    assert secret_from("invitation", file=path, warn=told.append) is not None
    assert len(told) == 1


def test_a_file_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    """/dev/zero, or a wrong path, does not fill the memory."""
    with pytest.raises(TooMuch):
        secret_from("invitation", file=Path("/dev/zero"), warn=lambda _text: None)
    with pytest.raises(Unsafe):
        secret_from("passphrase", file=Path("/dev/zero"))
    (tmp_path / "handfast.passphrase").write_bytes(b"x" * 70_000)
    with pytest.raises(TooMuch):
        secret_from("passphrase", environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_P12_no_key_ends_in_a_core_file() -> None:
    """The limit is inherited by whatever is started."""
    script = "from handfast.cli.main import run; import resource; run(['--version']); "
    done = subprocess.run(
        [sys.executable, "-c", script + "print(resource.getrlimit(resource.RLIMIT_CORE))"],
        env=child_environment(PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("(0, 0)\n")
