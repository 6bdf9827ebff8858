"""Every single lie in an answer with SSH certificates is found before one is kept; and how they are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.adapters.tls import newcomer_context
from handfast.core import sshleaf, transcript, wire
from handfast.core.chain import read_identity
from handfast.core.flow import HostGrant
from handfast.core.hosts import How, Place
from handfast.core.roles import Role
from handfast.core.sshcert import Kind
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import SshLeaf
from handfast.core.sshoptions import Critical
from handfast.core.sshsig import Signer
from handfast.errors import EvidenceRejected, PolicyRefused, TooMuch, UntrustedPeer
from handfast.newcomer import hostkeys
from handfast.newcomer.certificates import Certified, attempt, check_certificates, obtain
from handfast.newcomer.check import CLOCK_STEP
from handfast.newcomer.connection import Connection, Verified, verified
from handfast.server.limits import Limits
from tests.authority.helpers import DAY, NOW, Pki, grant, new_key
from tests.core.certmaterial import crafted
from tests.core.sshmaterial import new_key as ssh_keygen
from tests.core.sshmaterial import public
from tests.registrar.hosts import signer
from tests.server.running import Running, running

PKI = Pki.make()
REGISTRAR_KEY = new_key()
HOST_CA, USER_CA, OTHER = signer(90), signer(91), signer(92)
REQUEST = b"q" * 32
MINE = (signer(1), signer(2))
KEYS = tuple(each.public for each in MINE)


def registrar_leaf() -> x509.Certificate:
    """The certificate that the connection showed."""
    return PKI.leaf(grant(PKI.domain, Role.REGISTRAR, machine="registrar", public_key=REGISTRAR_KEY.public_key()))


LEAF = registrar_leaf()


class Nobody(Connection):
    """No connection: what is checked was said before."""

    def __init__(self) -> None:
        pass


CONNECTED = Verified(Nobody(), read_identity(LEAF), b"n" * 56, b"s" * 32, NOW, LEAF)


def leaf(key: SshKey = KEYS[0], **changes: Any) -> SshLeaf:
    """What a sound certificate holds."""
    sound = SshLeaf(
        kind=Kind.HOST,
        key=key,
        key_id="host web1",
        principals=("web1", "10.0.0.7"),
        valid_after=NOW - timedelta(minutes=5),
        valid_before=NOW + 7 * DAY,
    )
    return dataclasses.replace(sound, **changes)


def issued(key: SshKey = KEYS[0], *, ca: Signer = HOST_CA, serial: int = 4711, **changes: Any) -> bytes:
    """A certificate, sound but for the changes."""
    return sshleaf.issue(leaf(key, **changes), ca, serial=serial).blob


def bare(**changes: Any) -> bytes:
    """One for the second key that OpenSSH could make, and we would not."""
    algorithm = b"ssh-ed25519-cert-v01@openssh.com"
    return crafted(algorithm=algorithm, key=KEYS[1], ca=HOST_CA, **changes)


@dataclasses.dataclass(frozen=True)
class Told:
    """What the registrar says, signed with its key; ``after`` is changed on the way."""

    certificates: tuple[bytes, ...] = dataclasses.field(default_factory=lambda: tuple(map(issued, KEYS)))
    host_ca: bytes = HOST_CA.public.blob
    user_ca: bytes = USER_CA.public.blob
    time: str = NOW.isoformat()
    request: bytes = REQUEST
    signer: ec.EllipticCurvePrivateKey = REGISTRAR_KEY
    after: dict[str, Any] = dataclasses.field(default_factory=dict)

    def answer(self) -> wire.CertificatesAnswer:
        """The message."""
        content = transcript.certificates(self.certificates, host_ca=self.host_ca, user_ca=self.user_ca)
        digest = transcript.answer(self.request, content, (b"root",), self.time)
        fields: dict[str, Any] = {
            "certificates": list(self.certificates),
            "host_ca": self.host_ca,
            "user_ca": self.user_ca,
            "trust": [b"root"],
            "time": self.time,
            "signature": self.signer.sign(digest, ec.ECDSA(hashes.SHA256())),
        }
        return wire.CertificatesAnswer(**(fields | self.after))


def checked(told: Told, *, kind: Kind = Kind.HOST, principals: tuple[str, ...] = ()) -> Certified:
    """Check it as this machine does."""
    return check_certificates(told.answer(), CONNECTED, request=REQUEST, keys=KEYS, kind=kind, principals=principals)


@pytest.mark.parametrize("principals", [(), ("web1", "10.0.0.7"), ("10.0.0.7", "web1")])
def test_what_was_asked_for_is_kept(principals: tuple[str, ...]) -> None:
    """Certificates in the order of the keys, and both CAs, known by the pin that knows the registrar."""
    got = checked(Told(), principals=principals)
    assert [each.key for each in got.certificates] == list(KEYS)
    assert (got.host_ca, got.user_ca, got.time) == (HOST_CA.public, USER_CA.public, NOW)


def test_a_user_s_by_the_user_ca_wherever_it_may_be_used() -> None:
    """From which network is sshd's to judge."""
    from ipaddress import ip_network

    narrow = Critical(None, (ip_network("10.0.0.0/8"),))
    users = tuple(issued(key, ca=USER_CA, kind=Kind.USER, principals=("ann",), critical=narrow) for key in KEYS)
    assert checked(Told(users), kind=Kind.USER, principals=("ann",)).certificates[0].principals == ("ann",)


FIRST, SECOND = (issued(key) for key in KEYS)
LIES: dict[str, tuple[Callable[[], Told], str]] = {
    "signed by another key": (lambda: Told(signer=new_key()), "signature does not fit"),
    "for another request": (lambda: Told(request=bytes(32)), "signature does not fit"),
    "a host CA put in on the way": (lambda: Told(after={"host_ca": OTHER.public.blob}), "signature does not fit"),
    "a user CA put in on the way": (lambda: Told(after={"user_ca": OTHER.public.blob}), "signature does not fit"),
    "the CAs swapped": (
        lambda: Told(after={"host_ca": USER_CA.public.blob, "user_ca": HOST_CA.public.blob}),
        "signature does not fit",
    ),
    "a certificate put in on the way": (lambda: Told(after={"certificates": [SECOND, FIRST]}), "does not fit"),
    "a root put in on the way": (lambda: Told(after={"trust": []}), "signature does not fit"),
    "the time moved on the way": (lambda: Told(after={"time": (NOW + DAY).isoformat()}), "signature does not fit"),
    "an old answer": (lambda: Told(time=(NOW - CLOCK_STEP * 2).isoformat()), "clock moved"),
    "no certificate": (lambda: Told(()), "got those of none"),
    "one too few": (lambda: Told((FIRST,)), "asked for certificates of"),
    "one too many": (lambda: Told((FIRST, SECOND, FIRST)), "asked for certificates of"),
    "in another order": (lambda: Told((SECOND, FIRST)), "asked for certificates of"),
    "for another key": (lambda: Told((FIRST, issued(OTHER.public))), "asked for certificates of"),
    "garbage": (lambda: Told((FIRST, b"garbage")), "no readable SSH certificate"),
    "no CA": (lambda: Told(host_ca=b""), "no readable SSH certificate"),
    "one CA for both": (lambda: Told(user_ca=HOST_CA.public.blob), "with one key"),
    "by another CA": (lambda: Told((FIRST, issued(KEYS[1], ca=OTHER))), "its authority"),
    "by the user CA": (lambda: Told((FIRST, issued(KEYS[1], ca=USER_CA))), "its authority"),
    "a user's": (lambda: Told((FIRST, issued(KEYS[1], kind=Kind.USER))), "it is a user certificate"),
    "not valid yet": (
        lambda: Told((FIRST, issued(KEYS[1], valid_after=NOW + timedelta(seconds=1)))),
        "it is not valid before",
    ),
    "over": (lambda: Told((FIRST, issued(KEYS[1], valid_before=NOW))), "it has expired"),
    "without a serial": (lambda: Told((FIRST, bare(serial=0))), "has no serial"),
    "for nobody by name": (lambda: Told((FIRST, bare(principals=()))), "for nobody"),
    "changed after it was signed": (lambda: Told((FIRST, SECOND[:-1] + bytes([SECOND[-1] ^ 1]))), "does not fit"),
}


@pytest.mark.parametrize("lie", LIES)
def test_P5_a_lie_is_found(lie: str) -> None:
    """Whatever of it is wrong, nothing is returned."""
    told, match = LIES[lie]
    with pytest.raises(UntrustedPeer, match=match):
        checked(told())


@pytest.mark.parametrize("wished", [("web1",), ("web1", "10.0.0.7", "www"), ("www",)])
def test_other_names_than_wished(wished: tuple[str, ...]) -> None:
    """Neither more nor fewer."""
    with pytest.raises(UntrustedPeer, match="asked for an SSH certificate for"):
        checked(Told(), principals=wished)


# --- over a real connection ---


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registrar with the default limits."""
    with running(tmp_path_factory.mktemp("registrar") / "data") as started:
        yield started


def register(registrar: Running, *keys: Signer, machine: str = "web1.lan") -> None:
    """Host keys that are known."""
    known = tuple(each.public for each in keys)
    grant = HostGrant(machine, known, How.INVITATION, "", Place((machine,)))
    registrar.service.ledger.register(grant, None, at=registrar.clock.now()).result()


@contextmanager
def connected(registrar: Running) -> Iterator[Verified]:
    """A connection on which the registrar has proved itself."""
    pin, addresses = registrar.service.authority.pin, registrar.ready.addresses
    with verified(addresses, newcomer_context(), pin=pin, judge=lambda _claimed: datetime.now(UTC)) as made:
        yield made


def ask(registrar: Running, signers: Sequence[Signer]) -> tuple[list[SshKey], list[str]]:
    """Which keys get a certificate, and what is remarked."""
    remarks: list[str] = []
    with connected(registrar) as connection:
        pin = registrar.service.authority.pin
        got = obtain(connection, signers, pin=pin, remark=remarks.append)
    return [each.key for each in got.certificates], remarks


def test_every_known_key_has_one_in_one_request(registrar: Running) -> None:
    """In the order asked."""
    register(registrar, signer(31), signer(32))
    assert ask(registrar, (signer(32), signer(31))) == ([signer(32).public, signer(31).public], [])


def test_one_that_was_retired_costs_the_others_nothing(registrar: Running) -> None:
    """It is told by name, with the registrar's reason; the rest are certified."""
    register(registrar, signer(33), signer(34), machine="web2.lan")
    registrar.service.host_keys.retire("web2.lan", signer(34).public.fingerprint, reason="stolen")
    keys, remarks = ask(registrar, (signer(33), signer(34)))
    assert keys == [signer(33).public]
    fingerprint = signer(34).public.fingerprint
    assert remarks == [f"no certificate for the SSH host key {fingerprint}: the evidence was not accepted"]


def test_where_none_is_certified_the_reasons_are_those_for_all(registrar: Running) -> None:
    """And who has to go on without is given them once, and told nothing besides."""
    register(registrar, signer(35), signer(36), machine="web3.lan")
    for number in (35, 36):
        (serial,) = [each.serial for each in certified(registrar, signer(number))]
        registrar.service.ledger.revoke_ssh(serial, reason="keyCompromise", at=registrar.clock.now()).result()
    with pytest.raises(PolicyRefused) as caught:
        ask(registrar, (signer(35), signer(36)))
    assert len(caught.value.reasons) == 2
    remarks: list[str] = []
    with connected(registrar) as connection:
        pin = registrar.service.authority.pin
        why = attempt(connection, (signer(35), signer(36)), pin=pin, remark=remarks.append)
    assert isinstance(why, PolicyRefused)
    assert why.reasons == caught.value.reasons
    assert remarks == []


def certified(registrar: Running, one: Signer) -> tuple[Any, ...]:
    """What it has."""
    with connected(registrar) as connection:
        return obtain(connection, (one,), pin=registrar.service.authority.pin).certificates


def test_a_stranger_gets_nothing(registrar: Running) -> None:
    """And hears why in no more than a word, and once where to look, whether one key asks or two."""
    for keys in ((signer(39),), (signer(38), signer(39))):
        remarks: list[str] = []
        with connected(registrar) as connection:
            why = attempt(connection, keys, pin=registrar.service.authority.pin, remark=remarks.append)
        assert isinstance(why, EvidenceRejected)
        assert (why.message, remarks) == ("the evidence was not accepted", [])
        assert why.hint == "the registrar's log says why; if this machine's SSH host keys are new, join again"


def test_too_often_is_not_asked_again_for_each(tmp_path: Path) -> None:
    """A registrar that is tired of us is not asked once more for every key."""
    limits = Limits(introductions=0.001, introductions_burst=1)
    with running(tmp_path / "data", limits=limits) as registrar:
        register(registrar, signer(1), signer(2))
        ask(registrar, (signer(1), signer(2)))
        with pytest.raises(TooMuch):
            ask(registrar, (signer(1), signer(2)))


def test_where_each_key_is(tmp_path: Path) -> None:
    """By its private half, whatever the file is called and whatever lies beside; what is no key is passed over."""
    keys = [ssh_keygen(tmp_path, kind).rename(tmp_path / f"ssh_host_{kind}_key") for kind in ("ed25519", "p256")]
    for kind in ("ed25519", "p256"):
        (tmp_path / f"{kind}.pub").rename(tmp_path / f"ssh_host_{kind}_key.pub")
    odd = tmp_path / "ssh_host_odd_key"
    odd.write_text("no key")
    odd.chmod(0o600)
    assert hostkeys.located(tmp_path) == {public(path): path for path in keys}
