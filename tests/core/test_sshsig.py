"""SSHSIG both ways with the real ssh-keygen, and every way in which a signature may be wrong."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.core import sshkeys, sshsig
from handfast.core.sshdata import mpint, string, strings
from handfast.core.sshkeys import SshKey
from handfast.errors import EvidenceRejected, Malformed, UsageError
from tests.core.sshmaterial import DATA, KINDS, key, keygen, new_key, public, rsa_key, signer

NAMESPACE = "hostkeys@handfast"
MESSAGE = b"what the host says\n"
ED25519 = signer()
GOOD = ED25519.sign(MESSAGE, NAMESPACE)
CERTIFICATE = SshKey("", string(b"ssh-ed25519-cert-v01@openssh.com") + string(bytes(32)) * 2)


def signed(message: bytes = MESSAGE, namespace: str = NAMESPACE, hash_name: str = "sha512") -> bytes:
    """What goes through the key, spelled from PROTOCOL.sshsig and not from ``handfast.core.sshsig``."""
    hashed = hashlib.new(hash_name, message).digest()
    return b"SSHSIG" + string(namespace.encode()) + string(b"") + string(hash_name.encode()) + string(hashed)


def build(
    by: SshKey,
    made: bytes,
    *,
    magic: bytes = b"SSHSIG",
    version: int = 1,
    namespace: bytes = NAMESPACE.encode(),
    reserved: bytes = b"",
    hash_name: bytes = b"sha512",
) -> bytes:
    """A signature's bytes, with whatever in them."""
    return magic + version.to_bytes(4) + b"".join(map(string, (by.blob, namespace, reserved, hash_name, made)))


def raw(kind: str = "ed25519") -> bytes:
    """An honest algorithm and value."""
    return strings(signer(kind).sign(MESSAGE, NAMESPACE)[10:], what="it")[4]


def verify(signature: bytes | str, message: bytes = MESSAGE) -> SshKey:
    """Verify with our namespace."""
    return sshsig.verify(signature, message, namespace=NAMESPACE)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str) -> None:
    """What a host key signs is verified, and leads to that key, as bytes and armored."""
    private = signer(kind)
    signature = private.sign(MESSAGE, NAMESPACE)
    assert verify(signature) == verify(sshsig.armor(signature)) == private.public
    assert sshsig.unarmor(sshsig.armor(signature)) == signature


@pytest.mark.parametrize("name", sorted(path.stem for path in (DATA / "sshsig").glob("*.sig")))
def test_signatures_of_openssh(name: str) -> None:
    """Signatures that OpenSSH 9.2 made are verified, and not over another message."""
    folder = DATA / "sshsig"
    armored = (folder / f"{name}.sig").read_text()
    assert verify(armored) == sshkeys.parse((folder / f"{name}.pub").read_text())
    assert sshsig.armor(sshsig.unarmor(armored)) == armored
    with pytest.raises(EvidenceRejected, match="does not fit"):
        verify(armored, MESSAGE + b"x")


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hash_name", ["sha256", "sha512"])
def test_ssh_keygen_signs(kind: str, hash_name: str, tmp_path: Path) -> None:
    """We verify what the real ssh-keygen signs with a host key, over either hash."""
    path = new_key(tmp_path, kind)
    (tmp_path / "said").write_bytes(MESSAGE)
    made = keygen("-Y", "sign", "-f", path, "-n", NAMESPACE, "-O", f"hashalg={hash_name}", tmp_path / "said")
    assert made.returncode == 0, made.stderr
    assert verify((tmp_path / "said.sig").read_text()) == public(path)


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("kind", KINDS)
def test_ssh_keygen_verifies(kind: str, tmp_path: Path) -> None:
    """The real ssh-keygen verifies what we sign with the host key that it made, and refuses another namespace."""
    path = new_key(tmp_path, kind)
    private = sshsig.load_private(path.read_bytes())
    assert private.public == public(path)
    (tmp_path / "signers").write_text(f'node1 namespaces="{NAMESPACE}" {private.public}\n')
    for namespace, code in ((NAMESPACE, 0), ("another", 255)):
        (tmp_path / "sig").write_text(sshsig.armor(private.sign(MESSAGE, namespace)))
        verified = keygen(
            *("-Y", "verify", "-f", tmp_path / "signers", "-I", "node1", "-n", namespace, "-s", tmp_path / "sig"),
            stdin=MESSAGE,
        )
        assert verified.returncode == code, verified.stderr


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("form", ["PEM", "PKCS8"])
@pytest.mark.parametrize("kind", ["rsa", "p256"])
def test_old_formats_of_host_keys(form: str, kind: str, tmp_path: Path) -> None:
    """A host key from before OpenSSH 7.8, or of another program, is read too: sshd still takes it."""
    path = new_key(tmp_path, kind, "-m", form)
    assert b"OPENSSH" not in path.read_bytes()
    assert sshsig.load_private(path.read_bytes()).public == public(path)


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("form", ["RFC4716", "PEM"])
def test_passphrase(form: str, tmp_path: Path) -> None:
    """A key with a passphrase is refused, and the message says that this is why."""
    path = new_key(tmp_path, "p256", "-m", form)
    assert keygen("-p", "-q", "-P", "", "-N", "secret", "-m", form, "-f", path).returncode == 0
    with pytest.raises(Malformed, match="has a passphrase") as caught:
        sshsig.load_private(path.read_bytes())
    assert "host key has none" in caught.value.hint


def test_private_keys_that_do_not_sign() -> None:
    """Whatever is no ed25519, ecdsa or rsa key of a size that is believed is refused by its kind."""
    pkcs8 = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for private, reason in (
        (dsa.generate_private_key(1024).private_bytes(*pkcs8), "DSAPrivateKey does not sign"),
        (rsa.generate_private_key(65537, 1024).private_bytes(*pkcs8), "RSA key of 1024 bits"),
        (ec.generate_private_key(ec.SECP256K1()).private_bytes(*pkcs8), "not an SSH private key: .Unsupported curve"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----", "is cut off"),
        (b"", "not an SSH private key"),
        (bytes(sshsig.MAX_PRIVATE + 1), "at most"),
    ):
        with pytest.raises(Malformed, match=reason):
            sshsig.load_private(private)


@pytest.mark.parametrize("algorithm", ["sk-ssh-ed25519@openssh.com", "ssh-dss", "ssh-xmss@openssh.com"])
def test_private_keys_of_other_types(algorithm: str) -> None:
    """OpenSSH's file of a key in a hardware token, or of DSA, is refused by the type's name, and nothing is printed."""
    body = b"openssh-key-v1\0" + b"".join(map(string, (b"none", b"none", b""))) + (1).to_bytes(4)
    text = base64.b64encode(body + string(key(algorithm, bytes(32)).blob) + string(bytes(64)))
    with pytest.raises(Malformed, match=f"{algorithm!r} does not sign"):
        sshsig.load_private(b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + text + b"\n-----END OPENSSH PRIVATE KEY-----\n")


def test_private_key_is_not_shown() -> None:
    """What a log may show of a signer is its public key."""
    assert "private" not in repr(ED25519)


def test_signing_needs_a_namespace() -> None:
    """Nothing is signed without saying what for: the format forbids it."""
    with pytest.raises(UsageError, match="without a namespace") as caught:
        ED25519.sign(MESSAGE, "")
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["ed25519", "p256", "rsa"])
def test_another_message(kind: str) -> None:
    """A signature fits its message alone."""
    with pytest.raises(EvidenceRejected, match="does not fit"):
        verify(signer(kind).sign(MESSAGE, NAMESPACE), MESSAGE[:-1])


def test_attack_another_namespace() -> None:
    """What a host signed for another purpose (git, a file) does not pass for this one, not even relabeled."""
    other = ED25519.sign(MESSAGE, "git")
    with pytest.raises(EvidenceRejected, match=r"is for b'git', not for 'hostkeys@handfast'"):
        verify(other)
    with pytest.raises(EvidenceRejected, match="does not fit"):
        verify(other.replace(string(b"git"), string(NAMESPACE.encode())))


def test_no_namespace_fits_nothing() -> None:
    """A verifier that lost its namespace believes nothing, also no signature without one."""
    hollow = build(ED25519.public, raw(), namespace=b"")
    for signature in (hollow, GOOD):
        with pytest.raises(EvidenceRejected, match="not for ''"):
            sshsig.verify(signature, MESSAGE, namespace="")


def test_attack_another_key_in_front() -> None:
    """Nobody claims another's signature by putting his key before it, nor another's key by signing himself."""
    mallory = sshsig.load_private(
        ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )
    assert verify(GOOD) == ED25519.public
    theirs = strings(mallory.sign(MESSAGE, NAMESPACE)[10:], what="it")[4]
    for by, made in ((mallory.public, raw()), (ED25519.public, theirs)):
        with pytest.raises(EvidenceRejected, match="does not fit"):
            verify(build(by, made))


def test_attack_signature_of_a_key_exchange() -> None:
    """What a host signs in every SSH connection (RFC 4253 §8) proves nothing here, whatever its content."""
    private = ED25519.private
    assert isinstance(private, ed25519.Ed25519PrivateKey)
    made = string(b"ssh-ed25519") + string(private.sign(MESSAGE))
    with pytest.raises(EvidenceRejected, match="does not fit"):
        verify(build(ED25519.public, made))


def test_attack_sha1() -> None:
    """A SHA-1 signature of an RSA key is refused before it is looked at: collisions are for sale."""
    private = signer("rsa").private
    assert isinstance(private, rsa.RSAPrivateKey)
    made = string(b"ssh-rsa") + string(private.sign(signed(), padding.PKCS1v15(), SHA1()))
    with pytest.raises(Malformed, match=r"SHA-1 \('ssh-rsa'\)"):
        verify(build(signer("rsa").public, made))


@pytest.mark.parametrize(("name", "hashed"), [("rsa-sha2-256", SHA256()), ("rsa-sha2-512", SHA512())])
def test_rsa_algorithms(name: str, hashed: HashAlgorithm) -> None:
    """Both algorithms of RFC 8332 are verified, each over its own hash only."""
    private, by = signer("rsa").private, signer("rsa").public
    assert isinstance(private, rsa.RSAPrivateKey)
    value = private.sign(signed(), padding.PKCS1v15(), hashed)
    assert verify(build(by, string(name.encode()) + string(value))) == by
    other = {"rsa-sha2-256": b"rsa-sha2-512", "rsa-sha2-512": b"rsa-sha2-256"}[name]
    with pytest.raises(EvidenceRejected, match="does not fit"):
        verify(build(by, string(other) + string(value)))
    pss = private.sign(signed(), padding.PSS(padding.MGF1(hashed), 32), hashed)
    with pytest.raises(EvidenceRejected, match="does not fit"):
        verify(build(by, string(name.encode()) + string(pss)))


@pytest.mark.parametrize(
    ("by", "algorithm"),
    [
        ("ed25519", "ecdsa-sha2-nistp256"),
        ("ed25519", "rsa-sha2-512"),
        ("p256", "ssh-ed25519"),
        ("p256", "ecdsa-sha2-nistp384"),
        ("rsa", "ssh-ed25519"),
        ("rsa", "rsa-sha2-512-cert-v01@openssh.com"),
        ("p256", "sk-ecdsa-sha2-nistp256@openssh.com"),
        ("ed25519", "ssh-ed25519\0"),
        ("ed25519", "é"),
    ],
)
def test_algorithm_of_another_family(by: str, algorithm: str) -> None:
    """The algorithm has to be one of the key's own, whatever the value behind it."""
    value = strings(raw(by), what="it")[1]
    with pytest.raises(Malformed, match="a signature of"):
        verify(build(signer(by).public, string(algorithm.encode()) + string(value)))


SK = [
    key("sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:"),
    key("sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", bytes(65), b"ssh:"),
]
MODULUS = mpint((1 << 2048) - 12345)[4:]
P256_POINT = strings(signer("p256").public.blob, what="it")[2]
NOT_KEYS = {
    "token-ed25519": (SK[0], "keys in hardware tokens .'sk-ssh-ed25519@"),
    "token-ecdsa": (SK[1], "keys in hardware tokens .'sk-ecdsa-sha2-nistp256@"),
    "dsa": (key("ssh-dss", b"\1", b"\1", b"\1", b"\1"), "by 'ssh-dss' are not verified"),
    "of-tomorrow": (key("ssh-mldsa-44@openssh.com", bytes(1312)), "by 'ssh-mldsa-44@openssh.com' are not verified"),
    "ed25519-short": (key("ssh-ed25519", bytes(31)), "not a key of 'ssh-ed25519'"),
    "ed25519-more": (key("ssh-ed25519", bytes(32), b""), "not a key of 'ssh-ed25519'"),
    "curve-named-otherwise": (
        key("ecdsa-sha2-nistp384", b"nistp256", P256_POINT),
        "not a key of 'ecdsa-sha2-nistp384'",
    ),
    "point-of-another-curve": (key("ecdsa-sha2-nistp384", b"nistp384", P256_POINT), "not a key of 'ecdsa-sha2-nistp3"),
    "point-compressed": (
        key("ecdsa-sha2-nistp256", b"nistp256", b"\2" + P256_POINT[1:33]),
        "not a key of .*uncompressed",
    ),
    "point-at-infinity": (key("ecdsa-sha2-nistp256", b"nistp256", b"\0"), "not a key of 'ecdsa-sha2-nistp256'"),
    "point-off-the-curve": (key("ecdsa-sha2-nistp256", b"nistp256", P256_POINT[:-1] + b"\0"), "not a key of"),
    "rsa-1024": (rsa_key(1024), "RSA key of 1024 bits, not 2048 to 8192"),
    "rsa-2047": (rsa_key(2047), "RSA key of 2047 bits"),
    "rsa-8193": (rsa_key(8193), "RSA key of 8193 bits"),
    "rsa-exponent": (rsa_key(2048, exponent=(1 << 1024) + 1), "exponent over 65537"),
    "rsa-exponent-padded": (key("ssh-rsa", b"\0\1\0\1", MODULUS), "not in its one form"),
    "rsa-modulus-padded": (key("ssh-rsa", b"\1\0\1", b"\0" + MODULUS), "not in its one form"),
    "rsa-modulus-negative": (key("ssh-rsa", b"\1\0\1", b"\xff" * 256), "not a key of 'ssh-rsa'"),
    "rsa-more": (key("ssh-rsa", b"\1\0\1", MODULUS, b"x"), "not a key of 'ssh-rsa'"),
}


@pytest.mark.parametrize("name", NOT_KEYS)
def test_keys_that_are_not_verified_with(name: str) -> None:
    """Of a key that is weak, unknown, or written in a second way nothing is believed."""
    by, reason = NOT_KEYS[name]
    with pytest.raises(Malformed, match=reason) as caught:
        verify(build(by, string(by.algorithm.replace("ssh-rsa", "rsa-sha2-512").encode()) + string(b"x")))
    assert caught.value.hint


P256 = signer("p256")
assert isinstance(P256.private, ec.EllipticCurvePrivateKey)
R, S = utils.decode_dss_signature(P256.private.sign(signed(), ec.ECDSA(SHA256())))
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, FIPS 186-4 D.1.2.3
NUMBERS = {
    "r-padded": string(b"\0" + mpint(R)[4:]) + mpint(S),
    "s-zero": mpint(R) + string(b""),
    "r-zero": string(b"\0") + mpint(S),
    "s-negative": mpint(R) + string(b"\xff" * 32),
    "one": mpint(R),
    "three": mpint(R) + mpint(S) + mpint(1),
    "cut": mpint(R) + mpint(S)[:-1],
    "none": b"",
}
BEYOND = {
    "r": mpint(R + ORDER) + mpint(S),
    "s": mpint(R) + mpint(S + ORDER),
    "far": mpint(1 << 4096) + mpint(S),
    "exactly": mpint(R) + mpint(ORDER),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_an_ecdsa_signature(name: str) -> None:
    """Numbers with a leading zero too many, zero, negative ones, one or three of them, or cut off are refused."""
    with pytest.raises(Malformed, match="the SSH signature"):
        verify(build(P256.public, string(b"ecdsa-sha2-nistp256") + string(NUMBERS[name])))


@pytest.mark.parametrize("name", BEYOND)
def test_numbers_beyond_the_order(name: str) -> None:
    """The same numbers plus the curve's order are no second signature."""
    with pytest.raises(EvidenceRejected, match="does not fit"):
        verify(build(P256.public, string(b"ecdsa-sha2-nistp256") + string(BEYOND[name])))


def test_second_signature_of_ecdsa() -> None:
    """Anybody can make a second one that fits, which is why a signature must not be what is remembered as spent."""
    for s in (S, ORDER - S):
        verify(build(P256.public, string(b"ecdsa-sha2-nistp256") + string(mpint(R) + mpint(s))))


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_length_of_the_value(kind: str) -> None:
    """A value that is shorter or longer than the key makes it is refused, also by nothing but zeros."""
    algorithm, value = strings(raw(kind), what="it")
    for wrong in (value[1:], value[:-1], b"\0" + value, value + b"\0", b""):
        with pytest.raises(EvidenceRejected, match="does not fit"):
            verify(build(signer(kind).public, string(algorithm) + string(wrong)))


MALFORMED = {
    "empty": (b"", "cut off"),
    "magic-alone": (b"SSHSIG", "cut off"),
    "more-behind-it": (GOOD + b"\0", "1 bytes behind its end"),
    "magic": (build(ED25519.public, raw(), magic=b"SSHSIH"), "does not begin with SSHSIG"),
    "version-0": (build(ED25519.public, raw(), version=0), "version 0 are not"),
    "version-2": (build(ED25519.public, raw(), version=2), "version 2 are not"),
    "reserved": (build(ED25519.public, raw(), reserved=b"\0"), "something in its reserved field"),
    "sha1": (build(ED25519.public, raw(), hash_name=b"sha1"), "unknown hash, b'sha1'"),
    "hash-and-nul": (build(ED25519.public, raw(), hash_name=b"sha512\0"), "unknown hash"),
    "no-hash": (build(ED25519.public, raw(), hash_name=b""), "unknown hash"),
    "three-fields": (build(ED25519.public, raw() + string(b"")), "3 fields"),
    "more-inside": (build(ED25519.public, raw() + b"\0"), "cut off"),
    "one-field": (build(ED25519.public, string(b"ssh-ed25519")), "1 fields"),
    "certificate": (build(CERTIFICATE, raw()), "a certificate"),
    "long": (bytes(sshsig.MAX_SIGNATURE + 1), "at most"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    """A signature has one form, and nothing before, in between or after."""
    signature, reason = MALFORMED[name]
    with pytest.raises(Malformed, match=reason) as caught:
        verify(signature)
    assert caught.value.hint
