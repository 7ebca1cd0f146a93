"""Ensembles: a cache of several teachers is the mean of their caches, exported at once or merged later."""

import json
from pathlib import Path

import caches
import chain
import numpy as np
import own_networks
import pytest

from dive.cache import writer
from dive.cache.reader import LogitCache
from dive.cache.writer import part_path
from dive.models import checkpoint
from dive.workflows.merge import MergeOptions, merge_caches

OUT = Path("both.h5")
EXPORT = ("export-logits", *chain.DIGITS, "--views", 3, "--precision", "fp32")
ONE = ("--epochs", 1)


class Pair:
    """Two teachers whose networks and inputs differ, and caches of each and of both; made when asked for."""

    def __init__(self, first: Path, folder: Path) -> None:
        self.folder, self.teachers = folder, (first, folder / "wide.pt")
        changes = ("model.name=resnet14", "model.input.size=12", "model.input.mean=[0.1]")
        told = [word for change in changes for word in ("--set", change)]
        chain.succeed(
            "teacher", *chain.DIGITS, *told, "--epochs", 2, "--loss", "ce", "--out", self.teachers[1]
        )

    def cache(self, store: str, which: str) -> Path:
        """Of the `first` teacher, the `second`, or `both`, in an encoding."""
        path = self.folder / f"{which}-{store}.h5"
        if not path.exists():
            teachers = {"first": self.teachers[:1], "second": self.teachers[1:], "both": self.teachers}[which]
            own = ("--set", "model.name=resnet14") if which == "second" else ()
            chain.succeed(*EXPORT, *own, "--teacher", *teachers, "--store", store, "--out", path)
        return path

    def each(self, store: str) -> list[Path]:
        """The caches of the two teachers."""
        return [self.cache(store, which) for which in ("first", "second")]


@pytest.fixture(scope="module")
def pair(digits, tmp_path_factory):
    return Pair(digits.teacher, tmp_path_factory.mktemp("ensemble"))


def rounding(*paths: Path) -> np.ndarray:
    """How far the mean of some caches' logits may lie from the teachers' by storing alone, (N, V)."""
    opened = [LogitCache(path) for path in paths]
    return np.mean([cache.codec.rounding(cache.encoded_whole()) for cache in opened], axis=0)


@pytest.mark.parametrize("store", caches.STORES)
def test_the_cache_of_two_teachers_is_the_mean_of_their_caches_to_rounding(pair, store):
    both = pair.cache(store, "both")
    means = np.mean([caches.decoded(path) for path in pair.each(store)], axis=0)  # float64
    off = np.abs(caches.decoded(both) - means).max(axis=-1)
    allowed = rounding(both) + rounding(*pair.each(store)) + 1e-5 * np.abs(means).max()
    assert (off <= allowed).all() and allowed.max() < 0.1 * np.abs(means).max()
    each = caches.decoded(pair.each(store)[0])
    assert np.abs(each - means).max() > 5 * allowed.max()  # one of the two alone would be found


@pytest.mark.parametrize("store", caches.STORES)
def test_merging_two_caches_gives_what_an_export_of_both_teachers_gives(pair, store):
    chain.succeed("merge-caches", "--cache", *pair.each(store), "--out", OUT)
    merged, exported = LogitCache(OUT), LogitCache(pair.cache(store, "both"))
    assert merged.identity == exported.identity and merged.store == store
    assert merged.facts["teachers"] == exported.facts["teachers"]
    means = np.mean([caches.decoded(path) for path in pair.each(store)], axis=0)
    off = np.abs(caches.decoded(OUT) - means).max(axis=-1)
    assert (off <= rounding(OUT) + 1e-5 * np.abs(means).max()).all()
    chain.succeed("verify", OUT)


def test_features_of_an_ensemble_lie_side_by_side_under_one_head(pair):
    import h5py

    with h5py.File(pair.cache("features", "both")) as file:
        weight, bias, width = file["head_weight"][:], file["head_bias"][:], file["features"].shape[-1]
    models = [checkpoint.load(path)["model"] for path in pair.teachers]
    halves = [model["linear.weight"].numpy() / 2 for model in models]
    np.testing.assert_array_equal(weight, np.concatenate(halves, axis=1))
    np.testing.assert_allclose(bias, sum(model["linear.bias"].numpy() for model in models) / 2, rtol=1e-6)
    assert width == sum(half.shape[1] for half in halves)


def test_weights_are_shares_of_the_mean_and_a_merged_cache_can_be_merged_again(pair):
    first, second = pair.each("float32")
    chain.succeed("merge-caches", "--cache", first, second, "--weights", 2, 1, "--out", OUT)
    logits = [caches.decoded(path) for path in (first, second)]
    np.testing.assert_allclose(caches.decoded(OUT), (2 * logits[0] + logits[1]) / 3, atol=1e-4, rtol=1e-5)
    assert LogitCache(OUT).shares == pytest.approx([2 / 3, 1 / 3])
    chain.succeed("merge-caches", "--cache", OUT, second, "--out", "three.h5")
    np.testing.assert_allclose(
        caches.decoded(Path("three.h5")), logits[0] / 3 + logits[1] * 2 / 3, atol=1e-4, rtol=1e-5
    )
    three = LogitCache(Path("three.h5"))
    assert three.shares == pytest.approx([1 / 3, 1 / 6, 1 / 2])
    names = [teacher["architecture"]["name"] for teacher in three.teachers]
    assert names == ["resnet8", "resnet14", "resnet14"]
    chain.succeed("verify", "--cache", "three.h5", "--sample", 200, "--teacher", *pair.teachers, "--quiet")


@pytest.mark.parametrize(
    ("stores", "found"),
    [
        (("features", "features-int8"), "features"),
        (("float32", "int8"), "float16"),
        (("features", "float32"), "float16"),
    ],
)
def test_caches_of_two_encodings_are_merged_to_what_they_have_in_common(pair, stores, found):
    paths = [pair.cache(stores[0], "first"), pair.cache(stores[1], "second")]
    merge_caches(paths, MergeOptions(OUT))
    cache = LogitCache(OUT)
    assert cache.store == found and [one["store"] for one in cache.facts["merged_from"]] == list(stores)
    means = np.mean([caches.decoded(path) for path in paths], axis=0)
    off = np.abs(caches.decoded(OUT) - means).max(axis=-1)
    assert (off <= rounding(OUT) + 1e-5 * np.abs(means).max()).all()
    assert cache.facts["rounding"] >= rounding(*paths).max()
    words = ("verify", OUT, "--sample", 300, "--teacher", *pair.teachers, "--quiet")
    chain.succeed(*words)


def test_a_cache_in_another_order_of_its_samples_is_joined_by_key(pair):
    first, second = (LogitCache(path) for path in pair.each("float32"))
    order = np.random.default_rng(0).permutation(len(second.keys))
    content = caches.content_for(
        second.whole()[order],
        labels=second.labels[order],
        views=second.views[order],
        store="float32",
        keys=[second.keys[row] for row in order],
        digests=second.digests[order],
        classes=second.classes,
        identity=second.identity,
        facts=second.facts,
    )
    caches.write_blocks(Path("other.h5"), content, second.whole()[order])
    caches.finish(Path("other.h5"), content)
    merge_caches([first.path, Path("other.h5")], MergeOptions(OUT))
    np.testing.assert_allclose(
        LogitCache(OUT).whole(), (first.whole() + second.whole()) / 2, rtol=1e-6, atol=1e-5
    )


def test_a_student_trains_from_an_ensemble_and_every_table_names_it(pair):
    both, name = pair.cache("features", "both"), "ensemble of 2: teacher (bsce), teacher (ce)"
    words = ("student", *chain.DIGITS, "--cache", both, "--epochs", 1, "--out", "s.pt")
    shown = chain.succeed(*words).out
    assert f"Taught by an {name}." in shown and "its teacher" not in shown
    record = json.loads(Path("s.json").read_text())
    assert "teacher" not in record and record["teacher_weights"] == [0.5, 0.5]
    assert [one["loss"] for one in record["teachers"]] == ["bsce", "ce"]
    shown = " ".join(chain.succeed("inspect", both).out.split())
    assert name in shown and checkpoint.load(pair.teachers[1])["weights_hash"] in shown
    assert name in " ".join(chain.succeed("inspect", "s.pt").out.split())
    assert chain.succeed("tune-tau", "--cache", both, "--json").document["model"] == name
    chain.succeed("eval", "s.pt")
    exported = chain.succeed(*EXPORT, "--teacher", *pair.teachers, "--views", "clean", "--out", "clean.h5")
    assert name in " ".join(exported.out.split())
    merged = chain.succeed("merge-caches", "--cache", *pair.each("features"), "--out", OUT)
    assert name in " ".join(merged.out.split())


@pytest.mark.parametrize("store", ["float16", "features"])
def test_the_teachers_run_again_agree_in_any_order(pair, store):
    words = (
        "verify",
        "--cache",
        pair.cache(store, "both"),
        "--sample",
        200,
        "--quiet",
        "--json",
        "--teacher",
    )
    sampled = chain.succeed(*words, *pair.teachers).document["sampled"]
    assert sampled["agreement"] == 1 and 0 < sampled["largest"] < sampled["allowed"] < 0.05
    assert chain.succeed(*words, *reversed(pair.teachers)).document["sampled"] == sampled


def test_verify_refuses_other_teachers_than_the_ensembles_and_says_which_are_lacking(pair, digits):
    words = ("verify", "--cache", pair.cache("float16", "both"), "--sample", 5, "--quiet", "--teacher")
    first, second = pair.teachers
    lacking = checkpoint.load(second)["weights_hash"][:12]
    complaint = chain.dive(*words, first).complaint
    assert "is of an ensemble of 2" in complaint and lacking in complaint
    assert "is not a teacher of" in chain.dive(*words, first, second, digits.student).complaint
    assert "give each teacher once" in chain.dive(*words, first, first).complaint


def test_verify_finds_an_ensembles_rows_that_are_one_teachers(pair, tmp_path):
    both = LogitCache(pair.cache("float32", "both"))
    logits = LogitCache(pair.cache("float32", "first")).whole()
    content = caches.content_for(
        logits,
        store="float32",
        **{name: getattr(both, name) for name in ("labels", "views", "keys", "digests", "classes", "facts")},
        identity=both.identity,
    )
    caches.write_blocks(OUT, content, logits)
    caches.finish(OUT, content)
    chain.succeed("verify", OUT, "--quiet")
    words = ("verify", OUT, "--sample", 50, "--quiet", "--teacher", *pair.teachers)
    assert "does not hold the logits of" in chain.dive(*words).complaint


@pytest.mark.parametrize("command", ["export-logits", "merge-caches"])
def test_a_stopped_ensemble_is_resumed_and_ends_in_the_same_bytes(pair, monkeypatch, command):
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 300)
    words = {
        "export-logits": (*EXPORT, "--store", "features", "--teacher", *pair.teachers),
        "merge-caches": ("merge-caches", "--cache", *pair.each("features")),
    }[command]
    chain.succeed(*words, "--out", "whole.h5")
    with chain.stopped_after(2):
        assert chain.dive(*words, "--out", OUT).code == 130
    assert part_path(OUT).exists() and not OUT.exists()
    others = (*words[:-2], *reversed(words[-2:]))
    complaint = chain.dive(*others, "--out", OUT, "--quiet").complaint
    assert "teachers.1.weights_hash: " in complaint and "--force" in complaint
    outcome = chain.succeed(*[word for word in words if word != "--quiet"], "--out", OUT)
    assert "resuming: 2 of 4 blocks" in outcome.err
    assert OUT.read_bytes() == Path("whole.h5").read_bytes()


def test_an_unfinished_export_of_one_teacher_is_not_resumed_by_an_ensemble(pair):
    with chain.stopped_after(0):
        assert chain.dive(*EXPORT, "--teacher", pair.teachers[0], "--out", OUT).code == 130
    complaint = chain.dive(*EXPORT, "--teacher", *pair.teachers, "--out", OUT).complaint
    assert "teacher: " in complaint and "teachers: " in complaint


def test_teachers_of_other_images_or_given_twice_are_refused(pair, digits):
    chain.succeed("teacher", *chain.DIGITS, "--set", "data.seed=1", "--epochs", 1, "--out", "other.pt")
    complaint = chain.dive(*EXPORT, "--teacher", digits.teacher, "other.pt", "--out", OUT).complaint
    assert "other.pt was trained on other images than the recipe draws" in complaint
    complaint = chain.dive(*EXPORT, "--teacher", digits.teacher, digits.teacher, "--out", OUT).complaint
    assert "give each teacher once" in complaint and not OUT.exists()
    chain.dive(*EXPORT, "--teacher", digits.teacher, "absent.pt", "--out", OUT)
    assert not OUT.exists() and not part_path(OUT).exists()


def test_a_network_of_your_own_is_among_the_teachers_only_where_it_is_named(digits):
    source = "from torch import nn\ndef flat(classes):\n"
    own_networks.write("mine", source + "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n")
    own = "mine:flat"
    chain.succeed("teacher", *chain.DIGITS, "--set", f"model.name={own}", *ONE, "--out", "own.pt")
    words = (*EXPORT, "--teacher", digits.teacher, "own.pt", "--out", OUT)
    assert "give its name with --model" in chain.dive(*words).complaint
    chain.succeed(*words, "--model", own)
    assert LogitCache(OUT).teachers[1]["architecture"]["name"] == own


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--cache", "a.h5"), "takes two caches or more"),
        (("--cache", "a.h5", "b.h5", "--weights", 1), "2 caches and 1 --weights"),
        (("--cache", "a.h5", "b.h5", "--weights", 1, 0), "a weight must be a positive number, not 0"),
        (("--cache", "a.h5", "b.h5", "--weights", 1, -2), "a weight must be a positive number, not -2"),
        (
            ("--cache", "a.h5", "a.h5"),
            "a.h5 is of the same teacher as a.h5; give each teacher once, with --weights",
        ),
        (("--cache", "a.h5", "clean.h5"), "clean.h5 has other views than a.h5"),
        (("--cache", "a.h5", "plain.h5"), "plain.h5 does not state its origin"),
        (("--cache", "a.h5", "b.h5", "--store", "features"), "a.h5 holds logits (float32)"),
        (("--cache", "a.h5", "absent.h5"), "there is no logit cache absent.h5"),
    ],
)
def test_what_cannot_be_merged_is_refused_in_a_line(pair, digits, words, complaint):
    for name, path in zip(("a.h5", "b.h5"), pair.each("float32"), strict=True):
        Path(name).write_bytes(path.read_bytes())
    Path("clean.h5").write_bytes(digits.clean_cache.read_bytes())
    caches.write_cache(Path("plain.h5"), caches.random_logits(6, 2, 3))
    before = chain.files_under()
    assert complaint in chain.dive("merge-caches", *words, "--out", OUT, "--quiet").complaint
    assert chain.files_under() == before


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [([1.0], "of different numbers of teachers"), (["a", 2], "its identity/teacher_weights is")],
)
def test_a_forged_ensemble_whose_parts_do_not_fit_is_refused(pair, weights, complaint):
    Path("forged.h5").write_bytes(pair.cache("float32", "both").read_bytes())

    def change(file) -> None:
        identity = json.loads(file.attrs["identity"])
        file.attrs["identity"] = json.dumps(identity | {"teacher_weights": weights})

    caches.resealed(Path("forged.h5"), change)
    chain.succeed("inspect", "forged.h5")
    words = ("student", *chain.DIGITS, "--cache", "forged.h5", "--out", "s.pt")
    assert complaint in chain.dive(*words).complaint


def test_verify_asks_for_the_cache_before_its_teachers(pair):
    words = ("--sample", 5, "--teacher", *pair.teachers, pair.cache("float16", "both"))
    outcome = chain.dive("verify", *words)
    assert outcome.code == 2 and "give it before --teacher" in outcome.complaint
    outcome = chain.dive("verify", "a.h5", "--cache", "b.h5")
    assert outcome.code == 2 and "Give one cache" in outcome.complaint


@pytest.mark.parametrize("which", ["first", "both"])
def test_one_teacher_in_two_encodings_is_no_ensemble(pair, which):
    """Nor are the same two."""
    exact, short = pair.cache("float32", which), pair.cache("int8", which)
    complaint = chain.dive("merge-caches", "--cache", exact, short, "--out", "m.h5").complaint
    assert f"{short} is of the same teacher as {exact}; give each teacher once" in complaint
    assert not Path("m.h5").exists()
