"""X.500 names: what people type, what certificates hold and what Java shows are one thing in two orders."""

from __future__ import annotations

import time

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import dn
from handfast.core.dn import SubjectPattern
from handfast.errors import Malformed

CN, OU = NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME
OIDS = [CN, OU, NameOID.ORGANIZATION_NAME, NameOID.LOCALITY_NAME, NameOID.EMAIL_ADDRESS, NameOID.DOMAIN_COMPONENT]
# Everything that can be seen, with what RFC 4514 §2.4 escapes: at the ends, in the middle, and alone.
PRINTABLE = st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" ,+\"\\<>;#='*")
VALUES = st.text(PRINTABLE, min_size=1, max_size=12)
ASCII = st.text(st.sampled_from(" ,+\\;=#abcXYZ019.-@"), min_size=1, max_size=12)
IA5 = {NameOID.EMAIL_ADDRESS, NameOID.DOMAIN_COMPONENT}


@st.composite
def subjects(draw: st.DrawFn) -> x509.Name:
    """Names of one to four attributes, each alone in its RDN."""
    oids = draw(st.lists(st.sampled_from(OIDS), min_size=1, max_size=4))
    return x509.Name([x509.NameAttribute(oid, draw(ASCII if oid in IA5 else VALUES)) for oid in oids])


def flat(name: x509.Name) -> list[tuple[x509.ObjectIdentifier, str]]:
    """Attributes in encoded order."""
    return [(attribute.oid, str(attribute.value)) for attribute in name]


@pytest.mark.parametrize(
    "text",
    ["CN=node1.lan, OU=NIFI", "CN=node1.lan,OU=NIFI", "cn=node1.lan , ou = NIFI", "  CN= node1.lan ,OU=NIFI  "],
)
def test_what_is_typed_is_encoded_from_its_end(text: str) -> None:
    """A certificate has OU first and CN last (RFC 4514 §2.1), however spaces and case were typed; Java shows one."""
    name = dn.parse(text)
    assert flat(name) == [(OU, "NIFI"), (CN, "node1.lan")]
    assert dn.written(name) == "CN=node1.lan, OU=NIFI"


def test_a_request_has_the_other_order() -> None:
    """The original's client encodes as it was typed, and its CA reverses: twice is nothing."""
    name = dn.parse("CN=a, OU=b, O=c")
    assert flat(dn.reverse(name)) == [(CN, "a"), (OU, "b"), (NameOID.ORGANIZATION_NAME, "c")]
    assert dn.reverse(dn.reverse(name)).public_bytes() == name.public_bytes()


def test_several_attributes_of_one_rdn_stay_together() -> None:
    """They are a set, which no order splits."""
    name = dn.parse("CN=a+OU=b, O=c")
    assert [len(list(rdn)) for rdn in name.rdns] == [1, 2]
    assert [len(list(rdn)) for rdn in dn.reverse(name).rdns] == [2, 1]
    assert dn.written(name) == "CN=a+OU=b, O=c"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"CN=Lee\, Kim", "Lee, Kim"),
        (r"CN=a\+b", "a+b"),
        (r"CN=a\\", "a\\"),
        (r"CN=a\2Cb", "a,b"),
        (r"CN=\ a\ ", " a "),
        (r"CN=a\\\ ", "a\\ "),
        (r"CN=\#1", "#1"),
        ("CN=a=b", "a=b"),
        ("CN=Kim Lee", "Kim Lee"),
        ("CN=Zoë", "Zoë"),
        ("2.5.4.3=a", "a"),
    ],
)
def test_escapes_are_read(text: str, value: str) -> None:
    """What is escaped belongs to the value, a space at its end as well."""
    assert flat(dn.parse(text)) == [(CN, value)]


@pytest.mark.parametrize(
    ("text", "java"),
    [
        ("CN=Kim, E=kim@lan", "CN=Kim, EMAILADDRESS=kim@lan"),
        ("CN=Kim, emailAddress=kim@lan", "CN=Kim, EMAILADDRESS=kim@lan"),
        ("CN=Kim, serialNumber=1", "CN=Kim, SERIALNUMBER=1"),
        ("UID=kim, DC=lan, C=DE, ST=x, L=y, STREET=z", "UID=kim, DC=lan, C=DE, ST=x, L=y, STREET=z"),
    ],
)
def test_attributes_have_javas_names(text: str, java: str) -> None:
    """NiFi's authorizers compare the text that Java makes."""
    assert dn.written(dn.parse(text)) == java


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "node1.lan",
        "CN",
        "CN=",
        "=a",
        "CN=a,",
        ",CN=a",
        "CN=a,,OU=b",
        "CN=a+",
        "C N=a",
        "x CN=a",
        "CN=a; OU=b",
        'CN="a, b"',
        "CN=a\\",
        "CN=a\\zb",
        "XX=a",
        "C=DEU",
        "CN=" + "a" * 65,
        "CN=a\nOU=b",
        "CN=a\x1b[2J",
        "CN=a\x00",
        "CN=a\u202e",
        r"CN=a\0AOU=b",
        r"CN=a\00",
        "CN=#0c0161",
        "CN=a, OU=" + "b" * 64 + ", OU=" * 200,
        ", ".join(["OU=" + "b" * 60] * 18),
    ],
)
def test_what_is_no_subject_is_refused(text: str) -> None:
    """Nothing is dropped, and nothing gets in by an escape; the message has no control character, and a hint."""
    with pytest.raises(Malformed, match="not a subject") as caught:
        dn.parse(text)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300
    assert "OU=NIFI" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["a=" + " " * 1000 + "\\", "a=" * 250 + " " * 500 + "\\", "CN=" + "\\ " * 510, " " * 1024, "CN=a" + "\\" * 1001],
)
def test_no_text_takes_long(text: str) -> None:
    """Reading is linear, whatever was typed."""
    begin = time.process_time()
    with pytest.raises(Malformed):
        dn.parse(text)
    assert time.process_time() - begin < 0.2


@given(subjects())
def test_what_is_written_reads_as_it_was(name: x509.Name) -> None:
    """Any name that can be shown is the same after a person copied it, byte by byte."""
    if len(dn.written(name)) <= dn.MAX_SUBJECT:
        assert dn.parse(dn.written(name)).public_bytes() == name.public_bytes()
        assert dn.from_der(name.public_bytes()) == name


@given(st.text(max_size=60) | st.text(st.sampled_from('CNOU=,+ \\#a;"1.'), max_size=40))
def test_any_text_is_a_subject_or_refused(text: str) -> None:
    """No other error than ours, and what was read can be shown and read again."""
    try:
        name = dn.parse(text)
    except Malformed:
        return
    assert dn.parse(dn.written(name)) == name


@given(st.binary(max_size=60))
def test_any_bytes_are_a_name_or_refused(der: bytes) -> None:
    """Encoded names come from requests: one of our errors, or a name."""
    try:
        assert dn.from_der(der) is not None
    except Malformed:
        return


@pytest.mark.parametrize("values", [["a\nb"], ["a\x00b"], ["a", "b\u202e"], ["a" * 64] * 16])
def test_what_cannot_be_shown_is_refused(values: list[str]) -> None:
    """A name that was encoded elsewhere is held to the same as a typed one."""
    name = x509.Name([x509.NameAttribute(OU, value) for value in values])
    with pytest.raises(Malformed, match="not a subject"):
        dn.checked(name)


def test_an_empty_name_is_refused() -> None:
    """A certificate for nobody is for anybody."""
    with pytest.raises(Malformed, match="not a subject"):
        dn.checked(x509.Name([]))


@pytest.mark.parametrize(
    ("text", "common_name"),
    [("CN=a, OU=b", "a"), ("OU=b, CN=a", "a"), ("CN=first, CN=second", "first"), ("OU=b", None), ("O=CN", None)],
)
def test_the_common_name_is_the_first_in_writing(text: str, common_name: str | None) -> None:
    """As Java has it: the last that is encoded."""
    assert dn.common_name(dn.parse(text)) == common_name


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("CN=node1.lan, OU=NIFI", "node1.lan"),
        ("CN=Node1.LAN", "node1.lan"),
        ("CN=10.0.0.7, OU=NIFI", "10.0.0.7"),
        ("CN=node1.lan, OU=Admins", None),
        ("CN=node1.lan, OU=nifi", None),
        ("OU=NIFI, CN=node1.lan", None),
        ("CN=node1.lan, OU=NIFI, O=x", None),
        ("CN=node1.lan+OU=NIFI", None),
        ("CN=a, CN=node1.lan", None),
        ("OU=NIFI", None),
        ("CN=\u212aafka.lan, OU=NIFI", None),  # the Kelvin sign, which lower() folds into k
    ],
)
def test_only_the_toolkits_subject_is_a_hosts(text: str, host: str | None) -> None:
    """Nothing beside the two forms counts as the name of a machine that only proved its address."""
    assert dn.of_node(dn.parse(text)) == host


@pytest.mark.parametrize(
    ("pattern", "text", "allowed"),
    [
        ("CN=*.nifi.lan, OU=NIFI", "CN=node1.nifi.lan, OU=NIFI", True),
        ("CN=*.nifi.lan, OU=NIFI", "cn=NODE1.nifi.lan,ou=nifi", True),
        ("CN=*.nifi.lan, OU=NIFI", "CN=nifi.lan, OU=NIFI", False),
        ("CN=*.nifi.lan, OU=NIFI", "CN=a.b.nifi.lan, OU=NIFI", False),
        ("CN=*.nifi.lan, OU=NIFI", "CN=node1.nifi.lan", False),
        ("CN=*.nifi.lan, OU=NIFI", "OU=NIFI, CN=node1.nifi.lan", False),
        ("CN=*.nifi.lan, OU=NIFI", "CN=node1.nifi.lan, OU=NIFI, O=x", False),
        ("CN=*.nifi.lan, OU=NIFI", "CN=node1.nifi.lan+OU=NIFI", False),
        ("CN=*.nifi.lan, OU=NIFI", r"CN=x\, OU=NIFI", False),
        ("CN=*", "CN=node1", True),
        ("CN=*", "CN=node1.lan", False),
        ("CN=node-*.lan", "CN=node-.lan", True),
        ("CN=*, OU=*", "CN=a, OU=People. And others", True),
        ("CN=a, O=*", "CN=a, OU=b", False),
        # In a set of attributes as well `*` stays within one label of a common name, wherever DER has put it.
        ("CN=*.lan+OU=x", "CN=a.lan+OU=x", True),
        ("CN=*.lan+OU=x", "CN=a.b.lan+OU=x", False),
        ("OU=x+CN=*.lan", "CN=a.b.lan+OU=x", False),
        ("O=x+CN=*.lan+DC=y", "DC=y+CN=a.b.lan+O=x", False),
    ],
)
def test_a_pattern_allows_its_own_form_only(pattern: str, text: str, allowed: bool) -> None:
    """The same attributes in the same order, and in a common name `*` never crosses a dot."""
    assert SubjectPattern.parse(pattern).allows(dn.parse(text)) is allowed


@given(subjects(), subjects())
def test_a_pattern_without_star_allows_nothing_else(one: x509.Name, other: x509.Name) -> None:
    """A name allows itself, and another only if it differs in nothing but case."""
    if "*" in dn.written(one) or len(dn.written(one)) > dn.MAX_SUBJECT:
        return
    pattern = SubjectPattern.parse(dn.written(one))
    assert pattern.allows(one)
    assert pattern.allows(other) == (dn.written(one).casefold() == dn.written(other).casefold())
