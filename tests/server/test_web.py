"""`handfast web`: that the link opens the pages once, for one user, and that nobody else gets in."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from handfast.core.hosts import Grade
from handfast.server import pages
from handfast.server.pages import Pages
from handfast.server.web import LOOPBACK
from handfast.wiring import open_ledger
from tests.peers import find
from tests.server import shown
from tests.server.running import Hand
from tests.server.shown import Web

NOBODY = 65534
WITHIN = [
    "/",
    "/machines",
    "/machines/web1.lan",
    "/machines/web1.lan/qr.svg",
    "/static/handfast.css",
    "/nothing",
    "/open",
    "/v1/machines",
]


@dataclass
class Answer:
    """What a request got."""

    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def cookie(self) -> str:
        """The cookie as it is sent back."""
        return (self.headers["Set-Cookie"] or "").partition(";")[0]


def ask(web: Web, path: str, *, method: str = "GET", cookie: str = "", **headers: str) -> Answer:
    """Send one request on a new connection."""
    connection = http.client.HTTPConnection(LOOPBACK, web.port, timeout=30)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=({"Cookie": cookie} if cookie else {}) | sent)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return Answer(response.status, response.headers, text)


def opened(web: Web) -> str:
    """Open the link, and return the cookie."""
    answer = ask(web, web.path)
    assert answer.status == 303, answer.text
    return answer.cookie


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registrar's directory with the machines of ``shown``."""
    place = tmp_path_factory.mktemp("web") / "data"
    with shown.directory(place):
        return place


@pytest.fixture
def web(data: Path) -> Iterator[Web]:
    """The pages, behind a link that nobody has opened."""
    with open_ledger(data) as ledger, shown.web(Pages(ledger, Hand(), Grade.REPORTED)) as started:
        yield started


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stdout_is_the_link_and_a_signal_ends_it(data: Path, how: signal.Signals) -> None:
    """One line on stdout, the link on loopback; either signal ends it with 0, also while a browser is connected."""
    with shown.command(data, "--no-browser") as web:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/open/[\w-]{43}", web.link)
        idle = http.client.HTTPConnection(LOOPBACK, web.port)
        idle.request("GET", "/")
        idle.getresponse().read()
        code, out, err = web.end(how)
        idle.close()
    assert (code, out) == (0, "")
    assert "secret" in err
    assert web.link not in err


def test_the_link_lets_in(web: Web) -> None:
    """It sets a cookie that no script, no other site and no other path has, and leads to the machines."""
    answer = ask(web, web.path)
    assert (answer.status, answer.headers["Location"]) == (303, "/machines")
    assert answer.headers["Set-Cookie"].partition("; ")[2].split("; ") == ["HttpOnly", "Path=/", "SameSite=Strict"]
    assert "web1.lan" in ask(web, "/machines", cookie=answer.cookie).text
    assert shown.ed25519(2).fingerprint in ask(web, "/machines/web1.lan", cookie=answer.cookie).text
    assert ask(web, "/", cookie=answer.cookie).headers["Location"] == "/machines"
    assert ask(web, "/machines/shop", cookie=answer.cookie).headers["Location"] == "/machines/web1.lan"


def test_the_link_is_good_once(web: Web) -> None:
    """Whoever comes second gets no cookie, and is told that somebody was there before."""
    cookie = opened(web)
    again = ask(web, web.path)
    assert (again.status, again.headers["Set-Cookie"]) == (403, None)
    assert f"opened before, by user {os.geteuid()}" in again.text
    assert ask(web, web.path, cookie=cookie).status == 303  # the same browser may reload


@pytest.mark.parametrize("path", WITHIN)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_nothing_is_had_without_the_cookie(web: Web, path: str, method: str) -> None:
    """Not a page, not a file, not whether there is one: before the link was opened and after."""
    assert ask(web, path, method=method).status == 403
    cookie = opened(web)
    for other in ("", f"handfast_{web.port}=", f"handfast_{web.port}=guess", "x=" + cookie.partition("=")[2]):
        assert ask(web, path, method=method, cookie=other).status == 403


@pytest.mark.parametrize("token", ["", "x", "A" * 43, "%ff", "../machines"])
def test_a_wrong_link_opens_nothing_and_spends_nothing(web: Web, token: str) -> None:
    """Guessing is refused, and the honest link still opens afterwards."""
    answer = ask(web, "/open/" + token)
    assert (answer.status, answer.headers["Set-Cookie"]) == (403, None)
    opened(web)


@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS"])
def test_only_opening_spends_the_link(web: Web, method: str) -> None:
    """A preview asks with HEAD, a foreign page's form with POST: the link stays good for its user."""
    assert ask(web, web.path, method=method).status == 403
    opened(web)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:{port}.x", ""]
)
def test_another_host_is_refused(web: Web, host: str) -> None:
    """A stranger's name that was made to lead to 127.0.0.1 opens nothing, with the cookie, and with the link itself."""
    named = host.format(port=web.port)
    assert ask(web, web.path, Host=named).status == 403
    cookie = opened(web)
    assert ask(web, "/machines", cookie=cookie, Host=named).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "x"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://evil.example"},
    ],
)
def test_another_page_is_refused(web: Web, headers: dict[str, str]) -> None:
    """Neither a site nor another port of this host can embed a page or follow the link: it stays good."""
    assert "address bar" in ask(web, web.path, **headers).text
    cookie = opened(web)
    assert ask(web, "/machines", cookie=cookie, **headers).status == 403
    assert ask(web, "/machines", cookie=cookie, Sec_Fetch_Site="none").status == 200
    assert ask(web, "/machines", cookie=cookie, Sec_Fetch_Site="same-origin", Origin=web.origin).status == 200


@pytest.mark.parametrize("path", [*WITHIN, "/machines/nobody.lan", "/static/nothing", "/open/wrong"])
def test_every_answer_has_the_policy(web: Web, path: str) -> None:
    """Also what is refused, redirected or missing; and nothing but the files is kept by the browser."""
    cookie = opened(web)
    for held in ("", cookie):
        answer = ask(web, path, cookie=held)
        wanted = pages.FILE_HEADERS if held and path == "/static/handfast.css" else pages.HEADERS
        assert {name: answer.headers[name] for name in wanted} == wanted


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(web: Web, method: str) -> None:
    """The pages are read: no other method is known."""
    cookie = opened(web)
    for path in ("/machines", "/machines/web1.lan"):
        assert ask(web, path, method=method, cookie=cookie).status == 405


def test_what_is_missing_is_said_in_words(web: Web) -> None:
    """An unknown machine and an unknown page are 404, for a person to read."""
    cookie = opened(web)
    answer = ask(web, "/machines/nobody.lan", cookie=cookie)
    assert (answer.status, answer.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert "No machine &#39;nobody.lan&#39;" in answer.text
    assert ask(web, "/nothing", cookie=cookie).status == 404


def test_it_listens_on_loopback_alone(web: Web) -> None:
    """No other address of this machine leads to it."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1].split(":") for line in table if line.split()[3] == "0A"]
    mine = [address for address, held in listening if int(held, 16) == web.port]
    assert mine == [f"{int.from_bytes(socket.inet_aton(LOOPBACK), sys.byteorder):08X}"]


def test_a_directory_without_a_registrar_is_refused(tmp_path: Path) -> None:
    """Nothing is served and nothing printed where there is nothing to show."""
    with shown.command(tmp_path, "--no-browser") as web:
        out, err = web.process.communicate(timeout=30)
    assert (web.link, out, web.process.returncode) == ("", "", 3)
    assert "no registrar" in err


# --- other users of this machine ---


def as_nobody(web: Web, path: str, cookie: str = "") -> str:
    """Ask as another user, who has got hold of the link or the cookie; return the status and the page."""
    curl = find("curl")
    assert curl is not None
    done = subprocess.run(
        [curl, "-s", "-i", "-b", cookie, web.origin + path], user=NOBODY, group=NOBODY, check=True, capture_output=True
    )
    return done.stdout.decode()


@pytest.mark.root
@pytest.mark.peer("curl")
def test_a_cookie_is_worth_nothing_to_another_user(web: Web) -> None:
    """A browser shows its cookies for 127.0.0.1 to every port, so to other users' servers: they cannot use ours."""
    cookie = opened(web)
    assert as_nobody(web, "/machines", cookie).startswith("HTTP/1.1 403 ")
    assert ask(web, "/machines", cookie=cookie).status == 200


@pytest.mark.root
@pytest.mark.peer("curl")
def test_a_printed_link_is_for_whoever_opens_it(web: Web) -> None:
    """As after sudo: then it is that user's, and nobody else's, the starter's included, who is told."""
    taken = as_nobody(web, web.path)
    assert taken.startswith("HTTP/1.1 303 ")
    cookie = re.search(r"Set-Cookie: ([^;]*)", taken)
    assert cookie is not None
    assert as_nobody(web, "/machines", cookie[1]).startswith("HTTP/1.1 200 ")
    assert ask(web, "/machines", cookie=cookie[1]).status == 403
    assert f"by user {NOBODY}" in ask(web, web.path).text


@pytest.fixture
def desktop(tmp_path: Path) -> dict[str, str]:
    """A desktop whose browser is a file that remembers what it was to open, and talks on stdout as they do."""
    opener = tmp_path / "bin" / "xdg-open"
    opener.parent.mkdir()
    opener.write_text(f'#!/bin/sh\necho noise\necho "$1" > {tmp_path}/part\nmv {tmp_path}/part {tmp_path}/opened\n')
    opener.chmod(opener.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{opener.parent}:{os.environ['PATH']}", "DISPLAY": ":77", "OPENED": str(tmp_path / "opened")}


def test_the_desktop_is_asked_to_open_the_link(data: Path, desktop: dict[str, str]) -> None:
    """It gets the link itself; what it says stays off stdout, and the link works."""
    with shown.command(data, environment=desktop) as web:
        opened(web)  # an answer means that the browser was asked before
        code, out, err = web.end()
    assert (code, out) == (0, "")
    assert "opened in your browser" in err
    remembered = Path(desktop["OPENED"])
    while not remembered.exists():  # the opener is not ours to wait for; a test's time is bounded
        os.sched_yield()
    assert remembered.read_text() == web.link + "\n"


def test_without_a_desktop_the_link_is_for_a_person(data: Path, desktop: dict[str, str]) -> None:
    """On a server nothing is started, and the person is told to open it."""
    with shown.command(data, environment=desktop | {"DISPLAY": "", "WAYLAND_DISPLAY": ""}) as web:
        opened(web)
        assert "open the link" in web.end()[2]
    assert not Path(desktop["OPENED"]).exists()


@pytest.mark.root
@pytest.mark.peer("curl")
def test_a_link_in_a_command_line_is_for_its_own_user(data: Path, desktop: dict[str, str]) -> None:
    """Everybody sees it in `ps` while the browser starts: another user's program is refused, and it is not spent."""
    with shown.command(data, environment=desktop) as web:
        refused = as_nobody(web, web.path)
        assert refused.startswith("HTTP/1.1 403 ")
        assert "--no-browser" in refused
        opened(web)
