"""Decodes the bytes of an image file into RGB pixels of 8 bits."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from dive.errors import DataError

# The formats that are read, whatever the suffix of the file: some data sets have PNGs named .JPEG. Pillow
# reads more formats, but for some of them it runs other programs (Ghostscript for EPS).
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
_UPRIGHT = {  # by EXIF orientation: the operation that turns an image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that swap height and width
LARGEST_ASPECT = 100  # longer side / shorter side; beyond it, a resized image could fill the memory


@contextmanager
def refusing_huge_images() -> Iterator[None]:
    """Within this context, Pillow's warning of a decompression bomb is raised as an error.

    Warning filters belong to the whole process. Therefore enter this context around a pool of threads, never
    within one of its threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(content: bytes, where: str, side: int | None = None) -> np.ndarray:
    """The image in a file's bytes, (H, W, 3) uint8, upright.

    where: the name of the file in errors. side: the number of pixels that each side must have; None for any.
    Raises DataError if the content is not a readable image, is of another size than `side`, is far too large
    or too narrow, or does not fit in memory.
    """
    image = decode_image(content, where, side)
    with _named(where):
        return np.asarray(image)


def decode_image(content: bytes, where: str, side: int | None = None) -> Image.Image:
    """The image in a file's bytes as a fully decoded Pillow image of mode RGB; otherwise like `decode`.

    Pillow stores pixels in a layout of its own. Copying them to an array and back would take a quarter of the
    time that decoding takes.
    """
    with _named(where):
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_shape(image, where, side)
        image.load()  # before the orientation is read: this turns a TIFF upright and removes the tag
        turned = _upright(image)
        return turned if turned.mode == "RGB" else _as_rgb(turned)


def check_header(content: bytes, where: str, side: int | None = None) -> tuple[int, int]:
    """Height and width in pixels of the image in a file's bytes, upright, from its header alone.

    Raises DataError like `decode`, for the faults that the header shows. Call it, like `decode`, within
    `refusing_huge_images`.
    """
    with _named(where):
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_shape(image, where, side)
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow 13 gives its size upright already
            tags = image.tag_v2
            width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
        sideways = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
        return (width, height) if sideways else (height, width)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Turns errors of decoding into DataErrors that name the file."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{where} cannot be decoded: there is not enough memory") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{where} is far too large an image: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{where} is not a readable image: its content is not {_LISTED}; {_ADVICE}"
        ) from error
    except Exception as error:  # Pillow's plugins raise many kinds of errors for a damaged file
        raise DataError(f"{where} is not a readable image: {error}; {_ADVICE}") from error


_ADVICE = "repair it or remove it"
_LISTED = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def _check_shape(image: Image.Image, where: str, side: int | None) -> None:
    """Raise DataError if, by its header, an image has another size or is too narrow to be resized."""
    if side is not None and image.size != (side, side):
        raise DataError(f"{where} has {image.width}×{image.height} pixels, not {side}×{side}")
    if max(image.size) > LARGEST_ASPECT * min(image.size):
        raise DataError(
            f"{where} has {image.width}×{image.height} pixels, one side more than {LARGEST_ASPECT} times the "
            "other; crop it or remove it"
        )


def _upright(image: Image.Image) -> Image.Image:
    """A decoded image, turned upright according to its EXIF orientation.

    ImageOps.exif_transpose does the same, but also rewrites the EXIF data and fails if other tags in it are
    malformed.
    """
    method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if method is None else image.transpose(method)


def _as_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB with 8 bits a channel.

    16-bit greyscale is scaled to 8 bits; Pillow's own conversion would clip it to white. Transparency is
    ignored: a pixel keeps its colour.
    """
    if image.mode == "F":
        raise ValueError("it has floating-point pixels; convert it to 8 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "P":
        image.load()  # reads the transparency
        image.info.pop("transparency", None)  # Pillow would warn of it
    return image.convert("RGB")
