"""userdata: what an operator gives to a cloud along with a new machine, so that its SSH host keys become known."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path

import click

from handfast.adapters.clock import SystemClock
from handfast.cli import ui
from handfast.cli.arguments import ADDRESS, DATA, DURATION, MACHINE, NAME
from handfast.core.hosts import How
from handfast.core.invitation import Address
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.errors import Malformed, UsageError


@click.command("userdata")
@click.argument("name", type=MACHINE)
@DATA
@click.option(
    "--bucket",
    metavar="URL",
    help="It uploads its keys to s3://BUCKET[/PREFIX]; the AWS_ variables say whose, and AWS_ENDPOINT_URL where.",
)
@click.option("--phone-home", is_flag=True, help="It reports its keys to the registrar: cloud-init's phone_home.")
@click.option(
    "--url", metavar="URL", help="With --phone-home: https://HOST of a registrar with a publicly trusted certificate."
)
@click.option(
    "--for", "lasting", type=DURATION, default="1h", show_default=True, help="How long it is good: 90s, 15m, 1h, 7d."
)
@click.option("--san", "sans", type=NAME, multiple=True, help="A DNS name or IP address of it (repeatable).")
@click.option("--address", type=ADDRESS, help="HOST:PORT of the registrar, if not as `up` announced it.")
def userdata_command(
    name: str,
    data: Path,
    bucket: str | None,
    phone_home: bool,
    url: str | None,
    lasting: timedelta,
    sans: tuple[str, ...],
    address: Address | None,
) -> None:
    """
    Print user-data for cloud-init, with which the new machine NAME makes its SSH host keys known.

    By default it joins with an invitation, for which its image must have Handfast. It is a secret until the machine
    has booted.
    """
    if bucket is not None and phone_home:
        raise UsageError("--bucket and --phone-home exclude each other", hint="one says where the keys go")
    if url is not None and not phone_home:
        raise UsageError("--url is for --phone-home")
    if address is not None and (bucket is not None or url is not None):
        raise UsageError("--address is for what speaks to the registrar itself", hint="leave it out")
    places = (address,) if address is not None else ()
    try:
        if bucket is not None:
            document = _uploading(name, data, bucket, lasting, sans)
        elif phone_home:
            document = _reporting(name, data, url, lasting, sans, places)
        else:
            document = _joining(name, data, lasting, sans, places)
    except Malformed as error:  # of whoever typed it
        raise UsageError(error.message, hint=error.hint) from None
    ui.emit(document.rstrip("\n"))


def _joining(name: str, data: Path, lasting: timedelta, sans: tuple[str, ...], places: tuple[Address, ...]) -> str:
    from handfast.ssh import userdata
    from handfast.wiring import open_administration, open_host_keys

    open_host_keys(data).check_expected(name, How.INVITATION)
    administration = open_administration(data, addresses=places)
    line, invitation = administration.invite(name, role=Role.SERVER, sans=sans, lasting=lasting)
    for remark in administration.remarks(invitation):
        ui.warn(remark)
    return userdata.joining(name, line)


def _uploading(name: str, data: Path, url: str, lasting: timedelta, sans: tuple[str, ...]) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from handfast.adapters.aws import account
    from handfast.ssh import userdata
    from handfast.ssh.bucket import LONGEST, Bucket, check_write_once
    from handfast.wiring import open_host_keys

    if lasting > LONGEST:
        raise UsageError(f"an address of a bucket lasts {LONGEST.days} days at most", hint="see --for")
    now, bucket, host_keys = SystemClock().now, Bucket.parse(url, account()), open_host_keys(data)
    check_write_once(bucket, now=now)
    seed = Secret(secrets.token_bytes(32))
    public = Ed25519PrivateKey.from_private_bytes(seed.reveal()).public_key().public_bytes_raw()
    invitation = host_keys.expect(name, public, how=How.BUCKET, names=Names.parse(sans), lasting=lasting)
    address, pin = bucket.address(invitation, now=now()), host_keys.context.pin
    document = userdata.uploading(name, address, one_time_key=seed, pin=pin, expires_at=invitation.expires_at)
    ui.say(f"when {name} has booted: handfast host collect --bucket {url}")
    return document


def _reporting(
    name: str, data: Path, url: str | None, lasting: timedelta, sans: tuple[str, ...], places: tuple[Address, ...]
) -> str:
    from handfast.authority.authority import PublicAuthority
    from handfast.introducers import phone_home
    from handfast.ssh import userdata
    from handfast.wiring import AUTHORITY, open_host_keys, read_place

    host_keys = open_host_keys(data)
    announced = places or read_place(data)
    if url is None and not announced:
        raise UsageError("the registrar's address is not known yet", hint="start `handfast up`, or give --address")
    token = phone_home.token(Secret(secrets.token_bytes(32)))
    whole = userdata.phone_home_url(url or f"https://{announced[0]}", token)
    half, names = phone_home.public_half(token), Names.parse(sans)
    invitation = host_keys.expect(name, half, how=How.PHONE_HOME, names=names, lasting=lasting)
    if url is not None:
        return userdata.reporting(name, whole, expires_at=invitation.expires_at)
    root = PublicAuthority.read(data / AUTHORITY).root
    return userdata.reporting_to_root(name, whole, root=root, expires_at=invitation.expires_at)
