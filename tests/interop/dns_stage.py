"""A signed zone on Knot, a resolver that validates (Unbound), and a user who asks it: three real programs."""

from __future__ import annotations

from pathlib import Path

from tests.interop.hosts import Done, Network, program
from tests.interop.ssh_stage import Stage

ZONE = "fleet.example"
_KNOT = """\
server:
    rundir: {here}
    listen: 10.77.1.1@53
log:
  - target: stderr
    any: info
database:
    storage: {here}/db
include: {here}/*.key
acl:
  - id: may-update
    key: [handfast, longer]
    action: update
    update-type: [SSHFP]
  - id: may-not
    key: idle
    action: update
    update-type: [TXT]
zone:
  - domain: {zone}
    storage: {here}
    file: zone
    acl: [may-update, may-not]
    dnssec-signing: on
    zonefile-sync: -1
    zonefile-load: difference
    journal-content: all
"""
_UNBOUND = """\
server:
    chroot: ""
    username: ""
    directory: "{here}"
    pidfile: ""
    use-syslog: no
    logfile: ""
    verbosity: 1
    interface: 127.0.0.1
    cache-max-ttl: 0
    cache-max-negative-ttl: 0
    trust-anchor: "{anchor}"
remote-control:
    control-enable: no
stub-zone:
    name: {zone}
    stub-addr: 10.77.1.1
"""
_AS_USER = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


class Zone:
    """The zone on the registrar's machine, and the office, whose resolver knows the zone's key."""

    def __init__(self, network: Network, stage: Stage, machines: tuple[str, ...]) -> None:
        self.stage, self.office = stage, network.office
        self.here = stage.host.directory
        self.key = self.make_key("handfast")
        self.longer = self.make_key("longer", "hmac-sha512")
        self.idle = self.make_key("idle")  # allowed other types of records
        names = "".join(f"{name} A 10.77.1.1\n" for name in machines)
        stage.host.put("zone", f"$ORIGIN {ZONE}.\n@ 300 SOA ns admin 1 60 60 9999 1\n@ NS ns\nns A 10.77.1.1\n{names}"
                       f"alias CNAME {machines[0]}\n")  # fmt: skip
        (self.here / "db").mkdir()
        conf = stage.host.put("knot.conf", _KNOT.format(here=self.here, zone=ZONE))
        self.knot = stage.host.start(program("knotd"), "-c", str(conf))
        self.knot.expect("successfully signed")
        anchor = stage.host.run(program("keymgr"), "-c", str(conf), ZONE, "ds").stdout.splitlines()[1]
        resolver = self.office.put(
            "unbound.conf", _UNBOUND.format(here=self.office.directory, anchor=anchor, zone=ZONE)
        )
        self.office.start(program("unbound"), "-d", "-c", str(resolver)).expect("start of service")
        self.trusting = self.office.put("trusting", "nameserver 127.0.0.1\noptions trust-ad edns0\n")
        self.careful = self.office.put("careful", "nameserver 127.0.0.1\noptions edns0\n")

    def make_key(self, name: str, algorithm: str = "hmac-sha256") -> Path:
        """Have Knot make a TSIG key, in a file as it prints it."""
        printed = self.stage.host.run(program("keymgr"), "-t", name, algorithm).stdout
        return self.stage.host.put(f"{name}.key", printed)

    def publish(self, *arguments: str | Path, code: int = 0, key: Path | None = None, zone: str = ZONE) -> Done:
        """Run `handfast host dns` as the operator."""
        options = ("--server", "10.77.1.1", "--zone", zone, "--key-file", key or self.key)
        return self.stage.run("handfast", "host", "dns", *arguments, *options, code=code)

    def records(self, name: str) -> set[str]:
        """Return the SSHFP records that the server has at a name of the zone."""
        asked = self.stage.host.run(program("kdig"), "+short", "+tcp", "@10.77.1.1", f"{name}.{ZONE}", "SSHFP").stdout
        return {_joined(line) for line in asked.splitlines() if line}

    def ssh(self, name: str, *options: str, resolver: Path | None = None, code: int = 0) -> Done:
        """Log in from the office with plain ssh, which knows nothing but what DNS says."""
        settled = {
            "VerifyHostKeyDNS": "yes",
            "UserKnownHostsFile": "/dev/null",
            "GlobalKnownHostsFile": "none",
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "IdentityFile": f"{self.here}/id",
        }
        given = [*options, *(f"-o{option}={value}" for option, value in settled.items())]
        ssh = (program("ssh"), "-F", "none", *given, f"{name}.{ZONE}", "echo $SSHD")
        within = ("unshare", "--mount", "sh", "-c", _AS_USER, resolver or self.trusting)
        return self.office.run(*within, *ssh, code=code)


def _joined(record: str) -> str:
    algorithm, kind, *digest = record.split()
    return f"{algorithm} {kind} {''.join(digest).lower()}"
