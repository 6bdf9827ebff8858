"""The tables ``[ssh]``, ``[ssh.certificates]`` and ``[[ssh.users]]`` of ``config.toml``: rules, and no templates."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from handfast.config.reader import Reader, duration, each, one_of, yes_or_no
from handfast.core import knownhosts, sshkeys
from handfast.core.hosts import Grade, How
from handfast.core.names import network
from handfast.core.sshleaf import check_user
from handfast.core.sshoptions import MAX_COMMAND, MAX_SOURCES, Critical, Permit
from handfast.errors import Malformed
from handfast.policy.rules import SHORTEST, CertificateRules, HostRules, Own, Readers, UserRule

LONGEST = timedelta(days=366)  # of an SSH certificate: who steals the key has it as long
MOST_USERS = 256  # rules
_ANYBODYS = sshkeys.parse("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")


def host_rules(reader: Reader) -> HostRules:
    """Read what counts for SSH host keys, and what SSH certificates hold."""
    default = HostRules()
    evidence = reader.take("ssh.evidence", _ways, default.evidence)
    table = reader.table("ssh.certificates")
    certificates = _certificates(table, _users(reader))
    if closed := frozenset[How]().union(*certificates.require) - evidence:
        table.mistake("require", f"{min(closed).value!r} is not in [ssh] evidence: no host key is ever known so")
    return HostRules(
        evidence=evidence,
        accept=reader.take("ssh.accept", _grade, default.accept),
        readers=reader.take("ssh.readers", one_of(Readers), default.readers),
        certificates=certificates,
    )


def _certificates(table: Reader, users: tuple[UserRule, ...]) -> CertificateRules:
    default = CertificateRules()
    return CertificateRules(
        require=table.take("require", _alternatives, default.require),
        approve=table.take("approve", _ways, default.approve),
        lifetime=table.take("lifetime", _life, default.lifetime),
        user_lifetime=table.take("user_lifetime", _life, default.user_lifetime),
        users=users,
        patterns=table.take("patterns", each(_pattern), default.patterns),
    )


def _users(reader: Reader) -> tuple[UserRule, ...]:
    tables = reader.tables("ssh.users")
    if len(tables) > MOST_USERS:
        reader.mistake("ssh.users", f"{len(tables)} rules, at most {MOST_USERS}")
    return tuple(map(_user, tables))


def _user(table: Reader) -> UserRule:
    """Read a rule. What it leaves out is nobody, nothing, or no limit; so whom and what it is for has to be said."""
    for key, what in (("origins", "say whom it is for"), ("principals", "say who they are to be, or 'own'")):
        if not table.has(key) and not (key == "principals" and table.has("own")):
            table.mistake(key, f"is missing: {what}")
    default = UserRule(origins=frozenset())
    rule = UserRule(
        origins=frozenset(table.take("origins", _some(_origin), ())),
        names=frozenset(table.take("names", _some(_text), ())),
        emails=frozenset(table.take("emails", _some(_email), ())),
        groups=frozenset(table.take("groups", _some(_text), ())),
        principals=table.take("principals", each(check_user), default.principals),
        own=table.take("own", one_of(Own), default.own),
        critical=Critical(
            table.take("force_command", _command, None),
            table.take("source_address", _networks, None),
            table.take("verify_required", yes_or_no, False),
        ),
        permits=frozenset(table.take("permits", each(one_of(Permit)), default.permits)),
        lifetime=table.take("lifetime", _life, None),
    )
    if rule.own is Own.LOCAL_PART and not rule.emails:
        table.mistake("own", "'local-part' without emails: root@ any domain of the world would be root")
    return rule


def _ways(values: Any) -> frozenset[How]:
    return frozenset(each(one_of(How))(values))


def _alternatives(values: Any) -> tuple[frozenset[How], ...]:
    if not isinstance(values, list):
        raise TypeError(values)
    found = tuple(map(_ways, values))
    if not all(found):
        raise Malformed("an alternative without any evidence: it would let every host key pass")
    return found


def _grade(value: str) -> Grade:
    grades = {grade.name.lower(): grade for grade in Grade}
    if value not in grades:
        raise Malformed(f"not a grade: {value!r}; one of {', '.join(grades)}")
    return grades[value]


def _life(text: str) -> timedelta:
    life = duration(text)
    if not SHORTEST <= life <= LONGEST:
        raise Malformed(f"{text!r} is not between 1m and {LONGEST.days}d")
    return life


def _pattern(text: str) -> str:
    knownhosts.authority_line((text,), _ANYBODYS)  # it judges
    return text


def _some(parse: Any) -> Any:
    """Return what reads a list that has something in it: an empty one reads as nobody, and would mean everybody."""
    read = each(parse)

    def parse_some(values: Any) -> tuple[Any, ...]:
        found: tuple[Any, ...] = read(values)
        if not found:
            raise Malformed("an empty list: leave it out, or say who")
        return found

    return parse_some


def _origin(text: str) -> str:
    kind, colon, provider = text.partition(":")
    if text != "operator" and not (kind == "oidc" and colon and provider):
        raise Malformed(f"{text!r} is neither 'operator' nor 'oidc:<provider>'")
    return text


def _text(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise Malformed(f"not a name: {text[:80]!r}")
    return text


def _email(text: str) -> str:
    local, _, domain = text.partition("@")
    if not local or not domain or "@" in domain or ("*" in text and (local != "*" or "*" in domain)):
        raise Malformed(f"neither an e-mail address nor '*@' with a domain: {text[:80]!r}")
    return _text(text).lower()


def _command(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > MAX_COMMAND:
        raise Malformed(f"not a command in one line: {text[:80]!r}")
    return text


def _networks(values: Any) -> Any:
    found = each(network)(values)
    if not 0 < len(found) <= MAX_SOURCES:
        raise Malformed(f"{len(found)} networks, and not 1 to {MAX_SOURCES}")
    return found
