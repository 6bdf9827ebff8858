"""Two authorities over one ledger: NiFi's protocol through the one flow, and nothing from one leads to the other."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from handfast import introducers
from handfast.authority.flat import FlatAuthority, PublicFlatAuthority
from handfast.core import chain, dn, nifi_x509
from handfast.core.flow import Answer, Channel, Evidence
from handfast.core.invitation import InvitationLine, key_id
from handfast.core.names import IPAddress, NamePattern, Names, ip_address, network
from handfast.core.records import Invitation
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.errors import (
    AlreadySpent,
    EvidenceRejected,
    InvitationCancelled,
    NotFound,
    PolicyRefused,
    Revoked,
)
from handfast.introducers import nifi, renewal
from handfast.policy.rules import Rules
from handfast.registrar.administer import NifiTokens
from handfast.registrar.introduce import LedgerContext, Registrar, nowhere
from tests.introducers.stage import node_request, pem
from tests.registrar.house import HOUR, NOW, House, Newcomer

CA_KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = nifi_x509.root(CA_KEY, subject=dn.parse("CN=ca.lan, OU=NIFI"), days=30, now=NOW)
FLAT = FlatAuthority(PublicFlatAuthority(ROOT), CA_KEY)
SHARED = Secret(b"the shared token of the house")
NODE = "CN=node1.lan, OU=NIFI"
HERE = ip_address("10.0.0.7")
# The renewing methods are enabled on both sides, so that nothing but the two authorities keeps these apart.
RULES = Rules(methods={"nifi": frozenset({Role.PEER})} | Rules().methods)


class CaKey:
    """What proves NiFi's CA: a tag of the token, which the finding already has."""

    def prove(self, transcript: bytes, certificate: bytes, trust: tuple[bytes, ...], time: datetime) -> bytes:
        """As the server does."""
        return transcript


@dataclass
class Nifi:
    """The registrar for NiFi's protocol over the ledger of a house."""

    house: House
    shared: nifi.SharedToken | None = None
    located: Names = Names()
    lookups: int = 0

    @property
    def registrar(self) -> Registrar:
        """The same flow with its own introducer, rules, authority and context."""
        half = nifi.NifiIntroducer(ROOT.public_key(), self.shared, FLAT.token_master())
        context = dataclasses.replace(self.house.context, pin=FLAT.pin, trust_domain=FLAT.trust_domain)
        known = introducers.known() | {"nifi": half}
        return Registrar(known, RULES, self.house.ledger, FLAT, context, self._locate)

    async def _locate(self, names: Names, source: IPAddress | None) -> Names:
        self.lookups += 1
        found = [name for name in names.texts() if name in self.located.texts() and source == HERE]
        return Names.parse(found)

    def invite(self, name: str = "node1.lan", **more: Any) -> tuple[Secret, Invitation]:
        """A one-time token for an hour."""
        administration = dataclasses.replace(self.house.administration, nifi=NifiTokens(FLAT.token_master))
        return administration.invite_nifi(name, **({"lasting": HOUR} | more))

    def ask(self, token: Secret, who: Newcomer, *names: str, subject: str = NODE, source: IPAddress = HERE) -> Answer:
        """Ask with a request for ``names``."""
        body = nifi.encode_request(token, node_request(who.key, subject, names or ("node1.lan",)))
        return self.send(Evidence("nifi", body, Channel(bytes(32), None, source)))

    def send(self, evidence: Evidence) -> Answer:
        """Run the flow once."""
        return asyncio.run(self.registrar.introduce(evidence, CaKey()))


@pytest.fixture
def foreign(house: House) -> Nifi:
    """NiFi's side of the house."""
    return Nifi(house)


def leaf(answer: Answer) -> pyca.Certificate:
    """The certificate of an answer."""
    return chain.load_certificate(answer.credential.certificate)


def test_a_node_comes_by_its_token(foreign: Nifi) -> None:
    """Signed by the CA's own key, with subject and names as they were asked for, and proved by the token's tag."""
    token, _ = foreign.invite(sans=("lb.lan",))
    who = Newcomer()
    answer = foreign.ask(token, who, "lb.lan", "node1.lan")
    made = leaf(answer)
    made.verify_directly_issued_by(ROOT)
    assert dn.written(made.subject) == NODE
    names = made.extensions.get_extension_for_class(pyca.SubjectAlternativeName).value
    assert sorted(names.get_values_for_type(pyca.DNSName)) == ["lb.lan", "node1.lan"]
    assert (answer.chain, answer.proof) == ((), nifi.tag(token, CA_KEY.public_key()))
    assert foreign.lookups == 0


def test_attack_replay_is_answered_with_the_same_certificate(foreign: Nifi) -> None:
    """Whoever sends a recorded request again gets what its key already has, and never a second one."""
    token, _ = foreign.invite(uses=3)
    who = Newcomer()
    first = foreign.ask(token, who)
    foreign.house.clock.time += HOUR / 2
    assert {foreign.ask(token, who).credential.certificate for _ in range(3)} == {first.credential.certificate}
    assert foreign.house.kinds().count("credential.issued") == 1


def test_attack_a_second_key_with_a_one_time_token(foreign: Nifi) -> None:
    """It is refused, and the operator hears of it under the machine's name."""
    token, invitation = foreign.invite()
    foreign.ask(token, Newcomer())
    with pytest.raises(AlreadySpent):
        foreign.ask(token, Newcomer())
    (alarm,) = foreign.house.administration.show("node1.lan").alarms
    assert alarm.kind == "alarm.second-key"
    assert alarm.fields["marker"] == f"invitation:{invitation.key_id}"
    assert foreign.house.kinds().count("credential.issued") == 1


def test_attack_a_revoked_key_asks_again(foreign: Nifi) -> None:
    """Revoked is revoked, and the replay of its request is no way back, by either token."""
    foreign.shared = nifi.SharedToken(SHARED, any_name=True)
    for token in (foreign.invite()[0], SHARED):
        who = Newcomer()
        serial = foreign.ask(token, who).credential.serial
        foreign.house.ledger.revoke(serial, reason="keyCompromise", at=NOW).result()
        with pytest.raises(Revoked):
            foreign.ask(token, who)


def test_attack_a_cancelled_token(foreign: Nifi) -> None:
    """Its holder is told that it was taken back, and gets nothing."""
    token, invitation = foreign.invite()
    foreign.house.administration.cancel(invitation.key_id, reason="lost")
    with pytest.raises(InvitationCancelled):
        foreign.ask(token, Newcomer())
    assert "credential.intended" not in foreign.house.kinds()


def test_attack_an_expired_token(foreign: Nifi) -> None:
    """After its hour it is no token at all."""
    token, _ = foreign.invite()
    foreign.house.clock.time += HOUR
    with pytest.raises(EvidenceRejected, match="forbidden"):
        foreign.ask(token, Newcomer())


def test_attack_names_and_subject_beyond_the_token(foreign: Nifi) -> None:
    """Every reason at once, nothing is spent, and the honest node comes in afterwards."""
    token, _ = foreign.invite(sources=(network("10.0.0.0/8"),))
    with pytest.raises(PolicyRefused) as caught:
        foreign.ask(token, Newcomer(), "bank.lan", subject="CN=admin, OU=NIFI", source=ip_address("192.0.2.1"))
    assert caught.value.reasons == (
        "not entitled to the names admin, bank.lan (only node1.lan)",
        "not entitled to the subject 'CN=admin, OU=NIFI'",
        "the call comes from 192.0.2.1, not from 10.0.0.0/8",
    )
    assert foreign.house.kinds()[-1] == "introduction.refused"
    assert dn.written(leaf(foreign.ask(token, Newcomer())).subject) == NODE


def test_attack_a_relay_that_rewrites_spends_nothing(foreign: Nifi) -> None:
    """It is refused, writes nothing, and the node whose request it was still comes in with the same token."""
    token, _ = foreign.invite()
    who, before = Newcomer(), foreign.house.kinds()
    der = node_request(who.key).public_bytes(Encoding.DER)
    message = nifi.NifiRequest(
        hmac=nifi.tag(token, who.key.public_key()), csr=pem(der.replace(b"node1.lan", b"admin.lan"))
    )
    with pytest.raises(EvidenceRejected, match="not signed by the key in it"):
        foreign.send(Evidence("nifi", msgspec.json.encode(message), Channel(bytes(32), None, HERE)))
    assert foreign.house.kinds() == before
    assert dn.written(leaf(foreign.ask(token, who)).subject) == NODE


def test_a_shared_token_alone_is_for_what_leads_to_its_holders_address(foreign: Nifi) -> None:
    """Its own name from its own address; another's name, and its own from elsewhere, are refused."""
    foreign.shared, foreign.located = nifi.SharedToken(SHARED), Names.parse(["node1.lan", "10.0.0.7"])
    made = leaf(foreign.ask(SHARED, Newcomer(), "node1.lan", "10.0.0.7"))
    assert dn.written(made.subject) == NODE
    with pytest.raises(PolicyRefused, match=r"names node2\.lan .*subject 'CN=node2\.lan, OU=NIFI'"):
        foreign.ask(SHARED, Newcomer(), "node2.lan", subject="CN=node2.lan, OU=NIFI")
    with pytest.raises(PolicyRefused, match="names node1"):
        foreign.ask(SHARED, Newcomer(), source=ip_address("10.0.0.8"))


def test_a_stranger_has_nobody_look_names_up(foreign: Nifi) -> None:
    """Neither a wrong token nor a one-time one sends a question to a name server."""
    foreign.shared = nifi.SharedToken(SHARED)
    with pytest.raises(EvidenceRejected):
        foreign.ask(Secret(b"a token of a stranger"), Newcomer())
    foreign.ask(foreign.invite()[0], Newcomer())
    assert foreign.lookups == 0
    assert asyncio.run(nowhere(Names.parse(["node1.lan"]), HERE)) == Names()


def test_patterns_allow_what_no_address_does(foreign: Nifi) -> None:
    """What an operator wrote down counts from anywhere."""
    foreign.shared = nifi.SharedToken(
        SHARED, (dn.SubjectPattern.parse("CN=*.lan, OU=NIFI"),), (NamePattern.parse("*.lan"),)
    )
    made = leaf(foreign.ask(SHARED, Newcomer(), "lb.lan", source=ip_address("192.0.2.1")))
    assert dn.written(made.subject) == NODE
    with pytest.raises(PolicyRefused):
        foreign.ask(SHARED, Newcomer(), "lb.lan", subject="CN=admin, OU=NIFI", source=ip_address("192.0.2.1"))


def test_nobody_is_called_as_the_registrar(foreign: Nifi) -> None:
    """A reserved machine name is reserved for every method."""
    foreign.shared = nifi.SharedToken(SHARED, any_name=True)
    rules = dataclasses.replace(RULES, reserved=frozenset({"node1.lan"}))
    registrar = dataclasses.replace(foreign.registrar, rules=rules)
    body = nifi.encode_request(SHARED, node_request(Newcomer().key))
    with pytest.raises(PolicyRefused, match="registrar's own name"):
        asyncio.run(registrar.introduce(Evidence("nifi", body, Channel(bytes(32), None, HERE)), CaKey()))


# ------------------------------------------------------------------------------------------------ one ledger, two CAs


def renewing(who: Newcomer, serial: int, context: LedgerContext, spki: bytes, client: bytes) -> Evidence:
    """Evidence of a machine that renews and presents its certificate in the handshake as well."""
    body, _ = renewal.present(
        who.key,
        serial=serial,
        pin=context.pin,
        csr_der=Newcomer().csr,
        next_key=bytes(32),
        nonce=context.new_nonce(),
        server_spki=spki,
    )
    return Evidence("renewal", body, Channel(spki, chain.load_certificate(client)))


def test_attack_a_nifi_credential_renews_at_the_main_authority(foreign: Nifi) -> None:
    """
    A stolen shared token leads to a NiFi certificate and no further.

    Its holder has the key, the serial on record and even the right client certificate: the main authority does not
    know the credential. Were it known, a token from a start script would buy a certificate of the main authority.
    """
    foreign.shared = nifi.SharedToken(SHARED, any_name=True)
    house, thief = foreign.house, Newcomer()
    stolen = foreign.ask(SHARED, thief).credential
    assert house.ledger.credential(stolen.serial) is not None
    assert house.context.credential(stolen.serial) is None
    evidence = renewing(thief, stolen.serial, house.context, house.tls.spki, stolen.certificate)
    with pytest.raises(EvidenceRejected, match="not in the ledger"):
        house.introduce(evidence)
    # The same evidence in the same flow is good where the credential is from: nothing else refused it above.
    context = foreign.registrar.context
    own = renewing(thief, stolen.serial, context, bytes(32), stolen.certificate)
    assert foreign.registrar.introducers["renewal"].verify(own, context).entitlement.machine == "node1.lan"


def test_attack_a_nifi_credential_comes_back_at_the_main_authority(foreign: Nifi) -> None:
    """Nor after it expired, though the machine's name is known there as well."""
    foreign.shared = nifi.SharedToken(SHARED, any_name=True)
    house, thief = foreign.house, Newcomer()
    house.join(house.invite("node1.lan"), Newcomer())
    serial = foreign.ask(SHARED, thief).credential.serial
    house.clock.time += timedelta(days=2)
    with pytest.raises(EvidenceRejected):
        house.introduce(house.returning(thief, serial, Newcomer()))
    assert house.kinds().count("credential.issued") == 2


def test_attack_a_main_credential_renews_at_nifis_authority(foreign: Nifi) -> None:
    """The other way round: what was introduced to the main authority is unknown to NiFi's."""
    house, who = foreign.house, Newcomer()
    credential = house.join(house.invite("node1.lan", role=Role.PEER), who).credential
    registrar = foreign.registrar
    assert registrar.context.credential(credential.serial) is None
    evidence = renewing(who, credential.serial, registrar.context, bytes(32), credential.certificate)
    with pytest.raises(EvidenceRejected, match="not in the ledger"):
        foreign.send(evidence)
    # The control: where it is from, the same newcomer renews.
    own = renewing(who, credential.serial, house.context, house.tls.spki, credential.certificate)
    assert house.introduce(own).credential.grant.trust_domain == house.authority.trust_domain


def test_attack_nifi_evidence_at_the_main_registrar(foreign: Nifi) -> None:
    """The method is known there, but no rule of the main registrar enables it."""
    foreign.shared = nifi.SharedToken(SHARED, any_name=True)
    body = nifi.encode_request(SHARED, node_request(Newcomer().key))
    with pytest.raises(NotFound, match="no introduction method 'nifi'"):
        foreign.house.introduce(Evidence("nifi", body, Channel(bytes(32), None, HERE)))


def test_attack_a_nifi_salt_as_the_key_of_an_invitation(foreign: Nifi) -> None:
    """
    An invitation of another method proves nothing to `invitation`, even if its public half were a key of the thief.

    The salt stands in the ledger and the log, where an invitation's public key would.
    """
    house, key = foreign.house, Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes_raw()
    _, node = foreign.invite()
    planted = dataclasses.replace(node, public_half=raw, key_id=key_id(raw), role=Role.SERVER)
    house.ledger.invite(planted).result()
    seed = Secret(key.private_bytes_raw())
    line = InvitationLine(seed, house.authority.pin, NOW, NOW + HOUR, house.administration.addresses)
    assert line.key_id == planted.key_id
    with pytest.raises(EvidenceRejected, match=f"invitation {planted.key_id} is unknown"):
        house.join(line, Newcomer())
    # The control: the same record of the right method admits its holder.
    again = dataclasses.replace(planted, method="invitation")
    genuine = introducers.known()["invitation"]
    evidence, signed = house.joining(line, Newcomer())
    house.ledger.invitation = lambda _key_id: again  # type: ignore[method-assign, assignment]
    assert genuine.verify(evidence, house.context).transcript == signed


def test_each_authority_lists_what_it_issued_and_all_of_it(foreign: Nifi) -> None:
    """No revocation list has another authority's serials; together they have every one."""
    house = foreign.house
    main = [house.join(house.invite(f"web{n}.lan"), Newcomer()).credential.serial for n in range(3)]
    nodes = []
    for number in range(2):
        token, _ = foreign.invite(f"node{number}.lan")
        name = f"node{number}.lan"
        nodes.append(foreign.ask(token, Newcomer(), name, subject=f"CN={name}, OU=NIFI").credential.serial)
    for serial in (*main, *nodes):
        house.ledger.revoke(serial, reason="superseded", at=NOW).result()
    state = house.ledger.publish("registrar", at=NOW).result()
    lists = {}
    for authority in (house.authority, FLAT):
        made = pyca.load_der_x509_crl(authority.crl(list(state.revocations), number=state.number, now=NOW))
        lists[authority.trust_domain] = sorted(entry.serial_number for entry in made)
        assert made.extensions.get_extension_for_class(pyca.CRLNumber).value.crl_number == state.number
    assert lists == {house.authority.trust_domain: sorted(main), FLAT.trust_domain: sorted(nodes)}
