"""PlanetScope scenes of four bands: surface reflectance or top-of-atmosphere radiance, with XML, JSON and UDM2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from catalog.sandbox.files import write_json, write_map, write_text
from catalog.sandbox.regions import Grid
from catalog.sandbox.specimen import Day, Doubles, Specimen, counted, keep

CHANNELS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08"}
"""Band in the order of the files to the band of the spectra that stands for it."""
IRRADIANCE = (1972.0, 1842.0, 1565.0, 1094.0)
"""W m-2 um-1 at one astronomical unit; a product holds their effect in its reflectance coefficients only."""
RADIANCE_STEP = 0.01
"""radiometricScaleFactor: W m-2 sr-1 um-1 per count."""
SR_STEP = 1.0e-4
PIXEL_M = 3.0
EMPTY = 3
"""Columns without data at the left edge."""
UDM2 = ("clear", "snow", "shadow", "light_haze", "heavy_haze", "cloud", "confidence", "unusable")


def write(root: Path, day: Day, level: str) -> Specimen:
    """Write one scene, `level` SR (surface reflectance) or TOA (radiance with reflectance coefficients).

    Surface: DN = 10000 rho. Top of the atmosphere: DN = rho / reflectanceCoefficient, with the coefficient
    0.01 pi d^2 / (E cos zenith). Source: Planet Imagery Product Specifications, PSScene analytic assets.
    """
    grid, names = day.grid(PIXEL_M), list(CHANNELS)
    surface = level == "SR"
    rho = (day.surface if surface else day.top)(grid, list(CHANNELS.values()))
    ident = f"{day.when:%Y%m%d_%H%M%S}_{25 if surface else 26}_2475"
    folder = root / "products" / ident
    cosine = np.cos(np.radians(day.sun.zenith_deg))
    exact = [RADIANCE_STEP * np.pi * day.sun.distance_au**2 / (e * cosine) for e in IRRADIANCE]
    coefficients = [float(f"{c:.15e}") for c in exact]
    layers, worth = [], {}
    for name, layer, coefficient in zip(names, rho, coefficients, strict=True):
        step = SR_STEP if surface else coefficient
        dn = counted(layer, step)
        dn[:, :EMPTY] = 0
        layers.append(dn)
        worth[name] = np.where(dn == 0, np.nan, dn.astype(np.float64) * step)
    kind = "AnalyticMS_SR" if surface else "AnalyticMS"
    write_map(folder / f"{ident}_3B_{kind}.tif", np.stack(layers), grid, nodata=0, names=names)
    write_map(folder / f"{ident}_3B_udm2.tif", usable(grid), grid, names=UDM2)
    write_text(folder / f"{ident}_3B_AnalyticMS_metadata.xml", metadata(day, grid, ident, kind, coefficients))
    write_json(folder / f"{ident}_metadata.json", described(day, grid, ident))
    truth = keep(root, folder, worth, _drawn(names, rho))
    return Specimen(
        "planetscope", "SR" if surface else "L3B", f"{'surface' if surface else 'toa'}_reflectance", folder, truth
    )


def _drawn(names: list[str], rho: Doubles) -> dict[str, Doubles]:
    return dict(zip(names, rho, strict=True))


def usable(grid: Grid) -> NDArray[np.uint8]:
    """UDM2: clear, a square of cloud below on the right, one of shadow above it, nothing measured on the left."""
    mask = np.zeros((len(UDM2), grid.rows, grid.cols), np.uint8)
    rows, cols = grid.rows // 8, grid.cols // 8
    mask[5, -rows:, -cols:], mask[2, -2 * rows : -rows, -cols:] = 1, 1
    mask[0] = 1 - mask[5] - mask[2]
    mask[6] = 90
    mask[:7, :, :EMPTY], mask[7, :, :EMPTY] = 0, 1
    return mask


def _ring(grid: Grid) -> list[tuple[float, float]]:
    lonlat = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    corners = ((0, 0), (grid.cols, 0), (grid.cols, grid.rows), (0, grid.rows), (0, 0))
    return [lonlat.transform(*grid.corner(*c)) for c in corners]


def described(day: Day, grid: Grid, ident: str) -> dict[str, object]:
    """The scene's GeoJSON feature as the catalogue of the provider gives it."""
    return {
        "type": "Feature",
        "id": ident,
        "geometry": {"type": "Polygon", "coordinates": [[list(p) for p in _ring(grid)]]},
        "properties": {
            "acquired": f"{day.when:%Y-%m-%dT%H:%M:%S.%f}Z",
            "cloud_cover": 0.02,
            "columns": grid.cols,
            "epsg_code": grid.epsg,
            "gsd": 3.7,
            "instrument": "PS2",
            "item_type": "PSScene",
            "pixel_resolution": PIXEL_M,
            "provider": "planetscope",
            "rows": grid.rows,
            "satellite_id": "2475",
            "sun_azimuth": round(day.sun.azimuth_deg, 1),
            "sun_elevation": round(90.0 - day.sun.zenith_deg, 1),
            "view_angle": 2.1,
        },
    }


def metadata(day: Day, grid: Grid, ident: str, kind: str, coefficients: list[float]) -> str:
    """The product's XML."""
    stamp = f"{day.when:%Y-%m-%dT%H:%M:%S.%f}+00:00"
    ring = " ".join(f"{lon:.9f},{lat:.9f}" for lon, lat in _ring(grid))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<ps:EarthObservation xmlns:gml="http://www.opengis.net/gml" xmlns:eop="http://earth.esa.int/eop" \
xmlns:opt="http://earth.esa.int/opt" \
xmlns:ps="http://schemas.planet.com/ps/v1/planet_product_metadata_geocorrected_level" version="1.2.1" \
planet_standard_product_version="1.0">
<gml:metaDataProperty><ps:EarthObservationMetaData><eop:identifier>{ident}_3B_{kind}</eop:identifier>\
<eop:acquisitionType>NOMINAL</eop:acquisitionType><eop:productType>L3B</eop:productType>\
<eop:status>ARCHIVED</eop:status></ps:EarthObservationMetaData></gml:metaDataProperty>
<gml:validTime><gml:TimePeriod><gml:beginPosition>{stamp}</gml:beginPosition><gml:endPosition>{stamp}</gml:endPosition>\
</gml:TimePeriod></gml:validTime>
<gml:using><eop:EarthObservationEquipment>
<eop:platform><ps:Platform><eop:shortName>PlanetScope</eop:shortName><eop:serialIdentifier>2475</eop:serialIdentifier>\
<eop:orbitType>LEO-SSO</eop:orbitType></ps:Platform></eop:platform>
<eop:instrument><eop:Instrument><eop:shortName>PS2</eop:shortName></eop:Instrument></eop:instrument>
<eop:sensor><ps:Sensor><eop:sensorType>OPTICAL</eop:sensorType><eop:resolution uom="m">3.0000</eop:resolution>\
<ps:scanType>FRAME</ps:scanType></ps:Sensor></eop:sensor>
<eop:acquisitionParameters><ps:Acquisition><eop:orbitDirection>DESCENDING</eop:orbitDirection>\
<eop:incidenceAngle uom="deg">2.300000e+00</eop:incidenceAngle>\
<opt:illuminationAzimuthAngle uom="deg">{day.sun.azimuth_deg:.6e}</opt:illuminationAzimuthAngle>\
<opt:illuminationElevationAngle uom="deg">{90.0 - day.sun.zenith_deg:.6e}</opt:illuminationElevationAngle>\
<ps:azimuthAngle uom="deg">1.020000e+02</ps:azimuthAngle><ps:spaceCraftViewAngle uom="deg">2.100000e+00\
</ps:spaceCraftViewAngle><ps:acquisitionDateTime>{stamp}</ps:acquisitionDateTime></ps:Acquisition>\
</eop:acquisitionParameters></eop:EarthObservationEquipment></gml:using>
<gml:target><ps:Footprint><gml:multiExtentOf><gml:MultiSurface srsName="EPSG:4326"><gml:surfaceMembers><gml:Polygon>\
<gml:exterior><gml:LinearRing><gml:coordinates>{ring}</gml:coordinates></gml:LinearRing></gml:exterior></gml:Polygon>\
</gml:surfaceMembers></gml:MultiSurface></gml:multiExtentOf></ps:Footprint></gml:target>
<gml:resultOf><ps:EarthObservationResult>
<eop:product><ps:ProductInformation><eop:fileName>{ident}_3B_{kind}.tif</eop:fileName>\
<ps:productFormat>GeoTIFF</ps:productFormat><ps:spatialReferenceSystem><ps:epsgCode>{grid.epsg}</ps:epsgCode>\
<ps:geodeticDatum>WGS_1984</ps:geodeticDatum></ps:spatialReferenceSystem><ps:resamplingKernel>CC</ps:resamplingKernel>\
<ps:numRows>{grid.rows}</ps:numRows><ps:numColumns>{grid.cols}</ps:numColumns><ps:numBands>4</ps:numBands>\
<ps:rowGsd>{PIXEL_M}</ps:rowGsd><ps:columnGsd>{PIXEL_M}</ps:columnGsd>\
<ps:radiometricCorrectionApplied>true</ps:radiometricCorrectionApplied></ps:ProductInformation></eop:product>
{"".join(_band(n, c) for n, c in enumerate(coefficients, 1))}<opt:cloudCoverPercentage uom="percentage">2.0\
</opt:cloudCoverPercentage><ps:unusableDataPercentage uom="percentage">2.0</ps:unusableDataPercentage>
</ps:EarthObservationResult></gml:resultOf>
</ps:EarthObservation>
"""


def _band(number: int, coefficient: float) -> str:
    return (
        f"<ps:bandSpecificMetadata><ps:bandNumber>{number}</ps:bandNumber>"
        f"<ps:radiometricScaleFactor>{RADIANCE_STEP}</ps:radiometricScaleFactor>"
        f"<ps:reflectanceCoefficient>{coefficient:.15e}</ps:reflectanceCoefficient></ps:bandSpecificMetadata>\n"
    )
