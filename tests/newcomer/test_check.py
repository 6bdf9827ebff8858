"""Every single lie in an answer is found before anything is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import wire
from handfast.core.flow import Wish
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.core.transcript import answer as answer_transcript
from handfast.errors import UntrustedPeer
from handfast.newcomer.check import CLOCK_STEP, Checked, check_answer
from tests.authority.helpers import DAY, HOUR, NOW, Pki, grant, new_key
from tests.newcomer.fake import der

PKI, OTHER = Pki.make(), Pki.make()
KEY, REGISTRAR_KEY = new_key(), new_key()
REGISTRAR = PKI.leaf(grant(PKI.domain, Role.REGISTRAR, machine="registrar", public_key=REGISTRAR_KEY.public_key()))
NAMES = ("web1.home.lan", "10.0.0.7")
WISH = Wish(Role.SERVER, Names.parse(NAMES))
REQUEST = b"q" * 32


def leaf(pki: Pki = PKI, role: Role = Role.SERVER, **changes: Any) -> x509.Certificate:
    """An honest leaf for our key, with changes."""
    options: dict[str, Any] = {"names": NAMES, "public_key": KEY.public_key()} | changes
    return pki.leaf(grant(pki.domain, role, **options))


@dataclasses.dataclass(frozen=True)
class Told:
    """What the registrar says, signed with its key; ``after`` is changed on the way."""

    certificate: x509.Certificate = dataclasses.field(default_factory=leaf)
    chain: tuple[bytes, ...] = tuple(der(PKI.issuing))
    trust: tuple[bytes, ...] = tuple(der(PKI.root))
    time: str = NOW.isoformat()
    request: bytes = REQUEST
    signer: ec.EllipticCurvePrivateKey = REGISTRAR_KEY
    after: dict[str, Any] = dataclasses.field(default_factory=dict)

    def answer(self) -> wire.IntroductionAnswer:
        """The message."""
        certificate = self.certificate.public_bytes(Encoding.DER)
        digest = answer_transcript(self.request, certificate, self.trust, self.time)
        signature = self.signer.sign(digest, ec.ECDSA(hashes.SHA256()))
        fields: dict[str, Any] = {
            "certificate": certificate,
            "chain": list(self.chain),
            "trust": list(self.trust),
            "time": self.time,
            "signature": signature,
        }
        return wire.IntroductionAnswer(**(fields | self.after))


def checked(told: Told, *, wish: Wish = WISH, registrar: x509.Certificate = REGISTRAR, **changes: Any) -> Checked:
    """Check it as the newcomer does."""
    expected: dict[str, Any] = {
        "signed_time": NOW,
        "request": REQUEST,
        "hello_time": NOW,
        "public_key": KEY.public_key(),
        "pin": PKI.pin,
        "trust_domain": PKI.domain,
    }
    return check_answer(told.answer(), registrar_leaf=registrar, wish=wish, **(expected | changes))


@pytest.mark.parametrize("wish", [WISH, Wish(), Wish(Role.SERVER), Wish(None, Names.parse(NAMES[::-1]))])
def test_the_truth_is_accepted(wish: Wish) -> None:
    """With and without wishes; what is kept is the leaf, its chain and the pinned root."""
    told = Told()
    found = checked(told, wish=wish)
    assert found.leaf == told.answer().certificate
    assert (found.chain, found.trust) == (told.chain, told.trust)
    assert found.identity.names.texts() == NAMES
    assert found.time == NOW


def test_only_the_pinned_root_is_kept() -> None:
    """A second root comes along, truly signed by the registrar: it does not enter trust.pem."""
    found = checked(Told(trust=tuple(der(OTHER.root, PKI.root, OTHER.root))))
    assert found.trust == tuple(der(PKI.root))


LIES: dict[str, tuple[Callable[[], Told], str]] = {
    "another key": (lambda: Told(leaf(public_key=new_key().public_key())), "for another key than ours"),
    "another name": (lambda: Told(leaf(names=("web2.home.lan", "10.0.0.7"))), "asked for the names"),
    "a name more": (lambda: Told(leaf(names=(*NAMES, "www.home.lan"))), "asked for the names"),
    "a name less": (lambda: Told(leaf(names=NAMES[:1])), "asked for the names"),
    "no name": (lambda: Told(leaf(names=())), "got none"),
    "another role": (lambda: Told(leaf(role=Role.PEER)), "is a peer, not a server"),
    "the registrar's role": (lambda: Told(leaf(role=Role.REGISTRAR)), "is a registrar, not a server"),
    "another authority": (
        lambda: Told(leaf(OTHER), tuple(der(OTHER.issuing)), tuple(der(OTHER.root))),
        "no root with the pin",
    ),
    "another authority beside the root": (
        lambda: Told(leaf(OTHER), tuple(der(OTHER.issuing)), tuple(der(PKI.root, OTHER.root))),
        "does not chain",
    ),
    "no root": (lambda: Told(trust=()), "no root with the pin"),
    "no chain": (lambda: Told(chain=()), "does not chain"),
    "a chain of nine": (lambda: Told(chain=tuple(der(PKI.issuing)) * 9), "a chain of 9"),
    "another issuer's signature": (
        lambda: Told(dataclasses.replace(PKI, issuing_key=OTHER.issuing_key).leaf(
            grant(PKI.domain, names=NAMES, public_key=KEY.public_key())
        )),
        "does not chain",
    ),
    "expired": (lambda: Told(leaf(not_after=NOW - HOUR / 2)), "does not chain"),
    "ending now": (lambda: Told(leaf(not_after=NOW)), "not valid at the registrar's own time|does not chain"),
    "of the future": (lambda: Told(leaf(not_before=NOW + HOUR)), "does not chain"),
    "the answer to another request": (lambda: Told(request=b"o" * 32), "does not fit"),
    "signed with another key": (lambda: Told(signer=new_key()), "does not fit"),
    "no signature": (lambda: Told(after={"signature": b""}), "does not fit"),
    "another leaf after signing": (
        lambda: Told(after={"certificate": leaf().public_bytes(Encoding.DER)}),
        "does not fit",
    ),
    "a root more after signing": (lambda: Told(after={"trust": der(PKI.root, OTHER.root)}), "does not fit"),
    "a root less after signing": (lambda: Told(after={"trust": []}), "does not fit"),
    "another time after signing": (lambda: Told(after={"time": (NOW + HOUR).isoformat()}), "does not fit"),
    "a chain of garbage": (lambda: Told(chain=(b"garbage",)), "no readable certificate"),
    "a root of garbage": (lambda: Told(trust=(b"garbage",)), "no readable certificate"),
    "a root of a megabyte": (lambda: Told(trust=(bytes(2**20),)), "no readable certificate"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_every_single_lie_is_found(lie: str) -> None:
    """Each ends as an untrusted peer, never as another kind of error."""
    told, message = LIES[lie]
    with pytest.raises(UntrustedPeer, match=message):
        checked(told())


@pytest.mark.parametrize("role", [Role.REGISTRAR])
def test_a_newcomer_without_wishes_does_not_become_a_registrar(role: Role) -> None:
    """Whoever has no wish takes the role it is given, but not that one."""
    with pytest.raises(UntrustedPeer, match="nobody is granted"):
        checked(Told(leaf(role=role)), wish=Wish())


@pytest.mark.parametrize("step", [CLOCK_STEP + timedelta(seconds=1), -CLOCK_STEP - timedelta(seconds=1), DAY * 400])
def test_a_clock_that_moves_within_a_join_is_refused(step: timedelta) -> None:
    """Between the hello and the answer there is a second, not an hour: an old answer is being replayed."""
    with pytest.raises(UntrustedPeer, match="clock moved"):
        checked(Told(), hello_time=NOW + step)
    assert checked(Told(), hello_time=NOW + CLOCK_STEP).time == NOW


def test_another_trust_domain_is_refused() -> None:
    """The registrar's own certificate and ours are of one authority."""
    with pytest.raises(UntrustedPeer, match="is of"):
        checked(Told(), trust_domain=OTHER.domain)


def test_a_registrar_whose_key_cannot_sign_is_refused() -> None:
    """An RSA key under the root proves nothing that we know how to check."""
    key = rsa.generate_private_key(65537, 2048)
    own = PKI.leaf(grant(PKI.domain, Role.REGISTRAR, machine="registrar", public_key=key.public_key()))
    with pytest.raises(UntrustedPeer, match="not an elliptic-curve key"):
        checked(Told(), registrar=own)


def test_a_leaf_without_identity_is_refused() -> None:
    """A certificate for our key that says nothing of ours."""
    with pytest.raises(UntrustedPeer):
        checked(Told(PKI.forged(drop=x509.SubjectAlternativeName)), wish=Wish())
