"""Options that several services of the toolkit share, under the original's names."""

from __future__ import annotations

import click

from handfast.cli.arguments import FILE
from handfast.cli.toolkit_secrets import file_option
from handfast.nifi import config as defaults

KEY_ALGORITHM = click.option(
    "-a", "--keyAlgorithm", "key_pair_algorithm", default=defaults.DEFAULT_KEY_ALGORITHM, show_default=True,
    help="Algorithm of the key: RSA or EC.",
)  # fmt: skip
KEY_SIZE = click.option(
    "-k", "--keySize", "key_size", type=int, default=defaults.DEFAULT_KEY_SIZE, show_default=True,
    help="Bits of the key: 2048 to 8192, with EC 256 or 384.",
)  # fmt: skip
CA_HOSTNAME = click.option(
    "-c", "--certificateAuthorityHostname", "ca_hostname", default=defaults.DEFAULT_CA_HOSTNAME, show_default=True,
    help="Host name of the CA, which is its common name too.",
)  # fmt: skip
PORT = click.option(
    "-p", "--PORT", "port", type=int, default=defaults.DEFAULT_PORT, show_default=True, help="Port of the CA."
)
STORE_TYPE = click.option(
    "-T", "--keyStoreType", "key_store_type", default=defaults.DEFAULT_STORE_TYPE, show_default=True,
    help="Type of the key store: jks or pkcs12.",
)  # fmt: skip
DIFFERENT_KEY_PASSWORD = click.option(
    "-g", "--differentKeyAndKeystorePasswords", "different_key_password", is_flag=True,
    help="Give the key a password of its own.",
)  # fmt: skip
CONFIG_OUT = click.option(
    "-f", "--configJson", "config_out", type=FILE, default="config.json", show_default=True,
    help="Write the configuration here, with passwords, and with the token if it was given by -t.",
)  # fmt: skip
USE_CONFIG = click.option(
    "-F", "--useConfigJson", "use_config", is_flag=True,
    help="Take all settings from the file of --configJson; flags do not count, but -g and -C.",
)  # fmt: skip
CONFIG_IN = click.option("--configJsonIn", "config_in", type=FILE, help="As --useConfigJson, from this file.")
TOKEN = click.option(
    "-t", "--token", "token_argument", help="The token shared with the CA, 16 bytes or more; others can read it here."
)
TOKEN_FILE = file_option("--token", "the token")
