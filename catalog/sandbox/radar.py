"""The landscape as radars see it: mean covariance on the map, and a radar image's view of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from catalog.sandbox import orbit as geometry
from catalog.sandbox.chance import field, hashed_normal, stream
from catalog.sandbox.landscape import Landscape
from catalog.sandbox.orbit import Footing, Frame, Ground, Orbit
from catalog.sandbox.plan import Pass
from catalog.sandbox.regions import FINE_M, MARGIN_M, RADAR_MARGIN_M, STEP_M, grid_over
from catalog.sandbox.scattering import covariance_table

FloatArray = NDArray[np.floating]

UNIT_DB = 0.9
"""Standard deviation of the echo between parcels or stands of one surface, dB."""
PATCH_DB = 0.5
"""Standard deviation between patches of some 60 m, dB."""
FRAME_MARGIN_M = 150.0
"""Land that an image shows beyond the region, at least."""


@dataclass(frozen=True)
class Look:
    """One radar's view of a region: its path, its image, and where each pixel of the image lies."""

    orbit: Orbit
    """The satellite's path."""
    frame: Frame
    """The image as its annotation describes it."""
    footing: Footing
    """The frame on the relief."""
    echo: NDArray[np.float32]
    """Mean covariance on the ground's grid, (term, row, col), linear power, sigma nought on the ellipsoid."""

    def image(self, terms: FloatArray, error: tuple[float, float]) -> NDArray[np.float32]:
        """Layers of the ground's grid (layer, row, col) in the image's geometry, (layer, line, sample).

        Parameters
        ----------
        error
            Lines and samples by which the content is displaced against the annotation.
        """
        line, sample = np.mgrid[: self.frame.lines, : self.frame.samples].astype(np.float64)
        x, y = self.footing.locate(line - error[0], sample - error[1])
        where = self.footing.ground.index(x, y)
        return np.stack([map_coordinates(t, where, order=1, mode="nearest") for t in terms]).astype(np.float32)


def ground(land: Landscape) -> Ground:
    """Relief of the region and its margin at 10 m."""
    grid = grid_over(land.region, land.size_m, STEP_M, RADAR_MARGIN_M)
    return geometry.ground_of(grid, land.relief.height(grid))


def covariance(land: Landscape, season: str) -> NDArray[np.float32]:
    """Mean covariance of flat ground on the region's 10 m pixels, (term, row, col), linear power.

    Each surface's covariance times a factor of its parcel and its patch (log-normal, UNIT_DB and PATCH_DB, of mean 1),
    averaged over the pixel.
    """
    inner = round(MARGIN_M / FINE_M)
    cut = (slice(inner, -inner), slice(inner, -inner))
    surface = land.surfaces[season][cut]
    patches = field(
        stream(land.seed, land.region.name, "echo"), land.region.west_m, land.region.south_m, land.size_m, 60.0
    ).on(land.grid.x_m[inner:-inner], land.grid.y_m[inner:-inner])
    db = UNIT_DB * hashed_normal(land.unit[cut], "echo") + PATCH_DB * patches
    nepers = np.float32(np.log(10.0) / 10.0)
    factor = np.exp(nepers * db - nepers**2 * (UNIT_DB**2 + PATCH_DB**2) / 2)
    count, per = round(land.size_m / STEP_M), round(STEP_M / FINE_M)
    table = covariance_table()
    planes = [
        (table[:, k][surface] * factor).reshape(count, per, count, per).mean((1, 3)) for k in range(table.shape[1])
    ]
    return np.stack(planes).astype(np.float32)


def tilted(echo: NDArray[np.float32], relief: Ground, orbit: Orbit, incidence_deg: float) -> NDArray[np.float32]:
    """The covariance as seen on slopes, on the ground's whole grid, (term, row, col).

    All terms times cos(local incidence) / cos(incidence), within 0.4 and 1.8. Land beyond the region is the region's
    mirror image on the true relief.
    """
    margin = round(RADAR_MARGIN_M / STEP_M)
    wide = np.pad(echo, ((0, 0), (margin, margin), (margin, margin)), mode="symmetric")
    local = np.cos(np.radians(relief.incidence_deg(orbit))) / np.cos(np.radians(incidence_deg))
    return wide * np.clip(local, 0.4, 1.8).astype(np.float32)


def slant_frame(path: Orbit, relief: Ground, spacing_m: float, line_m: float, border_px: int) -> tuple[Frame, float]:
    """An image in slant range over a region, and its near range.

    Parameters
    ----------
    spacing_m
        From sample to sample, in slant range.
    line_m
        From line to line, on the ground.
    border_px
        Samples before the nearest ground.
    """
    t, slant = path.abeam(border(relief))
    near = float(np.floor(slant.min())) - border_px * spacing_m
    line_s = line_m / float(np.linalg.norm(path.state(0.0)[1])) * path.radius_m / 6_371_000.0
    frame = Frame(
        path, float(np.round(t.min(), 6)), line_s, int(np.ceil((t.max() - t.min()) / line_s)) + 1,
        int(np.ceil((slant.max() - near) / spacing_m)) + 1, lambda r: (r - near) / spacing_m,
    )  # fmt: skip
    return frame, near


def displacement(look: Look, error: tuple[float, float]) -> tuple[float, float]:
    """Metres east and north by which an image's content moves on the map for an error in lines and samples."""
    shape = look.footing.line.shape
    mid = (slice(shape[0] // 2 - 1, shape[0] // 2 + 2), slice(shape[1] // 2 - 1, shape[1] // 2 + 2))
    grid = look.footing.ground.grid
    flat = Ground(grid, np.full(shape, look.footing.ground.height_m[mid].mean(), np.float32)[mid],
                  look.footing.ground.longitude_deg[mid], look.footing.ground.latitude_deg[mid])  # fmt: skip
    on_flat = geometry.stand(look.frame, flat)
    jacobian = np.array(
        [
            [(a[1, 2] - a[1, 0]) / (2 * grid.step_m), (a[0, 1] - a[2, 1]) / (2 * grid.step_m)]
            for a in (on_flat.line, on_flat.sample)
        ]
    )
    dx, dy = np.linalg.solve(jacobian, np.array(error))
    return float(dx), float(dy)


def border(relief: Ground) -> FloatArray:
    """Earth-fixed points along the border of a region and FRAME_MARGIN_M, at its lowest and its highest ground."""
    inner = round((RADAR_MARGIN_M - FRAME_MARGIN_M) / STEP_M)
    rim = np.zeros(relief.height_m.shape, bool)
    rim[inner:-inner, inner:-inner] = True
    rim[inner + 1 : -inner - 1, inner + 1 : -inner - 1] = False
    inside = relief.height_m[inner:-inner, inner:-inner]
    lon, lat = relief.longitude_deg[rim], relief.latitude_deg[rim]
    heights = (float(inside.min()), float(inside.max()))
    return np.concatenate([geometry.ecef(lon, lat, np.full(lon.shape, h)) for h in heights])


def speckle_stream(land: Landscape, acquisition: Pass) -> np.random.Generator:
    """The generator of an acquisition's speckle and noise."""
    return stream(land.seed, land.region.name, acquisition.sensor, acquisition.date)
