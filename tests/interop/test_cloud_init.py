"""
cloud-init of Debian 12: it accepts what we print, and a machine that boots with it is known before the first ssh.

The machine's network is a namespace with a cable to the registrar's. Whoever connects has nothing but what the
registrar knows, asks nothing and believes nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from handfast.core import knownhosts
from handfast.core.hosts import Grade
from handfast.core.hosts import Host as Known
from handfast.wiring import open_ledger
from tests.bootstrap.test_new_machine import Machine
from tests.interop.cloud_machine import Cloud, image
from tests.interop.hosts import Done, Host, Network, Registrar

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.peer("debootstrap", "systemd-nspawn", "ip", "ssh", "ssh-keygen"),
    pytest.mark.timeout(900),
]
STORE = {
    "AWS_ACCESS_KEY_ID": "AKIAHANDFAST",
    "AWS_SECRET_ACCESS_KEY": "the store's secret",
    "AWS_ENDPOINT_URL": f"http://{Network.REGISTRAR}:9000",
}


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The image of all machines here."""
    return image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def cloud(debian: Machine, net: Network) -> Cloud:
    """Where machines are made: at the other end of the registrar's cable."""
    return Cloud(debian, net.server, net.SERVER)


@pytest.fixture(scope="module")
def store(net: Network) -> None:
    """An object store beside the registrar, which keeps what was uploaded first."""
    net.registrar.start(sys.executable, "-m", "moto.server", "-H", net.REGISTRAR, "-p", "9000").expect("http://")
    bucket = f"http.client.HTTPConnection('{net.REGISTRAR}', 9000)"
    code = f"import http.client; c = {bucket}; c.request('PUT', '/keys'); assert c.getresponse().status == 200"
    net.registrar.run(sys.executable, "-c", code)


@pytest.fixture(scope="module")
def user(net: Network) -> Path:
    """The key of whoever logs in."""
    path = net.registrar.directory / "user"
    net.registrar.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
    return path


def user_data(registrar: Registrar, name: str, *flags: str) -> str:
    """What an operator gives to the cloud."""
    return registrar.host.handfast("userdata", name, "--data", registrar.data, *flags, env=STORE).stdout


def known(registrar: Registrar, name: str) -> Known | None:
    """What the registrar knows of a machine, as the ledger has it."""
    with open_ledger(registrar.data) as ledger:
        return ledger.host(name)


def ssh(client: Host, registrar: Registrar, name: str, user: Path, address: str) -> Done:
    """Log in, for the first time: the registrar's keys are the only ones, and there is nobody to answer a question."""
    host = known(registrar, name)
    keys = host.believed(Grade.REPORTED) if host is not None else ()
    client.put("known", "".join(f"{line}\n" for line in knownhosts.lines([name], list(keys))))
    options = {
        "UserKnownHostsFile": "known",
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": name,
        "BatchMode": "yes",
        "IdentityFile": str(user),
    }
    flags = [part for option in options.items() for part in ("-o", "=".join(option))]
    return client.run("ssh", "-F", "none", *flags, f"debian@{address}", "hostname", code=None)


def forms(registrar: Registrar) -> dict[str, str]:
    """A document of each form."""
    return {
        "join": user_data(registrar, "schema1"),
        "upload": user_data(registrar, "schema2", "--bucket", "s3://keys/new"),
        "phone_home": user_data(registrar, "schema3", "--phone-home", "--url", "https://registrar.example"),
        "report": user_data(registrar, "schema4", "--phone-home"),
    }


def test_debians_own_schema(debian: Machine, registrar: Registrar, store: None) -> None:
    """`cloud-init schema` of Debian 12 finds nothing in any form, and finds what is wrong where something is."""
    (debian.root / "opt/handfast").mkdir(parents=True, exist_ok=True)
    for form, document in forms(registrar).items():
        (debian.root / "root/document").write_text(document)
        checked = debian.run("/opt", "cloud-init schema -c /root/document", user=0)
        assert (checked.returncode, checked.stdout.strip()) == (0, "Valid cloud-config: /root/document"), form
    (debian.root / "root/document").write_text(document.replace("runcmd:", "runcmd: 1\nno:"))
    assert debian.run("/opt", "cloud-init schema -c /root/document", user=0).returncode == 1


def test_uploaded_at_the_first_boot(cloud: Cloud, registrar: Registrar, net: Network, user: Path, store: None) -> None:
    """With --bucket: before it is collected the first ssh is refused, afterwards it works, and nobody was asked."""
    document = user_data(registrar, "web1", "--bucket", "s3://keys/new")
    with cloud.booted(document, "web1", user.with_suffix(".pub")) as machine:
        assert any("handfast: uploaded 3 host keys" in line for line in machine.lines)
        before = ssh(net.registrar, registrar, "web1", user, cloud.address)
        assert (before.code, "Host key verification failed" in before.stderr) == (255, True)
        net.registrar.handfast("host", "collect", "--data", registrar.data, "--bucket", "s3://keys/new", env=STORE)
        after = ssh(net.registrar, registrar, "web1", user, cloud.address)
        assert (after.code, after.stdout) == (0, "web1\n"), after.stderr


def test_reported_at_the_first_boot(cloud: Cloud, registrar: Registrar, net: Network, user: Path) -> None:
    """With --phone-home: cloud-init's form reaches the registrar, with our root as the only one, and ssh works."""
    document = user_data(registrar, "web2", "--phone-home")
    with cloud.booted(document, "web2", user.with_suffix(".pub")) as machine:
        assert any("handfast: reported the host keys" in line for line in machine.lines)
        first = ssh(net.registrar, registrar, "web2", user, cloud.address)
        assert (first.code, first.stdout) == (0, "web2\n"), first.stderr


def test_reported_by_cloud_init_itself(cloud: Cloud, registrar: Registrar, net: Network, user: Path) -> None:
    """With --url: the module reports to a certificate that the machine trusts already, here because we put it there."""
    bundle = cloud.image.root / "etc/ssl/certs/ca-certificates.crt"
    before = bundle.read_text()
    bundle.write_text(before + net.registrar.handfast("ca", "bundle", "--data", registrar.data).stdout)
    try:
        document = user_data(registrar, "web3", "--phone-home", "--url", f"https://{net.REGISTRAR}:{registrar.port}")
        with cloud.booted(document, "web3", user.with_suffix(".pub")):
            first = ssh(net.registrar, registrar, "web3", user, cloud.address)
            assert (first.code, first.stdout) == (0, "web3\n"), first.stderr
    finally:
        bundle.write_text(before)


def test_joined_at_the_first_boot(cloud: Cloud, registrar: Registrar, net: Network, user: Path) -> None:
    """Without a flag: the machine, which has Handfast in its image, joins, and its host keys are known with it."""
    document = user_data(registrar, "web4", "--san", net.SERVER)
    cloud.image.clone("/opt", 0)
    made = cloud.image.run("/opt", "./handfast --version", user=0)
    assert made.returncode == 0, made.stderr
    (cloud.image.root / "usr/local/bin/handfast").symlink_to("/opt/handfast/handfast")
    with cloud.booted(document, "web4", user.with_suffix(".pub")):
        assert registrar.show("web4")["credentials"]
        first = ssh(net.registrar, registrar, "web4", user, cloud.address)
        assert (first.code, first.stdout) == (0, "web4\n"), first.stderr


def test_the_next_machine_at_the_same_address(cloud: Cloud, registrar: Registrar, net: Network, user: Path) -> None:
    """A machine that is made anew has other keys under the same name: the old ones are no longer believed."""
    documents = [user_data(registrar, "web5", "--phone-home") for _ in range(2)]
    seen = []
    for number, document in enumerate(documents):
        with cloud.booted(document, f"web5-{number}", user.with_suffix(".pub")):
            first = ssh(net.registrar, registrar, "web5", user, cloud.address)
            assert (first.code, first.stdout) == (0, f"web5-{number}\n"), first.stderr
            host = known(registrar, "web5")
            assert host is not None
            seen.append(host)
    old, new = ({each.key for each in host.keys} for host in seen)
    assert not old & new
    assert {each.key for each in seen[1].retired} == old
