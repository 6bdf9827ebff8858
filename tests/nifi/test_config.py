"""``config.json`` as the real toolkit wrote it: read, and written again to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.secret import Secret
from handfast.errors import ConfigError, Malformed, UsageError
from handfast.nifi.config import ClientConfig, ServerConfig, decode, encode, read, with_defaults
from handfast.nifi.options import typed

# What toolkit 1.28.1 wrote, with throw-away secrets.
SERVER = b"""{
  "days" : 825,
  "keySize" : 2048,
  "keyPairAlgorithm" : "RSA",
  "signingAlgorithm" : "SHA256WITHRSA",
  "dn" : "CN=localhost, OU=NIFI",
  "keyStore" : "nifi-ca-keystore.jks",
  "keyStoreType" : "jks",
  "keyStorePassword" : "lnUqi675PODX8EpJIK0kojk44jNglhxy/OeRQzNTz2A",
  "keyPassword" : "lnUqi675PODX8EpJIK0kojk44jNglhxy/OeRQzNTz2A",
  "token" : "myTestTokenUseSomethingStronger",
  "caHostname" : "localhost",
  "port" : 9443,
  "dnPrefix" : "CN=",
  "dnSuffix" : ", OU=NIFI",
  "additionalCACertificate" : "",
  "domainAlternativeNames" : null
}"""
CLIENT = SERVER.replace(
    b'"domainAlternativeNames" : null\n',
    b'"domainAlternativeNames" : [ "a.example", "b.example" ],\n'
    b'  "trustStore" : "truststore.jks",\n'
    b'  "trustStorePassword" : "WnLJXVzxm2pRgPNwrUhmreW2hyn89R16RzZtLp1tcQo",\n'
    b'  "trustStoreType" : "jks"\n',
)
SECRETS = ("lnUqi675PODX8EpJIK0kojk44jNglhxy/OeRQzNTz2A", "myTestTokenUseSomethingStronger", "WnLJXVzxm2pR")


def changed(original: bytes = SERVER, **fields: object) -> bytes:
    """Return a configuration with these fields, added or in place of its own."""
    return json.dumps(json.loads(original) | fields).encode()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (SERVER, ServerConfig),
        (CLIENT, ClientConfig),
        (CLIENT.replace(b'[ "a.example", "b.example" ]', b"[ ]"), ClientConfig),
    ],
    ids=["server", "client", "no names"],
)
def test_the_toolkits_own_file_survives_to_the_byte(data: bytes, kind: type[ServerConfig]) -> None:
    """Reading and writing a file of the toolkit changes no byte and needs no remark."""
    decoded = decode(data, kind)
    assert encode(decoded.config) == data
    assert decoded.remarks == ()


def test_secrets_show_only_in_the_encoded_file() -> None:
    """Neither a configuration's own text nor that of its errors has the token or a password."""
    config = decode(CLIENT, ClientConfig).config
    assert isinstance(config.token, Secret)
    assert not any(secret in repr(config) for secret in SECRETS)
    with pytest.raises(ConfigError) as refused:
        decode(changed(CLIENT, port="x"), ClientConfig)
    assert not any(secret in f"{refused.value} {refused.value.hint}" for secret in SECRETS)


def test_zero_and_empty_become_the_defaults() -> None:
    """Zero, an empty text and null mean the toolkit's defaults, and the subject follows the CA's name."""
    data = changed(
        days=0, keySize=0, port=0, keyStoreType="", caHostname="", dn="", signingAlgorithm=None, dnPrefix=None
    )
    config = decode(data, ServerConfig).config
    assert (config.days, config.key_size, config.port) == (825, 2048, 9443)
    assert (config.key_store_type, config.signing_algorithm) == ("jks", "SHA256WITHRSA")
    assert config.dn == "CN=localhost, OU=NIFI"


def test_an_empty_prefix_stays_empty() -> None:
    """The toolkit has defaults for a missing prefix and suffix, and keeps empty ones."""
    config = decode(changed(dn="", dnPrefix="", dnSuffix="", caHostname="CN=ca.lan"), ServerConfig).config
    assert config.dn == "CN=ca.lan"


def test_an_empty_password_is_none() -> None:
    """An empty password or token is no password: a new one is made, and nothing is protected by it."""
    config = decode(changed(keyPassword="", token=""), ServerConfig).config
    assert config.key_password is None
    assert config.token is None


def test_a_minimal_client_file_is_enough() -> None:
    """Token and store paths are all that the toolkit asks of a file that is read with -F."""
    decoded = decode(b'{"token":"0123456789abcdef","keyStore":"k.jks","trustStore":"t.jks"}', ClientConfig)
    assert decoded.config.trust_store_type == "jks"
    assert decoded.config.domain_alternative_names is None
    assert decoded.config.dn == "CN=localhost, OU=NIFI"


def test_numbers_may_be_written_as_text() -> None:
    """Scripts that write every value in quotes work, as they do with the toolkit."""
    assert decode(changed(port="9444"), ServerConfig).config.port == 9444


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    """A misspelt field is named, and the hint has the right spelling."""
    with pytest.raises(ConfigError, match=r"unknown field 'keystore' in") as refused:
        decode(changed(keystore="x"), ServerConfig)
    assert "keyStore" in refused.value.hint
    with pytest.raises(ConfigError, match="unknown field 'trustStore'"):
        decode(CLIENT, ServerConfig)


def test_a_file_of_1_23_is_read_with_a_remark() -> None:
    """The field reorderDn, fatal to the toolkit since 1.24, is told and left out."""
    decoded = decode(changed(reorderDn=True), ServerConfig)
    assert "'reorderDn'" in decoded.remarks[0]
    assert encode(decoded.config) == SERVER


def test_names_of_1_9_are_a_text() -> None:
    """Alternative names were one text with commas before they were a list."""
    config = decode(changed(domainAlternativeNames="a.lan, b.lan"), ServerConfig).config
    assert config.domain_alternative_names == ("a.lan", "b.lan")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"{", "not a JSON object"),
        (b'{"dn":"\xff"}', "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b" " * (1 << 21), "has 2097152 bytes"),
        (changed(port=70000), "port 70000 is not between"),
        (changed(days=-1), "days -1 is not between 1 and 36525"),
        (changed(days=36526), "days 36526 is not between 1 and 36525"),
        (changed(port="x"), r"\$.port"),
        (changed(token=["x"]), r"\$.token"),
        (changed(token=True), r"\$.token"),
        (changed(keyStore=None), "no 'keyStore'"),
        (changed(domainAlternativeNames=[1]), "domainAlternativeNames"),
    ],
)
def test_what_is_no_configuration_is_refused(data: bytes, message: str) -> None:
    """Every mistake is a ConfigError that says where it is, and none gets past as a default."""
    with pytest.raises(ConfigError, match=message) as refused:
        decode(data, ServerConfig)
    assert refused.value.hint


def test_every_mistake_is_named_at_once() -> None:
    """A client's file without its stores and with a wrong port is refused for all three."""
    with pytest.raises(ConfigError, match=r"port -1 .*'keyStore'; no 'trustStore'"):
        decode(b'{"port": -1}', ClientConfig)


def test_a_file_is_named_with_its_mistake(tmp_path: Path) -> None:
    """Class, words and hint are those of the mistake; the file is said first."""
    path = tmp_path / "ca.json"
    path.write_bytes(changed(port=70000))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"/ca\.json': port 70000 is not between") as refused:
        read(path, ServerConfig)
    assert "correct the configuration" in refused.value.hint


def test_a_file_that_others_can_read_is_remarked(tmp_path: Path) -> None:
    """Before what else is to be said of it; one for its owner alone is read without a word."""
    path = tmp_path / "ca.json"
    path.write_bytes(changed(reorderDn=True))
    path.chmod(0o644)
    first, second = read(path, ServerConfig).remarks
    assert "ca.json' can be read or written by others (mode 0644); it has secrets in it" in first
    assert "reorderDn" in second
    path.chmod(0o600)
    assert read(path, ServerConfig).remarks == (second,)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"days": -5}, "days -5 is not between"),
        ({"port": 70000}, "port 70000 is not between"),
        ({"key_size": 1024}, "no keys of kind 'RSA' with 1024 bits"),
        ({"key_pair_algorithm": "EC"}, "no keys of kind 'EC' with 2048 bits"),
        ({"key_pair_algorithm": "DSA"}, "no keys of kind 'DSA'"),
        ({"dn": "nonsense"}, "nonsense"),
    ],
)
def test_flags_are_held_to_what_a_file_is_held_to(fields: dict[str, Any], reason: str) -> None:
    """What would be written could be read again; and no key or subject that nothing can be made of."""
    with pytest.raises((UsageError, Malformed), match=reason) as refused:
        typed(ServerConfig(key_store="k", **fields))
    assert refused.value.hint


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_survives(text: str) -> None:
    """What is written can be read again, whatever characters a password has."""
    config = with_defaults(ServerConfig(key_store="k", token=Secret(text.encode()), dn=text))
    again = decode(encode(config), ServerConfig).config
    assert again.token is not None
    assert (again.token.reveal().decode(), again.dn) == (text, text)
