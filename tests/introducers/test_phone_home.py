"""A report is believed for its token: forms as cloud-init sends them, and everything else that may come."""

from __future__ import annotations

import importlib
import re
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import sshkeys
from handfast.core.flow import HostFinding, Once
from handfast.core.hosts import Grade, How, Place
from handfast.core.names import Names
from handfast.errors import EvidenceRejected, InvitationCancelled, InvitationExpired, Malformed, NotMine
from handfast.introducers import known_for_hosts, phone_home
from tests.architecture.sources import ROOT
from tests.introducers.stage import NOW, Stage
from tests.introducers.uploads import TOKEN, called, expected_call, host_keys, lines, opaque

HALF = known_for_hosts()["phone-home"]
ED25519, ECDSA, RSA = lines(*host_keys())
# What cloud-init 22.4 of Debian 12 posts with `post: all`: values as they stand in the files.
REPORT = {
    "pub_key_dsa": "N/A",
    "pub_key_rsa": f"{RSA} root@web1\n",
    "pub_key_ecdsa": f"{ECDSA} root@web1\n",
    "pub_key_ed25519": f"{ED25519} root@web1\n",
    "instance_id": "i-87018aed",
    "hostname": "web1",
    "fqdn": "web1.lan",
}


def stage(**changes: object) -> Stage:
    """A registrar that waits for the call."""
    record = expected_call(**changes)
    return Stage(invitations={record.key_id: record})


def verify(fields: dict[str, str], **changes: object) -> HostFinding:
    """What the registrar concludes from a form."""
    return HALF.verify(called(urlencode(fields).encode()), stage(**changes))


def test_what_cloud_init_sends() -> None:
    """All keys are found, reported and not proved, for the machine and the names that the operator said."""
    found = verify(REPORT)
    assert found.machine == "web1.lan"
    assert set(found.keys) == {sshkeys.parse(line) for line in (RSA, ECDSA, ED25519)}
    assert (found.how, found.how.grade, found.complete) == (How.PHONE_HOME, Grade.REPORTED, True)
    assert found.once == Once(expected_call().marker, 1)
    assert found.place == Place.parse(["web1.lan", "10.0.0.7"])
    assert found.detail == f"{expected_call().key_id}, instance i-87018aed"


def test_P14_the_machine_cannot_choose_its_name() -> None:
    """Host name and domain in the form are its own words, and count for nothing."""
    assert verify(REPORT | {"hostname": "registrar", "fqdn": "registrar.lan"}) == verify(REPORT)


def test_without_names_the_place_stays() -> None:
    """Where the operator said no name, the report says nothing of where the machine is reached."""
    assert verify(REPORT, names=Names()).place is None


def test_keys_of_unknown_types() -> None:
    """They are kept; other unknown fields are cloud-init's own affair."""
    new = opaque("ssh-mldsa-44@openssh.com")
    found = verify({"pub_key_mldsa": new, "pub_key_ed25519": ED25519, "new_in_27": "yes"})
    assert [str(key) for key in found.keys] == [new, ED25519]


def test_a_dsa_key() -> None:
    """cloud-init of Debian 12 makes one, which its sshd does not use: it is left out, and alone it is no key."""
    assert verify(REPORT | {"pub_key_dsa": f"{opaque('ssh-dss')} root@web1\n"}) == verify(REPORT)
    with pytest.raises(Malformed, match="without a host key"):
        verify({"pub_key_dsa": opaque("ssh-dss")})


@pytest.mark.parametrize(
    "token",
    [
        "",
        "handfastphone1_",
        TOKEN.reveal().decode()[:-1],
        TOKEN.reveal().decode() + "A",
        TOKEN.reveal().decode().swapcase(),
        phone_home.public_half(TOKEN).hex(),
        expected_call().key_id,
    ],
)
def test_no_such_token(token: str) -> None:
    """Whatever is not the token looks the same to whoever tries it; what the ledger has of it is not one, either."""
    with pytest.raises(EvidenceRejected) as refused:
        HALF.verify(called(urlencode(REPORT).encode(), token=token), stage())
    assert refused.value.message == "no such token"


def test_an_invitation_of_another_method() -> None:
    """A token of something else is none here, though its hash be the same."""
    with pytest.raises(EvidenceRejected, match="no such token"):
        verify(REPORT, method="bucket")


def test_evidence_of_another_method() -> None:
    """It is not this introducer's."""
    with pytest.raises(NotMine):
        HALF.verify(called(b"", method="bucket"), stage())


def test_cancelled() -> None:
    """What the operator took back stays so."""
    with pytest.raises(InvitationCancelled):
        verify(REPORT, cancelled="a test")


def test_too_late() -> None:
    """After its time the token is worth nothing."""
    with pytest.raises(InvitationExpired, match="expired at 2026-11-22 12:00:00Z"):
        verify(REPORT, expires_at=NOW)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (b"", "without a host key"),
        (b"{}", "without a host key"),
        (b"pub_key_rsa=N%2FA&pub_key_dsa=", "without a host key"),
        (b"pub_key_rsa=ssh-rsa", "not an SSH public key"),
        (b"pub_key_rsa=<script>", "not an SSH public key"),
        (urlencode({"pub_key_rsa": f"{RSA}\n{ED25519}"}).encode(), "several lines"),
        (urlencode({"pub_key_rsa": ED25519.replace("ssh-ed25519", "ssh-rsa", 1)}).encode(), "the line says"),
        (b"hostname=a&hostname=b", "twice"),
        (b"hostname=a&%68ostname=b", "twice"),
        (b"&".join(b"f%d=1" % number for number in range(65)), "over 64 fields"),
        (b"hostname=%ff", "UTF-8"),
        (b"\xff=1", "UTF-8"),
    ],
)
def test_malformed(form: bytes, words: str) -> None:
    """What is no report is refused with what it is instead."""
    with pytest.raises(Malformed, match=words):
        HALF.verify(called(form), stage())


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=60), max_size=20))
def test_forms_are_read_as_they_were_written(form: dict[str, str]) -> None:
    """Whatever the standard library writes as a form is read back."""
    written = urlencode(form).encode()
    assert phone_home.fields(written) == (form if written not in {b"", b"="} else phone_home.fields(written))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Whatever comes is a form, or refused."""
    try:
        read = phone_home.fields(data)
    except Malformed:
        return
    assert isinstance(read, dict)


@pytest.mark.parametrize("name", sorted(known_for_hosts()))
def test_it_tells_who_proves_what_to_whom(name: str) -> None:
    """As every introducer's, the docstring has the five lines, and the page that it names exists."""
    told = importlib.import_module(f"handfast.introducers.{name.replace('-', '_')}").__doc__
    assert told is not None
    lines = told.strip().splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["Proof", "Answer", "Trusts", "Replay", "Spec"]
    assert (ROOT / lines[6].split()[1]).is_file()
    assert How(name) in How


def test_a_token_is_found_by_scanners() -> None:
    """The pattern that is given to secret scanners fits the tokens that are made."""
    assert re.fullmatch(phone_home.SCANNER_PATTERN, TOKEN.reveal().decode())


def test_the_ledger_admits_nobody() -> None:
    """What is kept of a token does not contain it, in part or in whole."""
    assert len(phone_home.public_half(TOKEN)) == 32
    assert TOKEN.reveal() not in phone_home.public_half(TOKEN)
