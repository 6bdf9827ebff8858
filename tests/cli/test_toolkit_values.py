"""`tls-toolkit`: the values of flags arrive where they belong, and standalone ends with the original's codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast.nifi.config import ClientConfig, ServerConfig
from handfast.nifi.options import ClientOptions, ServerOptions
from tests.cli.started import options
from tests.nifi.fake_ca import TOKEN
from tests.nifi.node import Node


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
        "--data", "data", "--allow-dn", "CN=*.lan, OU=NIFI", "--allow-san", "*.lan", "--allow-san", "10.0.0.0/8",
        "--any-name", "--listen", "127.0.0.1:1", "--from-nifi", "old",
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


def test_passwords_that_were_arguments_are_told_in_one_line(node: Node) -> None:
    """With all the flags that they followed."""
    secret = ("a-good-password",)
    done = node.run(
        "standalone", "-n", "a", "-S", *secret, "-K", *secret, "-P", *secret, "-B", "env:NAME", "-C", "CN=x"
    )
    assert done.code == 0, done.stderr
    assert done.stderr.count("every user of this machine") == 1
    assert "can read what follows -S, -K, -P, -B;" in done.stderr
    assert done.stderr.count("'env': is no source here") == 1
    assert secret[0] not in done.stderr


@pytest.mark.parametrize(
    ("service", "flags", "words"),
    [
        ("server", ("-d=-5",), "days -5 is not between 1 and 36525"),
        ("server", ("-p", "70000"), "port 70000 is not between"),
        ("server", ("-k", "1024"), "no keys of kind 'RSA' with 1024 bits"),
        ("client", ("-p", "70000"), "port 70000 is not between"),
        ("client", ("-k", "1024"), "no keys of kind 'RSA' with 1024 bits"),
    ],
)
def test_a_number_out_of_range_ends_with_3(node: Node, service: str, flags: tuple[str, ...], words: str) -> None:
    """As the original's service does; nothing is written."""
    done = node.run(service, "--token-file", str(node.secret(TOKEN)), *flags)
    assert (done.code, done.stdout) == (3, "")
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert node.files() == set()


def test_several_passwords_come_from_the_lines_of_a_file(node: Node) -> None:
    """One for each host, in order."""
    file = node.secret("the-first-password\nthe-second-password\n")
    done = node.run("standalone", "-n", "a,b", "--keystore-password-file", str(file))
    assert done.code == 0, done.stderr
    assert "the-second-password" in (node.directory / "b" / "nifi.properties").read_text()
