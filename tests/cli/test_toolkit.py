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
from handfast.nifi.options import ClientOptions
from tests.cli.started import options
from tests.nifi.fake_ca import TOKEN
from tests.nifi.node import Node

SERVICES: dict[str, click.Command] = {"client": client, "server": server, "standalone": standalone, "status": status}


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


@pytest.mark.parametrize("service", ["client", "server"])
def test_a_file_of_a_token_that_cannot_be_used_says_what_to_do(node: Node, service: str) -> None:
    """The mode that it needs, also where an orchestrator sets it; and what was to be there, by its own name."""
    node.secret(TOKEN, "open").chmod(0o644)
    done = node.run(service, "--token-file", "open")
    assert done.code == 2
    assert "'open' can be read or written by others (mode 0644)" in done.stderr
    assert "hint: chmod 600 open; " in done.stderr
    assert "in Kubernetes defaultMode: 0400, or the variable HANDFAST_NIFI_TOKEN" in done.stderr
    done = node.run(service, "--token-file", "nope")
    assert "hint: it should hold the token" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"), [("short", "a token of 5 bytes, at least 16"), ("a" * 40, "1 different characters")]
)
def test_a_weak_token_is_told_in_the_same_words_from_everywhere(node: Node, text: str, words: str) -> None:
    """An argument and a file alike, with how to make one."""
    for arguments in (("-t", text), ("--token-file", str(node.secret(text)))):
        done = node.run("client", *arguments)
        assert done.code == 9
        assert words in done.stderr
        assert "hint: make one with: openssl rand -base64 32" in done.stderr


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
