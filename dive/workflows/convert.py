"""Converting a finished logit cache to another encoding, without its teacher."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dive.arguments import TakesTexts
from dive.cache.encodings.encoding import Encoding
from dive.cache.layout import Content
from dive.cache.reader import LogitCache
from dive.errors import CacheError
from dive.progress import SILENT, Progress
from dive.workflows.rewriting import ROUNDING, Rewriting, encoding_named, require_held, stored_rows

FROM = "converted_from"  # the fact that names the caches it was converted from, the original first


@dataclass(frozen=True)
class ConvertOptions(TakesTexts):
    """Options of `dive.convert`.

    store: the encoding to write: `float16`, `float32` or `int8` for logits, `features` or `features-int8` for
        the inputs of the teacher's last linear layer, which a cache of logits does not have.
    out: the cache to write; None for NAME-<store>.h5 beside NAME.h5.
    force: start over and replace a finished cache.
    """

    store: str
    out: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class Converted:
    """The result of `dive.convert`. path: the new cache. record: its properties, in plain values."""

    path: Path
    record: dict[str, Any]


def convert(path: str | Path, options: ConvertOptions, progress: Progress = SILENT) -> Converted:
    """Write the cache at `path` in another encoding; returns the path and the record of the new cache.

    The new cache has the same identity except for `store`, and its facts name the original cache. An
    interrupted conversion is resumed.

    path: the cache to convert.
    options: the encoding and the output, see `ConvertOptions`.
    progress: receives notes, warnings and progress bars; by default only warnings are printed, on stderr.

    Raises:
        CacheError: the cache is incomplete or corrupt, has that encoding already, or lacks the
            features to store.
        DiveError: there is no such encoding.
        OutputError: the output exists, cannot be written, or was begun from another cache.

    >>> import dive
    >>> options = dive.ConvertOptions("int8", out=Path("small.h5"))
    >>> converted = dive.convert(Path("cache/digits_lt_bbn.h5"), options)
    >>> dive.open_cache(converted.path).store, converted.record["shape"]
    ('int8', [399, 9, 10])
    """
    path, encoding = Path(path), encoding_named(options.store)
    out = options.out or path.with_stem(f"{path.stem}-{encoding.name}")
    rewriting = Rewriting(out, [path], options.force, "convert")
    rewriting.refuse_finished()
    cache = LogitCache(path)
    if cache.store == encoding.name:
        raise CacheError(f"{cache.path} is in {encoding.name} already")
    require_held(cache, encoding)
    to = cache.codec.values if encoding.of_features else cache.codec.decode

    def values(samples: slice) -> np.ndarray:
        return to(stored_rows(cache, np.arange(samples.start, samples.stop)))

    told = f"{cache.store} to {encoding.name}"
    seconds = rewriting.write(_content(cache, encoding), values, [(cache, 1.0)], told, progress)
    record = {
        "cache": str(out),
        "from": str(path),
        "from_store": cache.store,
        "store": encoding.name,
        "shape": list(cache.shape),
        "from_bytes": path.stat().st_size,
        "bytes": out.stat().st_size,
        "seconds": round(seconds, 1),
        "stored_views_accuracy": LogitCache(out).accuracy,
    }
    return Converted(out, record)


def _content(cache: LogitCache, encoding: Encoding) -> Content:
    """The content of the converted cache besides its rows."""
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
        facts={key: value for key, value in cache.facts.items() if key != ROUNDING} | {FROM: chain},
        head=cache.codec.head if encoding.of_features else None,
    )
