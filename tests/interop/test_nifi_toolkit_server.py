"""`tls-toolkit server` as a process: the original's files, its words and exit codes, and the CA that stays the same."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable

import pytest

from tests.interop.hosts import HANDFAST, Host
from tests.interop.nifi_directory import STORE, TOKEN, Directory
from tests.ports import free_port

# As the original writes it, but for the passwords.
CONFIG = """{
  "days" : 825,
  "keySize" : 2048,
  "keyPairAlgorithm" : "RSA",
  "signingAlgorithm" : "SHA256WITHRSA",
  "dn" : "CN=localhost, OU=NIFI",
  "keyStore" : "nifi-ca-keystore.jks",
  "keyStoreType" : "jks",
  "keyStorePassword" : "PASSWORD",
  "keyPassword" : "PASSWORD",
  "token" : "correct horse battery staple",
  "caHostname" : "localhost",
  "port" : PORT,
  "dnPrefix" : "CN=",
  "dnSuffix" : ", OU=NIFI",
  "additionalCACertificate" : "",
  "domainAlternativeNames" : null
}"""


@pytest.fixture
def directory(here: Host, request: pytest.FixtureRequest) -> Directory:
    """An empty directory to serve in."""
    return Directory(here, here.directory / request.node.name.replace("/", "_"), free_port())


@pytest.fixture(scope="module")
def served(here: Host) -> Directory:
    """A directory in which a server has run once."""
    directory = Directory(here, here.directory / "once", free_port())
    directory.start("-t", TOKEN).stop()
    return directory


@pytest.fixture
def copy(served: Directory, directory: Directory) -> Directory:
    """A copy of it, without the registrar's data: what the original would have left."""
    shutil.copytree(served.path, directory.path)
    return directory


def test_a_fresh_start(directory: Directory) -> None:
    """The original's two files and its one word on stdout; a holder of the token is served; SIGTERM is a good end."""
    talk = directory.path.with_name("talk")
    command = directory.command("-t", TOKEN, "-p", "12345")
    process = directory.host.start("sh", "-c", 'exec "$@" 2>"$0"', talk, *command)
    process.expect("Server Started")
    status, root = directory.enrol()
    assert process.stop() == 0
    assert process.lines == ["Server Started"]
    assert status == 200
    assert {path.name for path in directory.path.iterdir()} == {STORE, "config.json"}
    assert {path.stat().st_mode & 0o777 for path in directory.path.iterdir()} == {0o600}
    password = directory.config["keyStorePassword"]
    assert len(password) == 43
    written = (directory.path / "config.json").read_text()
    assert written.replace(password, "PASSWORD").replace("12345", "PORT") == CONFIG
    assert directory.root() == root
    said = talk.read_text()
    assert f"`handfast invite NAME --nifi --data {directory.data}`" in said
    assert "Traceback" not in said
    assert TOKEN not in said


def test_only_what_leads_to_the_caller(directory: Directory) -> None:
    """Without more flags a node gets its own names alone; config.toml and flags allow others."""
    far = "CN=far.lan, OU=NIFI"
    process = directory.start("-t", TOKEN)
    assert (directory.enrol()[0], directory.enrol(subject=far)[0]) == (200, 403)
    token = directory.host.handfast("invite", "far.lan", "--nifi", "--data", directory.data).stdout.strip()
    assert directory.enrol(token, far)[0] == 200
    process.stop()
    (directory.data / "config.toml").write_text(f"[nifi]\nallow_dn = ['{far}']\n")
    process = directory.start("-t", TOKEN)
    assert directory.enrol(subject=far)[0] == 200
    process.stop()
    process = directory.start("-t", TOKEN, "--allow-dn", "CN=near.lan, OU=NIFI")
    assert (directory.enrol(subject="CN=near.lan, OU=NIFI")[0], directory.enrol(subject=far)[0]) == (200, 403)
    process.stop()


@pytest.mark.parametrize("flags", [("-F",), ("-t", TOKEN), ("--configJsonIn", "config.json")])
def test_a_second_start(served: Directory, flags: tuple[str, ...]) -> None:
    """With the configuration or with the flags again: the same CA, and not a byte in the files is another."""
    before, root = served.content(), served.root()
    process = served.start(*flags)
    status, shown = served.enrol()
    process.stop()
    assert (status, shown) == (200, root)
    assert served.content() == before


def test_the_configuration_counts(copy: Directory) -> None:
    """With -F flags mean nothing, as in the original: token, port and name are the configuration's."""
    root = copy.root()
    process = copy.start("-F", "-t", "another token, as long as it", "-c", "elsewhere.lan", "-d", "1")
    assert copy.enrol("another token, as long as it")[0] == 403
    assert copy.enrol() == (200, root)
    process.stop()
    assert (copy.config["caHostname"], copy.config["days"], copy.config["token"]) == ("localhost", 825, TOKEN)


def test_a_token_from_a_file(directory: Directory) -> None:
    """It is not written down; the next start without it serves one-time tokens alone, and says so."""
    file = directory.host.put("shared-token", TOKEN)
    process = directory.start("--token-file", file)
    assert directory.enrol()[0] == 200
    process.stop()
    assert directory.config["token"] is None
    process = directory.start("-F")
    assert "there is no shared token" in process.expect("handfast: warning:")
    assert directory.enrol()[0] == 403
    process.stop()


def test_another_file_and_other_passwords(directory: Directory) -> None:
    """-f is where the configuration is, the store stays in the working directory; -g gives the key its own password."""
    kept = directory.path.with_name(f"{directory.path.name}-conf.json")
    process = directory.start("-t", TOKEN, "-f", kept, "-g", "-T", "PKCS12")
    root = directory.enrol()[1]
    process.stop()
    assert [path.name for path in directory.path.iterdir()] == ["nifi-ca-keystore.pkcs12"]
    config = json.loads(kept.read_bytes())
    assert config["keyPassword"] != config["keyStorePassword"]
    process = directory.start("-F", "-f", kept)
    assert directory.enrol() == (200, root)
    process.stop()


def test_a_store_whose_ca_is_not_ours_yet(copy: Directory) -> None:
    """Where another CA's store lies nothing is made, so that the next command can still take it over."""
    before, root = copy.content(), copy.root()
    done = copy.fails("-t", TOKEN)
    assert f"{STORE!r} exists, and its CA was not taken over yet" in done.stderr
    assert "-F" in done.stderr
    assert copy.content() == before
    process = copy.start("-F")
    assert copy.enrol() == (200, root)
    process.stop()


def test_from_nifi(copy: Directory, served: Directory, here: Host) -> None:
    """The CA of another directory is taken over with its token; a data directory with another CA is not used."""
    there = Directory(here, copy.path.with_name("taken-over"), copy.port)
    for _ in range(2):
        process = there.start("--from-nifi", copy.path)
        assert there.enrol() == (200, copy.root())
        process.stop()
    assert there.root() == copy.root()
    other = Directory(here, copy.path.with_name("other"), copy.port)
    other.start("-t", TOKEN).stop()
    elsewhere = Directory(here, copy.path.with_name("elsewhere"), copy.port)
    done = elsewhere.fails("--from-nifi", copy.path, data=other.data)
    assert "is not the one that was to be taken over" in done.stderr
    assert not list(elsewhere.path.iterdir())


def test_from_nifi_of_a_wrong_directory(copy: Directory, here: Host) -> None:
    """The directory or the file is named, and nobody is told to leave out a flag that was not given."""
    nowhere, empty = copy.path.with_name("nowhere"), copy.path.with_name("empty")
    empty.mkdir(exist_ok=True)
    there = Directory(here, copy.path.with_name("taker"), copy.port)
    done = there.fails("--from-nifi", nowhere)
    assert f"no directory '{nowhere}'" in done.stderr
    assert "give the one that the CA runs in" in done.stderr
    done = there.fails("--from-nifi", empty)
    assert f"no file '{empty}/config.json'" in done.stderr
    assert "give the directory that the CA runs in" in done.stderr
    assert not there.data.exists()


def test_from_nifi_beside_the_store_of_another(copy: Directory, here: Host) -> None:
    """The store that is in the way is named, and nothing is made, so that the next command can begin."""
    there = Directory(here, copy.path.with_name("beside"), free_port())
    there.start("-t", TOKEN).stop()
    before = there.content()
    data = copy.path.with_name("beside-new-data")
    done = there.fails("--from-nifi", copy.path, data=data)
    assert f"{STORE!r}: the store password is wrong" in done.stderr
    assert there.content() == before
    assert not data.exists()


def test_a_lost_data_directory(directory: Directory) -> None:
    """A new pod with the old volume: with the token from its file again, the CA of the store goes on."""
    file = directory.host.put("the-token-of-a-pod", TOKEN)
    process = directory.start("--token-file", file)
    root = directory.enrol()[1]
    process.stop()
    assert directory.config["token"] is None
    process = directory.start("-F", "--token-file", file, data=directory.path.with_name("a-new-pod"))
    assert directory.enrol() == (200, root)
    process.stop()
    assert directory.root() == root


def test_a_mounted_configuration(copy: Directory) -> None:
    """Orchestrators mount with 0644: it is told and used, also where the CA is taken over; what we write is ours."""
    (copy.path / "config.json").chmod(0o644)
    process = copy.host.start(*copy.command("-F"))
    told = process.expect("it has secrets in it")
    assert "'config.json' can be read or written by others (mode 0644)" in told
    process.expect("Server Started")
    assert copy.enrol() == (200, copy.root())
    process.stop()
    assert (copy.path / "config.json").stat().st_mode & 0o777 == 0o600


def test_up_from_nifi(copy: Directory) -> None:
    """`up` takes over the CA and not the token, which too many have had; once, and never over another one."""
    data = copy.data
    flags = ("--data", data, "--listen", "127.0.0.1:0", "--nifi-listen", f"127.0.0.1:{copy.port}", "--json")
    process = copy.host.start(*HANDFAST, "up", *flags, "--from-nifi", copy.path)
    ready = json.loads(process.expect('"url"'))
    assert ready["nifi"] == f"127.0.0.1:{copy.port}"
    assert copy.enrol() == (403, copy.root())
    token = copy.host.handfast("invite", "far.lan", "--nifi", "--data", data).stdout.strip()
    assert copy.enrol(token, "CN=far.lan, OU=NIFI") == (200, copy.root())
    assert process.stop() == 0
    again = copy.host.start(*HANDFAST, "up", *flags, "--from-nifi", copy.path)
    assert json.loads(again.expect('"url"'))["nifi"] == ready["nifi"]
    assert again.stop() == 0


def test_another_name_than_before(served: Directory) -> None:
    """A CA keeps its name: clients compare it, so that another -c is refused, and nothing is written."""
    before = served.content()
    done = served.fails("-t", TOKEN, "-c", "ca.lan")
    assert "is 'CN=localhost, OU=NIFI', not 'CN=ca.lan, OU=NIFI'" in done.stderr
    assert served.content() == before


def _truncate(directory: Directory) -> None:
    path = directory.path / STORE
    path.write_bytes(path.read_bytes()[:-100])


def _open(directory: Directory) -> None:
    (directory.path / STORE).chmod(0o644)


WRONG: dict[str, tuple[Callable[[Directory], object], str]] = {
    "no configuration": (lambda here: (here.path / "config.json").unlink(), "no configuration at"),
    "no JSON": (lambda here: (here.path / "config.json").write_text("{"), "is not a JSON object"),
    "an unknown field": (lambda here: here.change(approve=True), "unknown field 'approve'"),
    "a weak token": (lambda here: here.change(token="sixteenCharacters"), "printed in NiFi's documentation"),
    "a short token": (lambda here: here.change(token="short"), "a token of 5 bytes"),
    "another password": (lambda here: here.change(keyStorePassword="wrong"), f"{STORE}': the store password is wrong"),
    "another key password": (lambda here: here.change(keyPassword="wrong"), f"{STORE}': "),
    "a truncated store": (_truncate, "cut short"),
    "an open store": (_open, f"{STORE}' can be read or written by others (mode 0644)"),
    "no such port": (lambda here: here.change(port=99999), "port 99999"),
    "no such type": (lambda here: here.change(keyStoreType="BCFKS"), "BCFKS"),
}


@pytest.mark.parametrize(("break_", "reason"), WRONG.values(), ids=WRONG.keys())
def test_files_that_are_wrong(copy: Directory, break_: Callable[[Directory], object], reason: str) -> None:
    """Exit code 3 as the original, a reason and a hint, no traceback; and nothing is overwritten."""
    break_(copy)
    before = copy.content()
    done = copy.fails("-F")
    assert reason in done.stderr
    assert "handfast: hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stderr
    assert copy.content() == before


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ((), 8),
        (("-t", ""), 8),
        (("-t", "fifteen bytes.."), 9),
        (("-t", "a" * 40), 9),
        (("-t", TOKEN, "-p", "x"), 7),
        (("-t", TOKEN, "-d=-5"), 3),
        (("-t", TOKEN, "-k", "1024"), 3),
        (("-t", TOKEN, "-D", "nonsense"), 3),
        (("-t", TOKEN, "--nonsense"), 4),
        (("-t", TOKEN, "-f", "none/config.json"), 3),
    ],
)
def test_flags_that_are_wrong(directory: Directory, flags: tuple[str, ...], code: int) -> None:
    """The original's exit codes, with words."""
    done = directory.fails(*flags, code=code)
    assert "handfast: error: " in done.stderr
    assert "Server Started" not in done.stdout


@pytest.mark.parametrize("flags", [("-d=-5",), ("-p", "70000"), ("-k", "1024"), ("-a", "DSA")])
def test_flags_that_are_wrong_beside_a_good_authority(served: Directory, flags: tuple[str, ...]) -> None:
    """What nothing would use is not written either: the next start could not read it again."""
    before = served.content()
    done = served.fails("-t", TOKEN, *flags)
    assert "handfast: hint: " in done.stderr
    assert served.content() == before
    served.start("-F").stop()


def test_a_damaged_configuration_is_not_written_over(copy: Directory) -> None:
    """It may have the only copy of the passwords: the file is named, and what to do with it."""
    copy.change(days=-5)
    before = copy.content()
    done = copy.fails("-t", TOKEN)
    assert "'config.json': days -5 is not between" in done.stderr
    assert "it may have the passwords of a key store: correct it, or move it away" in done.stderr
    assert copy.content() == before
    assert not copy.data.exists()


def test_beside_a_running_registrar(directory: Directory) -> None:
    """One at a time has the data directory; the way to have both is said."""
    process = directory.start("-t", TOKEN)
    done = directory.fails("-t", TOKEN)
    process.stop()
    assert "is in use by process" in done.stderr
    assert "or stop it; or let it serve NiFi as well: handfast up --nifi-listen" in done.stderr


def test_a_port_in_use(directory: Directory) -> None:
    """It is said which, and what to do."""
    with socket.create_server(("127.0.0.1", directory.port)):
        done = directory.fails("-t", TOKEN)
    assert f"'127.0.0.1:{directory.port}' is in use by another program" in done.stderr
    assert "handfast: hint: " in done.stderr
