"""``[x5c]``: whose certificates count, for which names; and what it takes to enable that."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters.revocation_lists import RevocationLists
from handfast.config import settings
from handfast.config.x5c import X5cSettings
from handfast.core.foreign import Usage
from handfast.core.names import NamePattern
from handfast.core.revocation import Coverage
from handfast.core.roles import Role
from handfast.errors import ConfigError
from handfast.introducers.x5c import X5cIntroducer, X5cRules
from handfast.wiring import x5c as foreign_authorities
from tests.introducers.x5c_material import root, site

THEIRS = site()
ENABLED = '[methods]\nx5c = ["server"]\n[x5c]\n'


def load(tmp_path: Path, text: str) -> settings.Config:
    """Read a file with this text."""
    (tmp_path / "config.toml").write_text(text)
    return settings.load(tmp_path / "config.toml")


def bundle(tmp_path: Path) -> str:
    """A file with two roots, and the line that names it."""
    path = tmp_path / "roots.pem"
    path.write_bytes(b"".join(ca.certificate.public_bytes(Encoding.PEM) for ca in (THEIRS.root, root("another"))))
    path.chmod(0o644)
    return f'roots = ["{path}"]\nnames = ["*.lan"]\n'


def introducer(tmp_path: Path, text: str) -> X5cIntroducer:
    """What a configuration makes of it."""
    settings = load(tmp_path, text)
    return foreign_authorities.introducer(settings, foreign_authorities.lists(settings, RevocationLists()))


def test_without_a_table_nothing_is_trusted(tmp_path: Path) -> None:
    """The defaults are a registrar that takes no other authority's word."""
    settings = load(tmp_path, "")
    assert settings.x5c == X5cSettings()
    assert (settings.x5c.roots, settings.x5c.names) == ((), ())
    assert "x5c" not in settings.rules.methods
    assert introducer(tmp_path, "") == X5cIntroducer()


def test_everything_that_can_be_set(tmp_path: Path) -> None:
    """Each key, in the form in which it is written."""
    text = """[methods]
    x5c = ["server"]
    [x5c]
    roots = ["/etc/handfast/their-root.pem"]
    crls = ["/var/lib/their.crl", "http://crl.their.lan/ca.crl"]
    eku = ["clientAuth", "serverAuth"]
    names = ["*.lan", "10.0.0.0/8"]
    require_crl = "chain"
    cut = true
    """
    assert load(tmp_path, text).x5c == X5cSettings(
        roots=(Path("/etc/handfast/their-root.pem"),),
        crls=("/var/lib/their.crl", "http://crl.their.lan/ca.crl"),
        usages=frozenset(Usage),
        names=(NamePattern.parse("*.lan"), NamePattern.parse("10.0.0.0/8")),
        coverage=Coverage.CHAIN,
        cut=True,
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('roots = ["roots.pem"]', "x5c.roots: not an absolute path: 'roots.pem'"),
        ('roots = "roots.pem"', "x5c.roots: 'roots.pem' is not of the right kind"),
        ('crls = ["https://their.lan/crl"]', "x5c.crls: not a file or an http URL: 'https://their.lan/crl'"),
        ('crls = ["file:///etc/crl"]', "x5c.crls: not a file or an http URL"),
        ('crls = ["http://their.lan/a b"]', "x5c.crls: not a URL for a revocation list"),
        ('crls = ["their.crl"]', "x5c.crls: not an absolute path"),
        ('eku = ["codeSigning"]', "x5c.eku: 'codeSigning' is none of serverAuth, clientAuth"),
        ('names = ["a b"]', "x5c.names: not a DNS name"),
        ('require_crl = "chain"', "x5c.require_crl: no list is in crls"),
        ('crls = ["/crl"]\nrequire_crl = true', "x5c.require_crl: True is none of leaf, chain"),
        ('crls = ["/crl"]\nrequire_crl = "none"', "x5c.require_crl: 'none' is none of leaf, chain"),
        ('cut = "yes"', "x5c.cut: 'yes' is not of the right kind"),
        ("insecure = true", "x5c.insecure: unknown"),
        (f"crls = {['/crl'] * 65}", "x5c.crls: 65 lists, at most 64"),
    ],
)
def test_mistakes(tmp_path: Path, line: str, why: str) -> None:
    """Each is named with its key; nothing is half-configured."""
    with pytest.raises(ConfigError, match=re.escape(why)):
        load(tmp_path, f"{ENABLED}{line}\n")


@pytest.mark.parametrize("methods", ["", "[methods]\n", '[methods]\nnifi = ["server"]\n'])
def test_settings_for_what_is_off_are_a_mistake(tmp_path: Path, methods: str) -> None:
    """Whoever has written the table and forgotten the method would wait for machines that are all refused."""
    why = "x5c: introduces nobody, as it is not in [methods]: say there which roles it leads to"
    with pytest.raises(ConfigError, match=re.escape(f"has mistakes: {why}")):
        load(tmp_path, f'{methods}[x5c]\nnames = ["*.lan"]\n')
    off = "[methods]\nx5c = []\n"  # said in so many words
    assert introducer(tmp_path, f'{off}[x5c]\nnames = ["*.lan"]\n') == X5cIntroducer()


def test_enabled_it_has_what_it_judges_by(tmp_path: Path) -> None:
    """All roots of all files, the roles of [methods], and no lists where none is configured."""
    half = introducer(tmp_path, ENABLED + bundle(tmp_path))
    assert half.rules == X5cRules(
        roots=(THEIRS.root.certificate, root("another").certificate),
        usages=frozenset({Usage.SERVER}),
        roles=frozenset({Role.SERVER}),
        names=(NamePattern.parse("*.lan"),),
    )
    assert half.lists is None


@pytest.mark.parametrize(("key", "line"), [("roots", "roots = []"), ("names", "names = []"), ("eku", "eku = []")])
def test_enabled_for_nobody_is_a_mistake(tmp_path: Path, key: str, line: str) -> None:
    """Empty means no, so it is said before somebody wonders."""
    lines = [each for each in bundle(tmp_path).splitlines() if not each.startswith(key)]
    with pytest.raises(ConfigError, match=rf"\[x5c\] {key} is empty: it would accept nobody"):
        introducer(tmp_path, "\n".join([ENABLED, *lines, line]))


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (None, 0o644, "no file"),
        (b"", 0o644, "no PEM certificates"),
        (THEIRS.leaf.public_bytes(Encoding.PEM), 0o644, "is no CA's"),
        (b"#" * (1024 * 1024 + 1), 0o644, "is longer than 1048576 bytes"),
        (THEIRS.root.certificate.public_bytes(Encoding.PEM), 0o666, "others can write"),
        (THEIRS.root.certificate.public_bytes(Encoding.PEM), 0o664, "others can write"),
    ],
    ids=["missing", "empty", "a leaf", "large", "writable", "writable by a group"],
)
def test_roots_that_cannot_be_trusted(tmp_path: Path, content: bytes | None, mode: int, why: str) -> None:
    """Whoever can write the file chooses who is introduced; a file that is none is no empty one."""
    path = tmp_path / "their.pem"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=re.escape("[x5c] roots: ")) as caught:
        introducer(tmp_path, f'{ENABLED}roots = ["{path}"]\nnames = ["*.lan"]\n')
    assert why in caught.value.message


@pytest.mark.peer("openssl")
def test_a_root_by_openssl_alone(tmp_path: Path) -> None:
    """A CA without a key usage, as `openssl req -x509` makes it, is refused at once, with what would mend it."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
               "-subj", "/CN=theirs", "-keyout", "key.pem", "-out", "root.pem"]  # fmt: skip
    text = f'{ENABLED}roots = ["{tmp_path}/root.pem"]\nnames = ["*.lan"]\n'
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "root.pem").chmod(0o644)
    with pytest.raises(
        ConfigError, match=r"\[x5c\] roots: .*root.pem': every certificate by 'CN=theirs' would be"
    ) as caught:
        introducer(tmp_path, text)
    assert "key usage does not allow to sign" in caught.value.message
    assert "-addext keyUsage=critical,keyCertSign,cRLSign" in caught.value.hint
    mended = [*command, "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    subprocess.run(mended, cwd=tmp_path, check=True, capture_output=True)
    assert len(introducer(tmp_path, text).rules.roots) == 1


def test_a_directory_is_no_file_of_roots(tmp_path: Path) -> None:
    """Nor is anything else that can be opened."""
    with pytest.raises(ConfigError, match="is a directory"):
        introducer(tmp_path, f'{ENABLED}roots = ["{tmp_path}"]\nnames = ["*.lan"]\n')


def test_a_list_in_a_file_is_there_from_the_start(tmp_path: Path) -> None:
    """And one that is missing or broken leaves nobody in, and the registrar running."""
    good, broken = tmp_path / "good.crl", tmp_path / "broken.crl"
    good.write_bytes(THEIRS.ca.crl().public_bytes(Encoding.DER))
    broken.write_bytes(b"no list")
    text = f'{ENABLED}{bundle(tmp_path)}crls = ["{good}", "{broken}", "{tmp_path}/missing", "http://their.lan/crl"]\n'
    half = introducer(tmp_path, text)
    assert half.lists is not None
    assert [each.source for each in half.lists()] == [str(good)]


def test_lists_of_a_method_that_is_off_are_not_fetched(tmp_path: Path) -> None:
    """Nothing is asked of anybody for it."""
    chosen = settings.Config(x5c=X5cSettings(crls=("http://their.lan/crl",)))
    assert foreign_authorities.lists(chosen, RevocationLists()).sources == ()
