"""
What a test needs and this machine lacks: skipped with its reason, or a failure under `./test --all`.

Markers: `peer(name)`, `root`, `slow` (see pyproject.toml).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Generator
from functools import cache
from pathlib import Path

import pytest
import structlog

from tests import ports
from tests.peers import PEERS, find

ALL = os.environ.get("HANDFAST_TEST_ALL") == "1"
_NAMESPACES = ["unshare", "--net", "--mount", "true"]


@cache
def _namespaces() -> bool:
    """Whether this process may make network and mount namespaces: root in a container often may not."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(_NAMESPACES, capture_output=True, check=False).returncode == 0


def _lacking(item: pytest.Item) -> str | None:
    """Return why the test cannot run here, or None."""
    for marker in item.iter_markers("peer"):
        for name in marker.args:
            if find(name) is None:
                return f"needs {PEERS[name].package}"
    if item.get_closest_marker("root"):
        if os.geteuid() != 0:
            return "needs root"
        if not _namespaces():
            return "needs the right to make namespaces (a privileged container, or a real machine)"
    if item.get_closest_marker("slow") and not ALL:
        return "slow"
    return None


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ports that were held for the tests of a file are others' after them."""
    if nextitem is None or nextitem.path != item.path:
        ports.release()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip before any fixture is built; and where a test logs to is not what another has left behind."""
    structlog.reset_defaults()
    if reason := _lacking(item):
        pytest.skip(reason)


def _by_hand(item: pytest.Item) -> bool:
    """Whether the test meets a program that is not here, and that `--all` has no way to install."""
    names = {name for marker in item.iter_markers("peer") for name in marker.args}
    return any(PEERS[name].by_hand and find(name) is None for name in names)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under `--all` a skipped test, whoever skipped it, has failed: green means that all ran that can be installed."""
    report = yield
    if ALL and report.skipped and not hasattr(report, "wasxfail") and not _by_hand(item):
        report.outcome = "failed"
        report.longrepr = f"{_reason(report)}\n(skipped, but `./test --all` skips nothing)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself."""
    report = yield
    if ALL and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{_reason(report)}\n(skipped, but `./test --all` skips nothing)"
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The reason of a skip, without its place."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


_skipped: Counter[str] = Counter()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what was skipped, for the last words."""
    _skipped.update(_reason(report) for report in terminalreporter.stats.get("skipped", []))


def pytest_unconfigure(config: pytest.Config) -> None:
    """After the closing line: what was skipped, why, and the one command that runs it."""
    if not _skipped or hasattr(config, "workerinput"):
        return
    lines = [f"  {count:4d}  {reason}" for reason, count in sorted(_skipped.items())]
    advice = [] if ALL else ["to run these too:  sudo ./test --all"]
    text = "\n".join(["", "skipped:", *lines, *advice, ""])
    if file := os.environ.get("HANDFAST_TEST_SKIPPED"):
        Path(file).write_text(text)  # ./test has more to say first
    else:
        print(text, end="")
