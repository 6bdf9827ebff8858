"""demo: a registrar, a newcomer and an active man in the middle, for real, on loopback, in a few seconds."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
from cryptography import x509

from handfast import config, ledger
from handfast.adapters.clock import SystemClock
from handfast.adapters.process import OURSELVES
from handfast.adapters.tls import newcomer_context
from handfast.authority.authority import PublicAuthority
from handfast.cli import ui
from handfast.cli.demo_attacker import ManInTheMiddle, own_authority
from handfast.core.flow import Wish
from handfast.core.invitation import Address, InvitationLine
from handfast.core.roles import Role
from handfast.errors import Fault, HandfastError
from handfast.introducers.invitation import Invited
from handfast.ledger import audit
from handfast.newcomer.join import Joined, join
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.renew import renew
from handfast.registrar.administer import Administration
from handfast.wiring import AUTHORITY, LEDGER, log_origin, open_administration

_WIDTH = 76
_FORGERY = """
    UPDATE events SET kind = 'invitation.created', entry = CAST(
        replace(CAST(entry AS TEXT), 'alarm.second-key', 'invitation.created') AS BLOB)
    WHERE kind = 'alarm.second-key'
"""


@click.command("demo")
def demo_command() -> None:
    """An honest join works; a man in the middle, a thief and a forger are refused. Needs nothing, leaves nothing."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="handfast-demo-") as name:
        scratch = Path(name)
        with _registrar(scratch / "registrar") as data:
            _Story(scratch, data, open_administration(data)).tell()
    _line("")
    _line(f"{time.monotonic() - begun:.1f} s. All of it was real: TLS 1.3, durable commits, certificates on disk.")
    _line("Next: `handfast up` here, `handfast join` there. docs/tutorial.md has the first hour.")


@contextlib.contextmanager
def _registrar(data: Path) -> Iterator[Path]:
    command = [*OURSELVES, "up", "--data", str(data), "--listen", "127.0.0.1:0", "--json"]
    with (data.parent / "registrar.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    try:
        if process.stdout is None or not process.stdout.readline():
            raise Fault("the demo's registrar did not start", hint="try `handfast up --listen 127.0.0.1:0`")
        yield data
    finally:
        process.terminate()
        process.wait(30)


class _Story:
    """The scenes, in order; each asserts what it shows, so that the demo cannot lie."""

    def __init__(self, scratch: Path, data: Path, administration: Administration) -> None:
        self.scratch, self.data, self.administration = scratch, data, administration
        self.registrar = administration.addresses[0]
        self.now = SystemClock().now

    def tell(self) -> None:
        """Show every scene."""
        _line("A registrar runs on loopback. Its authority was made just now and nobody has heard of it.")
        _line(f"Its root has the pin {self.administration.pin.hex()}.")
        self.honest()
        self.stranger_in_the_middle()
        self.insider_in_the_middle()
        self.thief()
        self.revoked()
        self.forger()

    def honest(self) -> None:
        """The join that works."""
        _scene("1  An honest join", "the operator hands one line to web1; it carries the pin and a one-time secret")
        self.web1 = self.invite("web1.demo", Role.PEER)
        joined = self.join(self.web1, "web1")
        who = joined.checked.identity
        _good(f"web1 holds a certificate as {', '.join(who.names.texts())}, role {who.role}, key made on web1")
        _good("web1 knew the registrar before the first packet, and the registrar knew web1")

    def stranger_in_the_middle(self) -> None:
        """A man in the middle with his own authority."""
        _scene(
            "2  A man in the middle",
            "he redirects web2's traffic to himself, with a perfect likeness of the registrar's certificate",
        )
        place = (self.registrar.host, self.registrar.port)
        with socket.create_connection(place) as raw, newcomer_context().wrap_socket(raw) as tls:
            genuine = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        chain, key = own_authority(self.now(), genuine)
        with self.attacker(ManInTheMiddle(self.registrar, chain=chain, key=key)) as attacker:
            self.web2 = self.invite("web2.demo", Role.SERVER)
            self.refuse(lambda: self.join(self.web2, "web2", attacker.address))
            self.saw(attacker)

    def insider_in_the_middle(self) -> None:
        """A man in the middle with a genuine certificate of the same authority."""
        _scene("3  An insider in the middle", "he has web1's genuine certificate and key, under the right root")
        stolen = Keystore(self.scratch / "web1").load()
        chain = [x509.load_der_x509_certificate(der) for der in (stolen.leaf, *stolen.chain)]
        with self.attacker(ManInTheMiddle(self.registrar, chain=chain, key=stolen.private_key)) as attacker:
            self.refuse(lambda: self.join(self.web2, "web2", attacker.address))
            self.saw(attacker)
        self.join(self.web2, "web2")
        _good("with nobody in between, the same invitation still works: nothing was spent, nothing had leaked")

    def thief(self) -> None:
        """Somebody who photographed the invitation."""
        _scene("4  A thief", "he has photographed web1's invitation and joins with his own key")
        self.refuse(lambda: self.join(self.web1, "thief"))
        alarms = self.administration.show("web1.demo").alarms
        _must(alarms, "the theft raised no alarm")
        _good(f"`handfast list` shows the operator: web1.demo, {len(alarms)} ALARM ({alarms[0].kind})")

    def revoked(self) -> None:
        """Taking a credential back."""
        _scene("5  Taken back", "the operator revokes web2; web2 tries to renew")
        self.administration.revoke("web2.demo", reason="keyCompromise")
        self.refuse(lambda: renew(Keystore(self.scratch / "web2"), now=self.now))

    def forger(self) -> None:
        """Somebody who edits the ledger."""
        _scene("6  A forger", "he copies the ledger and takes the alarm out of its log")
        public = PublicAuthority.read(self.data / AUTHORITY)
        forged = self.scratch / "forged.sqlite3"
        with contextlib.closing(sqlite3.connect(self.data / LEDGER)) as source:
            source.execute("VACUUM INTO ?", (str(forged),))
        forged.chmod(0o600)
        with contextlib.closing(sqlite3.connect(forged)) as edited, edited:
            edited.execute(_FORGERY)
        with ledger.open_sqlite(forged) as store:
            self.refuse(lambda: audit.verify(store, public.log_key, log_origin(public), None))
        with ledger.open_sqlite(self.data / LEDGER) as store:
            report = audit.verify(store, public.log_key, log_origin(public), None)
        _good(f"the true log proves itself: {report.size} entries, root {report.root.hex()[:16]}…")

    def invite(self, name: str, role: Role) -> InvitationLine:
        """Return a fresh invitation, shown as the operator sees it but for its secret."""
        line, _ = self.administration.invite(name, role=role, lasting=config.duration("10m"))
        text = line.reveal()
        _line(f"     $ handfast invite {name} --role {role}")
        _line(f"     {text[:22]}…{text[text.index('@') :]}")
        return line

    def join(self, line: InvitationLine, who: str, via: Address | None = None) -> Joined:
        """Join as ``who``; ``via`` is where the attacker leads the newcomer's traffic."""
        led = line if via is None else replace(line, addresses=(via,))
        keystore = Keystore(self.scratch / who)
        joined = join(Invited(led, Wish()), keystore, layouts=("pem",), owner=None, now=self.now)
        if joined is None:  # unreachable: nobody in this story joins twice
            raise Fault("the demo joined twice")
        return joined

    def refuse(self, attempt: Callable[[], object]) -> None:
        """Show that ``attempt`` ends in a deliberate error."""
        try:
            attempt()
        except HandfastError as error:
            _bad(f"refused [{error.code}]", error.message)
        else:
            raise Fault("the demo's attack succeeded", hint="this is a bug in Handfast: please report it (SECURITY.md)")

    def saw(self, attacker: ManInTheMiddle) -> None:
        """Show all that an attacker received in clear text."""
        requests = [line for line in bytes(attacker.seen).decode().splitlines() if line.endswith("HTTP/1.1")]
        _must(b"POST" not in attacker.seen, "the newcomer sent evidence to the attacker")
        _good(f"all that he received: {', '.join(requests)}. No secret, no key, no name")

    @contextlib.contextmanager
    def attacker(self, attacker: ManInTheMiddle) -> Iterator[ManInTheMiddle]:
        """Run an attacker for one scene."""
        try:
            yield attacker
        finally:
            attacker.close()


def _must(truth: object, otherwise: str) -> None:
    if not truth:
        raise Fault(f"the demo found a hole: {otherwise}", hint="please report it (SECURITY.md)")


def _scene(title: str, what: str) -> None:
    _line("")
    _line(_style(title, "1"))
    _line(f"     {what}")


def _good(text: str) -> None:
    _wrapped("  ✓  ", text, "32")


def _bad(verdict: str, text: str) -> None:
    _wrapped("  ✗  ", f"{verdict} {text}", "33")


def _wrapped(mark: str, text: str, color: str) -> None:
    lines = textwrap.wrap(text, _WIDTH - len(mark), break_long_words=False)
    _line(_style(mark, color) + lines[0])
    for line in lines[1:]:
        _line(" " * len(mark) + line)


def _style(text: str, code: str) -> str:
    plain = not sys.stdout.isatty() or not config.wants_color()
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def _line(text: str) -> None:
    ui.emit(text)
