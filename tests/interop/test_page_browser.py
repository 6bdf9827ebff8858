"""The pages in a real browser: read, searched, copied, in both schemes, without JavaScript, on a phone, and by axe."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from handfast.core.hosts import Grade
from handfast.server import page_words, pages
from handfast.server.pages import Pages
from handfast.wiring import open_ledger
from tests.peers import find
from tests.server import shown
from tests.server.running import Hand
from tests.server.shown import Web

pytestmark = [pytest.mark.peer("chromium"), pytest.mark.timeout(180)]

AXE = (resources.files("axe_playwright_python") / "axe.min.js").read_text()  # ours is the browser, and how it is asked
PAGES = ["/machines", "/machines?search=nothing", "/machines/web1.lan", "/machines/lab.lan", "/machines/evil.lan"]
PAGES += ["/machines/ops.lan", "/machines/gone.lan", "/machines/nobody.lan"]
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", it => violations.push(`${it.violatedDirective} ${it.blockedURI}`));
"""
DESK = {"width": 1180, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registrar's directory with the machines of ``shown``, on three pages."""
    place = tmp_path_factory.mktemp("browser") / "data"
    with shown.directory(place, nodes=2 * pages.ROWS + 7):
        return place


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        # Root has no sandbox, and what is opened is ours.
        started = playwright.chromium.launch(executable_path=find("chromium"), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def web(data: Path) -> Iterator[Web]:
    """The pages, behind a link that nobody has opened."""
    with open_ledger(data) as ledger, shown.web(Pages(ledger, Hand(), Grade.REPORTED)) as started:
        yield started


Open = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, web: Web) -> Iterator[Open]:
    """
    Return what opens a path in a new browser, after its one-time link was used by it.

    At the end no page has violated its policy, nor written to the console.
    """
    with _context(browser) as first:
        first.new_page().goto(web.link)
        state = first.storage_state()
    contexts: list[BrowserContext] = []
    noise: list[str] = []

    def opened(path: str, **options: Any) -> Page:
        context = browser.new_context(storage_state=state, **options)
        contexts.append(context)
        context.add_init_script(WATCH)
        page = context.new_page()
        page.on("console", lambda message: noise.append(message.text) if "404" not in message.text else None)
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.goto(web.origin + path)
        return page

    yield opened
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.violations ?? []") == []
        context.close()
    assert noise == []


@contextmanager
def _context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    try:
        yield context
    finally:
        context.close()


def test_the_link_opens_the_list(browser: Browser, web: Web) -> None:
    """A person who opens the link stands before the machines, with nothing of the link in the address any more."""
    with _context(browser) as context:
        page = context.new_page()
        page.goto(web.link)
        assert page.url == web.origin + "/machines"
        expect(page.get_by_role("link", name="db1.lan")).to_be_visible()
    with _context(browser) as other:
        page = other.new_page()
        answer = page.goto(web.link)
        assert answer is not None
        assert answer.status == 403
        expect(page.get_by_text("it is good once")).to_be_visible()


def test_from_the_list_to_a_machine(visit: Open) -> None:
    """Search, follow, turn the page, and come back: with what a person clicks."""
    page = visit("/machines")
    expect(page.get_by_role("row")).to_have_count(pages.ROWS + 1)
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_role("link", name="From the beginning")).to_be_visible()
    page.get_by_role("searchbox", name="Find a machine").fill("10.0.0.7")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("row")).to_have_count(2)
    page.get_by_role("link", name="web1.lan").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("web1.lan")
    expect(page.get_by_text(shown.ed25519(2).fingerprint)).to_be_visible()
    page.get_by_label("Breadcrumb").get_by_role("link", name="Machines").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Machines")


def test_what_is_copied_is_a_known_hosts_file(visit: Open, data: Path, web: Web) -> None:
    """The button puts exactly the machine's lines on the clipboard, each ended, and says so; so for a fingerprint."""
    page = visit("/machines/web1.lan", permissions=["clipboard-read", "clipboard-write"])
    button = page.get_by_role("button", name="Copy the known_hosts lines")
    button.click()
    expect(button).to_have_text("Copied")
    expect(page.get_by_role("status")).to_have_text("Copied the known_hosts lines")
    with open_ledger(data) as ledger:
        host = ledger.host("web1.lan")
    assert host is not None
    lines = "".join(f"{line}\n" for line in page_words.known_hosts(host, Grade.REPORTED))
    assert page.evaluate("navigator.clipboard.readText()") == lines
    page.get_by_role("button", name="Copy the fingerprint").first.click()
    expect(page.get_by_role("status")).to_have_text("Copied the fingerprint")
    assert page.evaluate("navigator.clipboard.readText()") == shown.ed25519(2).fingerprint


def test_without_a_right_to_the_clipboard_the_text_is_selected(visit: Open) -> None:
    """Where the browser says no, the person's own keys still copy it."""
    page = visit("/machines/web1.lan")
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')) }")
    page.get_by_role("button", name="Copy the fingerprint").first.click()
    expect(page.get_by_role("button", name="Copy the fingerprint").first).to_have_text("Press Ctrl+C")
    assert page.evaluate("getSelection().toString()").strip() == shown.ed25519(2).fingerprint


def test_everything_is_there_without_javascript(visit: Open) -> None:
    """List, search, detail, QR code and history need none of it; there is no button that would do nothing."""
    page = visit("/machines?search=shop", java_script_enabled=False)
    page.get_by_role("link", name="web1.lan").click()
    for section in ("For your known_hosts", "Host keys", "Retired keys", "History"):
        expect(page.get_by_role("heading", name=section)).to_be_visible()
    expect(page.get_by_role("button", name="Copy")).to_have_count(0)
    page.get_by_text("As a QR code").click()
    expect(page.get_by_role("img", name="QR code")).to_be_visible()


@pytest.mark.peer("zbarimg")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_reads_the_qr_code(visit: Open, tmp_path: Path, scheme: str) -> None:
    """A camera reads the line of the machine's first key, in either scheme, from the smallest screen."""
    page = visit("/machines/web1.lan", color_scheme=scheme, viewport=PHONE, device_scale_factor=2)
    page.get_by_text("As a QR code").click()
    code = page.get_by_role("img", name="QR code")
    expect(code).not_to_have_js_property("naturalWidth", 0)  # it is loaded; a condition in text the policy refuses
    code.screenshot(path=tmp_path / "qr.png")
    zbar = find("zbarimg")
    assert zbar is not None
    read = subprocess.run([zbar, "--quiet", "--raw", tmp_path / "qr.png"], capture_output=True, text=True, check=True)
    assert read.stdout.strip() == page.locator("#known-hosts").inner_text().splitlines()[0]


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(("scheme", "viewport"), [("light", DESK), ("dark", PHONE)])
def test_axe_finds_nothing(visit: Open, path: str, scheme: str, viewport: dict[str, int]) -> None:
    """No violation of any of axe's rules, contrast included: in either scheme, wide and narrow."""
    page = visit(path, color_scheme=scheme, viewport=viewport)
    page.evaluate(AXE)
    enabled = {"rules": {"target-size": {"enabled": True}}, "resultTypes": ["violations"]}
    found = page.evaluate("options => axe.run(options)", enabled)
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]] == []
    assert len(found["passes"]) > 10


def test_the_schemes_differ(visit: Open) -> None:
    """Whoever prefers dark gets dark."""
    backgrounds = [
        visit("/machines", color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert backgrounds == ["rgb(251, 250, 247)", "rgb(19, 23, 22)"]


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_wider_than_the_screen(visit: Open, path: str) -> None:
    """A small phone scrolls down only (WCAG 1.4.10)."""
    page = visit(path)
    for width in (320, 390, 768):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_all_is_reached_with_the_keyboard(visit: Open) -> None:
    """The first stop leads past the header; the lines can be scrolled without a mouse."""
    page = visit("/machines/web1.lan")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.locator("#known-hosts")).to_be_focused()


def test_hostile_texts_do_nothing(visit: Open) -> None:
    """Remarks with markup in them are read as they are; no dialog opens, no policy has to step in."""
    page = visit("/machines/evil.lan")
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    expect(page.get_by_text(shown.HOSTILE).first).to_be_visible()
    assert page.title() == "evil.lan · Handfast"


def test_the_policy_would_step_in(browser: Browser, web: Web) -> None:
    """If a template let markup through, a script in it would not run, and a style not apply: the second line holds."""
    with _context(browser) as context:
        context.add_init_script(WATCH)
        page = context.new_page()
        page.goto(web.link)
        page.evaluate(
            """() => {
                const script = document.createElement("script");
                try { script.textContent = "window.ran = true"; } catch { window.refused = true; }
                script.append(document.createTextNode("window.ran = true"));
                document.body.append(script);
                const image = document.createElement("img");
                image.src = "https://evil.example/x.png";
                document.body.append(image);
            }"""
        )
        while not page.evaluate("violations.some(each => each.includes('img-src'))"):
            page.wait_for_timeout(20)  # under the test's own limit; a condition in text the policy refuses
        assert page.evaluate("window.refused") is True  # trusted types: a text is no script
        assert page.evaluate("window.ran") is None


def test_a_foreign_page_cannot_frame_or_read_us(browser: Browser, web: Web) -> None:
    """A page of another origin of this very host gets nothing: not framed, not fetched, not as an image."""
    with _context(browser) as context:
        context.new_page().goto(web.link)
        page = context.new_page()
        page.route(
            "http://127.0.0.1:9/**", lambda route: route.fulfill(body="<h1>foreign</h1>", content_type="text/html")
        )
        page.goto("http://127.0.0.1:9/")
        outcome = page.evaluate(
            """async origin => {
                try { return (await fetch(origin + "/machines", {credentials: "include", mode: "no-cors"})).type; }
                catch { return "refused"; }
            }""",
            web.origin,
        )
        assert outcome == "refused"
