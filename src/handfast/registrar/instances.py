"""
What an operator does with managed machines: add, place, confirm, release, remove.

All of it is written to the ledger, where whoever watches the instances finds it within a second. An instance's one-time
secret is an invitation like others, which the introduction spends; only its public half stays here.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import uuid4

from cryptography import x509

from handfast import introducers
from handfast.core.instancedata import OURS, InstanceData, check_instance_id
from handfast.core.instances import Instance, Mode, State, confirmed, existing, lasting, placed, released
from handfast.core.invitation import Address
from handfast.core.loopback import on_loopback
from handfast.core.names import machine_name
from handfast.core.records import INSTANCE, Invitation
from handfast.core.roles import Role
from handfast.errors import Refused, UsageError
from handfast.introducers import reintroduction, renewal
from handfast.registrar.administer import Administration, check_reason
from handfast.registrar.introduce import Registrar

PORT = 7575  # the original's


def managing(registrar: Registrar) -> Registrar:
    """
    Return the flow of managed machines: by their secrets, and then by what they hold, where others may do so too.

    It has no door: their controller brings the evidence, over connections that it has made and judged itself.
    """
    renewed = {name: registrar.introducers[name] for name in (renewal.NAME, reintroduction.NAME)}
    roles = {name: registrar.rules.methods.get(name, frozenset()) & {Role.AGENT} for name in renewed}
    return replace(
        registrar,
        introducers=introducers.known_for_instances() | renewed,
        rules=replace(registrar.rules, methods={INSTANCE: frozenset({Role.AGENT}), **roles}),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """
    What is said of a new instance. ``instance_id`` None is one of ours: the cloud's is not known yet.

    The agent listens at ``address``; or it ``dials`` the controller there; with neither, it listens at ``PORT``, and
    somebody says later where it is. ``needs_key`` demands that a person confirms its key first. The modes
    that are weaker than an introduction are bounded: without TLS on a loopback address only, and where anybody could
    call by its name no key is sent to it.
    """

    name: str
    lasting: timedelta
    instance_id: str | None = None
    address: Address | None = None
    dials: Address | None = None
    needs_key: bool = False
    mode: Mode = Mode.INTRODUCTION
    ours: str = field(default_factory=lambda: f"{OURS}{uuid4()}")


@dataclass(frozen=True, slots=True)
class Instances:
    """Acts on the ledger directly: whoever may open the data directory may do all of this. ``root`` is the pinned."""

    administration: Administration
    root: x509.Certificate

    def add(self, wanted: Wanted) -> tuple[InstanceData, Instance]:
        """
        Make an instance and its one-time secret, which is in what is returned first, and nowhere else.

        :raises UsageError: too short or too long a time, or both an address and one to dial; the registrar's own name;
            a mode that cannot be had so.
        :raises Malformed: a name or an id that is none. :raises Refused: there is an instance with this name.
        """
        if wanted.address is not None and wanted.dials is not None:
            raise UsageError(
                f"an instance that dials {wanted.dials} has no address: {wanted.address}", hint="say one of the two"
            )
        _check_mode(wanted)
        name, instance_id = machine_name(wanted.name), check_instance_id(wanted.instance_id or wanted.ours)
        made: list[Instance] = []

        def keep(made_out: Invitation) -> Future[None]:
            invitation = replace(made_out, method=INSTANCE)
            nowhere = wanted.address is None and wanted.dials is None
            made.append(
                Instance(
                    name=name,
                    instance_id=instance_id,
                    invitation=invitation.key_id,
                    deadline=invitation.expires_at,
                    since=invitation.created_at,
                    address=None if wanted.address is None else str(wanted.address),
                    dials=wanted.dials is not None,
                    needs_key=wanted.needs_key,
                    mode=wanted.mode,
                    state=State.PENDING if nowhere else State.WAITING,
                )
            )
            return self.administration.ledger.add_instance(made[0], invitation)

        line, _ = self.administration.invite(name, role=Role.AGENT, lasting=wanted.lasting, keep=keep)
        anywhere = "127.0.0.1" if wanted.mode is Mode.PLAIN else "::"
        listens = None if wanted.dials else Address(anywhere, wanted.address.port if wanted.address else PORT)
        return InstanceData(name, instance_id, self.root, line, listens=listens, dials=wanted.dials), made[0]

    def all(self) -> list[Instance]:
        """Return what lasts of every instance, by name."""
        return self.administration.ledger.instances()

    def one(self, name: str) -> Instance:
        """Return what lasts of an instance. :raises NotFound: there is none."""
        return existing(self.administration.ledger.instance(machine_name(name)), name)

    def until(self, instance: Instance) -> datetime | None:
        """Return the end of an instance's credential; None where it has none."""
        record = None if instance.serial is None else self.administration.ledger.credential(instance.serial)
        return None if record is None else record.not_after

    def place(self, name: str, address: Address) -> Instance:
        """
        Say where an instance listens.

        :raises NotFound: there is none. :raises Refused: it dials.
        """
        before, at = self.one(name), self.administration.clock.now()
        return self._change(before, placed(before, str(address), at=at), at=at)

    def confirm(self, name: str, key: bytes, *, by: str = "") -> Instance:
        """
        Say which key an instance has (SHA-256 of its SubjectPublicKeyInfo), ``by`` what shows it, for the log.

        :raises NotFound: there is none. :raises Refused: it is introduced with another key, or is quarantined.
        """
        before, at = self.one(name), self.administration.clock.now()
        return self._change(before, confirmed(before, key, at=at), at=at, why=by)

    def release(self, name: str, *, reason: str) -> Instance:
        """
        Have an instance tried again that has failed, after somebody has found out why.

        :raises UsageError: no reason. :raises NotFound: there is none.
        :raises Refused: it has not failed, or its secret is over.
        """
        check_reason(reason)
        before, at = self.one(name), self.administration.clock.now()
        return self._change(before, released(before, at=at), at=at, why=reason)

    def remove(self, name: str, *, reason: str) -> Instance:
        """
        Forget an instance, and take back all that it holds.

        :raises UsageError: no reason. :raises NotFound: there is none.
        """
        check_reason(reason)
        at = self.administration.clock.now()
        return self.administration.ledger.remove_instance(machine_name(name), reason=reason, at=at).result()

    def _change(self, before: Instance, after: Instance, *, at: datetime, why: str = "") -> Instance:
        kept = self.administration.ledger.change_instance(before, after, at=at, why=why).result()
        if lasting(kept) != lasting(after):
            raise Refused(f"{before.name!r} has changed at this moment: it is {kept.state.value}", hint="try again")
        return after


def _check_mode(wanted: Wanted) -> None:
    if wanted.mode is Mode.INTRODUCTION:
        return
    if wanted.dials is not None:
        raise UsageError(
            f"an instance that dials is not {wanted.mode.value}: anybody can call by its name",
            hint="its agent listens, or it is introduced",
        )
    if wanted.mode is Mode.PLAIN:
        if wanted.needs_key:
            raise UsageError(
                "an agent without TLS has no key to confirm", hint="leave out --require secret+fingerprint"
            )
        if wanted.address is not None:
            on_loopback(wanted.address, what="an agent without TLS")
