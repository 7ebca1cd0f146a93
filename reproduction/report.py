"""`make results`: RESULTS.md from the records under results/, so that no figure in it is typed.

    python -m reproduction.report

Prose comes from reproduction/notes.md, what others report from reproduction/literature.yaml.
"""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dive.method.advice import Advice, by_grid
from dive.method.virtual_examples import Distribution
from dive.progress import duration
from dive.recipe.commands import command
from dive.recipe.earlier import upgraded
from dive.recipe.reading import build
from dive.recipe.recipe import Recipe
from dive.recipe.records import of_one_run
from dive.recipe.teachers import model_name

ROOT = Path(__file__).parents[1]
SHOTS = ("many", "medium", "few", "all")
NAMES = {"cifar100": "CIFAR-100-LT", "cifar10": "CIFAR-10-LT"}


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but their seed."""

    records: Sequence[Mapping[str, Any]]

    @property
    def record(self) -> Mapping[str, Any]:
        """The run of the smallest seed, which stands for all where they agree."""
        return self.records[0]

    @property
    def name(self) -> str:
        """The model in a few words."""
        free = ", clean cache, free views" if self.record.get("free_views") else ""
        name = model_name(self.record["kind"], self.record) + free
        return name if len(self.records) == 1 else f"{name}, {len(self.records)} seeds"

    def accuracy(self, shot: str) -> float | None:
        """Mean accuracy in percent; None where there is no such class."""
        values = [record["accuracy"][shot] for record in self.records]
        return None if None in values else 100 * statistics.fmean(values)

    def shown(self, shot: str) -> str:
        """Mean accuracy in percent, of several seeds with its standard deviation."""
        mean = self.accuracy(shot)
        if mean is None or len(self.records) == 1:
            return _percent(mean)
        spread = statistics.stdev(100 * record["accuracy"][shot] for record in self.records)
        return f"{mean:.2f} ± {spread:.2f}"

    @property
    def gain(self) -> float | None:
        """By how many points a student is above its own teacher, on average; None where it has not one."""
        gains = [
            100 * (record["accuracy"]["all"] - record["teacher"]["accuracy"]["all"])
            for record in self.records
            if "accuracy" in record.get("teacher", {})
        ]
        return statistics.fmean(gains) if gains else None

    @property
    def order(self) -> tuple:
        """Teachers before students, plain before balanced, then by temperatures."""
        d = self.record["recipe"]["distillation"]
        losses = ("ce", "bsce", "dive")
        free = bool(self.record.get("free_views"))
        return losses.index(self.record["loss"]), free, d["tau"] / d["power"], d["tau"], d["student_tau"] or 0


def main() -> None:
    """Write RESULTS.md."""
    (ROOT / "RESULTS.md").write_text(results(ROOT / "results", ROOT / "configs"))


def results(folder: Path, configs: Path) -> str:
    """The whole document of the records under `folder`."""
    records = list(_records(folder))
    by_recipe: dict[str, list[dict]] = {}
    for record in records:
        by_recipe.setdefault(record["recipe"]["name"], []).append(record)
    parts = [
        "# Results",
        "Recorded runs of this program and what the literature reports beside them. Every finished run is "
        "here. The epoch that counts is the last; nothing was selected on the test set; seeds were fixed "
        "beforehand. Accuracy is top-1 in percent. `make results` makes this page of the records in "
        "`results/`; `make reproduce` makes those.",
        _legend(),
    ]
    for name, members in sorted(by_recipe.items()):
        parts += _section(members, folder / name, configs)
    if (path := folder / "crossing" / "crossing.json").exists():
        parts += _exactness(json.loads(path.read_text())["caches"])
    parts.append((Path(__file__).with_name("notes.md")).read_text().strip())
    return "\n\n".join(parts) + "\n"


def short_table(folder: Path) -> str:
    """The README's table: the paper's three models under its recipe, beside the paper's own numbers."""
    of_paper = [record for record in _records(folder) if record["recipe"]["name"] == Recipe().name]
    (paper,) = (work for work in _literature() if work["name"] == "paper")
    lines = []
    for row in rows_of(of_paper):
        reported = _reported(paper, row.record, Recipe())
        if reported is not None and not row.record.get("free_views"):
            shown = [row.shown(shot) for shot in SHOTS]
            lines.append([row.name, *shown, f"{reported['all']:.2f}"])
    return _table(["model", *SHOTS, "the paper, all"], lines)


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*/*.json")):
        document = json.loads(path.read_text())
        if document.get("kind") in ("teacher", "student"):
            yield upgraded(document)


def rows_of(records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Records put together that differ in nothing but their seed, in the order of the tables."""
    runs = of_one_run(records, lambda record: record)
    rows = [Row(sorted(members, key=lambda record: record["seed"])) for members in runs]
    return sorted(rows, key=lambda row: row.order)


def _section(records: Sequence[Mapping[str, Any]], folder: Path, configs: Path) -> Iterator[str]:
    rows = rows_of(records)
    recipe = build(records[0]["recipe"])
    pretrained = any("initial_weights" in record for record in records)
    data = f"{NAMES.get(recipe.data.kind, recipe.data.kind)}, imbalance {recipe.data.imbalance:g}"
    yield f"## {data}, recipe `{recipe.name}`"
    yield f"{_networks(rows)}; {sum(records[0]['class_counts']):,} training images."
    if pretrained:
        yield (
            "The teacher began with weights of ImageNet-1k: **not comparable with tables without extra "
            "data**, and shown beside none."
        )
    others = [work for work in _literature() if work["source"] == recipe.data.kind and not pretrained]
    head = ["run", *SHOTS, "over its teacher", *(work["name"] for work in others)]
    yield _table(head, [_accuracies(row, recipe, others) for row in rows])
    head = ["run", "command", "seed", "machine", "precision", "time", "weights", "cache"]
    yield _table(head, [_making(record, configs) for row in rows for record in row.records])
    yield from _virtual_examples(folder, rows)


def _networks(rows: Sequence[Row]) -> str:
    """The networks of a section with their lengths: one for all runs, or that of each kind of run."""
    told: dict[str, list[str]] = {}
    for row in rows:
        network, record = row.record["architecture"], row.record
        text = f"{network['name']}, {network['parameters']:,} parameters, {record['epochs']} epochs"
        kinds = told.setdefault(text, [])
        kinds += [] if record["kind"] in kinds else [record["kind"]]
    if len(told) == 1:
        return next(iter(told))
    return "; ".join(f"{' and '.join(kinds)}: {text}" for text, kinds in told.items())


def _accuracies(row: Row, recipe: Recipe, others: Sequence[Mapping[str, Any]]) -> list[str]:
    gain = "" if row.gain is None else f"{row.gain:+.2f}"
    reported = [_compared(row, _reported(work, row.record, recipe)) for work in others]
    return [row.name, *(row.shown(shot) for shot in SHOTS), gain, *reported]


def _reported(
    work: Mapping[str, Any], record: Mapping[str, Any], recipe: Recipe
) -> Mapping[str, float] | None:
    """What a work reports for a run: of the same imbalance and loss, and for DiVE the same temperatures."""
    d = record["recipe"]["distillation"]
    for result in work["results"]:
        wanted = [result.get("tau"), result.get("power"), result.get("student_tau", result.get("tau"))]
        same = record["loss"] != "dive" or [d["tau"], d["power"], d["student_tau"] or d["tau"]] == wanted
        if (result["imbalance"], result["loss"]) == (recipe.data.imbalance, record["loss"]) and same:
            return result
    return None


def _compared(row: Row, reported: Mapping[str, float] | None) -> str:
    """A reported accuracy and, in brackets, by how much ours is above it."""
    if reported is None or "all" not in reported or row.record.get("free_views"):
        return ""
    return f"{reported['all']:.2f} ({row.accuracy('all') - reported['all']:+.2f})"


def _making(record: Mapping[str, Any], configs: Path) -> list[str]:
    cache_hash = record.get("cache_hash")
    return [
        Row([record]).name,
        f"`{command_of(record, configs)}`",
        str(record["seed"]),
        f"{record['device']}, torch {record['versions']['torch']}",
        record["precision"],
        duration(record["seconds"]),
        f"`{record['weights_hash'][:12]}`",
        f"`{cache_hash[:12]}`" if cache_hash else "",
    ]


def command_of(record: Mapping[str, Any], configs: Path) -> str:
    """The command that makes a run again, its recipe named as the file that it is in the source tree."""
    files = {str(path.relative_to(configs.parent)): path for path in sorted(configs.rglob("*.yaml"))}
    return command(record, files)


def _virtual_examples(folder: Path, rows: Sequence[Row]) -> Iterator[str]:
    """The tune tables kept beside the records, the figures, and what the rule of thumb is worth."""
    if (path := folder / "models.json").exists():
        yield "### Virtual examples of each model"
        documents = json.loads(path.read_text())["caches"]
        images = documents[0]["images"]
        means = [[d["model"], *_means(d["pairs"][0]), _crossing(d)] for d in documents]
        yield f"Mean per class, {_views(documents[0])}, τ = 1, and the τ/p at which few overtakes many:"
        yield _table(["model", *SHOTS[:3], "crossing"], [["images", *_means(images), ""], *means])
        yield "![Virtual examples of images, teachers and student](docs/figures/models.png)"
    for name in ("temperatures", "tune"):
        if (path := folder / f"{name}.json").exists():
            document = json.loads(path.read_text())
            yield f"### Virtual examples of the teacher over τ and p, {_views(document)}"
            head = ["τ", "p", "τ/p", *SHOTS[:3], "max/min", "nats kept"]
            pairs = [_pair(pair) for pair in document["pairs"]]
            if name == "temperatures":
                head.append("the paper's teacher")
                for line, pair in zip(pairs, document["pairs"], strict=True):
                    line.append(_papers(pair["temperature"]))
            yield _table(head, pairs)
            yield Advice(**document["recommendation"]).sentence
            if name == "temperatures":
                yield "![The teacher's virtual examples over τ](docs/figures/temperatures.png)"
            else:
                yield from _rules(document, rows)


def _rules(document: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """What each rule chooses from a tune table, beside the students that were trained from such a cache."""
    students = [row for row in rows if row.record["kind"] == "student" and not row.record.get("free_views")]
    told: dict[tuple[float, float], list[str]] = {}
    for advice in (Advice(**document["recommendation"]), by_grid(_grid(document))):
        if advice.tau is not None and advice.power is not None:
            told.setdefault((advice.tau, advice.power), []).append(advice.rule)
    lines = []
    for pair in sorted({*told, *map(_pair_of, students)}, key=lambda pair: (pair[0] / pair[1], pair)):
        trained = next((row for row in students if _pair_of(row) == pair), None)
        accuracies = ["not trained", "", "", ""] if trained is None else [trained.shown(s) for s in SHOTS]
        numbers = [f"{number:.4g}" for number in (*pair, pair[0] / pair[1])]
        lines.append([*numbers, " and ".join(told.get(pair, [])), *accuracies])
    yield "What each rule chooses, and the accuracy of the students trained from such a cache:"
    yield _table(["τ", "p", "τ/p", "chosen by rule", *SHOTS], lines)
    if len(students) > 1:
        best = max(students, key=lambda row: row.accuracy("all"))
        yield f"Of {len(students)} trained pairs the best is {best.name} with {best.shown('all')}."


def _exactness(caches: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How near crossings are to those of a dense grid, and what they cost."""
    yield "## The crossing of `dive tune-tau` against a dense grid in float64"
    yield (
        "By `python -m benchmarks.crossing`, beside other work: the grid is 2e-4 fine, and linear between; "
        "seconds are medians of three, one pass (seven temperatures, of the default table) and all of tune "
        "in turn."
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
    yield _table(head, lines)


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
    """The τ/p of a crossing, or that there is none."""
    return "none" if document["crossing"] is None else f"{document['crossing']['ratio']:.3f}"


def _pair_of(row: Row) -> tuple[float, float]:
    d = row.record["recipe"]["distillation"]
    return d["tau"], d["power"]


def _pair(pair: Mapping[str, Any]) -> list[str]:
    numbers = (f"{pair[key]:g}" for key in ("tau", "power", "temperature"))
    ratio = "–" if pair["ratio"] is None else f"{pair['ratio']:.2f}"
    return [*numbers, *_means(pair), ratio, f"{pair['information']:.3f}"]


def _papers(temperature: float) -> str:
    """The paper's many/medium/few virtual examples at a temperature, where it shows them."""
    (paper,) = (work for work in _literature() if work["name"] == "paper")
    return "/".join(map(str, paper["virtual_examples"].get(temperature, [])))


def _means(document: Mapping[str, Any]) -> list[str]:
    return ["–" if document[shot] is None else f"{document[shot]:.1f}" for shot in SHOTS[:3]]


def _views(document: Mapping[str, Any]) -> str:
    views = document["views"]
    return "the clean view" if views == "clean" else f"{views} stored views"


@cache
def _literature() -> list[dict[str, Any]]:
    return yaml.safe_load(Path(__file__).with_name("literature.yaml").read_text())


def _legend() -> str:
    lines = [f"- **{work['name']}**: [{work['title']}]({work['url']})." for work in _literature()]
    return "\n".join(["In brackets: ours minus theirs.", "", *lines])


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
