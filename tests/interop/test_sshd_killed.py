"""An installation in a real sshd, killed before each of its steps: nobody is locked out, and the next run mends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial

import pytest

from handfast.core.sshcert import Kind
from handfast.newcomer import sshd
from tests.core.sshmaterial import new_key, public
from tests.interop.hosts import local_host
from tests.interop.sshd_stage import PIN, USER_CA, USERS, OwnSshd, certificate
from tests.newcomer.crash import interrupted

pytestmark = [pytest.mark.peer("ssh", "sshd", "ssh-keygen"), pytest.mark.root, pytest.mark.timeout(240)]


@pytest.mark.slow
def test_killed_at_every_step() -> None:
    """kill -9 before each system call: sshd lets root in all the while, and the next run comes to the end."""
    with local_host() as host:
        server = OwnSshd(host)
        key = new_key(host.directory, "ed25519")
        (server.etc / "authorized_keys").write_text(f"{public(key)}\n")
        user = certificate(public(key), ca=USER_CA, kind=Kind.USER, principals=("root",))
        install = partial(sshd.install, pin=PIN, config=server.config)
        install([server.certificate()])  # so that the client knows the host
        step, killed = 0, True
        while killed:
            step += 1
            wanted = server.certificate(serial=100 + step)
            killed = _killed(step, partial(install, [wanted], users=USERS))
            assert server.login(user, key) == "in it\n"
            install([wanted], users=USERS, unfinished=True)
            assert server.shown() == wanted
            assert list(server.etc.rglob("*.tmp")) == []
            install([wanted])  # without the CA for users, whom the next one adds
        assert step > 20


def _killed(step: int, action: Callable[[], object]) -> bool:
    """Run it in a process of its own, and kill that before its system call of this number; False if there was none."""
    child = os.fork()
    if child == 0:
        with interrupted(step, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            action()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
