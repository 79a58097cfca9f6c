"""Replay: the responder's own correct responses to a second problem set join the cold-start set."""

from pathlib import Path

import pytest
from building import says, scripted_roles, settings, write_set

from configs.errors import UserError
from configs.jsonl import read_jsonl
from data_construction.build import run_build
from data_construction.shards import Shard, run_merge
from vlm.protocol import BackendError


def lists(request):
    """As ``says``; a question that comes alone, as replay asks it, is answered with a list that ends in 2."""
    text = request.messages[-1]["content"][-1]["text"]
    return "row 1: red red. \\boxed{2}" if request.images and text.startswith("How many of kind") else says(request)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    write_set(tmp_path / "set", 30)
    write_set(tmp_path / "skills", 12)
    return tmp_path


def config(folder: Path, out: str = "out", share: float = 0.2, **changes: object):
    quality = {"near_duplicate": 1.0, "min_words": 2}
    replay = {"replay_problems": str(folder / "skills"), "replay": {"share": share}, "quality": quality}
    replay |= {"mix": {"min_confirm": 0.0}}
    return settings(folder, out=str(folder / out), **{**replay, **changes})


def test_only_correct_responses_join_and_the_rows_say_so(sets: Path) -> None:
    counts = run_build(config(sets), roles=scripted_roles(lists))
    rows = read_jsonl(sets / "out/sft.jsonl")
    added = [row for row in rows if row["mode"] == "replay"]
    right = {f"p{i:04d}" for i in range(1, 12, 3)}  # the problems of the second set whose answer is 2
    assert {row["problem_id"] for row in added} <= right
    assert len(added) == counts["cold_start"]["replay_rows"] == min(4, round((len(rows) - len(added)) / 4))
    assert len(rows) == counts["cold_start"]["rows"]
    row = added[0]
    assert row["completion"] == "row 1: red red. \\boxed{2}" and row["masked"] == [] and row["relooks"] == 0
    assert row["prompt"][0]["content"][-1]["text"].strip().startswith("How many of kind")  # no instruction to think
    assert Path(row["images"][0]).parent == sets / "skills"


def test_a_second_run_asks_nothing_and_another_share_takes_other_numbers(sets: Path) -> None:
    run_build(config(sets), roles=scripted_roles(lists))

    def silent(request):
        raise BackendError("nothing may be asked")

    before = (sets / "out/sft.jsonl").read_bytes()
    run_build(config(sets), roles=scripted_roles(silent))
    assert (sets / "out/sft.jsonl").read_bytes() == before
    run_build(config(sets, share=0.05), roles=scripted_roles(silent))
    assert sum(row["mode"] == "replay" for row in read_jsonl(sets / "out/sft.jsonl")) == 1
    run_build(config(sets, share=0.0), roles=scripted_roles(silent))
    assert all(row["mode"] != "replay" for row in read_jsonl(sets / "out/sft.jsonl"))


def test_another_style_asks_again(sets: Path) -> None:
    run_build(config(sets), roles=scripted_roles(lists))
    changed = config(sets, replay={"share": 0.2, "style": "describe"})
    run_build(changed, roles=scripted_roles(lists))
    prompts = [row["prompt"] for row in read_jsonl(sets / "out/sft.jsonl") if row["mode"] == "replay"]
    assert prompts and all("Describe the picture" in prompt[0]["content"][-1]["text"] for prompt in prompts)


def test_a_build_without_it_may_get_it_later(sets: Path) -> None:
    run_build(config(sets, replay_problems=""), roles=scripted_roles(lists))
    assert not (sets / "out/replay.jsonl").exists()
    counts = run_build(config(sets), roles=scripted_roles(lists))
    assert counts["cold_start"]["replay_rows"] > 0


def test_shards_ask_their_part_and_their_merge_has_the_same_rows(sets: Path) -> None:
    run_build(config(sets), roles=scripted_roles(lists))
    for number in (1, 2, 3):
        run_build(config(sets, "shards"), roles=scripted_roles(lists), shard=Shard(number, 3))
    run_merge(config(sets, "shards"))
    assert (sets / "shards/sft.jsonl").read_bytes() == (sets / "out/sft.jsonl").read_bytes()


def test_a_missing_set_is_named_before_a_model_loads(sets: Path) -> None:
    for work in (run_build, run_merge):
        (sets / "out/shard-1-of-1").mkdir(parents=True, exist_ok=True)
        with pytest.raises(UserError, match="no-such-set"):
            work(config(sets, "x" if work is run_build else "out", replay_problems=str(sets / "no-such-set")))
