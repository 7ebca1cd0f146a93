"""The page of `dive report`: what checkpoints, records and caches tell, gathered and written as one file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from dive import files, outputs
from dive import structure as s
from dive.cache import seal
from dive.cache.reader import LogitCache
from dive.data.longtail import shot_means
from dive.errors import DiveError, OutputError, RecipeError
from dive.method.advice import recommend
from dive.method.virtual_examples import Distribution, Pair, examine
from dive.printable import printable
from dive.progress import SILENT, Progress
from dive.recipe.commands import command, config_of
from dive.recipe.earlier import upgraded
from dive.recipe.reading import build
from dive.recipe.records import EPOCH, OF_SOME_EPOCHS, fault_of
from dive.recipe.shipped import recipes
from dive.recipe.shots import SHOTS
from dive.recipe.teachers import teachers_name, teachers_of
from dive.report.page.content import CachePart, Crossing, ModelPart, Page, Position
from dive.version import __version__

# Positions of the slider: some two dozen a decade, each a number that people type, from half to fifty.
_MANTISSAS = (
    10,
    11,
    12,
    13,
    14,
    15,
    16,
    18,
    20,
    22,
    24,
    26,
    28,
    30,
    33,
    36,
    40,
    45,
    50,
    55,
    60,
    65,
    70,
    80,
    90,
)
RATIOS = tuple(
    round(mantissa * scale, 3) for scale in (0.01, 0.1, 1.0) for mantissa in _MANTISSAS
    if 0.5 <= mantissa * scale <= 50
)  # fmt: skip
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class ReportOptions:
    """What is asked of a page.

    data: where the images of the caches are, None for a page without pictures. sample: estimate virtual
    examples from so many images, drawn by `seed`; None takes all. force: replace a page that is there.
    """

    data: str | None = None
    sample: int | None = None
    seed: int = 0
    force: bool = False


def write_report(
    paths: Sequence[str | Path],
    out: str | Path = "report.html",
    options: ReportOptions = ReportOptions(),
    progress: Progress = SILENT,
) -> Page:
    """The content of a page about checkpoints, their records (`NAME.json`) and caches, once it is written.

    The page is one HTML file that loads nothing. Raises CheckpointError or CacheError where a file is
    damaged, DataError where images are missing or others, OutputError where the page cannot be written or
    plotly is not installed.

    >>> import dive
    >>> given = ["checkpoints/digits_lt_bbn/teacher.pt", "cache/digits_lt_bbn.h5"]
    >>> page = dive.write_report(given, "report.html")
    >>> len(page.models), len(page.caches), len(page.caches[0].pictures)
    (1, 1, 6)
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
    page = gather(given, options, progress)
    with outputs.only_writer(out):
        files.write_bytes(out, document(page))
    return page


def gather(paths: Sequence[Path], options: ReportOptions, progress: Progress = SILENT) -> Page:
    """What a page about some files has to show. Caches come first, as long as torch is not loaded."""
    readers = [_reader(path) for path in paths]
    caches = [LogitCache(path) for path, read in zip(paths, readers, strict=True) if read is None]
    parts = []
    with progress.bar("virtual examples", len(caches)) as bar:
        for cache in caches:
            parts.append(_of_cache(cache, options))
            bar.advance()
    models = [_of_model(path, read(path)) for path, read in zip(paths, readers, strict=True) if read]
    documents = [model.record for model in models]
    parts = [
        _with_pictures(part, cache, documents, options) for part, cache in zip(parts, caches, strict=True)
    ]
    names = [model.record["recipe"]["name"] for model in models]
    names += [str(cache.identity.get("recipe", cache.path.stem)) for cache in caches]
    title = ", ".join(dict.fromkeys(map(printable, names)))
    return Page(title, models, parts, f"dive {__version__} with plotly {version('plotly')}")


def _reader(path: Path) -> Callable[[Path], dict[str, Any]] | None:
    """What reads the record of a file, None of a cache; raises DiveError where dive did not write it."""
    try:
        with files.open_regular(path) as file:
            start = file.read(8)
    except FileNotFoundError:
        raise DiveError(f"there is no {path}") from None
    except OSError as error:
        raise DiveError(f"cannot read {path}: {error.strerror}") from error
    if seal.is_sealed(start):
        return None
    return _checkpoint if start.startswith(_ZIP) else _record


def _checkpoint(path: Path) -> dict[str, Any]:
    from dive.models import checkpoint

    document = checkpoint.load_finished(path)
    return {key: value for key, value in document.items() if key != "model"}


def _record(path: Path) -> dict[str, Any]:
    try:
        document = files.read_json(path)
        fault = fault_of(found := upgraded(document)) if isinstance(document, dict) else "it is no mapping"
    except (OSError, ValueError):
        fault = "it is no JSON"
    if fault:
        raise DiveError(
            f"{path} is neither a logit cache nor a checkpoint, nor the record of one, as dive writes them: "
            f"{fault}"
        )
    return found


def _of_model(path: Path, record: dict[str, Any]) -> ModelPart:
    recipe = build(record["recipe"]).as_dict()
    written = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    return ModelPart(printable(str(path)), record, _history(path), written, _command(record))


def _command(record: Mapping[str, Any]) -> str:
    try:
        return command(record, recipes())
    except RecipeError:  # a recipe of the user's own
        return f"dive {record['kind']} --config RECIPE.yaml  # the recipe below"


def _history(path: Path) -> list[dict[str, Any]] | None:
    """The epochs in the file beside a checkpoint, None where it is not there or not as dive writes it."""
    try:
        entries = files.read_json_lines(path.with_name(f"{path.stem}.history.jsonl"))
    except (OSError, ValueError):
        return None
    sound = entries and not any(s.fault_of(entry, EPOCH, OF_SOME_EPOCHS) for entry in entries)
    return entries if sound else None


def _of_cache(cache: LogitCache, options: ReportOptions) -> CachePart:
    sample = options.sample if options.sample and options.sample < cache.shape[0] else None
    pairs = examine(cache, RATIOS, (1.0,), sample=sample, seed=options.seed)
    found = [pair.distribution for pair in pairs]
    crossing = crossing_of(cache, found)
    counts = cache.class_counts
    return CachePart(
        file=printable(str(cache.path)),
        model=_model_of(cache),
        shape=cache.shape,
        classes=list(cache.classes),
        class_counts=counts.tolist(),
        images=shot_means(counts, counts),
        sample=sample,
        positions=[_position(pair) for pair in pairs],
        crossing=crossing,
        advice=_advice(crossing, found),
        origin=_origin(cache),
        command=_export(cache),
    )


def _position(pair: Pair) -> Position:
    found = pair.distribution
    per_class = found.per_class.tolist()
    return Position(found.temperature, per_class, found.shots, found.information, found.errors)


def crossing_of(cache: LogitCache, found: Sequence[Distribution]) -> Crossing | None:
    """Where few-shot classes overtake many-shot ones, None where they do not or a group is absent.

    found: in the order of their temperatures, between two of which it is interpolated in log τ/p.
    """
    import numpy as np

    present = [shot for shot in SHOTS if found[0].shots[shot] is not None]
    if len(present) < 2:
        return None
    few, many = (np.array([one.shots[shot] for one in found]) for shot in (present[-1], present[0]))
    above = np.flatnonzero(few > many)
    if not len(above) or above[0] == 0:
        return None
    after = int(above[0])
    gap = (few - many)[after - 1 : after + 1]
    at = float(-gap[0] / (gap[1] - gap[0]))
    ratios = np.log([found[after - 1].temperature, found[after].temperature])
    ratio = float(np.exp(ratios[0] + at * (ratios[1] - ratios[0])))
    meet = float(few[after - 1] + at * (few[after] - few[after - 1]))
    return Crossing(ratio, meet, meet)


def _advice(crossing: Crossing | None, found: Sequence[Distribution]) -> str:
    if crossing is None:
        return recommend(found).sentence
    tau = crossing.ratio / 2
    return (
        f"The paper takes about the τ/p at which few-shot classes overtake many-shot ones, here "
        f"{crossing.ratio:.3g}: τ = {tau:.3g}, p = 0.5. It depends on the teacher; a smaller one keeps more "
        "information."
    )


def _model_of(cache: LogitCache) -> str:
    teachers = teachers_of(cache.facts)
    return teachers_name(teachers) if teachers else printable(cache.path.stem)


def _origin(cache: LogitCache) -> list[tuple[str, str]]:
    """What a cache tells of itself, which a foreign one may not, or in other types."""
    listed = cache.facts.get("versions")
    versions = listed if isinstance(listed, dict) else {}
    told = {
        "encoding": f"{cache.store}, {files.readable_size(cache.nbytes)} of rows",
        "views": cache.identity.get("views"),
        "view seed": cache.identity.get("view_seed"),
        "precision": cache.facts.get("precision"),
        "teacher’s accuracy over its views": f"{cache.accuracy:.2%}",
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items()),
        "producer": cache.producer,
        "weights": _hashes(cache),
        "images": cache.identity.get("data_fingerprint"),
        "hash": cache.hash,
    }
    return [(name, str(value)) for name, value in told.items() if value not in (None, "")]


def _hashes(cache: LogitCache) -> str:
    return ", ".join(
        str(teacher.get("weights_hash", teacher.get("logits_hash", "")))
        for teacher in cache.teachers if isinstance(teacher, dict)
    )  # fmt: skip


def _export(cache: LogitCache) -> str:
    """The command that exports a cache again, as far as it tells."""
    words, name = ["dive", "export-logits"], str(cache.identity.get("recipe", ""))
    try:
        config = config_of(name, recipes())
    except RecipeError:
        config = "RECIPE.yaml"
    words += ["--config", config]
    words += ["--views", str(cache.identity["views"])] if "views" in cache.identity else []
    return " ".join([*words, "--store", cache.store])


def _with_pictures(
    part: CachePart, cache: LogitCache, records: Sequence[Mapping[str, Any]], options: ReportOptions
) -> CachePart:
    from dive.workflows.report_pictures import pictures_of, place_of

    place = place_of(cache, records, options.data)
    if isinstance(place, str):
        return replace(part, without=place)
    return replace(part, pictures=pictures_of(cache, place))
