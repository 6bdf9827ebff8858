"""Who is accepted as the peer of a session and who is not: forged, replayed, delayed, and of the wrong kind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from handfast.core.records import Revocation
from handfast.core.roles import Role
from handfast.core.x509 import crl as signed_crl
from handfast.errors import HandfastError, Refused, Revoked, TooMuch, UntrustedPeer
from handfast.server import session
from handfast.sessions import party, revocations
from handfast.sessions import trust as trust_module
from handfast.sessions.hello import MAX_CRL
from handfast.sessions.party import Party
from handfast.sessions.trust import Peer, Trust
from tests.sessions.conftest import Made, make, now


def shown(who: Party) -> bytes:
    """What a party presents in TLS."""
    return who.leaf.public_bytes(Encoding.DER)


def believe(who: Party, path: Path | None = None, **more: Callable[[frozenset[int]], None]) -> Trust:
    """What a party believes, with a callback."""
    return Trust(who, now=now, path=path, **more)


def unexpected(error: HandfastError) -> None:
    """What a watch must not meet."""
    pytest.fail(error.message)


def listed(made: Made, *serials: int, number: int, at: datetime | None = None, signer: Party | None = None) -> bytes:
    """A list with any number, signed by the session's issuing CA, or by a party in its name."""
    end = now() + timedelta(days=1)
    domain = made.party("client").pin.hex()[:16] + ".handfast.internal"
    taken = [Revocation(serial, now(), "keyCompromise", end, domain) for serial in serials]
    with session.opened(made.directory) as opened:
        key = opened.authority._signers.issuing if signer is None else signer.key
        issuer = opened.authority.issuing
        return signed_crl(key, issuer, taken, number=number, now=at or now()).public_bytes(Encoding.DER)


class TestWho:
    """Certificates."""

    def test_each_accepts_the_other(self, ours: Made) -> None:
        """Server and client of one session know each other by role, whoever dials."""
        server, client = ours.party("server"), ours.party("client")
        assert believe(server).verify(shown(client), now()) == Peer(
            "client", Role.CLIENT, client.serial, client.not_after
        )
        assert believe(client).verify(shown(server), now()).machine == "server"
        assert believe(server).verify(shown(ours.party("bob")), now()).machine == "bob"

    @pytest.mark.parametrize(("verifier", "peer"), [("client", "bob"), ("client", "client"), ("server", "server")])
    def test_a_client_never_acts_as_server(self, ours: Made, verifier: str, peer: str) -> None:
        """Somebody who was given a client's file stands in for the server: the role is in the certificate."""
        with pytest.raises(UntrustedPeer, match=rf"'{peer}' is a \w+, not a \w+"):
            ours.trust(verifier).verify(shown(ours.party(peer)), now())

    def test_openssl_says_the_same_of_a_client(self, ours: Made, tmp_path: Path) -> None:
        """Without our path check too: a client's certificate has no usage as a server, for every TLS library."""
        client = ours.party("client")
        for name, each in (("leaf", client.leaf), ("issuing", client.issuing), ("root", client.root)):
            (tmp_path / name).write_bytes(each.public_bytes(Encoding.PEM))
        for purpose, code in (("sslclient", 0), ("sslserver", 2)):
            command = ["openssl", "verify", "-purpose", purpose, "-CAfile", "root", "-untrusted", "issuing", "leaf"]
            assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == code

    def test_a_party_of_another_session_is_a_stranger(self, ours: Made, theirs: Made) -> None:
        """A client of session A at a server of session B, which has the same name: nothing of it counts."""
        stranger = theirs.party("client")
        with pytest.raises(UntrustedPeer, match="not of the session 'paper'"):
            ours.trust("server").verify(shown(stranger), now())

    def test_a_name_is_not_a_signature(self, ours: Made, theirs: Made) -> None:
        """A certificate that names our issuing CA and was signed by another session's key is refused."""
        client = ours.party("client")
        with session.opened(theirs.directory) as opened:
            key = opened.authority._signers.issuing
            forged = forgery(client).sign(key, hashes.SHA256())
        with pytest.raises(UntrustedPeer, match="does not chain"):
            ours.trust("server").verify(forged.public_bytes(Encoding.DER), now())

    def test_a_party_issues_nothing(self, ours: Made) -> None:
        """A leaf signed by a client's key is refused."""
        client = ours.party("client")
        forged = forgery(client).sign(client.key, hashes.SHA256())
        with pytest.raises(UntrustedPeer, match="does not chain"):
            ours.trust("server").verify(forged.public_bytes(Encoding.DER), now())

    @pytest.mark.parametrize("sent", [b"", b"garbage", bytes(20_000)])
    def test_no_certificate_is_nobody(self, ours: Made, sent: bytes) -> None:
        """Nothing readable is a stranger."""
        with pytest.raises(UntrustedPeer, match="presented no readable certificate"):
            ours.trust("server").verify(sent, now())

    @pytest.mark.parametrize("offset", [timedelta(days=31), -timedelta(days=2)])
    def test_out_of_its_time_it_is_nobody(self, ours: Made, offset: timedelta) -> None:
        """Expired, or not valid yet by our clock: the sentence has the span and our time."""
        at = now() + offset
        with pytest.raises(UntrustedPeer, match=r"does not chain .* at .*valid from .* to ") as caught:
            ours.trust("server").verify(shown(ours.party("client")), at)
        assert f"at {at:%Y-%m-%d %H:%M} UTC" in caught.value.message
        assert "clock" in caught.value.hint

    @pytest.mark.parametrize("offset", [timedelta(days=31), -timedelta(days=2)])
    def test_who_was_verified_once_is_not_for_ever(self, ours: Made, offset: timedelta) -> None:
        """The verdict on a certificate is kept, and counts for the time of the certificate: no longer, no earlier."""
        trust, client = ours.trust("server"), shown(ours.party("client"))
        assert trust.verify(client, now()).machine == "client"
        with pytest.raises(UntrustedPeer, match="does not chain"):
            trust.verify(client, now() + offset)
        assert trust.verify(client, now()).machine == "client"

    def test_verdicts_that_are_kept_are_bounded(self, own: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        """A session whose parties get new certificates all the time fills no memory, and each is still verified."""
        monkeypatch.setattr(trust_module, "_MOST_KNOWN", 2)
        trust = own.trust("server")
        for _ in range(4):
            own.file("bob").unlink()
            own.export("bob")
            assert trust.verify(shown(own.party("bob")), now()).machine == "bob"
            assert 1 <= len(trust._known) <= 2

    @pytest.mark.parametrize("offset", [timedelta(days=2), -timedelta(days=2), timedelta(days=9999)])
    def test_clocks_two_days_apart_are_refused(self, offset: timedelta) -> None:
        """Both clocks are named, and nobody is told which one is wrong."""
        at = datetime.fromisoformat("2026-11-22T08:00:00Z")
        with pytest.raises(Refused, match=rf"are {abs(offset).days} d 0 h apart: 2026-11-22 08:00Z here") as caught:
            Trust.check_clock(int((at + offset).timestamp()), at)
        assert f"{at + offset:%Y-%m-%d %H:%M}Z at the peer" in caught.value.message

    @pytest.mark.parametrize("offset", [timedelta(hours=23), -timedelta(hours=23)])
    def test_clocks_hours_apart_are_not(self, offset: timedelta) -> None:
        """A wrong time zone is nobody's end."""
        Trust.check_clock(int((now() + offset).timestamp()), now())


def forgery(client: Party) -> x509.CertificateBuilder:
    """A server's certificate for the client's key, in the issuing CA's name."""
    spiffe = f"spiffe://{client.pin.hex()[:16]}.handfast.internal/client/admin"
    return (
        x509.CertificateBuilder(client.issuing.subject, x509.Name([]), client.key.public_key(), 7)
        .not_valid_before(now() - timedelta(hours=1))
        .not_valid_after(now() + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe)]), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )


class TestRevocations:
    """Lists."""

    def test_a_revoked_client_is_refused(self, own: Made) -> None:
        """From the moment a list is adopted; the friend stays."""
        cut: list[frozenset[int]] = []
        trust, client = believe(own.party("server"), on_revoked=cut.append), own.party("client")
        session.revoke(own.directory, "client")
        assert trust.adopt(own.publish())
        with pytest.raises(Revoked, match=rf"{client.serial:032x} of 'client' was revoked"):
            trust.verify(shown(client), now())
        assert trust.verify(shown(own.party("bob")), now()).machine == "bob"
        assert cut == [frozenset({client.serial})]

    def test_a_new_export_after_it_is_accepted(self, own: Made) -> None:
        """What was taken back is a credential, not a name: the owner may give the party another one."""
        session.revoke(own.directory, "client")
        own.file("client").unlink()
        own.export("client")
        trust = own.trust("server")
        trust.adopt(own.publish())
        assert trust.verify(shown(own.party("client")), now()).machine == "client"

    def test_whoever_was_revoked_stops_too(self, own: Made) -> None:
        """Our own serial on the list: we would be refused everywhere, and say so first."""
        session.revoke(own.directory, "client")
        trust = own.trust("client")
        trust.adopt(own.publish())
        with pytest.raises(Revoked, match="our own credential, of 'client', was revoked"):
            trust.verify(shown(own.party("server")), now())

    def test_an_export_knows_what_was_revoked_before(self, own: Made) -> None:
        """The list in the file holds from the first connection, without any other."""
        client = own.party("client")
        session.revoke(own.directory, "client")
        own.file("server").unlink()
        own.export("server")
        trust = Trust(
            party.parse(own.file("server").read_bytes().replace(b"# home", b"# was"), "F", now=now()), now=now
        )
        with pytest.raises(Revoked):
            trust.verify(shown(client), now())

    def test_an_older_list_is_ignored(self, own: Made) -> None:
        """A replay from before the revocation changes nothing, nor does the same list again."""
        trust, client = own.trust("server"), own.party("client")
        before = own.publish()
        session.revoke(own.directory, "client")
        after = own.publish()
        assert trust.adopt(after)
        number = trust.crl_number
        assert not trust.adopt(before)
        assert not trust.adopt(after)
        assert (trust.crl_number, trust.crl) == (number, after)
        with pytest.raises(Revoked):
            trust.verify(shown(client), now())

    def test_what_was_revoked_once_stays_so(self, own: Made) -> None:
        """A newer list without the serial (expired, by a clock that ran ahead) does not let it in again."""
        trust, client = own.trust("server"), own.party("client")
        number = trust.crl_number
        assert trust.adopt(listed(own, client.serial, number=number + 1))
        assert trust.adopt(listed(own, number=number + 2))
        with pytest.raises(Revoked):
            trust.verify(shown(client), now())

    def test_a_list_of_another_session_is_refused(self, ours: Made, theirs: Made) -> None:
        """Whoever owns another session takes back nothing of ours."""
        trust = ours.trust("server")
        known = trust.crl
        with pytest.raises(UntrustedPeer, match="not signed by this session's authority"):
            trust.adopt(theirs.publish())
        assert trust.crl == known

    def test_a_list_signed_by_a_party_is_refused(self, own: Made) -> None:
        """A client that signs a list in the issuing CA's name cuts nobody off, itself not even on."""
        trust = own.trust("server")
        forged = listed(own, own.party("bob").serial, number=2**40, signer=own.party("client"))
        with pytest.raises(UntrustedPeer, match="not signed by this session's authority"):
            trust.adopt(forged)
        assert trust.verify(shown(own.party("bob")), now()).machine == "bob"

    def test_the_roots_own_list_is_not_the_sessions(self, own: Made) -> None:
        """The root's empty list, which is genuine, is of another issuer."""
        genuine = x509.load_pem_x509_crl((own.directory / "authority/root.crl").read_bytes())
        with pytest.raises(UntrustedPeer, match="not signed by"):
            own.trust("server").adopt(genuine.public_bytes(Encoding.DER))

    def test_a_list_from_the_future_is_refused(self, own: Made) -> None:
        """Two days ahead one of the clocks is wrong; hours are not worth a word."""
        trust = own.trust("server")
        number = trust.crl_number
        with pytest.raises(UntrustedPeer, match=r"was made at .*, and it is .* here"):
            trust.adopt(listed(own, number=number + 1, at=now() + timedelta(days=2)))
        assert trust.adopt(listed(own, number=number + 1, at=now() + timedelta(hours=20)))

    @pytest.mark.parametrize("der", [b"", b"garbage", bytes(MAX_CRL + 1)], ids=["empty", "garbage", "long"])
    def test_garbage_is_refused(self, ours: Made, der: bytes) -> None:
        """A peer may send anything."""
        with pytest.raises(UntrustedPeer, match="revocation list"):
            ours.trust("server").adopt(der)

    @pytest.mark.parametrize(
        "extension",
        [
            x509.IssuingDistributionPoint(None, None, True, False, None, False, False),
            x509.DeltaCRLIndicator(1),
            None,
        ],
        ids=["partial", "delta", "unnumbered"],
    )
    def test_a_list_that_is_not_whole_is_refused(self, own: Made, extension: x509.ExtensionType | None) -> None:
        """A partial or delta list, or one without a number, would pass for all that there is; we sign none."""
        with session.opened(own.directory) as opened:
            issuing, key = opened.authority.issuing, opened.authority._signers.issuing
        builder = x509.CertificateRevocationListBuilder(issuing.subject, now(), now() + timedelta(days=1))
        if extension is not None:
            builder = builder.add_extension(x509.CRLNumber(99), False).add_extension(extension, True)
        with pytest.raises(UntrustedPeer, match=r"extensions that ours have not|has no number"):
            own.trust("server").adopt(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))


def test_a_long_list_is_refused_where_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers read so much and no more: the owner hears of it, not the peers' users."""
    made = make(tmp_path / "D")
    monkeypatch.setattr(session, "MAX_CRL", 100)
    with pytest.raises(TooMuch, match="the revocation list has 0 entries"):
        made.publish()


def test_a_thousand_revocations_nearly_fit(own: Made) -> None:
    """The bound is far from what a session with a handful of parties needs."""
    der = listed(own, *range(1, 801), number=2000)
    assert revocations.read(der, own.party("server").issuing, now=now()).serials == frozenset(range(1, 801))
