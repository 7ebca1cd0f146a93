"""`dive import-logits`: logits of another program become a cache like any other."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import caches
import chain
import foreign
import numpy as np
import pytest
import torch

from dive.cache import writer
from dive.cache.encodings.registry import ENCODINGS
from dive.cache.reader import LogitCache
from dive.cache.writer import part_path
from dive.data.logit_files.logit_file import LogitFile
from dive.errors import DataError, DiveError
from dive.models.load import load_model
from dive.workflows import joined_logits
from dive.workflows.data import load_recipe
from dive.workflows.import_logits import ImportOptions, import_logits

OUT = Path("out.h5")
NPZ, H5 = Path("logits.npz"), Path("logits.h5")
STORES = [store for store in caches.STORES if not ENCODINGS[store].of_features]
DIGITS = ("--config", chain.CONFIG, "--quiet")
IMPORT = ("import-logits", NPZ, *DIGITS, "--out", OUT, "--teacher-prior")
STUDENT = ("student", *chain.DIGITS, "--epochs", 1, "--cache", OUT, "--out", "student.pt")


@pytest.fixture
def exported(digits) -> LogitCache:
    """What dive's own export wrote: whose keys, labels and logits others are compared with."""
    return LogitCache(digits.cache)


@pytest.fixture
def logits(exported) -> foreign.Logits:
    """The logits of that cache in all views, as another program would have them."""
    return foreign.Logits(exported.keys, exported.whole(), list(exported.classes), exported.views)


@pytest.fixture
def clean(logits) -> foreign.Logits:
    """Those of the clean view, the fifth of nine."""
    return foreign.Logits(logits.keys, logits.logits[:, 4].astype(np.float64), logits.classes)


def imported(logits: foreign.Logits, prior: str = "none", path: Path = NPZ, **options: object) -> LogitCache:
    """The cache of some logits."""
    wanted = ImportOptions(prior, out=OUT, force=True, **options)
    import_logits(load_recipe(chain.CONFIG), logits.save(path), wanted)
    return LogitCache(OUT)


@pytest.mark.parametrize("prior", ["none", "train"])
@pytest.mark.parametrize("store", STORES)
def test_the_cache_holds_each_logit_of_the_file_whatever_its_order(logits, exported, store, prior):
    given = logits.shuffled(1)
    cache = imported(given, prior, store=store)
    counts = dict(zip(exported.classes, np.bincount(exported.labels).tolist(), strict=True))
    assert cache.keys == exported.keys and cache.classes == exported.classes
    np.testing.assert_array_equal(cache.labels, exported.labels)
    np.testing.assert_array_equal(cache.digests, exported.digests)
    wanted = np.empty(cache.shape)
    for row, key in enumerate(cache.keys):
        for column, view in enumerate(cache.views[row].tolist()):
            values = given.of(key, view)
            for place, name in enumerate(cache.classes):
                wanted[row, column, place] = values[name] - (np.log(counts[name]) if prior == "train" else 0)
    off = np.abs(caches.decoded(OUT) - wanted).max(axis=-1)
    assert (off <= cache.codec.rounding(cache.encoded_whole()) + 1e-6 * np.abs(wanted).max()).all()
    right = np.argmax(cache.whole(), axis=-1) == cache.labels[:, None]
    assert cache.accuracy == pytest.approx(right.mean()) and cache.accuracy > 0.3
    assert chain.succeed("verify", OUT, "--json").document["store"] == store


def test_the_same_logits_make_the_same_bytes_in_every_format_type_and_order(logits):
    imported(logits, store="float16")
    wanted = OUT.read_bytes()
    wide = replace(logits, logits=logits.logits.astype(np.float64))
    for seed, (given, path, options) in enumerate(
        [
            (logits, H5, {}),
            (wide, NPZ, {}),
            (wide, H5, {"compression": "gzip"}),
            (replace(wide, views=wide.views.astype(np.uint8)), Path("logits.hdf5"), {"chunks": (7, 2, 3)}),
        ]
    ):
        given.shuffled(seed).save(path, **options)
        import_logits(load_recipe(chain.CONFIG), path, ImportOptions("none", OUT, force=True))
        assert OUT.read_bytes() == wanted, path
    named = LogitCache(OUT).identity["teacher"]["logits_hash"]
    wide.logits[5, 3, 2] += 1e-9  # less than any encoding keeps
    assert imported(wide).identity["teacher"]["logits_hash"] != named


def test_the_hash_of_logits_is_what_the_document_says(logits):
    cache = imported(logits.shuffled(2))
    taken = hashlib.sha256(b"".join(name.encode() + b"\0" for name in cache.classes) + b"\0")
    for row, key in enumerate(cache.keys):
        values = logits.logits[row].astype("<f8")
        inner = hashlib.sha256(logits.views[row].astype("<i8").tobytes() + values.tobytes())
        taken.update(key.encode() + b"\0" + inner.digest())
    assert cache.identity["teacher"] == {
        "kind": "imported",
        "prior": "none",
        "logits_hash": taken.hexdigest(),
    }


def test_identity_and_facts_are_an_exports_but_for_the_teacher_and_are_in_the_document(
    logits, exported, repository
):
    cache = imported(logits)
    ours, theirs = ({k: v for k, v in one.identity.items() if k != "teacher"} for one in (cache, exported))
    assert ours == theirs
    assert cache.facts == exported.facts | {
        "precision": "imported",
        "teacher": cache.identity["teacher"] | {"file": "logits"},
    }
    document = (repository / "docs" / "cache-format.md").read_text()
    told = [*cache.identity, *cache.identity["teacher"], *cache.facts, *cache.facts["teacher"]]
    assert [key for key in told if f"`{key}`" not in document] == []


def test_ids_that_no_export_would_store_are_kept_as_given(logits, exported):
    some = np.sort(
        np.random.default_rng(0).integers(0, 9, (len(logits.keys), 4)), axis=1
    )  # some of them twice
    given = replace(logits, logits=np.take_along_axis(logits.logits, some[..., None], axis=1), views=some)
    cache = imported(given.shuffled(3))
    assert cache.identity["views"] == "given"
    np.testing.assert_array_equal(cache.views, some)
    np.testing.assert_array_equal(
        caches.decoded(OUT), np.take_along_axis(exported.whole(), some[..., None], 1).astype(np.float16)
    )
    chain.succeed("verify", OUT)
    assert chain.succeed(*STUDENT, "--json").document["cache"]["views"] == "given"


def test_views_are_named_as_an_export_names_them(logits, digits, clean):
    assert imported(logits).identity["views"] == "all"
    assert imported(clean).identity["views"] == "clean"
    assert imported(replace(clean, views=np.array([4]))).identity["views"] == "clean"
    assert imported(replace(clean, views=np.array([3]))).identity["views"] == "given"
    drawn = LogitCache(digits.drawn_cache)
    given = replace(logits, logits=drawn.whole(), views=drawn.views)
    assert imported(given.shuffled(4)).identity["views"] == "4"
    np.testing.assert_array_equal(LogitCache(OUT).whole(), drawn.whole())


def test_a_student_learns_from_the_clean_view_and_its_record_names_the_file_and_the_prior(clean):
    clean.save(NPZ)
    shown = chain.succeed(*IMPORT, "train")
    assert "imported (logits)" in shown.out and "399" in shown.out and shown.err == ""
    document = chain.succeed(*STUDENT, "--fixed-view", "--json").document
    logits_hash = LogitCache(OUT).identity["teacher"]["logits_hash"]
    told = {"kind": "imported", "prior": "train", "file": "logits", "logits_hash": logits_hash}
    assert document["teacher"] == told
    assert "imported (logits), class prior train" in chain.succeed("inspect", "student.pt").out
    assert "imported (logits), class prior train, logits hash " in chain.succeed("inspect", OUT).out
    chain.succeed(*STUDENT, "--free-views", "--force")


def test_it_is_tuned_converted_and_merged_with_a_cache_that_dive_exported(logits, exported, digits):
    imported(replace(logits, logits=logits.logits * 3), store="float32")
    chain.succeed("tune-tau", "--cache", OUT)
    chain.succeed("convert", OUT, "--store", "int8", "--out", "small.h5")
    chain.succeed("verify", "small.h5")
    chain.succeed("merge-caches", "--cache", OUT, digits.cache, "--store", "float32", "--out", "both.h5")
    np.testing.assert_allclose(caches.decoded(Path("both.h5")), 2 * exported.whole(), rtol=1e-6, atol=1e-5)
    both = LogitCache(Path("both.h5"))
    assert [one["kind"] for one in both.facts["teachers"]] == ["imported", "teacher"]
    assert both.facts["precision"] == "imported"  # no export's is less known
    shown = chain.succeed("inspect", "both.h5").out
    assert "ensemble of 2: imported (logits), teacher (bsce)" in shown
    chain.succeed("verify", "both.h5")
    words = ("--sample", 5, "--teacher", digits.teacher, "--quiet")
    assert "has no teacher to run: its logits were imported" in chain.dive("verify", OUT, *words).complaint
    complaint = chain.dive("verify", "both.h5", *words).complaint
    assert "logits of one of its teachers were imported from a file" in complaint
    chain.succeed(*STUDENT[:-4], "--cache", "both.h5", "--out", "student.pt")


def test_rows_of_other_images_are_left_out_and_counted(clean):
    more = ["no/such image.png", "0/digit_9999"]
    noise = np.full((2, 10), np.nan)  # which are not looked at
    replace(clean, keys=clean.keys + more, logits=np.concatenate([clean.logits, noise])).save(NPZ)
    words = [word for word in IMPORT if word != "--quiet"]
    told = chain.succeed(*words, "none").err
    assert "2 of 401 keys of logits.npz are not in the recipe's draw, for example 'no/such image.png'" in told
    record = chain.succeed(*IMPORT, "none", "--force", "--json").document
    assert (record["unknown"], record["missing"], record["shape"]) == (2, 0, [399, 1, 10])


def test_images_that_the_file_lacks_are_not_in_the_cache_and_a_student_is_told_to_go_without(clean, exported):
    lacking = [3, 17, 120]
    clean.only(np.delete(np.arange(399), lacking)).save(NPZ)
    outcome = chain.succeed(*IMPORT, "train", "--json")
    assert f"3 of 399 training samples are not in logits.npz, for example '{clean.keys[3]}'" in outcome.err
    assert "--allow-missing" in outcome.err and outcome.document["missing"] == 3
    cache = LogitCache(OUT)
    assert cache.keys == [key for row, key in enumerate(clean.keys) if row not in lacking]
    whole = np.log(
        np.bincount(exported.labels)
    )  # of the draw that the network learned on, not of what is left
    wanted = np.delete(clean.logits, lacking, axis=0) - whole
    np.testing.assert_array_equal(cache.whole()[:, 0], wanted.astype(np.float32).astype(np.float16))
    chain.succeed("verify", OUT)
    complaint = chain.dive(*STUDENT, "--fixed-view").complaint
    assert f"lacks 3 of 399 training images, for example {clean.keys[3]}" in complaint
    trained = chain.succeed(*STUDENT, "--fixed-view", "--allow-missing", "--json").document
    assert sum(trained["class_counts"]) == 396


def test_a_file_without_a_class_or_without_any_sample_is_refused(clean, exported):
    clean.only(np.flatnonzero(exported.labels != 9)).save(NPZ)
    assert "logits.npz has no training sample of class '9'" in chain.dive(*IMPORT, "none").complaint
    replace(clean, keys=[key.partition("/")[2] for key in clean.keys]).save(NPZ)
    complaint = chain.dive(*IMPORT, "none").complaint
    assert (
        "none of the 399 keys of logits.npz is that of a training sample: the file has for example "
        "'digit_0000', the recipe's draw" in complaint
    )
    assert "'0/digit_0000'" in complaint and not OUT.exists()


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (["zero", *"123456789"], "it has 10, among them 'zero', which is not one of the 10"),
        (
            [*"0123456789", "10"],
            "it has 11, among them '10', which is not one of the 10 of the recipe's data",
        ),
        (list("012345678"), "it has 9, and lacks '9'"),
    ],
)
def test_other_classes_are_refused(clean, classes, told):
    padded = np.resize(clean.logits, (399, len(classes)))
    replace(clean, classes=classes, logits=padded).save(NPZ)
    assert f"logits.npz has other classes: {told}" in chain.dive(*IMPORT, "none").complaint


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_logit_that_is_not_finite_is_named_by_its_key(logits, value):
    changed = logits.logits.astype(np.float64)
    changed[20, 3, 7] = value
    replace(logits, logits=changed).shuffled(5).save(NPZ)
    complaint = chain.dive(*IMPORT, "none").complaint
    assert "a logit that is not finite in float32" in complaint
    assert f"of '{logits.keys[20]}', class '7'" in complaint


def test_a_logit_beyond_the_encodings_range_is_refused_in_one_line(clean):
    clean.logits[20, 3] = 1e5
    clean.save(NPZ)
    assert "; --store float32 --force starts over" in chain.dive(*IMPORT, "none").complaint
    chain.succeed(*IMPORT, "none", "--store", "float32", "--force")


@pytest.mark.parametrize("view", [-1, 9, 2**63 - 1])
def test_a_view_id_that_the_space_does_not_have_is_named_by_its_key(logits, view):
    views = logits.views.astype(np.int64)
    views[7, 2] = view
    replace(logits, views=views).save(NPZ)
    complaint = chain.dive(*IMPORT, "none").complaint
    assert (
        f"has the view id {view} for '{logits.keys[7]}', but the recipe's views have ids from 0 to 8"
        in complaint
    )


def test_the_prior_must_be_said(clean):
    clean.save(NPZ)
    complaint = chain.dive("import-logits", NPZ, *DIGITS).complaint
    assert "give --teacher-prior train for" in complaint and "or --teacher-prior none for" in complaint
    assert "nonsense" in chain.dive(*IMPORT, "nonsense").complaint
    with pytest.raises(DiveError, match="prior must be one of none, train, not .some."):
        imported(clean, "some")


@pytest.mark.parametrize("store", sorted(set(caches.STORES) - set(STORES)))
def test_features_are_refused_with_the_reason(clean, store):
    clean.save(NPZ)
    complaint = chain.dive(*IMPORT, "none", "--store", store).complaint
    assert (
        f"--store {store} stores the inputs of a network's last linear layer, which the file does not have"
        in complaint
    )
    assert complaint.endswith("give one of float16, float32, int8")


def test_a_cache_is_not_imported_and_neither_it_nor_the_file_is_replaced(digits, clean):
    words = ("import-logits", digits.cache, *DIGITS, "--teacher-prior", "none", "--out", OUT)
    assert "is a logit cache already; dive convert" in chain.dive(*words).complaint
    clean.save(H5)
    words = ("import-logits", H5, *DIGITS, "--teacher-prior", "none", "--out")
    before = H5.read_bytes()
    assert "is a file that the command reads" in chain.dive(*words, H5, "--force").complaint
    chain.succeed(*words, OUT)
    assert "exists already" in chain.dive(*words, OUT).complaint
    assert H5.read_bytes() == before


def test_logits_that_tell_nothing_of_the_labels_are_warned_of(clean):
    generator = np.random.default_rng(0)
    mixed = [clean.keys[row] for row in generator.permutation(399)]
    for given in (
        replace(clean, keys=mixed),
        replace(clean, classes=clean.classes[1:] + clean.classes[:1]),
        replace(clean, logits=np.tile(np.arange(10.0)[::-1], (399, 1))),  # as good as the largest class
    ):
        given.save(NPZ)
        warned = chain.succeed(*IMPORT, "none", "--force").err
        assert re.search(
            r"are right in [\d.]+% of the views, no better than chance \([\d.]+%\): are its", warned
        )
    clean.save(NPZ)
    assert chain.succeed(*IMPORT, "none", "--force").err == ""


def test_a_stopped_import_is_resumed_and_ends_in_the_same_bytes(monkeypatch, logits):
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 900)
    cache = imported(logits.shuffled(6))
    assert len(cache.block_correct) == 4
    whole = OUT.read_bytes()
    OUT.unlink()
    with chain.stopped_after(2):
        assert chain.dive(*IMPORT, "none").code == 130
    assert part_path(OUT).exists() and not OUT.exists()
    assert "2 of 4 blocks" in chain.succeed("inspect", part_path(OUT)).out
    assert "teacher.prior" in chain.dive(*IMPORT, "train").complaint
    words = [word for word in IMPORT if word != "--quiet"]
    assert "resuming: 2 of 4 blocks" in chain.succeed(*words, "none").err
    assert OUT.read_bytes() == whole and not part_path(OUT).exists()


@pytest.mark.slow
def test_a_killed_import_is_resumed_and_ends_in_the_same_bytes(logits):
    settings = {"dive.cache.writer:BLOCK_IMAGES": 900}
    logits.save(NPZ)
    spot = "dive.cache.writer:CacheWriter.write"
    assert chain.struck(spot, 9, *IMPORT, "none", settings=settings).code == 0
    whole = OUT.read_bytes()
    OUT.unlink()
    assert chain.struck(spot, 3, *IMPORT, "none", settings=settings).code == -9
    assert part_path(OUT).exists() and not OUT.exists()
    assert chain.struck(spot, 9, *IMPORT, "none", settings=settings).code == 0
    assert OUT.read_bytes() == whole


def test_other_logits_do_not_resume_it(monkeypatch, logits):
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 900)
    logits.save(NPZ)
    with chain.stopped_after(1):
        assert chain.dive(*IMPORT, "none").code == 130
    replace(logits, logits=logits.logits + np.float32(1)).save(NPZ)
    assert "teacher.logits_hash" in chain.dive(*IMPORT, "none").complaint
    chain.succeed(*IMPORT, "none", "--force")


def test_a_file_that_changes_while_it_is_read_is_refused(monkeypatch, logits):
    logits.save(H5)
    real = joined_logits.summarised

    def then_changed(*arguments: object) -> object:
        summary = real(*arguments)
        monkeypatch.setattr(LogitFile, "rows", lambda self, places: logits.logits[places] + np.float32(1))
        return summary

    monkeypatch.setattr("dive.workflows.import_logits.summarised", then_changed)
    with pytest.raises(DataError, match="logits.h5 changed while it was read"):
        import_logits(load_recipe(chain.CONFIG), H5, ImportOptions("none", OUT))
    assert not OUT.exists()


def test_an_h5_is_read_in_pieces_first_in_its_own_order(monkeypatch, logits):
    monkeypatch.setattr(joined_logits, "_BYTES_AT_ONCE", 8 * 9 * 10 * 50)
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 360)
    read: list[np.ndarray] = []
    real = LogitFile.rows
    monkeypatch.setattr(LogitFile, "rows", lambda self, places: read.append(places) or real(self, places))
    imported(logits.shuffled(7), path=H5)
    assert max(map(len, read)) == 50
    first = np.concatenate(read[:8])
    np.testing.assert_array_equal(first, np.arange(399))


def test_the_documents_scripts_make_files_that_are_imported(repository, digits):
    page = (repository / "docs" / "import-logits.md").read_text()
    script, several, in_h5 = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(script.splitlines()) <= 10
    of_script: dict = {}
    exec(script, of_script)
    (commands,) = re.findall(r"\n\n((?:    dive .*\n)+)", page)
    for words in (line.split()[1:] for line in commands.splitlines()):
        epoch = ("--epochs", 1, "--device", "cpu") if words[0] == "student" else ()
        chain.succeed(*words, *epoch, "--quiet")
    cache = LogitCache(Path("cache/imported.h5"))
    assert cache.shape == (399, 1, 10) and cache.accuracy > 0.8 and Path("imported.pt").is_file()

    network = load_model(digits.teacher)
    found: dict = {"network": lambda batch: network((batch * 255).round().to(torch.uint8))}
    exec(several, found)
    record = chain.succeed(*IMPORT, "none", "--json").document
    assert (record["shape"], record["missing"], record["unknown"]) == ([399, 4, 10], 0, 0)
    wanted = LogitCache(digits.drawn_cache)
    np.testing.assert_array_equal(LogitCache(OUT).views, wanted.views)
    np.testing.assert_allclose(LogitCache(OUT).whole(), wanted.whole(), rtol=2**-10, atol=1e-5)
    for names, out in ((found, OUT), (of_script, Path("cache/imported.h5"))):
        exec(in_h5, names)
        first = out.read_bytes()
        chain.succeed("import-logits", H5, *DIGITS, "--out", out, "--teacher-prior", "none", "--force")
        assert out.read_bytes() == first
