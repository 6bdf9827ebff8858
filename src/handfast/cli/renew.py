"""renew: the successor of all that a machine holds, by hand or by a timer."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast.adapters.clock import SystemClock
from handfast.adapters.process import child_environment
from handfast.cli import ssh_certificates, ui
from handfast.cli.arguments import FOLDER, JSON, OUT
from handfast.cli.newcomer import SSH, SSH_DIR, host_keys, tell_published
from handfast.cli.ssh_certificates import Installing
from handfast.errors import Fault, NotFound, UsageError
from handfast.newcomer.keystore import Keystore

if TYPE_CHECKING:
    from handfast.newcomer.renew import Held


@click.command("renew")
@OUT
@click.option("--if-due", is_flag=True, help="Do nothing until the time for it has come (for timers).")
@click.option("--exec", "command", help="Run CMD in a shell after a change: reload what uses the certificate.")
@click.option(
    "--install",
    is_flag=True,
    help="Write a systemd service and timer that do this, and start them; with --ssh, have sshd show the certificates.",
)
@click.option("--unit-dir", type=FOLDER, help="Where --install writes the units; nothing is started then.")
@SSH
@SSH_DIR
@ssh_certificates.install_options
@click.option("--uninstall", is_flag=True, help="With --ssh: take the certificates out of sshd again.")
@JSON
def renew_command(
    out: Path,
    if_due: bool,
    command: str | None,
    install: bool,
    unit_dir: Path | None,
    ssh: bool,
    ssh_dir: Path | None,
    sshd_config: Path | None,
    trust_users: bool,
    uninstall: bool,
    as_json: bool,
) -> None:
    """
    Get the successor of this machine's credential, with a new key, and the next SSH certificates, if it has any.

    SSH host keys that it has published are published again. --ssh is for a machine that has not, of which the operator
    has entered a host key: it publishes the others, and has them certified.
    """
    ssh = ssh or ssh_dir is not None
    if uninstall:
        if not ssh or any((install, if_due, unit_dir, trust_users, sshd_config)):
            raise UsageError("--uninstall is said with --ssh, and alone", hint="handfast renew --ssh --uninstall")
        ssh_certificates.uninstall(Keystore(out))
        return
    asked = ssh_certificates.installing(install and ssh, trust_users, sshd_config)
    machine = _Machine(Keystore(out))
    timer = install or unit_dir is not None
    if ssh or not timer:
        changed = machine.renew(ssh, ssh_dir, if_due=if_due, quiet=if_due or timer)
        if ssh or machine.ssh is not None:
            changed |= machine.certify(ssh_dir, asked, quiet=if_due or timer)
        if command and changed:
            _run_hook(command, out, machine.name)
    if asked is not None:
        ssh_certificates.keep_fresh(out, asked, command=command, unit_dir=unit_dir)
    elif timer:
        ssh_certificates.timer(out, command=command, unit_dir=unit_dir, ssh=ssh)
    if as_json:
        ui.emit_json(machine.view())


class _Machine:
    """What a machine holds: a credential, SSH certificates, or both. :raises NotFound: neither."""

    def __init__(self, keystore: Keystore) -> None:
        from handfast.newcomer.renew import held

        self._keystore = keystore
        self.ssh = ssh_certificates.held_of(keystore)
        self._credential: Held | None = None
        try:
            self._credential = held(keystore)
        except NotFound:
            if self.ssh is None:
                raise

    @property
    def name(self) -> str:
        """What it is called."""
        if self._credential is not None:
            return self._credential.identity.machine
        return self.ssh.certificates[0].principals[0] if self.ssh is not None else ""

    def renew(self, ssh: bool, directory: Path | None, *, if_due: bool, quiet: bool) -> bool:
        """
        Renew the credential, if there is one, and publish host keys along with ``ssh``; return whether that was done.

        With ``quiet`` only if it is due, or host keys are not published yet and nobody but a person can have asked.
        """
        from handfast.newcomer.renew import renew

        current, clock = self._credential, SystemClock()
        if current is None:
            return False
        unpublished = ssh and "ssh_dir" not in current.material.identity
        if quiet and clock.now() < current.due_at and (if_due or not unpublished):
            ui.say(f"not due before {current.due_at:%Y-%m-%d %H:%M}Z")
            return False
        published = host_keys(directory, ()) if directory is not None or unpublished else None
        current = renew(self._keystore, now=clock.now, publish=published, remark=ui.warn)
        ui.say(f"renewed {current.identity.machine}, until {current.identity.not_after:%Y-%m-%d %H:%M}Z")
        tell_published(published)
        self._credential = current
        return True

    def certify(self, directory: Path | None, asked: Installing | None, *, quiet: bool) -> bool:
        """Get SSH certificates, the first or the next; return whether they are others than before."""
        if self.ssh is None and self._credential is not None:
            changed = ssh_certificates.first(self._keystore, self._credential, directory, asked)
        elif self.ssh is not None:
            current = self.ssh if directory is None else replace(self.ssh, directory=directory.absolute())
            changed = ssh_certificates.renew(self._keystore, current, if_due=quiet, asked=asked)
        else:  # unreachable: it has one of both
            return False
        self.ssh = ssh_certificates.held_of(self._keystore)
        return changed

    def view(self) -> dict[str, object]:
        """Return what --json prints."""
        about = {} if self._credential is None else dict(self._credential.material.identity)
        return about | ssh_certificates.view(self.ssh)


def _run_hook(command: str, out: Path, machine: str) -> None:
    # The operator's own command line, as in certbot's --deploy-hook; a shell is what they expect.
    environment = child_environment(HANDFAST_OUT=str(out.absolute()), HANDFAST_NAME=machine)
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, check=False, stdout=sys.stderr)
    if done.returncode:
        raise Fault(
            f"the new certificate is in place, but {shlex.quote(command)} ended with {done.returncode}",
            hint="run it by hand; the next renewal is not affected",
        )
