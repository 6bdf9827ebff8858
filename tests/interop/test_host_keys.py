"""Host keys of a real sshd: published when the machine joins, followed when it renews, compared with what it shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from handfast.adapters.clock import SystemClock
from handfast.authority import ceremony
from handfast.core.sshkeys import SshKey
from handfast.wiring import AUTHORITY
from tests.interop.hosts import Done, Host, Registrar
from tests.interop.ssh_stage import Sshd, make_key

pytestmark = [pytest.mark.peer("ssh", "sshd", "ssh-keygen"), pytest.mark.root, pytest.mark.timeout(180)]


def etc(sshd: Sshd, *kinds: str) -> Path:
    """The keys of an sshd, where `join --ssh-dir` looks for them."""
    directory = sshd.directory / "etc"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for kind in kinds:
        for suffix in ("", ".pub"):
            shutil.copy(sshd.directory / f"{kind}{suffix}", directory / f"ssh_host_{kind}_key{suffix}")
    return directory


def publish(here: Host, local: Registrar, sshd: Sshd, *kinds: str) -> Done:
    """Join as a server with these host keys."""
    line = local.invite(sshd.name, "--san", sshd.name, "--san", sshd.address)
    return here.handfast(
        "join", "--out", f"{sshd.name}.id", "--ssh-dir", etc(sshd, *kinds), "--ssh-port", str(sshd.port), stdin=line
    )


def scan(here: Host, local: Registrar, name: str, *flags: str, code: int) -> tuple[dict[SshKey | str, str], str]:
    """What a scan says of each key, by fingerprint, and what it says besides."""
    done = here.handfast("host", "scan", name, "--data", local.data, "--json", *flags, code=code)
    found = json.loads(done.stdout)
    return {key["fingerprint"]: key["verdict"] for place in found for key in place["keys"]}, done.stderr


def test_from_join_to_retirement(here: Host, local: Registrar) -> None:
    """A machine's keys are proved, followed through a rotation, and refused when they are taken back."""
    sshd = Sshd(here, "s1.lan", kinds=("ed25519", "ecdsa"))
    sshd.restart("ed25519")
    ed25519, ecdsa = (sshd.keys[kind].fingerprint for kind in ("ed25519", "ecdsa"))
    assert f"published the SSH host key {ed25519}" in publish(here, local, sshd, "ed25519").stderr
    shown = here.handfast("host", "show", sshd.name, "--data", local.data, "--json").json()
    assert [(key["fingerprint"], key["grade"]) for key in shown["keys"]] == [(ed25519, "proved")]
    assert (shown["addresses"], shown["ports"]) == (["127.0.0.1"], [sshd.port])
    assert scan(here, local, sshd.name, code=0)[0] == {ed25519: "known"}

    sshd.restart("ed25519", "ecdsa")
    assert scan(here, local, sshd.name, code=0)[0] == {ed25519: "known", ecdsa: "not known"}
    refused = here.handfast("host", "scan", sshd.name, "--data", local.data, "--register", code=3).stderr
    assert "'scan' does not count as evidence of a host key here" in refused

    etc(sshd, "ed25519", "ecdsa")
    here.handfast("renew", "--out", f"{sshd.name}.id")
    assert scan(here, local, sshd.name, code=0)[0] == {ed25519: "known", ecdsa: "known"}

    here.handfast("host", "retire", sshd.name, ed25519, "--data", local.data, "--reason", "it leaked")
    verdicts, said = scan(here, local, sshd.name, code=5)
    assert verdicts == {ed25519: "RETIRED", ecdsa: "known"}
    assert f"shows {ed25519} (ssh-ed25519), which is retired" in said

    serial = here.handfast("status", "--out", f"{sshd.name}.id", "--json").json()["serial"]
    renewed = here.handfast("renew", "--out", f"{sshd.name}.id")
    assert "the SSH host keys are not published: the host key" in renewed.stderr
    assert here.handfast("status", "--out", f"{sshd.name}.id", "--json").json()["serial"] != serial
    sshd.process.stop()
    verdicts, said = scan(here, local, sshd.name, code=4)
    assert verdicts == {}
    assert sshd.name in said


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_somebody_in_between(here: Host, local: Registrar, kind: str) -> None:
    """Who shows none of the machine's keys is told apart, whether his is of the same type or of another: exit 5."""
    sshd = Sshd(here, f"between-{kind}.lan")
    publish(here, local, sshd, "ed25519")
    sshd.process.stop()
    thief = Sshd(here, f"thief-{kind}", port=sshd.port, kinds=(kind,))
    verdicts, said = scan(here, local, sshd.name, code=5)
    assert verdicts == {thief.keys[kind].fingerprint: "ANOTHER KEY"}
    assert "which is not its key: somebody may sit in between" in said
    shown = here.handfast("host", "show", sshd.name, "--data", local.data, "--json").json()
    assert [key["fingerprint"] for key in shown["keys"]] == [sshd.key.fingerprint]
    thief.process.stop()


EVIDENCE = '[ssh]\nevidence = ["operator", "scan"]\n'


def test_a_scan_that_registers_still_tells_of_who_is_in_between(here: Host) -> None:
    """What is new is recorded or refused after all was told; an alarm decides the exit code, then a refusal."""
    data = here.directory / "scanned"
    data.mkdir(0o700)
    ceremony.create(data / AUTHORITY, name="registrar", now=SystemClock().now())
    here.put("scanned/config.toml", EVIDENCE)

    def add(sshd: Sshd, *flags: str) -> None:
        here.handfast("host", "add", sshd.name, "--san", "127.0.0.1", "--port", str(sshd.port), *flags, "--data", data)

    better = Sshd(here, "better.lan", kinds=("ed25519", "ecdsa"))
    new, known, bad = (Sshd(here, f"{name}.lan") for name in ("new", "known", "quite-bad"))
    entered = make_key(here.directory / "entered")
    add(better, "--key", str(better.key))  # entered by an operator: a scan may not add to it
    add(new)
    add(known, "--key", str(known.key))
    add(bad, "--key", str(entered))

    def look(*sshds: Sshd, code: int) -> Done:
        names = [each.name for each in sshds]
        return here.handfast("host", "scan", *names, "--register", "--data", data, code=code)

    both = look(better, new, known, bad, code=5)
    told = {tuple(line.split("\t")[i] for i in (0, 3, 4)) for line in both.stdout.splitlines()}
    assert told == {
        (better.name, better.key.fingerprint, "known"),
        (better.name, better.keys["ecdsa"].fingerprint, "not known"),
        (new.name, new.key.fingerprint, "not known"),
        (known.name, known.key.fingerprint, "known"),
        (bad.name, bad.key.fingerprint, "ANOTHER KEY"),
    }
    alarm, refusal, recorded = (
        both.stderr.index(words)
        for words in (
            f"shows {bad.key.fingerprint} (ssh-ed25519), which is not its key",
            "which scan is not",
            "new.lan: 1 host key is recorded as seen",
        )
    )
    assert alarm < refusal < recorded
    assert "which scan is not" in look(better, known, code=3).stderr
    assert look(new, known, code=0).stdout.count("\tknown") == 2
    for sshd in (better, new, known, bad):
        sshd.process.stop()


def test_a_scan_that_may_record_nothing_does_not_look(here: Host, local: Registrar) -> None:
    """Where a scan is no evidence, --register is refused before anybody is asked, though nobody would answer."""
    here.handfast("host", "add", "nobody.lan", "--san", "127.0.0.1", "--port", "1", "--data", local.data)
    refused = here.handfast("host", "scan", "nobody.lan", "--register", "--data", local.data, code=3)
    assert "'scan' does not count as evidence of a host key here" in refused.stderr
    assert "127.0.0.1" not in refused.stderr
    assert refused.stdout == ""


def test_a_clone(here: Host, local: Registrar) -> None:
    """A second machine with the same host keys is refused, and may join without them, or with keys of its own."""
    first = Sshd(here, "first.lan")
    publish(here, local, first, "ed25519")
    line = local.invite("second.lan")
    refused = here.handfast("join", "--out", "second", "--ssh-dir", etc(first, "ed25519"), stdin=line, code=3)
    assert f"the host key {first.key.fingerprint} is 'first.lan''s" in refused.stderr
    (alarm,) = local.show("second.lan")["alarms"]
    assert alarm["kind"] == "alarm.same-host-key"
    here.handfast("join", "--out", "second", stdin=line)
    own = Sshd(here, "second.lan")
    renew = ("renew", "--out", "second", "--ssh-dir", etc(own, "ed25519"))
    assert "its credential does not vouch for them" in here.handfast(*renew, code=3).stderr
    here.handfast("host", "add", "second.lan", "--key", str(own.key), "--data", local.data)
    published = here.handfast(*renew).stderr
    assert f"published the SSH host key {own.key.fingerprint}" in published
    assert own.key.fingerprint in here.handfast("host", "show", "second.lan", "--data", local.data).stdout
    for sshd in (first, own):
        sshd.process.stop()


def test_joining_again_with_ssh(here: Host, local: Registrar) -> None:
    """A machine that has joined without host keys is told how to publish them, before and after it has renewed."""
    sshd = Sshd(here, "again.lan")
    line = local.invite(sshd.name)
    here.handfast("join", "--out", "again", stdin=line)
    again = ("join", "--out", "again", "--ssh-dir", etc(sshd, "ed25519"))
    refused = here.handfast(*again, stdin=line, code=3).stderr
    assert "'again.lan' has asked before, without SSH host keys" in refused
    assert "ask the operator for a new invitation" in refused
    here.handfast("renew", "--out", "again")
    told = here.handfast(*again, stdin=line).stderr
    assert "its SSH host keys are not published: ask the operator for a new invitation" in told
    sshd.process.stop()
