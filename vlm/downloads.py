"""Images over http(s), for callers who were told that URLs are allowed."""

import time

from PIL import Image

from configs.errors import ImageError
from vlm.images import MAX_BYTES, open_image

FETCH_SECONDS = 20.0
PIECE = 2**16  # bytes


def fetch_image(url: str) -> Image.Image:
    """Download an image and open it; errors as ``download_image`` and ``open_image``."""
    return open_image(download_image(url))


def download_image(url: str) -> bytes:
    """The content of an image's file over http(s): at most one byte more than ``open_image`` accepts.

    Raises:
        ImageError: no such host or page, or an answer that takes longer than ``FETCH_SECONDS``.
    """
    import http.client
    import urllib.error
    import urllib.request

    if not url.lower().startswith(("http://", "https://")):
        raise ImageError(f"{url[:80]} is not an http(s) URL: download the image and give its path.")
    try:
        until, data = time.monotonic() + FETCH_SECONDS, b""
        with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as answer:  # follows redirects to http(s) and ftp only
            # The timeout holds for a single read, so a server that drips would never reach it.
            while len(data) <= MAX_BYTES and (piece := answer.read1(min(PIECE, MAX_BYTES + 1 - len(data)))):
                data += piece
                if time.monotonic() > until:
                    raise TimeoutError(f"it takes longer than {FETCH_SECONDS:g} s")
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = str(getattr(error, "reason", error))[:200]
        raise ImageError(f"{url[:80]} cannot be downloaded ({reason}): check the URL and the network.") from None
    return data
