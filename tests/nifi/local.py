"""A stand-in for who signs: an RSA authority of nothing but cryptography, which remembers what it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core.names import Names
from handfast.core.ports import Clock
from handfast.errors import Refused
from handfast.nifi.localca import LocalAuthority, LocalCa, LocalRequest
from handfast.nifi.standalone import Report, StandaloneOptions, carry_out, prepare

NOW = datetime(2026, 11, 22, 8, tzinfo=UTC)


class FrozenClock:
    """Always the same time."""

    def now(self) -> datetime:
        """The time."""
        return NOW


def generate(options: StandaloneOptions, authority: LocalAuthority, *, clock: Clock) -> Report:
    """All of a run of ``standalone``."""
    return carry_out(prepare(options, clock=clock), authority, clock=clock)


def certify(
    subject: x509.Name,
    public_key: object,
    issuer: x509.Name,
    key: rsa.RSAPrivateKey,
    *,
    ca: bool,
    days: int = 825,
    names: Names | None = None,
) -> x509.Certificate:
    """Return a certificate that is valid from yesterday on."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)  # type: ignore[arg-type]  # any key there is
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        general = [*map(x509.DNSName, names.dns), *map(x509.IPAddress, names.ips)]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    return builder.sign(key, hashes.SHA256())


@dataclass
class StandIn:
    """A ``LocalAuthority``; ``refuse`` is the number of the leaf that it refuses to issue."""

    refuse: int | None = None
    issued: list[LocalRequest] = field(default_factory=list)

    def issuer(self, ca: LocalCa) -> Callable[[LocalRequest], bytes]:
        """Return a function that signs whatever it is asked for."""

        def issue(request: LocalRequest) -> bytes:
            self.issued.append(request)
            if len(self.issued) == self.refuse:
                raise Refused("not this one", hint="ask for another")
            leaf = certify(
                request.subject,
                request.public_key,
                ca.certificate.subject,
                ca.key,
                ca=False,
                days=request.days,
                names=request.names,
            )
            return leaf.public_bytes(Encoding.DER)

        return issue
