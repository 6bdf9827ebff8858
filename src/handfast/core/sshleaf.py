"""
Issuing certificates of OpenSSH: what one is to hold, as a value, and the one function that signs it.

It is the last gate, behind policy: whatever was decided, what OpenSSH would read as more than it says is not signed.
"""

from __future__ import annotations

import re
import secrets
import struct
from dataclasses import dataclass
from datetime import UTC, datetime

from handfast.core import names
from handfast.core.sshcert import (
    CERTIFICATES,
    FOREVER,
    MAX_CERTIFICATE,
    MAX_PRINCIPALS,
    Kind,
    SshCertificate,
    check_token,
)
from handfast.core.sshdata import string
from handfast.core.sshkeys import SshKey
from handfast.core.sshoptions import MAX_COMMAND, MAX_SOURCES, UNLIMITED, Critical, Options, Permit, written
from handfast.core.sshsig import Signer, load_public
from handfast.errors import HandfastError, Malformed

SERIALS = range(1, 2**64)
"""A serial of 0 means none to OpenSSH: a certificate with it can never be revoked by it."""

EVIDENCE = "evidence@handfast"
"""Our extension: how the holder was accepted. ssh and sshd pass over it, ``ssh-keygen -L`` shows it."""

MAX_KEY_ID = 255  # characters
MAX_EVIDENCE = 255  # characters

_NONCE = 32  # bytes, as ssh-keygen has
_TOKEN = "sk-"
# sshd logs `ID <key id> (serial <n>) CA …`, ssh-keygen prints it in quotes: it must be unable to look like either.
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,:;@/_+=-]*", re.ASCII)
# One word in every file that sshd compares it with, no comment, option, pattern or negation.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:+/\\-]{0,254}\$?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class SshLeaf:
    """
    The entire content of an SSH certificate; the authority adds its key, a serial, a nonce and nothing else.

    ``principals`` are host names and addresses in lower case, or users; ``key_id`` is what sshd logs. It is valid from
    ``valid_after`` until just before ``valid_before``, aware, in whole seconds. ``critical`` and ``permits`` are for
    users only. ``evidence`` is one line on how the holder was accepted; empty, and nothing is said.
    """

    kind: Kind
    key: SshKey
    key_id: str
    principals: tuple[str, ...]
    valid_after: datetime
    valid_before: datetime
    critical: Critical = UNLIMITED
    permits: frozenset[Permit] = frozenset()
    evidence: str = ""


def evidence_of(certificate: SshCertificate) -> str:
    """Return what a certificate of ours says of how its holder was accepted; empty where it says nothing printable."""
    said = dict(certificate.extensions).get(EVIDENCE, b"").decode("utf-8", "replace")
    return said if said.isprintable() else ""


def evidence_words(said: str) -> str:
    """Return that for people: ``invitation+ssh-hostkey proved`` is ``invitation and ssh-hostkey (proved)``."""
    ways, _, grade = said.rpartition(" ")
    return f"{ways.replace('+', ' and ')} ({grade})" if ways else said or "nothing that it says"


def issue(leaf: SshLeaf, ca: Signer, *, serial: int) -> SshCertificate:
    """
    Sign it; RSA signs with ``rsa-sha2-512``. The same content gives another certificate each time, by its nonce.

    *Not* checked: possession of the key, the age of the serial, and whether ``ca`` is the authority for this kind.

    :raises Malformed: what OpenSSH would refuse, or would read as more than it says; a key that we do not certify.
    """
    _check(leaf)
    if serial not in SERIALS:
        raise Malformed(f"not a serial: {serial:#x}"[:80], hint="1 to 2^64-1")
    after, before = int(leaf.valid_after.timestamp()), int(leaf.valid_before.timestamp())
    extensions = _extensions(leaf)
    plain = leaf.key.algorithm.encode()
    # PROTOCOL.certkeys, "New public key formats".
    body = b"".join(
        [
            string(CERTIFICATES[leaf.key.algorithm].encode()),
            string(secrets.token_bytes(_NONCE)),  # before all that others choose: nobody prepares a collision
            leaf.key.blob[4 + len(plain) :],
            struct.pack(">QI", serial, leaf.kind.number),
            string(leaf.key_id.encode()),
            string(b"".join(string(each.encode()) for each in leaf.principals)),
            struct.pack(">QQ", after, before),
            string(written(leaf.critical.options())),
            string(written(extensions)),
            string(b""),  # reserved
            string(ca.public.blob),
        ]
    )
    signature = ca.signature(body)
    blob = body + string(signature)
    if len(blob) > MAX_CERTIFICATE:
        raise Malformed(f"an SSH certificate of {len(blob)} bytes, at most {MAX_CERTIFICATE}", hint="fewer principals")
    # What ``sshcert.read`` finds in it.
    return SshCertificate(
        blob,
        leaf.kind,
        leaf.key,
        serial,
        leaf.key_id,
        leaf.principals,
        datetime.fromtimestamp(after, UTC),
        datetime.fromtimestamp(before, UTC),
        leaf.critical,
        extensions,
        ca.public,
        signature,
    )


def _extensions(leaf: SshLeaf) -> Options:
    permits: Options = tuple((permit.value, b"") for permit in leaf.permits)
    said: Options = ((EVIDENCE, leaf.evidence.encode()),) if leaf.evidence else ()
    return tuple(sorted((*permits, *said)))


def _check_key(leaf: SshLeaf) -> None:
    if leaf.key.algorithm not in CERTIFICATES:
        raise Malformed(f"keys of {leaf.key.algorithm!r} are not certified here", hint="ed25519, ecdsa or rsa")
    if not leaf.key.algorithm.startswith(_TOKEN):
        load_public(leaf.key)
    elif leaf.kind is Kind.HOST:
        raise Malformed("a key in a hardware token for a host", hint="no sshd has one as host key")
    else:
        check_token(leaf.key)


def _check(leaf: SshLeaf) -> None:
    if not leaf.principals:
        raise Malformed("an SSH certificate without a principal", hint="sshd may take it for everybody: name whom")
    if len(leaf.principals) > MAX_PRINCIPALS or len(set(leaf.principals)) < len(leaf.principals):
        raise Malformed(f"{len(leaf.principals)} principals, at most {MAX_PRINCIPALS}, each once", hint="use several")
    for principal in leaf.principals:
        if leaf.kind is Kind.HOST:
            _check_host(principal)
        else:
            check_user(principal)
    _check_key(leaf)
    _check_text(leaf)
    _check_times(leaf.valid_after, leaf.valid_before)
    if leaf.kind is Kind.HOST and (leaf.critical != UNLIMITED or leaf.permits):
        raise Malformed("options of a user in a host's certificate", hint="ssh refuses a host with critical options")
    _check_critical(leaf.critical)
    if leaf.critical.verify_required and not leaf.key.algorithm.startswith(_TOKEN):
        # sshd asks it of tokens in hardware, and lets every other key pass.
        raise Malformed("'verify-required' for a key that is not in a hardware token", hint="it would have no effect")


def check_user(principal: str) -> str:
    """Return what may be a user's principal. :raises Malformed: a pattern, a list, or more than one word."""
    if not _USER.fullmatch(principal):
        raise Malformed(f"not a user's principal: {principal[:80]!r}", hint="a user's name; no pattern, no list")
    return principal


def _check_host(principal: str) -> None:
    if not is_host(principal):
        raise Malformed(
            f"not a host's principal: {principal[:80]!r}",
            hint="a name in lower case or an address; no pattern, no port",
        )


def is_host(principal: str) -> bool:
    """Whether it may be a host's principal: in lower case, no port, no pattern, and an address in its one form."""
    try:
        return str(names.ip_address(principal)) == principal
    except ValueError:
        pass
    try:
        # `10.1` is 10.0.0.1 to the C library, which ssh asks.
        return names.machine_name(principal) == principal and not principal.rpartition(".")[2].isdigit()
    except HandfastError:
        return False


def _check_text(leaf: SshLeaf) -> None:
    if not _KEY_ID.fullmatch(leaf.key_id) or len(leaf.key_id) > MAX_KEY_ID:
        raise Malformed(f"not a key id: {leaf.key_id[:80]!r}", hint="letters, digits, blanks and .,:;@/_+=-")
    if len(leaf.evidence) > MAX_EVIDENCE or (leaf.evidence and not leaf.evidence.isprintable()):
        raise Malformed(f"no line on how the holder was accepted: {leaf.evidence[:80]!r}", hint="printable text")


def _check_times(after: datetime, before: datetime) -> None:
    if after.tzinfo is None or before.tzinfo is None:
        raise Malformed("an SSH certificate's times without their zone", hint="give aware times")
    if not 0 <= int(after.timestamp()) < int(before.timestamp()) < FOREVER.timestamp():
        raise Malformed(
            f"an SSH certificate from {after} to {before}", hint="it has to begin before it ends, and to end"
        )


def _check_critical(critical: Critical) -> None:
    command, sources = critical.force_command, critical.source_address
    if command is not None and (not command.strip() or not command.isprintable() or len(command) > MAX_COMMAND):
        raise Malformed(f"no command to force: {command[:80]!r}", hint="one line of text")
    if sources is not None and not 0 < len(sources) <= MAX_SOURCES:
        raise Malformed(f"{len(sources)} source addresses", hint=f"1 to {MAX_SOURCES} networks, or no such limit")
