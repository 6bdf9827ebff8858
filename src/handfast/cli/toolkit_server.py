"""tls-toolkit server and standalone: the two that have an authority."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from handfast import config as settings
from handfast.adapters.clock import SystemClock
from handfast.cli import ui
from handfast.cli.arguments import FILE, FOLDER, PASSPHRASE, Parsed
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
from handfast.cli.toolkit_parsing import Code, Service, fail, run
from handfast.cli.toolkit_secrets import file_option, passwords, tell_arguments, token
from handfast.core.dn import SubjectPattern
from handfast.core.names import NamePattern
from handfast.core.secret import Secret
from handfast.errors import HandfastError
from handfast.nifi import config as defaults
from handfast.nifi.config import ServerConfig
from handfast.nifi.options import CA_KEYSTORE, ServerOptions, typed

if TYPE_CHECKING:
    from handfast.nifi.standalone import StandaloneOptions

T = TypeVar("T")

DAYS = click.option(
    "-d", "--days", type=int, default=defaults.DEFAULT_DAYS, show_default=True, help="Days that certificates are good."
)
SIGNING_ALGORITHM = click.option(
    "-s", "--signingAlgorithm", "signing_algorithm", default=defaults.DEFAULT_SIGNING_ALGORITHM, show_default=True,
    help="Without effect, as in NiFi 1.24 and later: SHA-256 with RSA is used.",
)  # fmt: skip


@click.command("server", cls=Service)
@KEY_ALGORITHM
@KEY_SIZE
@CA_HOSTNAME
@PORT
@DAYS
@SIGNING_ALGORITHM
@click.option("-D", "--dn", show_default="CN=<-c>, OU=NIFI", help="The subject of the CA.")
@STORE_TYPE
@DIFFERENT_KEY_PASSWORD
@CONFIG_OUT
@USE_CONFIG
@CONFIG_IN
@TOKEN
@TOKEN_FILE
@click.option(
    "--allow-dn", "allow_subjects", type=Parsed("dn", SubjectPattern.parse), multiple=True,
    help="A subject that a holder of the token may ask for, * for any text (repeatable).",
)  # fmt: skip
@click.option(
    "--allow-san", "allow_names", type=Parsed("name", NamePattern.parse), multiple=True,
    help="A name or a network of addresses that a holder of the token may ask for (repeatable).",
)  # fmt: skip
@click.option("--any-name", is_flag=True, help="As the original: whoever has the token may ask for any name.")
@click.option("--listen", metavar="HOST:PORT", help="Listen here, not on every address and the port of --PORT.")
@click.option("--from-nifi", type=FOLDER, help="Take over the CA of the tls-toolkit server in this directory.")
@click.option(
    "--data",
    type=FOLDER,
    default=".handfast",
    show_default=True,
    help="The registrar's data directory: ledger and log.",
)
@PASSPHRASE
def server(
    different_key_password: bool,
    config_out: Path,
    use_config: bool,
    config_in: Path | None,
    token_argument: str | None,
    token_file: Path | None,
    allow_subjects: tuple[SubjectPattern, ...],
    allow_names: tuple[NamePattern, ...],
    any_name: bool,
    listen: str | None,
    from_nifi: Path | None,
    data: Path,
    passphrase_file: Path | None,
    **fields: Any,  # of ``ServerConfig``, by their names there
) -> int:
    """
    Be a NiFi CA for clients that know the token, until it is ended.

    Without --allow-dn, --allow-san or --any-name a client gets only names that lead to the address it calls from.
    Better: `handfast invite NAME --nifi` makes a token for one node, and `handfast join` needs no shared token at all.
    The token may come from HANDFAST_NIFI_TOKEN or a prompt, too.
    """
    source = config_in or (config_out if use_config else None)
    argument, given = token(token_argument, token_file, ask=source is None and from_nifi is None)

    def go() -> int:
        from handfast.core.javastore import StoreType
        from handfast.server.toolkit import serve

        key_store = f"{CA_KEYSTORE}.{StoreType.parse(fields['key_store_type']).suffix}"
        options = ServerOptions(
            config=typed(ServerConfig(key_store=key_store, token=argument, **fields)),
            token=given,
            config_in=source,
            config_out=config_out,
            different_key_password=different_key_password,
            listen=listen,
            allow_subjects=allow_subjects,
            allow_names=allow_names,
            any_name=any_name,
            data=data,
            from_nifi=from_nifi,
        )
        passphrase = settings.secret_from("passphrase", file=passphrase_file)
        return serve(options, ready=lambda: ui.emit("Server Started"), warn=ui.warn, passphrase=passphrase)

    return run(go)


@click.command("standalone", cls=Service)
@KEY_ALGORITHM
@KEY_SIZE
@CA_HOSTNAME
@DAYS
@SIGNING_ALGORITHM
@STORE_TYPE
@DIFFERENT_KEY_PASSWORD
@click.option("-n", "--hostnames", multiple=True, help="Hosts, comma-separated, with ranges such as node[1-3](2).")
@click.option(
    "-G", "--globalPortSequence", "global_port_sequence", multiple=True,
    help="All hosts in the order of their ports, the same in each run (repeatable).",
)  # fmt: skip
@click.option(
    "--subjectAlternativeNames", "alternative_names", multiple=True,
    help="Further names: one for all hosts, or one for each, comma-separated.",
)  # fmt: skip
@click.option("-f", "--nifiPropertiesFile", "template", type=FILE, help="The nifi.properties to start from.")
@click.option(
    "-o", "--outputDirectory", "output", type=FOLDER, default=".", show_default=True, help="Write everything here."
)
@click.option("-O", "--isOverwrite", "overwrite", is_flag=True, help="Overwrite what an earlier run wrote.")
@click.option("--nifiDnPrefix", "dn_prefix", default=defaults.DEFAULT_DN_PREFIX, show_default=True,
              help="What a host's subject begins with.")  # fmt: skip
@click.option("--nifiDnSuffix", "dn_suffix", default=defaults.DEFAULT_DN_SUFFIX, show_default=True,
              help="What a host's subject ends with.")  # fmt: skip
@click.option("-C", "--clientCertDn", "client_dns", multiple=True, help="Subject of a user's certificate (repeatable).")
@click.option("-B", "--clientCertPassword", "client_passwords", multiple=True, help="Its password: one, or one each.")
@file_option("--client-password", "it")
@click.option("-S", "--keyStorePassword", "keystore_passwords", multiple=True, help="One, or one for each host.")
@file_option("--keystore-password", "it")
@click.option("-K", "--keyPassword", "key_passwords", multiple=True, help="One, or one for each host.")
@file_option("--key-password", "it")
@click.option("-P", "--trustStorePassword", "truststore_passwords", multiple=True, help="One, or one for each host.")
@file_option("--truststore-password", "it")
@click.option(
    "--additionalCACertificate", "additional_ca", type=FILE,
    help="The certificate (PEM) of the CA above the one in the output directory.",
)  # fmt: skip
@click.option(
    "--splitKeystore", "split", type=FILE,
    help="Only take this key store apart into PEM files; needs -S.",
)  # fmt: skip
@click.option("--data", type=FOLDER, show_default="OUTPUT/.handfast", help="Directory of the ledger and its log.")
def standalone(
    output: Path,
    overwrite: bool,
    split: Path | None,
    data: Path | None,
    key_pair_algorithm: str,
    key_store_type: str,
    signing_algorithm: str,
    **fields: Any,  # of ``StandaloneOptions``, by their names there, and the files of passwords
) -> int:
    """
    Make a CA in a directory, and in it the stores and nifi.properties of every host and the .p12 of every user.

    Passwords may come from HANDFAST_NIFI_KEYSTORE_PASSWORD, HANDFAST_NIFI_KEY_PASSWORD,
    HANDFAST_NIFI_TRUSTSTORE_PASSWORD and HANDFAST_NIFI_CLIENT_PASSWORD, too: one in each line.
    """
    from handfast.nifi.standalone import StandaloneOptions

    arguments = {}
    for flag, what in (("-S", "keystore"), ("-K", "key"), ("-P", "truststore"), ("-B", "client")):
        values, file = fields[f"{what}_passwords"], fields.pop(f"{what}_password_file")
        if values:
            arguments[flag] = values[0]
        fields[f"{what}_passwords"] = passwords(values, file, f"nifi_{what}_password")
    tell_arguments(arguments)
    if split is not None:
        return _split(split, output, fields["keystore_passwords"], fields["key_passwords"], overwrite=overwrite)
    options = StandaloneOptions(
        output=output, overwrite=overwrite, key_algorithm=key_pair_algorithm, store_type=key_store_type, **fields
    )
    return _generate(options, data or output / ".handfast")


def _generate(options: StandaloneOptions, data: Path) -> int:
    from handfast.nifi import hosts
    from handfast.nifi import standalone as service

    definitions = _or_fail(Code.ERROR_PARSING_INT_ARG, partial(service.host_definitions, options))
    _or_fail(Code.ERROR_PARSING_INT_ARG, partial(hosts.alternative_names, options.alternative_names))
    _or_fail(Code.ERROR_INCORRECT_NUMBER_OF_PASSWORDS, partial(service.client_passwords, options))
    _or_fail(Code.SERVICE_ERROR, partial(service.host_passwords, options, len(definitions)))
    _or_fail(Code.ERROR_READING_NIFI_PROPERTIES, partial(service.template, options))

    def go() -> None:
        from handfast.nifi.localca import output_directory
        from handfast.wiring import open_standalone

        clock = SystemClock()
        plan = service.prepare(options, clock=clock)  # what is refused leaves nothing behind
        output_directory(options.output)
        with open_standalone(data) as authority:
            report = service.carry_out(plan, authority, clock=clock)
        for remark in report.remarks:
            ui.warn(remark)
        ui.say(f"{'made a CA' if report.ca_created else 'used the CA'} in {options.output}")
        for path in (*report.directories, *report.clients):
            ui.say(f"wrote {path}")

    return run(go, Code.ERROR_GENERATING_CONFIG)


def _split(
    keystore: Path, output: Path, stores: tuple[Secret, ...], keys: tuple[Secret, ...], *, overwrite: bool
) -> int:
    from handfast.nifi.split import SplitOptions, split_keystore

    if not stores:
        hint = "give it by --keystore-password-file"
        fail(Code.ERROR_INCORRECT_NUMBER_OF_PASSWORDS, "no password for the key store to split", hint)
    options = SplitOptions(
        keystore=keystore,
        output=output,
        keystore_password=stores[0],
        key_password=keys[0] if keys else None,
        overwrite=overwrite,
    )

    def go() -> None:
        for path in split_keystore(options):
            ui.say(f"wrote {path}")

    return run(go, Code.ERROR_GENERATING_CONFIG)


def _or_fail(code: Code, check: Callable[[], T]) -> T:
    try:
        return check()
    except HandfastError as error:
        fail(code, error.message, error.hint)
