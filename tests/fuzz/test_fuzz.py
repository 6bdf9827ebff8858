"""What strangers send is read or refused, whatever it is; where atheris can be had, it looks for what is neither."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT
from tests.fuzz.targets import TARGETS, one

HAS_WHEELS = sys.version_info < (3, 14) and platform.machine() == "x86_64"  # as pyproject.toml asks for atheris


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_read(name: str) -> None:
    """What honest ones send begins the search, and a prefix of each is refused like anything else."""
    seeds = list(TARGETS[name].seeds())
    assert seeds
    for seed in seeds:
        for end in (len(seed), len(seed) // 2, 1, 0):
            one(TARGETS[name], seed[:end])


if HAS_WHEELS:  # a test that cannot run anywhere near is not one that was skipped

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("name", TARGETS)
    def test_nothing_but_our_errors_comes_of_it(name: str, tmp_path: Path) -> None:
        """20,000 inputs that reach ever more of the code, the same ones each time: none ends in a traceback."""
        flags = ["-runs=20000", "-seed=1", "-timeout=30", f"-artifact_prefix={tmp_path}/"]
        env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}  # tracing is slow
        env["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
        command = [sys.executable, "-m", "tests.fuzz", name, *flags]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
        assert "Done 20000 runs" in done.stdout + done.stderr
