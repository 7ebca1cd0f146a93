"""The page of `dive report`: what checkpoints, records and caches tell, gathered and written as one file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dive import files, outputs
from dive.cache import seal
from dive.cache.reader import LogitCache
from dive.errors import DiveError, OutputError
from dive.printable import printable
from dive.progress import SILENT, Progress
from dive.recipe.recipe import Recipe
from dive.report.page.content import CachePart, Page
from dive.version import __version__
from dive.workflows.report_caches import of_cache
from dive.workflows.report_models import of_model


@dataclass(frozen=True)
class ReportOptions:
    """What is asked of a page.

    data: where the images of the caches are, None for a page without pictures. clean: virtual examples of
    the clean view alone instead of all stored views. sample: estimate them from so many images, drawn by
    `seed`; None takes all. force: replace a page that is there. recipe: of the caches' images, where what the
    page shows does not tell it all, as of list files.
    """

    data: str | None = None
    clean: bool = False
    sample: int | None = None
    seed: int = 0
    force: bool = False
    recipe: Recipe | None = None


def write_report(
    paths: Sequence[str | Path],
    out: str | Path = "report.html",
    options: ReportOptions = ReportOptions(),
    progress: Progress = SILENT,
) -> Page:
    """The content of a page about checkpoints, their records (`NAME.json`) and caches, once it is written.

    The page is one HTML file that loads nothing. Raises CheckpointError or CacheError where a file is
    damaged, DataError where images are missing or others, OutputError where the page cannot be written or
    plotly is not installed, OptionError where its name does not end in .html.

    >>> import dive
    >>> given = ["checkpoints/digits_lt_bbn/teacher.pt", "cache/digits_lt_bbn.h5"]
    >>> page = dive.write_report(given, "report.html")
    >>> len(page.models), len(page.caches), len(page.caches[0].pictures)
    (1, 1, 5)
    """
    out, given = Path(out), [Path(path) for path in dict.fromkeys(map(str, paths))]
    try:
        from dive.report.page.document import KIND, document
    except ModuleNotFoundError as error:
        raise OutputError(
            f"the page is drawn by plotly, which cannot be imported ({error}); "
            "pip install 'dive-longtail[report]'"
        ) from error
    outputs.refuse_existing(out, options.force, KIND, given)
    outputs.require_suffix(out, (".html",))
    with outputs.only_writer(out):
        page = gather(given, options, progress)
        files.write_bytes(out, document(page))
    return page


def gather(paths: Sequence[Path], options: ReportOptions, progress: Progress = SILENT) -> Page:
    """What a page about some files has to show. Caches come first, as long as torch is not loaded."""
    sealed = {path: _is_cache(path) for path in paths}
    caches = [LogitCache(path) for path in paths if sealed[path]]
    if not caches:
        of_caches = {"--data": options.data, "--clean": options.clean, "--sample": options.sample}
        if given := [option for option, value in of_caches.items() if value]:
            progress.warn(f"{' and '.join(given)}: no effect here, where no cache is shown")
    parts = []
    with progress.bar("virtual examples", len(caches)) as bar:
        for cache in caches:
            parts.append(of_cache(cache, options.clean, options.sample, options.seed))
            bar.advance()
    models = [of_model(path) for path in paths if not sealed[path]]
    documents = [model.record for model in models]
    parts = [
        _with_pictures(part, cache, documents, options) for part, cache in zip(parts, caches, strict=True)
    ]
    names = [model.record["recipe"]["name"] for model in models]
    names += [str(cache.identity.get("recipe", cache.path.stem)) for cache in caches]
    title = ", ".join(dict.fromkeys(map(printable, names)))
    return Page(title, models, parts, f"dive {__version__} with plotly {version('plotly')}")


def _is_cache(path: Path) -> bool:
    """Whether a file begins as a sealed cache; raises DiveError where it cannot be read."""
    try:
        with files.open_regular(path) as file:
            return seal.is_sealed(file.read(8))
    except FileNotFoundError:
        raise DiveError(f"there is no {path}") from None
    except OSError as error:
        raise DiveError(f"cannot read {path}: {error.strerror}") from error


def _with_pictures(
    part: CachePart, cache: LogitCache, records: Sequence[Mapping[str, Any]], options: ReportOptions
) -> CachePart:
    from dive.workflows.report_pictures import pictures_of, place_of

    place = place_of(cache, records, options.data, options.recipe)
    if isinstance(place, str):
        return replace(part, without=place)
    return replace(part, pictures=pictures_of(cache, place))
