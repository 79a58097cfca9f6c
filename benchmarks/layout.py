"""Size and structure of the code: ``python benchmarks/layout.py [--files] [--json]``.

Counts lines of code of each package (lines that hold a token that is neither comment nor docstring; a statement over three
lines counts three), comments per 100 of them, and names what breaks the rules of the layout: an import of a package further
up, a circle of imports (an import inside a function counts), a top-level function or class whose name stands in two modules,
and a file of more than 400 lines. ``tests/test_layout.py`` keeps the rules.
"""

import argparse
import ast
import io
import json
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "vlm", "reward", "data_construction", "eval", "train", "demo", "reflection_v")
"""In the order of imports: each may import those before it."""
COUNTED = (*PACKAGES, "benchmarks/study")
MAX_LINES = 400
SHARED_NAMES = {"main"}
NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@dataclass
class Module:
    """One Python file."""

    name: str
    path: Path
    source: str = field(repr=False)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def package(self) -> str:
        return self.name.split(".")[0]

    @property
    def lines(self) -> int:
        """The number of lines in the file."""
        return len(self.source.splitlines())

    def count(self) -> tuple[int, int]:
        """The number of lines of code and of comments."""
        code: set[int] = set()
        comments = 0
        for token in tokenize.generate_tokens(io.StringIO(self.source).readline):
            comments += token.type == tokenize.COMMENT
            if token.type not in NOT_CODE:
                code.update(range(token.start[0], token.end[0] + 1))
        return len(code - set(self._docstring_lines())), comments

    def _docstring_lines(self) -> Iterator[int]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
                first = node.body[0]
                if (
                    isinstance(first, ast.Expr)
                    and isinstance(first.value, ast.Constant)
                    and isinstance(first.value.value, str)
                ):
                    yield from range(first.lineno, (first.end_lineno or first.lineno) + 1)

    def top_level(self) -> list[str]:
        """The names of its top-level functions and classes."""
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        return [node.name for node in self.tree.body if isinstance(node, kinds)]

    def imports(self, known: dict[str, "Module"]) -> set[str]:
        """The modules of ``known`` that it imports, anywhere in the file."""
        wanted: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                wanted |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        found = {name for name in wanted if name in known and name != self.name}
        # ``from package import module`` is an import of the module; the package's own file counts where it holds code.
        return {name for name in found if not (known[name].path.name == "__init__.py" and not known[name].tree.body)}


def read_modules(*folders: str, root: Path = ROOT) -> dict[str, Module]:
    """The modules below ``folders``, by name."""
    found = {}
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(name, path, path.read_text(encoding="utf-8"))
    return found


def upward_imports(modules: dict[str, Module]) -> list[str]:
    """``module -> module`` for each import of a package that stands later in ``PACKAGES``."""
    rank = {name: place for place, name in enumerate(PACKAGES)}
    return [
        f"{name} -> {other}"
        for name, module in modules.items()
        if module.package in rank
        for other in sorted(module.imports(modules))
        if rank.get(modules[other].package, len(rank)) > rank[module.package]
    ]


def import_circles(modules: dict[str, Module]) -> list[str]:
    """The first circle of imports that is found; empty where there is none."""
    try:
        TopologicalSorter({name: module.imports(modules) for name, module in modules.items()}).prepare()
    except CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def shared_names(modules: dict[str, Module]) -> list[str]:
    """Top-level functions and classes that stand in two modules, with the modules."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, module in modules.items():
        for one in module.top_level():
            places[one].append(name)
    return [
        f"{name}: {', '.join(where)}"
        for name, where in sorted(places.items())
        if len(where) > 1 and name not in SHARED_NAMES
    ]


def long_files(modules: dict[str, Module]) -> list[str]:
    """Files of more than ``MAX_LINES`` lines."""
    return [
        f"{module.path.relative_to(ROOT)}: {module.lines} lines"
        for module in modules.values()
        if module.lines > MAX_LINES
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="also count each file")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    arguments = parser.parse_args()
    modules = read_modules(*COUNTED)
    counts = {str(module.path.relative_to(ROOT)): module.count() for module in modules.values()}
    folders = {folder: [n for file, n in counts.items() if file.startswith(folder + "/")] for folder in COUNTED}
    total, comments = (sum(n[place] for n in counts.values()) for place in (0, 1))
    figures = {
        "lines_of_code": total,
        "by_folder": {folder: sum(code for code, _ in rows) for folder, rows in folders.items()},
        "comments_per_100_lines": round(100 * comments / total, 1),
        "upward_imports": upward_imports(modules),
        "import_circles": import_circles(modules),
        "shared_names": shared_names(modules),
        "long_files": long_files(modules),
    }
    if not arguments.json:
        for file, (code, remarks) in counts.items() if arguments.files else ():
            print(f"{code:6d} lines of code, {remarks:3d} comments  {file}")
        for key, value in figures.items():
            print(f"{key}: {value}")
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
