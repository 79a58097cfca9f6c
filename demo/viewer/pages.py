"""What the page asks for, and the answers: a function from a path and a query to bytes, whatever server hands them over."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from configs.errors import ImageError
from demo.viewer.columns import Query
from demo.viewer.curve_view import CurveView
from demo.viewer.sources import Folder, Source
from demo.viewer.table import ViewedRow
from demo.viewer.trace_view import TraceView

STATIC = Path(__file__).parent / "static"
FILES = {
    "/": ("view.html", "text/html; charset=utf-8"),
    "/view.css": ("view.css", "text/css; charset=utf-8"),
    "/view.js": ("view.js", "text/javascript; charset=utf-8"),
    "/blocks.js": ("blocks.js", "text/javascript; charset=utf-8"),
    "/curves.js": ("curves.js", "text/javascript; charset=utf-8"),
}
PAGE_HEADERS = {
    # Everything comes from this server, nothing is inline, and nothing may be sent elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MAX_QUERY = 8_000
MAX_PAGE = 200
"""Rows of the list in one answer."""
MAX_ROW = 32 * 2**20
READ_FOR_LINK = 20.0
"""Seconds that a table is read for the row of a link."""
LOOK_AGAIN = 5.0
"""Seconds after which the folder is looked at for files that have come."""


class PageReply(NamedTuple):
    """An answer of the page's server."""

    status: int
    kind: str
    body: bytes


class _NotFound(Exception):
    """There is nothing at this address."""


class Viewer:
    """The answers of the page that shows a folder.

    Args:
        folder: what is shown.
        home: the address of a page to go back to; empty for none.
    """

    def __init__(self, folder: Folder, home: str = "") -> None:
        self.folder, self.home = folder, home
        self._looked = time.monotonic()
        self._routes: dict[str, Callable[[dict[str, list[str]]], Any]] = {
            "/api/state": self.state,
            "/api/rows": self.rows,
            "/api/row": self.row,
            "/api/replies": self.replies,
            "/api/curves": self.curves,
        }

    def reply(self, path: str, query: str) -> PageReply:
        """The answer to a GET request. Whatever the files hold, it is an answer: an error is one of its rows."""
        if path in FILES:
            name, kind = FILES[path]
            return PageReply(200, kind, (STATIC / name).read_bytes())
        if path == "/favicon.ico":
            return PageReply(204, "image/png", b"")
        if len(query) > MAX_QUERY:
            return _json_reply({"error": "The query is too long."}, 414)
        try:
            given = parse_qs(query, keep_blank_values=True, errors="replace", max_num_fields=200)
            if path == "/image":
                return PageReply(200, "image/png", self.image(given))
            if path in self._routes:
                return _json_reply(self._routes[path](given))
        except ImageError as error:
            return _json_reply({"error": str(error)}, 404)
        except OSError as error:
            return _json_reply({"error": f"A file cannot be read ({error.strerror})."}, 404)
        except _NotFound:
            pass
        except ValueError:
            return _json_reply({"error": "This request is not one that this page sends."}, 400)
        return _json_reply({"error": "There is nothing here."}, 404)

    def state(self, given: dict[str, list[str]]) -> dict[str, Any]:
        """The sources of the folder."""
        if time.monotonic() - self._looked > LOOK_AGAIN:
            self._looked = time.monotonic()
            self.folder.find()
        sources = [
            {"name": name, "kind": one.view.name, "title": one.view.title, "bytes": one.size}
            for name, one in self.folder.sources.items()
        ]
        return {"folder": self.folder.path.name, "path": str(self.folder.path), "home": self.home, "sources": sources}

    def rows(self, given: dict[str, list[str]]) -> dict[str, Any]:
        """A part of the wanted rows, and what the filters offer."""
        source = self._source(given)
        table, query = source.view.table, _query(given)
        first, count = _integer(given, "first", 0), min(_integer(given, "count", 100), MAX_PAGE)
        with table.lock:
            found = table.page(query)
            shown = [int(number) for number in found.rows[first : first + count]]
            answer: dict[str, Any] = {
                "total": table.columns.rows,
                "matched": len(found.rows),
                "read": found.read,
                "searched": found.searched,
                "changes": table.changes,
                "first": first,
            }
            if _one(given, "filters") == "1":
                answer["facets"] = {
                    name: table.columns.counts(name, table.select(query, without=name)) for name in table.columns.facets
                }
                answer["ranges"] = table.columns.bounds()
        answer["rows"] = [source.view.line(number, table.row(number)) for number in shown]
        return answer

    def row(self, given: dict[str, list[str]]) -> dict[str, Any]:
        """One row, as parts to draw."""
        number = _integer(given, "n", 0)
        source, row = self._row(given, number)
        return source.view.detail(number, row)

    def replies(self, given: dict[str, list[str]]) -> dict[str, Any]:
        """The replies of the models in a trace's episode."""
        source, row = self._row(given, _integer(given, "n", 0))
        if not isinstance(source.view, TraceView) or row.content is None:
            raise _NotFound
        return {"blocks": source.view.replies(row.content)}

    def curves(self, given: dict[str, list[str]]) -> dict[str, Any]:
        """The learning curves of a training run."""
        view = self._source(given).view
        if not isinstance(view, CurveView):
            raise _NotFound
        return view.curves()

    def image(self, given: dict[str, list[str]]) -> bytes:
        """An image of a row. It is named by the row and its place there, never by a path."""
        source, row = self._row(given, _integer(given, "n", 0))
        place = _integer(given, "i", 0)
        stored, folder = source.view.images(row.content) if row.content is not None else ([], self.folder.root)
        if not place < len(stored):
            raise _NotFound
        return self.folder.images.png(self.folder.images.source(stored[place], folder))

    def _row(self, given: dict[str, list[str]], number: int) -> tuple[Source, ViewedRow]:
        source = self._source(given)
        table = source.view.table
        if number >= table.columns.rows:  # a link may be followed before the list has been read
            table.refresh(READ_FOR_LINK)
        return source, table.row(number)

    def _source(self, given: dict[str, list[str]]) -> Source:
        source = self.folder.sources.get(_one(given, "source"))
        if source is None:
            raise _NotFound
        return source


def _one(given: dict[str, list[str]], name: str) -> str:
    return given.get(name, [""])[-1]


def _integer(given: dict[str, list[str]], name: str, default: int) -> int:
    text = _one(given, name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise ValueError(name)
    return int(text)


def _query(given: dict[str, list[str]]) -> Query:
    """``is.NAME=WORD`` (may be repeated), ``min.NAME``, ``max.NAME``, ``text``, ``order``."""
    words = {key[3:]: frozenset(values) for key, values in given.items() if key.startswith("is.")}
    ranges = {}
    for key in given:
        if key.startswith(("min.", "max.")):
            name = key[4:]
            low, high = _one(given, f"min.{name}"), _one(given, f"max.{name}")
            ranges[name] = (float(low) if low else -math.inf, float(high) if high else math.inf)
    return Query(words, ranges, _one(given, "text")[:1_000], _one(given, "order"))


def _json_reply(value: Any, status: int = 200) -> PageReply:
    return PageReply(status, "application/json", json.dumps(value, allow_nan=False).encode())
