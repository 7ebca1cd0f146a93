"""`dive export-model`."""

from pathlib import Path
from typing import Any

import click

from dive.cli import options
from dive.models.formats.registry import FORMATS


class Size(click.ParamType):
    """A height and a width in pixels, `HxW`, or one number for both."""

    name = "size"
    _side = options.Whole(1, 10**5)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        height, cross, width = value.partition("x")
        sides = (height, width if cross else height)
        return self._side.convert(sides[0], param, ctx), self._side.convert(sides[1], param, ctx)


@click.command("export-model")
@click.argument("model", type=options.FILE, metavar="CHECKPOINT|RECIPE")
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="pt2: a torch.export program; onnx: for ONNX Runtime and others (needs the onnx extra).",
)
@click.option("--out", type=options.FILE, required=True, help="File to write, ending in .pt2 or .onnx.")
@click.option(
    "--size",
    type=Size(),
    metavar="N|HxW",
    help="Input size in pixels, for a checkpoint that does not state the size of its images.",
)
@options.apply(options.own, options.as_json, options.quiet, options.force)
def command(
    model: Path,
    format_: str,
    out: Path,
    size: tuple[int, int] | None,
    own: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    force: bool,
) -> None:
    """Export a network to a file that runs without dive.

    The exported network takes uint8 RGB images (B, H, W, 3) for any B and returns logits. H and W are the
    size of the checkpoint's own view without augmentation. Resizing to the network's input, and
    normalisation, are part of the network.

    The metadata of the file contain the class names, the input size, how to bring an image to that size, and
    the hash of the weights. The network is run before the file is written, and refused if its logits differ
    from those of the checkpoint.

    The model may also be a recipe, as for dive predict.

    \b
    Example:
      dive export-model checkpoints/cifar100_lt/student.pt --format onnx --out student.onnx
    """
    from dive.workflows.export_model import ModelExportOptions, export_model

    wanted = ModelExportOptions(format_, out, size, force, own)
    exported = export_model(model, wanted, options.reporter(quiet))
    if as_json:
        options.print_json(exported.record)
    else:
        _print_table(exported.record)


def _print_table(record: dict[str, Any]) -> None:
    from dive.cli.tables import cell, new_table, print_table
    from dive.files import readable_size

    given, difference = record["input"], record["difference"]
    checked = (
        "not run: onnxruntime is not installed"
        if difference is None
        else f"differ by at most {difference:.1g}"
    )
    table = new_table(f"Network {record['file']}", ["what", ""], [])
    table.show_header = False
    for name, value in (
        ("size", readable_size(record["bytes"])),
        ("takes", f"images (B, {given['height']}, {given['width']}, 3) uint8 RGB"),
        ("gives", f"logits (B, {len(record['classes'])}) float32"),
        ("to prepare", record["preparation"]),
        ("weights hash", record["weights_hash"]),
        ("logits, against the checkpoint's", checked),
    ):
        table.add_row(cell(name), cell(value))
    print_table(table)
