"""Describing a file that dive wrote: a logit cache, a checkpoint, or the unfinished state of either."""

from pathlib import Path
from typing import Any

from dive.cache import seal
from dive.errors import CacheError, CheckpointError, DiveError
from dive.files import open_regular

_ZIP = b"PK\x03\x04"


def inspect(path: Path) -> dict[str, Any]:
    """The description of the file at `path`, in plain values. If the file has a seal, it is verified first.

    Raises CacheError or CheckpointError if the file is damaged, DiveError if dive did not write it.
    """
    try:
        with open_regular(path) as file:
            start = file.read(8)
            hdf5 = not seal.is_sealed(start) and seal.holds_hdf5(file)
    except FileNotFoundError:
        raise DiveError(f"there is no {path}") from None
    except OSError as error:
        raise DiveError(f"cannot read {path}: {error.strerror}") from error
    if seal.is_sealed(start, seal.SHARD) or ".shard-" in path.name:
        return _shard(path)
    if seal.is_sealed(start) and path.suffix != ".part":
        return _cache(path)
    if hdf5 or path.suffix == ".part":
        return _part(path)
    if start[:4] == _ZIP:
        return _checkpoint(path)
    raise DiveError(f"{path} is neither a logit cache nor a checkpoint written by dive")


def _cache(path: Path) -> dict[str, Any]:
    from dive.cache.reader import LogitCache
    from dive.cache.tables import FORMAT

    cache = LogitCache(path)
    n, views, classes = cache.shape
    return {
        "file": str(path),
        "kind": "logit cache",
        "complete": True,
        "format": f"{FORMAT} {cache.version}",
        "producer": cache.producer,
        "bytes": path.stat().st_size,
        "hash": cache.hash,
        "samples": n,
        "views": views,
        "classes": classes,
        "store": cache.store,
        "bytes_a_view": cache.codec.row.itemsize,
        "stored_views_accuracy": cache.accuracy,
        "identity": cache.identity,
        "facts": cache.facts,
    }


def _part(path: Path) -> dict[str, Any]:
    """An unfinished export. It has no seal yet, so only what a resumed export itself would read is read."""
    from dive.cache.part import progress_of_part

    if path.suffix != ".part":
        raise CacheError(f"{path} is not sealed: its export was interrupted, or it was not written by dive")
    done, blocks, shape, identity = progress_of_part(path)
    return {
        "file": str(path),
        "kind": "unfinished export",
        "complete": False,
        "bytes": path.stat().st_size,
        "blocks_done": done,
        "blocks": blocks,
        **dict(zip(("samples", "views", "classes"), shape, strict=True)),
        "identity": identity,
    }


def _shard(path: Path) -> dict[str, Any]:
    """A shard, finished or not: it has some of the blocks of a cache, and other shards have the rest."""
    from dive.cache.part import progress_of_part
    from dive.cache.shards import read_shard

    shard = read_shard(path)
    assert shard is not None  # it existed a moment ago
    if shard.sealed:
        shard.require_sealed()
    done, _, shape, identity = progress_of_part(path)
    return {
        "file": str(path),
        "kind": "shard of a logit cache",
        "complete": shard.sealed,
        "bytes": path.stat().st_size,
        "shard": str(shard.share),
        "blocks_done": done,
        "blocks": len(shard.held),
        **dict(zip(("samples", "views", "classes"), shape, strict=True)),
        "identity": identity,
        "facts": shard.record.facts,
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    from dive.files import file_sha256
    from dive.models import checkpoint
    from dive.training.saved_state import fault_of_state

    document = checkpoint.load(path)
    common = {"file": str(path), "bytes": path.stat().st_size, "hash": file_sha256(path)}
    if document.get("kind") == "state":
        if fault := fault_of_state(document):
            raise CheckpointError(f"{path} is sealed but not the state of a run as dive writes it: {fault}")
        identity, begun = document["identity"], len(document["history"]) > 0
        return {
            **common,
            "kind": f"{'unfinished' if begun else 'announced'} {identity['kind']}",
            "complete": False,
            "producer": document["producer"],
            "epochs_done": len(document["history"]),
            "epochs": document["epochs"],
            **{key: document[key] for key in ("precision", "threads") if begun},  # else not chosen yet
            "identity": identity,
        }
    document = checkpoint.load_finished(path)
    left_out = ("model", "kind", "format", "version", "upgraded_from")
    said = {key: value for key, value in document.items() if key not in left_out}
    form = f"{document['format']} {document.get('upgraded_from', document['version'])}"
    return {**common, "kind": document["kind"], "complete": True, "format": form, **said}
