"""OpenID providers: which there are, for whoever wants to log in; and their keys at hand when a token comes."""

from __future__ import annotations

from aiohttp import web

from handfast.core.openid import Providers, ProviderView
from handfast.introducers import oidc
from handfast.server.public import json
from handfast.server.state import Call, State


async def providers(call: Call) -> web.Response:
    """The OpenID providers that may say who people are, and what a device flow there needs."""
    return json(
        Providers(
            [
                ProviderView(
                    name=each.name,
                    issuer=each.issuer,
                    client_id=each.client_id,
                    scopes=list(each.scopes),
                    client_secret=each.client_secret.reveal().decode("ascii") if each.client_secret else "",
                )
                for each in call.state.service.providers
            ]
        )
    )


async def prepare(state: State, method: str, body: bytes) -> None:
    """Fetch a provider's keys where the request names one that is not known. Of the request nothing is believed."""
    asked = oidc.asked_for(body) if method == oidc.NAME else None
    if asked is None:
        return
    name, kid = asked
    for provider in state.service.providers:
        if provider.name == name:
            await state.service.provider_keys.have(provider, kid)


async def refresh(state: State) -> None:
    """Fetch the keys of all providers in time."""
    await state.service.provider_keys.refresh(state.service.providers)
