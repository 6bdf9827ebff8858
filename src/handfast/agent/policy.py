"""
The agent's own policy: which services its controller may touch, and how. What is not in it cannot be reached.

A TOML file of root's on the machine itself, which nobody else may write, or exchange for another. The controller cannot
read it, and cannot change it: so whoever takes over a controller has what these machines have chosen to give, and no
more.

    hosts_file = "/etc/hosts"           # the original's /cluster_member_addresses may write there; without, nothing may
    looks = true                        # it may have this machine look at SSH hosts; without, it may not
    [service.nginx]
    kind = "systemd"                    # or "supervisord", "command", "mock"
    unit = "nginx.service"
    operations = ["status", "start", "stop", "restart", "artifacts", "logs"]
    logs = "/var/log/nginx"
    artifacts = "/srv/www"

``configure`` gives whatever the service's own configuration can say, as the user who starts it: see the examples in
docs/protocols/agent.md before giving it.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from handfast.adapters import places
from handfast.adapters.places import Use
from handfast.agent.artifacts import Artifacts
from handfast.agent.logs import PATTERN, Logs
from handfast.agent.services.base import Backend
from handfast.agent.services.command import Command
from handfast.agent.services.mock import Mock
from handfast.agent.services.supervisord import Supervisord
from handfast.agent.services.systemd import Systemd
from handfast.core.agentjson import MAX_FILES, MAX_SERVICES
from handfast.core.names import IPNetwork, network
from handfast.errors import ConfigError, HandfastError, NotFound, Unsafe

DEFAULT = Path("/etc/handfast/agent/policy.toml")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@\\-]{0,254}", re.ASCII)  # above all no option
# Nothing that a server could read in two ways: no user, quoting, backslash, parameter, query.
_PREFIX = re.compile(r"https://[A-Za-z0-9_.:\[\]-]+/([A-Za-z0-9._~!$&'()*+,=:@-]+/)*", re.ASCII)
_GB = 1024**3
_MAX_FILE = 1024 * 1024  # bytes
_MAX_DOTS = 200  # of a line: each may be a table in a table, for which tomllib's memory is the square of their number
_Argv = list[Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]]


class Operation(StrEnum):
    """What a controller may do with a service."""

    STATUS = "status"
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    CONFIGURE = "configure"
    ARTIFACTS = "artifacts"
    LOGS = "logs"


class Apply(StrEnum):
    """What happens when a file was changed."""

    RELOAD = "reload"
    RESTART = "restart"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """
    A file that the controller may write; ``check`` is run with it in its place, and says whether it stays.

    ``mode`` None is that of the file before; what may be read by others is no controller's to say.
    """

    path: Path
    check: tuple[str, ...]
    apply: Apply
    mode: int | None


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """One service: what it is, and what may be done with it. ``pull`` are URLs under which artifacts may be fetched."""

    name: str
    full_name: str
    backend: Backend
    operations: frozenset[Operation]
    files: dict[str, ConfigFile]
    logs: Logs | None = None
    artifacts: Artifacts | None = None
    pull: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Looking:
    """Where this machine may look for SSH hosts besides public addresses and port 22: see ``ssh.guard.Guard``."""

    allow: tuple[IPNetwork, ...] = ()
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """
    All that a controller may reach: services by name, and the hosts(5) file for a cluster's members, if any.

    ``looking`` None: this machine looks at no hosts for it.
    """

    services: dict[str, ServicePolicy] = field(default_factory=dict)
    hosts_file: Path | None = None
    looking: Looking | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    check: _Argv = []
    apply: Apply = Apply.RELOAD
    mode: Annotated[int, Meta(ge=0, le=0o777)] | None = None


class _Service(msgspec.Struct, forbid_unknown_fields=True):
    kind: Literal["systemd", "supervisord", "command", "mock"]
    operations: list[Operation]
    full_name: Annotated[str, Meta(max_length=200)] = ""
    unit: str = ""
    program: str = ""
    supervisord: str | None = None
    query: _Argv = []
    start: _Argv = []
    stop: _Argv = []
    restart: _Argv = []
    reload: _Argv = []
    delay: Annotated[float, Meta(ge=0, le=60)] = 0.0
    logs: str | None = None
    log_pattern: str = PATTERN
    artifacts: str | None = None
    artifact_limit: Annotated[int, Meta(ge=1)] = 4 * _GB
    artifacts_total: Annotated[int, Meta(ge=1)] | None = None
    artifact_mode: Annotated[int, Meta(ge=0, le=0o777)] = 0o644
    pull: list[str] = []
    files: dict[str, _File] = {}


class _Policy(msgspec.Struct, forbid_unknown_fields=True):
    hosts_file: str | None = None
    looks: bool = False
    looks_allow: list[str] = []
    looks_ports: Annotated[list[Annotated[int, Meta(ge=1, le=65535)]], Meta(max_length=16)] = []
    service: dict[str, _Service] = {}


def load(path: Path) -> Policy:
    """
    Read the policy in a file; where nothing is at ``DEFAULT`` that is a policy too, which gives nothing.

    :raises NotFound: there is none. :raises Unsafe: others can write it, or choose which file it is, and so could have
    programs run as root; or it is no file. :raises ConfigError, TooMuch, Fault: as ``parse``, too long, or the disk.
    """
    place = Path(os.path.abspath(path))
    try:
        text = _content(place)
    except NotFound:
        if place == DEFAULT:
            return Policy()
        raise
    return parse(text, source=str(path))


def _content(path: Path) -> bytes:
    """
    Return what is in a file, if nobody but root and we can say that, or which file ``path`` is.

    Where another may rename a directory on the way, or lead a link elsewhere, an older policy of root's, which gave
    more, would do. From the root on, each part is held by those before it: so what was looked at here stays.
    """
    with places.opened(path.parent, Use.TRUST) as folder:
        about = folder.about(path.name)
        if about is None:
            raise NotFound(f"no file {str(path)!r}", hint="check the path")
        text = folder.read(path.name, limit=_MAX_FILE)
    if about.st_uid not in {0, os.geteuid()}:
        raise Unsafe(f"{str(path)!r} belongs to user id {about.st_uid}", hint="it has to be root's, or yours")
    if about.st_mode & 0o022:
        raise Unsafe(
            f"{str(path)!r} can be written by others (mode {stat.S_IMODE(about.st_mode):04o})",
            hint=f"look at what is in it, then chmod go-w {path}",
        )
    return text


def parse(text: bytes, *, source: str) -> Policy:
    """
    Read a policy; ``source`` names it in messages.

    *Not* checked: that programs, units and directories exist, which may come later than the agent.

    :raises ConfigError: not TOML, an unknown key, or something that could reach further than it says.
    """
    for number, line in enumerate(text.split(b"\n"), 1):
        if line.count(b".") > _MAX_DOTS:
            raise ConfigError(f"{source!r} is no policy: over {_MAX_DOTS} dots in line {number}", hint="break the line")
    try:
        read = msgspec.toml.decode(text, type=_Policy)
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors, and so are tomllib's other ones
        raise ConfigError(f"{source!r} is no policy: {error}", hint="see docs/protocols/agent.md") from None
    if len(read.service) > MAX_SERVICES:
        raise ConfigError(f"{source!r} has {len(read.service)} services", hint=f"{MAX_SERVICES} are the most")
    services = {name: _service(name, each, f"{source!r}, service {name!r}") for name, each in read.service.items()}
    hosts_file = None if read.hosts_file is None else _absolute(read.hosts_file, repr(source))
    return Policy(services, hosts_file, _looking(read, repr(source)))


def _looking(said: _Policy, where: str) -> Looking | None:
    try:
        allow = tuple(map(network, said.looks_allow))
    except HandfastError as error:
        raise ConfigError(f"{where}: looks_allow: {error.message}", hint='such as ["10.0.0.0/8"]') from None
    return Looking(allow, tuple(said.looks_ports)) if said.looks else None


def _service(name: str, said: _Service, where: str) -> ServicePolicy:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: not a name", hint="lower-case letters, digits, _ and -")
    if len(said.files) > MAX_FILES:
        raise ConfigError(f"{where}: {len(said.files)} files", hint=f"{MAX_FILES} are the most of one service")
    operations = frozenset(said.operations)
    needed = {Operation.LOGS: said.logs, Operation.ARTIFACTS: said.artifacts, Operation.CONFIGURE: said.files}
    for operation, what in needed.items():
        if (operation in operations) != bool(what):
            missing = "files" if operation is Operation.CONFIGURE else operation.value
            raise ConfigError(
                f"{where}: operation {operation.value!r} and {missing!r} go together", hint="both, or none"
            )
    return ServicePolicy(
        name=name,
        full_name=said.full_name or name,
        backend=_backend(said, where),
        operations=operations,
        files={key: _file(key, each, where) for key, each in said.files.items()},
        logs=Logs(_absolute(said.logs, where), _pattern(said.log_pattern, where)) if said.logs else None,
        artifacts=_artifacts(said, _absolute(said.artifacts, where)) if said.artifacts else None,
        pull=tuple(_prefix(each, where) for each in said.pull),
    )


def _artifacts(said: _Service, directory: Path) -> Artifacts:
    total = 4 * said.artifact_limit if said.artifacts_total is None else said.artifacts_total
    return Artifacts(directory, said.artifact_limit, total, said.artifact_mode)


def _backend(said: _Service, where: str) -> Backend:
    match said.kind:
        case "systemd":
            return Systemd(_word(said.unit, "unit", where))
        case "supervisord":
            configuration = None if said.supervisord is None else str(_absolute(said.supervisord, where))
            return Supervisord(_word(said.program, "program", where), configuration)
        case "command":
            for key, argv in (("query", said.query), ("start", said.start), ("stop", said.stop)):
                if not argv:
                    raise ConfigError(f"{where}: a command needs {key!r}", hint='query = ["/usr/bin/x", "status"]')
            return Command(*map(tuple, (said.query, said.start, said.stop, said.restart, said.reload)))
        case "mock":
            return Mock(said.delay)


def _word(text: str, key: str, where: str) -> str:
    if not _UNIT.fullmatch(text):
        raise ConfigError(f"{where}: {key} = {text[:80]!r} is no name", hint=f'{key} = "nginx.service"')
    return text


def _absolute(text: str, where: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts or "\0" in text:
        raise ConfigError(f"{where}: {text[:80]!r} is no absolute path", hint="give it in full, without ..")
    return path


def _pattern(text: str, where: str) -> str:
    if not text or "/" in text:
        raise ConfigError(f"{where}: log_pattern = {text[:80]!r} is no pattern of a name", hint='such as "*.log"')
    return text


def _prefix(text: str, where: str) -> str:
    try:
        parts = urlsplit(text)
        good = _PREFIX.fullmatch(text) and parts.hostname and parts.port != 0
        good = good and not {"", ".", ".."} & set(parts.path.split("/")[1:-1])
    except ValueError:  # half an IPv6 address, a port beyond the last
        good = False
    if not good:
        # Without the slash `https://repo.example` would be the beginning of `https://repo.example.evil/`.
        raise ConfigError(
            f"{where}: pull = {text[:80]!r}", hint="https://host/folder/ with a slash at its end, and nothing quoted"
        )
    return text


def _file(key: str, said: _File, where: str) -> ConfigFile:
    if not _NAME.fullmatch(key):
        raise ConfigError(f"{where}: not a name of a file: {key[:80]!r}", hint="lower-case letters, digits, _ and -")
    return ConfigFile(_absolute(said.path, where), tuple(said.check), said.apply, said.mode)
