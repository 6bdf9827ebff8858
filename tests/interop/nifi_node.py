"""
Programs that open a NiFi node's stores: one that knows Java alone, and one with NiFi's own classes.

The classes come from Maven's registry, once, and are checked against nifi/jars.sha256 each time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.interop.hosts import Done, Host, Process, program
from tests.interop.nifi_toolkit import JAVA

NIFI = Path(__file__).with_name("nifi")
PINS = NIFI / "jars.sha256"
_CACHE = Path(sys.prefix, "cache")


def jars() -> Path:
    """Return the directory of NiFi's own classes, fetched if they are not there: the one step with a network."""
    # Other pins are another directory, so that one which is there is whole.
    kept = _CACHE / f"nifi-{hashlib.sha256(PINS.read_bytes()).hexdigest()[:16]}"
    _CACHE.mkdir(exist_ok=True)
    with kept.with_suffix(".lock").open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # workers run at the same time
        if not kept.exists():
            _fetch(kept)
    check(kept)
    return kept


def check(directory: Path) -> None:
    """Refuse archives that are not exactly those that were pinned."""
    pinned = {name: value for value, name in map(str.split, PINS.read_text().splitlines())}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}
    differing = sorted(name for name in pinned.keys() | found.keys() if pinned.get(name) != found.get(name))
    assert not differing, f"in {directory} these are not what {PINS.name} pins: {', '.join(differing)}"


def _fetch(kept: Path) -> None:
    new, repository = kept.with_suffix(".new"), kept.with_suffix(".maven")
    shutil.rmtree(new, ignore_errors=True)
    subprocess.run(
        [
            program("mvn"), "--batch-mode", "--quiet", "--strict-checksums", "--file", NIFI / "pom.xml",
            f"-Dmaven.repo.local={repository}", f"-DoutputDirectory={new}", "-DincludeScope=runtime",
            "dependency:copy-dependencies",
        ],
        check=True,
        env=os.environ | {"MAVEN_OPTS": "-Xshare:auto -XX:TieredStopAtLevel=1"},
    )  # fmt: skip
    check(new)
    new.rename(kept)
    shutil.rmtree(repository)


def stores(config: Mapping[str, Any], directory: Path) -> str:
    """Return the properties by which a node names the stores of which the client's config.json tells."""
    return "".join(
        f"nifi.security.{ours}={value}\n"
        for ours, value in {
            "keystore": directory / config["keyStore"],
            "keystoreType": config["keyStoreType"],
            "keystorePasswd": config["keyStorePassword"],
            "keyPasswd": config["keyPassword"],
            "truststore": directory / config["trustStore"],
            "truststoreType": config["trustStoreType"],
            "truststorePasswd": config["trustStorePassword"],
        }.items()
    )


def installed(directory: Path) -> Path:
    """
    Return a nifi.properties whose ``./conf/`` is the directory in which it lies, with the stores.

    NiFi is installed by copying such a directory's files to ``conf`` in its home.
    """
    path = directory / "installed.properties"
    path.write_text((directory / "nifi.properties").read_text().replace("=./conf/", f"={directory}/"))
    return path


class Pair:
    """A Java program which answers callers that it can verify, and another that calls it. Properties say with what."""

    def __init__(self, host: Host, properties: Path, address: str = "127.0.0.1") -> None:
        self.host = host
        self.process: Process = host.start(*JAVA, NIFI / "Pair.java", "serve", properties, address, "0")
        self.address, self.port = address, int(self.process.expect("serving").split()[1])

    def call(self, properties: Path, name: str, *, code: int | None = 0) -> Done:
        """Call it by ``name``, whoever the name service says that is."""
        names = self.host.put("pair-names", f"{self.address} {name}\n")
        java = (*JAVA, f"-Djdk.net.hosts.file={names}", NIFI / "Pair.java")
        return self.host.run(*java, "call", properties, name, str(self.port), "good morning", code=code)


def node(host: Host, classes: Path, *arguments: str | Path, code: int | None = 0) -> Done:
    """Run nifi/Node.java with NiFi's own classes, which are what ``jars`` returned."""
    return host.run(*JAVA, "-cp", f"{classes}/*", NIFI / "Node.java", *arguments, code=code)
