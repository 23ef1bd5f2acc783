"""Every way the model can say no, in the same four parts as the catalogue's errors."""

from __future__ import annotations

from catalog.errors import Refusal


class ModelError(Refusal):
    """The family of everything the model refuses."""


class ContractError(ModelError):
    """Pixels are not what the checkpoint was trained on: other bands, quantity, units or ground sampling distance."""


class InputError(ModelError):
    """A batch cannot go through the model: image size, channels, modality or dtype."""


class ConfigError(ModelError):
    """A configuration describes no model that can be built."""


class CheckpointError(ModelError):
    """A checkpoint is truncated, of another configuration or contract, or holds a tensor it should not."""


class PruneError(ModelError):
    """A model cannot be made smaller in the way asked."""


class TrainingError(ModelError):
    """Training cannot start or go on: no samples, or a loss that is not finite."""


class TileError(ModelError):
    """A raster cannot be cut into the tiles asked for."""


class DataError(ModelError):
    """A cube or a label raster gives no sample to learn from or to score on."""


class ExportError(ModelError):
    """A model cannot become a graph that runs without this code."""
