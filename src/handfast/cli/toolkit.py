"""tls-toolkit: what a user of NiFi's tls-toolkit types. Flags in, values of ``nifi.options`` out."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from handfast import config as settings
from handfast.adapters.clock import SystemClock
from handfast.cli import ui
from handfast.cli.arguments import FILE, Parsed
from handfast.cli.toolkit_options import (
    CA_HOSTNAME,
    CONFIG_IN,
    CONFIG_OUT,
    DIFFERENT_KEY_PASSWORD,
    KEY_ALGORITHM,
    KEY_SIZE,
    PORT,
    STORE_TYPE,
    TOKEN,
    TOKEN_FILE,
    USE_CONFIG,
)
from handfast.cli.toolkit_parsing import Code, Service, Toolkit, fail, run
from handfast.cli.toolkit_secrets import file_option, password, token
from handfast.cli.toolkit_server import server, standalone
from handfast.core.secret import Secret
from handfast.errors import HandfastError
from handfast.nifi import config as defaults
from handfast.nifi.config import ClientConfig
from handfast.nifi.options import KEYSTORE, TRUSTSTORE, ClientOptions, StatusOptions, StoreOptions, typed

_PROTOCOLS = {"TLS": "TLSv1_3", "TLSV1.3": "TLSv1_3", "TLSV1.2": "TLSv1_2"}


def _wait(text: str) -> timedelta:
    return timedelta() if text == "0" else settings.duration(text)


@click.group(
    "tls-toolkit",
    cls=Toolkit,
    add_help_option=False,  # ``Toolkit`` has its own, for the exit code
    no_args_is_help=False,
    context_settings={"ignore_unknown_options": True},
)
def tls_toolkit_command() -> None:
    """
    What NiFi's tls-toolkit was: the same flags, files, wire and exit codes. Services are named in any case.

    Its exit codes: 0 done, 1 help, 2 arguments, 3 the service failed, 4 the command line, 5 generation, 6 the number
    of passwords, 7 no integer, 8 no token, 9 a token too short or easily guessed, 10 nifi.properties.
    """


@tls_toolkit_command.command("client", cls=Service)
@KEY_ALGORITHM
@KEY_SIZE
@CA_HOSTNAME
@PORT
@click.option(
    "-C", "--certificateDirectory", "certificate_directory", type=click.Path(path_type=Path), default=".",
    show_default=True, help="Write the CA's certificate into this directory, which must exist.",
)  # fmt: skip
@click.option("-D", "--dn", show_default="CN=<this host>, OU=NIFI", help="The subject to ask for.")
@click.option(
    "--subjectAlternativeNames", "alternative_names", multiple=True,
    help="Further names, comma-separated, with ranges such as node[1-3] (repeatable).",
)  # fmt: skip
@STORE_TYPE
@DIFFERENT_KEY_PASSWORD
@CONFIG_OUT
@USE_CONFIG
@CONFIG_IN
@TOKEN
@TOKEN_FILE
@click.option(
    "--wait", type=Parsed("duration", _wait), default="60s", show_default=True,
    help="How long to try to reach a CA that is starting; 0 for once.",
)  # fmt: skip
def client(
    certificate_directory: Path,
    dn: str | None,
    alternative_names: tuple[str, ...],
    different_key_password: bool,
    config_out: Path,
    use_config: bool,
    config_in: Path | None,
    token_argument: str | None,
    token_file: Path | None,
    wait: timedelta,
    **fields: Any,  # of ``ClientConfig``, by their names there
) -> int:
    """
    Make a key and have it certified by a NiFi CA that knows the token; or by `handfast up --nifi-listen`.

    Writes keystore.jks, truststore.jks, config.json, nifi-cert.pem, and beside them nifi-key.pem and nifi-chain.pem.
    Run again it keeps a certificate that is good, and replaces one after two thirds of its life.

    The token may come from HANDFAST_NIFI_TOKEN or a prompt, too; config.json has it only if it was given by -t.
    """
    source = config_in or (config_out if use_config else None)
    argument, given = token(token_argument, token_file, ask=source is None)

    def go() -> None:
        from handfast.nifi import client as node

        options = ClientOptions(
            config=_client_config(dn, alternative_names, argument, fields),
            token=given,
            config_in=source,
            config_out=config_out,
            certificate_directory=certificate_directory,
            different_key_password=different_key_password,
            wait=wait,
        )
        outcome = node.run(options, clock=SystemClock(), tell=lambda text: ui.say(f"handfast: {text}"))
        done = "enrolled" if outcome.enrolled else "enrolled already"
        ui.say(f"{done} as {outcome.subject}, until {outcome.leaf.not_valid_after_utc:%Y-%m-%d %H:%M}Z")

    return run(go)


def _client_config(
    dn: str | None, alternative_names: tuple[str, ...], own_token: Secret | None, fields: dict[str, Any]
) -> ClientConfig:
    from handfast.core.javastore import StoreType
    from handfast.nifi.hosts import alternative_names as expand

    host = socket.gethostname()
    return typed(
        ClientConfig(
            dn=dn or f"{defaults.DEFAULT_DN_PREFIX}{host}{defaults.DEFAULT_DN_SUFFIX}",
            key_store=f"{KEYSTORE}.{StoreType.parse(fields['key_store_type']).suffix}",
            token=own_token,
            domain_alternative_names=expand(alternative_names),
            trust_store=f"{TRUSTSTORE}.{defaults.DEFAULT_STORE_TYPE}",
            **fields,
        )
    )


@tls_toolkit_command.command("status", cls=Service)
@click.option("-u", "--url", help="The HTTPS address to ask.")
@click.option("-ks", "--keyStore", "keystore", type=FILE, help="Key store to prove who asks; without it nobody does.")
@click.option("-kst", "--keyStoreType", "keystore_type", help="Not needed: the file itself says it.")
@click.option("-ksp", "--keyStorePassword", "keystore_password", help="Password of the key store.")
@file_option("--keystore-password", "it")
@click.option("-kp", "--keyPassword", "key_password", help="Password of the key, if not the key store's.")
@file_option("--key-password", "it")
@click.option("-ts", "--trustStore", "truststore", type=FILE, help="Trust store that the server must chain to.")
@click.option("-tst", "--trustStoreType", "truststore_type", help="Not needed: the file itself says it.")
@click.option("-tsp", "--trustStorePassword", "truststore_password", help="Password of the trust store.")
@file_option("--truststore-password", "it")
@click.option("-p", "--protocol", default="TLSv1.3", show_default=True, help="Newest version of TLS: TLSv1.2, TLSv1.3.")
def status(url: str | None, protocol: str, **stores: Any) -> int:
    """
    Ask an HTTPS server once, verify it by the trust store and its host name, and print `Response Code - N`.

    Passwords may come from HANDFAST_NIFI_KEYSTORE_PASSWORD, HANDFAST_NIFI_KEY_PASSWORD and
    HANDFAST_NIFI_TRUSTSTORE_PASSWORD, too.
    """
    import ssl

    from handfast.nifi.status import Status

    if not url or not url.strip():
        fail(Code.INVALID_ARGS, "no address to ask", "give it by -u, such as https://node1.lan:8443/")
    if protocol.upper() not in _PROTOCOLS:
        fail(Code.INVALID_ARGS, f"no such version of TLS: {protocol[:20]!r}", "TLSv1.3 or TLSv1.2; older are broken")
    trust = _store(stores, "truststore", "-tsp")
    if trust is None:
        fail(Code.INVALID_ARGS, "no trust store", "give it by -ts")
    options = StatusOptions(
        url=url,
        truststore=trust,
        keystore=_store(stores, "keystore", "-ksp"),
        newest=ssl.TLSVersion[_PROTOCOLS[protocol.upper()]],
    )
    try:
        question = Status(options)
    except HandfastError as error:
        fail(Code.INVALID_ARGS, error.message, error.hint)
    return run(lambda: ui.emit(f"Response Code - {question.ask()}"))


def _store(stores: dict[str, Any], which: str, flag: str) -> StoreOptions | None:
    path = stores[which]
    if path is None:
        return None
    own = password(flag, stores[f"{which}_password"], stores[f"{which}_password_file"], f"nifi_{which}_password")
    if own is None:
        fail(Code.INVALID_ARGS, f"no password for {str(path)!r}", f"give it by --{which}-password-file")
    key = None
    if which == "keystore":
        key = password("-kp", stores["key_password"], stores["key_password_file"], "nifi_key_password")
    return StoreOptions(path=path, password=own, key_password=key)


tls_toolkit_command.add_command(server)
tls_toolkit_command.add_command(standalone)
