"""Image folders and archives: layout, decoding, and every way in which they can be broken."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import noise, png
from PIL import Image
from reading import pictures

from dive.data.sources import tree as sources_tree
from dive.data.sources.folder import open_folder
from dive.data.sources.registry import open_source
from dive.data.sources.source import Source
from dive.errors import DataError
from dive.progress import Progress
from dive.recipe.reading import load
from dive.workflows.data import load_training


def decoded(source: Source, split: str = "train", size: int | None = None) -> np.ndarray:
    return pictures(getattr(source, split), size=size)


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def same(one: Source, other: Source) -> bool:
    return (
        one.classes == other.classes
        and all(getattr(one, s).keys == getattr(other, s).keys for s in ("train", "test"))
        and all(np.array_equal(decoded(one, s), decoded(other, s)) for s in ("train", "test"))
    )


def test_a_folder_gives_each_image_under_its_key(tree):
    files = tree.images({"dog": 3, "cat": 2})
    source = open_folder(tree.files(files))
    assert source.classes == ("cat", "dog")
    assert source.train.keys == ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png", "dog/002.png"]
    assert source.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert source.test.keys == ["cat/000.png", "dog/000.png"]
    for split in ("train", "test"):
        images = decoded(source, split)
        assert images.dtype == np.uint8 and images.shape[1:] == (8, 8, 3)
        for key, image in zip(getattr(source, split).keys, images, strict=True):
            np.testing.assert_array_equal(image, pixels_of(files[f"{split}/{key}"]))


def test_keys_are_sorted_as_whole_texts(tree):
    # "a" and "a-b": by class first "a" would come first, as whole texts "a-b/…" does ("-" < "/").
    files = tree.images({"a": 1, "a-b": 1, "A": 1})
    source = open_folder(tree.files(files))
    assert source.classes == ("A", "a", "a-b")
    assert source.train.keys == ["A/000.png", "a-b/000.png", "a/000.png"]
    assert source.train.labels.tolist() == [0, 2, 1]


def test_images_are_decoded_in_the_order_asked_for(tree):
    source = open_folder(tree.files(tree.images({"cat": 5})))
    everything = decoded(source)
    assert len({image.tobytes() for image in everything}) == 5
    np.testing.assert_array_equal(pictures(source.train, [4, 0, 2]), everything[[4, 0, 2]])


def test_a_file_in_a_zip_that_unpacks_to_more_than_any_image_is_refused(tree, monkeypatch):
    files = {f"{split}/{label}/a.png": bytes(5000) for split in ("train", "test") for label in "ab"}
    monkeypatch.setattr(sources_tree, "LARGEST_FILE", 4999)
    source = open_folder(tree.archive(files))
    with pytest.raises(DataError, match=r"train/a/a\.png cannot be read: it unpacks to 5000 bytes"):
        source.train.read(0)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_an_archive_is_the_same_as_its_folder(tree, method):
    files = tree.images({"dog": 3, "cat": 2})
    assert same(open_folder(tree.files(files)), open_folder(tree.archive(files, method=method)))


def test_the_order_of_files_in_an_archive_does_not_matter(tree):
    files = tree.images({"dog": 3, "cat": 2})
    backwards = dict(reversed(files.items()))
    assert same(open_folder(tree.archive(files)), open_folder(tree.archive(backwards, "back.zip")))


@pytest.mark.parametrize("top", ["", "my images/"])
def test_an_archive_may_have_a_class_called_train_or_test(tree, top):
    files = {top + name: content for name, content in tree.images({"train": 2, "test": 1, "worm": 1}).items()}
    source = open_folder(tree.archive(files))
    assert source.classes == ("test", "train", "worm")
    assert source.train.keys == ["test/000.png", "train/000.png", "train/001.png", "worm/000.png"]
    assert source.test.keys == ["test/000.png", "train/000.png", "worm/000.png"]


def test_an_archive_may_have_train_for_its_only_class(tree):
    source = open_folder(tree.archive(tree.images({"train": 2})))
    assert (source.classes, source.train.keys) == (("train",), ["train/000.png", "train/001.png"])


def test_an_archive_may_keep_everything_in_one_folder_and_hold_what_a_mac_leaves_behind(tree):
    files = tree.images({"dog": 3, "cat": 2})
    packed = {f"photos/{name}": content for name, content in files.items()}
    packed |= {f"__MACOSX/photos/{name}": b"\0\5\x16\7" for name in files}
    packed |= {"photos/.DS_Store": b"x", ".DS_Store": b"x", "photos/train/cat/._000.png": b"x"}
    packed |= {
        "photos/train/.hidden/000.png": b"x",
        "photos/README.txt": b"x",
        "photos/train/notes.png": b"x",
    }
    assert same(open_folder(tree.archive(packed)), open_folder(tree.files(files)))


def test_hidden_files_and_other_files_of_a_folder_are_no_images(tree):
    files = tree.images({"dog": 1, "cat": 1})
    clean = open_folder(tree.files(files, "clean"))
    files |= {"train/cat/.000.png": b"x", "train/.git/000.png": b"x", "train/cat/labels.csv": b"x"}
    files |= {"valid/cat/000.png": b"x", "000.png": b"x", "train/000.png": b"x", "test/.DS_Store": b"x"}
    assert same(open_folder(tree.files(files, "littered")), clean)


def test_folders_below_a_class_belong_to_it(tree):
    files = tree.images({"cat": 1})
    files["train/cat/more/deep/0.png"] = files["train/cat/000.png"]
    for path in (tree.files(files), tree.archive(files)):
        source = open_folder(path)
        assert source.train.keys == ["cat/000.png", "cat/more/deep/0.png"]
        assert len(decoded(source)) == 2


def test_a_linked_class_folder_is_followed(tree):
    files = tree.images({"cat": 2})
    path = tree.files(files)
    Path("elsewhere").mkdir()
    (path / "train" / "cat").rename("elsewhere/cat")
    (path / "train" / "cat").symlink_to(Path("elsewhere/cat").resolve())
    assert open_folder(path).train.keys == ["cat/000.png", "cat/001.png"]


def test_extensions_are_known_in_any_case(tree):
    picture = Image.fromarray(np.full((8, 8, 3), 100, dtype=np.uint8))
    names = {
        "a.PNG": "PNG",
        "b.Jpg": "JPEG",
        "c.jpeg": "JPEG",
        "d.bmp": "BMP",
        "e.GIF": "GIF",
        "f.tiff": "TIFF",
    }
    names |= {"g.webp": "WEBP", "h.ppm": "PPM"}
    files = {f"train/cat/{name}": encoded(picture, form) for name, form in names.items()}
    source = open_folder(tree.files({**files, "test/cat/a.png": encoded(picture, "PNG")}))
    assert source.train.keys == [f"cat/{name}" for name in names]
    assert np.abs(decoded(source).astype(int) - 100).max() <= 3  # JPEG and WebP are lossy


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_every_kind_of_image_becomes_rgb(tree, mode):
    image = Image.fromarray(np.full((8, 8, 3), 255, dtype=np.uint8)).convert(mode)
    form = "TIFF" if mode == "CMYK" else "PNG"
    name = f"cat/0.{form.lower()}"
    files = {f"{split}/{name}": encoded(image, form) for split in ("train", "test")}
    images = decoded(open_folder(tree.files(files)))
    assert images.shape == (1, 8, 8, 3) and (images == 255).all()


def test_a_grey_image_of_16_bits_keeps_its_shades(tree):
    shades = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    content = encoded(Image.fromarray(shades), "PNG")
    source = open_folder(tree.files({f"{split}/cat/0.png": content for split in ("train", "test")}))
    difference = decoded(source)[0].astype(int) - (shades // 257)[..., None]
    assert np.abs(difference).max() <= 1


def test_a_larger_image_is_resized_by_its_shorter_side_and_cropped_in_the_centre(tree):
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, :20], wide[:, 20:40], wide[:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    tall = wide.transpose(1, 0, 2)
    content = {
        "cat/0.png": encoded(Image.fromarray(wide), "PNG"),
        "cat/1.png": encoded(Image.fromarray(tall), "PNG"),
    }
    files = {f"{split}/{name}": c for split in ("train", "test") for name, c in content.items()}
    images = decoded(open_folder(tree.files(files)), size=10)
    assert images.shape == (2, 10, 10, 3)
    for image in images:  # the middle third is the crop; its border mixes with the neighbours
        assert (image[2:-2, 2:-2] == (0, 255, 0)).all()
    np.testing.assert_array_equal(images[0], images[1].transpose(1, 0, 2))


def test_a_smaller_image_is_enlarged(tree):
    small = encoded(Image.fromarray(np.full((3, 5, 3), 77, dtype=np.uint8)), "PNG")
    source = open_folder(tree.files({f"{split}/cat/0.png": small for split in ("train", "test")}))
    images = decoded(source, size=16)
    assert images.shape == (1, 16, 16, 3) and (images == 77).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (33, 32), (31, 32), (500, 7)])
def test_every_shape_is_brought_to_size(tree, shape):
    image = encoded(Image.fromarray(np.full((*shape, 3), 9, dtype=np.uint8)), "PNG")
    source = open_folder(tree.files({f"{split}/cat/0.png": image for split in ("train", "test")}))
    images = decoded(source, size=32)
    assert images.shape == (1, 32, 32, 3) and (images == 9).all()


def test_a_photograph_is_turned_the_way_its_camera_was_held(tree):
    upright = np.zeros((16, 16, 3), dtype=np.uint8)
    upright[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: to be shown rotated by 90 degrees clockwise
    stored = Image.fromarray(np.rot90(upright).copy())
    content = encoded(stored, "JPEG", quality=100, subsampling=0, exif=exif)
    source = open_folder(tree.files({f"{split}/cat/0.jpg": content for split in ("train", "test")}))
    assert np.abs(decoded(source)[0].astype(int) - upright).max() <= 8


def test_large_files_are_decoded_on_several_threads_to_the_same_images(tree):
    files = tree.images({"cat": 7}, side=90)
    assert len(files["train/cat/000.png"]) > 16_384
    for path in (tree.files(files), tree.archive(files)):
        images = decoded(open_folder(path))
        for i, image in enumerate(images):
            np.testing.assert_array_equal(image, pixels_of(files[f"train/cat/{i:03d}.png"]))


@pytest.mark.parametrize("size", [None, 8, 12])
def test_a_recipe_takes_a_folders_images_as_they_are_or_at_its_size_and_says_so(tree, capsys, size):
    path = str(tree.files(tree.images({"cat": 1, "dog": 1})))
    options = {"data.kind": "folder", "data.root": path, "views.size": size}
    train = load_training(load(options=options), Progress())
    assert train.pictures.held.shape == (2, size or 8, size or 8, 3)
    told = f"every image is resized and centre-cropped to {size}×{size} pixels (views.size)"
    assert (told in capsys.readouterr().err) == (size is not None)


def test_a_folder_of_a_fixed_size_refuses_an_image_of_another_by_name_when_it_is_read(tree):
    path = tree.files(tree.images({"cat": 2}) | {"train/cat/001.png": png(noise(0, 9, 8))})
    source = open_folder(path, 8)
    assert source.train.read(0).shape == (8, 8, 3)
    with pytest.raises(DataError, match=r"train/cat/001\.png has 8×9 pixels, not 8×8"):
        source.train.read(1)


def test_a_home_folder_is_found(tree, monkeypatch):
    path = tree.files(tree.images({"cat": 1}))
    monkeypatch.setenv("HOME", str(path.parent))
    assert open_source("folder", root="~/images").classes == ("cat",)


def test_a_missing_path_is_refused_with_advice():
    with pytest.raises(DataError, match=r"there is no nowhere/images; name the image folder, .* --data"):
        open_folder(Path("nowhere/images"))


def test_a_class_missing_on_either_side_is_refused_by_name(tree):
    files = tree.images({"cat": 2, "dog": 2})
    without_test = {name: c for name, c in files.items() if not name.startswith("test/dog")}
    for path in (tree.files(without_test, "a"), tree.archive(without_test, "a.zip")):
        with pytest.raises(DataError, match=r"train/ has classes that test/ has no images of: dog"):
            open_folder(path)
    without_train = {name: c for name, c in files.items() if not name.startswith("train/cat")}
    with pytest.raises(DataError, match=r"test/ has classes that train/ has no images of: cat"):
        open_folder(tree.files(without_train, "b"))


def test_an_empty_class_folder_in_test_is_a_missing_class(tree):
    files = tree.images({"cat": 1, "dog": 1})
    path = tree.files({name: c for name, c in files.items() if not name.startswith("test/dog")})
    (path / "test" / "dog").mkdir()
    with pytest.raises(DataError, match="test/ has no images of: dog"):
        open_folder(path)


def test_many_missing_classes_are_counted_and_not_listed(tree):
    files = tree.images({f"c{i}": 1 for i in range(9)})
    path = tree.files({name: c for name, c in files.items() if name.startswith(("train", "test/c0"))})
    with pytest.raises(DataError, match=r"no images of: c1, c2, c3, c4, c5 and 3 more$"):
        open_folder(path)


@pytest.mark.parametrize("absent", ["train", "test"])
def test_a_folder_without_train_or_test_is_refused(tree, absent):
    files = {name: c for name, c in tree.images({"cat": 1}).items() if not name.startswith(absent)}
    for path in (tree.files(files), tree.archive(files)):
        with pytest.raises(DataError, match=rf"has no images in {absent}/<class>/"):
            open_folder(path)


def test_a_file_that_is_no_archive_is_refused(tree):
    path = tree.files({"data.zip": b"this is no archive"}) / "data.zip"
    with pytest.raises(DataError, match=r"data\.zip is neither a folder nor a readable \.zip"):
        open_folder(path)
    with pytest.raises(DataError, match="neither"):
        open_folder(tree.files({"empty.zip": b""}) / "empty.zip")


def test_an_archive_cut_short_is_refused(tree):
    path = tree.archive(tree.images({"cat": 3}))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="neither a folder nor a readable"):
        open_folder(path)


BROKEN = {
    "empty": lambda content: b"",
    "text": lambda content: b"not an image",
    "cut short": lambda content: content[: len(content) // 2],
    "damaged": lambda content: content[:60] + bytes(b ^ 0xFF for b in content[60:80]) + content[80:],
    "header alone": lambda content: content[:8],
}


@pytest.mark.parametrize("position", ["000", "002"])
@pytest.mark.parametrize("damage", BROKEN)
def test_a_corrupt_image_is_refused_by_name_when_it_is_decoded(tree, damage, position):
    files = tree.images({"cat": 4})
    name = f"train/cat/{position}.png"
    files[name] = BROKEN[damage](files[name])
    for path in (tree.files(files), tree.archive(files)):
        source = open_folder(path)
        with pytest.raises(DataError, match=rf"{name} is not a readable image"):
            decoded(source)
        assert len(decoded(source, "test")) == 1  # what is not asked for is not looked at


def begin_of(path: Path, name: str) -> int:
    """Where the (packed) bytes of file `name` begin in an archive."""
    with zipfile.ZipFile(path) as archive:
        return archive.getinfo(name).header_offset + 30 + len(name)


def damage(path: Path, at: int, bits: int = 0xFF) -> Path:
    """Turn `bits` of one byte of a file round."""
    content = bytearray(path.read_bytes())
    content[at] ^= bits
    path.write_bytes(content)
    return path


def damaged_archive(tree, name: str) -> Path:
    """An archive in which the stored bytes of file `name` do not match their CRC."""
    path = tree.archive(tree.images({"cat": 4}))
    return damage(path, begin_of(path, name) + 70)


def test_a_damaged_file_in_an_archive_is_refused_by_name(tree):
    source = open_folder(damaged_archive(tree, "train/cat/002.png"))
    with pytest.raises(DataError, match=r"train/cat/002\.png"):
        decoded(source)


def test_a_damaged_first_file_in_an_archive_is_refused_by_name(tree):
    source = open_folder(damaged_archive(tree, "train/cat/000.png"))
    with pytest.raises(DataError, match=r"train/cat/000\.png"):
        decoded(source)


def test_a_damaged_file_that_cannot_be_unpacked_is_refused_by_name(tree):
    picture = (np.arange(64 * 64 * 3) % 251).astype(np.uint8).reshape(64, 64, 3)
    content = encoded(Image.fromarray(picture), "BMP")  # which deflate makes much smaller
    files = {f"{split}/cat/{i}.bmp": content for split in ("train", "test") for i in range(3)}
    path = tree.archive(files, method=zipfile.ZIP_DEFLATED)
    begin = begin_of(path, "train/cat/1.bmp")
    intact = path.read_bytes()
    for at in range(begin, begin + 100):
        path.write_bytes(intact)
        with pytest.raises(DataError, match=r"train/cat/1\.bmp (cannot be read|is not a readable image)"):
            decoded(open_folder(damage(path, at)))


def test_an_archive_packed_by_an_unknown_method_is_refused_by_name(tree):
    path = tree.archive(tree.images({"cat": 2}))
    content = path.read_bytes()
    damage(path, content.rindex(b"PK\x01\x02") + 10, 99)  # the last entry of the directory: test/cat/000.png
    with pytest.raises(DataError, match=r"test/cat/000\.png"):
        decoded(open_folder(path), "test")


@pytest.mark.parametrize(
    "position",
    [
        0,
        2,
    ],
)
def test_a_link_to_nowhere_is_refused_by_name(tree, position):
    path = tree.files(tree.images({"cat": 4}))
    link = path / "train" / "cat" / f"{position:03d}.png"
    link.unlink()
    link.symlink_to("/nowhere/at/all.png")
    with pytest.raises(DataError, match=rf"{position:03d}\.png"):
        decoded(open_folder(path))


def test_an_encrypted_archive_is_refused(tree):
    path = tree.archive(tree.images({"cat": 2}))
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(signature, at + 4)
    path.write_bytes(content)
    with pytest.raises(DataError, match="encrypted|password"):
        decoded(open_folder(path))


def test_an_image_far_too_large_is_refused_and_not_decoded(tree, monkeypatch):
    files = tree.images({"cat": 2}, side=64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"train/cat/000\.png is far too large an image"):
        decoded(open_folder(tree.files(files)))


@pytest.mark.parametrize(
    "names", [("Train", "Test"), ("training", "testing", "Validation"), ("TRAIN", "val")]
)
def test_parts_of_other_names_are_no_classes(tree, names):
    image = png(noise(0, 8, 8))
    path = tree.files({f"{name}/{label}/0.png": image for name in names for label in ("ant", "bee")})
    meant = {"t": {"r": "train", "e": "test"}, "v": {"a": "val"}}
    told = ", ".join(f"{name}/ to {meant[name[0].lower()][name[1].lower()]}/" for name in sorted(names))
    with pytest.raises(DataError, match=f"instead of classes; rename {told}$"):
        open_folder(path)


def test_a_class_may_be_called_as_a_part_is_beside_others(tree):
    image = png(noise(0, 8, 8))
    path = tree.files({f"{name}/{i}.png": image for name in ("Train", "bus") for i in range(3)})
    assert open_folder(path).classes == ("Train", "bus")
