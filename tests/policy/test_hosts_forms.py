"""One key has one form: OpenSSH takes some encodings for the same key, which would be two with two owners here."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handfast.core import sshkeys
from handfast.core.flow import HostFinding
from handfast.core.hosts import How
from handfast.core.sshdata import string, strings
from handfast.core.sshkeys import SshKey
from handfast.errors import Malformed, PolicyRefused
from handfast.policy.hosts import decide_host
from handfast.policy.rules import Rules


@pytest.fixture(scope="module")
def key() -> SshKey:
    """An RSA key in its one form."""
    public = rsa.generate_private_key(65537, 2048).public_key()
    return sshkeys.parse(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


@pytest.mark.parametrize("how", list(How))
def test_another_encoding_of_a_key_is_no_key(key: SshKey, how: How) -> None:
    """A zero more before the modulus: ssh takes it for the same key, and so it is refused, whoever says so."""
    rules = Rules()
    if how in rules.ssh.evidence:
        decide_host(HostFinding("web1", (key,), how, "a test"), rules, known=None)
    name, exponent, modulus = strings(key.blob, what="the key")
    twin = sshkeys.from_blob(string(name) + string(exponent) + string(b"\0" + modulus))
    with pytest.raises(PolicyRefused, match="no fit host key"):
        decide_host(HostFinding("web1", (twin,), how, "a test"), rules, known=None)


@pytest.mark.parametrize("algorithm", [b"rsa-sha2-256", b"rsa-sha2-512"])
def test_a_signatures_name_is_no_keys(key: SshKey, algorithm: bytes) -> None:
    """As a key of a type that we do not know it would need no proof, and ssh takes it for the RSA key."""
    _, *rest = strings(key.blob, what="the key")
    with pytest.raises(Malformed, match="not an SSH public key"):
        sshkeys.from_blob(b"".join(map(string, (algorithm, *rest))))
