"""
Where an agent finds its user-data: a file, the kernel's command line, cloud-init's own copy, a metadata service.

What comes from there decides whom the agent obeys, so it is read once, before anything listens, and the services are
asked only at their own link-local address. Whoever can answer there, or write these files, is the hypervisor or root.
Where the service is Google's, the agent can show its key there as well.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
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
_GIVEN = Path("/var/lib/cloud/instances")  # a directory for each that cloud-init has seen this disk be
_CLOUD_INIT = Path("/run/cloud-init/.instance-id")  # made at each boot, so no copied disk has another's
_CLOUD_ID = Path("/run/cloud-init/cloud-id")  # as that
_NO_CLOUD = "iid-datasource-none"  # what cloud-init says where it has found none
_SERVICE = ("169.254.169.254", 80)
_TOKEN_SECONDS = "60"
_GOOGLE = {"Metadata-Flavor": "Google"}  # what a forwarded request of somebody else does not have
_ATTRIBUTES = "/computeMetadata/v1/instance/guest-attributes"


@dataclass(frozen=True, slots=True)
class Found:
    """
    User-data as it was found, and the instance's id by the cloud's own word, where the place has one.

    ``google``: this machine is in Google's cloud, where it has guest attributes.
    """

    text: bytes
    instance_id: str | None = None
    google: bool = False


def read(place: str, tell: Callable[[str], None]) -> Found:
    """
    Return the user-data at a place: a path, ``cmdline``, ``nocloud``, ``cloud-init``, ``ec2``, ``gce``, ``openstack``.

    ``auto`` tries those that have a name, in this order. ``tell`` is told when others can read a file.

    :raises NotFound: there is none. :raises Unreachable: the service does not answer. :raises Malformed: too long.
    """
    if place == "auto":
        return _first()
    named = _named()
    return named[place]() if place in named else from_file(Path(place), tell)


def _named() -> dict[str, Callable[[], Found]]:
    """Return the places that have a name, in the order in which they are tried."""
    return {
        "cmdline": command_line,
        "nocloud": nocloud,
        "cloud-init": cloud_init,
        "ec2": ec2,
        "gce": gce,
        "openstack": openstack,
    }


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
    text = files.read_told(path, tell, limit=MAX_USER_DATA)
    return Found(text, _by_cloud_init(), google=_said(_CLOUD_ID) == "gce")


def cloud_init() -> Found:
    """
    Read what cloud-init was given, wherever it found that: on a volume such as NoCloud's or a config drive, too.

    Only what is of this boot, by its own word: on a copied disk there is what another machine was given.
    """
    instance_id = _by_cloud_init()
    if instance_id is None:
        raise NotFound("cloud-init has not said which instance this is", hint="start the agent after cloud-init")
    path = _GIVEN / instance_id.replace("/", "_") / "user-data.txt"  # as cloud-init names it
    if path.exists() and not os.access(path, os.R_OK, effective_ids=True):
        raise NotFound(f"{str(path)!r} is for root alone", hint="run the agent as root, or give it a file of its own")
    text = files.read_told(path, lambda _remark: None, limit=MAX_USER_DATA)
    if not text.strip():
        raise NotFound("cloud-init was given no user-data", hint="launch the instance with it")
    return Found(text, instance_id, google=_said(_CLOUD_ID) == "gce")


def _by_cloud_init() -> str | None:
    said = _said(_CLOUD_INIT)
    return said if said != _NO_CLOUD else None


def _said(path: Path) -> str | None:
    """Return what cloud-init has written to a file of its own."""
    try:
        return files.read_unforged(path, limit=MAX_USER_DATA).decode("utf-8", "replace").strip() or None
    except NotFound:
        return None


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
    except ValueError:  # of base64, or of a word that is not ASCII
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


def gce(service: tuple[str, int] = _SERVICE) -> Found:
    """Ask Google's metadata server; user-data is an attribute there, which people set as they do for cloud-init."""
    instance_id = _ask(service, "GET", "/computeMetadata/v1/instance/id", _GOOGLE).decode("ascii", "replace").strip()
    return Found(
        _ask(service, "GET", "/computeMetadata/v1/instance/attributes/user-data", _GOOGLE), instance_id, google=True
    )


def write_attribute(namespace: str, key: str, value: str, service: tuple[str, int] = _SERVICE) -> None:
    """
    Write a guest attribute of this machine, in Google's cloud: whoever may ask its API reads it, and processes here.

    :raises Unreachable, NotFound: it was not taken, as where guest attributes are not enabled.
    """
    _ask(service, "PUT", f"{_ATTRIBUTES}/{namespace}/{key}", _GOOGLE, value.encode())


def _ask(service: tuple[str, int], method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> bytes:
    try:
        with closing(http.client.HTTPConnection(*service, timeout=PATIENCE)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            body = answer.read(MAX_USER_DATA + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no metadata service: {type(error).__name__}", hint="is this machine in a cloud?") from None
    if answer.status == http.client.NOT_FOUND:
        raise NotFound(f"the metadata service has no {path!r}", hint="launch the instance with the user-data")
    if not 200 <= answer.status < 300:
        raise Unreachable(f"the metadata service answers {method} {path} with status {answer.status}")
    return _bounded(body)


def _bounded(text: bytes) -> bytes:
    if len(text) > MAX_USER_DATA:
        raise Malformed(f"user-data of over {MAX_USER_DATA} bytes", hint="give what `handfast instance add` printed")
    return text
