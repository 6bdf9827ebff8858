"""docs/cli.md is what `--help` says."""

from __future__ import annotations

import importlib.util

from tests.docs.markdown import ROOT


def test_the_reference_is_fresh() -> None:
    """After a change of a flag or a help text: `.venv-dev/bin/python tools/cli_reference.py`."""
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "tools" / "cli_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text() == module.render()
