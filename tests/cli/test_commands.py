"""The five commands as a user runs them: what comes out, and what bad input gets instead."""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import caches
import chain
import folders
import h5py
import numpy as np
import pytest

from dive.cache.reader import LogitCache
from dive.models import checkpoint
from dive.printable import UNPRINTABLE

COMMANDS = ("teacher", "export-logits", "tune-tau", "student", "eval")


@pytest.fixture(scope="module")
def defaults(tmp_path_factory):
    """The five commands one after the other with default outputs, each with --json: their documents."""
    folder = tmp_path_factory.mktemp("defaults")
    recipe = "short.yaml"
    short = "schedule:\n  epochs: 2\n  batch_size: 32\n  warmup_epochs: 0\n  milestones: []\n"
    text = chain.CONFIG.read_text()
    (folder / recipe).write_text(text[: text.index("schedule:")].replace("digits_lt_bbn", "short") + short)
    before = Path.cwd()
    os.chdir(folder)
    try:
        told = ("--config", recipe, "--json")
        documents = {name: chain.succeed(name, *told).document for name in COMMANDS}
    finally:
        os.chdir(before)
    return folder, documents


def test_each_command_finds_its_input_where_the_one_before_left_it(defaults):
    folder, documents = defaults
    made = set(chain.files_under(folder)) - {"short.yaml"}
    assert made == {
        "cache/short.h5",
        *(
            f"checkpoints/short/{kind}{suffix}"
            for kind in ("teacher", "student")
            for suffix in (".pt", ".json", ".history.jsonl")
        ),
    }
    assert documents["teacher"]["checkpoint"] == "checkpoints/short/teacher.pt"
    assert documents["student"]["checkpoint"] == "checkpoints/short/student.pt"
    assert documents["export-logits"]["cache"] == documents["tune-tau"]["cache"] == "cache/short.h5"
    evaluated = [one["path"] for one in documents["eval"]["checkpoints"]]
    assert evaluated == ["checkpoints/short/teacher.pt", "checkpoints/short/student.pt"]


def test_the_documents_agree_with_each_other_and_with_the_files(defaults):
    folder, documents = defaults
    teacher, student = documents["teacher"], documents["student"]
    cache = LogitCache(folder / "cache" / "short.h5")
    exported = documents["export-logits"]
    assert exported["shape"] == list(cache.shape) == [399, 9, 10]
    assert exported["bytes"] == cache.path.stat().st_size
    assert exported["identity"]["teacher"]["weights_hash"] == teacher["weights_hash"]
    assert exported["identity"]["data_fingerprint"] == teacher["data_fingerprint"]
    assert documents["tune-tau"]["cache_hash"] == student["cache_hash"] == cache.hash
    assert student["data_fingerprint"] == teacher["data_fingerprint"]
    distillation = {"tau": 3.0, "power": 0.5, "weight": 0.5, "student_tau": None}
    assert student["recipe"]["distillation"] == distillation
    for one, made in zip(documents["eval"]["checkpoints"], (teacher, student), strict=True):
        assert one["accuracy"] == made["accuracy"]
        assert list(one["per_class"].values()) == made["per_class"]


def test_the_tuning_document_holds_the_papers_grid_and_sums(defaults):
    document = defaults[1]["tune-tau"]
    grid = [(pair["tau"], pair["power"]) for pair in document["pairs"]]
    assert sorted(grid) == sorted((tau, power) for tau in (1, 3, 6, 20) for power in (0.5, 1))
    for pair in document["pairs"]:
        assert pair["temperature"] == pytest.approx(pair["tau"] / pair["power"])
        assert sum(pair["per_class"]) == pytest.approx(399, rel=1e-5)
        means = [pair[shot] for shot in ("many", "medium", "few")]
        assert pair["ratio"] == pytest.approx(max(means) / min(means))
    # 142 of class 0; then 94, 61, 39, 25; then 16, 10, 6, 4, 2
    assert document["images"] == pytest.approx({"many": 142, "medium": 219 / 4, "few": 38 / 5})


@pytest.mark.parametrize("name", COMMANDS)
def test_without_json_a_command_prints_a_table_and_with_quiet_nothing_else(digits, name):
    own = {
        "teacher": ("--config", chain.CONFIG, "--epochs", 1, "--out", "t.pt"),
        "export-logits": ("--config", chain.CONFIG, "--teacher", digits.teacher, "--out", "c.h5"),
        "tune-tau": ("--cache", digits.cache),
        "student": ("--config", chain.CONFIG, "--cache", digits.cache, "--epochs", 1, "--out", "s.pt"),
        "eval": (digits.teacher,),
    }[name]
    outcome = chain.succeed(name, *own, "--quiet")
    assert outcome.err == ""
    assert "─" in outcome.out and "\x1b" not in outcome.out


def test_a_sample_is_shown_with_standard_errors_and_its_seed_chooses_it(digits):
    words = ("tune-tau", "--cache", digits.cache, "--tau", 1, "--power", 1, "--sample", 100)
    shown = chain.succeed(*words).out
    assert (
        "views of 100 images" in " ".join(shown.split()) and shown.count("±") == 9
    )  # two pairs and the crossing
    found = [chain.succeed(*words, "--seed", seed, "--json").document for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2] and found[0]["sample"] == 100
    (whole,) = chain.succeed(*words[:-2], "--json").document["pairs"]
    (pair,) = found[0]["pairs"]
    errors = pair["standard_errors"]
    assert list(errors) == ["many", "medium", "few", "information"] and whole["standard_errors"] is None
    assert all(abs(pair[name] - whole[name]) < 4 * error for name, error in errors.items())
    every = chain.succeed(*words[:-1], 10**6, "--json").document
    assert every["sample"] is None and every["pairs"] == [whole]


def test_the_tuning_line_of_the_paper_works_as_written(digits):
    shown = chain.succeed("tune-tau", "--tau", 1, 3, 6, "--power", 0.5, 1, "--cache", digits.cache).out
    rows = [line.split() for line in shown.splitlines()]
    pairs = [row[:3] for row in rows if len(row) == 8 and row[0] in ("1", "3", "6")]
    (recommended,) = [row for row in rows if len(row) == 8 and row[1] == "0.5" and row[:3] not in pairs]
    assert pairs == [
        *(["1", "0.5", "2"], ["3", "0.5", "6"], ["6", "0.5", "12"]),
        *(["1", "1", "1"], ["3", "1", "3"], ["6", "1", "6"]),
    ]
    document = chain.succeed(
        "tune-tau", "--tau", 1, 3, 6, "--power", 0.5, 1, "--cache", digits.cache, "--json"
    ).document
    assert recommended[0] == f"{document['recommendation']['tau']:g}"
    for pair in (*document["pairs"], document["recommended"]):
        row = [f"{pair['tau']:g}", f"{pair['power']:g}", f"{pair['temperature']:g}"]
        row += [f"{pair[shot]:.1f}" for shot in ("many", "medium", "few")]
        row += [f"{pair['ratio']:.2f}", f"{pair['information']:.3f}"]
        assert row in rows
    assert document["recommendation"]["reason"] in shown


def test_the_crossing_is_printed_and_in_the_document_beside_the_recommendation(digits):
    words = ("tune-tau", "--cache", digits.cache)
    document = chain.succeed(*words, "--json").document
    crossing, advice = document["crossing"], document["recommendation"]
    assert list(crossing) == ["ratio", "few", "many"] and list(advice) == ["tau", "power", "rule", "reason"]
    assert (advice["power"], advice["rule"]) == (0.5, "crossing")
    assert advice["tau"] == pytest.approx(crossing["ratio"] / 2, rel=6e-4)
    assert crossing["few"] == pytest.approx(crossing["many"], rel=1e-4)
    assert document["search"]["passes"] == 3 and document["search"]["standard_error"] is None
    shown = chain.succeed(*words).out
    assert f"Crossing: τ/p = {crossing['ratio']:.4g}, where few-shot and many-shot classes have " in shown
    assert f"\nTake τ = {advice['tau']:g}, p = 0.5 (rule crossing): {advice['reason']}\n" in shown
    other = chain.succeed(*words, "--json", "--tau", 0.7, 3, "--power", 1).document
    assert other["crossing"]["ratio"] == pytest.approx(crossing["ratio"], rel=1e-6)  # whatever the grid
    assert other["recommendation"]["tau"] == advice["tau"]


def test_the_rule_of_the_grid_is_there_to_ask_for(digits):
    from dive.cli.tune_tau import command
    from dive.method.advice import RULES

    words = ("tune-tau", "--cache", digits.cache, "--rule", "grid", "--json", "--power", 1)
    document = chain.succeed(*words, "--tau", 1, 3, 40).document
    assert (document["recommendation"]["tau"], document["recommendation"]["rule"]) == (20.0, "grid")
    assert 3 < document["crossing"]["ratio"] < 40
    none = chain.succeed(*words, "--tau", 1, 2).document
    assert none["recommendation"]["tau"] is None and none["recommended"] is None and none["crossing"]
    assert "largest on the grid" in none["recommendation"]["reason"]
    (option,) = [option for option in command.params if option.name == "rule"]
    assert list(option.type.choices) == list(RULES) and option.default == next(iter(RULES))


def test_without_a_crossing_there_is_a_null_and_a_fallback():
    caches.of_two_classes(Path("c.h5"), [(150, -6.0)])
    document = chain.succeed("tune-tau", "--cache", "c.h5", "--json").document
    assert document["crossing"] is None and document["search"]["further"] == []
    assert document["recommendation"]["rule"] == "information" and document["recommendation"]["tau"] > 0
    shown = chain.succeed("tune-tau", "--cache", "c.h5").out
    assert "\nCrossing: none.\nTake τ = " in shown and "p = 0.5 (fallback): " in shown


def test_the_table_of_a_wide_and_a_narrow_terminal_has_every_number(digits, monkeypatch):
    for width in ("80", "120"):
        monkeypatch.setenv("COLUMNS", width)
        shown = chain.succeed("tune-tau", "--cache", digits.cache, "--sample", 200).out
        assert "…" not in shown and shown.count("±") == 9 * 4 + 1
        table = shown.partition("\nCrossing")[0].splitlines()
        assert max(map(len, table[1:])) <= 80  # which a terminal shows uncut


def test_the_figure_marks_the_crossing_among_the_temperatures(digits, monkeypatch):
    from dive.report import figures

    drawn = []
    monkeypatch.setattr(figures, "plot_means", lambda *arguments: drawn.append(arguments))
    words = ("tune-tau", "--tau", 1, 3, "--power", 1, "--json", "--plot", "p.png", "--cache")
    ratio = chain.succeed(*words, digits.cache).document["crossing"]["ratio"]
    caches.of_two_classes(Path("c.h5"), [(150, -6.0)])
    fallback = chain.succeed(*words, "c.h5").document["recommended"]
    (_, means), (_, others) = drawn
    names = [name for name, _ in means.groups]
    assert names[1:] == ["τ/p = 1", "τ/p = 3", f"τ/p = {ratio:.4g}\n(crossing)"]
    assert means.marked == [3]
    assert means.groups[3][1]["few"] == pytest.approx(means.groups[3][1]["many"], rel=1e-4)
    (place,) = others.marked
    assert others.groups[place][0] == f"τ/p = {fallback['temperature']:.4g}\n(fallback)"


def test_the_figure_marks_the_grids_recommendation_as_such_and_draws_no_temperature_twice(monkeypatch):
    from dive.report import figures

    drawn = []
    monkeypatch.setattr(figures, "plot_means", lambda _, means: drawn.append(means))
    words = ("tune-tau", "--cache", "c.h5", "--power", 1, "--json", "--plot", "p.png", "--force", "--tau", 1)
    caches.of_two_classes(Path("c.h5"), [(120, -6.0), (70, 12.0)], (150, 40))  # no class is few-shot
    document = chain.succeed(*words, 8, 32, "--rule", "grid").document
    assert document["crossing"] is None and document["recommendation"]["tau"] == 4
    caches.of_two_classes(Path("c.h5"), [(120, -6.0), (70, 12.0)])
    ratio = chain.succeed(*words, 3).document["crossing"]["ratio"]
    chain.succeed(*words, repr(ratio))
    names = [[name for name, _ in means.groups[1:]] for means in drawn]
    assert names[0] == ["τ/p = 1", "τ/p = 8\n(recommended)", "τ/p = 32"]
    assert names[2] == ["τ/p = 1", f"τ/p = {ratio:.4g}\n(crossing)"]
    assert [means.marked for means in drawn] == [[2], [3], [2]]


def test_clean_takes_the_clean_column_alone(digits):
    options = ("--tau", 3, "--power", 1, "--json")
    clean = chain.succeed("tune-tau", "--cache", digits.cache, "--clean", *options).document
    alone = chain.succeed("tune-tau", "--cache", digits.clean_cache, *options).document
    whole = chain.succeed("tune-tau", "--cache", digits.cache, *options).document
    z = LogitCache(digits.cache).whole()[:, 4].astype(np.float64) / 3
    t = np.exp(z - z.max(axis=1, keepdims=True))
    expected = (t / t.sum(axis=1, keepdims=True)).sum(axis=0)
    np.testing.assert_allclose(clean["pairs"][0]["per_class"], expected, rtol=1e-5)
    np.testing.assert_allclose(alone["pairs"][0]["per_class"], expected, rtol=1e-3)
    assert clean["views"] == "clean" and whole["views"] == 9
    assert abs(np.array(whole["pairs"][0]["per_class"]) - expected).max() > 0.1


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_plot_is_written_and_never_over_another_without_force(digits, suffix):
    plot = Path("made") / f"figure.{suffix}"
    arguments = ("tune-tau", "--cache", digits.cache, "--plot", plot, "--quiet")
    chain.succeed(*arguments)
    before = plot.read_bytes()
    assert before.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix])
    assert f"figure.{suffix} exists already" in chain.dive(*arguments, "--tau", 2).complaint
    assert plot.read_bytes() == before
    chain.succeed(*arguments, "--tau", 2, "--force")
    assert plot.read_bytes() != before


def test_where_few_has_no_class_tables_show_a_dash_and_json_a_null():
    labels = np.repeat(np.arange(3), (120, 110, 30))
    logits = caches.random_logits(260, 2, 3) + 4 * np.eye(3, dtype=np.float32)[labels][:, None]
    caches.write_cache(Path("c.h5"), logits, labels=labels)
    shown = chain.succeed("tune-tau", "--cache", "c.h5").out
    assert sum("–" in line.split() for line in shown.splitlines()) == 10  # the images, nine pairs
    document = chain.succeed("tune-tau", "--cache", "c.h5", "--json").document
    assert document["images"] == {"many": 115.0, "medium": 30.0, "few": None}
    assert all(pair["few"] is None for pair in document["pairs"])


def test_a_group_that_gets_nothing_is_shown_and_is_valid_json():
    labels = np.repeat(np.arange(3), (120, 50, 10))
    logits = np.tile(np.array([60.0, 55.0, -60.0]), (180, 1, 1))
    caches.write_cache(Path("c.h5"), logits, labels=labels)
    document = chain.succeed("tune-tau", "--cache", "c.h5", "--tau", 1, "--power", 1, "--json").document
    (pair,) = document["pairs"]
    assert pair["few"] == 0 and pair["ratio"] is None
    assert "–" in chain.succeed("tune-tau", "--cache", "c.h5", "--tau", 1, "--power", 1).out


def test_several_caches_are_shown_one_by_one_and_compared_in_one_figure(digits, monkeypatch):
    from dive.report import figures

    drawn = []
    monkeypatch.setattr(figures, "plot_means", lambda _, means: drawn.append((means.title, means.groups)))
    both = ("tune-tau", "--cache", digits.cache, digits.clean_cache, "--tau", 1, "--power", 1, "--clean")
    document = chain.succeed(*both, "--json", "--plot", "both.png").document
    alone = [
        chain.succeed("tune-tau", "--cache", cache, "--tau", 1, "--power", 1, "--clean", "--json").document
        for cache in (digits.cache, digits.clean_cache)
    ]
    assert document == {"caches": alone}
    title, groups = drawn[0]
    assert title == "Virtual examples per class, τ/p = 1, the clean view"
    assert [name for name, _ in groups] == ["images", "teacher\n(bsce)", "teacher\n(bsce)"]
    assert groups[0][1] == alone[0]["images"]
    assert groups[1][1] == {shot: alone[0]["pairs"][0][shot] for shot in ("many", "medium", "few")}
    shown = chain.succeed(*both).out
    assert str(digits.cache) in shown and str(digits.clean_cache) in shown
    chain.succeed(*both[:-1], "--json", "--plot", "views.png")
    title, groups = drawn[1]
    assert title == "Virtual examples per class, τ/p = 1"
    names = ["teacher\n(bsce)\n9 stored views", "teacher\n(bsce)\n1 stored view"]
    assert [name for name, _ in groups] == ["images", *names]
    caches.write_cache(Path("other.h5"), caches.random_logits(12, 1, 3))
    complaint = chain.dive("tune-tau", "--cache", digits.cache, "other.h5", "--plot", "o.png").complaint
    assert "plot caches of one data set" in complaint and not Path("o.png").exists()


def test_options_beat_assignments_beat_the_file(digits):
    document = chain.succeed(
        *("student", *chain.DIGITS, "--cache", digits.cache, "--out", "s.pt", "--json", "--epochs", 1),
        *("--set", "distillation.tau=4", "--set", "distillation.power=0.7", "--tau", 2),
    ).document
    distillation = document["recipe"]["distillation"]
    assert (distillation["tau"], distillation["power"], distillation["weight"]) == (2, 0.7, 0.5)


def test_the_longest_way_through_an_image_folder_and_its_archive(tmp_path):
    images = folders.write_images(tmp_path / "images")
    with zipfile.ZipFile("images.zip", "w") as archive:
        for path in images.rglob("*.png"):
            archive.write(path, path.relative_to(images))
    config = folders.write_recipe(Path("insects.yaml"), images)
    told = ("--config", config, "--precision", "fp32")
    from_folder = chain.succeed("teacher", *told, "--json")
    assert "views.size" in from_folder.err and "ant 9, bee 5, cat 2" in from_folder.err
    from_archive = chain.succeed("teacher", *told, "--data", "images.zip", "--out", "z.pt", "--json")
    for key in ("weights_hash", "data_fingerprint", "accuracy"):
        assert from_folder.document[key] == from_archive.document[key]
    # a cache of the one serves a student of the other
    chain.succeed("export-logits", *told)
    student = chain.succeed("student", *told, "--data", "images.zip", "--json").document
    assert student["data_fingerprint"] == from_folder.document["data_fingerprint"]
    shown = chain.succeed("eval", *told[:2]).out
    assert "teacher (bsce)" in shown and "student (τ=3, p=0.5, w=0.5)" in shown


def refused(*arguments: object, code: int | None = None) -> str:
    """The complaint of a command that changes nothing on disk and leaves nothing behind."""
    before = {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}
    outcome = chain.dive(*arguments)
    complaint = outcome.complaint
    assert code in (None, outcome.code), outcome
    assert {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")} == before
    return complaint


def test_several_faults_of_a_config_are_reported_together_with_their_keys():
    Path("faulty.yaml").write_text(
        "nmae: x\ndata:\n  source: imagenet\n  imbalance: 0.5\nmodel: resnet32\n"
        "optimizer:\n  lr: fast\n  momentum: 2\ndistillation:\n  tau: -1\n  power: 1.5\n  weight: .nan\n"
    )
    complaint = refused("teacher", "--config", "faulty.yaml", "--set", "schedule.epochs=0", code=2)
    for key in (
        "nmae",
        "data.kind",
        "data.imbalance",
        "model",
        "optimizer.lr",
        "optimizer.momentum",
        "distillation.tau",
        "distillation.power",
        "distillation.weight",
        "schedule.epochs",
    ):
        assert key in complaint, key
    assert "faulty.yaml" in complaint


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("junk", "junk"),
        ("junk=1", "junk"),
        ("=3", "=3"),
        ("optimizer.lr=[", "optimizer.lr"),
        ("data.junk=1", "data.junk"),
        ("data=1", "data"),
        ("optimizer.lr=quick", "optimizer.lr"),
        ("seed=-1", "seed"),
        ("name=../x", "name"),
    ],
)
def test_a_bad_assignment_is_named_by_every_command(name, assignment, named):
    assert named in refused(name, "--set", assignment, code=2)


@pytest.mark.parametrize("content", ["a: [", "- a\n- b\n", "just text", "\x00", "a: 1\na: 2\n"])
def test_a_config_that_is_no_recipe_is_named(content):
    Path("odd.yaml").write_text(content)
    assert "odd.yaml" in refused("teacher", "--config", "odd.yaml", code=2)


def test_a_config_that_is_missing_a_folder_or_binary_is_named():
    assert "none.yaml" in refused("teacher", "--config", "none.yaml", code=2)
    Path("folder.yaml").mkdir()
    assert "folder.yaml" in refused("teacher", "--config", "folder.yaml", code=2)
    Path("binary.yaml").write_bytes(bytes(range(256)))
    assert "binary.yaml" in refused("teacher", "--config", "binary.yaml", code=2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--tau", 0), "tau"),
        (("--tau", -3), "tau"),
        (("--tau", "nan"), "tau"),
        (("--tau", "inf"), "tau"),
        (("--power", 0), "power"),
        (("--power", -0.5), "power"),
        (("--power", 1.01), "power"),
        (("--power", "nan"), "power"),
    ],
)
def test_a_temperature_or_power_out_of_range_is_refused_by_student_and_tuning_alike(digits, options, named):
    complaint = refused("student", *chain.DIGITS, "--cache", digits.cache, *options, code=2)
    assert f"distillation.{named} must be" in complaint
    complaint = refused("tune-tau", "--cache", digits.cache, *options, code=2)
    assert f"--{named}" in complaint and "must be" in complaint
    assert f"{options[1]:g}" in complaint if not isinstance(options[1], str) else options[1] in complaint


@pytest.mark.parametrize("weight", [-0.1, 1.1, "nan"])
def test_a_weight_outside_0_and_1_is_refused(digits, weight):
    complaint = refused("student", *chain.DIGITS, "--cache", digits.cache, "--weight", weight, code=2)
    assert "distillation.weight must be" in complaint and str(weight) in complaint


@pytest.mark.parametrize("tau", [0, -1, "nan", "inf"])
def test_a_students_own_temperature_out_of_range_is_refused(digits, tau):
    options = ("--cache", digits.cache, "--student-tau", tau)
    assert "distillation.student_tau" in refused("student", *chain.DIGITS, *options, code=2)


@pytest.mark.parametrize(
    "views", ["junk", "0", "00", "-1", "+3", " 3", "10", "1.5", "", "Clean", "٣", "3\n", "9" * 5000]
)
def test_views_that_are_neither_all_nor_clean_nor_a_number_in_range_are_refused(digits, views):
    complaint = refused("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--views", views)
    assert "all, clean, or a number from 1 to 9" in complaint


def folder_recipe() -> tuple:
    images = folders.write_images(Path("images").absolute())
    return ("--config", folders.write_recipe(Path("insects.yaml"), images))


def spoil_images(kind: str) -> str:
    """Spoil the image folder; what the complaint must name."""
    images = Path("images")
    if kind == "no images at all":
        shutil.rmtree(images)
        return "images"
    if kind == "no test folder":
        shutil.rmtree(images / "test")
        return "test"
    if kind == "a class missing in test":
        shutil.rmtree(images / "test" / "bee")
        return "bee"
    if kind == "a class missing in train":
        shutil.rmtree(images / "train" / "cat")
        return "cat"
    if kind == "an empty class":
        for path in (images / "train" / "cat").iterdir():
            path.unlink()
        return "cat"
    spoiled = images / "train" / "ant" / "003.png"
    content = spoiled.read_bytes()
    spoiled.write_bytes({"a damaged image": content[:60], "no image": b"text", "an empty file": b""}[kind])
    return "003.png"


@pytest.mark.parametrize(
    "kind",
    [
        "no images at all",
        "no test folder",
        "a class missing in test",
        "a class missing in train",
        "an empty class",
        "a damaged image",
        "no image",
        "an empty file",
    ],
)
def test_missing_or_corrupt_images_are_named_and_nothing_is_written(kind):
    told = folder_recipe()
    named = spoil_images(kind)
    assert named in refused("teacher", *told, "--quiet", code=1)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(100)])
def test_an_archive_that_is_none_is_named(content):
    Path("images.zip").write_bytes(content)
    told = folder_recipe()
    assert "images.zip" in refused("teacher", *told, "--data", "images.zip", code=1)


def test_an_archive_cut_short_or_flipped_is_named():
    told = folder_recipe()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(Path("images").rglob("*.png")):
            archive.write(path, path.relative_to("images"))
    content = bytearray(buffer.getvalue())
    arguments = ("teacher", *told, "--quiet", "--data", "images.zip")
    Path("images.zip").write_bytes(content[:-200])
    assert "images.zip" in refused(*arguments, code=1)
    content[content.index(b"IDAT") + 30] ^= 0xFF
    Path("images.zip").write_bytes(content)
    assert "images.zip: test/ant/000.png" in refused(*arguments, code=1)


def test_cifar_that_is_missing_or_cut_short_is_refused():
    Path("data").mkdir()
    Path("data/cifar-100-python").mkdir()
    for name in ("train", "test", "meta"):
        Path("data/cifar-100-python", name).write_bytes(b"cut short")
    assert "cifar" in refused("teacher", "--quiet", code=1)
    Path("file").write_bytes(b"x")
    assert "file" in refused("teacher", "--quiet", "--data", "file", code=1)


def test_a_checkpoint_of_another_architecture_or_draw_is_not_exported(digits):
    arguments = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher)
    complaint = refused(*arguments, "--set", "model.name=resnet14", code=1)
    assert "teacher.pt is a resnet8" in complaint and "resnet14" in complaint
    for assignment in ("data.seed=1", "data.imbalance=20"):
        complaint = refused(*arguments, "--set", assignment, code=1)
        assert "teacher.pt was trained on other images" in complaint and "data fingerprint" in complaint


def test_a_checkpoint_whose_weights_do_not_fit_its_architecture_is_refused(digits):
    document = checkpoint.load(digits.teacher)
    document["architecture"] = {**document["architecture"], "name": "resnet14"}
    checkpoint.save(Path("odd.pt"), document)
    told = ("--set", "model.name=resnet14", "--teacher", "odd.pt")
    assert "odd.pt does not hold the weights of a resnet14" in refused("export-logits", *chain.DIGITS, *told)
    assert "odd.pt" in refused("eval", "odd.pt", "--quiet")


@pytest.mark.parametrize("kind", ["missing", "cut short", "flipped", "another file", "a folder"])
def test_a_checkpoint_that_cannot_be_read_is_named(digits, kind):
    content = bytearray(digits.teacher.read_bytes())
    if kind == "a folder":
        Path("bad.pt").mkdir()
    elif kind != "missing":
        content[20_000] ^= 2
        contents = {"cut short": content[:-1], "flipped": content, "another file": b"GIF89a"}
        Path("bad.pt").write_bytes(contents[kind])
    assert "bad.pt" in refused("export-logits", *chain.DIGITS, "--teacher", "bad.pt", code=1)
    assert "bad.pt" in refused("eval", "bad.pt", code=1)


def damage_cache(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "a flipped logit":
        content[caches.offset(path) + 40_000] ^= 1
    elif kind == "cut short":
        del content[-1:]
    elif kind == "another HDF5 file":
        with h5py.File("bad.h5", "w") as file:
            file["logits"] = np.zeros((3, 2, 4), dtype=np.float16)
        return
    elif kind == "unsealed":
        content[:512] = bytes(512)
    else:
        content = b"no HDF5"
    Path("bad.h5").write_bytes(content)


@pytest.mark.parametrize(
    "kind", ["a flipped logit", "cut short", "another HDF5 file", "unsealed", "another file"]
)
def test_a_cache_that_is_damaged_is_not_tuned_on_and_no_plot_is_made(digits, kind):
    damage_cache(digits.cache, kind)
    assert "bad.h5" in refused("tune-tau", "--cache", "bad.h5", "--plot", "p/figure.png", code=1)


def test_a_cache_without_clean_views_is_not_tuned_on_with_clean(digits):
    views = np.array([[0, 1]] * 6, dtype=np.int32)
    caches.write_cache(Path("c.h5"), caches.random_logits(6, 2, 3), views=views, clean_id=4)
    assert "c.h5 does not hold the clean view" in refused("tune-tau", "--cache", "c.h5", "--clean", code=1)


@pytest.mark.parametrize("plot", ["figure.jpg", "figure", "png"])
def test_a_plot_of_another_format_is_refused(digits, plot):
    complaint = refused("tune-tau", "--cache", digits.cache, "--plot", plot, code=2)
    assert plot in complaint and ".png" in complaint and ".svg" in complaint and ".pdf" in complaint


def writers(digits, place: str) -> list[tuple]:
    """Every command that writes, told to write into a folder."""
    return [
        ("teacher", *chain.DIGITS, "--epochs", 1, "--out", f"{place}/t.pt"),
        ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", f"{place}/c.h5"),
        ("student", *chain.DIGITS, "--epochs", 1, "--cache", digits.cache, "--out", f"{place}/s.pt"),
        ("tune-tau", "--cache", digits.cache, "--plot", f"{place}/figure.png"),
    ]


def test_an_output_folder_that_is_a_file_is_named(digits):
    Path("taken").write_text("a file")
    for arguments in writers(digits, "taken"):
        assert "taken" in refused(*arguments, code=1)
    for arguments in writers(digits, "taken/further"):
        assert "taken" in refused(*arguments, code=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_is_not_writable_is_named(digits):
    Path("locked").mkdir(mode=0o555)
    for arguments in writers(digits, "locked"):
        assert "locked" in refused(*arguments, code=1)


def test_an_output_that_is_a_folder_is_named(digits):
    for name in ("t.pt", "c.h5", "s.pt", "figure.png"):
        Path("outputs", name).mkdir(parents=True)
    for arguments in writers(digits, "outputs"):
        assert "is a folder" in refused(*arguments, "--force", code=1)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_where_there_is_none_is_refused(digits, device):
    for arguments in (*writers(digits, "out")[:3], ("eval", digits.teacher)):
        complaint = refused(*arguments, "--device", device, code=1)
        assert f"--device {device}" in complaint and "--device cpu" in complaint


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_a_device_of_no_known_name_is_refused(digits, device):
    for arguments in (*writers(digits, "out")[:3], ("eval", digits.teacher)):
        assert repr(device) in refused(*arguments, "--device", device)


def test_an_imbalance_that_empties_a_class_is_refused():
    complaint = refused("teacher", *chain.DIGITS, "--set", "data.imbalance=200", code=1)
    assert "class 9" in complaint and "data.imbalance" in complaint


def test_names_with_brackets_are_shown_as_they_are_in_tables_and_errors(digits):
    place = Path("[red]x[/red] [/x]")
    place.mkdir(parents=True)
    shutil.copy(digits.cache, place / "c.h5")
    shutil.copy(digits.teacher, place / "t.pt")
    assert str(place) in chain.succeed("tune-tau", "--cache", place / "c.h5").out
    assert str(place) in " ".join(chain.succeed("eval", place / "t.pt").out.split())
    assert str(place / "none.pt") in refused("eval", place / "none.pt")
    exported = chain.succeed(
        "export-logits", *chain.DIGITS, "--teacher", place / "t.pt", "--out", place / "d.h5"
    )
    assert "[red]x[/red]" in exported.out


def test_json_has_no_numbers_that_json_does_not_know(defaults):
    for document in defaults[1].values():
        text = json.dumps(document, allow_nan=False)
        assert json.loads(text) == document


STRANGE = {"not UTF-8": os.fsdecode(b"b\xe4r"), "escape codes": "a\x1b[31mb\u202ec\nd\x9be"}
SHOWN = {"not UTF-8": r"b\xe4r", "escape codes": r"a\x1b[31mb\u202ec\nd\x9be"}


def assert_fit_for_a_terminal(outcome: chain.Outcome) -> None:
    assert not UNPRINTABLE.search((outcome.out + outcome.err).replace("\n", "")), outcome


def test_images_at_a_path_that_cannot_be_recorded_are_refused_before_anything_is_read():
    for name in ("teacher", "export-logits", "student", "eval"):
        complaint = refused(name, "--data", STRANGE["not UTF-8"], code=2)
        assert r"data.root must be a path in UTF-8, not 'b\xe4r'" in complaint


@pytest.mark.parametrize("kind", STRANGE)
def test_every_other_path_may_be_strange_and_is_shown_escaped(digits, kind):
    place = Path(STRANGE[kind])
    place.mkdir()
    config = Path(f"{STRANGE[kind]}.yaml")
    shutil.copy(chain.CONFIG, config)
    told = ("--config", config, "--device", "cpu", "--precision", "fp32")
    shutil.copy(digits.student, place / "s.pt")
    lines = [
        ("teacher", *told, "--epochs", 1, "--out", place / "t.pt"),
        ("export-logits", *told, "--views", "clean", "--teacher", place / "t.pt", "--out", place / "c.h5"),
        ("tune-tau", "--config", config, "--cache", place / "c.h5", "--plot", place / "p.png"),
        ("eval", place / "t.pt", place / "s.pt", "--per-class"),
        ("inspect", place / "c.h5"),
        ("inspect", place / "s.pt"),
        ("verify", place / "c.h5"),
    ]
    for arguments in lines:
        outcome = chain.succeed(*arguments)
        assert_fit_for_a_terminal(outcome)
        assert SHOWN[kind] in (outcome.out + outcome.err).replace("\n", "")
    for arguments in lines[3:]:
        outcome = chain.succeed(*arguments[:2], "--json")
        assert_fit_for_a_terminal(outcome)
        assert STRANGE[kind] in json.dumps(outcome.document, ensure_ascii=False).replace(r"\n", "\n").replace(
            r"\u001b", "\x1b"
        )
    for arguments in (("inspect", place / "no.pt"), ("tune-tau", "--config", place / "no.yaml"), lines[0]):
        outcome = chain.dive(*arguments)
        assert SHOWN[kind] in outcome.complaint
        assert_fit_for_a_terminal(outcome)


def test_class_names_and_facts_with_escape_codes_are_shown_escaped(digits):
    document = checkpoint.load(digits.teacher)
    bad = STRANGE["escape codes"]
    document["classes"] = [f"{bad}{i}" for i in range(10)]
    document["versions"]["torch"] = bad
    checkpoint.save(Path("t.pt"), document)
    outcome = chain.dive("eval", "t.pt")
    assert SHOWN["escape codes"] in outcome.complaint
    assert_fit_for_a_terminal(outcome)
    for options in ((), ("--json",)):
        outcome = chain.succeed("inspect", "t.pt", *options)
        assert_fit_for_a_terminal(outcome)
    assert outcome.document["versions"]["torch"] == bad


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("teacher", "--epochs", "٣"), "write 3"),
        (("teacher", "--epochs", "1_0"), "write 10"),
        (("teacher", "--epochs", "1000001"), "must be from 1 to 1000000"),
        (("teacher", "--seed", "-1"), "must be from 0 to 9223372036854775807"),
        (("teacher", "--seed", "010"), "write 10"),
        (("teacher", "--eval-every", "0x10"), "write 16"),
        (("student", "--seed", "0", "-1"), "must be from 0 to 9223372036854775807"),
        (("student", "--tau", "٣"), "write 3"),
        (("student", "--power", "0_5"), "write 5"),
        (("student", "--weight", "00.5"), "write 0.5"),
        (("tune-tau", "--tau", "1", "1:30"), "decimal digits"),
        (("tune-tau", "--tau", "1e300"), "at most 1e+06"),
        (("tune-tau", "--tau", "1e-300"), "at least 1e-06"),
        (("tune-tau", "--power", "1e-300"), "at least 1e-06"),
        (("verify", "c.h5", "--seed", "-1"), "must be from 0 to 9223372036854775807"),
        (("verify", "c.h5", "--sample", "1_0"), "write 10"),
        (("verify", "c.h5", "--sample", "9" * 5000), "must be a whole number"),
        (("teacher", "--set", "data.root=~nosuchuser", "--set", "data.kind=folder"), "no such home folder"),
    ],
)
def test_a_number_or_path_that_would_be_taken_for_another_is_refused(arguments, named):
    assert named in refused(*arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_config_that_is_a_pipe_is_not_waited_for(name):
    os.mkfifo("pipe")
    assert "cannot read the config pipe: it is a FIFO" in refused(name, "--config", "pipe", code=2)


@pytest.mark.parametrize("words", [("tune-tau", "--cache"), ("verify",)])
def test_a_seed_of_a_sample_that_is_not_drawn_is_refused(digits, words):
    complaint = chain.dive(*words, digits.cache, "--seed", 3).complaint
    assert "--seed is the seed of --sample: give --sample N too" in complaint
