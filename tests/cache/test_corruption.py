"""Damaged files: each is refused or gives the clean result, and never another number, crash or hang."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import caches
import chain
import forging
import h5py
import numpy as np
import pytest

from dive.cache.reader import LogitCache
from dive.errors import CacheError, CheckpointError
from dive.models import checkpoint

PATH = Path("cache.h5")
WORKERS = 2


def outcomes(whole: bytes, cases: int) -> list[dict]:
    """What processes without torch made of damaged copies of a cache."""
    command = [sys.executable, str(Path(__file__).with_name("corruption_worker.py")), str(cases // WORKERS)]
    path = os.pathsep.join([str(chain.ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path}
    workers = []
    for seed in range(WORKERS):
        folder = Path(f"worker{seed}")
        folder.mkdir()
        source = folder / "whole"
        source.write_bytes(whole)
        with source.open("rb") as stdin:
            workers.append(
                subprocess.Popen(
                    [*command, str(seed)],
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=folder,
                    env=environment,
                )
            )
    found = []
    for worker in workers:
        out, err = worker.communicate(timeout=170)
        assert worker.returncode == 0, err.decode()
        found += [json.loads(line) for line in out.splitlines()]
    return found


def test_six_hundred_damaged_caches_are_refused_or_give_the_clean_result(digits):
    """500 changed bytes and 100 truncations."""
    found = outcomes(digits.cache.read_bytes(), 600)
    clean = [case["result"] for case in found if case["case"] == "whole"]
    assert len(found) == 600 + WORKERS and clean[0] == clean[1]
    assert sum(case["case"].startswith("cut") for case in found) == 100
    for case in found:
        if "refused" in case:
            assert "damaged.h5" in case["refused"] and "\n" not in case["refused"], case
        else:
            assert case["result"] == clean[0], case
    assert sum("refused" in case for case in found) == 600


@pytest.mark.parametrize("store", [store for store in caches.STORES if store != "float16"])
def test_damaged_caches_of_every_encoding_are_refused_or_give_the_clean_result(store):
    caches.write_cache(PATH, caches.values(store, 40, 3, 4), store=store)
    found = outcomes(PATH.read_bytes(), 60)
    clean = next(case["result"] for case in found if case["case"] == "whole")
    assert len(found) == 60 + WORKERS
    for case in found:
        assert "damaged.h5" in case["refused"] if "refused" in case else case["result"] == clean, case
    assert sum("refused" in case for case in found) == 60


def test_two_hundred_damaged_checkpoints_are_refused(digits):
    whole, generator = digits.student.read_bytes(), random.Random(0)
    path = Path("damaged.pt")
    for number in range(250):
        content = bytearray(whole)
        if number < 200:
            content[generator.randrange(len(whole))] ^= generator.randrange(1, 256)
        else:
            del content[generator.randrange(len(whole)) :]
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged\.pt"):
            checkpoint.load_model(path)


@pytest.mark.parametrize("command", ["inspect", "verify", "tune-tau", "student"])
def test_a_damaged_cache_is_one_line_to_every_command_that_reads_one(digits, command):
    content = bytearray(digits.cache.read_bytes())
    content[3000] ^= 1
    PATH.write_bytes(content)
    words = {"tune-tau": ("--cache", PATH), "student": (*chain.DIGITS, "--cache", PATH, "--out", "s.pt")}
    assert "cache.h5 is corrupt" in chain.dive(command, *words.get(command, (PATH,))).complaint


# A forger can seal what he likes: these files are hostile, not damaged.


def replace_table(file: h5py.File, name: str, **how: object) -> None:
    values = file[name][:]
    del file[name]
    file.create_dataset(name, data=values, **how)


def external_link(file: h5py.File) -> None:
    with h5py.File("elsewhere.h5", "w") as other:
        other["labels"] = file["labels"][:]
    del file["labels"]
    file["labels"] = h5py.ExternalLink("elsewhere.h5", "/labels")


def soft_link(file: h5py.File) -> None:
    file.move("labels", "hidden")
    file["labels"] = h5py.SoftLink("/hidden")


def virtual(file: h5py.File) -> None:
    shape, kind = file["labels"].shape, file["labels"].dtype
    layout = h5py.VirtualLayout(shape, kind)
    layout[:] = h5py.VirtualSource("missing.h5", "labels", shape)
    del file["labels"]
    file.create_virtual_dataset("labels", layout)


def external_storage(file: h5py.File) -> None:
    values = file["labels"][:]
    Path("raw").write_bytes(values.tobytes())
    del file["labels"]
    file.create_dataset("labels", values.shape, values.dtype, external=[("raw", 0, values.nbytes)])


def huge(file: h5py.File) -> None:
    del file["keys"]
    file.create_dataset("keys", (2**40,), "S64", chunks=(1024,))


def filtered(file: h5py.File) -> None:
    replace_table(file, "views", chunks=True, compression="gzip")


def objects(file: h5py.File) -> None:
    values = [key.decode() for key in file["keys"][:]]
    del file["keys"]
    file.create_dataset("keys", data=values, dtype=h5py.string_dtype())


def group(file: h5py.File) -> None:
    del file["labels"]
    file.create_group("labels")


def no_json(file: h5py.File) -> None:
    file.attrs["identity"] = "{" * 100_000


def deep_json(file: h5py.File) -> None:
    file.attrs["facts"] = "[" * 100_000 + "]" * 100_000


def labels_out_of_range(file: h5py.File) -> None:
    file["labels"][0] = 2**40


def negative_labels(file: h5py.File) -> None:
    file["labels"][0] = -1


def wrong_kind(file: h5py.File) -> None:
    values = file["labels"][:].astype(float)
    del file["labels"]
    file["labels"] = values


def scalar(file: h5py.File) -> None:
    del file["views"]
    file["views"] = 3


HOSTILE = [
    external_link,
    soft_link,
    virtual,
    external_storage,
    huge,
    filtered,
    objects,
    group,
    no_json,
    deep_json,
    labels_out_of_range,
    negative_labels,
    wrong_kind,
    scalar,
]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_a_hostile_file_with_a_right_seal_is_refused_in_one_line(change):
    caches.write_cache(PATH, caches.random_logits(50, 3, 4))
    caches.resealed(PATH, change)
    with pytest.raises(CacheError) as refusal:
        LogitCache(PATH)
    assert "cache.h5" in str(refusal.value)
    assert "cache.h5" in chain.dive("inspect", PATH).complaint


@pytest.mark.parametrize("store", [store for store in caches.STORES if store != "float16"])
@pytest.mark.parametrize(
    "change", [external_link, virtual, huge, scalar, wrong_kind], ids=lambda c: c.__name__
)
def test_hostile_tables_are_refused_whatever_the_encoding(change, store):
    caches.write_cache(PATH, caches.values(store, 50, 3, 4), store=store)
    caches.resealed(PATH, change)
    with pytest.raises(CacheError, match=r"cache\.h5"):
        LogitCache(PATH)


# What a forger may do to rows and head.


def encoding_unknown(file: h5py.File) -> None:
    file.attrs["encoding"] = "int4"


def encoding_of_another_type(file: h5py.File) -> None:
    file.attrs["encoding"] = np.arange(3)


def encoding_missing(file: h5py.File) -> None:
    del file.attrs["encoding"]


def encoding_of_other_rows(file: h5py.File) -> None:
    other = {"float16": "float32", "float32": "float16", "int8": "features-int8"}
    file.attrs["encoding"] = other.get(file.attrs["encoding"], "int8")


def rows_linked(file: h5py.File) -> None:
    name = caches.table_of(file)
    file.move(name, "hidden")
    file[name] = h5py.SoftLink("/hidden")


def rows_of_another_type(file: h5py.File) -> None:
    name = caches.table_of(file)
    values = file[name][:]
    kind = np.dtype([("values", "i1", (values.nbytes // values.size,))]) if values.dtype.names else ">f2"
    del file[name]
    file[name] = np.zeros(values.shape, kind)


def rows_of_another_width(file: h5py.File) -> None:
    name = caches.table_of(file)
    shape, kind = file[name].shape, file[name].dtype
    del file[name]
    file[name] = np.zeros((*shape[:-1], shape[-1] + 1), kind)


TO_ROWS = [
    encoding_unknown,
    encoding_of_another_type,
    encoding_missing,
    encoding_of_other_rows,
    rows_linked,
    rows_of_another_type,
    rows_of_another_width,
]


@pytest.mark.parametrize("store", caches.STORES)
@pytest.mark.parametrize("change", TO_ROWS, ids=lambda change: change.__name__)
def test_forged_rows_are_refused_in_one_line(change, store):
    caches.write_cache(PATH, caches.values(store, 50, 3, 4), store=store)
    caches.resealed(PATH, change)
    with pytest.raises(CacheError, match=r"cache\.h5") as refusal:
        LogitCache(PATH)
    assert "\n" not in str(refusal.value)


def head_missing(file: h5py.File) -> None:
    del file["head_bias"]


def head_of_other_classes(file: h5py.File) -> None:
    values = file["head_weight"][:]
    del file["head_weight"]
    file["head_weight"] = values[:-1]


def head_of_other_features(file: h5py.File) -> None:
    values = file["head_weight"][:]
    del file["head_weight"]
    file["head_weight"] = values[:, :-1]


def head_without_features(file: h5py.File) -> None:
    del file["head_weight"]
    file["head_weight"] = np.zeros((4, 0), np.float32)


def head_of_float64(file: h5py.File) -> None:
    values = file["head_weight"][:].astype(np.float64)
    del file["head_weight"]
    file["head_weight"] = values


def head_not_finite(file: h5py.File) -> None:
    file["head_weight"][2, 3] = np.nan


def head_infinite(file: h5py.File) -> None:
    file["head_bias"][1] = np.inf


def head_flat(file: h5py.File) -> None:
    values = file["head_weight"][:].reshape(-1)
    del file["head_weight"]
    file["head_weight"] = values


def head_scalar(file: h5py.File) -> None:
    del file["head_bias"]
    file["head_bias"] = np.float32(1)


def head_elsewhere(file: h5py.File) -> None:
    with h5py.File("elsewhere.h5", "w") as other:
        other["head_weight"] = file["head_weight"][:]
    del file["head_weight"]
    file["head_weight"] = h5py.ExternalLink("elsewhere.h5", "/head_weight")


def head_filtered(file: h5py.File) -> None:
    replace_table(file, "head_weight", chunks=True, compression="gzip")


def head_huge(file: h5py.File) -> None:
    del file["head_weight"]
    file.create_dataset("head_weight", (4, 2**38), "f4", chunks=(4, 1024))


TO_HEADS = [
    head_missing,
    head_of_other_classes,
    head_of_other_features,
    head_without_features,
    head_of_float64,
    head_not_finite,
    head_infinite,
    head_flat,
    head_scalar,
    head_elsewhere,
    head_filtered,
    head_huge,
]


@pytest.mark.parametrize("store", ["features", "features-int8"])
@pytest.mark.parametrize("change", TO_HEADS, ids=lambda change: change.__name__)
def test_a_forged_head_is_refused_in_one_line(change, store):
    caches.write_cache(PATH, caches.values(store, 50, 3, 4), store=store)
    caches.resealed(PATH, change)
    with pytest.raises(CacheError, match=r"cache\.h5") as refusal:
        LogitCache(PATH)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("store", "field", "value"),
    [
        ("int8", "scale", np.nan),
        ("int8", "scale", np.inf),
        ("int8", "offset", -np.inf),
        ("features-int8", "scale", np.nan),
        ("features", None, np.inf),
        ("features", None, np.nan),
    ],
)
def test_rows_that_are_not_finite_under_a_right_seal_are_found(store, field, value):
    caches.write_cache(PATH, caches.values(store, 50, 3, 4), store=store)

    def change(file: h5py.File) -> None:
        table = file[caches.table_of(file)]
        rows = table[:]
        if field is None:
            rows[7, 2, 1] = value
        else:
            rows[field][7, 2] = value
        table[:] = rows

    caches.resealed(PATH, change)
    for words in (("verify", PATH, "--quiet"), ("tune-tau", "--cache", PATH)):
        assert "logits that are not finite" in chain.dive(*words).complaint


@pytest.mark.parametrize("store", caches.STORES)
def test_rows_that_slipped_are_found_in_every_encoding(store):
    values = caches.values(store, 60, 3, 4)
    labels = (
        caches.content_for(values, store=store)
        .codec.decode(caches.content_for(values, store=store).codec.encode(values))[:, 0]
        .argmax(axis=1)
    )
    caches.write_cache(PATH, values, store=store, labels=labels)
    chain.succeed("verify", PATH)

    def slip(file: h5py.File) -> None:
        table = file[caches.table_of(file)]
        table[:] = np.roll(table[:], 1, axis=0)

    caches.resealed(PATH, slip)
    assert "do not match their labels" in chain.dive("verify", PATH, "--quiet").complaint


def test_a_cache_that_does_not_say_what_it_is_of_is_refused_by_those_who_must_know():
    caches.write_cache(PATH, caches.random_logits(50, 3, 10))
    words = ("student", *chain.DIGITS, "--cache", PATH, "--out", "s.pt")
    assert "does not state its origin: it has no identity/data_fingerprint" in chain.dive(*words).complaint
    chain.succeed("tune-tau", "--cache", PATH)
    chain.succeed("inspect", PATH)
    chain.succeed("verify", PATH)


@pytest.mark.parametrize("attribute", ["identity", "facts"])
@pytest.mark.parametrize("document", ["[]", "3", "null", "{}"])
def test_documents_of_another_shape_are_refused_or_shown(attribute, document):
    caches.write_cache(PATH, caches.random_logits(50, 3, 10))

    def change(file: h5py.File) -> None:
        file.attrs[attribute] = document

    caches.resealed(PATH, change)
    for words in (("inspect", PATH), ("verify", PATH), ("tune-tau", "--cache", PATH, "--clean")):
        outcome = chain.dive(*words)
        assert outcome.code == 0 or outcome.complaint
    assert "cache.h5" in chain.dive("student", *chain.DIGITS, "--cache", PATH, "--out", "s.pt").complaint


def test_forty_caches_that_say_something_odd_of_themselves_are_refused_or_read_as_they_are(digits):
    """Values that a command does not use may be anything; those that it uses are checked first."""
    whole = digits.cache.read_bytes()
    with h5py.File(digits.cache) as file:
        said = {name: json.loads(file.attrs[name]) for name in ("identity", "facts")}
    refused = 0
    for path, document in forging.forgeries(said, 40, seed=1):
        PATH.write_bytes(whole)

        def change(file: h5py.File, document: dict = document) -> None:
            for name in said:
                file.attrs[name] = json.dumps(document.get(name))

        caches.resealed(PATH, change)
        for words in (("inspect", PATH), ("verify", PATH), ("tune-tau", "--clean", "--cache", PATH)):
            outcome = chain.dive(*words, *(() if words[0] == "inspect" else ("--quiet",)))
            assert outcome.code == 0 or "cache.h5" in outcome.complaint, path
        words = ("student", *chain.DIGITS, "--cache", PATH, "--epochs", 1, "--force", "--out", "s.pt")
        outcome = chain.dive(*words)
        assert outcome.code == 0 or "cache.h5" in outcome.complaint, path
        refused += outcome.code != 0
    assert refused >= 20


def test_blocks_of_no_rows_are_refused():
    from dive.cache import seal

    cache = caches.write_cache(PATH, caches.random_logits(50, 3, 4))
    with h5py.File(PATH, "r") as file:
        place = (file["logits"].id.get_offset(), file["logits"].id.get_storage_size())
    crcs = np.zeros(-(-place[1] // 13), dtype=np.uint32)
    assert 72 + 4 * len(crcs) <= 512  # within the user block
    with open(PATH, "r+b") as file:
        seal.write(file, crcs, place, 13)
    del cache
    with pytest.raises(CacheError, match="contradicts itself"):
        LogitCache(PATH)
