"""`tls-toolkit`'s command line: read as commons-cli reads it, with the original's exit codes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import click
import pytest

import handfast
from handfast.cli.toolkit import client, status
from handfast.cli.toolkit_parsing import Code, Service
from handfast.cli.toolkit_server import server, standalone
from handfast.nifi.config import ClientConfig, ServerConfig
from handfast.nifi.options import ClientOptions, ServerOptions
from tests.nifi.fake_ca import TOKEN
from tests.nifi.node import Node

SERVICES: dict[str, click.Command] = {"client": client, "server": server, "standalone": standalone, "status": status}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Node:
    """An empty directory."""
    directory = tmp_path / "here"
    directory.mkdir(mode=0o700)
    return Node(directory, monkeypatch, capsys)


class Started(Exception):
    """A service was started with these options."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ClientOptions]:
    """What ``client`` would have done, instead of doing it."""
    found: list[ClientOptions] = []

    def run(options: ClientOptions, **_rest: object) -> None:
        found.append(options)
        raise Started

    monkeypatch.setattr("handfast.nifi.client.run", run)
    return found


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServerOptions]:
    """What ``server`` would have done, instead of doing it."""
    found: list[ServerOptions] = []

    def serve(options: ServerOptions, *, ready: object, **_rest: object) -> int:
        found.append(options)
        ready()  # type: ignore[operator]
        return 0

    monkeypatch.setattr("handfast.server.toolkit.serve", serve)
    return found


def options(node: Node, asked: list[ClientOptions], *arguments: str) -> ClientOptions:
    """Return what ``client`` was started with."""
    done = node.run("client", *arguments)
    assert "Started" in done.stderr, done.stderr
    return asked.pop()


# ------------------------------------------------------------------------------- services, help


@pytest.mark.parametrize(
    ("arguments", "code"),
    [((), 2), (("bogus",), 2), (("-h",), 2), (("--help",), 2), (("--bogus",), 2), (("bogus", "-h"), 2)],
)
def test_no_service_and_an_unknown_one_end_with_2(node: Node, arguments: tuple[str, ...], code: int) -> None:
    """-h without a service is an unknown one there, and ends so here; but with help."""
    done = node.run(*arguments)
    assert done.code == code
    assert ("Commands:" in done.stdout) == (arguments[:1] in {("-h",), ("--help",)})


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("flag", ["-h", "--help", "-help"])
def test_help_goes_to_stdout_and_ends_with_1(node: Node, service: str, flag: str) -> None:
    """So it is there, in whatever case the service is named."""
    done = node.run(service.upper(), flag)
    assert (done.code, done.stderr) == (1, "")
    assert done.stdout.startswith(f"Usage: handfast tls-toolkit {service} [OPTIONS]")


FLAGS = {
    "client": """-a,--keyAlgorithm -c,--certificateAuthorityHostname -C,--certificateDirectory --configJsonIn -D,--dn
        -f,--configJson -F,--useConfigJson -g,--differentKeyAndKeystorePasswords -k,--keySize -p,--PORT
        --subjectAlternativeNames -T,--keyStoreType -t,--token""",
    "server": """-a,--keyAlgorithm -c,--certificateAuthorityHostname --configJsonIn -d,--days -D,--dn -f,--configJson
        -F,--useConfigJson -g,--differentKeyAndKeystorePasswords -k,--keySize -p,--PORT -s,--signingAlgorithm
        -T,--keyStoreType -t,--token""",
    "standalone": """-a,--keyAlgorithm --additionalCACertificate -B,--clientCertPassword
        -c,--certificateAuthorityHostname -C,--clientCertDn -d,--days -f,--nifiPropertiesFile
        -g,--differentKeyAndKeystorePasswords -G,--globalPortSequence -k,--keySize -K,--keyPassword -n,--hostnames
        --nifiDnPrefix --nifiDnSuffix -o,--outputDirectory -O,--isOverwrite -P,--trustStorePassword
        -s,--signingAlgorithm -S,--keyStorePassword --splitKeystore --subjectAlternativeNames -T,--keyStoreType""",
    "status": """-ks,--keyStore -kst,--keyStoreType -ksp,--keyStorePassword -kp,--keyPassword -p,--protocol
        -ts,--trustStore -tst,--trustStoreType -tsp,--trustStorePassword -u,--url""",
}


@pytest.mark.parametrize("service", SERVICES)
def test_every_flag_of_the_original_is_there_and_ours_are_told_apart(service: str) -> None:
    """The original's in its own spelling, with the same letters; what is new is in lower case with hyphens."""
    ours = {",".join(option.opts) for option in SERVICES[service].params if isinstance(option, click.Option)}
    theirs = set(FLAGS[service].split())
    assert theirs <= ours
    assert all(each.startswith("--") and each == each.lower() for each in ours - theirs)


# ------------------------------------------------------------------------------- commons-cli's rules


@pytest.mark.parametrize(
    "arguments",
    [
        ("-t", TOKEN, "-p", "1"),
        (f"-t{TOKEN}", "-p1"),
        (f"-t={TOKEN}", "-p=1"),
        ("--token", TOKEN, "--PORT", "1"),
        (f"--token={TOKEN}", "--PORT=1"),
        ("-token", TOKEN, "-PORT", "1"),
        (f"-token={TOKEN}", "-PORT=1"),
        (f"-token{TOKEN}", "-p1"),
        ("--tok", TOKEN, "--PO", "1"),
        ("-t", f'"{TOKEN}"', "-p", '"1"'),
        ("-t", TOKEN, "-p", "1", "-p", "2", "-p", "abc", "-t", "short"),
        ("-t", TOKEN, "stray", "-p", "1", "words"),
        ("-p", "1", "-t", TOKEN, "--", "-p", "-bogus"),
        ("-gFp", "1", "-t", TOKEN, "-f", "x"),
    ],
)
def test_one_option_is_written_in_many_ways(node: Node, asked: list[ClientOptions], arguments: tuple[str, ...]) -> None:
    """All that commons-cli takes: the first of several values counts, and a word that is no option is told."""
    found = options(node, asked, *arguments)
    assert found.config.port == 1
    assert found.config.token is not None
    assert found.config.token.reveal() == TOKEN.encode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bogus",), "no such option: '--bogus'"),
        (("--bogus=secret",), "no such option: '--bogus'"),
        (("-x",), "no such option: '-x'"),
        (("-xsecret",), "no such option: '-x'"),
        (("-s", "x"), "no such option: '-s'"),
        (("-d", "3"), "no such option: '-d'"),
        (("-t",), "-t needs a value"),
        (("-t", "-F"), "-t needs a value"),
        (("-t", "--"), "-t needs a value"),
        (("-F=yes",), "no such option: '-F'"),
        (("--useConfigJson=yes",), "no such option: '--useConfigJson'"),
        (("-Fx",), "no such option: '-F'"),
        (("--c", "x"), "short for several options: certificateAuthorityHostname, certificateDirectory, configJson"),
        (("-h", "--bogus"), "no such option: '--bogus'"),
    ],
)
def test_a_command_line_that_means_nothing_ends_with_4(node: Node, arguments: tuple[str, ...], words: str) -> None:
    """And what may be a secret is not repeated."""
    done = node.run("client", *arguments)
    assert (done.code, done.stdout) == (4, "")
    assert words in done.stderr
    assert "secret" not in done.stderr
    assert "see `handfast tls-toolkit client --help`" in done.stderr


@pytest.mark.parametrize(
    ("service", "arguments"),
    [
        ("client", ("-k", "abc")), ("client", ("-p", "abc")), ("client", ("-p", "")), ("client", ("-p", "1.5")),
        ("server", ("-d", "abc")), ("server", ("-k", "2k")), ("server", ("-p", "0x1")),
        ("standalone", ("-d", "x")), ("standalone", ("-k", "x")),
    ],
)  # fmt: skip
def test_what_is_no_integer_ends_with_7(node: Node, service: str, arguments: tuple[str, ...]) -> None:
    """Each number of each service."""
    done = node.run(service, "-t", TOKEN, *arguments) if service != "standalone" else node.run(service, *arguments)
    assert done.code == 7, done.stderr
    assert "is not a valid integer" in done.stderr


# ------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("service", ["client", "server"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 8),
        (("-t", ""), 8),
        (("-t", "short"), 9),
        (("-t", "fifteen bytes!!"), 9),
        (("-F", "-t", "short"), 9),
        (("--configJsonIn", "x", "-t", "short"), 9),
        (("-t", "myTestTokenUseSomethingStronger"), 9),
        (("-t", "sixteenCharacters"), 9),
        (("-t", "a" * 40), 9),
        (("--token-file", "nope"), 2),
        (("--token-file", "open"), 2),
        (("--token-file", "empty"), 2),
        (("--token-file", "short"), 9),
    ],
)
def test_without_a_good_token_nothing_begins(
    node: Node, monkeypatch: pytest.MonkeyPatch, service: str, arguments: tuple[str, ...], code: int
) -> None:
    """8 for none, 9 for one that is too short or can be guessed, 2 for a source that cannot be used."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    node.secret("", "empty")
    node.secret("short", "short")
    node.secret(TOKEN, "open").chmod(0o644)
    done = node.run(service, *arguments)
    assert (done.code, done.stdout) == (code, ""), done.stderr
    assert "hint: " in done.stderr
    assert node.files() == {"empty", "short", "open"}


def test_sixteen_bytes_are_counted_and_not_characters(node: Node, asked: list[ClientOptions]) -> None:
    """Eleven characters of two bytes each are enough, as there."""
    assert options(node, asked, "-t", "öäüßéèêñçàå").config.token is not None


def test_a_token_that_was_an_argument_is_told_once(node: Node, asked: list[ClientOptions]) -> None:
    """It works, for scripts do it; the token itself is not repeated."""
    done = node.run("client", "-t", TOKEN)
    assert done.stderr.count("every user of this machine can read what follows -t") == 1
    assert TOKEN not in done.stderr


def test_a_token_comes_from_a_file_stdin_the_environment_or_a_person(
    node: Node, asked: list[ClientOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of these is told or written into the configuration."""

    def given(*arguments: str) -> bytes:
        done = node.run("client", *arguments)
        found = asked.pop()
        assert found.config.token is None
        assert found.token is not None
        assert "every user" not in done.stderr
        return found.token.reveal()

    assert given("--token-file", str(node.secret(TOKEN + "\n"))) == TOKEN.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TOKEN.encode() + b"\n")))
    assert given("--token-file", "-") == TOKEN.encode()
    monkeypatch.setenv("HANDFAST_NIFI_TOKEN", TOKEN)
    assert given() == TOKEN.encode()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "prompt", lambda text, *, hide_input, err: TOKEN if hide_input and err else "")
    assert given() == TOKEN.encode()


def test_env_is_no_source_and_that_is_told(node: Node, asked: list[ClientOptions]) -> None:
    """People write env:NAME; it is taken as it stands, as there, but not in silence."""
    done = node.run("client", "-t", "env:MY_SECRET_TOKEN")
    assert "'env': is no source here" in done.stderr
    assert asked[0].config.token is not None
    assert asked[0].config.token.reveal() == b"env:MY_SECRET_TOKEN"


# ------------------------------------------------------------------------------- values


def test_the_client_s_defaults_are_the_original_s(
    node: Node, asked: list[ClientOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, and the name of this host."""
    monkeypatch.setattr("socket.gethostname", lambda: "this.lan")
    found = options(node, asked, "--token-file", str(node.secret(TOKEN)))
    assert (found.config_in, found.config_out, found.certificate_directory) == (None, Path("config.json"), Path())
    assert (found.different_key_password, found.wait.total_seconds()) == (False, 60)
    assert _fields(found.config) == _fields(
        ClientConfig(
            dn="CN=this.lan, OU=NIFI", key_store="keystore.jks", trust_store="truststore.jks",
            domain_alternative_names=(), port=9443, ca_hostname="localhost", key_size=2048,
        )
    )  # fmt: skip


def test_every_flag_of_the_client_arrives(node: Node, asked: list[ClientOptions]) -> None:
    """Each value where it belongs."""
    found = options(
        node, asked, "-a", "EC", "-c", "ca.lan", "-C", "certs", "-D", "CN=x", "-f", "out.json", "-g", "-k", "384",
        "-p", "2", "--subjectAlternativeNames", "a,b[1-2]", "--subjectAlternativeNames", "c", "-T", "PKCS12",
        "-t", TOKEN, "--configJsonIn", "in.json", "-F", "--wait", "2m",
    )  # fmt: skip
    assert (found.config_in, found.config_out) == (Path("in.json"), Path("out.json"))
    assert (found.certificate_directory, found.different_key_password) == (Path("certs"), True)
    assert found.wait.total_seconds() == 120
    assert _fields(found.config) == _fields(
        ClientConfig(
            key_pair_algorithm="EC", key_size=384, ca_hostname="ca.lan", dn="CN=x", port=2, key_store="keystore.pkcs12",
            key_store_type="PKCS12", trust_store="truststore.jks", domain_alternative_names=("a", "b1", "b2", "c"),
        )
    )  # fmt: skip
    assert options(node, asked, "-F", "-f", "in.json").config_in == Path("in.json")


def test_every_flag_of_the_server_arrives(node: Node, served: list[ServerOptions]) -> None:
    """It says on stdout when it is ready, in the original's words."""
    done = node.run(
        "server", "-a", "RSA", "-c", "ca.lan", "-d", "30", "-D", "CN=ca.lan", "-f", "out.json", "-F", "-g",
        "-k", "3072", "-p", "2", "-s", "SHA1WITHRSA", "-T", "pkcs12", "-t", TOKEN, "--configJsonIn", "in.json",
        "--data", "data", "--allow-dn", "CN=*.lan, OU=NIFI", "--allow-san", "*.lan", "--allow-san", "10.0.0.0/8", "--any-name",
        "--listen", "127.0.0.1:1", "--from-nifi", "old",
    )  # fmt: skip
    assert (done.code, done.stdout) == (0, "Server Started\n"), done.stderr
    (found,) = served
    assert (found.config_in, found.config_out, found.data) == (Path("in.json"), Path("out.json"), Path("data"))
    assert (found.different_key_password, found.any_name, found.listen) == (True, True, "127.0.0.1:1")
    assert (len(found.allow_subjects), len(found.allow_names), found.from_nifi) == (1, 2, Path("old"))
    assert _fields(found.config) == _fields(
        ServerConfig(
            ca_hostname="ca.lan", days=30, dn="CN=ca.lan", key_size=3072, port=2, signing_algorithm="SHA1WITHRSA",
            key_store_type="pkcs12", key_store="nifi-ca-keystore.pkcs12",
        )
    )  # fmt: skip


def test_the_server_s_defaults_are_the_original_s(node: Node, served: list[ServerOptions]) -> None:
    """All of them; and nothing is allowed but what leads to the caller."""
    assert node.run("server", "--token-file", str(node.secret(TOKEN)), "--data", "data").code == 0
    (found,) = served
    assert _fields(found.config) == _fields(ServerConfig(dn="CN=localhost, OU=NIFI", key_store="nifi-ca-keystore.jks"))
    assert (found.allow_subjects, found.allow_names, found.any_name, found.listen) == ((), (), False, None)
    assert found.token is not None


@pytest.mark.parametrize("arguments", [("--allow-dn", "garbage"), ("--allow-san", "a b"), ("--wait", "5")])
def test_a_value_of_ours_that_means_nothing_ends_with_2(node: Node, arguments: tuple[str, str]) -> None:
    """Options that the original did not have, where they are given."""
    done = node.run("client" if arguments[0] == "--wait" else "server", "-t", TOKEN, *arguments)
    assert done.code == 2, done.stderr
    assert repr(arguments[1]) in done.stderr


def _fields(config: ServerConfig) -> dict[str, object]:
    """All but the token, which cannot be compared."""
    return {name: getattr(config, name) for name in config.__struct_fields__ if name != "token"}


# ------------------------------------------------------------------------------- standalone


def test_standalone_makes_what_was_asked_for(node: Node) -> None:
    """The files of the original; its own are in .handfast."""
    done = node.run("standalone", "-n", "n[1-2].lan", "-C", "CN=me, OU=NIFI", "-o", "out", "-T", "PKCS12")
    assert done.code == 0, done.stderr
    names = {path.name for path in (node.directory / "out").iterdir()}
    assert names == {
        "n1.lan", "n2.lan", "nifi-cert.pem", "nifi-key.key", "CN=me_OU=NIFI.p12", "CN=me_OU=NIFI.password", ".handfast",
    }  # fmt: skip
    assert (node.directory / "out" / "n1.lan" / "keystore.pkcs12").is_file()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("-n", "n[1-"), 7),
        (("-n", "a", "-G", "b"), 7),
        (("-n", "a,b,c", "-S", "one-password", "-S", "two-password"), 3),
        (("-C", "CN=a", "-C", "CN=b", "-C", "CN=c", "-B", "x-password", "-B", "y-password"), 6),
        (("-n", "a", "-f", "nope.properties"), 10),
        (("-n", "a", "-a", "EC"), 5),
        (("-n", "a", "-T", "bogus"), 5),
        (("-C", "garbage"), 5),
        (("-n", "there"), 5),
        (("--splitKeystore", "nope.jks"), 6),
        (("--splitKeystore", "nope.jks", "-S", "a-password"), 5),
    ],
)
def test_standalone_ends_with_the_original_s_codes(node: Node, arguments: tuple[str, ...], code: int) -> None:
    """As seen on the real 1.28.1; nothing is written."""
    (node.directory / "there").mkdir(mode=0o700)
    done = node.run("standalone", *arguments)
    assert (done.code, done.stdout) == (code, ""), done.stderr
    assert node.files() <= {"there", ".handfast"}
    assert "-password" not in done.stderr.replace("--keystore-password-file", "")


def test_several_passwords_come_from_the_lines_of_a_file(node: Node) -> None:
    """One for each host, in order."""
    file = node.secret("the-first-password\nthe-second-password\n")
    done = node.run("standalone", "-n", "a,b", "--keystore-password-file", str(file))
    assert done.code == 0, done.stderr
    assert "the-second-password" in (node.directory / "b" / "nifi.properties").read_text()


# ------------------------------------------------------------------------------- the whole command


def test_the_exit_code_is_the_process_s() -> None:
    """Through ``python -m handfast`` too; and --help of the whole program loads nothing of this."""
    env = {"PYTHONPATH": str(Path(handfast.__file__).parents[1])}
    command = [sys.executable, "-m", "handfast", "tls-toolkit", "client", "-x"]
    assert subprocess.run(command, env=env, capture_output=True, check=False).returncode == 4
    code = "import sys, handfast.cli.main as m; m.run(['--help']); print('handfast.nifi' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert loaded.stdout.endswith("False\n")
    assert "tls-toolkit" in loaded.stdout


def test_the_codes_are_the_original_s() -> None:
    """By their names in ExitCode.java."""
    assert [code.name for code in Code][:4] == ["SUCCESS", "HELP", "INVALID_ARGS", "SERVICE_ERROR"]
    assert [int(code) for code in Code] == list(range(12))
    assert all(isinstance(service, Service) for service in SERVICES.values())
