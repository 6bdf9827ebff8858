"""
SSHFP records (RFC 4255), put into a zone by an update (RFC 2136) that a TSIG key signs (RFC 8945).

ssh believes such a record only from a resolver that has validated it by DNSSEC, so the zone has to be signed: whoever
holds its signing key, or that of a zone above, can then say any key. Nothing here is secret; TSIG says who changes it.

TSIG has no nonce: who has recorded an update can repeat it for ``FUDGE`` (RFC 8945 §10), and what it said stands there
again until the next one.

At the names that are a machine's own, the records become exactly its keys. At names that were its own and are nobody's
now, the records of its keys go, and others stay: they are somebody else's. One message for a machine, all or nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.tsig
import dns.update

from handfast.adapters.clock import SystemClock
from handfast.adapters.files import read_private
from handfast.core.hosts import Grade, Host
from handfast.core.invitation import Address
from handfast.core.knownhosts import Sshfp, sshfp
from handfast.core.names import ip_address
from handfast.core.secret import Secret
from handfast.errors import HandfastError, Malformed, NotAuthorized, Refused, TooMuch, Unreachable, UntrustedPeer

PORT = 53
PATIENCE = 10.0  # seconds for one update, from the first packet to the last
FUDGE = 60  # seconds that clocks may differ; 300 are usual
SHORTEST_SECRET = 16  # bytes; RFC 8945 §8 asks for as many as the hash has, and generators of keys make 32
_ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512")  # whole; MD5 and SHA-1 are refused, and cut-off ones
_MAX_FILE = 4096  # bytes

_BIND = re.compile(r'key\s+"?([^\s";{}]+)"?\s*\{([^{}]*)\}\s*;?')
_BIND_PART = re.compile(r'(algorithm|secret)\s+"?([^\s";]+)"?\s*;')
_KNOT = re.compile(r"key:\s*(-\s.*)", re.DOTALL)
_KNOT_PART = re.compile(r'^\s*(?:-\s*)?(id|algorithm|secret):\s*"?([^\s"]+)"?\s*$', re.MULTILINE)
_FILE_HINT = "make it with `tsig-keygen NAME` of BIND or `keymgr -t NAME` of Knot: one key, hmac-sha256 or better"


@dataclass(frozen=True, slots=True)
class Key:
    """A TSIG key. Who holds it may change what the server lets it change."""

    name: str
    algorithm: str
    secret: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What becomes of a machine's records: ``exact`` at names of its own, ``gone`` at names that were."""

    zone: str
    ttl: int  # seconds
    exact: dict[str, tuple[Sshfp, ...]]
    gone: dict[str, tuple[Sshfp, ...]]


def parse_server(text: str) -> Address:
    """Read ``host``, ``host:port``, an IPv6 address or ``[v6]:port``. :raises Malformed: something else."""
    try:
        return Address(str(ip_address(text)), PORT)
    except ValueError:
        return Address.parse(text if ":" in text else f"{text}:{PORT}")


def read_key(path: Path) -> Key:
    """
    Read a file with one TSIG key, as BIND's ``tsig-keygen`` or Knot's ``keymgr -t`` writes it.

    :raises Malformed: not such a file. :raises Refused: too weak an algorithm, or too short a secret.
    :raises NotFound, Unsafe, TooMuch, Fault: as ``read_private``.
    """
    content = read_private(path, limit=_MAX_FILE)
    try:
        name, algorithm, secret = _parts(content.decode("utf-8"))
        dns.name.from_text(name)
        value = base64.b64decode(secret, validate=True)
    except (ValueError, dns.exception.DNSException, binascii.Error):
        raise Malformed(f"no TSIG key can be read in {str(path)!r}", hint=_FILE_HINT) from None
    weak = algorithm.lower().rstrip(".")
    if weak not in _ALGORITHMS:
        raise Refused(f"the TSIG key in {str(path)!r} is for {algorithm[:40]!r}", hint=_FILE_HINT)
    if len(value) < SHORTEST_SECRET:
        raise Refused(f"the TSIG key in {str(path)!r} has {len(value)} bytes", hint=_FILE_HINT)
    return Key(name, weak, Secret(value))


def _parts(text: str) -> tuple[str, str, str]:
    """Return name, algorithm and secret. :raises ValueError: neither form, or not exactly one of each."""
    # Only whole lines are comments: // and # begin one, and base64 may have // within.
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("#", "//"))).strip()
    if match := _BIND.fullmatch(text):
        found = [("id", match[1]), *_BIND_PART.findall(match[2])]
    elif match := _KNOT.fullmatch(text):
        found = _KNOT_PART.findall(match[1])
    else:
        raise ValueError("neither form")
    parts = dict(found)
    if len(found) != len(parts) or parts.keys() != {"id", "algorithm", "secret"}:
        raise ValueError("not one of each")
    return parts["id"], parts["algorithm"], parts["secret"]


def change(
    host: Host, *, former: Iterable[str], zone: str, ttl: int, least: Grade, remove: bool = False
) -> Change | None:
    """
    Return what to change for a machine, or None where it has, and had, no name in the zone.

    ``former`` are names that were the machine's and are nobody's now. Keys count from this grade on; with ``remove``
    none does. Keys of types without a number in DNS are left out.
    """
    keys = () if remove else host.believed(least)
    known = [*(each.key for each in host.keys), *(each.key for each in host.retired)]
    own = [name for name in host.place.names if _within(name, zone)]
    gone = [name for name in sorted(set(former) - set(own)) if _within(name, zone)]
    if not own and not gone:
        return None
    records = tuple(dict.fromkeys(record for key in keys if (record := sshfp(key)) is not None))
    old = tuple(dict.fromkeys(record for key in known if (record := sshfp(key)) is not None))
    return Change(zone=zone, ttl=ttl, exact=dict.fromkeys(own, records), gone=dict.fromkeys(gone, old))


def _within(name: str, zone: str) -> bool:
    return name == zone or name.endswith(f".{zone}")


def update(server: Address, key: Key, wanted: Change, *, patience: float = PATIENCE) -> None:
    """
    Have the zone's primary server make the change, over TCP, and return when it says, signed, that it has.

    *Not* checked: that the zone is signed, and when secondary servers and caches follow.

    :raises Refused: the server's no, in words. :raises Unreachable: no answer in ``patience`` seconds.
    :raises UntrustedPeer: an answer that the key does not prove. :raises Malformed: no answer to what was asked.
    :raises TooMuch: over 64 KiB of records.
    """
    message = _message(wanted, key)
    where = f"{server.host}:{server.port}"
    try:
        answer = _exchange(server, message, patience)
    except dns.tsig.PeerError as error:
        raise _rejected(where, key, error) from None
    except (dns.tsig.BadSignature, dns.tsig.BadTime, dns.tsig.BadKey, dns.tsig.BadAlgorithm):
        raise UntrustedPeer(
            f"the answer of {where} is not signed with the key {key.name!r}",
            hint="somebody may sit in between; look at the zone before you run this again",
        ) from None
    except (dns.exception.Timeout, TimeoutError):
        late = f"{where} does not answer within {patience:g} s"
        raise Unreachable(late, hint="is it the zone's primary server, and TCP open from here?") from None
    except dns.exception.TooBig:
        much = f"the records of {len(wanted.exact) + len(wanted.gone)} names do not fit into one message"
        raise TooMuch(much, hint="give the machine fewer names in this zone") from None
    except (dns.exception.DNSException, ValueError):
        raise Malformed(f"{where} does not answer as a DNS server", hint="is it the zone's primary?") from None
    except (OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Unreachable(f"cannot reach {where}: {reason}", hint="is it up, and TCP open from here?") from None
    if answer.rcode() != dns.rcode.NOERROR:
        raise _refused(where, key, wanted, answer.rcode())


def _message(wanted: Change, key: Key) -> dns.update.UpdateMessage:
    # dnspython's repr of a key shows the secret, so it lives here and in the message alone, and neither is printed
    ring = dns.tsig.Key(dns.name.from_text(key.name), key.secret.reveal(), key.algorithm)
    message = dns.update.UpdateMessage(dns.name.from_text(wanted.zone))
    message.use_tsig(ring, fudge=FUDGE)
    for name, records in wanted.exact.items():
        owner = dns.name.from_text(name)
        # A server passes over what is added beside an alias without a word (RFC 2136 §3.4.2.2).
        message.absent(owner, dns.rdatatype.CNAME)
        message.delete(owner, dns.rdatatype.SSHFP)
        if records:
            message.add(owner, dns.rdataset.from_rdata_list(wanted.ttl, [_rdata(each) for each in records]))
    for name, records in wanted.gone.items():
        for each in records:
            message.delete(dns.name.from_text(name), _rdata(each))
    return message


def _rdata(record: Sshfp) -> dns.rdata.Rdata:
    return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.SSHFP, str(record))


def _exchange(server: Address, message: dns.update.UpdateMessage, patience: float) -> dns.message.Message:
    end = SystemClock().now().timestamp() + patience  # the library's own measure
    with socket.create_connection((server.host, server.port), timeout=patience) as connection:
        connection.setblocking(False)
        dns.query.send_tcp(connection, message, end)
        said, _ = dns.query.receive_tcp(connection, end, keyring=False)  # type: ignore[arg-type]  # not looked at yet
    if not message.is_response(said):
        raise dns.exception.FormError
    if said.rcode() != dns.rcode.NOERROR and not said.had_tsig:
        return said  # a no is believed of anybody: whoever could forge it could as well let nothing through
    if not said.had_tsig:
        raise dns.tsig.BadSignature
    return dns.message.from_wire(said.wire or b"", keyring=message.keyring, request_mac=message.mac)


def _rejected(where: str, key: Key, error: dns.tsig.PeerError) -> HandfastError:
    """Return what a server says about our signature (RFC 8945 §5.2)."""
    if isinstance(error, dns.tsig.PeerBadTime):
        return Refused(
            f"the clocks of {where} and of this machine differ by more than {FUDGE} s (BADTIME)",
            hint="set both by NTP",
        )
    if isinstance(error, dns.tsig.PeerBadKey):
        known = f"{where} does not know the TSIG key {key.name!r} with {key.algorithm}, or not for this (BADKEY)"
        return NotAuthorized(
            known, hint="its configuration has to have the key as this file has it, and to allow it updates of the zone"
        )
    if isinstance(error, dns.tsig.PeerBadSignature):
        return NotAuthorized(
            f"{where} has another secret under the name {key.name!r} (BADSIG)",
            hint="copy its key file again",
        )
    return NotAuthorized(f"{where} does not accept the signature of {key.name!r}: {error}", hint=_FILE_HINT)


def _refused(where: str, key: Key, wanted: Change, code: dns.rcode.Rcode) -> HandfastError:
    """Return what a server's no means (RFC 2136 §2.2)."""
    zone, names = wanted.zone, ", ".join([*wanted.exact, *wanted.gone])
    said = dns.rcode.to_text(code)
    if code == dns.rcode.REFUSED:
        return NotAuthorized(
            f"{where} does not let the key {key.name!r} change {zone!r} (REFUSED)",
            hint=f"allow it updates there, of SSHFP at {names}: acl in Knot, update-policy in BIND",
        )
    if code in {dns.rcode.NOTAUTH, dns.rcode.NOTZONE}:
        return Refused(
            f"{where} is not the primary server of a zone {zone!r} with {names} ({said})",
            hint="give the zone's exact name, and the server that its SOA record names",
        )
    if code == dns.rcode.YXRRSET:
        return Refused(
            f"an alias (CNAME) stands at one of {names} ({said})",
            hint="register the machine under the name that the alias leads to",
        )
    if code in {dns.rcode.NXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN}:
        return Refused(
            f"{zone!r} is not as {where} expects it to be ({said})", hint="was it changed meanwhile? try again"
        )
    if code in {dns.rcode.NOTIMP, dns.rcode.FORMERR}:
        return Refused(f"{where} does not take updates ({said})", hint="give the zone's primary server")
    return Refused(f"{where} could not change {zone!r} ({said})", hint="its own log says why")
