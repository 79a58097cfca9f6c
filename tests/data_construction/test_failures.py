"""A role whose model gives no replies ends the build early, with one sentence; failures that pass do not."""

import asyncio
import traceback
from collections import Counter
from pathlib import Path

import pytest
from building import says, scripted_roles, settings, text_of, write_set

from configs.errors import UserError
from data_construction.build import run_build
from data_construction.derive import check_kept, read_traces
from data_construction.failures import FEW, FailureWatch, RoleDown, run_to_first_failure
from vlm.backends import Request
from vlm.protocol import BackendError


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("responder", "status_404"),
        ("responder", "status_400"),  # no vision
        ("requester", "status_401"),
        ("summarizer", "quota"),
        ("rewriter", "status_403"),
    ],
)
def test_a_role_that_cannot_answer_ends_the_build_after_a_few_failures(role: str, kind: str, tmp_path: Path) -> None:
    write_set(tmp_path / "set", 60)
    asked: Counter[str] = Counter()

    def say(request: Request) -> str:
        prompt = text_of(request)
        playing = "responder" if request.images else {"r": "requester", "c": "summarizer"}.get(prompt[6:7], "rewriter")
        playing = "rewriter" if prompt.startswith("Task: rewrite") else playing
        asked[playing] += 1
        if playing == role:
            raise BackendError("model not found", kind)
        return says(request)

    with pytest.raises(
        RoleDown, match=rf"The {role} gave no reply {FEW} times in a row.*model not found\. Finished"
    ) as caught:
        run_build(settings(tmp_path, concurrency=4), roles=scripted_roles(say))
    assert asked[role] < FEW + 4 and asked["requester"] < 40
    assert len(read_traces(tmp_path / "out" / "traces.jsonl")) < 30
    shown = "".join(traceback.format_exception(caught.value))
    assert len(shown.splitlines()) < 100 and "RecursionError" not in shown


def test_failures_that_pass_do_not_end_a_build(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 30)
    numbers = iter(range(10_000))

    def say(request: Request) -> str:
        if request.images and next(numbers) % 5 == 0:
            raise BackendError("too large an image", "status_413")
        return says(request)

    counts = run_build(settings(tmp_path, concurrency=1), roles=scripted_roles(say))
    assert counts["errors"] > 2 and counts["kept"] > 0


def test_kinds_and_roles_are_counted_apart() -> None:
    watch = FailureWatch(stop_after=20)
    for _ in range(FEW - 1):
        for role in ("requester", "responder"):
            watch.failed(role, BackendError("x", "status_404"))
    watch.answered("requester")
    for _ in range(FEW - 1):
        watch.failed("requester", BackendError("x", "status_404"))
    with pytest.raises(RoleDown, match="The responder"):
        watch.failed("responder", BackendError("x", "status_404"))
    for _ in range(30):  # a model that answers others is up: the request is at fault, unless it never ends
        watch.answered("summarizer")
        for _ in range(FEW):
            watch.failed("summarizer", BackendError("x", "status_400"))
    for _ in range(19 - FEW):
        watch.failed("summarizer", BackendError("x", "timeout"))
    with pytest.raises(RoleDown, match="20 times in a row"):
        watch.failed("summarizer", BackendError("x", "no_connection"))


def test_the_first_failure_of_a_group_is_raised_without_a_cycle() -> None:
    async def fail(number: int) -> None:
        raise UserError(f"failure {number}")

    async def work() -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(nested())

    async def nested() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(fail(number))

    with pytest.raises(UserError, match="failure 0") as caught:
        run_to_first_failure(work())
    seen, error = 0, caught.value
    while (error := error.__context__ or error.__cause__) is not None:
        seen += 1
        assert seen < 10
    assert asyncio.run(asyncio.sleep(0, 5)) == run_to_first_failure(asyncio.sleep(0, 5))


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"errors": 3, "error_names": {"timeout": 3}}, r"No episode was kept \(errors 3; most often: timeout\)"),
        ({"wrong": 2}, r"No episode was kept \(wrong 2\)"),
        ({}, r"No episode was kept \(no episode was played\)"),
    ],
)
def test_a_build_that_keeps_nothing_has_failed(counts: dict[str, object], sentence: str) -> None:
    empty = {"kept": 0, "wrong": 0, "no_reflection": 0, "filtered": 0, "errors": 0, "error_names": {}, "filters": {}}
    with pytest.raises(UserError, match=sentence):
        check_kept(empty | counts)
    check_kept(empty | counts | {"kept": 1})
