"""Which views a cache stores of each sample: the user's choice, and a check of what a cache states."""

import re

import numpy as np

from dive.cache.reader import LogitCache
from dive.errors import CacheError, OptionError
from dive.printable import excerpt
from dive.randomness import key_hashes, stored_choice
from dive.views.registry import described_space
from dive.views.space import ViewSpace

DEFAULT_DRAWN = 50  # views per sample, of an unbounded space; as good as 400 in ml-dr (Faghri et al. 2023)
MOST_DRAWN = 10_000
GIVEN = "given"  # the choice of a cache of imported logits whose view ids match no other choice
_IDS_AT_ONCE = 1 << 20


def default_views(space: ViewSpace) -> str:
    """The default of `--views`: `all` if the space is bounded, otherwise `DEFAULT_DRAWN`."""
    return "all" if space.size else str(DEFAULT_DRAWN)


def canonical_views(choice: str, space: ViewSpace) -> str:
    """A choice in the form that identities have: `all`, `clean` or K in decimal without leading zeros.

    K equal to the size of the space becomes `all`. Raises OptionError if the choice is none of these.
    """
    if choice == "clean" or (choice == "all" and space.size):
        return choice
    most = space.size or MOST_DRAWN
    found = re.fullmatch("0*([1-9][0-9]{0,8})", choice)
    if found is None or int(found[1]) > most:
        every = "all, clean," if space.size else "clean (these views are unbounded),"
        raise OptionError(f"--views {choice[:40]!r}: give {every} or a number from 1 to {most}")
    return "all" if int(found[1]) == space.size else found[1]


def stored_views(choice: str, space: ViewSpace, seed: int, hashes: np.ndarray) -> np.ndarray:
    """The view ids that a cache stores, (N, V), ascending in each row; int32, or int64 if unbounded.

    choice: as `canonical_views` returns it; K views of a sample are drawn by `seed` and the hash of its key.
    hashes: (N,) uint64, from `key_hashes`.
    """
    n = len(hashes)
    if choice == "all" and space.size:
        ids = np.tile(np.arange(space.size), (n, 1))
    elif choice == "clean":
        ids = np.full((n, 1), space.clean_id)
    else:
        ids = stored_choice(seed, hashes, space.size, int(choice))
    return ids.astype(np.int32 if space.size else np.int64)


def named_views(ids: np.ndarray, space: ViewSpace, seed: int, hashes: np.ndarray) -> str:
    """The choice, in the form that identities have, that gives the view ids (N, V); `given` if none does.

    ids: ascending in each row.
    """
    count = ids.shape[1]
    choices = ["clean"] if count == 1 else []
    if count == space.size:
        choices.append("all")
    elif count < (space.size or MOST_DRAWN + 1):
        choices.append(str(count))
    same = (choice for choice in choices if np.array_equal(stored_views(choice, space, seed, hashes), ids))
    return next(same, GIVEN)


def space_of(cache: LogitCache) -> ViewSpace | None:
    """The view space that the cache's identity describes; None if it describes none.

    Raises CacheError if the description is malformed.
    """
    described = cache.identity.get("view_space")
    if not isinstance(described, dict):
        return None
    try:
        return described_space(described)
    except ValueError as error:
        raise CacheError(
            f"{cache.path} does not say which views it holds: {error}; export it again"
        ) from error


def require_stated_views(cache: LogitCache) -> None:
    """Raise CacheError unless a cache's view ids, encoding and clean id are those that it states.

    The ids must exist in its view space. If the identity states that they are the whole space, the clean view
    or a seeded draw, they must be exactly those. The error names the first wrong id and the key of its
    sample. What a cache does not state is not checked.
    """
    identity, space = cache.identity, space_of(cache)
    if identity.get("store", cache.store) != cache.store:
        raise CacheError(
            f"{cache.path} states that its rows are {excerpt(identity['store'])}, but they are "
            f"{cache.store}; export it again"
        )
    if space is None:
        return
    if (clean := cache.facts.get("clean_id", space.clean_id)) != space.clean_id:
        raise CacheError(
            f"{cache.path} states that its clean view is {clean!r}, but in its view space it is "
            f"{space.clean_id}; export it again"
        )
    _require_ids_of(cache, space)
    if "views" in identity:
        _require_chosen(cache, space)


def _require_ids_of(cache: LogitCache, space: ViewSpace) -> None:
    outside = cache.views < 0 if space.size is None else (cache.views < 0) | (cache.views >= space.size)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        ends = "" if space.size is None else f" to {space.size - 1}"
        raise CacheError(
            f"{cache.path} holds view ids that its view space does not have: {cache.keys[row]!r} has in "
            f"column {column} the id {cache.views[row, column]}, but ids run from 0{ends}; export it again"
        )


def _require_chosen(cache: LogitCache, space: ViewSpace) -> None:
    choice, seed = cache.identity["views"], cache.identity.get("view_seed")
    if choice == GIVEN:
        return
    drawn = isinstance(choice, str) and re.fullmatch("0*[1-9][0-9]{0,8}", choice) is not None
    drawn = drawn and (space.size is None or int(choice) <= space.size)
    known = drawn or choice == "clean" or (choice == "all" and space.size is not None)
    if not known or (drawn and type(seed) is not int):
        raise CacheError(
            f"{cache.path} states that it stores views {choice!r} of seed {seed!r}, which dive never "
            "exports; export it again"
        )
    stored = cache.shape[1]
    count = int(choice) if drawn else 1 if choice == "clean" else space.size
    if stored != count:
        raise CacheError(
            f"{cache.path} states that it stores views {choice!r}, that is {count} a sample, but it has "
            f"{stored}; export it again"
        )
    rows_at_once = max(1, _IDS_AT_ONCE // max(stored, space.size or 0))
    for start in range(0, len(cache.keys), rows_at_once):
        rows = slice(start, start + rows_at_once)
        hashes = key_hashes(cache.keys[rows])
        expected = stored_views(choice, space, seed if drawn and seed is not None else 0, hashes)
        if not np.array_equal(expected, cache.views[rows]):
            row, column = np.argwhere(expected != cache.views[rows])[0]
            how = f"of seed {seed} draws" if drawn else "has"
            raise CacheError(
                f"{cache.path} does not hold the views it states: {cache.keys[start + row]!r} has in column "
                f"{column} the id {cache.views[start + row, column]}, but --views {choice} {how} "
                f"{expected[row, column]}; export it again"
            )
