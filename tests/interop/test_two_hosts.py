"""Two machines and a cable: everything that an operator and a newcomer type, with nothing in between replaced."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from handfast.core.invitation import InvitationLine
from tests.interop.hosts import HANDFAST, PATIENCE, Host, Network, Registrar, clock, serial

pytestmark = [pytest.mark.root, pytest.mark.peer("ip")]

NAMES = {"cert.pem", "chain.pem", "fullchain.pem", "privkey.pem", "trust.pem", "identity.json"}


def certificate(out: Path) -> x509.Certificate:
    """Return what a newcomer holds."""
    return x509.load_pem_x509_certificate((out / "cert.pem").read_bytes())


def joined(net: Network, registrar: Registrar, name: str, *flags: str) -> Path:
    """Have the server join under a name."""
    return net.server.join(registrar.invite(name, *flags), name)


@contextlib.contextmanager
def pulled(net: Network) -> Iterator[None]:
    """The server's cable is pulled meanwhile."""
    net.link("down")
    try:
        yield
    finally:
        net.link("up")


def at_a_prompt(host: Host, answer: str, *arguments: str) -> tuple[int, str]:
    """Run our command on a terminal of its own, answer when it asks, and return its code and what the screen shows."""
    screen, terminal = os.openpty()
    command = host.command("setsid", "--ctty", "--wait", *HANDFAST, *arguments)
    process = subprocess.Popen(
        command, cwd=host.directory, env=host.environment(), stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the last one who had the terminal open is gone
        while True:
            shown += os.read(screen, 4096)
            if shown.endswith(b"invitation: "):
                os.write(screen, answer.encode() + b"\n")
                answer = ""
    os.close(screen)
    return process.wait(PATIENCE), shown.decode()


class TestJoin:
    """The first command on a new machine."""

    @pytest.mark.parametrize("way", ["stdin", "file", "environment", "environment-file"])
    def test_each_way_in(self, net: Network, registrar: Registrar, way: str) -> None:
        """However the invitation comes, the machine has what it was invited for, and stdout stays empty."""
        name = f"{way}.lan"
        line = registrar.invite(name)
        arguments, env, stdin = ["join", "--out", name], {}, ""
        if way == "stdin":
            stdin = f"{line}\n"
        elif way == "file":
            arguments += ["--invitation-file", str(net.server.put("invitation", f"{line}\n"))]
        elif way == "environment":
            env["HANDFAST_INVITATION"] = line
        else:
            env["HANDFAST_INVITATION_FILE"] = str(net.server.put("invitation", line))
        done = net.server.handfast(*arguments, stdin=stdin, env=env)
        assert done.stdout == ""
        assert f"joined as {name} (server)" in done.stderr
        assert registrar.ready["pin"][:16] in done.stderr
        assert line.partition("@")[0] not in done.stderr
        assert certificate(net.server.directory / name).subject.rfc4514_string() == f"CN={name}"

    def test_prompt(self, net: Network, registrar: Registrar) -> None:
        """On a terminal it asks, and the screen never shows the answer."""
        line = registrar.invite("prompt.lan")
        code, shown = at_a_prompt(net.server, line, "join", "--out", "prompt.lan")
        assert code == 0, shown
        assert "invitation: " in shown
        assert line.partition("@")[0] not in shown
        assert "joined as prompt.lan" in shown

    def test_what_lies_there(self, net: Network, registrar: Registrar) -> None:
        """The contract's files are there and nothing else that shows, each readable by its owner alone."""
        out = joined(net, registrar, "files.lan")
        assert {name for name in os.listdir(out) if not name.startswith(".")} == NAMES
        assert stat.S_IMODE(out.stat().st_mode) == 0o700
        for path in out.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        key = load_pem_private_key((out / "privkey.pem").read_bytes(), None)
        assert key.public_key() == certificate(out).public_key()
        assert (out / "fullchain.pem").read_text() == (out / "cert.pem").read_text() + (out / "chain.pem").read_text()
        about = json.loads((out / "identity.json").read_bytes())
        assert about["name"] == "files.lan"
        assert about["role"] == "server"
        assert about["names"] == ["files.lan"]
        assert about["serial"] == f"{certificate(out).serial_number:032x}"
        assert about["pin"] == registrar.ready["pin"]
        assert about["addresses"] == [f"{net.REGISTRAR}:7443"]

    @pytest.mark.peer("openssl")
    def test_openssl_verifies_it(self, net: Network, registrar: Registrar) -> None:
        """OpenSSL agrees that it is a server of that name, and no client."""
        joined(net, registrar, "openssl.lan", "--san", "openssl.lan", "--san", net.SERVER)
        verify = ("openssl", "verify", "-x509_strict", "-CAfile", "openssl.lan/trust.pem",
                  "-untrusted", "openssl.lan/chain.pem")  # fmt: skip
        for names in (("-verify_hostname", "openssl.lan"), ("-verify_ip", net.SERVER)):
            net.server.run(*verify, "-purpose", "sslserver", *names, "openssl.lan/cert.pem")
        refused = net.server.run(*verify, "-purpose", "sslclient", "openssl.lan/cert.pem", code=2)
        assert "purpose" in refused.stderr

    def test_status_and_explain(self, net: Network, registrar: Registrar) -> None:
        """The machine can say what it holds, and why it trusts and is trusted."""
        out = joined(net, registrar, "words.lan")
        status = net.server.handfast("status", "--out", out, "--json").json()
        assert status["status"] == "valid"
        assert status["serial"] == serial(out)
        assert "words.lan" in net.server.handfast("status", "--out", out).stdout
        words = net.server.handfast("explain", "--out", out)
        assert registrar.ready["pin"] in words.stdout
        assert "an operator handed it an invitation" in words.stdout
        assert words.stderr == ""

    def test_the_operator_sees_it(self, net: Network, registrar: Registrar) -> None:
        """`list` and `show` tell of the machine, of its credential and of the spent invitation, and of no alarm."""
        out = joined(net, registrar, "seen.lan")
        row = registrar.list()["seen.lan"]
        assert (row["status"], row["role"], row["alarms"]) == ("valid", "server", [])
        shown = registrar.show("seen.lan")
        assert [c["serial"] for c in shown["credentials"]] == [serial(out)]
        assert [(i["status"], i["spent"]) for i in shown["invitations"]] == [("used", 1)]
        assert [e["kind"] for e in shown["history"]] == [
            "invitation.created", "credential.intended", "credential.issued",
        ]  # fmt: skip

    def test_P12_the_secret_is_nowhere(self, net: Network, registrar: Registrar) -> None:
        """The seed is in no file of the registrar, in no file of the newcomer, and in no line that either has said."""
        line = registrar.invite("secret.lan")
        done = net.server.handfast("join", "--out", "secret.lan", stdin=line)
        seed = InvitationLine.parse(line).seed.reveal()
        payload = line.removeprefix("handfast1_").partition("@")[0]
        forms = (seed, seed.hex().encode(), b64encode(seed).rstrip(b"="), payload[20:60].encode())
        places = [p for root in (registrar.data, net.server.directory / "secret.lan") for p in root.rglob("*")]
        texts = {str(path): path.read_bytes() for path in places if path.is_file()}
        texts |= {"the log": "\n".join(registrar.process.lines).encode(), "the newcomer": done.stderr.encode()}
        assert len(texts) > 10
        assert [name for name, text in texts.items() for form in forms if form in text] == []


class TestLife:
    """Renewal, revocation, return."""

    def test_renewal(self, net: Network, registrar: Registrar) -> None:
        """A renewal brings a new key and a new serial; before its time `--if-due` does nothing."""
        out = joined(net, registrar, "renewed.lan", "--role", "peer")
        first = certificate(out)
        early = net.server.handfast("renew", "--out", out, "--if-due")
        assert "not due" in early.stderr
        assert certificate(out) == first
        net.server.handfast("renew", "--out", out)
        second = certificate(out)
        assert second.serial_number != first.serial_number
        assert second.public_key() != first.public_key()
        assert second.subject == first.subject
        key = load_pem_private_key((out / "privkey.pem").read_bytes(), None)
        assert key.public_key() == second.public_key()
        assert [c["method"] for c in registrar.show("renewed.lan")["credentials"]] == ["invitation", "renewal"]

    def test_hook(self, net: Network, registrar: Registrar) -> None:
        """`--exec` runs after a change, is told where and who, and its failure is ours to report."""
        out = joined(net, registrar, "hook.lan")
        hook = 'echo "$HANDFAST_NAME $HANDFAST_OUT" > hooked'
        net.server.handfast("renew", "--out", out, "--if-due", "--exec", hook)
        assert not (net.server.directory / "hooked").exists()
        secret = {"HANDFAST_INVITATION": "handfast1_secret"}
        done = net.server.handfast("renew", "--out", out, "--exec", f"env; {hook}", env=secret)
        assert done.stdout == "", "what a hook prints is talk"
        assert "HANDFAST_NAME=hook.lan" in done.stderr
        assert "secret" not in done.stderr, "P12: no secret in the environment of a child"
        assert (net.server.directory / "hooked").read_text() == f"hook.lan {out}\n"
        before = serial(out)
        failed = net.server.handfast("renew", "--out", out, "--exec", "exit 9", code=1)
        assert "ended with 9" in failed.stderr
        assert serial(out) != before, "the new certificate is in place"

    @pytest.mark.peer("curl", "openssl")
    def test_revocation(self, net: Network, registrar: Registrar) -> None:
        """Once revoked it cannot renew, and the list that everybody can fetch and verify has its serial."""
        out = joined(net, registrar, "revoked.lan")
        registrar.revoke("revoked.lan")
        held = certificate(out)
        refused = net.server.handfast("renew", "--out", out, code=3)
        assert "was revoked (keyCompromise)" in refused.stderr
        assert certificate(out) == held
        assert registrar.list()["revoked.lan"]["status"] == "revoked"
        plain = f"http://{net.REGISTRAR}:7480{registrar.crl_path}"
        secure = f"https://{net.REGISTRAR}:7443{registrar.crl_path}"
        (points,) = held.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        assert [name.value for name in points.full_name or ()] == [plain], "where the certificate itself sends people"
        net.server.run("curl", "-sSf", "-o", "plain.crl", plain)
        net.server.run("curl", "-sSf", "-o", "secure.crl", "--cacert", out / "trust.pem", secure)
        for file in ("plain.crl", "secure.crl"):
            crl = net.server.run("openssl", "crl", "-inform", "DER", "-in", file, "-noout", "-text",
                                 "-CAfile", out / "chain.pem")  # fmt: skip
            assert "verify OK" in crl.stderr
            listed = re.findall(r"Serial Number: ([0-9A-F]+)", crl.stdout)  # without bytes of zeros in front
            assert int(serial(out), 16) in [int(each, 16) for each in listed]
        pem = net.server.run("openssl", "crl", "-inform", "DER", "-in", "plain.crl").stdout
        checking = net.server.run("openssl", "verify", "-crl_check", "-CAfile", out / "trust.pem", "-untrusted",
                                  out / "chain.pem", "-CRLfile", net.server.put("crl.pem", pem), out / "cert.pem",
                                  code=2)  # fmt: skip
        assert "certificate revoked" in checking.stderr

    @pytest.mark.peer("curl")
    def test_plain_http_serves_nothing_else(self, net: Network, registrar: Registrar) -> None:
        """Over plain HTTP there are revocation lists: no root that somebody might trust, no introductions."""
        asking = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}")
        for path in ("/roots.pem", "/v1/hello", "/v1/introductions/invitation", "/metrics"):
            assert net.server.run(*asking, f"http://{net.REGISTRAR}:7480{path}").stdout == "404", path

    def test_one_serial(self, net: Network, registrar: Registrar) -> None:
        """One serial can be taken back too: the machine that holds it cannot renew."""
        out = joined(net, registrar, "serial.lan")
        registrar.revoke(serial(out), reason="superseded")
        assert "(superseded)" in net.server.handfast("renew", "--out", out, code=3).stderr

    @pytest.mark.peer("faketime")
    def test_after_its_end(self, net: Network, registrar: Registrar) -> None:
        """A machine that slept past its credential's end comes back, with the key it kept for that; not for ever."""
        elsewhere = Registrar(net.office, f"{net.OFFICE}:7443", data="elsewhere")
        out = net.office.join(elsewhere.invite("asleep.lan", "--role", "peer"), "asleep.lan")
        key = certificate(out).public_key()
        elsewhere.process.stop()
        elsewhere.up(env=clock("+2d"))
        net.office.handfast("status", "--out", out, env=clock("+2d"), code=3)
        net.office.handfast("renew", "--out", out, env=clock("+2d"))
        assert certificate(out).public_key() != key
        assert elsewhere.show("asleep.lan")["credentials"][-1]["method"] == "reintroduction"
        elsewhere.process.stop()
        elsewhere.up(env=clock("+60d"))
        refused = net.office.handfast("renew", "--out", out, env=clock("+60d"), code=3)
        elsewhere.process.stop()
        assert "its credential ended at" in refused.stderr


class TestBounds:
    """What an invitation is bound to, and who answers at its address."""

    def test_network(self, net: Network, registrar: Registrar) -> None:
        """From another network than `--from` it is refused with that reason; nothing is spent by it."""
        line = registrar.invite("bound.lan", "--from", "10.77.1.0/24")
        refused = net.office.handfast("join", "--out", "bound", stdin=line, code=3)
        assert f"the call comes from {net.OFFICE}, " in refused.stderr
        assert not (net.office.directory / "bound" / "cert.pem").exists()
        net.server.join(line, "bound.lan")
        assert registrar.list()["bound.lan"]["alarms"] == []

    def test_no_cable(self, net: Network, registrar: Registrar) -> None:
        """Without a link it is unreachable; afterwards the same command goes on."""
        line = registrar.invite("cable.lan")
        with pulled(net):
            refused = net.server.handfast("join", "--out", "cable.lan", stdin=line, code=4)
        assert f"cannot reach {net.REGISTRAR}:7443" in refused.stderr
        assert not (net.server.directory / "cable.lan" / "cert.pem").exists()
        out = net.server.join(line, "cable.lan")
        with pulled(net):
            net.server.handfast("renew", "--out", out, code=4)
            net.server.handfast("status", "--out", out)
        net.server.handfast("renew", "--out", out)

    def test_nobody_there(self, net: Network, registrar: Registrar) -> None:
        """A closed port is unreachable, and so is one that closes every connection."""
        line = registrar.invite("closed.lan", "--address", f"{net.REGISTRAR}:9")
        assert "refused" in net.server.handfast("join", "--out", "closed", stdin=line, code=4).stderr

    def test_second_address(self, net: Network, registrar: Registrar) -> None:
        """An invitation with several addresses leads to the first that answers."""
        places = [f"{net.REGISTRAR}:9", f"{net.REGISTRAR}:7443"]
        flags = [part for place in places for part in ("--address", place)]
        out = joined(net, registrar, "several.lan", *flags)
        assert json.loads((out / "identity.json").read_bytes())["addresses"] == places

    def test_not_a_registrar(self, net: Network, registrar: Registrar) -> None:
        """A port that speaks no TLS is not taken for a registrar."""
        line = registrar.invite("plain.lan", "--address", f"{net.REGISTRAR}:7480")
        assert "no TLS 1.3" in net.server.handfast("join", "--out", "plain", stdin=line, code=4).stderr

    def test_another_authority(self, net: Network, registrar: Registrar) -> None:
        """Somebody else's registrar at that address learns nothing, and the invitation stays good."""
        other = Registrar(net.registrar, f"{net.REGISTRAR}:8443", "--crl-listen", "127.0.0.1:0", data="other")
        try:
            line = registrar.invite("led.lan", "--address", f"{net.REGISTRAR}:8443")
            refused = net.server.handfast("join", "--out", "led.lan", stdin=line, code=5)
            assert "pin" in refused.stderr or "root" in refused.stderr
            assert not (net.server.directory / "led.lan" / "cert.pem").exists()
        finally:
            other.process.stop()
        requests = [json.loads(text) for text in other.process.lines if '"event":"request"' in text]
        assert [(r["method"], r["route"]) for r in requests] == [("GET", "/v1/hello")]
        assert registrar.show("led.lan")["invitations"][0]["status"] == "open"

    def test_a_renewal_led_astray(self, net: Network, registrar: Registrar) -> None:
        """A machine that renews at an address where another authority sits now keeps what it has."""
        out = joined(net, registrar, "astray.lan")
        held = certificate(out)
        registrar.process.stop()
        other = Registrar(net.registrar, f"{net.REGISTRAR}:7443", data="usurper")
        try:
            net.server.handfast("renew", "--out", out, code=5)
        finally:
            other.process.stop()
            registrar.up()
        assert certificate(out) == held
        net.server.handfast("renew", "--out", out)


class TestOperator:
    """Administration from another machine."""

    def test_at_a_distance(self, net: Network, registrar: Registrar) -> None:
        """With an operator credential one invites, looks and revokes from anywhere, as on the registrar itself."""
        net.office.join(registrar.invite("alice", "--role", "operator"), "alice")
        far = ("--identity", "alice")
        line = net.office.handfast("invite", "remote.lan", *far, "--role", "client").stdout
        assert line.count("\n") == 1
        out = net.server.join(line, "remote.lan")
        machines = net.office.handfast("list", *far, "--json").json()
        assert {m["name"]: m["status"] for m in machines}["remote.lan"] == "valid"
        shown = net.office.handfast("show", "remote.lan", *far, "--json").json()
        assert shown == registrar.show("remote.lan")
        assert any(e["kind"] == "operator.invite" and e["fields"]["operator"] == "alice" for e in shown["history"])
        done = net.office.handfast("revoke", "remote.lan", *far, "--reason", "keyCompromise")
        assert f"revoked {serial(out)}" in done.stderr
        net.server.handfast("renew", "--out", out, code=3)

    def test_only_with_that_role(self, net: Network, registrar: Registrar) -> None:
        """No other credential makes an operator; nor does a revoked one, from that moment on."""
        out = joined(net, registrar, "curious.lan", "--role", "peer")
        refused = net.server.handfast("list", "--identity", out, code=3)
        assert "is for role peer" in refused.stderr
        net.office.join(registrar.invite("mallory", "--role", "operator"), "mallory")
        net.office.handfast("list", "--identity", "mallory")
        registrar.revoke("mallory")
        assert "revoked" in net.office.handfast("list", "--identity", "mallory", code=3).stderr

    @pytest.mark.peer("curl")
    def test_the_api_insists_too(self, net: Network, registrar: Registrar) -> None:
        """Not only our own client looks at the role: the registrar refuses others, and who has no certificate."""
        out = joined(net, registrar, "direct.lan", "--role", "peer")
        url = f"https://{net.REGISTRAR}:7443/v1/machines"
        asking = ("curl", "-s", "-w", "\n%{http_code}", "--cacert", out / "trust.pem", url)
        ours = ("--cert", out / "fullchain.pem", "--key", out / "privkey.pem")
        for arguments in (asking, (*asking, *ours)):
            body, status = net.server.run(*arguments).stdout.rsplit("\n", 1)
            assert (json.loads(body)["code"], status) == ("not-authorized", "403")
