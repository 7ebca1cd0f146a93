"""From files to pixels: which formats, which modes, and images that would fill the memory."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile, ImageOps
from reading import pictures

from dive.data.pictures import fit, hold
from dive.data.sources.decode import FORMATS, check_header, decode, decode_image
from dive.data.sources.folder import open_folder
from dive.errors import DataError


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(content: bytes, side: int | None = None) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return decode(content, "it", side)


def png(width: int, height: int, colour: int = 0) -> bytes:
    """A PNG of one grey, however large, packed in pieces."""
    packer = zlib.compressobj(1)
    row = bytes([0]) + bytes([colour]) * width
    rows = max(1, (1 << 20) // len(row))
    packed = [packer.compress(row * min(rows, height - y)) for y in range(0, height, rows)]

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", b"".join(packed) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def folder_of(tree, content: bytes, name: str = "0.png") -> Path:
    return tree.files({f"{split}/cat/{name}": content for split in ("train", "test")})


@pytest.mark.parametrize("shape", [(1, 80_000_000), (80_000_000, 1)], ids=["tall", "wide"])
def test_an_image_of_1_by_80_million_pixels_is_refused_by_name_and_not_decoded(tree, shape, monkeypatch):
    path = folder_of(tree, png(*shape))
    assert (path / "train/cat/0.png").stat().st_size < 2_000_000
    monkeypatch.setattr(Image.Image, "resize", lambda *_, **__: pytest.fail("it was decoded and resized"))
    with pytest.raises(DataError, match=rf"train/cat/0\.png has {shape[0]}×{shape[1]} pixels, one side more"):
        hold(open_folder(path).train, np.arange(1), 32)


@pytest.mark.parametrize(("width", "height"), [(7, 700), (700, 7), (1, 100)])
def test_a_side_of_a_hundred_times_the_other_is_still_resized(width, height):
    found = fit(pixels(png(width, height, 77)), 16)
    assert found.shape == (16, 16, 3) and (found == 77).all()
    with pytest.raises(DataError, match="one side more than 100 times the other"):
        longer = [side + (side > 7) for side in (width, height)]
        pixels(png(*longer))


@pytest.mark.parametrize(
    ("owner", "step", "told"),
    [
        (ImageFile.ImageFile, "load", "cannot be decoded"),
        (Image.Image, "convert", "cannot be decoded"),
        (Image.Image, "resize", "cannot be resized to 16×16 pixels"),
    ],
)
def test_out_of_memory_while_decoding_or_resizing_names_the_file(tree, owner, step, told, monkeypatch):
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    source = open_folder(folder_of(tree, png(40, 30)))
    monkeypatch.setattr(owner, step, exhausted)
    with pytest.raises(DataError, match=rf"cat/0\.png {told}: there is not enough memory"):
        hold(source.train, np.arange(1), 16)


@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (33, 32), (5, 3), (16, 16), (90, 41)])
def test_an_image_is_resized_whole_and_then_cropped(shape):
    image = Image.fromarray(noise(*shape))
    width, height = image.size
    scale = 16 / min(width, height)
    expected = image.resize((max(16, round(width * scale)), max(16, round(height * scale))), Image.BICUBIC)
    left, top = (expected.width - 16) // 2, (expected.height - 16) // 2
    if shape == (16, 16):
        expected = image
    expected = np.asarray(expected)[top : top + 16, left : left + 16]
    np.testing.assert_array_equal(fit(pixels(encoded(image, "PNG")), 16), expected)


SUFFIXES = ("png", "jpg", "jpeg", "bmp", "webp", "ppm", "pgm", "tif", "tiff", "gif")


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_read_under_every_suffix(tree, form):
    content = encoded(Image.fromarray(np.full((8, 8, 3), 90, dtype=np.uint8)), form)
    names = [f"{split}/cat/{i}.{suffix}" for split in ("train", "test") for i, suffix in enumerate(SUFFIXES)]
    images = pictures(open_folder(tree.files(dict.fromkeys(names, content))).train)
    assert images.shape == (len(SUFFIXES), 8, 8, 3)
    assert np.abs(images.astype(int) - 90).max() <= 3  # JPEG and WebP are lossy


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff"])
def test_postscript_under_an_images_name_is_refused_and_not_run(tree, suffix, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was run"))
    content = encoded(Image.fromarray(noise(8, 8)), "EPS")
    source = open_folder(folder_of(tree, content, f"0.{suffix}"))
    with pytest.raises(
        DataError,
        match=rf"0\.{suffix} is not a readable image: its content is not PNG, JPEG, .* or GIF; ",
    ):
        source.train.read(0)


@pytest.mark.parametrize("form", ["EPS", "PCX", "TGA", "ICO", "SGI", "PDF"])
def test_other_formats_are_refused_whatever_they_are_called(form):
    with pytest.raises(DataError, match="it is not a readable image"):
        pixels(encoded(Image.fromarray(noise(16, 16)), form))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_an_image_stands_upright_in_every_orientation(form, orientation):
    """0 and 9 are none. The grey one has another mode than what comes out."""
    palette = Image.open(io.BytesIO(with_palette(3))).crop((0, 0, 8, 5))
    for image in (Image.fromarray(COLOURS[:, :5]), Image.fromarray(GREY[:5]), palette):
        if image.mode == "P" and form == "JPEG":
            continue
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(image, form, exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
        found = decode_image(content, "it")
        assert found.mode == "RGB" and found.size == expected.shape[1::-1]
        np.testing.assert_array_equal(np.asarray(found), expected)
        np.testing.assert_array_equal(pixels(content), expected)
        assert check_header(content, "it") == expected.shape[:2]


def malformed_exif(orientation: int) -> bytes:
    """EXIF of an orientation and of a resolution that is a text instead of a fraction."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack(
        "<HHI4s", 0x011A, 2, 4, b"abc\0"
    )
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_image_stands_upright_whatever_else_its_exif_holds(form, orientation):
    image, sound = Image.fromarray(COLOURS[:, :5]), Image.Exif()
    sound[0x0112] = orientation
    content = encoded(image, form, exif=malformed_exif(orientation))
    np.testing.assert_array_equal(pixels(content), pixels(encoded(image, form, exif=sound)))
    assert check_header(content, "it") == pixels(content).shape[:2]


def test_a_photograph_with_a_second_picture_in_it_is_read_as_its_first():
    one, other = (Image.fromarray(np.full((16, 16, 3), level, dtype=np.uint8)) for level in (60, 200))
    content = encoded(one, "MPO", save_all=True, append_images=[other])
    found = pixels(content)
    assert found.shape == (16, 16, 3) and np.abs(found.astype(int) - 60).max() <= 2


COLOURS = noise(8, 8)
ALPHA = noise(8, 8, 1, seed=1)
GREY = COLOURS[..., 0]
INDEX = GREY % 5
PALETTE = noise(1, 5, seed=2)[0]
SIXTEEN = np.random.default_rng(3).integers(0, 65536, (8, 8), dtype=np.uint16)
SIXTEEN[0] = (0, 128, 256, 257, 65278, 65279, 65534, 65535)


def with_palette(transparency: int | bytes | None) -> bytes:
    image = Image.fromarray(INDEX, "P")
    image.putpalette(PALETTE.tobytes())
    return encoded(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey)[..., None], 3, axis=2)


INK = 255 - noise(8, 8, 4, seed=4).astype(int)
MODES = {
    "RGB": (encoded(Image.fromarray(COLOURS), "PNG"), COLOURS),
    "RGBA": (encoded(Image.fromarray(np.concatenate([COLOURS, ALPHA], axis=2)), "PNG"), COLOURS),
    "L": (encoded(Image.fromarray(GREY), "PNG"), three(GREY)),
    "LA": (encoded(Image.fromarray(np.stack([GREY, ALPHA[..., 0]], axis=2)), "PNG"), three(GREY)),
    "1": (encoded(Image.fromarray(GREY > 127), "PNG"), three(255 * (GREY > 127))),
    "P": (with_palette(None), PALETTE[INDEX]),
    "P, one colour transparent": (with_palette(3), PALETTE[INDEX]),
    "P, colours half transparent": (with_palette(bytes([0, 100, 200, 255, 5])), PALETTE[INDEX]),
    "CMYK": (
        encoded(Image.fromarray((255 - INK).astype(np.uint8), "CMYK"), "TIFF"),
        np.rint(INK[..., :3] * INK[..., 3:] / 255),
    ),
    "16-bit PNG": (encoded(Image.fromarray(SIXTEEN), "PNG"), three(SIXTEEN // 257)),
    "16-bit TIFF": (encoded(Image.fromarray(SIXTEEN), "TIFF"), three(SIXTEEN // 257)),
    "16-bit big-endian TIFF": (
        encoded(Image.fromarray(SIXTEEN), "TIFF", big_endian=True),
        three(SIXTEEN // 257),
    ),
    "16-bit PGM": (b"P5 8 8 65535\n" + SIXTEEN.astype(">u2").tobytes(), three(SIXTEEN // 257)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_the_rgb_of_its_colours_without_a_warning(mode):
    content, expected = MODES[mode]
    np.testing.assert_array_equal(pixels(content), expected)


def test_floating_point_pixels_are_refused():
    content = encoded(Image.fromarray(np.ones((8, 8), dtype=np.float32)), "TIFF")
    with pytest.raises(DataError, match="it has floating-point pixels; convert it to 8 bits"):
        pixels(content)


def test_an_image_that_must_have_the_size_is_refused_by_its_header(monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="it has 9×8 pixels, not 8×8"):
        pixels(encoded(Image.fromarray(noise(8, 9)), "PNG"), 8)
