"""What a machine keeps of its SSH certificates: whole and private, and when the next ones are due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from handfast.core.invitation import Address
from handfast.core.sshleaf import evidence_of, evidence_words
from handfast.errors import Fault, NotFound, Unsafe
from handfast.newcomer import ssh_state
from handfast.newcomer.certificates import Certified
from handfast.newcomer.ssh_state import Installed, SshHeld
from tests.core.certmaterial import CA, NOW, OTHER_CA, issued

WEEK = timedelta(days=7)
CERTIFICATE = issued(valid_after=NOW - timedelta(minutes=5), valid_before=NOW + WEEK)
HELD = SshHeld(
    Certified((CERTIFICATE,), CA.public, OTHER_CA.public, NOW),
    (Address("registrar.example", 7443), Address("::1", 7443)),
    b"\7" * 32,
    Path("/etc/ssh"),
    (22, 2222),
)


@pytest.mark.parametrize(
    "held",
    [
        HELD,
        replace(HELD, agent=Path("/run/agent")),
        replace(HELD, installed=Installed(Path("/etc/ssh/sshd_config"), trust_users=True)),
        replace(HELD, installed=Installed(Path("/x"), trust_users=False, complete=True)),
    ],
)
def test_it_comes_back(tmp_path: Path, held: SshHeld) -> None:
    """What was saved is loaded, from a file that nobody else can read."""
    ssh_state.save(tmp_path, held)
    assert ssh_state.load(tmp_path) == held
    assert (tmp_path / "ssh.json").stat().st_mode & 0o777 == 0o600


def test_nothing_there(tmp_path: Path) -> None:
    """A machine without SSH certificates has no such file."""
    with pytest.raises(NotFound):
        ssh_state.load(tmp_path)


def test_others_could_write_it(tmp_path: Path) -> None:
    """Who could, would choose the registrar, and the files that root writes."""
    ssh_state.save(tmp_path, HELD)
    (tmp_path / "ssh.json").chmod(0o666)
    with pytest.raises(Unsafe):
        ssh_state.load(tmp_path)


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ('"version": 1', '"version": 2'),
        (f'"{CERTIFICATE}"', ""),
        (f'"{CERTIFICATE}"', '"ssh-ed25519 AAAA"'),
        (f'"{"07" * 32}"', '"07"'),
        ('"registrar.example:7443"', '"registrar.example"'),
        ('"ssh_dir": "/etc/ssh"', '"ssh_dir": 1'),
        ('"issued_at": "2026', '"issued_at": "x'),
        ('"agent": null', '"agents": null'),
        ("}", ""),
    ],
)
def test_a_damaged_one(tmp_path: Path, part: str, instead: str) -> None:
    """It is said which file it is, and nothing of it is believed."""
    ssh_state.save(tmp_path, HELD)
    path = tmp_path / "ssh.json"
    assert part in path.read_text()
    path.write_text(path.read_text().replace(part, instead))
    with pytest.raises(Fault, match=r"ssh\.json' is damaged") as caught:
        ssh_state.load(tmp_path)
    assert "certified anew" in caught.value.hint


def test_due_between_half_and_two_thirds() -> None:
    """Of the life as the registrar counted it; another moment for each machine and certificate, the same each time."""
    drawn = set[datetime]()
    for serial in range(1, 60):
        certificate = issued(serial=serial, valid_after=NOW - timedelta(minutes=5), valid_before=NOW + WEEK)
        held = replace(HELD, certified=replace(HELD.certified, certificates=(certificate,)))
        assert NOW + WEEK * 0.5 <= held.due_at <= NOW + WEEK * 0.66
        assert held.due_at == held.due_at
        drawn.add(held.due_at)
    assert len(drawn) == 59
    assert max(drawn) - min(drawn) > WEEK * 0.1


def test_the_first_that_ends_counts() -> None:
    """Of several certificates; and a time of the answer that cannot be does not put it off, or bring it on."""
    later = issued(valid_before=NOW + 2 * WEEK)
    for at in (NOW, datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)):
        held = replace(HELD, certified=replace(HELD.certified, certificates=(later, CERTIFICATE), time=at))
        assert held.ends == NOW + WEEK
        assert CERTIFICATE.valid_after < held.due_at < NOW + WEEK


def test_what_programs_are_told() -> None:
    """One form for all commands: a serial is text, since it is too long for JSON's numbers; the file's is not shown."""
    assert ssh_state.certificates(HELD.certificates) == [
        {
            "serial": str(CERTIFICATE.serial),
            "fingerprint": CERTIFICATE.key.fingerprint,
            "algorithm": CERTIFICATE.key.algorithm,
            "principals": list(CERTIFICATE.principals),
            "until": CERTIFICATE.valid_before.isoformat(),
            "evidence": evidence_of(CERTIFICATE),
        }
    ]
    view = ssh_state.view(HELD)
    assert view.keys() == {"ssh_certificates", "ssh"}
    assert str(CERTIFICATE) not in str(view)


def test_evidence_for_people() -> None:
    """What a certificate says of itself, in words; and where it says nothing."""
    assert evidence_words("invitation+ssh-hostkey proved") == "invitation and ssh-hostkey (proved)"
    assert evidence_words("operator") == "operator"
    assert evidence_words("") == "nothing that it says"
