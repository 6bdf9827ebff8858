"""
SSH certificates of this machine: asked for with its host keys, and checked like every answer.

``obtain`` needs nothing but a registrar that has proved itself, so that joining, renewing and the timer share it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from handfast.core import sshcert, sshkeys, transcript
from handfast.core.hostproof import HostSigner
from handfast.core.sshcert import Kind, SshCertificate
from handfast.core.sshkeys import SshKey
from handfast.core.wire import CertificatesAnswer
from handfast.errors import EvidenceRejected, HandfastError, Malformed, Refused, TooMuch, UntrustedPeer
from handfast.introducers import ssh_pop
from handfast.newcomer.check import check_proof
from handfast.newcomer.connection import Verified, parse_time

PATH = "/v1/ssh/certificates"
SUFFIX = "-cert.pub"  # behind the key's own file name: where ssh-keygen writes one, and sshd's manual has it
AGAIN = "`handfast renew --ssh` asks again"
_UNKNOWN = "if this machine's SSH host keys are new, join again"


@dataclass(frozen=True, slots=True)
class Certified:
    """Certificates that passed every check, the CAs for hosts and for users, and the registrar's time."""

    certificates: tuple[SshCertificate, ...]
    host_ca: SshKey
    user_ca: SshKey
    time: datetime


def obtain(
    registrar: Verified,
    signers: Sequence[HostSigner],
    *,
    pin: bytes,
    principals: Sequence[str] = (),
    remark: Callable[[str], None] = lambda _remark: None,
) -> Certified:
    """
    Ask for a certificate for each of these host keys (``ssh-pop``), and check them.

    Where they are refused together, each is asked for alone, so that one that was retired does not cost the others
    theirs; ``remark`` is told of each that has none.

    :raises Refused: no key gets any. :raises Unreachable: no whole answer.
    :raises UntrustedPeer: the answer is not what was asked for.
    """
    try:
        return _ask(registrar, signers, pin=pin, principals=principals)
    except TooMuch:
        raise
    except Refused as error:
        if len(signers) == 1:
            raise _explained(error) from None
        together = error
    found: list[Certified] = []
    left_out: list[str] = []
    for signer in signers:
        try:
            found.append(_ask(registrar, (signer,), pin=pin, principals=principals))
        except TooMuch:
            raise
        except Refused as error:
            why = error.message.removeprefix(f"{signer.public.fingerprint} ")
            left_out.append(f"no certificate for the SSH host key {signer.public.fingerprint}: {why}")
    if not found:  # what was said of all of them says it of each
        raise _explained(together)
    for each in left_out:
        remark(each)
    return Certified(
        tuple(certificate for part in found for certificate in part.certificates),
        found[-1].host_ca,
        found[-1].user_ca,
        found[-1].time,
    )


def attempt(
    registrar: Verified, signers: Sequence[HostSigner], *, pin: bytes, remark: Callable[[str], None]
) -> Certified | HandfastError:
    """As ``obtain``, where there may be none: what would be raised is returned, for whoever knows what was asked."""
    try:
        return obtain(registrar, signers, pin=pin, remark=remark)
    except HandfastError as error:
        return error


def _explained(error: Refused) -> Refused:
    """Add what a registrar tells no stranger, and this machine can know."""
    if isinstance(error, EvidenceRejected):
        error.hint = f"{error.hint}; {_UNKNOWN}" if error.hint else _UNKNOWN
    return error


def _ask(registrar: Verified, signers: Sequence[HostSigner], *, pin: bytes, principals: Sequence[str]) -> Certified:
    body, signed = ssh_pop.present(
        signers, pin=pin, nonce=registrar.nonce, server_spki=registrar.server_spki, principals=principals
    )
    answer = registrar.connection.call("POST", f"{PATH}/{ssh_pop.NAME}", CertificatesAnswer, body)
    keys = [signer.public for signer in signers]
    return check_certificates(answer, registrar, request=signed, keys=keys, kind=Kind.HOST, principals=principals)


def check_certificates(
    answer: CertificatesAnswer,
    registrar: Verified,
    *,
    request: bytes,
    keys: Sequence[SshKey],
    kind: Kind,
    principals: Collection[str] = (),
) -> Certified:
    """
    Return the answer's content if all of it is what was asked for.

    Checked, in this order: the registrar's signature over this very request, the certificates, both CAs, the roots and
    the time; that there is one for each key, by the CA for its kind, of that kind, with the names wished (without any:
    with names), valid at the registrar's time, and with a serial, without which it could not be taken back.
    *Not* checked: that names which were not wished are this machine's.

    :raises UntrustedPeer: any of it is wrong. Nothing was written.
    """
    time = parse_time(answer.time)
    content = transcript.certificates(tuple(answer.certificates), host_ca=answer.host_ca, user_ca=answer.user_ca)
    digest = transcript.answer(request, content, tuple(answer.trust), answer.time)
    check_proof(registrar.leaf, digest, answer.signature, signed_time=time, hello_time=registrar.time)
    try:
        host_ca, user_ca = sshkeys.from_blob(answer.host_ca), sshkeys.from_blob(answer.user_ca)
        read = tuple(map(sshcert.read, answer.certificates))
    except Malformed as error:
        raise UntrustedPeer(f"the answer holds no readable SSH certificate: {error.message}") from None
    if host_ca == user_ca:
        raise UntrustedPeer("the registrar certifies hosts and users with one key: each could pose as the other")
    if [each.key for each in read] != list(keys):
        raise UntrustedPeer(
            f"asked for certificates of {_fingerprints(keys)}, got those of"
            f" {_fingerprints(each.key for each in read) or 'none'}",
            hint="nothing was kept; look at the registrar's log",
        )
    for each in read:
        _check(each, host_ca if kind is Kind.HOST else user_ca, kind=kind, principals=principals, at=time)
    return Certified(read, host_ca, user_ca, time)


def _check(certificate: SshCertificate, ca: SshKey, *, kind: Kind, principals: Collection[str], at: datetime) -> None:
    of = f"the SSH certificate in the answer, for {certificate.key.fingerprint}"
    if not certificate.principals or not certificate.serial:
        raise UntrustedPeer(f"{of}, is for nobody by name, or has no serial", hint="nothing was kept")
    if principals and set(certificate.principals) != set(principals):
        wished, got = ", ".join(principals), ", ".join(certificate.principals)
        raise UntrustedPeer(f"asked for an SSH certificate for {wished}, got one for {got}", hint="nothing was kept")
    source = None
    networks = certificate.critical.source_address
    if networks:  # from where it may be used is not for us to judge: from there it will be
        source = networks[0].network_address
    reasons = sshcert.against(
        certificate, authorities={ca}, kind=kind, principal=certificate.principals[0], at=at, source=source
    )
    if reasons:
        raise UntrustedPeer(f"{of}: {'; '.join(reasons)}", hint="nothing was kept; look at the registrar's log")


def _fingerprints(keys: Iterable[SshKey]) -> str:
    return ", ".join(key.fingerprint for key in keys)
