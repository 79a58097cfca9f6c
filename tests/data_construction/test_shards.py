"""Builds in shards: their merge equals the unsharded build, and everything that must be refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from building import says, scripted_roles, settings, text_of, write_set

from configs.errors import ConfigError, UserError
from configs.jsonl import read_jsonl, read_log
from data_construction.build import run_build
from data_construction.build_config import BuildConfig
from data_construction.derive import export
from data_construction.shards import Shard, run_merge
from data_construction.stats import write_stats
from vlm.problem import Problem, write_problems

TEXTS = ("sft.jsonl", "build.json")
LOGS = ("replies.jsonl", "traces.jsonl")
STRICT = {"near_duplicate": 0.8, "max_domain_share": 0.5}
"""Filters that look at the whole set, tight enough to drop something in these sets."""


def sometimes_empty(request):
    """As ``says``, but the requester fails for every fifth problem."""
    text = text_of(request)
    number = int(text.partition("of kind ")[2].partition("?")[0] or 0)
    return "" if "Task: request" in text and number % 5 == 4 else says(request)


def config(folder: Path, out: str, **changes: object) -> BuildConfig:
    return settings(folder, out=str(folder / out), **{"quality": STRICT, **changes})


def build_shards(folder: Path, out: str, of: int, **changes: object) -> None:
    for number in range(1, of + 1):
        run_build(config(folder, out, **changes), roles=scripted_roles(sometimes_empty), shard=Shard(number, of))


def mixed_set(folder: Path, n: int = 60) -> None:
    """Problems of two domains, so that the balance has something to do, and one that cannot be used."""
    write_set(folder / "set", n)
    rows = read_jsonl(folder / "set/problems.jsonl")
    problems = [Problem.model_validate(row | {"domain": "number" if i % 4 else "count"}) for i, row in enumerate(rows)]
    write_problems([*problems, problems[0].model_copy(update={"id": "bad", "images": ["none.png"]})], folder / "set")


def logged(folder: Path, name: str) -> list[str]:
    """The rows of a log without times, in an order of their own."""
    text = []
    for row in read_log(folder / name):
        for values in (row.get("reply", {}), row.get("usage", {})):
            values.pop("seconds", None)
        text.append(json.dumps(row))
    return sorted(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unsharded build with its export and its statistics; tests build their shards beside it."""
    folder = tmp_path_factory.mktemp("whole")
    mixed_set(folder)
    counts = run_build(config(folder, "whole"), roles=scripted_roles(sometimes_empty))
    assert counts["filters"].keys() == {"near_duplicate", "balance"} and counts["error_names"] and counts["dropped"]
    export(config(folder, "whole"))
    write_stats(folder / "whole")
    return folder


@pytest.mark.parametrize("of", [1, 3, 8])
def test_merged_shards_are_the_unsharded_build(of: int, whole: Path) -> None:
    out = f"merged{of}"
    build_shards(whole, out, of)
    counts = run_merge(config(whole, out))
    export(config(whole, out))
    write_stats(whole / out)
    for name in TEXTS:
        assert (whole / out / name).read_bytes() == (whole / "whole" / name).read_bytes(), name
    for name in LOGS:
        assert logged(whole / out, name) == logged(whole / "whole", name)
    # Episodes take other times in each build.
    stats = [json.loads((whole / name / "stats.json").read_text()) for name in (out, "whole")]
    assert [one.pop("seconds_of_an_episode") is not None for one in stats] == [True, True] and stats[0] == stats[1]
    record = json.loads((whole / out / "config.json").read_text())
    assert record.pop("merged") == of and record == json.loads((whole / "whole/config.json").read_text())
    exported = [sorted(path.name for path in (whole / name / "hf").rglob("*")) for name in (out, "whole")]
    assert exported[0] == exported[1] and counts["kept"]
    cards = [(whole / name / "hf/README.md").read_bytes() for name in (out, "whole")]
    assert cards[0] == cards[1]


def test_rows_of_a_merged_log_stand_in_the_order_of_the_shards(whole: Path) -> None:
    build_shards(whole, "ordered", 3)
    run_merge(config(whole, "ordered"))
    for name in LOGS:
        parts = [(whole / "ordered" / f"shard-{number}-of-3" / name).read_bytes() for number in (1, 2, 3)]
        assert (whole / "ordered" / name).read_bytes() == b"".join(parts) and all(parts)


def test_a_merged_build_goes_on_like_any_other(whole: Path) -> None:
    build_shards(whole, "goes-on", 3)
    run_merge(config(whole, "goes-on"))
    again = run_build(config(whole, "goes-on"), roles=scripted_roles())  # the server is well now
    assert again["errors"] == 0 and again["runs"] == 2
    fresh = run_build(config(whole, "well"), roles=scripted_roles())
    assert {**again, "runs": 1, "tokens": 0, "tokens_by_role": 0, "tokens_per_kept_trace": 0} == {
        **fresh,
        "tokens": 0,
        "tokens_by_role": 0,
        "tokens_per_kept_trace": 0,
    }
    with pytest.raises(UserError, match="merged shards of a build: go on without --shard"):
        run_build(config(whole, "goes-on"), roles=scripted_roles(), shard=Shard(1, 3))
    # The merge again, e.g. by a scheduler: it joins nothing anew, so that no later episode is lost.
    assert run_merge(config(whole, "goes-on")) == again


def test_every_problem_is_in_one_shard_and_some_may_be_empty(tmp_path: Path) -> None:
    ids = [f"p{i}" for i in range(8000)]
    shards = [Shard(number, 8) for number in range(1, 9)]
    sizes = [sum(shard.holds(one) for one in ids) for shard in shards]
    assert sum(sizes) == 8000 and min(sizes) > 850 and max(sizes) < 1150
    write_set(tmp_path / "set", 3)
    build_shards(tmp_path, "few", 8, quality={})
    run_build(config(tmp_path, "plain", quality={}), roles=scripted_roles())
    run_merge(config(tmp_path, "few", quality={}))
    assert (tmp_path / "few/build.json").read_bytes() == (tmp_path / "plain/build.json").read_bytes()


def test_a_shard_resumes_and_asks_nothing_twice(tmp_path: Path) -> None:
    mixed_set(tmp_path)
    run_build(config(tmp_path, "out"), dry_run=5, roles=scripted_roles(), shard=Shard(1, 2))
    folder = tmp_path / "out/shard-1-of-2"
    assert len(read_log(folder / "traces.jsonl")) == 5 and not (folder / "build.json").exists()
    run_build(config(tmp_path, "out"), roles=scripted_roles(), shard=Shard(2, 2))
    with pytest.raises(UserError, match=r"Shard 1/2 in .* is not finished: give its command again \(--shard 1/2\)"):
        run_merge(config(tmp_path, "out"))
    run_build(config(tmp_path, "out"), roles=scripted_roles(), shard=Shard(1, 2))
    keys = [(row["problem_id"], row["key"]) for row in read_log(folder / "replies.jsonl")]
    assert len(keys) == len(set(keys))
    run_merge(config(tmp_path, "out"))
    run_build(config(tmp_path, "plain"), roles=scripted_roles())
    assert all((tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes() for name in TEXTS)


def test_an_interrupted_merge_starts_anew(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each write of the merge: what stands there then is replaced, and no shard has changed."""
    build_shards(whole, "cut", 3)
    before = {path: path.read_bytes() for path in sorted((whole / "cut").rglob("*.jsonl"))}
    plain, writes = os.replace, [0]

    def replace(source: object, target: object) -> None:
        if not writes[0]:
            raise KeyboardInterrupt
        writes[0] -= 1
        plain(source, target)  # type: ignore[arg-type]

    for after in range(6):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            writes[0] = after
            patch.setattr(os, "replace", replace)
            run_merge(config(whole, "cut"))
        if after:
            with pytest.raises(UserError, match=r"holds the shards of a build .*: join them with --merge"):
                run_build(config(whole, "cut"), roles=scripted_roles())
    run_build(
        config(whole, "cut"), roles=scripted_roles(sometimes_empty), shard=Shard(1, 3)
    )  # a shard may go on as well
    for path, data in before.items():
        if "shard-1" not in str(path):
            assert path.read_bytes() == data
    run_merge(config(whole, "cut"))
    assert all(path.exists() for path in before)


def test_shards_that_do_not_belong_together_are_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "set", tmp_path / "set")
    with pytest.raises(UserError, match="holds no shards"):
        run_merge(config(tmp_path, "out"))
    assert not (tmp_path / "out").exists()
    run_build(config(tmp_path, "out"), roles=scripted_roles(), shard=Shard(1, 3))
    out = tmp_path / "out"
    with pytest.raises(UserError, match="lacks shard 2, 3 of 3"):
        run_merge(config(tmp_path, "out"))
    with pytest.raises(UserError, match="shards of 3 and of 4: use one number"):
        run_build(config(tmp_path, "out"), roles=scripted_roles(), shard=Shard(2, 4))
    with pytest.raises(UserError, match=r"holds the shards of a build \(shard-1-of-3\): join them with --merge"):
        run_build(config(tmp_path, "out"), roles=scripted_roles())
    shutil.copytree(out / "shard-1-of-3", out / "shard-2-of-3")
    with pytest.raises(ConfigError, match=r"other settings \(shard\)"):
        run_build(config(tmp_path, "out"), roles=scripted_roles(), shard=Shard(2, 3))
    run_build(config(tmp_path, "out"), roles=scripted_roles(), shard=Shard(3, 3))
    with pytest.raises(UserError, match="shard-2-of-3 holds shard 1/3: give each shard once"):
        run_merge(config(tmp_path, "out"))
    shutil.rmtree(out / "shard-2-of-3")
    run_build(config(tmp_path, "out", seed=1), roles=scripted_roles(), shard=Shard(2, 3))
    with pytest.raises(ConfigError, match=r"Shard 2/3 in .* was built with other settings \(seed\)"):
        run_merge(config(tmp_path, "out"))
    shutil.copytree(out / "shard-1-of-3", out / "shard-1-of-4")
    with pytest.raises(UserError, match="shards of 3 and of 4"):
        run_merge(config(tmp_path, "out"))
    run_build(config(tmp_path, "plain"), roles=scripted_roles())
    with pytest.raises(UserError, match="holds a build without shards: go on without --shard"):
        run_build(config(tmp_path, "plain"), roles=scripted_roles(), shard=Shard(1, 3))


def test_problems_without_an_episode_stop_the_merge(tmp_path: Path) -> None:
    """A set that has grown since the shards were finished."""
    mixed_set(tmp_path, 20)
    build_shards(tmp_path, "out", 3)
    shutil.rmtree(tmp_path / "set")
    mixed_set(tmp_path, 23)
    with pytest.raises(UserError, match=r"3 of the problems have no episode in any shard \(the first is p0020\)"):
        run_merge(config(tmp_path, "out"))
    build_shards(tmp_path, "out", 3)
    run_merge(config(tmp_path, "out"))


def test_a_shard_in_use_stops_the_merge(whole: Path) -> None:
    build_shards(whole, "busy", 2)
    code = "import sys, time; from configs.locks import lock\nwith lock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, str(whole / "busy/shard-2-of-2")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="shard-2-of-2 is in use by another run"):
            run_merge(config(whole, "busy"))
        process.kill()
    run_merge(config(whole, "busy"))


@pytest.mark.parametrize("text", ["0/8", "9/8", "x", "3", "3/0", "1/2/3", "-1/8", "1.5/8", "", "３/8"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="1/8 to 8/8"):
        Shard.parse(text)
