"""
Machines that systemd-nspawn boots, each in control groups of its own.

Without a systemd out here that gives it a scope, nspawn puts a machine below the groups that it is started in: all
machines of a test, and of the other worker's, into the same ones. Their units have the same names, so one machine's
systemd would remove the group that another's has just made for a service (219/CGROUP).
"""

from __future__ import annotations

import atexit
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from tests.interop.hosts import program

_ENTER = 'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'


def booting(*options: object) -> tuple[str, ...]:
    """Return the command that boots a machine; the process that it makes is nspawn's."""
    name = f"handfast-{uuid4()}"
    groups = [here / name for here in _groups()]
    for group in groups:
        group.mkdir()
        atexit.register(_remove, group)
    boot = (program("systemd-nspawn"), "--boot", "--register=no", "--keep-unit", "--console=read-only")
    return ("/bin/sh", "-c", _ENTER, "sh", *map(str, groups), "--", *boot, *map(str, options))


def _groups() -> list[Path]:
    """Return ours, in the hierarchies in which a systemd has its units: v2's, and on older systems its own of v1."""
    ours = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, kinds, path = line.split(":", 2)
        ours[kinds] = path
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, about = (part.split() for part in line.split(" - "))
        kind = "" if about[0] == "cgroup2" else "name=systemd"
        if about[0] in {"cgroup", "cgroup2"} and kind in ours and (not kind or kind in about[2].split(",")):
            found.append(Path(mount[4], os.path.relpath(ours[kind], mount[3])).resolve())
    return found


def _remove(group: Path) -> None:
    for folder, _folders, _files in os.walk(group, topdown=False):
        with suppress(OSError):  # somebody still runs in it
            Path(folder).rmdir()
