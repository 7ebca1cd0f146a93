"""`dive init`: what it finds against Pillow and plain counting, and that its recipes load and train."""

import json
import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain import dive, succeed
from conftest import noise, png
from PIL import Image

from dive.recipe.reading import load
from dive.workflows.starter import batch_size, default_name, is_small, recipe_text
from dive.workflows.survey import Survey, survey

COUNTS = {"ant": 110, "bee": 12, "cat": 2, "dog": 1}


def lay_out(root: Path, counts: dict[str, int] = COUNTS, side: int = 8, tests: int | None = 2) -> Path:
    """train/ and test/ of noise, or one tree where `tests` is None."""
    for label, count in counts.items():
        places = [(root / label, count)] if tests is None else []
        if tests is not None:
            places = [(root / "train" / label, count), (root / "test" / label, tests)]
        for place, number in places:
            place.mkdir(parents=True)
            for i in range(number):
                (place / f"{i}.png").write_bytes(png(noise(i, side, side + i % 3)))
    return root


def found_of(counts: list[int], side: int, **more: Any) -> Survey:
    """A survey of classes c0, c1, … with one size of picture."""
    names = tuple(f"c{i}" for i in range(len(counts)))
    by_part = {"train": np.array(counts), "test": np.ones(len(counts), dtype=np.int64)}
    return Survey("folder", {"root": "x"}, names, by_part, np.full((4, 2), side), **more)


@pytest.mark.parametrize("tests", [2, None])
def test_a_survey_counts_and_measures_as_pillow_and_plain_counting_do(
    tmp_path: Path, tests: int | None
) -> None:
    root = lay_out(tmp_path / "images", tests=tests)
    found = survey("folder", {"root": str(root)})
    assert found.classes == tuple(COUNTS)
    sizes = sorted(Image.open(path).size[::-1] for path in root.rglob("*.png"))
    assert sorted(map(tuple, found.sides.tolist())) == sizes
    assert found.decoded_bytes == sum(3 * h * w for h, w in sizes)
    middle = sizes[(len(sizes) - 1) // 2]  # one height, so by pixels too
    assert (found.smallest, found.median, found.largest) == (sizes[0], middle, sizes[-1])
    train, test = (found.counts[part].tolist() for part in ("train", "test"))
    if tests is None:
        assert [a + b for a, b in zip(train, test, strict=True)] == list(COUNTS.values())
        assert found.untested == ["dog"] and found.test_share == 0.2
    else:
        assert train == list(COUNTS.values()) and test == [2] * 4
        assert found.untested == [] and found.test_share is None and found.imbalance == 110


def test_broken_files_are_named_and_those_cut_short_where_every_picture_is_decoded(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "images")
    (root / "train" / "ant" / "no.png").write_bytes(b"no picture")
    cut = root / "test" / "bee" / "cut.jpg"  # of a PNG the header's check reads all chunks
    Image.fromarray(noise(0, 64, 64)).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    by_header, decoded = (survey("folder", {"root": str(root)}, check).broken for check in (False, True))
    shown = succeed("init", root, "--quiet").out
    assert re.search(r"broken files +1; training refuses them", shown)
    assert len(by_header) == 1 and "train/ant/no.png is not a readable image" in by_header[0]
    assert sorted("cut.jpg" in line for line in decoded) == [False, True]


@pytest.mark.parametrize("form", ["parts", "one tree", "zip", "lists"])
def test_the_recipe_loads_and_trains(tmp_path: Path, form: str) -> None:
    root = lay_out(
        tmp_path / "my images", {"ant": 21, "bee": 8, "cat": 3}, tests=None if "tree" in form else 2
    )
    words: list[object] = [root]
    if form == "zip":
        words = [tmp_path / "my images.zip"]
        with zipfile.ZipFile(tmp_path / "my images.zip", "w") as archive:
            for path in root.rglob("*.png"):
                archive.write(path, path.relative_to(root).as_posix())
    if form == "lists":
        for part in ("train", "test"):
            paths = sorted((root / part).rglob("*.png"))
            lines = [f"{p.relative_to(root)} {['ant', 'bee', 'cat'].index(p.parent.name)}" for p in paths]
            (tmp_path / f"{part}.txt").write_text("\n".join(lines))
            words += [f"--{part}-list", tmp_path / f"{part}.txt"]
    document = succeed("init", *words, "--json").document
    assert document["recipe"] == "my_images.yaml" and document["broken"] == []
    recipe = load(Path("my_images.yaml"))
    assert recipe.data.kind == ("list" if form == "lists" else "folder") and recipe.name == "my_images"
    assert recipe.views.kind == "crop_flip" and recipe.views.size == 12 and recipe.model.name == "resnet32"
    quick = ("--epochs", 1, "--device", "cpu", "--precision", "fp32", "--quiet")
    for line in document["commands"]:
        _, *given = shlex.split(line)
        more = {"teacher": quick, "student": quick, "export-logits": ("--views", 3), "eval": ()}[given[0]]
        given = [word for word in given if word not in ("--tau", "auto")]
        if given[0] != "student" or form == "parts":
            succeed(*given, *more)


def test_the_recipe_of_photographs_loads_and_trains(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "birds", {"ant": 9, "bee": 4}, side=80)
    succeed("init", root, "--quiet")
    recipe = load(Path("birds.yaml"))
    assert (recipe.views.kind, recipe.views.size) == ("resized_crop", 224)
    assert recipe.model.name == "torchvision/resnet18" and recipe.model.weights is None
    assert recipe.model.input.mean == (0.485, 0.456, 0.406)
    quick = ("--epochs", 1, "--device", "cpu", "--precision", "fp32", "--set", "views.size=32", "--quiet")
    succeed("teacher", "--config", "birds.yaml", *quick)


def test_the_lines_that_are_commented_out_are_sound_without_the_mark(tmp_path: Path) -> None:
    text = recipe_text(found_of([50, 5], 300), Path("x.yaml"))
    for commented in ("val_share: 0.1", "weights: DEFAULT", "body_factor: 0.1", "accumulate: 4"):
        assert text.count(f"# {commented}") == 1
        text = text.replace(f"# {commented}", commented)
    head, _, tail = text.partition("\n# student:")
    tail = f"# student:{tail}".replace("\n# ", "\n").removeprefix("# ")
    (tmp_path / "x.yaml").write_text(f"{head}\n{tail}")
    recipe = load(tmp_path / "x.yaml", ("student.optimizer.body_factor=1",))
    assert recipe.data.place()["val_share"] == 0.1 and recipe.model.weights == "DEFAULT"
    assert (recipe.optimizer.body_factor, recipe.schedule.accumulate) == (0.1, 4)
    assert recipe.of_student.model.name == "torchvision/mobilenet_v3_small"


@pytest.mark.parametrize("counts", [[1, 1], [5, 3], [500, 20], [60_000, 300], [200] * 50])
@pytest.mark.parametrize("side", [8, 28, 32, 33, 64, 65, 500])
def test_every_recipe_loads_and_its_batches_suit_the_images(
    tmp_path: Path, counts: list[int], side: int
) -> None:
    found = found_of(counts, side, test_share=0.2)
    (tmp_path / "x.yaml").write_text(recipe_text(found, Path("x.yaml")))
    recipe = load(tmp_path / "x.yaml")
    batch = recipe.schedule.batch_size
    assert batch == batch_size(found) and batch & (batch - 1) == 0 and 8 <= batch <= 128
    assert batch == 8 or sum(counts) / batch >= 20
    assert is_small(found) == (side <= 64) == (recipe.views.kind == "crop_flip")
    if side <= 64:
        assert recipe.views.size is not None and side <= recipe.views.size <= min(64, side + 3)
    assert recipe.data.place()["test_share"] == 0.2


@pytest.mark.parametrize(
    "name", ['quo"te: [x] #', "back\\slash", "ünï 日本", "new\nline", "\x1b[31m", "é", "yes"]
)
def test_a_folder_of_any_name_is_written_so_that_it_is_read_again(tmp_path: Path, name: str) -> None:
    root = lay_out(tmp_path / name, {f"a {name}": 3, "b": 2})
    outcome = succeed("init", root, "--out", "any.yaml", "--quiet")
    assert load(Path("any.yaml")).data.place()["root"] == str(root)
    assert "\x1b" not in outcome.out and "\x1b" not in Path("any.yaml").read_text()


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("photos/birds", "birds.yaml"),
        ("photos/birds.zip", "birds.yaml"),
        ("photos/birds.2024", "birds.2024.yaml"),
        ("photos/my birds (2024)", "my_birds_2024.yaml"),
        ("photos/日本", "日本.yaml"),
        ("photos/---", "images.yaml"),
        ("photos/" + "x" * 200, "x" * 60 + ".yaml"),
    ],
)
def test_the_recipe_is_called_after_the_folder(root: str, name: str) -> None:
    assert default_name(Path(root)) == Path(name)


def test_a_recipe_is_replaced_with_force_alone_and_another_file_never(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "images", {"ant": 3, "bee": 2})
    succeed("init", root, "--quiet")
    first = Path("images.yaml").read_text()
    assert "exists already" in dive("init", root, "--quiet").complaint
    Path("images.yaml").write_text(first + "# mine\n")
    assert "exists already" in dive("init", root, "--quiet").complaint
    assert Path("images.yaml").read_text() == first + "# mine\n"
    succeed("init", root, "--quiet", "--force")
    assert Path("images.yaml").read_text() == first
    Path("images.yaml").write_text("seed: 1\n")
    assert "not a recipe written by dive" in dive("init", root, "--quiet", "--force").complaint
    assert Path("images.yaml").read_text() == "seed: 1\n"


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("nowhere",), "there is no nowhere; give the folder of your images, or a .zip of it"),
        (("images", "--out", "x.yml"), "must end in .yaml"),
        (("images", "--out", "-.yaml"), "outputs are named after -.yaml"),
        (("images", "--train-list", "x.txt"), "give both --train-list and --test-list"),
        (("images", "--classes", "x.txt"), "give both --train-list and --test-list"),
        (("images/test",), "one image of each class"),
        (("images/train/ant",), "no images in train/<class>/"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    tmp_path: Path, words: tuple[str, ...], fault: str
) -> None:
    lay_out(tmp_path / "images", {"ant": 3, "bee": 2}, tests=1)
    assert fault in dive("init", *words, "--quiet").complaint
    assert not list(tmp_path.glob("*.y*ml"))


def test_pictures_none_of_which_can_be_read_are_refused(tmp_path: Path) -> None:
    for label in ("ant", "bee"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "images" / label / f"{i}.png").write_bytes(b"no")
    assert "none of the 4 images can be read" in dive("init", "images", "--quiet").complaint


def test_files_that_are_no_images_by_their_names_are_counted(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "images", {"ant": 3, "bee": 2})
    names = (
        "Thumbs.db",
        "train/README",
        "train/ant/a.HEIC",
        "test/bee/b.heic",
        ".DS_Store",
        "train/.git/c.py",
    )
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    assert survey("folder", {"root": str(root)}).left_out == {".db": 1, "": 1, ".heic": 2}
    shown = succeed("init", root, "--quiet").out
    assert re.search(
        r"left out +files whose names are not those of images: 2 \.heic, 1 without extension, 1 \.db\n", shown
    )
    assert re.search(r"broken files +none by their headers; --check decodes every image\n", shown)
    assert re.search(r"broken files +none\n", succeed("init", root, "--check", "--force", "--quiet").out)


@pytest.mark.parametrize("parted", [True, False])
def test_folders_that_are_no_class_are_named(tmp_path: Path, parted: bool) -> None:
    """An empty one, as a failed download leaves, and those beside the parts."""
    root = lay_out(tmp_path / "images", {"ant": 3, "bee": 2}, tests=2 if parted else None)
    made = ["train/cow", "validation/ant", ".git/x"] if parted else ["cow", ".git/x"]
    for name in made:
        (root / name).mkdir(parents=True)
    unused = ["validation", "train/cow"] if parted else ["cow"]
    assert survey("folder", {"root": str(root)}).unused == unused
    shown = succeed("init", root, "--quiet").out
    assert f"folders not used   {', '.join(unused)}; no images are read from them\n" in shown
    for name in made:
        (root / name).rmdir()
    for name in ("validation",) * parted:
        (root / name).rmdir()
    assert "folders not used" not in succeed("init", root, "--quiet", "--force").out


def test_a_class_whose_images_have_unknown_names_is_explained(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "images", {"ant": 3}, tests=None)
    (root / "bee").mkdir()
    (root / "bee" / "0.heic").write_bytes(b"x")
    assert (
        "only one class, ant; it needs at least two (left out: 1 .heic)"
        in dive("init", root, "--quiet").complaint
    )


def test_a_folder_whose_name_cannot_be_recorded_is_one_line(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "n\udcff", {"ant": 3, "bee": 2})
    assert "data.root must be a path in UTF-8" in dive("init", root, "--quiet").complaint


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_has_at_most_twenty_rows_and_fits_the_terminal(
    tmp_path: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    counts = {f"{'[x] long ' * (k % 5)}{k:02d}": 60 - k for k in range(33)}
    shown = succeed("init", lay_out(tmp_path / "images", counts), "--quiet").out
    rows = [line for line in shown.splitlines() if "█" in line or "… " in line]
    assert len(rows) == 20 and "… 14 more" in shown
    assert max(len(line.rstrip()) for line in shown.splitlines() if "█" in line) <= columns
    bars = [line.count("█") for line in rows if "█" in line]
    assert bars == sorted(bars, reverse=True) and bars[0] == min(60, columns - 56)
    assert re.search(r"imbalance +2\.1: 00 has 60, .*32 28", shown)
    assert re.search(r"validation images +none", shown)
    assert json.dumps(shown)  # plain text
