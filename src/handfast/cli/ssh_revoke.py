"""ssh-revoke: whoever holds the key of an SSH certificate takes it back."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from handfast.adapters.clock import SystemClock
from handfast.adapters.user import agent_socket
from handfast.cli import ui
from handfast.cli.arguments import FILE, JSON, Parsed
from handfast.cli.ssh_config import registrar_url
from handfast.cli.ssh_login import chosen_registrar
from handfast.core import sshcert
from handfast.core.hostproof import HostSigner
from handfast.core.records import REASONS
from handfast.core.sshcert import MAX_CERTIFICATE, SshCertificate
from handfast.errors import NotFound, UsageError
from handfast.newcomer import hostkeys, ssh_state
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
@JSON
def ssh_revoke_command(certificate: str, registrar: str | None, key: Path | None, reason: str, as_json: bool) -> None:
    """
    Take an SSH certificate back, a host's or your own: it is in the next list of revoked keys.

    CERT is a file such as /etc/ssh/ssh_host_ed25519_key-cert.pub, or the serial of a certificate in the ssh-agent. The
    certificate's key signs, and nothing else is needed. A key that others may have is not certified again.
    """
    path = Path(certificate)
    where = chosen_registrar(registrar)
    with ExitStack() as stack:
        if certificate.isascii() and certificate.isdigit() and not path.exists():
            agent = stack.enter_context(_agent("a serial is one of the ssh-agent's"))
            found = _of_agent(int(certificate), agent)
            signer: HostSigner = hostkeys.signer(key) if key is not None else agent.signer(found.key)
        else:
            found = _of_file(path)
            beside = path.with_name(path.name.removesuffix(SUFFIX))
            chosen = key or (beside if beside != path and beside.exists() else None)
            signer = (
                hostkeys.signer(chosen)
                if chosen
                else stack.enter_context(_agent("its key is not beside it")).signer(found.key)
            )
        answer = revoke(found, signer, where.addresses, pin=where.pin, reason=reason, now=SystemClock().now)
    if as_json:
        about = {"kind": answer.kind, "holder": answer.holder, "reason": reason}
        ui.emit_json(about | {"ssh_certificates": ssh_state.certificates((found,))})
    ui.say(f"revoked the {answer.kind} certificate {answer.serial} of {answer.holder}")


def _agent(why: str) -> Agent:
    socket = agent_socket()
    if socket is None:
        hint = "give the certificate's file, and its key with --key if that is not beside it; or use an ssh-agent"
        raise UsageError(f"{why}, and there is no ssh-agent (SSH_AUTH_SOCK is not set)", hint=hint)
    return Agent(socket)


def _of_agent(serial: int, agent: Agent) -> SshCertificate:
    for each in agent.identities():
        if each.certificate is not None and each.certificate.serial == serial:
            return each.certificate
    raise NotFound(f"no certificate {serial} in the ssh-agent", hint="`ssh-add -L` shows what it has")


def _of_file(path: Path) -> SshCertificate:
    try:
        with path.open("rb") as file:
            return sshcert.parse(file.read(2 * MAX_CERTIFICATE).decode("utf-8", "replace"))
    except OSError as error:
        raise UsageError(
            f"cannot read {str(path)!r}: {(error.strerror or '').lower()}", hint="give a file, or a serial"
        ) from None
