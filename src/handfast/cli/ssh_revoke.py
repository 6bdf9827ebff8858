"""ssh-revoke: whoever holds the key of an SSH certificate takes it back."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from handfast.adapters import files
from handfast.adapters.clock import SystemClock
from handfast.adapters.user import agent_socket
from handfast.cli import ui
from handfast.cli.arguments import FILE, Parsed
from handfast.cli.ssh_config import registrar_url
from handfast.cli.ssh_login import chosen_registrar
from handfast.core import sshcert, sshsig
from handfast.core.hostproof import HostSigner
from handfast.core.records import REASONS
from handfast.core.sshcert import SshCertificate
from handfast.errors import NotFound, UsageError
from handfast.newcomer.certificates import SUFFIX
from handfast.newcomer.ssh_agent import Agent
from handfast.newcomer.ssh_revoke import revoke


@click.command("ssh-revoke")
@click.argument("certificate", metavar="CERT")
@click.argument("registrar", type=Parsed("url#pin", registrar_url), required=False, metavar="[URL#PIN]")
@click.option("--key", type=FILE, help="Its private key, if that is not beside CERT or in the ssh-agent.")
@click.option(
    "--reason",
    type=click.Choice(REASONS),
    default="keyCompromise",
    show_default=True,
    help="After 'superseded' or 'affiliationChanged' the key is certified again, else never.",
)
def ssh_revoke_command(certificate: str, registrar: str | None, key: Path | None, reason: str) -> None:
    """
    Take an SSH certificate back, a host's or your own: it is in the next list of revoked keys.

    CERT is a file such as /etc/ssh/ssh_host_ed25519_key-cert.pub, or the serial of a certificate in the ssh-agent. The
    certificate's key signs, and nothing else is needed. A key that others may have is not certified again.
    """
    with ExitStack() as stack:
        socket = agent_socket()
        agent = stack.enter_context(Agent(socket)) if socket is not None else None
        path = Path(certificate)
        in_agent = certificate.isascii() and certificate.isdigit() and not path.exists()
        found = _of_agent(int(certificate), agent) if in_agent else _of_file(path)
        signer = _signer(found, key, None if in_agent else path, agent)
        where = chosen_registrar(registrar)
        answer = revoke(found, signer, where.addresses, pin=where.pin, reason=reason, now=SystemClock().now)
    ui.say(f"revoked the {answer.kind} certificate {answer.serial} of {answer.holder}")


def _of_agent(serial: int, agent: Agent | None) -> SshCertificate:
    for each in agent.identities() if agent is not None else ():
        if each.certificate is not None and each.certificate.serial == serial:
            return each.certificate
    raise NotFound(f"no certificate {serial} in the ssh-agent", hint="`ssh-add -L | ssh-keygen -L -f -` shows them")


def _of_file(path: Path) -> SshCertificate:
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}", hint="give a file, or a serial") from None
    return sshcert.parse(text)


def _signer(certificate: SshCertificate, key: Path | None, path: Path | None, agent: Agent | None) -> HostSigner:
    """Return what signs: the key that was named, the one beside the certificate, or the one in the agent."""
    beside = path.with_name(path.name.removesuffix(SUFFIX)) if path is not None and path.name.endswith(SUFFIX) else None
    chosen = key or (beside if beside is not None and beside.exists() else None)
    if chosen is not None:
        return sshsig.load_private(files.read_private(chosen, limit=sshsig.MAX_PRIVATE))
    if agent is None:
        raise UsageError("where is its key?", hint="give it with --key, or put it into the ssh-agent")
    return agent.signer(certificate.key)
