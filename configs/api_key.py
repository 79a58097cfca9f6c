"""The key of a served model: read from an environment variable, checked, and replaced by ``***`` in all text.

A config or a command names the variable (``api_key_env``) and never holds the key. Servers and HTTP libraries quote keys in
error messages, headers and replies, plain or encoded, so all text from them passes through ``ApiKey.redact``.
"""

import base64
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from configs.errors import ConfigError

HIDDEN = "***"
SHORTEST = 6
"""Shorter keys are not replaced: servers without a check get words such as ``EMPTY`` or ``none``, which are common in text."""
CUT = 16
"""From this length on, the first two thirds of a key already count as the key, because a quotation may truncate it."""
LIBRARY_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")
"""Variables of tokens that libraries read themselves and may quote in error messages."""
SECRET_NAMES = ("api_key", "apikey", "x_api_key", "authorization", "access_token", "password", "secret", "token")

# Conventional names: capital words and short numbers. Any other text may be a key, given by mistake instead of a name.
_CONVENTIONAL = re.compile(r"_*[A-Z]{1,20}\d{0,2}(?:_+(?:[A-Z]{1,20}\d{0,2}|\d{1,2}))*_*")
_CREDENTIALS = re.compile(r"(://)[^\s/?#]*@")
_QUERY = re.compile(r"(https?://[^\s?#]*)[?#]\S*")


class ApiKey:
    """A key that is never shown: neither ``repr`` nor ``str`` contains it.

    Args:
        variable: the environment variable from which it was read.
        value: the key.
    """

    __slots__ = ("_forms", "_value", "variable")

    def __init__(self, variable: str, value: str) -> None:
        self.variable, self._value = variable, value
        self._forms = _forms(value) if len(value) >= SHORTEST else []

    def __repr__(self) -> str:
        return f"ApiKey({self.variable})"

    def reveal(self) -> str:
        """The key itself; only the HTTP client may use it."""
        return self._value

    def redact(self, text: str) -> str:
        """``text`` with ``***`` in place of the key, also if it is percent-encoded, escaped, in base64, or truncated.

        Call it before a text is shortened, which may leave too little of the key to be recognized.
        """
        if self._forms:
            text = text.replace(self._value, HIDDEN)
        for form in self._forms:
            text = form.redact(text)
        return text


def check_variable(variable: object) -> str | None:
    """``variable`` if it can be the name of an environment variable; None stays None.

    Raises:
        ConfigError: it is no such name. The message does not repeat it, since it may be a key.
    """
    if variable is None:
        return None
    if not isinstance(variable, str) or not (variable in os.environ or _CONVENTIONAL.fullmatch(variable)):
        raise ConfigError(
            "api_key_env does not name an environment variable that is set: give the name of the variable that holds the key, "
            "such as MY_KEY, never the key itself."
        )
    return variable


def read_key(variable: str, server: str) -> ApiKey:
    """The key in an environment variable, without the blanks and line ends around it.

    Args:
        server: the server of the key, for the error message.

    Raises:
        ConfigError: the variable is not set, or its value cannot be sent in a header. It names the variable, never the value.
    """
    check_variable(variable)
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(f"The environment variable {variable} is not set: export the key of {server} in it.")
    value = value.strip()
    fault = _fault(value)
    if fault is not None:
        raise ConfigError(f"The environment variable {variable} does not hold a key for {server}: {fault}.")
    return ApiKey(variable, value)


def _fault(value: str) -> str | None:
    """Why a value cannot be a key, or None."""
    if not value:
        return "it is blank, so export the key in it"
    if not value.isascii():
        return "it holds a character that is not ASCII, which a header cannot carry, so copy the key again"
    if not value.replace(" ", "").isprintable():
        return "it holds a line break or another control character, so export one key on one line"
    if " " in value:
        return "it holds a space, so export the key alone, without a word such as Bearer"
    return None


def redact_tokens(text: str) -> str:
    """``text`` without the tokens of ``LIBRARY_VARIABLES`` and without passwords in URLs."""
    for variable in LIBRARY_VARIABLES:
        if value := os.environ.get(variable, "").strip():
            text = ApiKey(variable, value).redact(text)
    return hide_credentials(text)


def refuse_secrets(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """``body``, keys for a server's request, if no key is the name of a secret.

    Raises:
        ConfigError: one is; names it.
    """
    for name, value in body.items():
        if str(name).lower().replace("-", "_") in SECRET_NAMES:
            raise ConfigError(
                f"'{name}' in extra_body: a config must not hold a key; name its environment variable as api_key_env."
            )
        if isinstance(value, Mapping):
            refuse_secrets(value)
    return body


def hide_credentials(text: str) -> str:
    """``text`` with ``***`` in place of a URL's user and password, and of its query."""
    return _QUERY.sub(rf"\1?{HIDDEN}", _CREDENTIALS.sub(rf"\1{HIDDEN}@", text))


def refuse_passwords(keys: Mapping[str, Any], where: str) -> None:
    """Check a config whose values are written to files, before any of them is repeated.

    Raises:
        ConfigError: a URL in it has a password, or the URL of a served model has a query; names the key.
    """
    for key, value in keys.items():
        if isinstance(value, Mapping):
            refuse_passwords(value, where)
        elif isinstance(value, str) and has_credentials(value):
            raise ConfigError(
                f"'{key}' in {where}: a URL must not carry a password; put it into an environment variable (api_key_env)."
            )
        elif isinstance(value, str) and value.startswith("openai:") and _QUERY.search(value):
            raise ConfigError(f"'{key}' in {where}: the URL of a served model must end before its query; remove it.")


def has_credentials(text: str) -> bool:
    """Whether a URL in ``text`` carries a user or a password."""
    return _CREDENTIALS.search(text) is not None


class _Form:
    """One encoding of a key, as a pattern for each of its characters."""

    def __init__(self, units: Sequence[str], flags: int = 0) -> None:
        head = len(units) if len(units) < CUT else len(units) * 2 // 3
        self.head = re.compile("".join(units[:head]), flags)
        self.tail = [re.compile(unit, flags) for unit in units[head:]]

    def redact(self, text: str) -> str:
        parts, start = [], 0
        while (found := self.head.search(text, start)) is not None:
            end = found.end()
            for unit in self.tail:
                if (more := unit.match(text, end)) is None:
                    break
                end = more.end()
            parts += [text[start : found.start()], HIDDEN]
            start = end
        return "".join([*parts, text[start:]]) if parts else text


def _forms(key: str) -> list[_Form]:
    units = [
        _escaped(letter)
        for letter, run in itertools.groupby(key)
        for letter in (["".join(run)] if letter == "\\" else run)
    ]
    encoded = [re.escape(letter) for letter in key.encode().hex()]
    return [
        _Form(units, re.IGNORECASE),
        _Form(encoded, re.IGNORECASE),
        *(_Form([f"[{'+-' if c in '+-' else '/_' if c in '/_' else c}]" for c in part]) for part in _base64_parts(key)),
    ]


def _escaped(letter: str) -> str:
    """A pattern for a character of a key as URLs, JSON, Python's ``repr`` and HTML write it, also if encoded twice.

    All repetitions are bounded, and most are possessive, so that a hostile text cannot make the search slow.
    """
    code = ord(letter[0])
    others = rf"%(?:25){{0,3}}{code:02x}|u00{code:02x}|&(?:amp;){{0,3}}+#(?:0{{0,4}}+{code}|x0{{0,4}}+{code:x});"
    names = {"<": "lt", ">": "gt", '"': "quot", "'": "apos"}
    if letter == "&":
        others += r"|&(?:amp;){1,4}"
    elif letter in names:
        others += rf"|&(?:amp;){{0,3}}+{names[letter]};"
    if letter[0] == "\\":
        run = len(letter)
        return rf"(?:(?:\\{{0,4}}+(?:{others})){{{run}}}|\\{{{run},{4 * run}}}+)"
    return rf"(?:\\{{0,4}}+(?:{re.escape(letter)}|{others}))"


def _base64_parts(key: str) -> list[str]:
    """The base64 of a key inside a longer text, such as ``user:KEY``: three forms, since base64 encodes three bytes at once."""
    parts = []
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + key.encode()).decode()
        parts.append(whole[-(-before * 8 // 6) : (before + len(key)) * 8 // 6])
    return parts
