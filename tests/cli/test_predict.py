"""`dive predict`: its table, JSON and CSV, and what it refuses."""

import csv
import re
from pathlib import Path

import chain
import own_networks
import pytest
from PIL import Image

import dive


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """Three digits, one of them below a folder."""
    pictures = dive.open_images("digits_lt/bbn", "test")
    paths = [Path("one.png"), Path("two.png"), Path("folder/[bold]three.png")]
    Path("folder").mkdir()
    for path, key in zip(paths, list(pictures)[::100], strict=False):
        Image.fromarray(pictures[key][..., 0]).save(path)
    return paths


def test_json_csv_and_table_say_what_the_function_gives(digits, images):
    wanted = dive.predict(digits.teacher, images, top=2).images
    document = chain.succeed("predict", digits.teacher, *images[:2], "folder", "--top", 2, "--json").document
    assert document["failures"] == []
    assert document["images"] == [
        {
            "file": str(one.path),
            "top": [{"class": name, "probability": share} for name, share in one.top],
        }
        for one in wanted
    ]
    outcome = chain.succeed("predict", digits.teacher, *images, "--top", 2, "--csv", "found.csv")
    assert outcome.out == "" and "found.csv: 3 images" in outcome.err
    with open("found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    flat = [(one.path, rank, *pair) for one in wanted for rank, pair in enumerate(one.top, start=1)]
    assert [(Path(r["file"]), int(r["rank"]), r["class"], float(r["probability"])) for r in rows] == flat
    shown = chain.succeed("predict", digits.teacher, *images, "--top", 2).out
    cells = [line.split() for line in shown.splitlines()]
    for one in wanted:
        (name, share), (second, other) = one.top
        at = cells.index([str(one.path), name, f"{100 * share:.2f}"])
        assert cells[at + 1] == [second, f"{100 * other:.2f}"]


def test_by_itself_it_shows_one_class_and_never_more_than_there_are(digits, images):
    def tops(*options: object) -> list[int]:
        found = chain.succeed("predict", digits.teacher, *images, "--json", *options).document
        return [len(one["top"]) for one in found["images"]]

    assert tops() == [1, 1, 1] and tops("--top", 1000) == [10, 10, 10]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_its_terminal_and_cuts_nothing(digits, images, columns, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    long = Path("folder") / ("a" * 150 + ".png")
    long.write_bytes(images[0].read_bytes())
    shown = chain.succeed("predict", digits.teacher, *images, long, "--top", 3).out
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= columns and "…" not in "".join(lines)
    assert sum(line.count("a") for line in lines[3:]) == 150 and "[bold]three.png" in "".join(lines)
    assert sum(bool(re.search(r" \d\s+\d+\.\d\d\s*$", line)) for line in lines) == 4 * 3


def test_an_unreadable_image_is_told_at_the_end_and_the_others_are_shown(digits, images):
    Path("folder/broken.png").write_bytes(images[0].read_bytes()[:40])
    for option, place in (("--json", None), ("--csv", Path("found.csv")), ("--quiet", None)):
        given = ("--csv", place) if place else (option,)
        outcome = chain.dive("predict", digits.teacher, "one.png", "folder", "absent.png", *given)
        assert outcome.code == 1
        told = [line for line in outcome.err.splitlines() if line.startswith("dive: ")]
        assert len(told) == 2 and outcome.err.endswith(told[-1] + "\n")
        assert any("folder/broken.png is not a readable image" in line for line in told)
        assert "dive: cannot read absent.png: No such file or directory" in told
        assert "three.png" in (place.read_text() if place else outcome.out)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--json", "--csv", "x.csv"), "give --json or --csv FILE, not both"),
        (("--csv", "one.png"), "one.png exists already; give another --csv, or remove it"),
        (("--csv", "no/x.csv"), "there is no folder no for x.csv; make it, or give another --csv"),
        (("--top", "0"), "must be from 1 to"),
    ],
)
def test_options_that_contradict_or_would_replace_a_file_are_refused(digits, images, options, complaint):
    before = chain.files_under()
    assert complaint in chain.dive("predict", digits.teacher, *images, *options).complaint
    assert chain.files_under() == before


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("absent.pt", "there is no checkpoint absent.pt"),
        ("one.png", "one.png was not written by dive as a checkpoint"),
        ("digits_lt/bbn", "digits_lt/bbn has no finished network"),
        ("absent.yaml", "there is no config absent.yaml"),
    ],
)
def test_a_model_that_is_none_is_one_line(images, model, complaint):
    assert complaint in chain.dive("predict", model, *images).complaint


def test_without_an_image_the_command_is_incomplete(digits):
    assert "Missing argument" in chain.dive("predict", digits.teacher).complaint


def test_a_network_of_ones_own_is_named_by_model(images):
    name = own_networks.write()
    recipe = dive.load_recipe(
        {"data": {"kind": "digits"}, "views": {"flip": False}},
        "model.name=tiny:grey",
        "model.input.mean=[0.3]",
        "model.input.std=[0.4]",
        "schedule.epochs=1",
        "schedule.warmup_epochs=0",
        "schedule.milestones=[]",
    )
    source = own_networks.SOURCE.replace("nn.LazyLinear(classes)", "nn.Linear(144, classes)")
    assert own_networks.write(source=source) == name
    dive.train_teacher(recipe, Path("own.pt"), dive.TrainOptions(device="cpu"))
    assert "--model" in chain.dive("predict", "own.pt", *images).complaint
    found = chain.succeed("predict", "own.pt", *images, "--model", "tiny:grey", "--json").document
    assert len(found["images"]) == 3


def test_a_name_that_is_not_utf_8_is_written_as_it_is(digits, images):
    odd = b"odd\xe4.png"
    Path("odd").mkdir()
    with open(b"odd/" + odd, "wb") as file:
        file.write(images[0].read_bytes())
    chain.succeed("predict", digits.teacher, "odd", "--csv", "found.csv")
    assert odd in Path("found.csv").read_bytes()
    assert "odd/odd\\xe4.png" in chain.succeed("predict", digits.teacher, "odd").out
    chain.succeed("predict", digits.teacher, "odd", "--json").document  # noqa: B018
