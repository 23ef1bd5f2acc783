"""One region's land at 2 m, before and after a summer: what lies where, in which parcel, and how high it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalog.sandbox import parcels
from catalog.sandbox.chance import Field, field, hashed, smoothstep, stream
from catalog.sandbox.parcels import Box, Village
from catalog.sandbox.regions import FINE_M, MARGIN_M, Grid, Region, grid_over
from catalog.sandbox.relief import Curve, Relief, relief
from catalog.sandbox.spectra import CODE, SURFACES

FloatArray = NDArray[np.floating]
Surfaces = NDArray[np.uint8]

SEASONS = ("spring", "summer")
CHANGES: Mapping[int, str] = {1: "clear-cut", 2: "new built-up", 3: "flooded"}
"""Code of a change between the two seasons to its name; 0 is none."""


@dataclass(frozen=True)
class Landscape:
    """The land of one region."""

    region: Region
    """Where it lies."""
    size_m: float
    """Side of the region."""
    seed: int
    """Seed of the sandbox."""
    grid: Grid
    """2 m pixels over the region and its margin."""
    relief: Relief
    """Ground heights as a function of place."""
    height_m: NDArray[np.float32]
    """Ground heights on the grid (rows, cols)."""
    surfaces: Mapping[str, Surfaces]
    """Season to surface numbers (rows, cols)."""
    changes: NDArray[np.uint8]
    """CHANGES code (rows, cols)."""
    unit: NDArray[np.uint32]
    """Number of the parcel, stand or plot (rows, cols); what grows alike, within a surface."""
    standing_m: Mapping[str, NDArray[np.float32]]
    """Season to height above ground of what stands there (rows, cols)."""
    boxes: tuple[Box, ...]
    """Buildings and ships."""


@dataclass(frozen=True)
class _Frame:
    region: Region
    size_m: float
    seed: int
    grid: Grid
    ground: Relief
    x: FloatArray
    y: FloatArray
    salt: str

    def noise(self, name: str, scale_m: float) -> NDArray[np.float32]:
        waves: Field = field(
            stream(self.seed, self.region.name, name),
            self.region.west_m - MARGIN_M,
            self.region.south_m - MARGIN_M,
            self.size_m + 2 * MARGIN_M,
            scale_m,
        )
        return waves.on(self.grid.x_m, self.grid.y_m)


def draw(region: Region, size_m: float, seed: int) -> Landscape:
    """Draw a region's land from its seed and name; the same call gives the same land."""
    ground = relief(region, size_m, seed)
    grid = grid_over(region, size_m, FINE_M, MARGIN_M)
    frame = _Frame(region, size_m, seed, grid, ground, *ground.local(grid), salt=f"{seed}/{region.name}/")
    height = ground.height(grid)
    slope_deg = np.degrees(np.arctan(np.hypot(*np.gradient(height, FINE_M))))
    unit, surface = _vegetation(frame, height, slope_deg)
    hamlets, extension = _villages(frame, slope_deg)
    gardens = frame.noise("garden", 14.0) > 0.9
    roads = _roads(frame, hamlets)
    houses: list[Box] = []
    surfaces, standing = {}, {}
    for season in SEASONS:
        s, tall = surface.copy(), np.array([k.height_m for k in SURFACES], np.float32)[surface]
        if season == "summer":
            _clear_cuts(frame, s)
        s[roads] = CODE["sealed"]
        for village in [*hamlets, extension] if season == "summer" else hamlets:
            new = season == "summer" and village is extension
            built = _build(frame, village, gardens, s, tall, unit)
            if season == "summer":
                houses += _standing_houses(frame, village, built, ("summer",) if new else SEASONS)
        _flow(frame, s, flood=season == "summer")
        surfaces[season], standing[season] = s, tall
    ships = _ships(frame, surfaces)
    for season in SEASONS:
        there = [b for b in ships if season in b.dates]
        parcels.paint(there, frame.x[0], frame.y[:, 0], surfaces[season], CODE["ship"])
        typical = np.array([k.height_m for k in SURFACES], np.float32)[surfaces[season]]
        roof = (surfaces[season] == CODE["tile roof"]) | (surfaces[season] == CODE["grey roof"])
        standing[season] = np.where(roof, standing[season], typical).astype(np.float32)
    return Landscape(
        region, size_m, seed, grid, ground, height, surfaces, _changes(surfaces), unit, standing, (*houses, *ships)
    )


def _vegetation(f: _Frame, height: FloatArray, slope_deg: FloatArray) -> tuple[NDArray[np.uint32], Surfaces]:
    parcel, stand = parcels.fields(f.x, f.y, f.salt + "field"), parcels.cells(f.x, f.y, 240.0, f.salt + "stand")
    share = f.ground.range_share(f.grid)
    wild = 0.8 * f.noise("wild", 800.0) + 0.35 * f.noise("edge", 160.0) + 1.6 * share + slope_deg / 9.0
    wooded = wild > _quantile(wild, 0.66)
    meadows = (wild > _quantile(wild, 0.56)) | (slope_deg > 13.0)
    draw, kind = hashed(parcel, f.salt + "crop"), hashed(parcel, f.salt + "kind")
    winter = np.select([kind < 0.50, kind < 0.76], [CODE["stubble"], CODE["ploughed"]], CODE["catch crop"])
    summer = np.select([kind < 0.52, kind < 0.84], [CODE["maize"], CODE["root crop"]], CODE["sunflower"])
    grass = np.where(kind < 0.55, CODE["meadow"], CODE["pasture"])
    crop = np.select([draw < 0.40, draw < 0.74], [winter, summer], grass)
    needles = 0.9 * f.noise("needles", 500.0) + 1.1 * (height - np.median(height)) / (np.std(height) + 1.0)
    conifer = needles + 0.5 * (hashed(stand, f.salt + "planted") - 0.5) > _quantile(needles[wooded], 0.52)
    tree = hashed(stand, f.salt + "mix")
    wood = np.where(
        conifer,
        np.where(tree < 0.6, CODE["conifer"], CODE["larch and gaps"]),
        np.where(tree < 0.6, CODE["broadleaf"], CODE["mixed stand"]),
    )
    hay = np.where(hashed(stand, f.salt + "hay") < 0.5, CODE["meadow"], CODE["pasture"])
    surface = np.where(wooded, wood, np.where(meadows, hay, crop))
    surface = np.where(_wetland(f), np.where(f.noise("reed", 130.0) > 0.1, CODE["reed"], CODE["wet meadow"]), surface)
    bare = share * 2.2 + 0.5 * f.noise("rock", 350.0) + 0.35 * f.noise("scree", 70.0) + slope_deg / 14.0
    surface = np.where(bare > _quantile(bare, 0.955), CODE["rock"], surface)
    quarry = f.noise("quarry", 420.0) + 0.25 * f.noise("scree", 70.0) - 4.0 * np.abs(share - 0.12)
    surface = np.where(quarry > _quantile(quarry, 0.988), CODE["quarry"], surface)
    farmed = ~wooded & ~meadows
    return np.where(farmed, parcel, stand).astype(np.uint32), surface.astype(np.uint8)


def _wetland(f: _Frame) -> NDArray[np.bool_]:
    size = f.size_m
    away = np.minimum(f.ground.river.distance(f.x, f.y), -1.3 * f.ground.lake_depth(f.grid))
    wet = 0.7 * f.noise("wet", 380.0) + 0.3 * f.noise("tuft", 90.0) - away / max(0.055 * size, 90.0)
    return wet > _quantile(wet, 0.90)


def _villages(f: _Frame, slope_deg: FloatArray) -> tuple[list[Village], Village]:
    rng = stream(f.seed, f.region.name, "villages")
    size = f.size_m
    count = int(np.clip(round((size / 2560.0) ** 2 * 1.3), 1, 60))
    places: list[tuple[float, float]] = []
    radius = float(np.clip(0.055 * size, 110.0, 300.0))
    for _ in range(400):
        y = float(rng.uniform(0.12, 0.88)) * size
        offset = float(rng.choice([-1, 1])) * float(rng.uniform(1.25 * radius + 60.0, max(0.3 * size, 2 * radius)))
        x = float(f.ground.river.at(np.float64(y))) + offset
        row, col = int((f.y[0, 0] - y) / FINE_M), int((x - f.x[0, 0]) / FINE_M)
        inside = 0.1 * size < x < 0.9 * size and slope_deg[row, min(max(col, 0), slope_deg.shape[1] - 1)] < 9.0
        if inside and all(np.hypot(x - a, y - b) > 4.0 * radius for a, b in places):
            places.append((x, y))
        if len(places) == count:
            break
    places = places or [(0.2 * size, 0.75 * size)]
    hamlets = [
        Village(
            x, y, radius * float(rng.uniform(0.7, 1.2)), float(rng.uniform(0, np.pi / 2)), float(rng.uniform(0.6, 0.9))
        )
        for x, y in places
    ]
    old, turn = hamlets[0], float(rng.uniform(0, 2 * np.pi))
    extension = Village(
        old.x_m + 1.05 * old.radius_m * float(np.cos(turn)),
        old.y_m + 1.05 * old.radius_m * float(np.sin(turn)),
        0.55 * old.radius_m, old.angle, 0.85,
    )  # fmt: skip
    return hamlets, extension


def _roads(f: _Frame, hamlets: list[Village]) -> NDArray[np.bool_]:
    rng = stream(f.seed, f.region.name, "roads")
    first, size = hamlets[0], f.size_m
    along = Curve(0.0, ((60.0, 2300.0, float(rng.uniform(0, 6))), (18.0, 700.0, float(rng.uniform(0, 6)))))
    along = Curve(first.x_m - float(along.at(np.float64(first.y_m))), along.waves)
    across = Curve(0.0, ((70.0, 2900.0, float(rng.uniform(0, 6))), (15.0, 600.0, float(rng.uniform(0, 6)))))
    across = Curve(first.y_m - float(across.at(np.float64(first.x_m))), across.waves)
    roads = (along.distance(f.x, f.y) < 5.5) | (across.distance(f.y, f.x) < 4.0)
    for village in hamlets[1:]:
        lane = Curve(village.y_m, ((25.0, 900.0, float(rng.uniform(0, 6))),))
        roads |= (lane.distance(f.y, f.x) < 3.2) & (np.abs(f.x - village.x_m) < 0.3 * size)
    return roads


def _build(
    f: _Frame, v: Village, gardens: NDArray[np.bool_], s: Surfaces, tall: FloatArray, unit: NDArray[np.uint32]
) -> NDArray[np.bool_]:
    """Builds a village into the three arrays, in place, and says where its ground is."""
    x, y = f.x[0], f.y[:, 0]
    reach = 1.4 * v.radius_m
    columns = slice(*np.searchsorted(x, [v.x_m - reach, v.x_m + reach]))
    rows = slice(*np.searchsorted(-y, [-(v.y_m + reach), -(v.y_m - reach)]))
    bx, by = f.x[:, columns], f.y[rows]
    turn = np.arctan2(by - v.y_m, bx - v.x_m)
    outline = v.radius_m * (1 + 0.16 * np.sin(3 * turn + v.angle * 7) + 0.08 * np.sin(5 * turn + v.dense * 40))
    ground = np.hypot(bx - v.x_m, by - v.y_m) < outline
    kind, height, plot = parcels.plots(v, bx, by, f.salt)
    codes = np.array([CODE[n] for n in ("garden", "sealed", "tile roof", "grey roof")], np.uint8)[kind]
    codes = np.where((kind == 0) & gardens[rows, columns], CODE["garden tree"], codes).astype(np.uint8)
    np.copyto(s[rows, columns], codes, where=ground)
    np.copyto(tall[rows, columns], height, where=ground)
    np.copyto(unit[rows, columns], plot, where=ground)
    built = np.zeros(s.shape, bool)
    built[rows, columns] = ground
    return built


def _standing_houses(f: _Frame, v: Village, built: NDArray[np.bool_], dates: tuple[str, ...]) -> list[Box]:
    kept = []
    for house in parcels.houses(v, f.salt, dates):
        rows = ((f.y[0, 0] - house.corners()[:, 1]) / FINE_M).round().astype(int)
        columns = ((house.corners()[:, 0] - f.x[0, 0]) / FINE_M).round().astype(int)
        within = (rows >= 0) & (rows < built.shape[0]) & (columns >= 0) & (columns < built.shape[1])
        if within.all() and built[rows, columns].all():
            kept.append(house)
    return kept


def _clear_cuts(f: _Frame, s: Surfaces) -> None:
    rng = stream(f.seed, f.region.name, "clear-cuts")
    wood = np.isin(s, [CODE[n] for n in ("broadleaf", "mixed stand", "conifer", "larch and gaps")])
    inner = (abs(f.x - f.size_m / 2) < 0.42 * f.size_m) & (abs(f.y - f.size_m / 2) < 0.42 * f.size_m)
    at = np.flatnonzero(wood & inner)
    cut = np.zeros_like(s)
    boxes = []
    for _ in range(max(2, round((f.size_m / 1400.0) ** 2))):
        row, col = divmod(int(at[int(rng.integers(len(at)))]), s.shape[1])
        sides = rng.uniform(70.0, 190.0, 2) * min(1.0, max(f.size_m / 2560.0, 0.6))
        x, y = float(f.x[0, col]), float(f.y[row, 0])
        boxes.append(
            Box("clear-cut", x, y, float(sides[0]), float(sides[1]), float(rng.uniform(0, np.pi)), 0.0, ("summer",))
        )
    parcels.paint(boxes, f.x[0], f.y[:, 0], cut, 1)
    s[wood & (cut == 1)] = CODE["clear-cut"]


def _flow(f: _Frame, s: Surfaces, *, flood: bool) -> None:
    away = f.ground.river.distance(f.x, f.y)
    half = 19.0 + 6.0 * np.sin(f.y / 310.0)
    if flood:
        reach = smoothstep(1.0 - np.abs(f.y - 0.72 * f.size_m) / (0.16 * f.size_m))
        half = half + reach * np.clip(28.0 + 30.0 * f.noise("flood", 180.0), 0.0, 90.0)
    bridge = s == CODE["sealed"]
    river = (away < half) & ~(bridge & (away < 25.0))
    brook = (f.ground.tributary.distance(f.y, f.x) < 5.0) & (f.x > f.ground.river.at(f.y)) & ~bridge
    s[river | brook] = CODE["river"]
    s[f.ground.lake_depth(f.grid) > 0] = CODE["lake"]


def _ships(f: _Frame, surfaces: Mapping[str, Surfaces]) -> list[Box]:
    rng = stream(f.seed, f.region.name, "ships")
    cx, cy, radius = f.ground.lake
    boxes: list[Box] = []
    depth = f.ground.lake_depth(f.grid)
    for _ in range(300):
        length = float(rng.uniform(18.0, 52.0))
        x, y = cx + float(rng.uniform(-1, 1)) * radius, cy + float(rng.uniform(-1.3, 1.3)) * radius
        row, col = int((f.y[0, 0] - y) / FINE_M), int((x - f.x[0, 0]) / FINE_M)
        dates = (("summer",), ("spring",), SEASONS)[int(rng.integers(3))]
        deep = 0 <= row < depth.shape[0] and 0 <= col < depth.shape[1] and depth[row, col] > 0.6 * length
        if deep and all(np.hypot(x - b.x_m, y - b.y_m) > 0.6 * (length + b.length_m) + 10 for b in boxes):
            wide = length / float(rng.uniform(4.0, 6.0))
            boxes.append(Box("ship", x, y, length, wide, float(rng.uniform(0, np.pi)), 8.0, dates))
        if len(boxes) == int(np.clip(round(f.size_m / 400.0), 3, 40)):
            break
    return boxes


def _quantile(values: FloatArray, share: float) -> float:
    return float(np.quantile(values[::7, ::7] if values.ndim == 2 else values[::49], share))


def _changes(surfaces: Mapping[str, Surfaces]) -> NDArray[np.uint8]:
    cover = np.array([k.cover for k in SURFACES], np.uint8)
    before, after = cover[surfaces["spring"]], cover[surfaces["summer"]]
    cut = surfaces["summer"] == CODE["clear-cut"]
    moved = before != after
    return np.select([moved & cut, moved & (after == 7), moved & (after == 1)], [1, 2, 3], 0).astype(np.uint8)
