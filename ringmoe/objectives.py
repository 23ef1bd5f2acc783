"""The pre-training loss as a sum of named terms: guess what is masked, use the experts evenly.

Shape legend: B image, C channel, H row, W column, M modality, E expert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.backbone import Features, RingMoE
from ringmoe.contract import InputContract
from ringmoe.decoders import BandDecoder, Completion, Decoder
from ringmoe.latent import TextureTerm, ViewTerm, apart, lit, twice
from ringmoe.masking import SHARE, UNIT_PX, mask_batch, units_of
from ringmoe.modality import Batch, Chips, Modality
from ringmoe.moe import Routes
from ringmoe.targets import TermWeights, errors, guessed_bands, truth
from ringmoe.visible import Places, cut_out


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms."""

    terms: TermWeights = field(default_factory=TermWeights)
    """Of what is guessed."""
    balance: float = 0.001
    """Of the balance loss of each kind of router, as published."""
    z: float = 0.001
    """Of the router z-loss, which keeps logits small."""
    texture: float = 0.0
    """Of guessing what fixed random filters answer in every unit; 0 leaves the term out."""
    views: float = 0.0
    """Of telling which two views, hidden in unlike places, are of one image; 0 leaves it out, and the second view."""
    cut: bool = False
    """Batches hold every place twice, cut otherwise, one after the other (`Crop.twins`): these are the views. Else a
    second is made of each chip, mirrored or turned."""
    light: float = 0.0
    """Largest logarithm of the factor between the lights of two views of an optical or multispectral image."""


@dataclass(frozen=True)
class Terms:
    """One loss, taken apart."""

    values: Mapping[str, Tensor]
    """Unweighted terms by name: TERM/MODALITY, balance/KIND and z/KIND; only `total` carries a gradient."""
    total: Tensor
    """Their weighted sum, a scalar."""


class Objective(nn.Module):
    """Masked image modelling with a target per instrument, plus the routers' terms.

    Optical and multispectral chips are guessed as normalised pixels, the latter also by what illumination does not
    change; detected radar by the likelihood of its speckle; complex radar by what a change of basis conserves
    (`ringmoe.targets`).

    Parameters
    ----------
    model
        The backbone whose features are decoded.
    config
        Weights.
    summed
        Sums a tensor over all ranks (see parallel.summed_over_ranks); on one device the tensor itself.
    gathered
        Puts the rows of all ranks together (see parallel.gathered_over_ranks); on one device the tensor itself.
    """

    def __init__(
        self,
        model: RingMoE,
        config: ObjectiveConfig | None = None,
        *,
        summed: Callable[[Tensor], Tensor] | None = None,
        gathered: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.config = config or ObjectiveConfig()
        self.contract, self.shape = model.contract, model.config
        self.summed = summed or (lambda tensor: tensor)
        self.gathered = gathered or (lambda tensor: tensor)
        dim = model.config.dim * 8
        spectral = model.config.embedding == "spectral"
        self.decoders = nn.ModuleDict()
        for m in model.modalities:
            conserved = m is Modality.SAR_L1 and self.config.terms.physical(m)
            channels = guessed_bands(model.contract.inputs[m], self.config.terms)
            self.decoders[m.value] = BandDecoder(dim) if spectral and not conserved else Decoder(dim, channels)
        sensors = [s for m in model.modalities for s in model.contract.sensors(m)]
        self.texture = TextureTerm(dim, sensors) if self.config.texture > 0 else None
        dims = [model.config.dim * 2**stage for stage in range(4)]
        self.views = ViewTerm(dims) if self.config.views > 0 else None

    def forward(self, features: Features, batch: Batch, masks: Mapping[Modality, Tensor]) -> Terms:
        """The loss of one step; pixels that are invalid or were shown to the model do not count.

        Only units that were hidden are decoded. Masks, bool (B, H/32, W/32), True where hidden, may lie on any device;
        on the CPU, where they are drawn, nothing waits for the features to be known.
        """
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=features.pyramids[next(iter(batch))][-1].device)
        for modality, chips in batch.items():
            asked = self.contract.input_of(modality, chips.bands)
            unit_X = units_of(masks[modality])
            hidden = Places.of(chips, unit_X if len(unit_X) else unit_X.new_zeros(1))
            last_XC = features.pyramids[modality][-1].permute(0, 2, 3, 1).flatten(0, 2)[hidden.there(hidden.index_X)]
            guess_BCHW = self.decoders[modality.value](last_XC[..., None, None], asked.bands)
            cut = _cut(chips, hidden, some=len(unit_X) > 0)
            for name, (loss, weight) in self._guess(asked, guess_BCHW, cut).items():
                terms[f"{name}/{modality}"] = loss
                total = total + weight * loss
            if self.texture is not None:
                loss = self.texture(features.pyramids[modality][-1], asked, chips, self.summed)
                terms[f"texture/{modality}"], total = loss, total + self.config.texture * loss
            if self.views is not None:
                loss = self.views(features.pyramids[modality], _shown(chips, masks[modality]), self.gathered)
                terms[f"views/{modality}"], total = loss, total + self.config.views * loss
        for kind in ("specialized", "collaborative"):
            routes = [r for routing in features.routing if (r := getattr(routing, kind)) is not None]
            if routes:
                balance, z = self._router_terms(routes, per_modality=kind == "specialized")
                terms[f"balance/{kind}"], terms[f"z/{kind}"] = balance, z
                total = total + self.config.balance * balance + self.config.z * z
        return Terms({name: value.detach() for name, value in terms.items()}, total)

    def _guess(self, asked: InputContract, guess_BCHW: Tensor, chips: Chips) -> dict[str, tuple[Tensor, float]]:
        """Each term of a modality, averaged over what is known of hidden units, and its weight."""
        with torch.no_grad():
            wanted = truth(asked, chips, self.config.terms)
        found = {}
        for name, error in errors(asked, guess_BCHW, wanted, self.config.terms).items():
            counted_BCHW = error.known_BCHW.to(error.values_BCHW.dtype)
            loss = self.summed((error.values_BCHW * counted_BCHW).sum()) / self.summed(counted_BCHW.sum()).clamp(min=1)
            found[name] = loss, error.weight
        return found

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


def _shown(chips: Chips, mask_BUU: Tensor) -> Tensor:
    """Units that the model saw something of: not hidden, and with a pixel that was measured; bool (B, U, U)."""
    known_BUU = F.max_pool2d(chips.valid_BHW[:, None].float(), UNIT_PX)[:, 0] > 0
    return known_BUU & ~mask_BUU.to(known_BUU.device)


def _cut(chips: Chips, units: Places, *, some: bool) -> Chips:
    """Units that are guessed; where there are none, one that counts for nothing, as ranks must sum the same terms."""
    cut = cut_out(chips, units)
    return cut if some else replace(cut, valid_BHW=torch.zeros_like(cut.valid_BHW))


class MaskedModelling(nn.Module):
    """SimMIM as one loss of a model and a batch: hide units, let the model guess, score the guess.

    Masks are drawn from torch's own random state on the CPU, which the training loop sets anew for every step.

    Parameters
    ----------
    objective
        Its decoders are trained with the model.
    share
        Share of 32 px units hidden.
    sparse
        Encode visible units alone; hidden ones enter behind the encoder, in a block of attention before the decoders.
        False lets the encoder carry a learned token for each, as the paper does.
    """

    def __init__(self, objective: Objective, *, share: float = SHARE, sparse: bool = False) -> None:
        super().__init__()
        self.objective, self.share = objective, share
        self.completion = Completion(objective.shape) if sparse else None

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch and its named terms."""
        if self.objective.views is not None:
            light, cut = self.objective.config.light, self.objective.config.cut
            batch = {m: lit(apart(chips) if cut else twice(chips, m), m, light) for m, chips in batch.items()}
        drawn = mask_batch(batch, generator=torch.default_generator, share=self.share)
        masks = {m: mask.to(batch[m].pixels_BCHW.device, non_blocking=True) for m, mask in drawn.items()}
        if self.completion is None:
            features = model(batch, masks)
        else:
            visible = {m: units_of(~mask) for m, mask in drawn.items()}
            features = self.completion(model(batch, visible=visible), masks)
        terms = self.objective(features, batch, drawn)
        return terms.total, terms.values
