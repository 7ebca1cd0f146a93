"""An image file's bytes to pixels: RGB, 8 bits."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from dive.errors import DataError

# What is read, whatever the file is called: data sets hold PNGs named .JPEG. Pillow knows more formats, some
# of which run other programs (EPS runs Ghostscript).
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
_UPRIGHT = {  # by orientation: what turns a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that turn a picture by a quarter
LARGEST_ASPECT = 100  # longer side by shorter: no photograph, and resized it would fill the memory


@contextmanager
def refusing_huge_images() -> Iterator[None]:
    """While it lasts, an image that Pillow would warn of as a decompression bomb is an error.

    Filters of warnings are the process's: it is entered around threads, never in one of several.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(content: bytes, where: str, side: int | None = None) -> np.ndarray:
    """The picture in a file's bytes as (H, W, 3) uint8.

    where: what names the file in errors. side: the pixels that each side must have, None for any. Raises
    DataError where it is not a readable image, far too large or narrow, or does not fit in memory.
    """
    image = decode_image(content, where, side)
    with _named(where):
        return np.asarray(image)


def decode_image(content: bytes, where: str, side: int | None = None) -> Image.Image:
    """The picture in a file's bytes as a Pillow image of mode RGB, all of it decoded; otherwise as `decode`.

    Pillow keeps pixels in a form of its own: bringing them into an array and back costs a quarter of the time
    that decoding takes.
    """
    with _named(where):
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_shape(image, where, side)
        image.load()  # before the orientation is asked for: it turns a TIFF itself and removes the tag
        turned = _upright(image)
        return turned if turned.mode == "RGB" else _as_rgb(turned)


def check_header(content: bytes, where: str, side: int | None = None) -> tuple[int, int]:
    """Height and width in pixels of the picture in a file's bytes, upright, by its header alone.

    Raises DataError as `decode` does for what the header shows. To be called within
    `refusing_huge_images`, as `decode` is.
    """
    with _named(where):
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_shape(image, where, side)
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose size Pillow 13 gives upright
            tags = image.tag_v2
            width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
        sideways = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
        return (width, height) if sideways else (height, width)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Errors of decoding as DataErrors that name the file."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{where} cannot be decoded: there is not enough memory") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{where} is far too large an image: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{where} is not a readable image: its content is no {_LISTED}; {_ADVICE}") from error
    except Exception as error:  # Pillow's plugins raise nearly anything at a damaged file
        raise DataError(f"{where} is not a readable image: {error}; {_ADVICE}") from error


_ADVICE = "repair it or remove it"
_LISTED = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def _check_shape(image: Image.Image, where: str, side: int | None) -> None:
    """Refuse by its header an image of another size, or one too narrow to be resized."""
    if side is not None and image.size != (side, side):
        raise DataError(f"{where} has {image.width}×{image.height} pixels, not {side}×{side}")
    if max(image.size) > LARGEST_ASPECT * min(image.size):
        raise DataError(
            f"{where} has {image.width}×{image.height} pixels, one side more than {LARGEST_ASPECT} times the "
            "other; crop it or remove it"
        )


def _upright(image: Image.Image) -> Image.Image:
    """A decoded image, turned as its EXIF orientation says.

    As ImageOps.exif_transpose does, which also writes the EXIF anew and fails at other malformed tags in it.
    """
    method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if method is None else image.transpose(method)


def _as_rgb(image: Image.Image) -> Image.Image:
    """The image in 8 bits a channel.

    16-bit grey is scaled, where Pillow alone would clip it to white. Transparency is left out: a pixel keeps
    its colour.
    """
    if image.mode == "F":
        raise ValueError("it has floating-point pixels; convert it to 8 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "P":
        image.load()  # which reads the transparency
        image.info.pop("transparency", None)  # of which Pillow would warn
    return image.convert("RGB")
