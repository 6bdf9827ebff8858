"""
Documents for cloud-init, with which a machine's SSH host keys become known when it boots for the first time.

Three forms: it joins with an invitation, it uploads its keys to a one-time address of an object store, or it reports
them to the registrar. Each document is a secret while its time lasts, and none has a credential of a cloud in it.

What is ours to choose stands in scripts that never change (the ``.sh`` files here); what differs (names, addresses,
secrets) lies in files beside them, which no shell and no template ever reads as its own language.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.core.invitation import InvitationLine
from handfast.core.names import machine_name
from handfast.core.secret import Secret
from handfast.errors import Malformed
from handfast.introducers import bucket

DIRECTORY = "/run/handfast"  # in memory; what lies there is gone at the next boot, if nothing removed it before
_PHONE_HOME = "/v1/ssh/phone-home/"
_ASCII = re.compile(r"[\x20-\x7e]*", re.ASCII)
_LINES = re.compile(r"(?![ \n])(?:[\x20-\x7e]*\n)*[\x20-\x7e]+\n", re.ASCII)  # whole ones, the last not empty
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+/[A-Za-z0-9._~%/&=+-]*(?:\?[A-Za-z0-9._~%/&=+-]*)?", re.ASCII)


def joining(machine: str, line: InvitationLine) -> str:
    """
    Return the document of a machine that joins with an invitation: a credential, and its host keys with proof.

    Handfast has to be in the image; the document says so, and the script too, should it be missing.

    :raises Malformed: no machine's name.
    """
    return _document(machine, line.not_after, _JOINS, _running("join", {"invitation": f"{line.reveal()}\n"}))


def uploading(machine: str, url: str, *, one_time_key: Secret, pin: bytes, expires_at: datetime) -> str:
    """
    Return the document of a machine that uploads its host keys, signed, to a presigned ``url``.

    ``one_time_key`` is an Ed25519 seed (32 bytes), ``pin`` that of the registrar, ``expires_at`` when the URL ends.
    The image needs sh, ssh-keygen and curl.

    :raises Malformed: no machine's name, or not such a URL.
    """
    key = Ed25519PrivateKey.from_private_bytes(one_time_key.reveal())
    head = bucket.head(machine_name(machine), bucket.nonce(key.public_key().public_bytes_raw(), pin))
    contents = {
        "document": head.decode(),
        "one-time-key": key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode(),
        "curl": _curl(url, 'header = "If-None-Match: *"'),
    }
    return _document(
        machine, expires_at, f"{_FIRST} The image needs ssh-keygen and curl.", _running("upload", contents)
    )


def phone_home_url(base: str, token: Secret) -> str:
    """
    Return where a report goes, under the registrar's own ``https://HOST[:PORT][/PATH]``: a secret.

    :raises Malformed: not such a URL.
    """
    if not base.startswith("https://"):  # whoever sits between could change the report
        raise Malformed(f"not a URL with https: {base[:80]!r}", hint="https://HOST[:PORT]")
    _url(f"{base}/")
    return _url(f"{base.rstrip('/')}{_PHONE_HOME}{token.reveal().decode()}")


def reporting(machine: str, url: str, *, expires_at: datetime) -> str:
    """
    Return the document of a machine on which cloud-init itself reports the host keys, to a ``phone_home_url``.

    Its TLS verifies against the machine's own trust store, so the certificate there has to be a publicly trusted one.

    :raises Malformed: no machine's name.
    """
    # Without pub_key_dsa, which newer releases refuse to be asked for.
    post = [*(f"pub_key_{each}" for each in ("rsa", "ecdsa", "ed25519")), "instance_id", "hostname", "fqdn"]
    content = {"phone_home": {"url": _url(url), "post": post, "tries": 10}}
    return _document(machine, expires_at, _FIRST, content)


def reporting_to_root(machine: str, url: str, *, root: x509.Certificate, expires_at: datetime) -> str:
    """
    Return the document of a machine that sends the same report with curl, which trusts our root and no other.

    Into the machine's trust store our root would count for every program and every name. The image needs curl.

    :raises Malformed: no machine's name.
    """
    contents = {"root.pem": root.public_bytes(Encoding.PEM).decode(), "curl": _curl(url, 'cacert = "root.pem"')}
    return _document(machine, expires_at, f"{_FIRST} The image needs curl.", _running("report", contents))


_FIRST = "may publish host keys in its name, until it has done so itself."
_JOINS = (
    "may join in its name, until it has done so itself. Handfast has to be in the image, in PATH: a checkout in"
    " /opt/handfast, and /usr/local/bin/handfast a link to its ./handfast, which has been run once (--version)."
)


def _running(form: str, contents: Mapping[str, str]) -> dict[str, object]:
    """Return what writes a form's script and its files, for root alone, and runs the script once."""
    folder = f"{DIRECTORY}/{form}"
    script = files(__package__).joinpath(f"{form}.sh").read_text(encoding="ascii")
    written = {"script": script, **contents}
    return {
        "write_files": [
            {"path": f"{folder}/{name}", "owner": "root:root", "permissions": "0600", "content": content}
            for name, content in written.items()
        ],
        "runcmd": [["sh", f"{folder}/script"]],  # not executed itself: /run is often mounted noexec
    }


def _curl(url: str, *more: str) -> str:
    """Return a configuration file for curl: everybody can read a program's arguments, and this is secret."""
    lines = (f'url = "{_url(url)}"', "globoff", "silent", "show-error", "connect-timeout = 10", "max-time = 60", *more)
    return "".join(f"{line}\n" for line in lines)


def _url(url: str) -> str:
    if not _URL.fullmatch(url):  # no quote, no backslash, no dollar sign: these mean something to curl or to cloud-init
        raise Malformed(f"not a URL that a document can have: {url[:40]!r}", hint="https://host[:port]/path")
    return url


def _document(machine: str, expires_at: datetime, remark: str, content: Mapping[str, object]) -> str:
    text = (
        f"SSH host keys of {machine_name(machine)}, made known when it boots for the first time. Made by `handfast"
        " userdata`; docs/protocols/host-keys.md says how."
        f" A secret until {expires_at:%Y-%m-%d %H:%M}Z: whoever reads it {remark}"
    )
    head = textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)
    return "#cloud-config\n" + "".join(f"# {line}\n" for line in head) + as_yaml(content)


def as_yaml(content: Mapping[str, object]) -> str:
    """
    Return a mapping of text, numbers, lists and mappings as YAML that people can read.

    A text is quoted as JSON, which YAML reads alike; one of whole lines becomes a literal block, which nothing in it
    can end, as every line is indented. Keys are ours, and plain words.

    :raises ValueError: a text that is not ASCII.
    """
    return "".join(f"{key}:{_node(value, 0)}" for key, value in content.items())


def _node(value: object, depth: int) -> str:
    """Return what follows a key or a dash, with its line feed."""
    indent = "  " * (depth + 1)
    if isinstance(value, Mapping) and value:
        return "\n" + "".join(f"{indent}{key}:{_node(each, depth + 1)}" for key, each in value.items())
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        items = (_node(each, depth + 1).lstrip() for each in value)
        return "\n" + "".join(f"{indent}- {item}" for item in items)
    if isinstance(value, list) and any(isinstance(each, list) for each in value):
        return "\n" + "".join(f"{indent}-{_node(each, depth + 1)}" for each in value)
    if isinstance(value, str) and _LINES.fullmatch(value):
        return " |\n" + textwrap.indent(value, indent, lambda line: line != "\n")
    written = json.dumps(value, ensure_ascii=False)
    if not _ASCII.fullmatch(written):
        raise ValueError("a text that JSON and YAML might read differently")
    return f" {written}\n"
