"""Images as a person sees them, and the size at which a model reads them.

All images enter through this file: the rest of the code sees RGB images of bounded size, never a
path or a URL. No torch here: ``fit_image`` imports what it needs when it is called.
"""

import contextlib
import functools
import hashlib
import io
import math
import os
import threading
import warnings
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from configs.errors import ImageError
from vlm.embedded import is_embedded
from vlm.pixel_limits import check_with_processor, given_pixel_limits

MAX_PIXELS = 50_000_000
MAX_BYTES = 20 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")
"""Pillow's decoders that may run, where it was built with them (HEIF: where pillow-heif is installed); those that call other programs
stay out."""

GREY = (127, 127, 127)
"""The colour of an image without content."""

Source = str | Path | bytes | Image.Image

# Our own limit is stricter and ends in a sentence, so Pillow's warning at 89 megapixels would only be noise before it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def open_image(source: Source) -> Image.Image:
    """Read an image from a file, from the bytes of a file, or from a PIL image.

    EXIF rotation is applied, transparency is laid over white, 16-bit and float values are scaled to 8 bits, CMYK is
    converted, and of an animation the first frame counts. The size is checked before anything is decoded.

    Args:
        source: a path (URLs of any kind are refused), the content of a file, or an image.

    Returns:
        A new image in mode RGB of at most ``MAX_PIXELS`` pixels.

    Raises:
        ImageError: missing, empty, truncated, oversized or not an image; the sentence names the file.
    """
    if isinstance(source, Image.Image):
        return _decode_image(source, "The image")
    image, name = _open(source)
    with image:
        return _decode_image(image, name)


def image_size(source: str | Path | bytes) -> tuple[int, int]:
    """(width, height) of an image that is whole.

    A PNG has checksums: where they hold it is not decoded, which takes a tenth of the time, and its size is the stored one,
    before EXIF rotation. Everything else is decoded. (Only decoding finds broken data whose checksums are valid.)

    Raises:
        ImageError: as ``open_image``.
    """
    image, name = _open(source)
    with image:
        if image.format != "PNG":
            return _decode_image(image, name).size
        _check_size(image, name)
        size = image.size
        with contextlib.suppress(Exception):  # decoding below decides whether the fault matters, and names it
            image.verify()
            return size
    return open_image(source).size


def image_content(source: str | Path | bytes) -> tuple[bytes, str]:
    """The content of an image's file as it is, and the usual ending of such a file's name, after it was decoded as a test.

    Raises:
        ImageError: as ``open_image``.
    """
    data = source if isinstance(source, bytes) else _read_bytes(source)
    image, name = _identify(data, "The image" if isinstance(source, bytes) else _shown_name(source))
    kind = (image.format or "png").lower()
    with image:
        _decode_image(image, name)
    return data, {"jpeg": "jpg", "mpo": "jpg"}.get(kind, kind)


class SharedImages:
    """Opens image files. Callers that use equal files at the same time share one image, which none of them may change.

    Files are compared by their content, so a file that was replaced is opened anew. Nothing is kept that no caller uses.
    """

    def __init__(self) -> None:
        self._in_use: weakref.WeakValueDictionary[bytes, Image.Image] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def open(self, path: str | Path) -> Image.Image:
        """As ``open_image``; safe to call from several threads."""
        data = _read_bytes(path)
        digest = hashlib.sha256(data).digest()
        with self._lock:
            image = self._in_use.get(digest)
        if image is None:
            opened, name = _identify(data, _shown_name(path))
            with opened:
                image = _decode_image(opened, name)
            with self._lock:
                image = self._in_use.setdefault(digest, image)  # another thread may have been quicker
        return image


def _open(source: str | Path | bytes) -> tuple[Image.Image, str]:
    """The image, not decoded yet, and what to call it in a sentence."""
    if isinstance(source, bytes):
        return _identify(source, "The image")
    return _identify(_read_bytes(source), _shown_name(source))


def _shown_name(path: str | Path) -> str:
    return f"The image {path}"


def _identify(data: bytes, name: str) -> tuple[Image.Image, str]:
    """The image in a file's content, not decoded yet, and its name."""
    if not data:
        raise ImageError(f"{name} is empty (0 bytes): export or download it again.")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name} is larger than {MAX_BYTES // 2**20} MB: save a smaller version of it.")
    _register_decoders()
    formats = [one for one in FORMATS if one in Image.OPEN]
    try:
        image = Image.open(io.BytesIO(_without_large_metadata(data)), formats=formats)
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {MAX_PIXELS // 10**6} megapixels: scale it down first.") from None
    except Exception as error:  # a damaged header can make a decoder raise anything
        what = _what_it_is(data) or (
            "cannot be read as an image: give a PNG, JPEG, WebP, GIF, BMP, TIFF or PPM file that opens in a viewer"
        )
        raise ImageError(f"{name} {what}.") from error
    return image, name


@functools.cache
def _register_decoders() -> None:
    Image.init()
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()


_PNG = b"\x89PNG\r\n\x1a\n"
_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_MAX_METADATA = 2**19
"""Bytes of a text or a colour profile that Pillow gets to see. Beyond 1 MB it refuses the whole image, whose pixels need neither."""


def _without_large_metadata(data: bytes) -> bytes:
    """The file itself, or a PNG without its large texts and colour profiles, also those that are large once unpacked."""
    if not data.startswith(_PNG):
        return data
    kept, at, unpacked = [_PNG], len(_PNG), 0
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")  # length, name, content, checksum
        kind, content = data[at + 4 : at + 8], data[at + 8 : end - 4]
        if kind in _METADATA:
            unpacked += len(content) + _unpacked_size(content)
        if kind not in _METADATA or unpacked <= _MAX_METADATA:
            kept.append(data[at:end])
        at = end
    return data if sum(map(len, kept)) == len(data) else b"".join(kept)


def _unpacked_size(content: bytes) -> int:
    """Bytes of the deflated part of a chunk, up to a little over the limit; 0 if it has none."""
    begin = next(
        (at for at in range(min(len(content), 400)) if content[at : at + 2] in (b"x\x01", b"x^", b"x\x9c", b"x\xda")),
        None,
    )
    if begin is None:
        return 0
    try:
        return len(zlib.decompressobj().decompress(content[begin:], _MAX_METADATA + 1))
    except zlib.error:
        return 0


_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def _what_it_is(data: bytes) -> str:
    """What a file under an image's name really is, and the remedy; empty if that cannot be told."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "is a HEIC photo: install pillow-heif (pip install pillow-heif), or save it as JPEG"
    if data[4:8] == b"ftyp":
        return "is a video: give single frames as PNG or JPEG"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: run 'git lfs pull' in the data set's folder"
    if start.startswith((b"<!doctype html", b"<html")) or (start.startswith(b"<") and b"<html" in start):
        return "is an HTML page, not an image: the download was refused or needs a login; download it again"
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return "is an SVG drawing: save it as PNG"
    if start.startswith(b"%pdf"):
        return "is a PDF: save its page as PNG"
    if start.startswith((b"{", b"[")):
        return "is JSON text, not an image: download the image again"
    if data.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        return "is a compressed archive: unpack it and name an image inside"
    return ""


def png_bytes(image: Image.Image) -> bytes:
    """An image as a PNG file, to be sent once and read by a model: any decoder gives the very same pixels."""
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)  # a third of the time for a tenth more bytes
    return data.getvalue()


def scaled_down(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """The image with at most ``max_pixels`` pixels, its proportions kept; the very image where it has no more, or for None."""
    if max_pixels is None or image.width * image.height <= max_pixels:
        return image
    share = math.sqrt(max_pixels / (image.width * image.height))
    size = max(1, int(image.width * share)), max(1, int(image.height * share))
    return image.resize(size, Image.Resampling.LANCZOS)


def uses_pixel_policy(processor: Any) -> bool:
    """Whether images for this processor are sized by ``fit_image`` (the Qwen-VL family and its relatives do)."""
    return pixel_settings(processor) is not None


def fit_image(
    image: Image.Image, processor: Any, min_pixels: int | None = None, max_pixels: int | None = None
) -> Image.Image:
    """Resize an image to whole image tokens, with qwen-vl-utils' rule and the patch size of the processor in hand.

    Args:
        image: RGB image.
        processor: a processor, or an image processor. For one without patch size, merge size and pixel limits the image
            comes back unchanged: it has a sizing rule of its own.
        min_pixels, max_pixels: bounds on height x width, in pixels; the processor's own settings unless given.

    Returns:
        An image whose sides are multiples of ``patch_size * merge_size`` pixels.

    Raises:
        ImageError: the image is more than 200 times as long as wide.
    """
    size = fitted_size(image.size, processor, min_pixels, max_pixels)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def blank(image: Image.Image) -> Image.Image:
    """A mid-grey image of the same size."""
    return Image.new("RGB", image.size, GREY)


def fitted_size(
    size: tuple[int, int], processor: Any, min_pixels: int | None = None, max_pixels: int | None = None
) -> tuple[int, int]:
    """The (width, height) that ``fit_image`` gives to an image of ``size``; arguments and errors as there."""
    settings = pixel_settings(processor)
    if settings is None:
        return size
    from qwen_vl_utils import smart_resize

    factor, low, high = settings
    given = given_pixel_limits(min_pixels, max_pixels)
    check_with_processor(given, (low, high))
    low, high = given.get("min_pixels", low), given.get("max_pixels", high)
    try:
        height, width = smart_resize(size[1], size[0], factor, low, max(low, high))
    except ValueError:
        raise ImageError(
            f"The image is {size[0]} x {size[1]} pixels, too long and thin to be read: crop it to at most 200 to 1."
        ) from None
    # Scaled down to max_pixels, the short side of a thin image rounds to zero in qwen-vl-utils.
    return max(factor, width), max(factor, height)


def image_tokens(size: tuple[int, int], processor: Any) -> int | None:
    """The number of tokens of an image of ``size`` (width, height); None for a processor with a sizing rule of its own."""
    settings = pixel_settings(processor)
    if settings is None:
        return None
    width, height = fitted_size(size, processor)
    return (width // settings[0]) * (height // settings[0])


def pixel_limits(processor: Any) -> tuple[int, int] | None:
    """(min pixels, max pixels) of a processor that has them."""
    settings = pixel_settings(processor)
    return settings and settings[1:]


def pixel_settings(processor: Any) -> tuple[int, int, int] | None:
    """(factor in pixels, min pixels, max pixels) of a processor that has them."""
    image_processor = getattr(processor, "image_processor", processor)
    patch, merge = (getattr(image_processor, name, None) for name in ("patch_size", "merge_size"))
    size = getattr(image_processor, "size", None)
    if not isinstance(patch, int) or not isinstance(merge, int) or size is None:
        return None
    low, high = (getattr(size, name, None) or dict(size).get(name) for name in ("shortest_edge", "longest_edge"))
    return (patch * merge, low, high) if isinstance(low, int) and isinstance(high, int) else None


def _read_bytes(source: str | Path) -> bytes:
    text = str(source)
    if text.lower().startswith(("http:", "https:", "file:", "data:", "ftp:")):
        raise ImageError(
            f"{text[:80]} is a URL: download the image and give the path of the file (for a problem set, "
            "'reflection-v problems FILE --urls --out SET' does it; it also unpacks data URIs)."
        )
    if is_embedded(text):
        raise ImageError(
            f"{text[:30]}... is an image as base64, not a path: write it to a file and give the path of that."
        )
    try:
        path = Path(source)
        if not path.exists():
            raise ImageError(f"The image {text} does not exist: check the path.")
        if not path.is_file():
            raise ImageError(f"{text or 'An empty path'} is not a file: give the path of one image.")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # read() sets aside all the bytes that it is asked for
            return file.read(min(size, MAX_BYTES) + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(
            f"The image {text[:200]!r} cannot be read ({reason}): check the path and its permissions."
        ) from None


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels, more than {MAX_PIXELS // 10**6} megapixels: scale it down first."
        )
    if width == 0 or height == 0:
        raise ImageError(f"{name} has no pixels ({width} x {height}): export it again.")


def _decode_image(image: Image.Image, name: str) -> Image.Image:
    _check_size(image, name)
    try:
        image.load()  # the first frame of an animation
        return _flatten(_to_8_bit(_upright(image)))
    except Exception as error:  # a truncated or damaged file can make a decoder raise anything
        raise ImageError(f"{name} is damaged or cut short ({error}): export or download it again.") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # broken metadata around intact pixels: a viewer shows such an image as stored
        warnings.warn(f"unreadable EXIF data, rotation not applied: {error}", stacklevel=2)
        return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale one-channel images of more than 8 bits; Pillow's own ``convert`` clips everything above 255 to white."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I") and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = Image.fromarray(np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # 16-bit grey PNG with one transparent value
        scaled.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return scaled


def _flatten(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
