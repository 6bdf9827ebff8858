"""Another authority, met over ACME: Debian's pebble, Knot with the names that it asks for, and lego, which asks it."""

from __future__ import annotations

from pathlib import Path

from tests.interop.hosts import Done, Host, Network, program

ZONE = "fleet.example"
_KNOT = """\
server:
    rundir: {here}
    listen: {address}@53
log:
  - target: stderr
    any: info
database:
    storage: {here}/db
zone:
  - domain: {zone}
    storage: {here}
    file: zone
    zonefile-sync: -1
    journal-content: none
"""
_PEBBLE = """\
{{"pebble": {{"listenAddress": "{address}:14000", "managementListenAddress": "127.0.0.1:15000",
"certificate": "{here}/pebble.pem", "privateKey": "{here}/pebble.key", "httpPort": 80, "tlsPort": 443,
"ocspResponderURL": "", "externalAccountBindingRequired": false}}}}
"""
# Pebble is unfriendly to its clients by design. Here it is not a client that is tested.
_FRIENDLY = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}


class Acme:
    """Pebble and Knot on the registrar's machine. ``records`` are lines of the zone."""

    def __init__(self, network: Network, *records: str) -> None:
        self.host, self.address = network.registrar, network.REGISTRAR
        here = self.host.directory
        (here / "db").mkdir()
        lines = [f"$ORIGIN {ZONE}.", "@ 300 SOA ns admin 1 60 60 9999 1", "@ NS ns", f"ns A {self.address}", *records]
        self.host.put("zone", "\n".join([*lines, ""]))
        conf = self.host.put("knot.conf", _KNOT.format(here=here, address=self.address, zone=ZONE))
        self.host.start(program("knotd"), "-c", str(conf)).expect("loaded, serial")
        names = f"subjectAltName=IP:{self.address}"
        self.host.run(
            program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", "pebble.key", "-out", "pebble.pem", "-days", "30", "-subj", "/CN=pebble", "-addext", names,
        )  # fmt: skip
        conf = self.host.put("pebble.json", _PEBBLE.format(here=here, address=self.address))
        pebble = (program("pebble"), "-config", str(conf), "-dnsserver", f"{self.address}:53")
        self.host.start(*pebble, env=_FRIENDLY).expect("ACME directory available")
        root = self.host.run(program("curl"), "-sk", "https://127.0.0.1:15000/roots/0").stdout
        self.root = self.host.put("their-root.pem", root)

    def certificate(self, host: Host, *names: str, code: int = 0) -> tuple[Path, Path]:
        """Get a certificate for these names on a host that DNS leads to, and return its path and that of its key."""
        asked = [part for name in names for part in ("--domains", name)]
        client = host.start(
            program("lego"), "--server", f"https://{self.address}:14000/dir", "--accept-tos", "--email", "a@b.example",
            *asked, "--path", str(host.directory / "lego"), "--http", "run",
            env={"LEGO_CA_CERTIFICATES": str(self.host.directory / "pebble.pem")},
        )  # fmt: skip
        if not code:
            client.expect("Server responded with a certificate")
        assert client.wait() == code, str(client)
        made = host.directory / "lego" / "certificates"
        return made / f"{names[0]}.crt", made / f"{names[0]}.key"


class User:
    """A user on the registrar's machine, who has the registrar's CA line for host keys, and what Knot says."""

    _AS_USER = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'

    def __init__(self, network: Network, identity: Path, ca_line: str) -> None:
        self.host, self._identity = network.registrar, identity
        self._resolver = self.host.put("resolv", f"nameserver {network.REGISTRAR}\n")
        self._known = self.host.put("known_hosts", ca_line)

    def ssh(self, name: str, *options: str, code: int = 0) -> Done:
        """Log in with plain ssh, and with nothing but the CA line to know a host by."""
        settled = {
            "UserKnownHostsFile": str(self._known),
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "IdentityFile": str(self._identity),
        }
        given = [*options, *(f"-o{option}={value}" for option, value in settled.items())]
        within = ("unshare", "--mount", "sh", "-c", self._AS_USER, self._resolver)
        return self.host.run(*within, program("ssh"), "-F", "none", *given, name, "echo $SSHD", code=code)
