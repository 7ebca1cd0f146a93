"""`dive verify`: what it finds, what it asks the teacher again, and what it cannot be fooled by."""

import importlib.metadata
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import caches
import chain
import folders
import h5py
import numpy as np
import pytest

from dive.cache.reader import LogitCache
from dive.models import checkpoint
from dive.workflows.verify import sample

PATH = Path("cache.h5")


@pytest.fixture
def copy(digits) -> Path:
    """A copy of the all-views cache."""
    shutil.copy(digits.cache, PATH)
    return PATH


def test_a_whole_cache_passes_with_the_accuracy_that_its_rows_have(digits):
    document = chain.succeed("verify", digits.cache, "--json", "--quiet").document
    with h5py.File(digits.cache, "r") as file:
        right = file["logits"][:].astype(np.float64).argmax(axis=2) == file["labels"][:][:, None]
    assert document["stored_views_accuracy"] == pytest.approx(right.mean(), rel=1e-12)
    assert document["shape"] == [399, 9, 10]
    printed = chain.succeed("verify", digits.cache).out
    assert f"{100 * right.mean():.2f} % correct" in printed and "is intact" in printed


def test_the_export_says_the_same_accuracy(digits):
    arguments = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", "again.h5", "--json")
    exported = chain.succeed(*arguments).document["stored_views_accuracy"]
    assert exported == LogitCache(digits.cache).accuracy


def slip(file: h5py.File) -> None:
    file["logits"][:] = np.roll(file["logits"][:], 3, axis=0)


def swap_labels(file: h5py.File) -> None:
    file["labels"][:] = file["labels"][:][::-1]


def spoil(file: h5py.File) -> None:
    file["logits"][7, 2, 1] = np.nan


@pytest.mark.parametrize(
    ("change", "named"),
    [(slip, "do not match their labels"), (swap_labels, "do not match their labels"), (spoil, "not finite")],
)
def test_what_a_seal_made_anew_hides_is_found(copy, change, named):
    caches.resealed(copy, change)
    LogitCache(copy).whole()  # the seal and the CRCs match
    complaint = chain.dive("verify", copy, "--quiet").complaint
    assert "cache.h5: samples " in complaint and named in complaint


def test_counts_that_do_not_fit_the_labels_are_refused(copy):
    def change(file: h5py.File) -> None:
        file["labels"][0] = (file["labels"][0] + 1) % 10

    caches.resealed(copy, change)
    assert "contradicts itself" in chain.dive("verify", copy).complaint


@pytest.mark.parametrize("place", ["logits", "tables"])
def test_a_flipped_bit_is_found(copy, place):
    content = bytearray(copy.read_bytes())
    content[caches.offset(copy) + 999 if place == "logits" else 1500] ^= 1
    copy.write_bytes(content)
    assert "corrupt" in chain.dive("verify", copy).complaint


def test_the_teacher_run_again_agrees(digits):
    arguments = ("verify", digits.cache, "--sample", 200, "--teacher", digits.teacher, "--json", "--quiet")
    sampled = chain.succeed(*arguments).document["sampled"]
    assert sampled["pairs"] == 200 and sampled["agreement"] == 1
    assert 0 < sampled["largest"] < sampled["allowed"] < 0.05
    assert chain.succeed(*arguments).document["sampled"] == sampled  # the same pairs
    other = chain.succeed(*arguments, "--seed", 1).document["sampled"]
    assert other["largest"] != sampled["largest"]


def test_the_teacher_run_again_says_of_resizing_what_its_training_said(digits, tmp_path):
    told = chain.succeed("verify", digits.cache, "--sample", 9, "--teacher", digits.teacher, "--quiet")
    assert told.err == ""
    config = folders.write_recipe(Path("insects.yaml"), folders.write_images(tmp_path / "images"))
    common = ("--config", config, "--quiet", "--precision", "fp32", "--device", "cpu")
    chain.succeed("teacher", *common, "--epochs", 1, "--out", "t.pt")
    for size in ("8", "12", "null"):  # the teacher's, another, and that of the pictures
        words = ("--set", f"views.size={size}", "--teacher", "t.pt", "--out", f"{size}.h5")
        chain.succeed("export-logits", *common, *words)
        words = ("verify", f"{size}.h5", "--sample", 100, "--teacher", "t.pt", "--json", "--quiet")
        assert chain.succeed(*words).document["sampled"]["agreement"] == 1
    assert [LogitCache(Path(f"{size}.h5")).identity["view_space"]["image"][0] for size in (8, 12)] == [8, 12]


def test_more_pairs_than_there_are_means_all(digits):
    document = chain.succeed(
        "verify", digits.drawn_cache, "--sample", 10**6, "--teacher", digits.teacher, "--json", "--quiet"
    ).document
    assert document["sampled"]["pairs"] == 399 * 4


def test_logits_that_the_teacher_does_not_say_are_found_though_they_classify_alike(copy, digits):
    def change(file: h5py.File) -> None:
        file["logits"][:] = file["logits"][:] * np.float16(1.05)

    caches.resealed(copy, change)
    chain.succeed("verify", copy, "--quiet")
    complaint = chain.dive("verify", copy, "--sample", 50, "--teacher", digits.teacher, "--quiet").complaint
    assert "does not hold the logits of" in complaint


def test_a_row_of_another_view_is_found(copy, digits):
    def change(file: h5py.File) -> None:
        file["logits"][:] = file["logits"][:][:, ::-1]

    caches.resealed(copy, change)
    complaint = chain.dive("verify", copy, "--sample", 50, "--teacher", digits.teacher, "--quiet").complaint
    assert "does not hold the logits of" in complaint


def test_another_teacher_is_refused(digits):
    complaint = chain.dive(
        "verify", digits.cache, "--sample", 5, "--teacher", digits.student, "--quiet"
    ).complaint
    assert "is not the teacher of" in complaint and "weights hash" in complaint


@pytest.mark.parametrize(
    "arguments",
    [("--data", "/nonexistent"), ("--device", "cuda:7"), ("--model", "a:b"), ("--config", "digits_lt/bbn")],
)
def test_what_is_of_a_teacher_is_refused_without_one(digits, arguments):
    outcome = chain.dive("verify", digits.cache, *arguments)
    assert outcome.code == 2 and "are for --teacher; give it too" in outcome.complaint


@pytest.mark.parametrize("arguments", [("--sample", 5), ("--teacher", "t.pt")])
def test_sample_and_teacher_belong_together(digits, arguments):
    outcome = chain.dive("verify", digits.cache, *arguments)
    assert outcome.code == 2 and "--teacher FILE needs --sample N" in outcome.complaint


def test_a_cache_in_bf16_is_compared_with_bf16_in_mind(digits):
    chain.succeed(
        "export-logits",
        *("--config", chain.CONFIG, "--precision", "bf16", "--quiet"),
        *("--teacher", digits.teacher, "--out", "bf16.h5"),
    )
    from dive.progress import Progress

    found = sample(LogitCache(Path("bf16.h5")), digits.teacher, 300, 0, None, "cpu", Progress(quiet=True))
    assert found.precision == "bf16" and 0.01 < found.allowed < 1


def test_a_cache_in_tf32_is_computed_again_in_fp32_where_there_is_no_tf32(digits):
    from dive.progress import Progress

    found = {}
    for precision in ("fp32", "tf32", "bf16"):
        cache = LogitCache(digits.cache)
        cache.facts["precision"] = precision
        found[precision] = sample(cache, digits.teacher, 50, 0, None, "cpu", Progress(quiet=True))
    assert [one.precision for one in found.values()] == ["fp32", "fp32", "bf16"]
    assert found["tf32"].comparison.largest == found["fp32"].comparison.largest
    assert found["fp32"].allowed < found["tf32"].allowed < found["bf16"].allowed / 2


def test_the_digests_are_those_of_the_images(digits):
    import hashlib

    import reference_loop

    from dive.recipe.reading import load

    samples = reference_loop.training_samples(load(chain.CONFIG))
    cache = LogitCache(digits.cache)
    for row in (0, 57, 398):
        expected = hashlib.sha256(b"(8, 8, 1)" + samples.pictures.held[row].tobytes()).digest()[:16]
        assert cache.keys[row] == samples.keys[row]
        assert cache.digests[row].tobytes() == expected


@pytest.mark.parametrize("form", ["table", "json"])
def test_inspect_shows_a_cache(digits, form):
    if form == "json":
        document = chain.succeed("inspect", digits.cache, "--json").document
        assert document["kind"] == "logit cache" and document["complete"] is True
        assert [document[key] for key in ("samples", "views", "classes", "store")] == [399, 9, 10, "float16"]
        assert document["hash"] == LogitCache(digits.cache).hash
        assert (
            document["identity"]["teacher"]["weights_hash"] == checkpoint.load(digits.teacher)["weights_hash"]
        )
        assert document["facts"]["versions"]["torch"] == importlib.metadata.version("torch")
    else:
        printed = chain.succeed("inspect", digits.cache).out
        for text in (
            "399 samples × 9 views × 10 classes, float16",
            "digits_lt_bbn",
            "teacher (bsce), seed 0",
        ):
            assert text in printed


def test_inspect_shows_a_checkpoint(digits):
    document = chain.succeed("inspect", digits.student, "--json").document
    record = json.loads(digits.student.with_suffix(".json").read_text())
    assert "model" not in document and document["kind"] == "student"
    assert document["accuracy"] == record["accuracy"] and document["cache_hash"] == record["cache_hash"]
    printed = chain.succeed("inspect", digits.student).out
    assert LogitCache(digits.cache).hash in printed.replace("\n", "").replace(" ", "")
    assert f"all {100 * record['accuracy']['all']:.2f}" in printed


def test_inspect_shows_how_far_an_unfinished_export_is():
    logits = caches.random_logits(10, 3, 4)
    caches.write_blocks(PATH, caches.content_for(logits), logits, [])
    part = Path("cache.h5.part")
    document = chain.succeed("inspect", part, "--json").document
    assert (document["blocks_done"], document["blocks"], document["complete"]) == (0, 1, False)
    assert "0 of 1 blocks" in chain.succeed("inspect", part).out


def test_inspect_shows_how_far_an_unfinished_run_is(monkeypatch):
    from dive.training import loop
    from dive.training.step import Step

    real, calls = Step.advance, []

    def stopping(self: Step) -> None:
        calls.append(1)
        if len(calls) > 13 * 2:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(loop, "SAVING_SHARE", float("inf"))
    monkeypatch.setattr(Step, "advance", stopping)
    assert chain.dive("teacher", *chain.DIGITS, "--epochs", 5, "--out", "t.pt").code == 130
    document = chain.succeed("inspect", "t.state", "--json").document
    assert (document["kind"], document["epochs_done"], document["epochs"]) == ("unfinished teacher", 2, 5)
    assert "2 of 5 epochs" in chain.succeed("inspect", "t.state").out


@pytest.mark.parametrize("content", [None, b"", b"text", b"PK\x03\x04 no zip", b"DIVESEAL", bytes(5000)])
def test_inspect_refuses_what_is_none_of_dives(content):
    if content is not None:
        Path("file").write_bytes(content)
    assert "file" in chain.dive("inspect", "file").complaint


def test_inspect_and_verify_refuse_a_damaged_file(copy, digits):
    content = bytearray(digits.student.read_bytes())
    content[len(content) // 2] ^= 1
    Path("s.pt").write_bytes(content)
    assert "s.pt is corrupt" in chain.dive("inspect", "s.pt").complaint
    copy.write_bytes(copy.read_bytes()[:-1])
    for command in ("inspect", "verify"):
        assert "it was sealed with" in chain.dive(command, copy).complaint


@pytest.mark.parametrize("wrong", [-1, 9, 2**31 - 1])
def test_view_ids_outside_the_view_space_are_refused(copy, digits, wrong):
    def change(file):
        views = file["views"][:]
        views[5, 3] = wrong
        file["views"][:] = views

    caches.resealed(copy, change)
    for words in (
        ("verify", copy, "--sample", 5, "--teacher", digits.teacher, "--quiet"),
        ("student", *chain.DIGITS, "--cache", copy, "--epochs", 1, "--out", "s.pt"),
    ):
        assert "view ids that its view space does not have" in chain.dive(*words).complaint


def changed_view(row: int, column: int, view: int) -> Callable[[h5py.File], None]:
    """One other view id, in a file that is sealed anew."""

    def change(file: h5py.File) -> None:
        assert file["views"][row, column] != view
        file["views"][row, column] = view

    return change


@pytest.mark.parametrize("name", ["cache", "clean_cache", "drawn_cache"])
def test_one_wrong_view_id_under_a_right_seal_is_found_by_its_key(digits, name):
    """Of the whole space, of the clean view and of a draw; each id is one of the space."""
    shutil.copy(getattr(digits, name), PATH)
    chain.succeed("verify", PATH, "--quiet")
    with h5py.File(PATH, "r") as file:
        key, stored = file["keys"][57].decode(), file["views"][57].tolist()
    column = len(stored) - 1
    wrong = next(view for view in range(9) if view not in stored or len(stored) == 9 and view != stored[-1])
    caches.resealed(PATH, changed_view(57, column, wrong))
    complaint = chain.dive("verify", PATH, "--quiet").complaint
    assert f"{key!r} has in column {column} the id {wrong}, but" in complaint
    assert re.search(rf"(draws|has) {stored[column]};", complaint)


def test_two_views_of_a_draw_in_the_wrong_order_are_found(digits):
    """Each is one of the draw, and a row of logits would be taken for the other's."""
    shutil.copy(digits.drawn_cache, PATH)

    def change(file: h5py.File) -> None:
        file["views"][3, :2] = file["views"][3, :2][::-1]

    caches.resealed(PATH, change)
    assert "does not hold the views it states" in chain.dive("verify", PATH, "--quiet").complaint


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("view_seed", 1, "of seed 1 draws"),
        ("view_seed", None, "of seed None, which dive never exports"),
        ("views", "all", "'all', that is 9 a sample, but it has 4"),
        ("views", "clean", "'clean', that is 1 a sample, but it has 4"),
        ("views", "3", "'3', that is 3 a sample, but it has 4"),
        ("views", "10", "'10' of seed 0, which dive never exports"),
        ("views", ["4"], "which dive never exports"),
        ("store", "float32", "states that its rows are 'float32', but they are float16"),
        ("view_space", {"kind": "crop_flip", "pad": 0, "flip": True, "image": [8, 8]}, "its view space"),
        (
            "view_space",
            {"kind": "spiral", "pad": 1, "flip": False, "image": [8, 8]},
            "its kind is 'spiral', not one of",
        ),
        (
            "view_space",
            {"kind": "crop_flip", "pad": 1, "flip": False},
            "does not say which views it holds: it has no image",
        ),
        (
            "view_space",
            {"kind": "crop_flip", "pad": 1, "flip": False, "image": [8, 1e9]},
            "its image is [8, 1000000000.0], not",
        ),
        ("view_space", {"kind": "crop_flip", "pad": 1, "flip": False, "image": [8]}, "not have two sides"),
        ("view_space", {"kind": "crop_flip", "pad": "x", "flip": False, "image": [8, 8]}, "its pad is"),
    ],
)
def test_what_a_cache_says_of_its_views_must_be_true(digits, key, value, named):
    shutil.copy(digits.drawn_cache, PATH)

    def change(file: h5py.File) -> None:
        file.attrs["identity"] = json.dumps(json.loads(file.attrs["identity"]) | {key: value})

    caches.resealed(PATH, change)
    assert named in chain.dive("verify", PATH, "--quiet").complaint


def test_a_clean_id_that_is_not_the_view_spaces_is_found(copy):
    def change(file: h5py.File) -> None:
        file.attrs["facts"] = json.dumps(json.loads(file.attrs["facts"]) | {"clean_id": 5})

    caches.resealed(copy, change)
    complaint = chain.dive("verify", copy).complaint
    assert "states that its clean view is 5, but in its view space it is 4" in complaint


def test_wrong_view_ids_of_an_unbounded_space_are_found():
    """Drawn 62-bit ids, against a naive hash of (seed, key)."""
    from dive.randomness import STORED_VIEWS, hash64, key_hashes

    logits = caches.random_logits(30, 5, 3)
    keys = [f"a/{i}.png" for i in range(30)]
    hashes = map(int, key_hashes(keys))
    drawn = [sorted(int(hash64(7, STORED_VIEWS, one, k)[0]) >> 2 for k in range(5)) for one in hashes]
    identity = {
        "views": "5",
        "view_seed": 7,
        "view_space": {"kind": "autoaugment", "pad": 4, "flip": True, "image": [8, 8]},
    }
    options = {"keys": keys, "identity": identity, "views": np.array(drawn, dtype=np.int64)}
    caches.write_cache(PATH, logits, **options)
    chain.succeed("verify", PATH)
    caches.resealed(PATH, changed_view(29, 4, drawn[29][4] + 1))
    complaint = chain.dive("verify", PATH).complaint
    assert f"'a/29.png' has in column 4 the id {drawn[29][4] + 1}" in complaint
    assert f"of seed 7 draws {drawn[29][4]};" in complaint


def test_a_large_cache_is_compared_in_pieces(monkeypatch):
    from dive.cache import stored_views

    monkeypatch.setattr(stored_views, "_IDS_AT_ONCE", 20)  # two samples at once
    identity = {"views": "all", "view_space": {"kind": "crop_flip", "pad": 1, "flip": False, "image": [8, 8]}}
    caches.write_cache(PATH, caches.random_logits(7, 9, 3), identity=identity, clean_id=4)
    chain.succeed("verify", PATH)
    caches.resealed(PATH, changed_view(6, 8, 1))
    assert "'class 0/image 6.png' has in column 8 the id 1, but" in chain.dive("verify", PATH).complaint
