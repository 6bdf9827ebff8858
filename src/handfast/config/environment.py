"""
What the environment says: where state is kept, secrets, and how output should look.

Passphrases and invitations come from files, systemd credentials, the environment or a prompt; never
from arguments, which every user of the machine can read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from handfast.adapters.files import read_private
from handfast.adapters.user import state_directory
from handfast.core.secret import Secret
from handfast.errors import Fault, NotFound, TooMuch, Unsafe, UsageError

MAX_SECRET = 64 * 1024  # bytes of a passphrase or an invitation


def data_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where a registrar keeps its state: ``HANDFAST_DATA``, /var/lib/handfast for root, else XDG state."""
    if environ.get("HANDFAST_DATA"):
        return Path(environ["HANDFAST_DATA"])
    return Path("/var/lib/handfast") if os.geteuid() == 0 else state_directory(environ) / "registrar"


def identity_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where a newcomer keeps its identity: ``HANDFAST_OUT``, /etc/handfast/identity for root, else XDG state."""
    if environ.get("HANDFAST_OUT"):
        return Path(environ["HANDFAST_OUT"])
    return Path("/etc/handfast/identity") if os.geteuid() == 0 else state_directory(environ) / "identity"


def agent_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where an agent keeps who it is: /var/lib/handfast-agent for root, else below XDG state."""
    return Path("/var/lib/handfast-agent") if os.geteuid() == 0 else state_directory(environ) / "agent"


def secret_from(
    name: str,
    *,
    file: Path | None = None,
    warn: Callable[[str], None] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Secret | None:
    """
    Return a secret such as ``invitation`` or ``passphrase``, or None where no source has it.

    Sources, first wins: ``file``; the variable ``HANDFAST_<NAME>_FILE``; ``HANDFAST_<NAME>``; the systemd
    credential ``handfast.<name>`` in ``$CREDENTIALS_DIRECTORY``. White space around it is dropped. The
    variable is removed from our environment, so that no child inherits it.

    A file that others can read or write is refused. With ``warn`` it is only told: an invitation is good
    once and for an hour, and its file is often what a shell's ``>`` made.

    :raises Unsafe: others can get at the file. :raises TooMuch: over ``MAX_SECRET`` bytes.
    :raises UsageError: there is none, it cannot be read, or it is empty.
    """
    variable = f"HANDFAST_{name.upper()}"
    what = name.removeprefix("nifi_").replace("_", " ")  # whose it is the command says
    path = file or (Path(environ[f"{variable}_FILE"]) if environ.get(f"{variable}_FILE") else None)
    value = os.environ.pop(variable, None) if environ is os.environ else environ.get(variable)
    if path is None and value is not None:
        return _not_empty(value.strip().encode(), variable)
    if path is None:
        credential = Path(environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent") / f"handfast.{name}"
        # systemd keeps it from others by means that its mode does not show (0440, in a private mount).
        return _not_empty(_read(credential, what), repr(str(credential))) if credential.exists() else None
    try:
        return _not_empty(read_private(path, limit=MAX_SECRET).strip(), repr(str(path)))
    except NotFound:
        raise UsageError(f"cannot read {str(path)!r}: no such file", hint=f"it should hold the {what}") from None
    except Fault as error:
        raise UsageError(error.message, hint=f"it should hold the {what}") from None
    except Unsafe as error:
        if warn is None:
            raise
        if not stat.S_ISFIFO(path.stat().st_mode):  # a pipe is a shell's <(…), and nobody else's
            warn(f"{error.message}: whoever reads the {what} first may use it")
        return _not_empty(_read(path, what), repr(str(path)))


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET + 1)
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}", hint=f"it should hold the {what}") from None
    if len(data) > MAX_SECRET:
        raise TooMuch(f"{str(path)!r} is longer than {MAX_SECRET} bytes", hint=f"it should hold the {what}")
    return data.strip()


def _not_empty(value: bytes, where: str) -> Secret:
    # Whoever named a source meant to have a secret: an empty passphrase would be none, in silence.
    if not value:
        raise UsageError(f"{where} is empty", hint="put the secret there, or leave it out")
    return Secret(value)


def wants_color(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a terminal may be given colors (no-color.org)."""
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def wants_traceback(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether an unexpected error should show where it came from."""
    return bool(environ.get("HANDFAST_DEBUG"))
