"""Each file opens with its caption, and the README's tree repeats it."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

PACKAGES = ("flows", "ringmoe", "catalog")
BLOCK = re.compile(r"<!-- tree -->\n```\n(.*?)```", re.DOTALL)
INDENT = 2


def captions(root: Path) -> dict[str, str]:
    """Path -> caption of every folder and file that the README's tree must hold."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            folder = path.name == "__init__.py"
            name = f"{path.parent.relative_to(root)}/" if folder else str(path.relative_to(root))
            found[name] = caption_of(path)
        found |= {str(path.relative_to(root)): title_of(path) for path in sorted((root / package).rglob("*.ipynb"))}
    for path in sorted((root / "infra").rglob("*")):
        if path.is_file():
            found[str(path.relative_to(root))] = comment_of(path)
    return found


def caption_of(path: Path) -> str:
    """First line of a Python file, which must be a docstring of one line."""
    text = path.read_text()
    caption = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    assert text.startswith(f'"""{caption}'), f"{path}: the first line is not its caption"
    assert caption, f"{path}: no caption"
    return without_stop(caption)


def title_of(path: Path) -> str:
    """First line of a notebook's first cell, without the mark of a heading."""
    first = json.loads(path.read_text())["cells"][0]["source"]
    return without_stop("".join(first).split("\n")[0].lstrip("# "))


def comment_of(path: Path) -> str:
    """First comment line of a script or of a file of pins."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    assert lines, f"{path}: no caption"
    return without_stop(lines[0].removeprefix("# "))


def without_stop(caption: str) -> str:
    """A caption ends without a full stop; three of them stay."""
    return caption if caption.endswith("...") else caption.removesuffix(".")


def tree_of(readme: str) -> dict[str, str]:
    """Path -> caption as the README's tree has them."""
    block = BLOCK.search(readme)
    assert block, "README.md holds no tree after the mark <!-- tree -->"
    folders: list[str] = []
    found: dict[str, str] = {}
    for line in block.group(1).splitlines():
        name, _, caption = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // INDENT
        path = "/".join([*folders[:depth], name.rstrip("/")])
        if name.endswith("/"):
            folders = [*folders[:depth], name.rstrip("/")]
        found[path + "/" * name.endswith("/")] = without_stop(caption.strip())
    return found


def as_block(wanted: dict[str, str], order: list[str]) -> str:
    """The tree as it should stand, known paths in the order they have, new ones behind their folder."""
    rank = {path: index for index, path in enumerate(order)}
    width = 2 + max(INDENT * path.rstrip("/").count("/") + len(Path(path).name) + 1 for path in wanted)

    def place(path: str) -> tuple[tuple[int, str], ...]:
        parts = path.rstrip("/").split("/")
        steps = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        return tuple((rank.get(step, rank.get(f"{step}/", 10**6)), step) for step in steps)

    lines = []
    for path in sorted(wanted, key=place):
        name = "  " * path.rstrip("/").count("/") + Path(path).name + "/" * path.endswith("/")
        lines.append(f"{name:<{width}}{wanted[path]}")
    return "\n".join(lines)


def is_plain_folder(path: Path) -> bool:
    """A folder that is no package has no caption of its own: the README gives it one."""
    return path.is_dir() and not (path / "__init__.py").exists()


def test_the_tree_in_the_readme_is_the_real_one(root: Path) -> None:
    """The README's tree holds every file of the packages and of infra with its caption, and nothing else."""
    shown = tree_of((root / "README.md").read_text())
    real = captions(root)
    free = {path: caption for path, caption in shown.items() if is_plain_folder(root / path)}
    wanted = real | free
    assert shown == wanted, "the tree should read:\n\n" + as_block(wanted, list(shown))
