"""
Certificates of OpenSSH (PROTOCOL.certkeys): an authority's word that a key is a host's, or may log in as somebody.

What they leave open is closed here. OpenSSH, up to some version, takes an empty list of principals for everybody, and
from some version a ``*`` in a host's for a pattern, so neither is issued and neither is believed. ssh refuses every
host certificate with a critical option, so what is to be said of a host is an extension, which it passes over.

*Not* known here: whether a certificate was revoked (``core.krl``).
"""

from __future__ import annotations

import base64
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from handfast.core import sshkeys, sshsig
from handfast.core.names import IPAddress, IPNetwork
from handfast.core.randomart import kind as called
from handfast.core.sshdata import Reader, string, strings
from handfast.core.sshkeys import CERTIFICATE_SUFFIX, SshKey
from handfast.core.sshoptions import UNLIMITED, Critical, Options, read_critical, read_options
from handfast.core.sshsig import load_public
from handfast.errors import EvidenceRejected, HandfastError, Malformed

MAX_CERTIFICATE = 32 * 1024  # bytes; it has to fit a packet of SSH's handshake, 35,000 (RFC 4253 §6.1)
MAX_PRINCIPALS = 256  # OpenSSH's own limit
FOREVER = datetime.max.replace(tzinfo=UTC, microsecond=0)
"""Stands for every end that no calendar has; OpenSSH writes one that never comes as 2^64-1 seconds."""

_NONCE = range(16, 64 + 1)  # bytes; what keeps anybody from having us sign a collision that he has prepared
# Algorithm of a certificate -> that of its key, and of how many strings the key consists behind its name.
_KEYS = {
    **{
        name + CERTIFICATE_SUFFIX: (name, fields)
        for name, fields in {
            "ssh-ed25519": 1,
            "ssh-rsa": 2,
            "ecdsa-sha2-nistp256": 2,
            "ecdsa-sha2-nistp384": 2,
            "ecdsa-sha2-nistp521": 2,
        }.items()
    },
    "sk-ssh-ed25519-cert-v01@openssh.com": ("sk-ssh-ed25519@openssh.com", 2),
    "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com": ("sk-ecdsa-sha2-nistp256@openssh.com", 3),
}
CERTIFICATES = {plain: certificate for certificate, (plain, _) in _KEYS.items()}
"""Algorithm of a key -> that of a certificate for it."""

_SIGNING = frozenset(CERTIFICATES) - {"ssh-rsa"} | {"rsa-sha2-256", "rsa-sha2-512"}
_WHAT = "the SSH certificate"
_HINT = "it looks like `ssh-ed25519-cert-v01@openssh.com AAAA...`, as in /etc/ssh/ssh_host_ed25519_key-cert.pub"
_ISSUER = "its authority is at fault"


class Kind(StrEnum):
    """Whom a certificate is for."""

    USER = "user"
    HOST = "host"

    @property
    def number(self) -> int:
        """As it stands in a certificate."""
        return 1 if self is Kind.USER else 2


@dataclass(frozen=True, slots=True)
class SshCertificate:
    """
    A certificate as it was read from ``blob``; nothing in it is believed before ``verify``.

    Names stand as they are in it. It is valid from ``valid_after`` until just before ``valid_before``, both whole
    seconds, UTC. ``extensions`` are names and what stands behind each. A ``serial`` of 0 is none.
    """

    blob: bytes
    kind: Kind
    key: SshKey
    serial: int
    key_id: str
    principals: tuple[str, ...]
    valid_after: datetime
    valid_before: datetime
    critical: Critical
    extensions: Options
    authority: SshKey
    signature: bytes

    @property
    def algorithm(self) -> str:
        """The certificate's own, such as ``ssh-ed25519-cert-v01@openssh.com``."""
        return Reader(self.blob, what=_WHAT).string().decode("ascii")

    @property
    def signed(self) -> bytes:
        """What the authority has signed: all that is before the signature."""
        return self.blob[: -4 - len(self.signature)]

    @property
    def signed_with(self) -> str:
        """The signature's algorithm, by its own word."""
        return Reader(self.signature, what=_WHAT).string()[:64].decode("ascii", "replace")

    def __str__(self) -> str:
        return f"{self.algorithm} {base64.b64encode(self.blob).decode('ascii')}"


def parse(line: str) -> SshCertificate:
    """Read a line such as ``ssh-ed25519-cert-v01@openssh.com AAAA… comment``. :raises Malformed: as ``read``."""
    parts = line.split(None, 2)
    try:
        found = read(base64.b64decode(parts[1], validate=True))
    except (IndexError, ValueError):
        raise Malformed(f"not an SSH certificate: {line[:60]!r}", hint=_HINT) from None
    if found.algorithm != parts[0]:
        raise Malformed(f"the line says {parts[0][:64]!r}, the certificate in it {found.algorithm!r}", hint=_HINT)
    return found


def read(blob: bytes) -> SshCertificate:
    """
    Read a certificate of any authority in its wire form.

    One that has two forms, or two readings, is refused, and so is what sshd would refuse: a critical option that we do
    not know. *Not* checked: its signature, and with it anything that it says.

    :raises Malformed: not one, of a type or key that we do not know, too long, or not in its one form.
    """
    if len(blob) > MAX_CERTIFICATE:
        raise Malformed(f"an SSH certificate of {len(blob)} bytes, at most {MAX_CERTIFICATE} are read", hint=_HINT)
    reader = Reader(blob, what=_WHAT)
    algorithm = reader.string()[:64].decode("ascii", "replace")
    if algorithm not in _KEYS:
        raise Malformed(f"not an SSH certificate of a type that we know: {algorithm!r}", hint=_HINT)
    if (size := len(reader.string())) not in _NONCE:
        raise Malformed(f"{_WHAT} has a nonce of {size} bytes, not {_NONCE[0]} to {_NONCE[-1]}", hint=_ISSUER)
    plain, fields = _KEYS[algorithm]
    key = _key([plain.encode(), *(reader.string() for _ in range(fields))])
    serial, kind, key_id = reader.uint64(), _kind(reader.uint32()), text(reader.string(), what="the key id")
    principals = _principals(reader.string())
    after, before = _time(reader.uint64()), _time(reader.uint64())
    if after >= before:
        raise Malformed(f"{_WHAT} ends at {before:%Y-%m-%dT%H:%M:%SZ}, before it begins", hint=_ISSUER)
    critical = read_critical(reader.string())
    extensions = read_options(reader.string(), what="extensions")
    if reader.string():
        raise Malformed(f"{_WHAT} has something in its reserved field", hint=_ISSUER)
    authority, signature = sshkeys.from_blob(reader.string()), reader.string()
    reader.end()
    if len(strings(signature, what=_WHAT)) < 2:
        raise Malformed(f"{_WHAT} has no signature", hint=_ISSUER)
    return SshCertificate(
        blob, kind, key, serial, key_id, principals, after, before, critical, extensions, authority, signature
    )


def text(data: bytes, *, what: str) -> str:
    """
    Read what terminals and logs will show.

    :raises Malformed: empty, not UTF-8, or with what is not printable: a line break would forge a line of sshd's log.
    """
    try:
        found = data.decode("utf-8")
    except UnicodeDecodeError:
        found = ""
    if not found or not found.isprintable():
        raise Malformed(f"{what} in an SSH certificate is no text: {data[:80]!r}", hint=_ISSUER)
    return found


def _key(fields: list[bytes]) -> SshKey:
    key = sshkeys.from_blob(b"".join(map(string, fields)))
    if key.algorithm.startswith("sk-"):
        check_token(key)
    else:
        load_public(key)  # in its one form, so that its fingerprint is the one that was revoked or remembered
    return key


def check_token(key: SshKey) -> None:
    """
    Look at the form of a key in a hardware token (OpenSSH's PROTOCOL.u2f).

    *Not* checked: that a point is on its curve; nobody verifies with it here.

    :raises Malformed: its lengths are not those of such a key, or its application is not ``ssh:…``.
    """
    fields = strings(key.blob, what="the key")
    sizes, application = [len(each) for each in fields[1:-1]], fields[-1]
    if sizes not in ([32], [8, 65]) or not application.startswith(b"ssh:") or len(application) > 64:
        raise Malformed(f"not a key of {key.algorithm!r}", hint="`ssh-keygen -t ed25519-sk` makes one")


def _kind(number: int) -> Kind:
    for kind in Kind:
        if kind.number == number:
            return kind
    raise Malformed(f"{_WHAT} is of kind {number}, neither a user's nor a host's", hint=_ISSUER)


def _principals(data: bytes) -> tuple[str, ...]:
    found = strings(data, what="the list of principals")
    if len(found) > MAX_PRINCIPALS:
        raise Malformed(f"{len(found)} principals, at most {MAX_PRINCIPALS} are allowed", hint=_ISSUER)
    principals = tuple(text(each, what="a principal") for each in found)
    for principal in principals:
        if "," in principal:  # sshd compares such lists split at commas: one name would be two
            raise Malformed(f"a principal with a comma: {principal[:80]!r}", hint=_ISSUER)
    return principals


def _time(seconds: int) -> datetime:
    return FOREVER if seconds >= FOREVER.timestamp() else datetime.fromtimestamp(seconds, UTC)


def verify(
    certificate: SshCertificate,
    *,
    authorities: Collection[SshKey],
    kind: Kind,
    principal: str,
    at: datetime,
    source: IPAddress | None = None,
) -> None:
    """
    Judge a certificate as ssh judges a host's, and sshd a user's; see ``against``.

    :raises EvidenceRejected: with every reason.
    """
    if reasons := against(certificate, authorities=authorities, kind=kind, principal=principal, at=at, source=source):
        raise EvidenceRejected("; ".join(reasons), hint="see `ssh-keygen -L -f` of it")


def against(
    certificate: SshCertificate,
    *,
    authorities: Collection[SshKey],
    kind: Kind,
    principal: str,
    at: datetime,
    source: IPAddress | None = None,
) -> tuple[str, ...]:
    """
    Return every reason not to believe that its key speaks for ``principal`` at a time; none, and it does.

    ``source`` is where a user calls from; where that is not known, a certificate limited to addresses is not believed.
    In every version of OpenSSH that is enough: a host's principals are names here, not patterns, and no name is nobody.

    *Not* checked: possession of the key, which has to follow; that it was not revoked; of ``verify-required`` anything:
    it speaks of the signature that follows.
    """
    reasons = []
    if certificate.authority not in authorities:
        reasons.append(f"its authority {certificate.authority.fingerprint} is not one that is trusted here")
    elif wrong := _forged(certificate):
        reasons.append(wrong)
    if certificate.kind is not kind:
        reasons.append(f"it is a {certificate.kind} certificate, not a {kind} certificate")
    # ssh looks for a host's name in lower case; user names differ by it.
    if (principal.lower() if kind is Kind.HOST else principal) not in certificate.principals:
        reasons.append(f"it is for {', '.join(certificate.principals) or 'nobody by name'}, not for {principal[:80]!r}")
    if at < certificate.valid_after:
        reasons.append(f"it is not valid before {_written(certificate.valid_after)}Z")
    if at >= certificate.valid_before:
        reasons.append(f"it has expired at {_written(certificate.valid_before)}Z")
    if kind is Kind.HOST and certificate.critical != UNLIMITED:
        reasons.append("it has critical options, with which ssh refuses every host certificate")
    networks = certificate.critical.source_address
    if networks is not None and not any(source is not None and source in network for network in networks):
        reasons.append(f"it is for {_list(networks)} only, not for {source or 'an unknown address'}")
    return tuple(reasons)


def _forged(certificate: SshCertificate) -> str | None:
    """Return what is wrong with the signature by the authority that it names."""
    algorithm = certificate.signed_with
    if algorithm not in _SIGNING:  # above all ``ssh-rsa``, which signs with SHA-1
        return f"it is signed with {algorithm!r}, which proves nothing"
    try:
        sshsig.check(certificate.authority, certificate.signature, certificate.signed)
    except EvidenceRejected:
        return f"the signature of its authority {certificate.authority.fingerprint} does not fit"
    except HandfastError as error:
        return f"the signature of its authority cannot be verified: {error.message}"
    return None


def describe(certificate: SshCertificate) -> str:
    """Return what ``ssh-keygen -L`` prints of it, without the file's name; times in UTC, what is unknown as text."""
    signer = f"{called(certificate.authority)[0]} {certificate.authority.fingerprint}"
    lines = [
        f"Type: {certificate.algorithm} {certificate.kind} certificate",
        f"Public key: {called(certificate.key)[0]}-CERT {certificate.key.fingerprint}",
        f"Signing CA: {signer} (using {certificate.signed_with})",
        f'Key ID: "{certificate.key_id}"',
        f"Serial: {certificate.serial}",
        f"Valid: {_validity(certificate)}",
        *_block("Principals", certificate.principals),
        *_block("Critical Options", certificate.critical.texts()),
        *_block(
            "Extensions",
            [f"{name} {data.decode('utf-8', 'replace')!r}" if data else name for name, data in certificate.extensions],
        ),
    ]
    return "\n".join(lines)


def _block(title: str, entries: Collection[str]) -> list[str]:
    return [f"{title}:", *(f"        {entry}" for entry in entries)] if entries else [f"{title}: (none)"]


def _validity(certificate: SshCertificate) -> str:
    after, before = certificate.valid_after, certificate.valid_before
    if before >= FOREVER:
        return f"after {_written(after)}" if after.timestamp() else "forever"
    return f"from {_written(after)} to {_written(before)}" if after.timestamp() else f"before {_written(before)}"


def _written(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S}"


def _list(networks: Collection[IPNetwork]) -> str:
    return ", ".join(map(str, networks)) or "no address"
