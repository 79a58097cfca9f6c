"""Multiple choice with the options in another order: does the model choose an option for its content or for its letter?"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from eval.figures import estimate_accuracy, image_clusters
from eval.runner import Answer
from eval.stats import estimate_share
from reward.grade import chosen_option, gold_option
from vlm.labels import option_label
from vlm.problem import Problem


def rotate_options(problem: Problem, by: int) -> Problem:
    """The problem with its options moved up by ``by`` places, and the new letter of the correct option as gold answer
    (its words, where the letter is another option's text)."""
    choices = problem.choices or []
    index = gold_option(problem)
    if index is None:
        return problem
    by %= len(choices)
    moved = [*choices[by:], *choices[:by]]
    index = (index - by) % len(choices)
    # Validated: images that stand in the options move with them.
    turned = Problem.model_validate({**problem.model_dump(), "choices": moved, "answer": option_label(index)})
    # The label may be another option's own text (options B, C, A): then the words name the option.
    return (
        turned
        if gold_option(turned) == index
        else turned.model_copy(update={"answer": (turned.choices or moved)[index]})
    )


def position_bias(problems: Sequence[Problem], orders: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    """Does the letter matter? ``orders[r]`` are the answers with the options moved up by r places (0: as given).

    Returns ``accuracy`` by order; ``chosen`` and ``gold``: share of each letter among the answers and the correct options, in
    [0, 1]; ``same_choice``: share of problems on which all orders chose the same option (not letter).
    """
    chosen: Counter[str] = Counter()
    gold: Counter[str] = Counter()
    same: dict[str, float] = {}
    clusters = image_clusters(problems)
    for number, problem in enumerate(problems):
        picked = []
        for by, rows in enumerate(orders):
            shown = rotate_options(problem, by)
            index = chosen_option(shown, rows[number].answer)
            gold_index = gold_option(shown)
            if rows[number].status != "ok" or gold_index is None:
                continue
            gold[option_label(gold_index)] += 1
            if index is not None:
                chosen[option_label(index)] += 1
            # Undo the rotation, so that choices compare by option and not by letter.
            picked.append(None if index is None else (index + by) % len(problem.choices or [0]))
        if len(picked) == len(orders):
            same[problem.id] = float(picked[0] is not None and len(set(picked)) == 1)
    return {
        "accuracy": [estimate_accuracy(rows, clusters) for rows in orders],
        "chosen": {letter: count / chosen.total() for letter, count in sorted(chosen.items())},
        "gold": {letter: count / gold.total() for letter, count in sorted(gold.items())},
        "same_choice": estimate_share(same.values(), [clusters[id_] for id_ in same]),
    }
