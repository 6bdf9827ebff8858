"""ca ssh, ca krl: the SSH CAs, what they have signed, and what was taken back."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from handfast.adapters.clock import SystemClock
from handfast.cli import ui
from handfast.cli.arguments import DATA, FILE, JSON
from handfast.cli.host import keys_of
from handfast.cli.registrar import certificate_rows
from handfast.core import randomart, span, sshkeys, views
from handfast.core.knownhosts import Speaker
from handfast.core.sshkeys import SshKey
from handfast.errors import UsageError
from handfast.policy.rules import CertificateRules


@click.command("ssh")
@DATA
@JSON
def ssh_command(data: Path, as_json: bool) -> None:
    """The two SSH CAs, the lines by which others trust them, and which certificates are out. No key is read."""
    host_ca, user_ca, _name, _pin = authorities(data)
    store, now = keys_of(data), SystemClock().now()
    rules = store.rules.ssh.certificates
    out = [views.certificate_view(each, now) for each in store.ledger.ssh_certificates(after=now)]
    speaker = Speaker(rules.patterns, host_ca)
    if as_json:
        ui.emit_json(_about(host_ca, user_ca, speaker, rules) | {"certificates": out})
        return
    for title, key in (("host CA", host_ca), ("user CA", user_ca)):
        ui.emit(f"{title}: {key}")
        ui.emit(f"  {key.fingerprint}")
        ui.emit(randomart.picture(key))
    ui.emit("for known_hosts, which lets the host CA speak for these names:")
    for line in speaker.lines or ["  none: patterns in [ssh.certificates] of the configuration say for which"]:
        ui.emit(line)
    ui.emit("for sshd, in the file that TrustedUserCAKeys names:")
    ui.emit(str(user_ca))
    ui.emit(f"certificates live {span.written(rules.lifetime)} (hosts), {span.written(rules.user_lifetime)} (users)")
    certificate_rows(out)


def _about(host_ca: SshKey, user_ca: SshKey, speaker: Speaker, rules: CertificateRules) -> dict[str, Any]:
    def seconds(life: timedelta) -> int:
        return int(life.total_seconds())

    return {
        "host_ca": {"key": str(host_ca), "fingerprint": host_ca.fingerprint},
        "user_ca": {"key": str(user_ca), "fingerprint": user_ca.fingerprint},
        "known_hosts": speaker.lines,
        "trusted_user_ca_keys": [str(user_ca)],
        "lifetime": seconds(rules.lifetime),
        "user_lifetime": seconds(rules.user_lifetime),
    }


@click.command("krl")
@DATA
@click.option("--out", "-o", type=FILE, help="Write this file, all at once, and not stdout.")
def krl_command(data: Path, out: Path | None) -> None:
    """
    The list of revoked SSH keys and certificates, made now, as RevokedKeys of sshd and RevokedHostKeys of ssh read it.

    `ssh-keygen -Q -l -f FILE` shows it. Nothing in it proves where it came from: `handfast ssh-config` and machines get
    it from the registrar, with its word.
    """
    from handfast.ssh import krl

    if out is None and sys.stdout.isatty():
        raise UsageError("the list is no text for a terminal", hint="give --out FILE, or a pipe")
    content = made(data)
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    krl.keep(out, content)
    ui.say(f"wrote {len(content)} bytes to {out}")


def made(data: Path) -> bytes:
    """Return the list of revoked SSH keys of a data directory, as of now."""
    from handfast.ssh import krl

    host_ca, user_ca, name, pin = authorities(data)
    now = SystemClock().now()
    state = keys_of(data).ledger.publish_krl(name, at=now).result()
    return krl.build(state, host_ca=host_ca, user_ca=user_ca, pin=pin, at=now)


def authorities(data: Path) -> tuple[SshKey, SshKey, str, bytes]:
    """
    Return the keys of the SSH host CA and user CA, the authority's name and its pin; no private key is read.

    :raises NotFound: no registrar there.
    """
    from handfast.authority.authority import PublicAuthority
    from handfast.wiring import AUTHORITY, require_data

    require_data(data)
    public = PublicAuthority.read(data / AUTHORITY)
    host_ca, user_ca = map(sshkeys.parse, (public.ssh_host_ca, public.ssh_user_ca))
    return host_ca, user_ca, public.name, public.pin
