"""What every authority must do, whether its root signs leaves itself or an issuing CA does."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.authority.authority import FileAuthority
from handfast.authority.ceremony import create
from handfast.authority.flat import FlatAuthority, PublicFlatAuthority
from handfast.core import chain, dn, keys, nifi_x509, x509
from handfast.core.flow import Intent
from handfast.core.names import Names
from handfast.core.ports import Authority
from handfast.core.records import Revocation
from handfast.core.roles import Role
from handfast.errors import Fault, Malformed, PolicyRefused, Refused
from tests.authority.helpers import DAY, NOW, SERIAL, grant, write_pem
from tests.peers import find

CONSTRAINTS = pyca.NameConstraints([pyca.DNSName("home.lan")], None)


def _file(path: Path) -> Authority:
    create(path, name="home", now=NOW, permitted_dns=["home.lan"])
    return FileAuthority.open(path)


def _flat(path: Path) -> Authority:
    """Of a root that another program made, since ours have no name constraints."""
    key = rsa.generate_private_key(65537, 2048)
    plain = nifi_x509.root(key, subject=dn.parse("CN=ca.home.lan, OU=NIFI"), days=825, now=NOW)
    builder = pyca.CertificateBuilder(plain.issuer, plain.subject, key.public_key(), 1)
    builder = builder.not_valid_before(plain.not_valid_before_utc).not_valid_after(plain.not_valid_after_utc)
    for extension in plain.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    root = builder.add_extension(CONSTRAINTS, critical=True).sign(key, keys.signature_hash(key))
    return FlatAuthority(PublicFlatAuthority(root), key)


MAKE: dict[str, Callable[[Path], Authority]] = {"file": _file, "flat": _flat}


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Authority]:
    """One of each kind; no test changes it."""
    return cache(lambda kind: MAKE[kind](tmp_path_factory.mktemp("authority") / "a"))


@pytest.fixture(params=sorted(MAKE))
def authority(authorities: Callable[[str], Authority], request: pytest.FixtureRequest) -> Authority:
    """Each authority, which may certify names below home.lan."""
    return authorities(request.param)


def intent(authority: Authority, role: Role = Role.PEER, names: tuple[str, ...] = ("web1.home.lan",)) -> Intent:
    """What the ledger reserved."""
    return Intent(serial=SERIAL, grant=grant(authority.trust_domain, role, names=names))


def revoked(serial: int, authority: Authority, *, domain: str | None = None) -> Revocation:
    """A credential taken back."""
    domain = authority.trust_domain if domain is None else domain
    return Revocation(serial=serial, at=NOW, reason="superseded", not_after=NOW + DAY, trust_domain=domain)


def test_it_says_who_it_is(authority: Authority) -> None:
    """Pin, trust domain and dates are those of its certificates; a root that issues is its whole chain."""
    assert authority.pin == keys.spki_sha256(authority.root.public_key())
    assert authority.trust_domain == x509.trust_domain(authority.pin)
    assert authority.trust == (authority.root.public_bytes(Encoding.DER),)
    issuing = () if authority.issuing == authority.root else (authority.issuing.public_bytes(Encoding.DER),)
    assert authority.chain == issuing
    assert authority.not_before == authority.issuing.not_valid_before_utc
    assert authority.not_after == authority.issuing.not_valid_after_utc


@pytest.mark.peer("openssl")
@pytest.mark.parametrize("role", Role)
def test_a_leaf_verifies_with_what_goes_along(authority: Authority, role: Role, tmp_path: Path) -> None:
    """Root, chain and leaf verify as openssl sees it, strictly; the leaf is what was granted, under its serial."""
    asked = intent(authority, role)
    credential = authority.issue(asked)
    leaf = chain.load_certificate(credential.certificate)
    assert (credential.serial, leaf.serial_number, credential.grant) == (SERIAL, SERIAL, asked.grant)
    identity = chain.read_identity(leaf)
    assert (identity.role, identity.machine, identity.names) == (role, asked.grant.machine, asked.grant.names)
    usages = leaf.extensions.get_extension_for_class(pyca.ExtendedKeyUsage).value
    assert set(usages) == set(x509.usages(role))
    above = write_pem(tmp_path / "above", *map(chain.load_certificate, authority.chain))
    trust = write_pem(tmp_path / "trust", *map(chain.load_certificate, authority.trust))
    purpose = "sslserver" if role.serves else "sslclient"
    command = [find("openssl") or "", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp()))]
    command += ["-purpose", purpose, "-CAfile", str(trust)]
    command += ["-untrusted", str(above)] if authority.chain else []
    result = subprocess.run(
        [*command, str(write_pem(tmp_path / "leaf", leaf))], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_an_issued_intent_is_not_signed_again(authority: Authority) -> None:
    """A repeated request gets the certificate of the first time: one serial, one certificate."""
    asked = intent(authority)
    first = authority.issue(asked)
    assert authority.issue(replace(asked, certificate=first.certificate)) == first


def test_a_grant_of_another_trust_domain_is_our_own_fault(authority: Authority) -> None:
    """The SPIFFE ID must be the one that trust domain, role and machine make; any other is a bug and is not signed."""
    good = intent(authority).grant
    for wrong in (
        replace(good, spiffe_id=good.spiffe_id.replace("/peer/", "/registrar/")),
        replace(good, role=Role.OPERATOR),
        replace(good, machine="db1"),
        grant("ffffffffffffffff.handfast.internal", Role.PEER),
    ):
        with pytest.raises(Fault, match="the grant is for 'spiffe://"):
            authority.issue(Intent(serial=SERIAL, grant=wrong))


def test_one_authority_does_not_sign_anothers_grant(authorities: Callable[[str], Authority]) -> None:
    """Two authorities of one registrar share the ledger, and never a grant."""
    for ours, theirs in (("file", "flat"), ("flat", "file")):
        with pytest.raises(Fault, match="the grant is for"):
            authorities(ours).issue(intent(authorities(theirs)))


def test_names_beyond_the_constraints_are_not_signed(authority: Authority) -> None:
    """All excluded names are refused at once, and policy can ask for them in advance."""
    names = ("web1.home.lan", "evil.lan", "other.lan")
    assert authority.excluded(Names.parse(names)) == ("evil.lan", "other.lan")
    with pytest.raises(PolicyRefused) as caught:
        authority.issue(intent(authority, names=names))
    assert len(caught.value.reasons) == 2


def test_no_leaf_outlives_its_issuer(authority: Authority) -> None:
    """A lifetime is cut to the issuer's; one that lies behind it is refused."""
    asked = intent(authority)
    long = replace(asked.grant, not_after=authority.not_after + DAY)
    leaf = chain.load_certificate(authority.issue(replace(asked, grant=long)).certificate)
    assert leaf.not_valid_after_utc == authority.not_after
    with pytest.raises(Refused, match="no lifetime is left"):
        authority.issue(replace(asked, grant=replace(long, not_before=authority.not_after)))


def test_the_revocation_list_has_what_it_issued_itself(authority: Authority) -> None:
    """The list is signed by the issuer of the leaves, has its number, and nothing of another authority."""
    listed = [revoked(SERIAL, authority), revoked(7, authority, domain="another.internal")]
    signed = pyca.load_der_x509_crl(authority.crl(listed, number=3, now=NOW))
    assert signed.is_signature_valid(authority.issuing.public_key())  # type: ignore[arg-type]
    assert signed.issuer == authority.issuing.subject
    assert [entry.serial_number for entry in signed] == [SERIAL]
    assert signed.extensions.get_extension_for_class(pyca.CRLNumber).value.crl_number == 3


def test_an_unknown_reason_is_refused(authority: Authority) -> None:
    """Only the names of RFC 5280 count."""
    with pytest.raises(Malformed, match="not a reason for revocation: 'lost'"):
        authority.crl([replace(revoked(SERIAL, authority), reason="lost")], number=1, now=NOW)
