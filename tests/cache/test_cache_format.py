"""docs/cache-format.md: its reader runs, and the file is as it says."""

import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import caches
import h5py
import numpy as np
import pytest

PATH = Path("cache.h5")
LOGITS = caches.random_logits(50, 3, 4)


@pytest.fixture
def specification(repository) -> str:
    caches.write_cache(PATH, LOGITS)
    return (repository / "docs" / "cache-format.md").read_text()


def test_the_documents_reader_reads_a_row(specification):
    program = re.findall(r"```python\n(.*?)```", specification, flags=re.DOTALL)[0]
    found: dict = {}
    exec(program, found)
    np.testing.assert_array_equal(found["logits"], LOGITS[0, 0].astype(np.float16).astype(np.float32))
    with h5py.File(PATH) as file:
        assert found["view_id"] == file["views"][0, 0]


@pytest.mark.parametrize("store", caches.STORES)
def test_the_documents_reader_of_each_encoding_reads_a_row_in_five_lines(specification, store):
    part = re.search(rf"^### [^\n]*`{store}`.*?(?=^##)", specification, flags=re.MULTILINE | re.DOTALL)[0]
    (program,) = re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL)
    assert len(program.splitlines()) <= 5
    PATH.unlink()
    caches.write_cache(PATH, caches.values(store, 5, 3, 4), store=store)
    with h5py.File(PATH) as file:
        found = {"file": file, "np": np, "row": 3, "column": 2}
        exec(program, found)
    assert found["logits"].dtype == np.float32
    np.testing.assert_allclose(found["logits"], caches.decoded(PATH)[3, 2], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("store", caches.STORES)
def test_the_documents_table_of_encodings_is_what_a_file_has(specification, store):
    _, table, row, size = re.search(
        rf"^\| `{store}` \|(.*)\|(.*)\|(.*)\|$", specification, re.MULTILINE
    ).group(0, 1, 2, 3)
    PATH.unlink()
    cache = caches.write_cache(PATH, caches.values(store, 5, 3, 4), store=store)
    with h5py.File(PATH) as file:
        rows = file[caches.table_of(file)]
        assert file.attrs["encoding"] == store and f"`{rows.name}`" in table
        kinds = rows.dtype.fields or {rows.dtype.name: (rows.dtype,)}
        told = re.findall(r"`(\w+)`", row) if rows.dtype.fields else [row.strip()]
        assert list(kinds) == told
        expected = eval(size.replace("·", "*"), {"C": 4, "D": 4 + caches.MORE_FEATURES})
        assert rows.nbytes == 5 * 3 * expected == cache.nbytes


def test_every_dataset_and_attribute_is_in_the_document_and_none_else(specification):
    caches.write_cache(Path("features.h5"), caches.values("features", 5, 3, 4), store="features")
    with h5py.File(PATH) as file, h5py.File("features.h5") as other:
        told = set(re.findall(r"^\| `/([a-z_0-9]+)`", specification, flags=re.MULTILINE))
        assert told == {*file, *other}
        table = specification.split("## Attributes")[1].split("\n## ")[0]
        first_cells = re.findall(r"^\| (`[^|]*) \|", table, flags=re.MULTILINE)
        told = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
        assert told == set(file.attrs) == set(other.attrs)
        for one in (file, other):
            assert all(one[name].chunks is None and not one[name].external for name in one)


def test_keys_of_identity_and_facts_are_in_the_document(specification, digits):
    with h5py.File(digits.cache) as file:
        said = [key for name in ("identity", "facts") for key in json.loads(file.attrs[name])]
    assert [key for key in said if f"`{key}`" not in specification] == []


def test_the_seal_is_laid_out_as_the_document_says(specification):
    content = PATH.read_bytes()
    magic, version, blocks = struct.unpack_from("<8sII", content)
    offset, size, length, block_bytes = struct.unpack_from("<4Q", content, 48)
    assert (magic, version, length) == (b"DIVESEAL", 1, len(content))
    rest = content[:16] + bytes(32) + content[48:offset] + content[offset + size :]
    assert content[16:48] == hashlib.sha256(rest).digest()
    crcs = struct.unpack_from(f"<{blocks}I", content, 80)
    rows = content[offset : offset + size]
    pieces = [rows[start : start + block_bytes] for start in range(0, size, block_bytes)]
    assert list(crcs) == [zlib.crc32(piece) for piece in pieces]
    stored = np.frombuffer(rows, "<f2").reshape(LOGITS.shape)
    np.testing.assert_array_equal(stored, LOGITS.astype(np.float16))


def test_the_data_fingerprint_is_what_the_document_says(digits):
    with h5py.File(digits.cache) as file:
        taken = hashlib.sha256()
        for name in ("classes", "keys"):
            for text in file[name][:].tolist():
                taken.update(text + b"\0")
            taken.update(b"\0")
        taken.update(file["labels"][:].astype("<i8").tobytes() + file["digests"][:].tobytes())
        assert json.loads(file.attrs["identity"])["data_fingerprint"] == taken.hexdigest()
        pixels = json.loads(file.attrs["identity"])["view_space"]["image"]
    assert pixels == [8, 8]


def test_the_document_names_the_version_that_is_written(specification):
    with h5py.File(PATH) as file:
        version = file.attrs["version"]
    assert specification.splitlines()[2].startswith(f"Version {version} of `dive-logits`.")
    assert f"| `format`, `version` | `dive-logits`, {version} |" in specification
    assert f"\nVersion {version}: " in specification.split("## Versions")[1]


def test_every_key_within_identity_and_facts_is_in_the_document(specification, digits):
    """Down to the parts of the view space and the teacher; the recipe's own keys are the recipe's."""
    with h5py.File(digits.cache) as file:
        identity, facts = (json.loads(file.attrs[name]) for name in ("identity", "facts"))
    architecture = identity["teacher"]["architecture"]
    parts = (identity["data"], identity["teacher"], architecture, architecture["input"], facts["teacher"])
    told = [key for part in parts for key in part]
    assert [key for key in told if f"`{key}`" not in specification] == []
    assert all(key in specification for key in identity["view_space"])
    assert all(key in specification for key in facts["versions"])
