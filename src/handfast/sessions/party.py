"""
A party's session file: all that one machine needs to take part in one session, for its owner alone.

    # handfast session 'paper': party 'client' (client), until 2026-12-22 08:00Z
    # home: /home/ann/paper
    PRIVATE KEY, CERTIFICATE of the party, of the issuing CA, of the session, and an X509 CRL if one was known

PEM, so that openssl reads it. The comments are for people, and nothing in them is believed: session, name and role are
read from the certificates. ``home`` only says where a newer revocation list may lie (see ``trust``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from handfast.adapters import files
from handfast.core import chain, keys
from handfast.core.roles import Role
from handfast.errors import Malformed, Refused, UntrustedPeer
from handfast.sessions import revocations

ROLES = frozenset({Role.SERVER, Role.CLIENT})
MAX_FILE = 256 * 1024  # bytes; without a revocation list a file has 3,000
_KEY, _CERTIFICATE, _CRL = "PRIVATE KEY", "CERTIFICATE", "X509 CRL"
_ORDER = (_KEY, _CERTIFICATE, _CERTIFICATE, _CERTIFICATE, _CRL)
_BEGIN = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_ROOT_NAME = " root CA"  # what the ceremony adds to the session's name
_HINT = "export the party again, or join with a new invitation"


@dataclass(frozen=True, slots=True)
class Party:
    """
    One party of a session. Make one with ``read`` or ``parse``, which check that it all belongs together.

    ``session`` is the session's name, ``name`` the party's. ``crl`` is DER. ``origin`` says of which invitation it
    came.
    """

    session: str
    name: str
    role: Role
    key: ec.EllipticCurvePrivateKey
    leaf: x509.Certificate
    issuing: x509.Certificate
    root: x509.Certificate
    crl: bytes | None = None
    home: Path | None = None
    origin: str | None = None

    @property
    def pin(self) -> bytes:
        """The SHA-256 of the session's public key."""
        return keys.spki_sha256(self.root.public_key())

    @property
    def serial(self) -> int:
        """The serial of our own certificate."""
        return self.leaf.serial_number

    @property
    def not_after(self) -> datetime:
        """When our certificate ends."""
        return self.leaf.not_valid_after_utc

    @property
    def peer_role(self) -> Role:
        """Whom we talk to: a server to clients, a client to servers, and nobody to its own kind."""
        return Role.CLIENT if self.role is Role.SERVER else Role.SERVER

    def encode(self) -> bytes:
        """Return the file's content, the key in the clear: for mode 0600 only."""
        told = f"session {self.session!r}: party {self.name!r} ({self.role}), until {self.not_after:%Y-%m-%d %H:%M}Z"
        comments = [f"# handfast {told}"]
        if self.home is not None and str(self.home).isprintable():  # a line feed would begin a line of somebody else's
            comments.append(f"# home: {self.home}")
        if self.origin is not None:
            comments.append(f"# origin: {self.origin}")
        blocks = [
            self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            *(each.public_bytes(Encoding.PEM) for each in (self.leaf, self.issuing, self.root)),
        ]
        if self.crl is not None:
            blocks.append(x509.load_der_x509_crl(self.crl).public_bytes(Encoding.PEM))
        return "\n".join([*comments, ""]).encode() + b"".join(blocks)


def write(path: Path, party: Party) -> None:
    """
    Write a session file, whole or not at all, mode 0600.

    :raises Refused: something is there already. :raises Fault: the disk is full, permissions.
    """
    require_new(path)
    files.write_atomic(path, party.encode())


def require_new(path: Path) -> None:
    """:raises Refused: something is at ``path``, be it a dangling link: a key is never overwritten."""
    if path.exists() or path.is_symlink():
        raise Refused(f"{str(path)!r} exists", hint="no key is ever overwritten: choose another name, or move it away")


def read(path: Path, *, now: datetime) -> Party:
    """
    Read a session file and check all of it.

    :raises NotFound: no such file. :raises Unsafe: others could read or write it.
    :raises Malformed: not a session file, or its parts do not belong together.
    :raises Refused: it is not valid now, or its key is encrypted.
    """
    return parse(files.read_private(path, limit=MAX_FILE), str(path), now=now)


def parse(content: bytes, where: str, *, now: datetime) -> Party:
    """Read the content of a session file; ``where`` is for messages. See ``read``."""
    comments, blocks = _blocks(content, where)
    try:
        key = load_pem_private_key(blocks[0], None)
        leaf, issuing, root = (x509.load_pem_x509_certificate(each) for each in blocks[1:4])
        crl = x509.load_pem_x509_crl(blocks[4]).public_bytes(Encoding.DER) if len(blocks) > len(_ORDER) - 1 else None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _broken(where, "its key is not an elliptic-curve key")
        if keys.spki(key.public_key()) != keys.spki(leaf.public_key()):
            raise _broken(where, "its key and its certificate are of two pairs")
    except keys.UNREADABLE as error:
        raise _broken(where, str(error)[:120] or type(error).__name__) from None
    identity = _verified(leaf, issuing, root, where, now)
    home = comments.get("home")
    party = Party(
        session=session_name(root),
        name=identity.machine,
        role=identity.role,
        key=key,
        leaf=leaf,
        issuing=issuing,
        root=root,
        crl=crl,
        home=Path(home) if home is not None and home.startswith("/") else None,
        origin=comments.get("origin"),
    )
    if crl is not None:
        try:
            revocations.read(crl, issuing, now=now)
        except UntrustedPeer as error:
            raise _broken(where, error.message) from None
    return party


def _verified(
    leaf: x509.Certificate, issuing: x509.Certificate, root: x509.Certificate, where: str, now: datetime
) -> chain.Identity:
    try:
        identity = chain.read_identity(leaf)
        if identity.role not in ROLES:
            raise _broken(where, f"it is for the role {identity.role}, and a session has servers and clients")
        if not identity.not_before <= now < identity.not_after:
            span = f"from {identity.not_before:%Y-%m-%d %H:%M} to {identity.not_after:%Y-%m-%d %H:%M}Z"
            raise Refused(
                f"{where!r} is valid {span}, and it is {now:%Y-%m-%d %H:%M}Z here",
                hint="check the clock of this machine; if it is right, the session is over: make a new one",
            )
        pin = keys.spki_sha256(root.public_key())
        return chain.verify_chain(leaf, [issuing], [root], pin=pin, role=identity.role, at=now)
    except (UntrustedPeer, *keys.UNREADABLE) as error:
        raise _broken(where, str(error)) from None


def _blocks(content: bytes, where: str) -> tuple[dict[str, str], list[bytes]]:
    """Return the comments ``# key: value`` and the PEM blocks, which must be those of ``_ORDER`` and nothing else."""
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise _broken(where, "it is not text") from None
    comments: dict[str, str] = {}
    labels: list[str] = []
    blocks: list[list[str]] = []
    inside = False
    for line in lines:
        if inside:
            blocks[-1].append(line)
            inside = line != f"-----END {labels[-1]}-----"
        elif begin := _BEGIN.fullmatch(line):
            labels.append(begin[1])
            blocks.append([line])
            inside = True
        elif line.startswith("# "):
            key, _, value = line[2:].partition(": ")
            comments.setdefault(key, value)
        elif line:
            raise _broken(where, f"a line that is neither PEM nor a comment: {line[:40]!r}")
    if inside:
        raise _broken(where, f"its {labels[-1]} has no end")
    _check_order(labels, where)
    return comments, ["\n".join([*block, ""]).encode() for block in blocks]


def _check_order(labels: list[str], where: str) -> None:
    if labels and labels[0] == "ENCRYPTED PRIVATE KEY":
        raise Refused(
            f"the key in {where!r} is encrypted",
            hint="a session starts without a person: decrypt it with `openssl pkey`, and keep the file's mode 0600",
        )
    if len(labels) < len(_ORDER) - 1 or tuple(labels) != _ORDER[: len(labels)]:
        found = ", ".join(labels[:8]) or "nothing"
        raise _broken(where, f"expected a key, three certificates and perhaps a revocation list, found {found}")


def session_name(root: x509.Certificate) -> str:
    """Return the session's name, as its certificate (root) says."""
    names = root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value).removesuffix(_ROOT_NAME) if names else ""


def _broken(where: str, what: str) -> Malformed:
    return Malformed(f"{where!r} is not a session file: {what}", hint=_HINT)
