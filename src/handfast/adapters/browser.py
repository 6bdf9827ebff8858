"""The person's browser, as the desktop knows it."""

from __future__ import annotations

import os
import shutil
import subprocess

from handfast.adapters.process import child_environment


def open_link(link: str) -> bool:
    """
    Have the desktop open a link, and return whether it was asked to; not waited for is whether a browser comes up.

    The link is an argument of that process: every user of this machine can read it there.
    """
    opener = shutil.which("xdg-open")
    if opener is None or not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False  # on a terminal alone, xdg-open would start a browser in it
    quiet = subprocess.DEVNULL
    # Not ended with us: the browser may be its child.
    subprocess.Popen(
        [opener, link], stdin=quiet, stdout=quiet, stderr=quiet, env=child_environment(), start_new_session=True
    )
    return True
