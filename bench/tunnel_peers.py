"""The tunnels that are compared, each both its ends, with the same kind of keys, chains and checks."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from handfast.server import session


@dataclass
class Tunnel:
    """Both ends, running; ``port`` is the near one's."""

    name: str
    port: int
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def pids(self) -> list[int]:
        """Of both ends."""
        return [each.pid for each in self.running]

    def close(self) -> None:
        """End both."""
        for each in self.running:
            each.terminate()
            each.wait()


def service(scratch: Path) -> Tunnel:
    """Start what lies behind all of them: no tunnel, the limit."""
    port = free_port()
    return _started(
        "no tunnel", port, [[sys.executable, str(Path(__file__).with_name("tunnel_load.py")), str(port)]], []
    )


def handfast(scratch: Path, to: int) -> Tunnel:
    """Both commands, as anybody would run them."""
    near, far = free_port(), free_port()
    session.new("bench", scratch / "D", lifetime=timedelta(days=1))
    for who in ("server", "client"):
        session.export(scratch / "D", who, scratch / f"{who}.session")
    ours = [sys.executable, "-m", "handfast", "session"]
    return _started(
        "handfast",
        near,
        [
            [
                *ours,
                "serve",
                *(f"--session={scratch}/server.session", f"--listen=127.0.0.1:{far}", f"--to=127.0.0.1:{to}"),
            ],
            [*ours, "connect", f"127.0.0.1:{far}", f"--session={scratch}/client.session", f"--local=127.0.0.1:{near}"],
        ],
        [far, near],
    )


def stunnel(scratch: Path, to: int) -> Tunnel:
    """Debian's stunnel4; without resumption, as all of them here."""
    near, far = free_port(), free_port()

    def configuration(who: str, accept: int, connect: int) -> list[str]:
        text = f"""foreground = quiet
            pid =
            debug = 0
            socket = l:TCP_NODELAY=1
            socket = r:TCP_NODELAY=1
            [bench]
            client = {"yes" if who == "client" else "no"}
            accept = 127.0.0.1:{accept}
            connect = 127.0.0.1:{connect}
            cert = {scratch}/{who}.crt
            key = {scratch}/{who}.key
            CAfile = {scratch}/root.crt
            verifyChain = yes
            sslVersion = TLSv1.3
            sessionResume = no
            """
        path = scratch / f"stunnel-{who}.conf"
        path.write_text("\n".join(line.strip() for line in text.splitlines()) + "\n")
        return ["stunnel4", str(path)]

    commands = [configuration("server", far, to), configuration("client", near, far)]
    return _started("stunnel4", near, commands, [far, near])


def ghostunnel(scratch: Path, to: int) -> Tunnel:
    """Go's; it has no resumption for lack of a cache."""
    near, far = free_port(), free_port()

    def command(who: str, listen: int, target: str) -> list[str]:
        files = [f"--cert={scratch}/{who}.crt", f"--key={scratch}/{who}.key", f"--cacert={scratch}/root.crt"]
        more = ["--allow-all"] if who == "server" else []
        return ["ghostunnel", who, "--listen", f"127.0.0.1:{listen}", "--target", target, "--quiet=all", *files, *more]

    commands = [command("server", far, f"127.0.0.1:{to}"), command("client", near, f"localhost:{far}")]
    return _started("ghostunnel", near, commands, [far, near])


def nginx(scratch: Path, to: int) -> Tunnel:
    """nginx's stream module at both ends."""
    near, far = free_port(), free_port()
    server = f"""listen 127.0.0.1:{far} ssl; proxy_pass 127.0.0.1:{to}; ssl_protocols TLSv1.3;
        ssl_certificate {scratch}/server.crt; ssl_certificate_key {scratch}/server.key;
        ssl_client_certificate {scratch}/root.crt; ssl_verify_client on; ssl_verify_depth 2; ssl_session_tickets off;"""
    client = f"""listen 127.0.0.1:{near}; proxy_pass 127.0.0.1:{far}; proxy_ssl on; proxy_ssl_protocols TLSv1.3;
        proxy_ssl_certificate {scratch}/client.crt; proxy_ssl_certificate_key {scratch}/client.key;
        proxy_ssl_trusted_certificate {scratch}/root.crt; proxy_ssl_verify on; proxy_ssl_verify_depth 2;
        proxy_ssl_name localhost; proxy_ssl_session_reuse off;"""
    commands = [_nginx(scratch, "tls-server", server), _nginx(scratch, "tls-client", client)]
    return _started("nginx stream", near, commands, [far, near])


def bare(scratch: Path, to: int) -> Tunnel:
    """The same two processes without TLS: what two hops cost by themselves."""
    near, far = free_port(), free_port()
    commands = [
        _nginx(scratch, "bare-server", f"listen 127.0.0.1:{far}; proxy_pass 127.0.0.1:{to};"),
        _nginx(scratch, "bare-client", f"listen 127.0.0.1:{near}; proxy_pass 127.0.0.1:{far};"),
    ]
    return _started("bare TCP proxy", near, commands, [far, near])


def _nginx(scratch: Path, name: str, server: str) -> list[str]:
    modules = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    load = f"load_module {modules};" if modules.exists() else ""
    path = scratch / f"{name}.conf"
    path.write_text(
        f"""{load} daemon off; worker_processes auto; pid {scratch}/{name}.pid; error_log /dev/null;
        events {{ worker_connections 4096; }}
        stream {{ server {{ {server} }} }}"""
    )
    return ["nginx", "-p", str(scratch), "-c", str(path)]


def available() -> list[Callable[[Path, int], Tunnel]]:
    """Return those that can be started here, ours first; says which cannot."""
    wanted = {bare: "nginx", nginx: "nginx", ghostunnel: "ghostunnel", stunnel: "stunnel4"}
    found: list[Callable[[Path, int], Tunnel]] = [handfast]
    for start, program in reversed(wanted.items()):
        if shutil.which(program):
            found.append(start)
        else:
            print(f"not compared, for it is not installed: {program}", file=sys.stderr)
    return found


def authority(scratch: Path) -> None:
    """Write root.crt and, for a server and a client, NAME.crt (with the issuing CA) and NAME.key."""
    root, root_key = _certificate("root", None, None)
    issuing, issuing_key = _certificate("issuing", root, root_key)
    (scratch / "root.crt").write_bytes(root.public_bytes(Encoding.PEM))
    for name, usage in (("server", ExtendedKeyUsageOID.SERVER_AUTH), ("client", ExtendedKeyUsageOID.CLIENT_AUTH)):
        leaf, key = _certificate(name, issuing, issuing_key, usage)
        (scratch / f"{name}.crt").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in (leaf, issuing)))
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (scratch / f"{name}.key").write_bytes(pem)


def _certificate(
    name: str,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey | None,
    usage: x509.ObjectIdentifier | None = None,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer_key or key
    builder = (
        x509.CertificateBuilder(issuer.subject if issuer else subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=usage is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return builder.sign(signer, hashes.SHA256()), key


def free_port() -> int:
    """Return a port that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _started(name: str, port: int, commands: list[list[str]], ports: list[int]) -> Tunnel:
    tunnel = Tunnel(name, port)
    for command, wanted in zip(commands, ports or [port], strict=True):
        silent = subprocess.DEVNULL
        tunnel.running.append(subprocess.Popen(command, stdin=silent, stdout=silent, stderr=silent))
        _wait(wanted, name)
    return tunnel


def _wait(port: int, name: str) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise SystemExit(f"{name} did not start") from None
            time.sleep(0.05)
