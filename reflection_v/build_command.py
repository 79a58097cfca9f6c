"""The ``build`` command: traces from the agent loop, in one folder or in shards."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from configs.errors import ConfigError
from reflection_v.options import MODEL_NAMES, JudgeOption, OutOption, extra_keys, print_counts, texts


def build_traces(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="The config of the agent loop.")] = None,
    problems: Annotated[Path | None, typer.Option(help="The problem set.")] = None,
    out: OutOption = None,
    model: Annotated[str | None, typer.Option(help="The VLM that sees the image: " + MODEL_NAMES)] = None,
    reasoner: Annotated[str | None, typer.Option(help="The text model that asks and concludes: " + MODEL_NAMES)] = None,
    judge: JudgeOption = None,
    dry_run: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Play N episodes and estimate the rest.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N", help="Play only shard K of N, in OUT/shard-K-of-N: one part of a build on several machines."
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Only join the finished shards in OUT into one build.")
    ] = False,
    stats: Annotated[Path | None, typer.Option(help="Only count and plot the traces in this folder.")] = None,
    export: Annotated[
        Literal["hf"] | None, typer.Option(help="After the build, write the kept traces as a Hugging Face data set.")
    ] = None,
) -> None:
    """Build reflection traces: a text reasoner asks about images that it cannot see, a VLM looks and answers.

    Writes replies.jsonl and traces.jsonl, row by row, and sft.jsonl. The same command resumes an interrupted build. Any
    key of the config can be given as an option.
    """
    if stats is not None:
        from data_construction.stats import write_stats

        print_counts(write_stats(stats))
        print(f"The charts are in {stats / 'stats.png'}")
        return
    if config is None:
        raise ConfigError("build needs a config: give one, such as configs/tiny/build.yaml, or give --stats DIR.")
    from configs.overrides import read_config
    from configs.schema import parse_config

    given = {"problems": problems, "out": out, "model": model, "reasoner": reasoner, "judge": judge}
    settings = read_config(config, extra_keys(context) | texts(given))
    from data_construction import derive
    from data_construction.build import BuildConfig, run_build
    from data_construction.shards import Shard, run_merge

    part = None if shard is None else Shard.parse(shard)
    if merge and (part or dry_run):
        raise ConfigError("--merge joins shards that are finished: give it without --shard and --dry-run.")
    if part and export:
        raise ConfigError("--export needs all shards: give it with --merge, not with --shard.")
    values = parse_config(BuildConfig, settings, config)
    counts = run_merge(values) if merge else run_build(values, dry_run=dry_run, shard=part)
    print_counts(counts)
    if dry_run is None and part is None:
        derive.check_kept(counts)
    if export is not None and dry_run is None:
        print(f"The data set is {derive.export(values)}")
