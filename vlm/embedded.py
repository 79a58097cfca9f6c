"""Images that stand in a row's text, as a data URI or as base64, where the path of a file is expected."""

import re

_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
"""PNG, JPEG, GIF and WebP in base64."""
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{40,}={0,2}")


def is_embedded(image: str) -> bool:
    """Whether ``image`` is no path but an image itself. base64 text is known by its first bytes, since a path may be long too."""
    if image[:5].lower() == "data:":
        return True
    return image.startswith(_STARTS) and _BASE64.fullmatch(image.rstrip()) is not None
