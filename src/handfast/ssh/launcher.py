"""
What OpenSSH runs as its KnownHostsCommand: which host keys a machine has, from the snapshot, and a veto.

It is copied beside the snapshot and run as ``python -IS launcher.py``, twice for each connection. So it imports next
to nothing, and nothing of ours: it has to work when the package has gone or changed. It never waits, and never asks
the network.

Said by exit code and output (ssh_config(5), measured on 9.2 and read in 10.5):
    nothing, exit 0           not a machine of ours: ssh goes on as if we were not here
    lines of keys, exit 0     ours: these keys are its own
    a line of a CA, exit 0    not known to be ours: ssh believes a certificate, if its name fits the line's patterns
    a sentence, exit 1        ours, and something is wrong. ssh ends, whatever its configuration and known_hosts say.
"""

import mmap
import os
import sys
import time

MAGIC = b"handfast-ssh-hosts 1"
HOSTS, SIGNATURE, SETTINGS, ASKED = "hosts", "hosts.sig", "settings", "asked"
REVOKED = "revoked.krl"  # ssh reads it itself: RevokedHostKeys
OLD = 86400  # seconds: from then on the age is said
STALE = 300  # seconds: from then on a refresh is begun in the background
AGAIN = 60  # seconds between two beginnings of it: a registrar that is down is not asked at every connection
CERTIFICATE = b"-cert-v01@openssh.com"
SSH_PORT = b"22"
SETUP = "handfast ssh-config"

Data = bytes | mmap.mmap


class Veto(Exception):
    """The connection must not go on; the arguments are lines for the person."""


class Call:
    """One call by ssh: the values of its tokens, see ssh_config(5) TOKENS."""

    def __init__(self, tokens: list[bytes]) -> None:
        self.kind, host, self.port, self.typed, alias, self.lookup = tokens[:6]
        self.type, self.fingerprint, self.key = tokens[6:]  # what the server offers
        self.host, self.alias = normal(host), normal(alias)
        self.choosing = self.kind == b"ORDER"  # nothing was offered yet: ssh asks which algorithms to prefer

    def find(self, data: Data) -> bytes | None:
        """Return the line of the machine that is meant, or None for one that is not ours."""
        # A HostKeyAlias is the person's own word for which of our machines it is, wherever it leads. One that names
        # none of them cannot take a place away from its machine. %k is that, or what was typed.
        if normal(self.typed) != self.alias or (self.kind == b"HOSTNAME" and normal(self.lookup) == self.alias):
            named = find(data, self.alias) or find(data, spelling(self.alias, self.port))
            return named or at(data, self.host, self.port)
        reached, meant = at(data, self.host, self.port), at(data, self.alias, self.port)
        # Before 9.6 it is not told here whether there is an alias: then two machines are no contradiction yet.
        if reached and meant and reached != meant and not self.choosing:
            there, here = name(reached), name(meant)
            raise Veto(
                f"{shown(self.typed)} is the machine {here}, but ssh is configured to go to {shown(self.host)},"
                f" which is {there}",
                f"correct HostName in your configuration of ssh; if you mean {there}, add `HostKeyAlias {there}`",
            )
        return meant or reached


def main(arguments: list[str]) -> int:
    """Answer one call: the directory of the snapshot, then the values of %I %h %p %n %k %H %t %f %K."""
    try:
        directory, *tokens = arguments
        call = Call([os.fsencode(token) for token in tokens])
        lines = answer(call, directory, time.time())  # noqa: TID251  a program of its own
    except Veto as veto:
        for line in veto.args:
            say(line)
        return 1
    except Exception as error:  # noqa: BLE001  ssh takes a traceback for a veto too, but nobody could read it
        say(f"the host key cannot be checked: {type(error).__name__}: {error}")
        say(f"mend it with `{SETUP} install`, or do without it: `{SETUP} remove`")
        return 1
    os.write(1, b"".join(line + b"\n" for line in lines))
    return 0


def answer(call: Call, directory: str, now: float) -> list[bytes]:
    """Return the lines for ssh. :raises Veto: it must not connect."""
    data = opened(f"{directory}/{HOSTS}")
    settings = dict_of_settings(f"{directory}/{SETTINGS}")
    age = now - signed_at(f"{directory}/{SIGNATURE}")
    if abs(age) > STALE:
        refresh(f"{directory}/{ASKED}", settings[b"refresh"], now)
    machine = call.find(data)
    most = int(settings[b"most"][0])
    if machine is None:
        # A CA speaks for machines that came since; but never without the list of what it has taken back since.
        return authority(data) if b"revoked" in settings and -OLD < age < most else []
    if not -OLD < age < most:
        raise Veto(
            f"{name(machine)}: REFUSED. What is known of its keys is {days(age)}; {most // 86400} days are allowed.",
            f"  `{SETUP} refresh` gets it anew, or says what is in the way. Is this machine's clock right?",
        )
    if not call.choosing and age > OLD:
        say(f"{name(machine)}: checked by what was known {int(age // 86400)} days ago; `{SETUP} refresh` says why")
    current = fields(machine, b"key")
    if not current:
        raise Veto(*gone(machine))
    if call.choosing:
        return [b"* " + each[1] + b" " + each[2] for each in current]
    for each in current:
        if offered(call, each[1], each[2]):
            # For any name: no text of ssh's gets into a line, and versions before 9.6 look for host and port apart.
            return [b"* " + each[1] + b" " + each[2]]
    raise Veto(*refused(call, machine, data))


def offered(call: Call, algorithm: bytes, key: bytes) -> bool:
    """Whether the server offered this key, by itself or in a certificate."""
    if not call.type.endswith(CERTIFICATE):
        return call.key == key and call.type == algorithm
    if not call.fingerprint.startswith(b"SHA256:"):
        raise Veto("the server offers a certificate, and ssh tells its key by MD5", "set `FingerprintHash sha256`")
    return call.fingerprint == fingerprint(key).encode()


# --- what is said ---


def refused(call: Call, machine: bytes, data: Data) -> list[str]:
    """Return the sentences about a key that is not the machine's."""
    who = name(machine)
    lines = [f"{who}: REFUSED. The host key that {shown(call.host)} port {shown(call.port)} offers is not its own."]
    lines.append(f"  offered     {shown(call.type)} {shown(call.fingerprint)}")
    for each in fields(machine, b"key"):
        lines.append(f"  registered  {shown(each[1])} {fingerprint(each[2])}")
        lines.append(f"              {each[3].decode()} on {date(each[5])}: {how(data, each)}")
    for each in fields(machine, b"old"):
        if offered(call, each[1], each[2]):
            lines.append(f"  the offered key was its own once, and was retired on {date(each[3])}: {shown(each[4])}")
            lines.append("  whoever has kept it can pose as the machine with it: an old disk, a backup, a thief")
    other = whose(data, call.key)
    if other and other != machine:
        lines.append(f"  the offered key is the one of {name(other)}: does this name or address lead there now?")
    lines.append("  Somebody may be in the middle, or the machine has got a new key that nobody told the registrar.")
    lines.append(f"  Do not log in. If it was set up anew, have it join again or `handfast host add {who}`, then")
    lines.append(f"  `{SETUP} refresh`. If you mean another of our machines, set HostKeyAlias to its name.")
    return lines


def gone(machine: bytes) -> list[str]:
    """Return the sentences about a machine without keys."""
    who = name(machine)
    lines = [f"{who}: REFUSED. No key of it is believed any more."]
    lines += [
        f"  {shown(each[1])} {fingerprint(each[2])} was retired on {date(each[3])}: {shown(each[4])}"
        for each in fields(machine, b"old")
    ]
    lines.append(f"  If it exists again, have it join or `handfast host add {who}`, then `{SETUP} refresh`.")
    return lines


def how(data: Data, field: list[bytes]) -> str:
    """Return in words how a key became known."""
    begin = data.find(b"\nhow " + field[4] + b" ") + len(field[4]) + 6
    words = shown(data[begin : data.find(b"\n", begin)])
    return f"{words} ({shown(field[6])})" if field[6] else words


def fingerprint(key: bytes) -> str:
    """Return ``SHA256:…`` of a key in base64."""
    import binascii  # here and below: only a refusal has the time
    import hashlib

    digest = hashlib.sha256(binascii.a2b_base64(key)).digest()
    return "SHA256:" + binascii.b2a_base64(digest, newline=False).decode().rstrip("=")


def shown(text: bytes) -> str:
    """Return text on which a terminal does nothing: host names come from anywhere."""
    decoded = text[:300].decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in decoded)


def date(text: bytes) -> str:
    """Return a time as people read it."""
    return shown(text[:16]).replace("T", " ") + "Z"


def days(age: float) -> str:
    """Return how old it is."""
    return f"{age / 86400:.1f} days old" if age > 0 else f"from {-age / 86400:.1f} days in the future"


def say(line: str) -> None:
    """Tell the person: ssh hands our stderr on."""
    os.write(2, f"handfast: {line}\n".encode("utf-8", "backslashreplace"))


# --- the files; their format is in snapshot.py ---


def opened(path: str) -> Data:
    """Return the snapshot. :raises Veto: others may write it, or it is not whole."""
    fd = os.open(path, os.O_RDONLY)
    status = os.fstat(fd)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise Veto(f"others can write {path!r}", f"make the files anew with `{SETUP} install`")
    data = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    head = data[: data.find(b"\n") + 1].split(b"\t")
    if head[0] != MAGIC or int(head[-1]) != len(data):
        raise Veto(f"{path!r} is damaged, or of another version", f"make it anew with `{SETUP} install`")
    return data


def signed_at(path: str) -> float:
    """Return when the registrar vouched for the snapshot: the first line of its signature, Unix seconds."""
    return float(content(path, 32).split(b"\n")[0])


def dict_of_settings(path: str) -> dict[bytes, list[bytes]]:
    """Return the lines ``key value``, by key."""
    found: dict[bytes, list[bytes]] = {b"refresh": []}
    for line in content(path, 65536).splitlines():
        key, _, value = line.partition(b" ")
        found.setdefault(key, []).append(value)
    return found


def content(path: str, most: int) -> bytes:
    """Return the beginning of a small file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, most)
    finally:
        os.close(fd)


def refresh(asked: str, command: list[bytes], now: float) -> None:
    """Begin a refresh that outlives us, unless one was begun just now."""
    if not command:
        return
    fd = os.open(asked, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        status = os.fstat(fd)
        if status.st_size and abs(now - status.st_mtime) < AGAIN:
            return
        os.pwrite(fd, b"%d\n" % now, 0)
    finally:
        os.close(fd)
    # ssh reads our output until its end: nothing that lives longer may hold it.
    nothing = [(os.POSIX_SPAWN_OPEN, stream, "/dev/null", os.O_RDWR, 0) for stream in (0, 1, 2)]
    try:
        os.posix_spawn(command[0], command, os.environ, file_actions=nothing, setsid=True)  # noqa: TID251  handed on
    except OSError:  # the package is gone: the snapshot serves until it is too old
        return


def normal(host: bytes) -> bytes:
    """Return a host as the snapshot has it, see ``source.normal``."""
    host = host.lower().removesuffix(b".")
    if b":" in host:
        import _socket  # only for these

        try:
            packed = _socket.inet_pton(_socket.AF_INET6, os.fsdecode(host.partition(b"%")[0]))
        except (OSError, ValueError):
            return host
        text = _socket.inet_ntop(_socket.AF_INET6, packed)
        if "." not in text:
            return text.encode()
        if text.startswith("::ffff:"):
            return text[7:].encode()
        return b"::%x:%x" % (int.from_bytes(packed[12:14], "big"), int.from_bytes(packed[14:], "big"))
    return host


def spelling(host: bytes, port: bytes) -> bytes:
    """Return how known_hosts has a host at a port."""
    return host if port == SSH_PORT else b"[" + host + b"]:" + port


def at(data: Data, host: bytes, port: bytes) -> bytes | None:
    """Return the line of the machine at a place; one with this very name is itself whatever the port."""
    found = find(data, spelling(host, port))
    if found is None and port != SSH_PORT:
        named = find(data, host)
        return named if named is not None and named.startswith(host + b"\t") else None
    return found


def find(data: Data, wanted: bytes) -> bytes | None:
    """Return the line of the machine that is reached by a spelling, or None."""
    low, high = index(data), len(data)
    while low < high:
        middle = (low + high) // 2
        begin = max(data.rfind(b"\n", low, middle) + 1, low)
        end = data.find(b"\n", middle, high)
        found, _, offset = data[begin:end].partition(b"\t")
        if found == wanted:
            return data[int(offset) : data.find(b"\n", int(offset))]
        if found < wanted:
            low = end + 1
        else:
            high = begin
    return None


def authority(data: Data) -> list[bytes]:
    """Return the line that lets the CA speak for its names, or none."""
    begin = data.find(b"\n") + 1
    line = data[begin : data.find(b"\n", begin)]
    return [b"@cert-authority " + line[3:]] if line.startswith(b"ca ") else []


def index(data: Data) -> int:
    """Return where the index begins."""
    return int(data[: data.find(b"\n")].split(b"\t")[-2])


def whose(data: Data, key: bytes) -> bytes | None:
    """Return the line of a machine that has this key now; read from end to end, only before a refusal."""
    at = data.find(b" " + key + b" ")
    while at >= 0:
        begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
        if any(each[2] == key for each in fields(data[begin:end], b"key")):
            return data[begin:end]
        at = data.find(b" " + key + b" ", at + 1)
    return None


def name(machine: bytes) -> str:
    """Return the machine's name, the first field of its line."""
    return shown(machine.partition(b"\t")[0])


def fields(machine: bytes, kind: bytes) -> list[list[bytes]]:
    """Return the fields of one kind; those of a later version are passed over."""
    most = 6 if kind == b"key" else 4
    return [each.split(b" ", most) for each in machine.split(b"\t") if each.startswith(kind + b" ")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
