"""What every signer must do, wherever its key lives: certificates, revocation lists, SSH certificates, log notes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509 as pyca
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    SSHCertificate,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_public_identity,
)

from handfast.authority.signers import Signer, known, pkcs8
from handfast.core import chain, csr, x509
from handfast.core.records import Revocation
from handfast.core.roles import Role
from tests.authority.helpers import DAY, LEAF_KEY, NOW, SERIAL, Pki, grant

Provision = Callable[[Path, Signer], None]


def _file(path: Path, key: Signer) -> None:
    path.write_bytes(pkcs8.dump(key, None))
    path.chmod(0o600)


PROVISION: dict[str, Provision] = {"file": _file}  # how a test puts a key where the signer finds it
CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}


def _load(kind: str, path: Path, key: Signer) -> Signer:
    PROVISION[kind](path, key)
    return known()[kind](path, None)


@pytest.fixture(params=sorted(known()))
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of signer there is."""
    return str(request.param)


@pytest.fixture(params=sorted(CURVES))
def ecdsa(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> ec.EllipticCurvePrivateKey:
    """An ECDSA signer."""
    signer = _load(kind, tmp_path / "ecdsa", ec.generate_private_key(CURVES[request.param]))
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    return signer


@pytest.fixture
def eddsa(kind: str, tmp_path: Path) -> ed25519.Ed25519PrivateKey:
    """An Ed25519 signer."""
    signer = _load(kind, tmp_path / "eddsa", ed25519.Ed25519PrivateKey.generate())
    assert isinstance(signer, ed25519.Ed25519PrivateKey)
    return signer


def _pki(signer: ec.EllipticCurvePrivateKey) -> Pki:
    """A PKI whose root and issuing CA both sign by this signer."""
    root = x509.root(signer, name="home", now=NOW)
    issuing = x509.issuing(root, signer, signer.public_key(), name="home", generation=1, now=NOW)
    return Pki(signer, root, signer, issuing)


def _ssh_certificate(signer: Signer) -> SSHCertificate:
    builder = SSHCertificateBuilder().public_key(LEAF_KEY.public_key()).type(SSHCertificateType.HOST)
    builder = builder.serial(1).key_id(b"web1").valid_principals([b"web1"]).valid_after(0).valid_before(1 << 40)
    loaded = load_ssh_public_identity(builder.sign(signer).public_bytes())
    assert isinstance(loaded, SSHCertificate)
    return loaded


def test_every_kind_is_provisioned() -> None:
    """A new kind of signer cannot escape this suite."""
    assert set(PROVISION) == set(known())


def test_x509(ecdsa: ec.EllipticCurvePrivateKey) -> None:
    """Root, issuing CA and leaf signed by the signer form a chain that verifies."""
    pki = _pki(ecdsa)
    leaf = pki.leaf(grant(pki.domain))
    identity = chain.verify_chain(leaf, [pki.issuing], [pki.root], pin=pki.pin, role=Role.SERVER, at=NOW)
    assert identity.machine == "web1.home.lan"


def test_csr(ecdsa: ec.EllipticCurvePrivateKey) -> None:
    """A request signed by the signer proves possession."""
    assert csr.read(csr.build(ecdsa, "web1")) == ecdsa.public_key()


def test_crl(ecdsa: ec.EllipticCurvePrivateKey) -> None:
    """A revocation list signed by the signer verifies."""
    pki = _pki(ecdsa)
    revoked = Revocation(serial=SERIAL, at=NOW, reason="keyCompromise", not_after=NOW + DAY, trust_domain=pki.domain)
    assert x509.crl(ecdsa, pki.issuing, [revoked], number=1, now=NOW).is_signature_valid(ecdsa.public_key())


def test_ssh_by_ecdsa(ecdsa: ec.EllipticCurvePrivateKey) -> None:
    """An SSH certificate signed by an ECDSA signer verifies."""
    certificate = _ssh_certificate(ecdsa)
    certificate.verify_cert_signature()
    assert certificate.signature_key() == ecdsa.public_key()


def test_ssh_by_ed25519(eddsa: ed25519.Ed25519PrivateKey) -> None:
    """An SSH certificate signed by an Ed25519 signer verifies."""
    certificate = _ssh_certificate(eddsa)
    certificate.verify_cert_signature()
    assert certificate.signature_key() == eddsa.public_key()


def test_note(eddsa: ed25519.Ed25519PrivateKey) -> None:
    """An Ed25519 note verifies, is deterministic, and another text does not verify."""
    signature = eddsa.sign(b"note")
    assert signature == eddsa.sign(b"note")
    eddsa.public_key().verify(signature, b"note")
    with pytest.raises(InvalidSignature):
        eddsa.public_key().verify(signature, b"other")


def test_curve_and_size_are_those_of_the_public_key(ecdsa: ec.EllipticCurvePrivateKey) -> None:
    """Builders choose algorithms by the curve, so the signer tells the true one."""
    assert ecdsa.curve.name == ecdsa.public_key().curve.name
    assert ecdsa.key_size == ecdsa.public_key().key_size


def test_threads_share_a_signer(ecdsa: ec.EllipticCurvePrivateKey) -> None:
    """Signing from several threads at once gives good signatures."""
    with ThreadPoolExecutor(4) as pool:
        signatures = list(pool.map(lambda n: ecdsa.sign(str(n).encode(), ec.ECDSA(SHA256())), range(40)))
    for n, signature in enumerate(signatures):
        ecdsa.public_key().verify(signature, str(n).encode(), ec.ECDSA(SHA256()))


def test_the_chain_of_a_signer_is_an_ordinary_certificate(ecdsa: ec.EllipticCurvePrivateKey) -> None:
    """Nothing in a certificate tells where its issuer's key lives."""
    pki = _pki(ecdsa)
    pki.issuing.verify_directly_issued_by(pki.root)
    assert isinstance(pki.root, pyca.Certificate)
