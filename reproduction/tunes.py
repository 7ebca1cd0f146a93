"""Tune tables of RESULTS.md: virtual examples over τ and p, and the pairs that the rules choose."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dive.method.advice import Advice, by_grid
from dive.method.virtual_examples import Distribution
from dive.recipe.teachers import teachers_in, teachers_name
from reproduction import literature
from reproduction.plan import ALL_VIEWS
from reproduction.records import SHOTS, Row, markdown

HEAD = ("τ", "p", "τ/p", *SHOTS[:3], "max/min", "nats kept")


def virtual_examples(folder: Path, rows: Sequence[Row]) -> Iterator[str]:
    """The tune tables kept beside the records, their figures, and the pairs that the rules choose."""
    if (path := folder / "models.json").exists():
        yield "#### Virtual examples of each model"
        documents = json.loads(path.read_text())["caches"]
        images = documents[0]["images"]
        means = [[d["model"], *_means(d["pairs"][0]), _crossing(d)] for d in documents]
        yield f"Mean per class, {_views(documents[0])}, τ = 1, and the crossing:"
        yield markdown(["model", *SHOTS[:3], "crossing"], [["images", *_means(images), ""], *means])
        yield "![Virtual examples of images, teachers and student](docs/figures/models.png)"
    if (path := folder / "temperatures.json").exists():
        document = json.loads(path.read_text())
        yield f"#### Virtual examples of the teacher over τ and p, {_views(document)}"
        pairs = [[*_pair(pair), _papers(pair["temperature"])] for pair in document["pairs"]]
        yield markdown([*HEAD, "the paper's teacher"], pairs)
        yield Advice(**document["recommendation"]).sentence
        yield "![The teacher's virtual examples over τ](docs/figures/temperatures.png)"
    if (path := folder / "tune.json").exists():
        document = json.loads(path.read_text())
        yield f"#### Virtual examples of the teacher over τ and p, {_views(document)}"
        yield markdown(HEAD, [_pair(pair) for pair in document["pairs"]])
        yield Advice(**document["recommendation"]).sentence
        yield from _rules(document, rows)
    if paths := sorted(folder.glob("tune-*.json")):
        yield "#### Crossings of other caches"
        yield markdown(["cache", "of", "views", "store", "crossing"], [_other(path) for path in paths])


def _other(path: Path) -> list[str]:
    """A table row of a further cache of the recipe, with its crossing."""
    document = json.loads(path.read_text())
    told = [document["model"], str(document["views"]), document["store"]]
    return [Path(document["cache"]).name, *told, _crossing(document)]


def _rules(document: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """The pairs that rules choose from a tune table, beside the students trained from such a cache."""
    students = [row for one in rows if (row := _of_cache(one, document)) is not None]
    told: dict[tuple[float, float], list[str]] = {}
    for advice in (Advice(**document["recommendation"]), by_grid(_grid(document))):
        if advice.tau is not None and advice.power is not None:
            told.setdefault((advice.tau, advice.power), []).append(advice.rule)
    lines = []
    pairs = sorted({*told, *(row.pair for row in students)}, key=lambda pair: (pair[0] / pair[1], pair))
    for pair in pairs:
        numbers = [f"{number:.4g}" for number in (*pair, pair[0] / pair[1])]
        chosen = " and ".join(told.get(pair, []))
        trained = [row for row in students if row.pair == pair]
        for row in trained:
            lines.append([*numbers, chosen, _student(row), *(row.shown(shot) for shot in SHOTS)])
        if not trained:
            lines.append([*numbers, chosen, "not trained", "", "", "", ""])
    yield "What each rule chooses, and the accuracy of the students trained from such a cache:"
    yield markdown(["τ", "p", "τ/p", "chosen by rule", "student", *SHOTS], lines)


def _of_cache(row: Row, document: Mapping[str, Any]) -> Row | None:
    """The students of a row that learned from a cache of a tune table's teacher and views, in any encoding.

    None if there are none. The recipe's own table is of the teacher of seed 0.
    """
    record = row.record
    views = record.get("cache", {}).get("views")
    if views == "all":
        views = ALL_VIEWS[record["recipe"]["views"]["kind"]]
    if record["kind"] != "student" or str(views) != str(document["views"]) or record.get("free_views"):
        return None
    if teachers_name(teachers_in(record)) != document["model"]:
        return None
    records = [one for one in row.records if all(not t.get("seed") for t in teachers_in(one))]
    return Row(records, row.other_precision) if records else None


def _student(row: Row) -> str:
    """The seeds of a row of students, and what is unusual about it."""
    seeds = ", ".join(str(record["seed"]) for record in row.records)
    return ", ".join([f"seed{'s' * (len(row.records) > 1)} {seeds}", *row.unusual])


def exactness(caches: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How close crossings are to those of a dense grid, and their time."""
    yield "### The crossing of `dive tune-tau` against a dense grid in float64"
    yield (
        "Measured by `python -m benchmarks.crossing` on a machine with other work. The grid has steps of a "
        "relative 2e-4, with linear interpolation. Seconds are medians of three; one pass (the seven "
        "temperatures of the default table) and all of tune are measured in turn."
    )
    head = ["cache", "views", "store", "crossing", "dense grid", "off by"]
    head += ["passes", "one pass", "tune", "tune / one pass"]
    lines = []
    for one in caches:
        found = ["none", "none", ""]
        if one["crossing"] is not None and one["dense"] is not None:
            found = [f"{one[key]:.4f}" for key in ("crossing", "dense")]
            found.append(f"{abs(one['crossing'] / one['dense'] - 1):.0e}")
        seconds = [one["pass_seconds"], one["tune_seconds"]]
        cost = [*(f"{value:.2f} s" for value in seconds), f"{seconds[1] / seconds[0]:.1f}"]
        lines.append([one["cache"], str(one["views"]), one["store"], *found, str(one["passes"]), *cost])
    yield markdown(head, lines)


def _grid(document: Mapping[str, Any]) -> list[Distribution]:
    """The distributions of a tune table."""
    return [
        Distribution(
            pair["temperature"],
            np.array(pair["per_class"]),
            {shot: pair[shot] for shot in SHOTS[:3]},
            pair["information"],
        )
        for pair in document["pairs"]
    ]


def _crossing(document: Mapping[str, Any]) -> str:
    """The τ/p of a crossing, or `none`."""
    return "none" if document["crossing"] is None else f"{document['crossing']['ratio']:.3f}"


def _pair(pair: Mapping[str, Any]) -> list[str]:
    numbers = (f"{pair[key]:g}" for key in ("tau", "power", "temperature"))
    ratio = "–" if pair["ratio"] is None else f"{pair['ratio']:.2f}"
    return [*numbers, *_means(pair), ratio, f"{pair['information']:.3f}"]


def _papers(temperature: float) -> str:
    """The paper's many/medium/few virtual examples at a temperature, if it shows them."""
    return "/".join(map(str, literature.paper()["virtual_examples"].get(temperature, [])))


def _means(document: Mapping[str, Any]) -> list[str]:
    return ["–" if document[shot] is None else f"{document[shot]:.1f}" for shot in SHOTS[:3]]


def _views(document: Mapping[str, Any]) -> str:
    views = document["views"]
    return "the clean view" if views == "clean" else f"{views} stored views"
