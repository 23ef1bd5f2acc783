"""What is known of how far one scene lies from another: numbers, verdict and reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from catalog.displacement import Displacement, Model, Move

Method = Literal["auto", "gradient", "structure"]
Verdict = Literal["accepted", "rejected", "not estimable"]


@dataclass(frozen=True)
class Shift:
    """How far one scene lies from another, and what says so."""

    dx_m: float
    """To add to the moving scene's x (east positive) so that it lies on the reference; 0 unless accepted."""
    dy_m: float
    """To add to the moving scene's y (north positive) so that it lies on the reference; 0 unless accepted."""
    ce90_px: float
    """Nine in ten of the tie points held out lie within this of the reference after the shift; NaN unless measured."""
    points: int
    """Tie points used, fitted and held out."""
    method: str
    """gradient (one modality) or structure (between modalities)."""
    verdict: Verdict
    """Whether the tie points held out confirm the shift."""
    before_px: float
    """Median distance of the tie points held out before the shift; NaN unless measured."""
    after_px: float
    """The same after the shift."""
    reason: str = ""
    """Why a shift was not accepted."""
    rmse_before_px: float = float("nan")
    """Root mean square distance of the tie points held out before anything is moved; NaN unless measured."""
    rmse_after_px: float = float("nan")
    """The same after the model that was chosen; never above rmse_before_px where accepted."""
    model: Model = "shift"
    """shift, affine or field: the one that the tie points held out bear out, of those asked for."""
    displacement: Displacement | None = None
    """By place, from the centre of the grid, where the model is more than a shift; its value at the centre may differ
    from dx_m, dy_m, which stay the best single shift."""

    def move(self, centre_m: tuple[float, float] = (0.0, 0.0)) -> Move:
        """What to move the scene by on a map, where the centre of the grid lies at `centre_m`."""
        if self.displacement is None:
            return self.dx_m, self.dy_m
        return replace(self.displacement, centre_m=centre_m)
