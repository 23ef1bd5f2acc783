"""A pre-training request as the parts of a run: the model's shape, which chips, which terms of the loss."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

from flows.refs import PretrainRequest
from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.data import PAPER_MIX, Crop, Reading
from ringmoe.errors import ConfigError, DataError
from ringmoe.masking import SHARE
from ringmoe.modality import Modality
from ringmoe.objectives import MaskedModelling, Objective, ObjectiveConfig
from ringmoe.parallel import over_ranks
from ringmoe.targets import TermWeights


def preset(request: PretrainRequest) -> RingMoEConfig:
    """The configuration a request names, for its chips.

    Raises
    ------
    ConfigError
        When there is no preset of that name.
    """
    known = {
        "nano": presets.nano,
        "tiny": presets.tiny,
        "small": presets.small,
        "base": presets.base,
        "large": presets.large,
        "giant": presets.giant,
    }
    if request.preset not in known:
        raise ConfigError(
            f"there is no preset {request.preset}",
            item="--preset",
            enough=f"one of {', '.join(known)}",
            todo="choose one of these",
        )
    return known[request.preset](request.chip_px)


def mix_of(request: PretrainRequest, present: Collection[Modality]) -> Mapping[Modality, float]:
    """Share of each modality among the chips: the paper's over those there are, or the request's.

    Raises
    ------
    ConfigError
        When the request names what is no modality.
    DataError
        When the request wants chips of a modality that no cube is of.
    """
    if request.mix is None:
        return PAPER_MIX
    strange = sorted(set(request.mix) - {m.value for m in Modality})
    if strange:
        raise ConfigError(
            f"there is no modality {strange[0]}",
            item="--mix",
            enough=f"shares of {', '.join(m.value for m in Modality)}",
            todo="write, for example, --mix opt=70,ms=30",
        )
    mix = {Modality(name): share for name, share in request.mix.items()}
    missing = [m.value for m, share in mix.items() if share > 0 and m not in present]
    if missing:
        raise DataError(
            f"a modality with no sample: {', '.join(missing)}",
            item=f"cubes of {', '.join(sorted(m.value for m in present)) or 'no modality'} within {request.area.name}",
            enough="one cube of each modality of the mix",
            todo="ingest scenes of such a sensor over the area, or leave the modality out of the mix (--mix)",
        )
    return mix


def crop_of(request: PretrainRequest) -> Crop:
    """How chips are cut and laid; which draws physics allows each modality, `ringmoe.vary` knows."""
    reading = Reading(most_lost=request.most_lost)
    twins = objective_config(request).views > 0
    return Crop(chip_px=request.chip_px, turns=request.turns, scale=request.scale, twins=twins, reading=reading)


def objective_config(request: PretrainRequest) -> ObjectiveConfig:
    """The weight of every term, 0 for those left out.

    Raises
    ------
    ConfigError
        When there is no such term, or nothing is left to learn.
    """
    guessed = {f.name for f in fields(TermWeights)}
    beside = {f.name for f in fields(ObjectiveConfig)} - {"terms", "cut", "light"}
    strange = sorted(set(request.without) - guessed - beside)
    if strange:
        raise ConfigError(
            f"the loss has no term {strange[0]}",
            item="--without",
            enough=f"one of {', '.join(sorted(guessed | beside))}",
            todo="choose one of these",
        )
    terms = replace(TermWeights(), **dict.fromkeys(guessed & set(request.without), 0.0))
    off: dict[str, Any] = dict.fromkeys(beside & set(request.without), 0.0)
    config = replace(ObjectiveConfig(views=request.views, cut=True), **off)
    if max(vars(terms).values()) == 0 and config.views == 0 and config.texture == 0:
        raise ConfigError(
            "no term is left to learn from",
            item=f"--without {' '.join(request.without)}",
            enough="one term of what is guessed, or of views",
            todo="leave fewer terms out",
        )
    return replace(config, terms=terms)


def objective_of(model: RingMoE, request: PretrainRequest, *, ranks: int = 1) -> MaskedModelling:
    """What is minimised, with decoders for a model; of all ranks of the run, or of this process alone."""
    over = over_ranks() if ranks > 1 else {}
    return MaskedModelling(Objective(model, objective_config(request), **over), sparse=request.sparse)


def flops_per_image(request: PretrainRequest, model: RingMoE) -> float:
    """Of a step, forward and backward, for one chip; what a sparse encoder skips does not count."""
    forward = presets.describe(preset(request), model.contract, request.chip_px).flops
    return 3 * forward * (1 - SHARE if request.sparse else 1)
