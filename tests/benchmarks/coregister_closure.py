"""Co-registered chips moved twice by known shifts: the difference of two answers against that of what was applied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from coregister_trials import REACH_PX, REALDATA
from scipy.ndimage import shift as spline_shift
from skimage.registration import phase_cross_correlation

from catalog.coregister import Method, estimate_shift
from catalog.matching import MODELS

WRONG_PX, WRONG_BETWEEN_PX = 0.5, 1.5
UPSAMPLE = 20


def chips(reference: str, moving: str) -> list[tuple[Path, Path]]:
    """Co-registered chips of one place: `S2/BEFORE` names Sentinel-2 before the flood."""
    first, second = (Path(f"Ombria{name[:2]}", "*", name[3:]) for name in (reference, moving))
    pairs = []
    for path in sorted(REALDATA.glob(str(Path("ombria") / first / "*.png"))):
        number = path.stem.split("_")[-1]
        found = list(REALDATA.glob(f"ombria/{second.parts[0]}/{path.parents[1].name}/{second.name}/*_{number}.png"))
        pairs += [(path, found[0])] if found else []
    return pairs


def chip(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(y, x) mean of the bands, and where it is not blank."""
    with rasterio.open(path) as source:
        image = source.read().astype(float).mean(0)
    return image, image > 0


@dataclass(frozen=True)
class Closure:
    """One pair measured twice, with two known shifts of the second image."""

    px: float
    """Distance between the difference of the answers and that of the shifts applied."""
    accepted: tuple[bool, bool]
    """Our verdicts."""
    delivered_px: np.ndarray
    """(2 answers, 2) rows and columns from the alignment that the pair was delivered with."""
    peer_px: float
    """Closure of scikit-image."""
    stranger: bool
    """Whether a shift was accepted between the reference and another place."""


def closure(rng: np.random.Generator, pair: tuple[Path, Path], other: Path, method: Method) -> Closure:
    """Move the second image twice by up to 5 px, measure both times, and once against another place."""
    (still, still_seen), (image, seen) = chip(pair[0]), chip(pair[1])
    angles, lengths = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0, REACH_PX, 2)
    offsets = lengths[:, None] * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    shifts, peer = [], []
    for offset in offsets:
        usable = spline_shift(seen.astype(float), offset, order=1) > 0.99
        look = spline_shift(image, offset, order=3, mode="nearest")
        shifts.append(estimate_shift(still, look, still_seen, usable, 1.0, method=method, models=MODELS))
        peer.append(phase_cross_correlation(still, look, upsample_factor=UPSAMPLE)[0])
    found = np.array([[s.dy_m, -s.dx_m] for s in shifts])
    other_place, other_seen = chip(other)
    stranger = estimate_shift(still, other_place, still_seen, other_seen, 1.0, method=method, models=MODELS)
    return Closure(
        float(np.hypot(*(found[0] - found[1] - offsets[0] + offsets[1]))),
        (shifts[0].verdict == "accepted", shifts[1].verdict == "accepted"),
        found - offsets,
        float(np.hypot(*(peer[1] - peer[0] - offsets[0] + offsets[1]))),
        stranger.verdict == "accepted",
    )


def closed(rng: np.random.Generator, name: str, sides: tuple[str, str], count: int, method: Method) -> dict[str, Any]:
    """Figures, under a name, of pairs of chips by closure: radar to optics, or one date to another."""
    pairs = chips(*sides)
    if not pairs:
        return {f"{name}_pairs": 0}
    wrong_px = WRONG_BETWEEN_PX if method == "structure" else WRONG_PX
    chosen = [int(k) for k in np.sort(rng.permutation(len(pairs))[:count])]
    others = [pairs[(k + len(pairs) // 2) % len(pairs)][1] for k in chosen]
    rows = [closure(rng, pairs[k], other, method) for k, other in zip(chosen, others, strict=True)]
    taken = [r for r in rows if all(r.accepted)]
    peer = np.array([r.peer_px for r in rows])
    figures: dict[str, Any] = {
        f"{name}_pairs": len(rows),
        f"{name}_accept_share": len(taken) / len(rows),
        f"{name}_single_accept_share": float(np.mean([r.accepted for r in rows])),
        f"{name}_unrelated_accept_share": float(np.mean([r.stranger for r in rows])),
        f"skimage_{name}_median_px": float(np.median(peer)),
        f"skimage_{name}_wrong_accept_share": float(np.mean(peer > wrong_px)),
    }
    if taken:
        errors = np.array([r.px for r in taken])
        from_delivered = np.array([r.delivered_px for r in taken])
        away = np.hypot(*from_delivered.reshape(-1, 2).T)
        figures |= {
            f"{name}_median_px": float(np.median(errors)),
            f"{name}_p95_px": float(np.quantile(errors, 0.95)),
            f"{name}_wrong_accept_share": float(np.mean(errors > wrong_px)),
            f"{name}_from_delivered_median_px": float(np.median(away)),
            f"{name}_from_delivered_rows_columns_px": [
                round(float(v), 3) for v in np.median(from_delivered, axis=(0, 1))
            ],
            f"{name}_from_delivered_beyond_{wrong_px}_share": float(np.mean(away > wrong_px)),
        }
    return figures
