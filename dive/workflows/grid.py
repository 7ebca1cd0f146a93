"""A grid of students: the path of each student, and the process that trains it."""

from collections.abc import Sequence
from pathlib import Path

from dive.errors import OutputError
from dive.progress import Progress
from dive.recipe.documents import differences
from dive.recipe.recipe import Recipe
from dive.training.ranks import Ranks
from dive.training.spec import RunSpec
from dive.workflows.prepared import Prepared
from dive.workflows.results import Trained, TrainOptions
from dive.workflows.run import run


def grid_paths(out: Path, recipes: Sequence[Recipe]) -> list[Path]:
    """The path of each student: `out` for a single one, otherwise that of `grid_path`.

    Raises OutputError if two students would have one name, because they differ only beyond its 12 digits.
    """
    if len(recipes) == 1:
        return [out]
    first: dict[Path, Recipe] = {}
    for recipe in recipes:
        other = first.setdefault(path := grid_path(out, recipe), recipe)
        if other is not recipe:
            both = differences(other.as_dict(), recipe.as_dict()) or ["they are the same"]
            raise OutputError(
                f"two students would be written to {path} ({'; '.join(both)}); a name has 12 digits only, "
                "and they may differ by rounding: give one of the two"
            )
    return list(first)


def grid_path(out: Path, recipe: Recipe) -> Path:
    """The path of one of several students: `student.pt` becomes `student-t3-p0.5-w0.5-s0.pt`."""
    d = recipe.distillation
    own = "" if d.student_tau is None else f"-st{d.student_tau:.12g}"
    return out.with_stem(f"{out.stem}-t{d.tau:.12g}-p{d.power:.12g}-w{d.weight:.12g}{own}-s{recipe.seed}")


def run_apart(
    specs: Sequence[RunSpec], prepared: Prepared, options: TrainOptions, progress: Progress, ranks: Ranks
) -> Trained:
    """Train each student in one of the processes, as if that were alone; every process gets all results.

    Process r of R, from 0, trains the students r, r + R, r + 2·R, … prepared: the data for a single process.
    """
    own = specs[ranks.rank :: ranks.size]
    here = run(own, prepared, options, progress, of_grid=True) if own else Trained([], [])
    everywhere = ranks.gathered(here)
    found = {result.path: result for trained in everywhere for result in trained.results}
    failures = [failure for trained in everywhere for failure in trained.failures]
    return Trained([found[spec.out] for spec in specs if spec.out in found], failures)
