"""The document that an instance is launched with: what YAML makes of it, and that nothing can be put into it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from handfast.controller.userdata import STATE, UNIT, USER_DATA, cloud_config
from handfast.core import instancedata
from handfast.core.instancedata import InstanceData
from handfast.core.invitation import Address, InvitationLine
from handfast.core.secret import Secret
from tests.authority.helpers import HOUR, NOW, Pki

PKI = Pki.make()
LINE = InvitationLine(Secret(bytes(32)), PKI.pin, NOW, NOW + HOUR, (Address("registrar.lan", 7443),))
DATA = InstanceData("app1.lan", "i-1", PKI.root, LINE, listens=Address("::", 7575))


def files(data: InstanceData) -> dict[str, dict[str, str]]:
    """What is written, by path."""
    return {each["path"]: each for each in yaml.safe_load(cloud_config(data))["write_files"]}


@pytest.mark.parametrize("data", [DATA, replace(DATA, listens=None, dials=Address("2001:db8::1", 7576))])
def test_the_agent_reads_what_is_written(data: InstanceData) -> None:
    """The file has exactly the user-data, for root alone."""
    written = files(data)[USER_DATA]
    assert (written["permissions"], written["owner"]) == ("0600", "root:root")
    read = instancedata.read(written["content"].encode())
    assert (read.instance, read.listens, read.dials) == (data.instance, data.listens, data.dials)
    assert read.line.reveal() == data.line.reveal()


def test_the_unit_starts_it() -> None:
    """systemd is told to, without waiting for it; no secret is in the unit, which everybody can read."""
    text = cloud_config(DATA)
    unit = files(DATA)[f"/etc/systemd/system/{UNIT}"]["content"]
    assert f"ExecStart=/usr/local/bin/handfast agent run --user-data {USER_DATA} --state {STATE}\n" in unit
    assert yaml.safe_load(text)["runcmd"][-1] == ["systemctl", "enable", "--now", "--no-block", UNIT]
    assert text.count("handfast1_") == 1
    assert "handfast1_" not in unit


def test_its_head_says_what_it_is() -> None:
    """Whoever opens it reads until when it is a secret, and what the image needs."""
    head = [line for line in cloud_config(DATA).splitlines() if line.startswith("#")]
    assert head[0] == "#cloud-config"
    said = " ".join(line.removeprefix("# ") for line in head[1:])
    assert "The agent of app1.lan" in said
    assert "A secret until 2026-11-22 13:00Z" in said
    assert max(map(len, head)) <= 102


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}", fullmatch=True))
def test_nothing_can_be_put_into_it(instance_id: str) -> None:
    """Whatever a cloud calls an instance, the document is the same but for that."""
    read = instancedata.read(files(replace(DATA, instance_id=instance_id))[USER_DATA]["content"].encode())
    assert read.instance_id == instance_id


def test_it_fits_a_cloud() -> None:
    """Clouds take 16 KiB."""
    assert len(cloud_config(DATA)) < 6000
