"""What became of a host key before, through the registrar's flow: what a thief, or an old disk, cannot make of it."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import timedelta

import pytest

from handfast.authority.sshsign import SshSigner
from handfast.core.flow import HostFinding
from handfast.core.hosts import How, Place
from handfast.core.sshcert import Kind
from handfast.errors import PolicyRefused, TooMuch
from handfast.policy.hosts import decide_host
from handfast.policy.rules import HostRules
from tests.registrar.hosts import believed, check_log, operator, renew, signer, ssh
from tests.registrar.house import HOUR, NOW, House, Newcomer
from tests.registrar.test_certify import DAY, certify, joined, read, refused
from tests.ssh import certified


def log_in(house: House, key: int) -> None:
    """Somebody has a login certified for this key."""
    signs = SshSigner.of(house.authority)
    certified.certify(house.ledger, signs, "mallory", signer(key).public, kind=Kind.USER, at=house.clock.now())


def shown(house: House, key: int) -> None:
    """What a host-key challenge has recorded."""
    place = Place.parse(("vm.test", "198.51.100.7"))
    finding = HostFinding("vm.test", (signer(key).public,), How.SSH_HOSTKEY, "", None, place, complete=False)
    grant = decide_host(finding, house.rules, known=house.ledger.host("vm.test"))
    house.ledger.register(grant, None, at=house.clock.now()).result()


def test_P17_distrust_outlives_renewals_and_other_certificates(house: House) -> None:
    """The honest machine's own timer renews, and whoever has the key logs in with it: the key stays barred."""
    who = Newcomer()
    answer = house.join(house.invite("web1.lan"), who, host=ssh(1))
    (made,) = read(certify(house, 1))
    house.administration.revoke_ssh(str(made.serial), reason="keyCompromise")
    for _ in range(21):
        house.clock.time += timedelta(minutes=1)
        log_in(house, 1)
    house.clock.time += HOUR
    renew(house, who, answer, ssh(1))
    house.join(house.invite("web1.lan"), Newcomer(), host=ssh(1))
    for asked in ((1,), (1, 2)):  # nor does it bring another one
        reasons = refused(house, *asked)
        assert reasons[0].startswith(f"certificate {made.serial} of {signer(1).public.fingerprint} was revoked")
    assert believed(house) == {1}
    operator(house).retire("web1.lan", signer(1).public.fingerprint, reason="looked at")
    operator(house).register("web1.lan", (signer(1).public,), how=How.OPERATOR, detail="it is sound")
    assert certify(house, 1).credentials
    check_log(house)


def test_P17_a_service_s_renewal_says_nothing_of_an_old_host_key(house: House) -> None:
    """Nor does a login with it: only a credential for which the key has signed too lets it come back."""
    who = Newcomer()
    answer = house.join(house.invite("web1.lan"), who, host=ssh(1, 2))
    certify(house, 1)  # and then it lies in a backup
    for _ in range(50):
        house.clock.time += DAY - HOUR
        who, answer = renew(house, who, answer, None)
    log_in(house, 1)
    (reason,) = refused(house, 1)
    assert "ended over 30d ago, and nothing came since" in reason
    who, answer = renew(house, who, answer, ssh(1, 2))
    assert certify(house, 1).credentials
    house.clock.time += 38 * DAY
    for _ in range(21):  # however many logins came after its last certificate
        log_in(house, 1)
    assert "nothing came since" in refused(house, 1)[0]


def test_P17_a_credential_that_was_revoked_vouches_for_nothing(house: House) -> None:
    """Its host keys are left, as another one stands, and have to come by that."""
    joined(house, 1)
    certify(house, 1)
    house.clock.time += 40 * DAY
    answer = house.join(house.invite("web1.lan"), Newcomer(), host=ssh(1))
    house.join(house.invite("web1.lan"), Newcomer())
    house.administration.revoke(f"{answer.credential.serial:032x}", reason="keyCompromise")
    assert "nothing came since" in refused(house, 1)[0]


def test_P17_what_was_shown_once_is_not_renewed_for_ever(house: House) -> None:
    """In a year the address is somebody else's: 30 days after it was shown last, it has to be shown again."""
    house.rules = dataclasses.replace(house.rules, ssh=HostRules(frozenset(How) - {How.SCAN}))
    shown(house, 1)
    for _ in range(4):
        assert certify(house, 1).credentials
        house.clock.time += 7 * DAY
    shown(house, 1)
    for _ in range(4):
        house.clock.time += 7 * DAY
        assert certify(house, 1).credentials
    house.clock.time += 3 * DAY
    with pytest.raises(PolicyRefused) as caught:
        certify(house, 1, principals=("vm.test",))
    why = f"{signer(1).public.fingerprint} is known by ssh-hostkey only, which is good for 30d: show it again"
    assert caught.value.reasons == (why,)
    shown(house, 1)
    assert certify(house, 1).credentials
    check_log(house)


def test_P33_whoever_has_a_key_cannot_flood_the_list(house: House) -> None:
    """Each choice of a machine's names would be one more certificate, and one more serial to be revoked."""
    joined(house, 1, sans=tuple(f"10.0.0.{number}" for number in range(1, 8)))
    names = [f"10.0.0.{number}" for number in range(1, 8)]
    chosen = itertools.combinations(names, 3)
    for wanted in itertools.islice(chosen, 10):
        certify(house, 1, principals=wanted)
    with pytest.raises(TooMuch, match="had 10 certificates of late"):
        certify(house, 1, principals=next(chosen))
    operator(house).remove("web1.lan", reason="gone")
    assert len(house.ledger.publish_krl("test", at=NOW).result().hosts) == 10
    check_log(house)


def test_P33_renewals_that_bring_ever_new_host_keys_end(house: House) -> None:
    """Each retires those of before, which stay on the list for good."""
    who = Newcomer()
    answer = house.join(house.invite("web1.lan"), who, host=ssh(1))
    for step in range(3):
        house.clock.time += HOUR
        keys = ssh(1, *range(100 + 31 * step, 131 + 31 * step))
        who, answer = renew(house, who, answer, keys)
    house.clock.time += HOUR
    with pytest.raises(TooMuch, match="would have retired over 64 host keys within a day"):
        renew(house, who, answer, ssh(1, *range(200, 231)))
    assert len(house.ledger.publish_krl("test", at=NOW).result().digests) == 62
    who, answer = renew(house, who, answer, None)  # it costs no credential
    check_log(house)
