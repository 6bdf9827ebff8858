"""Every file in vectors/operator and vectors/oidc leads to the outcome that it declares, and to nothing more."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from handfast.core.flow import Channel, Evidence, Person
from handfast.core.openid import Provider
from handfast.core.ports import SshIntroducer
from handfast.core.secret import Secret
from handfast.core.sshcert import Kind
from handfast.errors import HandfastError
from handfast.introducers import oidc, operator_login
from handfast.introducers.oidc import OidcIntroducer, read_keys
from tests.architecture.sources import ROOT
from tests.introducers import vectors, vectors_login
from tests.introducers.stage_ssh import SshStage
from tests.introducers.test_vectors import credential
from tests.introducers.vectors_login import LoginFound, LoginVector, LoginWorld

MESSAGES = [path for folder in vectors_login.FOLDERS for path in vectors.files(folder)]


def staged(world: LoginWorld) -> SshStage:
    """The vector's world as a context."""
    records = {int(one.serial, 16): credential(one, world.now) for one in world.credentials}
    return SshStage(pin=world.pin, time=world.now, nonce_key=Secret(world.nonce_key), credentials=records)


def verifier(folder: str, world: LoginWorld) -> SshIntroducer:
    """The registrar's half, configured as the vector's world says."""
    if folder == operator_login.NAME:
        return operator_login.SSH_HALF
    providers = {one.name: Provider(one.name, one.issuer, one.client_id) for one in world.providers}
    keys = {one.issuer: read_keys(one.keys.encode()) for one in world.providers}
    return OidcIntroducer(providers, lambda provider: keys.get(provider.issuer))


def concluded(folder: str, vector: LoginVector) -> LoginFound:
    """What the registrar's half concludes, as a vector states it."""
    client = vector.connection.client
    shown = None if client is None else x509.load_der_x509_certificate(client)
    evidence = Evidence(vector.method, vector.payload.encode(), Channel(vector.connection.server_spki, shown))
    finding = verifier(folder, vector.world).verify(evidence, staged(vector.world))
    person = finding.holder
    assert isinstance(person, Person)
    assert (finding.kind, finding.host, finding.method) == (Kind.USER, None, folder)
    assert finding.once is None or finding.once.uses == 1
    (key,) = finding.keys
    return LoginFound(
        origin=person.origin,
        name=person.name,
        email=person.email,
        groups=sorted(person.groups),
        key=str(key),
        principals=list(finding.wish.principals),
        lifetime=int(finding.wish.lifetime.total_seconds()) if finding.wish.lifetime is not None else 0,
        marker=None if finding.once is None else finding.once.marker,
        transcript=finding.transcript,
    )


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_P40_a_message_comes_to_its_declared_outcome(path: Path) -> None:
    """Success with exactly this finding, or an error of exactly this code."""
    vector = vectors_login.load(path)
    if vector.outcome == "success":
        assert concluded(path.parent.name, vector) == vector.finding
        return
    with pytest.raises(HandfastError) as caught:
        concluded(path.parent.name, vector)
    assert caught.value.code == vector.outcome, caught.value.message


def test_each_method_has_vectors_of_both_kinds() -> None:
    """It is known by what it leads to and by what is refused."""
    assert {oidc.NAME, operator_login.NAME} == set(vectors_login.FOLDERS)
    for folder in vectors_login.FOLDERS:
        outcomes = [vectors_login.load(path).outcome for path in vectors.files(folder)]
        assert outcomes.count("success") >= 4
        assert set(outcomes) >= {"success", "evidence-rejected", "malformed", "not-mine"}


@pytest.mark.parametrize("change", [{"outcome": "maybe"}, {"surprise": 1}, {"world": {}}])
def test_an_unknown_outcome_or_field_is_an_error(change: dict[str, object]) -> None:
    """A file that says more than we check is not half-checked."""
    tree = msgspec.json.decode(MESSAGES[0].read_bytes()) | change
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(tree), type=LoginVector)


def test_the_page_has_the_digests_of_the_files() -> None:
    """Whoever reads docs/protocols/ssh-login.md computes what we do."""
    page = (ROOT / "docs" / "protocols" / "ssh-login.md").read_text()
    for folder in vectors_login.FOLDERS:
        finding = vectors_login.load(vectors.FOLDER / folder / "one-key.json").finding
        assert finding is not None
        assert f"{folder}/one-key.json".ljust(23) + finding.transcript.hex() in page
