"""nginx serves with what `join --layout nginx` wrote, curl on another machine verifies it: both with certificates."""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.hosts import Done, Host, Network, Process, Registrar, program

pytestmark = [pytest.mark.root, pytest.mark.peer("ip"), pytest.mark.peer("nginx"), pytest.mark.peer("curl")]

CONFIGURATION = """
daemon off;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {listen} ssl;
        {server}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """One nginx in the foreground."""

    host: Host
    process: Process
    file: Path

    @classmethod
    def start(cls, host: Host, listen: str, server: str) -> Nginx:
        """Start it, and wait until it serves."""
        directory = host.directory / f"nginx-{listen}"
        directory.mkdir()
        text = CONFIGURATION.format(directory=directory, listen=listen, server=server)
        file = host.put(f"{directory.name}.conf", text)
        process = host.start(program("nginx"), "-e", "stderr", "-c", file)
        process.expect("start worker process ")
        return cls(host, process, file)

    @property
    def reload(self) -> str:
        """The command that an operator would put into `renew --exec`."""
        return shlex.join([program("nginx"), "-e", "stderr", "-c", str(self.file), "-s", "reload"])


@dataclass(frozen=True, slots=True)
class Web:
    """A web server on one machine, and a client on another: both have joined."""

    net: Network
    registrar: Registrar
    out: Path
    nginx: Nginx
    client: Path

    def curl(self, *arguments: str | Path, name: str = "web.lan", code: int | None = 0) -> Done:
        """Ask the server for a page, from the registrar's machine, trusting what `join` wrote there, nothing else."""
        url = ("--resolve", f"{name}:443:{self.net.SERVER}", f"https://{name}/")
        return self.net.registrar.run(
            "curl", "-sS", "--fail", "--cacert", self.client / "trust.pem", *arguments, *url, code=code
        )

    def as_client(self, out: Path) -> tuple[str | Path, ...]:
        """The flags of curl for an identity."""
        return ("--cert", out / "fullchain.pem", "--key", out / "privkey.pem")

    def serial(self) -> str:
        """The serial of the certificate that nginx presents at this moment."""
        shown = self.curl(*self.as_client(self.client), "-o", "/dev/null", "-w", "%{certs}").stdout
        found = re.search(r"Serial Number:([0-9a-f]+)", shown.replace("\n", ""))
        assert found, shown
        return found[1].lower().zfill(32)  # curl leaves out a byte of zeros in front


@pytest.fixture(scope="module")
def web(net: Network, registrar: Registrar) -> Iterator[Web]:
    """nginx on the server, from the snippet that `join` wrote; curl's identity on the registrar's machine."""
    out = net.server.join(registrar.invite("web.lan"), "web", "--layout", "nginx")
    page = f'include {out}/handfast-nginx.conf; location / {{ return 200 "hello $ssl_client_s_dn\\n"; }}'
    nginx = Nginx.start(net.server, f"{net.SERVER}:443", page)
    client = net.registrar.join(registrar.invite("curl.lan", "--role", "client"), "curl")
    yield Web(net, registrar, out, nginx, client)
    nginx.process.stop()


def test_mutual_tls(web: Web) -> None:
    """With both certificates the page comes, and nginx knows who asked."""
    assert web.curl(*web.as_client(web.client)).stdout == "hello CN=curl.lan\n"


def test_no_client_certificate(web: Web) -> None:
    """Without a certificate of its own nobody gets the page."""
    assert "400" in web.curl(code=22).stderr


def test_a_server_is_no_client(web: Web) -> None:
    """A certificate of the role server does not open the door to its holder: roles do not stand in for each other."""
    server = web.net.registrar.join(web.registrar.invite("other.lan"), "other")
    assert "400" in web.curl(*web.as_client(server), code=22).stderr


def test_another_authority(web: Web) -> None:
    """Another authority's client is refused, and a client that trusts another authority refuses the server."""
    other = Registrar(web.net.registrar, f"{web.net.REGISTRAR}:8443", "--crl-listen", "127.0.0.1:0", data="other")
    stranger = web.net.registrar.join(other.invite("curl.lan", "--role", "client"), "stranger")
    other.process.stop()
    assert "400" in web.curl(*web.as_client(stranger), code=22).stderr
    distrust = web.curl(*web.as_client(web.client), "--cacert", stranger / "trust.pem", code=60)
    assert "certificate" in distrust.stderr


def test_another_name(web: Web) -> None:
    """Under a name that it was not invited for the server is refused."""
    assert "web2.lan" in web.curl(*web.as_client(web.client), name="web2.lan", code=60).stderr


def test_renewal_keeps_it_serving(web: Web) -> None:
    """While `renew --exec` reloads nginx no request fails, and soon it presents the new serial."""
    before = web.serial()
    serials, stop = [before], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            serials.append(web.serial())
            if serials[-1] != before:
                return

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        web.net.server.handfast("renew", "--out", web.out, "--exec", web.nginx.reload)
        asking.join(20)
    finally:
        stop.set()
        asking.join()
    renewed = json.loads((web.out / "identity.json").read_bytes())["serial"]
    assert renewed != before
    assert serials[-1] == renewed
    assert set(serials) == {before, renewed}


def test_P1_an_insider_in_the_middle(web: Web) -> None:
    """nginx with a joined machine's own certificate, between newcomer and registrar, is not taken for the registrar."""
    net = web.net
    insider = net.server.join(web.registrar.invite("insider.lan", "--role", "peer"), "insider")
    relay = (
        f"ssl_certificate {insider}/fullchain.pem; ssl_certificate_key {insider}/privkey.pem; ssl_protocols TLSv1.3;"
        f" location / {{ proxy_pass https://{net.REGISTRAR}:7443; proxy_ssl_protocols TLSv1.3; }}"
    )
    nginx = Nginx.start(net.server, f"{net.SERVER}:7443", relay)
    shown = net.registrar.run("curl", "-sS", "--fail", "--insecure", f"https://{net.SERVER}:7443/v1/hello").json()
    assert {"nonce", "time", "trust", "chain"} <= shown.keys(), "the relay works: it shows the registrar's own hello"
    line = web.registrar.invite("victim.lan", "--address", f"{net.SERVER}:7443")
    asked_before = sum("/v1/introductions" in text for text in web.registrar.process.lines)
    refused = net.server.handfast("join", "--out", "victim", stdin=line, code=5)
    nginx.process.stop()
    assert "peer" in refused.stderr
    assert not (net.server.directory / "victim" / "cert.pem").exists()
    assert sum("/v1/introductions" in text for text in web.registrar.process.lines) == asked_before
    assert web.registrar.show("victim.lan")["invitations"][0]["status"] == "open"
