"""
What every introducer must do, played over all that are known: a new one is tested by being there.

What only those with a wire of our own can do (nonce, pin, connection) stands in ``test_introducers_native``.
"""

from __future__ import annotations

import ast
import base64
import dataclasses
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from cryptography import x509

from handfast import introducers
from handfast.core.flow import Evidence, Finding
from handfast.core.ports import Introducer
from handfast.errors import EvidenceRejected, Malformed, NotMine, Refused
from tests.architecture.sources import PACKAGE, ROOT
from tests.introducers.stage import HONEST, MASTER, NEW_SPKI, NODE_TOKEN, NONCE_KEY, VERIFIERS, Honest, Stage, pem

KNOWN = introducers.known()
HEADINGS = ("Proof", "Answer", "Trusts", "Replay", "Spec")

pytestmark = pytest.mark.parametrize("name", sorted(KNOWN))


@pytest.fixture
def introducer(name: str) -> Introducer:
    """The one under test, as a registrar would configure it."""
    assert type(VERIFIERS[name]) is type(KNOWN[name])
    return VERIFIERS[name]


@pytest.fixture
def honest(name: str) -> Honest:
    """Its honest newcomer."""
    return HONEST[name]()


def module(name: str) -> ModuleType:
    """The module of an introducer."""
    return importlib.import_module(f"handfast.introducers.{name.replace('-', '_')}")


def changed(honest: Honest, **fields: Any) -> Evidence:
    """The same message with other JSON fields, and the signature as it was."""
    tree = msgspec.json.decode(honest.evidence.payload)
    return dataclasses.replace(honest.evidence, payload=msgspec.json.encode(tree | fields))


def binary_fields(honest: Honest) -> Iterator[tuple[str, bytes, Callable[[bytes], str]]]:
    """The fields of the message that hold bytes, and how these are written."""
    for field, value in msgspec.json.decode(honest.evidence.payload).items():
        if isinstance(value, str) and value.startswith("-----BEGIN"):
            yield field, base64.b64decode("".join(value.splitlines()[1:-1])), pem
        elif field in {"nonce", "newcomer_nonce", "csr", "reintroduction_key", "signature", "hmac"}:
            yield field, base64.b64decode(value), lambda data: base64.b64encode(data).decode()


def unused_bits(request: bytes) -> int:
    """Where a DER request has the count of unused bits of its signature."""
    return len(request) - len(x509.load_der_x509_csr(request).signature) - 1


def test_it_has_an_honest_newcomer(name: str) -> None:
    """Without one in ``HONEST`` the rest of this file would prove nothing."""
    assert name in HONEST


def test_it_tells_who_proves_what_to_whom(name: str) -> None:
    """The docstring opens with one line of title and the five lines; the page that it names exists."""
    lines = (module(name).__doc__ or "").strip().splitlines()
    assert lines[1] == ""
    table = [line.split(maxsplit=1) for line in lines[2:7]]
    assert tuple(entry[0] for entry in table) == HEADINGS
    for heading, rest in table:
        assert rest.strip(), heading
    assert re.fullmatch(r"docs/protocols/[a-z0-9-]+\.md", table[4][1])
    assert (ROOT / table[4][1]).is_file(), f"{table[4][1]} is missing"


def test_its_name_is_its_module(name: str, introducer: Introducer) -> None:
    """So that a reader finds the file from the log line, and both halves are in it."""
    assert introducer.name == name
    assert name == module(name).NAME
    assert callable(module(name).present if introducer.native else module(name).encode_request)


def test_it_imports_no_sibling(name: str) -> None:
    """Each method stands alone: neither another introducer nor any other layer of its height."""
    path = PACKAGE / "introducers" / f"{name.replace('-', '_')}.py"
    tree = ast.parse(path.read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    ours = {text for text in imported if text.startswith("handfast")}
    assert {text for text in ours if not text.startswith(("handfast.core", "handfast.errors"))} == set()


def test_both_halves_agree(introducer: Introducer, honest: Honest) -> None:
    """What one half signed is what the other found, digest by digest, for the key that proved itself."""
    finding = introducer.verify(honest.evidence, honest.stage)
    assert isinstance(finding, Finding)
    assert finding.method == introducer.name
    assert finding.transcript == honest.signed
    assert finding.public_key == NEW_SPKI
    assert finding.once.marker
    assert finding.once.uses >= 1
    assert finding.proof
    assert finding.entitlement.roles


def test_verifying_changes_nothing(introducer: Introducer, honest: Honest) -> None:
    """The same evidence leads to the same finding: what may be used once is the ledger's to count."""
    assert introducer.verify(honest.evidence, honest.stage) == introducer.verify(honest.evidence, honest.stage)


def test_it_refuses_foreign_evidence(name: str, introducer: Introducer) -> None:
    """Evidence of every other method, and of none, is not its own, whatever the bytes are."""
    for method in (*sorted(set(HONEST) - {name}), "", name.upper(), f"{name} "):
        honest = HONEST.get(method, HONEST[name])()
        with pytest.raises(NotMine, match="evidence of method"):
            introducer.verify(dataclasses.replace(honest.evidence, method=method), honest.stage)


def test_the_messages_of_others_under_its_name_are_refused(name: str, introducer: Introducer) -> None:
    """A message that was signed for another method is worth nothing here."""
    for method in sorted(set(HONEST) - {name}):
        honest = HONEST[method]()
        with pytest.raises(Refused):
            introducer.verify(dataclasses.replace(honest.evidence, method=name), honest.stage)


@pytest.mark.parametrize("payload", [b"", b"{}", b"null", b"[]", b"\x00", b"[" * 65536, b"\xff" * 64])
def test_it_refuses_garbage(introducer: Introducer, honest: Honest, payload: bytes) -> None:
    """Empty, foreign and deep input is Malformed."""
    with pytest.raises(Malformed):
        introducer.verify(dataclasses.replace(honest.evidence, payload=payload), honest.stage)


def test_it_refuses_every_truncation(introducer: Introducer, honest: Honest) -> None:
    """A message cut anywhere is Malformed, never read as a shorter one."""
    payload = honest.evidence.payload
    for length in range(len(payload)):
        with pytest.raises(Malformed):
            introducer.verify(dataclasses.replace(honest.evidence, payload=payload[:length]), honest.stage)


def test_it_refuses_every_changed_byte(introducer: Introducer, honest: Honest) -> None:
    """
    One bit anywhere in nonces, request, keys or signature: refused.

    But for what nobody signs where nothing covers the request but its own signature: the count of unused bits before
    that signature, which may change when it ends in zeros, and changes nothing.
    """
    for field, value, write in binary_fields(honest):
        for position in range(len(value)):
            mutated = bytearray(value)
            mutated[position] ^= 1
            evidence = changed(honest, **{field: write(bytes(mutated))})
            if not introducer.native and field == "csr" and position == unused_bits(value):
                assert introducer.verify(evidence, honest.stage) == introducer.verify(honest.evidence, honest.stage)
                continue
            with pytest.raises(Refused):
                introducer.verify(evidence, honest.stage)


def test_it_refuses_every_changed_character(introducer: Introducer, honest: Honest) -> None:
    """One bit anywhere in the message itself: refused, or the same finding (a padding bit that no decoder reads)."""
    finding = introducer.verify(honest.evidence, honest.stage)
    for position in range(len(honest.evidence.payload)):
        mutated = bytearray(honest.evidence.payload)
        mutated[position] ^= 1
        evidence = dataclasses.replace(honest.evidence, payload=bytes(mutated))
        try:
            assert introducer.verify(evidence, honest.stage) == finding
        except Refused:
            continue


def test_it_refuses_unknown_fields(introducer: Introducer, honest: Honest) -> None:
    """Every input is accounted for."""
    with pytest.raises(Malformed, match="surprise"):
        introducer.verify(changed(honest, surprise=1), honest.stage)


def test_it_refuses_whom_it_does_not_know(introducer: Introducer, honest: Honest) -> None:
    """An empty ledger and no configuration know nobody; a stranger learns no more than from a wrong signature."""
    with pytest.raises(EvidenceRejected):
        KNOWN[introducer.name].verify(honest.evidence, Stage())


@pytest.mark.parametrize("other", ["garbage", "truncated", "other key's signature"])
def test_P2_it_refuses_a_request_whose_key_was_not_proved(name: str, introducer: Introducer, other: str) -> None:
    """A certification request that its own key did not sign is refused even when the evidence is genuine."""
    good = next(value for field, value, _write in binary_fields(HONEST[name]()) if field == "csr")
    flipped = bytearray(good)
    flipped[-1] ^= 1
    bad = {"garbage": b"\x30\x00", "truncated": good[:-1], "other key's signature": bytes(flipped)}[other]
    honest = HONEST[name](csr_der=bad)
    with pytest.raises(Refused):
        introducer.verify(honest.evidence, honest.stage)


def test_refusals_show_no_secret_and_say_what_to_do(name: str, introducer: Introducer, honest: Honest) -> None:
    """The message names the evidence by its public name only."""
    proof = "signature" if introducer.native else "hmac"
    zeros = [bytes(len(value)) for field, value, _write in binary_fields(honest) if field == proof]
    evidence = changed(honest, **{proof: base64.b64encode(zeros[0]).decode()})
    with pytest.raises(EvidenceRejected) as caught:
        introducer.verify(evidence, honest.stage)
    text = repr(caught.value) + caught.value.hint
    for secret in (bytes([4]) * 32, bytes([5]) * 32, NONCE_KEY.reveal(), MASTER.reveal(), NODE_TOKEN.reveal()):
        assert secret.hex() not in text
        assert base64.b64encode(secret).decode() not in text


def test_all_of_the_folder_is_known(name: str) -> None:
    """A module that is there is offered, and nothing else is."""
    files = {path.stem for path in Path(PACKAGE / "introducers").glob("*.py")} - {"__init__"}
    others = introducers.known_for_hosts() | introducers.known_for_certificates()
    halves = (*KNOWN.values(), *others.values())
    assert {type(half).__module__.rpartition(".")[2] for half in halves} == files
    assert not set(KNOWN) & set(introducers.known_for_hosts())
