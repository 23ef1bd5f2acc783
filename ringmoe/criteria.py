"""What a block loses without some of its experts, and which of them it can best do without.

Shape legend: M modality, E expert of a router, C width.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal, NamedTuple

from torch import Tensor

from ringmoe.errors import PruneError
from ringmoe.tally import MOST_SETS, ExpertUsage
from ringmoe.usage import Usage

Criterion = Literal["usage", "norm", "error"]
"""How often an expert is chosen, as in the paper; what it adds; or what the layer's output loses without it."""

Dropped = Literal["survivor", "mean"]
"""A token whose expert is gone takes its best survivor with that one's own probability, or nothing, and what the
experts gone gave on average stands in the shared expert's bias; never both."""

Kind = Literal["specialized", "collaborative"]
"""Of routed experts."""

CRITERIA: tuple[Criterion, ...] = ("usage", "norm", "error")


class Router(NamedTuple):
    """One router of a profiled model."""

    block: int
    """Counted from the first stage."""
    kind: Kind
    """Of its experts."""
    row: int = 0
    """The modality it serves; 0 for that of the collaborative experts, which serves all."""

    def survivors(self, usage: Usage) -> tuple[int, ...]:
        """Ids it still has."""
        left = usage.config.survivors_of(self.block, len(usage.modalities))
        return left.collaborative if self.kind == "collaborative" else left.specialized[self.row]

    def used(self, usage: Usage) -> ExpertUsage:
        """What its kind did; PruneError where the block has none."""
        found: ExpertUsage | None = getattr(usage, self.kind)[self.block]
        if found is None:
            raise PruneError(
                f"Block {self.block} has no {self.kind} experts to choose from",
                item=f"a profile over {', '.join(usage.modalities)}",
                enough="a router with experts left",
                todo="leave this kind out",
            )
        return found


def lost(
    usage: Usage, router: Router, gone: tuple[int, ...], criterion: Criterion = "error", dropped: Dropped = "survivor"
) -> float:
    """What a layer loses when survivors of a router go.

    - usage: the share of tokens sent to them.
    - norm: that share times the mean of gate times output norm, over the root mean square of the layer's output.
    - error: the squared error of the layer's output over its squared norm, for each modality by itself and then by
      their shares of the tokens. With best survivors it is what the profile saw. With means m_e in the bias it is
      sum_e E|g_e y_e|^2 - |sum_e m_e|^2 where there is one modality; the bias is the same for all.

    Of more than six survivors, the errors of several that go are summed.
    """
    used, layer, share_M = router.used(usage), usage.layers[router.block], usage.share_M
    mine_M = share_M if router.kind == "collaborative" else share_M * _only(share_M, router.row)
    which = list(gone)
    if criterion == "usage":
        return float((mine_M @ used.usage_ME)[which].sum())
    if criterion == "norm":
        scale = float(share_M @ layer.energy_M) ** 0.5 or 1.0
        return float((mine_M @ (used.usage_ME * used.norm_ME))[which].sum()) / scale
    if dropped == "mean":
        return float(share_M @ _without_means(usage, router, which))
    if not used.sets_MA.shape[1]:
        return float((mine_M @ used.error_ME)[which].sum())
    bits = sum(1 << place for place, expert in enumerate(router.survivors(usage)) if expert not in gone)
    return float(mine_M @ used.sets_MA[:, bits])


def _without_means(usage: Usage, router: Router, gone: list[int]) -> Tensor:
    """E|o - b|^2 over tokens of the experts gone and |b|^2 over others, by modality, over the layer's squared norm."""
    used, layer = router.used(usage), usage.layers[router.block]
    mine_M = _only(layer.tokens_M, router.row) if router.kind == "specialized" else layer.tokens_M * 0 + 1
    mean_MC = used.mean_MEC[:, gone].sum(1) * mine_M[:, None]
    bias_C = layer.share_M @ mean_MC
    error_M = used.energy_ME[:, gone].sum(1) * mine_M - 2 * mean_MC @ bias_C + bias_C @ bias_C
    return error_M / layer.energy_M.where(layer.energy_M > 0, 1.0)


def left_bias(usage: Usage, router: Router, gone: tuple[int, ...]) -> Tensor:
    """What experts gone gave on average over all tokens of the profile, (C,), float64."""
    used, layer = router.used(usage), usage.layers[router.block]
    mine_M = layer.share_M * (_only(layer.tokens_M, router.row) if router.kind == "specialized" else 1)
    return mine_M @ used.mean_MEC[:, list(gone)].sum(1)


def to_keep(
    usage: Usage, router: Router, count: int, criterion: Criterion, dropped: Dropped = "survivor"
) -> tuple[int, ...]:
    """The survivors, so many, without whose company the least is lost; of equals, the first.

    Raises
    ------
    PruneError
        There is no such criterion, or not so many survivors.
    """
    ids = router.survivors(usage)
    if criterion not in CRITERIA:
        raise PruneError(
            f"There is no criterion {criterion}",
            item="which experts to keep",
            enough=", ".join(CRITERIA),
            todo="name one of them",
        )
    if not 0 <= count <= len(ids):
        raise PruneError(
            f"{count} experts cannot be kept",
            item=f"a router with {len(ids)} experts left",
            enough=f"a number from 0 to {len(ids)}, or a share from 0.0 to 1.0",
            todo="ask for fewer",
        )
    if criterion != "error" or len(ids) > MOST_SETS:
        ranked = sorted(ids, key=lambda e: (-lost(usage, router, (e,), criterion, dropped), e))
        return tuple(sorted(ranked[:count]))
    return min(
        combinations(ids, count),
        key=lambda kept: lost(usage, router, tuple(e for e in ids if e not in kept), criterion, dropped),
    )


def _only(like_M: Tensor, row: int) -> Tensor:
    one_M = like_M.new_zeros(len(like_M))
    one_M[row] = 1
    return one_M
