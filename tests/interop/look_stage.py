"""A registrar's machine with Knot as its resolver, machines behind cables, and a program that looks at them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from handfast.core.sshkeys import SshKey
from tests.interop.hosts import Host, Network, Process, program

ZONE = "fleet.example"
_KNOT = """\
server:
    rundir: {here}
    listen: [127.0.0.1@53, 10.77.1.1@53, 10.77.2.1@53]
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
"""
# Knot answers for its zone and refuses all else: one server is enough to show that, and quicker than two.
_RESOLV = "nameserver 127.0.0.1\noptions timeout:1 attempts:1 edns0\n"
WITH_DNS = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"')
_LOOK = """\
import asyncio, base64, ipaddress, json, sys
from handfast.config.reader import Reader
from handfast.config.scan import scan_settings
from handfast.core.look import Look
from handfast.core.sshkeys import from_blob
from handfast.errors import HandfastError, PolicyRefused
from handfast.policy.look import against_look, notes
from handfast.ssh.look import looker
asked = json.load(sys.stdin)
look = Look(
    tuple(asked["names"]),
    tuple(map(ipaddress.ip_address, asked["addresses"])),
    tuple(from_blob(base64.b64decode(key)) for key in asked["keys"]),
    tuple(asked["ports"]),
)
async def main():
    eyes = looker(scan_settings(Reader(asked["scan"])).guard)
    seen = await eyes.look(look)
    return {"against": against_look(look, seen), "notes": notes(look, seen)}
try:
    print(json.dumps(asyncio.run(main())))
except PolicyRefused as error:
    print(json.dumps({"refused": error.reasons, "hint": error.hint}))
"""


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of a look."""

    against: list[str]
    notes: list[str]
    refused: list[str]
    hint: str


class LookStage:
    """Looks from the registrar's machine; its names are whatever ``names`` said last."""

    ALLOW = ("10.77.0.0/16", "fd77::/16")

    def __init__(self, network: Network) -> None:
        self.network, self.host = network, network.registrar
        for number, host in enumerate((network.server, network.office), 1):
            self.host.run("ip", "-6", "address", "add", f"fd77:{number}::1/64", "dev", f"eth{number}", "nodad")
            host.run("ip", "-6", "address", "add", f"fd77:{number}::2/64", "dev", "eth0", "nodad")
        self.resolv = self.host.put("resolv.conf", _RESOLV)
        (self.host.directory / "db").mkdir()
        self._knot: Process | None = None

    def names(self, *records: str) -> None:
        """Serve exactly these records."""
        if self._knot is not None:
            self._knot.stop()
        soa = f"$ORIGIN {ZONE}.\n@ 0 SOA ns admin 1 60 60 9999 0\n@ NS ns\nns A 127.0.0.1\n"
        self.host.put("zone", soa + "".join(f"{record}\n" for record in records))
        conf = self.host.put("knot.conf", _KNOT.format(here=self.host.directory, zone=ZONE))
        self._knot = self.host.start(program("knotd"), "-c", str(conf))
        self._knot.expect(f"[{ZONE}.] loaded")

    def look(
        self,
        *addresses: str,
        keys: tuple[SshKey, ...],
        names: tuple[str, ...] = (),
        ports: tuple[int, ...] = (22,),
        allow: tuple[str, ...] = ALLOW,
    ) -> Looked:
        """Look, as a registrar with this in ``[ssh.scan]`` would."""
        asked = {
            "names": [f"{name}.{ZONE}" for name in names],
            "addresses": addresses,
            "keys": [key.base64 for key in keys],
            "ports": ports,
            "scan": {"allow": list(allow), "ports": [2222]},
        }
        command = (*WITH_DNS, self.resolv, sys.executable, "-c", _LOOK)
        found = self.host.run(*command, stdin=json.dumps(asked)).json()
        return Looked(found.get("against", []), found.get("notes", []), found.get("refused", []), found.get("hint", ""))


def answer_slowly(host: Host, address: str, *, pace: float) -> Process:
    """Listen at port 22 of an address and say a byte each ``pace`` seconds, or, with 0, nothing."""
    talk = f"[w.sendall(b'x') or time.sleep({pace}) for _ in range(10**6)]" if pace else "w.recv(1)"
    listen = f"s=socket.create_server(({address!r},22)); print('listening',flush=True)"
    code = f"import socket,time\n{listen}\nwhile 1:\n  w,_=s.accept()\n  try: {talk}\n  except OSError: pass"
    process = host.start(sys.executable, "-c", code)
    process.expect("listening")
    return process
