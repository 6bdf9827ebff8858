"""What `handfast ssh` makes of ssh's arguments: seen by the real `ssh -G`, without a connection."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from handfast.core.flow import HostGrant
from handfast.core.hosts import Grade, Host, HostKey, How, Place, with_key
from handfast.core.sshkeys import SshKey
from handfast.errors import Fault, NotFound, Refused, UsageError
from handfast.ledger import open_sqlite
from handfast.ssh.source import LedgerHosts, find
from handfast.ssh.wrapper import STRICT, Ended, Run, Setting, prepare
from tests.peers import find as peer
from tests.ssh.machines import NOW, WEB, key, learn, machine

NOT_ALL_HAVE = ["KnownHostsCommand", "GSSAPIKeyExchange"]
pytestmark = pytest.mark.peer("ssh")


def registry(*machines: Host) -> LedgerHosts:
    """A registry of a few, spelled as a ledger has them."""
    table = {spelling: host for host in machines for spelling in host.place.spellings(host.machine)}
    return LedgerHosts(table.get)


@pytest.fixture
def said() -> list[str]:
    """What the person was told."""
    return []


@pytest.fixture
def setting(said: list[str]) -> Iterator[Setting]:
    """A run with web1 in the registry. Not in pytest's own directory: paths of sockets are short."""
    ssh = peer("ssh")
    assert ssh is not None
    with tempfile.TemporaryDirectory(prefix="handfast-") as state:
        again = ("/bin/us", "--data", "/d")
        yield Setting(Path(ssh), registry(WEB), Grade.REPORTED, Path(state) / "s", again, said.append)


def effect(run: Run) -> dict[str, str]:
    """Return what ssh would do with these arguments."""
    done = subprocess.run([run.program, "-G", *run.argv[1:]], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


# --- the options ---

OPPOSITE = {
    "StrictHostKeyChecking": ("no", {"true", "yes"}),
    "GlobalKnownHostsFile": ("/tmp/poisoned", {"/dev/null"}),
    "VerifyHostKeyDNS": ("yes", {"false", "no"}),
    "NoHostAuthenticationForLocalhost": ("yes", {"no"}),
    "CheckHostIP": ("yes", {"no"}),
    "UpdateHostKeys": ("no", {"true", "yes"}),
    "HashKnownHosts": ("yes", {"no"}),
    "FingerprintHash": ("md5", {"SHA256"}),
    "HostKeyAlias": ("web1", {"web1"}),
    "UserKnownHostsFile": ("/tmp/poisoned", None),
    "KnownHostsCommand": ("/bin/cat /tmp/poisoned", None),
}


def test_each_option_is_tried() -> None:
    """No option of ours is without its opposite here."""
    assert {each.partition("=")[0] for each in STRICT} <= set(OPPOSITE)


@pytest.mark.parametrize("option", OPPOSITE)
@pytest.mark.parametrize("where", ["file", "before", "behind"])
def test_the_user_s_value_has_no_effect(setting: Setting, tmp_path: Path, option: str, where: str) -> None:
    """ssh takes our value, wherever the user has put another."""
    value, ours = OPPOSITE[option]
    config = tmp_path / "config"
    config.write_text(f"{option} {value}\n" if where == "file" else "")
    given = [f"-F{config}", *([f"-o{option}={value}"] if where == "before" else []), "192.0.2.1"]
    seen = effect(prepare([*given, *([f"-o{option}={value}"] if where == "behind" else [])], setting))
    directory = setting.state / "machines" / "web1"
    files = {
        "UserKnownHostsFile": set(map(str, directory.glob("known_hosts.*"))),
        "KnownHostsCommand": {f'/bin/sh "{directory / "explain"}" %I %f %t'},
    }
    assert seen[option.lower()] in (ours or files[option])


@pytest.mark.parametrize(
    "given",
    [
        ["-v", "-tp22", "-L8080:localhost:80", "root@web1.lan", "--", "ls", "-l", "a b"],
        ["ssh://root@web1.lan:22", "-W", "x:1"],
        ["web1.lan", "-oSendEnv=X", "echo 'a'\n\"b\""],
    ],
)
def test_every_argument_is_passed_on_as_it_is(setting: Setting, given: list[str]) -> None:
    """Ours stand in front; what the user gave follows, word for word."""
    run = prepare(["-F/dev/null", *given], setting)
    assert list(run.argv[-len(given) :]) == given
    ours = run.argv[1 : -len(given) - 1]
    assert all(each.startswith("-o") for each in ours)
    assert run.argv[0] == "ssh"


def other_ssh(path: Path, setting: Setting, *cases: str) -> Setting:
    """The same with an ssh that looks at its arguments first."""
    path.write_text(f'#!/bin/sh\ncase "$*" in {" ".join(cases)} esac\nexec {setting.ssh} "$@"\n')
    path.chmod(0o755)
    return replace(setting, ssh=path)


UNKNOWN = "*{0}*) echo 'command-line: line 0: Bad configuration option: {1}' >&2; exit 255;;"
LEFT_OUT = "*{0}*) echo 'command-line line 0: Unsupported option \"{1}\"' >&2;;"


@pytest.mark.parametrize("complaint", [UNKNOWN, LEFT_OUT])
@pytest.mark.parametrize("lacking", [["KnownHostsCommand"], ["GSSAPIKeyExchange"], NOT_ALL_HAVE])
def test_an_ssh_without_an_option_does_without(
    setting: Setting, tmp_path: Path, lacking: list[str], complaint: str
) -> None:
    """Where the option is a mistake, or one that nothing was built for, it is left out, and all else stays."""
    cases = [complaint.format(option, option.lower()) for option in lacking]
    run = prepare(["-F/dev/null", "web1"], other_ssh(tmp_path / "ssh", setting, *cases))
    for option in NOT_ALL_HAVE:
        assert any(option in each for each in run.argv) == (option not in lacking)
    assert "-oStrictHostKeyChecking=yes" in run.argv


def test_P13_kerberos_does_not_vouch_for_a_host(setting: Setting, tmp_path: Path) -> None:
    """No host key is looked at where it does; an ssh that would have it all the same is not started."""
    config = tmp_path / "config"
    config.write_text("GSSAPIKeyExchange yes\n")
    if "gssapikeyexchange" not in effect(Run(setting.ssh, ("ssh", "-F/dev/null", "web1"))):
        pytest.skip("this ssh has no GSSAPIKeyExchange, which is a patch of Debian's and others'")
    for given in (["web1"], ["-oGSSAPIKeyExchange=yes", "web1"], ["web1", "-oGSSAPIKeyExchange=yes"], ["-K", "web1"]):
        assert effect(prepare([f"-F{config}", *given], setting))["gssapikeyexchange"] == "no"
    liar = other_ssh(tmp_path / "ssh", setting, UNKNOWN.format("GSSAPIKeyExchange=no", "gssapikeyexchange"))
    with pytest.raises(Fault, match="did not take GSSAPIKeyExchange=no"):
        prepare([f"-F{config}", "web1"], liar)


def test_what_ssh_refuses_it_refuses_itself(setting: Setting) -> None:
    """ssh's own words and exit code come back, and nothing is looked up."""
    with pytest.raises(Ended) as ended:
        prepare(["-oNoSuchOption=1", "web1"], setting)
    assert (ended.value.code, b"nosuchoption" in ended.value.stderr.lower()) == (255, True)


def test_without_a_destination_nobody_s_key_is_known(setting: Setting) -> None:
    """`-V` is ssh's; and were there a destination that we have not seen, ssh would believe nobody."""
    argv = prepare(["-V"], setting).argv
    assert argv[-1] == "-V"
    assert {"-oStrictHostKeyChecking=yes", "-oUserKnownHostsFile=/dev/null"} <= set(argv)


def test_a_line_break_forges_nothing(setting: Setting) -> None:
    """An option whose value would be a second line of what ssh prints is refused."""
    with pytest.raises(UsageError, match="twice"):
        prepare(["-F/dev/null", "-S", "x\nhostname web1.lan", "elsewhere.lan"], setting)


# --- who is meant ---


@pytest.mark.parametrize("name", ["web1", "WEB1.lan.", "192.0.2.1", "2001:DB8:0::1", "root@web1", "ssh://web1.lan"])
def test_a_machine_is_found_by_all_it_is_called(setting: Setting, name: str) -> None:
    """By its own name, by names and addresses, however they are written."""
    assert "-oHostKeyAlias=web1" in prepare(["-F/dev/null", name], setting).argv


def test_nobody_and_two(setting: Setting, tmp_path: Path) -> None:
    """Who is not registered is named with the port; a name of one that leads to another is nobody's guess."""
    with pytest.raises(NotFound, match=r"no machine is registered as 'web1\.lan', port 2222") as refused:
        prepare(["-F/dev/null", "-p2222", "web1.lan"], setting)
    assert "plain `ssh`" in refused.value.hint
    config = tmp_path / "config"
    config.write_text("Host db1\nHostName 192.0.2.1\nHost box\nHostName elsewhere.lan\n")
    both = replace(setting, hosts=registry(WEB, machine("db1", 2, at=("db1.lan",))))
    with pytest.raises(Refused, match=r"'db1' is the machine 'db1', but ssh is configured to go to '192\.0\.2\.1'"):
        prepare([f"-F{config}", "db1"], both)
    with pytest.raises(NotFound, match=r"'box \(elsewhere\.lan\)'"):
        prepare([f"-F{config}", "box"], both)


def test_a_machine_without_keys_that_count(setting: Setting, tmp_path: Path) -> None:
    """One that was removed is nobody to go to with plain ssh; one that has no key yet was not removed."""
    with open_sqlite(tmp_path / "ledger.sqlite3") as ledger:
        for number, name in enumerate(("gone1", "lost1"), 1):
            grant = HostGrant(name, (key(number),), How.OPERATOR, "", Place.parse([f"{name}.lan"]))
            ledger.register(grant, None, at=NOW).result()
        ledger.remove_host("gone1", reason="sold", at=NOW).result()
        ledger.retire("lost1", key(2), reason="stolen", at=NOW).result()
        ledger.register(HostGrant("new1", (), How.OPERATOR, "", Place.parse(["new1.lan"])), None, at=NOW).result()
        ledger.register(HostGrant("seen1", (key(3),), How.SCAN, "", None), None, at=NOW).result()
        real = replace(setting, hosts=LedgerHosts(ledger.host_at))
        for given, why, hint in (
            (["gone1"], "'gone1' can be believed: none, since it was removed", "host show gone1"),
            (["-p2222", "gone1"], "'gone1' can be believed: none, since it was removed", "host show gone1"),
            (["lost1.lan"], "none, since all that it had were retired", "host show lost1"),
            (["new1.lan"], "none that counts is registered yet", "handfast host add new1"),
            (["seen1"], "none that is at least reported", "host show seen1"),
        ):
            with pytest.raises(Refused, match=why) as refused:
                prepare(["-F/dev/null", *given], real)
            assert hint in refused.value.hint
        with pytest.raises(NotFound):  # its place is another's now, or nobody's
            prepare(["-F/dev/null", "gone1.lan"], real)


# --- shared connections and jump hosts ---


def test_a_socket_of_ours_stands_for_each_of_the_user_s(setting: Setting, said: list[str]) -> None:
    """Same arguments, same socket; other arguments or keys, another one; never theirs; none where they have none."""

    def socket(*given: str, host: Host = WEB) -> str:
        run = prepare(["-F/dev/null", *given], replace(setting, hosts=registry(host)))
        return effect(run).get("controlpath", "none")

    theirs = ["-oControlPath=/tmp/a-%C", "web1"]
    same = {socket(*theirs), socket(*theirs), socket("-S/tmp/a-%C", "web1"), socket("web1", "-S", "/tmp/a-%C", "ls")}
    assert len(same) == 1
    assert Path(socket(*theirs)).parent == setting.state
    others = {socket(*theirs), socket("-p2200", *theirs[:1], "web1"), socket("-S/tmp/b", "web1")}
    assert len(others | {socket(*theirs, host=machine("web1", 2)), socket("web1")}) == 5
    assert socket("web1") == socket("-Snone", "web1") == "none"
    assert not said


def test_where_a_socket_s_path_would_be_too_long_nothing_is_shared(setting: Setting, said: list[str]) -> None:
    """ssh would fail to make it; it is said once, and the user's own is not used instead."""
    far = replace(setting, state=setting.state / ("x" * 100))
    assert effect(prepare(["-F/dev/null", "-S/tmp/a", "web1"], far)).get("controlpath", "none") == "none"
    assert "connections are not shared" in said[0]


def test_a_jump_host_is_reached_by_us(setting: Setting) -> None:
    """ssh is started under the name of a script that is `handfast ssh` with the same source."""
    run = prepare(["-F/dev/null", "-Jbastion", "web1"], setting)
    assert run.argv[0] == str(setting.state / "hop")
    assert (setting.state / "hop").read_text() == '#!/bin/sh\nexec /bin/us --data /d "$@"\n'
    assert (setting.state / "hop").stat().st_mode & 0o777 == 0o700
    assert (run.program, run.argv[-2:]) == (setting.ssh, ("-Jbastion", "web1"))


def test_a_jump_host_that_could_not_be_checked_is_not_used(setting: Setting) -> None:
    """ssh would quietly take plain ssh instead of a script that it cannot run."""
    with pytest.raises(Fault, match="could not check the jump host"):
        prepare(["-F/dev/null", "-Jbastion", "web1"], replace(setting, state=setting.state / "a b"))


# --- what is handed on ---


def believed(run: Run) -> Path:
    """The file that ssh was started with."""
    return Path(effect(run)["userknownhostsfile"])


def test_what_was_learned_is_handed_on_with_what_it_rests_on(setting: Setting, said: list[str]) -> None:
    """Only where every believed key is proved, as ssh does not say which it was. A refusal is told, and ssh goes on."""
    told: list[tuple[str, tuple[SshKey, ...], tuple[SshKey, ...], str]] = []

    def tell(name: str, keys: tuple[SshKey, ...], *, basis: tuple[SshKey, ...], detail: str) -> None:
        told.append((name, keys, basis, detail))

    whole = replace(setting, register=tell)
    learn(believed(prepare(["-F/dev/null", "web1"], whole)), 9)
    prepare(["-F/dev/null", "web1"], whole)
    assert told == [("web1", (key(9),), (key(1),), f"over a connection authenticated with {key(1).fingerprint}")]
    also = with_key(WEB, "web1", HostKey(key(1), How.CONSOLE, "", NOW))
    prepare(["-F/dev/null", "web1"], replace(whole, hosts=registry(also)))  # said twice is not known less well
    assert len(told) == 2
    weaker = with_key(WEB, "web1", HostKey(key(3), How.CONSOLE, "", NOW))
    prepare(["-F/dev/null", "web1"], replace(whole, hosts=registry(weaker)))
    assert len(told) == 2

    def full(*_: object, **__: object) -> None:
        raise Fault("the disk is full")

    learn(believed(prepare(["-F/dev/null", "web1"], setting)), 9)
    prepare(["-F/dev/null", "web1"], replace(setting, register=full))
    assert said == ["handfast: warning: new host keys of web1 were not recorded: the disk is full"]


def test_a_machine_is_found_by_its_own_name_at_any_port() -> None:
    """But by no other name that it has."""
    hosts = registry(WEB, machine("db1", 2), machine("app1", 3))
    assert find(hosts, "web1", 2222) == WEB
    assert find(hosts, "web1.lan", 2222) is None
