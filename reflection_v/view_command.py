"""The command that shows traces and rollouts: ``reflection-v view``."""

from pathlib import Path
from typing import Annotated

import typer

from reflection_v.options import HostOption, NameOption, RootOption


def view_rows(
    folder: Annotated[
        Path, typer.Argument(help="A folder of a build, a training run or a whole run; or one .jsonl or .parquet file.")
    ],
    problems: Annotated[
        list[Path] | None,
        typer.Option(
            help="A problem set, or a folder of images, to which the rows belong. Sets inside the folder, and those of the run "
            "that it is a part of, are found. May be repeated."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 chooses a free port.")] = 7870,
    host: HostOption = "127.0.0.1",
    allowed_host: NameOption = None,
    root_path: RootOption = "/",
) -> None:
    """A web page to read traces and rollouts: round by round, with loss mask, rewards and attention; also while a run goes on.

    Filters by status, family, numbers and text, and the keyboard. Nothing is loaded from, or sent to, another host.
    """
    from demo.access import Access
    from demo.viewer.serve import serve_folder

    access = Access.parse(host, allowed_host or (), root_path)
    serve_folder(folder, problems or (), host, port, access)
