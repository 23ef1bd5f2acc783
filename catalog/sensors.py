"""The instruments as one table: bands, GSD, units, law, constants, known traps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Literal

ModalityName = Literal["opt", "ms", "sar_l1", "sar_l2"]
Law = Literal["reflectance", "radiance", "backscatter", "complex-amplitude"]
Geolocation = Literal["affine", "rpc", "radar-grid"]


class Quality(IntEnum):
    """What a pixel is good for, in one vocabulary over all sensors; kept in the cube's `quality` layer."""

    NO_DATA = 0
    CLEAR = 1
    CLOUD = 2
    SHADOW = 3
    CIRRUS = 4
    SNOW = 5
    SATURATED = 6
    BORDER = 7


USABLE = (Quality.CLEAR, Quality.SNOW)
"""The qualities whose pixels show the ground."""


@dataclass(frozen=True)
class Band:
    """One channel of an instrument."""

    name: str
    """Name in the product, as in B04 or VV."""
    common_name: str = ""
    """STAC common name, as in red; empty for radar."""
    centre_nm: float | None = None
    """Centre wavelength in nm; None for radar."""
    width_nm: float | None = None
    """Full width at half maximum in nm; None for radar."""
    frequency_ghz: float | None = None
    """Radar centre frequency in GHz; None for optical."""
    polarisation: str | None = None
    """Transmit and receive polarisation, as in VH; None for optical."""
    gsd_m: float = 0.0
    """Ground sampling distance in metres."""
    irradiance: float | None = None
    """Solar irradiance at one astronomical unit, W / (m2 um), for laws that start from radiance."""


@dataclass(frozen=True)
class Sensor:
    """One row of the table: all that the rest of the house needs to know of an instrument."""

    id: str
    """Our name, as in sentinel-2."""
    platforms: tuple[str, ...]
    """STAC platform names that belong to the row, lower case."""
    modality: ModalityName
    """The family of instruments an expert serves."""
    bands: tuple[Band, ...]
    """In the order that a cube keeps them."""
    law: Law
    """Which law turns digital numbers into a physical quantity."""
    quantities: Mapping[str, str]
    """Processing level to the quantity that its calibrated pixels are."""
    units: str
    """Units of that quantity; 1 for a fraction or linear power."""
    formats: tuple[str, ...]
    """Product formats that hold it, modules of catalog.formats, the usual one first."""
    geolocation: Geolocation
    """How a pixel of the usual product finds its place on the Earth."""
    nodata: float | None
    """Digital number that means nothing was measured."""
    collections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Provider to its collections, both in order of preference."""
    quality_layer: str | None = None
    """Asset that says which pixels are cloud, shadow, snow; None where the sensor ships none."""
    licence: str = ""
    """Licence of the data."""
    traps: tuple[str, ...] = ()
    """What goes wrong with it elsewhere."""

    def band(self, name: str) -> Band:
        """The band of that name or common name; KeyError names what there is."""
        for band in self.bands:
            if name in (band.name, band.common_name):
                return band
        raise KeyError(f"{self.id} has no band {name}; it has {[b.name for b in self.bands]}")


def _optical(gsd_m: float, *rows: tuple[str, str, float, float]) -> tuple[Band, ...]:
    return tuple(Band(name, common, centre, width, gsd_m=gsd_m) for name, common, centre, width in rows)


def _radar(gsd_m: float, frequency_ghz: float, *polarisations: str) -> tuple[Band, ...]:
    return tuple(Band(p, frequency_ghz=frequency_ghz, polarisation=p, gsd_m=gsd_m) for p in polarisations)


_S2 = (
    ("B01", "coastal", 442.7, 20.0, 60.0),
    ("B02", "blue", 492.7, 65.0, 10.0),
    ("B03", "green", 559.8, 35.0, 10.0),
    ("B04", "red", 664.6, 30.0, 10.0),
    ("B05", "rededge071", 704.1, 14.0, 20.0),
    ("B06", "rededge075", 740.5, 14.0, 20.0),
    ("B07", "rededge078", 782.8, 19.0, 20.0),
    ("B08", "nir", 832.8, 105.0, 10.0),
    ("B8A", "nir08", 864.7, 21.0, 20.0),
    ("B09", "nir09", 945.1, 19.0, 60.0),
    ("B10", "cirrus", 1373.5, 29.0, 60.0),
    ("B11", "swir16", 1613.7, 90.0, 20.0),
    ("B12", "swir22", 2202.4, 174.0, 20.0),
)

SENTINEL_2 = Sensor(
    id="sentinel-2",
    platforms=("sentinel-2a", "sentinel-2b", "sentinel-2c"),
    modality="ms",
    bands=tuple(Band(n, c, w, d, gsd_m=g) for n, c, w, d, g in _S2),
    law="reflectance",
    quantities={"L1C": "toa_reflectance", "L2A": "surface_reflectance"},
    units="1",
    formats=("sentinel2", "sen1floods11"),
    geolocation="affine",
    nodata=0,
    collections={
        "earth-search": ("sentinel-2-c1-l2a", "sentinel-2-l1c"),
        "planetary-computer": ("sentinel-2-l2a",),
        "local": ("sentinel-2-l2a", "sentinel-2-l1c"),
    },
    quality_layer="SCL",
    licence="Copernicus Sentinel data terms",
    traps=("the radiometric offset came with baseline 04.00 and reprocessing carried it back: a date tells nothing",),
)

LANDSAT = Sensor(
    id="landsat",
    platforms=("landsat-8", "landsat-9"),
    modality="ms",
    bands=_optical(
        30.0,
        ("B1", "coastal", 443.0, 16.0),
        ("B2", "blue", 482.0, 60.0),
        ("B3", "green", 561.5, 57.0),
        ("B4", "red", 654.5, 37.0),
        ("B5", "nir08", 865.0, 28.0),
        ("B6", "swir16", 1608.5, 85.0),
        ("B7", "swir22", 2200.5, 187.0),
    ),
    law="reflectance",
    quantities={"L1TP": "toa_reflectance", "L2SP": "surface_reflectance"},
    units="1",
    formats=("landsat",),
    geolocation="affine",
    nodata=0,
    collections={
        "planetary-computer": ("landsat-c2-l2",),
        "earth-search": ("landsat-c2-l2",),
        "local": ("landsat-c2-l2",),
    },
    quality_layer="QA_PIXEL",
    licence="public domain (USGS)",
    traps=("a reprocessed scene leaves dead links in catalogues that copied it",),
)

WORLDVIEW = Sensor(
    id="worldview",
    platforms=("worldview-2", "worldview-3"),
    modality="opt",
    bands=(
        Band("B", "blue", 478.0, 60.0, gsd_m=2.0, irradiance=2004.61),
        Band("G", "green", 546.0, 70.0, gsd_m=2.0, irradiance=1830.18),
        Band("R", "red", 659.0, 60.0, gsd_m=2.0, irradiance=1535.33),
    ),
    law="radiance",
    quantities={"LV2A": "toa_reflectance", "LV3A": "toa_reflectance"},
    units="1",
    formats=("worldview",),
    geolocation="affine",
    nodata=0,
    collections={"local": ("worldview",)},
    licence="commercial (Maxar EULA)",
    traps=("radiance takes the absolute calibration factor over the effective bandwidth, per band",),
)

SENTINEL_1 = Sensor(
    id="sentinel-1",
    platforms=("sentinel-1a", "sentinel-1b", "sentinel-1c"),
    modality="sar_l2",
    bands=_radar(10.0, 5.405, "VV", "VH"),
    law="backscatter",
    quantities={"GRD": "sigma_nought", "RTC": "gamma_nought"},
    units="1",
    formats=("sentinel1", "sen1floods11"),
    geolocation="radar-grid",
    nodata=0,
    collections={
        "planetary-computer": ("sentinel-1-rtc", "sentinel-1-grd"),
        "earth-search": ("sentinel-1-grd",),
        "local": ("sentinel-1-grd",),
    },
    licence="Copernicus Sentinel data terms",
    traps=("a GRD has no affine: its pixels are placed by orbit, timing and height, never by a bounding box",),
)

SENTINEL_1_SLC = Sensor(
    id="sentinel-1-slc",
    platforms=(),
    modality="sar_l1",
    bands=_radar(14.0, 5.405, "VV", "VH", "HH", "HV"),
    law="complex-amplitude",
    quantities={"SLC": "sigma_nought_amplitude"},
    units="1",
    formats=("sentinel1_slc",),
    geolocation="radar-grid",
    nodata=0,
    collections={"local": ("sentinel-1-slc",)},
    licence="Copernicus Sentinel data terms",
    traps=(
        "a swath is a row of bursts that overlap in time: each has a grid of its own, and zeros between them"
        " (https://github.com/bopen/xarray-sentinel)",
        "thermal noise is a power: it can be taken off a mean of |S|^2, never off S (https://sentinel.esa.int/documents/"
        "247904/2142675/Thermal-Denoising-of-Products-Generated-by-Sentinel-1-IPF)",
    ),
)

ALOS_2 = Sensor(
    id="alos-2",
    platforms=("alos-2",),
    modality="sar_l2",
    bands=_radar(25.0, 1.2575, "HH", "HV", "VH", "VV"),
    law="backscatter",
    quantities={
        "MOSAIC": "gamma_nought",
        "L1.5": "sigma_nought",
        "L2.1": "sigma_nought",
        "L3.1": "sigma_nought",
        "L1.1": "sigma_nought_amplitude",
    },
    units="1",
    formats=("palsar2",),
    geolocation="affine",
    nodata=0,
    collections={
        "planetary-computer": ("alos-palsar-mosaic",),
        "local": ("alos-2-mosaic", "alos-2-l1.5", "alos-2-l2.1", "alos-2-l3.1", "alos-2-l1.1"),
    },
    licence="JAXA ALOS-2 terms; the mosaic is free of charge with the source named",
    traps=(
        "the mosaic is gamma nought, a scene is sigma nought: the constant is -83 dB in both, and level 1.1 takes 32 dB"
        " more off (https://www.eorc.jaxa.jp/ALOS-2/en/calval/calval_index_20141120.htm)",
    ),
)

GAOFEN_3 = Sensor(
    id="gaofen-3",
    platforms=("gaofen-3", "gaofen-3-02", "gaofen-3-03"),
    modality="sar_l1",
    bands=_radar(8.0, 5.4, "HH", "HV", "VH", "VV"),
    law="complex-amplitude",
    quantities={"L1A": "sigma_nought_amplitude", "L2": "sigma_nought"},
    units="1",
    formats=("gaofen3",),
    geolocation="rpc",
    nodata=0,
    collections={"local": ("gaofen-3-l1a", "gaofen-3-l2")},
    licence="China Centre for Resources Satellite Data and Application terms",
    traps=("qualify value and constant differ per polarisation; the full scale is 32767 at L1A and 65535 at L2",),
)

CAPELLA = Sensor(
    id="capella",
    platforms=("capella-airborne", "capella"),
    modality="sar_l1",
    bands=_radar(0.5, 9.65, "HH", "HV", "VH", "VV"),
    law="complex-amplitude",
    quantities={"SLC": "sigma_nought_amplitude"},
    units="1",
    formats=("capella",),
    geolocation="affine",
    nodata=None,
    collections={"local": ("capella-slc",)},
    licence="CC BY 4.0; CC BY-SA 4.0 for SpaceNet 6",
    traps=("each polarisation has a scale factor of its own",),
)

NISAR = Sensor(
    id="nisar",
    platforms=("nisar",),
    modality="sar_l1",
    bands=_radar(10.0, 1.257, "HH", "HV", "VH", "VV"),
    law="complex-amplitude",
    quantities={"RSLC": "sigma_nought_amplitude"},
    units="1",
    formats=("nisar",),
    geolocation="radar-grid",
    nodata=0,
    collections={"local": ("nisar-rslc",)},
    licence="NASA and ISRO open data",
    traps=(
        "frequency A and B are two images of one pass, each with a range spacing of its own, and their channels are"
        " pairs of half floats that numpy has no type for (https://github.com/isce-framework/isce3)",
        "the tables divide the amplitude: sigma nought is |DN|^2 over the table squared"
        " (https://forum.earthdata.nasa.gov/viewtopic.php?f=7&p=25489#p25489)",
    ),
)

SENSORS: Mapping[str, Sensor] = MappingProxyType(
    {s.id: s for s in (WORLDVIEW, SENTINEL_2, LANDSAT, SENTINEL_1, SENTINEL_1_SLC, ALOS_2, GAOFEN_3, CAPELLA, NISAR)}
)
"""Every instrument by its id."""
