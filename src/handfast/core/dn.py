"""
X.500 names as people write them: ``CN=node1.lan, OU=NIFI``.

There are two orders. RFC 4514 writes the last attribute of the encoded name first, and so do Java and this module
for the subject of a certificate. NiFi's toolkit encodes a request's subject in the order it was typed, and its CA
reverses it, so that the certificate, read back, shows what was typed. *Encoded order* here is always that of the
certificate; ``reverse`` gives the request's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from handfast.core.names import label_match, text_match
from handfast.errors import Malformed

MAX_SUBJECT = 1024  # characters of a subject; NiFi keeps it in databases and log lines
DEFAULT_UNIT = "NIFI"  # the toolkit's default suffix is ", OU=NIFI"
_HINT = "write it as 'CN=node1.lan, OU=NIFI'"
# People write spaces around separators and attribute types in lower case; RFC 4514 has neither.
_ATTRIBUTE = re.compile(r" *([A-Za-z][A-Za-z0-9-]*|[0-9.]+) *=((?:\\.|[^\\,+])*)([,+]|$)")
_TO_JAVA = {NameOID.EMAIL_ADDRESS: "EMAILADDRESS", NameOID.SERIAL_NUMBER: "SERIALNUMBER"}
_NAMES = {"E": NameOID.EMAIL_ADDRESS, **{java: oid for oid, java in _TO_JAVA.items()}}


def parse(text: str) -> x509.Name:
    """
    Read a subject as it is typed, into the encoded order of a certificate.

    :raises Malformed: not an X.500 name, an empty one, or one that does not fit.
    """
    if not text.isprintable() or len(text) > MAX_SUBJECT:
        raise Malformed(f"not a subject: {text[:80]!r}", hint=_HINT)
    try:
        name = x509.Name.from_rfc4514_string(_plain(text), _NAMES)
    except ValueError as error:
        raise Malformed(f"not a subject: {text[:80]!r} {error}".rstrip(), hint=_HINT) from None
    return checked(name)


def checked(name: x509.Name) -> x509.Name:
    """
    Return a name that is good for a subject: not empty, not long, nothing in it that would drive a terminal.

    :raises Malformed: another.
    """
    text = written(name)
    if not text or len(text) > MAX_SUBJECT or not all(str(part.value).isprintable() for part in name):
        raise Malformed(f"not a subject: {text[:80]!r}", hint=_HINT)
    return name


def _plain(text: str) -> str:
    """Return the same without what RFC 4514 does not have. :raises ValueError: something is no attribute."""
    plain, position = "", 0
    while position < len(text):
        found = _ATTRIBUTE.match(text, position)
        if found is None:
            raise ValueError(f"at {text[position:][:40]!r}")
        value = found[2].strip()
        if (len(value) - len(value.rstrip("\\"))) % 2:  # the space was escaped: it belongs to the value
            value += " "
        plain += f"{found[1].upper()}={value}{found[3]}"
        position = found.end()
    return plain


def reverse(name: x509.Name) -> x509.Name:
    """Return the same name in the other order: from a request's to a certificate's, and back."""
    return x509.Name(list(name.rdns)[::-1])


def from_der(der: bytes) -> x509.Name:
    """Read an encoded name. :raises Malformed: none."""
    try:
        return x509.Name.from_bytes(der)
    except ValueError as error:
        raise Malformed(f"not an X.500 name: {str(error)[:80]!r}") from None


def written(name: x509.Name) -> str:
    """Return an encoded name as Java shows it and NiFi's authorizers compare it: ``CN=node1.lan, OU=NIFI``."""
    return ", ".join(rdn.rfc4514_string(_TO_JAVA) for rdn in reversed(name.rdns))


def common_name(name: x509.Name) -> str | None:
    """Return the common name, the first in writing if there are several; None without one."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[-1].value) if found else None


def of_node(name: x509.Name) -> str | None:
    """Return the host's name, in lower case, if this is the toolkit's subject of a host: ``CN=x[, OU=NIFI]``, ASCII."""
    rdns = [list(rdn) for rdn in reversed(name.rdns)]
    if any(len(rdn) != 1 for rdn in rdns) or [rdn[0].oid for rdn in rdns] not in _NODE_FORMS:
        return None
    if len(rdns) == 2 and rdns[1][0].value != DEFAULT_UNIT:
        return None
    host = str(rdns[0][0].value)
    return host.lower() if host.isascii() else None  # lower() makes a k of the Kelvin sign


_CN = NameOID.COMMON_NAME.dotted_string
_NODE_FORMS = ([NameOID.COMMON_NAME], [NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME])


@dataclass(frozen=True, slots=True)
class SubjectPattern:
    """
    Which subjects an operator allows: the same attributes in the same order, ``*`` for any text in a value.

    In a common name ``*`` stays within one label: ``CN=*.nifi.lan`` allows no ``CN=a.b.nifi.lan``.
    """

    attributes: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> SubjectPattern:
        """Read a pattern such as ``CN=*.nifi.lan, OU=NIFI``. :raises Malformed: not an X.500 name."""
        return cls(_flat(parse(text)))

    def allows(self, name: x509.Name) -> bool:
        """Whether ``name`` fits."""
        offered = _flat(name)
        return len(offered) == len(self.attributes) and all(
            ours == theirs and (label_match if ours.endswith(_CN) else text_match)(value, pattern)
            for (ours, pattern), (theirs, value) in zip(self.attributes, offered, strict=True)
        )


def _flat(name: x509.Name) -> tuple[tuple[str, str], ...]:
    """Return oid and value of each attribute; several in one RDN are marked, so that they equal no other form."""
    return tuple(
        (("+" if position else "") + attribute.oid.dotted_string, str(attribute.value))
        for rdn in name.rdns
        for position, attribute in enumerate(rdn)
    )
