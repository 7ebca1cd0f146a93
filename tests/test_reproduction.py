"""RESULTS.md and what it is made of: records, comparisons, commands, the figure and what was learned."""

import itertools
import json
import re
import shlex
import shutil
import statistics
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import chain
import click
import pytest
import yaml
from matplotlib.axes import Axes
from PIL import Image

from dive.cache.encodings import registry
from dive.cache.stored_views import default_views
from dive.errors import RecipeError
from dive.progress import duration
from dive.recipe import commands as dive_commands
from dive.recipe.earlier import upgraded
from dive.recipe.reading import build, load, with_epochs
from dive.recipe.recipe import Recipe
from dive.views.registry import view_space
from reproduction import commands, figure, learned, literature, records, report, summary
from reproduction.records import Row, rows_of
from reproduction.table import RUN

STUDENT = ("--tau", "2", "--weight", "0.3", "--seed", "3", "--epochs", "1", "--set", "optimizer.lr=0.02")


@pytest.fixture
def record(digits):
    chain.succeed("student", *chain.DIGITS, *STUDENT, "--cache", digits.cache, "--out", "s.pt")
    return json.loads(Path("s.json").read_text())


def recorded(path: Path) -> dict:
    """A record under results/, which may be of an earlier version."""
    return upgraded(json.loads(path.read_text()))


def of_seed(record: dict, seed: int, **accuracy: float) -> dict:
    """The record of another seed, of a student with a teacher of that seed, with other accuracies."""
    other = json.loads(json.dumps(record))
    other["seed"] = other["recipe"]["seed"] = seed
    if "teacher" in other:
        other["teacher"]["seed"] = seed
    other["weights_hash"] = f"{seed}{other['weights_hash'][1:]}"
    other["accuracy"] |= accuracy
    return other


@pytest.fixture
def teacher(repository) -> dict:
    return recorded(repository / "results/cifar100_lt_bbn/teacher.json")


@pytest.fixture
def student(repository) -> dict:
    return recorded(repository / "results/cifar100_lt_bbn/student.json")


def test_the_page_is_what_the_records_say(repository):
    page = report.results(repository / "results", repository / "configs")
    assert page == (repository / "RESULTS.md").read_text(), "make results"


def test_the_figure_is_of_the_records_and_named_by_the_page(repository):
    with Image.open(repository / report.FIGURE) as image:
        drawn = image.info["Description"]
    wanted = figure.description(summary.panels(records.recorded(repository / "results")))
    assert drawn == wanted, "make results"
    assert f"]({report.FIGURE})" in (repository / "RESULTS.md").read_text().partition("\n## ")[0]


def test_the_figure_of_several_seeds_has_error_bars(teacher, student, tmp_path, monkeypatch):
    up, across = [], []

    def errorbar(self, x, y, yerr=None, xerr=None, **_):
        (up if xerr is None else across).append(yerr if xerr is None else xerr)

    monkeypatch.setattr("matplotlib.axes.Axes.errorbar", errorbar)
    seeds = [of_seed(teacher, seed, many=many, all=0.43) for seed, many in ((1, 0.61), (2, 0.63))]
    figure.draw(tmp_path / "figure.png", summary.panels([*seeds, student]))
    ((many, *_),) = up
    assert many == pytest.approx(2**0.5) and across == [[0]]


def test_a_work_s_mark_hides_no_error_bar(teacher, tmp_path, monkeypatch):
    places = {"error bars": [], "reproduction": []}
    plot = Axes.plot

    def errorbar(self, x, y, yerr=None, xerr=None, **_):
        places["error bars"] += x if xerr is None else []

    def marks(self, x, y, *args, label="", **style):
        if len(x) == len(figure.GROUPS):
            places[label] += x
        return plot(self, x, y, *args, label=label, **style)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    monkeypatch.setattr(Axes, "plot", marks)
    seeds = [of_seed(teacher, 0), of_seed(teacher, 1, many=0.6)]
    for seed in seeds:
        seed["recipe"]["views"]["kind"] = "autoaugment"
    figure.draw(tmp_path / "figure.png", summary.panels(seeds))
    gaps = [mark - bar for bar, mark in zip(*places.values(), strict=True)]
    assert len(gaps) == 3 and all(0.3 * figure.WIDTH < gap < 0.7 * figure.WIDTH for gap in gaps)


def numbers_in(document: object) -> Iterator[float]:
    """The numbers of a document, at any depth."""
    if isinstance(document, dict | list):
        for value in document.values() if isinstance(document, dict) else document:
            yield from numbers_in(value)
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield float(document)


def test_every_accuracy_on_the_page_is_of_a_record_or_reported(repository):
    """By the records' own files: single runs, means over seeds, tune tables, and literature.yaml."""
    known = set()
    accuracies: dict[tuple[str, str], list[float]] = {}
    for path in (repository / "results").glob("*/*.json"):
        document = json.loads(path.read_text())
        known |= {f"{number:.2f}" for number in numbers_in(document)}
        for shot, accuracy in document.get("accuracy", {}).items():
            if accuracy is not None:
                key = document["recipe"]["name"], re.sub(r"-s\d$", "", path.stem) + shot
                accuracies.setdefault(key, []).append(100 * accuracy)
    for values in accuracies.values():
        for count in range(1, len(values) + 1):
            known |= {f"{statistics.fmean(some):.2f}" for some in combinations(values, count)}
    work = yaml.safe_load((repository / "reproduction" / "literature.yaml").read_text())
    known |= {f"{number:.2f}" for number in numbers_in(work)}
    page = (repository / "RESULTS.md").read_text()
    shown = re.findall(r"(?<![\d.+±–-])(?<!± )\d\d\.\d\d(?!\d)", page)
    assert len(shown) > 60 and set(shown) <= known


MEASURED = re.compile(r"\d+[.,]\d+|\d+ ?(?:%|points?|min|minutes|h|hours|s|seconds|nats|MB|GB)\b")


@pytest.mark.parametrize("name", ["notes.md", "learned.yaml"])
def test_no_measured_number_is_typed(name, repository):
    text = (repository / "reproduction" / name).read_text()
    text = re.sub(r"\{[^{}]+\}|[τpw]=[\d.]+", "", text)  # figures of records; settings
    assert MEASURED.findall(text) == []
    assert MEASURED.findall("46.26, 2 points, 16 minutes, 97 %") == ["46.26", "2 points", "16 minutes"]


def test_a_runs_command_makes_the_same_recipe_again(record, repository, monkeypatch):
    words = shlex.split(commands.command(record, repository / "configs"))
    assert words[:4] == ["dive", "student", "--config", "configs/digits_lt/bbn.yaml"]
    monkeypatch.chdir(repository)
    from dive.cli import options

    found = dict(zip(words[4::2], words[5::2], strict=True))
    assert found.keys() == {"--tau", "--weight", "--seed", "--epochs", "--set"}
    recipe = options.read_recipe(
        Path("configs/digits_lt/bbn.yaml"), (found["--set"],), epochs=int(found["--epochs"]), seed=3,
        distillation__tau=2.0, distillation__weight=0.3, precision="fp32",
    )  # fmt: skip
    assert recipe == build(record["recipe"])
    record["recipe"]["precision"] = "bf16"  # asked for, where the recipe has fp32
    assert "--precision bf16" in commands.command(record, repository / "configs")


CHANGES = (
    (),
    ("schedule.epochs=20", "schedule.warmup_epochs=5", "schedule.milestones=[12,16]"),
    ("schedule.epochs=20", "schedule.warmup_epochs=0", "schedule.milestones=[12,16]"),
    ("schedule.epochs=100", "schedule.warmup_epochs=2", "schedule.milestones=[60,80]"),
    ("schedule.epochs=100", "schedule.warmup_epochs=2", "schedule.decay=cosine", "schedule.milestones=[]"),
    ("schedule.iterations=900", "schedule.epochs=null", "schedule.warmup_epochs=null",
     "schedule.warmup_iterations=9", "schedule.decay=cosine", "schedule.milestones=[]"),
    ("schedule.milestones=[50]", "schedule.epochs=null", "schedule.epochs=60", "schedule.iterations=null",
     "schedule.warmup_epochs=1", "schedule.warmup_iterations=null", "schedule.decay=steps"),
    ("optimizer.lr=0.0123456789", "distillation.tau=2.3456789", "distillation.power=0.1234567"),
    ("optimizer.weight_decay=1e-05", "distillation.tau=1000000", "distillation.student_tau=1e-06"),
    ("optimizer.kind=adamw", "optimizer.betas=[0.8123456789,0.9]", "optimizer.eps=1.23456789e-8"),
    ("teacher.loss=ce", "teacher.label_smoothing=0.1", "distillation.weight=0.25", "seed=4"),
    ("data.kind=list", "data.train_list='a: b #c.txt'", "data.classes='12'", "data.imbalance=null"),
    ("views.kind=resized_crop", "views.ratio=[0.7,1.3]", "views.seed=3", "precision=fp32"),
    ("model.name=resnet20", "model.input.mean=[0.1,0.2,0.30000000000000004]", "model.sync_batchnorm=true"),
)  # fmt: skip
BASES = ("cifar100_lt/bbn", "cifar100_lt/balms", "cifar100_lt/bbn_autoaug", "cifar100_lt/efficientnet_lite0")


def read_back(command: str) -> Recipe:
    """The recipe of a command's run, by the options of the command line."""
    from dive.cli import options
    from dive.cli.group import group

    name, *words = shlex.split(command)[1:]
    given = group.get_command(click.Context(group), name).make_context(name, words).params
    shared = {key: given[key] for key in ("config", "assignments", "epochs", "precision")}
    if name == "teacher":
        return options.read_recipe(**shared, seed=given["seed"], teacher__loss=given["loss"]).of_teacher
    several = ("tau", "power", "student_tau", "weight")
    distilled = {f"distillation__{key}": next(iter(given[f"{key}s"]), None) for key in several}
    return options.read_recipe(**shared, of_student=True, seed=next(iter(given["seeds"]), None), **distilled)


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("base", BASES)
def test_a_command_reads_back_as_the_recipe_that_it_was_made_of(base, kind, repository, monkeypatch):
    monkeypatch.chdir(repository)
    from dive.recipe.shipped import locate, recipes

    made = 0
    for sets in CHANGES:
        try:
            parts = ("model", "optimizer", "schedule") if base.endswith("lite0") and kind == "student" else ()
            sets = tuple(f"student.{one}" if one.partition(".")[0] in parts else one for one in sets)
            recipe = load(locate(Path(base)), sets)
        except RecipeError:  # not with this recipe
            continue
        recipe = recipe.of_student if kind == "student" else recipe.of_teacher
        command = dive_commands.command({"kind": kind, "recipe": recipe.as_dict()}, recipes())
        assert read_back(command) == recipe, command
        made += 1
    assert made > 8


def test_another_length_is_told_by_epochs_where_warm_up_and_milestones_keep_their_share(repository):
    def command(*sets: str) -> str:
        recipe = load({}, sets).as_dict()
        return dive_commands.command({"kind": "teacher", "recipe": recipe}, {})

    short = ("schedule.epochs=20", "schedule.milestones=[12,16]")
    assert command(*short, "schedule.warmup_epochs=0") == "dive teacher --epochs 20"
    words = "dive teacher --set schedule.epochs=20 --set 'schedule.milestones=[12, 16]'"
    assert command(*short) == words


def test_a_student_of_another_cache_than_the_recipes_usual_one_is_told_with_a_cache(student):
    def words(**changes: Any) -> str:
        return dive_commands.command({**student, **changes}, {})

    stored = {"views": "all", "view_seed": 0, "store": "float16"}
    foreign = {"kind": "foreign", "network": "n", "initial_weights": "w", "prior": "none"}
    assert words(cache=stored) == words(cache=stored | {"precision": "bf16"}) == "dive student"
    for key, value in (("views", "40"), ("views", "clean"), ("view_seed", 1), ("store", "int8")):
        assert words(cache=stored | {key: value}) == "dive student --cache CACHE"
    assert words(teachers=[student["teacher"]] * 2) == words(teacher=foreign) == "dive student --cache CACHE"
    assert words(free_views=True) == "dive student --cache CACHE --free-views"
    assert words(fixed_view=True) == "dive student --cache CACHE --fixed-view"
    made = {**student, "cache": stored | {"store": "int8"}, "fixed_view": True}
    assert dive_commands.command(made, {}, "c.h5") == "dive student --cache c.h5 --fixed-view"
    assert dive_commands.command(made, {}, "cache/cifar100_lt_bbn.h5") == "dive student --fixed-view"


@pytest.mark.parametrize("kind", ["crop_flip", "autoaugment", "resized_crop"])
def test_the_usual_export_is_what_an_export_stores_unless_told_otherwise(kind):
    views = load({}, (f"views.kind={kind}",)).views
    space = view_space(kind, (32, 32), **views.keys())
    assert (default_views(space), registry.DEFAULT) == (views.usual, dive_commands.USUAL_STORE)


def test_a_runs_command_names_a_cache_that_is_not_the_recipes_own(student, repository):
    configs = repository / "configs"
    assert commands.command(student, configs, RUN["bbn/student"]) == "dive student"
    words = "dive student --cache cache/cifar100_lt_bbn-features-int8.h5"
    assert commands.command(student, configs, RUN["bbn/student-features-int8"]) == words


def test_a_length_in_epochs_given_to_a_recipe_in_steps_is_in_its_command(repository):
    recipe = load(repository / "configs" / "cifar100_lt" / "balms.yaml")
    record = {"kind": "teacher", "recipe": recipe.as_dict()}
    words = "dive teacher --config configs/cifar100_lt/balms.yaml"
    configs = repository / "configs"
    assert commands.command(record, configs) == words
    record["recipe"] = with_epochs(load(recipe.as_dict(), ("data.imbalance=null",)), 9).as_dict()
    assert commands.command(record, configs) == f"{words} --epochs 9 --set data.imbalance=null"


def test_parts_of_another_kind_are_in_a_command_with_what_differs_from_that_kinds_defaults(repository):
    sets = ("data.kind=cifar10", "data.imbalance=50", "views.kind=autoaugment", "views.pad=2")
    record = {"kind": "teacher", "recipe": load({}, sets).as_dict()}
    words = shlex.split(commands.command(record, repository / "configs"))
    assert words[:2] == ["dive", "teacher"] and words[2::2] == ["--set"] * 4
    assert tuple(words[3::2]) == sets
    folder = load({}, ("data.kind=folder", "data.imbalance=100")).as_dict()
    command = commands.command({"kind": "teacher", "recipe": folder}, repository / "configs")
    assert command == "dive teacher --set data.kind=folder --set data.imbalance=100"


def test_rows_compare_with_what_was_reported_for_the_same_run(teacher, student):
    teacher["accuracy"] = dict.fromkeys(("many", "medium", "few", "all", "class_mean"), 0.4339)
    student["accuracy"] = student["accuracy"] | {"all": 0.4535}
    recipe = build(teacher["recipe"])
    others = literature.works_beside(recipe)
    assert [work["name"] for work in others] == ["paper", "check"]
    shown = [report._accuracies(row, recipe, others) for row in rows_of([student, teacher])]
    assert shown[0][4:] == ["43.39", "", "43.39", "42.39 (+1.00)", "42.99 (+0.40)"]
    assert shown[1][4:] == ["45.35", "+1.92", "45.35", "45.35 (+0.00)", ""]
    for record in (teacher, student):
        record["recipe"]["views"]["kind"] = "autoaugment"
    student["cache"] = {"views": "50", "view_seed": 0, "store": "float16"}
    other = json.loads(json.dumps(student))
    other["recipe"]["distillation"] = {"tau": 3.0, "power": 0.5, "student_tau": 6.0, "weight": 0.5}
    recipe = build(other["recipe"])
    others = literature.works_beside(recipe)
    assert [work["name"] for work in others] == ["reproduction", "ProCo", "ProCo, 400 epochs"]
    shown = report._accuracies(rows_of([other])[0], recipe, others)
    assert shown[7:] == ["51.64 (-6.29)", "52.80 (-7.45)", "54.20 (-8.85)"]


@pytest.mark.parametrize("folder", ["cifar100_lt", "cifar10_lt"])
def test_each_config_says_what_its_records_say_or_that_it_has_none(folder, repository):
    for path in sorted((repository / "configs" / folder).glob("*.yaml")):
        comment = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
        made = [
            record
            for record in records.recorded(repository / "results")
            if record["recipe"]["name"] == load(path).name
        ]
        accuracies = {f"{100 * record['accuracy']['all']:.2f}" for record in made}
        claimed = set(re.findall(r"\d+\.\d\d\b", comment))
        assert claimed <= accuracies and bool(claimed) == bool(made), path
        times = set(re.findall(r"(?:\d+ h )?\d+ (?:h|min|minutes|hours)\b", comment))
        assert times <= {duration(record["seconds"]) for record in made}, path
        assert ("Not run yet" in comment) == (not made), path


def test_seeds_of_one_run_are_one_row(teacher):
    first = of_seed(teacher, 0, all=0.42)
    (row,) = rows_of([of_seed(teacher, 1, all=0.44), first])
    assert row.name == "teacher (bsce), 2 seeds" and row.shown("all") == "43.00 ± 1.41"


def test_of_rows_that_differ_in_precision_alone_the_smaller_one_says_its_own(teacher):
    exact = of_seed(teacher, 1) | {"precision": "fp32"}
    names = ["teacher (bsce)", "teacher (bsce), fp32"]
    assert [row.name for row in rows_of([exact, teacher])] == [names[0], f"{names[1]}, seed 1"]
    rows = rows_of([exact, *(of_seed(teacher, seed) for seed in (5, 2))])
    assert [row.name for row in rows] == ["teacher (bsce), 2 seeds", "teacher (bsce), fp32, seed 1"]
    twin = of_seed(teacher, 0) | {"precision": "fp32", "weights_hash": "another"}
    usual = of_seed(teacher, 0) | {"loss": "ce"}  # another run in bf16, the precision of most
    for order in itertools.permutations([teacher, twin, usual]):
        assert [row.name for row in rows_of(order)] == ["teacher (ce)", *names]
    elsewhere = json.loads(json.dumps(exact))
    elsewhere["recipe"]["name"] = "another"
    assert [row.model for row in rows_of([elsewhere, teacher])] == ["teacher (bsce)"] * 2


def test_a_row_of_other_precision_tells_its_teachers(student):
    other = of_seed(student, 1)
    other["teacher"]["precision"] = "fp32"
    plain, told = rows_of([other, student])
    assert told.name == f"{plain.name}, bf16 (teacher in fp32), seed 1"


def test_a_runs_command_names_the_precision_that_the_table_asks_for(teacher, repository):
    configs = repository / "configs"
    left = commands.command(teacher, configs, RUN["bbn/teacher"])
    asked = commands.command(teacher, configs, RUN["bbn/teacher-s1-fp32"])
    assert "--precision" not in left
    assert shlex.split(asked) == [*shlex.split(left), "--precision", "fp32"]


def test_a_row_says_what_is_unusual_about_its_cache_its_teachers_and_its_length(student):
    assert Row([student]).name == "student (τ=3, p=0.5, w=0.5)"
    other = json.loads(json.dumps(student))
    other["cache"]["store"] = "features-int8"
    assert len(rows_of([student, other])) == 2
    other["teachers"] = [other.pop("teacher")] * 3
    other["cache"]["views"] = "40"
    other["epochs"] = 400
    name = "student (τ=3, p=0.5, w=0.5), ensemble of 3, 40 views, features-int8 cache, 400 epochs"
    assert Row([other]).name == name
    assert Row([other]).gain_shown == f"{Row([student]).gain_shown} (mean of 3)"
    other |= {"free_views": True}
    assert "40 cache, free views" in Row([other]).name


def test_the_readmes_table_is_what_the_records_say(repository):
    table = report.short_table(repository / "results")
    assert table in (repository / "README.md").read_text()
    head, _, *rows = table.splitlines()
    assert [row.split("|")[1].strip().split(",")[0] for row in rows] == [
        "teacher (ce)",
        "teacher (bsce)",
        "student (τ=3",
        "student (τ=3",
    ]
    assert "ensemble of 3" in rows[3] and rows[3].split("|")[-2].strip() == ""
    assert all(float(row.split("|")[-2]) > 38 for row in rows[:3])


def test_the_readmes_table_is_replaced_and_nothing_else():
    text = "a\n\n| m | n |\n| - | - |\n| 1 | 2 |\n| 3 | 4 |\n\n| m |\n| - |\n| 5 |\n"
    table = "| m | n |\n| - | - |\n| 6 | 7 |"
    assert report.with_table(text, table) == f"a\n\n{table}\n\n| m |\n| - |\n| 5 |\n"


def test_a_pretrained_teacher_has_a_section_beside_no_table_without_extra_data(
    teacher, student, repository, tmp_path
):
    folder = tmp_path / "large"
    folder.mkdir()
    large = {
        "name": "torchvision/resnet50",
        "parameters": 23_712_932,
        "input": teacher["architecture"]["input"],
    }
    teacher |= {
        "initial_weights": "IMAGENET1K_V2",
        "architecture": teacher["architecture"] | large,
        "epochs": 15,
    }
    for name, record in (("teacher", teacher), ("student", student)):
        (folder / f"{name}.json").write_text(json.dumps(record))
    page = report.results(tmp_path, repository / "configs")
    assert "not comparable with tables without extra data" in page
    assert "| run | many | medium | few | all | over its teacher |\n" in page
    assert (
        "teacher: torchvision/resnet50, 23,712,932 parameters, 15 epochs; "
        "student: resnet32, 470,004 parameters, 200 epochs; 10,847 training images." in page
    )


def test_what_was_learned_takes_its_figures_from_rows_and_tune_tables(teacher, student):
    teachers = Row([of_seed(teacher, seed, all=0.4 + seed / 100) for seed in (0, 1, 2)])
    rows = {"bbn/teacher": teachers, "bbn/student": Row([of_seed(student, 1, all=0.46)])}
    pair = {"temperature": 6.0, "information": 0.25}
    tunes = {"bbn/tune": {"pairs": [pair], "crossing": {"ratio": 4.5}, "recommended": {"information": 0.7}}}
    figures = {
        "bbn/teacher all": "41.00 ± 1.00",
        "bbn/teacher seeds": "3 seeds",
        "bbn/student seeds": "one seed",
        "bbn/teacher beside bbn/student all": "41.00",  # that of seed 1
        "bbn/teacher beside bbn/student seeds": "one seed",
        "bbn/student - bbn/teacher all": "+5.00",  # of seed 1, which both have: 46 and 41
        "bbn/student - bbn/teacher each all": "+5.00",
        "bbn/teacher range all": "2.00",
        "bbn/student over bbn/teacher all": "+5.00",
        "bbn/tune nats 6": "0.250",
        "bbn/tune nats recommended": "0.700",
        "bbn/tune crossing": "4.500",
    }
    text = "; ".join(f"{{{asked}}}" for asked in figures)
    assert learned.filled(text, rows, tunes) == "; ".join(figures.values())
    rows["bbn/student"] = Row([of_seed(student, seed, all=0.46) for seed in (1, 2)])
    assert learned.filled("{bbn/student - bbn/teacher each all}", rows, tunes) == "+5.00 and +4.00"
    rows["bbn/student"] = Row([of_seed(student, seed, all=0.46) for seed in (0, 1, 2)])
    assert learned.filled("{bbn/student - bbn/teacher each all}", rows, tunes) == "+6.00, +5.00 and +4.00"
    rows["one"] = Row([of_seed(student, 0, all=0.46)])
    for wrong in (
        "{one range all}",
        "{bbn/teacher most}",
        "{bbn/tune nats 7}",
        "{bbn/other all}",
        "{one - no all}",
    ):
        with pytest.raises(RecipeError, match="the records have no such figure"):
            learned.filled(wrong, rows, tunes)


def test_a_student_stands_beside_the_teacher_it_learned_from_whatever_its_own_seed(teacher, student):
    """Students of two seeds may share one cache, and so one teacher."""
    other = of_seed(student, 1, all=0.47)
    other["teacher"]["seed"] = 0
    teachers = Row([of_seed(teacher, seed, all=0.4 + seed / 100) for seed in (0, 1)])
    rows = {"t": teachers, "s": Row([of_seed(student, 0, all=0.46), other])}
    asked = "{s - t all}, {s - t each all}, {t beside s all}, {s over t all}"
    assert learned.filled(asked, rows, {}) == "+6.50, +6.00 and +7.00, 40.00, +6.00"
    rows["t"] = Row([of_seed(teacher, 1)])
    with pytest.raises(RecipeError, match="share no seed"):
        learned.filled("{s - t all}", rows, {})


def test_a_difference_by_group_and_what_a_work_reports_are_figures_too(teacher, student):
    rows = {
        "t": Row([of_seed(teacher, 0, many=0.6, medium=0.4, few=0.25)]),
        "s": Row([of_seed(student, 0, many=0.64, medium=0.45, few=0.24)]),
    }
    told = "+4.00 in the many-shot, +5.00 in the medium-shot and -1.00 in the few-shot group"
    assert learned.filled("{s - t groups}", rows, {}) == told
    assert learned.filled("{paper at s all} {check at t all}", rows, {}) == "45.35 42.99"
    for row in rows.values():
        row.record["recipe"]["views"]["kind"] = "autoaugment"
    asked = "{ProCo at s all} {ProCo, 400 epochs at s all}"
    assert learned.filled(asked, rows, {}) == "52.80 54.20"


def test_a_gain_reads_alike_in_every_table(teacher, student):
    """That of the two below is half a hundredth between two texts, and added up in two orders."""
    pairs = {0: (0.4343, 0.4626), 1: (0.4272, 0.4606)}
    students = [of_seed(student, seed, all=ours) for seed, (_, ours) in pairs.items()]
    for one in students:
        one["teacher"]["accuracy"] = one["teacher"]["accuracy"] | {"all": pairs[one["seed"]][0]}
    teachers = Row([of_seed(teacher, seed, all=theirs) for seed, (theirs, _) in pairs.items()])
    rows = {"bbn/teacher": teachers, "bbn/student": Row(students)}
    shown = learned.filled("{bbn/student - bbn/teacher all}", rows, {})
    assert rows["bbn/student"].gain_shown == f"{shown} ± 0.36"  # 2.83 and 3.34


def test_a_lesson_waits_for_the_runs_that_are_missing(tmp_path):
    page = "\n".join(learned.lessons(tmp_path))
    assert page.count("Not known yet") == len(learned.entries())
    assert "What distillation is worth.** Not known yet: it waits for `bbn/student`, `bbn/teacher`." in page


def test_ranges_over_seeds_wait_for_every_seed_that_they_name(repository, tmp_path):
    shutil.copytree(repository / "results", tmp_path / "results")
    (tmp_path / "results/cifar100_lt_bbn/teacher.json").unlink()
    (tmp_path / "results/cifar100_lt_bbn/teacher-s1.json").unlink()
    page = "\n".join(learned.lessons(tmp_path / "results"))
    assert "What a seed changes.** Not known yet: it waits for `bbn/teacher`, `bbn/teacher-s1`." in page


def test_lessons_ask_for_runs_and_tune_tables_of_the_table_alone():
    known = RUN.keys() | learned._TUNE.keys()
    for entry in learned.entries():
        asked = learned.needs(entry)
        assert asked and asked <= known, entry["title"]
