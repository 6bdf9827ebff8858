"""A person's certificate for a new SSH key, by an operator credential or an ID token; an agent or a file keeps it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from handfast.adapters import files
from handfast.adapters.tls import newcomer_context, pinned_client_context
from handfast.core import sshcert, sshkeys
from handfast.core.flow import SshWish
from handfast.core.invitation import Address
from handfast.core.openid import Providers, ProviderView
from handfast.core.roles import Role
from handfast.core.sshcert import Kind, SshCertificate
from handfast.core.sshkeys import MAX_BLOB, SshKey
from handfast.core.sshleaf import EVIDENCE
from handfast.core.sshsig import Signer
from handfast.core.wire import CertificatesAnswer
from handfast.errors import HandfastError, NotAuthorized, NotFound, Refused
from handfast.introducers import oidc, operator_login
from handfast.newcomer.certificates import PATH, SUFFIX, check_certificates
from handfast.newcomer.connection import Verified, verified
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.renew import Held, held
from handfast.newcomer.ssh_agent import Agent

MAX_CERTIFICATE_FILE = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Login:
    """A key that nobody else has, what certifies it, the CA for users, and the registrar's time then."""

    signer: Signer
    certificate: SshCertificate
    user_ca: SshKey
    time: datetime


@dataclass(frozen=True, slots=True)
class Registrar:
    """Where a registrar is reached, and the pin that it has to prove."""

    addresses: tuple[Address, ...]
    pin: bytes

    @contextmanager
    def connected(self, context: ssl.SSLContext, now: Callable[[], datetime]) -> Iterator[Verified]:
        """Connect, and prove that it is this one. :raises HandfastError: as ``verified``."""
        at = now()
        with verified(self.addresses, context, pin=self.pin, judge=lambda _claimed: at) as registrar:
            yield registrar


def providers(registrar: Registrar, *, now: Callable[[], datetime]) -> list[ProviderView]:
    """Return the OpenID providers that the registrar takes tokens of."""
    with registrar.connected(newcomer_context(), now) as peer:
        return peer.connection.call("GET", "/v1/ssh/providers", Providers).providers


def by_token(registrar: Registrar, provider: str, token: str, wish: SshWish, *, now: Callable[[], datetime]) -> Login:
    """
    Have a new key certified for whom a provider's ID token is for.

    :raises HandfastError: whatever refuses it.
    """
    signer = new_key()
    with registrar.connected(newcomer_context(), now) as peer:
        body, signed = oidc.present(
            signer,
            wish,
            provider=provider,
            token=token,
            pin=registrar.pin,
            nonce=peer.nonce,
            server_spki=peer.server_spki,
        )
        return _ask(peer, oidc.NAME, body, signed, signer, wish)


def by_operator(keystore: Keystore, wish: SshWish, *, now: Callable[[], datetime]) -> Login:
    """
    Have a new key certified for the operator whose credential is in ``keystore``.

    :raises NotAuthorized: it is no operator's. :raises HandfastError: whatever refuses it.
    """
    holding = held(keystore)
    if holding.identity.role is not Role.OPERATOR:
        raise NotAuthorized(
            f"the credential in {str(keystore.directory)!r} is for role {holding.identity.role}",
            hint="an operator joins with `handfast invite NAME --role operator`; others log in with --provider",
        )
    signer = new_key()
    with Registrar(holding.addresses, holding.pin).connected(_proving(holding, keystore.directory), now) as peer:
        body, signed = operator_login.present(
            signer,
            wish,
            credential=holding.material.leaf,
            pin=holding.pin,
            nonce=peer.nonce,
            server_spki=peer.server_spki,
        )
        return _ask(peer, operator_login.NAME, body, signed, signer, wish)


def _proving(holding: Held, directory: Path) -> ssl.SSLContext:
    roots = "".join(ssl.DER_cert_to_PEM_cert(der) for der in holding.material.trust)
    return pinned_client_context(roots, (directory / "fullchain.pem", directory / "privkey.pem"))


def _ask(peer: Verified, method: str, body: bytes, signed: bytes, signer: Signer, wish: SshWish) -> Login:
    answer = peer.connection.call("POST", f"{PATH}/{method}", CertificatesAnswer, body)
    checked = check_certificates(
        answer, peer, request=signed, keys=[signer.public], kind=Kind.USER, principals=wish.principals
    )
    return Login(signer, checked.certificates[0], checked.user_ca, checked.time)


def new_key() -> Signer:
    """Return a new ed25519 key, which is nowhere but in memory."""
    private = Ed25519PrivateKey.generate()
    line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return Signer(sshkeys.parse(line.decode("ascii")), private)


def into_agent(login: Login, agent: Agent) -> None:
    """
    Add the certificate with its key, until the certificate ends; one that it succeeds is removed.

    :raises HandfastError: the agent does not take it.
    """
    certificate = login.certificate
    # By the registrar's time: whoever's clock is off has the key for as long as the certificate is good.
    lifetime = certificate.valid_before - login.time
    agent.add(login.signer, certificate, comment=f"handfast: {certificate.key_id}", lifetime=lifetime)
    for each in agent.identities():
        if each.certificate is not None and _succeeds(certificate, each.certificate):
            agent.remove(each.certificate)  # a server counts how many keys are tried


def _succeeds(new: SshCertificate, old: SshCertificate) -> bool:
    return old.blob != new.blob and (old.authority, old.key_id) == (new.authority, new.key_id)


def check_file(path: Path) -> None:
    """
    See to it that a key may be written to ``path``: nothing is there, or an earlier login of this command.

    :raises Refused: another key is there.
    """
    beside, public = path.with_name(path.name + SUFFIX), path.with_name(f"{path.name}.pub")
    if any(each.exists() or each.is_symlink() for each in (path, public)):
        try:
            with files.faults("read", beside):
                kept = sshcert.parse(beside.read_bytes()[:MAX_CERTIFICATE_FILE].decode("ascii", "replace"))
            ours = kept.kind is Kind.USER and EVIDENCE in dict(kept.extensions)
            if public.exists():  # who made a key of his own there since has no other copy of it
                ours = ours and sshkeys.parse(public.read_bytes()[:MAX_BLOB].decode("ascii", "replace")) == kept.key
        except HandfastError:
            ours = False
        if not ours:
            raise Refused(
                f"{str(path)!r} is there, and not from an earlier login", hint="give a path where nothing is yet"
            )
    if not path.parent.is_dir():
        raise NotFound(f"no directory {str(path.parent)!r}", hint="make it first")


def into_file(login: Login, path: Path) -> tuple[Path, Path]:
    """
    Write the key (0600), and beside it its public half and the certificate, where ssh looks for them.

    Returns the paths of key and certificate.

    :raises Refused: as ``check_file``. :raises Fault: the disk.
    """
    check_file(path)
    private = login.signer.private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    beside = path.with_name(path.name + SUFFIX)
    files.write_atomic(path, private)
    files.write_atomic(path.with_name(f"{path.name}.pub"), f"{login.signer.public}\n".encode(), 0o644)
    files.write_atomic(beside, f"{login.certificate}\n".encode(), 0o644)
    return path, beside


def choose(offered: Sequence[ProviderView], name: str | None) -> ProviderView:
    """Return the provider of this name, or the only one. :raises NotFound: there is none such, or it has to be said."""
    names = ", ".join(each.name for each in offered) or "none"
    found = [each for each in offered if name in {None, each.name}]
    if not found:
        raise NotFound(
            f"no provider {name!r} at the registrar (it has {names})"
            if name
            else "the registrar has no OpenID provider",
            hint="its operator adds one: [[oidc]]; operators log in with --identity",
        )
    if len(found) > 1:
        raise NotFound(f"the registrar has several providers: {names}", hint="say which: --provider NAME")
    return found[0]
