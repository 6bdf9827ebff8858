"""The two lock files: what pyproject.toml asks for, each other's equals, all hashed, and no registry named anywhere."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.bootstrap.checkout import ROOT, tracked_files

LOCKS = ("requirements.lock", "requirements-dev.lock")

# In parts: this file is searched too.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("python" + "hosted", "org"),
        ("anaconda", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("jsdelivr", "net"),
        ("unpkg", "com"),
        ("crates", "io"),
        ("rubygems", "org"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("pkg", "dev"),
        ("ghcr", "io"),
        ("docker", "io"),
        ("maven", "org"),
        ("debian", "org"),
        ("ubuntu", "com"),
    )
]


@cache
def entries(lock: str) -> dict[str, tuple[Requirement, str]]:
    """The lock's requirements by name, each with the text of its entry."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / lock).read_text(), flags=re.MULTILINE)
    found = [(Requirement(entry.split(" \\")[0]), entry) for entry in re.split(r"\n(?=\S)", text.strip())]
    return {canonicalize_name(requirement.name): (requirement, entry) for requirement, entry in found}


def direct(project: dict[str, Any], lock: str) -> list[Requirement]:
    """What pyproject.toml asks for in the environment that ``lock`` describes."""
    texts = list(project["project"]["dependencies"])
    if lock == "requirements-dev.lock":
        texts += [text for extra in project["project"]["optional-dependencies"].values() for text in extra]
        texts += project["dependency-groups"]["dev"] + project["build-system"]["requires"]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_direct_dependency_is_locked_to_a_version_it_allows(lock: str) -> None:
    """Who changes pyproject.toml and forgets `tools/lock` hears of it here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for wanted in direct(project, lock):
        assert canonicalize_name(wanted.name) in entries(lock), f"{wanted} is not in {lock}: run tools/lock"
        (pin,) = entries(lock)[canonicalize_name(wanted.name)][0].specifier
        assert wanted.specifier.contains(pin.version), f"{lock} has {pin.version} of {wanted}: run tools/lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_one_version_with_hashes(lock: str) -> None:
    """No range, no address, no path, no option: `name==version`, a marker perhaps, and SHA-256 hashes."""
    for name, (requirement, entry) in entries(lock).items():
        assert [spec.operator for spec in requirement.specifier] == ["=="], name
        first, *hashes = entry.split(" \\\n")
        assert requirement.url is None, first
        assert hashes, f"{name} has no hash"
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in hashes), name


def test_what_is_tested_is_what_is_run() -> None:
    """The development lock holds everything of the run lock, at the same version, with the same hashes."""
    run, development = (entries(lock) for lock in LOCKS)
    assert run
    assert {name: development.get(name) for name in run} == run


def test_no_registry_is_named() -> None:
    """Where packages come from is the user's setting; an address in the repository would overrule or betray it."""
    named = [
        f"{name}: {host}"
        for name in tracked_files()
        for host in REGISTRIES
        if host.encode() in (ROOT / name).read_bytes()
    ]
    assert named == []
