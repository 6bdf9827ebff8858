"""
What follows from having looked at hosts: every name leads to them and nowhere else, and all of them show every key.

It has to be so from every place that looked. Who did not see it disagrees, also because he could not.
"""

from __future__ import annotations

from collections.abc import Iterator

from handfast.core import sshcert
from handfast.core.look import Answered, Led, Look, Seen
from handfast.errors import HandfastError

MAX_NOTES = 200  # lines of the log about one look
MAX_NOTE = 400  # characters of one: a stranger's host may show certificates with hundreds of names


def against_look(look: Look, seen: tuple[Seen, ...]) -> tuple[str, ...]:
    """
    Return every reason not to believe that the keys are those of the machine which these names and addresses are.

    The reasons may be told to a stranger. They name nothing but what he has sent: not where a name leads, not whether
    a host was down, silent or another, and not who saw it. ``notes`` has that.
    """
    if not seen or not look.addresses or not look.ports or not look.keys:
        return ("nobody has looked",)  # empty means no
    return tuple(dict.fromkeys(reason for each in seen for reason in _against(look, each)))


def _against(look: Look, seen: Seen) -> Iterator[str]:
    given, led = set(look.addresses), _by_name(seen)
    for name in look.names:
        answers = led.get(name, ())
        if not answers or not all(each.only_to(given) for each in answers):
            yield f"{name!r} does not lead to the addresses given, or not only to these"
    shown = {(each.address, each.port): set(each.keys) for each in seen.answered}
    for address in look.addresses:
        for port in look.ports:
            for key in look.keys:
                if key not in shown.get((address, port), ()):
                    yield f"{address} at port {port} did not show {key.fingerprint}"


def _by_name(seen: Seen) -> dict[str, tuple[Led, ...]]:
    found: dict[str, tuple[Led, ...]] = {}
    for each in seen.led:
        found[each.name] = (*found.get(each.name, ()), each)
    return found


def notes(look: Look, seen: tuple[Seen, ...]) -> tuple[str, ...]:
    """
    Return what was seen that speaks against it, and certificates that were shown, each in one line for our own log.

    Nobody else is to read it: it says what is open and what is not in our networks, and in the words of whoever
    answered.
    """
    lines = (line for each in seen for line in _notes(look, each))
    return tuple(dict.fromkeys(_line(text) for text in lines))[:MAX_NOTES]


def _line(text: str) -> str:
    shown = "".join(filter(str.isprintable, text))
    return shown if len(shown) <= MAX_NOTE else f"{shown[: MAX_NOTE - 1]}…"


def _notes(look: Look, seen: Seen) -> Iterator[str]:
    given, wanted = set(look.addresses), set(look.keys)
    for each in seen.led:
        if not each.only_to(given):
            where = ", ".join(map(str, each.addresses)) or each.failed or "nowhere"
            yield f"{seen.by}: {each.name!r} leads to {where}"
    for answer in seen.answered:
        where = f"{seen.by}: {answer.address} at port {answer.port}"
        if answer.failed:
            yield f"{where}: {answer.failed}"
        elif not wanted <= set(answer.keys):
            shown = ", ".join(key.fingerprint for key in answer.keys) or "none of the keys"
            yield f"{where} shows {shown}"
        yield from (f"{where} shows a certificate: {text}" for text in _certificates(answer))


def _certificates(answer: Answered) -> Iterator[str]:
    for blob in answer.certificates:
        try:
            found = sshcert.read(blob)
        except HandfastError as error:
            yield error.message
            continue
        names = ", ".join(found.principals)
        by = f"by {found.authority.fingerprint} (not verified)"
        yield f"{found.key.fingerprint} as {names!r} until {found.valid_before:%Y-%m-%d} {by}"
