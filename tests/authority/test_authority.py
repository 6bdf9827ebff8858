"""The authority at work: what it signs, what it refuses, and what it needs to be opened."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509 as pyca
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization as ser

from handfast.authority.authority import FileAuthority, PublicAuthority
from handfast.authority.ceremony import create
from handfast.core import chain, keys
from handfast.core.flow import Intent
from handfast.core.ports import Authority
from handfast.core.records import Revocation
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.errors import Fault, HandfastError, NotFound, PolicyRefused, Refused, Unsafe
from tests.authority.helpers import DAY, NOW, SERIAL, grant, write_pem
from tests.peers import find


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority with constraints, whose root key is elsewhere. Tests do not change it."""
    base = tmp_path_factory.mktemp("authority")
    create(base / "a", name="home", now=NOW, root_key=base / "root.key", permitted_dns=["home.lan"])
    return base / "a"


@pytest.fixture
def directory(tmp_path: Path, made: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(made, tmp_path / "a"))


@pytest.fixture(scope="module")
def authority(made: Path) -> FileAuthority:
    """The authority, open."""
    return FileAuthority.open(made)


def _intent(authority: FileAuthority, role: Role = Role.SERVER, **options: object) -> Intent:
    names = {"names": ("web1.home.lan",)} | options
    return Intent(serial=SERIAL, grant=grant(authority.trust_domain, role, **names))  # type: ignore[arg-type]


def test_it_is_what_the_port_asks_for(authority: FileAuthority) -> None:
    """A file authority satisfies ``core.ports.Authority``; mypy checks this line."""
    port: Authority = authority
    assert port.pin == keys.spki_sha256(authority.root.public_key())
    assert port.trust_domain == f"{port.pin.hex()[:16]}.handfast.internal"


@pytest.mark.parametrize("role", Role)
def test_p6_every_role_is_issued_without_the_root_key(authority: FileAuthority, role: Role) -> None:
    """P6: with the root offline, a leaf chains to the pin, in its role, under the reserved serial."""
    intent = _intent(authority, role)
    credential = authority.issue(intent)
    leaf = chain.load_certificate(credential.certificate)
    above, roots = ([chain.load_certificate(der) for der in ders] for ders in (authority.chain, authority.trust))
    identity = chain.verify_chain(leaf, above, roots, pin=authority.pin, role=role, at=NOW)
    assert (identity.machine, identity.names) == (intent.grant.machine, intent.grant.names)
    assert (credential.serial, leaf.serial_number, credential.grant) == (SERIAL, SERIAL, intent.grant)


def test_an_issued_intent_is_not_signed_again(authority: FileAuthority) -> None:
    """A repeated request gets the certificate of the first time: one serial, one certificate."""
    intent = _intent(authority)
    first = authority.issue(intent)
    again = authority.issue(replace(intent, certificate=first.certificate))
    assert again == first


def test_a_grant_of_another_trust_domain_is_our_own_fault(authority: FileAuthority) -> None:
    """The SPIFFE ID must be the one that trust domain, role and machine make; any other is a bug and is not signed."""
    good = _intent(authority)
    for wrong in (
        replace(good.grant, spiffe_id=good.grant.spiffe_id.replace("/server/", "/registrar/")),
        replace(good.grant, role=Role.OPERATOR),
        replace(good.grant, machine="db1"),
        grant("ffffffffffffffff.handfast.internal"),
    ):
        with pytest.raises(Fault, match="the grant is for 'spiffe://"):
            authority.issue(Intent(serial=SERIAL, grant=wrong))


def test_names_beyond_the_constraints_are_not_signed(authority: FileAuthority) -> None:
    """All names that the issuing CA's constraints exclude are refused at once, before a useless leaf is made."""
    intent = _intent(authority, names=("web1.home.lan", "evil.lan", "10.0.0.1"))
    assert authority.public.excluded(intent.grant.names) == ("evil.lan", "10.0.0.1")
    with pytest.raises(PolicyRefused) as caught:
        authority.issue(intent)
    assert len(caught.value.reasons) == 2


def test_the_revocation_list_is_der_and_signed_by_the_issuing_ca(authority: FileAuthority) -> None:
    """The list has what was revoked, and its number."""
    der = authority.crl(
        [
            Revocation(
                serial=SERIAL, at=NOW, reason="superseded", not_after=NOW + DAY, trust_domain=authority.trust_domain
            )
        ],
        number=3,
        now=NOW,
    )
    signed = pyca.load_der_x509_crl(der)
    issuing_key = authority.issuing.public_key()
    assert signed.is_signature_valid(issuing_key)  # type: ignore[arg-type]
    assert [entry.serial_number for entry in signed] == [SERIAL]
    assert signed.extensions.get_extension_for_class(pyca.CRLNumber).value.crl_number == 3


@pytest.mark.peer("openssl")
@pytest.mark.parametrize("revoked", [(), (SERIAL,)], ids=["good", "revoked"])
def test_openssl_checks_the_lists_of_every_ca(
    authority: FileAuthority, tmp_path: Path, revoked: tuple[int, ...]
) -> None:
    """Verifiers that want a list of every CA, as nginx and PostgreSQL do, are content with the root's and ours."""
    ours = authority.crl(
        [
            Revocation(serial=n, at=NOW, reason="superseded", not_after=NOW + DAY, trust_domain=authority.trust_domain)
            for n in revoked
        ],
        number=1,
        now=NOW,
    )
    lists = [pyca.load_der_x509_crl(der).public_bytes(ser.Encoding.PEM) for der in (ours, authority.public.root_crl)]
    (tmp_path / "crls").write_bytes(b"".join(lists))
    leaf = chain.load_certificate(authority.issue(_intent(authority)).certificate)
    command = [find("openssl") or "", "verify", "-attime", str(int(NOW.timestamp())), "-crl_check_all", "-x509_strict"]
    command += ["-CAfile", str(write_pem(tmp_path / "root", authority.root)), "-CRLfile", str(tmp_path / "crls")]
    command += [
        "-untrusted",
        str(write_pem(tmp_path / "issuing", authority.issuing)),
        str(write_pem(tmp_path / "l", leaf)),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == (2 if revoked else 0)
    assert ("certificate revoked" in result.stderr) == bool(revoked)


def test_the_roots_list_lasts_as_long_as_the_issuing_ca(authority: FileAuthority) -> None:
    """With the root offline nobody can renew its list, so it must not run out first."""
    listed = pyca.load_der_x509_crl(authority.public.root_crl)
    assert listed.next_update_utc == authority.issuing.not_valid_after_utc
    assert listed.issuer == authority.root.subject
    assert list(listed) == []


def test_the_port_tells_what_the_constraints_exclude(authority: FileAuthority) -> None:
    """Policy can ask in advance, and refuse before anything is spent."""
    assert authority.excluded(grant("x", names=("web1.home.lan", "evil.lan")).names) == ("evil.lan",)


def test_the_log_key_is_the_published_one(authority: FileAuthority) -> None:
    """What the log's signer signs, the public half verifies."""
    signature = authority.log_signer().sign(b"checkpoint")
    authority.public.log_key.verify(signature, b"checkpoint")
    with pytest.raises(InvalidSignature):
        authority.public.log_key.verify(signature, b"another")


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("kind", ["host", "user"])
def test_ssh_keygen_reads_what_the_ssh_cas_sign(authority: FileAuthority, tmp_path: Path, kind: str) -> None:
    """`ssh-keygen -L` reads a certificate and names the published CA key as its signer."""
    signer = authority.ssh_host_ca() if kind == "host" else authority.ssh_user_ca()
    published = authority.public.ssh_host_ca if kind == "host" else authority.public.ssh_user_ca
    cert_type = ser.SSHCertificateType.HOST if kind == "host" else ser.SSHCertificateType.USER
    certificate = (
        ser.SSHCertificateBuilder()
        .public_key(ser.load_ssh_public_key(published.encode()))  # type: ignore[arg-type]
        .type(cert_type)
        .serial(7)
        .key_id(b"web1")
        .valid_principals([b"web1.home.lan"])
        .valid_after(int(NOW.timestamp()))
        .valid_before(int(NOW.timestamp()) + 3600)
        .sign(signer)
    )
    (tmp_path / "c.pub").write_bytes(certificate.public_bytes())
    (tmp_path / "ca.pub").write_text(published)
    keygen = find("ssh-keygen") or ""
    shown = subprocess.run([keygen, "-L", "-f", str(tmp_path / "c.pub")], check=True, capture_output=True, text=True)
    ca = subprocess.run([keygen, "-l", "-f", str(tmp_path / "ca.pub")], check=True, capture_output=True, text=True)
    assert f"{kind} certificate" in shown.stdout
    assert f"Signing CA: ED25519 {ca.stdout.split()[1]}" in shown.stdout


# ----------------------------------------------------------------------------------------------- opening


def test_a_passphrase_opens_what_it_encrypted(tmp_path: Path) -> None:
    """Signing needs the passphrase; the public half does not; a wrong, missing or superfluous one is refused."""
    create(tmp_path / "a", name="home", now=NOW, passphrase=Secret(b"pw"))
    opened = FileAuthority.open(tmp_path / "a", passphrase=Secret(b"pw"))
    assert PublicAuthority.read(tmp_path / "a") == opened.public
    with pytest.raises(Refused, match=r"1.key' is encrypted"):
        FileAuthority.open(tmp_path / "a")
    with pytest.raises(Refused, match="does not open"):
        FileAuthority.open(tmp_path / "a", passphrase=Secret(b"PW"))


def test_a_passphrase_for_plain_keys_is_refused(made: Path) -> None:
    """Whoever gives a passphrase believes the keys encrypted, and should learn that they are not."""
    with pytest.raises(Refused, match="is not encrypted"):
        FileAuthority.open(made, passphrase=Secret(b"pw"))


def test_a_path_through_a_file_is_a_fault(tmp_path: Path) -> None:
    """A directory that cannot even be looked at is reported with the system's words."""
    (tmp_path / "file").touch()
    with pytest.raises(Fault, match="not a directory"):
        PublicAuthority.read(tmp_path / "file" / "a")


def test_without_an_authority_the_hint_says_how_to_make_one(tmp_path: Path) -> None:
    """A directory that does not exist is no fault, but a refusal with a hint."""
    with pytest.raises(NotFound, match="no authority in") as caught:
        PublicAuthority.read(tmp_path / "a")
    assert "handfast up" in caught.value.hint


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o770, 0o755, 0o777])
def test_a_directory_that_others_can_enter_is_refused(directory: Path, mode: int) -> None:
    """Whoever can write there could exchange the root, so every bit for others is too much."""
    directory.chmod(mode)
    for attempt in (FileAuthority.open, PublicAuthority.read):
        with pytest.raises(Unsafe, match=f"mode {mode:04o}") as caught:
            attempt(directory)
        assert caught.value.hint == f"chmod 700 {directory}"


@pytest.mark.parametrize("name", ["issuing/1.key", "log.key", "ssh_host_ca", "ssh_user_ca"])
def test_a_key_that_others_can_read_is_refused(directory: Path, name: str) -> None:
    """One loose key file is enough to refuse them all."""
    (directory / name).chmod(0o640)
    with pytest.raises(Unsafe, match=re.escape(f"{name}' can be read or written by others (mode 0640)")):
        FileAuthority.open(directory)


@pytest.mark.root
def test_an_authority_of_somebody_else_is_refused(directory: Path) -> None:
    """A directory that another user owns can be changed by that user at any time."""
    os.chown(directory, 12345, 12345)
    with pytest.raises(Unsafe, match="belongs to user id 12345"):
        PublicAuthority.read(directory)


NAMES = [
    "authority.json",
    "issuing/1.crt",
    "issuing/1.key",
    "log.key",
    "log.pub",
    "root.crl",
    "root.crt",
    "ssh_host_ca",
    "ssh_host_ca.pub",
]
DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff" * 300),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", NAMES)
def test_damage_ends_in_our_own_error(directory: Path, name: str, damage: str) -> None:
    """Whatever happened to a file, opening says which directory or file it is, and does not break in another way."""
    DAMAGE[damage](directory / name)
    with pytest.raises(HandfastError, match=re.escape(str(directory))):
        FileAuthority.open(directory)


@pytest.mark.parametrize(
    "name", ["root.crt", "issuing/1.crt", "issuing/1.key", "log.key", "ssh_host_ca", "ssh_user_ca.pub"]
)
def test_a_file_of_another_authority_is_noticed(directory: Path, tmp_path: Path, name: str) -> None:
    """A key or certificate exchanged for a genuine one of another authority is refused."""
    create(tmp_path / "b", name="home", now=NOW)
    shutil.copy2(tmp_path / "b" / name, directory / name)
    with pytest.raises(Fault, match="is damaged"):
        FileAuthority.open(directory)


@pytest.mark.parametrize("name", ["issuing/1.key", "log.key"])
def test_a_key_of_another_kind_is_noticed(directory: Path, name: str) -> None:
    """An Ed25519 key does not pass for the issuing CA's, nor a P-256 key for the log's."""
    other = {"issuing/1.key": "log.key", "log.key": "issuing/1.key"}[name]
    shutil.copy2(directory / other, directory / name)
    with pytest.raises(Fault, match="does not belong to its public half"):
        FileAuthority.open(directory)


def test_a_public_key_of_another_kind_is_noticed(directory: Path, authority: FileAuthority) -> None:
    """The log is verified with Ed25519 and nothing else."""
    form = (ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    (directory / "log.pub").write_bytes(authority.root.public_key().public_bytes(*form))
    with pytest.raises(Fault, match="is not Ed25519"):
        PublicAuthority.read(directory)


@pytest.mark.parametrize("change", [{"version": 2}, {"surprise": 1}, {"issuing": "../../x"}, {"name": None}])
def test_a_state_file_that_says_anything_else_is_refused(directory: Path, change: dict[str, object]) -> None:
    """Later versions, unknown fields and wrong types are refused and never half understood."""
    path = directory / "authority.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Fault, match=r"authority.json"):
        FileAuthority.open(directory)


def test_a_later_issuing_ca_takes_over_without_a_new_pin(directory: Path, made: Path) -> None:
    """The layout allows a second issuing CA under the same root: newcomers that hold the pin do not notice."""
    from handfast.adapters import files
    from handfast.authority.signers import file, pkcs8
    from handfast.core import x509
    from tests.authority.helpers import new_key

    before = FileAuthority.open(directory)
    root_key = file.load(made.with_name("root.key"))
    key = new_key()
    assert isinstance(root_key, file.FileSigner)
    certificate = x509.issuing(before.root, root_key, key.public_key(), name="home", generation=2, now=NOW)
    files.write_new(directory / "issuing/2.key", pkcs8.dump(key, None))
    files.write_new(directory / "issuing/2.crt", certificate.public_bytes(ser.Encoding.PEM))
    state = json.loads((directory / "authority.json").read_text()) | {"issuing": 2}
    (directory / "authority.json").write_text(json.dumps(state))
    after = FileAuthority.open(directory)
    leaf = chain.load_certificate(after.issue(_intent(after)).certificate)
    assert after.pin == before.pin
    assert leaf.issuer != before.issuing.subject
    chain.verify_chain(leaf, [after.issuing], [after.root], pin=before.pin, role=Role.SERVER, at=NOW)


def test_p12_no_secret_shows_in_any_representation(tmp_path: Path) -> None:
    """P12: neither keys nor the passphrase appear when an authority is printed."""
    create(tmp_path / "a", name="home", now=NOW, passphrase=Secret(b"correct horse"))
    authority = FileAuthority.open(tmp_path / "a", passphrase=Secret(b"correct horse"))
    shown = repr(vars(authority)) + repr(authority)
    assert "correct horse" not in shown
    assert "PRIVATE" not in shown
