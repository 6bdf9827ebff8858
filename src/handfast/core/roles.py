"""
Roles: what a credential may be used as.

A role is an extended key usage plus a SPIFFE path, and both are checked, so that one role never
stands in for another (a joined web server is no registrar, a client no server).
"""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What the holder of a credential may act as. ``REGISTRAR`` is never granted to a newcomer."""

    SERVER = "server"
    CLIENT = "client"
    PEER = "peer"
    AGENT = "agent"
    CONTROLLER = "controller"
    OPERATOR = "operator"
    REGISTRAR = "registrar"

    @property
    def serves(self) -> bool:
        """Whether TLS peers accept it as a server (serverAuth)."""
        return self in {Role.SERVER, Role.PEER, Role.AGENT, Role.REGISTRAR}

    @property
    def dials(self) -> bool:
        """Whether TLS peers accept it as a client (clientAuth)."""
        return self in {Role.CLIENT, Role.PEER, Role.AGENT, Role.CONTROLLER, Role.OPERATOR}


GRANTABLE = frozenset(Role) - {Role.REGISTRAR}


def spiffe_id(trust_domain: str, role: Role, machine: str) -> str:
    """Return ``spiffe://<trust domain>/<role>/<machine>`` (SPIFFE-ID §2)."""
    return f"spiffe://{trust_domain}/{role}/{machine}"
