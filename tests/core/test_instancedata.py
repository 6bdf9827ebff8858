"""What an instance is given: read as it was written, by the original too, and refused when it is not whole."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.instancedata import MAX_USER_DATA, InstanceData, read, written
from handfast.core.invitation import Address, InvitationLine
from handfast.core.secret import Secret
from handfast.errors import Malformed
from tests.authority.helpers import NOW, Pki

PKI, OTHER = Pki.make(), Pki.make()
LINE = InvitationLine(Secret(b"s" * 32), PKI.pin, NOW, NOW + timedelta(hours=1), (Address("10.0.0.1", 7443),))
DATA = InstanceData("web1", "i-0123456789abcdef0", PKI.root, LINE, listens=Address("::", 7575))


def changed(**fields: Any) -> bytes:
    """Return the document with changed fields of ours; None takes one out."""
    document = json.loads(written(DATA))
    ours = document["handfast"] | fields
    document["handfast"] = {key: value for key, value in ours.items() if value is not None}
    return json.dumps(document).encode()


@pytest.mark.parametrize("data", [DATA, replace(DATA, listens=None, dials=Address("controller.lan", 7576))])
def test_it_is_read_as_it_was_written(data: InstanceData) -> None:
    """Nothing is lost, and it fits what clouds allow."""
    text = written(data)
    assert written(read(text.encode())) == text
    assert replace(read(text.encode()), line=LINE) == data
    assert len(text) < MAX_USER_DATA / 8


def test_the_original_reads_it() -> None:
    """Its agent takes one key of a JSON object, and a certificate in PEM from it."""
    pem = json.loads(written(DATA))["steamcannon_ca_cert"]
    assert x509.load_pem_x509_certificate(pem.encode()) == PKI.root


def test_others_may_be_beside_it() -> None:
    """User-data is one for all programs: what is another's is ignored, and what is ours has no unknown field."""
    document = json.loads(written(DATA)) | {"other": {"agent": 1}}
    assert written(read(json.dumps(document).encode())) == written(DATA)
    with pytest.raises(Malformed, match="unknown field `plain`"):
        read(changed(plain=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not the user-data of an instance"),
        (b"#cloud-config", "not the user-data of an instance"),
        (b"{}", "missing required field `steamcannon_ca_cert`"),
        (b'{"steamcannon_ca_cert": ""}', "missing required field `handfast`"),
        (b"[" * 10_000, "not the user-data of an instance"),
        (b"\xff", "not the user-data of an instance"),
        (b" " * (MAX_USER_DATA + 1), "user-data of 16385 bytes"),
        (changed(version=2), "user-data of version 2"),
        (changed(listen=None), "has to say one of 'listen' and 'dial'"),
        (changed(dial="10.0.0.1:7576"), "has to say one of 'listen' and 'dial'"),
        (changed(instance="../web1"), "not a machine name"),
        (changed(id=""), "not an instance's id"),
        (changed(id="a\nb"), "not an instance's id"),
        (changed(listen="7575"), "not an address"),
        (changed(invitation="handfast1_x"), "the user-data has no good secret: this is not an invitation"),
        (changed(invitation=None), "missing required field `invitation`"),
    ],
)
def test_what_is_not_whole_is_refused(text: bytes, message: str) -> None:
    """An agent does not start on half of it, and says which half."""
    with pytest.raises(Malformed) as refused:
        read(text)
    assert message in refused.value.message


def test_a_root_of_another_authority_is_refused() -> None:
    """Whoever can change the certificate alone, or the secret alone, gets an agent that does not start."""
    document = json.loads(written(DATA))
    document["steamcannon_ca_cert"] = json.loads(written(replace(DATA, root=OTHER.root)))["steamcannon_ca_cert"]
    with pytest.raises(Malformed, match=r"has the pin [0-9a-f]{64}, the invitation [0-9a-f]{64}") as refused:
        read(json.dumps(document).encode())
    assert refused.value.hint.startswith("they are of two authorities")
    document["steamcannon_ca_cert"] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(Malformed, match="'steamcannon_ca_cert' is no certificate"):
        read(json.dumps(document).encode())


@given(st.binary(max_size=300))
def test_any_bytes_are_an_error_of_ours(noise: bytes) -> None:
    """Whatever a metadata service answers."""
    with pytest.raises(Malformed):
        read(noise)


def test_no_message_has_the_secret() -> None:
    """What is wrong with the document is said without what is secret in it."""
    secret = LINE.reveal()
    for text in (changed(version="1"), changed(listen=7), changed(invitation=secret[:-1] + "!"), changed(id=5)):
        with pytest.raises(Malformed) as refused:
            read(text)
        assert secret[10:60] not in refused.value.message + refused.value.hint
    assert secret[10:60] not in repr(DATA)
