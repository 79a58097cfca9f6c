"""The key of a served model: what is read from the environment, what is refused, and how it disappears from a text."""

import base64
import html
import json
import random
import string
import time
import urllib.parse

import pytest

from configs.api_key import ApiKey, check_variable, hide_credentials, read_key, redact_tokens, refuse_secrets
from configs.errors import ConfigError
from vlm.backends import check_key_has_one_server, make_backend, served_model

KEYS = [
    "sk-very-secret-0123456789",
    "abc/d+e=f&<x>\"'%21",
    "a\\\\b\\c'\"d-1234567",
    "secret",
    "sk.a_b~c",
    "k" * 300 + "!",
]


def encodings(key: str) -> list[str]:
    """The key as servers and libraries write it."""
    quoted = urllib.parse.quote(key, safe="")
    inside = [
        base64.b64encode(f"{user}{key}{more}".encode()).decode() for user in ("", "u", "us:") for more in ("", "x")
    ]
    return [
        key,
        json.dumps(key),
        json.dumps(json.dumps(key)),
        repr({"message": json.dumps({"key": key})}),
        html.escape(key),
        quoted,
        urllib.parse.quote(quoted, safe=""),
        "".join(f"%{byte:02x}" for byte in key.encode()),
        "".join(f"\\u{ord(letter):04X}" for letter in key),
        key.upper(),
        key.encode().hex(),
        str(f"Bearer {key}\n".encode()),
        *inside,
        base64.urlsafe_b64encode(key.encode()).decode(),
    ]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_replaced_however_it_is_written(key: str) -> None:
    for written in encodings(key):
        redacted = ApiKey("KEY", key).redact(f"Bearer {written}; Bearer {written}.")
        assert redacted.count("***") == 2, written
        assert redacted.startswith("Bearer ") and redacted.endswith(".")
        whole = base64.b64encode(key.encode()).decode()[: len(key) * 8 // 6]
        assert key not in redacted and whole not in redacted


def test_a_key_that_is_cut_off_is_replaced_as_far_as_it_goes() -> None:
    key = ApiKey("KEY", "sk-very-secret-0123456789")
    assert key.redact("wrong key sk-very-secret-01234") == "wrong key ***"
    assert key.redact("wrong key sk-very-secret-01... at host") == "wrong key ***... at host"
    assert key.redact("sk-very is how such keys begin") == "sk-very is how such keys begin"


@pytest.mark.parametrize("key", ["a", "1", "***", "none", "EMPTY"])
def test_short_keys_are_words_of_ordinary_text(key: str) -> None:
    text = "none of 1 cells is EMPTY: a *** b"
    assert ApiKey("KEY", key).redact(text) == text


def test_other_text_stays_as_it_is() -> None:
    key = ApiKey("KEY", "sk-very-secret-0123456789")
    text = 'row 1: red \\boxed{3}, 50% of 图片 &amp; \u2028 "x" sk-very-different-0123456789'
    assert key.redact(text) == text


@pytest.mark.parametrize("text", ["\\" * 2**16, "&amp;" * 2**14, "%25" * 2**14, "&#000" * 2**14, "a" * 2**18])
def test_a_hostile_text_does_not_hold_the_search_up(text: str) -> None:
    started = time.process_time()
    assert ApiKey("KEY", "a\\\\\\&'&\"%%25&amp;aaaaaaaaaaab").redact(text) == text
    assert time.process_time() - started < 30  # linear: well under a second; quadratic: minutes


def test_random_keys_leave_no_trace() -> None:
    rng = random.Random(3)
    for _ in range(200):
        key = "".join(rng.choices(string.ascii_letters + string.digits + string.punctuation, k=rng.randint(6, 60)))
        whole = ApiKey("KEY", key)
        assert [written for written in encodings(key) if "***" not in whole.redact(written)] == [], key


def test_a_key_shows_in_no_repr() -> None:
    key = ApiKey("MY_KEY", "sk-very-secret")
    assert f"{key} {key!r} {[key]}".count("sk-") == 0 and "MY_KEY" in repr(key)


@pytest.mark.parametrize("around", ["", "\n", "\r\n", "\t", " ", "\n\n", "\x0b", "\xa0"])
def test_blanks_around_a_key_are_not_part_of_it(around: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f"{around}sk-very-secret{around}")
    assert read_key("MY_KEY", "host").reveal() == "sk-very-secret"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "MY_KEY is not set"),
        (" \n\t", "it is blank"),
        ("sk-abc\nsk-def", "a line break"),
        ("sk-abc\tdef", "control character"),
        ("sk-abc\x7f", "control character"),
        ("Bearer sk-abc", "a word such as Bearer"),
        ("sk-schlüssel", "not ASCII"),
        ("sk-钥匙", "not ASCII"),
        ("\ufeffsk-abc", "not ASCII"),
        ("sk-\udcff", "not ASCII"),
    ],
)
def test_what_is_no_key_is_refused_by_the_name_of_its_variable(
    value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ConfigError, match=words) as caught:
        read_key("MY_KEY", "host")
    said = str(caught.value)
    assert "MY_KEY" in said and "\n" not in said
    assert not any(part in said for part in value.split() if part != "Bearer")


@pytest.mark.parametrize(
    "given", ["sk-abc123", "hf_AbCdEf", "AKIAIOSFODNN7EXAMPLE", "", "0a1b2c3d", "A" * 40, 12345678]
)
def test_a_key_in_place_of_its_name_is_not_repeated(given: object) -> None:
    for refuse in (
        lambda: check_variable(given),
        lambda: make_backend("openai:m@http://h/v1", api_key_env=given),  # type: ignore[arg-type]
        lambda: check_key_has_one_server(["openai:m@http://h/v1"], given),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match="never the key itself") as caught:
            refuse()
        assert not given or str(given) not in str(caught.value)


@pytest.mark.parametrize("name", ["MY_KEY", "KEY", "OPENAI_API_KEY", "KEY2_OF_HOST", "_KEY", "KEY_2"])
def test_names_of_variables(name: str) -> None:
    assert check_variable(name) == name


def test_a_variable_that_is_set_may_have_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("my.key", "sk-very-secret")
    assert read_key(str(check_variable("my.key")), "host").variable == "my.key"


@pytest.mark.parametrize(
    "spec",
    [
        "openai:m@http://user:hidden@host/v1",
        "openai:m@ftp://user:hidden@host/v1",
        "openai:m@http://hidden@host",
        "openai:m@user:hidden@host/v1",
        "openai:m@https://host/v1?api_key=hidden",
        "openai:m@https://host/v1#hidden",
        "openai:m@http://user:hi@hidden@host:80:80",
    ],
)
def test_a_url_carries_no_key(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        served_model(spec)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "spec", ["openai:m@http://[::1", "openai:m@http://host:port/v1", "openai:m", "openai:@http://h"]
)
def test_what_names_no_server(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"is not the URL of a server|does not name a served model"):
        served_model(spec)


def test_served_names() -> None:
    assert served_model("openai:org/m@v2@http://[::1]:8000/v1") == ("org/m@v2", "http://[::1]:8000/v1")
    assert served_model("tiny") is None


@pytest.mark.parametrize("body", [{"api_key": "x"}, {"extra_headers": {"Authorization": "x"}}, {"X-Api-Key": "x"}])
def test_a_request_body_in_a_config_holds_no_key(body: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="must not hold a key"):
        refuse_secrets(body)
    assert refuse_secrets({"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}})


def test_tokens_of_libraries_and_passwords_of_urls_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret_token\n")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")
    text = (
        "Illegal header value b'Bearer hf_very_secret_token\\n' via http://me:pw@proxy:80/x?t=1, 0123456789abcdef0123"
    )
    assert redact_tokens(text) == "Illegal header value b'Bearer ***\\n' via http://***@proxy:80/x?*** ***"
    assert hide_credentials("openai:m@http://h/v1") == "openai:m@http://h/v1"
