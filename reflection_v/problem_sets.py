"""The command that writes problem sets: ``reflection-v problems``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from configs.errors import ConfigError
from configs.paths import user_path


def write_problem_set(
    source: Annotated[
        str,
        typer.Argument(
            help="scenes, digits, or scenes,digits (drawn); or your own data: a file, or hf:NAME (a data set of the hub) or "
            "hf:FOLDER (a local clone)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Output folder.")],
    n: Annotated[
        int | None, typer.Option(min=1, help="How many problems to draw; of your own data, only the first N rows.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed: the same seed gives the same problems.")] = 0,
    split: Annotated[
        str | None,
        typer.Option(help="pretrain, train or heldout: disjoint sets; or a split of the data set. Default: train."),
    ] = None,
    family: Annotated[list[str] | None, typer.Option(help="Only this family of questions; may be repeated.")] = None,
    difficulty: Annotated[
        str, typer.Option(help="How hard the images are to read: easy, hard, unseen_noise, ...")
    ] = "hard",
    counterfactual: Annotated[
        bool, typer.Option(help="For each problem, also draw an image that gives the same question another answer.")
    ] = False,
    source_format: Annotated[
        Literal["llava", "sharegpt", "messages", "json", "csv", "parquet"] | None,
        typer.Option("--from", help="The format of the file. Default: what it looks like."),
    ] = None,
    question: Annotated[str | None, typer.Option(metavar="COL", help="The column of the question.")] = None,
    answer: Annotated[str | None, typer.Option(metavar="COL", help="The column of the gold answer.")] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COL", help="A column of images: paths, bytes, data URIs, or lists of them; may be repeated."
        ),
    ] = None,
    choices: Annotated[str | None, typer.Option(metavar="COL", help="The column of the options.")] = None,
    id_column: Annotated[str | None, typer.Option("--id", metavar="COL", help="The column of the id.")] = None,
    domain: Annotated[
        str | None, typer.Option(help="The kind of every answer, such as count or text. Default: guessed for each row.")
    ] = None,
    decimal: Annotated[
        Literal[".", ","] | None, typer.Option(help="The decimal mark in answers and options. Default: the point.")
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder that image paths start from.")] = None,
    urls: Annotated[bool, typer.Option("--urls", help="Download images that are http(s) URLs.")] = False,
    config: Annotated[str | None, typer.Option(help="The config (subset) of a data set that has several.")] = None,
) -> None:
    """Write a problem set, as problems.jsonl and image files: drawn problems, or a file or data set of yours.

    Rows that cannot be used are dropped, named with their lines and counted by reason; the exit code is 1 if none is left.
    """
    from data_construction.sources import SOURCES

    own = source.startswith("hf:") or user_path(source).exists() or source_format is not None
    drawn = not own and not Path(source).suffix and "/" not in source
    if drawn or set(source.split(",")) <= set(SOURCES):
        if n is None:
            raise ConfigError("--n is missing: how many problems to draw.")
        from data_construction.sources import write_set

        knobs = {"family_names": family, "difficulty": difficulty, "counterfactual": counterfactual}
        file = write_set(source, n, seed, split or "train", out, **knobs)
        print(f"{n} problems in {file}")
        return
    from data_construction.imported_rows import Columns
    from data_construction.imports import ImportOptions, import_problems
    from vlm.problem import DOMAINS

    if domain is not None and domain not in DOMAINS:
        raise ConfigError(f"Unknown domain '{domain}': choose from {', '.join(DOMAINS)}.")
    if images is not None and not images.is_dir():
        raise ConfigError(f"There is no folder {images}: check --images.")
    columns = Columns(question, answer, image or (), choices, id_column, domain, decimal)
    options = ImportOptions(source_format, columns, urls, images, split, config, n)
    file, account = import_problems(source, out, options)
    print(f"{account.used:,} problems in {file} ({account.rows:,} rows read, {account.rows - account.used:,} dropped)")
