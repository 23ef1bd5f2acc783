"""The pre-training loss as a sum of named terms: guess what is masked, use the experts evenly.

Shape legend: B image, C channel, H row, W column, M modality, E expert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.backbone import STRIDE, Features, RingMoE
from ringmoe.contract import InputContract
from ringmoe.embed import normalised
from ringmoe.masking import SHARE, mask_batch
from ringmoe.modality import Batch, Chips, Modality
from ringmoe.moe import Routes
from ringmoe.physics import log_power, total_power


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms."""

    pixels: float = 1.0
    """Of the reconstruction of each modality."""
    balance: float = 0.001
    """Of the balance loss of each kind of router, as published."""
    z: float = 0.001
    """Of the router z-loss, which keeps logits small."""


@dataclass(frozen=True)
class Terms:
    """One loss, taken apart."""

    values: Mapping[str, Tensor]
    """Unweighted terms by name: pixels/MODALITY, balance/KIND and z/KIND; only `total` carries a gradient."""
    total: Tensor
    """Their weighted sum, a scalar."""


class Decoder(nn.Module):
    """SimMIM's: one 1x1 convolution on the last map, then pixels out of its channels."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, channels * STRIDE**2, 1)
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    def forward(self, last_BCHW: Tensor) -> Tensor:
        """Pixels (B, C, 32 H, 32 W): the convolution as a matrix product, then its channels laid out as pixels."""
        weight = self.proj.weight.flatten(1)
        y_BHWX = F.linear(last_BCHW.permute(0, 2, 3, 1), weight, self.proj.bias)
        batch, rows, cols, width = y_BHWX.shape
        y = y_BHWX.view(batch, rows, cols, width // STRIDE**2, STRIDE, STRIDE).permute(0, 3, 1, 4, 2, 5)
        return y.reshape(batch, -1, rows * STRIDE, cols * STRIDE)


class Objective(nn.Module):
    """Masked image modelling with a target per instrument, plus the routers' terms.

    Optical, multispectral and detected radar are guessed as normalised pixels (radar in the logarithm). Complex radar
    is guessed as the logarithm of its total power: phase and the split among channels are speckle, power is conserved.

    Parameters
    ----------
    model
        The backbone whose features are decoded.
    config
        Weights.
    summed
        Sums a tensor over all ranks (see parallel.summed_over_ranks); on one device the tensor itself.
    """

    def __init__(
        self,
        model: RingMoE,
        config: ObjectiveConfig | None = None,
        *,
        summed: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.config = config or ObjectiveConfig()
        self.contract = model.contract
        self.summed = summed or (lambda tensor: tensor)
        dim = model.config.dim * 8
        self.decoders = nn.ModuleDict(
            {m.value: Decoder(dim, channels_of_target(model.contract.inputs[m])) for m in model.modalities}
        )

    def forward(self, features: Features, batch: Batch, masks: Mapping[Modality, Tensor]) -> Terms:
        """The loss of one step; pixels that are invalid or were shown to the model do not count."""
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=features.pyramids[next(iter(batch))][-1].device)
        for modality, chips in batch.items():
            guess_BCHW = self.decoders[modality.value](features.pyramids[modality][-1])
            loss = self._guess(modality, guess_BCHW, chips, masks[modality])
            terms[f"pixels/{modality}"] = loss
            total = total + self.config.pixels * loss
        for kind in ("specialized", "collaborative"):
            routes = [r for routing in features.routing if (r := getattr(routing, kind)) is not None]
            if routes:
                balance, z = self._router_terms(routes, per_modality=kind == "specialized")
                terms[f"balance/{kind}"], terms[f"z/{kind}"] = balance, z
                total = total + self.config.balance * balance + self.config.z * z
        return Terms({name: value.detach() for name, value in terms.items()}, total)

    def _guess(self, modality: Modality, guess_BCHW: Tensor, chips: Chips, masked_BHW: Tensor) -> Tensor:
        with torch.no_grad():
            target_BCHW, valid_BHW = target(self.contract.inputs[modality], chips)
            hidden_BHW = masked_BHW.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)
            weight_B1HW = (hidden_BHW & valid_BHW)[:, None].to(target_BCHW.dtype)
            pixels = self.summed(weight_B1HW.sum())
        error_BCHW = (guess_BCHW.to(target_BCHW.dtype) - target_BCHW).abs() * weight_B1HW
        return self.summed(error_BCHW.sum()) / (pixels * target_BCHW.shape[1]).clamp(min=1)

    def _router_terms(self, routes: list[Routes], *, per_modality: bool) -> tuple[Tensor, Tensor]:
        """Balance N^2 mean(f p) and mean z^2, averaged over routers that saw a token, and over blocks."""
        load_LME = self.summed(torch.stack([r.load_ME for r in routes]))
        mass_LME = self.summed(torch.stack([r.mass_ME for r in routes]))
        z_LM = self.summed(torch.stack([r.z_M for r in routes]))
        if not per_modality:
            load_LME, mass_LME, z_LM = (x.sum(1, keepdim=True) for x in (load_LME, mass_LME, z_LM))
        count_LM = load_LME.sum(-1)
        seen_LM = (count_LM > 0).to(count_LM.dtype)
        count_LM = count_LM.clamp(min=1)
        experts = load_LME.shape[-1]
        balance_LM = experts * (load_LME * mass_LME).sum(-1) / count_LM.square()
        routers = seen_LM.sum().clamp(min=1)
        return (balance_LM * seen_LM).sum() / routers, (z_LM / count_LM * seen_LM).sum() / routers


def channels_of_target(contract: InputContract) -> int:
    """Channels the decoder of a modality guesses: its own, or one power for complex radar."""
    return 1 if contract.modality is Modality.SAR_L1 else len(contract.bands)


def target(contract: InputContract, chips: Chips) -> tuple[Tensor, Tensor]:
    """What the model must guess, (B, C, H, W) without units, 0 where invalid, and where it is known, bool (B, H, W)."""
    if contract.modality is not Modality.SAR_L1:
        return normalised(chips, contract)
    power_B1HW = total_power(chips.pixels_BCHW)
    valid_BHW = chips.valid_BHW & torch.isfinite(power_B1HW[:, 0])
    target_B1HW = log_power(power_B1HW, sum(s * s for s in contract.std))
    return target_B1HW.where(valid_BHW[:, None], 0.0), valid_BHW


class MaskedModelling(nn.Module):
    """SimMIM as one loss of a model and a batch: hide units, let the model guess, score the guess.

    Masks are drawn from torch's own random state on the CPU, which the training loop sets anew for every step.

    Parameters
    ----------
    objective
        Its decoders are trained with the model.
    share
        Share of 32 px units hidden.
    """

    def __init__(self, objective: Objective, *, share: float = SHARE) -> None:
        super().__init__()
        self.objective, self.share = objective, share

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch and its named terms."""
        masks = mask_batch(batch, generator=torch.default_generator, share=self.share)
        masks = {m: mask.to(batch[m].pixels_BCHW.device) for m, mask in masks.items()}
        terms = self.objective(model(batch, masks), batch, masks)
        return terms.total, terms.values
