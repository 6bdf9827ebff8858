"""The original's API by curl: what people put into a URL's query, and what into a form, is the same to it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.core import keys
from tests.agent.agents import Managed, managed
from tests.interop.hosts import program

pytestmark = pytest.mark.peer("curl")


@dataclass(frozen=True)
class Curl:
    """curl with the controller's credential, which speaks to the agent's own key alone."""

    met: Managed
    options: tuple[str | Path, ...]

    def ask(self, path: str, *arguments: str | Path, status: int = 200) -> str:
        """Send a request, and return the answer's body."""
        url = f"https://{self.met.agent.address}{path}"
        done = self.met.agent.host.run(
            program("curl"), "-sS", *self.options, "-w", "\n%{http_code}", *arguments, url
        ).stdout
        body, _, code = done.rpartition("\n")
        assert int(code) == status, done
        return body


@pytest.fixture(scope="module")
def curl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Curl]:
    """An agent, and curl as its controller."""
    folder = tmp_path_factory.mktemp("curl")
    with managed(folder) as met:
        controlling = met.agent.controlling
        key = controlling.house.tls.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "credential.pem").touch(mode=0o600)
        chain = [controlling.leaf, *map(x509.load_der_x509_certificate, controlling.house.authority.chain)]
        shown = b"".join(each.public_bytes(Encoding.PEM) for each in chain)
        (folder / "credential.pem").write_bytes(shown + key)
        pin = b64encode(keys.spki_sha256(met.talk.shown.public_key())).decode()
        yield Curl(met, ("--insecure", "--pinnedpubkey", f"sha256//{pin}", "--cert", folder / "credential.pem"))


def test_without_the_credential_nothing(curl: Curl) -> None:
    """It is the credential that has curl answered."""
    done = curl.met.agent.host.run(
        program("curl"), "-sS", *curl.options[:3], f"https://{curl.met.agent.address}/services", code=None
    )
    assert (done.code != 0, done.stdout) == (True, "")


@pytest.mark.parametrize("where", ["query", "form", "both"])
def test_configure(where: str, curl: Curl) -> None:
    """A service's files, by `-G`'s way of writing or in a form."""
    config = json.dumps({"site": f"good by {where} & more = é"})
    arguments = {
        "query": ["-X", "POST", "--url-query", f"config={config}"],
        "form": ["--data-urlencode", f"config={config}"],
        "both": ["--url-query", "config=nonsense", "--data-urlencode", f"config={config}"],
    }[where]
    assert json.loads(curl.ask("/services/web/configure", *arguments)) == {"state": "stopped"}
    assert (curl.met.place / "site.conf").read_text() == f"good by {where} & more = é"


@pytest.mark.parametrize("arguments", [["-X", "POST"], ["-d", ""]], ids=["no body", "empty form"])
def test_members(arguments: list[str], curl: Curl) -> None:
    """A member of a cluster, by the query; half of it in a form is the same."""
    hosts = curl.met.place / "hosts"
    assert curl.ask("/cluster_member_addresses?hostname=n1.lan&address=192.0.2.7", *arguments) == ""
    assert "192.0.2.7 n1.lan\n" in hosts.read_text()
    assert curl.ask("/cluster_member_addresses?hostname=n1.lan", "-d", "address=192.0.2.8") == ""
    assert "192.0.2.8 n1.lan\n" in hosts.read_text()
    missing = curl.ask("/cluster_member_addresses?hostname=n2.lan", *arguments, status=404)
    assert json.loads(missing) == {"message": "missing parameter 'address'"}
    assert curl.ask("/cluster_member_addresses/n1.lan", "-X", "DELETE") == ""


def test_artifacts(curl: Curl, tmp_path: Path) -> None:
    """A file in a form; where to fetch one from, in a form of either kind or in the query."""
    file = tmp_path / "app.war"
    file.write_bytes(bytes(range(256)) * 5000)
    assert json.loads(curl.ask("/services/web/artifacts", "-F", f"artifact=@{file}")) == {"status": "deployed"}
    assert (curl.met.place / "artifacts/app.war").read_bytes() == file.read_bytes()
    place = json.dumps({"location": "https://repo.example/app.war", "sha256": "0" * 64})
    for arguments in (
        ["-X", "POST", "--url-query", f"artifact={place}"],
        ["--data-urlencode", f"artifact={place}"],
        ["-F", f"artifact={place};type=application/json"],
        ["-F", "other=1", "--url-query", f"artifact={place}"],
    ):
        refused = curl.ask("/services/web/artifacts", *arguments, status=500)
        assert "does not allow to fetch 'https://repo.example/app.war'" in json.loads(refused)["message"]


def test_logs(curl: Curl) -> None:
    """`num_lines` and `offset`, which were always in the query."""
    (curl.met.place / "logs/a.log").write_text("one\ntwo\n")
    told = curl.ask("/services/web/logs/a.log", "-G", "-d", "num_lines=1", "-d", "offset=4")
    assert json.loads(told) == {"lines": ["two"], "offset": 8}
