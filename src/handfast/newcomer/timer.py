"""The systemd service and timer that keep a credential and SSH certificates fresh."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from handfast.adapters.files import write_atomic
from handfast.adapters.process import OURSELVES, child_environment
from handfast.errors import Fault, UsageError

SYSTEM_UNITS = Path("/etc/systemd/system")

_SERVICE = """\
# Written by `handfast renew --install`; `handfast renew --out {out}` does the same by hand.
[Unit]
Description=Renew what Handfast keeps in {out}
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
ExecStart={command}
# A hook runs under the same limits; what it may write is not limited, for it reloads services.
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
"""

_TIMER = """\
# Written by `handfast renew --install`. It asks often and changes seldom: --if-due decides.
[Unit]
Description=Ask whether what Handfast keeps in {out} is due

[Timer]
OnBootSec=2min
OnUnitActiveSec=30min
RandomizedDelaySec=10min

[Install]
WantedBy=timers.target
"""


def install_timer(out: Path, *, command: str | None, unit_dir: Path | None, ssh: bool = False) -> list[str]:
    """
    Write the units for what is in ``out`` and start the timer; return what was done, as sentences.

    With ``ssh`` SSH certificates are asked for also where there are none yet. With ``unit_dir`` the units are only
    written there.

    :raises UsageError: the path cannot stand in a unit, or this is no systemd.
    :raises Fault: systemctl failed; the units are in place.
    """
    place = out.absolute()
    if re.search(r"[\s%\"'\\$]", str(place)):
        raise UsageError(
            f"cannot put {str(place)!r} into a systemd unit", hint="use a path without blanks, quotes, % or $"
        )
    name = f"handfast-renew-{_escape(place)}"
    directory = unit_dir or _unit_directory()
    service, timer = directory / f"{name}.service", directory / f"{name}.timer"
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(service, _SERVICE.format(out=place, command=_exec_start(place, command, ssh=ssh)).encode(), 0o644)
    write_atomic(timer, _TIMER.format(out=place).encode(), 0o644)
    done = [f"wrote {service}", f"wrote {timer}"]
    if unit_dir is None:
        scope = [] if os.geteuid() == 0 else ["--user"]
        for step in (["daemon-reload"], ["enable", "--now", timer.name]):
            _systemctl([*scope, *step])
        done.append(f"started {timer.name}")
    return done


def has_timer(out: Path) -> bool:
    """Whether this user's systemd has the units for ``out``, with whatever hook they were written for."""
    return runs_systemd() and (_unit_directory() / f"handfast-renew-{_escape(out.absolute())}.timer").exists()


def runs_systemd() -> bool:
    """Whether this machine was booted with it (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def _unit_directory() -> Path:
    if not runs_systemd():
        raise UsageError(
            "this machine does not run systemd", hint="run `handfast renew --if-due` from cron, or give --unit-dir"
        )
    return SYSTEM_UNITS if os.geteuid() == 0 else Path.home() / ".config" / "systemd" / "user"


def _escape(path: Path) -> str:
    """As ``systemd-escape --path``: two directories never share a unit."""
    parts = (
        re.sub(rb"[^A-Za-z0-9:_.]", lambda found: b"\\x%02x" % found[0][0], os.fsencode(p)) for p in path.parts[1:]
    )
    return b"-".join(parts).decode()


def _exec_start(out: Path, command: str | None, *, ssh: bool) -> str:
    words = [*OURSELVES, "renew", "--out", str(out), *(["--ssh"] if ssh else []), "--if-due"]
    if command:
        words += ["--exec", command]
    return " ".join(_quote(word) for word in words)


def _quote(word: str) -> str:
    """Quote for ExecStart= (systemd.service(5)): C escapes in double quotes; % and $ are doubled."""
    if not word.isprintable():
        raise UsageError(f"cannot put {word[:80]!r} into a systemd unit", hint="put it into a script and name that")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _systemctl(arguments: list[str]) -> None:
    done = subprocess.run(
        ["systemctl", *arguments], env=child_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip()[:200]
        raise Fault(f"systemctl {' '.join(arguments)} failed: {said}", hint="see `systemctl status`")
