"""Verdicts from values whose figures are computed by hand."""

import pytest

from eval.verdicts import Evidence, judge_measures, profile


def evidence(up: int, down: int, same: int, **options: object) -> Evidence:
    values = [1.0] * up + [-1.0] * down + [0.0] * same
    return Evidence({f"p{n}": value for n, value in enumerate(values)}, 0.1, **options)  # type: ignore[arg-type]


def test_verdicts() -> None:
    verdicts = {
        name: one["verdict"]
        for name, one in judge_measures(
            {
                "lost a lot": evidence(40, 2, 58),
                "lost nothing": evidence(0, 0, 100),
                "noise": evidence(12, 8, 80),
                "five pairs": evidence(5, 0, 0),
                "nothing": evidence(0, 0, 0),
                "swayed": evidence(40, 2, 58, good=False),
                "not swayed": evidence(0, 0, 100, good=False),
                "below the null": Evidence({f"p{n}": 0.03 + n / 1e5 for n in range(40)}, 0.05, null=0.05),
                "above the null": Evidence({f"p{n}": 0.3 + n / 1e5 for n in range(40)}, 0.05, null=0.05),
            }
        ).items()
    }
    assert verdicts == {
        "lost a lot": "grounded",
        "lost nothing": "not grounded",
        "noise": "insufficient data",
        "five pairs": "insufficient data",
        "nothing": "insufficient data",
        "swayed": "not grounded",
        "not swayed": "grounded",
        "below the null": "not grounded",
        "above the null": "grounded",
    }


def test_questions_about_one_image_are_one_observation() -> None:
    values = {f"p{n}": 1.0 for n in range(100)}
    one = judge_measures({"m": Evidence(values, 0.1, clusters={id_: int(id_[1:]) // 10 for id_ in values})})["m"]
    assert one["n"] == 100 and one["clusters"] == 10 and one["verdict"] == "insufficient data"
    assert one["p"] == pytest.approx(2 / 2**10)


def test_value_and_interval_come_from_one_estimator() -> None:
    """Images with many problems weigh more in both: the value lies in its interval, and near its middle."""
    values = {f"a{n}": 1.0 for n in range(100)} | {f"b{n}": 0.0 for n in range(30)}
    clusters = {id_: "one" if id_.startswith("a") else id_ for id_ in values}
    one = judge_measures({"m": Evidence(values, 0.1, clusters=clusters)})["m"]
    assert one["value"] == pytest.approx(100 / 130) and one["clusters"] == 31
    assert one["ci95"][0] < one["value"] < one["ci95"][1] and one["ci95"][1] - one["ci95"][0] > 0.5
    fractions = {f"p{n}": 0.3 + 0.4 * (n % 2) for n in range(40)} | {f"q{n}": 0.9 for n in range(40)}
    mixed = Evidence(fractions, 0.1, clusters={id_: id_ if id_[0] == "p" else "one" for id_ in fractions})
    found = judge_measures({"m": mixed})["m"]
    assert found["value"] == pytest.approx(0.7) and sum(found["ci95"]) / 2 == pytest.approx(0.7)


def test_a_measure_on_two_images_has_no_interval() -> None:
    one = judge_measures({"m": Evidence({"a": 1.0, "b": 1.0}, 0.1)})["m"]
    assert one["ci95"] is None and one["verdict"] == "insufficient data" and "needs 5" in one["why_no_interval"]


def test_profile_rules() -> None:
    uses = {"wrong_picture": {"verdict": "grounded"}}
    assert profile({}) == profile({"wrong_picture": {"verdict": "insufficient data"}}) == "insufficient data"
    assert profile(uses) == "uses the picture"
    assert profile({**uses, "swap": {"verdict": "grounded", "ci95": [0.6, 0.8]}}) == "looks again"
    assert profile({**uses, "swap": {"verdict": "grounded", "ci95": [0.2, 0.8]}}) == "looks again in part"
    looks = {"verdict": "grounded", "ci95": [0.6, 0.8], "clusters": 100}
    none, many, few = {"ci95": None, "n": 0}, {"ci95": [0.6, 0.9], "n": 100}, {"ci95": [0.6, 0.9], "n": 5}
    for same, noise, named in (
        (none, many, "flips when interrupted"),
        (many, none, "flips when interrupted"),
        (none, few, "looks again"),
        ({"ci95": [0.0, 0.1], "n": 100}, {"ci95": [0.0, 0.1], "n": 100}, "looks again"),
    ):
        swap = {**looks, "change_rate_same": same, "change_rate_noise": noise}
        assert profile({**uses, "swap": swap}) == named
    one_image = {"ci95": [0.6, 0.9], "n": 100, "clusters": 5}
    assert profile({**uses, "swap": {**looks, "change_rate_noise": one_image}}) == "looks again"
    # Constant answers agree by chance alone: that is ignoring the image, not randomness.
    constant = {"excess_agreement": {"ci95": [0.0, 0.0], "n": 50}, "chance_agreement": {"value": 1.0}}
    blind = {"wrong_picture": {"verdict": "not grounded"}}
    assert profile({**blind, "self_consistency": constant}) == "ignores the picture"
    scattered = {"excess_agreement": {"ci95": [-0.02, 0.03], "n": 50}, "chance_agreement": {"value": 0.5}}
    assert profile({**blind, "self_consistency": scattered}) == "answers at random"
