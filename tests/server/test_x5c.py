"""A registrar that takes another authority's certificates, met over TLS; what that authority takes back reaches it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from structlog.testing import capture_logs

from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import AlreadySpent, EvidenceRejected, HandfastError, NotFound, PolicyRefused, Revoked
from handfast.introducers.x5c import Certified
from handfast.newcomer.join import join
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.renew import renew
from handfast.newcomer.x5c import certified
from handfast.server.limits import Limits
from tests.introducers.x5c_material import DAY, Ca, p256, root
from tests.server.running import Running, running

CONFIG = """
[methods]
x5c = ["server"]

[x5c]
roots = ["{directory}/roots.pem"]
names = ["*.lan"]
crls = ["{directory}/their.crl"]
"""


def now() -> datetime:
    """The time, which is the registrar's too."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass
class Theirs:
    """Another authority, its list on the registrar's disk, and machines with its certificates."""

    directory: Path
    root: Ca
    ca: Ca

    def publish(self, *revoked: pyca.Certificate) -> None:
        """Put a new list where the registrar looks for it."""
        content = self.ca.crl(*revoked, begin=now(), end=now() + DAY)
        temporary = self.directory / "new.crl"
        temporary.write_bytes(content.public_bytes(Encoding.PEM))
        temporary.rename(self.directory / "their.crl")

    def machine(self, *names: str, ca: Ca | None = None) -> tuple[pyca.Certificate, Path, Path]:
        """A leaf, and the files of chain and key."""
        key, issuer = p256(names[0]), ca or self.ca
        leaf = issuer.leaf(key, *names, begin=now() - DAY, end=now() + DAY)
        chain, private = self.directory / f"{names[0]}.pem", self.directory / f"{names[0]}.key"
        chain.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in (leaf, issuer.certificate)))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        private.chmod(0o600)
        return leaf, chain, private


def below(above: Ca, name: str) -> Ca:
    """A CA that is valid now."""
    return above.below(name, begin=now() - DAY, end=now() + DAY)


@pytest.fixture
def theirs(tmp_path: Path) -> Theirs:
    """An authority that nobody has revoked anything of."""
    above = root("their root", begin=now() - DAY)
    made = Theirs(tmp_path, above, below(above, "their CA"))
    (tmp_path / "roots.pem").write_bytes(above.certificate.public_bytes(Encoding.PEM))
    made.publish()
    return made


@pytest.fixture
def registrar(tmp_path: Path, theirs: Theirs) -> Iterator[Running]:
    """One that trusts it, and looks often."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "config.toml").write_text(CONFIG.format(directory=tmp_path))
    with running(tmp_path / "data", limits=Limits(tick=0.05)) as started:
        yield started


def way(registrar: Running, chain: Path, private: Path) -> Certified:
    """What `join --x5c` makes of its arguments."""
    place = Address.parse(registrar.ready.listen or "")
    return certified(chain, private, addresses=[place], pin=registrar.service.authority.pin)


def joined(registrar: Running, chain: Path, private: Path, out: Path) -> Keystore:
    """Join, and return the key store."""
    keystore = Keystore(out)
    join(way(registrar, chain, private), keystore, layouts=("pem",), owner=None, now=lambda: datetime.now(UTC))
    return keystore


def refused(registrar: Running, chain: Path, private: Path, out: Path, kind: type[HandfastError]) -> HandfastError:
    """The newcomer hears of this class, and has nothing."""
    with pytest.raises(kind) as caught:
        joined(registrar, chain, private, out)
    assert type(caught.value) is kind
    assert not (out / "cert.pem").exists()
    return caught.value


def wait(condition: Callable[[], bool]) -> None:
    """Until it is so."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_joined_and_renewed(registrar: Running, theirs: Theirs, tmp_path: Path) -> None:
    """A machine with a certificate is what that says, and renews as every other does, without the certificate."""
    _, chain, private = theirs.machine("web1.lan", "www.lan")
    keystore = joined(registrar, chain, private, tmp_path / "out")
    about = keystore.load().identity
    assert (about["name"], about["role"], about["names"]) == ("web1.lan", Role.SERVER, ["web1.lan", "www.lan"])
    assert about["method"] == "x5c"
    theirs.publish(theirs.machine("web1.lan", "www.lan")[0])
    chain.unlink()
    assert renew(keystore, now=lambda: datetime.now(UTC)).material.identity["method"] == "renewal"


def test_P24_what_is_taken_back_is_refused_with_the_next_list(
    registrar: Running, theirs: Theirs, tmp_path: Path
) -> None:
    """Nobody has to tell the registrar: it looks again by itself."""
    leaf, chain, private = theirs.machine("web1.lan")
    theirs.publish(leaf)
    lists, number = registrar.service.foreign_lists, leaf.serial_number
    wait(lambda: any(each.content.get_revoked_certificate_by_serial_number(number) for each in lists.current()))
    refused(registrar, chain, private, tmp_path / "out", Revoked)


def test_strangers_learn_nothing(registrar: Running, theirs: Theirs, tmp_path: Path) -> None:
    """Whoever chains to no root hears the same as whoever has a wrong key; the reason is in our log alone."""
    stranger = below(root("their root", p256("mallory"), begin=now() - DAY), "their CA")
    _, chain, private = theirs.machine("web1.lan", ca=stranger)
    error = refused(registrar, chain, private, tmp_path / "out", EvidenceRejected)
    assert "candidates" not in error.message
    assert "CN=" not in error.message


def test_holders_are_told_why(registrar: Running, theirs: Theirs, tmp_path: Path) -> None:
    """Names that are not allowed, and a certificate that another key has used."""
    error = refused(registrar, *theirs.machine("db1.example")[1:], tmp_path / "out", PolicyRefused)
    assert "no certificate introduces db1.example here" in error.message
    _, chain, private = theirs.machine("web1.lan")
    joined(registrar, chain, private, tmp_path / "first")
    error = refused(registrar, chain, private, tmp_path / "second", AlreadySpent)
    assert "key" in error.message


def test_a_new_configuration_counts(registrar: Running, theirs: Theirs, tmp_path: Path) -> None:
    """A file of roots that is wrong changes nothing, and is said; a method that is off takes nobody in any more."""
    with capture_logs() as logged:
        (tmp_path / "roots.pem").write_text("nothing")
        registrar.ask(signal.SIGHUP)
        wait(lambda: any("no PEM certificates" in entry.get("reason", "") for entry in logged))
        joined(registrar, *theirs.machine("web1.lan")[1:], tmp_path / "first")
        (tmp_path / "data" / "config.toml").write_text("")
        registrar.ask(signal.SIGHUP)
        wait(lambda: any(entry["event"] == "reloaded" for entry in logged))
    error = refused(registrar, *theirs.machine("web2.lan")[1:], tmp_path / "second", NotFound)
    assert "no introduction method 'x5c' here" in error.message


def test_without_a_list_nobody_comes_in(tmp_path: Path, theirs: Theirs) -> None:
    """A list that was configured and is not there: refused, whoever took it away; and the registrar runs."""
    (tmp_path / "their.crl").unlink()
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "config.toml").write_text(CONFIG.format(directory=tmp_path))
    _, chain, private = theirs.machine("web1.lan")
    with running(tmp_path / "data", limits=Limits(tick=0.05)) as registrar:
        refused(registrar, chain, private, tmp_path / "out", EvidenceRejected)
        theirs.publish()
        lists = registrar.service.foreign_lists
        wait(lambda: bool(lists.current()))
        joined(registrar, chain, private, tmp_path / "out")
