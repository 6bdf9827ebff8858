"""What ssh's KnownHostsCommand answers: keys for our machines, nothing for others, and a veto with a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from handfast.core.hosts import How
from handfast.core.knownhosts import Speaker
from handfast.core.sshkeys import SshKey
from handfast.ssh import launcher
from tests.ssh.fleet import MOST, host, key, known, put

RIGHT, OTHER, OLD, STRANGE = key("right"), key("right", "ssh-rsa"), key("old"), key("strange")
WEB1 = host(
    "web1",
    known(RIGHT, How.CONSOLE, "console of i-0123", at=datetime(2026, 11, 20, 8, 30, tzinfo=UTC)),
    OTHER,
    places=("web1.lan", "10.0.0.1"),
    aliases=("www",),
    retired=(OLD,),
)
WEB9 = host("web9", key("nine"), places=("10.0.0.9",), ports=(22, 2222))
GONE = host("gone", retired=(key("gone"),))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The user's directory, with a snapshot of this minute."""
    folder = tmp_path / "state"
    put(folder, WEB1, WEB9, GONE, at=datetime.now(UTC))
    (folder / launcher.SETTINGS).write_text(f"most {MOST}\n")
    return folder


class Call:
    """What ssh tells of a connection: ``ssh typed``, and what its configuration made of it."""

    def __init__(self, typed: str = "web1", *, host: str = "", port: int = 22, alias: str = "") -> None:
        self.host, self.port, self.typed, self.alias = host or typed, str(port), typed, alias
        self.lookup = alias or (self.host if port == 22 else f"[{self.host}]:{port}")

    def tokens(self, kind: str, key: SshKey | None = None, *, fingerprint: str = "", algorithm: str = "") -> list[str]:
        """The values of %I %h %p %n %k %H %t %f %K."""
        about = [kind, self.host, self.port, self.typed, self.alias or self.typed, self.lookup]
        if key is None:
            return [*about, "NONE", "NONE", "NONE"]
        return [*about, algorithm or key.algorithm, fingerprint or key.fingerprint, key.base64]


def run(state: Path, tokens: list[str]) -> subprocess.CompletedProcess[str]:
    """As ssh runs it: no shell, no terminal, another directory."""
    return subprocess.run(
        [sys.executable, "-IS", launcher.__file__, str(state), *tokens],
        capture_output=True, text=True, check=False, cwd="/", stdin=subprocess.DEVNULL, errors="surrogateescape",
    )  # fmt: skip


def offered(state: Path, call: Call, key: SshKey) -> subprocess.CompletedProcess[str]:
    """The answer when the server has shown a key."""
    return run(state, call.tokens("HOSTNAME", key))


def test_before_a_key_is_offered_all_of_them_are_told(state: Path) -> None:
    """ssh chooses algorithms by what it is told, for whatever name and port it looks."""
    done = run(state, Call().tokens("ORDER"))
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == sorted([f"* {RIGHT}", f"* {OTHER}"])


@pytest.mark.parametrize(
    "call",
    [
        Call("web1"),
        Call("WEB1"),
        Call("web1.lan"),
        Call("web1.lan."),
        Call("10.0.0.1"),
        Call("www"),
        Call("www", host="10.0.0.1"),
        Call("nick", host="web1.lan"),
        Call("web1", host="tunnel.invalid", port=2201),
        Call("nick", host="localhost", port=2201, alias="web1"),
        Call("web1", host="localhost", port=2201, alias="web1"),
        Call("web1", port=2222),
        Call("web9", host="web9.example", alias="web1"),
    ],
)
def test_a_machine_is_accepted_with_its_own_key(state: Path, call: Call) -> None:
    """By name, address, alias, or HostKeyAlias: the key offered is told, and nothing else."""
    done = offered(state, call, RIGHT)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"* {RIGHT}\n", "")


@pytest.mark.parametrize(
    "call",
    [
        Call("other"),
        Call("web1.lan", port=2222),
        Call("www", port=2222),
        Call("web", host="10.0.0.10"),
        Call("web1", host="web1.elsewhere.example", alias="web1.elsewhere.example"),
        Call("10.0.0.9", port=2200),
    ],
)
def test_others_are_left_alone(state: Path, call: Call) -> None:
    """For a host that is not ours nothing is printed, and ssh goes on by its own rules."""
    for done in (run(state, call.tokens("ORDER")), offered(state, call, STRANGE)):
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


SPEAKER = Speaker(("*.lan", "!evil.lan"), key("ca"))


def speaking(state: Path, *, age: timedelta = timedelta(0), settings: str = "revoked here\n") -> Path:
    """The directory, where a CA speaks."""
    put(state, WEB1, WEB9, GONE, at=datetime.now(UTC), age=age, speaker=SPEAKER)
    (state / launcher.SETTINGS).write_text(f"most {MOST}\n{settings}")
    return state


@pytest.mark.parametrize("name", ["new.lan", "other", "evil.lan", "evil.lan\n* ssh-ed25519 AAAA"])
def test_a_ca_speaks_for_those_that_are_not_known(state: Path, name: str) -> None:
    """ssh is given its line, and judges itself whether the name fits: nothing of the name is in it."""
    speaking(state)
    for done in (run(state, Call(name).tokens("ORDER")), offered(state, Call(name), STRANGE)):
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"@cert-authority *.lan,!evil.lan {key('ca')}\n"


def test_P32_a_ca_does_not_speak_for_what_is_known(state: Path) -> None:
    """A machine is judged by its registered keys, a removed one by none: a certificate of the CA's changes nothing."""
    speaking(state)
    assert offered(state, Call(), RIGHT).stdout == f"* {RIGHT}\n"
    assert "cert-authority" not in run(state, Call().tokens("ORDER")).stdout
    certificate = {"algorithm": "ssh-ed25519-cert-v01@openssh.com"}
    for call, shown in ((Call(), STRANGE), (Call("gone"), key("gone"))):
        done = run(state, call.tokens("HOSTNAME", shown, **certificate))
        assert (done.returncode, done.stdout) == (1, "")


def test_P32_a_ca_does_not_speak_without_the_list_of_what_it_took_back(state: Path) -> None:
    """Where ssh does not read our list, or we have heard of nothing for too long, the CA is not told."""
    for other in (speaking(state, settings=""), speaking(state, age=timedelta(seconds=MOST + 1))):
        done = offered(other, Call("new.lan"), STRANGE)
        assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    "name",
    [
        "-oProxyCommand=touch /tmp/x", "a b", "a'b\"c", "$(id)", "`id`", "w\u00e9b1", "web1\n* ssh-ed25519 AAAA",
        "*", "!x", "web1,*", "x" * 60_000, "\udcff\udcfe", "\x1b[31m", "", "%h", "[web1]", "::1", ":::::",
    ],
)  # fmt: skip
def test_a_hostile_name_is_nobodys(state: Path, name: str) -> None:
    """Options, quotes, line feeds, other alphabets, bytes that are no text: nothing is printed, exit code 0."""
    done = offered(state, Call(name), STRANGE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_hostile_name_in_front_of_our_machine_prints_nothing_of_itself(state: Path) -> None:
    """A name cannot become a line of known hosts, or move the cursor of whoever reads the refusal."""
    call = Call("evil\n* ssh-ed25519 AAAA\x1b[2J", host="web1.lan")
    assert offered(state, call, RIGHT).stdout == f"* {RIGHT}\n"
    call = Call("web1", host="evil\x1b[2J\n* x")
    done = offered(state, call, STRANGE)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    assert "evil\\x1b[2j\\n* x" in done.stderr


def test_P13_another_key_is_vetoed_with_a_sentence(state: Path) -> None:
    """The refusal names the machine, both fingerprints, how and when the right ones became known, and what to do."""
    done = offered(state, Call("www", host="10.0.0.1"), STRANGE)
    assert (done.returncode, done.stdout) == (1, "")
    for part in (
        "web1: REFUSED",
        "10.0.0.1 port 22",
        f"offered     ssh-ed25519 {STRANGE.fingerprint}",
        f"registered  ssh-ed25519 {RIGHT.fingerprint}",
        f"registered  ssh-rsa {OTHER.fingerprint}",
        "reported on 2026-11-20 08:30Z: it stood in the machine's console log (console of i-0123)",
        "proved on 2026-11-22 12:00Z: the key signed when the machine joined with an invitation (invitation 0123)",
        "Do not log in.",
        "`handfast ssh-config refresh`",
    ):
        assert part in done.stderr


def test_an_unknown_key_of_an_unregistered_type_is_vetoed(state: Path) -> None:
    """A type of key that the machine is not known to have is a stranger's as well."""
    done = offered(state, Call(), key("new", "ssh-mldsa44-ed25519@openssh.com"))
    assert done.returncode == 1


def test_P15_a_retired_key_is_refused_with_its_story(state: Path) -> None:
    """It is said that the key was the machine's own, until when, and why not any more."""
    done = offered(state, Call(), OLD)
    assert done.returncode == 1
    assert "was its own once, and was retired on 2026-11-22 12:00Z: superseded" in done.stderr


def test_the_key_of_another_machine_is_refused_by_its_name(state: Path) -> None:
    """Where an address leads to another of our machines now, the refusal says to which."""
    done = offered(state, Call(), key("nine"))
    assert done.returncode == 1
    assert "the one of web9" in done.stderr


def test_a_removed_machine_is_refused_before_a_key_is_offered(state: Path) -> None:
    """Its name stays refused, with when and why; its addresses are others' already."""
    done = run(state, Call("gone").tokens("ORDER"))
    assert done.returncode == 1
    assert "gone: REFUSED. No key of it is believed any more." in done.stderr
    assert "was retired on 2026-11-22 12:00Z: superseded" in done.stderr


def test_a_name_that_leads_to_another_of_our_machines_is_refused(state: Path) -> None:
    """`ssh www` with an old HostName: the machine there is genuine, and not the one that was meant."""
    done = offered(state, Call("www", host="10.0.0.9"), key("nine"))
    assert done.returncode == 1
    assert "www is the machine web1, but ssh is configured to go to 10.0.0.9, which is web9" in done.stderr
    assert "HostKeyAlias web9" in done.stderr


def test_a_host_key_alias_is_the_persons_own_word(state: Path) -> None:
    """With HostKeyAlias the machine that it names is expected, wherever the name and the address belong."""
    assert offered(state, Call("www", host="10.0.0.9", alias="web9"), key("nine")).returncode == 0
    assert offered(state, Call("web9", host="10.0.0.9", alias="web1"), key("nine")).returncode == 1


@pytest.mark.parametrize("kind", ["typed", "same"])
def test_a_host_key_alias_makes_no_machine_nobodys(state: Path, kind: str) -> None:
    """Under an alias that names none of ours, a stranger at the place of one of ours is refused as always."""
    typed = {"typed": "vm", "same": "cloud-4711"}[kind]  # before 9.6, %k is only told by %H
    call = Call(typed, host="10.0.0.1", alias="cloud-4711")
    assert offered(state, call, STRANGE).returncode == 1
    assert offered(state, call, RIGHT).stdout == f"* {RIGHT}\n"
    assert run(state, Call("vm", host="gone", alias="cloud-4711").tokens("ORDER")).returncode == 1


def test_a_certificate_is_judged_by_the_key_in_it(state: Path) -> None:
    """A server that offers a certificate of whatever CA is accepted by its own key, and by no other."""
    tokens = Call().tokens("HOSTNAME", RIGHT, algorithm="ssh-ed25519-cert-v01@openssh.com")
    tokens[-1] = "QUFBQQ=="
    assert run(state, tokens).stdout == f"* {RIGHT}\n"
    tokens[-2] = STRANGE.fingerprint
    assert run(state, tokens).returncode == 1
    tokens[-2] = "MD5:00:11"
    done = run(state, tokens)
    assert done.returncode == 1
    assert "FingerprintHash sha256" in done.stderr


def test_fingerprints_by_md5_do_not_matter_to_plain_keys(state: Path) -> None:
    """With `FingerprintHash md5` the key itself is compared."""
    assert run(state, Call().tokens("HOSTNAME", RIGHT, fingerprint="MD5:00:11")).returncode == 0


def _age(state: Path, age: timedelta) -> None:
    put(state, WEB1, at=datetime.now(UTC), age=age)


def test_an_old_snapshot_serves_and_says_so(state: Path) -> None:
    """While the registrar cannot be reached, what is known counts, with its age, once for each connection."""
    _age(state, timedelta(days=3))
    assert run(state, Call().tokens("ORDER")).stderr == ""
    done = offered(state, Call(), RIGHT)
    assert done.returncode == 0
    assert "checked by what was known 3 days ago" in done.stderr
    assert offered(state, Call("other"), STRANGE).stderr == ""


@pytest.mark.parametrize(("age", "words"), [(8, "8.0 days old"), (-2, "from 2.0 days in the future")])
def test_P16_a_snapshot_out_of_its_time_vetoes_ours_and_only_ours(state: Path, age: int, words: str) -> None:
    """Too old, a retired key might still be in it: our machines are refused, others are left alone."""
    _age(state, timedelta(days=age))
    for done in (run(state, Call().tokens("ORDER")), offered(state, Call(), RIGHT)):
        assert done.returncode == 1
        assert words in done.stderr
    assert offered(state, Call("other"), STRANGE).returncode == 0


def _damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no snapshot": lambda state: (state / launcher.HOSTS).unlink(),
    "an empty snapshot": lambda state: _damage(state / launcher.HOSTS, lambda _all: b""),
    "half a snapshot": lambda state: _damage(state / launcher.HOSTS, lambda all_: all_[: len(all_) // 2]),
    "another file": lambda state: _damage(state / launcher.HOSTS, lambda _all: b"<html>\n"),
    "a snapshot for all to write": lambda state: (state / launcher.HOSTS).chmod(0o666),
    "no signature": lambda state: (state / launcher.SIGNATURE).unlink(),
    "a signature without a time": lambda state: _damage(state / launcher.SIGNATURE, lambda _all: b"\n"),
    "a signature of no time": lambda state: _damage(state / launcher.SIGNATURE, lambda _all: b"nan\n"),
    "no settings": lambda state: (state / launcher.SETTINGS).unlink(),
    "no limit": lambda state: (state / launcher.SETTINGS).write_text(""),
    "no directory": lambda state: state.rename(state.with_name("elsewhere")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_P13_what_is_damaged_vetoes(state: Path, damage: str) -> None:
    """Whatever is wrong with our own files, no connection to one of ours goes on, and one line says what is wrong."""
    DAMAGE[damage](state)
    done = offered(state, Call(), RIGHT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("handfast: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("tokens", [[], ["ORDER"], ["ORDER"] * 12])
def test_another_versions_call_vetoes(state: Path, tokens: list[str]) -> None:
    """Called with other tokens than ours, it cannot know, and says no."""
    assert run(state, tokens).returncode == 1


def _refreshing(state: Path, tmp_path: Path) -> Path:
    """Have the refresh write a line into a FIFO that this returns: reading it waits for the refresh."""
    fifo = tmp_path / "refreshed"
    os.mkfifo(fifo)
    command = ["/bin/sh", "-c", f"echo $$ $(ps -o sid= -p $$) >{fifo}"]
    settings = [f"most {MOST}", *(f"refresh {word}" for word in command)]
    (state / launcher.SETTINGS).write_text("".join(f"{line}\n" for line in settings))
    return fifo


def test_a_stale_snapshot_is_refreshed_in_the_background(state: Path, tmp_path: Path) -> None:
    """The call returns while the refresh still runs, in a session of its own and without holding ssh's pipe."""
    fifo = _refreshing(state, tmp_path)
    _age(state, timedelta(minutes=10))
    done = offered(state, Call(), RIGHT)  # returns only when nobody holds its output any more
    assert done.returncode == 0
    pid, session = fifo.read_text().split()
    assert pid == session


def test_a_refresh_is_not_begun_at_every_connection(state: Path, tmp_path: Path) -> None:
    """A registrar that is down is asked once a minute, not by each of a hundred connections of ansible."""
    fifo = _refreshing(state, tmp_path)
    _age(state, timedelta(minutes=10))
    offered(state, Call("other"), STRANGE)
    fifo.read_text()
    asked = (state / launcher.ASKED).stat().st_mtime_ns
    for _ in range(3):
        offered(state, Call(), RIGHT)
    assert (state / launcher.ASKED).stat().st_mtime_ns == asked


def test_a_fresh_snapshot_is_not_refreshed(state: Path, tmp_path: Path) -> None:
    """Within five minutes nothing is started."""
    _refreshing(state, tmp_path)
    offered(state, Call(), RIGHT)
    assert not (state / launcher.ASKED).exists()


def test_a_refresh_that_cannot_start_harms_nobody(state: Path) -> None:
    """The package is gone, the launcher and the snapshot are not: the connection goes on."""
    (state / launcher.SETTINGS).write_text(f"most {MOST}\nrefresh /nonexistent/handfast\n")
    _age(state, timedelta(minutes=10))
    assert offered(state, Call(), RIGHT).returncode == 0


def test_next_to_nothing_is_imported() -> None:
    """Each import is paid for twice at every connection: os, sys, mmap and time, and what they need."""
    code = "import sys; before = set(sys.modules); import os, mmap; allowed = set(sys.modules) | {'time'};"
    code += f"sys.path.insert(0, {str(Path(launcher.__file__).parent)!r}); import launcher;"
    code += "print(sorted(set(sys.modules) - allowed - {'launcher'}))"
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
