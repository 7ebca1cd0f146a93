"""`dive predict`."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dive import files
from dive.cli import options
from dive.errors import OutputError

if TYPE_CHECKING:
    from dive.workflows.predict import Predictions


@click.command("predict")
@click.argument("model", type=options.FILE, metavar="CHECKPOINT|RECIPE")
@click.argument("images", nargs=-1, required=True, type=options.FILE, metavar="IMAGE|FOLDER...")
@click.option(
    "--top",
    type=options.Whole(1, 10**6),
    default=1,
    show_default=True,
    metavar="K",
    help="Number of classes for each image, most likely first.",
)
@click.option("--csv", "table", type=options.FILE, help="Write a new CSV file instead of a table.")
@options.apply(options.device, options.own, options.as_json, options.quiet)
def command(
    model: Path,
    images: tuple[Path, ...],
    top: int,
    table: Path | None,
    device: str,
    own: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Classify image files.

    The model is a checkpoint, or a recipe (a YAML file, or the name of one) whose model.weights are kept with
    their head (model.head keep). Folders are searched for images. Images are prepared as the model's own
    recipe states, in the view without augmentation.

    A probability is the softmax of the logits; no prior is added. The classes of a recipe are numbered,
    unless its data.classes (data.kind list) is a file of their names, one per line.

    Images that cannot be read are listed at the end, and the exit code is then 1.

    \b
    Example:
      dive predict checkpoints/folder/student.pt new_images photo.jpg --top 3
    """
    if table is not None and as_json:
        raise click.UsageError("give --json or --csv FILE, not both")
    if table is not None:
        _require_new(table)
    from dive.workflows.predict import predict

    progress = options.reporter(quiet)
    predicted = predict(model, images, top, device, progress, own)
    if as_json:
        options.print_json(_document(predicted))
    elif table is not None:
        files.write_bytes(table, _csv(predicted))
        progress.note(f"{table}: {len(predicted.images)} images")
    else:
        _print_table(predicted)
    predicted.require_all()


def _require_new(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} exists already; give another --csv, or remove it")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} for {path.name}; make it, or give another --csv")


def _document(predicted: "Predictions") -> dict[str, Any]:
    return {
        "images": [
            {
                "file": str(one.path),
                "top": [{"class": name, "probability": share} for name, share in one.top],
            }
            for one in predicted.images
        ],
        "failures": [message for error in predicted.failures for message in error.messages],
    }


def _csv(predicted: "Predictions") -> bytes:
    """A CSV line for each image and class; file names keep their bytes, whether UTF-8 or not."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "rank", "class", "probability"))
    for one in predicted.images:
        for rank, (name, share) in enumerate(one.top, start=1):
            writer.writerow((one.path, rank, name, repr(share)))
    return text.getvalue().encode("utf-8", "surrogateescape")


def _print_table(predicted: "Predictions") -> None:
    """Print a row for each image and class; only the first row of an image names its file."""
    from dive.cli.tables import cell, new_table, percent, print_table

    table = new_table("Classes of images", ["file", "class"], ["probability (%)"])
    for one in predicted.images:
        for rank, (name, share) in enumerate(one.top):
            table.add_row("" if rank else cell(str(one.path)), cell(name), percent(share))
    if table.row_count:
        print_table(table)
