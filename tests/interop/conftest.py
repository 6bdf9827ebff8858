"""Machines and registrars that several tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import nifi_node
from tests.interop.hosts import Host, Network, Registrar, local_host, network


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """Three machines in namespaces."""
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def registrar(net: Network) -> Registrar:
    """A registrar across the cable, on the default ports: they are free in a namespace."""
    return Registrar(net.registrar, f"{net.REGISTRAR}:7443")


@pytest.fixture(scope="module")
def here() -> Iterator[Host]:
    """This machine, for what needs no network but loopback."""
    with local_host() as host:
        yield host


@pytest.fixture(scope="module")
def local(here: Host) -> Registrar:
    """A registrar on loopback."""
    return Registrar(here)


@pytest.fixture(scope="session")
def nifi_jars() -> Path:
    """
    The directory of NiFi's own classes. The test has the markers ``peer("mvn")`` and ``timeout(300)``.

    The first run on a machine fetches them, which takes half a minute.
    """
    return nifi_node.jars()
