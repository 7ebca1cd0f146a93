"""What others report (literature.yaml), matched with our runs."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dive.recipe.recipe import Recipe
from reproduction.records import Row, points


@cache
def works() -> list[dict[str, Any]]:
    """All works of literature.yaml."""
    return yaml.safe_load(Path(__file__).with_name("literature.yaml").read_text())


def paper() -> dict[str, Any]:
    """The paper itself."""
    (found,) = (work for work in works() if work["name"] == "paper")
    return found


def works_beside(recipe: Recipe) -> list[dict[str, Any]]:
    """The works that a recipe is compared with: those on the same data, augmentation and imbalance."""
    return [
        work
        for work in works()
        if (work["source"], work["views"]) == (recipe.data.kind, recipe.views.kind)
        and any(result["imbalance"] == recipe.data.imbalance for result in work["results"])
    ]


def reported(work: Mapping[str, Any], row: Row, recipe: Recipe) -> Mapping[str, float] | None:
    """What a work reports for a run of the same imbalance and loss, and for DiVE of the same temperatures.

    A result of another method (`method`) is compared with every student, other results only with rows that
    have nothing unusual (`Row.unusual`). None if the work reports nothing for the run.
    """
    record = row.record
    d = record["recipe"]["distillation"]
    for result in work["results"]:
        if result["imbalance"] != recipe.data.imbalance:
            continue
        if "method" in result:
            if record["loss"] == "dive":
                return result
            continue
        wanted = [result.get("tau"), result.get("power"), result.get("student_tau", result.get("tau"))]
        same = record["loss"] != "dive" or [d["tau"], d["power"], d["student_tau"] or d["tau"]] == wanted
        if result["loss"] == record["loss"] and same and not row.unusual:
            return result
    return None


def compared(row: Row, result: Mapping[str, float] | None) -> str:
    """A reported accuracy and, in brackets, how far ours, rounded as shown, is above it."""
    ours = row.accuracy("all")
    if result is None or "all" not in result or ours is None:
        return ""
    return f"{result['all']:.2f} ({points(round(ours, 2) - result['all'])})"
