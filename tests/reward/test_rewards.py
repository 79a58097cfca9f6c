"""Rewards on rows computed by hand."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from configs.errors import UserError
from reward.claims import ask_responder
from reward.rewards import GATED, REWARDS, Rollout, Score, attention_ratio, grounding_penalty, halves
from vlm.backends import ScriptedBackend

RIGHT = "<think> one two three four five six seven eight </think> \\boxed{blue}"
WRONG = RIGHT.replace("blue", "red")


def rollout(mass: list[float], thought: tuple[int, int] | None = None, text: str = RIGHT, **kwargs: object) -> Rollout:
    values = torch.tensor(mass)
    base = {
        "text": text,
        "domain": "text",
        "gold": "blue",
        "token_count": len(mass),
        "mass": values,
        "lift": values * 2,
        "thought": thought or (0, len(mass)),
    }
    return Rollout(**{**base, **kwargs})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mass", "ratio"),
    [
        # T = 8: (0.1 + 0.1 + 0.2 + 0.2) / (0.4 + 0.4 + 0.2 + 0.2)
        ([0.4, 0.4, 0.2, 0.2, 0.1, 0.1, 0.2, 0.2], 0.5),
        # T = 9: the middle token (0.9) is in neither half
        ([0.1, 0.1, 0.1, 0.1, 0.9, 0.2, 0.2, 0.2, 0.2], 2.0),
        ([0.25] * 8, 1.0),
        ([0.5] * 4 + [0.0] * 4, 0.0),
        # T = 11, reasoning inside: the published form counts every token of the completion
        ([0.2] * 5 + [0.7] + [0.3] * 5, 1.5),
    ],
)
def test_published_reward_by_hand(mass: list[float], ratio: float) -> None:
    score = attention_ratio(rollout(mass))
    assert score.value == pytest.approx(ratio)
    first, second = score.parts["first_half"], score.parts["second_half"]
    assert second / first == pytest.approx(ratio)
    assert score.parts["term"] == pytest.approx(ratio)


def test_the_published_reward_is_0_for_a_wrong_answer_and_keeps_its_parts() -> None:
    score = attention_ratio(rollout([0.4] * 4 + [0.2] * 4, text=WRONG))
    assert score.value == 0.0
    assert score.parts["term"] == pytest.approx(0.5)


def test_bounded_forms_read_the_thought_alone() -> None:
    inside = [0.1] * 4 + [0.3] * 4
    row = rollout([0.9, *inside, 0.9, 0.9], thought=(1, 9))
    assert REWARDS["attention_ratio_clipped"](row).value == 1.0  # 3 is cut to 1
    assert REWARDS["attention_late_mass"](row).value == pytest.approx(0.3)
    falling = rollout([0.0, *reversed(inside), 0.9], thought=(1, 9))
    assert REWARDS["attention_ratio_clipped"](falling).value == pytest.approx(1 / 3)


@pytest.mark.parametrize(("late", "value"), [(0.4, 0.0), (0.32, 0.0), (0.16, -0.5), (0.0, -1.0), (0.8, 0.0)])
def test_grounding_penalty_charges_below_its_floor(late: float, value: float) -> None:
    row = rollout([0.4] * 4 + [late] * 4)
    assert grounding_penalty(row, floor=0.8).value == pytest.approx(value, abs=1e-6)
    assert grounding_penalty(rollout([0.4] * 4 + [late] * 4, text=WRONG)).value == 0.0


def test_late_mass_cannot_be_raised_by_looking_away_early() -> None:
    rows = [rollout([early] * 4 + [0.2] * 4) for early in (0.6, 0.01)]
    assert REWARDS["attention_late_mass"](rows[0]).value == REWARDS["attention_late_mass"](rows[1]).value
    assert attention_ratio(rows[1]).value > attention_ratio(rows[0]).value  # type: ignore[operator]


UNJUDGED = {
    "truncated": {"finished": False},
    "no image": {"n_images": 0},
    "no reasoning": {"thought": None},
    "short reasoning": {"thought": (0, 7)},
    "not recorded": {"mass": None, "lift": None},
    "missing rows": {"mass": torch.tensor([0.1] * 7 + [float("nan")])},
}


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("why", UNJUDGED)
@pytest.mark.parametrize("text", [RIGHT, WRONG])
def test_unjudged_rows_have_no_score(name: str, why: str, text: str) -> None:
    row = rollout([0.1] * 8, text=text)
    for field, value in UNJUDGED[why].items():
        setattr(row, field, value)
    assert REWARDS[name](row) == Score(None)


def test_a_first_half_that_does_not_look_at_all_gives_no_ratio() -> None:
    row = rollout([0.0] * 4 + [0.5] * 4)
    assert attention_ratio(row).value is None
    assert REWARDS["attention_ratio_clipped"](row).value is None
    assert REWARDS["attention_late_mass"](row).value == pytest.approx(0.5)


def test_an_answer_that_cannot_be_judged_leaves_every_gated_term_open() -> None:
    row = rollout([0.1] * 8, domain="number", gold="a lot")
    assert REWARDS["accuracy"](row).value is None
    assert "right" not in REWARDS["accuracy"](row).parts  # it is not in the accuracy that is logged
    assert all(REWARDS[name](row).value is None for name in GATED)


FORMATS = [
    (RIGHT, True, True, 1.0),
    (RIGHT, False, True, 0.0),
    ("\\boxed{blue}", True, True, 0.0),
    ("\\boxed{blue}", True, False, 1.0),
    ("<think> so <think> so </think> \\boxed{blue}", True, True, 0.0),
    ("<think> so </think> blue", True, True, 0.0),
    ("<think> so \\boxed{blue}", True, True, 0.0),
    ("", True, True, 0.0),
    ("<think>x \\boxed{5}</think>", True, True, 0.0),
    ("<think>x \\boxed{5}</think>", True, False, 0.0),
    ("<think> x <answer>5</answer> </think> 5", True, True, 0.0),
    ("<think> first \\boxed{4}, no </think> \\boxed{6}", True, True, 1.0),
    ("<think> x </think> <answer>5</answer>", True, True, 1.0),
    ("<think> x </think> <answer></answer>", True, True, 0.0),
    ("<think> x </think> \\boxed{}", True, True, 0.0),
    ("<THINK> x </Think> \\boxed{5}", True, True, 1.0),
    ("Let me see. <think> x </think> So \\boxed{5}.", True, True, 1.0),
    ("\\boxed{5} <think> x </think>", True, True, 0.0),
    ("\\boxed{5} <think> x </think> \\boxed{5}", True, True, 0.0),
    ("<answer>5</answer> <think> x </think> <answer>5</answer>", True, True, 0.0),
    ("two and three </think> \\boxed{5}", True, True, 1.0),  # the prompt had opened the span
    ("two and three </think> </think> \\boxed{5}", True, True, 0.0),
    ("two </think> three \\boxed{5} <think>", True, True, 0.0),
    ("two </think> <think> three \\boxed{5}", True, True, 0.0),
    ("<think> a </think> <think> b </think> \\boxed{5}", True, True, 0.0),
    ("<think> a </think> \\boxed{5} <think> b </think>", True, True, 0.0),
    ("<think> a </think> \\boxed{5} <think> b", True, True, 0.0),
    ("<think> a <think> b </think> c </think> \\boxed{5}", True, True, 0.0),
    ("<think> put it behind </think> as asked </think> \\boxed{5}", True, True, 0.0),  # a quoted tag is a tag
    ("<think></think> \\boxed{5}", True, True, 0.0),
    ("<think> \n . </think> \\boxed{5}", True, True, 0.0),
    ("</think> \\boxed{5}", True, True, 0.0),
    ("<think></think> \\boxed{5}", True, False, 1.0),  # how some models answer a prompt that asks for no reasoning
    ("<think> a </think> \\boxed{5}", True, False, 1.0),
    ("<think> a \\boxed{5}", True, False, 0.0),
    ("<think> a </think> <think> b </think> \\boxed{5}", True, False, 0.0),
    ("<answer>5</answer>", True, False, 1.0),
    ("5", True, False, 0.0),
    ("<think> 二加三 </think> 答案是 \\boxed{5}", True, True, 1.0),
]


@pytest.mark.parametrize(("text", "finished", "thinks", "value"), FORMATS)
def test_format(text: str, finished: bool, thinks: bool, value: float) -> None:
    assert REWARDS["format"](rollout([0.1] * 8, text=text, finished=finished, thinks=thinks)).value == value


def test_accuracy_is_the_verifiers_score() -> None:
    assert REWARDS["accuracy"](rollout([0.1] * 8)).value == 1.0
    assert REWARDS["accuracy"](rollout([0.1] * 8, text=WRONG)).value == 0.0
    half = rollout([0.1] * 8, text="\\boxed{1}", domain="logic", gold="1, 3")
    score = REWARDS["accuracy"](half)
    assert score.value == 0.5 and score.parts["right"] == 0.0 and score.parts["recall"] == 0.5


def test_halves_are_means() -> None:
    assert halves(torch.tensor([1.0, 3.0, 100.0, 5.0, 7.0])) == (2.0, 6.0)
    assert halves(torch.tensor([1.0, 2.0])) == (1.0, 2.0)


FACTS = {"A1": "red star", "B1": "none", "A2": "blue circle", "B2": "red circle"}
CLAIMS = [
    ("A1: red star; B2: red circle", 1.0, 2.0),
    ("A1: red star; B2: blue circle", 0.5, 2.0),
    ("A1: blue. Let me look again. A1: red", 1.0, 1.0),  # taken back: the last word counts
    ("A1: red. Let me look again. A1: blue", 0.0, 1.0),
    ("row 1: red none; red: 2", 1.0, 2.0),
    ("row 1: red red; red: 3", 0.0, 2.0),
    ("note: red star", None, 0.0),
    ("nothing is claimed", None, 0.0),
]


@pytest.mark.parametrize(("reasoning", "value", "checked"), CLAIMS)
def test_claims_are_checked_against_the_scene(reasoning: str, value: float | None, checked: float) -> None:
    score = REWARDS["process_claims"](
        rollout([0.1] * 8, text=f"<think> {reasoning} </think> \\boxed{{blue}}", facts=FACTS)
    )
    assert score.value == value and score.parts["claims"] == checked


def test_facts_of_any_kind_are_compared() -> None:
    facts = {"A1": "", "B2": "Red Star", "C3": "²"}
    claimed = "same colour at A1 and B2: no; B2: red star; sum of row 3: 2"
    score = REWARDS["process_claims"](
        rollout([0.1] * 8, text=f"<think> {claimed} </think> \\boxed{{blue}}", facts=facts)
    )
    assert score.value == 1.0 and score.parts["claims"] == 1.0


def test_an_answer_that_was_cut_off_counts_only_in_its_box() -> None:
    for text, value in (("<think> a </think> The answer is blue", 0.0), ("<think> a </think> \\boxed{blue} and", 1.0)):
        assert REWARDS["accuracy"](rollout([0.1] * 8, text=text, finished=False)).value == value
    assert REWARDS["accuracy"](rollout([0.1] * 8, text="<think> a </think> The answer is blue")).value == 1.0


def test_what_the_facts_do_not_cover_is_what_a_responder_said() -> None:
    text = "<think> sky: grey; A1: red star; tree: tall; road: wet </think> \\boxed{blue}"
    asked = rollout(
        [0.1] * 8, text=text, facts=FACTS, seen={"sky: grey": True, "tree: tall": False, "a1: red star": False}
    )
    score = REWARDS["process_claims"](asked)
    assert score.value == pytest.approx(2 / 3) and score.parts == {"claims": 3.0, "false": 1.0}
    assert REWARDS["process_claims"](rollout([0.1] * 8, text=text)).value is None


def test_a_responder_is_asked_about_each_claim(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    paths = (str(tmp_path / "a.png"),)
    backend = ScriptedBackend(lambda request: "no" if "tall" in str(request.messages) else "Yes, it is.")
    answers = ask_responder(backend, [(paths, "sky", "grey"), (paths, "tree", "tall")])
    assert answers == {(paths, "sky", "grey"): True, (paths, "tree", "tall"): False}
    assert all(len(request.images) == 1 for request in backend.requests)
    assert ask_responder(ScriptedBackend(lambda request: "who knows"), [(paths, "a", "b")]) == {}
    with pytest.raises(UserError, match="cannot be asked"):
        ask_responder(ScriptedBackend([]), [(paths, "a", "b")])


@pytest.mark.parametrize(
    ("reasoning", "value"),
    [
        ("one two three four five six seven", 0.0),
        ("a b c d e f " * 2, 1 / 7 * -1),
        ("a " * 100, -1.0),
        ("short", 0.0),
        ("Look again. " * 50, -1.0),
        ("I look at the image again and count three red stars. " * 50, -1.0),
        ("one two three four five six seven eight " * 2, -3 / 11),  # said twice is not a loop yet
        ("看图" * 300, -1.0),
        ("看图。" * 300, -1.0),
        ("看图 " * 300, -1.0),
        ("もう一度見る。" * 80, -1.0),
        ("ดูภาพอีกครั้ง" * 100, -1.0),
        ("다시보기" * 300, -1.0),
        ("다시 보기 " * 100, -1.0),
        ("lookagain" * 300, -1.0),
        ("看图", 0.0),
        ("第一根柱子是二，第二根是三，加起来是五。", 0.0),
        (
            "图中有三颗红色的星星和两个蓝色的圆形。先数第一行：左边是红星，中间空着，右边是蓝圆。再数第二行，只有一颗红星。",
            0.0,
        ),
        ("画像には赤い星が三つと青い円が二つあります。まず上の段を数えると、左に星、右に円が見えます。", 0.0),
        ("ในภาพมีดาวสีแดงสามดวงและวงกลมสีน้ำเงินสองวง แถวแรกมีดาวหนึ่งดวง แถวที่สองมีดาวสองดวง รวมเป็นสาม", 0.0),
        ("그림에는 빨간 별이 세 개 있고 파란 원이 두 개 있습니다. 첫째 줄에는 별이 하나, 둘째 줄에는 둘입니다.", 0.0),
        ("A1: red star. A2: red star. B1: blue circle. B2: red star. Three red stars, two others.", 0.0),
        (r"\frac{3x+2}{4}+\frac{5x-1}{6}=\frac{7x+9}{12} gives \frac{9x+6+10x-2}{12}=\frac{7x+9}{12}, so x=5/12", 0.0),
    ],
)
def test_repetition_counts_pieces_of_six_words(reasoning: str, value: float) -> None:
    score = REWARDS["repetition"](rollout([0.1] * 8, text=f"<think> {reasoning} </think> \\boxed{{blue}}"))
    assert score.value == pytest.approx(value)


@pytest.mark.parametrize("text", ["a ", "看", "ดู", "x"])
def test_repetition_reads_a_bounded_part(text: str) -> None:
    assert REWARDS["repetition"](rollout([0.1] * 8, text=text * 200_000)).value == -1.0


def test_information_is_the_second_half_of_the_thought_clipped() -> None:
    values = torch.tensor([9.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 50.0, -50.0, 9.0])
    row = rollout([0.1] * 10, thought=(1, 9), information=values, information_blank=values * 0 + 1)
    score = REWARDS["image_information"](row)
    assert score.value == pytest.approx((1 + 2 + 3 - 3) / 4)
    assert score.parts["first_half"] == 0.0 and score.parts["blank"] == 1.0
    wrong = rollout([0.1] * 10, thought=(1, 9), information=values, text=WRONG)
    assert REWARDS["image_information"](wrong).value == 0.0
    assert REWARDS["image_information"](rollout([0.1] * 10)).value is None
