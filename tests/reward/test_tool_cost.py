"""The cost of tool calls: what it costs, whom, and its control."""

import math

import pytest
import torch

from reward.aggregate import combine, row_of, zoom_parts
from reward.rewards import Rollout, tool_cost


def response(answer: str, calls: int | None, finished: bool = True) -> Rollout:
    text = f"<think> A1 is red , as I saw . </think> \\boxed{{{answer}}}"
    return Rollout(text, "text", "red", token_count=12, calls=calls, most_calls=4, finished=finished)


@pytest.mark.parametrize(
    ("answer", "calls", "finished", "value"),
    [
        ("red", 0, True, 0.0),
        ("red", 2, True, -0.5),
        ("red", 9, True, -1.0),  # calls that were refused do not cost more than all that are allowed
        ("blue", 2, True, 0.0),
        ("red", None, True, None),
        ("red", 2, False, None),
    ],
)
def test_what_calls_cost(answer: str, calls: int | None, finished: bool, value: float | None) -> None:
    assert tool_cost(response(answer, calls, finished)).value == value


def test_a_correct_response_with_calls_stays_above_an_incorrect_one_and_the_control_is_a_permutation() -> None:
    rows = [row_of(response(*one), 0.8) for one in (("red", 0), ("red", 4), ("red", 2), ("blue", 0))]
    rewards = {"accuracy": 1.0, "tool_cost": 5.0}
    columns = combine(rows, rewards, 4, seed=1)
    total = columns["accuracy"] + 5.0 * columns["tool_cost"]
    assert total[0] == total.max() and (total[:3] >= total[3]).all() and total[1] < total[2]
    control = combine(rows, {"accuracy": 1.0, "shuffled(tool_cost)": 0.1}, 4, seed=1)["shuffled(tool_cost)"]
    assert sorted(control.tolist()) == sorted([0.0, -1.0, -0.5, 0.0])


def test_the_log_tells_the_images_apart() -> None:
    rollout = response("red", 2)
    rollout.call_errors = 1
    rollout.image_mass = torch.tensor([[0.4, 0.0], [0.2, 0.5]])
    parts = zoom_parts(rollout)
    assert parts["zoom/calls"] == 2 and parts["zoom/error_share"] == 0.5
    assert math.isclose(parts["zoom/mass_originals"], 0.3, abs_tol=1e-6) and parts["zoom/mass_crop_1"] == 0.5
    assert not any(name.startswith("zoom") for name in row_of(response("red", None), 0.8)["parts"])
