"""
The device authorization grant (RFC 8628): a person allows this program at their provider, in a browser anywhere.

What it gives is an ID token. It is good for whoever has it, so it is kept in memory, and shown to nobody but the
registrar that was proved.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from handfast.adapters import web
from handfast.core import openid, wire
from handfast.core.openid import MAX_METADATA, MAX_TOKEN, Metadata, ProviderView
from handfast.errors import Malformed, NotAuthorized, Refused, Unreachable, UsageError

LONGEST = 1800.0  # seconds to wait for a person, whatever the provider allows
INTERVAL = 5.0  # seconds between two questions where the provider does not say (RFC 8628 §3.2)
MOST_INTERVAL = 60.0
_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_SHOWN = re.compile(r"[\x20-\x7e]{1,64}", re.ASCII)
_BROWSER = re.compile(r"https?://[\x21-\x7e]{1,1000}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a person is to do: open ``url`` and enter ``code``; ``complete`` (or "") has the code in it."""

    url: str
    code: str
    complete: str
    seconds: int


class _Device(msgspec.Struct, frozen=True):
    device_code: str
    user_code: str
    verification_uri: str
    expires_in: float
    verification_uri_complete: str = ""
    interval: float = INTERVAL


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str = ""
    error: str = ""
    error_description: str = ""


async def id_token(
    provider: ProviderView,
    show: Callable[[Prompt], None],
    *,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """
    Return an ID token for whoever allows it at ``provider``; ``show`` tells them where.

    *Not* checked: the token. That is the registrar's.

    :raises NotAuthorized: the person said no. :raises Unreachable: nobody said anything in time, or no answer.
    :raises UntrustedPeer: the provider is another one. :raises Malformed, Refused: it does not speak the protocol.
    """
    metadata = await _metadata(provider)
    device = await _device(provider, metadata)
    prompt = _prompt(device)
    deadline = clock() + prompt.seconds
    show(prompt)
    form = {"grant_type": _GRANT, "device_code": device.device_code} | _client(provider)
    interval = min(max(device.interval, 1.0), MOST_INTERVAL)
    while clock() + interval < deadline:
        await pause(interval)
        try:
            status, body = await web.ask(metadata.token_endpoint, form=form, limit=4 * MAX_TOKEN)
        except Unreachable:  # RFC 8628 §3.5: ask less often
            interval = min(2 * interval, MOST_INTERVAL)
            continue
        answer = wire.decode(body, _Tokens)
        if not answer.error:
            return _given(answer, status)
        if answer.error == "slow_down":
            interval = min(interval + INTERVAL, MOST_INTERVAL)
        elif answer.error != "authorization_pending":
            raise _refused(answer)
    raise _too_late()


async def _metadata(provider: ProviderView) -> Metadata:
    status, body = await web.ask(openid.metadata_url(openid.check_url(provider.issuer)), limit=MAX_METADATA)
    if status != HTTPStatus.OK:
        raise Refused(f"{provider.issuer} answers {status} where it should describe itself", hint="is that the issuer?")
    metadata = openid.read_metadata(body, issuer=provider.issuer)
    if not metadata.device_authorization_endpoint or not metadata.token_endpoint:
        raise UsageError(
            f"the provider {provider.name!r} has no device flow (RFC 8628)",
            hint="have it enabled there, or use another",
        )
    return metadata


async def _device(provider: ProviderView, metadata: Metadata) -> _Device:
    form = {"scope": " ".join(provider.scopes)} | _client(provider)
    status, body = await web.ask(metadata.device_authorization_endpoint, form=form, limit=MAX_METADATA)
    if status != HTTPStatus.OK:
        raise _refused(wire.decode(body, _Tokens))
    return wire.decode(body, _Device)


def _client(provider: ProviderView) -> dict[str, str]:
    secret = {"client_secret": provider.client_secret} if provider.client_secret else {}
    return {"client_id": provider.client_id} | secret


def _prompt(device: _Device) -> Prompt:
    """Return what is shown, if a terminal and a browser can be given it."""
    for url in (device.verification_uri, device.verification_uri_complete):
        if url and not (
            _BROWSER.fullmatch(url) and (url.startswith("https:") or openid.is_local(url.partition("?")[0]))
        ):
            raise Malformed(f"the provider would have us open {url[:120]!r}", hint="it should be https")
    if not device.verification_uri or not _SHOWN.fullmatch(device.user_code):
        raise Malformed(f"the provider gives a code that is none: {device.user_code[:40]!r}", hint="it is broken")
    seconds = int(min(max(device.expires_in, 0), LONGEST))
    return Prompt(device.verification_uri, device.user_code, device.verification_uri_complete, seconds)


def _refused(answer: _Tokens) -> Refused | Unreachable:
    said = "".join(filter(str.isprintable, answer.error_description or answer.error))[:200]
    if answer.error == "access_denied":
        return NotAuthorized("the person at the provider did not allow it", hint="run it again, and allow it")
    if answer.error == "expired_token":
        return _too_late()
    return Refused(f"the provider refuses: {said or 'without a reason'}", hint="is the client allowed the device flow?")


def _too_late() -> Unreachable:
    return Unreachable("nobody allowed it in time", hint="run it again, and open the address that it shows")


def _given(answer: _Tokens, status: int) -> str:
    if status != HTTPStatus.OK:
        raise Refused(f"the provider answers {status} and says nothing", hint="see its log")
    if not answer.id_token:
        raise Refused("the provider gives no ID token", hint="is 'openid' among the client's scopes there?")
    if len(answer.id_token) > MAX_TOKEN:
        size = len(answer.id_token)
        raise Malformed(f"an ID token of {size} characters, at most {MAX_TOKEN} are taken", hint="fewer groups")
    return answer.id_token
