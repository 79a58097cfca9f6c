"""Published benchmarks as problem sets: reads their columns, writes ``problems.jsonl`` and images.

A row that cannot be asked (no answer, an answer that names no option, an image that cannot be read) is dropped and
recorded with its reason: counted separately, never as incorrect. Nothing in a data set is executed: lists in text form are
parsed as literals of bounded length.
"""

import ast
import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.api_key import redact_tokens
from configs.errors import ConfigError, ImageError, UserError
from configs.jsonl import write_json_atomic
from configs.run_dir import RunDir
from eval.runner import Answer
from eval.stats import Estimate, estimate_share
from reward.grade import Gold, gold_option, is_quantity
from vlm.hub import cache_alone, hub_remedy, why_unreachable
from vlm.images import open_image
from vlm.labels import option_label
from vlm.problem import Problem, read_problems, write_problems

MAX_LITERAL = 20_000
MISSING = "(not given)"


class BadRow(UserError):
    """A row that cannot be made a problem."""


@dataclass(frozen=True)
class Item:
    """A row's problem before its images are on disk. ``images``: paths, bytes, or ``{"bytes", "path"}`` of ``datasets``."""

    id: str
    domain: str
    question: str
    answer: str
    images: list[Any]
    choices: list[str] | None = None
    family: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark is on the hub, and how its rows are read. Empty ``configs``: all configs of the data set."""

    hub: str
    split: str
    read: Callable[[Mapping[str, Any]], Item]
    configs: tuple[str, ...] | None = None
    score: Callable[[Sequence[Problem], Sequence[Answer]], dict[str, Estimate]] | None = None


# Rows


def read_mathvista(row: Mapping[str, Any]) -> Item:
    """AI4Math/MathVista: ``choices`` contain the answer's text; a free answer is rounded to ``precision``, its unit is separate."""
    question, kind = _text(row, "question"), str(row.get("answer_type"))
    choices = _options(row.get("choices"))
    if unit := str(row.get("unit") or "").strip():
        question += f" (Unit: {unit})"
    answer = _text(row, "answer")
    if row.get("question_type") == "multi_choice":
        domain = "choice"
        _check_option(answer, choices)
    else:
        choices, domain = None, {"integer": "number", "float": "number", "list": "simulation"}.get(kind, "text")
        precision = row.get("precision")
        if kind == "float" and precision is not None:
            places = int(float(precision))
            question += f" Give {places} decimal place{'s' if places != 1 else ''}."
    family = str((row.get("metadata") or {}).get("task") or kind)
    return Item(str(row["pid"]), domain, question, answer, _first_image(row, "decoded_image", "image"), choices, family)


def read_mathvision(row: Mapping[str, Any]) -> Item:
    """MathLLMs/MathVision: options (often bare letters, drawn in the image) with a letter, or an expression."""
    choices, answer = _options(row.get("options")), _text(row, "answer")
    if choices:
        _check_option(answer, choices)
        if [choice.strip() for choice in choices] == list(map(option_label, range(len(choices)))):
            choices = None  # the options are in the image: a list of bare letters adds nothing
    domain = "choice" if _options(row.get("options")) else "expression"
    question = re.sub(r"<image\d+>", "", _text(row, "question"))
    images = _first_image(row, "decoded_image", "image")
    return Item(str(row["id"]), domain, question, answer, images, choices, str(row.get("subject") or domain))


def read_mmmu(row: Mapping[str, Any]) -> Item:
    """MMMU/MMMU and the standard configs of MMMU-Pro: options as text of a list, up to seven images, open questions."""
    images = [row[name] for n in range(1, 8) if row.get(name := f"image_{n}") is not None]
    choices, answers = _options(row.get("options")), _options(row.get("answer")) or [_text(row, "answer")]
    family = str(row.get("subject") or row.get("subfield") or "")
    if row.get("question_type", "multiple-choice") == "multiple-choice" and choices:
        _check_option(answers[0], choices)
        return Item(str(row["id"]), "choice", _text(row, "question"), answers[0], images, choices, family)
    number = len(answers) == 1 and is_quantity(answers[0])
    gold = "|".join(answer.replace("|", " ") for answer in answers)  # any of several counts
    return Item(str(row["id"]), "number" if number else "text", _text(row, "question"), gold, images, None, family)


def read_mmmu_pro_vision(row: Mapping[str, Any]) -> Item:
    """MMMU/MMMU_Pro, config vision: question and options are drawn in the image; the answer is a letter."""
    question = "Answer the question in the picture with the letter of the right option."
    answer = _text(row, "answer")
    _check_option(answer, _options(row.get("options")))
    return Item(
        str(row["id"]), "choice", question, answer, _first_image(row, "image"), None, str(row.get("subject") or "")
    )


def read_m3cot(row: Mapping[str, Any]) -> Item:
    """LightChen2333/M3CoT: context, question, choices, and the letter of the correct one."""
    choices, answer = _options(row.get("choices")), _text(row, "answer")
    _check_option(answer, choices)
    question = f"{row.get('context') or ''}\n{_text(row, 'question')}".strip()
    return Item(
        str(row["id"]), "choice", question, answer, _first_image(row, "image"), choices, str(row.get("domain") or "")
    )


def read_hallusionbench(row: Mapping[str, Any]) -> Item:
    """lmms-lab/HallusionBench: yes or no (``gt_answer`` 1 or 0); rows of ``visual_input`` 0 have no image."""
    answer = {"1": "yes", "0": "no"}.get(str(row.get("gt_answer")).strip())
    if answer is None:
        raise BadRow(f"gt_answer is {row.get('gt_answer')!r}, not 0 or 1")
    keys = ("category", "subcategory", "set_id", "figure_id", "question_id")
    meta = {key: str(row.get(key)) for key in keys}
    images = _first_image(row, "image") if row.get("image") is not None else []
    id_ = "-".join(meta.values())
    return Item(id_, "yes_no", _text(row, "question"), answer, images, None, meta["subcategory"], meta)


def hallusion_scores(problems: Sequence[Problem], answers: Sequence[Answer]) -> dict[str, Estimate]:
    """HallusionBench's three accuracies, in [0, 1]: of all questions (``aAcc``), of figures whose questions are all
    answered correctly (``fAcc``; not category VS with figure 0, which has no image), and of questions that are answered correctly
    for all of their figures (``qAcc``). A group with an error in it is left out. Source: arXiv 2310.14566, section 3.
    """
    figures: dict[tuple[str, ...], list[bool | None]] = defaultdict(list)
    questions: dict[tuple[str, ...], list[bool | None]] = defaultdict(list)
    for problem, answer in zip(problems, answers, strict=True):
        meta = problem.meta
        correct = answer.correct if answer.status == "ok" else None
        group = (meta["category"], meta["subcategory"], meta["set_id"])
        if not (meta["category"] == "VS" and meta["figure_id"] == "0"):
            figures[*group, meta["figure_id"]].append(correct)
        questions[*group, meta["question_id"]].append(correct)

    def share(groups: Iterable[Sequence[bool | None]]) -> Estimate:
        return estimate_share([float(all(group)) for group in groups if None not in group])

    return {
        "aAcc": share([answer.correct if answer.status == "ok" else None] for answer in answers),
        "fAcc": share(figures.values()),
        "qAcc": share(questions.values()),
    }


BENCHMARKS = {
    "mathvista": Benchmark("AI4Math/MathVista", "testmini", read_mathvista),
    "mathvision": Benchmark("MathLLMs/MathVision", "test", read_mathvision),
    "mmmu": Benchmark("MMMU/MMMU", "validation", read_mmmu, ()),
    "mmmu_pro_4": Benchmark("MMMU/MMMU_Pro", "test", read_mmmu, ("standard (4 options)",)),
    "mmmu_pro_10": Benchmark("MMMU/MMMU_Pro", "test", read_mmmu, ("standard (10 options)",)),
    "mmmu_pro_vision": Benchmark("MMMU/MMMU_Pro", "test", read_mmmu_pro_vision, ("vision",)),
    "m3cot": Benchmark("LightChen2333/M3CoT", "test", read_m3cot),
    "hallusionbench": Benchmark("lmms-lab/HallusionBench", "image", read_hallusionbench, None, hallusion_scores),
}


# Data sets


def _is_of_benchmarks(folder: Path) -> bool:
    with contextlib.suppress(UserError):
        return all(problem.source in BENCHMARKS for problem in read_problems(folder))
    return False


def prepare_benchmark(name: str, out: str | Path, data: str | None = None) -> tuple[list[Problem], dict[str, int]]:
    """Read a benchmark into the problem set ``out``.

    Args:
        name: a key of ``BENCHMARKS``.
        data: a hub name or a local folder instead of the published one (``datasets.load_dataset`` or ``save_to_disk``).

    Returns:
        The problems with absolute image paths, and the number of dropped rows by reason (also in ``left_out.json``).

    Raises:
        ConfigError: an unknown benchmark.
        UserError: the data set does not load, lacks a column, or no row of it is usable; or ``out`` holds other problems.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"Unknown benchmark '{name}': choose from {', '.join(BENCHMARKS)}.")
    folder, problems, left_out, seen = Path(out), [], [], set()
    RunDir(folder, "benchmark", ("problems.jsonl",), _is_of_benchmarks).refuse_foreign()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(load_rows(BENCHMARKS[name], data)):
        try:
            item = BENCHMARKS[name].read(row)
            if item.id in seen:
                raise BadRow("its id occurs twice")
            problems.append(_problem(name, item, number, folder))
            seen.add(item.id)
        except KeyError as error:
            raise UserError(f"{data or BENCHMARKS[name].hub} has no column {error}: it is not {name}.") from None
        except (BadRow, ImageError) as error:
            left_out.append({"row": number, "why": str(error)})
    if not problems:
        why = f" ({left_out[0]['why']})" if left_out else ""
        raise UserError(f"No row of {data or BENCHMARKS[name].hub} can be asked{why}: check that it is {name}.")
    write_problems(problems, folder)
    write_json_atomic(folder / "left_out.json", left_out)
    for problem in problems:
        problem.images = [str((folder / image).resolve()) for image in problem.images]
    return problems, dict(Counter(str(one["why"]) for one in left_out))


def load_rows(benchmark: Benchmark, data: str | None = None) -> Iterator[Mapping[str, Any]]:
    """The rows with undecoded images (``{"bytes", "path"}``), so that a broken image costs its row, not the run."""
    import datasets

    source = data or benchmark.hub
    local = Path(source).is_dir()
    unreachable = None if local else why_unreachable()
    try:
        with cache_alone(unreachable):
            if local and (Path(source) / "state.json").exists():
                parts = [datasets.load_from_disk(source)]
            elif local or benchmark.configs is None:
                parts = [datasets.load_dataset(source, split=_local_split(source) if local else benchmark.split)]
            else:
                configs = benchmark.configs or datasets.get_dataset_config_names(source)
                parts = [datasets.load_dataset(source, config, split=benchmark.split) for config in configs]
    except Exception as error:  # the loaders raise errors of many libraries, without a common base class
        reason = (redact_tokens(str(error)).strip().splitlines() or [type(error).__name__])[0][:300]
        raise UserError(
            f"The data set {source} cannot be loaded ({reason}): {hub_remedy(unreachable)} (--data)."
        ) from None
    for part in parts:
        for column, kind in part.features.items():
            if isinstance(kind, datasets.Image):
                part = part.cast_column(column, datasets.Image(decode=False))
        for row in part:
            yield {key: _resolve_image(value, source) if local else value for key, value in row.items()}


def _local_split(folder: str) -> str:
    """The split of a local folder: ``load_dataset`` calls its files "train" unless their names contain another split."""
    import datasets

    return next(iter(datasets.load_dataset_builder(folder).config.data_files or {"train": None}))


def _resolve_image(value: Any, folder: str) -> Any:
    """Resolve an image path in the rows of a local folder, which is relative to that folder."""
    if isinstance(value, str) and re.fullmatch(r"[\w./ -]{1,300}\.(?:png|jpe?g|webp|gif|bmp)", value, re.IGNORECASE):
        path = Path(folder) / value
        return str(path) if path.is_relative_to(folder) and ".." not in path.parts else value
    return value


def _problem(name: str, item: Item, number: int, folder: Path) -> Problem:
    files = []
    for index, source in enumerate(item.images):
        if isinstance(source, Mapping):
            source = source.get("bytes") or source.get("path")
        if source is None:
            raise BadRow("it has no image")
        file = f"images/{number:05d}-{index}.png"
        open_image(source).save(folder / file, compress_level=1)
        files.append(file)
    return Problem(
        id=f"{name}-{item.id}",
        source=name,
        domain=item.domain,  # type: ignore[arg-type]
        images=files,
        question=item.question,
        choices=item.choices,
        answer=item.answer,
        meta={**item.meta, **({"family": item.family} if item.family else {})},
    )


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise BadRow(f"it has no {column}")
    return str(value).strip()


def _first_image(row: Mapping[str, Any], *columns: str) -> list[Any]:
    """The image of the first column that has one."""
    found = next((row[column] for column in columns if row.get(column) is not None), None)
    if found is None:
        raise BadRow("it has no image")
    return [found]


def _options(value: Any) -> list[str] | None:
    """A list of options, also written as text (``"['a', 'b']"``); None for none. A missing option keeps its letter."""
    if isinstance(value, str) and value.strip().startswith("["):
        if len(value) > MAX_LITERAL:
            raise BadRow("its list of options is too long to be read")
        try:
            value = ast.literal_eval(value.strip())  # literals only: nothing is executed
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise BadRow("its list of options cannot be read") from None
    if not isinstance(value, list | tuple) or not value:
        return None
    return [MISSING if one is None else str(one).strip() or MISSING for one in value]


def _check_option(answer: str, choices: list[str] | None) -> None:
    """The answer must name one of the options as the verifier reads it: by its text or by letter."""
    if not choices:
        raise BadRow("it has no options")
    found = gold_option(Gold("choice", answer, choices))
    if found is None or choices[found] == MISSING:
        raise BadRow(f"its answer {answer[:40]!r} names none of its options")
