"""An SSH certificate that is taken back by its own key, through the registrar's flow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from handfast.authority.sshsign import SshSigner
from handfast.core.flow import Channel, Evidence
from handfast.core.records import SshRecord
from handfast.errors import EvidenceRejected, Revoked
from handfast.introducers import ssh_pop
from tests.registrar.hosts import signer
from tests.registrar.house import NOW, Faulty, House
from tests.registrar.test_certify import certifier, certify, joined, read, refused


def take_back(house: House, serial: int, by: int = 1, reason: str = "keyCompromise") -> SshRecord:
    """The key takes its certificate back."""
    body = ssh_pop.present_revocation(
        signer(by),
        serial=serial,
        reason=reason,
        pin=house.authority.pin,
        nonce=house.context.new_nonce(),
        server_spki=house.tls.spki,
    )
    return asyncio.run(certifier(house).revoke(Evidence("ssh-revoke", body, Channel(house.tls.spki))))


def test_a_key_takes_its_certificate_back_and_gets_no_other(house: House) -> None:
    """The serial is on the next list; whoever has the key has nothing of it, and is told why."""
    joined(house, 1, 2)
    (made,) = read(certify(house, 1))
    assert take_back(house, made.serial).serial == made.serial
    assert house.ledger.publish_krl("test", at=NOW).result().hosts == (made.serial,)
    (reason,) = refused(house, 1)
    assert f"certificate {made.serial} of {signer(1).public.fingerprint} was revoked (keyCompromise)" in reason
    before = house.kinds()
    assert take_back(house, made.serial, reason="unspecified").serial == made.serial  # asked again: nothing happens
    assert house.kinds() == before
    assert certify(house, 2).credentials


def test_what_is_only_superseded_has_a_successor(house: House) -> None:
    """Whoever says that the key is sound gets the next certificate for it."""
    joined(house, 1)
    (made,) = read(certify(house, 1))
    take_back(house, made.serial, reason="superseded")
    assert read(certify(house, 1))[0].serial != made.serial


def test_P2_nobody_else_takes_it_back(house: House) -> None:
    """Not with another key of the same machine, and not a certificate that is not ours."""
    joined(house, 1, 2)
    (made,) = read(certify(house, 1))
    for serial, by in ((made.serial, 2), (made.serial + 1, 1)):
        with pytest.raises(EvidenceRejected):
            take_back(house, serial, by)
    record = house.ledger.ssh_certificate(made.serial)
    assert record is not None
    assert record.revoked_at is None


def test_taken_back_by_two_at_once(house: House) -> None:
    """Who is second is told the same as who was first."""
    joined(house, 1)
    (made,) = read(certify(house, 1))

    class Late:
        """A ledger in which it was revoked a moment ago."""

        def __getattr__(self, name: str) -> Any:
            return getattr(house.ledger, name)

        def revoke_ssh(self, *args: Any, **kwargs: Any) -> Any:
            house.ledger.revoke_ssh(*args, **kwargs).result()
            return house.ledger.revoke_ssh(*args, **kwargs)

    body = ssh_pop.present_revocation(
        signer(1),
        serial=made.serial,
        reason="keyCompromise",
        pin=house.authority.pin,
        nonce=house.context.new_nonce(),
        server_spki=house.tls.spki,
    )
    flow = certifier(house, ledger=Late())
    assert asyncio.run(flow.revoke(Evidence("ssh-revoke", body, Channel(house.tls.spki)))).serial == made.serial


def test_revoked_between_intent_and_answer(house: House) -> None:
    """Then nothing is delivered."""
    joined(house, 1)

    def revoke() -> None:
        (open_,) = house.ledger.ssh_certificates()
        house.ledger.revoke_ssh(open_.serial, reason="keyCompromise", at=NOW).result()

    with pytest.raises(Revoked):
        certify(house, 1, flow=certifier(house, authority=Faulty(SshSigner.of(house.authority), "certify", revoke)))
