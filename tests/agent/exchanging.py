"""
What a service's user does who wants root to write elsewhere: `exchanging.py UID NAME…`, in a directory of his.

Each NAME is exchanged with `NAME.led`, again and again, in one step each; a NAME that ends with `+` is now a link
to what `led` leads to, and now removed. It says when it has exchanged each once, and ends after a while, or when it is
killed.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # renameat2(2)
ROUNDS = 20_000_000


def main(user: int, names: list[str]) -> None:
    """Become that user, who may not be able to start us, and do so."""
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    pairs = [(os.fsencode(name), os.fsencode(f"{name}.led")) for name in names if not name.endswith("+")]
    planted = [name[:-1] for name in names if name.endswith("+")]
    waits = set(pairs)  # another of his may have exchanged the directory itself at this moment
    for number in range(ROUNDS):
        for pair in pairs:
            name, led = pair
            if renameat2(AT_FDCWD, name, AT_FDCWD, led, RENAME_EXCHANGE) == 0 and pair in waits:
                waits.remove(pair)
                if not waits:
                    print("begun", flush=True)
        for each in planted if number % 50 == 0 else ():
            with suppress(OSError):
                os.unlink(each) if number % 100 else os.symlink(os.readlink("led"), each)
        for _ in range(number % 3000):  # some directories stay for a moment: what root does there is to begin
            pass


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
