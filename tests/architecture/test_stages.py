"""
Types mark who has checked what: each arrow of the flow is made by exactly one layer (core/flow.py).

This is a convention that Python does not hold by itself, so it is held here, on the syntax: nobody else
calls the class, however it was imported, nor copies one with other content.
"""

from __future__ import annotations

import ast

import pytest

from tests.architecture.sources import sources

MAKERS = {
    "Finding": "introducers",
    "SshFinding": "introducers",
    "Grant": "policy",
    "SshGrant": "policy",
    "Intent": "ledger",
    "SshIntent": "ledger",
    "Credential": "authority",
    "SshCredential": "authority",
}

# Those who give again what was made and recorded before, which is no new decision.
READERS = {
    "ledger/rows.py": "Grant",  # of a stored intent
    "registrar/introduce.py": "Credential",  # of the certificate on record: asked again, the same answer
    "registrar/certify.py": "SshCredential",  # likewise
}


def offenses(module: str, tree: ast.Module) -> list[str]:
    """Return where a module makes a type that another layer makes."""
    names = dict.fromkeys(MAKERS, "") | {name: name for name in MAKERS}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname and alias.name in MAKERS}
    layer = module.split("/", maxsplit=1)[0]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            maker = MAKERS.get(names.get(called, ""))
            if maker is not None and layer != maker and READERS.get(module) != names[called]:
                found.append(f"{module}:{node.lineno} makes a {names[called]}, which only {maker}/ may")
    return found


def test_each_stage_is_made_by_its_layer() -> None:
    """Introducers make Findings, policy makes Grants, the ledger Intents, the authority Credentials; nobody else."""
    assert [offense for module, tree in sources() for offense in offenses(module, tree)] == []


@pytest.mark.parametrize(
    "code",
    [
        "from handfast.core.flow import Grant\nGrant(x=1)",
        "from handfast.core.flow import Grant as G\ndef f(): return [G(x=1)]",
        "from handfast.core import flow\nflow.Grant(x=1)",
    ],
)
def test_the_probe_bites(code: str) -> None:
    """Each way of making a Grant outside policy is seen, and none of them inside it."""
    assert len(offenses("server/probe.py", ast.parse(code))) == 1
    assert offenses("policy/probe.py", ast.parse(code)) == []
