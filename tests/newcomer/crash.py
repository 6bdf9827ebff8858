"""
Adopting a credential, ended at every single step of its input and output.

    python -m tests.newcomer.crash kill DIR     kill -9 before each system call and in the middle of each write
    python -m tests.newcomer.crash first DIR    the same, with nothing there before
    python -m tests.newcomer.crash full DIR     a file system that is really full, at many fill levels

Each is a process of its own, because it forks or because it runs in its own mount namespace. It ends
with one JSON line; a broken promise is an AssertionError.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12
from cryptography.x509 import load_pem_x509_certificate

from handfast.errors import Fault, NotFound
from handfast.newcomer.keystore import Keystore
from tests.newcomer.material import material

LAYOUTS = ("pkcs12",)
NAMES = {
    *("cert.pem", "chain.pem", "fullchain.pem", "privkey.pem", "trust.pem", "identity.json"),
    *("keystore.p12", "truststore.p12", "store-password"),
}
CALLS = (
    *("open", "write", "pwrite", "ftruncate", "fsync", "fchmod", "fchown", "chmod", "chown"),
    *("rename", "replace", "symlink", "mkdir", "unlink", "rmdir"),
)


@contextmanager
def interrupted(step: int, interrupt: Callable[[], None]) -> Iterator[list[str]]:
    """Call ``interrupt`` instead of the ``step``-th system call that matters; a write is half done by then."""
    made: list[str] = []
    originals = {name: getattr(os, name) for name in CALLS}

    def replacement(name: str) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            made.append(name)
            if len(made) == step:
                if name == "write":
                    fd, data = args
                    assert isinstance(data, memoryview)
                    originals[name](fd, data[: len(data) // 2])
                interrupt()
            return originals[name](*args, **options)

        return call

    for name in CALLS:
        setattr(os, name, replacement(name))
    try:
        yield made
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def whole(directory: Path) -> int:
    """Return the serial in use (0 for none), having checked that everything a program can open belongs to it."""
    try:
        loaded = Keystore(directory).load()
    except NotFound:
        assert not (directory / "cert.pem").exists()
        assert not (directory / "privkey.pem").exists()
        return 0
    public = load_pem_x509_certificate((directory / "cert.pem").read_bytes())
    assert public == loaded.certificate
    key = load_pem_private_key((directory / "privkey.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == public.public_key()
    password = (directory / "store-password").read_bytes().strip()
    store = pkcs12.load_pkcs12((directory / "keystore.p12").read_bytes(), password)
    assert store.cert is not None
    assert store.cert.certificate == public
    assert json.loads((directory / "identity.json").read_bytes())["serial"] == public.serial_number
    return public.serial_number


def tidy(directory: Path) -> None:
    """Assert that nothing is left over: our links, our hidden names, at most two generations."""
    generations = os.listdir(directory / ".generations")
    assert set(os.listdir(directory)) == NAMES | {".current", ".generations", ".lock"}
    assert os.path.basename(os.readlink(directory / ".current")) in generations
    assert len(generations) <= 2


def kill(directory: Path) -> dict[str, int]:
    """A renewal."""
    store = Keystore(directory)
    store.adopt(material(0xA), layouts=LAYOUTS)
    store.pending("b")
    pristine = directory.with_name("pristine")
    shutil.copytree(directory, pristine, symlinks=True)
    return _kill_each(store, lambda: shutil.copytree(pristine, directory, symlinks=True))


def first(directory: Path) -> dict[str, int]:
    """A first join: DIR does not even exist."""
    return _kill_each(Keystore(directory), lambda: None)


def _kill_each(store: Keystore, restore: Callable[[], object]) -> dict[str, int]:
    new = material(0xB)
    found = {0: 0, 0xA: 0, 0xB: 0}
    step, finished = 0, False
    while not finished:
        step += 1
        child = os.fork()
        if not child:
            with interrupted(step, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                store.adopt(new, layouts=LAYOUTS)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        finished = os.WIFEXITED(status)
        assert finished or os.WTERMSIG(status) == signal.SIGKILL
        found[whole(store.directory)] += 1
        store.adopt(new, layouts=LAYOUTS)
        assert whole(store.directory) == 0xB
        tidy(store.directory)
        shutil.rmtree(store.directory)
        restore()
    return {"steps": step, "nothing": found[0], "old": found[0xA], "new": found[0xB]}


def full(directory: Path) -> dict[str, int]:
    """A renewal on a file system that fills up."""
    old, new = material(0xA), material(0xB)
    store, filler = Keystore(directory / "web1"), directory / "filler"
    store.adopt(old, layouts=LAYOUTS)
    refused = []
    for pages in range(64):
        _fill(filler, spare=pages * 4096)
        try:
            store.adopt(new)
        except Fault as error:
            refused.append(error)
            assert whole(store.directory) == 0xA
            assert os.listdir(store.directory / ".generations") == [f"{0xA:032x}"]
        else:
            break
        finally:
            filler.unlink(missing_ok=True)
    assert all("no space left on device" in error.message and error.hint for error in refused)
    assert whole(store.directory) == 0xB
    return {"refused": len(refused)}


def _fill(filler: Path, *, spare: int) -> None:
    """Use up the file system, but for ``spare`` bytes."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - spare))


if __name__ == "__main__":
    print(json.dumps({"kill": kill, "first": first, "full": full}[sys.argv[1]](Path(sys.argv[2]))))
