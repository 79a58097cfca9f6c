"""A judge for open answers: a served model that compares an answer with the gold answer (domain ``open``). Off unless named.

Each case is asked twice, once with the gold answer first and once with the answer first, at temperature 0. Only two equal
verdicts count; anything else is "cannot be judged", with its reason. Outcomes are cached on disk, so a resumed run asks nothing
twice.

The answer is written by the policy that is rewarded for it, so it is hostile text: it stands in the prompt as one JSON string on
one line, which it cannot close, with the marks of chat templates escaped.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field

from configs.api_key import refuse_secrets
from configs.errors import ConfigError, UserError
from configs.jsonl import append_jsonl, read_log, write_text_atomic
from configs.locks import wait_for_lock
from configs.model_name import served_model
from configs.schema import KeyVariable, ModelName, StrictModel, parse_config
from vlm.backends import check_key, make_backend
from vlm.protocol import LASTING, Backend, BackendError, Request, is_whole
from vlm.response import after_reasoning

OPEN = "open"
"""The domain whose answers no verifier can read."""
NAME_ONE = "name a judge (--judge openai:NAME@URL), or use another domain"
PROMPT = Path(__file__).with_name("judge_prompt.txt")
MAX_QUESTION = 8_000
"""Characters of a question; a longer one is not sent."""
MAX_KEPT = 400_000
"""Outcomes in memory, and in a cache file when it is opened; the oldest are dropped."""
PATIENCE = 8
"""Requests in a row without a usable reply after which the judge counts as dead."""
DEAD = {*LASTING, "no_connection"}
"""Failures that every further request would meet as well."""

OUTCOMES: dict[str, tuple[float | None, str]] = {
    "correct": (1.0, "the judge says correct"),
    "incorrect": (0.0, "the judge says incorrect"),
    "cannot_tell": (None, "the judge cannot tell"),
    "order": (None, "the judge's verdict depends on the order of the two answers"),
    "unreadable": (None, "the judge gave no verdict"),
    "failed": (None, "the judge gave no reply"),
}
"""Outcome -> (score, reason)."""
_VERDICTS = {"correct": "correct", "incorrect": "incorrect", "cannot tell": "cannot_tell"}


class Case(NamedTuple):
    """What is judged. An empty ``question`` is one that is not known."""

    question: str
    gold: str
    answer: str


TRIAL = Case("What is two plus two?", "4", "4")
"""The first case of every run: a judge that is down or gives no verdict is found before anything is generated."""


class JudgeConfig(StrictModel):
    """The keys under ``judge``; a name alone stands for ``{model: NAME}``.

    Attributes:
        model: ``openai:NAME@URL``. A model in this process is refused.
        api_key_env: the environment variable that holds the server's key.
        cache: the folder of the outcomes. By default ``reflection-v/judge`` in the user's cache folder.
        max_tokens: of a reply. A verdict takes a few; a judge that reasons first needs more.
        extra_body: further keys of the request, e.g. ``{chat_template_kwargs: {enable_thinking: false}}``.
        timeout: seconds for one attempt; max_retries: further attempts after 429, 5xx, a timeout or a lost connection.
        concurrency: most requests at the same time.
    """

    model: ModelName
    api_key_env: KeyVariable = None
    cache: str | None = None
    max_tokens: int = Field(default=1024, ge=1)
    extra_body: Annotated[dict[str, Any], AfterValidator(refuse_secrets)] = Field(default_factory=dict)
    timeout: float = Field(default=120.0, gt=0)
    max_retries: int = Field(default=4, ge=0)
    concurrency: int = Field(default=32, ge=1)


def read_judge(value: str | Mapping[str, Any] | None) -> JudgeConfig | None:
    """The checked value of a key ``judge``; None for no judge.

    Raises:
        ConfigError: a wrong key, no key of the server in its variable, or a model that is not served.
    """
    if value is None:
        return None
    config: JudgeConfig = parse_config(JudgeConfig, {"model": value} if isinstance(value, str) else value, "'judge'")
    if served_model(config.model) is None:
        raise ConfigError(
            f"The judge '{config.model}' would run in the process of the model that it judges: serve it, and name it "
            "openai:NAME@http://HOST:PORT/v1."
        )
    check_key(config.model, config.api_key_env)
    return config


def check_judge(value: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """``value`` itself, if it can be the value of a key ``judge``; errors as ``read_judge``."""
    read_judge(value)
    return value


JudgeKey = Annotated[str | dict[str, Any] | None, AfterValidator(check_judge)]
"""The type of a config's key ``judge``. A plain mapping, so that every record of a config can hold it."""


class Judge:
    """Asks one model for verdicts, and remembers them. Safe to call from several threads.

    Args:
        backend: the judge.
        folder: of the cache.
        max_tokens, extra: see ``JudgeConfig``.

    Attributes:
        identity: 16 hexadecimal digits over what decides an outcome besides the case. Of a server only the model's name counts,
            since its address may change.
        counts: outcomes of the cases that were asked (not taken from the cache).
    """

    def __init__(
        self, backend: Backend, folder: str | Path, max_tokens: int = 1024, extra: dict[str, Any] | None = None
    ) -> None:
        self.backend, self.max_tokens, self.extra = backend, max_tokens, extra or {}
        self.name = backend.name.split("@http")[0]
        self.identity = _digest([self.name, prompt_sha256(), max_tokens, self.extra])[:16]
        self.file = Path(folder) / f"{self.identity}.jsonl"
        self.counts: Counter[str] = Counter()
        self._known: dict[str, str] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._guard = threading.Lock()
        self._failing, self._dead = 0, ""

    def outcomes(self, cases: Sequence[Case]) -> list[str]:
        """The outcome of each case, a key of ``OUTCOMES``; those that are not known are asked at the same time.

        Raises:
            UserError: the judge cannot be asked at all.
        """
        pairs = [both_orders(case) for case in cases]
        keys = [_digest([self.identity, *pair])[:24] for pair in pairs]
        asked = dict(zip(keys, pairs, strict=True))
        with self._guard:
            known = self._known = self._read() if self._known is None else self._known
            found = {key: known[key] for key in asked if key in known}
        new: dict[str, str] = {}
        try:
            if len(found) < len(asked):
                self._run(self._ask({key: pair for key, pair in asked.items() if key not in found}, new))
        finally:  # also what was found before a judge died, or before Ctrl-C
            with self._guard:
                self._keep(new)
        return [{**found, **new}[key] for key in keys]

    def try_out(self) -> None:
        """Ask the trial case. It is cached like any other, so a run that finds everything in the cache asks nothing.

        Raises:
            UserError: the judge gives no reply, or no verdict.
        """
        (outcome,) = self.outcomes([TRIAL])
        if outcome in ("failed", "unreadable"):
            raise UserError(
                f"The judge {self.backend.name} does not say CORRECT, INCORRECT or CANNOT TELL when it is asked to: raise "
                "judge.max_tokens if it reasons first, or name another model."
            )

    async def _ask(self, cases: Mapping[str, tuple[str, str]], found: dict[str, str]) -> None:
        async def one(key: str, pair: tuple[str, str]) -> None:
            found[key] = await self._outcome(pair)

        try:
            async with asyncio.TaskGroup() as group:
                for key, pair in cases.items():
                    group.create_task(one(key, pair))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _outcome(self, pair: tuple[str, str]) -> str:
        try:
            replies = await asyncio.gather(*(self.backend.complete(self._request(prompt)) for prompt in pair))
        except BackendError as error:
            self._failing += 1
            if error.name in DEAD or self._failing >= PATIENCE:
                raise UserError(
                    f"The judge cannot be asked: {error} Its verdicts so far are kept: fix the cause, then give the same "
                    "command again."
                ) from None
            return "failed"
        self._failing = 0
        first, second = (read_verdict(reply.text) if is_whole(reply.finish_reason) else None for reply in replies)
        if first is None or second is None:
            return "unreadable"
        return first if first == second else "order"

    def _request(self, prompt: str) -> Request:
        turns = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
        return Request(turns, max_tokens=self.max_tokens, extra=self.extra)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run on the judge's own event loop: a backend's connections belong to one loop, and callers have any or none."""
        with self._guard:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="judge", daemon=True).start()
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _read(self) -> dict[str, str]:
        if not self.file.exists():
            return {}
        with wait_for_lock(self.file):
            rows = [(row.get("key"), row.get("outcome")) for row in read_log(self.file)]
            known = {key: outcome for key, outcome in rows if isinstance(key, str) and outcome in OUTCOMES}
            if len(rows) > MAX_KEPT:
                known = dict(list(known.items())[-MAX_KEPT // 2 :])
                write_text_atomic(self.file, "".join(json.dumps(_cache_row(*one)) + "\n" for one in known.items()))
        return known

    def _keep(self, new: Mapping[str, str]) -> None:
        assert self._known is not None
        self.counts.update(new.values())
        self._known.update(new)
        for key in list(self._known)[: max(0, len(self._known) - MAX_KEPT)]:
            del self._known[key]
        # A failed request is remembered by this process only: the next one asks again.
        if rows := [_cache_row(*one) for one in new.items() if one[1] != "failed"]:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with wait_for_lock(self.file):
                append_jsonl(self.file, rows)

    def close(self) -> None:
        """Release connections and the thread."""
        if self._loop is not None:
            self._run(self.backend.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None


def _cache_row(key: str, outcome: str) -> dict[str, str]:
    return {"key": key, "outcome": outcome}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# The prompt and its verdict


@cache
def _template() -> str:
    return PROMPT.read_text(encoding="utf-8")


def prompt_sha256() -> str:
    """16 hexadecimal digits: the version of the prompt."""
    return hashlib.sha256(_template().encode()).hexdigest()[:16]


def both_orders(case: Case) -> tuple[str, str]:
    """The prompt with the gold answer first, and the prompt with the answer first."""
    gold, answer = f"Reference answer: {one_line(case.gold)}", f"Student's answer: {one_line(case.answer)}"
    return _prompt(case.question, gold, answer), _prompt(case.question, answer, gold)


def _prompt(question: str, first: str, second: str) -> str:
    texts = {"question": one_line(question) if question else "(not known)", "first": first, "second": second}
    # In one pass: a text that holds "{second}" stays as it is.
    return re.sub(r"\{(question|first|second)\}", lambda match: texts[match[1]], _template())


# <|im_end|>, </think>, <s>, [INST]: a server's tokenizer would read such marks as control tokens.
_MARK = re.compile(r"<(?=[^\s<>]{1,60}>)|\[(?=/?[A-Z_]{2,30}\])")


def one_line(text: str) -> str:
    """``text`` as one JSON string on one line: it cannot close its quotes, start a line, hide characters or spell a control token."""
    text = json.dumps(text, ensure_ascii=False)
    text = _MARK.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def read_verdict(reply: str) -> str | None:
    """``correct``, ``incorrect`` or ``cannot_tell``, if a reply is nothing else behind its reasoning; None otherwise."""
    said = after_reasoning(reply).strip()
    return _VERDICTS.get(" ".join(re.findall(r"[^\W_]+", said.lower()))) if len(said) <= 40 else None


# The judge of this process

_current: Judge | None = None


def current_judge() -> Judge | None:
    """The judge that grades answers of domain ``open`` in this process, or None."""
    return _current


@contextlib.contextmanager
def judging(value: "str | Mapping[str, Any] | Judge | None", *models: str | None) -> Iterator[None]:
    """Within this block, the judge that a config names grades the answers of domain ``open``; with None, nobody does.

    A judge holds for the whole process, because answers are graded in many places and on many threads.

    Args:
        value: of a key ``judge``, or a judge.
        models: the models whose answers are judged.

    Raises:
        ConfigError: see ``read_judge``.
    """
    global _current
    before, config = _current, None
    if isinstance(value, Judge):
        judge: Judge | None = value
    else:
        config = read_judge(value)
        judge = None if config is None else open_judge(config, models)
    _current = judge
    try:
        yield
    finally:
        _current = before
        if judge is not None and config is not None:
            judge.close()
            if judge.counts:
                counted = ", ".join(f"{outcome} {n}" for outcome, n in judge.counts.most_common())
                print(f"judge {judge.name}: {judge.counts.total()} answers judged: {counted}", file=sys.stderr)


def open_judge(config: JudgeConfig, models: Sequence[str | None] = ()) -> Judge:
    """The judge of a config; a line on standard error says so if it is one of ``models``."""
    name = (served_model(config.model) or (config.model,))[0]
    for model in models:
        if model is not None and (served := served_model(model)) is not None and served[0] == name:
            print(
                f"The judge {config.model} is the model that it judges: models favour their own answers.",
                file=sys.stderr,
            )
    limits = config.model_dump(include={"api_key_env", "timeout", "max_retries", "concurrency"})
    backend = make_backend(config.model, text_only=True, **limits)
    return Judge(backend, config.cache or default_cache(), config.max_tokens, config.extra_body)


def default_cache() -> Path:
    """The user's folder for outcomes of judges."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflection-v" / "judge"


def judge_record() -> dict[str, Any]:
    """The key ``judge`` of a report, where there is a judge: its name and the version of its prompt."""
    judge = current_judge()
    return {} if judge is None else {"judge": {"name": judge.name, "prompt_sha256": prompt_sha256()}}
