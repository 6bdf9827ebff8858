"""`handfast ssh` before OpenSSH's real client and server: who is let in, who is refused, and that it is still ssh."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.core.hosts import How
from tests.interop.hosts import Done, local_host
from tests.interop.ssh_stage import Sshd, Stage, make_key

pytestmark = [pytest.mark.peer("ssh", "sshd", "ssh-keygen"), pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A user, with an empty registry."""
    with local_host() as host:
        yield Stage(host)


@pytest.fixture
def web(stage: Stage) -> Sshd:
    """The machine web1, registered on the port where it really is."""
    sshd = Sshd(stage.host, "web1")
    stage.register("web1", sshd.key, ports=(sshd.port,))
    return sshd


@pytest.fixture
def thief(stage: Stage) -> Sshd:
    """Whoever answers where web2 should, with a key of its own; everybody may log in there."""
    sshd = Sshd(stage.host, "thief")
    stage.register("web2", make_key(stage.host.directory / "web2"), ports=(sshd.port,))
    return sshd


def port(sshd: Sshd) -> str:
    """The option that leads there."""
    return f"-p{sshd.port}"


def refused(done: Done, thief: Sshd) -> None:
    """What must be true of a run that met the thief: it ended as ssh does, in our words, and never logged in."""
    assert "thief" not in done.stdout
    assert f"handfast: error: this is not web2: it shows ssh-ed25519 {thief.key.fingerprint}" in done.stderr
    assert "the key signed when the machine joined with an invitation" in done.stderr


# --- who is let in ---


def test_a_registered_machine_is_reached_without_a_question(stage: Stage, web: Sshd) -> None:
    """The first connection ever works, with nothing in known_hosts and nobody to type yes."""
    assert stage.ssh(port(web), "127.0.0.1", "echo $SSHD").stdout == "web1\n"


def test_a_machine_is_its_name_whatever_the_port(stage: Stage, web: Sshd) -> None:
    """The machine's own name stands for it also behind a port that nobody has registered, where it proves itself."""
    other = Sshd(stage.host, "other")
    stage.configure("Host web1\nHostName 127.0.0.1\n")
    assert stage.ssh(port(web), "web1", "echo $SSHD").stdout == "web1\n"
    assert "this is not web1" in stage.ssh(port(other), "web1", "echo $SSHD", code=255).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("-p{port}", "127.0.0.1", "echo $SSHD"),
        ("-Tp{port}", "127.0.0.1", "echo $SSHD"),
        ("-Tp", "{port}", "-l", "root", "127.0.0.1", "--", "echo $SSHD"),
        ("127.0.0.1", "-p", "{port}", "echo", "$SSHD"),
        ("-oPort={port}", "--", "root@127.0.0.1", "echo $SSHD"),
        ("-o", "port {port}", "-v", "LOCALHOST", "echo $SSHD"),
        ("ssh://root@127.0.0.1:{port}", "echo $SSHD"),
        ("ssh://127.0.0.1:{port}", "-T", "echo $SSHD"),
    ],
)
def test_every_form_of_ssh_s_arguments_is_understood(stage: Stage, web: Sshd, arguments: tuple[str, ...]) -> None:
    """Flags in one word, options behind the destination, `--` and URIs mean what they mean to ssh."""
    assert stage.ssh(*(each.format(port=web.port) for each in arguments)).stdout == "web1\n"


def test_the_configuration_says_where_a_name_leads(stage: Stage, web: Sshd) -> None:
    """An alias of the user's own configuration is looked up by the address and the port that it leads to."""
    stage.configure(f"Host box\nHostName 127.0.0.1\nPort {web.port}\n")
    assert stage.ssh("box", "echo $SSHD").stdout == "web1\n"


def test_an_alias_of_the_user_says_who_it_is(stage: Stage, web: Sshd) -> None:
    """A HostKeyAlias names the machine, wherever the connection goes; the machine has to prove that it is that one."""
    stage.configure("Host tunnel\nHostName 127.0.0.3\nHostKeyAlias web1\n")
    stage.ssh(port(web), "tunnel", "true", code=255)  # nobody listens there; but it was tried
    assert "no machine" in stage.ssh("-oHostKeyAlias=web9", port(web), "127.0.0.1", "true", code=3).stderr


# --- who is refused ---


def test_P13_somebody_in_between_is_refused(stage: Stage, thief: Sshd) -> None:
    """A server with another key ends ssh with 255 and a sentence: which machine, what was shown, what is known."""
    done = stage.ssh(port(thief), "127.0.0.1", "echo $SSHD", code=255)
    refused(done, thief)
    assert stage.known("web2").keys[0].key.fingerprint in done.stderr
    assert "REMOTE HOST IDENTIFICATION" not in done.stderr  # nor advice to remove the right key


HOSTILE = {
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "{known}",
    "GlobalKnownHostsFile": "{known}",
    "KnownHostsCommand": '/bin/cat "{known}"',
    "HostKeyAlias": "web2",
    "CheckHostIP": "no",
    "UpdateHostKeys": "no",
    "HashKnownHosts": "yes",
    "VerifyHostKeyDNS": "yes",
    "NoHostAuthenticationForLocalhost": "yes",
    "FingerprintHash": "md5",
    "HostKeyAlgorithms": "ssh-ed25519",
}


def poison(stage: Stage, thief: Sshd) -> str:
    """Write a known_hosts file that believes the thief under every name, and return its path."""
    names = ("web2", "127.0.0.1", "localhost", "*")
    lines = "".join(f"{name},[{name}]:{thief.port} {thief.key}\n" for name in names)
    stage.host.put("none", lines)  # a file of this name in the working directory, too
    return str(stage.host.put("poisoned", lines + f"@cert-authority * {thief.key}\n"))


@pytest.mark.parametrize("option", HOSTILE)
def test_P13_no_option_of_the_user_lets_the_thief_in(stage: Stage, thief: Sshd, option: str) -> None:
    """Each option that could weaken the check is without effect, in a file and on the command line."""
    value = HOSTILE[option].format(known=poison(stage, thief))
    stage.configure(f"StrictHostKeyChecking no\n{option} {value}\n" if option != "StrictHostKeyChecking" else "")
    refused(stage.ssh(port(thief), "127.0.0.1", "echo $SSHD", code=255), thief)
    refused(stage.ssh("-o", f"{option}={value}", port(thief), "127.0.0.1", "echo $SSHD", code=255), thief)


def test_P13_everything_at_once_does_not_let_the_thief_in(stage: Stage, thief: Sshd) -> None:
    """The worst configuration there is, before plain ssh and before ours: the first is the probe's own proof."""
    known = poison(stage, thief)
    options = [f"-o{option}={value.format(known=known)}" for option, value in HOSTILE.items()]
    line = ("-F", str(stage.config), *options, port(thief), "127.0.0.1", "echo $SSHD")
    assert "thief" in stage.run("ssh", *line).stdout
    refused(stage.run("handfast-ssh", *line, code=255), thief)


def test_a_stranger_s_host_is_refused_before_anything_is_sent(stage: Stage) -> None:
    """A host that is not registered is exit code 3 with what to do, and no connection is made."""
    stranger = Sshd(stage.host, "stranger")
    done = stage.ssh(port(stranger), "127.0.0.1", "true", code=3)
    assert f"no machine is registered as '127.0.0.1', port {stranger.port}" in done.stderr
    assert "plain `ssh`" in done.stderr
    stranger.process.stop()
    assert not [line for line in stranger.process.lines if "Connection" in line]


def test_a_name_of_one_machine_that_leads_to_another_is_refused(stage: Stage, web: Sshd) -> None:
    """Whom is meant cannot be guessed: the name's machine, or the address's."""
    stage.register("db1", make_key(stage.host.directory / "db1"), at=("db1.lan",), ports=(web.port,))
    stage.configure("Host db1\nHostName 127.0.0.1\n")
    assert "'db1' is the machine 'db1', but" in stage.ssh(port(web), "db1", "true", code=3).stderr
    assert stage.ssh(port(web), "-oHostKeyAlias=web1", "db1", "echo $SSHD").stdout == "web1\n"


def test_P15_a_key_seen_by_a_scan_is_not_believed(stage: Stage) -> None:
    """What is known less well than the registry asks for lets nobody in; where its operator has said so, it does."""
    seen = Sshd(stage.host, "seen")
    stage.register("seen1", seen.key, ports=(seen.port,), how=How.SCAN)
    done = stage.ssh(port(seen), "127.0.0.1", "true", code=3)
    assert "no host key of 'seen1' can be believed: none that is at least challenged" in done.stderr
    (stage.data / "config.toml").write_text('[ssh]\naccept = "seen"\n')
    assert stage.ssh(port(seen), "127.0.0.1", "echo $SSHD").stdout == "seen\n"


def test_a_retired_key_is_named_as_such(stage: Stage, web: Sshd) -> None:
    """Whoever has a key that was taken back is refused, and the sentence says why it was."""
    other = make_key(stage.host.directory / "newer")
    stage.register("web1", other, ports=(web.port,))
    stage.retire("web1", web.key)
    done = stage.ssh(port(web), "127.0.0.1", "true", code=255)
    assert f"it shows ssh-ed25519 {web.key.fingerprint}, which was retired on" in done.stderr
    assert "it was stolen" in done.stderr


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "ssh://-oProxyCommand=touch x", "a`touch x`", "a;touch x"])
def test_a_hostile_name_is_no_option_and_no_command(stage: Stage, web: Sshd, host: str) -> None:
    """A destination that looks like an option, or like a line of the shell, runs nothing."""
    assert stage.ssh("--", host, "true", code=None).code in {3, 255}
    assert stage.ssh(f"-J{host}", port(web), "127.0.0.1", "true", code=None).code in {3, 255}
    assert not (stage.host.directory / "x").exists()


def test_a_line_break_cannot_name_another_host(stage: Stage, web: Sshd, thief: Sshd) -> None:
    """What ssh prints about its configuration cannot be forged by a value in it."""
    done = stage.ssh("-l", f"root\nhostname localhost\nport {web.port}", port(thief), "127.0.0.1", "true", code=None)
    assert done.code in {2, 255}
    assert "thief" not in done.stdout


# --- connections that are shared ---


def test_the_user_s_own_shared_connection_is_not_used(stage: Stage, thief: Sshd) -> None:
    """A socket that plain ssh left, to whoever it believed, is not what `handfast ssh` goes through."""
    socket = stage.host.directory / "own"
    options = ("-oControlMaster=auto", f"-oControlPath={socket}", "-oControlPersist=60", port(thief), "127.0.0.1")
    line = ("-oStrictHostKeyChecking=no", f"-oUserKnownHostsFile={stage.host.directory}/nobody", *options)
    assert "thief" in stage.run("ssh", "-F", stage.config, *line, "echo $SSHD").stdout
    refused(stage.ssh(*options, "echo $SSHD", code=255), thief)
    refused(stage.ssh(f"-S{socket}", port(thief), "127.0.0.1", "echo $SSHD", code=255), thief)
    refused(stage.ssh("127.0.0.1", "-S", socket, port(thief), "echo $SSHD", code=255), thief)
    stage.run("ssh", "-F", stage.config, "-Oexit", *options)


def test_connections_are_shared_where_the_user_shares_them(stage: Stage, web: Sshd) -> None:
    """ControlMaster and -O mean what they mean, on a socket in our own directory, until a key is taken back."""
    socket = stage.host.directory / "own"
    options = ("-S", socket, port(web), "127.0.0.1")
    stage.register("web1", make_key(stage.host.directory / "second"), ports=(web.port,))
    stage.ssh("-fNM", *options)
    assert "Master running" in stage.ssh("-Ocheck", *options).stderr
    assert not socket.exists()
    stage.retire("web1", web.key)
    assert "No such file" in stage.ssh("-Ocheck", *options, code=255).stderr
    stage.ssh(*options, "true", code=255)  # not through the connection that still stands
    for left in (stage.host.directory / "s").rglob("*"):
        if left.is_socket():
            stage.run("ssh", "-Oexit", "-S", left, "x")


# --- jump hosts ---


def test_a_jump_host_is_checked_like_any_other(stage: Stage, web: Sshd) -> None:
    """By -J and by ProxyJump in the configuration, also over two hops: each is registered, and each is asked."""
    hop, second = (Sshd(stage.host, name, address=at) for name, at in (("hop", "127.0.0.2"), ("second", "127.0.0.3")))
    for sshd in (hop, second):
        stage.register(sshd.name, sshd.key, ports=(sshd.port,), at=(sshd.address,))
    assert stage.ssh("-J", f"127.0.0.2:{hop.port}", port(web), "127.0.0.1", "echo $SSHD").stdout == "web1\n"
    stage.configure(f"Host far\nHostName 127.0.0.1\nPort {web.port}\nProxyJump root@127.0.0.2:{hop.port}\n")
    assert stage.ssh("far", "echo $SSHD").stdout == "web1\n"
    two = f"127.0.0.2:{hop.port},root@127.0.0.3:{second.port}"
    assert stage.ssh("-J", two, port(web), "127.0.0.1", "echo $SSHD").stdout == "web1\n"
    assert len(hop.process.told("Accepted publickey", 3)) == 3


def test_P13_an_impersonated_jump_host_is_refused(stage: Stage, web: Sshd, thief: Sshd) -> None:
    """Whatever the configuration says of strict checking: it could ask for the password of the jump host's account."""
    stage.configure(f"StrictHostKeyChecking no\nUserKnownHostsFile {poison(stage, thief)}\n")
    done = stage.ssh("-J", f"127.0.0.1:{thief.port}", port(web), "127.0.0.1", "echo $SSHD", code=255)
    refused(done, thief)
    assert not any("Accepted" in line for line in thief.process.lines)


def test_a_jump_host_that_is_not_registered_is_refused(stage: Stage, web: Sshd) -> None:
    """A machine of ours is not reached through one of others."""
    stranger = Sshd(stage.host, "stranger")
    done = stage.ssh("-J", f"127.0.0.1:{stranger.port}", port(web), "127.0.0.1", "true", code=255)
    assert f"no machine is registered as '127.0.0.1', port {stranger.port}" in done.stderr
    assert not any("Accepted" in line for line in stranger.process.lines)


# --- keys that change ---


def learn(stage: Stage, sshd: Sshd) -> None:
    """Stay logged in until ssh has asked for the machine's other keys and written them down."""
    (explain,) = (stage.host.directory / "s").rglob("web1/explain")
    keys = f"cat {explain.parent}/known_hosts.* | grep ^web1 | sort -u | wc -l"  # ssh keeps a file.old beside its own
    shell = f"for i in $(seq 300); do [ $({keys}) -ge 2 ] && exit 0; sleep 0.1; done; exit 1"
    stage.ssh(port(sshd), "127.0.0.1", shell)


def rotating(stage: Stage, how: How) -> Sshd:
    """A machine with two keys, of which one is registered, and the other was learned."""
    sshd = Sshd(stage.host, "web1", kinds=("ed25519", "ecdsa"))
    stage.register("web1", sshd.key, ports=(sshd.port,), how=how)
    stage.ssh(port(sshd), "127.0.0.1", "true")
    learn(stage, sshd)
    return sshd


def test_a_new_key_is_learned_and_registered(stage: Stage) -> None:
    """A key that the machine proved on an authenticated connection is registered at the next one, with its evidence."""
    sshd = rotating(stage, How.INVITATION)
    sshd.restart("ecdsa")
    done = stage.ssh(port(sshd), "127.0.0.1", "echo $SSHD")
    assert (done.stdout, done.stderr) == ("web1\n", "")
    found = {each.key: each.how for each in stage.known("web1").keys}
    assert found == {sshd.key: How.INVITATION, sshd.keys["ecdsa"]: How.HOSTKEYS_PROVE}
    assert sshd.key.fingerprint in next(each.detail for each in stage.known("web1").keys if each.key != sshd.key)


def test_what_was_learned_with_a_stolen_key_is_void(stage: Stage) -> None:
    """A thief of a key could have had us learn his own: when that key is retired, what it brought goes too."""
    sshd = rotating(stage, How.CONSOLE)
    stage.register("web1", make_key(stage.host.directory / "newer"), ports=(sshd.port,))
    stage.retire("web1", sshd.key)
    sshd.restart("ecdsa")
    assert "this is not web1" in stage.ssh(port(sshd), "127.0.0.1", "true", code=255).stderr


def test_weaker_evidence_does_not_become_proof(stage: Stage) -> None:
    """What was learned over a connection that a reported key authenticated is used here, not registered as proved."""
    sshd = rotating(stage, How.CONSOLE)
    sshd.restart("ecdsa")
    assert stage.ssh(port(sshd), "127.0.0.1", "echo $SSHD").stdout == "web1\n"
    assert [each.how for each in stage.known("web1").keys] == [How.CONSOLE]


# --- it is ssh ---


def test_the_process_is_ssh(stage: Stage, web: Sshd) -> None:
    """The exit code is the remote command's; the process that was started is ssh itself, and a signal ends that."""
    assert stage.ssh(port(web), "127.0.0.1", "exit 7", code=7).stdout == ""
    stage.ssh(port(web), "127.0.0.1", "kill -9 $$", code=255)
    process = stage.host.start(
        stage.bin / "handfast-ssh", "-F", stage.config, port(web), "127.0.0.1", "echo here; cat; sleep 60",
        env=stage.environment(),
    )  # fmt: skip
    process.expect("here")
    assert Path(f"/proc/{process.pid}/comm").read_text() == "ssh\n"
    process.kill_with(signal.SIGTERM)
    assert process.wait() in {-signal.SIGTERM, 255}


def test_input_is_left_for_ssh(stage: Stage, web: Sshd) -> None:
    """Nothing of stdin is read before ssh does, not even by commands of the user's configuration."""
    stage.configure('Match exec "cat >/dev/null"\nCompression no\n')
    assert stage.ssh(port(web), "127.0.0.1", "cat", stdin="a\nb").stdout in {"a\nb", ""}
    stage.configure("")
    assert stage.ssh(port(web), "127.0.0.1", "cat", stdin="a\nb").stdout == "a\nb"


def test_what_connects_to_nobody_is_ssh_s_own(stage: Stage) -> None:
    """The version, the lists of algorithms and the usage come from ssh, with its exit codes."""
    assert "OpenSSH" in stage.ssh("-V").stderr
    assert "ssh-ed25519" in stage.ssh("-Q", "key").stdout
    assert "usage: ssh" in stage.run("handfast-ssh", code=255).stderr
    assert stage.ssh("-Z", "web1", code=255).stderr.startswith("unknown option")


def test_our_own_flags_come_first(stage: Stage, web: Sshd) -> None:
    """A source on the command line counts, not the environment's; what is no flag of ours is not taken for one."""
    line = ("-F", str(stage.config), port(web), "127.0.0.1", "echo $SSHD")
    assert stage.run("handfast-ssh", "--data", stage.data, *line, HANDFAST_DATA="/nowhere").stdout == "web1\n"
    assert stage.run("handfast-ssh", f"--data={stage.data}", *line, HANDFAST_DATA="/nowhere").stdout == "web1\n"
    assert "no registrar's data in '/nowhere'" in stage.run("handfast-ssh", "--data", "/nowhere", *line, code=3).stderr
    assert "no such option: --dta" in stage.run("handfast-ssh", "--dta", "x", *line, code=2).stderr
    assert "needs a value" in stage.run("handfast-ssh", "--data", code=2).stderr
    assert stage.run("handfast", "ssh", *line[:3], "--", *line[3:]).stdout == "web1\n"
    assert "[--data DIRECTORY | --registrar URL#PIN | --identity" in stage.run("handfast-ssh", "--help").stdout
    twice = ("--data", stage.data, "--registrar", "x")
    assert "two sources" in stage.run("handfast-ssh", *twice, *line, code=2).stderr


def test_a_script_called_ssh_that_starts_us_does_not_go_on_for_ever(stage: Stage, web: Sshd) -> None:
    """`ssh` on PATH may be a link to `handfast-ssh`, and is looked past; a script that calls it is refused."""
    (stage.bin / "ssh").write_text(f'#!/bin/sh\nexec {stage.bin}/handfast-ssh "$@"\n')
    (stage.bin / "ssh").chmod(0o755)
    assert "would start itself for ever" in stage.ssh(port(web), "127.0.0.1", "true", code=1).stderr
