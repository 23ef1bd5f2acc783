"""Checkpoints that come with the package: where they lie, by name."""

from __future__ import annotations

from pathlib import Path

from ringmoe.errors import CheckpointError

FOLDER = Path(__file__).resolve().parent / "pretrained"
"""A folder for each, with weights, configuration and card."""

DEFAULT = "nano"
"""What is taken where no checkpoint is named."""

CARD = "CARD.md"
"""What a checkpoint was trained on, how, under which licences, and what its features are worth."""


def names() -> tuple[str, ...]:
    """Of all that there are."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob("*/config.json")))


def folder_of(name: str = DEFAULT) -> Path:
    """The folder of a checkpoint that comes with the package.

    Raises
    ------
    CheckpointError
        When none of that name does.
    """
    if name not in names():
        raise CheckpointError(
            f"No checkpoint {name} comes with this package",
            item=str(FOLDER),
            enough=f"one of {', '.join(names())}" if names() else "a package that was built with its weights",
            todo="name the folder of a checkpoint, or make one: `ringmoe pretrain`",
        )
    return FOLDER / name
