"""
Host expressions of ``standalone`` and of alternative names: ``node[01-10].lan(2)``.

    [01-10]    one name per number, padded as the first one is; [10-01] the other way round
    [3]        the same as [1-3]
    a[1-2]b[1-2]   every combination, the first bracket slowest
    (2)        two instances on one host, (2-3) those with the numbers 2 and 3; at the end only

An instance's number decides its directory. Its rank decides its ports: the number, or with a global sequence its
place in the sorted sequence, so that no two instances of a cluster share a port whichever hosts they are on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from handfast.errors import UsageError

MAX_HOSTS = 1000  # each costs an RSA key; more is a typo such as [1-10000]
MAX_ADDED_PORT = 65535 - 11443  # the highest of the base ports, of the cluster protocol
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_BRACKET = re.compile(r"\[([^\]]*)\]")
_HINT = "write ranges as node[01-10].lan and instances as node.lan(2)"


@dataclass(frozen=True, slots=True, order=True)
class Instance:
    """One NiFi of possibly several on a host; ``number`` counts from 1 there."""

    hostname: str
    number: int = 1

    @property
    def directory(self) -> str:
        """The name of its output directory: the host's, with ``_2`` for the second instance."""
        return self.hostname if self.number == 1 else f"{self.hostname}_{self.number}"


@dataclass(frozen=True, slots=True)
class InstanceDefinition:
    """An instance, and the ``rank`` (from 1) that is added to the base ports."""

    instance: Instance
    rank: int


@dataclass(frozen=True, slots=True)
class Pairing:
    """The alternative names of each instance in turn, and what the user should be told about them (or nothing)."""

    names: tuple[tuple[str, ...], ...]
    remark: str = ""


def expand(values: Iterable[str]) -> tuple[Instance, ...]:
    """
    Return the instances of option values, each of them a list of expressions with commas between them.

    Duplicates are kept. *Not* checked: that what comes out are host names.

    :raises UsageError: an expression that is none, an empty one, or more than ``MAX_HOSTS`` instances in all.
    """
    found: list[Instance] = []
    for value in values:
        for expression in map(str.strip, value.rstrip(", ").split(",")):
            found += _expand(expression, MAX_HOSTS - len(found))
    return tuple(found)


def instances(hostnames: Iterable[str], global_sequence: Iterable[str] = ()) -> tuple[InstanceDefinition, ...]:
    """
    Return what ``--hostnames`` asks for, ranked by ``--globalPortSequence`` if there is one.

    :raises UsageError: as ``expand``; two instances with one directory; an instance that is not in the sequence;
        a rank for which there is no port.
    """
    wanted = expand(hostnames)
    directories = [instance.directory for instance in wanted]
    for directory in directories:
        if directories.count(directory) > 1:
            raise UsageError(f"{directory!r} is asked for twice", hint="name each host and each instance once")
    sequence = sorted(expand(global_sequence))
    # An instance that is in the sequence twice has the later rank, as in the toolkit: ports must not move.
    ranks = {instance: rank for rank, instance in enumerate(sequence, start=1)}
    if missing := [instance.directory for instance in wanted if sequence and instance not in ranks]:
        raise UsageError(
            f"not in the global port sequence: {', '.join(map(repr, missing[:8]))}",
            hint="give the sequence of all hosts, the same one in every run",
        )
    definitions = tuple(InstanceDefinition(instance, ranks.get(instance, instance.number)) for instance in wanted)
    for definition in definitions:
        if not 0 <= definition.rank - 1 <= MAX_ADDED_PORT:
            raise UsageError(
                f"there are no ports for instance {definition.rank} of {definition.instance.hostname!r}",
                hint=f"number instances from 1 to {MAX_ADDED_PORT + 1}",
            )
    return definitions


def alternative_names(values: Iterable[str]) -> tuple[str, ...]:
    """
    Return the names of ``--subjectAlternativeNames``: expressions as for hosts, ``name(2)`` being ``name,name``.

    :raises UsageError: as ``expand``.
    """
    return tuple(instance.hostname for instance in expand(values))


def pair_names(count: int, names: tuple[str, ...]) -> Pairing:
    """Share ``names`` among ``count`` instances: one goes to all, as many as instances one to each, else all to all."""
    if len(names) == count:
        return Pairing(tuple((name,) for name in names))
    remark = (
        f"{len(names)} alternative names for {count} hosts: every host gets all of them"
        if count > 1 and len(names) > 1
        else ""
    )
    return Pairing((names,) * count, remark)


def _expand(expression: str, limit: int) -> list[Instance]:
    """Return the instances of one expression, at most ``limit`` of them."""
    name, opened, number = expression.partition("(")
    numbers = [1]
    if opened:
        if not number.endswith(")"):
            raise UsageError(f"'(…)' does not end {expression[:80]!r}", hint=_HINT)
        numbers = [int(text) for text in _numbers(number[:-1], expression)]
    parts = _BRACKET.split(name)  # text, range, text, range, …, text
    literals = parts[::2]
    if not expression or not name or any(character in "[])" for text in literals for character in text):
        raise UsageError(f"not a host expression: {expression[:80]!r}", hint=_HINT)
    ranges = [_numbers(text, expression) for text in parts[1::2]]
    total = len(numbers)
    for numbered in ranges:
        total *= len(numbered)
    if total > limit:
        raise UsageError(
            f"{expression[:80]!r} makes more than {MAX_HOSTS} hosts in all", hint="ask for fewer hosts in one run"
        )
    hostnames = (
        literals[0] + "".join(text + literal for text, literal in zip(chosen, literals[1:], strict=True))
        for chosen in product(*ranges)
    )
    return [Instance(hostname, number) for hostname in hostnames for number in numbers]


def _numbers(text: str, expression: str) -> list[str]:
    """Return the numbers of one range as they are written into names."""
    found = _RANGE.fullmatch(text)
    if found is None or (found[2] is None and int(found[1]) == 0):
        raise UsageError(f"not a range: {text[:40]!r} in {expression[:80]!r}", hint="write [3], [1-3] or [01-10]")
    first, last = (found[1], found[2]) if found[2] else ("1".zfill(len(found[1]) * found[1].startswith("0")), found[1])
    low, high = int(first), int(last)
    if abs(high - low) >= MAX_HOSTS:
        raise UsageError(
            f"{expression[:80]!r} makes more than {MAX_HOSTS} hosts in all", hint="ask for fewer hosts in one run"
        )
    step = -1 if high < low else 1
    width = len(first) if first.startswith("0") else len(last) * (step < 0 and last.startswith("0"))
    return [str(number).zfill(width) for number in range(low, high + step, step)]
