"""Images that are not files: over http(s), for callers who were told that URLs are allowed, and in base64 text."""

import base64
import binascii
import re
import time

from PIL import Image

from configs.errors import ImageError
from vlm.images import MAX_BYTES, open_image

FETCH_SECONDS = 20.0
PIECE = 2**16  # bytes
BASE64 = re.compile(r"(?:data:[\w/.+-]{0,60}(?:;[\w.=+-]{1,40})?;base64,)?([A-Za-z0-9+/_-]{40,})={0,2}", re.IGNORECASE)


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


def decode_base64(text: str) -> bytes | None:
    """The bytes of a data URI (``data:image/png;base64,...``) or of bare base64 text; None for any other text."""
    if len(text) >= MAX_BYTES * 3 // 2 or not (found := BASE64.fullmatch("".join(text.split()))):
        return None
    try:
        return base64.urlsafe_b64decode(found[1].replace("+", "-").replace("/", "_") + "=" * (-len(found[1]) % 4))
    except binascii.Error:
        return None
