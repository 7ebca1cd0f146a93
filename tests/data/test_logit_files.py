"""Files of logits that other programs wrote: what they must hold, and that no file does harm."""

import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import foreign
import h5py
import numpy as np
import pytest

from dive import memory
from dive.data.logit_files import hdf5
from dive.data.logit_files.logit_file import open_logits
from dive.errors import DataError

SUFFIXES = (".npz", ".h5")
VALUES = np.random.default_rng(0).normal(size=(5, 2, 3))
LOGITS = foreign.Logits(
    [f"c{i % 3}/ä {i}.png" for i in range(5)], VALUES, ["c0", "ö", "c2"], np.tile([7, 3], (5, 1))
)


def complaint(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(DataError) as refused, open_logits(path) as file:
        file.rows(np.arange(file.shape[0]))
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4"])
def test_rows_are_given_in_any_order_and_in_the_files_type(suffix, kind):
    path = foreign.Logits(LOGITS.keys, VALUES.astype(kind), LOGITS.classes, LOGITS.views).save(
        Path(f"logits{suffix}")
    )
    with open_logits(path) as file:
        assert (file.keys, file.classes, file.shape) == (LOGITS.keys, tuple(LOGITS.classes), (5, 2, 3))
        np.testing.assert_array_equal(file.views, LOGITS.views)
        for places in ([0, 1, 2, 3, 4], [4, 0, 1, 3], [2], [3, 2, 1]):
            rows = file.rows(np.array(places))
            np.testing.assert_array_equal(rows, VALUES.astype(kind)[places])
            assert rows.dtype == kind


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_logits_without_views_are_of_one_view_and_ids_of_all_samples_may_be_given_once(suffix):
    path = Path(f"logits{suffix}")
    foreign.Logits(LOGITS.keys, VALUES[:, 0], LOGITS.classes).save(path)
    with open_logits(path) as file:
        assert file.views is None and file.shape == (5, 1, 3)
        np.testing.assert_array_equal(file.rows(np.array([1]))[:, 0], VALUES[1:2, 0])
    foreign.Logits(LOGITS.keys, VALUES, LOGITS.classes, np.array([7, 3], np.uint8)).save(path)
    with open_logits(path) as file:
        np.testing.assert_array_equal(file.views, LOGITS.views)


def test_texts_may_be_bytes_and_an_h5_may_hold_texts_of_fixed_length():
    arrays = LOGITS.arrays() | {name: np.char.encode(LOGITS.arrays()[name]) for name in ("keys", "classes")}
    np.savez("logits.npz", **arrays)
    with h5py.File("logits.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    for suffix in SUFFIXES:
        with open_logits(Path(f"logits{suffix}")) as file:
            assert file.keys == LOGITS.keys and file.classes == tuple(LOGITS.classes)


@pytest.mark.parametrize("options", [{"chunks": (2, 1, 3)}, {"compression": "gzip"}, {"compression": "lzf"}])
def test_chunked_and_compressed_data_sets_are_read(options):
    with open_logits(LOGITS.save(Path("logits.h5"), **options)) as file:
        np.testing.assert_array_equal(file.rows(np.array([3, 0, 4])), VALUES[[3, 0, 4]])


def changed(**arrays: object) -> dict[str, np.ndarray]:
    """The arrays of a file with some others, or without those that are None."""
    both = LOGITS.arrays() | arrays
    return {name: np.asarray(array) for name, array in both.items() if array is not None}


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (
            changed(keys=None),
            "has no keys (it has logits and classes and views); a file of logits holds keys",
        ),
        (changed(keys=None, classes=None), "has no keys and no classes (it has logits and views)"),
        (changed(logits=None), "has no logits"),
        (changed(classes=None), "has no classes"),
        (
            changed(views=None),
            "has logits of 2 views but no array views; a file of logits holds keys (N strings",
        ),
        (changed(logits=VALUES.astype(int)), "are (5, 2, 3) of int64, not float16, float32 or float64"),
        (changed(logits=VALUES.astype(complex)), "of complex128, not float16"),
        (changed(logits=VALUES[:4]), "are (4, 2, 3) of float64, but it has 5 keys and 3 classes"),
        (changed(logits=VALUES[..., :2]), "are (5, 2, 2) of float64, but it has 5 keys and 3 classes"),
        (changed(logits=VALUES[..., None]), "are (5, 2, 3, 1) of float64, but"),
        (changed(logits=VALUES[0, 0]), "are (3,) of float64, but"),
        (changed(logits=np.float32(1)), "are () of float32, but"),
        (changed(logits=VALUES[:, :0], views=LOGITS.views[:, :0]), "are (5, 0, 3) of float64, but"),
        (changed(keys=np.arange(5)), "the keys of"),
        (changed(keys=[LOGITS.keys]), ", not a one-dimensional array of strings; a file of logits holds"),
        (changed(classes=np.arange(3)), "are (3,) of int64, not a one-dimensional array of strings"),
        (changed(keys=["a", "b", "a", "c", "d"]), "has 'a' 2 times in its keys; each may occur only once"),
        (changed(classes=["x", "y", "x"]), "has 'x' 2 times in its classes"),
        (changed(keys=[b"\xff", b"a", b"b", b"c", b"d"]), "codec can't decode byte 0xff"),
        (changed(views=LOGITS.views[:3]), "the views of"),
        (
            changed(views=LOGITS.views.astype(float)),
            "are (5, 2) of float64, but its logits are of 5 samples",
        ),
        (changed(views=[1, 2, 3]), "are (3,) of int64, but its logits are of 5 samples in 2 views"),
    ],
)
def test_what_does_not_fit_is_told_with_names_and_shapes(arrays, told):
    np.savez("logits.npz", **arrays)
    assert told in complaint(Path("logits.npz"))
    with h5py.File("logits.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array.astype(h5py.string_dtype()) if array.dtype.kind == "U" else array
    assert told in complaint(Path("logits.h5"))


def test_extended_precision_is_refused():
    np.savez("logits.npz", **changed(logits=VALUES.astype(np.longdouble)))
    assert "not float16, float32 or float64" in complaint(Path("logits.npz"))


@pytest.mark.parametrize("name", ["keys", "classes", "logits"])
def test_objects_are_never_unpickled(name):
    arrays = LOGITS.arrays() | {name: LOGITS.arrays()[name].astype(object)}
    np.savez("logits.npz", **arrays, allow_pickle=True)
    assert f"its {name} are Python objects, which are never unpickled" in complaint(Path("logits.npz"))


def test_other_files_are_refused_in_a_line():
    for name, content in (("a.npz", b"x" * 99), ("a.h5", b"x" * 99), ("b.npz", b""), ("b.h5", b"")):
        Path(name).write_bytes(content)
        assert complaint(Path(name)).startswith(f"cannot read {name}: ")
    assert "there is no file of logits none.npz" in complaint(Path("none.npz"))
    assert "is neither a .npz nor an .h5; a file of logits holds" in complaint(Path("logits.csv"))
    for suffix in SUFFIXES:
        folder = Path(f"folder{suffix}")
        folder.mkdir()
        assert "it is a folder" in complaint(folder)
    np.save("one.npy", VALUES)
    Path("one.npy").rename("one.npz")
    assert "it is not a .npz" in complaint(Path("one.npz"))


def test_an_npz_that_needs_more_memory_than_there_is_is_not_read(monkeypatch):
    LOGITS.save(Path("logits.npz"))
    monkeypatch.setattr(memory, "available", lambda: 300)
    assert "use an .h5, which is read block by block" in complaint(Path("logits.npz"))


def test_an_npz_whose_header_promises_more_than_it_holds_is_refused():
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (5, 1000000000000, 3)}\n"
    arrays = LOGITS.arrays()
    np.savez("logits.npz", keys=arrays["keys"], classes=arrays["classes"])
    with zipfile.ZipFile("logits.npz", "a") as archive:
        archive.writestr("logits.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    complaint(Path("logits.npz"))


def plant(name: str, kind: str) -> Path:
    """An .h5 one of whose tables is of a kind that is not read."""
    path, other = LOGITS.save(Path("logits.h5")), LOGITS.save(Path("other.h5"))
    with h5py.File(path, "r+") as file:
        table = file[name][...]
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        if kind == "external link":
            file[name] = h5py.ExternalLink(str(other), name)
        elif kind == "soft link":
            file["kept"] = table
            file[name] = h5py.SoftLink("/kept")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(str(other), name, shape)
            file.create_virtual_dataset(name, layout)
        elif kind == "external":
            Path("raw").write_bytes(bytes(10_000))
            file.create_dataset(name, shape, dtype, external=[("raw", 0, 10_000)])
        elif kind == "group":
            file.create_group(name)
        elif kind == "empty":
            file[name] = h5py.Empty("f4")
        elif kind == "unwritten":
            file.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]))
        elif kind == "vast":
            file.create_dataset(name, (10**12, *shape[1:]), dtype, chunks=(1, *shape[1:]))[0] = table[0]
    return path


PLANTED = {
    "external link": "are a link; they must be a dataset of the file itself",
    "soft link": "are a link",
    "virtual": "are virtual or external",
    "external": "are virtual or external",
    "group": "are not a dataset",
    "empty": "are not a dataset",
    "unwritten": "are incomplete: ",
    "vast": "are incomplete: (1000000000000",
}
NO_TEXTS = ("external", "virtual")  # which cannot hold texts of any length


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in ("logits", "keys", "views")
        for kind in PLANTED
        if not (name == "keys" and kind in NO_TEXTS)
    ],
)
def test_an_h5_leads_nowhere_and_promises_no_more_than_it_holds(name, kind):
    assert f"its {name} {PLANTED[kind]}" in complaint(plant(name, kind))


def test_chunks_too_large_to_be_held_are_refused(monkeypatch):
    monkeypatch.setattr(hdf5, "LARGEST_CHUNK", 100)
    assert "in chunks of 240 bytes" in complaint(LOGITS.save(Path("logits.h5"), chunks=(5, 2, 3)))


FUZZ = """
    import random, sys, warnings
    from pathlib import Path
    import numpy as np
    from dive.data.logit_files.logit_file import open_logits
    from dive.errors import DataError

    path, generator = Path(sys.argv[1]), random.Random(0)
    warnings.simplefilter("ignore")
    whole, refused = path.read_bytes(), 0
    for case in range(400):
        content = bytearray(whole)
        if case % 5 == 4:
            del content[generator.randrange(len(whole)):]
        else:
            content[generator.randrange(len(whole))] ^= generator.randrange(1, 256)
        path.write_bytes(content)
        try:
            with open_logits(path) as file:
                file.rows(np.arange(file.shape[0]))
        except DataError as error:
            assert "\\n" not in str(error)
            refused += 1
    print(refused)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(suffix):
    """In a process of its own, which a crash of a library would end."""
    path = LOGITS.save(Path(f"logits{suffix}"))
    command = [sys.executable, "-c", textwrap.dedent(FUZZ), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 80  # those that were cut, at least
