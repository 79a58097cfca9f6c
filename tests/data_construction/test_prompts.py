"""The prompts of the agent loop, from a folder of a user's: whatever it holds ends in a sentence."""

from pathlib import Path

import pytest

from configs.errors import ConfigError
from data_construction.prompts import NAMES, SHIPPED, load_prompts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / f"{name}.jinja").write_text("{{ question }}")
    return tmp_path


def test_a_folder_of_templates(folder: Path) -> None:
    (folder / "request.jinja").write_bytes(b"\xef\xbb\xbfWhat is {{ question }}")  # with a byte order mark
    assert load_prompts(str(folder)).render("request", question="q") == "What is q"


@pytest.mark.parametrize("content", ["é".encode("latin-1"), "é".encode("utf-16"), b"\x1f\x8b\x08\0"])
def test_a_template_that_is_no_utf8_is_named(folder: Path, content: bytes) -> None:
    (folder / "conclude.jinja").write_bytes(content)
    with pytest.raises(ConfigError, match=r"conclude\.jinja cannot be read"):
        load_prompts(str(folder))


@pytest.mark.parametrize(
    "text",
    [
        "{{ 1 / 0 }}",
        "{{ question.a.b }}",
        "{{ nothing }}",
        "{% for x in y %}",
        "{{ question + 1 }}",
        "{{ [1] | map(1) | list }}",
    ],
)
def test_a_template_that_fails_is_named(folder: Path, text: str) -> None:
    (folder / "rewrite.jinja").write_text(text)
    with pytest.raises(ConfigError, match=r"The prompt rewrite\.jinja does not render"):
        load_prompts(str(folder)).render("rewrite", question="q")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_set_shows_the_question_and_what_was_said(name: str) -> None:
    prompts = load_prompts(name)
    rounds = [{"request": "ASKED", "reply": "SEEN", "conclusion": "THOUGHT"}]
    for part, shows in {"request": "SEEN", "conclude": "SEEN", "rewrite": "THOUGHT"}.items():
        text = prompts.render(part, question="QUESTION", rounds=rounds)
        assert shows in text, part
        assert "QUESTION" in text or (name, part) == ("few_shot", "rewrite"), (
            part
        )  # a small model copies all that it is shown


def test_a_base_model_continues_the_examples() -> None:
    """Each example of ``few_shot`` ends behind the word with which the prompt ends, and the model writes what follows it."""
    prompts = load_prompts("few_shot")
    rounds = [{"request": "ASKED", "reply": "SEEN", "conclusion": "THOUGHT"}]
    for part, cue in {"request": "Asked:", "conclude": "Thought:", "rewrite": "Fair:"}.items():
        text = prompts.render(part, question="QUESTION", rounds=rounds)
        assert text.endswith(f"\n{cue}") and text.count(f"\n{cue} ") >= 2, part
    assert "repair" not in prompts.texts  # a conversation about the last reply is nothing that a base model continues
