"""Known shifts under clouds, cloud edges and noise; radar to optics, and date to date, by closure; scikit-image."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from scipy.ndimage import fourier_shift, gaussian_filter
from scipy.ndimage import shift as spline_shift
from scipy.spatial import cKDTree
from skimage.registration import phase_cross_correlation

from catalog.coregister import Method, Shift, estimate_shift

REALDATA = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).parents[3] / "shared" / "realdata"))
SIZE, MARGIN, REACH_PX = 256, 32, 5.0
WRONG_PX, WRONG_BETWEEN_PX = 0.5, 1.5
HARDEST = 0.6
UPSAMPLE = 20


@dataclass(frozen=True)
class Trial:
    """Two looks at one ground, of which the second is displaced by a known offset."""

    reference: np.ndarray
    """(y, x) reflectance with clouds and noise."""
    moving: np.ndarray
    """The same ground moved, with its own clouds, noise, gain and offset."""
    usable: tuple[np.ndarray, np.ndarray]
    """(y, x) masks, which miss the thin rims of the clouds."""
    offset: np.ndarray
    """Rows and columns by which the content of `moving` is displaced."""
    masked: float
    """Share of pixels masked in at least one of the two."""


def grounds(rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """(y, x) images at least SIZE + 2 MARGIN wide: real Sentinel-2 bands, else drawn fields."""
    found: dict[str, list[np.ndarray]] = {}
    clip = REALDATA / "s2_l1c_dsen2" / "S2A_MSIL1C_20170527_T33UUB.mat"
    if clip.exists() and importlib.util.find_spec("h5py"):
        import h5py

        with h5py.File(clip) as file:
            found["s2_l1c"] = [band.astype(float) for band in file["im10"][()]]
    for name, path, bands in (
        ("s2_l2a", "ftw_s2_bitemporal/inference-img.tif", (1, 2, 3, 4, 5, 6, 7, 8)),
        ("s2_chip", "sen1floods11_spain/S2/Spain_7370579_S2Hand.tif", (2, 3, 4, 8)),
    ):
        if (REALDATA / path).exists():
            with rasterio.open(REALDATA / path) as source:
                found[name] = [np.nan_to_num(source.read(b).astype(float)) for b in bands]
    return found or {"drawn": [fields(rng) for _ in range(8)]}


def fields(rng: np.random.Generator) -> np.ndarray:
    """Polygons of constant reflectance, about 18 pixels wide, drawn at half a pixel and averaged."""
    side = SIZE + 4 * MARGIN
    seeds = rng.uniform(0, side, ((side // 18) ** 2, 2))
    places = np.stack(np.mgrid[: 2 * side, : 2 * side], axis=-1) / 2
    owner = cKDTree(seeds).query(places.reshape(-1, 2))[1]
    return gaussian_filter(rng.uniform(0.03, 0.4, len(seeds))[owner].reshape(side, 2, side, 2).mean((1, 3)), 0.6)


def moved(image: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The inner part of an image whose content is moved by (rows, columns), by the Fourier shift theorem."""
    ramp = np.clip(np.minimum(np.arange(image.shape[0]), np.arange(image.shape[0])[::-1]) / (MARGIN / 2), 0, 1)
    taper = np.outer(ramp, ramp)
    level = image.mean()
    return (
        np.fft.ifft2(fourier_shift(np.fft.fft2((image - level) * taper), offset)).real[MARGIN:-MARGIN, MARGIN:-MARGIN]
        + level
    )


def clouded(rng: np.random.Generator, image: np.ndarray, share: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The image under clouds of a masked share, whose thin rims no mask has, with noise; and the mask's usable part."""
    low, high = np.quantile(image, [0.02, 0.98])
    out = image + noise * image.std() * rng.standard_normal(image.shape)
    if not share:
        return out, np.ones(image.shape, bool)
    blobs = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(8, 24))
    blobs = (blobs - np.quantile(blobs, 1 - share)) / blobs.std()
    opacity = np.clip(0.15 + 2.0 * blobs, 0, 1)
    top = high + rng.uniform(0.5, 3.0) * (high - low) * (1 + 0.2 * gaussian_filter(rng.standard_normal(image.shape), 6))
    return out * (1 - opacity) + top * opacity, blobs <= 0


def trial(rng: np.random.Generator, ground: np.ndarray) -> Trial:
    """A pair with a shift of 0 to 5 px, up to 60 % masked in each, noise up to half of the contrast.

    In half of the trials on ground that is large enough the pixels are means of 2 x 2 of the moved ground: sampled
    anew, as two overpasses are, instead of interpolated. In a third both images share a frame without data.
    """
    coarse = 2 if min(ground.shape) >= 2 * (SIZE + MARGIN) and rng.uniform() < 0.5 else 1
    side = min(coarse * SIZE + 2 * MARGIN, min(ground.shape))
    row, column = (int(rng.integers(0, n - side + 1)) for n in ground.shape)
    patch = ground[row : row + side, column : column + side]
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, REACH_PX)
    offset = length * np.array([np.sin(angle), np.cos(angle)])
    frame = np.zeros((SIZE, SIZE), bool)
    if rng.uniform() < 1 / 3:
        tilt, across = rng.uniform(0, 2 * np.pi), np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
        frame = across[0] * np.sin(tilt) + across[1] * np.cos(tilt) > rng.uniform(0.2, 0.5)
    looks, usable = [], []
    for content in (coarsened(moved(patch, np.zeros(2)), coarse), coarsened(moved(patch, coarse * offset), coarse)):
        share = float(rng.uniform(0, HARDEST - frame.mean())) if rng.uniform() < 0.8 else 0.0
        image, clear = clouded(rng, rng.uniform(0.7, 1.3) * content, share, float(rng.uniform(0, 0.5)))
        looks.append(np.where(frame, 0.0, image))
        usable.append(clear & ~frame)
    return Trial(looks[0], looks[1], (usable[0], usable[1]), offset, float(1 - (usable[0] & usable[1]).mean()))


def coarsened(image: np.ndarray, factor: int) -> np.ndarray:
    """The middle SIZE x SIZE pixels of the means of factor x factor."""
    rows, columns = (n // factor for n in image.shape)
    means = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor).mean((1, 3))
    top, left = (rows - SIZE) // 2, (columns - SIZE) // 2
    return means[top : top + SIZE, left : left + SIZE]


def error_px(shift: Shift, offset: np.ndarray) -> float:
    """Distance of an answer in pixels (pixel_m 1) from the one that undoes the offset."""
    return float(np.hypot(shift.dx_m + offset[1], shift.dy_m - offset[0]))


def peers(case: Trial) -> tuple[float, float, bool, float, float]:
    """Errors of scikit-image without and with masks, whether the masked answer is whole pixels, and their seconds."""
    filled = [np.where(u, i, i[u].mean()) for i, u in zip((case.reference, case.moving), case.usable, strict=True)]
    start = time.process_time()
    plain, _, _ = phase_cross_correlation(*filled, upsample_factor=UPSAMPLE)
    middle = time.process_time()
    masked, _, _ = phase_cross_correlation(
        *filled, upsample_factor=UPSAMPLE, reference_mask=case.usable[0], moving_mask=case.usable[1]
    )
    end = time.process_time()
    errors = [float(np.hypot(*(np.asarray(found) + case.offset))) for found in (plain, masked)]
    return errors[0], errors[1], bool(np.all(np.asarray(masked) % 1 == 0)), middle - start, end - middle


def optical(rng: np.random.Generator, trials: int) -> dict[str, Any]:
    """Known shifts: ours and scikit-image's on the same pairs."""
    sources = grounds(rng)
    names = sorted(sources)
    rows: list[dict[str, Any]] = []
    for k in range(trials):
        name = names[k % len(names)]
        case = trial(rng, sources[name][int(rng.integers(len(sources[name])))])
        start = time.process_time()
        shift = estimate_shift(case.reference, case.moving, *case.usable, 1.0)
        seconds = time.process_time() - start
        plain, masked, whole, plain_s, masked_s = peers(case)
        rows.append(
            {
                "ground": name,
                "accepted": shift.verdict == "accepted",
                "verdict": shift.verdict,
                "error": error_px(shift, case.offset),
                "before": float(np.hypot(*case.offset)),
                "masked": case.masked,
                "rmse": (shift.rmse_before_px, shift.rmse_after_px),
                "seconds": seconds,
                "plain": plain,
                "skmasked": masked,
                "whole": whole,
                "times": (plain_s, masked_s),
            }
        )
    return optical_figures(rows)


def optical_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and shares of the trials."""
    taken = [r for r in rows if r["accepted"]]
    errors = np.array([r["error"] for r in taken])
    mild = np.array([r["masked"] <= HARDEST for r in taken])
    megapixels = SIZE**2 / 1e6
    figures: dict[str, Any] = {
        "trials": len(rows),
        "grounds": sorted({r["ground"] for r in rows}),
        "accept_share": len(taken) / len(rows),
        "median_px": float(np.median(errors)),
        "p95_px": float(np.quantile(errors, 0.95)),
        "wrong_accept_share": float(np.mean(errors > WRONG_PX)),
        "p95_px_joint_mask_to_60": float(np.quantile(errors[mild], 0.95)),
        "masked_share_median": float(np.median([r["masked"] for r in rows])),
        "never_worse": bool(all(r["rmse"][1] <= r["rmse"][0] for r in taken)),
        "truth_worse_share": float(np.mean([r["error"] > max(r["before"], 0.1) for r in taken])),
        "seconds_per_megapixel": float(np.median([r["seconds"] for r in rows])) / megapixels,
    }
    for peer, key, at in (("skimage", "plain", 0), ("skimage_masked", "skmasked", 1)):
        distances = np.array([r[key] for r in rows])
        figures |= {
            f"{peer}_median_px": float(np.median(distances)),
            f"{peer}_p95_px": float(np.quantile(distances, 0.95)),
            f"{peer}_wrong_accept_share": float(np.mean(distances > WRONG_PX)),
            f"{peer}_seconds_per_megapixel": float(np.median([r["times"][at] for r in rows])) / megapixels,
        }
    figures["skimage_masked_whole_pixels_share"] = float(np.mean([r["whole"] for r in rows]))
    return figures


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
    delivered_px: tuple[float, float]
    """Distance of each answer from the alignment that the pair was delivered with."""
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
        shifts.append(estimate_shift(still, look, still_seen, usable, 1.0, method=method))
        peer.append(phase_cross_correlation(still, look, upsample_factor=UPSAMPLE)[0])
    found = np.array([[s.dy_m, -s.dx_m] for s in shifts])
    away = np.hypot(*(found - offsets).T)
    stranger = estimate_shift(still, chip(other)[0], still_seen, chip(other)[1], 1.0, method=method)
    return Closure(
        float(np.hypot(*(found[0] - found[1] - offsets[0] + offsets[1]))),
        (shifts[0].verdict == "accepted", shifts[1].verdict == "accepted"),
        (float(away[0]), float(away[1])),
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
        away = np.array([r.delivered_px for r in taken])
        figures |= {
            f"{name}_median_px": float(np.median(errors)),
            f"{name}_p95_px": float(np.quantile(errors, 0.95)),
            f"{name}_wrong_accept_share": float(np.mean(errors > wrong_px)),
            f"{name}_from_delivered_median_px": float(np.median(away)),
            f"{name}_from_delivered_beyond_{wrong_px}_share": float(np.mean(away > wrong_px)),
        }
    return figures


def main() -> None:
    """Measure and print one JSON object; its parts on stderr as they come. Seconds are the processor's."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="a tenth of the trials")
    options.add_argument("--trials", type=int, default=400)
    options.add_argument("--pairs", type=int, default=160)
    options.add_argument("--seed", type=int, default=11)
    chosen = options.parse_args()
    part = 10 if chosen.quick else 1
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    rng = np.random.default_rng(chosen.seed)
    figures: dict[str, Any] = {"name": "coregister", "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    pairs = max(chosen.pairs // part, 1)
    for measured in (
        lambda: optical(rng, max(chosen.trials // part, 1)),
        lambda: closed(rng, "sar_optical", ("S2/BEFORE", "S1/BEFORE"), pairs, "structure"),
        lambda: closed(rng, "sar_optical_flooded", ("S2/AFTER", "S1/AFTER"), pairs, "structure"),
        lambda: closed(rng, "two_dates", ("S2/BEFORE", "S2/AFTER"), pairs, "auto"),
    ):
        found = measured()
        figures |= found
        print(json.dumps(found), file=sys.stderr, flush=True)
    figures |= {f"arosics_{k}": None for k in ("median_px", "p95_px", "wrong_accept_share")}  # builds on GDAL's headers
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}))


if __name__ == "__main__":
    main()
