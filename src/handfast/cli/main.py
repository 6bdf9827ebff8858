"""The table of commands, and the last error handler."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from handfast import __version__
from handfast.adapters.process import leave_no_core
from handfast.cli import ui
from handfast.cli.exit_codes import EXIT_CODES, INTERRUPTED, exit_code
from handfast.cli.lazy import Lazy
from handfast.errors import Fault, HandfastError, UsageError

COMMANDS = {
    "up": ("registrar", "run a registrar on this machine; the first run makes the authority"),
    "invite": ("registrar", "print an invitation: one line for one newcomer"),
    "join": ("newcomer", "on the newcomer: paste the invitation, get certificate, key and trust"),
    "status": ("newcomer", "what this machine holds, and when it is renewed"),
    "renew": ("renew", "get the successor of this machine's credential"),
    "explain": ("newcomer", "why this machine trusts and is trusted, in sentences"),
    "list": ("registrar", "the machines this registrar knows"),
    "show": ("registrar", "one machine: credentials, invitations, alarms, history"),
    "revoke": ("registrar", "take back a machine's credentials, or one serial"),
    "host": ("host", "SSH host keys of machines: who has which, and how that became known"),
    "approve": ("approve", "host keys that would change what is known: a person looks first"),
    "known-hosts": ("known_hosts", "print the host keys that are believed, as ssh and others read them"),
    "userdata": ("userdata", "print cloud-init user-data with which a new machine makes its host keys known"),
    "ssh": ("ssh", "ssh to a machine whose host key is known before the first connection"),
    "ssh-login": ("ssh_login", "a certificate for your SSH key, by an OpenID provider or an operator credential"),
    "ssh-revoke": ("ssh_revoke", "take an SSH certificate back, with the key in it"),
    "ssh-config": ("ssh_config", "have plain ssh, scp, rsync and git know the machines' host keys"),
    "doctor": ("ssh_config", "why ssh would or would not accept a host"),
    "instance": ("instance", "machines that are managed from their first minute: launch, watch, release"),
    "agent": ("agent", "on a managed machine: do what its controller asks, and its policy allows"),
    "web": ("web", "show the machines and their host keys in a browser, by a one-time link"),
    "ca": ("authority", "show the authority and its SSH CAs; print its bundle and its lists of what is revoked"),
    "log": ("log", "show the log, or prove that nothing in it was changed"),
    "session": ("session", "one server, its clients, and nobody else between them: make it, hand it out, use it"),
    "tls-toolkit": ("toolkit", "NiFi's tls-toolkit: client, server, standalone and status, as they were"),
    "demo": ("demo", "see it work: an honest join, and attacks that are refused"),
}

INVITATION = "handfast1_"  # core.invitation.PREFIX, from a module that --help must not load


class Commands(Lazy):
    """All of them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse an invitation among the arguments of any command, before click repeats it in an error message."""
        if any(INVITATION in argument for argument in args):
            raise UsageError(
                "an invitation is a secret and must not be an argument: `ps` shows it to every user",
                hint="paste it at the prompt, or use --invitation-file, stdin or HANDFAST_INVITATION; "
                "cancel this one if others use this machine",
            )
        return super().parse_args(ctx, args)


EPILOG = """\b
Example:
  registrar$ handfast up
  registrar$ handfast invite web1.lan
  web1$      handfast join
  web1$      ls /etc/handfast/identity
"""


@click.command(cls=Commands, table=COMMANDS, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="handfast", message="%(prog)s %(version)s")
def handfast() -> None:
    """Introduce machines to each other: authentic, encrypted, mutually authenticated, from the first packet."""


def misused(error: click.ClickException) -> UsageError:
    """Return click's complaint in our own words: lower case, and with what to do."""
    from difflib import get_close_matches  # only here: --help does without

    text = error.format_message()
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context is not None else "handfast"
    hint = f"see `{command} --help`"
    if isinstance(error, click.exceptions.NoSuchCommand) and context is not None:
        text = error.message  # without click's own guesses
        known = context.command.list_commands(context) if isinstance(context.command, click.Group) else []
        if meant := get_close_matches(error.command_name, known, 1):
            hint = f"did you mean `{command} {meant[0]}`?"
    text = text.rstrip(".")
    return UsageError(text[:1].lower() + text[1:], hint=hint)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; every deliberate error becomes words and a code."""
    leave_no_core()
    try:
        ui.check_streams()
        result: Any = handfast.main(args=arguments, prog_name="handfast", standalone_mode=False)
        sys.stdout.flush()
    except HandfastError as error:
        ui.complain(error)
        return exit_code(error)
    except click.exceptions.NoArgsIsHelpError as error:
        for line in error.format_message().splitlines():  # the help of a group
            ui.say(line)
        return EXIT_CODES[UsageError]
    except click.ClickException as error:
        usage = misused(error)
        ui.complain(usage)
        return exit_code(usage)
    except (click.Abort, KeyboardInterrupt):
        ui.say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # `handfast list | head` is no fault; keep Python from complaining again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        # Words and a code for the person; the traceback, which shows no values, for whoever mends it.
        ui.complain(
            Fault(f"unexpected {type(error).__name__}: {error}", hint="this is a bug: HANDFAST_DEBUG=1 shows where")
        )
        from handfast.config import wants_traceback  # here, because --help must not load it

        if wants_traceback():
            raise
        return 1
    return result if isinstance(result, int) else 0
