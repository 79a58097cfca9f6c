"""Published benchmarks as problem sets: reads their columns, writes ``problems.jsonl`` and images.

A row that cannot be asked (no answer, an answer that names no option, an image that cannot be read) is dropped and
recorded with its reason: counted separately, never as incorrect. Nothing in a data set is executed: lists in text form are
parsed as literals of bounded length.
"""

import contextlib
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, ImageError, UserError
from configs.jsonl import write_json_atomic
from configs.run_dir import RunDir
from data_construction.data_files import load_split
from data_construction.imported_rows import BadRow, Item
from data_construction.listed_text import MISSING, parse_listed, read_options
from data_construction.row_images import readable_image
from eval.hallusion import hallusion_scores
from eval.runner import Answer
from eval.stats import Estimate
from reward.grade import Gold, gold_option, is_quantity
from vlm.images import open_image
from vlm.labels import option_label
from vlm.problem import Problem, read_problems, write_problems

MAX_PLACES = 20
ACCOUNT = "benchmark.json"
SHOWN_REASONS = 10


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
    if unit := _optional(row, "unit"):
        question += f" (Unit: {unit})"
    answer = _text(row, "answer")
    if row.get("question_type") == "multi_choice":
        domain = "choice"
        _check_option(answer, choices)
    else:
        choices, domain = None, {"integer": "number", "float": "number", "list": "simulation"}.get(kind, "text")
        places = _places(row.get("precision"))
        if kind == "float" and places is not None:
            question += f" Give {places} decimal place{'s' if places != 1 else ''}."
    family = str(_fields(row.get("metadata")).get("task") or kind)
    return Item(
        _row_id(row, "pid"), domain, question, answer, _first_image(row, "decoded_image", "image"), choices, family
    )


def read_mathvision(row: Mapping[str, Any]) -> Item:
    """MathLLMs/MathVision: options (often bare letters, drawn in the image) with a letter, or an expression."""
    choices, answer = _options(row.get("options")), _text(row, "answer")
    if choices:
        _check_option(answer, choices)
        if [choice.strip() for choice in choices] == list(map(option_label, range(len(choices)))):
            choices = None  # the options are in the image: a list of bare letters adds nothing
    domain = "choice" if _options(row.get("options")) else "expression"
    # There is one image, even if the question numbers several in it.
    question = re.sub(r"<image([0-9]+)>", lambda found: "<image 1>" * (found[1] == "1"), _text(row, "question"))
    images = _first_image(row, "decoded_image", "image")
    return Item(_row_id(row, "id"), domain, question, answer, images, choices, _optional(row, "subject") or domain)


def read_mmmu(row: Mapping[str, Any]) -> Item:
    """MMMU/MMMU and the standard configs of MMMU-Pro: options as text of a list, up to seven images, open questions."""
    numbers = [n for n in range(1, 8) if row.get(f"image_{n}") is not None]
    images, question = [row[f"image_{n}"] for n in numbers], _renumbered(_text(row, "question"), numbers)
    choices, answers = _options(row.get("options")), _answers(row)
    choices = choices and [_renumbered(choice, numbers) for choice in choices]
    family = _optional(row, "subject") or _optional(row, "subfield")
    if row.get("question_type", "multiple-choice") == "multiple-choice" and choices:
        _check_option(answers[0], choices)
        return Item(_row_id(row, "id"), "choice", question, answers[0], images, choices, family)
    number = len(answers) == 1 and is_quantity(answers[0])
    gold = "|".join(answer.replace("|", " ") for answer in answers)  # any of several counts
    return Item(_row_id(row, "id"), "number" if number else "text", question, gold, images, None, family)


def read_mmmu_pro_vision(row: Mapping[str, Any]) -> Item:
    """MMMU/MMMU_Pro, config vision: question and options are drawn in the image; the answer is a letter."""
    question = "Answer the question in the picture with the letter of the right option."
    answer = _text(row, "answer")
    _check_option(answer, _options(row.get("options")))
    return Item(
        _row_id(row, "id"), "choice", question, answer, _first_image(row, "image"), None, _optional(row, "subject")
    )


def read_m3cot(row: Mapping[str, Any]) -> Item:
    """LightChen2333/M3CoT: context, question, choices, and the letter of the correct one."""
    choices, answer = _options(row.get("choices")), _text(row, "answer")
    _check_option(answer, choices)
    question = f"{_optional(row, 'context')}\n{_text(row, 'question')}".strip()
    return Item(
        _row_id(row, "id"),
        "choice",
        question,
        answer,
        _first_image(row, "image"),
        choices,
        _optional(row, "domain"),
    )


def read_hallusionbench(row: Mapping[str, Any]) -> Item:
    """lmms-lab/HallusionBench: yes or no (``gt_answer`` 1 or 0); rows of ``visual_input`` 0 have no image."""
    answer = {"1": "yes", "0": "no"}.get(str(row.get("gt_answer")).strip())
    if answer is None:
        raise BadRow(f"gt_answer is {row.get('gt_answer')!r}, not 0 or 1")
    keys = ("category", "subcategory", "set_id", "figure_id", "question_id")
    meta = {key: str(row.get(key)) for key in keys}
    shown = str(row.get("visual_input")).strip() != "0" or row.get("image") is not None
    images = _first_image(row, "image", "filename") if shown else []
    id_ = "-".join(meta.values())
    return Item(id_, "yes_no", _text(row, "question"), answer, images, None, meta["subcategory"], meta)


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


def prepare_benchmark(
    name: str, out: str | Path, data: str | None = None, *, split: str | None = None, limit: int | None = None
) -> tuple[list[Problem], dict[str, int]]:
    """Read a benchmark into the problem set ``out``; ``read_account`` of it tells which rows were read.

    Args:
        name: a key of ``BENCHMARKS``.
        data: instead of the published data set: a hub name, or a local file or folder (see ``data_construction.data_files``).
        split: instead of the one that the benchmark reports.
        limit: read only the first rows of the split, in the order of the data set.

    Returns:
        The problems with absolute image paths, and the number of dropped rows by reason (row by row in ``left_out.json``).

    Raises:
        ConfigError: an unknown benchmark.
        UserError: the data set does not load, lacks the split or a column, or no row of it is usable; or ``out`` holds other
            problems.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"Unknown benchmark '{name}': choose from {', '.join(BENCHMARKS)}.")
    folder, problems, left_out, seen = Path(out), [], [], set()
    images: dict[str, str] = {}
    RunDir(folder, "benchmark", ("problems.jsonl",), _is_of_benchmarks).refuse_foreign()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    benchmark, dropped, read = BENCHMARKS[name], Counter[str](), 0
    found = load_split(benchmark.hub, benchmark.configs, benchmark.split, data, split)
    for number, (row, folders) in enumerate(islice(found.rows, limit)):
        read += 1
        try:
            item = benchmark.read(row)
            if item.id in seen:
                raise BadRow("its id occurs twice")
            problems.append(_problem(name, item, number, folder, folders, images))
            seen.add(item.id)
        except KeyError as error:
            raise UserError(f"{data or benchmark.hub} has no column {error}: it is not {name}.") from None
        except (BadRow, ImageError) as error:
            left_out.append({"row": number, "why": str(error)})
            # The sentence about an image names its file, so it would be a reason of its own for every row.
            dropped["an image of it cannot be read" if isinstance(error, ImageError) else str(error)] += 1
    if not problems:
        why = f" ({left_out[0]['why']})" if left_out else ""
        raise UserError(f"No row of {data or benchmark.hub} can be asked{why}: check that it is {name}.")
    write_problems(problems, folder)
    write_json_atomic(folder / "left_out.json", left_out)
    account = {
        "name": name,
        "data": data or benchmark.hub,
        "split": found.split,
        "configs": found.configs,
        "files": found.files,
        "limit": limit,
        "rows": read,
        "asked": len(problems),
        "dropped": dict(dropped),
    }
    write_json_atomic(folder / ACCOUNT, account)
    for problem in problems:
        problem.images = [str((folder / image).resolve()) for image in problem.images]
    return problems, dict(dropped)


def read_account(problems: str | Path) -> dict[str, Any] | None:
    """Which rows of a benchmark a problem set was made of (docs/evaluation.md lists the keys); None for any other set."""
    try:
        account = json.loads((Path(problems) / ACCOUNT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return account if isinstance(account, dict) else None


def describe_account(account: Mapping[str, Any]) -> Iterator[str]:
    """The account of the rows as lines for a person."""
    split = f"split {account['split']}" if account["split"] else "the only split (no name)"
    files = account["files"]
    of = f" ({len(files)} files)" if len(files) > 1 else "".join(f" ({file})" for file in files)
    first = f"the first {account['limit']:,} rows of " if account["limit"] else ""
    yield (
        f"{account['name']}: {first}{split} of {account['data']}{of}: {account['rows']:,} rows read, "
        f"{account['asked']:,} can be asked, {account['rows'] - account['asked']:,} dropped"
    )
    reasons = sorted(account["dropped"].items(), key=lambda one: -one[1])
    for why, count in reasons[:SHOWN_REASONS]:
        yield f"{count:,} {'row' if count == 1 else 'rows'} dropped: {why}"
    if rest := sum(count for _, count in reasons[SHOWN_REASONS:]):
        yield f"{rest:,} more rows dropped for other reasons: see left_out.json"


def _problem(
    name: str, item: Item, number: int, folder: Path, folders: Sequence[Path], images: dict[str, str]
) -> Problem:
    """The problem of a row; its images are written unless ``images`` (digest -> file) has them, and added there."""
    files = []
    for index, stored in enumerate(item.images):
        source = readable_image(stored, folders)
        if source is None:
            raise BadRow("it has no image")
        file = f"images/{number:05d}-{index}.png"
        open_image(source).save(folder / file, compress_level=1)
        # Several rows may be about one image: it is kept once, so that they count as dependent (``image_clusters``).
        kept = images.setdefault(hashlib.sha256((folder / file).read_bytes()).hexdigest(), file)
        if kept != file:
            (folder / file).unlink()
        files.append(kept)
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
    if isinstance(value, float) and math.isnan(value):  # an empty cell of a table
        raise BadRow(f"it has no {column}")
    return str(value).strip()


def _optional(row: Mapping[str, Any], column: str) -> str:
    """The text of a column that may be absent or empty."""
    try:
        return _text(row, column)
    except (KeyError, BadRow):
        return ""


def _row_id(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _places(precision: Any) -> int | None:
    """The number of decimal places; None if the column is empty, which tables write as NaN."""
    try:
        places = float(str(precision))
    except ValueError:
        return None
    return int(places) if 0 <= places <= MAX_PLACES else None


def _fields(value: Any) -> Mapping[str, Any]:
    """An object of a row, which may be written as text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = parse_listed(value)
    return value if isinstance(value, Mapping) else {}


def _first_image(row: Mapping[str, Any], *columns: str) -> list[Any]:
    """The image, or the list of images, of the first column that has one."""
    found = next((row[column] for column in columns if row.get(column) is not None), None)
    if found is None:
        found = row.get("file_name")  # the column of a folder of images with their metadata.jsonl
    if found is None:
        raise BadRow("it has no image")
    return list(found) if isinstance(found, list | tuple) else [found]


def _renumbered(text: str, numbers: Sequence[int]) -> str:
    """``<image N>`` by the place of image N among a row's images: a row may have ``image_1`` and ``image_3`` alone."""
    if numbers == list(range(1, len(numbers) + 1)):
        return text
    places = {number: place for place, number in enumerate(numbers, start=1)}

    def place(found: re.Match[str]) -> str:
        number = int(found[1])
        return f"<image {places[number]}>" if number in places else f"(image {number}, not given)"

    return re.sub(r"<image ?([0-9]{1,3})>", place, text)


def _answers(row: Mapping[str, Any]) -> list[str]:
    """The answers of which any counts: a list of texts. A list of numbers is one answer."""
    value: Any = row["answer"]
    if isinstance(value, str) and value.strip().startswith("["):
        with contextlib.suppress(ValueError):
            value = parse_listed(value)
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) and one.strip() for one in value):
        return [one.strip() for one in value]
    return [_text(row, "answer")]


def _options(value: Any) -> list[str] | None:
    try:
        return read_options(value)
    except ValueError as error:
        raise BadRow(f"its list of options {error}") from None


def _check_option(answer: str, choices: list[str] | None) -> None:
    """The answer must name one of the options as the verifier reads it: by its text or by letter."""
    if not choices:
        raise BadRow("it has no options")
    found = gold_option(Gold("choice", answer, choices))
    if found is None or choices[found] == MISSING:
        raise BadRow(f"its answer {answer[:40]!r} names none of its options")
