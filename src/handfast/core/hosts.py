"""
Machines as SSH sees them: which host keys they have, how each became known, and where they are reached.

A machine is what its name says, never its address: an address may be another machine's tomorrow. What is kept of it is
what somebody entitled to it said, and each key carries how it became known, with a grade.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum, StrEnum

from handfast.core.names import IPAddress, dns_name, ip_address, machine_name
from handfast.core.sshkeys import PROVABLE, SshKey
from handfast.errors import Malformed

SSH_PORT = 22
MAX_RETIRED = 64  # keys of one machine that a refusal can still explain; the log has them all
MAX_PLACES = 64  # names, addresses and aliases of one machine, and ports
MAX_VOUCHED = 4  # keys of one machine that rest upon its others alone: a thief of one fills no more of what it may have
REMOVED = "removed"
"""Why the keys of a machine that is gone were retired, where its operator says no more: nothing is wrong with them."""


class Grade(IntEnum):
    """How good a reason is to believe that a key is the machine's. What follows says what an attacker needs."""

    SEEN = 1
    """To sit between the machine and whoever looked, at that moment."""
    CHALLENGED = 2
    """To answer for every address at two moments, from wherever we looked: the key also signed what was asked of it."""
    REPORTED = 3
    """To write where the report came from: a console log, the cloud's own channel, a one-time address, an operator."""
    PROVED = 4
    """The host's private key, and what introduced the machine: the key signed for this very introduction."""


class How(StrEnum):
    """How a host key became known."""

    INVITATION = "invitation"
    RENEWAL = "renewal"
    REINTRODUCTION = "reintroduction"
    BUCKET = "bucket"
    PHONE_HOME = "phone-home"
    CONSOLE = "console"
    GUEST_ATTRIBUTES = "guest-attributes"
    OPERATOR = "operator"
    HOSTKEYS_PROVE = "hostkeys-prove"
    SSH_HOSTKEY = "ssh-hostkey"
    X5C = "x5c"
    SCAN = "scan"

    @property
    def grade(self) -> Grade:
        """What it is worth."""
        return _GRADES[self]

    @property
    def possession(self) -> bool:
        """Whether the host key itself signed, for what introduced the machine."""
        return self in {How.INVITATION, How.RENEWAL, How.REINTRODUCTION, How.BUCKET, How.X5C}

    @property
    def momentary(self) -> bool:
        """Whether it shows who held a name at one moment. That may be somebody else today: it has to be repeated."""
        return self in {How.SSH_HOSTKEY, How.X5C}

    @property
    def words(self) -> str:
        """For people: ``how it became known: …``."""
        return _WORDS[self]


_GRADES = {
    How.INVITATION: Grade.PROVED,
    How.RENEWAL: Grade.PROVED,
    How.REINTRODUCTION: Grade.PROVED,
    How.BUCKET: Grade.PROVED,
    How.PHONE_HOME: Grade.REPORTED,
    How.CONSOLE: Grade.REPORTED,
    How.GUEST_ATTRIBUTES: Grade.REPORTED,
    How.OPERATOR: Grade.REPORTED,
    How.HOSTKEYS_PROVE: Grade.PROVED,
    How.SSH_HOSTKEY: Grade.CHALLENGED,
    How.X5C: Grade.PROVED,
    How.SCAN: Grade.SEEN,
}
_WORDS = {
    How.INVITATION: "the key signed when the machine joined with an invitation",
    How.RENEWAL: "the key signed when the machine renewed its credential",
    How.REINTRODUCTION: "the key signed when the machine came back after its credential had expired",
    How.BUCKET: "the key signed what the machine uploaded to a one-time address, and so did its one-time key",
    How.PHONE_HOME: "the machine reported it at its first boot, to a one-time address",
    How.CONSOLE: "it stood in the machine's console log",
    How.GUEST_ATTRIBUTES: "the cloud's guest attributes had it",
    How.OPERATOR: "an operator entered it",
    How.HOSTKEYS_PROVE: "the machine proved it over a connection authenticated with a known key",
    How.SSH_HOSTKEY: "the key answered twice at the machine's addresses, and signed what the registrar asked of it",
    How.X5C: "the key signed when the machine joined with a certificate of another authority",
    How.SCAN: "it was seen on the network, and nothing vouches for it",
}


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where and as what a machine is reached. All of it is an operator's word, or within one.

    ``names`` are DNS names, ``aliases`` what people call it in ssh's configuration. Build one with ``parse``.
    """

    names: tuple[str, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    aliases: tuple[str, ...] = ()
    ports: tuple[int, ...] = (SSH_PORT,)

    @classmethod
    def parse(
        cls,
        places: tuple[str, ...] | list[str],
        *,
        aliases: tuple[str, ...] | list[str] = (),
        ports: tuple[int, ...] = (),
    ) -> Place:
        """
        Read names and addresses as a person writes them.

        :raises Malformed: one that is neither, an alias that is no word, a port that is none, or too many of them.
        """
        names: set[str] = set()
        addresses: set[IPAddress] = set()
        for text in places:
            try:
                address = ip_address(text)
                # One that is mapped into IPv6 is asked for as what it is; versions of Python write it in two ways.
                addresses.add(getattr(address, "ipv4_mapped", None) or address)
            except ValueError:
                names.add(dns_name(text))
        if max(len(names) + len(addresses) + len(aliases), len(ports)) > MAX_PLACES:
            raise Malformed(f"over {MAX_PLACES} names, addresses and aliases", hint="use several machines")
        for port in ports:
            if not 0 < port < 65536:
                raise Malformed(f"not a port: {port}", hint="1 to 65535")
        return cls(
            tuple(sorted(names)),
            tuple(sorted(addresses, key=lambda ip: (ip.version, int(ip)))),
            tuple(sorted({machine_name(alias) for alias in aliases})),
            tuple(sorted(set(ports))) or (SSH_PORT,),
        )

    def hosts(self) -> tuple[str, ...]:
        """Return aliases, names and addresses as text."""
        return (*self.aliases, *self.names, *map(str, self.addresses))

    def spellings(self, machine: str) -> tuple[str, ...]:
        """
        Return everything ssh may look for, as known_hosts has it: ``host`` for port 22, ``[host]:port`` for another.

        The machine's own name is there bare, whatever its ports: it is what we set as HostKeyAlias.
        """
        hosts = tuple(dict.fromkeys((machine, *self.hosts())))
        return tuple(dict.fromkeys((machine, *(spelling(host, port) for port in self.ports for host in hosts))))


def spelling(host: str, port: int) -> str:
    """Return how known_hosts spells a host at a port (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return host if port == SSH_PORT else f"[{host}]:{port}"


def unspelled(text: str) -> str:
    """Return the host of what ``spelling`` wrote."""
    return text[1:].rpartition("]:")[0] if text.startswith("[") else text


@dataclass(frozen=True, slots=True)
class HostKey:
    """
    One key of a machine, as it became known one way; another way is another value.

    ``detail`` is one line for people: which invitation, which operator, scanned from where.
    """

    key: SshKey
    how: How
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RetiredKey:
    """A key that was the machine's, and must not be believed any more."""

    key: SshKey
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Host:
    """A machine with its current host keys, and those that it had. One that was removed has no keys and no place."""

    machine: str
    place: Place
    keys: tuple[HostKey, ...]
    retired: tuple[RetiredKey, ...] = ()

    @property
    def lives(self) -> bool:
        """Whether it has a key or a place; one that was removed has neither, and leaves its name to others."""
        return bool(self.keys) or self.place != Place()

    @property
    def bereft(self) -> bool:
        """Whether it lives on without a key, and had some: whoever comes with the next ones may be their thief."""
        return self.lives and bool(self.retired) and not self.keys

    @property
    def current(self) -> frozenset[SshKey]:
        """Its keys, however well they are known, each once."""
        return frozenset(each.key for each in self.keys)

    @property
    def grade(self) -> Grade | None:
        """The best that is known of any of its keys; None without keys."""
        return max((each.how.grade for each in self.keys), default=None)

    @property
    def vouched(self) -> frozenset[SshKey]:
        """
        The keys that rest upon others of the machine: each became known by hostkeys-prove first.

        Whoever stole the key that vouched for one can have it proved in further ways, of which most say only that he
        holds it too; an operator's word and his invitation say more.
        """
        first: dict[SshKey, How] = {}
        for each in sorted(self.keys, key=lambda each: (each.at, each.how is not How.HOSTKEYS_PROVE)):
            first.setdefault(each.key, each.how)
        said = {each.key for each in self.keys if each.how in _OPERATORS_WORD}
        return frozenset(key for key, how in first.items() if how is How.HOSTKEYS_PROVE) - said

    def believed(self, least: Grade) -> tuple[SshKey, ...]:
        """Return the keys known at least this well, each once, in a steady order."""
        return tuple(sorted({each.key for each in self.keys if each.how.grade >= least}))


_OPERATORS_WORD = frozenset({How.OPERATOR, How.INVITATION})
_SAME_MACHINE = frozenset({How.RENEWAL, How.REINTRODUCTION})  # as it was before


# --- how a machine changes: the same functions make the ledger's rows, and make them again for its audit ---


def described(host: Host | None, machine: str, place: Place) -> Host:
    """Return the machine at another place; a new one has no keys yet."""
    return Host(machine, place, ()) if host is None else replace(host, place=place)


def placed(host: Host | None, place: Place, how: How) -> Place:
    """
    Return where a machine is reached, once somebody has said ``place``.

    An operator says it whole, with all that he left. Others say what they know: where they say nothing of names,
    addresses, aliases or ports, those that are known stay; except for what the network alone has said, once better
    evidence comes: it would pass for that.
    """
    if host is None or how in {How.OPERATOR, How.CONSOLE, How.GUEST_ATTRIBUTES}:
        return place
    if host.grade is Grade.CHALLENGED and how.grade > Grade.CHALLENGED:
        return place
    before = host.place
    ports = place.ports if place.ports != Place().ports else before.ports
    return Place(
        place.names or before.names, place.addresses or before.addresses, place.aliases or before.aliases, ports
    )


def with_key(host: Host | None, machine: str, key: HostKey) -> Host:
    """Return the machine with one more key, or one more or newer reason to believe one; it is not retired any more."""
    known = host or Host(machine, Place(), ())
    retired = tuple(each for each in known.retired if each.key != key.key)
    others = (each for each in known.keys if (each.key, each.how) != (key.key, key.how))
    return replace(known, keys=tuple(sorted((*others, key), key=_order)), retired=retired)


def without_key(host: Host, gone: RetiredKey) -> Host:
    """Return the machine without a key, whatever the reasons to believe it were."""
    keys = tuple(each for each in host.keys if each.key != gone.key)
    return replace(host, keys=keys, retired=(*host.retired, gone)[-MAX_RETIRED:])


def superseded(host: Host | None, keys: Iterable[SshKey], how: How) -> tuple[SshKey, ...]:
    """
    Return which of its keys a complete set of others retires.

    A machine that renews is still the same, and can only prove what can sign for itself: of a key of another type it
    has said nothing.
    """
    known = host.current if host is not None else frozenset()
    gone = sorted(known - set(keys))
    return tuple(key for key in gone if how not in _SAME_MACHINE or key.algorithm in PROVABLE)


def without_hosts(place: Place, hosts: frozenset[str]) -> Place:
    """Return a place without these names, addresses and aliases."""
    return Place(
        tuple(name for name in place.names if name not in hosts),
        tuple(address for address in place.addresses if str(address) not in hosts),
        tuple(alias for alias in place.aliases if alias not in hosts),
        place.ports,
    )


def shared_hosts(machine: str, place: Place, reached: Iterable[tuple[str, str]]) -> frozenset[str]:
    """
    Return those of a machine's hosts that it must not be called in a certificate.

    Principals have no ports (PROTOCOL.certkeys): ssh takes a certificate for ``gw`` at each of them, and first of all
    at 22. So a host is the machine's that is reached there at port 22; where none is, of the only one that is reached
    there at all. ``reached`` are the spellings of living machines, each with whose it is.
    """
    others = {unspelled(each) for each, owner in reached if owner != machine}
    own = {machine} if SSH_PORT not in place.ports else {machine, *place.hosts()}
    return frozenset(others & set(place.hosts()) - own)


def _order(key: HostKey) -> tuple[SshKey, datetime, str]:
    return key.key, key.at, key.how
