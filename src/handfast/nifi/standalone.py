"""
``standalone``: a CA in a directory, and below it everything that the hosts of a cluster and its users need.

    nifi-cert.pem, nifi-key.key      the CA (``nifi.localca``)
    HOST/ or HOST_2/                 stores, PEM files (``nifi.stores``) and nifi.properties of one instance
    CN=user_OU=NIFI.p12, .password   a user's certificate for the browser

All that can be refused is refused before the first byte is written; then the CA is made, everything is issued, and
everything is written. The toolkit found its mistakes on the way and left half a cluster behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from handfast.adapters.files import check_directory, faults, private_directory, write_atomic
from handfast.core import dn
from handfast.core.javastore import StoreType
from handfast.core.keys import RSA_BITS, RSA_EXPONENT
from handfast.core.names import Names
from handfast.core.nifi_x509 import MAX_DAYS
from handfast.core.ports import Clock
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.errors import Refused, Unsafe, UsageError
from handfast.nifi import config, hosts, localca, properties, stores
from handfast.nifi.hosts import InstanceDefinition
from handfast.nifi.localca import LocalAuthority, LocalCa, LocalRequest
from handfast.nifi.stores import NodeCredential, Passwords

PROPERTIES = "nifi.properties"
TRUSTSTORE_TYPE = "jks"  # whatever the key store's: the toolkit knows no other for the trust store
_MAX_STEM = 240  # bytes of a file name without its ending


@dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneOptions:
    """
    What was typed, values as they stand: lists not split, expressions not expanded, repeated options in order.

    ``template`` is the user's own nifi.properties, ``additional_ca`` the certificate of the CA above an intermediate.
    """

    output: Path
    hostnames: tuple[str, ...] = ()
    global_port_sequence: tuple[str, ...] = ()
    alternative_names: tuple[str, ...] = ()
    ca_hostname: str = config.DEFAULT_CA_HOSTNAME
    key_algorithm: str = config.DEFAULT_KEY_ALGORITHM
    key_size: int = config.DEFAULT_KEY_SIZE
    days: int = config.DEFAULT_DAYS
    store_type: str = config.DEFAULT_STORE_TYPE
    dn_prefix: str = config.DEFAULT_DN_PREFIX
    dn_suffix: str = config.DEFAULT_DN_SUFFIX
    additional_ca: Path | None = None
    template: Path | None = None
    keystore_passwords: tuple[Secret, ...] = ()
    key_passwords: tuple[Secret, ...] = ()
    truststore_passwords: tuple[Secret, ...] = ()
    different_key_password: bool = False
    client_dns: tuple[str, ...] = ()
    client_passwords: tuple[Secret, ...] = ()
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What was done: a new CA or not, the host directories and client stores written, and what to tell the user."""

    ca_created: bool
    directories: tuple[Path, ...]
    clients: tuple[Path, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Host:
    definition: InstanceDefinition
    directory: Path
    subject: x509.Name
    names: Names
    passwords: Passwords


@dataclass(frozen=True, slots=True)
class _Client:
    stem: Path
    subject: x509.Name
    password: Secret


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do: made by ``prepare``, ended by ``carry_out``."""

    options: StandaloneOptions
    store_type: StoreType
    ca_subject: x509.Name
    ca: LocalCa | None
    template: bytes
    hosts: tuple[_Host, ...]
    clients: tuple[_Client, ...]
    remarks: tuple[str, ...]


def prepare(options: StandaloneOptions, *, clock: Clock) -> Plan:
    """
    Return what is to be done, once nothing speaks against it. Nothing is written.

    :raises UsageError: options that cannot mean anything.
    :raises Refused: what is in the directory cannot be used or would be overwritten; names that are none.
    :raises Fault: a file cannot be read.
    """
    _check_keys(options)
    definitions = host_definitions(options)
    pairing = hosts.pair_names(len(definitions), hosts.alternative_names(options.alternative_names))
    passwords = host_passwords(options, len(definitions))
    planned = tuple(
        _host(options, definition, names, own)
        for definition, names, own in zip(definitions, pairing.names, passwords, strict=True)
    )
    remarks = [pairing.remark] if pairing.remark else []
    if not definitions and not options.client_dns:
        remarks.append("neither hosts nor clients are named: only the CA is made, or looked at")
    plan = Plan(
        options,
        StoreType.parse(options.store_type),
        dn.parse(f"{options.dn_prefix}{options.ca_hostname}{options.dn_suffix}"),
        localca.load(options.output, options.additional_ca, now=clock.now()),
        template(options),
        planned,
        _clients(options),
        tuple(remarks),
    )
    _check_output(plan)
    return plan


def carry_out(plan: Plan, authority: LocalAuthority, *, clock: Clock) -> Report:
    """
    Make the CA if there is none, have everything issued, then write everything.

    :raises Refused: the authority does not issue one of the certificates; then no host is written.
    :raises Fault: the disk says no.
    """
    options, ca = plan.options, plan.ca
    if ca is None:
        localca.output_directory(options.output)
        ca = localca.create(
            options.output, plan.ca_subject, key_size=options.key_size, days=options.days, now=clock.now()
        )
    files = _issue(plan, ca, authority.issuer(ca), clock)
    for host in plan.hosts:
        private_directory(host.directory)
    for path, content in files.items():
        write_atomic(path, content)
    return Report(
        plan.ca is None,
        tuple(host.directory for host in plan.hosts),
        tuple(_beside(client.stem, ".p12") for client in plan.clients),
        plan.remarks,
    )


def host_definitions(options: StandaloneOptions) -> tuple[InstanceDefinition, ...]:
    """Return the instances asked for. :raises UsageError: an expression or a sequence that cannot be."""
    return hosts.instances(options.hostnames, options.global_port_sequence)


def host_passwords(options: StandaloneOptions, count: int) -> tuple[Passwords, ...]:
    """
    Return the passwords of ``count`` hosts: those given, and new ones in place of those that were not.

    :raises UsageError: more than one and fewer than hosts, or an empty one.
    """
    keystore = _shared(options.keystore_passwords, count, "key store passwords", "hosts")
    key = _shared(options.key_passwords, count, "key passwords", "hosts")
    truststore = _shared(options.truststore_passwords, count, "trust store passwords", "hosts")
    return tuple(
        Passwords.complete(*given, different_key=options.different_key_password)
        for given in zip(keystore, key, truststore, strict=True)
    )


def client_passwords(options: StandaloneOptions) -> tuple[Secret, ...]:
    """Return a password for each client. :raises UsageError: neither one nor as many as clients, or an empty one."""
    if len(options.client_passwords) > max(1, len(options.client_dns)):
        raise UsageError(f"{len(options.client_passwords)} client passwords", hint="give one for all, or one for each")
    given = _shared(options.client_passwords, len(options.client_dns), "client passwords", "client certificates")
    return tuple(password or stores.new_password() for password in given)


def template(options: StandaloneOptions) -> bytes:
    """
    Return the nifi.properties to start from.

    :raises NotFound: no such file.
    :raises UsageError: it cannot be read as Java properties.
    """
    if options.template is None:
        return properties.default_template()
    data = localca.read_file(options.template)
    properties.parse(data)
    return data


def _check_keys(options: StandaloneOptions) -> None:
    if options.key_algorithm.upper() != "RSA":
        raise UsageError(f"key algorithm {options.key_algorithm!r}", hint="the toolkit's CA signs with RSA only")
    if options.key_size not in RSA_BITS:
        raise UsageError(
            f"an RSA key of {options.key_size} bits", hint=f"between {RSA_BITS[0]} and {RSA_BITS[-1]}, such as 2048"
        )
    if not 0 < options.days <= MAX_DAYS:
        raise UsageError(f"{options.days} days of validity", hint="give a number of days, such as 825")


def _host(
    options: StandaloneOptions, definition: InstanceDefinition, names: tuple[str, ...], passwords: Passwords
) -> _Host:
    hostname, directory = definition.instance.hostname, definition.instance.directory
    if directory in {localca.CA_CERTIFICATE, localca.CA_KEY}:
        raise UsageError(f"the host name {directory!r} is that of a file of the CA", hint="name the host otherwise")
    return _Host(
        definition,
        options.output / directory,
        dn.parse(f"{options.dn_prefix}{hostname}{options.dn_suffix}"),
        Names.parse([hostname, *names]),  # also keeps the directory from being `..`
        passwords,
    )


def _clients(options: StandaloneOptions) -> tuple[_Client, ...]:
    clients: dict[str, _Client] = {}
    for text, password in zip(options.client_dns, client_passwords(options), strict=True):
        subject, name = dn.parse(text), stores.escape_filename(text)
        if name in clients:
            raise UsageError(f"two client certificates would be {name + '.p12'!r}", hint="name each client once")
        if len(name) > _MAX_STEM:
            raise UsageError(f"the subject {text[:80]!r} is too long for a file name", hint="leave out attributes")
        clients[name] = _Client(options.output / name, subject, password)
    return tuple(clients.values())


def _check_output(plan: Plan) -> None:
    """:raises Refused: something is in the way, or others could put something there."""
    output, overwrite = plan.options.output, plan.options.overwrite
    with faults("open", output):
        if not output.exists():
            return
        if not output.is_dir():
            raise Refused(f"{str(output)!r} is not a directory", hint="choose another one")
        if output.stat().st_mode & 0o002:
            raise Unsafe(f"everybody can write to {str(output)!r}", hint=f"chmod o-w {output}, or choose another one")
        for path in [*(host.directory for host in plan.hosts), *(_beside(c.stem, ".p12") for c in plan.clients)]:
            if path.exists() and not overwrite:
                raise Refused(f"{str(path)!r} exists", hint="give -O to overwrite it, or choose another directory")
    for host in plan.hosts:
        if host.directory.exists():
            check_directory(host.directory)


def _issue(plan: Plan, ca: LocalCa, issue: Callable[[LocalRequest], bytes], clock: Clock) -> dict[Path, bytes]:
    """Return the contents of all files, in the order to write them."""
    files: dict[Path, bytes] = {}
    for host in plan.hosts:
        credential = _credential(plan, ca, issue, host.subject, host.names, Role.PEER)
        for name, content in _host_files(plan, host, credential, clock).items():
            files[host.directory / name] = content
    for client in plan.clients:
        # No names: what a user presents must not be able to pose as a server.
        credential = _credential(plan, ca, issue, client.subject, Names(), Role.CLIENT)
        passwords = Passwords(client.password, client.password, client.password)
        store = stores.keystore(credential, StoreType.PKCS12, passwords, created_at=clock.now())
        # The password first: a store that nobody can open would be in the way of the next run.
        files[_beside(client.stem, ".password")] = client.password.reveal()
        files[_beside(client.stem, ".p12")] = store
    return files


def _credential(
    plan: Plan, ca: LocalCa, issue: Callable[[LocalRequest], bytes], subject: x509.Name, names: Names, role: Role
) -> NodeCredential:
    key = rsa.generate_private_key(RSA_EXPONENT, plan.options.key_size)
    leaf = issue(LocalRequest(subject, key.public_key(), names, plan.options.days, role))
    return NodeCredential(key, x509.load_der_x509_certificate(leaf), ca.certificate)


def _host_files(plan: Plan, host: _Host, credential: NodeCredential, clock: Clock) -> dict[str, bytes]:
    created_at, typed = clock.now(), plan.options.store_type
    keystore, truststore = f"keystore.{plan.store_type.suffix}", f"truststore.{TRUSTSTORE_TYPE}"
    return {
        keystore: stores.keystore(credential, plan.store_type, host.passwords, created_at=created_at),
        truststore: stores.truststore(
            credential.ca, StoreType.parse(TRUSTSTORE_TYPE), host.passwords.truststore, created_at=created_at
        ),
        **stores.pem_files(credential),
        PROPERTIES: properties.for_node(
            plan.template,
            hostname=host.definition.instance.hostname,
            rank=host.definition.rank,
            stores=properties.Stores(keystore, typed, truststore, TRUSTSTORE_TYPE, host.passwords),
        ),
    }


def _shared(given: tuple[Secret, ...], count: int, what: str, of: str) -> tuple[Secret | None, ...]:
    """Return one for each: the one given for all, one given for each, or none."""
    for password in given:
        if not stores.is_password(password):
            raise UsageError(f"one of the {what} is empty or not UTF-8", hint="give text, or none to have it made")
    if not given:
        return (None,) * count
    if 1 < len(given) < count:
        raise UsageError(f"{len(given)} {what} for {count} {of}", hint="give one for all, or one for each")
    return given * count if len(given) == 1 else given[:count]  # the toolkit, too, leaves what is too many


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)
