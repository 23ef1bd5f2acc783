"""What a pre-trained model makes of what it is not shown: truth, mask and guess of a few chips."""

# Shape suffixes: C channels, H rows, W columns.

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ringmoe.backbone import STRIDE, RingMoE
from ringmoe.determinism import deterministic
from ringmoe.modality import Batch, Modality
from ringmoe.objectives import MaskedModelling
from ringmoe.targets import truth


class Guess(NamedTuple):
    """One chip, as the objective sees it: normalised bands, or the logarithms of what complex radar conserves."""

    truth_CHW: Tensor
    """float32; 0 where unknown."""
    known_CHW: Tensor
    """bool."""
    guess_CHW: Tensor
    """float32, everywhere."""
    hidden_HW: Tensor
    """bool; where the model was not shown the truth."""
    channels: tuple[str, ...]
    """Common name of each channel, else its name; empty for what complex radar conserves."""


@torch.inference_mode()
def guesses(model: RingMoE, modelling: MaskedModelling, batch: Batch, *, seed: int = 0) -> dict[Modality, Guess]:
    """The first chip of every modality of a batch, with masks drawn from a seed.

    Parameters
    ----------
    model, modelling
        As they were trained together, whole on one device.
    """
    device, objective = next(model.parameters()).device, modelling.objective
    count = 2 if objective.views is not None and objective.config.cut else 1  # with its twin, where it has one
    chips = {
        m: type(c)(c.pixels_BCHW[:count], c.valid_BHW[:count], c.bands, _first(c.gsd_B, count)).to(device)
        for m, c in batch.items()
    }
    seen: list[tuple[Any, ...]] = []
    watch = objective.register_forward_pre_hook(lambda module, args: seen.append(args))
    try:
        with deterministic(seed, device=device):
            modelling(model, chips)
    finally:
        watch.remove()
    features, _, masks = seen[0]
    pyramids = features.pyramids
    found = {}
    for modality, one in chips.items():
        asked = objective.contract.input_of(modality, one.bands)
        wanted = truth(asked, one, objective.config.terms)
        guess_CHW = objective.decoders[modality.value](pyramids[modality][-1], asked.bands)[0].float().cpu()
        hidden_HW = masks[modality][0].cpu().repeat_interleave(STRIDE, 0).repeat_interleave(STRIDE, 1)
        same = len(asked.bands) == len(guess_CHW)
        names = tuple(band.common_name or band.name + band.part for band in asked.bands) if same else ()
        truth_CHW, known_CHW = wanted.values_BCHW[0].float().cpu(), wanted.known_BCHW[0].cpu()
        found[modality] = Guess(truth_CHW, known_CHW, guess_CHW, hidden_HW, names)
    return found


def _first(gsd_B: Tensor | None, count: int) -> Tensor | None:
    return None if gsd_B is None else gsd_B[:count]
