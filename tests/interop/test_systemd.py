"""systemd reads our units, and a booted machine runs them: start, reload, watchdog, sockets, the renewal's timer."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.bootstrap import test_new_machine
from tests.bootstrap.test_new_machine import Machine
from tests.docs.markdown import ROOT, blocks
from tests.interop.hosts import Host, Registrar, program
from tests.interop.nspawn import booting

machine = test_new_machine.machine  # the fixture
_UNITS = Path("etc/systemd/system")
_UNIT = re.compile(rf"^# /{_UNITS}/(handfast[a-z-]*\.[a-z]+)$", re.MULTILINE)
_PACKAGES = "systemd dbus python3-venv openssh-server"
_STORY = """\
[Unit]
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=/bin/bash /opt/handfast/tests/interop/booted.sh
StandardOutput=file:/root/told
StandardError=inherit
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""


def documented_units() -> dict[str, str]:
    """The units that docs/operations.md prints, by name."""
    found: dict[str, str] = {}
    for block in blocks((ROOT / "docs/operations.md").read_text()):
        _, *parts = _UNIT.split(block.text)
        found |= dict(zip(parts[::2], parts[1::2], strict=True))
    return found


def verify(*units: Path) -> None:
    """Ask systemd whether it understands every line; it warns about what it would ignore."""
    command = [program("systemd-analyze"), "verify", "--man=no"]
    said = subprocess.run([*command, *units], capture_output=True, text=True, check=False)
    ours = [line for line in said.stderr.splitlines() if "handfast" in line]  # others' units have their own troubles
    assert (said.returncode, ours) == (0, []), said.stderr


@pytest.mark.peer("systemd-analyze")
def test_systemd_understands_the_renewal_units(here: Host, local: Registrar) -> None:
    """What `renew --install` writes has no line that systemd refuses or ignores, whatever is in the hook."""
    out = here.join(local.invite("web.lan"), "web")
    hook = 'systemctl reload nginx; echo "100% $HOME"'
    here.handfast("renew", "--out", out, "--install", "--unit-dir", here.directory / "units", "--exec", hook)
    units = sorted((here.directory / "units").iterdir())
    assert [unit.suffix for unit in units] == [".service", ".timer"]
    verify(*units)


@pytest.mark.peer("systemd-analyze")
def test_systemd_understands_the_documented_units(tmp_path: Path) -> None:
    """The units of docs/operations.md have no line that systemd refuses or ignores."""
    units = documented_units()
    assert sorted(units) == [
        "handfast-crl.socket",
        "handfast-https.socket",
        "handfast-session.service",
        "handfast.service",
    ]
    for name, text in units.items():
        # where a new user has put the program; here it need not be
        (tmp_path / name).write_text(text.replace("/usr/local/bin/handfast", "/bin/true"))
    verify(*(tmp_path / name for name in units))


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.peer("debootstrap", "systemd-nspawn")
@pytest.mark.timeout(400)
def test_a_booted_machine(machine: Machine) -> None:
    """
    The documented units and the installed timer do, in a machine that systemd runs, what the documents say.

    The machine has no network but loopback, so its ports are free. booted.sh has the story.
    """
    machine.clone("/opt", 0)
    install = f"env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends {_PACKAGES}"
    made = machine.run("/opt", f"apt-get update -qq && {install} && ./handfast --version", user=0)
    assert made.returncode == 0, made.stderr
    (machine.root / "usr/local/bin/handfast").symlink_to("/opt/handfast/handfast")
    for name, text in documented_units().items():
        (machine.root / _UNITS / name).write_text(text)
    (machine.root / _UNITS / "story.service").write_text(_STORY)

    boot = booting("--directory", machine.root, "--private-network", "systemd.wants=story.service")
    booted = subprocess.run(
        boot, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=200, check=False
    )
    told = machine.root / "root/told"
    assert told.exists(), booted.stdout + booted.stderr
    assert told.read_text().endswith("passed\n"), told.read_text()
