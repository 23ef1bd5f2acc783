"""RingMoE: chips of any modalities -> tokens -> feature pyramid and the routing of every block.

Shape legend: B image, C channel or width, H row, W column, T token of the whole mixed batch, M modality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.attention import WindowAttention
from ringmoe.contract import DataContract
from ringmoe.embed import PatchEmbed, Tokens, check_chips
from ringmoe.errors import ConfigError, InputError
from ringmoe.modality import Batch, Modality, ordered
from ringmoe.moe import RingMoELayer, Routing, Survivors, TokenGroups
from ringmoe.spectral import SpectralEmbed, description
from ringmoe.visible import Places, attend, cut_out, joined, whole_maps

STRIDE = 32
"""Pixels to a token of the last stage; image sides are multiples of it, and it is what is masked at once."""


@dataclass(frozen=True)
class RingMoEConfig:
    """The shape of a model; the modalities and channels stand in the data contract."""

    dim: int
    """Width of the first stage; it doubles from stage to stage."""
    depths: tuple[int, ...]
    """Blocks of each of the four stages."""
    heads: tuple[int, ...]
    """Attention heads of each stage."""
    window: int
    """Side of an attention window in tokens; clipped where the map is smaller."""
    pretrain_windows: tuple[int, ...]
    """Side that each stage's position bias is normalised by: its clipped window at the size of pre-training."""
    mlp_ratio: int = 4
    """Hidden width of an expert over the width of its block."""
    patch: int = 4
    """Side of a patch in pixels."""
    specialized: int = 4
    """Modal-specialized experts per modality that a router chooses from, pruned ones included."""
    collaborative: int = 4
    """Collaborative experts, pruned ones included."""
    shared: int = 1
    """Shared experts."""
    survivors: tuple[Survivors, ...] | None = None
    """What pruning left, block by block; None where nothing was pruned."""
    post_norm_init: float = 0.0
    """Initial weight of the norm that closes each residual branch; 0 as Swin V2 publishes it."""
    embedding: Literal["fixed", "spectral"] = "fixed"
    """fixed, the paper's: a convolution per modality and list of bands; spectral: one for any bands described."""

    def __post_init__(self) -> None:
        stages = {len(self.depths), len(self.heads), len(self.pretrain_windows)}
        wrong = [
            text
            for bad, text in (
                (stages != {4}, "depths, heads and pretrain_windows must have four entries"),
                (self.patch * 8 != STRIDE, f"patch must be {STRIDE // 8}, so that stage 4 has stride {STRIDE}"),
                (any(self.dim * 2**i % h for i, h in enumerate(self.heads)), "heads must divide the stage's width"),
                (self.survivors is not None and len(self.survivors) != sum(self.depths), "survivors are one per block"),
                (self.embedding not in ("fixed", "spectral"), "embedding is fixed or spectral"),
                (min(self.specialized, self.collaborative, self.shared) < 0, "expert counts cannot be negative"),
            )
            if bad
        ]
        if wrong:
            raise ConfigError(
                "No model has this configuration", item=str(self), enough="; ".join(wrong), todo="see presets"
            )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> RingMoEConfig:
        """The configuration that `asdict` wrote, after a way through JSON."""
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in row.items()}
        if fields.get("survivors") is not None:
            fields["survivors"] = tuple(
                Survivors(
                    tuple(map(tuple, block["specialized"])),
                    tuple(block["collaborative"]),
                    tuple(map(tuple, block.get("silent_specialized", ()))),
                    tuple(block.get("silent_collaborative", ())),
                )
                for block in row["survivors"]
            )
        return cls(**fields)

    def survivors_of(self, block: int, modalities: int) -> Survivors:
        """The routed experts of a block, for a model of that many modalities."""
        if self.survivors is not None:
            return self.survivors[block]
        each = tuple(range(self.specialized))
        return Survivors((each,) * modalities, tuple(range(self.collaborative)))


@dataclass(frozen=True)
class Features:
    """What the model makes of a batch."""

    pyramids: Mapping[Modality, tuple[Tensor, ...]]
    """Four maps (B, C, H, W) per modality at strides 4, 8, 16 and 32, widths C, 2C, 4C and 8C, layer-normalised."""
    routing: list[Routing]
    """One per block, over the tokens of the whole batch."""
    modalities: tuple[Modality, ...]
    """The model's modalities, in the order that routing counts them."""


class Span(NamedTuple):
    """Where the tokens of one modality lie in a mixed batch."""

    modality: Modality
    batch: int
    rows: int
    cols: int

    @property
    def tokens(self) -> int:
        """How many they are."""
        return self.batch * self.rows * self.cols


class Block(nn.Module):
    """Swin V2 block whose feed-forward part is a mixture: x + norm(attention(x)), then x + norm(experts(x))."""

    def __init__(self, config: RingMoEConfig, stage: int, index: int, block: int, modalities: int) -> None:
        super().__init__()
        dim = config.dim * 2**stage
        self.attention = WindowAttention(
            dim, config.heads[stage], config.window, config.pretrain_windows[stage], shifted=index % 2 == 1
        )
        self.norm1 = nn.LayerNorm(dim)
        self.experts = RingMoELayer(
            dim,
            dim * config.mlp_ratio,
            survivors=config.survivors_of(block, modalities),
            specialized=config.specialized,
            collaborative=config.collaborative,
            shared=config.shared,
        )
        self.norm2 = nn.LayerNorm(dim)
        nn.init.constant_(self.norm1.weight, config.post_norm_init)
        nn.init.constant_(self.norm2.weight, config.post_norm_init)

    def forward(
        self, x_TC: Tensor, spans: tuple[Span, ...], groups: TokenGroups, places: tuple[Places, ...] = ()
    ) -> tuple[Tensor, Routing]:
        """Tokens in, tokens out; attention sees one image, experts the whole batch; spans with `places` are units."""
        if places:
            parts = x_TC.split([len(p.index_X) for p in places])
            attended = [attend(self.attention, x_XC, p) for x_XC, p in zip(parts, places, strict=True)]
        else:
            attended = [self.attention(x_BHWC).flatten(0, 2) for x_BHWC in _maps(x_TC, spans)]
        x_TC = x_TC + self.norm1(attended[0] if len(attended) == 1 else torch.cat(attended))
        y_TC, routing = self.experts(x_TC, groups)
        return x_TC + self.norm2(y_TC), routing


class Merge(nn.Module):
    """Patch merging of Swin V2: four neighbours become one token of twice the width, then a norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x_TC: Tensor, spans: tuple[Span, ...]) -> Tensor:
        """A quarter of the tokens, twice as wide."""
        merged = []
        for x_BHWC in _maps(x_TC, spans):
            batch, rows, cols, dim = x_BHWC.shape
            x = x_BHWC.view(batch, rows // 2, 2, cols // 2, 2, dim).permute(0, 1, 3, 4, 2, 5)
            merged.append(x.reshape(-1, 4 * dim))
        return self.norm(self.reduction(merged[0] if len(merged) == 1 else torch.cat(merged)))


class RingMoE(nn.Module):
    """One encoder for all modalities of its contract.

    Parameters
    ----------
    config
        The shape of the model.
    contract
        Modalities, channels and normalisation.
    """

    def __init__(self, config: RingMoEConfig, contract: DataContract) -> None:
        super().__init__()
        self.config, self.contract = config, contract
        self.modalities = ordered(tuple(contract.inputs))
        if not self.modalities:
            raise ConfigError(
                "A model needs a modality", enough="a contract of one input", todo="name a cube to learn from"
            )
        self.embed = _embeddings(config, contract)
        stages, merges, block = [], [], 0
        for stage, depth in enumerate(config.depths):
            merges.append(Merge(config.dim * 2 ** (stage - 1)) if stage else nn.Identity())
            stages.append(nn.ModuleList(Block(config, stage, i, block + i, len(self.modalities)) for i in range(depth)))
            block += depth
        self.merges, self.stages = nn.ModuleList(merges), nn.ModuleList(stages)
        self.norm = nn.LayerNorm(config.dim * 8)
        self.apply(init_linear)

    @classmethod
    def from_tensors(cls, config: RingMoEConfig, contract: DataContract, tensors: Mapping[str, Tensor]) -> RingMoE:
        """A model, in evaluation mode, made of exactly the tensors given, which it takes over without a copy."""
        with torch.device("meta"):
            model = cls(config, contract)
        model.load_state_dict(tensors, assign=True)
        device = model.norm.weight.device
        for index, block in enumerate(model.blocks()):
            block.experts.keep(config.survivors_of(index, len(model.modalities)), device)
        return model.requires_grad_(True).eval()

    def embedding(self, modality: Modality) -> PatchEmbed | SpectralEmbed:
        """The embedding that serves a modality; InputError when the model has not learned it."""
        if modality not in self.modalities:
            raise InputError(
                f"The model has not learned the modality {modality}",
                item="batch",
                enough=f"chips of {', '.join(self.modalities)}",
                todo="choose another checkpoint, or leave the modality out",
            )
        key = modality.value if self.config.embedding == "fixed" else self.config.embedding
        return self.embed[key]  # type: ignore[return-value]

    def blocks(self) -> list[Block]:
        """All blocks, first to last."""
        return [block for stage in self.stages for block in stage]  # type: ignore[attr-defined]

    def forward(
        self,
        batch: Batch,
        masked: Mapping[Modality, Tensor] | None = None,
        *,
        visible: Mapping[Modality, Tensor] | None = None,
    ) -> Features:
        """Features of a mixed batch.

        Parameters
        ----------
        batch
            Chips by modality; number and size may differ between modalities, sides are multiples of 32 px.
        masked
            bool (B, H/32, W/32) by modality, True where the model must guess; a modality left out is seen whole.
        visible
            Instead of masks: the units of B x H/32 x W/32 that are computed at all, by modality, long, ascending, on
            the CPU where nothing is to wait; a modality left out is seen whole. Features of the others are 0.

        Returns
        -------
        Features
            Pyramids and routing. Invalid pixels never spread: every feature is finite.
        """
        x_TC, spans, counted, units = self._embed(batch, masked or {}, visible)
        levels: list[tuple[Tensor, tuple[Span, ...]]] = []
        routing: list[Routing] = []
        for stage, blocks in enumerate(self.stages):
            if stage:
                x_TC = self.merges[stage](x_TC, spans)
                spans = tuple(s._replace(rows=s.rows // 2, cols=s.cols // 2) for s in spans)
                counted = [F.max_pool2d(c[:, None].float(), 2)[:, 0] > 0 for c in counted]
            groups = self._groups(spans, counted)
            places = joined([unit.finer(8 >> stage) for unit in units])
            for block in blocks:  # type: ignore[attr-defined]
                x_TC, routes = block(x_TC, spans, groups, places)
                routing.append(routes)
            normed = self.norm(x_TC) if stage == 3 else F.layer_norm(x_TC, x_TC.shape[-1:])
            levels.append(_whole(normed, spans, units, places) if places else (normed, spans))
        return Features(_pyramids(levels), routing, self.modalities)

    def _embed(
        self, batch: Batch, masked: Mapping[Modality, Tensor], visible: Mapping[Modality, Tensor] | None
    ) -> tuple[Tensor, tuple[Span, ...], list[Tensor], list[Places]]:
        """Tokens and where they lie; of visible units, each a span's image, also where these stand."""
        if not batch:
            raise InputError(
                "The batch is empty", enough="chips of one modality", todo="check what the samples are drawn from"
            )
        found: dict[Modality, Tokens] = {}
        units: dict[Modality, Places] = {}
        for m, chips in batch.items():
            embed, entry = self.embedding(m), self.contract.input_of(m, chips.bands)
            if visible is not None:
                check_chips(chips, None, entry, STRIDE)
                units[m] = Places.of(chips, visible.get(m))
                chips = cut_out(chips, units[m])
            found[m] = embed(chips, entry, masked.get(m), STRIDE)
        index = {m: i for i, m in enumerate(self.modalities)}
        names = sorted(found, key=lambda m: (*batch[m].pixels_BCHW.shape[-2:], index[m]))
        spans = tuple(Span(m, *found[m].tokens_BHWC.shape[:3]) for m in names)
        x_TC = torch.cat([found[m].tokens_BHWC.flatten(0, 2) for m in names])
        return x_TC, spans, [found[m].counted_BHW for m in names], [units[m] for m in names if m in units]

    def _groups(self, spans: tuple[Span, ...], counted: list[Tensor]) -> TokenGroups:
        index = {m: i for i, m in enumerate(self.modalities)}
        device = counted[0].device
        modality_T = torch.cat([torch.full((s.tokens,), index[s.modality], device=device) for s in spans])
        counted_T = torch.cat([c.flatten() for c in counted])
        rows_M1 = torch.arange(len(self.modalities), device=device)[:, None]
        runs = tuple((index[s.modality], s.tokens) for s in spans)
        return TokenGroups(modality_T, ((modality_T == rows_M1) & counted_T).float(), runs)


def _embeddings(config: RingMoEConfig, contract: DataContract) -> nn.ModuleDict:
    """One fixed embedding per modality, or one spectral for all; ConfigError where the contract asks for the other."""
    if config.embedding == "spectral":
        for entry in (*contract.inputs.values(), *contract.also):
            for band in entry.bands:
                description(band)
        return nn.ModuleDict({"spectral": SpectralEmbed(config.dim, config.patch)})
    if contract.described:
        raise ConfigError(
            "A fixed embedding cannot take sensors it has never seen",
            item="a contract of described bands",
            enough="the spectral embedding, or a contract of one sensor a modality",
            todo="choose embedding='spectral'",
        )
    inputs = {m: contract.inputs[m] for m in ordered(contract.inputs)}
    return nn.ModuleDict({m.value: PatchEmbed(len(c.bands), config.dim, config.patch) for m, c in inputs.items()})


def _maps(x_TC: Tensor, spans: tuple[Span, ...]) -> list[Tensor]:
    """The tokens as maps (B, H, W, C), one for each run of modalities of equal size; views, no copy."""
    maps, start = [], 0
    for (rows, cols), run in groupby(spans, key=lambda s: (s.rows, s.cols)):
        batch = sum(s.batch for s in run)
        maps.append(x_TC[start : start + batch * rows * cols].view(batch, rows, cols, -1))
        start += batch * rows * cols
    return maps


def _whole(
    x_TC: Tensor, spans: tuple[Span, ...], units: list[Places], places: tuple[Places, ...]
) -> tuple[Tensor, tuple[Span, ...]]:
    """Tokens of visible units as those of whole images, and where they lie."""
    pairs = zip(spans, units, strict=True)
    wide = tuple(Span(s.modality, u.images, u.rows * s.rows, u.cols * s.cols) for s, u in pairs)
    return whole_maps(x_TC, places), wide


def _pyramids(levels: list[tuple[Tensor, tuple[Span, ...]]]) -> dict[Modality, tuple[Tensor, ...]]:
    found: dict[Modality, list[Tensor]] = {}
    for x_TC, spans in levels:
        for span, part_TC in zip(spans, x_TC.split([s.tokens for s in spans]), strict=True):
            map_BHWC = part_TC.view(span.batch, span.rows, span.cols, -1)
            found.setdefault(span.modality, []).append(map_BHWC.permute(0, 3, 1, 2))
    return {m: tuple(maps) for m, maps in found.items()}


def init_linear(module: nn.Module) -> None:
    """Start of a linear layer, as published."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
