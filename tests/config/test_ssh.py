"""[ssh.certificates] and [[ssh.users]]: typed, each mistake with its place, and nothing that widens by being empty."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from handfast.config import settings
from handfast.config.reader import Reader
from handfast.core.hosts import How
from handfast.core.names import network
from handfast.core.sshoptions import Critical, Permit
from handfast.errors import ConfigError
from handfast.policy.rules import CertificateRules, HostRules, Own, UserRule

WHOLE = """
[ssh]
evidence = ["invitation", "ssh-hostkey", "x5c"]

[ssh.certificates]
require = [["invitation", "ssh-hostkey"], ["x5c"]]
approve = ["ssh-hostkey"]
lifetime = "3d"
user_lifetime = "8h"
patterns = ["*.example.org", "!test.example.org", "[*.example.org]:2222", "10.0.0.*"]

[[ssh.users]]
origins = ["operator"]
principals = ["root", "deploy"]
permits = ["permit-pty", "permit-port-forwarding"]
source_address = ["10.0.0.0/8", "fd00::/8"]
verify_required = true
lifetime = "1h"

[[ssh.users]]
origins = ["oidc:example", "oidc:other"]
names = ["4711"]
emails = ["*@Example.org", "ann@other.net"]
groups = ["Operations"]
own = "local-part"
force_command = "/usr/bin/rrsync /srv"
permits = []

[[oidc]]
name = "example"
issuer = "https://id.example.org"
client_id = "handfast"

[[oidc]]
name = "other"
issuer = "https://id.other.net"
client_id = "handfast"
"""


def load(tmp_path: Path, text: str) -> HostRules:
    """Read a file with this text."""
    (tmp_path / "config.toml").write_text(text)
    return settings.load(tmp_path / "config.toml").rules.ssh


def mistakes(tmp_path: Path, text: str) -> str:
    """What is said of it."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return caught.value.message.partition("has mistakes: ")[2]


def test_everything_can_be_set(tmp_path: Path) -> None:
    """Each key arrives where it belongs, as what it is."""
    rules = load(tmp_path, WHOLE)
    both = frozenset({How.INVITATION, How.SSH_HOSTKEY})
    assert rules.evidence == both | {How.X5C}
    assert rules.certificates == CertificateRules(
        require=(both, frozenset({How.X5C})),
        approve=frozenset({How.SSH_HOSTKEY}),
        lifetime=timedelta(days=3),
        user_lifetime=timedelta(hours=8),
        patterns=("*.example.org", "!test.example.org", "[*.example.org]:2222", "10.0.0.*"),
        users=(
            UserRule(
                origins=frozenset({"operator"}),
                principals=("root", "deploy"),
                permits=frozenset({Permit.PTY, Permit.PORT_FORWARDING}),
                critical=Critical(None, (network("10.0.0.0/8"), network("fd00::/8")), True),
                lifetime=timedelta(hours=1),
            ),
            UserRule(
                origins=frozenset({"oidc:example", "oidc:other"}),
                names=frozenset({"4711"}),
                emails=frozenset({"*@example.org", "ann@other.net"}),
                groups=frozenset({"Operations"}),
                own=Own.LOCAL_PART,
                critical=Critical("/usr/bin/rrsync /srv"),
                permits=frozenset(),
            ),
        ),
    )


@pytest.mark.parametrize("text", ["", "[ssh]\n", "[ssh.certificates]\n", '[ssh]\naccept = "challenged"\n'])
def test_what_is_not_said_is_as_by_default(tmp_path: Path, text: str) -> None:
    """An empty table is no other than none."""
    assert load(tmp_path, text) == HostRules()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('lifetimes = "1d"', "ssh.certificates.lifetimes: unknown"),
        ("lifetime = 7", "ssh.certificates.lifetime: 7 is not of the right kind"),
        ('lifetime = "7"', "ssh.certificates.lifetime: not a duration: '7'"),
        ('lifetime = "59s"', "ssh.certificates.lifetime: '59s' is not between 1m and 366d"),
        ('user_lifetime = "367d"', "ssh.certificates.user_lifetime: '367d' is not between 1m and 366d"),
        ('require = ["invitation"]', "ssh.certificates.require: ['invitation'] is not of the right kind"),
        ('require = "invitation"', "ssh.certificates.require: 'invitation' is not of the right kind"),
        ("require = [[]]", "ssh.certificates.require: an alternative without any evidence: it would let every"),
        ('require = [["invited"]]', "ssh.certificates.require: 'invited' is none of invitation, renewal"),
        ('approve = ["anything"]', "ssh.certificates.approve: 'anything' is none of invitation"),
        (
            'require = [["scan"]]',
            "ssh.certificates.require: 'scan' is not in [ssh] evidence: no host key is ever known so",
        ),
        (
            'require = [["x5c"], ["invitation", "ssh-hostkey"]]',
            "ssh.certificates.require: 'ssh-hostkey' is not in [ssh]",
        ),
        ('patterns = ["*.example.org,*"]', "ssh.certificates.patterns: not for a known_hosts file"),
        ('patterns = ["*.example.org *"]', "ssh.certificates.patterns: not for a known_hosts file"),
        ('patterns = "*"', "ssh.certificates.patterns: '*' is not of the right kind"),
    ],
)
def test_a_mistake_about_certificates(tmp_path: Path, setting: str, words: str) -> None:
    """It is named with its whole key."""
    assert mistakes(tmp_path, f"[ssh.certificates]\n{setting}\n").startswith(words)


def test_what_is_required_can_become_known(tmp_path: Path) -> None:
    """What nothing can fulfil is named, also where the evidence was narrowed; what is on may be asked for."""
    required = '[ssh.certificates]\nrequire = [["invitation"]]\n'
    assert mistakes(tmp_path, f'[ssh]\nevidence = ["x5c"]\n{required}') == (
        "ssh.certificates.require: 'invitation' is not in [ssh] evidence: no host key is ever known so"
    )
    assert load(tmp_path, required).certificates.require == (frozenset({How.INVITATION}),)


RULE = '[[ssh.users]]\norigins = ["operator"]\nprincipals = ["ann"]\n'


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ('principals = ["ann"]', "ssh.users[2].origins: is missing: say whom it is for"),
        ('origins = ["operator"]', "ssh.users[2].principals: is missing: say who they are to be, or 'own'"),
        ('origins = []\nown = "name"', "ssh.users[2].origins: an empty list: leave it out, or say who"),
        ('origins = ["*"]\nown = "name"', "ssh.users[2].origins: '*' is neither 'operator' nor 'oidc:<provider>'"),
        ('origins = ["oidc:"]\nown = "name"', "ssh.users[2].origins: 'oidc:' is neither"),
        ('origins = ["operator"]\nown = "mine"', "ssh.users[2].own: 'mine' is none of none, name, local-part"),
        (
            'origins = ["operator"]\nown = "local-part"',
            "ssh.users[2].own: 'local-part' without emails: root@ any domain",
        ),
    ],
)
def test_a_rule_says_whom_it_is_for_and_as_whom(tmp_path: Path, rule: str, words: str) -> None:
    """Nobody is everybody by being left out."""
    assert mistakes(tmp_path, f"{RULE}[[ssh.users]]\n{rule}\n").startswith(words)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('colour = "red"', "colour: unknown"),
        ("names = []", "names: an empty list: leave it out, or say who"),
        ('names = [" "]', "names: not a name: ' '"),
        ('groups = ["a\\nb"]', "groups: not a name: 'a\\nb'"),
        ("groups = [1]", "groups: [1] is not of the right kind"),
        ('emails = ["example.org"]', "emails: neither an e-mail address nor '*@' with a domain: 'example.org'"),
        ('emails = ["a*@example.org"]', "emails: neither an e-mail address nor '*@' with a domain"),
        ('emails = ["*@*"]', "emails: neither an e-mail address nor '*@' with a domain"),
        ('emails = ["*@"]', "emails: neither an e-mail address nor '*@' with a domain"),
        ('emails = ["a@b@c"]', "emails: neither an e-mail address nor '*@' with a domain"),
        ('force_command = ""', "force_command: not a command in one line: ''"),
        ('force_command = "a\\nb"', "force_command: not a command in one line: 'a\\nb'"),
        ("source_address = []", "source_address: 0 networks, and not 1 to 64"),
        ('source_address = ["10.0.0.1/8"]', "source_address: not a network: '10.0.0.1/8'"),
        ("source_address = [5]", "source_address: [5] is not of the right kind"),
        ('verify_required = "yes"', "verify_required: 'yes' is not of the right kind"),
        ('permits = ["pty"]', "permits: 'pty' is none of permit-agent-forwarding"),
        ('lifetime = "1s"', "lifetime: '1s' is not between 1m and 366d"),
    ],
)
def test_a_mistake_in_a_rule(tmp_path: Path, setting: str, words: str) -> None:
    """It is named with the rule's number."""
    assert mistakes(tmp_path, f"{RULE}{setting}\n").startswith(f"ssh.users[1].{words}")


@pytest.mark.parametrize("principal", ["*", "a,b", "ann bob", "!ann", "", "-ann"])
def test_what_is_no_user(tmp_path: Path, principal: str) -> None:
    """No pattern, no list, nothing that sshd reads as more than one word."""
    text = f'[[ssh.users]]\norigins = ["operator"]\nprincipals = ["{principal}"]\n'
    assert mistakes(tmp_path, text) == f"ssh.users[1].principals: not a user's principal: {principal!r}"


def test_a_rule_may_be_for_refusing(tmp_path: Path) -> None:
    """Whoever says that somebody is nobody gets that."""
    (rule,) = load(
        tmp_path, '[[ssh.users]]\norigins = ["operator"]\nnames = ["eve"]\nprincipals = []\n'
    ).certificates.users
    assert (rule.principals, rule.own, rule.permits) == ((), Own.NONE, frozenset({Permit.PTY}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[ssh]\nusers = "all"\n', "ssh.users: has to be tables: [[ssh.users]]"),
        ("[ssh]\nusers = [1]\n", "ssh.users: has to be tables: [[ssh.users]]"),
        ("[ssh]\ncertificates = 1\n", "ssh.certificates: has to be a table"),
        ("[[ssh.certificates]]\nrequire = []\n", "ssh.certificates: has to be a table"),
        (RULE * 257, "ssh.users: 257 rules, at most 256"),
    ],
)
def test_tables_have_their_form(tmp_path: Path, text: str, words: str) -> None:
    """What is not one is named."""
    assert mistakes(tmp_path, text) == words


def test_every_mistake_at_once(tmp_path: Path) -> None:
    """Of every table, in one message."""
    text = f'top = 1\n[ssh]\naccept = "sure"\n[ssh.certificates]\nlifetime = 1\n{RULE}colour = 1\n[[ssh.users]]\n'
    assert mistakes(tmp_path, text).split("; ") == [
        "top: belongs in a table",
        "ssh.accept: not a grade: 'sure'",
        *("one of seen, challenged, reported, proved",),
        "ssh.certificates.lifetime: 1 is not of the right kind",
        "ssh.users[1].colour: unknown",
        "ssh.users[2].origins: is missing: say whom it is for",
        "ssh.users[2].principals: is missing: say who they are to be, or 'own'",
    ]


def test_a_reader_says_which_keys_are_left() -> None:
    """A list of tables is a key of the file like any other; what nobody asked for is unknown."""
    reader = Reader.of_tables({"list": [{"a": 1}, {}], "empty": [], "methods": {"x": 1, "y": 2}})
    first, second = reader.tables("list")
    assert (first.take("a", int, 0), second.take("a", int, 7)) == (1, 7)
    assert sorted(reader.names("methods")) == ["x", "y"]
    assert reader.mistakes() == ["empty: belongs in a table", "methods.x: unknown", "methods.y: unknown"]
    assert reader.tables("nothing") == []
