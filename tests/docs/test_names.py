"""What the documents name exists, and what exists is documented: files, links, codes, metrics, settings, limits."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from handfast import errors
from handfast.adapters import files
from handfast.adapters.problems import STATUS
from handfast.cli.exit_codes import DONE, EXIT_CODES, INTERRUPTED, exit_code
from handfast.config import settings
from handfast.core.roles import Role
from handfast.introducers import nifi
from handfast.ledger import entries, host_entries
from handfast.newcomer.layouts import LAYOUTS
from handfast.server.limits import Limits
from handfast.server.metrics import Metrics
from handfast.server.routes import ROUTES
from handfast.sessions import connect, control, engine, hello, local, party, relay, revocations, trust
from tests.architecture.sources import PACKAGE
from tests.docs.markdown import DOCUMENTS, ROOT, blocks

_ALSO_LOGGED = {*entries._BOUNDED, host_entries.REGISTERED, *host_entries.OF_A_MACHINE}
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ERRORS = (ROOT / "docs" / "errors.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_SOURCE = re.compile(r"`([\w./-]+\.(?:py|toml|md|lock|sqlite3))`")


def _prose(path: Path) -> str:
    """The document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def _anchors(path: Path) -> set[str]:
    """The fragments that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", _prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(path: Path) -> None:
    """A link inside the repository leads to a file, and its fragment to a heading."""
    for target in _LINK.findall(_prose(path)):
        if re.match(r"https?://", target):
            continue
        name, _, fragment = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{target} leads nowhere"
        if fragment and file.suffix == ".md":
            assert fragment in _anchors(file), f"{target}: no such heading"


def test_the_map_names_only_what_exists() -> None:
    """Each file in ARCHITECTURE.md is in the package or in the repository."""
    named = set(_SOURCE.findall(ARCHITECTURE))
    folders = [ROOT, PACKAGE, ROOT / "tests", *(p for p in PACKAGE.iterdir() if p.is_dir())]
    assert len(named) > 40
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in folders)] == []


def test_the_map_shows_every_layer() -> None:
    """The layers in ARCHITECTURE.md are those that import-linter holds."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    shown = [re.split(r"  +", line)[0] for block in blocks(ARCHITECTURE) for line in block.text.splitlines()]
    assert [layer for layer in layers if layer not in shown] == []


def test_other_documents_name_only_files_that_exist() -> None:
    """A path with a folder, in any document, is in the package or in the repository."""
    lost = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in DOCUMENTS
        for name in _SOURCE.findall(_prose(path))
        if "/" in name and not name.startswith(("authority/", "/", "."))
        if not any((folder / name).exists() for folder in (ROOT, PACKAGE, PACKAGE.parent))
    ]
    assert lost == []


@pytest.mark.parametrize("kind", list(EXIT_CODES))
def test_exit_codes_are_documented(kind: type[errors.HandfastError]) -> None:
    """Every exit code stands in the table of errors.md."""
    for code in (EXIT_CODES[kind], DONE, INTERRUPTED):
        assert re.search(rf"^\| {code} \|", ERRORS, re.MULTILINE)


def test_every_code_has_its_true_row() -> None:
    """Code, exit code and HTTP status are as the program has them, and no row is left over."""
    found = re.findall(r"^\| `([a-z-]+)` \|.*?\| (\d+) \| (\d+) \|", ERRORS, re.MULTILINE)
    rows = {code: (int(leave), int(http)) for code, leave, http in found}
    assert rows == {kind.code: (exit_code(_example(kind)), status) for kind, status in STATUS.items()}


def _example(kind: type[errors.HandfastError]) -> errors.HandfastError:
    return errors.PolicyRefused(("no",)) if kind is errors.PolicyRefused else kind("no")


def test_metrics_are_documented() -> None:
    """Every metric of ours is in operations.md by its exported name, and no other is."""
    exported = set()
    for metric in Metrics().registry.collect():
        if metric.name.startswith("handfast_"):
            exported.add(metric.name + "_total" * (metric.type == "counter"))
    assert set(re.findall(r"`(handfast_[a-z_]+)`", OPERATIONS)) == exported


def test_the_configuration_example_is_complete_and_true(tmp_path: Path) -> None:
    """Every key is in the example of operations.md, and the program accepts it."""
    example = next(block.text for block in blocks(OPERATIONS) if "config" in block.marks)
    path = tmp_path / "config.toml"
    path.write_text(example)
    settings.load(path)
    source = "".join(path.read_text() for path in (PACKAGE / "config").glob("*.py"))
    known = {key.rpartition(".")[2] for key in re.findall(r'\.take\("([^"]+)"', source)} | set(Role)
    known |= {method.replace("-", "_") for method in settings.Config().rules.methods} | {"x5c"}  # off by default
    named = set(re.findall(r"\b([a-z0-9_]+) =", example))  # in its comments too: some exclude each other
    assert (known - named, set(_keys(tomllib.loads(example))) - known) == (set(), set())


def _keys(table: dict[str, Any]) -> Iterator[str]:
    """Every key whose value is no table, whatever table it is in."""
    for key, value in table.items():
        within = value if isinstance(value, list) else [value]
        if all(isinstance(each, dict) for each in within) and within:
            for each in within:
                yield from _keys(each)
        else:
            yield key


def test_environment_variables_are_documented() -> None:
    """Every variable that the sources read is in operations.md."""
    sources = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    named = set(re.findall(r"\bHANDFAST_[A-Z_]*[A-Z]\b", sources))
    assert [name for name in sorted(named) if f"`{name}`" not in OPERATIONS] == []


def test_routes_are_documented() -> None:
    """Every endpoint is in operations.md."""
    assert [route.path for route in ROUTES if route.path not in OPERATIONS] == []


def test_layouts_and_roles_are_documented() -> None:
    """Every layout but the one that is always there, and every role, has its row."""
    assert [name for name in LAYOUTS if name != "pem" and f"| `{name}` |" not in OPERATIONS] == []
    assert [role for role in Role if f"| `{role}` |" not in OPERATIONS] == []


def test_log_entries_are_documented() -> None:
    """Every kind of entry that the ledger writes has its row in protocols/log.md."""
    page = (ROOT / "docs" / "protocols" / "log.md").read_text()
    assert [kind for kind in sorted({*entries.OF_TABLES, *_ALSO_LOGGED}) if f"`{kind}`" not in page] == []


def test_limits_are_as_documented() -> None:
    """The figures of operations.md are the program's."""
    limits = Limits()
    for figure in (limits.connections, limits.connections_per_source, limits.introductions_burst):
        assert str(figure) in OPERATIONS
    assert (limits.body, limits.line, limits.header, limits.headers) == (64 * 1024, 2048, 4096, 64)
    assert limits.handshake_timeout == limits.head_timeout == limits.body_timeout == 10
    assert (limits.introductions, limits.failures, limits.failures_burst, limits.drain) == (50, 1, 30, 20)
    assert files.MAX_PRIVATE_FILE == 1 << 20
    assert len(fields(Limits)) >= 15
    assert f"| one-time tokens for NiFi that are open | {nifi.MOST_TOKENS} |" in OPERATIONS
    assert f"at most {nifi.MOST_TOKENS} one-time tokens" in (ROOT / "docs" / "protocols" / "nifi.md").read_text()


def test_limits_of_sessions_are_as_documented() -> None:
    """The figures of protocols/sessions.md are the program's."""
    page = (ROOT / "docs" / "protocols" / "sessions.md").read_text()
    of = engine.Limits()
    assert (of.connections, of.strangers, of.handshake, of.frame, of.answer, of.idle) == (2048, 256, 10, 5, 20, None)
    assert (hello.MAX_FRAME, hello.MAX_CRL, relay.BUFFER, local.DIAL_TIMEOUT) == (65535, 44 << 10, 256 << 10, 10)
    assert (control.PING, control.DEAD, connect.CALL_BACK, party.MAX_FILE) == (15, 45, 15, 256 << 10)
    assert (hello.MIN_INTERVAL, hello.MAX_INTERVAL, revocations.MAX_CLOCK_SKEW.days, trust.INTERVAL) == (
        0.1,
        86400,
        1,
        0.25,
    )
    for figure in ("| 2048 |", "| 256;", "10 s; 5 s; 20 s; 10 s", "65535; 44 KiB", "256 KiB each way", "0.1 … 86400 s"):
        assert figure in page


def test_claims_have_their_tests() -> None:
    """Every proof obligation of the threat model has tests with its id, and every folder it names exists."""
    page = (ROOT / "docs" / "threat-model.md").read_text()
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    ids = set(re.findall(r"\*\*(P\d+)\*\*", page))
    known = "P1 P2 P3 P4 P5 P6 P12 P13 P14 P15 P16 P17 P20 P24 P26 P27 P28 P30 P31 P32 P33 P40 P41 P50 P51 P52 P53 P54"
    assert ids == set(known.split())
    assert [each for each in sorted(ids) if not re.search(rf"def test_{each}_", sources)] == []
    assert [name for name in re.findall(r"`(tests/[\w/.]+)`", page) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_that_are_named_exist(path: Path) -> None:
    """A document that names a test as its proof names one that is there."""
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", path.read_text()))
    assert [name for name in sorted(named) if f"def {name}(" not in sources] == []
