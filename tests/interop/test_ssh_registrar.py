"""`handfast ssh --registrar`: the keys come from a running registrar, and from its signed snapshot while it is down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from handfast.cli.ssh_config import from_registrar
from handfast.ssh import launcher, snapshot
from handfast.ssh.config import Source
from tests.interop.hosts import Registrar, local_host
from tests.interop.ssh_stage import Sshd, Stage, make_key

pytestmark = [pytest.mark.peer("ssh", "sshd", "ssh-keygen"), pytest.mark.root, pytest.mark.timeout(180)]


@dataclass(frozen=True, slots=True)
class Remote:
    """A user who has nothing but a registrar's address and pin."""

    stage: Stage
    registrar: Registrar
    url: str

    def ssh(self, *arguments: str, code: int = 0, url: str | None = None) -> tuple[str, str]:
        """Run it, and return what was printed."""
        source = {"HANDFAST_DATA": "", "HANDFAST_REGISTRAR": url or self.url}
        source["HANDFAST_OUT"] = str(self.stage.host.directory / "identity")
        done = self.stage.ssh(*arguments, code=code, **source)
        return done.stdout, done.stderr


def remote(stage: Stage, readers: str) -> Remote:
    """Start the registrar of the stage's registry."""
    (stage.data / "config.toml").write_text(f'[ssh]\nreaders = "{readers}"\n')
    registrar = Registrar(stage.host, data="registry")
    pin = stage.host.handfast("ca", "show", "--data", stage.data, "--json").json()["pin"]
    return Remote(stage, registrar, f"https://{registrar.ready['listen']}#{pin}")


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A user, with a registry."""
    with local_host() as host:
        yield Stage(host)


def test_a_registrar_s_machines_are_reached(stage: Stage) -> None:
    """Its keys are believed and nobody else's, through a jump host too; whoever it does not know is refused."""
    user = remote(stage, "anybody")
    web, hop, thief = (Sshd(stage.host, name) for name in ("web1", "hop1", "thief"))
    for sshd in (web, hop):
        stage.register(sshd.name, sshd.key, at=(f"127.0.0.{sshd.port % 200 + 2}",), ports=(sshd.port,))
    stage.register("web2", make_key(stage.host.directory / "web2"), ports=(thief.port,))
    stage.configure("Host web1 hop1\nHostName 127.0.0.1\n")
    assert user.ssh(f"-p{web.port}", "web1", "echo $SSHD")[0] == "web1\n"
    assert user.ssh("-J", f"hop1:{hop.port}", f"-p{web.port}", "web1", "echo $SSHD")[0] == "web1\n"
    assert "this is not web2" in user.ssh(f"-p{thief.port}", "127.0.0.1", "echo $SSHD", code=255)[1]
    assert "no machine is registered as 'else.lan'" in user.ssh("else.lan", "true", code=3)[1]
    assert "no machine is registered as 'un_der/score'" in user.ssh("-oHostKeyAlias=un_der/score", "x", code=3)[1]


def test_an_impostor_registrar_is_refused(stage: Stage) -> None:
    """Whoever answers at the address has to prove the pin: exit code 5, and nobody is connected to."""
    user = remote(stage, "anybody")
    wrong = user.url[:-4] + "0000"
    assert "handfast: error" in user.ssh("web1", "true", code=5, url=wrong)[1]
    assert "no pin in" in user.ssh("web1", "true", code=2, url=user.url.partition("#")[0])[1]


def test_readers_hold_a_credential(stage: Stage) -> None:
    """By default only whoever has a credential of the authority is told; the one of this machine is used."""
    user = remote(stage, "holders")
    web = Sshd(stage.host, "web1")
    stage.register("web1", web.key, ports=(web.port,))
    assert "handfast: error" in user.ssh(f"-p{web.port}", "127.0.0.1", "true", code=3)[1]
    stage.host.join(user.registrar.invite("desk.lan", "--role", "client"), "identity")
    assert user.ssh(f"-p{web.port}", "127.0.0.1", "echo $SSHD")[0] == "web1\n"
    identity, config = stage.host.directory / "identity", stage.config
    own = ("--identity", str(identity), "-F", str(config), f"-p{web.port}", "127.0.0.1", "echo $SSHD")
    assert stage.run("handfast-ssh", *own).stdout == "web1\n"


def test_a_customer_who_joined_is_told_with_a_pin_alone(stage: Stage) -> None:
    """known-hosts and ssh-config take this machine's own credential as ssh does; what is not for them is left out."""
    user = remote(stage, "holders")
    stage.register("web1", make_key(stage.host.directory / "web1"))
    env = stage.environment(HANDFAST_OUT=str(stage.host.directory / "identity"), HANDFAST_DATA="")
    ask = ("known-hosts", "web1", "--registrar", user.url)
    refused = stage.host.handfast(*ask, env=env, code=3).stderr
    assert "no client certificate" in refused
    assert "join first (handfast join); of SSH host keys [ssh] readers says who may read them" in refused
    stage.host.join(user.registrar.invite("desk.lan", "--role", "client"), "identity")
    told = stage.host.handfast(*ask, env=env).stdout
    assert told.startswith("web1,")
    assert stage.host.handfast("known-hosts", env=env | {"HANDFAST_REGISTRAR": user.url}).stdout == told
    wrong = user.url.partition("#")[0] + "#" + "0" * 64
    assert "handfast: error" in stage.host.handfast("known-hosts", "--registrar", wrong, env=env, code=5).stderr


def test_while_the_registrar_is_down_its_snapshot_serves(stage: Stage) -> None:
    """What it signed last is gone by, and how old that is is said; without a snapshot it is exit code 4."""
    user = remote(stage, "anybody")
    web = Sshd(stage.host, "web1")
    stage.register("web1", web.key, ports=(web.port,))
    get, pin = from_registrar(Source(registrar=user.url))
    kept = snapshot.fetch(get, pin=pin, now=datetime.now(UTC), held=None)
    user.registrar.process.stop()
    line = (f"-p{web.port}", "127.0.0.1", "echo $SSHD")
    assert "cannot reach" in user.ssh(*line, code=4)[1]
    state = Path(stage.environment()["XDG_STATE_HOME"]) / "handfast" / "ssh"
    snapshot.keep(state, kept)
    assert "cannot reach" in user.ssh(*line, code=4)[1]  # nothing is installed that says how old it may be
    (state / launcher.SETTINGS).write_text("most 604800\n")
    stdout, stderr = user.ssh(*line)
    assert stdout == "web1\n"
    assert "going by what it said 0.0 hours ago" in stderr
    other = user.url[:-4] + "0000"  # the snapshot of one registrar is none of another's
    assert "cannot reach" in user.ssh(*line, code=4, url=other)[1]
