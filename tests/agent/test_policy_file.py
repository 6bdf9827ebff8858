"""Who may write an agent's policy, and when it counts: at the start, and after SIGHUP."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handfast.agent import policy
from handfast.core import instancedata
from handfast.errors import ConfigError, Fault, HandfastError, NotFound, TooMuch, Unsafe
from tests.agent.agents import POLICY, Running, Talk, controller, managed
from tests.agent.test_agent import Controlling, given
from tests.interop.hosts import Host

GOOD = '[service.web]\nkind = "mock"\noperations = ["status"]\n'
NOBODY = 65534
PLACES = [
    "https://a/../", "https://a/./x/", "https://a/x/../y/", "https://a//", "https://a/x\\n/", "https://a\\n/",
    "https://a/ /", "https://a/\\t/", "https://@a/", "https://me@a/", "https://a/%2e%2e/", "https://a/x;y/",
    "https://a/x?/", "https://a/x#/", "https://a/x\\\\/", "https://a/\u00e9/", "https://\u00e9/", "https:///x/",
]  # fmt: skip
STAYS = "the policy before this one stays"


def good(directory: Path) -> Path:
    """Put a good one in a good place."""
    made = directory / "etc/policy.toml"
    made.parent.mkdir()
    made.parent.chmod(0o755)
    made.write_text(GOOD)
    made.chmod(0o644)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good one."""
    return good(tmp_path)


def linked(path: Path) -> None:
    """A link to a good one, which is root's as well."""
    path.rename(path.with_name("other.toml"))
    path.symlink_to("other.toml")


def led(path: Path) -> None:
    """The directory is a link."""
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.symlink_to("elsewhere")


def directory(path: Path) -> None:
    """A directory has its name."""
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    """Nobody writes to it: whoever opened it would wait."""
    path.unlink()
    os.mkfifo(path)


def long(path: Path) -> None:
    """Ten megabytes, all of it a policy."""
    path.write_bytes(GOOD.encode() + b"#" * 10_000_000)


def deep(path: Path) -> None:
    """Tables in tables until the reader's stack is full."""
    path.write_bytes(b"a = " + b"[" * 100_000)


def below_a_file(path: Path) -> None:
    """What should be its directory is a file."""
    path.unlink()
    path.parent.rmdir()
    path.parent.touch()


def gone(path: Path) -> None:
    """There is none."""
    path.unlink()


ATTACKS: dict[str, tuple[Callable[[Path], object], type[HandfastError], str, int]] = {
    "others may write it": (lambda path: path.chmod(0o646), Unsafe, "policy.toml' can be written by others", 3),
    "a group may write it": (lambda path: path.chmod(0o664), Unsafe, "policy.toml' can be written by others", 3),
    "others may write its directory": (lambda path: path.parent.chmod(0o757), Unsafe,
                                       "etc' can be written by others (mode 0757)", 3),
    "a link": (linked, Unsafe, "policy.toml' is a link", 3),
    "its directory is a link": (led, Unsafe, "etc' is a link", 3),
    "a directory": (directory, Unsafe, "policy.toml' is not a regular file", 3),
    "a pipe": (pipe, Unsafe, "policy.toml' is not a regular file", 3),
    "too long": (long, TooMuch, "policy.toml' is longer than 1048576 bytes", 3),
    "too deep": (deep, ConfigError, "is no policy: ", 2),
    "no policy": (lambda path: path.write_text("= nonsense"), ConfigError, "is no policy: ", 2),
    "gone": (gone, NotFound, "no file '", 3),
    "its directory is a file": (below_a_file, Fault, "not a directory", 1),
}  # fmt: skip
OWNED = {
    "another's": (lambda path: os.chown(path, NOBODY, -1), Unsafe, f"policy.toml' belongs to user id {NOBODY}", 3),
    "in another's directory": (lambda path: os.chown(path.parent, NOBODY, -1), Unsafe,
                               f"etc' belongs to user id {NOBODY}", 3),
}  # fmt: skip
EACH = [pytest.param(*attack, id=name) for name, attack in ATTACKS.items()]
EACH += [pytest.param(*attack, id=name, marks=pytest.mark.root) for name, attack in OWNED.items()]


def test_a_good_one_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its full path, or from where we are; anybody may read it, and lie in a directory as /tmp is."""
    assert list(policy.load(path).services) == ["web"]
    path.parent.chmod(0o1777)
    monkeypatch.chdir(path.parent)
    assert list(policy.load(Path("policy.toml")).services) == ["web"]


def test_no_more_services_and_files_than_are_asked_for() -> None:
    """What a controller could not be told, or could not say, is a mistake at the start."""
    one = '[service.s{}]\nkind = "mock"\noperations = ["status"]\n'
    assert len(policy.parse("".join(map(one.format, range(1000))).encode(), source="p").services) == 1000
    with pytest.raises(ConfigError, match="'p' has 1001 services") as refused:
        policy.parse("".join(map(one.format, range(1001))).encode(), source="p")
    assert refused.value.hint == "1000 are the most"
    web = '[service.web]\nkind = "mock"\noperations = ["configure"]\n'
    file = '[service.web.files.f{0}]\npath = "/etc/f{0}"\n'
    given = web + "".join(map(file.format, range(64)))
    assert len(policy.parse(given.encode(), source="p").services["web"].files) == 64
    with pytest.raises(ConfigError, match="'p', service 'web': 65 files") as refused:
        policy.parse((given + file.format(64)).encode(), source="p")
    assert refused.value.hint == "64 are the most of one service"


@pytest.mark.parametrize(("attack", "error", "message", "code"), EACH)
def test_a_bad_one_is_refused(
    attack: Callable[[Path], object], error: type[HandfastError], message: str, code: int, path: Path
) -> None:
    """Whatever else could have written it, or have another be read in its place; and what is none."""
    attack(path)
    with pytest.raises(error) as refused:
        policy.load(path)
    assert type(refused.value) is error
    assert message in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pull = ['https://[::1/']", "pull = 'https://[::1/'"),
        ("pull = ['https://a:65536/']", "pull = 'https://a:65536/'"),
        *((f'pull = ["{text}"]', "service 'web': pull = 'https://") for text in PLACES),
        (f"artifact_limit = {'9' * 5000}", "is no policy: Exceeds the limit"),
        ("a" + ".a" * 100_000 + " = 1", "is no policy: over 200 dots in line 4"),
        ("[service" + ".a" * 100_000 + "]", "is no policy: over 200 dots in line 4"),
        ('query = ["/bin/a\\u0000b"]', "Expected `str` matching regex"),
    ],
)
def test_what_the_parts_cannot_read(text: str, message: str) -> None:
    """It is a mistake in the policy, with its place, and no failure of ours, nor one at the first request."""
    with pytest.raises(ConfigError, match=r".") as refused:
        policy.parse(f"{GOOD}{text}\n".encode(), source="policy.toml")
    assert message in refused.value.message


@pytest.mark.parametrize("text", ["https://[::1]/", "https://a_b.example:8443/x/~y/v1.2/", "https://a/x=1,y/"])
def test_places_to_fetch_from(text: str) -> None:
    """A host, and folders that every server reads alike."""
    read = policy.parse(f"{GOOD}pull = ['{text}']\n".encode(), source="policy.toml")
    assert read.services["web"].pull == (text,)


def test_the_artifacts_together() -> None:
    """Four of the largest, unless the policy says how much."""
    text = GOOD.replace("status", "artifacts") + 'artifacts = "/srv/www"\n'
    sizes = []
    for more in ("", "artifact_limit = 10\n", "artifact_limit = 10\nartifacts_total = 30\n"):
        store = policy.parse((text + more).encode(), source="policy.toml").services["web"].artifacts
        assert store is not None
        sizes.append((store.most, store.total))
    assert sizes == [(4 * 1024**3, 16 * 1024**3), (10, 40), (10, 30)]


def test_the_examples() -> None:
    """Those of the protocol's page are policies, and none of them gives a controller root by way of a service."""
    page = (Path(__file__).parents[2] / "docs/protocols/agent.md").read_text()
    found = [part.split("```")[0] for part in page.split("```toml\n")[1:]]
    services = [each for text in found for each in policy.parse(text.encode(), source="page").services.values()]
    given = {each.name: each.files for each in services if policy.Operation.CONFIGURE in each.operations}
    assert list(given) == ["shop"]
    assert [file.check[:3] for file in given["shop"].values()] == [("runuser", "-u", "shop")]


def test_none_at_its_default_place_gives_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So an agent may be started before its policy is written; one that is there has to be good."""
    monkeypatch.setattr(policy, "DEFAULT", path)
    assert list(policy.load(path).services) == ["web"]
    path.chmod(0o666)
    with pytest.raises(Unsafe):
        policy.load(path)
    path.unlink()
    assert policy.load(path) == policy.Policy()
    path.parent.rmdir()
    assert policy.load(path) == policy.Policy()


# --- a process ---


@pytest.fixture(scope="module")
def controlling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlling]:
    """A controller, of which only the user-data is wanted."""
    with controller(tmp_path_factory.mktemp("controller")) as made:
        yield made


@pytest.fixture(scope="module")
def user_data(controlling: Controlling) -> str:
    """What an agent is started with."""
    return instancedata.written(given(controlling, "web1"))


@pytest.mark.parametrize(("attack", "error", "message", "code"), EACH)
def test_the_agent_does_not_start(
    attack: Callable[[Path], object],
    error: type[HandfastError],
    message: str,
    code: int,
    path: Path,
    tmp_path: Path,
    user_data: str,
) -> None:
    """It says why, with the documented exit code, before it has made a key or listens."""
    attack(path)
    host = Host(tmp_path / "host")
    flags = ("--user-data", host.put("user-data", user_data), "--state", tmp_path / "state", "--policy", path)
    if path.is_dir():  # click's own, and a mistake of whoever typed it
        code, message = 2, "is a directory"
    refused = host.handfast("agent", "run", *flags, "--listen", "127.0.0.1:0", code=code)
    assert message in refused.stderr
    assert "handfast: hint: " in refused.stderr
    assert refused.stdout == ""
    assert not (tmp_path / "state").exists()


def reloaded(agent: Running, expected: str) -> str:
    """Send SIGHUP, and return what it says of it."""
    agent.process.kill_with(signal.SIGHUP)
    return agent.process.expect(expected)


@pytest.fixture(scope="module")
def loaded(controlling: Controlling, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Talk]]:
    """An agent that has a good one, and who talks to it."""
    host = Host(tmp_path_factory.mktemp("loaded") / "agent")
    agent = Running(controlling, given(controlling, "loaded"), host, good(host.directory))
    try:
        agent.start()
        agent.introduce()
        yield agent, agent.talk()
    finally:
        agent.talks.close()
        host.close()


@pytest.mark.parametrize(("attack", "error", "message", "code"), EACH)
def test_a_bad_one_leaves_the_one_before(
    attack: Callable[[Path], object],
    error: type[HandfastError],
    message: str,
    code: int,
    loaded: tuple[Running, Talk],
) -> None:
    """Told to read it again the agent says why it does not, and goes on with what it has."""
    agent, talk = loaded
    agent.policy.parent.rename(agent.policy.parents[1] / os.urandom(8).hex())
    attack(good(agent.policy.parents[1]))
    said = reloaded(agent, STAYS)
    assert message in said
    assert f'"code":"{error.code}"' in said
    assert talk.ask("GET", "/v1/services/web").json() == {"state": "stopped"}


def test_what_it_takes_away_is_gone_at_once(tmp_path: Path) -> None:
    """A policy that gives less counts from the next request on, over connections that are open, in both APIs."""
    with managed(tmp_path) as met:
        assert met.talk.ask("POST", "/v1/services/web/start").json() == {"state": "started"}
        text = POLICY.format(tmp_path, "")
        met.agent.policy.write_text(text.replace('"start", "stop", ', ""))
        reloaded(met.agent, "reloaded")
        refused = met.talk.ask("POST", "/v1/services/web/stop")
        assert (refused.status, refused.json()["code"]) == (403, "not-authorized")
        assert met.talk.ask("POST", "/services/web/stop").status == 500
        assert met.talk.ask("GET", "/v1/services/web").status == 200
        met.agent.policy.write_text("")
        reloaded(met.agent, "no policy")
        assert met.talk.ask("GET", "/v1/services").json() == {"services": []}
        for path in ("/v1/services/web", "/services/web/status", "/v1/services/web/logs"):
            assert met.talk.ask("GET", path).status == 404


def test_what_is_under_way_is_remembered(tmp_path: Path) -> None:
    """A service that is left out and comes back while it is changed has no second change beside the first."""
    with managed(tmp_path) as met:
        slow = POLICY.format(tmp_path, "delay = 30")
        met.agent.policy.write_text(slow)
        reloaded(met.agent, "reloaded")
        first, head = met.agent.talk(), b"POST /v1/services/web/start HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        first.tls.sendall(head)
        while met.talk.ask("GET", "/v1/services/web").json() != {"state": "starting"}:
            pass
        for text in ("", slow):
            met.agent.policy.write_text(text)
            reloaded(met.agent, "reloaded")
        second = met.talk.ask("POST", "/v1/services/web/start")
        assert (second.status, second.json()["code"]) == (409, "conflict")
        met.agent.process.kill()


def test_one_that_appears_later(tmp_path: Path, controlling: Controlling) -> None:
    """An agent that was started without one takes it when it is there, and has none when it is gone."""
    host = Host(tmp_path / "agent")
    agent = Running(controlling, given(controlling, "later"), host, host.directory / "policy.toml", default=True)
    try:
        agent.start()
        agent.introduce()
        talk = agent.talk()

        def services() -> list[str]:
            return [each["name"] for each in talk.ask("GET", "/v1/services").json()["services"]]

        assert services() == []
        agent.policy.write_text(GOOD)
        agent.policy.chmod(0o666)
        assert "can be written by others" in reloaded(agent, STAYS)
        assert services() == []
        agent.policy.chmod(0o644)
        reloaded(agent, "reloaded")
        assert services() == ["web"]
        agent.policy.unlink()
        reloaded(agent, "reloaded")
        assert services() == []
    finally:
        agent.talks.close()
        host.close()
