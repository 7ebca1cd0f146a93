"""The `dive` command: the group, its subcommands loaded when asked for, and errors as one line.

A subcommand's module is imported only when it runs or shows its help, so that `dive --help` and
`dive tune-tau` start without torch.
"""

import importlib
import io
import os
import sys

import click

from dive import __version__
from dive.errors import DiveError

COMMANDS = {
    "teacher": "Train the teacher.",
    "export-logits": "Run the teacher once over every view and keep its logits.",
    "tune-tau": "Choose temperature and power normalisation from the cached logits.",
    "student": "Train a student from the cache alone.",
    "eval": "Many, medium and few-shot accuracy of checkpoints.",
    "inspect": "Show what a cache or a checkpoint is.",
    "verify": "Check a logit cache from its seal to its last row.",
}
INTERRUPTED = 130


class Interrupted(Exception):
    """Ctrl-C. click would print an empty line for KeyboardInterrupt itself."""


class LazyGroup(click.Group):
    """A group that knows its commands' names and imports a command's module when it is used."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"dive.commands.{name.replace('-', '_')}")
        return module.command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands, in the order of their use"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="dive")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Distil virtual examples for long-tailed recognition from a logit cache.

    With no option at all each command does its part of the paper's experiment: CIFAR-100-LT at
    imbalance 100. Other experiments: --config configs/…/….yaml
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Run the command line and exit; a user's mistake never shows a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # τ and class names in a terminal without such letters
    try:
        sys.exit(group.main(prog_name="dive", standalone_mode=False) or 0)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        _complain(error.format_message() + hint)
        sys.exit(error.exit_code)
    except (Interrupted, KeyboardInterrupt, click.Abort):
        _complain("interrupted; the same command goes on from its last saved state, or starts again")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # keeps the exit quiet too
        sys.exit(1)
    except DiveError as error:
        for message in error.messages:
            _complain(message)
        sys.exit(error.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        _complain(
            "out of memory; try a smaller schedule.batch_size or data.size, fewer --views, or --device cpu"
        )
        sys.exit(1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _complain(f"{error.strerror or error}{where}")
        sys.exit(1)


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, a GPU's allocator or torch's on the CPU ran out of memory."""
    named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return named or "can't allocate memory" in str(error)


def _complain(message: str) -> None:
    click.echo("dive: " + " ".join(message.split()), err=True)
