"""The top of RESULTS.md: the short table for comparison, and what the figure above it shows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dive.recipe.reading import build
from dive.recipe.recipe import Recipe
from reproduction import literature
from reproduction.records import Row, by_recipe, incomparable, markdown, rows_of

NAMES = {"cifar100": "CIFAR-100-LT", "cifar10": "CIFAR-10-LT"}
AUGMENTATIONS = {"crop_flip": "crop and flip", "autoaugment": "AutoAugment and Cutout"}


@dataclass(frozen=True)
class Panel:
    """A panel of the figure: a recipe's rows, and for each row what works report for it, by their names."""

    title: str
    rows: Sequence[Row]
    reported: Sequence[Mapping[str, Mapping[str, float]]]


def title(recipe: Recipe) -> str:
    """The heading of a recipe's section."""
    data = f"{NAMES.get(recipe.data.kind, recipe.data.kind)}, imbalance {recipe.data.imbalance:g}"
    return f"{data}, recipe `{recipe.name}`"


def quick(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """One table of all recipes: our results, and the difference to each work that reports the same run."""
    works = literature.works()
    lines = []
    for recipe, row in _rows_to_compare(records):
        beside = literature.works_beside(recipe)
        reported = [literature.reported(work, row, recipe) if work in beside else None for work in works]
        theirs = [literature.compared(row, one) for one in reported]
        lines.append(
            [_experiment(recipe), row.name, row.shown("all"), row.gain_shown, row.first_shown, *theirs]
        )
    head = ["imbalance, augmentation", "ours", "all", "over its teacher", "all, seed 0"]
    yield markdown([*head, *(work["name"] for work in works)], lines)
    yield (
        "In brackets: ours minus theirs, in the column `all`. ± is the sample standard deviation over seeds; "
        "a value without it is of one seed, 0 where none is named. To compare our own rows with each other, "
        "use the column `all, seed 0`."
    )
    yield (
        "Many-shot classes have more than 100 training images, medium-shot 20 to 100, few-shot fewer than "
        "20. `ce` is plain cross-entropy, `bsce` balanced softmax. A student's targets are the teacher's "
        "softmax at temperature τ, to the power p; w is the weight of its distillation term "
        "([docs/paper-experiment.md](docs/paper-experiment.md))."
    )
    yield "\n".join(f"- **{work['name']}**: [{work['title']}]({work['url']})." for work in works)


def panels(records: Iterable[Mapping[str, Any]]) -> list[Panel]:
    """The panels of the figure: each comparable recipe of the table, at imbalance 100."""
    found: dict[str, tuple[Recipe, list[Row]]] = {}
    for recipe, row in _rows_to_compare(by_recipe(records)):
        if recipe.data.imbalance == 100:
            found.setdefault(recipe.name, (recipe, []))[1].append(row)
    result = []
    for recipe, rows in found.values():
        beside = [
            {
                work["name"]: one
                for work in literature.works_beside(recipe)
                if (one := literature.reported(work, row, recipe)) is not None
            }
            for row in rows
        ]
        result.append(Panel(f"Imbalance {_experiment(recipe)}", rows, beside))
    return result


def _experiment(recipe: Recipe) -> str:
    """The imbalance and the augmentation of a recipe."""
    return f"{recipe.data.imbalance:g}, {AUGMENTATIONS.get(recipe.views.kind, recipe.views.kind)}"


def _rows_to_compare(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[tuple[Recipe, Row]]:
    """The rows that some work reports too, and students of ensembles."""
    for members in records.values():
        recipe = build(members[0]["recipe"])
        if incomparable(members):
            continue
        for row in rows_of(members):
            works = literature.works_beside(recipe)
            if "teachers" in row.record or any(literature.reported(work, row, recipe) for work in works):
                yield recipe, row
