"""instance deploy, artifacts, undeploy: the files that an operator brings to a service of a managed machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import click
import msgspec

from handfast.cli import ui
from handfast.cli.arguments import Parsed
from handfast.cli.instance_operate import SERVICE, on_instance, with_agent, word
from handfast.core.agentjson import MAX_URL
from handfast.errors import Malformed, UsageError

if TYPE_CHECKING:
    from handfast.core.agentjson import ArtifactAbout


class ArtifactView(msgspec.Struct, frozen=True):
    """A file that was deployed; ``size`` in bytes."""

    name: str
    size: int


class GoneView(msgspec.Struct, frozen=True):
    """An artifact that was removed."""

    service: str
    removed: str


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise Malformed(f"not a SHA-256: {text[:80]!r}", hint="64 hexadecimal digits, as sha256sum prints them")
    return text.lower()


def _last_part(url: str) -> str:
    try:
        last = unquote(urlsplit(url).path).rpartition("/")[2]
    except ValueError as error:
        raise UsageError(f"not a URL: {url[:80]!r}: {error}", hint="https://HOST/PATH") from None
    if not last:
        raise UsageError(f"{url[:80]!r} names no file", hint="say what it is to be called there: --as NAME")
    return last


SHA256 = Parsed("sha256", _digest)
ARTIFACT = word("an artifact", lists="artifacts NAME SERVICE")


@click.command("deploy")
@on_instance
@SERVICE
@click.argument("source", metavar="PATH|URL")
@click.option("--sha256", type=SHA256, help="What it has to be, in hexadecimal; needed for a URL.")
@click.option(
    "--as", "artifact", type=ARTIFACT, help="The artifact's name there.  [default: the last part of PATH or URL]"
)
def deploy_command(
    name: str,
    service: str,
    source: str,
    sha256: str | None,
    artifact: str | None,
    data: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """
    Bring a file to SERVICE on NAME: one from here, or one that the machine fetches itself from a URL.

    It is there whole or not at all; what was there before stays until then. A URL is HTTPS, and in a place that the
    machine's policy names.
    """
    if "://" in source:
        if sha256 is None:
            raise UsageError("a URL needs --sha256", hint="whoever has the server chooses what it gives")
        if len(source) > MAX_URL:
            raise UsageError(f"a URL of {len(source)} characters", hint=f"{MAX_URL} are the most")
        digest, called = sha256, artifact or _last_part(source)
        came = with_agent(data, passphrase_file, name, lambda agent: agent.pull(service, called, source, digest))
    else:
        came = _sent(data, passphrase_file, name, service, Path(source), artifact, sha256)
    if as_json:
        ui.emit_json(came)
    else:
        ui.say(f"{came.name}: {came.size} bytes, sha256 {came.sha256}")


def _sent(
    data: Path,
    passphrase: Path | None,
    name: str,
    service: str,
    path: Path,
    artifact: str | None,
    sha256: str | None,
) -> ArtifactAbout:
    from handfast.controller.operate import measured

    read = measured(path, sha256)
    with ui.progress(path.name, of_bytes=True) as told:
        return with_agent(
            data, passphrase, name, lambda agent: agent.deploy(service, artifact or path.name, read, told)
        )


@click.command("artifacts")
@on_instance
@SERVICE
def artifacts_command(name: str, service: str, data: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """List the files that were deployed to SERVICE on NAME, with their sizes in bytes."""
    found = with_agent(data, passphrase_file, name, lambda agent: agent.artifacts(service))
    if as_json:
        ui.emit_json([ArtifactView(each.name, each.size) for each in found])
        return
    if not found:
        ui.say(f"nothing is deployed to {service} on {name}")
    ui.table(["artifact", "bytes"], [[each.name, str(each.size)] for each in found])


@click.command("undeploy")
@on_instance
@SERVICE
@click.argument("artifact", type=ARTIFACT)
def undeploy_command(
    name: str, service: str, artifact: str, data: Path, passphrase_file: Path | None, as_json: bool
) -> None:
    """Remove a file that was deployed to SERVICE on NAME, by its name there."""
    with_agent(data, passphrase_file, name, lambda agent: agent.undeploy(service, artifact))
    if as_json:
        ui.emit_json(GoneView(service, artifact))
    else:
        ui.say(f"{artifact}: removed")
