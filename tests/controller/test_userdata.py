"""The document that an instance is launched with: what YAML makes of it, and that nothing can be put into it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from handfast.agent import run
from handfast.agent.doors import MAX_CONNECTIONS
from handfast.agent.state import LARGE
from handfast.controller.http import MAX_ANSWER
from handfast.controller.userdata import SOCKET, STATE, UNIT, cloud_config
from handfast.core import instancedata
from handfast.core.agentjson import MAX_CONFIGURATION
from handfast.core.instancedata import FILE, InstanceData
from handfast.core.invitation import Address, InvitationLine
from handfast.core.secret import Secret
from handfast.errors import Malformed
from tests.authority.helpers import HOUR, NOW, Pki
from tests.interop.hosts import program

PKI = Pki.make()
LINE = InvitationLine(Secret(bytes(32)), PKI.pin, NOW, NOW + HOUR, (Address("registrar.lan", 7443),))
DATA = InstanceData("app1.lan", "i-1", PKI.root, LINE, listens=Address("::", 7575))


def files(data: InstanceData) -> dict[str, dict[str, str]]:
    """What is written, by path."""
    return {each["path"]: each for each in yaml.safe_load(cloud_config(data))["write_files"]}


@pytest.mark.parametrize("data", [DATA, replace(DATA, listens=None, dials=Address("2001:db8::1", 7576))])
def test_the_agent_reads_what_is_written(data: InstanceData) -> None:
    """The file has exactly the user-data, for root alone."""
    written = files(data)[FILE]
    assert (written["permissions"], written["owner"]) == ("0600", "root:root")
    read = instancedata.read(written["content"].encode())
    assert (read.instance, read.listens, read.dials) == (data.instance, data.listens, data.dials)
    assert read.line.reveal() == data.line.reveal()


def test_the_unit_starts_it() -> None:
    """systemd is told to, without waiting for it; no secret is in the unit, which everybody can read."""
    text = cloud_config(DATA)
    unit = files(DATA)[f"/etc/systemd/system/{UNIT}"]["content"]
    assert f"ExecStart=/usr/local/bin/handfast agent run --user-data {FILE} --state {STATE}\n" in unit
    assert "\nType=notify\n" in unit
    assert "\nExecReload=/bin/sh -c 'kill -HUP $MAINPID'\n" in unit  # after which the policy is another
    assert yaml.safe_load(text)["runcmd"][-1] == ["systemctl", "enable", "--now", "--no-block", SOCKET, UNIT]
    assert text.count("handfast1_") == 1
    assert "handfast1_" not in unit


def test_the_unit_bounds_it() -> None:
    """Memory for what it may be asked at once and not more; what a service left running is not ended with the agent."""
    unit = files(DATA)[f"/etc/systemd/system/{UNIT}"]["content"]
    assert "\nMemoryMax=512M\n" in unit
    assert 60 * 2**20 + 6 * LARGE * MAX_CONFIGURATION + 3 * MAX_CONNECTIONS * MAX_ANSWER < 512 * 2**20
    assert "\nKillMode=process\n" in unit
    assert "\nRestartPreventExitStatus=2 3\n" in unit  # a copy, a policy with a mistake: trying again mends nothing


@pytest.mark.parametrize("listens", [Address("::", 7575), Address("192.0.2.7", 75), Address("127.0.0.1", 7575)])
def test_systemd_holds_the_port(listens: Address) -> None:
    """While the agent is down no other user can have it: it is systemd's from the boot on, and is never given up."""
    written = files(replace(DATA, listens=listens))
    socket = written[f"/etc/systemd/system/{SOCKET}"]["content"]
    assert f"\nListenStream={listens}\n" in socket
    assert f"\nFileDescriptorName={run.SOCKET}\n" in socket
    assert "\nFreeBind=true\n" in socket  # the address may come later than we do
    assert "\nWantedBy=sockets.target\n" in socket
    assert "\nStartLimitIntervalSec=0\n" in written[f"/etc/systemd/system/{UNIT}"]["content"]


def test_who_dials_has_no_port() -> None:
    """For an agent that dials there is no socket."""
    dials = replace(DATA, listens=None, dials=Address("2001:db8::1", 7576))
    assert files(dials).keys() == {FILE, f"/etc/systemd/system/{UNIT}"}
    assert yaml.safe_load(cloud_config(dials))["runcmd"][-1][-2:] == ["--no-block", UNIT]


@pytest.mark.peer("systemd-analyze")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """There is no line that it refuses or ignores."""
    units = [Path(path) for path in files(DATA) if path != FILE]
    for path in units:
        # where the image has the program; here it need not be
        text = files(DATA)[str(path)]["content"].replace("/usr/local/bin/handfast", "/bin/true")
        (tmp_path / path.name).write_text(text)
    command = [program("systemd-analyze"), "verify", "--man=no", *(str(tmp_path / path.name) for path in units)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in said.stderr.splitlines() if "handfast" in line]  # others' units have their own troubles
    assert (said.returncode, ours) == (0, []), said.stderr


def test_its_head_says_what_it_is() -> None:
    """Whoever opens it reads until when it is a secret, and what the image needs."""
    head = [line for line in cloud_config(DATA).splitlines() if line.startswith("#")]
    assert head[0] == "#cloud-config"
    said = " ".join(line.removeprefix("# ") for line in head[1:])
    assert "The agent of app1.lan" in said
    assert "A secret until 2026-11-22 13:00Z" in said
    assert "may raise an alarm about it afterwards" in said
    assert max(map(len, head)) <= 102


@pytest.mark.parametrize("data", [DATA, replace(DATA, listens=None, dials=Address("2001:db8::1", 7576))])
def test_the_agent_reads_it_as_a_whole(data: InstanceData) -> None:
    """An agent that finds this document where its cloud keeps it has the same as one that reads the file in it."""
    found = instancedata.read(cloud_config(data).encode())
    assert instancedata.written(found) == instancedata.written(data)
    others = cloud_config(data) + "packages:\n  - nginx\n"
    assert instancedata.written(instancedata.read(others.encode())) == instancedata.written(data)


ENTRY = cloud_config(DATA).partition("write_files:\n")[2].partition("runcmd:")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#cloud-config\npackages: [nginx]\n", "that has our '/etc/handfast/agent/user-data' 0 times"),
        (cloud_config(DATA).replace("write_files:\n", f"write_files:\n{ENTRY}"), "user-data' 2 times"),
        (cloud_config(DATA).replace("\n  ", "\n    "), "user-data' 0 times"),
        (cloud_config(DATA).replace("\n", "\r\n"), "not the user-data of an instance"),
        (cloud_config(DATA).replace('"0600"', '"0644"'), "user-data' 0 times"),
        (cloud_config(DATA).replace("content: |", "content: >"), "user-data' 0 times"),
        (cloud_config(DATA).replace("- path", "# path"), "user-data' 0 times"),
        (cloud_config(DATA).replace("      }\n", ""), "not the user-data of an instance"),
        (cloud_config(DATA).replace('"id":', '"plain": true, "id":'), "unknown field `plain`"),
        ("#cloud-config\n" + instancedata.written(DATA), "user-data' 0 times"),
        (f"## template: jinja\n{cloud_config(DATA)}", "not the user-data of an instance"),
    ],
)
def test_another_document_is_not_guessed_at(text: str, message: str) -> None:
    """Somebody else's, two in one, one that was indented anew, or cut: it is refused, and its secret is not told."""
    with pytest.raises(Malformed) as refused:
        instancedata.read(text.encode())
    assert message in refused.value.message
    assert refused.value.hint
    assert "handfast1_" not in refused.value.message + refused.value.hint


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}", fullmatch=True))
def test_nothing_can_be_put_into_it(instance_id: str) -> None:
    """Whatever a cloud calls an instance, the document is the same but for that."""
    read = instancedata.read(files(replace(DATA, instance_id=instance_id))[FILE]["content"].encode())
    assert read.instance_id == instance_id


def test_it_fits_a_cloud() -> None:
    """Clouds take 16 KiB."""
    assert len(cloud_config(DATA)) < 6000
