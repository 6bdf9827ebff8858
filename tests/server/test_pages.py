"""The pages for people: that they show everything, to whom it may be shown, and that nothing in them acts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from handfast.core import knownhosts, randomart
from handfast.core.flow import HostGrant
from handfast.core.hosts import Grade, How, Place
from handfast.core.records import Event
from handfast.errors import NotFound, Refused
from handfast.ledger import open_sqlite
from handfast.ledger.store import SqlLedger
from handfast.server import page_words, pages
from handfast.server.pages import Pages, Sight
from tests.core import sshmaterial
from tests.ledger import material
from tests.ledger.ssh_material import get, host_leaf, known, ssh_grant, user_leaf
from tests.server import shown
from tests.server.running import Hand

FILES = resources.files("handfast.server")
TEMPLATES = [each.read_text() for each in (FILES / "templates").iterdir()]


class Seen(HTMLParser):
    """A page as a browser takes it: its elements, and its text without them."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(body.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self, beginning: str) -> list[str]:
        hrefs = [attributes.get("href") or "" for tag, attributes in self.elements if tag == "a"]
        return [href for href in hrefs if href.startswith(beginning)]

    @property
    def further(self) -> str | None:
        return next((of["href"] for tag, of in self.elements if tag == "a" and of.get("rel") == "next"), None)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlLedger]:
    """A ledger with the machines of ``shown``, and more for three pages."""
    with shown.directory(tmp_path_factory.mktemp("pages") / "data", nodes=2 * pages.ROWS + 7) as filled:
        yield filled


@pytest.fixture(scope="module")
def own(ledger: SqlLedger) -> Pages:
    """The pages over it, with the default rules."""
    return Pages(ledger, Hand(), Grade.REPORTED)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[SqlLedger]:
    """The ledger of a registrar that has met nobody."""
    with open_sqlite(tmp_path / "ledger") as opened:
        yield opened


def listed(own: Pages, **query: str) -> Seen:
    """A page of the list."""
    return Seen(own.listing(query).body)


def names(page: Seen) -> list[str]:
    """The machines on it."""
    return [href.removeprefix("/machines/") for href in page.links("/machines/")]


def detail(own: Pages, name: str, sight: Sight = Sight.OPERATOR) -> Seen:
    """The page of a machine."""
    return Seen(own.machine(name, sight).body)


def images(page: Seen) -> list[str]:
    """The last part of each picture's address."""
    return [(of.get("src") or "").rpartition("/")[2] for tag, of in page.elements if tag == "img"]


# --- the list ---


def test_next_leads_through_all_machines_once(own: Pages, ledger: SqlLedger) -> None:
    """Whoever follows `Next` meets every machine, in order, and none twice."""
    page, met = listed(own), []
    for _ in range(3):
        met += names(page)
        after = re.search(r"after=([^&]*)", page.further or "")
        page = listed(own, after=after[1]) if after else page
    assert page.further is None
    assert met == [host.machine for host in ledger.hosts(most=1000)]


def test_a_full_last_page_has_no_next(empty: SqlLedger) -> None:
    """`Next` never leads to an empty page."""
    shown.many(empty, pages.ROWS)
    page = Seen(Pages(empty, Hand(), Grade.REPORTED).listing({}).body)
    assert (len(names(page)), page.further) == (pages.ROWS, None)


@pytest.mark.parametrize("search", ["web1", "WEB1.lan", "shop", "10.0.0.7", "fd00::7", "www.example", "  web1 "])
def test_a_machine_is_found_by_what_it_is_called(own: Pages, search: str) -> None:
    """A part of a name, an alias or an address finds it, however it is written."""
    assert names(listed(own, search=search)) == ["web1.lan"]


def test_a_machine_is_found_by_its_fingerprint(own: Pages) -> None:
    """Whoever has a fingerprint from ssh's own message learns whose it is."""
    assert names(listed(own, search=shown.ed25519(2).fingerprint)) == ["web1.lan"]


@pytest.mark.parametrize("search", ["%", "_", "web1%", "\0", "x" * 5000, "{{ 7*7 }}", "' OR 1=1 --"])
def test_a_search_means_what_it_says(own: Pages, search: str) -> None:
    """Patterns of SQL and of templates are text; what cannot be a name finds nothing, or is left out."""
    page = listed(own, search=search)
    assert set(names(page)) <= ({"web1.lan"} if search.strip("\0") else set(names(listed(own))))
    assert "49" not in page.text


def test_next_keeps_the_search(own: Pages) -> None:
    """The second page of a search is of that search."""
    page = listed(own, search="fleet.lan")
    assert page.further is not None
    assert "search=fleet.lan" in page.further
    assert len(names(page)) == pages.ROWS


def test_an_empty_list_says_what_to_do(empty: SqlLedger) -> None:
    """The first person on this page is told how machines come to it."""
    assert "handfast join --ssh" in Seen(Pages(empty, Hand(), Grade.REPORTED).listing({}).body).text


@pytest.mark.parametrize(
    ("machine", "word"), [("web1.lan", "proved"), ("db1.lan", "reported"), ("lab.lan", "seen"), ("gone.lan", "removed")]
)
def test_the_list_says_how_well_each_is_known(ledger: SqlLedger, machine: str, word: str) -> None:
    """The grade is that of the best evidence; a machine without keys was removed."""
    host = ledger.host(machine)
    assert host is not None
    assert page_words.row(host).grade == word


# --- a machine ---


def test_the_page_has_everything_of_a_machine(own: Pages, ledger: SqlLedger) -> None:
    """Names, addresses, aliases, ports, and of each key fingerprint, picture, reasons, grade and date."""
    text, host = detail(own, "web1.lan").text, ledger.host("web1.lan")
    assert host is not None
    for each in (*host.place.hosts(), "2222"):
        assert each in text
    for key in host.keys:
        assert key.key.fingerprint in text
        assert randomart.picture(key.key) in text
        assert key.how.words[1:] in text
        assert key.detail in text
        assert page_words.when(key.at) in text
    for retired in host.retired:
        assert retired.key.fingerprint in text
        assert retired.reason in text


def test_the_lines_are_those_of_known_hosts(own: Pages, ledger: SqlLedger) -> None:
    """What is copied is what `handfast known-hosts` writes: all spellings, one line for each believed key."""
    host = ledger.host("web1.lan")
    assert host is not None
    lines = page_words.known_hosts(host, Grade.REPORTED)
    assert sorted(lines) == sorted(knownhosts.lines(host.place.spellings("web1.lan"), host.believed(Grade.REPORTED)))
    assert "\n".join(lines) in detail(own, "web1.lan").text


def test_a_key_that_was_only_seen_is_shown_and_not_handed_out(own: Pages) -> None:
    """A scan's key has no line to copy and no QR code, and the page says why."""
    page = detail(own, "lab.lan")
    assert shown.ed25519(4).fingerprint in page.text
    assert "ssh is not told of this key" in page.text
    assert shown.ed25519(4).base64 not in page.text
    assert "qr.svg" not in images(page)
    with pytest.raises(NotFound, match="no QR code"):
        own.qr("lab.lan")


def test_what_counts_is_the_operators_rule(own: Pages) -> None:
    """Where `[ssh] accept` is `proved`, a reported key is not handed out; where it is `seen`, a scanned one is."""
    strict, lax = replace(own, accept=Grade.PROVED), replace(own, accept=Grade.SEEN)
    assert shown.ed25519(3).base64 not in detail(strict, "db1.lan").text
    assert shown.ed25519(4).base64 in detail(lax, "lab.lan").text


def test_a_key_of_an_unknown_type_is_shown(own: Pages) -> None:
    """OpenSSH adds types: what is not shown would be asked about at the terminal."""
    text = detail(own, "lab.lan").text
    assert shown.unknown(1).algorithm in text
    assert shown.unknown(1).fingerprint in text


def test_a_machine_s_certificates_are_shown(empty: SqlLedger) -> None:
    """To readers too: which key, which names, until when, and whether and why it was revoked; no person's."""
    clock = Hand()
    known(empty, 1, 2)
    good, revoked = get(empty, ssh_grant(host_leaf(1), host_leaf(2)))
    get(empty, ssh_grant(user_leaf(3), holder="web1.lan", method="oidc"))
    empty.revoke_ssh(revoked, reason="keyCompromise", at=material.NOW).result()
    clock.offset = material.NOW - clock.now()
    text = detail(Pages(empty, clock, Grade.REPORTED), "web1.lan", Sight.READER).text
    section = text[text.index("SSH certificates") : text.index("History")]
    parts = ("valid for web1.lan, 10.0.0.1, until", "revoked for", str(good), str(revoked), "keyCompromise")
    assert ([part in section for part in parts], section.count("until")) == ([True] * len(parts), 2)
    for part in ("decided for web1.lan, 10.0.0.1", "issued, until", "revoked", f"keyCompromise, serial {revoked}"):
        assert part in text


def test_a_removed_machine_is_remembered(own: Pages) -> None:
    """Its page says that it is gone and since when, and hands out nothing."""
    text = detail(own, "gone.lan").text
    assert "This machine was removed" in text
    assert "destroyed" in text
    assert shown.ed25519(5).base64 not in text


def test_another_name_leads_to_the_machine(own: Pages) -> None:
    """Its alias, its address and its spelling with a port lead to its page; capitals do not matter."""
    for name in ("shop", "10.0.0.7", "[10.0.0.7]:2222", "fd00::7", "WWW.example.org"):
        assert own.machine(name, Sight.READER).elsewhere == "/machines/web1.lan"
    assert own.machine("WEB1.lan", Sight.READER).elsewhere is None


@pytest.mark.parametrize("name", ["nothing.lan", "", "\0", "../../etc/passwd", "<script>", "x" * 9000, "%00", "\udcff"])
def test_what_nobody_is_called_is_not_found(own: Pages, name: str) -> None:
    """No name in an address makes the page fail in another way."""
    with pytest.raises(NotFound, match="no machine"):
        own.machine(name, Sight.OPERATOR)


def test_the_newest_of_a_long_history_is_shown(empty: SqlLedger) -> None:
    """A page stays short: it has the newest entries, and says how many there are before."""
    for number in range(pages.MOST_EVENTS + 4):
        shown.register(empty, "web1.lan", shown.ed25519(1), place=Place.parse([f"10.0.1.{number}"]))
    text = Seen(Pages(empty, Hand(), Grade.REPORTED).machine("web1.lan", Sight.READER).body).text
    assert "10.0.1.103" in text
    assert "10.0.1.3\n" not in text
    assert "5 earlier entries" in text


# --- who sees what ---


@pytest.fixture
def joined(empty: SqlLedger) -> SqlLedger:
    """A machine with a credential, an invitation, host keys, and an alarm: somebody else claimed its key."""
    material.join(empty, 1, machine="web1.lan")
    shown.register(empty, "web1.lan", shown.ed25519(1))
    empty.note(Event("remark.secret", shown.NOW, "web1.lan", {"remark": "for operators"})).result()
    with pytest.raises(Refused):
        shown.register(empty, "web2.lan", shown.ed25519(1))
    shown.register(empty, "web2.lan", shown.ed25519(2))
    material.join(empty, 2, machine="bare.lan")
    return empty


def test_an_operator_sees_credentials_and_the_whole_log(joined: SqlLedger) -> None:
    """On the registrar's own machine, as `handfast show` would tell."""
    own = Pages(joined, Hand(), Grade.REPORTED)
    text = detail(own, "web1.lan").text
    for each in ("Credentials", "Invited as server", "Credential issued", "for operators"):
        assert each in text
    assert "1 alarm" in detail(own, "web2.lan").text


def test_a_reader_sees_host_keys_alone(joined: SqlLedger) -> None:
    """Who may read host keys is told no serial, no invitation, no alarm: the JSON API would not either."""
    own = Pages(joined, Hand(), Grade.REPORTED)
    for machine in ("web1.lan", "web2.lan"):
        text = detail(own, machine, Sight.READER).text
        assert "became known" in text
        for each in ("Credential", "Invited", "serial", "alarm", "for operators"):
            assert each not in text


def test_a_machine_without_host_keys_is_for_operators(joined: SqlLedger) -> None:
    """That it exists is nobody's business who may read host keys only."""
    own = Pages(joined, Hand(), Grade.REPORTED)
    assert "No host key of this machine is known" in detail(own, "bare.lan").text
    with pytest.raises(NotFound):
        own.machine("bare.lan", Sight.READER)


# --- hostile texts ---


def test_hostile_texts_stay_texts(own: Pages) -> None:
    """Of remarks and reasons no element and no attribute comes: they are read, character by character."""
    hostile, harmless = detail(own, "evil.lan"), detail(own, "db1.lan")
    assert hostile.text.count(shown.HOSTILE) >= 4
    assert {tag for tag, _ in hostile.elements} - {tag for tag, _ in harmless.elements} <= {"ol", "ul"}
    assert len([tag for tag, _ in hostile.elements if tag == "script"]) == 1
    assert not [name for _, attributes in hostile.elements for name in attributes if name.startswith("on")]


def test_a_search_comes_back_as_text(own: Pages) -> None:
    """What somebody else's link searches for stands in the field, the title and the sentence, and does nothing."""
    page = listed(own, search=shown.HOSTILE)
    assert [of.get("value") for tag, of in page.elements if tag == "input"] == [shown.HOSTILE]
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 1


def test_what_turns_writing_around_is_shown_as_what_it_is(empty: SqlLedger) -> None:
    """A right-to-left override in a reason would let one fingerprint pass for another."""
    detailed = HostGrant("web1.lan", (shown.ed25519(1),), How.OPERATOR, "by \u202eecila \x1b[2J", complete=True)
    empty.register(detailed, None, at=shown.NOW).result()
    body = Pages(empty, Hand(), Grade.REPORTED).machine("web1.lan", Sight.READER).body.decode()
    assert "\\u202eecila \\u001b[2J" in body
    assert not {"\u202e", "\x1b"} & set(body)


def test_an_entry_that_reads_differently_is_shown_as_it_is() -> None:
    """Of an unknown kind, or without the fields that its sentence needs: the page shows it all the same."""
    events = [
        Event("hostkey.added", shown.NOW, "web1.lan", {"key": "nonsense", "how": "magic"}),
        Event("something.new", shown.NOW, "web1.lan", {"what": "happened", "hash": "f" * 64}),
    ]
    new, added = page_words.history(events)
    assert (new.said, new.detail) == ("something.new", "what happened")
    assert (added.said, added.detail) == ("hostkey.added", "how magic, key nonsense")


# --- what the policy forbids, the files do not need ---


@pytest.mark.parametrize("text", TEMPLATES)
def test_templates_trust_nothing(text: str) -> None:
    """No template turns escaping off, writes a script or a style, loads from elsewhere, or forgets a quote."""
    assert not re.search(r"\|\s*safe|autoescape|<style|style=|\son\w+=|javascript:|https?:|=\{\{", text)
    assert all(
        re.fullmatch(r'<script defer src="\{\{ asset\(\'copy.js\'\) \}\}">', tag)
        for tag in re.findall("<script[^>]*>", text)
    )


@pytest.mark.parametrize("name", ["handfast.css", "copy.js", "mark.svg"])
def test_files_load_nothing_from_elsewhere(name: str) -> None:
    """Everything of the pages comes with the package."""
    text = pages.asset(name).body.decode().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|url\(|@import|eval\(|innerHTML", text)


def test_a_file_changes_its_address_with_its_content(own: Pages) -> None:
    """Browsers may keep it for ever, and still have the new one after an update."""
    page = listed(own)
    loaded = [of["href"] or "" for tag, of in page.elements if tag == "link"]
    assert len(loaded) == 2
    assert all(re.fullmatch(r"/static/[a-z.]+\?v=[0-9a-f]{16}", each) for each in loaded)


@pytest.mark.parametrize("name", ["", ".", "..", "../pages.py", "/etc/passwd", "machine.html", "copy.js\0"])
def test_only_the_files_of_the_pages_are_given(name: str) -> None:
    """A name is looked up among those that there are, and never becomes a path."""
    with pytest.raises(NotFound):
        pages.asset(name)


def test_the_policy_lets_nothing_in() -> None:
    """Nothing is allowed that is not from here, and nothing written into the page itself."""
    policy = pages.HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"unsafe|\*|data:|http", policy)
    for each in ("base-uri 'none'", "frame-ancestors 'none'", "form-action 'self'"):
        assert each in policy


def test_a_long_line_fits_a_code_that_phones_read(empty: SqlLedger) -> None:
    """A machine with very many names has its own alone in the QR code; one of a huge key has none."""
    many = Place.parse([f"a-rather-long-name-{number}.example.org" for number in range(40)])
    shown.register(empty, "web1.lan", shown.ed25519(1), place=many)
    shown.register(empty, "big.lan", sshmaterial.rsa_key(16384))
    own = Pages(empty, Hand(), Grade.REPORTED)
    assert "qr.svg" in images(detail(own, "web1.lan"))
    assert own.qr("web1.lan").body.startswith(b"<svg ")
    assert "qr.svg" not in images(detail(own, "big.lan"))
    for name in ("big.lan", "nobody.lan"):
        with pytest.raises(NotFound, match="no QR code"):
            own.qr(name)
