"""ssh: to be found in `handfast --help`; what it does is in ``ssh_run``, without click."""

from __future__ import annotations

from typing import Any

import click

from handfast.cli import ssh_run


class _Verbatim(click.Command):
    """A command whose arguments are another program's: nothing in them is read, not even ``--``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args == [ssh_run.HELP]:
            return super().parse_args(ctx, args)
        ctx.params = {"given": tuple(args)}
        return []


EPILOG = """\b
Example:
  handfast ssh --data /var/lib/handfast root@web1.lan uptime
  handfast ssh --registrar https://registrar.lan:7443#PIN -J bastion.lan web1.lan
  export HANDFAST_REGISTRAR=https://registrar.lan:7443#PIN
  rsync -e "handfast ssh" -a site/ web1.lan:/srv/site
  GIT_SSH_COMMAND="handfast ssh" git push
  scp -S handfast-ssh report.pdf web1.lan:
"""


@click.command(
    "ssh",
    cls=_Verbatim,
    epilog=EPILOG,
    options_metavar="[--data DIRECTORY | --registrar URL#PIN | --identity DIRECTORY]",
    short_help="ssh, with the machine's host keys known and no others believed",
)
@click.argument("given", nargs=-1, metavar="[SSH ARGUMENTS]")
def ssh_command(given: tuple[str, ...], **_: Any) -> int:
    """
    Be ssh, with the machine's registered host keys and strict checking.

    All arguments but ours, which come first, are ssh's, and mean what they mean to ssh. The keys are looked up in a
    registrar's data directory or at a registrar, with --identity at the one of that credential; else HANDFAST_DATA,
    HANDFAST_REGISTRAR, the registrar on this machine, or the one that this machine has joined say where. A host that is
    not registered is refused with exit code 3; otherwise the exit code is ssh's.
    Jump hosts (-J) are checked in the same way. Programs that take one word take `handfast-ssh`.
    """
    return ssh_run.run(given)
