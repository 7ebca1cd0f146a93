"""`make reproduce`: the runs behind RESULTS.md, one after the other; started again, it resumes.

    python -m reproduction.runs [--data PATH] [--only NAME ...]

Each run is one command of dive. What it leaves is copied to results/<recipe>/, where a finished run
is found again: nothing is trained twice. Caches are exported anew where they are missing.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

RECIPE = "cifar100_lt_bbn"  # dive's default
CHECKPOINTS, RESULTS = Path("checkpoints") / RECIPE, Path("results") / RECIPE
ALL_VIEWS, CLEAN = Path("cache") / f"{RECIPE}.h5", Path("cache") / f"{RECIPE}-clean.h5"
FIGURES = Path("docs/figures")


@dataclass(frozen=True)
class Run:
    """A training run. name: of its files. words: its command without data and output.

    cache: what a student learns from. weights: whether its weights are kept with its record.
    """

    name: str
    words: tuple[str, ...]
    cache: Path | None = None
    weights: bool = False

    @property
    def checkpoint(self) -> Path:
        """Where dive writes it."""
        return CHECKPOINTS / f"{self.name}.pt"

    @property
    def done(self) -> bool:
        """Whether its record is among the results."""
        return (RESULTS / f"{self.name}.json").exists()


TEACHER = Run("teacher", ("teacher",), weights=True)
RUNS = (
    TEACHER,
    Run("ce", ("teacher", "--loss", "ce"), weights=True),
    Run("student", ("student", "--tau", "3", "--power", "0.5"), ALL_VIEWS, weights=True),
    Run("student-t2-p0.5", ("student", "--tau", "2", "--power", "0.5"), ALL_VIEWS),
    Run("student-t6-p1", ("student", "--tau", "6", "--power", "1"), ALL_VIEWS),
    Run("student-auto", ("student", "--tau", "auto"), ALL_VIEWS),
    Run("student-clean", ("student", "--tau", "3", "--power", "0.5", "--free-views"), CLEAN),
)


def main() -> None:
    """Make what is missing, then the figures and RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="where CIFAR-100 is, or is downloaded to")
    parser.add_argument("--only", nargs="+", choices=[run.name for run in RUNS], help="these runs alone")
    options = parser.parse_args()
    data = ("--data", options.data) if options.data else ()
    for run in RUNS:
        if run.name in (options.only or [run.name]) and not run.done and not _stands_in(run):
            _make(run, data)
    if not options.only:
        _figures(data)
    from reproduction import report

    report.main()


def _stands_in(run: Run) -> bool:
    """Whether the tuned student is one of the others, for equal pairs are trained once."""
    if run.name != "student-auto":
        return False
    _need_cache(ALL_VIEWS, ())
    found = json.loads(_output("tune-tau", "--json", "--cache", ALL_VIEWS))["recommendation"]
    pair = tuple(f"{found[key]:g}" for key in ("tau", "power"))
    return any(
        run.words[1:] == ("--tau", pair[0], "--power", pair[1]) for run in RUNS if run.cache == ALL_VIEWS
    )


def _make(run: Run, data: tuple[str, ...]) -> None:
    if run.cache is not None:
        _need_cache(run.cache, data)
        _dive(*run.words, *data, "--cache", run.cache, "--out", run.checkpoint)
    else:
        _dive(*run.words, *data, "--out", run.checkpoint)
    keep(run)


def keep(run: Run) -> None:
    """Copy what a finished run left to the results."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for suffix in (".history.jsonl", *([".pt"] if run.weights else []), ".json"):
        shutil.copyfile(run.checkpoint.with_suffix(suffix), RESULTS / f"{run.name}{suffix}")


def _need_cache(cache: Path, data: tuple[str, ...]) -> None:
    if cache.exists():
        return
    if not TEACHER.checkpoint.exists():
        CHECKPOINTS.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(RESULTS / "teacher.pt", TEACHER.checkpoint)
    views = "clean" if cache == CLEAN else "all"
    _dive("export-logits", *data, "--teacher", TEACHER.checkpoint, "--views", views, "--out", cache)


def _figures(data: tuple[str, ...]) -> None:
    """The figures of docs/figures, and what they show as JSON among the results."""
    models = ("ce", "teacher", "student")
    caches = [CLEAN if name == "teacher" else CLEAN.with_stem(f"{RECIPE}-{name}-clean") for name in models]
    _need_cache(CLEAN, data)
    for name, cache in zip(models, caches, strict=True):
        if not cache.exists():
            weights = RESULTS / f"{name}.pt"
            _dive("export-logits", *data, "--teacher", weights, "--views", "clean", "--out", cache)
    tune = ("tune-tau", "--force", "--json")
    drawn = {
        "models": (*tune, "--clean", "--tau", "1", "--power", "1", "--cache", *caches),
        "temperatures": (*tune, "--clean", "--power", "1", "--cache", CLEAN),
        "tune": (*tune, "--cache", ALL_VIEWS),
    }
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name, words in drawn.items():
        plot = () if name == "tune" else ("--plot", FIGURES / f"{name}.png")
        (RESULTS / f"{name}.json").write_text(_output(*words, *plot))


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
    main()
