"""What the darkest pixels of a scene say of an additive offset: reflectance below zero, or a floor far above it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

LEAST_PIXELS = 4096
"""Of fewer valid pixels the darkest hundredth is no statistic (41 pixels)."""

DARKEST = 1.0
"""Per cent of the pixels that count as the dark end."""

IMPOSSIBLE = -0.05
"""No hundredth of a scene has less reflectance; over-corrected shadow and water stay within some -0.03."""

SHORTWAVE_FLOOR = (-0.02, 0.03)
"""Reflectance at 1.5 to 2.3 um of water and deep shadow."""

RED_FLOOR = (-0.02, 0.06)
"""Reflectance at 640 to 720 nm of water, shadow and green leaves, path radiance included."""

CIRRUS_FLOOR = (-0.01, 0.02)
"""Reflectance at 1375 nm under a sky free of cirrus: water vapour hides the ground."""

LEAVES_RISE = 0.25
"""From red to near infrared a closed green canopy rises by more; the same with any offset."""

LEAVES_RED = 0.08
"""Chlorophyll lets no closed canopy be brighter in red, path radiance included."""

DIM = (-0.03, 0.10)
"""Reflectance of any band over pixels that are dark in red and shortwave infrared."""


@dataclass(frozen=True)
class PixelVerdict:
    """What one band's pixels allow."""

    offset_present: bool | None
    """True: an offset is still to be taken off; False: none is left; None: both are possible."""
    reason: str
    """In words, with the statistic."""


def pixel_verdicts(
    samples: Mapping[str, np.ndarray],
    centres_nm: Mapping[str, float],
    steps_dn: Mapping[str, float],
    quantification: float = 10_000.0,
) -> dict[str, PixelVerdict]:
    """Test two hypotheses per band: DN = rho Q, and DN = rho Q + step.

    The second falls where a hundredth of the pixels would be below `IMPOSSIBLE`. The first falls where a hundredth of
    them lies at the step with nothing below, of one of these, known by differences, which are free of any offset:
    water and shadow, dark in red and shortwave infrared together and brighter in green than in the latter, as rock and
    soil are not; green leaves, far brighter in near infrared than in red and brighter in green than in red, whose
    chlorophyll keeps red dark; the cirrus band, which sees no ground. Bands that cannot tell follow the others where
    these are of one mind. Snow, desert and cloud alone allow both. A scene veiled throughout by thin cloud could
    deceive; a hundredth of clear pixels prevents that.

    Parameters
    ----------
    samples
        Band to (y, x) digital numbers on one coarse grid, NaN where nothing was measured.
    centres_nm
        Band to its central wavelength.
    steps_dn
        Band to the size of the offset in question, positive.
    quantification
        Digital numbers per unit of reflectance.
    """
    found: dict[str, PixelVerdict] = {}
    shifted = {b: (v - steps_dn[b]) / quantification for b, v in samples.items()}
    few = {b: int(np.isfinite(v).sum()) for b, v in samples.items()}
    enough = {b: v for b, v in shifted.items() if few[b] >= LEAST_PIXELS}
    dark = {b: float(np.nanpercentile(v, DARKEST)) for b, v in enough.items()}
    for band, low in dark.items():
        if low <= IMPOSSIBLE and _tells(centres_nm[band]):
            reason = f"with one, the darkest {DARKEST:g} % would have reflectance {low:.3f} or less"
            found[band] = PixelVerdict(False, reason)
    rest = {b: v for b, v in enough.items() if b not in found}
    found |= _at_the_step(rest, dark, centres_nm)
    states = {v.offset_present for v in found.values()}
    others = PixelVerdict(next(iter(states), None), f"as {', '.join(found)} show")
    for band in samples:
        if band not in found and len(states) == 1:
            found[band] = others
        elif band not in found:
            thin = f"only {few[band]} valid pixels" if few[band] < LEAST_PIXELS else ""
            found[band] = PixelVerdict(None, thin or _open(dark.get(band)))
    return {b: found[b] for b in samples}


def _tells(centre_nm: float) -> bool:
    """Whether dark pixels of a band mean anything: not where aerosol or water vapour is overcorrected (443, 945 nm)."""
    return centre_nm > 470 and not 930 < centre_nm < 960


def _open(low: float | None) -> str:
    if low is None:
        return "no pixels"
    return f"the darkest {DARKEST:g} % would have {low:.3f} with one: possible, and so it is without"


def _at_the_step(
    shifted: Mapping[str, np.ndarray], dark: Mapping[str, float], centres_nm: Mapping[str, float]
) -> dict[str, PixelVerdict]:
    """Bands whose dark end piles up at the step."""
    found: dict[str, PixelVerdict] = {}
    cirrus = [b for b in shifted if 1340 < centres_nm[b] < 1410]
    for band in cirrus:
        if CIRRUS_FLOOR[0] <= dark[band] <= CIRRUS_FLOOR[1]:
            reason = f"the darkest {DARKEST:g} % where water vapour hides the ground lie {dark[band]:.3f} above it"
            found[band] = PixelVerdict(True, reason)
    for cover, find in (("water and shadow", _dark_pixels), ("green leaves", _green_leaves)):
        pixels = find(shifted, dark, centres_nm)
        if pixels is None:
            continue
        share = 100 * pixels.sum() / pixels.size
        for band in (b for b in shifted if b not in found and _tells(centres_nm[b])):
            level = float(np.nanmedian(np.where(pixels, shifted[band], np.nan)))
            if DIM[0] <= level <= DIM[1]:
                reason = f"{cover} ({share:.1f} % of the pixels) lie at the offset, and nothing below"
                found[band] = PixelVerdict(True, reason)
    return found


def _between(low: float, high: float, bands: Iterable[str], centres_nm: Mapping[str, float]) -> list[str]:
    return [b for b in bands if low < centres_nm[b] < high]


def _green_leaves(
    shifted: Mapping[str, np.ndarray], dark: Mapping[str, float], centres_nm: Mapping[str, float]
) -> np.ndarray | None:
    """(y, x) bool: leaves, by differences, where their red lies at the floor; None where bands or such pixels lack."""
    green, red, near = (_between(*edges, shifted, centres_nm) for edges in ((540, 580), (640, 690), (770, 900)))
    if not (green and red and near) or dark[red[0]] < RED_FLOOR[0]:
        return None
    chosen = shifted[near[0]] - shifted[red[0]] >= LEAVES_RISE
    chosen &= shifted[green[0]] > shifted[red[0]]
    if 100 * chosen.sum() < DARKEST * np.isfinite(shifted[red[0]]).sum() or not chosen.any():
        return None
    return chosen if 0.0 <= float(np.median(shifted[red[0]][chosen])) <= LEAVES_RED else None


def _dark_pixels(
    shifted: Mapping[str, np.ndarray], dark: Mapping[str, float], centres_nm: Mapping[str, float]
) -> np.ndarray | None:
    """(y, x) bool: pixels at the floor of red and shortwave infrared; None where these bands or such pixels lack."""
    ranges = ((470, 600), (640, 720), (1500, 2300))
    green, red, shortwave = (_between(*edges, shifted, centres_nm) for edges in ranges)
    if not (green and red and shortwave) or any(dark[b] < SHORTWAVE_FLOOR[0] for b in (*red, *shortwave)):
        return None
    brightest = np.max([shifted[b] for b in shortwave], axis=0)
    chosen = np.max([shifted[b] for b in green], axis=0) > brightest
    for bands, (low, high) in ((red, RED_FLOOR), (shortwave, SHORTWAVE_FLOOR)):
        for band in bands:
            chosen &= (shifted[band] >= low) & (shifted[band] <= high)
    valid = np.isfinite(brightest).sum()
    return chosen if 100 * chosen.sum() >= DARKEST * valid and chosen.any() else None
