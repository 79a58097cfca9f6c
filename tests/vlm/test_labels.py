"""Letters of options, beyond Z too; the prompt writes the same."""

import pytest

from vlm.chat import question_messages
from vlm.labels import option_index, option_label


@pytest.mark.parametrize(("index", "label"), [(0, "A"), (25, "Z"), (26, "AA"), (27, "AB"), (51, "AZ"), (52, "BA")])
def test_labels_go_on_after_z(index: int, label: str) -> None:
    assert option_label(index) == label and option_index(label) == option_index(label.lower()) == index


def test_the_prompt_labels_every_option() -> None:
    [turn] = question_messages("Which?", 0, choices=[f"word{n}" for n in range(28)])
    text = turn["content"][-1]["text"]
    assert "\n(Z) word25\n(AA) word26\n(AB) word27\n" in text
