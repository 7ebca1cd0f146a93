"""Exporting a finished network to a file that runs without dive, as `dive export-model` does."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dive import files, outputs
from dive.arguments import TakesTexts, require_choice
from dive.errors import ModelError
from dive.models import checkpoint
from dive.models.deployed import Deployed, program_of, quietly
from dive.models.formats.format import MARK, Format
from dive.models.formats.registry import FORMATS
from dive.models.network import require_logits
from dive.progress import SILENT, Progress
from dive.version import __version__
from dive.workflows.classifier import Classifier, is_recipe, open_classifier

VERSION = 1  # of the metadata
TOLERANCE = 1e-4  # of a logit; relative to the largest logit if that is above 1
_TRIALS = (1, 3)  # sizes of the batches that a written network is tested with


@dataclass(frozen=True)
class ModelExportOptions(TakesTexts):
    """Options of `dive.export_model`.

    format: `pt2` for a program of torch.export, `onnx` for an ONNX model (needs the extra `onnx`).
    out: the file to write; its suffix is .pt2 or .onnx.
    shape: (H, W) of the input images in pixels; required if the model does not record the size of its images.
    force: replace an existing file.
    own: the custom networks (`package.module:callable`) that a checkpoint may import and call.
    """

    format: str
    out: Path
    shape: tuple[int, int] | None = None
    force: bool = False
    own: Sequence[str] = ()


@dataclass(frozen=True)
class ExportedModel:
    """The result of `dive.export_model`. path: the file. record: its properties, in plain values."""

    path: Path
    record: dict[str, Any]


def export_model(
    model: str | Path, options: ModelExportOptions, progress: Progress = SILENT
) -> ExportedModel:
    """Write a network to a file that runs without dive; returns the path and the record of the file.

    The exported network takes images (B, H, W, 3) uint8 RGB, with any B and the size of the model's clean
    view, and returns logits (B, C) float32. It resizes and normalises its input itself. Before the file is
    written, its logits are compared with those of the model. `record["difference"]` is the largest absolute
    difference; it is None if the comparison needs ONNX Runtime and that is not installed.

    model: a checkpoint, or the file or name of a recipe with `model.weights` and `model.head: keep`.
    options: format, output and more, see `ModelExportOptions`.
    progress: receives notes, warnings and progress bars; by default only warnings are printed, on stderr.

    Raises:
        CheckpointError: the checkpoint is missing or corrupt, or has a custom network that `own` lacks.
        ModelError: the network cannot be built or exported, or its logits differ after the export.
        OptionError: there is no such format, or the suffix of `out` is not that of the format.
        OutputError: the file exists or cannot be written.
        RecipeError: the recipe is invalid, or `own` is given with a recipe.

    >>> import dive, torch
    >>> options = dive.ModelExportOptions("pt2", Path("teacher.pt2"))
    >>> exported = dive.export_model("checkpoints/digits_lt_bbn/teacher.pt", options)
    >>> network = torch.export.load(exported.path).module()
    >>> network(torch.zeros(5, 8, 8, 3, dtype=torch.uint8)).shape
    torch.Size([5, 10])
    """
    require_choice("format", options.format, FORMATS)
    format, out, model = FORMATS[options.format], options.out, Path(model)
    outputs.require_suffix(out, (format.suffix,))
    kind = outputs.Kind(f"a network in {options.format}", format.is_own)
    inputs = () if is_recipe(model) and not model.exists() else (model,)
    outputs.refuse_existing(out, options.force, kind, inputs)
    format.require()
    classifier = open_classifier(model, options.own, progress)
    shape = _shape(classifier, options.shape, model)
    require_logits(classifier.network, classifier.architecture, _blank(classifier, shape))
    with outputs.only_writer(out):
        files.remove_stale(out)
        outputs.refuse_existing(out, options.force, kind, inputs)
        deployed = Deployed(classifier.network, classifier.architecture.channels, shape).eval()
        metadata = _metadata(classifier, shape)
        content = _written(format, deployed, shape, metadata)
        difference = _difference(format, content, classifier, shape)
        files.write_bytes(out, content)
    return ExportedModel(out, _record(out, options.format, metadata, difference))


def _shape(classifier: Classifier, given: tuple[int, int] | None, model: Path) -> tuple[int, int]:
    """(H, W) of the images that the network takes: those of the model's clean view, or else `given`."""
    if classifier.any_size:
        if given is None:
            raise ModelError(f"{model} does not record the size of its images; give --size")
        return given
    height, width, _ = classifier.view(np.zeros((8, 8, 3), dtype=np.uint8)).shape
    if given not in (None, (height, width)):
        raise ModelError(f"{model} was trained on views of {height}×{width} pixels; leave --size out")
    return height, width


def _blank(classifier: Classifier, shape: tuple[int, int]) -> torch.Tensor:
    return classifier.network.blank(classifier.architecture.channels, shape)


def _written(format: Format, deployed: Deployed, shape: tuple[int, int], metadata: dict[str, str]) -> bytes:
    program = program_of(deployed, shape)
    try:
        with quietly():
            return format.written(program, metadata)
    except ModelError:
        raise
    except Exception as error:  # the format lacks an operator, or a custom network raises anything
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(f"the network cannot be written as {format.suffix[1:]} ({said})") from error


def _metadata(classifier: Classifier, shape: tuple[int, int]) -> dict[str, str]:
    """The metadata of the file, as texts; values of several parts are JSON."""
    architecture = classifier.architecture
    height, width = shape
    return {
        "format": MARK,
        "format_version": str(VERSION),
        "producer": f"dive {__version__}",
        "classes": json.dumps(list(classifier.classes), ensure_ascii=False),
        "input": json.dumps({"height": height, "width": width, "channels": "RGB", "dtype": "uint8"}),
        "preparation": classifier.preparation,
        "architecture": json.dumps(architecture.as_dict()),
        "weights_hash": checkpoint.weights_hash(classifier.network.body.state_dict()),
    }


def _difference(
    format: Format, content: bytes, classifier: Classifier, shape: tuple[int, int]
) -> float | None:
    """The largest difference between logits of the written network and of the classifier, on random images.

    None if the library that runs the format is not installed. Raises ModelError if the difference is more
    than `TOLERANCE` allows.
    """
    network = format.opened(content)
    if network is None:
        return None
    largest = 0.0
    for count in _TRIALS:
        pictures = np.random.default_rng(count).integers(0, 256, (count, *shape, 3), dtype=np.uint8)
        views = np.stack([classifier.channels_of(picture) for picture in pictures])
        with torch.no_grad():
            wanted = classifier.network(torch.from_numpy(views).permute(0, 3, 1, 2)).numpy()
        found = network(pictures)
        off = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else np.inf
        if not off <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise ModelError(
                f"the network written as {format.suffix[1:]} does not return the logits of the model: they "
                f"differ by {off:.2g}; export it in another --format"
            )
        largest = max(largest, off)
    return largest


def _record(out: Path, format: str, metadata: dict[str, str], difference: float | None) -> dict[str, Any]:
    """The record of the written file, in plain values."""
    classes: list[str] = json.loads(metadata["classes"])
    return {
        "file": str(out),
        "format": format,
        "bytes": out.stat().st_size,
        "input": json.loads(metadata["input"]),
        "preparation": metadata["preparation"],
        "classes": classes,
        "weights_hash": metadata["weights_hash"],
        "difference": difference,
    }
