"""``nifi.properties``: Java's syntax, updates in place, and what the real toolkit sets."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.secret import Secret
from handfast.errors import UsageError
from handfast.nifi.properties import Stores, default_template, for_node, parse, update
from handfast.nifi.stores import Passwords
from tests.interop.hosts import Host
from tests.interop.nifi_toolkit import Toolkit

PASSWORDS = Passwords(Secret(b"key store"), Secret(b"key\\"), Secret(b"trust"))
STORES = Stores("keystore.pkcs12", "PKCS12", "truststore.jks", "jks", PASSWORDS)
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
# Prints what java.util.Properties reads, in a form without escapes.
JAVA = """
import java.io.*; import java.util.*;
class Read { public static void main(String[] a) throws Exception {
  Properties p = new Properties(); p.load(new FileInputStream(a[0]));
  try (DataOutputStream out = new DataOutputStream(System.out)) {
    for (String k : new TreeSet<>(p.stringPropertyNames())) for (String s : new String[] {k, p.getProperty(k)})
      { byte[] b = s.getBytes("UTF-8"); System.out.print(HexFormat.of().formatHex(b) + "\\n"); } } } }
"""
SYNTAX = (
    b"# comment \\\n"
    b"a=1\n"
    b"  ! another\r\n"
    b"\r\n"
    b"  b : two words \r\n"
    b"c\tthree\n"
    b"d=x\\\n"
    b"   y\\\r\n"
    b"\tz\n"
    b"e\\ e\\=\\:=\\u00e9\\t\\q\\\\\n"
    b"f = = f\n"
    b"g\n"
    b"h=\\\\\\\\\n"
    b"i=\xe9\\\n"
    b"\n"
    b"j=last\\"
)
VALUES = {
    "a": "1",
    "b": "two words ",
    "c": "three",
    "d": "xyz",
    "e e=:": "é\tq\\",
    "f": "= f",
    "g": "",
    "h": "\\\\",
    "i": "é",
    "j": "last",
}


def test_java_syntax_is_read() -> None:
    """Comments, separators, continuation lines, escapes and ISO 8859-1 mean what they mean to Java."""
    assert parse(SYNTAX) == VALUES


@pytest.mark.peer("javac")
def test_java_reads_the_same(tmp_path: Path) -> None:
    """``java.util.Properties`` reads the sample, and what we add to it, as we do."""
    host = Host(tmp_path / "host")
    source = host.put("Read.java", JAVA)
    written = update(SYNTAX, {"a": " \\ü€😀#!=: \n", "new": "\tx"})
    for data in (SYNTAX, written):
        (tmp_path / "sample").write_bytes(data)
        lines = host.run("java", source, tmp_path / "sample").stdout.split("\n")[:-1]
        texts = [bytes.fromhex(line).decode() for line in lines]
        assert dict(zip(texts[::2], texts[1::2], strict=True)) == parse(data)
    assert parse(written) == VALUES | {"a": " \\ü€😀#!=: \n", "new": "\tx"}


def test_nothing_to_set_changes_nothing() -> None:
    """Without values a file comes out to the byte, strange line ends included."""
    assert update(SYNTAX, {}) == SYNTAX


def test_only_the_lines_of_set_values_change() -> None:
    """A value replaces its line with all continuations; comments, order, line ends and other keys stay."""
    assert update(b"# top\r\na = 1\\\r\n  2\r\n\r\nb=2\r\n", {"a": "3"}) == b"# top\r\na=3\r\n\r\nb=2\r\n"


def test_missing_keys_are_appended() -> None:
    """A key that is not there comes at the end, on a line of its own and with the file's line end."""
    assert update(b"a=1\r\nb=2", {"c": "3", "b": "4"}) == b"a=1\r\nb=4\r\nc=3\r\n"
    assert update(b"a=1", {"c": "3"}) == b"a=1\nc=3\n"
    assert update(b"", {"c": ""}) == b"c=\n"


@pytest.mark.parametrize("template", [b"a=1\\", b"a=1\\\n", b"b=2\na=1\\\r\n"])
def test_a_last_line_that_goes_on_swallows_nothing(template: bytes) -> None:
    """A backslash at the very end does not make what is appended a part of that line."""
    assert parse(update(template, {"c": "3"})) == parse(template) | {"c": "3"}


@given(st.binary(max_size=60), st.sampled_from(["c", "a"]))
def test_a_value_is_set_in_any_file(data: bytes, key: str) -> None:
    """Whatever file can be read, the value is set and every other one is as it was."""
    try:
        before = parse(data)
    except UsageError:
        return
    assert parse(update(data, {key: " v\\"})) == before | {key: " v\\"}


def test_a_commented_key_is_not_set() -> None:
    """A key in a comment stays there, and the value is appended."""
    assert update(b"#a=1\n", {"a": "2"}) == b"#a=1\na=2\n"


@given(TEXT)
def test_any_value_is_read_as_it_was_set(value: str) -> None:
    """No value breaks out of its line or comes back as another: passwords are arbitrary text."""
    assert parse(update(b"a=1\nb=2\n", {"a": value, "c": value})) == {"a": value, "b": "2", "c": value}


@given(st.binary(max_size=200))
def test_any_file_survives_or_is_refused(data: bytes) -> None:
    """Arbitrary bytes are either refused with a reason or come out as they went in."""
    try:
        written = update(data, {})
    except UsageError:
        return
    assert written == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a=1\n\\u0061=2\n", "'a' is in the properties file twice"),
        (b"a=\\u12\n", r"not an escape: '\\\\u12'"),
        (b"a=\\u12\xb2\xb3\n", "not an escape"),
        (b"a" * (1 << 20) + b"b", "a properties file of 1048577 bytes"),
    ],
)
def test_ambiguous_and_broken_files_are_refused(data: bytes, message: str) -> None:
    """A key that is there twice is refused, as in the toolkit; so are broken escapes and what is far too long."""
    with pytest.raises(UsageError, match=message):
        update(data, {})


def test_a_node_is_set_up() -> None:
    """Stores, host names, ports and the secure flags are set as the toolkit sets them, for the third instance."""
    values = parse(for_node(b"nifi.web.http.port=8080\nmine=1\n", hostname="node1.lan", rank=3, stores=STORES))
    assert values == {
        "mine": "1",
        "nifi.security.keystore": "./conf/keystore.pkcs12",
        "nifi.security.keystoreType": "PKCS12",
        "nifi.security.keystorePasswd": "key store",
        "nifi.security.keyPasswd": "key\\",
        "nifi.security.truststore": "./conf/truststore.jks",
        "nifi.security.truststoreType": "jks",
        "nifi.security.truststorePasswd": "trust",
        "nifi.remote.input.host": "node1.lan",
        "nifi.web.https.host": "node1.lan",
        "nifi.cluster.node.address": "node1.lan",
        "nifi.remote.input.secure": "true",
        "nifi.cluster.protocol.is.secure": "true",
        "nifi.web.http.host": "",
        "nifi.web.http.port": "",
        "nifi.web.https.port": "9445",
        "nifi.remote.input.socket.port": "10445",
        "nifi.cluster.node.protocol.port": "11445",
    }


def test_the_defaults_have_all_that_is_set() -> None:
    """Nothing is appended to the default properties: they have every key, each once."""
    defaults = parse(default_template())
    assert parse(for_node(default_template(), hostname="a", rank=1, stores=STORES)).keys() == defaults.keys()
    assert len(defaults) == 204
    assert defaults["nifi.content.repository.archive.max.usage.percentage"] == "50%"
    assert '"%{Referer}i"' in defaults["nifi.web.request.log.format"].replace("\\", "")


@pytest.mark.peer("keytool", "nifi-toolkit-1.28.1")
def test_the_real_toolkit_writes_the_same(tmp_path: Path) -> None:
    """Each key and value of both instances' files is that of the real ``standalone``, passwords being its own."""
    toolkit = Toolkit("1.28.1", Host(tmp_path / "host"), {})
    toolkit.run("out", "standalone", "-n", "n1.lan(2)", "-T", "PKCS12", "-S", "key store", "-K", "key\\", "-P", "trust")
    for number, directory in enumerate(("n1.lan", "n1.lan_2"), start=1):
        # The toolkit writes a backslash as it is, and NiFi would read another password.
        real = (toolkit.path("out") / directory / "nifi.properties").read_bytes().replace(b"key\\\n", b"key\\\\\n")
        ours = for_node(default_template(), hostname="n1.lan", rank=number, stores=STORES)
        assert parse(ours) == parse(real)


def test_attack_a_line_that_goes_on_for_a_megabyte() -> None:
    """A file that somebody hands us: what was joined is not looked through again with each line, which took an hour."""
    begin = time.process_time()
    assert parse(b"key=" + b"a\\\n" * 300_000) == {"key": "a" * 300_000}
    assert time.process_time() - begin < 10
