"""The host-key challenge over real TLS, with a real ledger and authority: an honest host, and its enemies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from handfast.core import wire
from handfast.core.challenge import TOKEN_PATH, Challenge, TokenAnswer
from handfast.core.hosts import How
from handfast.core.look import Answered
from handfast.core.names import ip_address
from handfast.errors import PolicyRefused, Waiting
from handfast.introducers import ssh_hostkey
from handfast.introducers.ssh_hostkey import PAYLOAD_NAMESPACE
from handfast.newcomer.challenge import Wanted
from handfast.server.limits import Limits
from tests.introducers.challenges import ECDSA, ED25519, KEYS, LOOK, THIEF, as_seen, changed, rsa_key, signer
from tests.introducers.stage import ed25519
from tests.server.challenged import CERTIFICATES, ENABLED, WANTED, Attacker, House, house, thief


@pytest.fixture
def home(tmp_path: Path) -> Iterator[House]:
    """One that has enabled it."""
    with house(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def attacker(home: House) -> Iterator[Attacker]:
    """Whoever has the host's keys, unless the test takes them away."""
    with home.running.connect() as client:
        yield Attacker(home, client)


# --- honest ---


def test_an_honest_host(home: House) -> None:
    """All five steps: a certificate for each key by all its names and addresses, and how it was accepted."""
    certified = home.enrol()
    names = ("web1.lan", "www.web.lan", "10.0.0.7", "2001:db8::7")
    assert [each.key for each in certified.certificates] == [key.public for key in KEYS]
    for each in certified.certificates:
        assert set(each.principals) == set(names)
        assert each.authority == certified.host_ca
        assert dict(each.extensions)["evidence@handfast"].endswith(b"ssh-hostkey challenged")
    host = home.running.service.ledger.host("web1.lan")
    assert host is not None
    assert {(each.key, each.how) for each in host.keys} == {(key.public, How.SSH_HOSTKEY) for key in KEYS}
    assert home.sights.asked == [LOOK, LOOK]


def test_rsa_over_the_wire(home: House) -> None:
    """An RSA key signs with SHA-2, and is certified."""
    certified = home.enrol(replace(WANTED, signers=(rsa_key(),)))
    assert [each.key.algorithm for each in certified.certificates] == ["ssh-rsa"]


def test_the_longest_name_and_the_most_places(home: House) -> None:
    """A name of 253 characters is certified, and so are 48 names with 16 addresses at four ports, in one request."""
    longest = ".".join(["a" * 62] * 4)[:249] + ".lan"
    certified = home.enrol(replace(WANTED, names=(longest,)))
    assert longest in certified.certificates[0].principals
    names = tuple(f"{'b' * 50}.{'c' * 60}.{'d' * 60}.{number:02}.lan" for number in range(48))
    addresses = tuple(ip_address(f"2001:db8:ffff:ffff:ffff:ffff:ffff:{number:x}") for number in range(16))
    certified = home.enrol(Wanted((rsa_key(), rsa_key(4096)), names, addresses, (22, 2222, 2223, 2224)))
    assert set(certified.certificates[0].principals) == {*names, *map(str, addresses)}


def test_said_again_it_is_the_same_answer(home: House) -> None:
    """The key at these addresses is the certificate's identity: the command run again gets the very same bytes."""
    first, second = home.enrol(), home.enrol()
    assert [each.blob for each in first.certificates] == [each.blob for each in second.certificates]


def test_a_lost_answer_is_asked_for_again(attacker: Attacker) -> None:
    """A token redeemed twice by its own keys gives the same certificates; it is spent against them."""
    challenge, token = attacker.token()
    first, second = attacker.redeem(challenge.payload, token), attacker.redeem(challenge.payload, token)
    assert first.certificates == second.certificates


# --- P20: what an attacker sends ---


def test_P20_a_stale_payload(home: House, attacker: Attacker) -> None:
    """5 min and 1 s old: refused, and told so, since he has one of ours; nothing is looked at for it."""
    proof = attacker.proof(attacker.challenge())
    home.running.clock.offset = timedelta(minutes=5, seconds=1)
    problem = attacker.problem(TOKEN_PATH, proof)
    assert (problem.status, problem.code) == (403, "refused")
    assert problem.detail.startswith("the payload is over since")
    assert problem.hint == "run the command again"
    assert len(home.sights.asked) == 1


def test_P20_a_stale_token(home: House, attacker: Attacker) -> None:
    """Found by others a minute later, it is nothing."""
    challenge, token = attacker.token()
    home.running.clock.offset = timedelta(seconds=61)
    problem = attacker.problem(CERTIFICATES, attacker.request(challenge.payload, token))
    assert (problem.status, problem.code) == (403, "refused")
    assert problem.detail.startswith("the token is over since")


def silent(problem: wire.Problem) -> None:
    """A stranger learns the code, and a constant sentence."""
    assert (problem.status, problem.code) == (403, "evidence-rejected")
    assert (problem.detail, problem.hint, problem.reasons) == ("", "", [])


def test_P20_proofs_that_prove_nothing(home: House, attacker: Attacker) -> None:
    """Changed, of another CA, signed by another key, replayed with another key or from another connection."""
    challenge = attacker.challenge()
    proof = attacker.proof(challenge)
    other = changed(challenge.payload, names=["db.lan"])
    for bad in (
        msgspec.structs.replace(proof, payload=other),
        attacker.proof(Challenge(other, THIEF.sign(other, PAYLOAD_NAMESPACE))),
        replace(attacker, signers=(THIEF, ECDSA)).proof(challenge),
        msgspec.structs.replace(proof, signatures=thief(attacker).proof(challenge).signatures * 2),
        msgspec.structs.replace(proof, signatures=proof.signatures[::-1]),
        ssh_hostkey.prove(challenge, KEYS, server_spki=bytes(32), pin=home.pin),
        ssh_hostkey.prove(challenge, KEYS, server_spki=attacker.spki, pin=bytes(32)),
    ):
        silent(attacker.problem(TOKEN_PATH, bad))
    assert len(home.sights.asked) == 1
    assert home.running.service.ledger.events(kind_prefix="introduction") == []


def test_P20_a_stolen_token(attacker: Attacker) -> None:
    """Redeemed by somebody else: with his key, without any, and with signatures made in another connection."""
    challenge, token = attacker.token()
    recorded = attacker.request(challenge.payload, token)
    silent(attacker.problem(CERTIFICATES, thief(attacker).request(challenge.payload, token)))
    silent(attacker.problem(CERTIFICATES, replace(attacker, signers=(THIEF, ECDSA)).request(challenge.payload, token)))
    moved = msgspec.json.decode(recorded, type=ssh_hostkey.SshHostkeyRequest)
    hello = msgspec.json.decode(attacker.client.call("GET", "/v1/hello")[1], type=wire.Hello)
    silent(attacker.problem(CERTIFICATES, msgspec.structs.replace(moved, nonce=hello.nonce)))


def test_P20_a_token_of_another_key(home: House, attacker: Attacker) -> None:
    """The thief's own token, honestly had for his own key, with our payload: neither names nor keys are exchanged."""
    challenge, _ = attacker.token()
    his = thief(attacker)
    home.sights.next = [as_seen(his.look), as_seen(his.look)]
    his_challenge, his_token = his.token()
    silent(attacker.problem(CERTIFICATES, his.request(challenge.payload, his_token)))
    silent(attacker.problem(CERTIFICATES, attacker.request(his_challenge.payload, his_token)))


def test_P20_a_nonces_signature_is_no_token(attacker: Attacker) -> None:
    """What the CA signed in step 2, in the place of what it signs in step 4; and the other way round."""
    challenge, token = attacker.token()
    as_token = TokenAnswer(challenge.payload, challenge.ca_signature)
    silent(attacker.problem(CERTIFICATES, attacker.request(challenge.payload, as_token)))
    as_payload = Challenge(token.token, token.ca_signature)
    silent(attacker.problem(TOKEN_PATH, attacker.proof(as_payload)))


def test_P20_the_second_look_differs(home: House, attacker: Attacker) -> None:
    """Who was in the middle at the first look and is gone at the second: no token, and the ledger's log has it."""
    challenge = attacker.challenge()
    (seen,) = as_seen()
    home.sights.next = [(replace(seen, answered=(Answered(LOOK.addresses[0], 22, (THIEF.public,)),)),)]
    problem = attacker.problem(TOKEN_PATH, attacker.proof(challenge))
    assert (problem.status, problem.code) == (403, "policy-refused")
    assert f"10.0.0.7 at port 22 did not show {ED25519.public.fingerprint}" in problem.reasons
    assert THIEF.public.fingerprint not in str(problem)
    (event,) = home.running.service.ledger.events(kind_prefix="introduction.refused")
    assert event.fields["code"] == "policy-refused"


def test_a_key_of_another_machine(home: House) -> None:
    """The second machine with the same host key is that machine, and asks for other names: a person has to look."""
    home.enrol()
    elsewhere = replace(WANTED, signers=(*KEYS, signer(ed25519(0x77))))
    with pytest.raises((Waiting, PolicyRefused)):
        home.enrol(elsewhere)


def test_another_key_for_a_known_name_waits(home: House) -> None:
    """First key remembered per name: a change is neither refused nor taken, but waits for a person; exit code 6."""
    home.enrol()
    with pytest.raises(Waiting) as caught:
        home.enrol(Wanted((THIEF,), LOOK.names, LOOK.addresses))
    assert caught.value.code == "waiting"
    host = home.running.service.ledger.host("web1.lan")
    assert host is not None
    assert THIEF.public not in host.current


def test_refusals_in_the_last_step_do_not_fill_the_log(tmp_path: Path) -> None:
    """Where an invitation is needed besides, every stranger's own host is refused: a day has ten of that in its log."""
    config = ENABLED + '[ssh.certificates]\nrequire = [["invitation", "ssh-hostkey"]]\n'
    limits = Limits(looks_burst=100, looks_of_all_burst=100)
    with house(tmp_path / "data", config, limits=limits) as home:
        for number in range(12):
            key = signer(ed25519(0xA0 + number))
            with pytest.raises(PolicyRefused, match="needed: invitation and ssh-hostkey"):
                home.enrol(Wanted((key,), (f"web{number}.lan",), LOOK.addresses))
        assert len(home.running.service.ledger.events(kind_prefix="introduction.refused")) == 10
