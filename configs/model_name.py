"""Names of models: ``tiny``, a folder, a hub name, or ``openai:NAME@URL`` for a served one. They never contain a key."""

import re
from urllib.parse import urlsplit

from configs.api_key import has_credentials, hide_credentials
from configs.errors import ConfigError


def served_model(spec: str) -> tuple[str, str] | None:
    """(name, URL) of ``openai:NAME@URL``; None for a model in this process.

    Raises:
        ConfigError: there is no URL, or one that cannot be used (``check_url``).
    """
    if not spec.startswith("openai:"):
        return None
    match = re.fullmatch(r"openai:(.+?)@(\w+://.+)", spec)
    if match is None:
        shown = spec.partition("@")[0] + "@..." * ("@" in spec)  # the rest may hold a password
        raise ConfigError(f"'{shown}' does not name a served model: write openai:NAME@http://HOST:PORT/v1.")
    check_url(match[2])
    return match[1], match[2]


def check_model_name(spec: str) -> str:
    """``spec`` itself. Configs are checked with it before any of their values is written to a file.

    Raises:
        ConfigError: see ``served_model``.
    """
    served_model(spec)
    return spec


def check_url(url: str) -> str:
    """The host of a server's URL.

    Raises:
        ConfigError: it is not http(s), or it has a user, a password or a query, where everyone could read a key.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # a stray bracket, or a port that is no number
        host = None
    if has_credentials(url):
        raise ConfigError("A URL must not carry a password: put the key into an environment variable (api_key_env).")
    if host is None or parts.scheme not in ("http", "https"):
        raise ConfigError(f"'{hide_credentials(url)}' is not the URL of a server: write it as http://HOST:PORT/v1.")
    if "?" in url or "#" in url:
        raise ConfigError(
            f"The URL {hide_credentials(url)} must end before its query, because a path is appended to it: remove the query, and "
            "put a key into an environment variable (api_key_env)."
        )
    return host
