"""
Who this machine is to its controller: what it shows in TLS, how that came about, and what comes next.

    new       shows a certificate that it signed itself, with the key that is to be certified
    on trial  shows what it was sent, and keeps what it had: for a minute
    held      the controller has called over the new one; only now is it kept on the disk

Nothing is kept before it has worked. So a credential that cannot be used, and an agent that dies at any moment, end in
what was there before: the controller finds the old key, asks again, and the same request gets the same answer.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from handfast.adapters.tls import agent_context
from handfast.agent.delivery import taken
from handfast.agent.introduction import Asked, Controller, ask, recognized, take
from handfast.core.chain import Identity, read_identity
from handfast.core.flow import Wish
from handfast.core.instancedata import InstanceData
from handfast.core.keys import format_pin, spki_sha256
from handfast.core.ports import Way
from handfast.core.records import INSTANCE
from handfast.core.roles import Role
from handfast.core.wire import Hello, IntroductionAnswer
from handfast.errors import Conflict, NotFound, Refused, UntrustedPeer
from handfast.introducers.invitation import Invited
from handfast.introducers.reintroduction import Returning
from handfast.introducers.renewal import Renewing
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.layouts import Material
from handfast.newcomer.pending import Pending

TRIAL = timedelta(seconds=60)
_SELF_SIGNED = timedelta(days=3650)  # nobody looks at its dates: its key is all that it shows


class Stage(StrEnum):
    """How far the introduction is; see the module."""

    NEW = "new"
    TRIAL = "trial"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Face:
    """What is shown in TLS from now on: the context, and the SHA-256 of the key in it. ``leaf`` is ours, if any."""

    context: ssl.SSLContext
    spki: bytes
    leaf: x509.Certificate | None = None


@dataclass(frozen=True, slots=True)
class _Trial:
    """A credential that was sent, and is shown until somebody has called over it, or until the time is over."""

    face: Face
    material: Material
    until: datetime


class Agent:
    """
    The agent of one instance. ``keystore`` is for one thread, and so is this.

    ``face`` is what each new connection is to be met with; connections that are open keep what they have seen.

    :raises Refused: the user-data is of another authority than what is held.
    """

    def __init__(self, data: InstanceData, keystore: Keystore, *, now: Callable[[], datetime]) -> None:
        self._data, self._keystore, self._now = data, keystore, now
        self._trial: _Trial | None = None
        self._material = _held(keystore, data)
        self._pending = keystore.pending(self._first.purpose) if self._material is None else None
        self._kept = self._face()

    @property
    def _first(self) -> Invited:
        return Invited(self._data.line, Wish(Role.AGENT), INSTANCE)

    @property
    def _purpose(self) -> str:
        """For what keys are pending: the first credential, or the successor of what is held."""
        held = self._material
        return self._first.purpose if held is None else f"successor:{held.certificate.serial_number:032x}"

    @property
    def stage(self) -> Stage:
        """How far the introduction is at this moment."""
        if self._current_trial() is not None:
            return Stage.TRIAL
        return Stage.NEW if self._material is None else Stage.HELD

    @property
    def face(self) -> Face:
        """What the next connection is met with."""
        trial = self._current_trial()
        return self._kept if trial is None else trial.face

    @property
    def identity(self) -> Identity | None:
        """Who we are by the credential that is held; None for a new one."""
        return None if self._material is None else read_identity(self._material.certificate)

    @property
    def held(self) -> x509.Certificate | None:
        """The certificate of the credential that is held, also while another one is on trial."""
        return None if self._material is None else self._material.certificate

    def authorize(self, presented: x509.Certificate) -> Identity:
        """
        Return who calls, if it is a controller of the authority in our user-data.

        TLS has chained ``presented`` to the root. *Not* checked: that it was not revoked; controllers' are short.

        :raises UntrustedPeer: anybody else, such as another agent with its own genuine credential.
        """
        identity = read_identity(presented)
        if identity.role is not Role.CONTROLLER:
            raise UntrustedPeer(f"{identity.machine!r} is a {identity.role}, and no controller")
        held = self.identity
        if held is not None and identity.trust_domain != held.trust_domain:  # unreachable under one root
            raise UntrustedPeer(f"{identity.machine!r} is of {identity.trust_domain!r}")
        return identity

    def introduce(self, hello: Hello, presented: bytes) -> tuple[bytes, Asked]:
        """
        Return the request for our first credential or the next one, to the controller that says hello.

        ``presented`` is its certificate (DER), as TLS has proved it. With the request comes what its answer is held to,
        which is the connection's: another controller's hello is no end of this one's.

        :raises UntrustedPeer: it is not our controller, by its own time. :raises InvitationExpired: by that time our
            secret is over.
        """
        controller = recognized(hello, presented, pin=self._data.line.pin)
        way, keys = self._way(controller)
        return ask(way, controller, keys)

    def accept(self, asked: Asked, answer: IntroductionAnswer) -> None:
        """
        Show what was sent from now on, on trial.

        :raises Conflict: since it was asked for another credential was kept. :raises UntrustedPeer: not what was asked
            for; what is shown stays.
        """
        if asked.keys.purpose_id != self._purpose:
            raise Conflict("another credential was kept since this one was asked for", hint="say hello again")
        checked = take(asked, answer)
        if checked.identity.machine != self._data.instance:
            raise UntrustedPeer(f"the answer is for {checked.identity.machine!r}, and this is {self._data.instance!r}")
        keys = asked.keys
        self._try(
            Material(
                leaf=checked.leaf,
                chain=checked.chain,
                trust=checked.trust,
                private_key=keys.private_key,
                reintroduction_key=keys.reintroduction_key,
                identity=_about(checked.identity, checked.serial, checked.time, asked.way.method, self._data),
            )
        )

    def deliver(self, certificate: str, keypair: str) -> None:
        """
        Show a key that the controller has made (PEM) from now on, on trial.

        :raises Conflict: there is a credential already: this is no way to replace one. :raises Malformed: not a
            certificate and a key on P-256. :raises UntrustedPeer: not for this instance, or no pair; what is shown
            stays.
        """
        pending = self._pending
        if self._material is not None or pending is None:
            raise Conflict("this agent is introduced, and makes its next key itself", hint="let it renew")
        now = self._now()
        came = taken(certificate, keypair, self._data, at=now)
        leaf, *chain = (each.public_bytes(Encoding.DER) for each in came.chain)
        self._try(
            Material(
                leaf=leaf,
                chain=tuple(chain),
                trust=(self._data.root.public_bytes(Encoding.DER),),
                private_key=came.key,
                reintroduction_key=pending.reintroduction_key,
                identity=_about(came.identity, came.chain[0].serial_number, now, "legacy", self._data),
            )
        )

    def _try(self, material: Material) -> None:
        self._trial = _Trial(_shown_of(material, self._data.root), material, self._now() + TRIAL)

    def called(self, face: Face) -> None:
        """
        Take note that the controller has called over ``face``; a credential on trial is kept then.

        :raises Fault: the disk is full: it stays on trial, and the next call tries again.
        """
        trial = self._current_trial()
        if trial is None or face is not trial.face:
            return
        self._keystore.adopt(trial.material)
        self._material, self._pending, self._trial = trial.material, None, None
        self._kept = face

    def _way(self, controller: Controller) -> tuple[Way, Pending]:
        if self._material is None:
            first = self._first
            first.check_time(controller.time)
            return first, self._pending or self._keystore.pending(self._purpose)
        held = self._material
        serial, identity = held.certificate.serial_number, read_identity(held.certificate)
        same, pin = Wish(identity.role, identity.names), self._data.line.pin
        keys = self._keystore.pending(self._purpose)
        if controller.time >= identity.not_after:
            return Returning(held.reintroduction_key, serial, pin, same), keys
        return Renewing(held.private_key, serial, pin, same), keys

    def _current_trial(self) -> _Trial | None:
        if self._trial is not None and self._now() >= self._trial.until:
            self._trial = None
        return self._trial

    def _face(self) -> Face:
        if self._material is not None:
            return _shown_of(self._material, self._data.root)
        if self._pending is None:  # unreachable: without a credential there are keys for the first one
            raise NotFound("no key")
        key = self._pending.private_key
        return _shown([_self_signed(key, self._data.instance, self._now())], key, self._data.root, clock=False)


def _held(keystore: Keystore, data: InstanceData) -> Material | None:
    """
    Return what was kept for this very user-data; another secret means that the instance was added anew.

    :raises Refused: another authority's user-data. Whoever can give some, such as whoever answers at the metadata
        service's address, could make the machine another's; who may empty the directory has it already.
    """
    try:
        material = keystore.load()
    except NotFound:
        return None
    pin, given = material.identity.get("pin"), format_pin(data.line.pin)
    if pin != given:
        raise Refused(
            f"this user-data is of the authority {given}, and this machine was introduced to {pin}",
            hint=f"if it is to be another's from now on, empty {str(keystore.directory)!r}",
        )
    same = material.identity.get("origin") == Invited(data.line, Wish()).purpose
    return material if same and material.identity.get("instance_id") == data.instance_id else None


def _about(who: Identity, serial: int, at: datetime, method: str, data: InstanceData) -> dict[str, object]:
    return {
        "name": who.machine,
        "role": str(who.role),
        "instance_id": data.instance_id,
        "serial": f"{serial:032x}",
        "not_before": who.not_before.isoformat(),
        "not_after": who.not_after.isoformat(),
        "issued_at": at.isoformat(),
        "method": method,
        "pin": format_pin(data.line.pin),
        "origin": Invited(data.line, Wish()).purpose,
    }


def _shown_of(material: Material, root: x509.Certificate) -> Face:
    chain = [x509.load_der_x509_certificate(der) for der in (material.leaf, *material.chain)]
    return _shown(chain, material.private_key, root, clock=True)


def _shown(
    chain: list[x509.Certificate], key: ec.EllipticCurvePrivateKey, root: x509.Certificate, *, clock: bool
) -> Face:
    context = agent_context(chain, key, root, clock=clock)
    return Face(context, spki_sha256(key.public_key()), chain[0] if clock else None)


def _self_signed(key: ec.EllipticCurvePrivateKey, name: str, now: datetime) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    return (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _SELF_SIGNED)
        .sign(key, hashes.SHA256())
    )
