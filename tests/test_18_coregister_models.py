"""Affines and smooth fields are found where they are and not where they are not; one warp applies them."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.ndimage import shift as spline_shift

from catalog.coregister import Shift, estimate_shift
from catalog.coregister.models import Ties, choose, fit, squares
from catalog.displacement import Displacement, Model, basis, moved_grid, unmoved
from catalog.geocode import resample_map

SIZE, PIXEL_M = 384, 10.0
ALL = np.ones((SIZE, SIZE), dtype=bool)
EVERY = ("shift", "affine", "field")


def texture(rng: np.random.Generator, side: int = SIZE + 64) -> np.ndarray:
    """Band-limited random ground with room to be moved."""
    return gaussian_filter(rng.standard_normal((side, side)), 1.5, mode="wrap") * 5


def bent(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """The inner part of the image, whose pixel p shows what lies at p + displacement (rows, columns)."""
    places = np.mgrid[: displacement.shape[1], : displacement.shape[2]] + 32.0
    return map_coordinates(image, places + displacement, order=5)


def linear(rows_px: tuple[float, float, float], columns_px: tuple[float, float, float]) -> np.ndarray:
    """(2, y, x) displacement in pixels: at the centre, per half height down, per half width right."""
    v, u = (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2) / (SIZE / 2)
    return np.stack([a + b * v + c * u for a, b, c in (rows_px, columns_px)])


def as_displacement(shift: Shift) -> np.ndarray:
    """(2, y, x) rows and columns in pixels by which the reference's pixel is found displaced in the moving image."""
    assert shift.displacement is not None
    side = round(shift.displacement.size_m[0] / PIXEL_M)
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    dx_m, dy_m = shift.displacement.at(columns * PIXEL_M, -rows * PIXEL_M)
    return np.stack([dy_m, -dx_m]) / PIXEL_M


def test_a_pure_shift_stays_a_shift() -> None:
    """Where a shift says it all, larger models that were offered are not taken."""
    rng = np.random.default_rng(1)
    image = texture(rng)
    displacement = linear((1.3, 0, 0), (-2.2, 0, 0))
    noisy = bent(image, displacement) + 0.1 * image.std() * rng.standard_normal(ALL.shape)
    shift = estimate_shift(bent(image, 0 * displacement), noisy, ALL, ALL, PIXEL_M, models=EVERY)
    assert (shift.verdict, shift.model, shift.displacement) == ("accepted", "shift", None)
    assert (shift.dx_m, shift.dy_m) == pytest.approx((-22.0, -13.0), abs=0.5)
    assert shift.rmse_after_px < 0.2 < shift.rmse_before_px


@pytest.mark.parametrize("masked", [False, True], ids=["clear", "half masked"])
def test_a_rotation_with_scale_is_found_as_an_affine(masked: bool) -> None:
    """One and a half pixels of rotation and scale at the border: known everywhere to a tenth of a pixel."""
    rng = np.random.default_rng(2)
    image = texture(rng)
    truth = linear((0.8, 0.7, 1.2), (-1.1, -1.2, 0.7))  # content found at p lies at p + truth in the other
    still, moving = bent(image, -truth), bent(image, 0 * truth)
    usable = gaussian_filter(rng.standard_normal(ALL.shape), 20) < 0 if masked else ALL
    shift = estimate_shift(still, moving, usable, ALL, PIXEL_M, models=EVERY)
    assert (shift.verdict, shift.model) == ("accepted", "affine")
    found = as_displacement(shift)
    # bent(image, -truth)(p) = image(p - truth(p)): the moving image shows it at p - truth(p)
    assert np.quantile(np.hypot(*(found + truth)), 0.95) < 0.15
    alone = estimate_shift(still, moving, usable, ALL, PIXEL_M)
    assert shift.rmse_after_px < 0.5 * alone.rmse_after_px
    assert shift.ce90_px < alone.ce90_px


def test_a_wave_is_found_as_a_field() -> None:
    """A smooth wave of 1.5 pixels, which no affine follows, is found to a fifth of a pixel in the median."""
    side = 640
    image, usable = texture(np.random.default_rng(3), side + 64), np.ones((side, side), bool)
    v, u = (np.mgrid[:side, :side] - (side - 1) / 2) / (side / 2)
    truth = np.stack([1.5 * np.cos(np.pi * u), 1.5 * v**2 - 0.5])
    shift = estimate_shift(bent(image, -truth), bent(image, 0 * truth), usable, usable, PIXEL_M, models=EVERY)
    assert (shift.verdict, shift.model) == ("accepted", "field")
    assert np.median(np.hypot(*(as_displacement(shift) + truth))) < 0.2
    assert moved_grid(box_of(side), shift.move()) is None


@pytest.mark.parametrize("model", ["affine", "field"])
def test_one_resampling_brings_the_image_onto_the_reference(model: Model) -> None:
    """By place the images differ a third as much as after the best shift, and what was not measured stays so."""
    image = texture(np.random.default_rng(4))
    truth = linear((2.0, 0.9, 1.3), (1.0, -1.3, 0.9))
    still, moving = bent(image, -truth), bent(image, 0 * truth)
    usable = ALL.copy()
    usable[100:140, 200:260] = False
    left = {}
    for models in (("shift",), ("shift", model)):
        shift = estimate_shift(still, moving, ALL, usable, PIXEL_M, models=models)
        assert shift.model == models[-1]
        warped = resampled(np.where(usable, moving, np.nan), shift)
        assert 2000 < np.isnan(warped).sum() < 8000
        left[models[-1]] = float(np.nanstd(warped - still))
    assert left[model] < left["shift"] / 3


def box_of(side: int) -> GeoBox:
    return GeoBox((side, side), Affine(PIXEL_M, 0, 5e5, 0, -PIXEL_M, 5e6), "EPSG:32633")


def resampled(image: np.ndarray, shift: Shift) -> np.ndarray:
    """The image where the reference shows it, as the pipeline brings it there."""
    box = box_of(len(image))
    x, y = box.affine * (len(image) / 2, len(image) / 2)
    where = {"transform": tuple(box.affine)[:6], "crs": "EPSG:32633"}
    values = xr.DataArray(image[None], dims=("band", "y", "x"), coords={"band": ["B04"]}, attrs=where)
    return resample_map(values, box, shift_m=shift.move((x, y))).values[0]


def test_an_affine_folded_into_a_grid_says_the_same_by_place() -> None:
    """The moved grid's pixel centres are where the displacement says that the scene shows them; so for a shift."""
    box = GeoBox((300, 400), Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32633")
    rows, columns = np.mgrid[:300:50, :400:70] + 0.5
    x, y = box.affine * (columns, rows)
    for move in (
        Displacement("affine", (12.0, 3.0, -4.0), (-7.0, 2.0, 5.0), (4000.0, 3000.0), (502_000.0, 4_998_500.0)),
        Displacement("shift", (12.0,), (-7.0,), (4000.0, 3000.0)),
        (12.0, -7.0),
    ):
        grid = moved_grid(box, move)
        assert grid is not None
        np.testing.assert_allclose(grid.affine * (columns, rows), unmoved(x, y, move), rtol=0, atol=1e-6)
    assert tuple(grid.affine)[:6] == (10, 0, 5e5 - 12, 0, -10, 5e6 + 7)


@pytest.mark.parametrize("model", ["shift", "affine", "field"])
def test_a_displacement_sums_the_functions_that_were_fitted(model: Model) -> None:
    """By place it is what the fit's basis gives; beyond the area a field keeps its border's value."""
    rng = np.random.default_rng(0)
    places = rng.uniform(-1, 1, (40, 2))
    terms = rng.standard_normal((basis(places, model).shape[1], 2))
    move = Displacement(model, tuple(terms[:, 0]), tuple(terms[:, 1]), (4000.0, 3000.0), (7e5, 5e6))
    x, y = 7e5 + 2000 * places[:, 0], 5e6 + 1500 * places[:, 1]
    np.testing.assert_allclose(np.stack(move.at(x, y), -1), basis(places, model) @ terms, rtol=0, atol=1e-9)
    if model == "field":
        out, edge = (move.at(np.array([7e5 + e]), np.array([5e6])) for e in (9000.0, 2000.0))
        assert out == edge


def test_a_fit_ignores_wild_tie_points() -> None:
    """A third of the tie points thrown about by pixels moves an affine by less than its noise."""
    rng = np.random.default_rng(5)
    places = rng.uniform(-1, 1, (60, 2))
    truth = np.array([[1.0, -2.0], [0.5, 0.3], [-0.4, 0.8]])
    offsets = basis(places, "affine") @ truth + 0.05 * rng.standard_normal((60, 2))
    offsets[:20] += rng.uniform(-6, 6, (20, 2))
    assert np.abs(fit(Ties(places, offsets), "affine") - truth).max() < 0.06


def test_tie_points_held_out_choose_the_model() -> None:
    """Constant, linear and bent offsets want shift, affine and field; too few tie points want the shift."""
    rng = np.random.default_rng(6)

    def drawn(n: int, bend: float, slope: float) -> Ties:
        places = rng.uniform(-1, 1, (n, 2))
        offsets = slope * places + bend * np.cos(2.5 * places[:, ::-1]) + 0.05 * rng.standard_normal((n, 2))
        return Ties(places, offsets)

    for bend, slope, model in ((0, 0, "shift"), (0, 1.0, "affine"), (1.5, 0.0, "field")):
        fitted, held = drawn(90, bend, slope), drawn(90, bend, slope)
        assert choose(fitted, held, EVERY) == model
        assert np.sqrt(squares(held, fit(fitted, model), model).mean()) < 0.25
    assert choose(drawn(5, 0, 1.0), drawn(5, 0, 1.0), EVERY) == "shift"


def test_unrelated_images_get_no_deformation() -> None:
    """Twenty-five splines do not talk the tie points of two different places into agreement."""
    rng = np.random.default_rng(9)
    for _ in range(3):
        shift = estimate_shift(
            texture(rng, 256), texture(rng, 256), ALL[:256, :256], ALL[:256, :256], 1.0, models=EVERY
        )
        assert shift.verdict != "accepted"
        assert (shift.dx_m, shift.dy_m, shift.displacement) == (0.0, 0.0, None)


def test_an_edge_that_no_mask_names_does_not_lead_the_match() -> None:
    """A border of zeros that counts as usable, as wrong masks leave it, moves the answer by less than a tenth."""
    image = texture(np.random.default_rng(7))[32:-32, 32:-32] + 20
    moving = spline_shift(image, (2.6, -3.3), order=3, cval=0.0)
    shift = estimate_shift(image, moving, ALL, ALL, PIXEL_M)
    assert shift.verdict == "accepted"
    assert (shift.dx_m, shift.dy_m) == pytest.approx((33.0, 26.0), abs=1.0)


def test_a_shift_is_recorded_as_json_takes_it() -> None:
    """A deformation too is plain numbers, and the errors held out are in the record."""
    image = texture(np.random.default_rng(8))
    truth = linear((0.5, 1.0, 1.0), (0.5, -1.0, 1.0))
    shift = estimate_shift(bent(image, -truth), bent(image, 0 * truth), ALL, ALL, PIXEL_M, models=("shift", "affine"))
    record = json.loads(json.dumps(asdict(shift)))
    assert record["model"] == "affine"
    assert len(record["displacement"]["dx_m"]) == 3
    assert record["rmse_after_px"] <= record["rmse_before_px"]
