"""
Where signing keys live.

A signer *is* one of cryptography's private keys, so that its builders sign certificates, revocation lists and SSH
certificates with it and no adapter stands between. A new kind (a token, a cloud) is one file here with a ``load``
function and one line in ``known``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast.authority.signers import file
from handfast.core.secret import Secret

Signer = EllipticCurvePrivateKey | Ed25519PrivateKey
Load = Callable[[Path, Secret | None], Signer]


def known() -> dict[str, Load]:
    """Return every kind of signer by name. The contract suite runs over all of them."""
    return {"file": file.load}
