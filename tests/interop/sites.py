"""
A controller's machine, racks of machines that it can reach, and sites behind routers, into which there is no way.

    controller 10.75.0.1 --+             +-- rack 1   10.75.1.1, 10.75.1.2, …
                           |-- switch ---+-- rack 2   10.75.2.1, …
                           |             +-- …
                           +-- 10.75.201.1  router 1  192.168.1.1 ---- 192.168.1.2  site 1
                           +-- 10.75.202.1  router 2  192.168.1.1 ---- 192.168.1.2  site 2, which has the same numbers

Each name here is a network namespace; what joins them are virtual cables. The routers are nftables': masquerade.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.interop.hosts import Host, in_namespace, program, scratch

CONTROLLER = "10.75.0.1"
INSIDE = "192.168.1.2"
_ROUTER = """\
table ip translation {
  chain outward { type nat hook postrouting priority srcnat; oifname "outside" masquerade; }
  chain through {
    type filter hook forward priority filter; policy drop;
    iifname "inside" accept
    ct state established,related accept
    reject with icmp type admin-prohibited
  }
}
"""


@dataclass(frozen=True, slots=True)
class Site:
    """Machines behind a router, which the world knows by one address."""

    router: Host
    inside: Host
    address: str

    def readdressed(self, address: str) -> Site:
        """Give the router another address, as providers do each night: its connections are over, and no end is told."""
        self.router.run("ip", "address", "delete", f"{self.address}/16", "dev", "outside")
        self.router.run("ip", "address", "add", f"{address}/16", "dev", "outside")
        return Site(self.router, self.inside, address)


@dataclass(frozen=True, slots=True)
class Sites:
    """All of it."""

    controller: Host
    racks: list[Host]
    sites: list[Site]


def place(rack: int, number: int) -> str:
    """The address of a machine in a rack; both count from nought."""
    return f"10.75.{rack + 1}.{number + 1}"


@contextlib.contextmanager
def made(*, racks: int, each: int, sites: int) -> Iterator[Sites]:
    """Make it, with addresses for so many machines in each rack, and leave nothing of it."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())

        def machine(name: str) -> Host:
            return stack.enter_context(in_namespace(folder / name))

        switch, controller = machine("switch"), machine("controller")
        switch.run("ip", "link", "add", "bridge", "type", "bridge")
        switch.run("ip", "link", "set", "bridge", "up")

        def plugged(end: Host, name: str, port: str, *addresses: str) -> Host:
            _cable(end, name, switch, port)
            switch.run("ip", "link", "set", port, "master", "bridge")
            lines = "".join(f"address add {address}/16 dev {name}\n" for address in addresses)
            end.run("ip", "-batch", "-", stdin=lines)
            return end

        plugged(controller, "eth0", "port0", CONTROLLER)
        ours = Sites(controller, [], [])
        for rack in range(racks):
            addresses = [place(rack, number) for number in range(each)]
            ours.racks.append(plugged(machine(f"rack{rack}"), "eth0", f"rack{rack}", *addresses))
        for number in range(sites):
            address = f"10.75.{201 + number}.1"
            router = plugged(machine(f"router{number}"), "outside", f"site{number}", address)
            inside = machine(f"site{number}")
            _cable(inside, "eth0", router, "inside")
            router.run("ip", "address", "add", "192.168.1.1/24", "dev", "inside")
            inside.run("ip", "address", "add", f"{INSIDE}/24", "dev", "eth0")
            inside.run("ip", "route", "add", "default", "via", "192.168.1.1")
            router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
            router.run(program("nft"), "-f", "-", stdin=_ROUTER)
            ours.sites.append(Site(router, inside, address))
        yield ours


def _cable(one: Host, name: str, other: Host, port: str) -> None:
    ends = (name, "netns", str(one.namespace), "type", "veth", "peer", "name", port, "netns", str(other.namespace))
    subprocess.run([program("ip"), "link", "add", *ends], check=True, capture_output=True)
    one.run("ip", "link", "set", name, "up")
    other.run("ip", "link", "set", port, "up")
