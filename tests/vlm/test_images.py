"""Images come in as a person sees them, bad files end in a sentence, and sizes follow the processor in hand."""

import io
import os
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.errors import ImageError
from vlm.images import (
    MAX_BYTES,
    SharedImages,
    fit_image,
    image_size,
    open_image,
    png_bytes,
    uses_pixel_policy,
)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def pixel(source: Any, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = open_image(source)
    assert image.mode == "RGB"
    return image.getpixel(at)  # type: ignore[return-value]


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def png_with(*chunks: tuple[bytes, bytes], late: bool = False) -> bytes:
    """A red PNG with further chunks before its pixels, or behind them."""
    data = encoded(Image.new("RGB", (8, 6), "red"))
    more = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    at = len(data) - 12 if late else 33
    return data[:at] + more + data[at:]


# As a person sees it


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "MPO"])
def test_reads_common_formats_from_path_bytes_and_image(format: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 10), (200, 30, 40))
    file = tmp_path / f"picture.{format.lower()}"
    file.write_bytes(encoded(picture, format))
    for source in (file, str(file), file.read_bytes(), picture):
        opened = open_image(source)
        assert opened.size == (20, 10) and opened.mode == "RGB"
        assert np.allclose(opened.getpixel((5, 5)), (200, 30, 40), atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_once(orientation: int) -> None:
    seen = Image.new("RGB", (30, 20), "white")
    seen.paste((255, 0, 0), (0, 0, 10, 10))  # a red corner at the top left
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = seen.transpose(undo[orientation]) if orientation in undo else seen
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(encoded(stored, "PNG", exif=exif))
    assert np.array_equal(np.asarray(opened), np.asarray(seen))
    assert np.array_equal(np.asarray(open_image(opened)), np.asarray(seen))


def test_broken_exif_around_intact_pixels_is_shown_as_stored() -> None:
    data = encoded(Image.new("RGB", (8, 8), "blue"), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert open_image(data).size == (8, 8)


def test_transparency_lies_over_white() -> None:
    clear, half = Image.new("RGBA", (4, 4), (255, 0, 0, 0)), Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert pixel(encoded(clear)) == (255, 255, 255)
    assert np.allclose(pixel(encoded(half)), 127, atol=1)
    assert pixel(encoded(Image.new("LA", (4, 4), (0, 0)))) == (255, 255, 255)
    assert pixel(encoded(Image.new("LA", (4, 4), (40, 255)))) == (40, 40, 40)


def test_palettes_with_and_without_transparency() -> None:
    picture = Image.new("P", (4, 2))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.paste(1, (2, 0, 4, 2))
    assert pixel(encoded(picture), (3, 0)) == (200, 100, 50)
    for transparency in (0, b"\x00\xff"):
        data = encoded(picture, transparency=transparency)
        assert pixel(data) == (255, 255, 255) and pixel(data, (3, 0)) == (200, 100, 50)


def test_transparent_colour_of_rgb_grey_and_bilevel() -> None:
    assert pixel(encoded(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))) == (255, 255, 255)
    assert pixel(encoded(Image.new("L", (2, 2), 7), transparency=7)) == (255, 255, 255)
    assert pixel(encoded(Image.new("1", (2, 2), 1))) == (255, 255, 255)
    assert pixel(encoded(Image.new("1", (2, 2), 0), transparency=0)) == (255, 255, 255)


def test_16_bit_and_float_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    for format in ("PNG", "TIFF"):
        opened = np.asarray(open_image(encoded(Image.fromarray(ramp), format)))[0, :, 0]
        assert np.array_equal(opened, np.arange(256)), format
    wide = Image.fromarray((ramp.astype(np.int32) - 100) * 1000)  # 32-bit values have no known white: stretch
    opened = np.asarray(open_image(encoded(wide, "TIFF")))[0, :, 0]
    assert opened[0] == 0 and opened[-1] == 255 and (np.diff(opened.astype(int)) >= 0).all()
    unit = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(2, 0)
    unit[1, :] = np.nan
    opened = np.asarray(open_image(encoded(Image.fromarray(unit), "TIFF")))[..., 0]
    assert np.array_equal(opened[0], np.arange(256)) and (opened[1] == 0).all()


def test_16_bit_transparency() -> None:
    data = encoded(Image.fromarray(np.array([[500, 65535 // 2]], np.uint16)), transparency=500)
    assert pixel(data) == (255, 255, 255) and np.allclose(pixel(data, (1, 0)), 127, atol=1)


def test_cmyk_and_first_frame_of_an_animation() -> None:
    red = pixel(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert red[0] > 200 and max(red[1:]) < 80
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("lime", "blue", "black")]
    for format in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50)
        assert np.allclose(pixel(data), (0, 255, 0), atol=6), format


def test_the_given_image_is_not_changed() -> None:
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    opened = open_image(picture)
    opened.putpixel((0, 0), (0, 0, 0))
    assert picture.mode == "RGBA" and picture.getpixel((0, 0)) == (255, 0, 0, 0)


# Written as PNG, and shared


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (64, 48), (333, 201)])
def test_a_written_png_holds_the_pixels_that_pillow_would_write(size: tuple[int, int]) -> None:
    noise = Image.frombytes("RGB", size, random.Random(size[0]).randbytes(size[0] * size[1] * 3))
    for image in (noise, Image.new("RGB", size, (1, 2, 3)), Image.radial_gradient("L").convert("RGB").resize(size)):
        data = png_bytes(image)
        with Image.open(io.BytesIO(data)) as checked:
            checked.verify()  # the checksums
        read, fresh = (Image.open(io.BytesIO(one)) for one in (data, encoded(image)))
        assert (read.format, read.mode, read.size) == ("PNG", "RGB", size)
        assert np.array_equal(np.asarray(read), np.asarray(image)) and np.array_equal(read, fresh)
        assert np.array_equal(np.asarray(open_image(data)), np.asarray(image))


def test_equal_files_in_use_at_once_share_one_image(tmp_path: Path) -> None:
    stored = Image.frombytes("RGB", (9, 5), random.Random(1).randbytes(9 * 5 * 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated
    for name in ("a.png", "copy.png"):
        (tmp_path / name).write_bytes(encoded(stored, exif=exif))
    (tmp_path / "other.png").write_bytes(encoded(Image.new("RGB", (9, 5), "blue")))
    images = SharedImages()
    opened = images.open(tmp_path / "a.png")
    assert np.array_equal(np.asarray(opened), np.asarray(open_image(tmp_path / "a.png"))) and opened.size == (5, 9)
    assert images.open(str(tmp_path / "a.png")) is opened and images.open(tmp_path / "copy.png") is opened
    assert images.open(tmp_path / "other.png") is not opened
    (tmp_path / "a.png").write_bytes((tmp_path / "other.png").read_bytes())  # replaced: the path is no key
    assert pixel(images.open(tmp_path / "a.png")) == (0, 0, 255)
    assert images.open(tmp_path / "copy.png") is opened
    del opened
    assert len(images._in_use) == 0
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(images.open, [tmp_path / "copy.png"] * 64))
    assert len({id(image) for image in kept}) == 1


def test_a_shared_image_is_checked_like_any_other(tmp_path: Path) -> None:
    whole = encoded(Image.effect_noise((60, 60), 80))
    files = {"empty.png": b"", "text.png": b"no picture", "short.png": whole[:900], "huge.png": png_header(9000, 9000)}
    images = SharedImages()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        for _ in range(2):  # a fault is not forgotten
            with pytest.raises(ImageError) as alone:
                open_image(tmp_path / name)
            with pytest.raises(ImageError) as shared:
                images.open(tmp_path / name)
            assert str(shared.value) == str(alone.value) and name in str(shared.value)
    for path in ("nowhere.png", "https://example.org/a.png"):
        with pytest.raises(ImageError):
            images.open(path)


# Bad input


def test_files_that_are_no_images_are_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    photo = Image.effect_noise((200, 200), 80)
    (tmp_path / "cut.jpg").write_bytes(encoded(photo, "JPEG")[:3000])
    (tmp_path / "cut.png").write_bytes(encoded(photo)[:3000])
    reasons = {
        "missing.png": "does not exist",
        "empty.png": "is empty",
        "text.png": "cannot be read as an image",
        "script.eps": "cannot be read as an image",
        "cut.jpg": "cut short",
        "cut.png": "cut short",
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageError, match=reason) as caught:
            open_image(tmp_path / name)
        assert name in str(caught.value) and caught.value.exit_code == 2
    with pytest.raises(ImageError, match="not a file"):
        open_image(tmp_path)


LARGE = b"a" * 3_000_000
XMP = b"XML:com.adobe.xmp\0"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"tEXt", b"Comment\0" + LARGE),
        (b"zTXt", b"Comment\0\0" + zlib.compress(LARGE)),
        (b"iTXt", XMP + b"\0\0\0\0" + LARGE),
        (b"iTXt", XMP + b"\1\0\0\0" + zlib.compress(LARGE)),
        (b"iCCP", b"profile\0\0" + zlib.compress(LARGE)),
        (b"iCCP", b"profile\0\0" + zlib.compress(os.urandom(2_000_000))),
    ],
)
def test_large_metadata_does_not_cost_the_image(kind: bytes, content: bytes, late: bool) -> None:
    data = png_with((kind, content), late=late)
    assert pixel(data) == (255, 0, 0) and image_size(data) == (8, 6)


def test_many_packed_texts_are_not_unpacked_without_end() -> None:
    data = png_with(*[(b"zTXt", b"Comment\0\0" + zlib.compress(LARGE))] * 2000)
    assert pixel(data) == (255, 0, 0)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is an HTML page"),
        (b"\xef\xbb\xbf\n <HTML><head>", "is an HTML page"),
        (b"<?xml version='1.0'?><html xmlns='x'>", "is an HTML page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC photo: install pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "is a HEIC photo"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "is a video"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing"),
        (b"%PDF-1.7\n", "is a PDF"),
        (b'{"error": "not found"}', "is JSON text"),
        (b"PK\x03\x04rest", "is a compressed archive"),
        (b"no image at all", "cannot be read as an image"),
    ],
)
def test_what_lies_under_an_images_name_is_said(data: bytes, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(data)
    for read in (open_image, image_size):
        with pytest.raises(ImageError, match=rf"The image .*photo.jpg {sentence}"):
            read(file)


@pytest.mark.parametrize("path", ["/dev/zero", "a\0b", "x" * 5000, ""])
def test_odd_paths(path: str) -> None:
    with pytest.raises(ImageError):
        open_image(path)


@pytest.mark.parametrize(
    "url", ["http://localhost/a.png", "HTTPS://x.y/a.png", "file:///a.png", "data:image/png;base64,AA"]
)
def test_urls_are_not_opened(url: str) -> None:
    with pytest.raises(ImageError, match="is a URL"):
        open_image(url)


def test_unreadable_file(tmp_path: Path) -> None:
    file = tmp_path / "locked.png"
    file.write_bytes(encoded(Image.new("RGB", (4, 4))))
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageError, match="Permission denied"):
        open_image(file)


@pytest.mark.parametrize("size", [(10_000, 5_001), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_from_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="50 megapixels"):
        open_image(png_header(*size))


def test_limits_hold_for_images_and_bytes() -> None:
    with pytest.raises(ImageError, match="50 megapixels"):
        open_image(Image.new("1", (10_000, 5_001)))
    with pytest.raises(ImageError, match="20 MB"):
        open_image(b"\x89PNG" + bytes(MAX_BYTES))
    with pytest.raises(ImageError, match="no pixels"):
        open_image(Image.new("RGB", (0, 5)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_damaged_files_open_or_raise_an_image_error(format: str) -> None:
    rng = random.Random(format)
    whole = encoded(Image.effect_noise((24, 24), 60).convert("RGB"), format)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with suppress(ImageError):
            assert open_image(bytes(data[: rng.randint(1, len(data))])).mode == "RGB"


# The pixel policy


def processor(patch: int = 16, merge: int = 2, low: int = 64 * 64, high: int = 256 * 256) -> SimpleNamespace:
    size = {"shortest_edge": low, "longest_edge": high}
    return SimpleNamespace(image_processor=SimpleNamespace(patch_size=patch, merge_size=merge, size=size))


@pytest.mark.parametrize("size", [(192, 192), (640, 480), (33, 500), (10, 10), (3000, 20), (1, 100)])
@pytest.mark.parametrize("patch", [14, 16])
def test_sides_are_whole_image_tokens_within_the_bounds(size: tuple[int, int], patch: int) -> None:
    fitted = fit_image(Image.new("RGB", size), processor(patch))
    assert fitted.width % (2 * patch) == 0 and fitted.height % (2 * patch) == 0
    assert fitted.width * fitted.height <= 256 * 256 or min(fitted.size) == 2 * patch
    assert fitted.width * fitted.height >= 64 * 64


def test_given_bounds_come_before_the_processors() -> None:
    picture = Image.new("RGB", (640, 640))
    assert fit_image(picture, processor()).size == (256, 256)
    assert fit_image(picture, processor(), max_pixels=128 * 128).size == (128, 128)
    assert fit_image(picture, processor(), min_pixels=512 * 512).size == (512, 512)


def test_a_fitting_picture_and_a_processor_with_its_own_rule_leave_the_picture_alone() -> None:
    picture = Image.new("RGB", (192, 192))
    assert fit_image(picture, processor()) is picture
    other = SimpleNamespace(image_processor=SimpleNamespace(size={"height": 336, "width": 336}, patch_size=14))
    assert not uses_pixel_policy(other) and fit_image(picture, other) is picture
    assert uses_pixel_policy(processor())


def test_a_ribbon_is_refused_in_words() -> None:
    with pytest.raises(ImageError, match="2010 x 10 pixels, too long and thin"):
        fit_image(Image.new("RGB", (2010, 10)), processor())


def test_sizes_equal_those_of_the_processor_itself(tiny_vlm_dir: Path) -> None:
    from transformers import AutoProcessor

    loaded = AutoProcessor.from_pretrained(tiny_vlm_dir)
    factor = loaded.image_processor.patch_size * loaded.image_processor.merge_size
    for size in [(192, 192), (300, 200), (64, 400)]:
        picture = Image.new("RGB", size)
        own = loaded.image_processor(picture, return_tensors="pt")["image_grid_thw"][0].tolist()
        fitted = fit_image(picture, loaded)
        assert [1, fitted.height // factor * 2, fitted.width // factor * 2] == own


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF"])
def test_the_size_of_a_whole_picture(format: str, tmp_path: Path) -> None:
    file = tmp_path / "picture"
    Image.effect_noise((31, 17), 80).save(file, format)
    assert image_size(file) == open_image(file).size == (31, 17)
    data = file.read_bytes()
    for broken in (data[: len(data) // 2], b"", b"no picture"):
        with pytest.raises(ImageError):
            image_size(broken)


def test_a_changed_byte_of_a_png_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    Image.effect_noise((64, 64), 80).save(file)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    with pytest.raises(ImageError, match="damaged"):
        image_size(bytes(data))
    whole = file.read_bytes()
    assert image_size(whole[:-12]) == open_image(whole[:-12]).size  # no end chunk: every viewer shows it
    with pytest.raises(ImageError, match="does not exist"):
        image_size(tmp_path / "absent.png")
