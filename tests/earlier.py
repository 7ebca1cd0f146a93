"""Documents as dive 0.1.0 wrote them: version 1 of records, checkpoints and states."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dive.models import checkpoint

SPACED = ("data_fingerprint", "weights_hash", "cache_hash", "free_views", "fixed_view", "trained_together")
ADDED = ("group_confusion", "fingerprint_version", "digests")  # since
ADDED_TO_RECIPES = {
    "optimizer": ("kind", "body_factor", "clip_norm"),
    "schedule": ("accumulate",),
    "teacher": ("label_smoothing",),
}


def fingerprint(classes: list[str], keys: list[str], labels: list[int], images: list[np.ndarray]) -> str:
    """The data fingerprint of version 1, over the pixels of images of one size."""
    taken = hashlib.sha256()
    for texts in (classes, keys):
        for text in texts:
            taken.update(text.encode() + b"\0")
        taken.update(b"\0")
    taken.update(np.array(labels, dtype="<i8").tobytes())
    taken.update(repr((len(images), *images[0].shape)).encode())
    for image in images:
        taken.update(image.tobytes())
    return taken.hexdigest()


def recipe(document: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose normalisation was among the data, and whose kinds had other names."""
    data = dict(document["data"])
    size, given = document["views"]["size"], document["model"]["input"]
    old = {"source": data.pop("kind"), "path": data.pop("root", "data"), **data, "size": size}
    old |= {"mean": given["mean"], "std": given["std"]}
    views = {key: value for key, value in document["views"].items() if key != "size"}
    parts = {"data": old, "views": views, "model": {"name": document["model"]["name"]}}
    for part, added in ADDED_TO_RECIPES.items():
        parts[part] = {key: value for key, value in document[part].items() if key not in added}
    return document | parts


def record(document: dict[str, Any], data_fingerprint: str) -> dict[str, Any]:
    """A finished result's record (or its checkpoint's document), of the same weights and images."""
    old = {key: value for key, value in document.items() if key not in (*ADDED, "format", "version")}
    old = {key.replace("_", " ") if key in SPACED else key: value for key, value in old.items()}
    architecture = {key: value for key, value in document["architecture"].items() if key != "input"}
    old |= {"recipe": recipe(document["recipe"]), "architecture": architecture}
    if "cache" in old:
        cache = document["cache"]
        old["cache"] = {"views": cache["views"], "view seed": cache["view_seed"], "dtype": cache["store"]}
    return old | {"data fingerprint": data_fingerprint}


def save(path: Path, document: dict[str, Any]) -> None:
    """Write a document as a checkpoint file of version 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "VERSION", 1)
        checkpoint.save(path, {key: value for key, value in document.items() if key != "version"})


def write(path: Path, source: Path, data_fingerprint: str) -> Path:
    """A finished result in the form of version 1, checkpoint and record, of one of this version."""
    document = torch.load(source, weights_only=True)
    save(path, record(document, data_fingerprint))
    said = record(json.loads(source.with_suffix(".json").read_text()), data_fingerprint)
    path.with_suffix(".json").write_text(json.dumps(said))
    return path
