"""Merging the shards of an export into one cache; every block is verified."""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dive import files, outputs
from dive.cache import part, seal
from dive.cache.layout import Content
from dive.cache.part import DamagedError, part_path, require_own_files
from dive.cache.plan import plan_path, read_plan
from dive.cache.reader import LogitCache
from dive.cache.shards import Shard, Share, content_of, discard, shards_of, without_plan
from dive.cache.writer import CacheWriter, require_same
from dive.errors import OutputError
from dive.progress import SILENT, Progress, duration


@dataclass(frozen=True)
class MergedShards:
    """The result of `dive.merge_shards`. path: the cache. record: its properties, in plain values."""

    path: Path
    record: dict[str, Any]


def merge_shards(path: str | Path, force: bool = False, progress: Progress = SILENT) -> MergedShards:
    """Merge the finished shards of an export into a cache; returns the path and the record of the cache.

    The shards are then removed. Neither the images nor the teacher is needed.

    path: the cache to write; its shards are in the same folder.
    force: replace a finished cache, and ignore and remove shards of another export.
    progress: receives notes, warnings and progress bars; by default only warnings are printed, on stderr.

    Raises:
        OutputError: the cache exists or cannot be written, blocks are missing (the message names their
            shards), a shard is of another export, or, as a DamagedError, a shard does not match its checksum.

    >>> import dive
    >>> recipe = dive.load_recipe("digits_lt/bbn")
    >>> for share in ((1, 2), (2, 2)):
    ...     options = dive.ExportOptions(out=Path("shared.h5"), device="cpu", shard=share)
    ...     exported = dive.export_logits(recipe, options)
    >>> dive.merge_shards(Path("shared.h5")).record["shape"]
    [399, 9, 10]
    """
    path, start = Path(path), time.monotonic()
    refuse_finished(path, force)
    with outputs.only_writer(path):
        refuse_finished(path, force)  # again: another process may have finished it meanwhile
        files.remove_stale(part_path(path))
        shards = _of_one_export(path, shards_of(path, progress, force), force)
        sealed = [shard for shard in shards if shard.sealed]
        if not shards:
            raise OutputError(
                f"there is no shard of {path}; dive export-logits --shard 1/N --out {path} writes the first"
            )
        if not sealed or not part_path(path).exists():
            _require_covered(path, range(shards[0].record.blocks), shards)
        merge(path, content_of(sealed[0]), sealed, shards, progress)
    cache = LogitCache(path)
    seconds = time.monotonic() - start
    progress.note(f"{path}: complete in {duration(seconds)}")
    record = {
        "cache": str(path),
        "shards": len(sealed),
        "shape": list(cache.shape),
        "store": cache.store,
        "bytes": path.stat().st_size,
        "seconds": round(seconds, 1),
        "stored_views_accuracy": cache.accuracy,
        "identity": cache.identity,
        **cache.facts,
    }
    return MergedShards(path, record)


def _of_one_export(path: Path, shards: Sequence[Shard], force: bool) -> list[Shard]:
    """The shards of one export, in the order of their blocks.

    This is the export of the plan or, without a plan, that of the first finished shard. Raises OutputError,
    naming the keys that differ, if a shard is of another export; with `force` that shard is left out.
    """
    plan = read_plan(path)
    kept: list[Shard] = []
    for shard in sorted(shards, key=lambda shard: not shard.sealed):
        try:
            if plan is not None:
                require_same(shard.file, shard.record, plan.begins(shard.record))
            if kept:
                require_same(shard.file, shard.record, kept[0].record)
        except OutputError:
            if not force:
                raise
        else:
            kept.append(shard)
    return sorted(kept, key=lambda shard: shard.held.start)


def merge(
    path: Path, content: Content, sealed: Sequence[Shard], shards: Sequence[Shard], progress: Progress
) -> None:
    """Copy the blocks of finished shards into `path`, finish the cache, and remove the shards.

    The caller holds the lock of `path`. sealed: the finished shards. shards: all shards, by which the error
    for missing blocks names the shards that lack them. Raises DamagedError if a shard does not match its seal
    or a block its CRC, OutputError if a block is in none of the finished shards.
    """
    with CacheWriter(path, content, shards[0].record.producer) as writer:
        missing = writer.resumed(progress)
        _require_covered(path, missing, shards)
        with progress.bar("merge", writer.blocks, writer.blocks - len(missing)) as bar:
            for shard in sealed:
                wanted = [block for block in missing if block in shard.held]
                if not wanted:
                    continue
                shard.require_sealed()
                if damaged := writer.take(shard.file, shard.record, shard.held, wanted):
                    raise DamagedError(
                        f"{shard.file} is damaged in block {damaged[0]}; run the command that wrote it again "
                        f"(dive export-logits --shard {shard.share}, or torchrun): it writes that block again"
                    )
                missing = [block for block in missing if block not in shard.held]
                bar.advance(len(wanted))
        writer.finish(without_plan(path))
    discard(path, progress)


def _require_covered(path: Path, wanted: Iterable[int], shards: Sequence[Shard]) -> None:
    """Raise OutputError, which names the shares to run, if a wanted block is in no finished shard."""
    covered = {block for shard in shards if shard.sealed for block in shard.held}
    missing = [block for block in wanted if block not in covered]
    if not missing:
        return
    total, of = shards[0].record.blocks, max(shard.share.of for shard in shards)
    shares = [Share(number, of) for number in range(1, of + 1)]
    lacking = [share for share in shares if any(block in share.blocks(total) for block in missing)]
    begun = {shard.share for shard in shards}
    told = [f"{share}{' (unfinished)' if share in begun else ''}" for share in lacking]
    shown = ", ".join(told[:20]) + (f" and {len(told) - 20} more" if len(told) > 20 else "")
    raise OutputError(
        f"{path}: {len(missing)} of {total} blocks are missing, those of --shard {shown}; run dive "
        "export-logits with each of these, or torchrun again, then dive merge-shards"
    )


def refuse_finished(out: Path, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Raise OutputError if `out` exists, unless `force` or an export that was begun may replace it.

    If it exists, no export was begun and `force` is false, the shards that a killed merge left are removed.
    inputs: files that the export reads, which it must not replace.
    """
    require_own_files(out)
    outputs.refuse_foreign(part_path(out), part.KIND)
    begun = is_begun(out)
    if out.exists() and not begun and not force:
        with suppress(OSError, OutputError):
            discard(out, SILENT)
    outputs.refuse_existing(out, force or begun, seal.KIND, inputs)


def is_begun(out: Path) -> bool:
    """Whether there is an unfinished export of `out`."""
    return part_path(out).exists() or plan_path(out).exists()
