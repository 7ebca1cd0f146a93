"""Writing a logit cache block by block from other files, without a teacher; an interrupted run is resumed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dive import files, outputs
from dive.cache import part, seal
from dive.cache.encodings.encoding import Encoding
from dive.cache.encodings.registry import ENCODINGS
from dive.cache.layout import Content
from dive.cache.part import part_path, require_own_files
from dive.cache.plan import plan_path
from dive.cache.reader import LogitCache
from dive.cache.writer import CacheWriter, unfinished
from dive.errors import CacheError, DiveError, OutputError
from dive.progress import Progress, duration
from dive.recipe.documents import differences

ROUNDING = "rounding"  # the fact that bounds the error that the encodings of the source caches caused
# From samples of the new cache to what its encoding encodes: logits (rows, V, C) or features (rows, V, D).
Values = Callable[[slice], np.ndarray]


@dataclass(frozen=True)
class Rewriting:
    """A cache to be written. out: its path. sources: the files it is made from. what: names the progress bar.

    force: start over and replace a finished cache.
    """

    out: Path
    sources: Sequence[Path]
    force: bool
    what: str

    def refuse_finished(self) -> None:
        """Raise OutputError if the cache exists, unless `force` or an unfinished cache that replaces it."""
        require_own_files(self.out)
        outputs.refuse_foreign(part_path(self.out), part.KIND)
        if plan_path(self.out).exists():
            raise OutputError(
                f"an export of {self.out} in shards is under way ({plan_path(self.out)}); finish it with "
                "dive merge-shards, remove that file, or give another --out"
            )
        begun = part_path(self.out).exists()
        outputs.refuse_existing(self.out, self.force or begun, seal.KIND, list(self.sources))
        outputs.require_place(self.out)

    def write(
        self,
        content: Content,
        values: Values,
        shares: Sequence[tuple[LogitCache, float]],
        told: str,
        progress: Progress,
    ) -> float:
        """Write the missing blocks and finish the cache; returns the seconds it took.

        values: see `Values`. shares: the caches it is made from, each with its share in the mean; the fact
        `rounding` is computed from them, and is left out without any. told: what is converted into what, for
        the progress note. Raises OutputError if the cache exists, or if an unfinished one was begun from
        other files.
        """
        start = time.monotonic()
        with outputs.only_writer(self.out):
            self.refuse_finished()  # again: another process may have finished it meanwhile
            files.remove_stale(part_path(self.out))
            if self.force:
                part_path(self.out).unlink(missing_ok=True)
            if not self._is_begun(content) and shares:
                rounding = {ROUNDING: rounding_of(shares, progress)}
                content = replace(content, facts=content.facts | rounding)
            progress.note(f"{self.out}: {told}, {files.readable_size(content.bytes)}")
            with CacheWriter(self.out, content) as writer:
                self._write_missing(writer, values, progress)
                writer.finish()
        seconds = time.monotonic() - start
        progress.note(f"{self.out}: complete in {duration(seconds)}")
        return seconds

    def _is_begun(self, content: Content) -> bool:
        """Whether there is an unfinished cache that can be resumed; its facts are kept.

        Raises OutputError if it was begun from other files, or by an export.
        """
        facts = unfinished(self.out, content.identity)
        if facts is None:
            return False
        begun = {key: value for key, value in facts.items() if key != ROUNDING}  # it follows from the caches
        if different := differences(begun, content.facts):
            raise OutputError(
                f"{part_path(self.out)} was begun from something else ({'; '.join(different)}); finish it "
                "there, give another --out, or --force to start over"
            )
        return True

    def _write_missing(self, writer: CacheWriter, values: Values, progress: Progress) -> None:
        missing = writer.resumed(progress)
        with progress.bar(self.what, writer.blocks, writer.blocks - len(missing)) as bar:
            for block in missing:
                writer.write(block, values(writer.rows(block)))
                bar.advance()


def encoding_named(store: str) -> Encoding:
    """The encoding with this name; raises DiveError if there is none."""
    if store not in ENCODINGS:
        raise DiveError(f"--store {store[:40]!r}: give one of {', '.join(ENCODINGS)}")
    return ENCODINGS[store]


def require_held(cache: LogitCache, encoding: Encoding) -> None:
    """Raise CacheError if an encoding stores features and the cache has none."""
    if encoding.of_features and not cache.codec.encoding.of_features:
        raise CacheError(
            f"{cache.path} holds logits ({cache.store}), from which features cannot be computed; "
            f"dive export-logits --store {encoding.name} computes them with the teacher"
        )


def stored_rows(cache: LogitCache, samples: np.ndarray) -> np.ndarray:
    """The encoded rows (B, V, …) of samples (B,); raises CacheError if a block does not match its CRC."""
    views, row = cache.shape[1], cache.codec.row
    places = np.repeat(samples, views), np.tile(np.arange(views), len(samples))
    rows = cache.codec.unpacked(cache.encoded(*places))
    return rows.reshape(-1, views, *row.shape)


def rounding_of(sources: Sequence[tuple[LogitCache, float]], progress: Progress) -> float:
    """A bound on the error of a logit in the weighted mean of caches that is due to their encodings.

    It is raised by 1 % and written with three digits, because its last bits may differ between machines.
    """
    bound = sum(share * _rounding(cache, progress) for cache, share in sources)
    return float(f"{1.01 * bound:.3g}")


def _rounding(cache: LogitCache, progress: Progress) -> float:
    largest = 0.0
    with progress.bar(f"check {cache.path.name}", cache.block_count) as bar:
        for block in range(cache.block_count):
            _, stored = cache.encoded_block(block)
            largest = max(largest, float(cache.codec.rounding(stored).max()))
            bar.advance()
    return largest + float(cache.facts.get(ROUNDING, 0.0))
