"""``reflection-v audit SERVED --reference FOLDER``: is what a server answers what its weights answer?

Both get the same prompts and images. What can differ is compared apart: the length of the prompt (chat template, image
tokens), the greedy response token by token, and the log-probabilities of the server's tokens where it sends them.
``eval.served_causes`` says what the differences come from.
"""

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from configs.api_key import check_variable, hide_credentials
from configs.errors import ConfigError, UserError
from configs.jsonl import append_jsonl, read_log
from configs.model_name import served_model
from configs.provenance import versions
from configs.run_dir import read_record
from eval.audit_report import show_served
from eval.figures import balanced_subset
from eval.runner import answers_dir
from eval.served_causes import find_causes
from eval.served_compare import Comparison, Tolerance, compare_one
from eval.served_probes import Probe, image_probes, problem_probes, text_probes
from eval.served_reference import Reference
from eval.subjects import weights_checksum
from vlm.backends import make_backend
from vlm.chat import INSTRUCTIONS
from vlm.images import png_bytes
from vlm.load import VLM, load_vlm
from vlm.problem import Problem
from vlm.protocol import Backend, BackendError, Request, ScoredReply, TokenScore, is_whole

TOP = 3
"""Likeliest tokens that a server is asked for at each place: the first says whether the server is greedy."""
PARALLEL = 4
"""Requests at a time."""
LOG_PROBABILITIES = {"float32": 1e-3, "bfloat16": 0.05}
"""Type of the weights -> the mean difference of log-probabilities, in nats per token, that rounding explains."""
LONGEST_TOKEN = 100
"""Characters of a reply that are kept for each token of its limit."""
REFUSED = {"status_400", "status_413", "status_415", "status_422", "status_500", "status_501", "server_error"}
"""Failures that are an answer to the prompt. After any other there is no comparison."""


@dataclass(frozen=True)
class ServedConfig:
    """How a served model is compared with its weights.

    Attributes:
        max_new_tokens: of each response.
        batch_size: prompts that the weights read at once.
        main: problems of ``--problems`` that are asked beside the bundled prompts, spread over their families.
        logprob_tolerance: mean difference of log-probabilities, in nats per token, above which a reply differs; by default
            ``LOG_PROBABILITIES`` of the weights' type.
        dtype: of the weights in this process: the one that the server uses.
        api_key_env: the environment variable that holds the server's key.
        seed: of the subset.
    """

    max_new_tokens: int = 24
    batch_size: int = 8
    main: int = 12
    logprob_tolerance: float | None = None
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    api_key_env: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_variable(self.api_key_env)
        for key in ("max_new_tokens", "batch_size"):
            if getattr(self, key) < 1:
                raise ConfigError(f"'{key}' must be at least 1, found {getattr(self, key)}.")
        if self.logprob_tolerance is not None and not self.logprob_tolerance > 0:
            raise ConfigError(f"'logprob_tolerance' must be above 0, found {self.logprob_tolerance}.")


def compare_served(
    served: str,
    reference: str,
    out: str | Path,
    *,
    problems: Sequence[Problem] = (),
    style: str = "think",
    config: ServedConfig | None = None,
    vlm: VLM | None = None,
) -> dict[str, Any]:
    """Compare a served model with the weights in a folder; writes ``served.json``, every reply, and the page of an audit in ``out``.

    Args:
        served: ``openai:NAME@URL``.
        reference: ``tiny``, a folder or a hub name.
        problems: asked beside the bundled prompts.
        vlm: used instead of loading ``reference``.

    Returns:
        The content of served.json; see docs/audit.md.

    Raises:
        ConfigError: ``served`` is not served, ``reference`` is, or the style is unknown.
        UserError: the server cannot be asked, or the weights do not load.
    """
    config, out = config or ServedConfig(), Path(out)
    check_served_and_reference(served, reference)
    if style not in INSTRUCTIONS:
        raise ConfigError(f"Unknown prompt style '{style}': choose from {', '.join(INSTRUCTIONS)}.")
    with answers_dir(out, "audit").held():
        started = time.monotonic()
        round_ = int(read_record(out / "served.json").get("round", 0)) + 1
        backend = make_backend(served, api_key_env=config.api_key_env)
        log = _Log(out / "answers" / "served.jsonl", backend.name, config.max_new_tokens, round_)
        server = _Server(backend, log)
        server.greet(text_probes(style)[0])
        vlm = vlm or load_vlm(reference, dtype=config.dtype)
        probes = [*text_probes(style), *image_probes(vlm.processor, style)]
        probes += problem_probes(balanced_subset(problems, config.main, config.seed), vlm.processor, style)
        replies = server.ask(probes)
        held = Reference(vlm, config.max_new_tokens, config.batch_size)
        dtype = str(vlm.model.dtype).removeprefix("torch.")
        tolerance = Tolerance(config.logprob_tolerance or LOG_PROBABILITIES.get(dtype, LOG_PROBABILITIES["bfloat16"]))
        compared = _compare_all(held, probes, replies, tolerance)
        report = {
            "schema_version": 1,
            "served": served,
            "reference": reference,
            "weights": weights_checksum(vlm.model),
            "dtype": dtype,
            **_verdict(held, probes, compared, tolerance),
            "given": {
                "prompt_tokens": any(one.served_prompt is not None for one in compared),
                "log_probabilities": any(one.log_p_gap is not None for one in compared),
            },
            "tolerance": {"log_p_mean": tolerance.log_p, "tie": tolerance.tie},
            "probes": [one.row() for one in compared],
            "style": style,
            "round": round_,
            "config": asdict(config),
            "seconds": round(time.monotonic() - started, 1),
            "versions": versions(),
        }
        show_served(report, out)
        return report


def check_served_and_reference(served: str, reference: str) -> None:
    """Raises ConfigError unless the first is the name of a served model and the second is not."""
    if served_model(served) is None:
        raise ConfigError(
            f"'{served}' is not served: --reference compares a served model (openai:NAME@URL) with the weights in a folder."
        )
    if reference.startswith("openai:"):
        raise ConfigError(
            f"--reference {hide_credentials(reference)} is served: give the folder of the weights that the server was given."
        )


class _Log:
    """Replies by probe, kept as they come.

    An interrupted comparison resumes from them. After a finished one (``round``) everything is asked again: the server was
    perhaps started anew with other settings, which its name does not show.
    """

    def __init__(self, path: Path, server: str, max_tokens: int, round_: int) -> None:
        self.path, self.max_tokens = path, max_tokens
        self._settings = [server, max_tokens, TOP, round_]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._saved: dict[str, Any] = {}
        if path.exists():
            try:
                self._saved = {row["key"]: _reply_of(row["reply"]) for row in read_log(path)}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise UserError(f"{path} is not a log of replies ({error}): move it away and compare again.") from None

    def key(self, probe: Probe) -> str:
        shown = [hashlib.sha256(png_bytes(image)).hexdigest() for image in probe.images]
        whole = json.dumps([self._settings, list(probe.messages), shown])
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def get(self, probe: Probe) -> ScoredReply | None:
        return self._saved.get(self.key(probe))

    def keep(self, probe: Probe, reply: ScoredReply) -> ScoredReply:
        key = self.key(probe)
        append_jsonl(self.path, [{"key": key, "probe": probe.name, "reply": asdict(reply)}])
        self._saved[key] = reply
        return reply


def _reply_of(row: Mapping[str, Any]) -> ScoredReply:
    return ScoredReply(**{**row, "scores": tuple(TokenScore(**score) for score in row["scores"])})


class _Server:
    """Asks the served model, and keeps what it says.

    Attributes:
        top: of ``Request.top_logprobs``; None once the server has refused a request for log-probabilities.
    """

    def __init__(self, backend: Backend, log: _Log) -> None:
        self.backend, self.log = backend, log
        self.top: int | None = TOP

    def ask(self, probes: Sequence[Probe]) -> list[ScoredReply | BackendError]:
        """The reply to each probe, or the server's refusal.

        Raises:
            BackendError: the server cannot be asked; what it has answered so far is in the log.
        """
        return asyncio.run(self._ask(probes))

    async def _ask(self, probes: Sequence[Probe]) -> list[ScoredReply | BackendError]:
        limit = asyncio.Semaphore(PARALLEL)

        async def one(probe: Probe) -> ScoredReply | BackendError:
            async with limit:
                try:
                    return await self._reply(probe)
                except BackendError as error:
                    if error.name not in REFUSED:
                        raise
                    return error

        try:
            async with asyncio.TaskGroup() as group:  # after a failure it asks no further probe
                tasks = [group.create_task(one(probe)) for probe in probes]
            return [task.result() for task in tasks]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await self.backend.aclose()  # its connections belong to this event loop, which ends here

    async def _reply(self, probe: Probe) -> ScoredReply:
        if (saved := self.log.get(probe)) is not None:
            return saved
        request = Request(list(probe.messages), list(probe.images), self.log.max_tokens, top_logprobs=self.top)
        reply = await self.backend.complete(request)
        if not is_whole(reply.finish_reason) and reply.finish_reason != "length":
            raise BackendError(f"the server ended the reply itself ({reply.finish_reason})", "server_error")
        text = reply.text[: LONGEST_TOKEN * self.log.max_tokens]
        return self.log.keep(probe, ScoredReply(**{**vars(reply), "text": text}))

    def greet(self, probe: Probe) -> None:
        """Ask a first prompt, so that a wrong name or address is found before the weights load. Errors as ``ask``."""
        (first,) = self.ask([probe])
        if isinstance(first, BackendError):
            self.top = None  # some servers refuse requests for log-probabilities
            (second,) = self.ask([probe])
            if isinstance(second, BackendError):
                raise second
            print(f"Without log-probabilities, which the server refuses ({first})", file=sys.stderr)
        elif not first.scores:  # a resumed comparison knows the refusal by what the log holds
            self.top = None


def _compare_all(
    held: Reference, probes: Sequence[Probe], replies: Sequence[ScoredReply | BackendError], tolerance: Tolerance
) -> list[Comparison]:
    """Each reply beside what the weights write and how they score it."""
    written = held.write(probes)
    said = [
        None if isinstance(reply, BackendError) else held.read(reply, own)
        for reply, own in zip(replies, written, strict=True)
    ]
    scored = held.score(probes, [one.ids if one else [] for one in said])
    return [
        compare_one(probe, own, reply, one, scores, tolerance)
        for probe, own, reply, one, scores in zip(probes, written, replies, said, scored, strict=True)
    ]


def _verdict(
    held: Reference, probes: Sequence[Probe], compared: Sequence[Comparison], tolerance: Tolerance
) -> dict[str, Any]:
    causes = find_causes(held, probes, compared, tolerance)
    first = next((one for one in compared if one.differs), None)
    return {
        "verdict": "equal" if first is None else "differs",
        "first_difference": first and {"probe": first.name, "what": first.differs, "sentence": first.sentence()},
        "causes": [asdict(cause) for cause in causes],
        "notes": sorted({note for one in compared for note in one.notes}),
    }
