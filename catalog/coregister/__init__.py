"""Where one image lies on another, to a fraction of a pixel: measured on windows, confirmed by tie points held out."""

from catalog.coregister.estimate import estimate_shift
from catalog.coregister.shift import Method, Shift, Verdict

__all__ = ["Method", "Shift", "Verdict", "estimate_shift"]
