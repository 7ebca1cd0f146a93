"""The page of `dive report`: the content of checkpoints, records and caches, written to one file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dive import files, outputs
from dive.arguments import TakesTexts, as_paths
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
class ReportOptions(TakesTexts):
    """Options of `dive.write_report`.

    data: the place of the caches' images, of which the page shows some; None shows images only if their data
        set comes with a package (digits).
    clean: compute virtual examples from the clean views only, not all stored views.
    sample: the number of images to estimate virtual examples from; None for all.
    seed: seed of the draw of the sample.
    force: replace an existing page.
    recipe: the recipe of the caches' images; needed if shares or list files divide the images and no record
        on the page has them.
    """

    data: str | None = None
    clean: bool = False
    sample: int | None = None
    seed: int = 0
    force: bool = False
    recipe: Recipe | None = None


def write_report(
    paths: str | Path | Sequence[str | Path],
    out: str | Path = "report.html",
    options: ReportOptions = ReportOptions(),
    progress: Progress = SILENT,
) -> Page:
    """Write an HTML page about checkpoints, records and caches; returns its content, a `Page`.

    The page is one file that loads nothing from a network. It needs plotly (the extra `report`).

    paths: checkpoints, records (`NAME.json`) and caches, in any mix.
    out: the file to write; its suffix is .html.
    options: images, sample and more, see `ReportOptions`.
    progress: receives notes, warnings and progress bars; by default only warnings are printed, on stderr.

    Raises:
        CacheError, CheckpointError: a file is corrupt.
        DataError: the images are missing, or differ from those of the cache.
        DiveError: a file is missing or cannot be read.
        OptionError: the suffix of `out` is not .html.
        OutputError: the page exists or cannot be written, or plotly is not installed.

    >>> import dive
    >>> given = ["checkpoints/digits_lt_bbn/teacher.pt", "cache/digits_lt_bbn.h5"]
    >>> page = dive.write_report(given, "report.html")
    >>> len(page.models), len(page.caches), len(page.caches[0].pictures)
    (1, 1, 5)
    """
    out, given = Path(out), list(dict.fromkeys(as_paths(paths)))
    try:
        from dive.report.page.document import KIND, document
    except ModuleNotFoundError as error:
        raise OutputError(
            f"the page needs plotly, which cannot be imported ({error}); pip install 'dive-longtail[report]'"
        ) from error
    outputs.refuse_existing(out, options.force, KIND, given)
    outputs.require_suffix(out, (".html",))
    with outputs.only_writer(out):
        page = gather(given, options, progress)
        files.write_bytes(out, document(page))
    return page


def gather(paths: Sequence[Path], options: ReportOptions, progress: Progress = SILENT) -> Page:
    """The content of a page about some files.

    Virtual examples are computed first: they use several processes only as long as torch is not imported.
    """
    sealed = {path: _is_cache(path) for path in paths}
    caches = [LogitCache(path) for path in paths if sealed[path]]
    if not caches:
        of_caches = {"--data": options.data, "--clean": options.clean, "--sample": options.sample}
        if given := [option for option, value in of_caches.items() if value]:
            progress.warn(f"{' and '.join(given)}: no effect here, because no cache is shown")
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
    """Whether a file begins like a sealed cache; raises DiveError if it cannot be read."""
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
