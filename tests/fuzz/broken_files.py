"""Files as they should not be: valid rows with changed values, encoded and then damaged, beside images of every kind."""

import base64
import codecs
import copy
import csv
import gzip
import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from PIL import Image

from configs.errors import UserError

PATIENCE = settings(
    deadline=300_000,  # milliseconds: whoever takes so long for a file of four rows hangs, on a busy machine too
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)

# Values


def deep(opening: str, closing: str, depth: int) -> str:
    return opening * depth + "1" + closing * depth


JSON_TEXTS = [
    *(deep("[", "]", depth) for depth in (90, 300, 700, 900, 960, 990, 10_000)),
    *(deep('{"a":', "}", depth) for depth in (90, 300, 700, 900, 960, 990, 10_000)),
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-0",
        "1" * 400,
        "9" * 4000,
        "1" * 5000,
        "1e-400",
        "12345678901234567890",
    ),
    *(
        '{"a": 1, "a": 2}',
        "[1,]",
        "tru",
        "'x'",
        "0x10",
        "",
        "1 2",
        '"\\ud800"',
        '"a\\u0000b"',
        '"' + "é" * 30_000 + '"',
    ),
]
"""Texts that no JSON writer makes of a value, put where a value stands."""
RAW = re.compile(r'"@raw:(\d+)@"')
RAWS = st.integers(0, len(JSON_TEXTS) - 1).map("@raw:{}@".format)
IMAGES = (
    *(
        "good.png",
        "other.jpg",
        "broken.png",
        "empty.png",
        "animated.gif",
        "huge.png",
        "tiny.png",
        "photo.heic",
        "long.png",
    ),
    *("lfs.png", "page.png", "folder.png", "cmyk.jpg", "deep.png", "turned.jpg", "text.png", "archive.png", "loop.png"),
    *("gone.png", "drawing.svg", "half.jpg", "clear.png", "palette.png", "film.mp4", "noise.webp", "none.png"),
)
TEXTS = st.sampled_from(
    [
        *(
            "",
            " ",
            "\n",
            "\x00",
            "a\x00b",
            "\ud800",
            "x\udfff",
            "\ufeff",
            "é",
            "图",
            "\u2028",
            "\x1b[31m",
            "\\",
            "'",
            '"',
            "-",
        ),
        *(
            "3",
            "-1",
            "1/2",
            "2,5",
            "yes",
            "A",
            "NaN",
            "None",
            "[1, 2]",
            "{'a': 1}",
            "['a'",
            "{" * 300,
            "[" * 3000,
            "(" * 3000,
        ),
        *(
            "\\boxed{3}",
            "\\frac{" * 200,
            "<image>",
            "<image 1><image 9>",
            "<image 99999999999999999999>",
            "<img></img>",
        ),
        *(
            "<|im_end|>",
            "<|image_pad|>",
            "<think>",
            "</think>",
            "<answer>3</answer>",
            "{{7*7}}",
            "{% for %}",
            "x" * 5000,
        ),
        *(
            "/etc/passwd",
            "../../..",
            "/",
            ".",
            "..",
            "~",
            "~nobody/x.png",
            "http://127.0.0.1:1/x.png",
            "file:///etc/passwd",
            "x" * 300,
        ),
        *(
            "data:image/png;base64,",
            "data:image/png;base64,AAAA",
            "iVBORw0KGgo" + "A" * 60,
            "s3://a/b.png",
            "C:\\a.png",
            "a/" * 3000,
        ),
        *(f"img/{name}" for name in IMAGES),
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from([2**31, 2**63, -(2**200), 0.5, 1e300])
    | RAWS
    | TEXTS
)
VALUES = (
    LEAVES
    | st.text(max_size=20)
    | st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "text", "image", "a", ""]), inner, max_size=3)
        ),
        max_leaves=6,
    )
)

# Rows


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside of a row."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from places(inner, (*path, key))


@st.composite
def changed(draw: Any, whole: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Any:
    """One of the rows, with up to three of its values replaced, removed or added."""
    row = copy.deepcopy(dict(draw(st.sampled_from(list(whole)))))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        kind, found = draw(st.sampled_from(["value", "value", "value", "remove", "add", "row"])), list(places(row))
        if kind == "row":
            return draw(VALUES)
        if kind == "add" or not found:
            row[draw(st.sampled_from(list(columns)) | TEXTS)] = draw(VALUES)
            continue
        *path, last = draw(st.sampled_from(found))
        inner: Any = row
        for key in path:
            inner = inner[key]
        if kind == "value":
            inner[last] = draw(VALUES)
        else:
            del inner[last]
    return row


def json_text(value: Any) -> str:
    return RAW.sub(lambda found: JSON_TEXTS[int(found[1])], json.dumps(value, default=repr))


def lines(rows: Sequence[Any]) -> bytes:
    return "".join(json_text(row) + "\n" for row in rows).encode()


def array(rows: Sequence[Any]) -> bytes:
    return ("[" + ",\n".join(map(json_text, rows)) + "]").encode()


def table(rows: Sequence[Any]) -> bytes:
    """CSV, in which values that are no text stand as JSON."""
    found = [row for row in rows if isinstance(row, dict)]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    columns = list(dict.fromkeys(name for row in found for name in row))
    with_cells = [[row.get(name) for name in columns] for row in found]
    cells = [[cell if isinstance(cell, str) else json_text(cell) for cell in row] for row in with_cells]
    for row in [columns, *cells]:
        writer.writerow([RAW.sub(lambda found: JSON_TEXTS[int(found[1])], f'"{cell}"')[1:-1] for cell in row])
    return text.getvalue().encode("utf-8", "surrogatepass")


def parquet(rows: Sequence[Any]) -> bytes:
    """Parquet, in which columns of one kind keep their type and all others are JSON text. Images may be bytes."""
    found = [row for row in rows if isinstance(row, dict)]
    columns = {}
    for name in dict.fromkeys(name for row in found for name in row):
        cells = [row.get(name) for row in found]
        if name in ("image", "images") and len(cells) % 2:
            cells = [{"bytes": png(), "path": None} if isinstance(cell, str) else cell for cell in cells]
        try:
            columns[name] = pa.array(cells)
        except Exception:  # mixed types, or text that is no UTF-8
            columns[name] = pa.array([json_text(cell) for cell in cells])
    data = io.BytesIO()
    try:
        pyarrow.parquet.write_table(
            pa.table({name.encode("utf-8", "replace").decode(): c for name, c in columns.items()}), data
        )
    except Exception:  # a column of empty objects cannot be written
        return b"PAR1"
    return data.getvalue()


ENCODERS: dict[str, Callable[[Sequence[Any]], bytes]] = {
    "jsonl": lines,
    "json": array,
    "csv": table,
    "parquet": parquet,
}

# Files


def zipped(data: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.txt", data)
    return content.getvalue()


DAMAGE: dict[str, Callable[[bytes, int], bytes]] = {
    "byte order mark": lambda data, at: codecs.BOM_UTF8 + data,
    "CRLF": lambda data, at: data.replace(b"\n", b"\r\n"),
    "blank lines": lambda data, at: b"\n \t\n" + data.replace(b"\n", b"\n\n") + b"  \n",
    "twice": lambda data, at: data + data,
    "no last newline": lambda data, at: data.rstrip(b"\n"),
    "CR alone": lambda data, at: data.replace(b"\n", b"\r"),
    "UTF-16": lambda data, at: data.decode("utf-8", "replace").encode("utf-16"),
    "UTF-16 without mark": lambda data, at: data.decode("utf-8", "replace").encode("utf-16-be"),
    "UTF-32": lambda data, at: data.decode("utf-8", "replace").encode("utf-32"),
    "Latin-1": lambda data, at: data.decode("utf-8", "replace").replace("a", "é").encode("latin-1", "replace"),
    "cut": lambda data, at: data[: at % (len(data) + 1)],
    "NUL": lambda data, at: data[: at % (len(data) + 1)] + b"\0" + data[at % (len(data) + 1) :],
    "noise": lambda data, at: (
        data[: at % (len(data) + 1)] + os.urandom(0) + bytes([at % 256, 255, at % 7]) + data[at % (len(data) + 1) :]
    ),
    "half lost": lambda data, at: data[len(data) // 2 :],
    "only noise": lambda data, at: zlib.compress(data)[2 : 40 + at % 40],
    "empty": lambda data, at: b"",
    "only blanks": lambda data, at: b"\n  \n\t\n",
    "gzip": lambda data, at: gzip.compress(data),
    "zip": lambda data, at: zipped(data),
    "LFS pointer": lambda data, at: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "HTML": lambda data, at: b"<!DOCTYPE html><html><body>404</body></html>\n",
    "comma at the end": lambda data, at: data.rstrip().rstrip(b"]") + b",]",
    "quote": lambda data, at: b'"' + data,
}
HARMLESS = ("", "byte order mark", "CRLF", "blank lines", "no last newline")
NO_FILE = ("folder", "loop", "nothing", "link to nothing")
DAMAGES = st.sampled_from(["", "", "", "", "", "", "", "", "", *HARMLESS, *DAMAGE, *NO_FILE])


@dataclass(frozen=True)
class Broken:
    """A file that is to be written: its rows, how they are encoded, and its damage."""

    rows: list[Any]
    encoding: str
    damage: str
    at: int

    def write(self, path: Path) -> Path:
        """Write it (or what is there in its place)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.damage == "folder":
            path.mkdir()
        elif self.damage in ("loop", "link to nothing"):
            path.symlink_to(path.name if self.damage == "loop" else "nowhere")
        elif self.damage != "nothing":
            data = ENCODERS[self.encoding](self.rows)
            path.write_bytes(DAMAGE[self.damage](data, self.at) if self.damage in DAMAGE else data)
        return path

    @property
    def count(self) -> int | None:
        """How many rows the file certainly has; None where its damage decides that."""
        if self.damage not in HARMLESS or self.encoding not in ("jsonl", "csv"):
            return None
        if self.encoding == "csv" and not all(isinstance(row, dict) and row for row in self.rows):
            return None
        return sum(bool(json_text(row).strip()) for row in self.rows)  # a row may be a blank line


@st.composite
def broken_files(
    draw: Any, whole: Sequence[Mapping[str, Any]], columns: Sequence[str], encodings: Sequence[str] = ("jsonl",)
) -> Broken:
    """Files of one to four rows."""
    rows = draw(st.lists(changed(whole, columns), min_size=1, max_size=4))
    return Broken(rows, draw(st.sampled_from(list(encodings))), draw(DAMAGES), draw(st.integers(0, 5000)))


# Images


def png(size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    Image.new(mode, size).save(data, "PNG")
    return data.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def draw_images(folder: Path) -> Path:
    """Write ``IMAGES`` (all but ``none.png``) into the folder ``img``."""
    img = folder / "img"
    img.mkdir(parents=True)
    Image.effect_noise((40, 40), 90).convert("RGB").save(img / "good.png")
    Image.effect_noise((64, 32), 90).convert("RGB").save(img / "other.jpg")
    (img / "broken.png").write_bytes(png()[:40] + b"garbage" + png()[47:])
    (img / "half.jpg").write_bytes((img / "other.jpg").read_bytes()[:300])
    (img / "empty.png").touch()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(img / "animated.gif", save_all=True, append_images=frames[1:])
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    (img / "huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    (img / "tiny.png").write_bytes(png((1, 1)))
    (img / "long.png").write_bytes(png((900, 2)))
    (img / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
    (img / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(60))
    (img / "lfs.png").write_bytes(DAMAGE["LFS pointer"](b"", 0))
    (img / "page.png").write_bytes(DAMAGE["HTML"](b"", 0))
    (img / "archive.png").write_bytes(zipped(b"x"))
    (img / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (img / "noise.webp").write_bytes(b"RIFF\x20\0\0\0WEBPVP8 " + bytes(range(60)))
    (img / "folder.png").mkdir()
    (img / "loop.png").symlink_to("loop.png")
    (img / "gone.png").symlink_to("nowhere.png")
    Image.new("CMYK", (8, 8)).save(img / "cmyk.jpg")
    Image.new("I;16", (8, 8), 40_000).save(img / "deep.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 90)).save(img / "clear.png")
    Image.new("P", (8, 8)).save(img / "palette.png", transparency=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8)).save(img / "turned.jpg", exif=exif)
    (img / "text.png").write_bytes(png()[:33] + chunk(b"tEXt", b"a\0" + b"x" * 2_000_000) + png()[33:])
    return folder


URI = "data:image/png;base64," + base64.b64encode(png()).decode()

# What every error must be


def check_sentence(error: UserError) -> None:
    """Whether an error is one readable line."""
    text = str(error)
    assert text.strip() and "Traceback" not in text and "\n" not in text.strip() and len(text) < 5_000, text[:5_000]
