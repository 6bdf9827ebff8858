"""
The host keys of this machine's sshd as something that signs, wherever each of them is.

    /etc/ssh/ssh_host_*_key        we read it and sign                          newcomer.hostkeys
    …_key.pub, and in ssh-agent    the agent signs (sshd's HostKeyAgent)        newcomer.ssh_agent
    …_key, which we cannot read    ssh-keygen signs: it knows more formats, and asks for a passphrase

What is signed elsewhere is verified here, before it is sent to anybody.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from handfast.adapters.process import child_environment
from handfast.core import sshkeys, sshsig
from handfast.core.challenge import MAX_KEYS
from handfast.core.hostproof import HostSigner
from handfast.core.hosts import SSH_PORT
from handfast.core.sshkeys import PROVABLE, SshKey
from handfast.errors import HandfastError, NotFound, Refused, UntrustedPeer
from handfast.newcomer import hostkeys
from handfast.newcomer.ssh_agent import Agent, AgentSigner

_PUBLIC = "ssh_host_*_key.pub"
_PATIENCE = 120.0  # seconds for ssh-keygen: a person types a passphrase
_ORDER = ("ssh-ed25519", "ecdsa", "ssh-rsa")  # which go first where there are too many


@dataclass(frozen=True, slots=True)
class KeygenSigner:
    """A key whose private half ``ssh-keygen`` finds at ``path``, as ``core.hostproof.HostSigner``."""

    public: SshKey
    path: Path

    def sign(self, message: bytes, namespace: str) -> bytes:
        """
        Return an SSHSIG without armor.

        :raises NotFound: no ssh-keygen here. :raises Refused: it does not sign; its last words say why.
        :raises UntrustedPeer: what it signed with is not the key that stands beside.
        """
        line = ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", str(self.path)]
        try:
            done = subprocess.run(
                line, input=message, capture_output=True, env=child_environment(), timeout=_PATIENCE, check=False
            )
        except FileNotFoundError:
            raise NotFound("there is no ssh-keygen to sign with", hint="install OpenSSH's client") from None
        except subprocess.TimeoutExpired:
            raise Refused(f"ssh-keygen did not sign with {str(self.path)!r} in time", hint="does it ask you?") from None
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
            said = "".join(filter(str.isprintable, words[-1]))[:200]
            raise Refused(f"ssh-keygen did not sign with {str(self.path)!r}: {said}", hint=f"try `{' '.join(line)}`")
        try:
            signature = sshsig.unarmor(done.stdout.decode("ascii", "replace"))
            signer = sshsig.verify(signature, message, namespace=namespace)
        except HandfastError as error:
            raise UntrustedPeer(f"what ssh-keygen signed is no signature: {error.message}", hint=error.hint) from None
        if signer != self.public:
            raise UntrustedPeer(
                f"ssh-keygen signed with {signer.fingerprint}, and {self.path.name}.pub is {self.public.fingerprint}",
                hint="write the other half anew: ssh-keygen -y -f KEY > KEY.pub",
            )
        return signature


@dataclass(frozen=True, slots=True)
class Signers:
    """
    Host keys that can sign, why others cannot, and the socket of the ssh-agent where one of them is in it.

    ``paths`` are those of the private halves, also where nothing is: a certificate is put beside.
    """

    signers: tuple[HostSigner, ...]
    paths: dict[SshKey, Path]
    remarks: tuple[str, ...]
    agent: Path | None


@contextmanager
def host_signers(directory: Path, *, agent: Path | None, most: int = MAX_KEYS) -> Iterator[Signers]:
    """
    Give the host keys in ``directory`` that can sign, for the length of the block.

    ``agent`` is the socket of an ssh-agent that may have those of which only the public half is there.

    :raises NotFound: none can sign. :raises Unsafe, Fault: a private half is readable by others, or not to us.
    """
    with ExitStack() as agents:
        search = _Search(directory, agent, agents)
        search.run()
        if not search.found:
            hint = "make them with `ssh-keygen -A`, or say where they are with --ssh-dir"
            nothing = search.nothing.removeprefix(f"no SSH host keys in {str(directory)!r}").removeprefix("; ")
            why = "".join(f"; {each}" for each in filter(None, (nothing, *search.remarks)))
            raise NotFound(f"no SSH host key in {str(directory)!r}{why and f' can sign{why}'}", hint=hint)
        chosen = sorted(search.found, key=_rank)
        late = [f"{str(search.found[key][1])!r} is left out: {most} keys at a time" for key in chosen[most:]]
        signers = tuple(search.found[key][0] for key in chosen[:most])
        paths = {key: search.found[key][1] for key in chosen[:most]}
        used = agent if any(isinstance(each, AgentSigner) for each in signers) else None
        yield Signers(signers, paths, (*search.remarks, *late), used)


@dataclass(slots=True)
class _Search:
    """Looks for somebody who signs, key by key; the agent is asked only where we cannot."""

    directory: Path
    agent: Path | None
    agents: ExitStack
    found: dict[SshKey, tuple[HostSigner, Path]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    opened: Agent | None = None
    nothing: str = ""

    def run(self) -> None:
        try:
            loaded, remarks = hostkeys.load(self.directory, ports=(SSH_PORT,))
            paths = hostkeys.located(self.directory)
            self.found |= {signer.public: (signer, paths[signer.public]) for signer in loaded.signers}
            self.remarks += remarks
        except NotFound as error:
            self.nothing = error.message
        for path in sorted(self.directory.glob(_PUBLIC)):
            try:
                key = sshkeys.parse(path.read_text("utf-8", errors="replace"))
            except (OSError, HandfastError) as error:
                self.remarks.append(f"{str(path)!r} is left out: {error}")
                continue
            if key not in self.found and key.algorithm in PROVABLE:
                self._elsewhere(key, path)

    def _elsewhere(self, key: SshKey, path: Path) -> None:
        private = path.with_suffix("")
        if (signer := self._in_agent(key)) is not None:
            self.found[key] = signer, private
        elif private.exists():
            if not hostkeys.readable(private):  # what we can read was left out for a better reason
                self.found[key] = KeygenSigner(key, private), private
                self.remarks = [each for each in self.remarks if not each.startswith(f"{str(private)!r} ")]
        else:
            self.remarks.append(f"{str(path)!r} is left out: its private half is neither there nor in an ssh-agent")

    def _in_agent(self, key: SshKey) -> HostSigner | None:
        if self.agent is None:
            return None
        try:
            if self.opened is None:
                self.opened = self.agents.enter_context(Agent(self.agent))
            return self.opened.signer(key)
        except NotFound:
            return None
        except HandfastError as error:
            self.agent = None  # once is enough
            self.remarks.append(f"the ssh-agent is not used: {error.message}")
            return None


def _rank(key: SshKey) -> tuple[int, SshKey]:
    return next((at for at, name in enumerate(_ORDER) if key.algorithm.startswith(name)), len(_ORDER)), key
