"""Architecture and style are tests: import contracts, ruff, mypy, and no path of one person's machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".ipynb", ".sh", ".cfg", ""}
OWN_MACHINE = re.compile(r"(?<![\w.:/$}-])/(?:work|root|home|Users|opt)/\w")


def run(root: Path, *command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


def test_import_contracts_are_kept(root: Path) -> None:
    """No package imports what stands above or beside it; only flows knows Prefect, only ringmoe torch."""
    command = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", command], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


def test_ruff_finds_nothing(root: Path) -> None:
    """Code and tests are clean of what ruff looks for."""
    run(root, "ruff", "check", ".")


def test_ruff_would_format_nothing(root: Path) -> None:
    """Code and tests are formatted."""
    run(root, "ruff", "format", "--check", ".")


def test_mypy_finds_nothing(root: Path) -> None:
    """The three packages are fully typed."""
    run(root, "mypy")


def test_no_file_names_a_place_on_one_machine(root: Path) -> None:
    """No tracked or new file holds an absolute path of the machine it was written on."""
    if not (root / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the project is unknown")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = [root / name for name in listed.stdout.splitlines()]
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()[:120]}"
        for path in files
        if path.is_file() and path.suffix in TEXT and path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1)
        if OWN_MACHINE.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.xdist_group("frame")
def test_groups_of_tests_stay_together(request: pytest.FixtureRequest) -> None:
    """xdist keeps a group on one worker by its name in the test's id; it does so without a word where it cannot."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("one process: there is nothing to spread")
    assert request.node.nodeid.endswith("@frame")
