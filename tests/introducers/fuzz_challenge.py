"""
Coverage-guided fuzzing of the host-key challenge's messages, for whoever has atheris: no test runs it.

    pip install atheris && PYTHONPATH=src python -m tests.introducers.fuzz_challenge -max_total_time=60

The first byte says which message the others are; it begins with the vectors. What is no error of ours is a finding.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handfast.core import wire
from handfast.core.challenge import Challenge, Parameters, Proof, to_look
from handfast.core.flow import Channel, Evidence
from handfast.errors import Refused, UntrustedPeer
from handfast.introducers.ssh_hostkey import PAYLOAD_NAMESPACE
from tests.introducers import vectors, vectors_challenge
from tests.introducers.challenges import CA, accept, judged, verify
from tests.introducers.stage import SERVER_SPKI


def asked(data: bytes) -> object:
    """Step 1."""
    return to_look(wire.decode(data, Parameters))


def proved(data: bytes) -> object:
    """Step 3."""
    return accept(wire.decode(data, Proof))


def redeemed(data: bytes) -> object:
    """Step 5."""
    return verify(Evidence("ssh-hostkey", data, Channel(SERVER_SPKI)))


def challenged(data: bytes) -> object:
    """The answer to step 1, well signed by a CA whose registrar is up to no good."""
    return judged(Challenge(data, CA.sign(data, PAYLOAD_NAMESPACE)))


STEPS: dict[str, Callable[[bytes], object]] = {
    "parameters": asked,
    "challenge": challenged,
    "proof": proved,
    "request": redeemed,
}


def one(data: bytes) -> None:
    """Read a message."""
    if data:
        read = [*STEPS.values()][data[0] % len(STEPS)]
        try:
            read(data[1:])
        except (Refused, UntrustedPeer):
            return


def seeds(directory: Path) -> None:
    """Write the vectors to begin with."""
    for path in vectors.files(vectors_challenge.FOLDER):
        vector = vectors_challenge.load(path)
        number = [*STEPS].index(vector.step)
        (directory / path.stem).write_bytes(bytes([number]) + vector.payload.encode())


def main(arguments: list[str]) -> None:
    """Fuzz with libFuzzer's flags until they say stop."""
    atheris: Any = importlib.import_module("atheris")
    with tempfile.TemporaryDirectory() as directory:
        seeds(Path(directory))
        atheris.instrument_all()
        atheris.Setup([*arguments, directory], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
