"""The original's API 1.0 over real TLS: every route with its JSON and its statuses, and what is left out of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import pytest

from tests.agent.agents import Answer, Managed, managed

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=----x"


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    """An agent."""
    with managed(tmp_path_factory.mktemp("original")) as made:
        yield made


def send(met: Managed, path: str, method: str = "POST", **parameters: str) -> Answer:
    """Send a form, as the original's controller does."""
    return met.talk.ask(method, path, urlencode(parameters).encode(), Content_Type=FORM)


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    """A form with one file, as rest-client sends it."""
    named = f'name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    head = f"------x\r\nContent-Disposition: form-data; {named}\r\n\r\n"
    return head.encode() + content + b"\r\n------x--\r\n"


def message(answer: Answer, status: int) -> str:
    """The message of a refusal, which has nothing else."""
    assert answer.status == status, answer.body
    [(key, text)] = answer.json().items()
    assert key == "message"
    return str(text)


def test_the_agent_itself(met: Managed) -> None:
    """Its version, and the load as the ping; in JSON with the original's media type."""
    version = met.talk.ask("GET", "/api_version")
    assert (version.json(), version.headers["Content-Type"]) == (
        {"api_version": "1.0"},
        "application/json; charset=utf-8",
    )
    assert met.talk.ask("GET", "/status").json()["load"].count(" ") == 4


def test_a_service_from_start_to_stop(met: Managed) -> None:
    """List, status, the three operations; where it is already, nothing happens."""
    assert met.talk.ask("GET", "/services").json() == {
        "services": [{"name": "seen", "full_name": "seen"}, {"name": "web", "full_name": "A web server"}]
    }
    assert met.talk.ask("GET", "/services/web/status").json() == {"state": "stopped"}
    for operation, state in (("start", "started"), ("start", "started"), ("restart", "started"), ("stop", "stopped")):
        done = met.talk.ask("POST", f"/services/web/{operation}")
        assert (done.status, done.json()) == (200, {"state": state})


def test_refusals_have_its_statuses(met: Managed) -> None:
    """404 for what is not there or is missing, 500 for all else, each with a message."""
    assert message(met.talk.ask("GET", "/services/none/status"), 404) == "no service 'none'"
    assert message(met.talk.ask("GET", "/nothing"), 404) == "not found"
    assert message(met.talk.ask("PUT", "/services"), 404) == "method not allowed"
    assert "'start' for 'seen'" in message(met.talk.ask("POST", "/services/seen/start"), 500)
    refused = message(met.talk.ask("POST", "/services/web/destroy"), 500)
    assert refused == "operation 'destroy' is not allowed; allowed are start, stop, restart"
    assert message(send(met, "/services/web/configure"), 404) == "missing parameter 'config'"
    assert message(met.talk.ask("GET", "/services/web/logs/x.log"), 404) == "missing parameter 'num_lines'"


@pytest.mark.parametrize("name", ["backend", "configure", "recover", "__class__", "policy", "to_json"])
def test_no_method_by_its_name(name: str, met: Managed) -> None:
    """The original called any public method of a service on GET; here there is nothing of the kind."""
    assert message(met.talk.ask("GET", f"/services/web/{name}"), 404) in {"not found", "method not allowed"}


def test_no_key_is_delivered(met: Managed) -> None:
    """The original took any certificate and key, at any time."""
    before = met.agent.talk().shown
    body = urlencode({"certificate": "PEM", "keypair": "PEM"}).encode()
    refused = message(met.agent.talk().ask("POST", "/configure", body, Content_Type=FORM), 404)
    assert refused == "this agent makes its own key; no certificate is delivered to it"
    assert met.agent.talk().shown == before


def test_configure(met: Managed) -> None:
    """Contents by the policy's names; what the check refuses leaves the old one."""
    done = send(met, "/services/web/configure", config=json.dumps({"site": "good 1"}))
    assert (done.status, done.json(), (met.place / "site.conf").read_text()) == (200, {"state": "stopped"}, "good 1")
    assert "does not accept it" in message(send(met, "/services/web/configure", config='{"site": "x"}'), 500)
    for bad in ("nonsense", "[]", '{"site": 1}', '{"other": "x"}', "{}"):
        assert message(send(met, "/services/web/configure", config=bad), 500)
    assert (met.place / "site.conf").read_text() == "good 1"


def test_artifacts(met: Managed) -> None:
    """Pushed in a form, listed by name, looked at, removed; what is not there is 500, as it was."""
    content = bytes(range(256)) * 9000
    pushed = met.talk.ask(
        "POST", "/services/web/artifacts", part("artifact", content, "app.war"), Content_Type=MULTIPART
    )
    assert (pushed.status, pushed.json()) == (200, {"status": "deployed"})
    assert (met.place / "artifacts/app.war").read_bytes() == content
    assert met.talk.ask("GET", "/services/web/artifacts").json() == {
        "artifacts": [{"name": "app.war", "id": "app.war"}]
    }
    about = met.talk.ask("GET", "/services/web/artifacts/app.war").json()
    assert about == {"name": "app.war", "size": len(content)}
    removed = met.talk.ask("DELETE", "/services/web/artifacts/app.war")
    assert (removed.status, removed.body) == (200, b"")
    for method in ("GET", "DELETE"):
        assert message(met.talk.ask(method, "/services/web/artifacts/app.war"), 500) == "no artifact 'app.war'"


CUT = part("artifact", b"half of it", "app.war")
JSON = json.dumps({"location": "https://x.example/a", "sha256": "0" * 64}).encode()


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (part("other", b"x", "a"), 404, "missing parameter 'artifact'"),
        (part("artifact", b"x", "../up"), 500, "not a name of an artifact"),
        (part("artifact", b"x", "a/b"), 500, "not a name of an artifact"),
        (part("artifact", b"x", ";reboot"), 500, "not a name of an artifact"),
        (part("artifact", b"x", ""), 500, "not a name of an artifact"),
        (part("artifact", b"not json"), 500, "not a Location"),
        (part("artifact", b'{"location": "https://repo.example/a.war"}'), 500, "with its digest only"),
        (part("artifact", json.dumps({"location": "https://x.example/a", "sha256": "0" * 64}).encode()), 500, "allow"),
        (part("artifact", b"\xff" * 70_000), 500, "without a file name"),
        (b"------x\r\nno header\r\n", 500, ""),
        (b"", 500, "not a form"),
        (CUT.removesuffix(b"--\r\n"), 500, "not a form"),
        (CUT.removesuffix(b"------x--\r\n"), 500, "not a form"),
        (CUT.removesuffix(b"\r\n------x--\r\n"), 500, "not a form"),
        (CUT.replace(b"x--\r\n", b"x\r\n"), 500, "not a form"),
        (CUT.replace(b"------x--", b"------y--"), 500, "not a form"),
        (b"------x\r\nX: " + b"y" * 9000 + b"\r\n\r\n", 500, "not a form"),
        (part("artifact", JSON, None).removesuffix(b"--\r\n"), 500, "not a form"),
        (part("artifact", b"0" * 10_000_001, "large"), 500, "over 10000000 bytes"),
    ],
)  # fmt: skip
def test_bad_artifacts(body: bytes, status: int, reason: str, met: Managed) -> None:
    """Nothing of them is kept."""
    talk = met.agent.talk()
    refused = talk.ask("POST", "/services/web/artifacts", body, Content_Type=MULTIPART)
    assert reason in message(refused, status)
    assert list((met.place / "artifacts").iterdir()) == []


def test_a_form_with_more_in_it(met: Managed) -> None:
    """What else is in it, before and behind the artifact, is read and left."""
    parts = [part("other", b"x" * 100_000), CUT, part("artifact", b"another", "other.war")]
    body = b"".join(each.removesuffix(b"------x--\r\n") for each in parts) + b"------x--\r\n"
    pushed = met.agent.talk().ask("POST", "/services/web/artifacts", body, Content_Type=MULTIPART)
    assert (pushed.status, pushed.json()) == (200, {"status": "deployed"})
    [file] = (met.place / "artifacts").iterdir()
    assert (file.name, file.read_bytes()) == ("app.war", b"half of it")
    file.unlink()


@pytest.mark.parametrize(
    ("query", "form", "kind"),
    [
        ("config=QUERY", b"", None),
        ("config=QUERY", b"", FORM),
        ("config=QUERY", b"other=1", FORM),
        ("config=x&config=QUERY", b"", None),
        ("config=QUERY", b"config=no", "application/json"),  # which is no form
        ("", b"config=FORM", None),
        ("config=no", b"config=FORM", FORM),
        ("config=no", b"config=no&config=FORM", None),
    ],
)
def test_parameters_stand_in_the_query_or_the_form(query: str, form: bytes, kind: str | None, met: Managed) -> None:
    """As the framework of the original had it: the form's before the query's, the last before the first."""
    config = {where: quote(json.dumps({"site": f"good {where}"})) for where in ("QUERY", "FORM")}
    for where, text in config.items():
        query, form = query.replace(where, text), form.replace(where.encode(), text.encode())
    headers = {} if kind is None else {"Content_Type": kind}
    talk = met.agent.talk()
    done = talk.ask("POST", f"/services/web/configure?{query}", form, **headers)
    assert done.status == 200, done.body
    assert (met.place / "site.conf").read_text() == ("good FORM" if b"config=%7B" in form else "good QUERY")


@pytest.mark.parametrize(
    ("query", "form", "reason"),
    [
        ("config=%ff", b"", "not a form"),
        ("", b"config=\xe9", "not a form"),
        ("a&" * 65, b"", "not a form"),
        ("config=" + "x" * 9000, b"", "more than 8192 bytes"),
        ("config=nonsense", b"", "json is malformed"),
        ("config=%7B%22site%22%3A%22good%22%7D", b"config=nonsense", "json is malformed"),
    ],
)
def test_parameters_that_are_none(query: str, form: bytes, reason: str, met: Managed) -> None:
    """Neither of the two makes good what is bad in the other."""
    (met.place / "site.conf").write_bytes(b"good before")
    talk = met.agent.talk()
    refused = talk.ask("POST", f"/services/web/configure?{query}", form)
    assert refused.status >= 400
    assert reason in refused.body.decode().lower()
    assert (met.place / "site.conf").read_bytes() == b"good before"


def test_a_cut_form_is_nothing(met: Managed) -> None:
    """Half of a file, and then the connection ends: there is no file, and the agent goes on."""
    talk = met.agent.talk()
    body = part("artifact", b"x" * 1_000_000, "half")
    head = f"POST /services/web/artifacts HTTP/1.1\r\nHost: agent\r\nContent-Type: {MULTIPART}\r\n"
    talk.tls.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:500_000])
    talk.close()
    assert met.agent.talk().ask("GET", "/services/web/artifacts").json() == {"artifacts": []}
    met.agent.process.stop()  # which waits for what is under way
    assert list((met.place / "artifacts").iterdir()) == []
    met.agent.start()
    met.talk = met.agent.talk()


def test_logs(met: Managed) -> None:
    """Names quoted twice since 1.0, offsets as it had them."""
    folder = met.place / "logs/sub dir"
    folder.mkdir(exist_ok=True)
    (folder / "100%.log").write_text("one\ntwo\nthree\n")
    assert met.talk.ask("GET", "/services/web/logs").json() == {"logs": ["sub dir/100%.log"]}
    twice = quote(quote("sub dir/100%.log", safe=""), safe="")
    path = f"/services/web/logs/{twice}?num_lines=2"
    assert met.talk.ask("GET", path).json() == {"lines": ["one", "two"], "offset": 8}
    assert met.talk.ask("GET", f"{path}&offset=8").json() == {"lines": ["three"], "offset": 14}
    assert met.talk.ask("GET", f"{path}&offset=-8").json() == {"lines": ["three"], "offset": 14}
    for bad in ("x", "0", "-1", "1e3", "10001", "", "٣"):
        assert message(met.talk.ask("GET", f"/services/web/logs/{twice}?num_lines={quote(bad)}"), 500)


def test_members_of_a_cluster(met: Managed) -> None:
    """In a block of our own, where the policy names the file; what the machine has is never changed."""
    hosts = met.place / "hosts"
    before = hosts.read_text()
    added = send(met, "/cluster_member_addresses", hostname="node1.lan", address="192.0.2.7")
    assert (added.status, added.body) == (200, b"")
    assert hosts.read_text().startswith(before)
    assert "192.0.2.7 node1.lan\n" in hosts.read_text()
    assert "'gateway.lan' is in" in message(
        send(met, "/cluster_member_addresses", hostname="gateway.lan", address="192.0.2.8"), 500
    )
    assert message(send(met, "/cluster_member_addresses", hostname="x"), 404) == "missing parameter 'address'"
    assert met.talk.ask("DELETE", "/cluster_member_addresses/node1.lan").status == 200
    assert hosts.read_text() == before
    assert message(met.talk.ask("DELETE", "/cluster_member_addresses/node1.lan"), 404) == "no member 'node1.lan'"


def test_members_only_if_the_policy_says_so(met: Managed) -> None:
    """Without a hosts_file nothing can be written."""
    policy = met.agent.policy.read_text()
    met.agent.policy.write_text("".join(policy.splitlines(keepends=True)[1:]))
    met.agent.process.kill_with(signal.SIGHUP)
    met.agent.process.expect("reloaded")
    try:
        for refused in (
            send(met, "/cluster_member_addresses", hostname="node1.lan", address="192.0.2.7"),
            met.talk.ask("DELETE", "/cluster_member_addresses/gateway.lan"),
        ):
            assert "names no hosts_file" in message(refused, 500)
    finally:
        met.agent.policy.write_text(policy)
        met.agent.process.kill_with(signal.SIGHUP)
        met.agent.process.expect("reloaded")
