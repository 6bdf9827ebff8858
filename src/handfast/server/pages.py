"""
The pages for people: which machines there are, and everything about the host keys of one.

They change nothing, need no JavaScript, and load nothing from elsewhere. Names, remarks and texts of the log were said
by others: the templates escape all of them, and the content security policy leaves a mistake there without effect.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from enum import Enum
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

import segno

from handfast.core.hosts import Grade, Host, Place
from handfast.core.ports import Clock
from handfast.core.records import CredentialRecord, Event, Machine, SshRecord
from handfast.core.sshcert import Kind
from handfast.errors import NotFound
from handfast.server import page_words

if TYPE_CHECKING:
    import jinja2

ROWS = 50  # of a page of the list
MOST_SEARCH = 200  # characters
MOST_EVENTS = 100  # of a machine's history
MOST_CERTIFICATES = 20  # of a machine, the newest
_QR_MOST = 700  # characters: RSA of 4,096 bits; beyond that no phone reads it from a screen
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # what was known a minute ago may be retired
}
FILE_HEADERS = HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"}


class Machines(Protocol):
    """What the pages read: a part of ``core.ports.Ledger``."""

    def host(self, machine: str) -> Host | None: ...

    def host_at(self, spelling: str) -> Host | None: ...

    def hosts(self, *, after: str = "", most: int = 100, search: str = "") -> list[Host]: ...

    def machine(self, name: str) -> Machine | None: ...

    def newest_credentials(self, machine: str) -> list[CredentialRecord]: ...

    def ssh_certificates(self, holder: str | None = None) -> list[SshRecord]: ...

    def events(self, *, kind_prefix: str = "", subject: str | None = None) -> list[Event]: ...


class Sight(Enum):
    """How much is shown: host keys to whoever may read them, credentials and the whole log to operators."""

    READER = "reader"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Shown:
    """A page; ``elsewhere`` is the path of the one to go to instead."""

    body: bytes
    elsewhere: str | None = None


@dataclass(frozen=True, slots=True)
class Asset:
    """What the pages load."""

    body: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages over a registrar's machines. ``accept`` is how well a key must be known for ssh to be told of it."""

    machines: Machines
    clock: Clock
    accept: Grade

    def listing(self, query: Mapping[str, str]) -> Shown:
        """Return a page of machines by name: from the one after ``after``, of those that match ``search``."""
        after, search = _typed(query.get("after", "")), _typed(query.get("search", ""))
        found = self.machines.hosts(after=after, most=ROWS + 1, search=search)
        rows = [page_words.row(host) for host in found[:ROWS]]
        further = _address(search, rows[-1].machine) if len(found) > ROWS else None
        first = _address(search, "") if after else None
        return _page("machines.html", rows=rows, search=search, after=after, further=further, first=first)

    def machine(self, name: str, sight: Sight) -> Shown:
        """
        Return a machine's page; one of its other names leads there.

        :raises NotFound: nothing that this reader may know is called so.
        """
        typed = _typed(name).lower()
        host = self.machines.host(typed)
        if host is None and (reached := self.machines.host_at(typed)) is not None:
            return Shown(b"", f"/machines/{quote(reached.machine)}")
        if host is None and sight is Sight.OPERATOR and self.machines.machine(typed) is not None:
            host = Host(typed, Place(), ())
        if host is None:
            raise NotFound(f"no machine {typed[:80]!r}", hint="look for it in the list: it may have another name")
        lines = page_words.known_hosts(host, self.accept)
        return _page(
            "machine.html",
            host=host,
            cards=page_words.cards(host, self.accept),
            meanings=page_words.meanings(host),
            retired=tuple(reversed(host.retired)),
            kind_of=page_words.kind_of,
            lines=lines,
            qr=_for_phones(lines, host.machine) is not None,
            **self._past(host.machine, sight),
        )

    def qr(self, name: str) -> Asset:
        """
        Return a machine's first line for known_hosts as a QR code.

        :raises NotFound: no such machine, or nothing of it that ssh is told and a phone could read.
        """
        host = self.machines.host(_typed(name).lower())
        text = None if host is None else _for_phones(page_words.known_hosts(host, self.accept), host.machine)
        if text is None:
            raise NotFound(f"no QR code for {_typed(name)[:80]!r}")
        drawn = io.BytesIO()
        code = segno.make(text, error="l", micro=False)
        code.save(drawn, kind="svg", border=2, light="#fff", omitsize=True, xmldecl=False, nl=False)
        return Asset(drawn.getvalue(), _TYPES["svg"])

    def _past(self, machine: str, sight: Sight) -> dict[str, Any]:
        events, operator = self.machines.events(subject=machine), sight is Sight.OPERATOR
        told = events if operator else [event for event in events if event.kind in page_words.FOR_READERS]
        now = self.clock.now()
        held = self.machines.newest_credentials(machine) if operator else []
        certified = [each for each in self.machines.ssh_certificates(machine) if each.kind is Kind.HOST]
        return {
            "certificates": [page_words.certificate(record, now) for record in certified[:MOST_CERTIFICATES]],
            "operator": operator,
            "history": page_words.history(told[-MOST_EVENTS:]),
            "earlier": max(0, len(told) - MOST_EVENTS),
            "alarms": page_words.history([event for event in told if event.kind.startswith("alarm.")]),
            "credentials": [page_words.credential(record, now) for record in held],
        }


def message(title: str, text: str, hint: str = "", *, inside: bool = True) -> bytes:
    """Return a page that says one thing; ``inside`` is whether the reader may go on to the list."""
    return _page("message.html", title=title, text=text, hint=hint, inside=inside).body


def refusal(text: str, hint: str) -> bytes:
    """Return a page that loads nothing, for whoever may not load anything."""
    return _page("refusal.html", text=text, hint=hint).body


def asset(name: str) -> Asset:
    """
    Return a file of the pages; it may be kept for ever, as its address changes with its content.

    :raises NotFound: there is none of this name.
    """
    found = _assets().get(name)
    if found is None:
        raise NotFound(f"no file {name[:80]!r}")
    return found


@cache
def _assets() -> dict[str, Asset]:
    files = (each for each in (resources.files("handfast.server") / "static").iterdir() if each.is_file())
    known = {each.name: each for each in files if each.name.rpartition(".")[2] in _TYPES}
    return {name: Asset(each.read_bytes(), _TYPES[name.rpartition(".")[2]]) for name, each in known.items()}


@cache
def _templates() -> jinja2.Environment:
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("handfast.server"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters["when"] = page_words.when
    made.filters["iso"] = lambda at: at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    made.filters["sentence"] = lambda text: f"{text[:1].upper()}{text[1:].removesuffix('.')}."
    made.filters["segment"] = lambda text: quote(text, safe="")
    made.globals["asset"] = _versioned
    return made


def _harmless(value: object) -> object:
    """Show what a browser would act on or hide: a text that turns the direction of writing forges what is beside it."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(each if each.isprintable() or each == "\n" else f"\\u{ord(each):04x}" for each in value)


def _versioned(name: str) -> str:
    return f"/static/{name}?v={hashlib.sha256(asset(name).body).hexdigest()[:16]}"


def _page(template: str, **values: Any) -> Shown:
    return Shown(_templates().get_template(template).render(values).encode())


def _typed(text: str) -> str:
    """What a person may look for: PostgreSQL takes no NUL, and nobody is called what cannot be printed."""
    return "".join(filter(str.isprintable, text)).strip()[:MOST_SEARCH]


def _address(search: str, after: str) -> str:
    query = urlencode({name: value for name, value in (("search", search), ("after", after)) if value})
    return f"/machines?{query}" if query else "/machines"


def _for_phones(lines: tuple[str, ...], machine: str) -> str | None:
    """Return what the QR code says: the first line, or with the machine's own name only, or nothing if all is long."""
    for line in lines[:1]:
        for text in (line, f"{machine} {line.partition(' ')[2]}"):
            if len(text) <= _QR_MOST:
                return text
    return None
