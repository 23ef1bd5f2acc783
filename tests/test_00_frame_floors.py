"""The extras of pyproject.toml mirror the floors: each package imports with its extra's requirements and no more."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMPORT_ALL = """
import importlib, pathlib, sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
for module in MODULES:
    importlib.import_module(module)
"""


def modules(root: Path, package: str) -> list[str]:
    """Dotted names of every module of a package."""
    files = sorted((root / package).rglob("*.py"))
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in files]
    return [name.removesuffix(".__init__") for name in names]


def import_without(root: Path, names: list[str], blocked: set[str], *options: str) -> None:
    """Import the modules in a fresh interpreter that has not the blocked top-level names."""
    script = f"BLOCKED = {blocked!r}\nMODULES = {names!r}\nimport sys; sys.path.insert(0, {str(root)!r})\n" + IMPORT_ALL
    command = [sys.executable, *options, "-c", script]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def outside(*extras: str) -> set[str]:
    """Importable names installed here that none of the extras brings in."""
    allowed = closure("ringmoe", *extras)
    return {
        top
        for top, holders in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(holder) for holder in holders} & allowed
    }


def test_the_ground_floor_needs_the_standard_library_only(root: Path) -> None:
    """catalog, catalog.errors and catalog.sensors import without any installed package."""
    import_without(root, ["catalog", "catalog.errors", "catalog.sensors"], set(), "-S", "-E")


@pytest.mark.parametrize(("package", "extra"), [("catalog", "catalog"), ("ringmoe", "model"), ("flows", "flows")])
def test_a_package_imports_with_its_own_extra(root: Path, package: str, extra: str) -> None:
    """Every module imports with what its extra brings in: no torch for catalog, no xarray or Prefect for ringmoe."""
    blocked = outside(extra)
    assert "pytest" in blocked
    assert package == "flows" or "prefect" in blocked
    import_without(root, modules(root, package), blocked)


def test_every_package_has_its_pin(root: Path) -> None:
    """infra/constraints.txt pins exactly what `.[dev]` brings in, and the environment keeps to it."""
    lines = (root / "infra/constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {str(canonicalize_name(name)): version for name, version in pins.items()}
    brought = closure("ringmoe", "dev") - {"ringmoe", "pip", "setuptools"}
    assert brought <= set(pinned), f"without a pin: {sorted(brought - set(pinned))}"
    assert set(pinned) <= brought, f"pinned for nothing: {sorted(set(pinned) - brought)}"
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in brought}
    other = {name: version for name, version in installed.items() if version != pinned[name]}
    assert not other, f"installed in another version than pinned: {other}"


def closure(distribution: str, *extras: str) -> set[str]:
    """Canonical names of a distribution and of everything its requirements lead to here."""
    seen: set[tuple[str, str]] = set()
    todo = [(canonicalize_name(distribution), extra) for extra in ("", *extras)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(requirement.name), also) for also in ("", *requirement.extras)]
    return {str(name) for name, _ in seen}
