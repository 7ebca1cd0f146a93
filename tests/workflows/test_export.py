"""Export: the cached row is what the teacher says of that very view, in one go or resumed."""

import json
import re
from pathlib import Path

import caches
import chain
import folders
import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tf

from dive import outputs
from dive.cache import writer
from dive.cache.reader import LogitCache
from dive.cache.writer import part_path
from dive.models import checkpoint
from dive.views.crop_flip import CropFlip

OUT = Path("cache.h5")
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]  # of folders.RECIPE


@pytest.fixture(scope="module")
def insects(tmp_path_factory):
    """A recipe with flips (50 views) and a teacher of three epochs."""
    folder = tmp_path_factory.mktemp("insects")
    config = folders.write_recipe(folder / "insects.yaml", folders.write_images(folder / "images"))
    teacher = folder / "teacher.pt"
    chain.succeed("teacher", "--config", config, "--precision", "fp32", "--quiet", "--out", teacher)
    return config, teacher, folder / "images"


def export(insects, *options: object, out: Path = OUT) -> chain.Outcome:
    config, teacher, _ = insects
    return chain.dive("export-logits", "--config", config, "--teacher", teacher, "--out", out, *options)


def live_batch(images: Path, keys: list[str], ids: np.ndarray) -> torch.Tensor:
    """Views `ids` (M,) of images `keys`, rendered by torchvision from the files: (M, 3, 8, 8)."""
    views = []
    for key, view in zip(keys, ids.tolist(), strict=True):
        image = tf.pad(Image.open(images / "train" / key).convert("RGB"), [2])
        dy, dx, flip = view // 2 // 5, view // 2 % 5, view % 2
        image = tf.crop(image, dy, dx, 8, 8)
        views.append(tf.normalize(tf.to_tensor(tf.hflip(image) if flip else image), MEAN, STD))
    return torch.stack(views)


def live_logits(insects, cache: LogitCache, batch: int = 37, bf16: bool = False) -> np.ndarray:
    """What the teacher says of every view the cache holds, (N, V, C) float32, in batches of another size."""
    _, teacher, images = insects
    network, _ = checkpoint.load_model(teacher)
    model = network.body.eval()  # which takes what torchvision normalised
    n, v, c = cache.shape
    keys = [key for key in cache.keys for _ in range(v)]
    ids = cache.views.reshape(-1)
    logits = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for start in range(0, n * v, batch):
            stop = start + batch
            logits.append(model(live_batch(images, keys[start:stop], ids[start:stop])).float())
    return torch.cat(logits).numpy().reshape(n, v, c)


def test_in_fp32_the_cached_row_is_the_live_output_on_that_view_to_float16_rounding(insects):
    assert export(insects, "--precision", "fp32").code == 0
    cache = LogitCache(OUT)
    assert cache.shape == (16, 50, 3) and cache.store == "float16"
    live = live_logits(insects, cache).astype(np.float64)
    half_a_unit = np.spacing(np.abs(live).astype(np.float16)).astype(np.float64) / 2
    # Another batch size sums in another order: a few units of fp32, at the size of the logits.
    noise = 1e-5 * np.abs(live).max()
    assert (np.abs(cache.encoded_whole() - live) <= half_a_unit + noise).all()
    assert np.abs(live).max() > 0.5  # and it says something


def test_in_fp32_a_float32_cache_holds_the_live_output_itself(insects):
    assert export(insects, "--precision", "fp32", "--store", "float32").code == 0
    cache = LogitCache(OUT)
    assert cache.store == "float32"
    live = live_logits(insects, cache)
    np.testing.assert_allclose(cache.encoded_whole(), live, rtol=0, atol=1e-5 * np.abs(live).max())


@pytest.mark.parametrize("store", ["int8", "features", "features-int8"])
def test_in_fp32_the_other_encodings_decode_to_the_live_output_within_what_they_state(insects, store):
    assert export(insects, "--precision", "fp32", "--store", store).code == 0
    cache = LogitCache(OUT)
    assert cache.store == cache.identity["store"] == store
    live = live_logits(insects, cache)
    off = np.abs(caches.decoded(OUT) - live).max(axis=-1)
    noise = 1e-5 * np.abs(live).max()
    assert (off <= cache.codec.rounding(cache.encoded_whole()) + noise).all()
    assert off.max() < 0.02 * np.abs(live).max()  # which is little


def test_the_head_of_a_cache_of_features_is_the_teachers_last_layer(insects):
    assert export(insects, "--store", "features").code == 0
    model = checkpoint.load(insects[1])["model"]
    with h5py.File(OUT, "r") as file:
        assert file["features"].shape == (16, 50, 64)
        np.testing.assert_array_equal(file["head_weight"][:], model["linear.weight"].numpy())
        np.testing.assert_array_equal(file["head_bias"][:], model["linear.bias"].numpy())


def test_a_network_that_does_not_end_in_a_linear_has_no_features_and_says_so(insects, monkeypatch):
    from dive.models import features

    monkeypatch.setattr(features, "last_linear", lambda *_: None)
    complaint = export(insects, "--store", "features", "--quiet").complaint
    assert "--store features: the network of" in complaint
    assert "does not end in one torch.nn.Linear" in complaint and not OUT.exists()
    outcome = export(insects)
    assert outcome.code == 0 and "features" not in outcome.err


def test_the_sizes_of_every_encoding_are_told_and_a_much_smaller_one_is_advised(digits, insects, monkeypatch):
    told = export(insects).err
    assert "the rows take 4.8 kB in float16, 9.6 kB in float32, 5.6 kB in int8, 102 kB in features, " in told
    assert "--store" not in told
    from dive.workflows import export_asked

    real = export_asked.row_sizes
    monkeypatch.setattr(export_asked, "row_sizes", lambda classes, features: real(1000, features))
    assert "; --store features saves more than half of float16" in export(insects, "--force").err
    assert "saves more" not in export(insects, "--store", "features", "--force").err


def test_in_bf16_the_cached_row_is_the_live_output_within_two_units_in_the_last_place(insects):
    assert export(insects, "--precision", "bf16").code == 0
    cache = LogitCache(OUT)
    live = live_logits(insects, cache, bf16=True)
    unit = 2.0 ** (np.floor(np.log2(np.abs(live).max(axis=-1, keepdims=True))) - 7)  # bf16 keeps eight bits
    assert (np.abs(cache.encoded_whole().astype(np.float64) - live) <= 2 * unit).all()
    in_fp32 = live_logits(insects, cache)
    assert not np.array_equal(live, in_fp32)  # the two are told apart


def test_another_view_or_another_image_is_another_row(insects):
    export(insects, "--precision", "fp32")
    rows = LogitCache(OUT).encoded_whole().reshape(-1, 3)
    assert len(np.unique(rows, axis=0)) > 0.95 * len(rows)


def test_keys_labels_and_classes_are_those_of_the_folder_and_every_view_is_there_once(insects):
    export(insects, "--precision", "fp32")
    files = sorted(f"{p.parent.name}/{p.name}" for p in (insects[2] / "train").glob("*/*.png"))
    with h5py.File(OUT, "r") as file:
        assert [key.decode() for key in file["keys"][:]] == files
        assert [name.decode() for name in file["classes"][:]] == ["ant", "bee", "cat"]
        np.testing.assert_array_equal(file["labels"][:], [0] * 9 + [1] * 5 + [2] * 2)
        np.testing.assert_array_equal(file["class_counts"][:], [9, 5, 2])
        np.testing.assert_array_equal(file["views"][:], np.tile(np.arange(50), (16, 1)))


def test_the_clean_export_is_the_clean_column_of_the_whole(digits):
    whole, clean = LogitCache(digits.cache), LogitCache(digits.clean_cache)
    assert clean.shape == (399, 1, 10) and (clean.views == 4).all()  # the centre of 3×3 crops
    assert clean.keys == whole.keys
    column = whole.encoded_whole()[:, 4].astype(np.float64)
    unit = np.spacing(np.abs(whole.encoded_whole()[:, 4])).astype(np.float64)
    assert (np.abs(clean.encoded_whole()[:, 0] - column) <= unit).all()


def test_k_drawn_views_are_distinct_rows_of_the_whole_differ_by_image_and_are_evenly_drawn(digits):
    whole, drawn = LogitCache(digits.cache), LogitCache(digits.drawn_cache)
    assert drawn.shape == (399, 4, 10)
    assert all(len(set(row)) == 4 for row in drawn.views.tolist())
    assert len({tuple(row) for row in drawn.views.tolist()}) > 50  # of 126 choices of 4 of 9
    counts = np.bincount(drawn.views.ravel(), minlength=9)
    assert len(counts) == 9
    assert np.abs(counts - 399 * 4 / 9).max() < 5 * np.sqrt(399 * (4 / 9) * (5 / 9))
    rows = np.take_along_axis(whole.encoded_whole(), drawn.views[:, :, None].astype(np.int64), axis=1)
    unit = np.spacing(np.abs(rows)).astype(np.float64)
    assert (np.abs(drawn.encoded_whole().astype(np.float64) - rows) <= unit).all()


def test_an_image_draws_the_same_views_in_a_smaller_data_set(digits):
    images = ("--set", "data.imbalance=70")
    chain.succeed("teacher", *chain.DIGITS, *images, "--epochs", 1, "--out", "few.pt")
    options = ("--teacher", "few.pt", "--views", 4, "--out", OUT)
    chain.succeed("export-logits", *chain.DIGITS, *images, *options)
    small, large = LogitCache(OUT), LogitCache(digits.drawn_cache)
    assert set(small.keys) < set(large.keys)
    place = {key: row for row, key in enumerate(large.keys)}
    np.testing.assert_array_equal(small.views, large.views[[place[key] for key in small.keys]])


def test_views_seed_draws_other_views_and_the_runs_seed_does_not(digits):
    options = ("--teacher", digits.teacher, "--views", 4)
    chain.succeed("export-logits", *chain.DIGITS, *options, "--out", "a.h5", "--set", "views.seed=1")
    chain.succeed("export-logits", *chain.DIGITS, *options, "--out", "b.h5", "--set", "seed=1")
    drawn = LogitCache(digits.drawn_cache).views
    assert not np.array_equal(LogitCache(Path("a.h5")).views, drawn)
    np.testing.assert_array_equal(LogitCache(Path("b.h5")).views, drawn)


def test_the_same_export_makes_the_same_file(digits):
    chain.succeed("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", OUT)
    assert OUT.read_bytes() == digits.cache.read_bytes()


@pytest.mark.parametrize(("given", "same", "named"), [("04", "drawn_cache", "4"), ("0009", "cache", "all")])
def test_a_number_of_views_has_one_name_and_all_of_them_are_all(digits, given, same, named):
    """An export of `--views 09` is one of `--views 9`, of a space of nine one of `all`."""
    words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", OUT, "--views", given)
    chain.succeed(*words)
    assert LogitCache(OUT).identity["views"] == named
    assert OUT.read_bytes() == getattr(digits, same).read_bytes()


def test_a_students_checkpoint_may_be_exported(digits):
    outcome = chain.succeed(
        "export-logits", *chain.DIGITS, "--teacher", digits.student, "--out", OUT, "--json"
    )
    assert outcome.document["identity"]["teacher"]["kind"] == "student"
    whole = LogitCache(OUT)
    assert whole.shape == (399, 9, 10)
    assert not np.array_equal(whole.encoded_whole(), LogitCache(digits.cache).encoded_whole())


@pytest.mark.parametrize(("loss", "told"), [("ce", True), ("bsce", False)])
def test_that_a_teachers_logits_follow_the_class_sizes_is_told(insects, loss, told):
    config, _, images = insects
    words = ("--config", config, "--precision", "fp32", "--epochs", 1)
    chain.succeed("teacher", *words, "--loss", loss, "--quiet", "--out", "of_loss.pt")
    words = ("--config", config, "--teacher", "of_loss.pt", "--views", "clean", "--out", OUT)
    said = chain.dive("export-logits", *words).err
    assert ("of_loss.pt was trained with ce: its logits" in said) == told


def test_the_cache_names_its_teacher_draw_and_view_space(digits):
    document = torch.load(digits.teacher, weights_only=True)
    with h5py.File(digits.cache, "r") as file:
        identity, facts = json.loads(file.attrs["identity"]), json.loads(file.attrs["facts"])
    assert identity["teacher"]["weights_hash"] == document["weights_hash"]
    assert identity["teacher"]["architecture"] == document["architecture"]
    assert identity["data_fingerprint"] == document["data_fingerprint"]
    settings = {"kind": "crop_flip", "pad": 1, "flip": False, "image": [8, 8]}
    assert (
        identity["view_space"] == CropFlip((8, 8), pad=1, flip=False).describe() == {"version": 1, **settings}
    )
    assert identity["data"]["imbalance"] == 50
    assert facts["teacher"]["accuracy"] == document["accuracy"]
    assert facts["precision"] == "fp32"


def test_the_size_told_beforehand_is_that_of_the_file(digits):
    outcome = chain.dive("export-logits", *chain.DIGITS[:-1], "--teacher", digits.teacher, "--out", OUT)
    told = float(re.search(r"399 samples × 9 views × 10 classes in float16: ([\d.]+) kB", outcome.err)[1])
    assert told * 1000 == pytest.approx(OUT.stat().st_size, rel=0.1)
    assert told * 1000 >= 399 * 9 * 10 * 2


def test_another_checkpoint_or_choice_does_not_resume_an_unfinished_export(digits, monkeypatch):
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 64 * 9)
    spoiled = ("--teacher", digits.teacher, "--out", OUT)
    start_and_stop(*chain.DIGITS, *spoiled)
    before = chain.files_under()
    for change, key in (
        (("--views", "4"), "views: all, now 4"),
        (("--store", "float32"), "store: float16, now float32"),
        (("--store", "features"), "store: float16, now features"),
        (("--set", "views.seed=3"), "view_seed: 0, now 3"),
        (("--teacher", digits.student), "teacher.kind: teacher, now student"),
        (("--teacher", digits.student), "teacher.weights_hash: "),
        (("--precision", "bf16"), "unfinished export in fp32, not bf16"),
    ):
        words = spoiled[2:] if "--teacher" in change else spoiled  # it would be one of two, an ensemble
        complaint = chain.dive("export-logits", *chain.DIGITS, *words, *change).complaint
        assert "cache.h5.part" in complaint and key in complaint and "--force" in complaint
        assert chain.files_under() == before
    chain.succeed("export-logits", *chain.DIGITS, *spoiled, "--views", "4", "--force")
    np.testing.assert_array_equal(
        LogitCache(OUT).encoded_whole(), LogitCache(digits.drawn_cache).encoded_whole()
    )
    assert not part_path(OUT).exists()


def start_and_stop(*arguments: object, blocks: int = 1) -> None:
    """Start an export that stops by an exception after some blocks of 64 views."""
    with pytest.MonkeyPatch.context() as patch, chain.stopped_after(blocks):
        patch.setattr(writer, "BLOCK_IMAGES", 64 * 9)
        outcome = chain.dive("export-logits", *arguments)
    assert outcome.code == 130, outcome
    assert not OUT.exists() and part_path(OUT).exists()


def test_an_interrupted_export_resumes_at_the_first_missing_block_says_so_and_leaves_out_nothing(digits):
    arguments = (*chain.DIGITS[:-1], "--teacher", digits.teacher, "--out", OUT)
    start_and_stop(*arguments, blocks=3)
    computed = []
    write = writer.CacheWriter.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "BLOCK_IMAGES", 64 * 9)
        patch.setattr(
            writer.CacheWriter,
            "write",
            lambda self, block, logits: (computed.append(block), write(self, block, logits)),
        )
        outcome = chain.succeed("export-logits", *arguments)
    assert computed == [3, 4, 5, 6]
    assert "resuming: 3 of 7 blocks are written already" in outcome.err
    np.testing.assert_array_equal(LogitCache(OUT).encoded_whole(), LogitCache(digits.cache).encoded_whole())


def test_an_export_stopped_by_a_dive_of_another_block_size_is_refused_and_not_mixed_up(digits):
    arguments = (*chain.DIGITS, "--teacher", digits.teacher, "--out", OUT)
    start_and_stop(*arguments, blocks=3)
    assert "but this version of dive writes blocks of" in chain.dive("export-logits", *arguments).complaint
    chain.succeed("export-logits", *arguments, "--force")
    np.testing.assert_array_equal(LogitCache(OUT).encoded_whole(), LogitCache(digits.cache).encoded_whole())


def test_a_stopped_export_keeps_its_precision(insects):
    config, teacher, _ = insects
    arguments = ("--config", config, "--quiet", "--teacher", teacher, "--out", OUT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer.CacheWriter, "write", raise_interrupt)
        assert chain.dive("export-logits", *arguments, "--precision", "bf16").code == 130
    chain.succeed("export-logits", *arguments)  # auto
    assert LogitCache(OUT).facts["precision"] == "bf16"


def test_an_unfinished_export_in_tf32_is_not_resumed_where_there_is_none(insects, monkeypatch):
    from dive.workflows import export as module
    from dive.workflows import sharded

    begun = sharded.Begun(Path(f"{OUT}.part"), {"precision": "tf32", "versions": {}}, "dive")
    monkeypatch.setattr(sharded, "begun_as", lambda *_, **__: begun)
    monkeypatch.setattr(module, "_require_same_facts", lambda *_: None)
    complaint = export(insects, "--device", "cpu", "--quiet").complaint
    assert "cache.h5.part is an unfinished export in tf32: TF32 needs a CUDA device" in complaint


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


BLOCKS = {"dive.cache.writer:BLOCK_IMAGES": 64 * 9}  # seven blocks
LAYING_OUT = 3  # writes: what stands before and behind the logits, and the record
STRIKES = [  # four writes a block; replaced are the part and the cache; synced besides them: their folder
    *(("os:pwrite", call) for call in (1, LAYING_OUT)),
    *(("os:pwrite", LAYING_OUT + call) for call in (1, 2, 3, 4, 14, 29)),
    ("os:ftruncate", 1),
    ("os:replace", 1),
    ("os:replace", 2),
    ("os:fsync", 3),
    ("dive.cache.seal:write", 1),
    ("dive.models.network:Network.forward", 4),
]


@pytest.mark.slow
@pytest.mark.parametrize(("spot", "call"), STRIKES)
def test_a_killed_export_is_resumed_and_ends_in_the_same_bytes(digits, spot, call, monkeypatch):
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 64 * 9)
    arguments = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out")
    if not (whole := digits.folder / "seven_blocks.h5").exists():
        chain.succeed(*arguments, whole)
    outcome = chain.struck(spot, call, *arguments, OUT.absolute(), settings=BLOCKS)
    assert outcome.code == -9, outcome
    assert not OUT.exists()
    chain.succeed(*arguments, OUT.absolute())
    assert OUT.read_bytes() == whole.read_bytes()
    assert not part_path(OUT).exists()


def test_two_exports_to_one_place_do_not_mix(digits):

    with outputs.only_writer(OUT):
        complaint = chain.dive(
            "export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", OUT
        ).complaint
    assert "cache.h5 is being written by another process" in complaint
    assert chain.files_under() == {}


def test_a_finished_cache_is_not_overwritten_without_force(digits):
    chain.succeed("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", OUT, "--views", 4)
    before = OUT.read_bytes()
    again = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", OUT)
    assert "cache.h5 exists already" in chain.dive(*again).complaint
    assert OUT.read_bytes() == before
    chain.succeed(*again, "--force")
    assert OUT.read_bytes() == digits.cache.read_bytes()


def test_logits_too_large_for_float16_leave_no_cache_and_name_the_remedy(digits):
    document = checkpoint.load(digits.teacher)
    document["model"]["linear.bias"][3] = 1e5
    document["weights_hash"] = checkpoint.weights_hash(document["model"])
    checkpoint.save(Path("large.pt"), document)
    arguments = ("export-logits", *chain.DIGITS, "--teacher", "large.pt", "--out", OUT)
    complaint = chain.dive(*arguments).complaint
    assert "not finite in float16" in complaint and "--store float32" in complaint
    assert not OUT.exists()
    chain.succeed(*arguments, "--store", "float32", "--force")
    assert LogitCache(OUT).encoded_whole()[..., 3].min() > 9e4


def test_a_checkpoint_is_not_replaced_by_its_own_cache(digits):
    before = digits.teacher.read_bytes()
    outcome = chain.dive(
        "export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", digits.teacher, "--force"
    )
    assert outcome.code == 1 and "is a file that the command reads" in outcome.err
    assert digits.teacher.read_bytes() == before
