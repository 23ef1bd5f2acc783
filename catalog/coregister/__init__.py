"""Where one image lies on another, to a fraction of a pixel: measured on windows, confirmed by tie points held out."""

from catalog.coregister.deformation import Deformation, Model
from catalog.coregister.estimate import estimate_shift
from catalog.coregister.shift import Method, Shift, Verdict
from catalog.coregister.warp import moved_grid, warp

__all__ = ["Deformation", "Method", "Model", "Shift", "Verdict", "estimate_shift", "moved_grid", "warp"]
