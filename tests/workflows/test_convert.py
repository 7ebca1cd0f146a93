"""`dive convert`: a cache in another encoding is that of an export in it, made without the teacher."""

import itertools
import json
from pathlib import Path

import caches
import chain
import h5py
import numpy as np
import pytest

from dive import outputs
from dive.cache import writer
from dive.cache.reader import LogitCache
from dive.cache.writer import part_path
from dive.errors import DiveError
from dive.models import checkpoint
from dive.workflows.convert import ConvertOptions, convert

OUT = Path("out.h5")
SOURCE = Path("source.h5")


def written(store: str, n: int = 7) -> LogitCache:
    """A small cache of an encoding."""
    return caches.write_cache(SOURCE, caches.values(store, n, 3, 4), store=store)


def pairs(held: bool) -> list[tuple[str, str]]:
    """Encodings and those they can be converted to, or cannot."""
    of_features = {store: store.startswith("features") for store in caches.STORES}
    every = [(old, new) for old in caches.STORES for new in caches.STORES if old != new]
    return [(old, new) for old, new in every if (of_features[old] or not of_features[new]) == held]


@pytest.mark.parametrize(("old", "new"), pairs(held=True))
def test_every_encoding_that_a_cache_holds_the_numbers_of_can_be_written(old, new):
    source = written(old)
    convert(SOURCE, ConvertOptions(new, OUT))
    cache = LogitCache(OUT)
    assert cache.store == new and cache.identity == {**source.identity, "store": new}
    rounding = float(source.codec.rounding(source.encoded_whole()).max())
    assert cache.facts == source.facts | {
        "converted_from": [{"hash": source.hash, "store": old}],
        "rounding": pytest.approx(1.01 * rounding, rel=0.006),  # in three digits
    }
    for name in ("keys", "classes"):
        assert getattr(cache, name) == getattr(source, name)
    for name in ("labels", "views", "digests", "class_counts"):
        np.testing.assert_array_equal(getattr(cache, name), getattr(source, name))
    off = np.abs(caches.decoded(OUT) - caches.decoded(SOURCE)).max(axis=-1)
    assert (off <= cache.codec.rounding(cache.encoded_whole()) + 1e-5).all()
    chain.succeed("verify", OUT)


def test_a_cache_of_a_coarser_one_is_verified_against_its_teacher_by_what_both_rounded(digits):
    """Its own float32 rounds next to nothing; what int8 rounded stays, over two conversions."""
    chain.succeed("convert", digits.features_cache, "--store", "int8", "--out", "coarse.h5")
    chain.succeed("convert", "coarse.h5", "--store", "float16", "--out", "middle.h5")
    chain.succeed("convert", "middle.h5", "--store", "float32", "--out", OUT)
    sampled = ("--sample", 200, "--teacher", digits.teacher, "--device", "cpu", "--json", "--quiet")
    found = chain.succeed("verify", OUT, *sampled).document["sampled"]
    assert 0.001 < found["largest"] <= found["allowed"] < 0.5
    made = [LogitCache(Path(name)) for name in ("coarse.h5", "middle.h5", "out.h5")]
    for before, after in itertools.pairwise(made):
        off = float(before.codec.rounding(before.encoded_whole()).max()) + before.facts["rounding"]
        assert after.facts["rounding"] == pytest.approx(1.01 * off, rel=0.006)


@pytest.mark.parametrize(("old", "new"), pairs(held=False))
def test_features_cannot_be_made_of_logits(old, new):
    written(old)
    complaint = chain.dive("convert", SOURCE, "--store", new).complaint
    assert (
        f"source.h5 holds logits ({old}), from which features cannot be computed; dive export-logits"
        in complaint
    )
    assert sorted(chain.files_under()) == ["source.h5"]


@pytest.mark.parametrize("store", caches.STORES)
def test_a_cache_is_not_converted_to_what_it_is(store):
    written(store)
    assert f"is in {store} already" in chain.dive("convert", SOURCE, "--store", store).complaint


def test_the_rows_are_those_of_an_export_in_that_encoding(digits):
    """But for the order in which a product with the head is summed."""
    words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher)
    for store in ("features-int8", "int8"):
        chain.succeed(*words, "--store", store, "--out", f"{store}.h5")
        chain.succeed("convert", digits.features_cache, "--store", store, "--out", OUT, "--force")
        converted, exported = caches.stored(OUT), caches.stored(Path(f"{store}.h5"))
        assert converted.dtype == exported.dtype
        same = converted == exported
        assert same.mean() > 0.5 and LogitCache(OUT).shape == (399, 9, 10)
        step = exported["scale"].astype(np.float64).max()
        assert np.abs(caches.decoded(OUT) - caches.decoded(Path(f"{store}.h5"))).max() < 20 * step
        identities = [LogitCache(path).identity for path in (OUT, Path(f"{store}.h5"))]
        assert identities[0] == identities[1]


def test_a_student_learns_from_a_converted_cache_and_its_record_says_how_it_is_stored(digits):
    chain.succeed("convert", digits.features_cache, "--store", "features-int8", "--out", OUT)
    told = ("student", *chain.DIGITS, "--epochs", 1, "--cache", OUT, "--out", "s.pt", "--json")
    assert chain.succeed(*told).document["cache"]["store"] == "features-int8"
    assert "converted_from" in chain.succeed("inspect", OUT, "--json").document["facts"]


@pytest.mark.parametrize("store", ["features", "features-int8"])
def test_a_student_of_features_ends_in_the_weights_of_one_of_their_logits_in_float32(digits, store):
    """Bit for bit: what the step decodes is what `convert` writes."""
    source = digits.features_cache
    if store != "features":
        chain.succeed("convert", source, "--store", store, "--out", SOURCE)
        source = SOURCE
    chain.succeed("convert", source, "--store", "float32", "--out", OUT)
    ends = []
    for cache in (source, OUT):
        chain.succeed("student", *chain.DIGITS, "--epochs", 3, "--cache", cache, "--out", f"{cache.stem}.pt")
        ends.append(checkpoint.load(Path(f"{cache.stem}.pt"))["weights_hash"])
    assert ends[0] == ends[1]


def test_a_chain_of_conversions_names_every_cache(digits):
    convert(digits.features_cache, ConvertOptions("float32", OUT))
    convert(OUT, ConvertOptions("int8", Path("small.h5")))
    assert [one["store"] for one in LogitCache(Path("small.h5")).facts["converted_from"]] == [
        "features",
        "float32",
    ]


def test_the_result_lies_beside_the_cache_and_both_sizes_are_shown():
    written("float16", n=100)
    shown = chain.succeed("convert", SOURCE, "--store", "int8")
    assert Path("source-int8.h5").exists() and "source-int8.h5: float16 to int8, " in shown.err
    assert "float16" in shown.out and "int8" in shown.out and "source-int8.h5" in shown.out
    document = chain.succeed("convert", SOURCE, "--store", "float32", "--json", "--quiet").document
    assert document["bytes"] == Path("source-float32.h5").stat().st_size
    assert document["from_bytes"] == SOURCE.stat().st_size and document["shape"] == [100, 3, 4]


def test_a_finished_result_is_not_replaced_without_force_and_the_source_never():
    written("float16")
    OUT.write_bytes(b"mine")
    words = ("convert", SOURCE, "--store", "int8", "--out")
    assert "out.h5" in chain.dive(*words, OUT, "--force").complaint and OUT.read_bytes() == b"mine"
    OUT.unlink()
    chain.succeed(*words, OUT)
    before = OUT.read_bytes(), SOURCE.read_bytes()
    assert "exists already" in chain.dive(*words, OUT).complaint
    assert "is a file that the command reads" in chain.dive(*words, SOURCE, "--force").complaint
    chain.succeed(*words, OUT, "--force")
    assert (OUT.read_bytes(), SOURCE.read_bytes()) == before


@pytest.mark.parametrize("store", ["float32", "int8", "features-int8"])
def test_a_stopped_conversion_is_resumed_and_ends_in_the_same_bytes(monkeypatch, store):
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 6)
    written("features")
    words = ("convert", SOURCE, "--store", store, "--out")
    chain.succeed(*words, "whole.h5")
    with chain.stopped_after(2):
        assert chain.dive(*words, OUT).code == 130
    assert part_path(OUT).exists() and not OUT.exists()
    assert "resuming: 2 of 4 blocks" in chain.succeed(*words, OUT).err
    assert OUT.read_bytes() == Path("whole.h5").read_bytes() and not part_path(OUT).exists()


def test_a_conversion_of_another_cache_or_an_export_is_not_resumed(monkeypatch, digits):
    features, logits = digits.features_cache, digits.cache  # which other tests take, in blocks as they are
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 600)
    words = ("--store", "float32", "--out", OUT)
    with chain.stopped_after(1):
        assert chain.dive("convert", features, *words).code == 130
    part = part_path(OUT).read_bytes()
    other = chain.dive("convert", logits, *words).complaint
    assert (
        "out.h5.part was begun from something else (converted_from.1.hash: " in other and "--force" in other
    )
    exporting = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, *words)
    assert "converted_from" in chain.dive(*exporting).complaint
    assert part_path(OUT).read_bytes() == part
    chain.succeed("convert", logits, *words, "--force")


def test_a_damaged_source_leaves_no_result(digits):
    content = bytearray(digits.cache.read_bytes())
    content[caches.offset(digits.cache) + 999] ^= 1
    SOURCE.write_bytes(content)
    assert (
        "source.h5 is corrupt"
        in chain.dive("convert", SOURCE, "--store", "int8", "--out", OUT, "--quiet").complaint
    )
    assert not OUT.exists()


def test_blocks_of_another_size_are_converted_too(monkeypatch):
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 15)
    written("features", n=23)
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 6)
    convert(SOURCE, ConvertOptions("float32", OUT))
    assert LogitCache(OUT).block_rows == 2 and LogitCache(SOURCE).block_rows == 5
    np.testing.assert_allclose(caches.decoded(OUT), caches.decoded(SOURCE), rtol=1e-6, atol=1e-5)


def test_logits_beyond_the_encodings_range_are_refused_in_one_line():
    values = caches.random_logits(5, 3, 4)
    values[3, 1, 2] = 1e5
    caches.write_cache(SOURCE, values, store="float32")
    for store in ("float16", "int8"):
        complaint = chain.dive("convert", SOURCE, "--store", store, "--out", OUT, "--quiet").complaint
        assert "not finite in float16" in complaint
        part_path(OUT).unlink()


def test_only_one_process_writes_and_an_unknown_encoding_is_named():
    written("float16")
    with outputs.only_writer(OUT):
        complaint = chain.dive("convert", SOURCE, "--store", "int8", "--out", OUT).complaint
    assert "is being written by another process" in complaint
    with pytest.raises(DiveError, match="give one of float16, float32, int8"):
        convert(SOURCE, ConvertOptions("int4"))


def test_a_cache_of_version_3_becomes_one_of_this_version():
    written("float16")

    def as_version_3(file: h5py.File) -> None:
        file.attrs["version"] = 3
        file.attrs["identity"] = json.dumps({"recipe": "small", "dtype": "float16"})
        del file.attrs["encoding"]

    caches.resealed(SOURCE, as_version_3)
    convert(SOURCE, ConvertOptions("float32", OUT))
    assert LogitCache(OUT).identity == {"recipe": "small", "store": "float32"}
    np.testing.assert_array_equal(LogitCache(OUT).whole(), LogitCache(SOURCE).whole())
