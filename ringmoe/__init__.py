"""The model: one encoder for optical, multispectral and radar pixels, a mixture of experts that can be pruned.

>>> import torch
>>> import ringmoe
>>> encoder = ringmoe.load("checkpoint").freeze()
>>> bands = [ringmoe.optical(665, 31), ringmoe.optical(833, 106)]  # of any sensor: centre and width in nm
>>> found = encoder(torch.rand(2, 2, 64, 64), "ms", bands=bands, gsd_m=10.0)  # reflectance, pixels of 10 m
>>> [tuple(level.shape) for level in found.pyramid]
[(2, 32, 16, 16), (2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2)]
>>> tuple(found.pooled.shape)
(2, 480)

`ringmoe.load()` alone gives the checkpoint that comes with the package.

To fine-tune, thaw it and train it with what stands on it; within `deterministic`, equal seeds give equal bits:

>>> with ringmoe.deterministic(seed=0):
...     model = torch.nn.ModuleList([encoder.freeze(False), torch.nn.Linear(480, 10)])
...     optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
...     scores = model[1](encoder(torch.rand(2, 2, 64, 64), "ms", bands=bands, gsd_m=10.0).pooled)
...     torch.nn.functional.cross_entropy(scores, torch.tensor([3, 7])).backward()
...     optimiser.step()
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringmoe.encoder import Encoded, Encoder, deterministic, load, optical, radar

__all__ = ["Encoded", "Encoder", "deterministic", "load", "optical", "radar"]


def __getattr__(name: str) -> object:
    """Import torch, and all that stands on it, when somebody asks for the model."""
    if name not in __all__:
        raise AttributeError(f"module 'ringmoe' has no attribute {name!r}")
    from ringmoe import encoder

    return getattr(encoder, name)
