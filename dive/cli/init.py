"""`dive init`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dive.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from dive.workflows.survey import Survey

MOST_ROWS = 20  # of the table of classes
MOST_BROKEN = 10  # files listed
SHOTS = "many over 100 training images, medium 20 to 100, few under 20"
COLOURS = {"many": "green", "medium": "yellow", "few": "red"}
LISTS = ("train_list", "test_list", "val_list", "classes")


@click.command("init")
@click.argument("root", metavar="FOLDER|ZIP")
@click.option("--train-list", metavar="FILE", help="List of the training images below the folder.")
@click.option("--test-list", metavar="FILE", help="List of the test images; required with --train-list.")
@click.option("--val-list", metavar="FILE", help="List of the validation images.")
@click.option("--classes", metavar="FILE", help="File of the class names of the lists, one per line.")
@click.option("--check", is_flag=True, help="Decode every image, which finds truncated ones.")
@click.option("--out", type=options.FILE, help="Recipe to write [the name of the folder with .yaml].")
@click.option("--force", is_flag=True, help="Replace a recipe written by this command.")
@options.apply(options.as_json, options.quiet)
def command(
    root: str,
    train_list: str | None,
    test_list: str | None,
    val_list: str | None,
    classes: str | None,
    check: bool,
    out: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Inspect your images and write a recipe for them.

    The images are in train/<class>/ and test/<class>/, or only in <class>/, in a folder or a .zip of a
    folder. Alternatively, list files name them.

    The command shows how many images each class has and how large they are, and lists files that are not
    images. The name of the recipe becomes the name of the results made with it.

    \b
    Example:
      dive init my_photographs --out my_photographs.yaml
    """
    lists = dict(zip(LISTS, (train_list, test_list, val_list, classes), strict=True))
    given = {key: value for key, value in lists.items() if value is not None}
    if given and not (train_list and test_list):
        raise click.UsageError("give both --train-list and --test-list; --val-list and --classes need them")
    from dive.workflows.starter import check_place, commands, default_name, write_recipe
    from dive.workflows.survey import survey

    out = out or default_name(Path(root))
    inputs = [Path(value) for value in given.values()]
    check_place(out, inputs, force)
    found = survey("list" if given else "folder", {"root": root, **given}, check, options.reporter(quiet))
    write_recipe(found, out, inputs, force)
    if as_json:
        options.print_json({"recipe": str(out), "commands": commands(found, out), **found.as_dict()})
        return
    _print(found)
    click.echo(f"\n{_printable(out)} is written. Next:\n")
    for line in commands(found, out):
        click.echo(f"    {_printable(line)}")


def _printable(text: object) -> str:
    from dive.printable import printable

    return printable(str(text))


def _print(found: "Survey") -> None:
    from dive.cli.tables import print_table
    from dive.files import readable_size
    from dive.workflows.starter import is_small
    from dive.workflows.survey import PARTS, counted

    print_table(_table(found))
    click.echo(f"{'shots':<18} {SHOTS}")
    total = {part: int(counts.sum()) for part, counts in found.counts.items()}
    for part, name in PARTS.items():
        images = f"{total[part]:,}" if part in total else "none"
        click.echo(f"{name + ' images':<18} {images}" + _origin(found, part))
    first, last = found.order[0], found.order[-1]
    train = found.counts["train"]
    click.echo(
        f"{'imbalance':<18} {found.imbalance:.1f}: {_printable(found.classes[first])} has {train[first]}, "
        f"{_printable(found.classes[last])} {train[last]}"
    )
    median, smallest, largest = (f"{w}×{h}" for h, w in (found.median, found.smallest, found.largest))
    click.echo(f"{'pixels':<18} median {median}, smallest {smallest}, largest {largest}")
    kept = "held in memory" if is_small(found) else "read from their files as they are needed"
    click.echo(f"{'decoded':<18} {readable_size(found.decoded_bytes)}, {kept}")
    if found.left_out:
        others = _printable(counted(found.left_out))
        click.echo(f"{'left out':<18} files whose names are not those of images: {others}")
    if found.unused:
        click.echo(f"{'folders not used':<18} {_listed(found.unused)}; no images are read from them")
    if names := found.untested:
        click.echo(f"{'no test image':<18} {_listed(names)}; left out of accuracies by group and class")
    if found.broken:
        click.echo(f"{'broken files':<18} {len(found.broken)}; training refuses them: repair or remove them")
        for line in found.broken[:MOST_BROKEN]:
            click.echo(f"    {_printable(line)}")
        if len(found.broken) > MOST_BROKEN:
            click.echo(f"    and {len(found.broken) - MOST_BROKEN} more")
    elif found.checked:
        click.echo(f"{'broken files':<18} none")
    else:
        click.echo(f"{'broken files':<18} none by their headers; --check decodes every image")


def _origin(found: "Survey", part: str) -> str:
    """How the images of a split without a folder or list are chosen, or could be; empty for the others."""
    if part == "test" and found.test_share is not None:
        return f"; data.test_share is {100 * found.test_share:g} % of each class, by file name"
    if part == "val" and part not in found.counts:
        return "; data.val_share sets some aside" if found.kind == "folder" else "; data.val_list names some"
    return ""


def _listed(names: list[str], most: int = 5) -> str:
    from dive.printable import printable

    return printable(", ".join(names[:most])) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def _table(found: "Survey") -> "Table":
    """A table of the classes, largest first, with a bar for their images; of many, the middle is left out."""
    from rich.console import Console

    from dive.cli.tables import cell, new_table
    from dive.data.longtail import shot_groups

    shot_of = {int(c): shot for shot, of in shot_groups(found.counts["train"]).items() for c in of}
    order: list[int | None] = [*found.order]
    if left_out := max(0, len(order) - MOST_ROWS + 1):
        half = MOST_ROWS // 2
        order[half : half + left_out] = [None]
    table = new_table(f"Training images of {len(found.classes)} classes", [], [])
    table.add_column("class", no_wrap=True, overflow="ellipsis", max_width=30)
    table.add_column("shot", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    console = Console()
    longest, block = min(60, max(10, console.width - 56)), "█" if console.encoding.startswith("utf") else "#"
    largest = int(found.counts["train"].max())
    for c in order:
        if c is None:
            table.add_row(f"… {left_out} more", "", "", "")
            continue
        images, colour = int(found.counts["train"][c]), COLOURS[shot_of[c]]
        bar = block * max(1, round(longest * images / largest))
        table.add_row(cell(found.classes[c]), shot_of[c], f"{images:,}", f"[{colour}]{bar}[/{colour}]")
    return table
