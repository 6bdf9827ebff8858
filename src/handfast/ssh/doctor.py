"""
Why ssh would or would not accept a host: what ssh is configured to do, and what the snapshot says of the machine.

The decision is the launcher's own code, given what ssh would give it. Nothing is sent to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from handfast.core.hosts import Grade, Host
from handfast.core.keys import format_pin
from handfast.core.views import time_text
from handfast.errors import HandfastError, NotFound, Unreachable
from handfast.ssh import config, launcher, snapshot
from handfast.ssh.config import Effect, Where
from handfast.ssh.snapshot import Kept


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """
    ``accepted``: ssh would connect without a question to whoever has one of the keys.

    And to nobody else, but for what ``effect.findings`` say.
    """

    host: str
    accepted: bool
    sentences: tuple[str, ...]
    machine: Host | None
    effect: Effect
    kept: Kept

    def view(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        machine, options = self.machine, self.effect.options
        return {
            "host": self.host,
            "accepted": self.accepted,
            "machine": machine.machine if machine is not None else None,
            "keys": [
                {
                    "algorithm": each.key.algorithm,
                    "fingerprint": each.key.fingerprint,
                    "grade": each.how.grade.name.lower(),
                    "how": each.how,
                    "detail": each.detail,
                    "at": time_text(each.at),
                }
                for each in (machine.keys if machine is not None else ())
            ],
            "retired": [
                {"fingerprint": each.key.fingerprint, "at": time_text(each.at), "reason": each.reason}
                for each in (machine.retired if machine is not None else ())
            ],
            "asked": self.effect.asked,
            "findings": list(self.effect.findings),
            "ssh": {key: options[key] for key in _SHOWN if key in options},
            "snapshot": {"at": time_text(self.kept.at), "registrar": snapshot.about(self.kept.content).registrar},
            "sentences": list(self.sentences),
        }


_SHOWN = (
    *("hostname", "port", "hostkeyalias", "stricthostkeychecking", "userknownhostsfile", "globalknownhostsfile"),
    *("knownhostscommand", "verifyhostkeydns", "checkhostip", "updatehostkeys"),
)


def diagnose(
    where: Where,
    host: str,
    *,
    python: Path,
    now: datetime,
    refresh: Callable[[], Kept] | None = None,
    ssh: str = "ssh",
) -> Diagnosis:
    """
    Return why ``ssh host`` would or would not be accepted.

    ``refresh`` gets the snapshot anew; where the registrar cannot be reached, the one that is here serves.

    :raises Unreachable: the registrar cannot be reached, and there is no snapshot.
    :raises NotFound: there is no snapshot, and nowhere to get it from.
    :raises UsageError: a host that ssh does not take.
    """
    effect = config.check(where, host, python=python, ssh=ssh)
    kept, remarks = _snapshot(where, refresh)
    options = effect.options
    goes_to = f"{options.get('hostname', host)} port {options.get('port', '22')}"
    alias = options.get("hostkeyalias", "")
    sentences = [f"ssh {host} goes to {goes_to}" + (f", and takes it for {alias} (HostKeyAlias)" if alias else "")]
    sentences += [_asked(effect), *effect.findings, *remarks, *_age(kept, now)]
    try:
        line = _call(host, options).find(kept.content)
    except launcher.Veto as veto:
        sentences += [f"refused: {veto.args[0]}", *veto.args[1:]]
        return Diagnosis(host, False, tuple(sentences), None, effect, kept)
    machine = None if line is None else snapshot.read(line)
    sentences += [*_about(machine, effect), *_spoken_for(machine, effect, where, kept)]
    source = config.load_source(where)
    fresh = -timedelta(seconds=launcher.OLD) < now - kept.at < timedelta(seconds=source.most)
    if machine is not None and not fresh:
        sentences.append(
            f"refused: {source.most // 86400} days are allowed; `handfast ssh-config refresh` says what is in the way"
        )
    accepted = machine is not None and bool(machine.keys) and effect.asked and fresh
    return Diagnosis(host, accepted, tuple(sentences), machine, effect, kept)


def _snapshot(where: Where, refresh: Callable[[], Kept] | None) -> tuple[Kept, list[str]]:
    failed: HandfastError | None = None
    if refresh is not None:
        try:
            return refresh(), []
        except Unreachable as error:
            failed = error
    try:
        kept = snapshot.load(where.state)
    except NotFound:
        raise (failed or NotFound("there is no snapshot", hint="run `handfast ssh-config install`")) from None
    return kept, [f"the registrar cannot be reached ({failed.message}): the snapshot serves"] if failed else []


def _call(host: str, options: dict[str, str]) -> launcher.Call:
    """Return the call that ssh would make once the server has offered a key."""
    name, port, alias = options.get("hostname", host), options.get("port", "22"), options.get("hostkeyalias", "")
    typed = options.get("host", host.rpartition("@")[2])  # since 9.7 or so; before, what was typed
    lookup = alias or launcher.spelling(name.encode(), port.encode()).decode()
    texts = ("HOSTNAME", name, port, typed, alias or typed, lookup, "NONE", "NONE", "NONE")
    return launcher.Call([text.encode("utf-8", "surrogateescape") for text in texts])


_UNITS = ((1440, "days"), (60, "hours"), (1, "minutes"))


def _asked(effect: Effect) -> str:
    if effect.asked:
        return "ssh asks us for the host keys, and our no is final"
    return "ssh does NOT ask us for this host"


def _age(kept: Kept, now: datetime) -> list[str]:
    said = snapshot.about(kept.content)
    whose = f"registrar {said.registrar} (pin {format_pin(said.pin)[:16]}…)"
    minutes = max(0, int((now - kept.at).total_seconds() // 60))  # it may have been fetched since ``now``
    age = next(f"{minutes // size} {unit}" for size, unit in _UNITS if minutes >= 2 * size or size == 1)
    by = "signed by" if kept.signature is not None else "read on this machine from"
    return [f"the snapshot of {said.machines} machines was {by} {whose} {age} ago, at {time_text(kept.at)}"]


def _about(machine: Host | None, effect: Effect) -> list[str]:
    if machine is None:
        strict = effect.options.get("stricthostkeychecking", "ask")
        return [f"it is no machine of ours: ssh's own rules apply, StrictHostKeyChecking={strict}"]
    lines = [f"it is the machine {machine.machine}"]
    for each in machine.keys:
        detail = f" ({each.detail})" if each.detail else ""
        lines.append(
            f"accepted: {each.key.algorithm} {each.key.fingerprint}, {_grade(each.how.grade)} on"
            f" {each.at:%Y-%m-%d %H:%M}Z: {each.how.words}{detail}"
        )
    lines += [
        f"refused: {old.key.algorithm} {old.key.fingerprint}, retired on {old.at:%Y-%m-%d %H:%M}Z: {old.reason}"
        for old in machine.retired
    ]
    if machine.keys:
        return [*lines, "refused: every other key"]
    return [*lines, "refused: it has no key that is believed any more"]


def _spoken_for(machine: Host | None, effect: Effect, where: Where, kept: Kept) -> list[str]:
    """Say what a certificate would do, for a machine that came after the snapshot."""
    speaker = snapshot.speaker(kept.content)
    if machine is not None or speaker is None or effect.options.get("revokedhostkeys") != str(where.revoked):
        return []
    ca, names = speaker.key.fingerprint, ", ".join(speaker.patterns)
    return [f"a certificate by our CA {ca} is believed, if its name is the one looked for and fits {names}"]


def _grade(grade: Grade) -> str:
    return grade.name.lower()
