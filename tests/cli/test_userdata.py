"""userdata: what it prints, what it refuses, and that a refusal leaves nothing behind that anybody waits for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from handfast.adapters.clock import SystemClock
from handfast.authority import ceremony
from handfast.core.invitation import InvitationLine
from handfast.core.records import Invitation
from handfast.wiring import AUTHORITY, open_ledger
from tests.interop.hosts import Done, Host, local_host

ACCOUNT = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
THERE = ("--address", "registrar.lan:7443")


@pytest.fixture(scope="module")
def here() -> Iterator[Host]:
    """A machine with the directory of a registrar that never ran."""
    with local_host() as host:
        data = host.directory / "data"
        data.mkdir(0o700)
        ceremony.create(data / AUTHORITY, name="registrar", now=SystemClock().now())
        yield host


def run(here: Host, *arguments: str, env: dict[str, str] | None = None) -> Done:
    """Run the command, with whatever end."""
    return here.handfast("userdata", *arguments, "--data", "data", env=env, code=None)


def waiting(data: Path) -> list[Invitation]:
    """What the registrar waits for."""
    with open_ledger(data) as ledger:
        return ledger.invitations()


def test_by_default_it_joins(here: Host) -> None:
    """Stdout is the document and nothing else, with an invitation in it that the registrar knows."""
    done = run(here, "web1.lan", "--san", "10.0.0.7", "--for", "15m", *THERE)
    assert done.code == 0, done.stderr
    document = yaml.safe_load(done.stdout)
    line = InvitationLine.parse(document["write_files"][1]["content"])
    (record,) = (each for each in waiting(here.directory / "data") if each.key_id == line.key_id)
    assert (record.machine, record.method, record.names.texts()) == ("web1.lan", "invitation", ("10.0.0.7",))
    assert (record.expires_at - record.created_at).total_seconds() == 900
    assert "handfast1_" not in done.stderr


def test_phone_home_with_our_root_or_by_the_module(here: Host) -> None:
    """Without --url the document has our root, with it cloud-init's own module; the ledger has no token."""
    ours = yaml.safe_load(run(here, "web2", "--phone-home", *THERE).stdout)
    assert [each["path"].rpartition("/")[2] for each in ours["write_files"]] == ["script", "root.pem", "curl"]
    theirs = yaml.safe_load(run(here, "web2", "--phone-home", "--url", "https://registrar.example/").stdout)
    assert theirs["phone_home"]["url"].startswith("https://registrar.example/v1/ssh/phone-home/handfastphone1_")
    found = [each for each in waiting(here.directory / "data") if each.method == "phone-home"]
    assert [each.machine for each in found] == ["web2", "web2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("web3", "--bucket", "s3://keys", "--phone-home"), "exclude each other"),
        (("web3", "--url", "https://registrar.example"), "--url is for --phone-home"),
        (("web3", "--bucket", "s3://keys", *THERE), "--address is for"),
        (("web3", "--phone-home", "--url", "https://a", *THERE), "--address is for"),
        (("web3",), "address is not known yet"),
        (("web3", "--phone-home"), "address is not known yet"),
        (("web3", "--phone-home", "--url", "http://registrar.example"), "not a URL with https"),
        (("web3", "--phone-home", "--url", 'https://a"b'), "not a URL"),
        (("web3", "--bucket", "s3://keys", "--for", "8d"), "7 days at most"),
        (("web3", "--bucket", "keys"), "not a bucket"),
        (("web3", "--bucket", "s3://keys"), "no answer from 127.0.0.1:9"),
        (("web3\nruncmd", *THERE), "not a machine name"),
        (("registrar", "--phone-home", *THERE), "the registrar's own name"),
        (("web3", "--phone-home", "--for", "31d", *THERE), "lasts from"),
    ],
)
def test_what_is_refused(here: Host, arguments: tuple[str, ...], words: str) -> None:
    """It is said why, nothing is printed, and no invitation is left that nobody has."""
    before = waiting(here.directory / "data")
    done = run(here, *arguments, env=ACCOUNT)
    assert done.code == {"no answer from 127.0.0.1:9": 4, "the registrar's own name": 3}.get(words, 2)
    assert words in done.stderr
    assert done.stdout == ""
    assert waiting(here.directory / "data") == before


def test_without_an_account(here: Host) -> None:
    """A bucket needs one, from the environment."""
    done = run(here, "web4", "--bucket", "s3://keys")
    assert (done.code, done.stdout) == (2, "")
    assert "no account of an object store in the environment" in done.stderr
