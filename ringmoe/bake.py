"""A model of any bands -> a model of one sensor: the spectral embedding folded into a convolution, exactly.

Shape legend: C channel, D width of a token, P pixel of a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ringmoe.backbone import RingMoE
from ringmoe.contract import DataContract, InputContract
from ringmoe.errors import ConfigError
from ringmoe.modality import Modality
from ringmoe.quantise import check_exact
from ringmoe.spectral import SpectralEmbed


@torch.no_grad()
def bake(model: RingMoE, sensors: Mapping[Modality, InputContract] | None = None) -> RingMoE:
    """The same model with the fixed embedding, for one sensor a modality at the middle of its pixel sizes.

    Features are the same to rounding wherever every measured pixel has every band. Where single bands are missing
    within measured pixels, the spectral embedding knows what to do and the fixed one takes the pixel as missing.

    Parameters
    ----------
    model
        Not changed; one that has the fixed embedding already comes back as it is.
    sensors
        Bands, normalisation and pixel sizes by modality, as of `DataContract.input_of`; those left out are the
        contract's first sensors.

    Returns
    -------
    RingMoE
        In evaluation mode, its tensors copies; its contract takes these sensors and no other.

    Raises
    ------
    ConfigError
        The weights are quantised.
    """
    if model.config.embedding == "fixed":
        return model
    check_exact(model, "baked", ConfigError)
    inputs = {m: (sensors or {}).get(m, model.contract.inputs[m]) for m in model.modalities}
    tensors = {k: t.detach().clone() for k, t in model.state_dict().items() if not k.startswith("embed.")}
    for modality, contract in inputs.items():
        embed = model.embedding(modality)
        assert isinstance(embed, SpectralEmbed)
        tensors |= {f"embed.{modality.value}.{name}": t for name, t in _convolution(embed, contract).items()}
    return RingMoE.from_tensors(replace(model.config, embedding="fixed"), DataContract(inputs), tensors)


def _convolution(embed: SpectralEmbed, contract: InputContract) -> dict[str, Tensor]:
    """Tensors of a PatchEmbed: W_b / C, the mean of e_b, and a norm that holds (1 + s) and t."""
    weight_DCP, bias_DC = embed.generated(contract.bands)
    scale_1D, shift_1D = embed.modulation(torch.tensor([contract.middle_m], device=embed.no_data.device))
    channels = len(contract.bands)
    return {
        "proj.weight": (weight_DCP / channels).unflatten(2, (embed.patch, embed.patch)).contiguous(),
        "proj.bias": bias_DC.mean(1),
        "norm.weight": embed.norm.weight * (1 + scale_1D[0]),
        "norm.bias": embed.norm.bias * (1 + scale_1D[0]) + shift_1D[0],
        "no_data": embed.no_data.clone(),
        "mask_token": embed.mask_token.clone(),
    }
