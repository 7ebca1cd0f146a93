"""`make reproduce RUNS="NAME …"`: makes the runs behind RESULTS.md in turn; started again, it resumes.

    python -m reproduction.runs [NAME ...] [--data PATH] [--list]

It prints which runs are recorded, which are missing and how long they would take. Then it makes those named,
or all that are missing; reproduction/table.py lists them. Each run is one command of dive. Its results are
copied to results/<recipe>/, where finished runs are looked up, so that nothing is trained twice. Missing
caches are exported, and their tune tables recorded.
"""

import argparse
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dive.cli.tables import new_table, print_table
from dive.errors import DiveError
from dive.progress import duration
from reproduction import plan, records
from reproduction.table import CACHE, RUN, RUNS, TUNES, Cache, Run, Tune

CHECKPOINTS, RESULTS = Path("checkpoints"), Path("results")
LEFT = (".history.jsonl", ".json")  # files of a finished run besides its weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what is recorded and what is missing; make the runs named, or all, and then RESULTS.md."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.runs", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs to make; default: all missing ones")
    parser.add_argument("--data", help="where CIFAR-100 is, or is downloaded to")
    parser.add_argument(
        "--list", action="store_true", help="print what is recorded and what is missing, and stop"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in RUN]:
        parser.error(f"no run is named {unknown[0]}; --list prints the names")
    wanted = [RUN[name] for name in options.names] or RUNS
    show(wanted)
    if options.list:
        return
    data = ("--data", options.data) if options.data else ()
    for step in plan.plan(wanted, there(), recorded()):
        if isinstance(step.what, Run):
            make(step.what, data)
        else:
            export(step.what, data)
    for tune in TUNES:
        tabulate(tune, data, complete=not options.names)
    from reproduction import report

    report.main()


def recorded() -> dict[str, dict[str, Any]]:
    """The existing records by the names of their runs."""
    return records.by_run(RESULTS)


def there() -> plan.There:
    """What exists in results/, checkpoints/ and cache/."""
    return plan.There(
        recorded=lambda run: run.file(RESULTS, ".json").exists(),
        weights=lambda run: weights_of(run).exists(),
        cache=lambda cache: cache.path.exists(),
    )


def show(wanted: Iterable[Run]) -> None:
    """Print which of these runs are recorded, and how long the missing ones take."""
    found = recorded()
    wanted = list(wanted)
    table = new_table("Recorded", ["run"], ["accuracy", "took"])
    for run in wanted:
        if run.name in found:
            record = found[run.name]
            accuracy = f"{100 * record['accuracy']['all']:.2f} %"
            table.add_row(run.name, accuracy, duration(record["seconds"]))
    if table.row_count:
        print_table(table)
    steps = list(plan.plan(wanted, there(), found))
    if not steps:
        print("Nothing is missing.")
        return
    table = new_table("Missing, in this order", ["run or cache"], ["about"])
    for step in steps:
        again = isinstance(step.what, Run) and step.what.name in found
        table.add_row(plan.named(step) + (" (for its weights)" if again else ""), plan.lasts(step.seconds))
    print_table(table)
    print(textwrap.fill(f"Together {plan.total(steps)}. {plan.basis(steps)}", 80))


def make(run: Run, data: tuple[str, ...]) -> None:
    """Make a run and copy its results, unless it is recorded and made again only for its weights.

    A run that finished in checkpoints/ is not made again, only copied.
    """
    known, out = recorded(), run.file(CHECKPOINTS, ".pt")
    if not run.file(CHECKPOINTS, ".json").exists():
        cache = () if run.cache is None else ("--cache", CACHE[run.cache].path)
        _dive(*run.words, "--config", run.config, *data, *cache, "--out", out)
    if run.name not in known:
        keep(run)


def keep(run: Run) -> None:
    """Copy the files of a finished run to results/, its record last."""
    run.file(RESULTS, ".json").parent.mkdir(parents=True, exist_ok=True)
    for suffix in (*([".pt"] if run.weights else []), *LEFT):
        shutil.copyfile(run.file(CHECKPOINTS, suffix), run.file(RESULTS, suffix))


def weights_of(run: Run) -> Path:
    """Where a run's weights are: where dive wrote them, or else among the results."""
    checkpoint = run.file(CHECKPOINTS, ".pt")
    return checkpoint if checkpoint.exists() else run.file(RESULTS, ".pt")


def export(cache: Cache, data: tuple[str, ...]) -> None:
    """Export a cache from the weights of its teachers."""
    teachers: list[object] = [weights_of(RUN[name]) for name in cache.teachers]
    if cache.foreign is not None:
        teachers = [cache.foreign, "--teacher-prior", "none"]
    stored = ("--views", cache.views, "--store", cache.store, "--out", cache.path)
    _dive("export-logits", "--config", cache.config, *data, "--teacher", *teachers, *stored)


def tabulate(tune: Tune, data: tuple[str, ...], complete: bool) -> None:
    """Record a tune table if it is missing. complete: export missing caches; otherwise skip the table."""
    if tune.file(RESULTS).exists() and (tune.figure is None or tune.figure.exists()):
        return
    for cache in (CACHE[name] for name in tune.caches):
        if not cache.path.exists():
            if not complete:
                return
            export(cache, data)
    if tune.figure is not None:
        tune.figure.parent.mkdir(parents=True, exist_ok=True)
    plot = () if tune.figure is None else ("--plot", tune.figure)
    paths = [CACHE[name].path for name in tune.caches]
    document = _output("tune-tau", "--force", "--json", *tune.words, "--cache", *paths, *plot)
    tune.file(RESULTS).parent.mkdir(parents=True, exist_ok=True)
    tune.file(RESULTS).write_text(document)


def _command(words: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", "dive", *map(str, words)]


def _dive(*words: object) -> None:
    print("$ dive", *words, flush=True)
    if code := subprocess.run(_command(words), stdout=subprocess.DEVNULL).returncode:
        sys.exit(code)


def _output(*words: object) -> str:
    done = subprocess.run(_command(words), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    try:
        main()
    except DiveError as error:
        sys.exit(f"Error: {error}")
