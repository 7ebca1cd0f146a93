"""The group of `dive`'s subcommands, each loaded when it is used.

A subcommand's module is imported only when it runs or shows its help, so that `dive --help` and
`dive tune-tau` start without torch.
"""

import importlib
import os

import click

from dive.version import __version__

COMMANDS = {
    "init": "Inspect your images and write a recipe for them.",
    "recipes": "List the recipes shipped with dive.",
    "teacher": "Train the teacher.",
    "export-logits": "Run the teacher once on every view and cache its logits.",
    "merge-shards": "Merge the shards of a parallel export into one cache.",
    "import-logits": "Create a logit cache from logits of another program.",
    "convert": "Re-encode a logit cache, without its teacher.",
    "merge-caches": "Merge the logit caches of several teachers into an ensemble.",
    "tune-tau": "Choose the temperature and power from the cached logits.",
    "student": "Train a student from images and cached logits.",
    "eval": "Evaluate checkpoints: many-, medium- and few-shot accuracy.",
    "report": "Write an HTML page to explore checkpoints and caches.",
    "predict": "Classify image files.",
    "export-model": "Export a network to a file that runs without dive.",
    "inspect": "Show what a cache or checkpoint contains.",
    "verify": "Check the integrity of a logit cache.",
    "doctor": "Show versions, devices and memory, for bug reports.",
}
COMPLETION = "_DIVE_COMPLETE"


class LazyGroup(click.Group):
    """A group that lists its commands by name and imports the module of a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"dive.cli.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

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

    Without options, each command does its part of the paper's experiment: CIFAR-100-LT at imbalance 100.
    For other experiments, give --config NAME; dive recipes lists the names.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: list[str]) -> int:
    """Run the command that the arguments name; returns the exit code, and raises the errors of the command.

    click's own `main` is not used, because it prints an empty line for a KeyboardInterrupt.
    """
    if instruction := os.environ.get(COMPLETION):  # set by the shell when Tab is pressed
        from click.shell_completion import shell_complete

        return shell_complete(group, {}, "dive", COMPLETION, instruction)
    try:
        with group.make_context("dive", arguments) as context:
            group.invoke(context)
    except click.exceptions.Exit as stop:  # --help, --version
        return stop.exit_code
    return 0
