"""RESULTS.md and what it is made of: commands, comparisons, runs."""

import json
import re
import shlex
import shutil
from pathlib import Path

import chain
import pytest
import yaml

from dive.models import checkpoint
from dive.recipe.earlier import upgraded
from dive.recipe.reading import build, load, with_epochs
from reproduction import report, runs

STUDENT = ("--tau", "2", "--weight", "0.3", "--seed", "3", "--epochs", "1", "--set", "optimizer.lr=0.02")


@pytest.fixture
def record(digits):
    chain.succeed("student", *chain.DIGITS, *STUDENT, "--cache", digits.cache, "--out", "s.pt")
    return json.loads(Path("s.json").read_text())


def recorded(path: Path) -> dict:
    """A record under results/, which may be of an earlier version."""
    return upgraded(json.loads(path.read_text()))


def test_the_page_is_what_the_records_say(repository):
    page = report.results(repository / "results", repository / "configs")
    assert page == (repository / "RESULTS.md").read_text(), "make results"


def test_a_runs_command_makes_the_same_recipe_again(record, repository, monkeypatch):
    words = shlex.split(report.command_of(record, repository / "configs"))
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


def test_a_length_in_epochs_given_to_a_recipe_in_steps_is_in_its_command(repository):
    recipe = load(repository / "configs" / "cifar100_lt" / "balms.yaml")
    record = {"kind": "teacher", "recipe": recipe.as_dict()}
    words = "dive teacher --config configs/cifar100_lt/balms.yaml"
    assert report.command_of(record, repository / "configs") == words
    record["recipe"] = with_epochs(load(recipe.as_dict(), ("data.imbalance=null",)), 9).as_dict()
    assert (
        report.command_of(record, repository / "configs") == f"{words} --epochs 9 --set data.imbalance=null"
    )


def test_parts_of_another_kind_are_in_a_command_with_what_differs_from_that_kinds_defaults(repository):
    sets = ("data.kind=cifar10", "data.imbalance=50", "views.kind=autoaugment", "views.pad=2")
    record = {"kind": "teacher", "recipe": load({}, sets).as_dict()}
    words = shlex.split(report.command_of(record, repository / "configs"))
    assert words[:2] == ["dive", "teacher"] and words[2::2] == ["--set"] * 4
    assert tuple(words[3::2]) == sets
    folder = load({}, ("data.kind=folder", "data.imbalance=100")).as_dict()
    command = report.command_of({"kind": "teacher", "recipe": folder}, repository / "configs")
    assert command == "dive teacher --set data.kind=folder --set data.imbalance=100"


def test_rows_compare_with_what_was_reported_for_the_same_run(repository):
    teacher = recorded(repository / "results/cifar100_lt_bbn/teacher.json")
    teacher["accuracy"] = dict.fromkeys(("many", "medium", "few", "all", "class_mean"), 0.4339)
    student = recorded(repository / "results/cifar100_lt_bbn/student.json")
    student["accuracy"] = student["accuracy"] | {"all": 0.4535}
    others = yaml.safe_load((repository / "reproduction" / "literature.yaml").read_text())
    recipe = build(teacher["recipe"])
    rows = report.rows_of([student, teacher])
    shown = [report._accuracies(row, recipe, others) for row in rows]
    assert shown[0][4:] == ["43.39", "", "42.39 (+1.00)", "42.99 (+0.40)", "49.10 (-5.71)"]
    assert shown[1][4:] == ["45.35", "+1.92", "45.35 (+0.00)", "", "49.43 (-4.08)"]
    other = json.loads(json.dumps(student))
    other["recipe"]["distillation"] = {"tau": 3.0, "power": 0.5, "student_tau": 6.0, "weight": 0.5}
    assert report._accuracies(report.rows_of([other])[0], recipe, others)[6:] == ["", "", "51.64 (-6.29)"]


@pytest.mark.parametrize("folder", ["cifar100_lt", "cifar10_lt"])
def test_each_config_says_what_its_records_say_or_that_it_has_none(folder, repository):
    for path in sorted((repository / "configs" / folder).glob("*.yaml")):
        comment = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
        records = list(report._records(repository / "results"))
        recorded = {
            f"{100 * record['accuracy']['all']:.2f}"
            for record in records
            if record["recipe"]["name"] == load(path).name
        }
        claimed = set(re.findall(r"\d+\.\d\d\b", comment))
        assert claimed <= recorded and bool(claimed) == bool(recorded), path
        assert ("Not run yet" in comment) == (not recorded), path


def test_seeds_of_one_run_are_one_row(repository):
    first = recorded(repository / "results/cifar100_lt_bbn/teacher.json")
    second = json.loads(json.dumps(first))
    second["seed"] = second["recipe"]["seed"] = 1
    first["accuracy"]["all"], second["accuracy"]["all"] = 0.42, 0.44
    (row,) = report.rows_of([second, first])
    assert row.name == "teacher (bsce), 2 seeds" and row.shown("all") == "43.00 ± 1.41"


def test_every_run_names_a_command_that_exists_and_no_two_share_a_file():
    assert len({run.checkpoint for run in runs.RUNS}) == len(runs.RUNS)
    assert runs.TEACHER in runs.RUNS
    assert all((run.cache is not None) == (run.words[0] == "student") for run in runs.RUNS)


def test_what_a_run_left_is_kept_and_found_again(digits, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(runs, "CHECKPOINTS", tmp_path)
    run = runs.Run("teacher", ("teacher",), weights=True)
    assert not run.done
    for suffix in (".pt", ".json", ".history.jsonl"):
        shutil.copyfile(digits.teacher.with_suffix(suffix), tmp_path / f"teacher{suffix}")
    runs.keep(run)
    assert run.done
    assert checkpoint.load_finished(tmp_path / "results" / "teacher.pt")["kind"] == "teacher"


def test_the_readmes_table_is_what_the_records_say(repository):
    table = report.short_table(repository / "results")
    assert len(table.splitlines()) == 5 and table in (repository / "README.md").read_text()


def test_a_pretrained_teacher_has_a_section_beside_no_table_without_extra_data(repository, tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    teacher = recorded(repository / "results/cifar100_lt_bbn/teacher.json")
    student = recorded(repository / "results/cifar100_lt_bbn/student.json")
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
