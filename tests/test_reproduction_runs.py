"""The table of runs, what is planned of it, and `make reproduce`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import click
import pytest

from dive.cli.group import group
from dive.models import checkpoint
from dive.recipe.documents import differences
from dive.recipe.reading import load
from dive.recipe.recipe import Recipe
from dive.recipe.shipped import locate, recipes
from dive.workflows.places import cache_of
from reproduction import missing, plan, runs
from reproduction.table import CACHE, CACHES, OWN, RUN, RUNS, TUNES, Cache, Run

WEIGHTS = Path("results/cifar100_lt_bbn_autoaug/teacher.pt")

NOTHING = plan.There(recorded=lambda run: False, weights=lambda run: False, cache=lambda cache: False)


def told(steps) -> list[str]:
    return [step.what.name for step in steps]


def test_names_and_files_are_unique():
    for things in (RUNS, CACHES, TUNES):
        assert len({one.name for one in things}) == len(things)
    files = [run.file(Path("results"), ".json") for run in RUNS]
    files += [tune.file(Path("results")) for tune in TUNES]
    assert len(set(files)) == len(files)
    assert len({cache.path for cache in CACHES}) == len(CACHES)
    assert RUN["bbn/student-t2-p0.5"].file(Path("x"), ".pt") == Path("x/cifar100_lt_bbn/student-t2-p0.5.pt")


def test_what_the_table_refers_to_is_in_it():
    assert all((run.cache is not None) == (run.kind == "student") for run in RUNS)
    assert {run.cache for run in RUNS if run.cache} <= CACHE.keys()
    assert {name for cache in CACHES for name in cache.teachers} <= RUN.keys()
    assert {name for tune in TUNES for name in tune.caches} <= CACHE.keys()
    for cache in CACHES:
        of_recipe = {RUN[name].config for name in cache.teachers}
        assert (of_recipe == {cache.config}) == (cache.foreign is None)
        assert cache.config in recipes() or Path(cache.config).parent == OWN
        assert len({RUN[name].words for name in cache.teachers}) == len(cache.teachers)


def test_each_cache_has_a_student_or_a_tune_table():
    used = {run.cache for run in RUNS if run.cache} | {name for tune in TUNES for name in tune.caches}
    assert used == CACHE.keys()


def test_a_recipes_own_cache_lies_where_dive_looks_for_it():
    assert CACHE["bbn"].path == cache_of(Recipe())
    for run in RUNS:
        assert load(locate(Path(run.config))).name == run.file(Path(), ".pt").parent.name


def test_the_student_of_another_draw_differs_from_that_of_its_teachers_draw_in_nothing_else():
    other, own = (RUN[f"bbn_autoaug{end}/student-t6-p1"] for end in ("_other_draw", ""))
    assert other.words == own.words
    stored, usual = CACHE[other.cache], CACHE[own.cache]
    assert stored.foreign is not None
    assert replace(stored, name=usual.name, foreign=None) == usual
    recipes_of = [load(locate(Path(run.config))) for run in (other, own)]
    here, there = (recipe.as_dict() for recipe in recipes_of)
    changed = differences(there, here)
    assert [told.partition(":")[0] for told in changed] == ["data.seed", "name"]
    teacher = load(stored.foreign)
    assert teacher.model == replace(recipes_of[1].model, weights=str(WEIGHTS), head="keep")
    assert WEIGHTS == RUN[stored.teachers[0]].file(runs.RESULTS, ".pt")


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_click_takes_the_words_of_every_run(run):
    """Parsed as `make` gives them, without running anything."""
    command = group.get_command(click.Context(group), run.words[0])
    cache = () if run.cache is None else ("--cache", str(CACHE[run.cache].path))
    words = [*run.words[1:], "--config", run.config, "--data", "d", *cache, "--out", "x.pt"]
    context = command.make_context(run.words[0], words)
    assert context.params["out"] == Path("x.pt")
    given = {word for word in words if word.startswith("--")}
    assert len(given) == sum(word.startswith("--") for word in words), "an option twice"


@pytest.mark.parametrize("cache", CACHES, ids=lambda cache: cache.name)
def test_click_takes_the_words_of_every_cache(cache, monkeypatch):
    exported = []
    monkeypatch.setattr(runs, "_dive", lambda *words: exported.append([str(word) for word in words]))
    runs.export(cache, ("--data", "d"))
    ((name, *words),) = exported
    context = group.get_command(click.Context(group), name).make_context(name, words)
    assert len(context.params["teachers"]) == len(cache.teachers)
    assert (context.params["prior"] is None) == (cache.foreign is None)
    assert context.params["store"] == cache.store and context.params["views"] == cache.views


def test_what_a_run_needs_comes_before_it_and_once():
    steps = told(plan.plan([RUN["bbn/student-s1"], RUN["bbn/student"]], NOTHING, {}))
    assert steps == ["bbn/teacher-s1", "bbn/s1", "bbn/student-s1", "bbn/teacher", "bbn", "bbn/student"]
    steps = told(plan.plan(RUNS, NOTHING, {}))
    assert len(steps) == len(set(steps)) and {run.name for run in RUNS} <= set(steps)
    for run in RUNS:
        needed = CACHE[run.cache].teachers if run.cache else ()
        assert all(steps.index(name) < steps.index(run.name) for name in needed)


def test_what_is_there_is_not_made_but_a_teacher_whose_weights_are_gone_is():
    student = RUN["bbn/student"]
    names = {"bbn/teacher"}
    there = plan.There(lambda run: run.name in names, lambda run: True, lambda cache: False)
    assert told(plan.plan([RUN["bbn/teacher"], student], there, {})) == ["bbn", "bbn/student"]
    gone = plan.There(there.recorded, lambda run: False, there.cache)
    assert told(plan.plan([student], gone, {})) == ["bbn/teacher", "bbn", "bbn/student"]
    stored = plan.There(there.recorded, lambda run: False, lambda cache: True)
    assert told(plan.plan([student], stored, {})) == ["bbn/student"]


def like(seconds: float, name: str = "resnet32", views: str = "crop_flip", epochs: int = 200) -> dict:
    return {
        "architecture": {"name": name},
        "recipe": {"views": {"kind": views}},
        "class_counts": [5000, 5847],
        "epochs": epochs,
        "seconds": seconds,
    }


def test_times_are_those_of_the_fastest_run_alike_by_images_and_epochs():
    records = {
        "slow": like(9000),
        "fast": like(3600),
        "augmented": like(60, views="autoaugment"),
        "other": like(60, name="resnet20"),
    }
    assert plan.estimate(RUN["bbn/student"], records) == (pytest.approx(3600), "fast")
    seconds, name = plan.estimate(RUN["bbn_if10/student"], records)  # 19 573 images (Cao et al.)
    assert (seconds, name) == (pytest.approx(3600 * 19573 / 10847), "fast")
    seconds, name = plan.estimate(RUN["bbn_autoaug/student-ensemble-e400"], records)
    assert (seconds, name) == (pytest.approx(120), "augmented")
    assert plan.estimate(RUN["efficientnet_lite0/teacher"], records) == (None, None)
    seconds, name = plan.estimate_export(CACHE["bbn/ensemble"], records)  # 3 teachers, 162 views
    assert (seconds, name) == (pytest.approx(3600 / 200 * 162 * 3 / 3), "fast")
    assert plan.estimate_export(CACHE["bbn/clean"], records)[0] == pytest.approx(3600 / 200 / 3)
    steps = list(plan.plan([RUN["efficientnet_lite0/student"]], NOTHING, records))
    assert plan.total(steps).endswith("and what is unknown")


def test_the_list_fits_80_columns_and_makes_nothing(repository, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(repository)
    monkeypatch.setattr(runs, "_dive", pytest.fail)
    runs.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    cells = [line.split() for line in lines]
    for run in RUNS:
        assert any(row[:1] == [run.name] for row in cells), "a name is whole, on one line"
    assert ["bbn/teacher", "43.43", "%", "2", "h", "6", "min"] in cells
    assert any("Estimated from the recorded times of" in line for line in lines)


def test_a_name_that_is_no_run_is_a_mistake_of_the_command_line(capsys):
    with pytest.raises(SystemExit) as stop:
        runs.main(["bbn/techer"])
    assert stop.value.code == 2 and "no run is named bbn/techer" in capsys.readouterr().err


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Results and checkpoints in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leave(digits, run: Run) -> None:
    for suffix in (".pt", ".json", ".history.jsonl"):
        place = run.file(runs.CHECKPOINTS, suffix)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(digits.teacher.with_suffix(suffix), place)


def test_what_a_run_left_is_kept_and_found_again(digits, elsewhere, monkeypatch):
    run = RUN["bbn/teacher"]
    monkeypatch.setattr(runs, "_dive", lambda *words: leave(digits, run))
    assert not runs.there().recorded(run)
    runs.make(run, ())
    assert runs.there().recorded(run) and list(plan.plan([run], runs.there(), {})) == []
    shutil.rmtree(runs.CHECKPOINTS)
    assert runs.there().weights(run)
    assert checkpoint.load_finished(runs.weights_of(run))["kind"] == "teacher"


def test_a_run_that_finished_before_it_was_kept_is_not_made_again(digits, elsewhere, monkeypatch):
    run = RUN["bbn/ce"]
    monkeypatch.setattr(runs, "_dive", pytest.fail)
    leave(digits, run)
    runs.make(run, ())
    assert runs.there().recorded(run)


def test_a_recorded_run_made_again_for_its_weights_leaves_its_record(digits, elsewhere, monkeypatch):
    run = RUN["efficientnet_lite0/teacher"]
    monkeypatch.setattr(runs, "_dive", lambda *words: leave(digits, run))
    record = run.file(runs.RESULTS, ".json")
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"kind": "teacher"}))
    runs.make(run, ())
    assert json.loads(record.read_text()) == {"kind": "teacher"} and runs.there().weights(run)


def test_a_tune_table_is_recorded_while_its_cache_is_there(elsewhere, monkeypatch):
    (tune,) = (tune for tune in TUNES if tune.name == "bbn/tune-s1")
    asked = []
    monkeypatch.setattr(runs, "_output", lambda *words: asked.append(words) or "{}")
    monkeypatch.setattr(runs, "_dive", pytest.fail)
    runs.tabulate(tune, (), complete=False)
    assert not asked
    path = CACHE["bbn/s1"].path
    path.parent.mkdir()
    path.touch()
    runs.tabulate(tune, (), complete=False)
    runs.tabulate(tune, (), complete=False)
    assert len(asked) == 1 and path in asked[0] and tune.file(runs.RESULTS).read_text() == "{}"


def test_the_page_says_what_is_missing_with_hours(repository):
    page = "\n\n".join(missing.section(repository / "results"))
    records = runs.records.by_run(repository / "results")
    for run in RUNS:
        assert (f"| `{run.name}` |" in page) == (run.name not in records)
    assert page in (repository / "RESULTS.md").read_text()


def test_a_cache_of_several_teachers_is_named_by_what_tells_it_apart():
    cache = Cache("bbn/ensemble", ("bbn/teacher", "bbn/ce"))
    assert cache.path == Path("cache/cifar100_lt_bbn-ensemble.h5") and cache.config == "cifar100_lt/bbn"


def test_what_ran_on_a_gpu_is_counted_from_the_records(repository, tmp_path):
    shutil.copytree(repository / "results", tmp_path / "results")
    assert "\n".join(missing.section(tmp_path / "results")).endswith("Nothing has run on a GPU yet.")
    path = tmp_path / "results/cifar100_lt_bbn/teacher.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "NVIDIA H100"}))
    said = "\n".join(missing.section(tmp_path / "results"))
    assert said.endswith("On a GPU: 1 of the recorded runs.")
