"""ssh-login: a certificate for a person's SSH key, by an OpenID provider or an operator credential."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast.adapters.clock import SystemClock
from handfast.adapters.user import agent_socket, setting
from handfast.cli import ui
from handfast.cli.arguments import DURATION, FILE, FOLDER, JSON, Parsed
from handfast.cli.ssh_config import own_identity, registrar_url, remembered_registrar
from handfast.core.flow import SshWish
from handfast.core.invitation import parse_registrar
from handfast.core.sshleaf import check_user
from handfast.errors import UsageError

if TYPE_CHECKING:
    from handfast.newcomer.device_flow import Prompt
    from handfast.newcomer.ssh_login import Login, Registrar

_PRINCIPAL = Parsed("principal", check_user)


@click.command("ssh-login")
@click.argument("registrar", type=Parsed("url#pin", registrar_url), required=False, metavar="[URL#PIN]")
@click.option("--provider", help="The OpenID provider, by the registrar's name for it, if there are several.")
@click.option(
    "--identity", type=FOLDER, help="Log in as operator, with the credential in this directory, and no provider."
)
@click.option(
    "--principal", "principals", type=_PRINCIPAL, multiple=True, help="Be only this user of the hosts (repeatable)."
)
@click.option("--lifetime", type=DURATION, help="For so long, if that is less than the registrar's rules allow.")
@click.option("--out", type=FILE, help="Write the key to FILE and the certificate to FILE-cert.pub; use no ssh-agent.")
@JSON
def ssh_login_command(
    registrar: str | None,
    provider: str | None,
    identity: Path | None,
    principals: tuple[str, ...],
    lifetime: timedelta | None,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """
    Get a certificate for a new SSH key, into the running ssh-agent: nothing is written to the disk.

    Who you are is said by an OpenID provider, in a browser on any machine, or by an operator credential. As whom you
    may log in, on which conditions and for how long, is said by the registrar's [[ssh.users]]. The key is in the agent
    for as long as the certificate is good.

    The registrar is URL#PIN, HANDFAST_REGISTRAR, the one of `handfast ssh-config`, or the one that this machine joined.
    """
    from handfast.newcomer import ssh_login
    from handfast.newcomer.keystore import Keystore
    from handfast.newcomer.ssh_agent import Agent

    if identity is not None and (provider or registrar):
        raise UsageError("--identity says which registrar, and needs no provider", hint="give one of them")
    agent = None if out is not None else agent_socket()
    if out is not None:
        ssh_login.check_file(out)
    elif agent is None:
        raise UsageError(
            "there is no ssh-agent (SSH_AUTH_SOCK is not set)",
            hint='eval "$(ssh-agent)", or write files with --out FILE',
        )
    else:
        Agent(agent).close()  # before anybody opens a browser for nothing
    wish, now = SshWish(tuple(dict.fromkeys(principals)), lifetime), SystemClock().now
    if identity is not None:
        login = ssh_login.by_operator(Keystore(identity), wish, now=now)
    else:
        login = _by_provider(chosen_registrar(registrar), provider, wish)
    _keep(login, agent, out)
    _tell(login, out, as_json=as_json)


def chosen_registrar(given: str | None) -> Registrar:
    """
    Return the registrar that was given, or that of the environment, of ssh-config, or which this machine joined.

    :raises UsageError: there is none.
    """
    from handfast.newcomer.keystore import Keystore
    from handfast.newcomer.renew import held
    from handfast.newcomer.ssh_login import Registrar

    named = given or setting("registrar")
    named = registrar_url(named) if named else remembered_registrar()
    if named is not None:
        address, pin = parse_registrar(named)
        return Registrar((address,), pin)
    own = own_identity()
    if own is None:
        raise UsageError("which registrar?", hint="say https://HOST:PORT#PIN, or set HANDFAST_REGISTRAR")
    holding = held(Keystore(own))
    return Registrar(holding.addresses, holding.pin)


def _by_provider(registrar: Registrar, name: str | None, wish: SshWish) -> Login:
    from handfast.newcomer import device_flow, ssh_login

    now = SystemClock().now
    provider = ssh_login.choose(ssh_login.providers(registrar, now=now), name)
    token = asyncio.run(device_flow.id_token(provider, _show))
    return ssh_login.by_token(registrar, provider.name, token, wish, now=now)


def _show(prompt: Prompt) -> None:
    ui.say(f"open {prompt.url} in a browser, on any machine, and enter the code {prompt.code}")
    if sys.stderr.isatty():
        import segno

        segno.make(prompt.complete or prompt.url, error="l", micro=False).terminal(out=sys.stderr, compact=True)
    elif prompt.complete:
        ui.say(f"or open {prompt.complete}")
    ui.say(f"waiting for {prompt.seconds // 60} minutes; compare the code there with this one")


def _keep(login: Login, agent: Path | None, out: Path | None) -> None:
    from handfast.newcomer.ssh_agent import Agent
    from handfast.newcomer.ssh_login import into_agent, into_file

    if out is not None:
        into_file(login, out)
    elif agent is not None:
        with Agent(agent) as connection:
            into_agent(login, connection)


def _tell(login: Login, out: Path | None, *, as_json: bool) -> None:
    certificate = login.certificate
    where = f"in {str(out)!r}" if out is not None else "in the ssh-agent"
    ui.say(
        f"{certificate.key_id}: may log in as {', '.join(certificate.principals)},"
        f" until {certificate.valid_before:%Y-%m-%d %H:%M}Z; {where}"
    )
    for limit in certificate.critical.texts():
        ui.say(f"limited: {limit}")
    if as_json:
        ui.emit_json(
            {
                "key_id": certificate.key_id,
                "serial": str(certificate.serial),
                "principals": certificate.principals,
                "valid_before": certificate.valid_before.isoformat(),
                "fingerprint": certificate.key.fingerprint,
                "certificate": str(certificate),
                "out": str(out) if out is not None else None,
            }
        )
