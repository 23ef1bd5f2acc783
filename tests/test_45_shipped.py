"""The checkpoint that comes with the package: what its card says is so, and it loads without a name."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

import ringmoe
from ringmoe import checkpoint, presets, shipped
from ringmoe.errors import CheckpointError
from ringmoe.modality import Modality

MOST_BYTES = 19_000_000
NEVER = ("rsscn7", "ombria", "sen1floods11", "dota", "hrsid", "levir", "satsot", "capella", "planet", "spacenet")
"""Sets for research alone, or under a licence that what is learned of them would fall under."""


@pytest.fixture(scope="module")
def card() -> str:
    return (shipped.folder_of() / shipped.CARD).read_text()


def said(card: str, name: str) -> str:
    """What the card's first table says of something."""
    (found,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", card, re.MULTILINE)
    return found.strip("`")


def test_the_weights_are_those_of_the_card(card: str) -> None:
    """Checksum, bytes, parameters and contract; one file of at most 19 MB in bfloat16, and no other weights."""
    folder = shipped.folder_of()
    weights = (folder / checkpoint.WEIGHTS).read_bytes()
    assert said(card, f"sha256 of `{checkpoint.WEIGHTS}`") == hashlib.sha256(weights).hexdigest()
    assert said(card, "weights").startswith(f"{len(weights)} bytes, bfloat16")
    assert len(weights) <= MOST_BYTES
    found = checkpoint.load(folder)
    assert {p.dtype for p in found.model.parameters()} == {torch.bfloat16}
    assert int(said(card, "parameters")) == sum(p.numel() for p in found.model.parameters())
    assert said(card, "data contract") == found.contract.digest()
    assert {p.name for p in folder.iterdir()} == {checkpoint.CONFIG, checkpoint.WEIGHTS, shipped.CARD}


def test_it_is_nano_with_an_expert_of_each_kind() -> None:
    """Of all four modalities, with bands described; 9.4 million parameters as this shape has them."""
    found = checkpoint.load(shipped.folder_of())
    assert set(found.contract.inputs) == set(Modality)
    assert found.contract.described
    for index in range(len(found.model.blocks())):
        left = found.config.survivors_of(index, len(Modality))
        assert ([len(ids) for ids in left.specialized], len(left.collaborative)) == ([1, 1, 1, 1], 1)
    plain = presets.nano()
    assert (found.config.dim, found.config.depths, found.config.shared) == (plain.dim, plain.depths, 1)
    assert 9.2e6 < sum(p.numel() for p in found.model.parameters()) < 9.5e6


def test_it_learned_from_nothing_that_forbids_it(card: str) -> None:
    """The data, in the card as in the configuration, each with its licence; none of the research-use sets."""
    rows = checkpoint.load(shipped.folder_of()).meta["data"]
    assert rows
    assert all(row["licence"] for row in rows)
    learned = card.split("## What it learned from")[1].split("\n## ")[0]
    assert all(row["what"] in learned for row in rows)
    assert not [name for name in NEVER if name in (json.dumps(rows) + learned).lower()]
    assert "make_pretrained.py" in card


def test_load_without_a_name_gives_it() -> None:
    """Float32 weights that are finite, features that tell images apart; by name it is the same."""
    encoder = ringmoe.load().freeze()
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in encoder.parameters())
    torch.manual_seed(0)
    bands = [ringmoe.optical(665, 31), ringmoe.optical(833, 106)]
    pixels = torch.rand(2, 2, 64, 64)
    found = encoder(pixels, "ms", bands=bands, gsd_m=10.0).pooled
    assert found.shape == (2, 480)
    assert torch.isfinite(found).all()
    assert not torch.allclose(found[0], found[1], atol=1e-4)
    assert torch.equal(ringmoe.load("nano").freeze()(pixels, "ms", bands=bands, gsd_m=10.0).pooled, found)
    assert {p.dtype for p in ringmoe.load(dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_wheels_hold_it(root: Path) -> None:
    """Every file of it is package data."""
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ringmoe"]
    files = [path.relative_to(root / "ringmoe").as_posix() for path in shipped.folder_of().iterdir()]
    assert len(files) == 3
    assert all(any(fnmatch(file, pattern) for pattern in patterns) for file in files)


def test_a_name_that_does_not_come_with_the_package_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the same name is meant by ./nano; a package without its weights says so, and what to do."""
    with pytest.raises(CheckpointError, match="cannot be read"):
        ringmoe.load(tmp_path / "nano")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="No checkpoint nano comes with this package") as caught:
        ringmoe.load()
    assert "ringmoe pretrain" in caught.value.todo
