"""A realm of Kerberos on loopback, which vouches for users and hosts (MIT's KDC)."""

from __future__ import annotations

from pathlib import Path

from tests.interop.hosts import Host, program
from tests.ports import free_port

PEERS = ("krb5kdc", "kdb5_util", "kadmin.local")
_USER, _SERVICE = "root@LAB", "host/localhost@LAB"


class Realm:
    """The realm LAB, with root as its user and the host service of localhost."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._directory = host.directory / "krb5"
        self._directory.mkdir(mode=0o700)
        port = free_port()
        self._conf = host.put(
            "krb5/krb5.conf",
            "[libdefaults]\ndefault_realm = LAB\ndns_lookup_kdc = false\ndns_canonicalize_hostname = false\n"
            "rdns = false\nudp_preference_limit = 1\n"
            f"[realms]\nLAB = {{\nkdc = 127.0.0.1:{port}\n}}\n[logging]\nkdc = STDERR\n",
        )
        self._profile = host.put(
            "krb5/kdc.conf",
            f"[kdcdefaults]\nkdc_listen = 127.0.0.1:{port}\nkdc_tcp_listen = 127.0.0.1:{port}\n"
            f"[realms]\nLAB = {{\ndatabase_name = {self._directory}/db\nkey_stash_file = {self._directory}/stash\n}}\n"
            "[logging]\nkdc = STDERR\n",
        )
        self._run("kdb5_util", "create", "-s", "-r", "LAB", "-P", "of this test only")
        for principal, keytab in ((_USER, self._keytab("user")), (_SERVICE, self._keytab("service"))):
            self._run("kadmin.local", "-r", "LAB", "addprinc", "-randkey", principal)
            self._run("kadmin.local", "-r", "LAB", "ktadd", "-k", str(keytab), principal)
        host.start(program("krb5kdc"), "-n", "-r", "LAB", env=self._environment).expect("commencing operation")

    @property
    def user(self) -> dict[str, str]:
        """The environment in which the user gets tickets when they are needed."""
        keytab, tickets = self._keytab("user"), self._directory / "tickets"
        return {"KRB5_CONFIG": str(self._conf), "KRB5_CLIENT_KTNAME": str(keytab), "KRB5CCNAME": f"FILE:{tickets}"}

    @property
    def service(self) -> dict[str, str]:
        """The environment in which a server is the realm's localhost."""
        return {"KRB5_CONFIG": str(self._conf), "KRB5_KTNAME": str(self._keytab("service"))}

    @property
    def _environment(self) -> dict[str, str]:
        return {"KRB5_CONFIG": str(self._conf), "KRB5_KDC_PROFILE": str(self._profile)}

    def _keytab(self, name: str) -> Path:
        return self._directory / f"{name}.keytab"

    def _run(self, peer: str, *arguments: str) -> None:
        self._host.run(program(peer), *arguments, env=self._environment)
