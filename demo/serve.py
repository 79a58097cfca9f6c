"""Serve the page safely: only the routes that it needs, images in memory, no connection to another host.

Gradio has many more routes than this page uses (files, proxies, downloads of URLs, run history). The gate in front of it
admits a short list and answers 404 to everything else, so that no route can read a file of the host.
"""

import contextlib
import json
import os
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

# Gradio reads these at import: no telemetry, no check for a newer version, no run history.
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False", HF_HUB_DISABLE_TELEMETRY="1")

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse

from configs.errors import ConfigError, UserError
from demo.access import LOCAL, Access, listen
from demo.app import STATIC, build_app
from demo.engine import Engine, Sessions
from demo.image_store import MAX_UPLOAD, ImageStore
from demo.viewer.pages import PAGE_HEADERS, Viewer
from demo.viewer.sources import Folder

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ROUTES = {
    "GET": re.compile(
        r"/|/config/?|/theme\.css|/assets/[\w./-]+|/static/[\w./-]+|/favicon\.ico|/manifest\.json|/image/[\w-]+"
        r"|/gradio_api/(?:info|app_id|startup-events|queue/data|heartbeat/\w+)/?"
    ),
    "POST": re.compile(r"/image|/gradio_api/(?:queue/join|cancel|reset)/?"),
}
ROWS = "/rows/"
"""Where the rows of a run are shown, if the demo was given one."""
STREAMS = ("/gradio_api/queue/data", "/gradio_api/heartbeat/")
"""Routes that send events while the connection stays open."""
MAX_PATH = 255
"""Bytes of a request's path. The page's own are shorter; the system raises an error for a file name that is longer."""
MAX_BODY = 200_000
"""Bytes of any request except an upload."""
DRAINED = 200 * 2**20
"""Bytes of a request that is too large which are still read, so that the browser shows the reply."""
HEADERS = {
    # The page's own scripts are inline and compile templates; nothing may be loaded from, or sent to, another host.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
FORWARDED = (b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")
"""Headers from which Gradio would read the address of the page. A visitor can write them."""
HERE = "."
"""The address of the page for its own scripts. Gradio's own guess, from ``Host``, is wrong behind a proxy that replaces it; a
relative one is correct under every name, scheme and path. Gradio takes it from ``X-Gradio-Server``."""


class Gate:
    """ASGI middleware that admits the routes of ``ROUTES``, bodies of bounded size and known shape, and requests of this page.

    Args:
        access: under which names and path the page answers.
        functions: the numbers of Gradio's event handlers.
        viewer: answers below ``ROWS``, without Gradio and under the stricter policy of its own page.
    """

    def __init__(self, app: Any, access: Access, functions: Collection[int], viewer: Viewer | None = None) -> None:
        self.app, self.access, self.functions, self.viewer = app, access, functions, viewer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        path = self.access.below(scope["path"])
        refusal = self._refusal(scope, "/" if path is None else path)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        if path is None:  # the page's relative addresses need the slash
            query = scope["query_string"].decode("latin-1")
            await RedirectResponse(self.access.root_path + ("/?" + query if query else "/"))(scope, receive, send)
            return
        if self.viewer is not None and path.startswith(ROWS):
            reply = await run_in_threadpool(
                self.viewer.reply, path[len(ROWS) - 1 :], scope["query_string"].decode("latin-1")
            )
            await Response(reply.body, reply.status, PAGE_HEADERS, reply.kind)(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name not in FORWARDED]
        headers.append((b"x-gradio-server", HERE.encode()))
        scope = {**scope, "path": path, "raw_path": quote(path).encode(), "headers": headers}
        if scope["method"] == "POST" and scope["path"] != "/image":
            body = await read_body(receive, MAX_BODY)
            if body is None or not is_plain(body, self.functions):
                await JSONResponse(
                    {"error": "This request is not one that this page sends."}, 413 if body is None else 400
                )(scope, receive, send)
                return
            receive = _replay(body, receive)

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *ours]
                if scope["path"].startswith(STREAMS):
                    message["headers"].append((b"x-accel-buffering", b"no"))  # nginx would hold the events back
            await send(message)

        await self.app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, path: str) -> Response | None:
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        allowed = ROUTES.get("GET" if scope["method"] == "HEAD" else scope["method"])
        # The viewer itself knows its addresses, none of which names a file.
        of_viewer = self.viewer is not None and path.startswith(ROWS)
        known = allowed is not None and ((of_viewer and scope["method"] != "POST") or allowed.fullmatch(path))
        unknown = not known or ".." in path or len(path.encode()) > MAX_PATH
        if unknown or b"deep_link" in scope["query_string"]:  # it names a file
            return JSONResponse({"error": "There is nothing here."}, 404)
        hosts, origins = ([value for name, value in headers if name == wanted] for wanted in ("host", "origin"))
        refused = self.access.refusal(hosts, origins)
        return None if refused is None else JSONResponse({"error": refused}, 403)


async def read_body(receive: Receive, limit: int) -> bytes | None:
    """A request's body; None if it is larger than ``limit`` bytes.

    The rest is read and dropped, up to ``DRAINED``: if the connection were closed early, a browser would not show the reply.
    """
    body, size = bytearray(), 0
    while size <= DRAINED:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        size += len(message.get("body", b""))
        if size <= limit:
            body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(body) if size <= limit else None


SHAPES: dict[str, tuple[type, ...]] = {
    "data": (list,),
    "fn_index": (int,),
    "session_hash": (str,),
    "event_id": (str, type(None)),
    "trigger_id": (int, type(None)),
}


def is_plain(body: bytes, functions: Collection[int]) -> bool:
    """Whether a body is JSON of the known shape without a file: Gradio would open its path, or download its URL."""
    try:
        value = json.loads(body)
        # A lone surrogate can be parsed but not encoded, and would fail later inside Gradio.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict) or any(
        name in value and not isinstance(value[name], types) for name, types in SHAPES.items()
    ):
        return False
    if value.get("fn_index", next(iter(functions))) not in functions:
        return False
    # Gradio queues an event with an empty session under another name, where it makes every later event fail.
    if value.get("session_hash") == "":
        return False
    waiting: list[Any] = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "path" in part or "url" in part:
                return False
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return True


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def make_server(
    engine: Engine, access: Access | None = None, store: ImageStore | None = None, rows: Folder | None = None
) -> Gate:
    """The whole application behind its gate, for uvicorn or a test client. ``rows``: the folder of the second tab."""
    store, sessions = store or ImageStore(), Sessions()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/image")
    async def upload(request: Request) -> JSONResponse:
        data = await read_body(request.receive, MAX_UPLOAD)
        if data is None:
            return JSONResponse({"error": "The image is larger than 20 MB: save a smaller version of it."}, 413)
        try:
            token = await run_in_threadpool(store.add, data)
        except UserError as error:  # no 4xx status: browsers log those as errors of the page
            return JSONResponse({"error": str(error)})
        return JSONResponse({"token": token})

    @app.get("/image/{token}")
    def show(token: str) -> Response:
        try:
            data = store.png(token)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 404)
        return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    blocks = build_app(engine, store, sessions, with_rows=rows is not None)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        root_path=HERE,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css_paths=[STATIC / "page.css"],
    )
    viewer = Viewer(rows, home="../") if rows is not None else None
    return Gate(app, access or Access(), set(blocks.fns), viewer)


def serve(
    models: Sequence[str],
    host: str = "127.0.0.1",
    port: int = 7860,
    api_key_env: str | None = None,
    access: Access | None = None,
    pair: tuple[str, str] | None = None,
    run: Path | None = None,
) -> None:
    """Serve the page until Ctrl-C. The first model, or the pair, is loaded before the address is printed, so that a bad name fails at once.

    Args:
        access: under which names and path the page answers. By default, on an address of this machine alone, only to its
            own names.
        pair: a base and a trained model, which answer side by side.
        run: the folder whose traces and rollouts are shown in a second tab, if it has any.

    Raises:
        UserError: a model that does not load, or a port that is taken.
    """
    access = access or Access.parse(host)
    engine = Engine(models, api_key_env, pair)
    for name in engine.models_of(engine.offered[0]):
        engine.model(name)
    rows = None
    if run is not None:
        with contextlib.suppress(ConfigError):  # a run without rows has no second tab
            rows = Folder(run)
    listening = listen(host, port)
    server = uvicorn.Server(
        uvicorn.Config(make_server(engine, access, rows=rows), log_level="warning", timeout_graceful_shutdown=2)
    )
    shown = f"[{host}]" if ":" in host else host
    print(f"The demo is at http://{shown}:{listening.getsockname()[1]} (Ctrl-C stops it)", flush=True)
    if host not in LOCAL:
        print("There is no password: everyone who can reach this machine can use the demo.", flush=True)
    server.run(sockets=[listening])
