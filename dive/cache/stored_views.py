"""Which views a cache stores of each sample: what the user chose, and whether a cache holds what it says."""

import re

import numpy as np

from dive.cache.reader import LogitCache
from dive.errors import CacheError, OptionError
from dive.printable import excerpt
from dive.randomness import key_hashes, stored_choice
from dive.views.registry import described_space
from dive.views.space import ViewSpace

DEFAULT_DRAWN = 50  # views of an unbounded space; as good as 400 in ml-dr (Faghri et al. 2023)
MOST_DRAWN = 10_000
GIVEN = "given"  # the choice of a cache whose ids a file gave, which are none of the others
_IDS_AT_ONCE = 1 << 20


def default_views(space: ViewSpace) -> str:
    """What a cache stores where nothing else is asked for: the whole space, if it is bounded."""
    return "all" if space.size else str(DEFAULT_DRAWN)


def canonical_views(choice: str, space: ViewSpace) -> str:
    """A choice as identities name it: `all`, `clean` or K in decimal without leading zeros.

    As many views as the space has are `all` of them. Raises OptionError where it is none of these.
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
    """The view ids a cache stores, (N, V): `all`, `clean`, or K drawn for each sample by its key's hash.

    choice: as `canonical_views` gives it. int32, of an unbounded space int64.
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
    """The choice, as identities name it, of which ids (N, V) are those stored; `given` where it is none.

    Ids ascend within a row.
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
    """The view space of which a cache says its views are, None where it does not say; raises CacheError."""
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
    """Raise CacheError unless a cache's view ids, encoding and clean id are those of its identity.

    The ids must be of its view space, and where the identity says that they are the whole space, the clean
    view or a seeded draw, those very ids. The first that is not is named with its sample's key. What a
    cache does not state cannot be false.
    """
    identity, space = cache.identity, space_of(cache)
    if identity.get("store", cache.store) != cache.store:
        raise CacheError(
            f"{cache.path} says its rows are {excerpt(identity['store'])}, they are {cache.store}; "
            "export it again"
        )
    if space is None:
        return
    if (clean := cache.facts.get("clean_id", space.clean_id)) != space.clean_id:
        raise CacheError(
            f"{cache.path} says the clean view is {clean!r}, in its view space it is {space.clean_id}; "
            "export it again"
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
            f"{cache.path} holds view ids that its view space does not have: of {cache.keys[row]!r}, column "
            f"{column}, the id {cache.views[row, column]}, where there are ids from 0{ends}; export it again"
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
            f"{cache.path} says it stores views {choice!r} of seed {seed!r}, which no export does; "
            "export it again"
        )
    stored = cache.shape[1]
    count = int(choice) if drawn else 1 if choice == "clean" else space.size
    if stored != count:
        raise CacheError(
            f"{cache.path} says it stores views {choice!r}, that is {count} a sample, and has {stored}; "
            "export it again"
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
                f"{cache.path} does not hold the views it says: of {cache.keys[start + row]!r}, column "
                f"{column}, the id {cache.views[start + row, column]}, where --views {choice} {how} "
                f"{expected[row, column]}; export it again"
            )
