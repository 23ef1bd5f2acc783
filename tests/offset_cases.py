"""Sentinel-2 scenes whose metadata contradict themselves or the pixels, each with the truth and what must be found."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tiny_products import write_tif

from catalog.calibrate.offset import weigh
from catalog.errors import CatalogError, MetadataError
from catalog.formats.sentinel2 import resolve_offset
from catalog.formats.sentinel2_offset import claims_of, verdicts_of
from catalog.scene import BandSource, Scene
from catalog.sensors import SENTINEL_2

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
SIDE = 160
ADDRESS = {"earth-search": "https://earth-search.aws.element84.com/v1/items/x", "planetary": "planetarycomputer/x"}

SPECTRA = {  # surface reflectance at the bands above, typical values of spectral libraries rounded to a hundredth
    "water": (0.03, 0.03, 0.03, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01, 0.01, 0.004, 0.002),
    "forest": (0.01, 0.02, 0.04, 0.02, 0.06, 0.20, 0.25, 0.27, 0.29, 0.30, 0.12, 0.05),
    "crop": (0.03, 0.04, 0.07, 0.05, 0.11, 0.30, 0.38, 0.40, 0.42, 0.43, 0.20, 0.10),
    "soil": (0.07, 0.09, 0.13, 0.18, 0.21, 0.23, 0.25, 0.27, 0.28, 0.29, 0.34, 0.30),
    "town": (0.09, 0.10, 0.12, 0.13, 0.15, 0.17, 0.18, 0.19, 0.20, 0.21, 0.22, 0.19),
    "sand": (0.15, 0.20, 0.28, 0.38, 0.42, 0.44, 0.46, 0.48, 0.50, 0.50, 0.57, 0.52),
    "basalt": (0.06, 0.07, 0.09, 0.10, 0.11, 0.11, 0.12, 0.12, 0.12, 0.12, 0.14, 0.13),
    "snow": (0.85, 0.87, 0.88, 0.88, 0.87, 0.86, 0.84, 0.82, 0.80, 0.70, 0.12, 0.10),
    "cloud": (0.55, 0.56, 0.57, 0.58, 0.59, 0.60, 0.61, 0.62, 0.63, 0.60, 0.48, 0.36),
}
LAND = {"forest": 0.4, "crop": 0.3, "soil": 0.15, "town": 0.1, "water": 0.05}
DESERT = {"sand": 0.9, "soil": 0.1}
LAVA = {"sand": 0.7, "basalt": 0.3}
WINTER = {"snow": 0.8, "cloud": 0.2}


@dataclass(frozen=True)
class Case:
    """One item."""

    name: str
    """What is odd about it."""
    truth_dn: Mapping[str, float] | float
    """What must be added to the stored numbers of each band."""
    finding: str
    """What weighing must say."""
    policy: str = "error"
    """By which it is settled to the truth; error where nothing needs settling."""
    confidence: str = "certain"
    """Of the settled offset."""
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Of the item."""
    raster_dn: Mapping[str, float] | float | None = None
    """raster:offset of the item, in DN; None writes none."""
    product: tuple[str, Mapping[str, float] | float | None] | None = None
    """Baseline and BOA_ADD_OFFSET of the product XML."""
    tile: str | None = None
    """Baseline of the tile XML."""
    surface: Mapping[str, float] = field(default_factory=lambda: LAND)
    """Shares of `SPECTRA`."""
    collection: str = "sentinel-2-l2a"
    """Collection id."""
    provider: str = ""
    """Key of `ADDRESS`."""
    reason: str = ""
    """What the record must name."""
    date: str = "2024-06-15"
    """When it was taken."""


def per_band(value: Mapping[str, float] | float, rest: float = 0.0) -> dict[str, float]:
    """A number for every band."""
    return {b: value.get(b, rest) if isinstance(value, Mapping) else value for b in BANDS}


EARTH_SEARCH = {"provider": "earth-search", "raster_dn": -1000.0}
SPLIT = per_band({"B04": 0.0}, -1000.0)
UNEVEN = per_band({"B02": -1100.0, "B11": -900.0}, -1000.0)

CASES = (
    Case(
        "flag false, offset already taken off",
        0.0,
        "pixels against metadata",
        "trust-pixels",
        "likely",
        {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.11"},
        reason="no longer hold",
        **EARTH_SEARCH,
    ),
    Case(
        "flag true, offset not taken off",
        -1000.0,
        "pixels against metadata",
        "trust-pixels",
        "likely",
        {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "04.00"},
        reason="still hold",
        **EARTH_SEARCH,
    ),
    Case(
        "flag true and true, raster:offset repeats ESA's number",
        0.0,
        "agreed",
        properties={"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.11"},
        reason="repeats from ESA's product",
        **EARTH_SEARCH,
    ),
    Case(
        "flag false and true",
        -1000.0,
        "agreed",
        properties={"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.11"},
        **EARTH_SEARCH,
    ),
    Case(
        "flag missing, pixels harmonised",
        0.0,
        "nothing said",
        "trust-pixels",
        "likely",
        {"s2:processing_baseline": "05.11"},
        reason="flag is missing",
        **EARTH_SEARCH,
    ),
    Case(
        "taken in 2018, reprocessed with baseline 05.00",
        -1000.0,
        "agreed",
        product=("05.00", -1000.0),
        tile="05.00",
        date="2018-06-17",
        reason="BOA_ADD_OFFSET of MTD_MSIL2A.xml",
    ),
    Case(
        "taken in 2018, reprocessed, a catalogue without offsets",
        -1000.0,
        "agreed",
        properties={"s2:processing_baseline": "05.00"},
        date="2018-06-17",
        provider="planetary",
        reason="Planetary Computer",
    ),
    Case(
        "red harmonised, the other bands not",
        SPLIT,
        "pixels against metadata",
        "trust-pixels",
        "likely",
        product=("05.10", -1000.0),
        tile="05.10",
        reason="(B04)",
    ),
    Case(
        "no XML, baseline 03.01 in the item",
        0.0,
        "agreed",
        properties={"s2:processing_baseline": "03.01"},
        reason="baseline 03.01",
    ),
    Case(
        "no XML and no word at all",
        -1000.0,
        "nothing said",
        "trust-pixels",
        "likely",
        reason="the pixels",
    ),
    Case(
        "a provider that harmonised, its XML copied along",
        0.0,
        "pixels against metadata",
        "trust-pixels",
        "likely",
        product=("05.11", -1000.0),
        reason="no longer hold",
    ),
    Case(
        "raster:offset given and the pixels harmonised",
        0.0,
        "pixels against metadata",
        "trust-pixels",
        "likely",
        {"processing:version": "05.11"},
        raster_dn=-1000.0,
        reason="raster:offset says -1000",
    ),
    Case(
        "product XML of 04.00, tile XML of 03.01",
        -1000.0,
        "metadata against metadata",
        "trust-product",
        "likely",
        product=("04.00", -1000.0),
        tile="03.01",
        reason="TILE_ID of MTD_TL.xml",
    ),
    Case(
        "04.00 by XML in 2022, 03.01 by item",
        -1000.0,
        "metadata against metadata",
        "trust-pixels",
        "likely",
        {"s2:processing_baseline": "03.01"},
        product=("04.00", -1000.0),
        tile="04.00",
        date="2022-02-01",
        reason="s2:processing_baseline",
    ),
    Case("offsets differ per band", UNEVEN, "agreed", product=("05.10", UNEVEN), tile="05.10", reason="B02 -1100"),
    Case(
        "tile XML of 04.00 alone",
        -1000.0,
        "agreed",
        tile="04.00",
        reason="baseline 04.00",
    ),
    Case(
        "desert with an offset, undecidable",
        -1000.0,
        "unconfirmed",
        "error",
        "undecidable",
        product=("05.10", -1000.0),
        tile="05.10",
        surface=DESERT,
        reason="undecidable",
    ),
    Case(
        "desert of an old baseline, undecidable",
        0.0,
        "unconfirmed",
        "error",
        "undecidable",
        product=("03.00", None),
        surface=DESERT,
        reason="undecidable",
    ),
    Case(
        "lava field of an old baseline: dark, and no floor",
        0.0,
        "unconfirmed",
        "error",
        "undecidable",
        product=("03.00", None),
        surface=LAVA,
        reason="undecidable",
    ),
    Case(
        "snow and cloud with an offset, undecidable",
        -1000.0,
        "unconfirmed",
        "error",
        "undecidable",
        product=("05.10", -1000.0),
        surface=WINTER,
        reason="undecidable",
    ),
    Case(
        "desert, two words",
        -1000.0,
        "metadata against metadata",
        "trust-product",
        "undecidable",
        {"s2:processing_baseline": "03.01"},
        product=("05.10", -1000.0),
        surface=DESERT,
        reason="undecidable",
    ),
)
GARBAGE = {"s2:processing_baseline": "n/a"}, {"s2:processing_baseline": "99.99"}, {"processing:version": "latest"}


def run_cases(folder: Path | None = None) -> tuple[int, int, list[dict[str, Any]]]:
    """Resolve every case.

    Returns
    -------
    tuple
        How many were classified right with their reason recorded, how many there are, and a row for each.
    """
    with tempfile.TemporaryDirectory() as spare:
        place = folder or Path(spare)
        rows = [run_case(case, place / f"{number:02d}") for number, case in enumerate(CASES)]
        rows += [_garbage(properties, place / f"g{number}") for number, properties in enumerate(GARBAGE)]
    return sum(row["right"] for row in rows), len(rows), rows


def run_case(case: Case, folder: Path) -> dict[str, Any]:
    """Whether finding, policy, offset, confidence and reason of one case are as they must be."""
    scene = scene_of(case, folder)
    heard = claims_of(scene)
    weighing = weigh(heard.claims, verdicts_of(scene, heard.claims, heard.quantification), BANDS, heard.notes)
    refused = _refusal(lambda: resolve_offset(scene, BANDS, "error"))
    contested = case.policy != "error"
    found = resolve_offset(scene, BANDS, case.policy)  # type: ignore[arg-type]
    record = {} if found is None else dict(found.record)
    truth = per_band(case.truth_dn)
    checks = {
        "finding": weighing.finding == case.finding,
        "refusal": (refused is not None) == contested,
        "offset": record.get("offset_dn") == truth,
        "confidence": record.get("offset_confidence") == case.confidence,
        "reason": case.reason
        in " ".join([*record.get("offset_evidence", []), str(refused), found.source if found else ""]),
        "recorded": bool(record.get("offset_evidence")) and record.get("offset_finding") == case.finding,
    }
    return {
        "case": case.name,
        "right": all(checks.values()),
        "wrong": [k for k, ok in checks.items() if not ok],
    } | record


def scene_of(case: Case, folder: Path) -> Scene:
    """The item of a case with its pixels and XML on disk."""
    rho = surface(case.surface)
    stored = per_band(case.truth_dn)
    raster = None if case.raster_dn is None else per_band(case.raster_dn)
    sources = {}
    for band in BANDS:
        dn = np.clip(np.round(rho[band] * 10_000 - stored[band]), 1, 65_535).astype(np.uint16)
        dn[:4] = 0
        path = write_tif(folder / f"{band}.tif", dn, 10.0)
        scale = None if raster is None else 1e-4
        sources[band] = BandSource(
            band,
            str(path),
            dtype="uint16",
            nodata=0.0,
            scale=scale,
            offset=None if raster is None else raster[band] / 1e4,
        )
    metadata = {}
    if case.product is not None:
        metadata["product"] = str(product_xml(folder / "MTD_MSIL2A.xml", *case.product))
    if case.tile is not None:
        metadata["tile"] = str(tile_xml(folder / "MTD_TL.xml", case.tile))
    return scene(f"S2 {case.name}", sources, metadata, case)


def scene(name: str, sources: Mapping[str, BandSource], metadata: Mapping[str, str], case: Case) -> Scene:
    """A scene of bands on disk."""
    return Scene(
        id=name,
        href=ADDRESS.get(case.provider, "item.json"),
        sensor=SENTINEL_2.id,
        collection=case.collection,
        datetime=dt.datetime.fromisoformat(case.date).replace(tzinfo=dt.UTC),
        platform="sentinel-2a",
        level="L2A",
        format="sentinel2",
        quantity="surface_reflectance",
        geolocation="affine",
        encoding="dn",
        geometry={},
        bbox=(0.0, 0.0, 1.0, 1.0),
        bands=sources,
        quality={},
        metadata=metadata,
        checksums={},
        decimated=False,
        properties=case.properties,
    )


def surface(shares: Mapping[str, float], seed: int = 5) -> dict[str, np.ndarray]:
    """Reflectance (y, x) of each band: patches of covers with their own brightness, texture and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((SIDE // 8, SIDE // 8))
    edges = np.quantile(coarse, np.cumsum(list(shares.values()))[:-1])
    cover = np.kron(np.digitize(coarse, edges), np.ones((8, 8), int))
    light = np.clip(1 + 0.12 * rng.standard_normal((SIDE, SIDE)), 0.5, 1.6)
    spectra = np.array([SPECTRA[name] for name in shares])
    return {band: spectra[cover, k] * light + 0.002 * rng.standard_normal((SIDE, SIDE)) for k, band in enumerate(BANDS)}


def product_xml(path: Path, baseline: str, offset: Mapping[str, float] | float | None, scale: str = "10000") -> Path:
    """A product XML of level 2A."""
    listed = ""
    if offset is not None:
        names = [f"B{k:02d}" for k in range(1, 9)] + ["B8A", "B09", "B10", "B11", "B12"]
        values = offset if isinstance(offset, Mapping) else dict.fromkeys(names, offset)
        rows = (
            f'<BOA_ADD_OFFSET band_id="{k}">{values.get(n, -1000.0):g}</BOA_ADD_OFFSET>' for k, n in enumerate(names)
        )
        listed = f"<BOA_ADD_OFFSET_VALUES_LIST>{''.join(rows)}</BOA_ADD_OFFSET_VALUES_LIST>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""<n1:Level-2A_User_Product xmlns:n1="urn:x"><n1:General_Info><Product_Info>
<PRODUCT_START_TIME>2024-06-15T10:15:59Z</PRODUCT_START_TIME><PRODUCT_URI>S2A.SAFE</PRODUCT_URI>
<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE><Datatake><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
<SENSING_ORBIT_NUMBER>65</SENSING_ORBIT_NUMBER><SENSING_ORBIT_DIRECTION>DESCENDING</SENSING_ORBIT_DIRECTION></Datatake>
</Product_Info><Product_Image_Characteristics><QUANTIFICATION_VALUES_LIST>
<BOA_QUANTIFICATION_VALUE unit="none">{scale}</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>{listed}
</Product_Image_Characteristics></n1:General_Info></n1:Level-2A_User_Product>"""
    )
    return path


def tile_xml(path: Path, baseline: str) -> Path:
    """A tile XML of level 2A without angle grids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""<n1:Level-2A_Tile_ID xmlns:n1="urn:x"><n1:General_Info>
<TILE_ID>S2A_OPER_MSI_L2A_TL_2APS_20240615T141122_A046921_T32TQM_N{baseline}</TILE_ID>
<SENSING_TIME>2024-06-15T10:22:03Z</SENSING_TIME></n1:General_Info><n1:Geometric_Info><Tile_Geocoding>
<HORIZONTAL_CS_CODE>EPSG:32632</HORIZONTAL_CS_CODE><Size resolution="10"><NROWS>10980</NROWS><NCOLS>10980</NCOLS></Size>
<Geoposition resolution="10"><ULX>699960</ULX><ULY>5200020</ULY><XDIM>10</XDIM><YDIM>-10</YDIM></Geoposition>
</Tile_Geocoding><Tile_Angles><Mean_Sun_Angle><ZENITH_ANGLE>25.5</ZENITH_ANGLE><AZIMUTH_ANGLE>145</AZIMUTH_ANGLE>
</Mean_Sun_Angle></Tile_Angles></n1:Geometric_Info></n1:Level-2A_Tile_ID>"""
    )
    return path


def _garbage(properties: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A baseline that is none must be refused with the item and the field."""
    (field_name, text), *_ = properties.items()
    case = Case(f"baseline {text!r}", 0.0, "refused", properties=properties)
    error = _refusal(lambda: claims_of(scene_of(case, folder)))
    right = isinstance(error, MetadataError) and field_name in error.what and case.name in error.item
    return {"case": case.name, "right": right, "wrong": [] if right else ["refusal"]}


def _refusal(ask: Callable[[], Any]) -> CatalogError | None:
    try:
        ask()
    except CatalogError as error:
        return error
    return None
