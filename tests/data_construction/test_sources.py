"""Sources: deterministic, disjoint splits, answers that follow from the scene, one token a word."""

import random
import re
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from configs.errors import ConfigError
from data_construction.sources import LEARNED, SOURCES, draw_problems, families, problems, write_set
from data_construction.sources.digits import handwriting
from data_construction.sources.render import LOOKS
from data_construction.sources.scenes import FAMILIES, answer_logic, answer_simulation, walk
from vlm.problem import DOMAINS, read_problems

ALL = "scenes,digits"


def test_at_least_ten_scene_families_over_the_asked_domains():
    assert len(SOURCES["scenes"]) >= 10
    asked = {"count", "number", "yes_no", "text", "logic", "table", "simulation"}
    drawn = {problem.domain for problem, _ in problems(ALL, 64, 0, "train")}
    assert asked <= drawn <= set(DOMAINS)


def test_a_problem_depends_on_its_seed_and_number_alone():
    few = list(problems(ALL, 5, 3, "train"))
    many = list(islice(problems(ALL, 50, 3, "train"), 5))
    for (a, pictures_a), (b, pictures_b) in zip(few, many, strict=True):
        assert a == b
        for file, picture in pictures_a.items():
            assert np.array_equal(np.asarray(picture), np.asarray(pictures_b[file]))


def test_another_seed_and_another_split_draw_other_problems():
    def facts(seed: int, split: str) -> list[dict[str, str]]:
        return [problem.meta["facts"] for problem, _ in problems("scenes", 12, seed, split)]

    assert facts(0, "train") != facts(1, "train") != facts(0, "heldout")


def test_handwriting_of_the_splits_is_disjoint_and_complete():
    used = [
        image for split in ("pretrain", "train", "heldout") for hand in handwriting(split).values() for image in hand
    ]
    assert len(used) == len(set(used)) == 1797


def test_counterfactual_gives_the_same_question_another_answer():
    for problem, pictures in problems(ALL, 32, 0, "heldout", counterfactual=True):
        other = problem.meta["counterfactual"]
        assert other["answer"] != problem.answer
        assert other["image"] in pictures and len(pictures) == 2


def test_claims_are_right_about_half_of_the_time():
    drawn = [problem for problem, _ in problems("scenes", 300, 0, "train", family_names=["claims"])]
    right = [p.meta["params"]["note"] == p.meta["facts"][p.meta["params"]["place"]] for p in drawn]
    assert 0.4 < np.mean(right) < 0.6


def test_answers_follow_from_the_scene():
    cells = [("red", "star"), None, ("blue", "star"), None, ("red", "circle"), None, None, None, ("green", "cross")]
    count, compare = FAMILIES["count"], FAMILIES["compare"]
    assert count.answer(cells, {"key": "red", "kind": "colour"}) == "2"
    assert count.answer(cells, {"key": "star", "kind": "shape"}) == "2"
    assert compare.answer(cells, {"kind": "shape", "places": ["A1", "C1"]}) == "yes"
    assert compare.answer(cells, {"kind": "colour", "places": ["A1", "C1"]}) == "no"
    assert compare.answer(cells, {"kind": "colour", "places": ["A1", "B1"]}) is None
    assert FAMILIES["relation"].answer(cells, {"thing": "red circle", "direction": "right"}) == "none"
    assert FAMILIES["relation"].answer(cells, {"thing": "green cross", "direction": "right"}) is None
    assert (
        FAMILIES["list"].answer(cells, {"kind": "colour"})
        == "row 1: red none blue; row 2: none red none; row 3: none none green"
    )
    assert answer_simulation(cells, {"start": "A1", "moves": ["right", "down"]}) == "B2: red circle"
    assert walk(0, ["left"]) is None
    statements = [
        {"quantifier": "every", "shape": "star", "colour": "red"},
        {"quantifier": "some", "shape": "star", "colour": "red"},
        {"quantifier": "no", "shape": "cross", "colour": "red"},
    ]
    assert answer_logic(cells, {"statements": statements}) == "2, 3"


def test_looks_change_the_picture_and_not_the_scene():
    for name in LOOKS:
        problem, pictures = next(iter(problems("scenes", 1, 0, "train", difficulty=name)))
        assert next(iter(pictures.values())).size == (192, 192)
        assert problem.meta["difficulty"] == name


def test_write_set_is_read_back(tmp_path):
    file = write_set(ALL, 16, 0, "heldout", tmp_path / "set", counterfactual=True)
    read = read_problems(file.parent)
    assert len(read) == 16
    for problem in read:
        for image in (*problem.images, problem.meta["counterfactual"]["image"]):
            assert Image.open(image).size == (192, 192)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("scene", 1, 0, "train"), "Unknown problem source 'scene'"),
        (("scenes", 1, 0, "test"), "Unknown split 'test'"),
    ],
)
def test_unknown_names_are_named(arguments, words):
    with pytest.raises(ConfigError, match=words):
        list(problems(*arguments))
    with pytest.raises(ConfigError, match="Unknown family 'counts'"):
        families("scenes", ["counts"])


def test_every_word_of_the_sources_is_one_token_and_other_text_round_trips():
    from train.tiny.models import PIECES, build_tokenizer

    tokenizer, rng = build_tokenizer(), random.Random(7)
    for source, family in families(ALL):
        for problem, _ in problems(source, 20, rng.randrange(99), "train", family_names=[family.name]):
            for text in (problem.question, problem.answer):
                assert len(tokenizer.encode(text, add_special_tokens=False)) == len(re.findall(PIECES, text)), text
    for text in ("Où est l'été ? 12345 <b>x</b>\n\ttab", "日本語", "a_b-c  d"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_learned_families_are_sources():
    names = {name for part in SOURCES.values() for name in part}
    assert set(LEARNED) <= names
    scene, params, answer = draw_problems(FAMILIES["count"], random.Random(0))
    assert FAMILIES["count"].answer(scene, params) == answer
