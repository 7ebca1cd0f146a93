"""Records of earlier versions of dive, converted to the form of this version.

There is one function per version. Records are converted when they are read, so that the rest of the program
handles one form. Only names and places change; measured values stay as they were.
"""

from collections.abc import Mapping
from typing import Any

from dive.recipe.records import VERSION

_PIXELS = 1  # the version of a fingerprint that is computed from pixels instead of digests
_NAMES = {
    "data fingerprint": "data_fingerprint",
    "weights hash": "weights_hash",
    "cache hash": "cache_hash",
    "free views": "free_views",
    "fixed view": "fixed_view",
    "trained together": "trained_together",
    "view seed": "view_seed",
    "view space": "view_space",
}
_OLD_SIDE = 32  # side in pixels of a folder's images if `data.size` was null


def upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of any version in the form of this one. A malformed record stays so, and is refused later."""
    version = record.get("version", 1)
    document = dict(record)
    if version == 1:
        document = _from_1(document)
    cache = document.get("cache")
    if isinstance(cache, dict) and "dtype" in cache:  # the name of the key before caches of features
        document["cache"] = {("store" if key == "dtype" else key): value for key, value in cache.items()}
    return document


def _from_1(record: dict[str, Any]) -> dict[str, Any]:
    """Version 1 (dive 0.1.0): keys with spaces, and normalisation in `data` instead of `model`."""
    renamed = {_NAMES.get(key, key): value for key, value in record.items()}
    recipe, architecture, cache = (renamed.get(key) for key in ("recipe", "architecture", "cache"))
    if isinstance(recipe, dict):
        renamed["recipe"] = recipe_from_1(recipe)
        if isinstance(architecture, dict):
            data = recipe.get("data")
            data = data if isinstance(data, dict) else {}
            renamed["architecture"] = {
                **architecture,
                "input": {"size": None, "mean": data.get("mean"), "std": data.get("std")},
            }
    if isinstance(cache, dict):
        renamed["cache"] = {_NAMES.get(key, key): value for key, value in cache.items()}
    added = {"fingerprint_version": _PIXELS, "digests": "pixels", "upgraded_from": 1}
    return renamed | {"version": VERSION} | added


def recipe_from_1(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A whole recipe of version 1 in the form of this version."""
    found = dict(recipe)
    data, views, model = ({**part} if isinstance(part := found.get(k), dict) else {} for k in _MOVED)
    kind = data.pop("source", None)
    root, size = data.pop("path", None), data.pop("size", None)
    found["data"] = {"kind": kind, **data} | ({} if kind == "digits" else {"root": root})
    found["model"] = model | {
        "input": {key: found["data"].pop(key) for key in ("mean", "std") if key in found["data"]}
    }
    found["views"] = views | {"size": size or _OLD_SIDE if kind == "folder" else None}
    return found


_MOVED = ("data", "views", "model")
