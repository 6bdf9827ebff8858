"""A CA of the real toolkit is taken over, and given back: the toolkit runs on with the files that Handfast writes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.authority.flat import FlatAuthority, adopt
from handfast.core.secret import Secret
from handfast.nifi.ca_files import write_ca_files
from handfast.nifi.config import ServerConfig
from handfast.nifi.migrate import read_toolkit
from tests.interop.hosts import Network
from tests.interop.nifi_toolkit import TOKEN, VERSIONS, Toolkit

pytestmark = [pytest.mark.root, pytest.mark.peer("ip")]
# The toolkit's own BouncyCastle reads the store before 1.20, and knows no PKCS #12 of today.
KINDS = [("1.28.1", "PKCS12"), *((version, "jks") for version in VERSIONS)]
EACH = [pytest.param(*kind, marks=pytest.mark.peer(f"nifi-toolkit-{kind[0]}"), id="-".join(kind)) for kind in KINDS]


@pytest.mark.parametrize(("version", "kind"), EACH)
def test_there_and_back(net: Network, version: str, kind: str) -> None:
    """Every release's CA is adopted with its key; its successor's files start the release again, with the same root."""
    toolkit = Toolkit(version, net.server, {"ca.lan": "127.0.0.1", "node.lan": net.SERVER})
    there, back, client = (f"{part}-{version}-{kind}" for part in ("there", "back", "after"))
    toolkit.serve(there, "-t", TOKEN, "-c", "ca.lan", "-p", "9444", "-T", kind, "-g").stop()
    found = read_toolkit(toolkit.path(there))
    assert (found.config.ca_hostname, found.config.port, found.config.days) == ("ca.lan", 9444, 825)
    assert found.config.token is not None
    assert found.config.token.reveal() == TOKEN.encode()

    now = datetime.now(UTC)
    directory = toolkit.path(f"{there}-data")
    assert adopt(directory, certificate=found.certificate, key=found.key, now=now) == ()
    ours = FlatAuthority.open(directory)
    config = ServerConfig(token=Secret(TOKEN.encode()), port=9444, key_store_type=kind, ca_hostname="ca.lan")
    toolkit.path(back).mkdir()
    write_ca_files(toolkit.path(back), config, root=ours.root, key=ours.root_key, now=now)

    server = toolkit.serve(back, "-F")
    try:
        toolkit.run(client, "client", "-t", TOKEN, "-c", "ca.lan", "-p", "9444", "-D", "CN=node.lan, OU=NIFI")
    finally:
        server.stop()
    assert read_toolkit(toolkit.path(back)).certificate == found.certificate
    pem = (toolkit.path(client) / "nifi-cert.pem").read_text()
    assert "".join(pem.split()) == "".join(ours.root.public_bytes(Encoding.PEM).decode().split())
