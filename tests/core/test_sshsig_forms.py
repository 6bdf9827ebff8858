"""SSHSIG's armor, and what no input may do: let anything through but a signature, or end in another error."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handfast.core import sshdata, sshsig
from handfast.core.sshkeys import SshKey
from handfast.errors import HandfastError, Malformed
from tests.core.sshmaterial import key, signer

NAMESPACE, MESSAGE = "hostkeys@handfast", b"what the host says\n"
GOOD = {kind: signer(kind).sign(MESSAGE, NAMESPACE) for kind in ("ed25519", "p256", "rsa")}
ARMORED = sshsig.armor(GOOD["ed25519"])
BEGIN, END = "-----BEGIN SSH SIGNATURE-----\n", "-----END SSH SIGNATURE-----\n"


def believed(signature: bytes | str, message: bytes = MESSAGE) -> SshKey | None:
    """The key that signed, or None where that is refused."""
    try:
        return sshsig.verify(signature, message, namespace=NAMESPACE)
    except HandfastError:
        return None


def test_armor() -> None:
    """What mail and Windows make of line ends is read."""
    for text in (ARMORED, ARMORED.replace("\n", "\r\n"), ARMORED.rstrip("\n"), ARMORED + "\n \n"):
        assert sshsig.unarmor(text) == GOOD["ed25519"]


NO_ARMOR = {
    "empty": "",
    "nothing-inside": BEGIN + END,
    "empty-line-inside": BEGIN + "\n" + END,
    "space-before": " " + ARMORED,
    "line-before": "\n" + ARMORED,
    "text-behind": ARMORED + "x",
    "twice": ARMORED + ARMORED,
    "no-header": ARMORED.replace(BEGIN, ""),
    "no-footer": ARMORED.replace(END, ""),
    "of-something-else": ARMORED.replace("SIGNATURE", "MESSAGE"),
    "footer-in-the-line": ARMORED.replace("\n" + END, END),
    "one-character": BEGIN + "A\n" + END,
    "padding-inside": BEGIN + "AAAA=AAA\n" + END,
    "other-alphabet": BEGIN + "AA-_\n" + END,
    "wide": BEGIN + "\N{FULLWIDTH LATIN CAPITAL LETTER A}" * 4 + "\n" + END,
    "long": "A" * (2 * sshsig.MAX_SIGNATURE + 1),
}


@pytest.mark.parametrize("name", NO_ARMOR)
def test_armor_refused(name: str) -> None:
    """The header is the first thing, the footer the last, and base64 is between them."""
    with pytest.raises(Malformed, match="an SSH signature") as caught:
        sshsig.unarmor(NO_ARMOR[name])
    assert caught.value.hint


@pytest.mark.parametrize("kind", GOOD)
def test_every_truncation(kind: str) -> None:
    """No beginning of a signature is one."""
    assert not any(believed(GOOD[kind][:size]) for size in range(len(GOOD[kind])))


@pytest.mark.parametrize("kind", GOOD)
def test_every_changed_bit(kind: str) -> None:
    """A signature in which a bit was changed leads nowhere."""
    good = GOOD[kind]
    for place in range(len(good)):
        changed = good[:place] + bytes([good[place] ^ (1 << place % 8)]) + good[place + 1 :]
        assert believed(changed) is None, place


@given(st.binary() | st.text())
def test_anything(signature: bytes | str) -> None:
    """Whatever comes is refused with an error of ours."""
    assert believed(signature) is None


@given(st.binary(max_size=8), st.lists(st.binary(max_size=80), max_size=7), st.integers(0, 2**32 - 1))
def test_anything_in_its_shape(tail: bytes, fields: list[bytes], version: int) -> None:
    """So is what looks like a signature from afar."""
    body = b"".join(map(sshdata.string, fields)) + tail
    assert believed(b"SSHSIG" + version.to_bytes(4) + body) is None
    assert believed(sshsig.armor(b"SSHSIG" + (1).to_bytes(4) + body)) is None


ALGORITHMS = st.sampled_from(["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp521", "ssh-dss"])
FIELDS = st.lists(st.binary(max_size=70) | st.sampled_from([b"nistp256", b"\1\0\1", bytes(32), b"\4" + bytes(64)]))


@given(ALGORITHMS, FIELDS)
@example("ssh-rsa", [b"", b""])
@example("ssh-rsa", [b"\3", b"\1" * 400])
@example("ecdsa-sha2-nistp256", [b"nistp256", b""])
def test_any_key(algorithm: str, fields: list[bytes]) -> None:
    """A key of any content is one to verify with, in its only form, or refused with an error of ours."""
    try:
        public = key(algorithm, *fields)
        sshsig.load_public(public)
    except HandfastError:
        return
    assert sshdata.strings(public.blob, what="it")[1:] == tuple(fields)


HEAD = b"openssh-key-v1\0"
UNENCRYPTED = HEAD + b"".join(map(sshdata.string, (b"none", b"none", b""))) + (1).to_bytes(4)
HEADS = st.sampled_from([b"", HEAD, UNENCRYPTED, UNENCRYPTED + sshdata.string(signer().public.blob)])


@given(st.binary(), st.sampled_from(["OPENSSH ", "EC ", "RSA ", "DSA ", "", "ENCRYPTED "]), HEADS, st.binary())
def test_any_private_key(before: bytes, kind: str, head: bytes, body: bytes) -> None:
    """A file of any content is refused with an error of ours."""
    text = base64.encodebytes(head + body).decode()
    pem = f"-----BEGIN {kind}PRIVATE KEY-----\n{text}-----END {kind}PRIVATE KEY-----\n"
    with pytest.raises(Malformed):
        sshsig.load_private(before + pem.encode())


@given(st.integers(1, 1 << 600))
def test_numbers(value: int) -> None:
    """A positive number has one form: a zero more is refused, and without the one that it needs it is negative."""
    written = sshdata.mpint(value)[4:]
    assert sshdata.positive(written, what="it") == value
    for other in (b"\0" + written, b"\xff" + written, b"", b"\0"):
        with pytest.raises(Malformed, match="it has a number that is not in its one form"):
            sshdata.positive(other, what="it")


@given(st.lists(st.binary()), st.binary(min_size=1, max_size=3))
def test_strings(fields: list[bytes], tail: bytes) -> None:
    """Strings are split as they were joined, and a rest is refused."""
    data = b"".join(map(sshdata.string, fields))
    assert sshdata.strings(data, what="it") == tuple(fields)
    with pytest.raises(Malformed, match="it is cut off"):
        sshdata.strings(data + tail, what="it")
