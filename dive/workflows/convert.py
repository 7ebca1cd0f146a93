"""Convert: a finished logit cache in another encoding, without its teacher."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dive import files, outputs
from dive.cache import part, seal
from dive.cache.encodings.encoding import Encoding
from dive.cache.encodings.registry import ENCODINGS
from dive.cache.layout import Content
from dive.cache.part import part_path, require_own_files
from dive.cache.reader import LogitCache
from dive.cache.writer import CacheWriter, unfinished
from dive.errors import CacheError, DiveError, OutputError
from dive.progress import SILENT, Progress, duration
from dive.recipe.documents import differences

FROM = "converted_from"  # the fact that says of which caches it was made, the first of them first


@dataclass(frozen=True)
class ConvertOptions:
    """What is asked of a conversion.

    store: the name of an encoding. out: the cache to write, NAME-<store>.h5 beside NAME.h5 if not given.
    """

    store: str
    out: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class Converted:
    """A finished conversion: where the cache is, and what it is, in plain values."""

    path: Path
    record: dict[str, Any]


def convert(path: Path, options: ConvertOptions, progress: Progress = SILENT) -> Converted:
    """Write the cache at `path` in another encoding; resumes what an earlier conversion left.

    It is of the same identity but for `store`, and its facts name the cache it was made of. Raises CacheError
    where that cache is not whole or does not hold what the encoding stores, OutputError where the output
    cannot be written or is another's.

    >>> import dive
    >>> options = dive.ConvertOptions("int8", out=Path("small.h5"))
    >>> converted = dive.convert(Path("cache/digits_lt_bbn.h5"), options)
    >>> dive.open_cache(converted.path).store, converted.record["shape"]
    ('int8', [399, 9, 10])
    """
    encoding = ENCODINGS.get(options.store)
    if encoding is None:
        raise DiveError(f"--store {options.store[:40]!r}: give one of {', '.join(ENCODINGS)}")
    out = options.out or path.with_stem(f"{path.stem}-{encoding.name}")
    _refuse_finished(path, out, options.force)
    cache = LogitCache(path)
    _require_held(cache, encoding)
    content = _content(cache, encoding)
    start = time.monotonic()
    with outputs.only_writer(out):
        _refuse_finished(path, out, options.force)  # again: another process may have finished it meanwhile
        files.remove_stale(part_path(out))
        if options.force:
            part_path(out).unlink(missing_ok=True)
        _require_same_source(out, content)
        size = files.readable_size(content.bytes)
        progress.note(f"{out}: {cache.store} to {encoding.name}, {size}")
        with CacheWriter(out, content) as writer:
            _write_missing(writer, cache, encoding, progress)
            writer.finish()
    progress.note(f"{out}: complete in {duration(time.monotonic() - start)}")
    record = {
        "cache": str(out),
        "from": str(path),
        "from_store": cache.store,
        "store": encoding.name,
        "shape": list(cache.shape),
        "from_bytes": path.stat().st_size,
        "bytes": out.stat().st_size,
        "seconds": round(time.monotonic() - start, 1),
        "stored_views_accuracy": LogitCache(out).accuracy,
    }
    return Converted(out, record)


def _refuse_finished(path: Path, out: Path, force: bool) -> None:
    """Refuse to replace a cache, unless asked to, or asked to when its unfinished successor was begun."""
    require_own_files(out)
    outputs.refuse_foreign(part_path(out), part.KIND)
    outputs.refuse_existing(out, force or part_path(out).exists(), seal.KIND, [path])


def _require_held(cache: LogitCache, encoding: Encoding) -> None:
    """Raise CacheError unless a cache holds what an encoding stores."""
    if cache.store == encoding.name:
        raise CacheError(f"{cache.path} is in {encoding.name} already")
    if encoding.of_features and not cache.codec.encoding.of_features:
        raise CacheError(
            f"{cache.path} holds logits ({cache.store}), from which features cannot be told; "
            f"dive export-logits --store {encoding.name} asks the teacher for them"
        )


def _content(cache: LogitCache, encoding: Encoding) -> Content:
    """What the converted cache holds besides its rows."""
    before = cache.facts.get(FROM)
    chain = [*(before if isinstance(before, list) else []), {"hash": cache.hash, "store": cache.store}]
    return Content(
        views=cache.views,
        labels=cache.labels,
        keys=cache.keys,
        digests=cache.digests,
        classes=cache.classes,
        class_counts=cache.class_counts,
        store=encoding.name,
        identity=cache.identity | {"store": encoding.name},
        facts=cache.facts | {FROM: chain},
        head=cache.codec.head if encoding.of_features else None,
    )


def _require_same_source(out: Path, content: Content) -> None:
    """Raise OutputError where an unfinished cache was begun from another one, or by an export."""
    facts = unfinished(out, content.identity)
    if facts is not None and (different := differences(facts, content.facts)):
        raise OutputError(
            f"{part_path(out)} was begun from something else ({'; '.join(different)}); finish it there, give "
            "another --out, or --force to start over"
        )


def _write_missing(writer: CacheWriter, cache: LogitCache, encoding: Encoding, progress: Progress) -> None:
    if writer.repaired:
        progress.warn("the unfinished cache was damaged outside its rows and is repaired; check the disk")
    missing = writer.missing()
    done = writer.blocks - len(missing)
    if done:
        progress.note(f"resuming: {done} of {writer.blocks} blocks are written already")
    with progress.bar("convert", writer.blocks, done) as bar:
        for block in missing:
            stored = _stored(cache, writer.rows(block))
            to = cache.codec.values if encoding.of_features else cache.codec.decode
            writer.write(block, to(stored))
            bar.advance()


def _stored(cache: LogitCache, samples: slice) -> np.ndarray:
    """The rows (samples, V, …) of some samples, whose blocks are checked; the cache's own may be others."""
    views, row = cache.shape[1], cache.codec.row
    places = np.arange(samples.start * views, samples.stop * views)
    rows = cache.codec.unpacked(cache.encoded(places // views, places % views))
    return rows.reshape(-1, views, *row.shape)
