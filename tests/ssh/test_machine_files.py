"""The files that ssh is started with: what is believed in them, and how long what ssh has learned counts."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from handfast.core.hosts import Grade, Host, HostKey, How, RetiredKey
from handfast.errors import HandfastError, UsageError
from handfast.ssh.machine_files import Files
from handfast.ssh.machine_files import prepare as write_files
from tests.ssh.machines import NOW, WEB, key, learn, machine


def written(directory: Path, host: Host, least: Grade = Grade.REPORTED) -> Files:
    """Write them."""
    return write_files(directory, host, least=least)


def test_a_learned_key_is_kept_while_what_it_rests_on_is_believed(tmp_path: Path) -> None:
    """It survives new keys of the machine; the registry's own word about it counts more."""
    directory = tmp_path / "m"
    first = written(directory, WEB)
    assert first.learned == ()
    learn(first.known_hosts, 9)
    assert written(directory, WEB).learned == (key(9),)
    more = written(directory, machine("web1", 1, 2))
    assert more.learned == (key(9),)
    assert more.known_hosts.read_text().count("web1 ") == 3
    assert written(directory, machine("web1", 1, 2, 9)).learned == ()


STOLEN = replace(WEB, keys=(HostKey(key(2), How.INVITATION, "", NOW),), retired=(RetiredKey(key(1), NOW, "stolen"),))


def test_P13_a_session_held_up_by_a_thief_teaches_nothing_to_those_after_it(tmp_path: Path) -> None:
    """What ssh writes after the key that it had checked was taken back reaches neither later files nor the registry."""
    directory = tmp_path / "m"
    held = written(directory, WEB)  # the thief has web1's key, and holds the connection up
    later = written(directory, STOLEN)
    learn(held.known_hosts, 9)
    again = written(directory, STOLEN)
    assert (again.known_hosts, again.learned) == (later.known_hosts, ())
    assert str(key(9)) not in again.known_hosts.read_text()
    renamed = later.known_hosts  # nor under the other's name: a file says whose it is
    renamed.write_text(held.known_hosts.read_text())
    assert written(directory, STOLEN).learned == ()
    held.known_hosts.rename(renamed)
    assert written(directory, replace(WEB, keys=(*WEB.keys, *STOLEN.keys))).learned == ()


def test_P13_a_learned_key_that_is_retired_takes_along_what_it_may_have_taught(tmp_path: Path) -> None:
    """A session may have been authenticated with it, and write before or after it was retired."""
    directory = tmp_path / "m"
    file = written(directory, WEB).known_hosts
    learn(file, 8)
    learn(file, 9)
    now = replace(WEB, retired=(RetiredKey(key(8), NOW, "stolen"),))
    assert written(directory, now).learned == ()
    learn(file, 7)
    assert written(directory, now).learned == ()
    learn(written(directory, now).known_hosts, 6)
    elsewhere = replace(now, retired=(*now.retired, RetiredKey(key(5), NOW, "stolen")))  # nothing rested on that
    assert written(directory, elsewhere).learned == (key(6),)


def test_what_the_machine_gave_up_does_not_come_back_from_an_earlier_file(tmp_path: Path) -> None:
    """ssh forgets a key that the server has no more; the file of an earlier basis has it still, and is not asked."""
    directory = tmp_path / "m"
    learn(written(directory, WEB).known_hosts, 9)
    more = machine("web1", 1, 2)
    file = written(directory, more).known_hosts
    file.write_text(file.read_text().replace(f"web1 {key(9)}\n", ""))  # as ssh does it
    assert written(directory, more).learned == ()
    older = written(directory, WEB)  # the registrar is down, and its snapshot does not have the second key yet
    assert older.learned == ()
    assert str(key(9)) not in older.known_hosts.read_text()


def test_few_files_are_left(tmp_path: Path) -> None:
    """A machine whose keys change often does not fill the disk; what has just been started finds its file."""
    made = [written(tmp_path / "m", machine("web1", number)).known_hosts for number in range(1, 30)]
    left = set((tmp_path / "m").glob("known_hosts*"))
    assert len(left) <= 9
    assert set(made[-5:]) <= left


@pytest.mark.parametrize(
    "now",
    [
        STOLEN,
        replace(WEB, retired=(RetiredKey(key(9), NOW, "stolen"),)),
        replace(WEB, keys=(HostKey(key(1), How.INVITATION, "", NOW + timedelta(seconds=1)),)),  # removed, and came back
        replace(WEB, keys=(*WEB.keys, HostKey(key(9), How.SCAN, "", NOW))),  # known, and not well enough
    ],
)
def test_a_learned_key_is_void(tmp_path: Path, now: Host) -> None:
    """When a key that it rests on went, when it was itself retired, and when the machine was removed in between."""
    directory = tmp_path / "m"
    learn(written(directory, WEB).known_hosts, 9)
    after = written(directory, now)
    assert after.learned == ()
    assert str(key(9)) not in after.known_hosts.read_text()


def test_a_damaged_file_teaches_nothing(tmp_path: Path) -> None:
    """Without its first line, or with other machines' and broken lines, no key is learned."""
    directory = tmp_path / "m"
    known_hosts = written(directory, WEB).known_hosts
    for text in (f"web1 {key(9)}\n", f"# handfast ssh; learned with \nweb1 {key(9)}\n", "\0\xff\n"):
        known_hosts.write_text(text)
        assert written(directory, WEB).learned == ()
    with known_hosts.open("a") as file:
        file.write(f"db1 {key(8)}\nweb1 ssh-ed25519 AAAA\n@cert-authority web1 {key(7)}\nweb1 {key(9)} comment\n")
    assert written(directory, WEB).learned == (key(9),)


def test_what_others_could_write_is_not_read(tmp_path: Path) -> None:
    """A directory that is open to others is refused."""
    (tmp_path / "m").mkdir(mode=0o777)
    (tmp_path / "m").chmod(0o777)
    with pytest.raises(HandfastError, match="can be read or written by others"):
        written(tmp_path / "m", WEB)


def test_a_path_that_ssh_would_read_otherwise_is_refused(tmp_path: Path) -> None:
    """Quotes, percent and dollar signs mean something to ssh, in each version something else."""
    for name in ('a"b', "a%hb", "a${HOME}b", "a\\b", "a'b"):
        with pytest.raises(UsageError, match="ssh cannot be given a path"):
            written(tmp_path / name, WEB)


@pytest.mark.parametrize("shown", [1, 2, 9])
def test_the_explanation_agrees_with_known_hosts(tmp_path: Path, shown: int) -> None:
    """It is silent for what is believed, has a sentence for what is not, and makes an operator's words harmless."""
    host = replace(WEB, retired=(RetiredKey(key(2), NOW, "it's \x1b[31m$(gone)"),))
    made = written(tmp_path / "a b", host)
    for why in ("ORDER", "HOSTNAME"):
        line = ["/bin/sh", str(made.explain), why, key(shown).fingerprint, "ssh-ed25519"]
        done = subprocess.run(line, capture_output=True, text=True, check=False, env={"PATH": "/nowhere"})
        assert done.stdout == ""
        if why == "ORDER" or shown == 1:
            assert (done.returncode, done.stderr) == (0, "")
            continue
        assert done.returncode == 1
        assert f"this is not web1: it shows ssh-ed25519 {key(shown).fingerprint}" in done.stderr
        assert key(1).fingerprint in done.stderr
        assert ("which was retired on 2026-11-22: it's \\x1b[31m$(gone)" in done.stderr) == (shown == 2)


def test_nothing_is_written_that_is_there_already(tmp_path: Path) -> None:
    """Flushing to the disk costs more than all the rest, and happens when something has changed."""
    made = written(tmp_path / "m", WEB)
    before = made.known_hosts.stat().st_ino, made.explain.stat().st_ino
    again = written(tmp_path / "m", WEB)
    assert (again.known_hosts.stat().st_ino, again.explain.stat().st_ino) == before
