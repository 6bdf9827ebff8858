"""
The authority's directory: what is called how, and how a file gets there for good.

    authority.json       name, which issuing CA signs, where its revocation list is fetched
    root.crt             root.key too, unless it is kept elsewhere: nothing here needs it
    root.crl             the root's own revocation list, for verifiers that ask for one of every CA
    issuing/1.crt .key   one pair per generation; earlier ones stay readable
    ssh_host_ca          and .pub, ssh_user_ca and .pub (keys PKCS#8, public halves in OpenSSH's form)
    log.key              and .pub: signs the checkpoints of the log
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from handfast.errors import Fault

STATE = "authority.json"
ROOT, ROOT_KEY, ROOT_CRL = "root.crt", "root.key", "root.crl"
SSH_HOST_CA, SSH_USER_CA = "ssh_host_ca", "ssh_user_ca"
LOG_KEY, LOG_PUBLIC = "log.key", "log.pub"


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``authority.json``. ``issuing`` is the generation which signs now."""

    version: int = 1
    name: str
    issuing: int = 1


def issuing(generation: int, suffix: str) -> str:
    """Return the name of an issuing CA's file; ``suffix`` is ``crt`` or ``key``."""
    return f"issuing/{generation}.{suffix}"


def read_state(directory: Path) -> State:
    """
    Return what ``authority.json`` says.

    :raises Fault: it is missing, damaged, or written by a later version.
    """
    path = directory / STATE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except (OSError, msgspec.DecodeError) as error:
        raise Fault(f"cannot read {str(path)!r}: {error}", hint="restore the directory from its backup") from error
    if state.version != 1:
        raise Fault(f"{str(path)!r} is of version {state.version}, this is version 1", hint="use a newer Handfast")
    return state
