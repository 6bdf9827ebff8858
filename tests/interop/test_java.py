"""Java 17 reads the stores of the layouts pkcs12 and jks, and serves and calls with them, both with certificates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.hosts import Done, Host, Network, Process, Registrar, program

pytestmark = [pytest.mark.root, pytest.mark.peer("ip"), pytest.mark.peer("keytool")]

PROGRAM = Path(__file__).with_name("Mutual.java")
# One processor's worth of start-up, not a server's: most of such a test is waiting for the compiler.
JAVA = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")


@dataclass(frozen=True, slots=True)
class Java:
    """A Java server on one machine, and what a client on another holds."""

    net: Network
    registrar: Registrar
    process: Process
    client: Path

    def fetch(self, client: Path, suffix: str, host: str, *, code: int | None = 0) -> Done:
        """Call the server from the registrar's machine."""
        return self.net.registrar.run(*JAVA, PROGRAM, "fetch", client, suffix, f"https://{host}:8443/", code=code)


@pytest.fixture(scope="module")
def java(net: Network, registrar: Registrar) -> Iterator[Java]:
    """The server reads PKCS #12; its clients read both."""
    line = registrar.invite("java.lan", "--san", "java.lan", "--san", net.SERVER)
    out = net.server.join(line, "java", "--layout", "pkcs12", "--layout", "jks")
    process = net.server.start(*JAVA, PROGRAM, "serve", out, "p12", net.SERVER, "8443")
    line = registrar.invite("caller.lan", "--role", "client")
    client = net.registrar.join(line, "caller", "--layout", "pkcs12", "--layout", "jks")
    process.expect("serving")
    yield Java(net, registrar, process, client)
    process.stop()


def listed(host: Host, store: Path, password: str) -> str:
    """Return what keytool says about a store."""
    done = host.run(
        program("keytool"), "-list", "-v", "-keystore", store, "-storepass:env", "PASSWORD", env={"PASSWORD": password}
    )
    return done.stdout


@pytest.mark.parametrize("suffix", ["p12", "jks"])
def test_keytool_reads_the_stores(net: Network, registrar: Registrar, suffix: str) -> None:
    """keytool finds one private key with its whole chain, and one trusted root: the pinned one."""
    layout = {"p12": "pkcs12", "jks": "jks"}[suffix]
    out = net.server.join(registrar.invite(f"{layout}.lan"), layout, "--layout", layout)
    password = (out / "store-password").read_text().strip()
    own = listed(net.server, out / f"keystore.{suffix}", password)
    assert "Your keystore contains 1 entry" in own
    assert "Entry type: PrivateKeyEntry" in own
    assert "Certificate chain length: 2" in own
    assert f"Owner: CN={layout}.lan" in own
    trusted = listed(net.server, out / f"truststore.{suffix}", password)
    assert "Your keystore contains 1 entry" in trusted
    assert "Entry type: trustedCertEntry" in trusted
    net.server.handfast("renew", "--out", out)
    again = listed(net.server, out / f"keystore.{suffix}", password)
    assert again != own, "the password stays, the key is a new one"


@pytest.mark.peer("javac")
@pytest.mark.parametrize("suffix", ["p12", "jks"])
def test_mutual_tls(java: Java, suffix: str) -> None:
    """Java calls Java: each verifies the other, the name in the URL included."""
    assert java.fetch(java.client, suffix, java.net.SERVER).stdout == "hello CN=caller.lan\n"


@pytest.mark.peer("javac")
def test_a_server_is_no_client(java: Java) -> None:
    """Java's server refuses a caller whose certificate is for the role server."""
    out = java.net.registrar.join(java.registrar.invite("wrong.lan"), "wrong", "--layout", "pkcs12")
    refused = java.fetch(out, "p12", java.net.SERVER, code=1)
    assert "hello" not in refused.stdout
    assert "java.io.IOException" in refused.stderr or "SSLHandshakeException" in refused.stderr


@pytest.mark.peer("javac", "curl")
def test_curl_calls_java(java: Java) -> None:
    """Another implementation agrees: with a certificate it is greeted, without one there is no connection."""
    calling = ("curl", "-sS", "--cacert", java.client / "trust.pem", "--resolve", f"java.lan:8443:{java.net.SERVER}")
    ours = ("--cert", java.client / "fullchain.pem", "--key", java.client / "privkey.pem")
    url = "https://java.lan:8443/"
    assert java.net.registrar.run(*calling, *ours, url).stdout == "hello CN=caller.lan\n"
    assert java.net.registrar.run(*calling, url, code=None).stdout == ""
