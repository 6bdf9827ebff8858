"""SSH certificates through their flow: what they say, when they are the same again, and who is refused, on record."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from handfast import introducers
from handfast.authority.sshsign import SshSigner
from handfast.core import sshcert, transcript
from handfast.core.flow import Channel, Evidence, SshAnswer, SshFinding
from handfast.core.hosts import How
from handfast.core.ports import Ledger
from handfast.core.ssh_ports import SshAuthority
from handfast.core.sshcert import Kind, SshCertificate
from handfast.core.sshsig import Signer
from handfast.errors import EvidenceRejected, NotFound, PolicyRefused, Refused, TooMuch
from handfast.introducers import ssh_pop
from handfast.policy.rules import CertificateRules, HostRules, Rules
from handfast.registrar.certify import Certifier
from tests.registrar.hosts import believed, check_log, host_of, operator, renew, signer, ssh
from tests.registrar.house import HOUR, NOW, Crash, Faulty, House, Newcomer, crash

DAY = timedelta(days=1)
WEEK = 7 * DAY


def certifier(house: House, *, ledger: Any = None, authority: Any = None) -> Certifier:
    """The flow, over these or over parts that misbehave."""
    signs = SshSigner.of(house.authority)
    return Certifier(
        introducers.known_for_certificates(),
        house.rules,
        cast(Ledger, ledger or house.ledger),
        house.authority,
        cast(SshAuthority, authority or signs),
        house.context,
    )


def asking(house: House, signers: Sequence[Signer], *principals: str) -> tuple[Evidence, bytes]:
    """Evidence of host keys, and the digest that they signed."""
    body, signed = ssh_pop.present(
        signers,
        pin=house.authority.pin,
        nonce=house.context.new_nonce(),
        server_spki=house.tls.spki,
        principals=principals,
    )
    return Evidence("ssh-pop", body, Channel(house.tls.spki)), signed


def certify(house: House, *keys: int, principals: tuple[str, ...] = (), flow: Certifier | None = None) -> SshAnswer:
    """Ask once, and check the registrar's proof."""
    evidence, signed = asking(house, tuple(map(signer, keys)), *principals)
    answer = asyncio.run((flow or certifier(house)).certify(evidence, house.tls))
    check_proof(house, answer, signed)
    return answer


def check_proof(house: House, answer: SshAnswer, signed: bytes) -> None:
    """The TLS key signed this request, these certificates, both CAs, roots and time. :raises InvalidSignature:"""
    issued = tuple(each.certificate for each in answer.credentials)
    content = transcript.certificates(issued, host_ca=answer.host_ca.blob, user_ca=answer.user_ca.blob)
    digest = transcript.answer(signed, content, answer.trust, answer.time.isoformat())
    house.tls.key.public_key().verify(answer.proof, digest, ec.ECDSA(hashes.SHA256()))


def read(answer: SshAnswer) -> list[SshCertificate]:
    """The certificates in an answer."""
    return [sshcert.read(each.certificate) for each in answer.credentials]


def joined(house: House, *keys: int, machine: str = "web1.lan", sans: tuple[str, ...] = ("10.0.0.7",)) -> Newcomer:
    """A machine whose host keys are known by its invitation."""
    who = Newcomer()
    house.join(house.invite(machine, sans=sans), who, host=ssh(*keys))
    return who


def refused(house: House, *keys: int, principals: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Why policy says no; it is on record, and nothing else is."""
    before = len(house.kinds())
    with pytest.raises(PolicyRefused) as caught:
        certify(house, *keys, principals=principals)
    added = house.ledger.events()[before:]
    assert [event.kind for event in added] == ["introduction.refused"]
    assert added[0].fields["method"] == "ssh-pop"
    assert added[0].fields["code"] == "policy-refused"
    return caught.value.reasons


# --- what is issued ---


def test_a_machine_that_has_joined_is_certified(house: House) -> None:
    """Each key has a certificate by the host CA, for the machine's names, on record before it was signed."""
    joined(house, 1, 2)
    before = len(house.kinds())
    answer = certify(house, 1, 2)
    for made, number in zip(read(answer), (1, 2), strict=True):
        assert (made.key, made.kind, made.key_id) == (signer(number).public, Kind.HOST, "host web1.lan")
        sshcert.verify(made, authorities=[answer.host_ca], kind=Kind.HOST, principal="10.0.0.7", at=NOW)
        assert set(made.principals) == {"web1.lan", "10.0.0.7"}
        assert made.valid_before == NOW.replace(microsecond=0) + WEEK
        record = house.ledger.ssh_certificate(made.serial)
        assert record is not None
        assert (record.certificate, record.holder, record.status(NOW)) == (made.blob, "web1.lan", "valid")
    assert house.kinds()[before:] == ["sshcert.intended"] * 2 + ["sshcert.issued"] * 2
    assert len({each.serial for each in read(answer)}) == 2
    check_log(house)


def test_asked_again_it_is_the_same_until_it_is_old(house: House) -> None:
    """The same certificate and nothing on record, as long as half of its life is left; then another one."""
    joined(house, 1)
    first, events = read(certify(house, 1)), house.kinds()
    house.clock.time += 3 * DAY
    assert read(certify(house, 1)) == first
    assert house.kinds() == events
    house.clock.time += DAY
    assert read(certify(house, 1))[0].serial != first[0].serial


def test_fewer_names_are_another_certificate(house: House) -> None:
    """Who wishes some of the machine's names gets these alone."""
    joined(house, 1)
    assert read(certify(house, 1, principals=("10.0.0.7",)))[0].principals == ("10.0.0.7",)
    assert refused(house, 1, principals=("10.0.0.8",)) == (
        "not entitled to the names 10.0.0.8 (only web1.lan, 10.0.0.7)",
    )


def test_rekey_a_known_key_brings_a_new_one(house: House) -> None:
    """It is recorded in the transaction of the certificate, and falls when the key that vouched for it is retired."""
    joined(house, 1)
    made = read(certify(house, 1, 2))
    assert [each.key for each in made] == [signer(1).public, signer(2).public]
    assert believed(house) == {1, 2}
    assert [(each.how, each.detail) for each in host_of(house).keys if each.key == signer(2).public] == [
        (How.HOSTKEYS_PROVE, f"vouched for by {signer(1).public.fingerprint} (ssh-pop)")
    ]
    operator(house).retire("web1.lan", signer(1).public.fingerprint, reason="it was stolen")
    assert believed(house) == set()
    for each in made:
        record = house.ledger.ssh_certificate(each.serial)
        assert record is not None
        assert record.status(NOW) == "revoked"
    with pytest.raises(EvidenceRejected):
        certify(house, 2)
    check_log(house)


def test_a_key_an_operator_entered_is_certified_and_brings_no_other(house: House) -> None:
    """His word is for that key."""
    host_keys = operator(house)
    host_keys.register("web1.lan", (signer(1).public,), how=How.OPERATOR, detail="")
    assert read(certify(house, 1))[0].extensions == (("evidence@handfast", b"operator reported"),)
    (reason,) = refused(house, 1, 2)
    assert reason == f"{signer(2).public.fingerprint}: new, and vouched for by no key that is known as proved"


def test_after_its_end_it_comes_back_within_the_limit(house: House) -> None:
    """A month after the last certificate ended, and no credential since, somebody has to vouch for it anew."""
    joined(house, 1)
    certify(house, 1)
    house.clock.time += WEEK + house.rules.return_within
    late = house.clock.time + timedelta(seconds=1)
    assert certify(house, 1).credentials
    house.clock.time = late + WEEK + house.rules.return_within
    (reason,) = refused(house, 1)
    assert "ended over 30d ago, and nothing came since" in reason
    house.join(house.invite("web1.lan", sans=("10.0.0.7",)), Newcomer(), host=ssh(1))
    assert certify(house, 1).credentials


def test_the_rules_of_today_count(house: House) -> None:
    """What was certified under others is renewed under these, or not at all."""
    joined(house, 1)
    certify(house, 1)
    both = frozenset({How.INVITATION, How.SSH_HOSTKEY})
    rules = HostRules(frozenset(How), certificates=CertificateRules(require=(both,), lifetime=HOUR))
    house.rules = dataclasses.replace(house.rules, ssh=rules)
    house.clock.time += 6 * DAY
    assert refused(house, 1) == (
        f"{signer(1).public.fingerprint} is known by invitation only; needed: invitation and ssh-hostkey",
    )


# --- who is refused ---


def test_P2_who_is_not_known_leaves_no_trace(house: House) -> None:
    """A stranger's evidence writes nothing."""
    joined(house, 1)
    before = house.kinds()
    with pytest.raises(EvidenceRejected):
        certify(house, 5)
    assert house.kinds() == before


def test_P2_a_removed_machine_gets_nothing_and_has_nothing(house: House) -> None:
    """What it had is revoked at once, and its keys speak for nobody."""
    joined(house, 1)
    (made,) = read(certify(house, 1))
    operator(house).remove("web1.lan", reason="gone")
    record = house.ledger.ssh_certificate(made.serial)
    assert record is not None
    assert record.status(NOW) == "revoked"
    with pytest.raises(EvidenceRejected):
        certify(house, 1)


def test_P2_an_address_that_is_another_s_now(house: House) -> None:
    """The machine's certificate for it is revoked, and the next one is for what is left."""
    joined(house, 1)
    (made,) = read(certify(house, 1))
    joined(house, 2, machine="db1.lan")
    record = house.ledger.ssh_certificate(made.serial)
    assert record is not None
    assert record.status(NOW) == "revoked"
    assert read(certify(house, 1))[0].principals == ("web1.lan",)
    assert set(read(certify(house, 2))[0].principals) == {"db1.lan", "10.0.0.7"}


def test_P2_a_retired_key_does_not_come_back_by_another(house: House) -> None:
    """It lies on the machine still, and signs still."""
    joined(house, 1, 2)
    operator(house).retire("web1.lan", signer(2).public.fingerprint, reason="it was stolen")
    (reason,) = refused(house, 1, 2)
    assert reason == f"{signer(2).public.fingerprint} was retired: only an operator brings it back"
    assert certify(house, 1).credentials


def test_P2_a_clone_has_no_part_in_it(house: House) -> None:
    """Two machines' keys in one request are nobody's."""
    joined(house, 1)
    joined(house, 2, machine="db1.lan", sans=())
    with pytest.raises(EvidenceRejected, match="of 2 machines"):
        certify(house, 1, 2)


def test_another_method_is_not_here(house: House) -> None:
    """Only what the configuration enables."""
    evidence, _ = asking(house, (signer(1),))
    with pytest.raises(NotFound, match="no way 'renewal' to SSH certificates here"):
        asyncio.run(certifier(house).certify(dataclasses.replace(evidence, method="renewal"), house.tls))


def test_what_is_proved_is_admitted_before_it_is_decided(house: House) -> None:
    """Who comes too often is refused before the ledger is asked to write."""
    joined(house, 1)
    before, seen = house.kinds(), list[SshFinding]()

    def admit(finding: SshFinding) -> None:
        seen.append(finding)
        raise TooMuch("too often")

    evidence, _ = asking(house, (signer(1),))
    with pytest.raises(TooMuch):
        asyncio.run(certifier(house).certify(evidence, house.tls, admit=admit))
    assert [each.subject for each in seen] == ["web1.lan"]
    assert house.kinds() == before


def test_a_proof_is_for_one_request(house: House) -> None:
    """The answer to one does not fit another: not the certificates, and not the CAs."""
    joined(house, 1)
    evidence, signed = asking(house, (signer(1),))
    answer = asyncio.run(certifier(house).certify(evidence, house.tls))
    check_proof(house, answer, signed)
    swapped = dataclasses.replace(answer, host_ca=answer.user_ca, user_ca=answer.host_ca)
    for wrong, digest in (
        (swapped, signed),
        (answer, bytes(32)),
        (dataclasses.replace(answer, credentials=()), signed),
    ):
        with pytest.raises(InvalidSignature):
            check_proof(house, wrong, digest)


# --- crashes ---


@pytest.mark.parametrize(
    ("part", "method"), [("ledger", "intend_ssh"), ("authority", "certify"), ("ledger", "issued_ssh")]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_P4_a_crash_anywhere_is_mended_by_asking_again(house: House, part: str, method: str, when: str) -> None:
    """No certificate exists that the ledger does not know, and who asks again has one, sound and on record."""
    joined(house, 1)
    real: Any = house.ledger if part == "ledger" else SshSigner.of(house.authority)
    faulty: Any = Faulty(real, method, before=crash) if when == "before" else Faulty(real, method, after=crash)
    flow = certifier(house, **{part: faulty})
    with pytest.raises(Crash):
        certify(house, 1, flow=flow)
    (made,) = read(certify(house, 1))
    record = house.ledger.ssh_certificate(made.serial)
    assert record is not None
    assert record.certificate == made.blob
    issued = [each for each in house.ledger.ssh_certificates() if each.certificate is not None]
    assert [each.serial for each in issued] == [made.serial]
    check_log(house)


def test_a_rotation_by_renewal_is_followed(house: House) -> None:
    """A machine that renews with other host keys has certificates for those, and the old ones' are revoked."""
    who = Newcomer()
    answer = house.join(house.invite("web1.lan", sans=("10.0.0.7",)), who, host=ssh(1, 2))
    gone, stays = read(certify(house, 1, 2))
    renew(house, who, answer, ssh(2, 3))
    assert [each.key for each in read(certify(house, 2, 3))] == [signer(2).public, signer(3).public]
    states = [house.ledger.ssh_certificate(each.serial) for each in (gone, stays)]
    assert [each.status(NOW) for each in states if each is not None] == ["revoked", "valid"]
    with pytest.raises(Refused):
        certify(house, 1)


def test_defaults_need_no_configuration() -> None:
    """Certificates are for every key that counts, for a week; a person looks where the network alone says it."""
    rules = Rules().ssh.certificates
    assert (rules.require, rules.lifetime, rules.user_lifetime) == ((), WEEK, timedelta(hours=16))
    assert rules.approve == {How.SSH_HOSTKEY, How.X5C}
    assert (rules.users, rules.patterns) == ((), ())
