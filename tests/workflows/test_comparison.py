"""`dive eval`: figures against an independent evaluation, and seeds summed up."""

import itertools
import json
import statistics
from pathlib import Path

import chain
import folders
import numpy as np
import pytest
import torch
from PIL import Image

from dive.models import checkpoint
from dive.models.resnet import CifarResNet
from dive.recipe.reading import load
from dive.recipe.teachers import told_teachers
from dive.training.evaluation import Accuracy
from dive.workflows.data import load_test
from dive.workflows.evaluate import across_seeds, apart_by_precision
from dive.workflows.results import Result

RECIPE = load(chain.CONFIG)


def independent(path: Path) -> dict[str, float | dict[str, float]]:
    """Accuracies of a checkpoint on the digits' test images, image by image."""
    document = torch.load(path, weights_only=True)
    model = CifarResNet(blocks=1, classes=10, channels=1)
    model.load_state_dict(document["model"])
    model.eval()
    test = load_test(RECIPE)
    hits: dict[int, list[bool]] = {c: [] for c in range(10)}
    for image, label in zip(test.pictures.held, test.labels.tolist(), strict=True):
        pixels = (image[..., 0].astype(np.float64) / 255 - 0.3063) / 0.3753
        with torch.no_grad():
            logits = model(torch.from_numpy(pixels).float()[None, None])
        hits[label].append(int(logits.argmax()) == label)
    classes = {c: sum(of) / len(of) for c, of in hits.items()}
    groups: dict[str, list[float]] = {"many": [], "medium": [], "few": []}
    for c, n in enumerate(document["class_counts"]):
        groups["many" if n > 100 else "few" if n < 20 else "medium"].append(classes[c])
    return {
        **{name: statistics.fmean(values) for name, values in groups.items()},
        "all": sum(map(sum, hits.values())) / len(test),
        "class_mean": statistics.fmean(classes.values()),
        "per class": {str(c): value for c, value in classes.items()},
    }


def test_the_figures_are_those_of_an_independent_evaluation_of_each_image(digits):
    document = chain.succeed("eval", digits.teacher, digits.student, "--json", "--quiet").document
    assert [one["path"] for one in document["checkpoints"]] == [str(digits.teacher), str(digits.student)]
    assert [one["kind"] for one in document["checkpoints"]] == ["teacher", "student"]
    for one, path in zip(document["checkpoints"], (digits.teacher, digits.student), strict=True):
        expected = independent(path)
        assert one["per_class"] == pytest.approx(expected.pop("per class"), abs=1e-12)
        assert one["accuracy"] == pytest.approx(expected, abs=1e-12)
    assert document["over_seeds"] == []


def test_a_training_ends_with_the_figures_eval_gives_even_where_it_ran_in_bf16():
    arguments = ("--config", chain.CONFIG, "--quiet", "--precision", "bf16", "--epochs", 3)
    trained = chain.succeed("teacher", *arguments, "--out", "t.pt", "--json").document
    (again,) = chain.succeed("eval", "t.pt", "--json", "--quiet").document["checkpoints"]
    assert again["accuracy"] == trained["accuracy"]
    assert again["accuracy"]["all"] == pytest.approx(independent(Path("t.pt"))["all"], abs=1e-12)


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory, digits):
    """Teachers of seeds 0, 1 and 2."""
    folder = tmp_path_factory.mktemp("seeds")
    paths = [digits.teacher, folder / "one.pt", folder / "two.pt"]
    for seed, path in enumerate(paths[1:], start=1):
        chain.succeed("teacher", *chain.DIGITS, "--epochs", 3, "--seed", seed, "--out", path)
    return paths


def test_several_seeds_are_summed_up_as_mean_and_sample_standard_deviation(three_seeds, digits):
    document = chain.succeed("eval", *three_seeds, digits.student, "--json", "--quiet").document
    figures = [one["accuracy"] for one in document["checkpoints"][:3]]
    (summary,) = document["over_seeds"]
    assert summary["seeds"] == 3 and document["not_averaged"] == []
    assert list(summary["mean"]) == ["many", "medium", "few", "all", "class_mean"]
    for name in summary["mean"]:
        values = [one[name] for one in figures]
        assert summary["mean"][name] == pytest.approx(statistics.fmean(values), abs=1e-12)
        assert summary["standard_deviation"][name] == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert summary["standard_deviation"]["all"] > 0


def test_the_tables_show_each_checkpoint_and_the_seeds_in_percent(three_seeds):
    document = chain.succeed("eval", *three_seeds, "--json", "--quiet").document
    shown = chain.succeed("eval", *three_seeds, "--quiet").out
    for one in document["checkpoints"]:
        figures = " ".join(f"{100 * value:.2f}" for value in one["accuracy"].values())
        assert figures in " ".join(shown.split())
        assert Path(one["path"]).name in shown and f"seed {one['seed']}" in shown
    (summary,) = document["over_seeds"]
    words = shown.split("Mean ± standard deviation")[1].split()
    for name in ("mean", "standard_deviation"):
        for value in summary[name].values():
            assert ("±" if name != "mean" else "") + f"{100 * value:.2f}" in words


def test_per_class_shows_every_class_with_its_shot_and_images(digits):
    shown = chain.succeed("eval", digits.teacher, digits.student, "--per-class", "--quiet").out
    table = shown.split("by class")[1]
    counts = checkpoint.load(digits.teacher)["class_counts"]
    per_class = [independent(path)["per class"] for path in (digits.teacher, digits.student)]
    rows = [line.split() for line in table.splitlines()]
    for c, count in enumerate(counts):
        shot = "many" if count > 100 else "few" if count < 20 else "medium"
        accuracies = [f"{100 * of[str(c)]:.2f}" for of in per_class]
        assert [str(c), shot, str(count), *accuracies] in rows


def test_per_class_has_no_shot_and_images_of_checkpoints_of_other_draws(digits):
    document = checkpoint.load(digits.teacher)
    document["class_counts"] = [count + 1 for count in document["class_counts"]]
    checkpoint.save(Path("other.pt"), document)
    shown = chain.succeed("eval", digits.teacher, "other.pt", "--per-class", "--quiet").out
    rows = [line.split() for line in shown.split("by class")[1].splitlines()]
    assert "images" not in shown.split("by class")[1] and "shot" not in shown.split("by class")[1]
    for c, value in independent(digits.teacher)["per class"].items():
        assert [c, *[f"{100 * value:.2f}"] * 2] in rows


def test_without_an_argument_the_recipes_teacher_and_student_are_evaluated(digits):
    folder = Path("checkpoints/digits_lt_bbn")
    folder.mkdir(parents=True)
    (folder / "teacher.pt").write_bytes(digits.teacher.read_bytes())
    config = ("--config", chain.CONFIG)
    document = chain.succeed("eval", *config, "--json", "--quiet").document
    assert [one["path"] for one in document["checkpoints"]] == [str(folder / "teacher.pt")]
    assert "student.pt" in chain.succeed("eval", *config).err  # says what is not there
    (folder / "student.pt").write_bytes(digits.student.read_bytes())
    document = chain.succeed("eval", *config, "--json", "--quiet").document
    assert [one["kind"] for one in document["checkpoints"]] == ["teacher", "student"]


def test_a_checkpoint_brings_its_own_recipe(digits):
    alone = chain.succeed("eval", digits.teacher, "--json", "--quiet").document
    told = ("--config", chain.CONFIG)
    assert chain.succeed("eval", digits.teacher, *told, "--json", "--quiet").document == alone


def test_what_is_no_finished_checkpoint_of_these_images_is_refused(digits, tmp_path):
    state = {"kind": "state", "identity": {}, "model": {}, "optimizer": {}, "history": []}
    checkpoint.save(tmp_path / "run.state", state)
    assert "run.state holds the state of an unfinished run" in chain.dive("eval", "run.state").complaint
    assert "no checkpoint none.pt" in chain.dive("eval", "none.pt").complaint
    damaged = bytearray(digits.teacher.read_bytes())
    damaged[5000] ^= 1
    Path("damaged.pt").write_bytes(damaged)
    assert "damaged.pt is corrupt" in chain.dive("eval", "damaged.pt").complaint
    assert "teacher" in chain.dive("eval").complaint  # nothing there yet
    # the first checkpoint names the images, so the second must be of the same
    config = folders.write_recipe(Path("insects.yaml"), folders.write_images(tmp_path / "images"))
    chain.succeed("teacher", "--config", config, "--quiet", "--precision", "fp32", "--out", "ants.pt")
    complaint = chain.dive("eval", digits.teacher, "ants.pt", "--quiet").complaint
    assert "ants.pt has 3 classes (ant, …), the test set has 10 (0, …)" in complaint


@pytest.fixture(scope="module")
def sizes(tmp_path_factory) -> dict[int, Path]:
    """A teacher of the same insects, of 8×8 pixels, at each of two sizes."""
    folder = tmp_path_factory.mktemp("sizes")
    config = folders.write_recipe(folder / "insects.yaml", folders.write_images(folder / "images"))
    common = ("teacher", "--config", config, "--quiet", "--precision", "fp32", "--device", "cpu")
    for size in (8, 12):
        chain.succeed(*common, "--set", f"views.size={size}", "--out", folder / f"{size}.pt")
    return {size: folder / f"{size}.pt" for size in (8, 12)}


def shown_at(path: Path, size: int) -> dict[str, float]:
    """The accuracy of each class, of test images that Pillow brings to a size."""
    document = torch.load(path, weights_only=True)
    model, given = CifarResNet(blocks=1, classes=3), document["architecture"]["input"]
    model.load_state_dict(document["model"])
    found = {}
    for label, name in enumerate(document["classes"]):
        right = []
        for file in sorted((path.parent / "images" / "test" / name).glob("*.png")):
            image = Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            pixels = (np.asarray(image) / 255 - given["mean"]) / given["std"]
            with torch.no_grad():
                logits = model.eval()(torch.from_numpy(pixels.transpose(2, 0, 1)).float()[None])
            right.append(int(logits.argmax()) == label)
        found[name] = sum(right) / len(right)
    return found


def test_checkpoints_of_several_sizes_each_see_the_pictures_at_their_own(sizes):
    document = chain.succeed("eval", *sizes.values(), "--json", "--quiet").document
    for (size, path), one in zip(sizes.items(), document["checkpoints"], strict=True):
        assert one["per_class"] == shown_at(path, size)
        (alone,) = chain.succeed("eval", path, "--json", "--quiet").document["checkpoints"]
        assert one == alone
        assert one["accuracy"] == json.loads(path.with_suffix(".json").read_text())["accuracy"]
    backwards = chain.succeed("eval", *reversed(sizes.values()), "--json", "--quiet").document
    assert backwards["checkpoints"] == document["checkpoints"][::-1]


def test_eval_says_nothing_of_resizing_and_training_does(sizes):
    assert chain.succeed("eval", sizes[12], "--quiet").err == ""
    assert "resized" not in chain.succeed("eval", sizes[12]).err
    config = sizes[12].parent / "insects.yaml"
    words = ("teacher", "--config", config, "--epochs", 1, "--set", "views.size=12")
    told = "every image is resized and centre-cropped to 12×12 pixels (views.size)\n"
    assert told in chain.succeed(*words, "--out", "t.pt").err


def test_a_checkpoint_of_other_channels_is_refused_naming_both(digits, tmp_path):
    """Colour pictures of as many classes, by the same names."""
    counts = {str(c): 3 for c in range(10)}
    config = folders.write_recipe(Path("colour.yaml"), folders.write_images(tmp_path / "images", counts))
    chain.succeed("teacher", "--config", config, "--quiet", "--epochs", 1, "--out", "colour.pt")
    complaint = chain.dive("eval", digits.teacher, "colour.pt", "--quiet").complaint
    assert "colour.pt takes images of 3 channels, the test set has 1; " in complaint
    complaint = chain.dive("eval", "colour.pt", digits.teacher, "--quiet").complaint
    assert "teacher.pt takes images of 1 channel, the test set has 3; " in complaint


def evaluated(seed: int, all_: float, few: float | None = 0.25, **record: object) -> Result:
    accuracy = Accuracy(0.9, 0.5, few, all_, 0.5, ())
    recipe = {
        "name": "r",
        "seed": seed,
        "precision": "auto",
        "data": {"root": f"/somewhere/{seed}", "kind": "cifar100"},
        "distillation": {"tau": 3.0},
    }
    document = {
        "kind": "teacher",
        "loss": "bsce",
        "recipe": recipe,
        "seed": seed,
        "precision": "bf16",
        "weights_hash": f"{seed} {all_}",
        "data_fingerprint": "of the same images",
        "fingerprint_version": 2,
        **record,
    }
    return Result(Path(f"{seed}.pt"), document, accuracy)


def test_seeds_of_one_run_count_together_wherever_their_images_lay():
    (found,) = across_seeds([evaluated(0, 0.4), evaluated(1, 0.5), evaluated(2, 0.9)])
    assert found.count == 3
    names = ["many", "medium", "few", "all", "class_mean"]
    means, deviations = (dict(zip(names, v, strict=True)) for v in (found.means, found.deviations))
    assert means["all"] == pytest.approx(0.6) and means["few"] == 0.25
    assert deviations["all"] == pytest.approx(statistics.stdev([0.4, 0.5, 0.9]))
    assert deviations["few"] == 0


def test_a_group_without_classes_has_no_mean():
    (found,) = across_seeds([evaluated(0, 0.4, few=None), evaluated(1, 0.5, few=None)])
    assert found.means[2] is None and found.deviations[2] is None


def test_the_same_checkpoint_twice_is_one_seed():
    assert across_seeds([evaluated(0, 0.4), evaluated(0, 0.4)]) == []
    (found,) = across_seeds([evaluated(0, 0.4), evaluated(0, 0.4), evaluated(1, 0.6)])
    assert found.count == 2 and found.means[3] == pytest.approx(0.5)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_what_two_precisions_keep_apart_is_told_in_any_order(order):
    runs = [evaluated(seed, seed / 10, precision=p) for seed, p in enumerate(("bf16", "fp32", "bf16"))]
    other = evaluated(5, 0.5, loss="ce")
    (told,) = apart_by_precision([[*runs, other][k] for k in order])
    assert str(told) == (
        "teacher (bsce) of r is not averaged over precisions: seeds 0, 2 in bf16; seed 1 in fp32; "
        "train them with one --precision"
    )
    again = [*runs, evaluated(1, 0.7)]  # every seed in bf16, one in fp32 as well
    assert list(apart_by_precision([again[k] for k in order])) == []
    both = [evaluated(seed, 0.1, precision=p) for seed in (0, 1) for p in ("bf16", "fp32")]
    assert list(apart_by_precision([both[k] for k in order])) == []


def test_precisions_of_teachers_keep_students_apart(digits):
    record = json.loads(digits.student.with_suffix(".json").read_text())
    accuracy = Accuracy(0.9, 0.5, 0.2, 0.5, 0.5, ())

    def student(seed: int, *precisions: str) -> Result:
        teachers = [record["teacher"] | {"precision": precision} for precision in precisions]
        told = {"seed": seed, "weights_hash": str(seed), **told_teachers(teachers)}
        return Result(Path("s.pt"), {k: v for k, v in record.items() if k != "teacher"} | told, accuracy)

    (told,) = apart_by_precision([student(0, "bf16"), student(1, "fp32")])
    assert "seed 1 in fp32; seed 0 in fp32 (teacher in bf16); " in str(told)
    (told,) = apart_by_precision([student(0, "fp32", "bf16"), student(1, "bf16", "bf16")])
    assert "seed 1 in fp32 (teachers in bf16, bf16); seed 0 in fp32 (teachers in fp32, bf16); " in str(told)
    assert list(apart_by_precision([student(0, "fp32", "bf16"), student(1, "fp32", "bf16")])) == []


def test_eval_says_that_seeds_of_two_precisions_are_not_averaged(digits, tmp_path):
    other = tmp_path / "other.pt"
    chain.succeed("teacher", *chain.DIGITS, "--precision", "bf16", "--epochs", 3, "--seed", 1, "--out", other)
    done = chain.succeed("eval", digits.teacher, other, "--quiet")
    assert "teacher (bsce) of digits_lt_bbn is not averaged over precisions: seed 1 in bf16; " in done.out
    assert "Mean ±" not in done.out
    document = chain.succeed("eval", digits.teacher, other, "--json", "--quiet").document
    assert [one["precision"] for one in document["checkpoints"]] == ["fp32", "bf16"]
    assert document["over_seeds"] == []
    assert document["not_averaged"] == [
        {"model": "teacher (bsce)", "seeds_by_precision": {"bf16": [1], "fp32": [0]}}
    ]


def test_other_losses_kinds_or_recipes_are_other_runs():
    other_recipe = evaluated(1, 0.5)
    other_recipe.record["recipe"]["distillation"] = {"tau": 6.0}
    runs = [
        evaluated(0, 0.4),
        evaluated(1, 0.5, loss="ce"),
        evaluated(1, 0.5, kind="student", loss="dive"),
        other_recipe,
    ]
    assert across_seeds(runs) == []


def test_students_from_a_whole_cache_and_with_free_views_are_other_runs():
    student = {"kind": "student", "loss": "dive"}
    whole, free = ({**student, "free_views": chosen} for chosen in (False, True))
    assert across_seeds([evaluated(0, 0.4, **whole), evaluated(1, 0.5, **free)]) == []
    assert len(across_seeds([evaluated(0, 0.4, **free), evaluated(1, 0.5, **free)])) == 1


def test_nothing_but_json_is_printed_with_json(digits):
    outcome = chain.succeed("eval", digits.teacher, "--json")
    assert json.loads(outcome.out)["checkpoints"]


def test_a_plot_of_the_classes_is_drawn_and_only_a_figure_is_replaced(digits):
    words = ("eval", digits.teacher, digits.student, "--quiet", "--plot", "figures/classes.svg")
    before = chain.succeed(*words[:4]).out
    assert chain.succeed(*words).out == before
    drawn = Path("figures/classes.svg").read_text()
    assert drawn.startswith("<?xml")
    assert "exists already" in chain.dive(*words).complaint
    chain.succeed(*words, "--force")
    assert Path("figures/classes.svg").read_text() == drawn
    Path("figures/classes.svg").write_text("mine")
    assert "is in the way" in chain.dive(*words, "--force").complaint
    assert "must end in .png, .svg, .pdf" in chain.dive(*words[:-1], "classes.txt").complaint
    assert chain.dive(*words[:4], "--force").code == 2


def test_a_plot_that_cannot_be_written_is_found_before_the_work(digits, monkeypatch):
    monkeypatch.setattr("dive.workflows.evaluate._evaluate", lambda *_: pytest.fail("it was evaluated"))
    monkeypatch.setattr("dive.workflows.tune.LogitCache", lambda _: pytest.fail("it was tuned"))
    for words in (("eval", digits.teacher), ("tune-tau", "--cache", digits.cache)):
        line = chain.dive(*words, "--quiet", "--plot", "/proc/nope/a.png").complaint
        assert line.startswith("dive: cannot make the folder /proc/nope: cannot write to the folder /proc: ")


def test_the_plot_shows_the_accuracies_that_the_document_has(digits, monkeypatch):
    from dive.report import class_figure

    shown = []
    monkeypatch.setattr(class_figure, "plot_classes", lambda *given: shown.append(given))
    words = ("eval", digits.teacher, digits.student, "--quiet", "--plot", "classes.png", "--json")
    document = chain.succeed(*words).document
    ((path, title, models),) = shown
    assert (path, title) == (Path("classes.png"), "Test accuracy by class, digits_lt_bbn")
    assert [list(model.accuracies) for model in models] == [
        list(one["per_class"].values()) for one in document["checkpoints"]
    ]
    assert [model.name for model in models] == [f"{one['model']}, seed 0" for one in document["checkpoints"]]
