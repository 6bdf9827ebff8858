"""What our certificates and revocation lists look like, judged by openssl and pkilint as well."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from handfast.core import chain, keys, x509
from handfast.core.names import Names
from handfast.core.records import Revocation
from handfast.core.roles import Role
from handfast.errors import Malformed, Refused
from tests.authority.helpers import DAY, HOUR, LEAF_KEY, NOW, SERIAL, Pki, grant, write_pem
from tests.peers import find

CRL_URL = "http://registrar.home.lan:7080/v1/crl"
CONSTRAINTS = x509.name_constraints(["home.lan"], [ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
PKI = Pki.make(CONSTRAINTS)
DOMAIN = PKI.domain
P384_KEY = ec.generate_private_key(ec.SECP384R1()).public_key()
RSA_KEY = rsa.generate_private_key(65537, 2048).public_key()
LONG = ".".join(["a" * 40] * 3)  # does not fit a common name

SERVERS = {Role.SERVER, Role.PEER, Role.AGENT, Role.REGISTRAR}
CLIENTS = {Role.CLIENT, Role.PEER, Role.AGENT, Role.CONTROLLER, Role.OPERATOR}


def _leaves() -> Iterator[tuple[str, Role, pyca.Certificate]]:
    for role in Role:
        yield role, role, PKI.leaf(grant(PKI.domain, role), crl_url=CRL_URL)
    yield "P-384", Role.PEER, PKI.leaf(grant(PKI.domain, Role.PEER, public_key=P384_KEY), crl_url=CRL_URL)
    yield "RSA", Role.PEER, PKI.leaf(grant(PKI.domain, Role.PEER, public_key=RSA_KEY), crl_url=CRL_URL)
    yield "long", Role.SERVER, PKI.leaf(grant(PKI.domain, machine=LONG), crl_url=CRL_URL)
    yield "nameless", Role.CLIENT, PKI.leaf(grant(PKI.domain, Role.CLIENT, machine="pi", names=()), crl_url=CRL_URL)


LEAVES = {name: (role, leaf) for name, role, leaf in _leaves()}


def crl(*revocations: Revocation, number: int = 1, pki: Pki = PKI) -> pyca.CertificateRevocationList:
    """A revocation list of the issuing CA."""
    return x509.crl(pki.issuing_key, pki.issuing, revocations, number=number, now=NOW)


def _oids(certificate: pyca.Certificate) -> list[tuple[str, bool]]:
    return [(e.oid.dotted_string, e.critical) for e in certificate.extensions]


# ------------------------------------------------------------------------------------------------- leaf


def test_a_leaf_holds_the_grant_and_nothing_else() -> None:
    """Subject, validity, key and names are the grant's; the serial is the intent's."""
    leaf = PKI.leaf()
    names = leaf.extensions.get_extension_for_class(pyca.SubjectAlternativeName).value
    assert leaf.version is pyca.Version.v3
    assert leaf.serial_number == SERIAL
    assert leaf.subject.rfc4514_string() == "CN=web1.home.lan"
    assert leaf.issuer == PKI.issuing.subject
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (NOW - HOUR, NOW + DAY)
    assert leaf.public_key() == LEAF_KEY.public_key()
    assert [name.value for name in names] == [
        f"spiffe://{PKI.domain}/server/web1.home.lan",
        "web1.home.lan",
        IPv4Address("10.0.0.7"),
        IPv6Address("fd00::7"),
    ]


@pytest.mark.parametrize("crl_url", [None, CRL_URL])
def test_a_leaf_has_exactly_these_extensions(crl_url: str | None) -> None:
    """Every extension and whether it is critical; the pointer to the revocation list only if there is a URL."""
    expected = [
        (ExtensionOID.BASIC_CONSTRAINTS, True),
        (ExtensionOID.KEY_USAGE, True),
        (ExtensionOID.EXTENDED_KEY_USAGE, False),
        (ExtensionOID.AUTHORITY_KEY_IDENTIFIER, False),
        *([(ExtensionOID.CRL_DISTRIBUTION_POINTS, False)] if crl_url else []),
        (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, False),
        (ExtensionOID.SUBJECT_KEY_IDENTIFIER, False),
    ]
    assert _oids(PKI.leaf(crl_url=crl_url)) == [(oid.dotted_string, critical) for oid, critical in expected]


@pytest.mark.parametrize("role", Role)
def test_p6_usages_follow_from_the_role(role: Role) -> None:
    """P6: serverAuth for those who serve, clientAuth for those who dial, and no other usage for anybody."""
    expected = {ExtendedKeyUsageOID.SERVER_AUTH} if role in SERVERS else set()
    expected |= {ExtendedKeyUsageOID.CLIENT_AUTH} if role in CLIENTS else set()
    leaf = PKI.leaf(grant(PKI.domain, role))
    assert set(leaf.extensions.get_extension_for_class(pyca.ExtendedKeyUsage).value) == expected
    usage = leaf.extensions.get_extension_for_class(pyca.KeyUsage).value
    assert usage.digital_signature
    assert not any((usage.key_cert_sign, usage.crl_sign, usage.key_encipherment, usage.key_agreement))


@pytest.mark.parametrize(("length", "common_name"), [(64, True), (65, False)])
def test_a_long_machine_name_leaves_the_subject_empty(length: int, common_name: bool) -> None:
    """What does not fit a common name goes into a critical alternative name only (RFC 5280 §4.1.2.6)."""
    machine = "a" * length
    leaf = PKI.leaf(grant(PKI.domain, machine=machine))
    assert leaf.subject.rfc4514_string() == (f"CN={machine}" if common_name else "")
    assert leaf.extensions.get_extension_for_class(pyca.SubjectAlternativeName).critical is not common_name
    assert chain.read_identity(leaf).machine == machine


def test_key_identifiers_are_the_sha256_of_the_public_key_info() -> None:
    """The root's key identifier is the pin, and each certificate points at its issuer's."""
    for certificate, issuer in ((PKI.root, None), (PKI.issuing, PKI.root), (PKI.leaf(), PKI.issuing)):
        own = certificate.extensions.get_extension_for_class(pyca.SubjectKeyIdentifier).value.digest
        assert own == keys.spki_sha256(certificate.public_key())
        if issuer is not None:
            above = certificate.extensions.get_extension_for_class(pyca.AuthorityKeyIdentifier).value
            assert above.key_identifier == keys.spki_sha256(issuer.public_key())
            assert above.authority_cert_issuer is None


def test_a_leaf_does_not_outlive_its_issuer() -> None:
    """The validity is cut at both ends to the issuing CA's."""
    wide = grant(PKI.domain, not_before=NOW - 90 * DAY, not_after=NOW + 9000 * DAY)
    leaf = PKI.leaf(wide)
    assert leaf.not_valid_before_utc == PKI.issuing.not_valid_before_utc
    assert leaf.not_valid_after_utc == PKI.issuing.not_valid_after_utc


def test_an_expired_issuing_ca_issues_nothing() -> None:
    """When nothing is left of the lifetime, the refusal says until when the issuing CA was valid."""
    late = grant(PKI.domain, not_before=NOW + 2000 * DAY, not_after=NOW + 2001 * DAY)
    with pytest.raises(Refused, match=r"no lifetime is left for 'web1.home.lan'.*to 2029-11-22"):
        PKI.leaf(late)


def test_a_weak_key_in_a_grant_is_refused() -> None:
    """The strength of a key is checked once more where it counts, before the signature."""
    with pytest.raises(Malformed, match="RSA 1024"):
        PKI.leaf(grant(PKI.domain, public_key=rsa.generate_private_key(65537, 1024).public_key()))


# -------------------------------------------------------------------------------------------------- CAs


def test_the_root_has_ten_years_and_one_ca_below_it() -> None:
    """A root is self-signed, P-256, backdated an hour, and states its trust domain."""
    usage = PKI.root.extensions.get_extension_for_class(pyca.KeyUsage)
    basic = PKI.root.extensions.get_extension_for_class(pyca.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 1)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert PKI.root.not_valid_before_utc == NOW - HOUR
    assert PKI.root.not_valid_after_utc == NOW + timedelta(days=3652)
    assert PKI.root.subject == PKI.root.issuer
    assert PKI.root.subject.rfc4514_string() == f"CN=home root CA,O={PKI.domain}"
    assert PKI.domain == f"{PKI.pin.hex()[:16]}.handfast.internal"


def test_the_issuing_ca_has_three_years_and_no_ca_below_it() -> None:
    """An issuing CA has path length 0, the root's trust domain, and does not outlive the root."""
    basic = PKI.issuing.extensions.get_extension_for_class(pyca.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert PKI.issuing.not_valid_after_utc == NOW + timedelta(days=1096)
    assert x509.spiffe_domain(PKI.issuing) == PKI.domain
    late = x509.issuing(PKI.root, PKI.root_key, LEAF_KEY.public_key(), name="home", generation=4, now=NOW + 3650 * DAY)
    assert late.not_valid_after_utc == PKI.root.not_valid_after_utc
    assert late.subject != PKI.issuing.subject


def test_two_authorities_of_one_name_differ_in_subject_and_trust_domain() -> None:
    """Somebody who trusts two sites, both called home, can tell them apart."""
    other = Pki.make()
    assert other.root.subject != PKI.root.subject
    assert other.domain != PKI.domain


@pytest.mark.parametrize("name", ["", " home", "x" * 60, "a\nb", "\x1b[31m"])
def test_a_name_that_fits_no_ca_is_refused(name: str) -> None:
    """Empty, padded, long and unprintable names are refused."""
    with pytest.raises(Malformed, match="not a name for a CA"):
        Pki.make(name=name)


def test_constraints_are_critical_and_exclude_what_they_do_not_mention() -> None:
    """Empty means no: a kind of name without a permitted subtree is excluded altogether."""
    extension = PKI.issuing.extensions.get_extension_for_class(pyca.NameConstraints)
    assert extension.critical
    assert extension.value == CONSTRAINTS
    only_dns = x509.name_constraints(["home.lan"], [])
    assert only_dns is not None
    assert [str(name.value) for name in only_dns.excluded_subtrees or ()] == ["0.0.0.0/0", "::/0"]
    only_v4 = x509.name_constraints([], [ip_network("10.0.0.0/8")])
    assert only_v4 is not None
    assert [str(name.value) for name in only_v4.excluded_subtrees or ()] == ["", "::/0"]
    assert x509.name_constraints([], []) is None


def test_excluded_names_are_found_before_signing() -> None:
    """What the constraints exclude is known in advance; without constraints nothing is."""
    names = Names.parse(["home.lan", "a.home.lan", "xhome.lan", "evil.lan", "10.1.2.3", "11.0.0.1", "fe80::1"])
    assert x509.excluded(PKI.issuing, names) == ("evil.lan", "xhome.lan", "11.0.0.1", "fe80::1")
    assert x509.excluded(Pki.make().issuing, names) == ()


@pytest.mark.parametrize("url", ["", "ftp://a/crl", "http://a b/crl", "http://\u00e4/crl", "http://a/\n"])
def test_a_revocation_list_url_must_be_http_and_ascii(url: str) -> None:
    """What cannot stand in a certificate is refused when it is configured."""
    with pytest.raises(Malformed, match="not a URL for a revocation list"):
        x509.distribution_points(url)


# -------------------------------------------------------------------------------------------------- CRL


def test_a_revocation_list_has_serials_times_and_reasons() -> None:
    """Each entry has its reason, but "unspecified" is left out (RFC 5280 §5.3.1)."""
    signed = crl(
        Revocation(serial=SERIAL, at=NOW, reason="keyCompromise", not_after=NOW + DAY, trust_domain=DOMAIN),
        Revocation(serial=7, at=NOW - DAY, reason="unspecified", not_after=NOW + DAY, trust_domain=DOMAIN),
        number=42,
    )
    assert signed.is_signature_valid(PKI.issuing_key.public_key())
    assert signed.extensions.get_extension_for_class(pyca.CRLNumber).value.crl_number == 42
    identifier = signed.extensions.get_extension_for_class(pyca.AuthorityKeyIdentifier).value.key_identifier
    assert identifier == keys.spki_sha256(PKI.issuing.public_key())
    assert (signed.last_update_utc, signed.next_update_utc) == (NOW - HOUR, NOW + 7 * DAY)
    first, second = (signed.get_revoked_certificate_by_serial_number(serial) for serial in (SERIAL, 7))
    assert first is not None
    assert first.revocation_date_utc == NOW
    assert first.extensions.get_extension_for_class(pyca.CRLReason).value.reason is pyca.ReasonFlags.key_compromise
    assert second is not None
    assert list(second.extensions) == []


@pytest.mark.parametrize("reason", ["", "lost", "key_compromise", "KEYCOMPROMISE", "removeFromCRL"])
def test_an_unknown_reason_is_refused_with_the_list(reason: str) -> None:
    """Only the names of RFC 5280 count, and a complete list never removes."""
    with pytest.raises(Malformed, match="not a reason for revocation") as caught:
        crl(Revocation(serial=1, at=NOW, reason=reason, not_after=NOW + DAY, trust_domain=DOMAIN))
    assert "keyCompromise" in caught.value.hint
    assert "removeFromCRL" not in caught.value.hint


# ------------------------------------------------------------------------------------------ real verifiers


def _openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([find("openssl") or "", *map(str, arguments)], capture_output=True, text=True, check=False)


def _openssl_verify(tmp_path: Path, leaf: pyca.Certificate, purpose: str, *revoked: int) -> str:
    """What openssl says of a leaf at ``NOW``, with a revocation list; starts with ``OK`` when it is content."""
    root, issuing = write_pem(tmp_path / "root", PKI.root), write_pem(tmp_path / "issuing", PKI.issuing)
    signed = crl(
        *(
            Revocation(serial=serial, at=NOW, reason="superseded", not_after=NOW + DAY, trust_domain=DOMAIN)
            for serial in revoked
        )
    )
    (tmp_path / "crl").write_bytes(signed.public_bytes(Encoding.PEM))
    trust: list[str | Path] = [
        "-CAfile",
        root,
        "-untrusted",
        issuing,
        "-crl_check",
        "-CRLfile",
        tmp_path / "crl",
        "-x509_strict",
    ]
    when = ["-purpose", purpose, "-attime", str(int(NOW.timestamp()))]
    result = _openssl("verify", *trust, *when, write_pem(tmp_path / "leaf", leaf))
    return "OK" if result.returncode == 0 else result.stdout + result.stderr


@pytest.mark.peer("openssl")
@pytest.mark.parametrize("name", LEAVES)
def test_p6_openssl_accepts_each_profile_for_its_purpose_only(name: str, tmp_path: Path) -> None:
    """P6: openssl, strict and with the revocation list, takes a leaf as server or client exactly as its role says."""
    role, leaf = LEAVES[name]
    for purpose, allowed in (("sslserver", SERVERS), ("sslclient", CLIENTS)):
        verdict = _openssl_verify(tmp_path, leaf, purpose)
        assert verdict == "OK" if role in allowed else "unsuitable certificate purpose" in verdict


@pytest.mark.peer("openssl")
def test_openssl_refuses_a_revoked_leaf(tmp_path: Path) -> None:
    """A serial on the list is refused, and only that."""
    assert _openssl_verify(tmp_path, PKI.leaf(), "sslserver", SERIAL - 1) == "OK"
    assert "certificate revoked" in _openssl_verify(tmp_path, PKI.leaf(), "sslserver", SERIAL)


@pytest.mark.peer("openssl")
def test_openssl_refuses_names_beyond_the_constraints(tmp_path: Path) -> None:
    """The constraints bind openssl as they bind us."""
    verdict = _openssl_verify(tmp_path, PKI.leaf(grant(PKI.domain, names=("evil.lan",))), "sslserver")
    assert "permitted subtree violation" in verdict


@pytest.mark.peer("openssl")
def test_expired_certificates_leave_the_list_after_one_lifetime() -> None:
    """What expired is listed for one lifetime of a list more (RFC 5280 §3.3), and then no longer."""
    ended = [NOW - 7 * DAY, NOW - 7 * DAY + HOUR, NOW + DAY]
    signed = crl(
        *(
            Revocation(serial=n, at=NOW, reason="superseded", not_after=end, trust_domain=DOMAIN)
            for n, end in enumerate(ended, 1)
        )
    )
    assert [entry.serial_number for entry in signed] == [2, 3]


def test_openssl_verifies_the_revocation_list(tmp_path: Path) -> None:
    """`openssl crl -verify` accepts the list's signature under the issuing CA."""
    (tmp_path / "crl").write_bytes(
        crl(
            Revocation(serial=7, at=NOW, reason="keyCompromise", not_after=NOW + DAY, trust_domain=DOMAIN)
        ).public_bytes(Encoding.DER)
    )
    issuing = write_pem(tmp_path / "issuing", PKI.issuing)
    result = _openssl(
        "crl", "-inform", "DER", "-in", tmp_path / "crl", "-CAfile", issuing, "-verify", "-noout", "-text"
    )
    assert "verify OK" in result.stderr
    assert "Key Compromise" in result.stdout


def _lint(tool: str, path: Path, *arguments: str) -> list[str]:
    """Every finding of pkilint at WARNING or above, by its code."""
    program = Path(sys.executable).with_name(tool)
    command = [str(program), "lint", "-s", "WARNING", "-f", "JSON", *arguments, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(result.stdout)["results"]
    return [finding["code"] for result in found for finding in result["finding_descriptions"]]


# pkilint's URI check knows no scheme but those of the web; X509-SVID §2 requires spiffe:// in this place.
SPIFFE = "pkix.invalid_uri_syntax"
CERTIFICATES = {"root": PKI.root, "issuing": PKI.issuing} | {name: leaf for name, (_, leaf) in LEAVES.items()}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_pkilint_finds_nothing_in_certificates(name: str, tmp_path: Path) -> None:
    """pkilint has no error and no warning for any certificate, the scheme of a SPIFFE ID apart."""
    findings = _lint("lint_pkix_cert", write_pem(tmp_path / "certificate", CERTIFICATES[name]))
    assert [code for code in findings if code != SPIFFE] == []
    assert len(findings) <= 1


def test_pkilint_finds_nothing_in_the_revocation_list(tmp_path: Path) -> None:
    """pkilint has no error and no warning for a revocation list, empty or not."""
    for entries in (
        [],
        [Revocation(serial=SERIAL, at=NOW, reason="superseded", not_after=NOW + DAY, trust_domain=DOMAIN)],
    ):
        (tmp_path / "crl").write_bytes(crl(*entries).public_bytes(Encoding.PEM))
        assert _lint("lint_crl", tmp_path / "crl", "-t", "CRL", "-p", "PKIX") == []
    above = x509.crl(PKI.root_key, PKI.root, (), number=1, now=NOW, lifetime=1000 * DAY)
    (tmp_path / "arl").write_bytes(above.public_bytes(Encoding.PEM))
    assert _lint("lint_crl", tmp_path / "arl", "-t", "ARL", "-p", "PKIX") == []
