"""The host-key challenge over real TLS: bad input and too much of it, and what the newcomer does not put up with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handfast.controller.looks import LONGEST
from handfast.core.challenge import NONCE_PATH, TOKEN_PATH, Challenge, Parameters, Proof, TokenAnswer
from handfast.core.invitation import Address
from handfast.core.look import Look, Seen
from handfast.core.sshsig import Signer
from handfast.errors import Malformed, NotFound, PolicyRefused, TooMuch, Unreachable, UntrustedPeer
from handfast.introducers import ssh_hostkey
from handfast.introducers.ssh_hostkey import TOKEN_NAMESPACE
from handfast.newcomer import challenge as newcomer
from handfast.newcomer.challenge import enrol
from handfast.newcomer.connection import CONNECT_TIMEOUT
from handfast.registrar.challenge import Challenger
from handfast.server.limits import Limits
from handfast.ssh.look import PATIENCE, RESOLVING
from tests.introducers.challenges import KEYS, LOOK, THIEF, as_seen
from tests.server.challenged import CERTIFICATES, WANTED, Attacker, House, house


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


# --- bad input, and too much of it ---


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"addresses": [f"10.0.{n >> 8}.{n & 255}" for n in range(4_000)]}, "addresses"),
        ({"names": ["*.lan"]}, "wildcard"),
        ({"names": ["b\u00fccher.lan"]}, "not a DNS name"),
        ({"names": ["web1.lan."]}, "not in its one form"),
        ({"addresses": ["fe80::1%eth0"]}, "without a zone"),
        ({"surprise": 1}, "surprise"),
    ],
    ids=["4,000 addresses", "wildcard", "IDN", "trailing dot", "zone", "unknown"],
)
def test_bad_parameters(home: House, attacker: Attacker, change: dict[str, object], word: str) -> None:
    """Malformed, with what is wrong; nobody is looked at."""
    tree = msgspec.json.decode(msgspec.json.encode(attacker.asked)) | change
    problem = attacker.problem(NONCE_PATH, tree)
    assert (problem.status, problem.code) == (400, "malformed")
    assert word in problem.detail + problem.hint
    assert home.sights.asked == []


def test_10000_addresses(home: House, attacker: Attacker) -> None:
    """More than a request may be: refused before it is read."""
    tree = msgspec.json.decode(msgspec.json.encode(attacker.asked))
    tree["addresses"] = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(10_000)]
    problem = attacker.problem(NONCE_PATH, tree)
    assert (problem.status, problem.code) == (413, "too-much")
    assert home.sights.asked == []


def test_a_source_that_asks_too_often(tmp_path: Path) -> None:
    """After some looks the answer is 429 with when to come again, before any socket is opened; in both steps."""
    limits = Limits(looks=0.001, looks_burst=2)
    with house(tmp_path / "data", limits=limits) as home, home.running.connect() as client:
        attacker = Attacker(home, client)
        challenge, _ = attacker.token()
        for path, message in ((NONCE_PATH, attacker.asked), (TOKEN_PATH, attacker.proof(challenge))):
            problem = attacker.problem(path, message)
            assert (problem.status, problem.code) == (429, "too-much")
            assert int(client.headers["Retry-After"]) > 60
        assert len(home.sights.asked) == 2


def test_a_host_waits_for_its_turn(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many behind one address at once: refused with when to come again, a host does that, in both steps."""
    look, waits = home.sights.look, list[float]()
    turns = iter((False, True, False, True))

    async def at_times(asked: Look) -> tuple[Seen, ...]:
        if not next(turns):
            raise TooMuch("others are looked at", hint="try again in 7 s", after=7)
        return await look(asked)

    monkeypatch.setattr(home.sights, "look", at_times)
    certified = enrol(WANTED, [home.address], pin=home.pin, now=home.running.clock.now, sleep=waits.append)
    assert certified.certificates
    assert len(waits) == 2
    assert all(7 <= seconds <= 14 for seconds in waits)


def test_a_host_does_not_wait_for_ever(tmp_path: Path) -> None:
    """After a minute it says when to come again, and ends with exit code 3."""
    limits = Limits(looks=0.05, looks_burst=1)
    waits: list[float] = []
    with house(tmp_path / "data", limits=limits) as home, pytest.raises(TooMuch, match="too often") as caught:
        enrol(WANTED, [home.address], pin=home.pin, now=home.running.clock.now, sleep=waits.append)
    assert 0 < caught.value.after <= 20
    assert sum(waits) <= newcomer.LONGEST_WAIT


def test_all_together_ask_too_often(tmp_path: Path) -> None:
    """Whoever has many addresses is bounded by what all have."""
    limits = Limits(looks_of_all=0.001, looks_of_all_burst=1)
    with house(tmp_path / "data", limits=limits) as home, home.running.connect() as client:
        attacker = Attacker(home, client)
        attacker.challenge()
        assert attacker.problem(NONCE_PATH, attacker.asked).status == 429
        assert len(home.sights.asked) == 1


def test_where_it_is_not_enabled(tmp_path: Path) -> None:
    """By default there is no such method: 404 in every step, and nobody is looked at."""
    with house(tmp_path / "data", "") as home, home.running.connect() as client:
        attacker = Attacker(home, client)
        proof = attacker.proof(Challenge(b"x", b"x"))
        evidence = attacker.request(b"x", TokenAnswer(b"x", b"x"))
        for path, message in ((NONCE_PATH, attacker.asked), (TOKEN_PATH, proof), (CERTIFICATES, evidence)):
            assert attacker.problem(path, message).code == "not-found"
        with pytest.raises(NotFound, match="no host-key challenge here"):
            home.enrol()
        assert home.sights.asked == []


# --- the newcomer's side ---


def signs(calls: list[str]) -> tuple[Any, ...]:
    """Host keys that note what they sign."""

    @dataclass(frozen=True)
    class Noting:
        key: Signer

        @property
        def public(self) -> Any:
            return self.key.public

        def sign(self, message: bytes, namespace: str) -> bytes:
            calls.append(namespace)
            return self.key.sign(message, namespace)

    return tuple(Noting(key) for key in KEYS)


def test_the_wrong_registrar(home: House) -> None:
    """Of another root: exit code 5, before anything was sent or signed."""
    calls: list[str] = []
    with pytest.raises(UntrustedPeer):
        home.enrol(replace(WANTED, signers=signs(calls)), pin=bytes(32))
    assert calls == []
    assert home.sights.asked == []


def test_nobody_there() -> None:
    """Exit code 4."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable):
            enrol(WANTED, [Address(*probe.getsockname())], pin=bytes(32), now=lambda: pytest.fail("no time is needed"))


def test_what_the_host_says_is_judged_before_anything_is_sent(home: House) -> None:
    """A name that is none does not become a request."""
    with pytest.raises(Malformed, match="not a full DNS name: 'web1'"):
        home.enrol(replace(WANTED, names=("web1",)))


def test_P20_a_registrar_that_asks_for_another_name(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registrar itself, or whoever has its TLS key: a payload for a name that was not asked for is not signed."""
    calls: list[str] = []

    def other(asked: Parameters, **given: Any) -> bytes:
        return ssh_hostkey.make_payload(msgspec.structs.replace(asked, names=["web1.lan", "db.lan"]), **given)

    monkeypatch.setattr("handfast.registrar.challenge.make_payload", other)
    with pytest.raises(UntrustedPeer, match="something else than this host has asked for: names"):
        home.enrol(replace(WANTED, signers=signs(calls)))
    assert calls == []


def test_P20_a_registrar_whose_challenge_is_of_another_CA(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is not by the CA that signed the challenge: nothing is kept."""
    real = home.running.service.challenger.authority

    class Two:
        """Two CAs: one for challenges, and one for all else."""

        host_ca = THIEF.public

        def sign(self, message: bytes, *, namespace: str) -> bytes:
            return THIEF.sign(message, namespace)

    def token(self: Challenger, body: bytes, _channel: object, **_given: object) -> Awaitable[TokenAnswer]:
        proof = msgspec.json.decode(body, type=Proof)
        made = ssh_hostkey.make_token(proof, LOOK, now=home.running.clock.now())
        return asyncio.sleep(0, TokenAnswer(made, real.sign(made, namespace=TOKEN_NAMESPACE)))

    object.__setattr__(home.running.service.challenger, "authority", Two())
    monkeypatch.setattr(Challenger, "token", token)
    with pytest.raises(UntrustedPeer, match="the registrar's challenge was signed by"):
        home.enrol()


def test_a_refusal_is_told_with_its_reasons(home: House) -> None:
    """DNS that leads elsewhere: exit code 3, and every reason."""
    (seen,) = as_seen()
    home.sights.next = [(replace(seen, led=()),)]
    with pytest.raises(PolicyRefused) as caught:
        home.enrol()
    assert caught.value.reasons == tuple(
        f"{name!r} does not lead to the addresses given, or not only to these" for name in LOOK.names
    )
    assert "every name has to lead to the addresses given" in caught.value.hint


def test_a_slow_look_is_waited_for(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registrar looks, and then others look for it; both are waited for, longer than for other answers."""
    everybody = RESOLVING + PATIENCE + LONGEST
    assert CONNECT_TIMEOUT < everybody < newcomer.PATIENCE < newcomer.DEADLINE
    go_on, ordinary = threading.Event(), home.sights.look

    async def slowly(asked: Look) -> tuple[Seen, ...]:
        await asyncio.to_thread(go_on.wait, 20)
        return await ordinary(asked)

    monkeypatch.setattr(home.sights, "look", slowly)
    with monkeypatch.context() as patch:
        patch.setattr(newcomer, "PATIENCE", 0.2)
        with pytest.raises(Unreachable, match="it took too long"):
            home.enrol()
    go_on.set()
    assert home.enrol().certificates
