"""
Where an agent finds its instance's user-data: a file, NoCloud's seed, the kernel's command line, a metadata service.

What comes from there decides whom the agent obeys, so it is read once, before anything listens, and the services are
asked only at their own link-local address. Whoever can answer there, or write these files, is the hypervisor or root.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from handfast.adapters import files
from handfast.core.instancedata import MAX_USER_DATA
from handfast.errors import Malformed, NotFound, Unreachable

PATIENCE = 5.0  # seconds for one answer of a metadata service
PREFIX = "handfast.userdata="  # on the kernel's command line, followed by base64
_COMMAND_LINE = Path("/proc/cmdline")
_SEEDS = tuple(map(Path, ("/var/lib/cloud/seed/nocloud", "/var/lib/cloud/seed/nocloud-net")))
_CLOUD_INIT = Path("/run/cloud-init/.instance-id")  # made at each boot, so no copied disk has another's
_NO_CLOUD = "iid-datasource-none"  # what cloud-init says where it has found none
_SERVICE = ("169.254.169.254", 80)
_TOKEN_SECONDS = "60"


@dataclass(frozen=True, slots=True)
class Found:
    """User-data as it was found, and the instance's id by the cloud's own word, where the place has one."""

    text: bytes
    instance_id: str | None = None


def read(place: str, tell: Callable[[str], None]) -> Found:
    """
    Return the user-data at a place: a path, or ``nocloud``, ``cmdline``, ``ec2``, ``openstack``; ``auto`` tries these.

    ``tell`` is told when others can read a file.

    :raises NotFound: there is none. :raises Unreachable: the service does not answer. :raises Malformed: too long.
    """
    if place == "auto":
        return _first()
    named = _named()
    return named[place]() if place in named else from_file(Path(place), tell)


def _named() -> dict[str, Callable[[], Found]]:
    """Return the places that have a name, in the order in which they are tried."""
    return {"cmdline": command_line, "nocloud": nocloud, "ec2": ec2, "openstack": openstack}


def _first() -> Found:
    tried = []
    for name, look in _named().items():
        try:
            return look()
        except (NotFound, Unreachable) as error:
            tried.append(f"{name}: {error.message}")
    raise NotFound(f"no user-data anywhere: {'; '.join(tried)}", hint="give it with --user-data FILE")


def from_file(path: Path, tell: Callable[[str], None]) -> Found:
    """Read a file, such as cloud-init has written it, which says then which instance this is."""
    return Found(files.read_told(path, tell, limit=MAX_USER_DATA), _by_cloud_init())


def _by_cloud_init(path: Path = _CLOUD_INIT) -> str | None:
    try:
        said = files.read_unforged(path, limit=MAX_USER_DATA).decode("utf-8", "replace").strip()
    except NotFound:
        return None
    return said if said and said != _NO_CLOUD else None


def nocloud(seeds: tuple[Path, ...] = _SEEDS) -> Found:
    """Read a seed of cloud-init's NoCloud: ``user-data``, and ``meta-data`` for the instance's id."""
    for seed in seeds:
        try:
            text = files.read_told(seed / "user-data", lambda _remark: None, limit=MAX_USER_DATA)
        except NotFound:
            continue
        return Found(text, _instance_id(seed / "meta-data"))
    raise NotFound(f"no user-data in {' or '.join(map(str, seeds))}", hint="a seed of NoCloud has user-data, meta-data")


def _instance_id(path: Path) -> str | None:
    """Return the id of a NoCloud meta-data, in JSON or in the one line of YAML that everybody writes."""
    try:
        text = files.read_told(path, lambda _remark: None, limit=MAX_USER_DATA).decode("utf-8", "replace")
    except NotFound:
        return None
    for line in text.splitlines():
        key, colon, value = line.strip().strip("{}, ").partition(":")
        if colon and key.strip().strip("'\"") == "instance-id":
            return value.strip().strip("'\", ") or None
    return None


def command_line(path: Path = _COMMAND_LINE) -> Found:
    """Read it from the kernel's command line, which every process can read: for what is introduced at once."""
    words = path.read_text("ascii", "replace").split()
    encoded = next((word.removeprefix(PREFIX) for word in words if word.startswith(PREFIX)), None)
    if encoded is None:
        raise NotFound(f"no {PREFIX!r} on the kernel's command line")
    try:
        return Found(_bounded(base64.b64decode(encoded, validate=True)))
    except binascii.Error:
        raise Malformed(f"what follows {PREFIX!r} is no base64", hint="base64 -w0 FILE") from None


def ec2(service: tuple[str, int] = _SERVICE) -> Found:
    """Ask AWS's instance metadata service, version 2, and whoever speaks as it does."""
    limit = {"X-aws-ec2-metadata-token-ttl-seconds": _TOKEN_SECONDS}
    token = _ask(service, "PUT", "/latest/api/token", limit).decode("ascii", "replace")
    shown = {"X-aws-ec2-metadata-token": token}
    instance_id = _ask(service, "GET", "/latest/meta-data/instance-id", shown).decode("ascii", "replace").strip()
    return Found(_ask(service, "GET", "/latest/user-data", shown), instance_id)


def openstack(service: tuple[str, int] = _SERVICE) -> Found:
    """Ask OpenStack's metadata service."""
    about = _ask(service, "GET", "/openstack/latest/meta_data.json", {})
    try:
        instance_id = str(json.loads(about)["uuid"])
    except (ValueError, KeyError, TypeError):
        raise Malformed("the metadata service does not say which instance this is") from None
    return Found(_ask(service, "GET", "/openstack/latest/user_data", {}), instance_id)


def _ask(service: tuple[str, int], method: str, path: str, headers: dict[str, str]) -> bytes:
    try:
        with closing(http.client.HTTPConnection(*service, timeout=PATIENCE)) as connection:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            body = answer.read(MAX_USER_DATA + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no metadata service: {type(error).__name__}", hint="is this machine in a cloud?") from None
    if answer.status == http.client.NOT_FOUND:
        raise NotFound(f"the metadata service has no {path!r}", hint="launch the instance with the user-data")
    if answer.status != http.client.OK:
        raise Unreachable(f"the metadata service answers {method} {path} with status {answer.status}")
    return _bounded(body)


def _bounded(text: bytes) -> bytes:
    if len(text) > MAX_USER_DATA:
        raise Malformed(f"user-data of over {MAX_USER_DATA} bytes", hint="give what `handfast instance add` printed")
    return text
