"""Being a vantage point: for holders of some roles, within our own guard and limits, and of nothing else than asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from handfast.core import vantage
from handfast.core.roles import Role
from handfast.core.vantage import SeenAnswer
from handfast.server.limits import Limits
from handfast.server.vantage import ROLES
from tests.ledger.material import ssh_key
from tests.ports import free_port
from tests.server.running import Client, Running, running


@pytest.fixture
def open_to_loopback(tmp_path: Path) -> Iterator[tuple[Running, int]]:
    """A registrar that may look at loopback, and a port where nobody listens."""
    port = free_port()
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "config.toml").write_text(f'[ssh.scan]\nallow = ["127.0.0.0/8"]\nports = [{port}]\n')
    with running(data, limits=Limits(looks_of_holder_burst=3, looks_of_holder=0.001)) as registrar:
        yield registrar, port


def asking(**change: object) -> bytes:
    """A request; loopback, unless said otherwise."""
    key = ssh_key(0x5D2C19513E38EFC1AB6B2B42C3F7A4E4D2FD3B1C7E5A98F16A4E7B3C2D1F0908).blob
    request = {"names": [], "addresses": ["127.0.0.1"], "ports": [22], "keys": [key]}
    return msgspec.json.encode(request | change)


def holding(registrar: Running, role: Role) -> Client:
    """A connection with a credential of this role."""
    return registrar.connect(registrar.context_with(registrar.credential(f"{role}-far", role)))


def test_a_stranger_has_us_look_at_nothing(registrar: Running) -> None:
    """Without a certificate there is no look, whatever is asked."""
    with registrar.connect() as client:
        problem = client.problem("POST", vantage.PATH, asking())
    assert (problem.code, problem.status) == ("not-authorized", 403)


def test_the_roles_that_may_ask(registrar: Running) -> None:
    """A client's credential is not enough; those that are come as far as the guard, which refuses private networks."""
    assert frozenset({Role.AGENT, Role.CONTROLLER, Role.PEER, Role.OPERATOR}) == ROLES
    with holding(registrar, Role.CLIENT) as client:
        problem = client.problem("POST", vantage.PATH, asking())
    assert (problem.code, problem.detail) == ("not-authorized", "'client-far' has role client")
    for role in sorted(ROLES):
        with holding(registrar, role) as client:
            problem = client.problem("POST", vantage.PATH, asking())
        assert (problem.code, problem.reasons) == ("policy-refused", ["'127.0.0.1' is not one to scan: loopback"])
        assert "[ssh.scan] allow" in problem.hint


def test_who_was_revoked_asks_no_more(registrar: Running) -> None:
    """The credential is looked up at every request."""
    joined = registrar.credential("was-far", Role.AGENT)
    with registrar.connect(registrar.context_with(joined)) as client:
        assert client.problem("POST", vantage.PATH, asking()).code == "policy-refused"
        registrar.service.administration.revoke("was-far", reason="keyCompromise")
        assert client.problem("POST", vantage.PATH, asking()).code == "not-authorized"


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": []},
        {"addresses": ["127.0.0.1", "127.0.0.1"]},
        {"addresses": ["127.0.0.1%lo"]},
        {"names": ["localhost"]},
        {"names": ["*.example"]},
        {"keys": [b"x"]},
        {"ports": [0]},
        {"more": 1},
    ],
)
def test_what_means_nothing_is_refused(registrar: Running, change: dict[str, object]) -> None:
    """Requests are read as strictly as a stranger's."""
    with holding(registrar, Role.AGENT) as client:
        assert client.problem("POST", vantage.PATH, asking(**change)).code == "malformed"


def test_what_was_not_seen_and_how_often(open_to_loopback: tuple[Running, int]) -> None:
    """Of a host where nobody listens, and a name that is none, that is all that is said; and so often, and no more."""
    registrar, port = open_to_loopback
    body = asking(ports=[port], names=["no.such.invalid"])
    with holding(registrar, Role.AGENT) as client:
        status, answer = client.call("POST", vantage.PATH, body)
        assert status == 200
        said = msgspec.json.decode(answer, type=SeenAnswer)
        assert (said.names, [(host.address, host.port, host.keys) for host in said.hosts]) == (
            [],
            [("127.0.0.1", port, [])],
        )
        assert b"refused" not in answer
        for _ in range(2):
            assert client.call("POST", vantage.PATH, body)[0] == 200
        problem = client.problem("POST", vantage.PATH, body)
        assert (problem.code, problem.status) == ("too-much", 429)
        assert int(client.headers["Retry-After"]) > 100
    with holding(registrar, Role.PEER) as other:
        assert other.call("POST", vantage.PATH, body)[0] == 200, "what one has used up is not another's"


def test_a_look_is_a_few_lines_of_our_log(
    open_to_loopback: tuple[Running, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has us look on and on, at much that is not there, must not fill the disk by it."""
    registrar, port = open_to_loopback
    addresses = [f"127.0.0.{number}" for number in range(1, 17)]
    with holding(registrar, Role.AGENT) as client:
        body = asking(ports=[port], addresses=addresses, names=["no.such.invalid"])
        status, answer = client.call("POST", vantage.PATH, body)
    logged = capsys.readouterr().out
    assert status == 200, (answer, logged)
    (line,) = (each for each in logged.splitlines() if " looked " in each)
    assert "more=1 " in line
    assert "127.0.0.16" not in line
