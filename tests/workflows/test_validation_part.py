"""The validation part from the recipe to the tables, and classes that have no test image."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chain import Outcome, dive, stopped_at, succeed
from folders import RECIPE, write_images
from PIL import Image

from dive.models.load import load_model
from dive.training.evaluation import shot_accuracy

COUNTS = {"ant": 24, "bee": 8, "cat": 2}
STEPS = 6  # an epoch: 34 images in batches of 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, recipe, teacher, cache and two students, trained with a val/ of two classes."""
    folder = tmp_path_factory.mktemp("validated")
    write_images(folder / "images", COUNTS)
    rng = np.random.default_rng(5)
    for label, count in (("ant", 5), ("cat", 3)):
        (folder / "images" / "val" / label).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / "val" / label / f"{i}.png")
    shutil.rmtree(folder / "images" / "test" / "cat")
    shutil.copytree(folder / "images" / "test" / "bee", folder / "images" / "test" / "cat")
    (folder / "insects.yaml").write_text(RECIPE.format(images=folder / "images"))
    run(folder, "teacher", "--out", folder / "teacher.pt", "--eval-every", 1)
    run(folder, "export-logits", "--teacher", folder / "teacher.pt", "--out", folder / "cache.h5")
    return folder


def run(folder: Path, command: str, *arguments: object) -> Outcome:
    """A command on the folder's recipe, in fp32, as `auto` may choose otherwise from run to run."""
    precision = () if command == "eval" else ("--precision", "fp32")
    shared = ("--config", folder / "insects.yaml", "--device", "cpu", *precision)
    return succeed(command, *shared, *arguments)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def by_hand(checkpoint: Path, images: Path, part: str) -> dict[str, Any]:
    """Accuracy of a checkpoint on a part's files, opened by Pillow and normalised here."""
    body = load_model(checkpoint).body
    labels, predictions = [], []
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    for label, name in enumerate(COUNTS):
        for path in sorted((images / part / name).glob("*.png")):
            pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
            with torch.no_grad():
                predictions.append(int(body(((pixels - mean) / std)[None]).argmax()))
            labels.append(label)
    right = np.array(labels) == np.array(predictions)
    classes = [right[np.array(labels) == c].mean() for c in sorted(set(labels))]
    return {"all": right.mean(), "class_mean": np.mean(classes)}


def test_a_record_has_the_accuracy_on_the_validation_part_beside_that_of_the_test(made: Path) -> None:
    record = read(made / "teacher.json")
    for key, part in (("accuracy", "test"), ("val_accuracy", "val")):
        expected = by_hand(made / "teacher.pt", made / "images", part)
        assert {name: record[key][name] for name in expected} == pytest.approx(expected)
    assert record["val_accuracy"]["many"] is None and record["val_accuracy"]["few"] is not None
    assert record["val_accuracy"]["medium"] is not None  # ant alone


def test_eval_every_looks_at_the_validation_part_and_at_the_test_only_at_the_end(made: Path) -> None:
    lines = [json.loads(line) for line in (made / "teacher.history.jsonl").read_text().splitlines()]
    assert ["val_accuracy" in line for line in lines] == [True] * 3
    assert ["test_accuracy" in line for line in lines] == [False, False, True]
    assert lines[-1]["val_accuracy"] == read(made / "teacher.json")["val_accuracy"]["all"]


def test_eval_of_the_validation_part_is_the_recorded_accuracy(made: Path) -> None:
    record = read(made / "teacher.json")
    found = run(made, "eval", made / "teacher.pt", "--part", "val", "--json")
    document = json.loads(found.out)
    assert document["part"] == "val"
    assert document["checkpoints"][0]["accuracy"] == pytest.approx(record["val_accuracy"])
    assert document["checkpoints"][0]["per_class"]["bee"] is None
    assert "no validation image of bee: left out" in found.err
    table = run(made, "eval", made / "teacher.pt", "--part", "val", "--per-class").out
    assert "Validation accuracy (%)" in table and re.search(r"bee\s+few\s+8\s+–", table)


def test_a_run_that_was_stopped_resumes_with_the_validation_accuracies_it_had(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dive.training.loop.SAVING_SHARE", 1e9)  # after every epoch
    words = ("--config", made / "insects.yaml", "--device", "cpu", "--precision", "fp32", "--eval-every", 1)
    with stopped_at(2 * STEPS + 1):
        assert dive("teacher", *words, "--out", made / "stopped.pt").code == 130
    assert (made / "stopped.pt.state").exists() or (made / "stopped.state").exists()
    resumed = succeed("teacher", *words, "--out", made / "stopped.pt")
    assert "resuming after epoch 2" in resumed.err
    one, other = read(made / "stopped.json"), read(made / "teacher.json")
    assert one["weights_hash"] == other["weights_hash"] and one["val_accuracy"] == other["val_accuracy"]
    histories = [
        [json.loads(line)["val_accuracy"] for line in (made / f"{name}.history.jsonl").open()]
        for name in ("stopped", "teacher")
    ]
    assert histories[0] == histories[1] and len(histories[0]) == 3


def test_inspect_shows_both_accuracies(made: Path) -> None:
    shown, record = succeed("inspect", made / "teacher.pt").out, read(made / "teacher.json")
    for name, key in (("test accuracy", "accuracy"), ("validation accuracy", "val_accuracy")):
        line = next(line for line in shown.splitlines() if name in line)
        assert f"class mean {100 * record[key]['class_mean']:.2f}" in line


def test_eval_without_a_part_named_is_of_the_test(made: Path) -> None:
    document = json.loads(run(made, "eval", made / "teacher.pt", "--json").out)
    assert document["part"] == "test"
    assert document["checkpoints"][0]["accuracy"] == pytest.approx(read(made / "teacher.json")["accuracy"])


def test_a_grid_of_students_shows_validation_accuracy_alone(made: Path) -> None:
    grid = run(made, "student", "--cache", made / "cache.h5", "--tau", 1, 3, "--out", made / "grid.pt")
    assert "Validation accuracy (%)" in grid.out and "Test accuracy" not in grid.out
    assert "Choose by validation accuracy" in grid.out
    for tau in (1, 3):
        record = read(made / f"grid-t{tau}-p0.5-w0.5-s0.json")
        assert f"{100 * record['val_accuracy']['class_mean']:.2f}" in grid.out
    teacher = read(made / "teacher.json")["val_accuracy"]
    assert read(made / "grid-t1-p0.5-w0.5-s0.json")["teacher"]["val_accuracy"] == teacher
    one = run(made, "student", "--cache", made / "cache.h5", "--out", made / "one.pt")
    assert one.out.index("Validation accuracy (%)") < one.out.index("Test accuracy (%)")


def test_seeds_are_summed_up_over_validation_accuracy(made: Path) -> None:
    words = ("--cache", made / "cache.h5", "--seed", 4, 5, "--out", made / "seeds.pt")
    shown = run(made, "student", *words).out
    values = [100 * read(made / f"seeds-t3-p0.5-w0.5-s{seed}.json")["val_accuracy"]["all"] for seed in (4, 5)]
    assert f"{np.mean(values):.2f}" in shown[shown.index("over seeds") :]
    assert f"±{np.std(values, ddof=1):.2f}" in shown


def test_a_validation_part_changes_no_weight(made: Path) -> None:
    words = (
        "--config",
        made / "insects.yaml",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--data",
        made / "bare",
    )
    shutil.copytree(made / "images", made / "bare", ignore=shutil.ignore_patterns("val"))
    succeed("teacher", *words, "--out", made / "bare.pt")
    one, other = read(made / "bare.json"), read(made / "teacher.json")
    assert one["weights_hash"] == other["weights_hash"] and "val_accuracy" not in one


def test_there_is_one_line_where_there_is_no_validation_part(made: Path) -> None:
    shutil.copytree(made / "images", made / "none", ignore=shutil.ignore_patterns("val"))
    refused = dive("eval", made / "teacher.pt", "--data", made / "none", "--part", "val", "--quiet")
    assert "no validation set; lay out a val/ or set data.val_share" in refused.complaint
    recipe = ("--config", "digits_lt/bbn", "--part", "val", made / "teacher.pt", "--quiet")
    assert "no validation set; data of this kind have none" in dive("eval", *recipe).complaint


def test_a_class_without_a_test_image_is_named_and_left_out_of_the_means(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for label, count in {"ant": 9, "bee": 5, "lone": 1}.items():
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    (tmp_path / "insects.yaml").write_text(RECIPE.format(images=tmp_path / "images"))
    outcome = run(tmp_path, "teacher", "--out", tmp_path / "t.pt", "--json")
    assert "warning: no test image of lone: left out of the accuracies of groups and classes" in outcome.err
    record = json.loads(outcome.out)
    assert record["per_class"][2] is None and None not in record["per_class"][:2]
    assert record["accuracy"]["class_mean"] == pytest.approx(np.mean(record["per_class"][:2]))
    assert record["accuracy"]["few"] == record["accuracy"]["class_mean"]
    shown = run(tmp_path, "eval", tmp_path / "t.pt", "--per-class").out
    assert re.search(r"lone\s+few\s+1\s+–", shown)


def test_accuracy_leaves_out_classes_without_images_as_counting_does() -> None:
    rng = np.random.default_rng(0)
    counts = np.array([500, 300, 50, 30, 5, 2])
    labels = rng.choice([0, 2, 4], 60)
    predictions = np.where(rng.random(60) < 0.5, labels, rng.integers(0, 6, 60))
    found = shot_accuracy(predictions, labels, counts)
    share = {c: float((predictions[labels == c] == c).mean()) for c in (0, 2, 4)}
    assert found.per_class == (share[0], None, share[2], None, share[4], None)
    assert (found.many, found.medium, found.few) == (share[0], share[2], share[4])
    assert found.class_mean == pytest.approx(sum(share.values()) / 3)
    nothing = shot_accuracy(labels[labels == 0], labels[labels == 0], counts)
    assert nothing.many == 1.0 and nothing.medium is None and nothing.few is None


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of <class>/ alone, lists of its pictures, and a teacher of each: shares 0.3 and 0.2 in one."""
    folder = tmp_path_factory.mktemp("divided")
    rng, lines = np.random.default_rng(6), []
    for number, (label, count) in enumerate({"ant": 20, "bee": 10}.items()):
        (folder / "images" / label).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / label / f"{i}.png")
            lines.append(f"{label}/{i}.png {number}\n")
    recipe = RECIPE.format(images=folder / "images").replace("epochs: 3", "epochs: 1")
    recipe = recipe.replace("warmup_epochs: 1", "warmup_epochs: 0").replace("[2]", "[]")
    (folder / "insects.yaml").write_text(recipe)
    for name, chosen in (("a", lines[::2]), ("b", lines[1::2])):
        (folder / f"{name}.txt").write_text("".join(chosen))
        (folder / f"{name}_again.txt").write_text("".join(f"./{line}" for line in chosen))
    run(folder, "teacher", "--out", folder / "t.pt", *shares(0.3, 0.2))
    run(folder, "teacher", "--out", folder / "plain.pt")
    run(folder, "teacher", "--out", folder / "listed.pt", *of_lists(folder, "a", "b"))
    return folder


def shares(test: object, val: object) -> tuple[str, ...]:
    return ("--set", f"data.test_share={test}", "--set", f"data.val_share={val}")


def of_lists(folder: Path, train: str, test: str) -> tuple[str, ...]:
    keys = {"train_list": train, "test_list": test}
    words = ["data.kind=list", f"data.root={folder / 'images'}"]
    words += [f"data.{key}={folder / name}.txt" for key, name in keys.items()]
    return tuple(word for assignment in words for word in ("--set", assignment))


@pytest.mark.parametrize(
    ("part", "test", "val", "said"),
    [
        ("test", 0.6, 0.2, "data.test_share is 0.6 here and 0.3 there; "),
        (
            "test",
            0.6,
            "null",
            "test_share is 0.6 here and 0.3 there, data.val_share is null here and 0.2 there",
        ),
        ("val", 0.3, 0.5, "data.val_share is 0.5 here and 0.2 there; "),
        ("val", 0.5, 0.2, "data.test_share is 0.5 here and 0.3 there; "),
    ],
)
def test_a_part_with_images_that_the_checkpoint_was_trained_on_is_refused(
    divided: Path, part: str, test: object, val: object, said: str
) -> None:
    words = (divided / "t.pt", "--part", part, *shares(test, val), "--device", "cpu", "--quiet")
    complaint = dive("eval", *words).complaint
    images = {"test": "test", "val": "validation"}[part]
    assert re.search(rf"t\.pt was trained on \d+ of these {images} images by its own recipe", complaint)
    assert said in complaint and "evaluate it with its own recipe" in complaint
    of_recipe = ("--config", divided / "insects.yaml", *words)
    assert said in dive("eval", *of_recipe).complaint


@pytest.mark.parametrize(
    ("checkpoint", "part", "test", "val"),
    [
        ("t.pt", "test", 0.3, "null"),  # the same test
        ("t.pt", "test", 0.2, 0.6),  # a part of it
        ("t.pt", "test", 0.4, 0.2),  # it and images for validation
        ("t.pt", "val", 0.3, 0.1),
        ("plain.pt", "test", 0.2, "null"),  # what null is
        ("plain.pt", "test", "null", 0.5),
    ],
)
def test_another_division_is_evaluated_where_no_training_image_is_in_the_part(
    divided: Path, checkpoint: str, part: str, test: object, val: object
) -> None:
    found = succeed("eval", divided / checkpoint, "--part", part, *shares(test, val), "--device", "cpu")
    assert "not known" not in found.err


def test_a_folder_with_a_test_part_of_its_own_is_evaluated_whatever_the_shares_were(divided: Path) -> None:
    write_images(divided / "others", {"ant": 3, "bee": 2})
    words = ("--data", divided / "others", "--device", "cpu")
    succeed("eval", divided / "plain.pt", *words)
    told = succeed("eval", divided / "t.pt", *words, *shares("null", "null")).err
    assert (
        "whether" in told
        and "the data set here cannot be divided as in its recipe: data.test_share is null" in told
    )


def test_whether_pictures_elsewhere_are_those_that_it_was_trained_on_is_found_by_what_they_are(
    divided, tmp_path
):
    """The names are the same, as those of many folders are."""
    moved = shutil.copytree(divided / "images", tmp_path / "moved")
    words = (divided / "t.pt", "--data", moved, *shares(0.6, 0.2), "--device", "cpu", "--quiet")
    assert re.search(r"t\.pt was trained on \d+ of these test images", dive("eval", *words).complaint)
    for path in sorted(moved.rglob("*.png"))[:6]:  # some of training among them
        Image.fromarray(255 - np.array(Image.open(path))).save(path)
    told = succeed("eval", *words).err
    assert re.search(
        r"warning: \d+ of these test images have the names of images that .*t\.pt was trained on", told
    )
    assert "whether these are the same images is not known" in told


def test_how_lists_are_spelled_is_no_part_of_a_cache(divided, monkeypatch):
    monkeypatch.chdir(divided)
    caches = []
    for number, place in enumerate((divided, Path("."))):
        words = (*of_lists(divided, "a", "b"), "--set", f"data.train_list={place / 'a.txt'}")
        config = ("--config", "insects.yaml", *words, "--device", "cpu", "--precision", "fp32", "--quiet")
        succeed("teacher", *config, "--out", f"spelled{number}.pt")
        caches.append(Path(f"spelled{number}.h5"))
        words = ("--teacher", f"spelled{number}.pt", "--views", "clean", "--out", caches[-1])
        succeed("export-logits", *config, *words)
    one, other = (path.read_bytes() for path in caches)
    assert one == other and b"a.txt" not in one


def test_lists_of_images_that_the_checkpoint_was_trained_on_are_refused(divided: Path) -> None:
    words = (divided / "listed.pt", "--device", "cpu", "--quiet")
    for test in ("a", "a_again"):
        complaint = dive("eval", *words, *of_lists(divided, "b", test)).complaint
        assert "listed.pt was trained on 15 of these test images" in complaint
        assert "data.train_list is " in complaint and "data.test_list is " in complaint
    (divided / "moved.txt").write_text((divided / "b.txt").read_text())
    assert "warning" not in succeed("eval", *words, *of_lists(divided, "a", "moved")).err
    succeed("eval", divided / "plain.pt", "--quiet", *of_lists(divided, "a", "b"))  # of another kind


@pytest.mark.parametrize(("folder", "part"), [("test", "test"), ("val", "validation")])
def test_a_part_whose_pictures_have_another_size_is_refused_and_told_what_to_give(
    made, tmp_path, folder, part
):
    images = shutil.copytree(made / "images", tmp_path / "images")
    for path in sorted((images / folder).rglob("*.png")):
        Image.open(path).resize((7, 9)).save(path)
    text = RECIPE.format(images=images)
    (tmp_path / "insects.yaml").write_text(text.replace("  size: 8\n", ""))
    words = ("teacher", "--config", tmp_path / "insects.yaml", "--device", "cpu", "--epochs", 1)
    complaint = dive(*words, "--quiet", "--out", tmp_path / "teacher.pt").complaint
    assert (
        f"training images have 8×8 pixels, {part} images 7×9; give them one size with views.size" in complaint
    )
    succeed(*words, "--out", tmp_path / "teacher.pt", "--set", "views.size=8", "--quiet")
