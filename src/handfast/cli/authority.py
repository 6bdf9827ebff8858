"""ca: make, show and export the authority."""

from __future__ import annotations

from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast import config
from handfast.adapters.clock import SystemClock
from handfast.authority import ceremony
from handfast.authority.authority import FileAuthority, PublicAuthority
from handfast.authority.flat import FlatAuthority, PublicFlatAuthority
from handfast.cli import ca, ui
from handfast.cli.arguments import DATA, FILE, JSON, NETWORK, PASSPHRASE, SUFFIX
from handfast.core.checkpoint import vkey
from handfast.core.keys import describe, format_pin
from handfast.core.names import IPNetwork
from handfast.core.ports import Authority
from handfast.wiring import AUTHORITY, CONFIG, log_origin, open_ledger, require_data
from handfast.wiring.nifi import NIFI


@click.group("ca")
def ca_command() -> None:
    """The authority: its root, issuing CA, SSH CAs and log key."""


@ca_command.command("init")
@DATA
@PASSPHRASE
@click.option("--name", default="registrar", show_default=True, help="Appears in the root's subject.")
@click.option("--root-key", type=FILE, help="Keep the root's key there, offline.")
@click.option(
    "--permit-dns", type=SUFFIX, multiple=True, help="Constrain the issuing CA to this DNS suffix (repeatable)."
)
@click.option(
    "--permit-net", type=NETWORK, multiple=True, help="Constrain the issuing CA to this network (repeatable)."
)
def init_command(
    data: Path,
    passphrase_file: Path | None,
    name: str,
    root_key: Path | None,
    permit_dns: tuple[str, ...],
    permit_net: tuple[IPNetwork, ...],
) -> None:
    """Make the authority before the first `up`, with choices that `up` does not ask for."""
    from handfast.adapters.files import private_directory
    from handfast.config.settings import load

    private_directory(data)
    settings = load(data / CONFIG)
    ceremony.create(
        data / AUTHORITY,
        name=name,
        now=SystemClock().now(),
        passphrase=config.secret_from("passphrase", file=passphrase_file),
        root_key=root_key,
        permitted_dns=permit_dns or settings.permitted_dns,
        permitted_ips=permit_net or settings.permitted_ips,
    )
    pin = PublicAuthority.read(data / AUTHORITY).pin
    ui.say(f"made the authority in {data / AUTHORITY}, root {format_pin(pin)}")
    if root_key is not None:
        ui.say(f"the root's key is in {root_key}: take it offline; only a new issuing CA needs it")


@ca_command.command("show")
@DATA
@JSON
def show_command(data: Path, as_json: bool) -> None:
    """Names, pins and dates of everything that signs. No key is read."""
    require_data(data)
    authority = PublicAuthority.read(data / AUTHORITY)
    about = {
        "name": authority.name,
        "trust_domain": authority.trust_domain,
        "pin": format_pin(authority.pin),
        "root": _certificate(authority.root),
        "issuing": _certificate(authority.issuing),
        "ssh_host_ca": authority.ssh_host_ca,
        "ssh_user_ca": authority.ssh_user_ca,
        "log_key": vkey(log_origin(authority), authority.log_key),
    }
    if (data / NIFI).is_dir():
        nifi = PublicFlatAuthority.read(data / NIFI)
        about |= {"nifi": _certificate(nifi.root), "nifi_pin": format_pin(nifi.pin)}
    if as_json:
        ui.emit_json(about)
        return
    for key, value in about.items():
        if isinstance(value, dict):
            ui.emit(f"{key:12} {value['subject']}, {value['key']}, until {value['not_after']}")
        else:
            ui.emit(f"{key:12} {value}")


_OF_NIFI = click.option("--nifi", is_flag=True, help="Of the authority for NiFi's protocol instead.")


@ca_command.command("bundle")
@DATA
@_OF_NIFI
def bundle_command(data: Path, nifi: bool) -> None:
    """The root in PEM, for whoever must verify our certificates. Check its pin on the other side."""
    require_data(data)
    root = PublicFlatAuthority.read(data / NIFI).root if nifi else PublicAuthority.read(data / AUTHORITY).root
    ui.emit(root.public_bytes(Encoding.PEM).decode().rstrip())


@ca_command.command("crl")
@DATA
@PASSPHRASE
@_OF_NIFI
def crl_command(data: Path, passphrase_file: Path | None, nifi: bool) -> None:
    """
    The certificate revocation lists in PEM: the issuing CA's, signed now, and the root's, which never changes.

    Programs that check one for every CA of a chain (nginx, curl, PostgreSQL) want both.
    """
    require_data(data)
    passphrase = config.secret_from("passphrase", file=passphrase_file)
    name = PublicAuthority.read(data / AUTHORITY).name
    lists: tuple[bytes, ...] = ()
    authority: Authority
    if nifi:
        authority = FlatAuthority.open(data / NIFI, passphrase=passphrase)
    else:
        authority = opened = FileAuthority.open(data / AUTHORITY, passphrase=passphrase)
        lists = (opened.public.root_crl,)
    now = SystemClock().now()
    with open_ledger(data) as store:
        state = store.publish(name, at=now).result()
        lists = (authority.crl(list(state.revocations), number=state.number, now=now), *lists)
    for each in lists:
        ui.emit(x509.load_der_x509_crl(each).public_bytes(Encoding.PEM).decode().rstrip())


ca_command.add_command(ca.ssh_command)
ca_command.add_command(ca.krl_command)


def _certificate(certificate: x509.Certificate) -> dict[str, str]:
    return {
        "subject": certificate.subject.rfc4514_string(),
        "key": describe(certificate.public_key()),
        "serial": f"{certificate.serial_number:032x}",
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
    }
