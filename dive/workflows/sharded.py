"""An export by one process, or by several that share it and communicate only through files.

Each of several processes writes a shard. Under torchrun, rank 0 waits for the others and merges the shards.
For an array job, `dive merge-shards` does that. The first process decides what all shards must have in common
(`dive.cache.plan`).
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dive import files, outputs
from dive.cache import part, seal
from dive.cache.layout import Content
from dive.cache.part import DamagedError, OtherVersionError, part_path
from dive.cache.plan import Plan, plan_path, planning, read_plan, write_plan
from dive.cache.shards import (
    Shard,
    ShardWriter,
    Share,
    discard,
    is_sealed,
    read_shard,
    shard_path,
    shards_of,
    without_plan,
)
from dive.cache.writer import BlockWriter, CacheWriter, new_record
from dive.errors import BusyError, OutputError
from dive.progress import Progress
from dive.recipe.documents import differences, plain
from dive.training.device import Runtime
from dive.workflows.merge_shards import merge, refuse_finished
from dive.world import World

_LOOK_EVERY = 0.2  # seconds


@dataclass(frozen=True)
class Begun:
    """What another process, earlier or now, has decided for an export. file: the file that records it."""

    file: Path
    facts: dict[str, Any]
    producer: str


@dataclass(frozen=True)
class Job:
    """A prepared export.

    out: the cache to write. inputs: files that it reads and must not replace. identity: of the cache. choose:
    returns the precision and the facts, those of an export that was begun, or new ones for None. content:
    returns the content of the cache except its rows, given the facts. compute: writes the given blocks.
    """

    out: Path
    inputs: Sequence[Path]
    identity: dict[str, Any]
    force: bool
    choose: Callable[[Begun | None], tuple[Runtime, dict[str, Any]]]
    content: Callable[[dict[str, Any]], Content]
    compute: Callable[[BlockWriter, Runtime, list[int]], None]


def begun_as(out: Path, identity: dict[str, Any], progress: Progress) -> Begun | None:
    """How the unfinished export of `out` was begun, from its plan, its part or a shard; None if none exists.

    Raises OutputError, naming the keys that differ, if one of these files has another identity.
    """
    plan, of_part = read_plan(out), part.begun(part_path(out))
    found = [(plan_path(out), plan), (part_path(out), of_part)]
    found += [(shard.file, shard.record) for shard in shards_of(out, progress)]
    begun = [(file, told) for file, told in found if told is not None]
    for file, told in begun:
        if different := differences(told.identity, plain(identity)):
            raise OutputError(_another_recipe(file, different))
    return Begun(begun[0][0], begun[0][1].facts, begun[0][1].producer) if begun else None


def _another_recipe(file: Path, different: list[str]) -> str:
    return (
        f"{file} is an unfinished export of another recipe ({'; '.join(different)}); resume it with that "
        "recipe, give another --out, or --force to start over"
    )


def write_whole(job: Job, progress: Progress) -> None:
    """Write the cache in one process; blocks are taken over from existing shards, or else computed."""
    with outputs.only_writer(job.out):
        refuse_finished(
            job.out, job.force, job.inputs
        )  # again, because another process may have finished it meanwhile
        files.remove_stale(part_path(job.out))
        if job.force:
            part_path(job.out).unlink(missing_ok=True)
            discard(job.out, progress)
        begun = begun_as(job.out, job.identity, progress)
        runtime, facts = job.choose(begun)
        with CacheWriter(job.out, job.content(facts), begun.producer if begun else None) as writer:
            missing = _take(writer, shards_of(job.out, progress), writer.resumed(progress), progress)
            job.compute(writer, runtime, missing)
            writer.finish(without_plan(job.out))
        discard(job.out, progress)


@dataclass(frozen=True)
class Written:
    """A shard that was written. file: None if the share has no blocks. content: of the whole cache."""

    share: Share
    held: range
    file: Path | None
    content: Content


def write_share(job: Job, share: Share, launch: str | None, progress: Progress) -> Written:
    """Write the shard of a share; blocks are taken over from other shards or the part, or else computed.

    launch: identifies the start of torchrun that started this process, None for an array job. Raises
    BusyError if another process is writing the same shard.
    """
    with planning(job.out):
        plan = _usable_plan(job, launch)
        if plan is None and launch is None and not part_path(job.out).exists():
            # Again, because another process may have merged them all meanwhile.
            outputs.refuse_existing(job.out, job.force, seal.KIND, job.inputs)
        begun = Begun(plan_path(job.out), plan.facts, plan.producer) if plan else None
        if plan is None and not job.force:
            begun = begun_as(job.out, job.identity, progress)
        runtime, facts = job.choose(begun)
        content = job.content(facts)
        new = new_record(content, begun.producer if begun else None)
        if plan is None:
            plan = Plan(job.identity, facts, new.producer, launch)
            write_plan(job.out, plan)
    held = share.blocks(new.blocks)
    if not held:
        progress.note(f"{job.out}: shard {share} of {new.blocks} blocks is empty; there is nothing to do")
        return Written(share, held, None, content)
    file = shard_path(job.out, held)
    progress.note(f"{file}: shard {share}, {len(held)} of {new.blocks} blocks")
    with outputs.only_writer(file):
        files.remove_stale(file)
        if job.force and not _is_of(file, launch):
            file.unlink(missing_ok=True)
        with ShardWriter(job.out, content, share, plan, launch, progress) as writer:
            missing = writer.resumed(progress)
            if missing and not job.force:
                missing = _take(writer, _elsewhere(job.out, file, progress), missing, progress)
            job.compute(writer, runtime, missing)
            writer.finish()
    return Written(share, held, file, content)


def _usable_plan(job: Job, launch: str | None) -> Plan | None:
    """The existing plan, None if there is none or --force replaces it.

    Raises OutputError if the plan is of another identity or damaged and `force` is not set.
    """
    try:
        plan = read_plan(job.out)
    except DamagedError:
        if not job.force:
            raise
        return None
    if plan is None:
        return None
    different = differences(plan.identity, plain(job.identity))
    if job.force:  # every process of an array job may have it: the first one has replaced the plan
        return plan if (plan.launch == launch if launch else not different) else None
    if different:
        raise OutputError(_another_recipe(plan_path(job.out), different))
    return plan


def _is_of(file: Path, launch: str | None) -> bool:
    """Whether a shard was begun under this start of torchrun, which may have restarted this process."""
    try:
        shard = read_shard(file)
    except (DamagedError, OtherVersionError):
        return False
    return shard is not None and launch is not None and shard.record.launch == launch


def _elsewhere(out: Path, own: Path, progress: Progress) -> list[Shard]:
    """All shards except `own`, and the part of an export by one process as a shard of all blocks."""
    found = [shard for shard in shards_of(out, progress) if shard.file != own]
    if (record := part.begun(part_path(out))) is not None:
        found.append(Shard(part_path(out), range(record.blocks), record))
    return found


def _take(writer: BlockWriter, shards: Sequence[Shard], missing: list[int], progress: Progress) -> list[int]:
    """Copy missing blocks from shards that have them; returns the blocks that are still missing."""
    before = len(missing)
    for shard in shards:
        if any(block in shard.held for block in missing):
            with suppress(FileNotFoundError):  # removed meanwhile
                missing = writer.take(shard.file, shard.record, shard.held, missing)
    if len(missing) < before:
        progress.note(f"copied {before - len(missing)} blocks that other processes had written")
    return missing


def merge_of_world(job: Job, written: Written, world: World, launch: str | None, progress: Progress) -> None:
    """Wait for the shards of all ranks and merge them into the cache; rank 0 calls this.

    written: the shard of rank 0. Raises BusyError if another process merges them meanwhile, DamagedError if
    one is damaged.
    """
    blocks = new_record(written.content).blocks
    runs = [Share(rank + 1, world.size).blocks(blocks) for rank in range(world.size)]
    wanted = [shard_path(job.out, held) for held in runs if held]

    def waited_for() -> list[Path]:
        of_this = launch if job.force else None
        return [file for file in wanted if not is_sealed(file) or (of_this and not _is_of(file, of_this))]

    if others := waited_for():
        progress.note(f"waiting for {len(others)} other ranks")
    while others:
        if not plan_path(job.out).exists():
            raise BusyError(
                f"{job.out}: another process merged or removed the shards; check whether the cache exists"
            )
        time.sleep(_LOOK_EVERY)
        others = waited_for()
    shards = [shard for shard in map(read_shard, wanted) if shard is not None]
    with outputs.only_writer(job.out):
        files.remove_stale(part_path(job.out))
        if job.force:
            part_path(job.out).unlink(missing_ok=True)
        merge(job.out, written.content, shards, shards, progress)
