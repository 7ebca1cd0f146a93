"""Options that several commands share, and the variadic options that click does not have."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from dive import notation
from dive.printable import UNPRINTABLE, excerpt
from dive.progress import Progress
from dive.recipe import bounds

if TYPE_CHECKING:
    from dive.recipe.recipe import Recipe

_TYPED = "dive.cli.typed"  # key in the `meta` of a context, for the words typed before Tab was pressed
FILE = click.Path(path_type=Path)
Decorator = Callable[[Any], Any]


class Number(click.ParamType):
    """A number, read by `dive.notation`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return notation.decimal(value)
        except ValueError as error:
            self.fail(f"{excerpt(value)} {error}", param, ctx)


class Whole(click.ParamType):
    """A whole number from `least` to `most`, read by `dive.notation`."""

    name = "whole number"

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            number = notation.whole(value)
        except ValueError as error:
            self.fail(f"{excerpt(value)} {error}", param, ctx)
        if not self.least <= number <= self.most:
            self.fail(f"{excerpt(number)} must be from {self.least} to {self.most}", param, ctx)
        return number


class Share(click.ParamType):
    """One of several shares, `3/16`, counted from 1."""

    name = "share"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        try:
            number, of = map(notation.whole, value.split("/"))
        except ValueError:
            self.fail(f"{excerpt(value)} is not of the form K/N, for example 3/16", param, ctx)
        if not 1 <= number <= of <= 1_000_000:
            self.fail(f"{excerpt(value)}: K must be from 1 to N", param, ctx)
        return number, of


NUMBER = Number()
SHARE = Share()
SEED = Whole(*bounds.SEEDS)
EPOCHS = Whole(*bounds.EPOCHS)


class VariadicCommand(click.Command):
    """A command whose options named in `variadic` take one or more values: `--tau 1 3 6`.

    The arguments are rewritten to `--tau 1 --tau 3 --tau 6` before click sees them. Positional
    arguments come before such an option, which takes every word up to the next option.
    """

    def __init__(self, *args: Any, variadic: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.variadic = variadic

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # Tab was pressed: the last option may have no value yet
            ctx.meta[_TYPED] = list(args)
            return super().parse_args(ctx, args)
        return super().parse_args(ctx, spread(args, self.variadic))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The completions where Tab was pressed, among them a further value of a variadic option."""
        found = super().shell_complete(ctx, incomplete)
        typed = [word for word in ctx.meta.get(_TYPED, ()) if _is_option(word)]
        if not typed or typed[-1] not in self.variadic or incomplete.startswith("-"):
            return found
        (option,) = (one for one in self.params if typed[-1] in one.opts)
        return [*option.shell_complete(ctx, incomplete), *found]


def spread(args: list[str], variadic: tuple[str, ...]) -> list[str]:
    """Repeat each variadic option before each of its values.

    A value is a word that does not start with a dash, `-` itself, or a negative number. Raises
    click.BadOptionUsage if a variadic option has no value.
    """
    spread_args: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg not in variadic:
            spread_args.append(arg)
            continue
        values = []
        while rest and not _is_option(rest[0]):
            values.append(rest.pop(0))
        if not values:
            raise click.BadOptionUsage(arg, f"Option '{arg}' needs at least one value.")
        for value in values:
            spread_args += [arg, value]
    return spread_args


def _is_option(arg: str) -> bool:
    if not arg.startswith("-") or arg == "-":
        return False
    try:
        notation.decimal(arg)
    except ValueError:
        return True
    return False


def _recipes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The recipes whose names start with what was typed, and files."""
    from dive.recipe.shipped import recipes

    named = [CompletionItem(name) for name in recipes() if name.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *named]  # bash completes files if no name matches


config = click.option(
    "--config",
    type=FILE,
    shell_complete=_recipes,
    metavar="FILE|NAME",
    help="Recipe: a YAML file, or a name that dive recipes lists. Missing keys have the paper's values.",
)
assignments = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the recipe; may be repeated.",
)
data = click.option("--data", metavar="PATH", help="Where the images are, or where to download them.")
device = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Device to compute on."
)
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "tf32", "bf16"]),
    help="Precision; tf32 needs CUDA. auto takes the fastest that agrees with fp32.",
)
seed = click.option("--seed", type=SEED, metavar="N", help="Seed of initialisation, sample order and views.")
clean = click.option(
    "--clean", is_flag=True, help="Use only the clean view, as in the paper's Figure 5, not all stored views."
)
sample_seed = click.option("--seed", type=SEED, metavar="N", help="Seed of the sample of --sample [0].")
own = click.option(
    "--model",
    "own",
    multiple=True,
    metavar="MODULE:CALLABLE",
    help="Network of your own that a checkpoint may contain; may be repeated.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON document instead of tables.")
quiet = click.option("--quiet", is_flag=True, help="Show no progress, only warnings.")
force = click.option("--force", is_flag=True, help="Start over, and replace a finished result.")
eval_every = click.option(
    "--eval-every",
    type=Whole(0, bounds.EPOCHS[1]),
    default=0,
    metavar="N",
    help="Also evaluate every N epochs, on the validation set if there is one, otherwise on the test set.",
)


WORKERS_NEED = ["dive.feeds.images", "dive.data.on_demand", "dive.views.registry"]


def _workers(_: click.Context, __: click.Parameter, count: int | None) -> int | None:
    """Return the number of workers, and have the fork server import once what all of them need.

    Otherwise each would import torch itself. The command does this, as it is a setting of the whole process.
    """
    if count != 0:
        import multiprocessing

        multiprocessing.get_context("forkserver").set_forkserver_preload(WORKERS_NEED)
    return count


workers = click.option(
    "--workers",
    type=Whole(0, 1024),
    callback=_workers,
    metavar="N",
    help="Number of processes that read photographs [one less than there are cores].",
)
check_images = click.option(
    "--check-images", is_flag=True, help="Decode every photograph before the run, instead of only its header."
)
tensorboard = click.option(
    "--tensorboard",
    type=FILE,
    metavar="DIR",
    help="Write the scalars and recipe of each run for TensorBoard to DIR/<recipe>/<checkpoint>. Needs the "
    "tensorboard extra.",
)


def seed_of_sample(seed: int | None, sample: int | None) -> int:
    """The seed of a sample; raises click.UsageError if --seed is given without --sample."""
    if seed is not None and sample is None:
        raise click.UsageError("--seed is the seed of --sample: give --sample N too, or leave out --seed")
    return seed or 0


def several(option: str, name: str, letter: str, help: str, kind: click.ParamType = NUMBER) -> Decorator:
    """An option of a `VariadicCommand` that takes one or more values."""
    metavar = f"{letter} [{letter} ...]"
    return click.option(option, name, type=kind, multiple=True, metavar=metavar, help=help)


def apply(*options: Decorator) -> Decorator:
    """One decorator that applies several options, shown in the help in the order given."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def read_recipe(
    config: Path | None,
    assignments: tuple[str, ...],
    *,
    epochs: int | None = None,
    of_student: bool = False,
    **options: Any,
) -> "Recipe":
    """The recipe that the shared options select. options: keys of the recipe, with `__` for each dot.

    of_student: return the recipe of the student's training, and apply `epochs` to its schedule.
    """
    from dive.recipe.reading import load, with_epochs
    from dive.recipe.shipped import locate

    dotted = {key.replace("__", "."): value for key, value in options.items()}
    recipe = load(config and locate(config), assignments, dotted)
    recipe = recipe.of_student if of_student else recipe
    return recipe if epochs is None else with_epochs(recipe, epochs)


def reporter(quiet: bool) -> Progress:
    """Progress on stderr."""
    return Progress(quiet)


def print_json(document: Any) -> None:
    """Print the document of `--json` on stdout, where nothing else is printed.

    Characters that a terminal would interpret are written as JSON escapes.
    """
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    lines = json.dumps(document, indent=2, ensure_ascii=not utf8).split("\n")
    escaped = (UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", line) for line in lines)
    sys.stdout.write("\n".join(escaped) + "\n")
