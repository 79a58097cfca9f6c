"""The page's own server, of the standard library: it starts at once, and needs nothing that a training machine lacks."""

import sys
import traceback
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from configs.stopping import Stopped
from demo.access import LOCAL, Access, listen
from demo.viewer.pages import PAGE_HEADERS, PageReply, Viewer
from demo.viewer.sources import Folder

SECONDS = 30
"""How long a connection may be silent."""


class PageHandler(BaseHTTPRequestHandler):
    """One connection. The server's ``viewer`` and ``access`` decide what is answered."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "reflection-v", ""
    timeout = SECONDS
    server: Any

    def do_GET(self) -> None:
        """Answer a request, or say why not."""
        try:
            self._send(self._reply())
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True

    do_HEAD = do_GET

    def _reply(self) -> PageReply:
        refusal = self.server.access.refusal(self.headers.get_all("Host", []), self.headers.get_all("Origin", []))
        if refusal is not None:
            return PageReply(403, "text/plain; charset=utf-8", refusal.encode())
        try:
            address = urlsplit(self.path)
            path = self.server.access.below(unquote(address.path))
            if path is None:
                return PageReply(308, self.server.access.root_path + "/", b"")
            return self.server.viewer.reply(path, address.query)
        except ValueError:
            return PageReply(400, "text/plain; charset=utf-8", b"This request is not one that this page sends.")
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return PageReply(
                500, "text/plain; charset=utf-8", b"An internal error: see the terminal that runs the page."
            )

    def _send(self, reply: PageReply) -> None:
        self.send_response(reply.status)
        if reply.status == 308:
            self.send_header("Location", reply.kind)
        else:
            self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in PAGE_HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""


class PageServer(ThreadingHTTPServer):
    """Serves a viewer on a socket that listens already."""

    daemon_threads = True

    def __init__(self, viewer: Viewer, access: Access, listening: Any) -> None:
        super().__init__(listening.getsockname()[:2], PageHandler, bind_and_activate=False)
        self.socket.close()
        self.viewer, self.access, self.socket = viewer, access, listening
        listening.listen(64)


def serve_folder(
    path: str | Path,
    problems: Sequence[str | Path] = (),
    host: str = "127.0.0.1",
    port: int = 7870,
    access: Access | None = None,
) -> None:
    """Serve the page of a folder until Ctrl-C.

    Args:
        problems: further problem sets and folders of images to which the rows may refer.
        access: as for the demo.

    Raises:
        ConfigError: nothing to show, or a port that is taken.
    """
    viewer = Viewer(Folder(path, problems))
    listening = listen(host, port)
    with PageServer(viewer, access or Access.parse(host), listening) as server:
        shown = f"[{host}]" if ":" in host else host
        print(f"{path} is shown at http://{shown}:{listening.getsockname()[1]} (Ctrl-C stops it)", flush=True)
        if host not in LOCAL:
            print("There is no password: everyone who can reach this machine can read these rows.", flush=True)
        try:
            server.serve_forever()
        except (KeyboardInterrupt, Stopped):
            raise Stopped("Stopped: the page is no longer served.") from None
