"""
Coverage-guided fuzzing, by atheris, of what strangers send: one target, with libFuzzer's flags, until they say stop.

    PYTHONPATH=src:. python -m tests.fuzz handshake -max_total_time=60

A finding is shown, and the exit code is not 0. `./test --all` runs each target for a while (`test_fuzz.py`).
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any


def main(name: str, flags: list[str]) -> None:
    """Fuzz a target until the flags say stop."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["handfast.core", "handfast.introducers"]):
        from tests.fuzz.targets import TARGETS, one
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as directory:
        for number, seed in enumerate(target.seeds()):
            Path(directory, str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *flags, directory], lambda data: one(target, data))
        atheris.Fuzz()


main(sys.argv[1], sys.argv[2:])
