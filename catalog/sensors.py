"""The instruments as one table: bands, GSD, units, law, constants, known traps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Literal

ModalityName = Literal["opt", "ms", "sar_l1", "sar_l2"]
Law = Literal["reflectance", "radiance", "backscatter", "complex-amplitude"]
Geolocation = Literal["affine", "gcp", "rpc", "radar-grid"]

PROVIDERS: Mapping[str, str] = MappingProxyType(
    {
        "planetary-computer": "https://planetarycomputer.microsoft.com/api/stac/v1",
        "earth-search": "https://earth-search.aws.element84.com/v1",
        "usgs": "https://landsatlook.usgs.gov/stac-server",
        "cdse": "https://stac.dataspace.copernicus.eu/v1",
        "asf": "https://cmr.earthdata.nasa.gov/stac/ASF",
        "inpe": "https://data.inpe.br/bdc/stac/v1",
        "capella": "https://capella-open-data.s3.us-west-2.amazonaws.com/stac/catalog.json",
        "local": "`ringmoe register`",
    }
)
"""Where a provider's catalogue is; `local` is what was registered from folders."""


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
class QualityLayer:
    """One layer that a product ships to say what its pixels are good for."""

    name: str
    """Asset key of a registered product, as in SCL."""
    kind: Literal["classes", "bits", "bands"]
    """Whether a number of `meanings` is a pixel's value, a bit of it, or a raster band of the file."""
    meanings: Mapping[int, str]
    """Class, bit from 0, or raster band from 1, to its name in the product's document."""
    assets: Mapping[str, str] = field(default_factory=dict)
    """Provider to the asset's key there."""


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
    encoding: str = ""
    """How a pixel of the usual product is stored, as in uint16."""
    valid_range: tuple[float, float] | None = None
    """Least and greatest digital number that is a measurement; None where the whole type is."""
    collections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Provider to its collections, both in order of preference."""
    assets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Provider to band to asset key; a provider that is not listed, or a band, has the band's own name."""
    irradiance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Platform to band to solar irradiance, W / (m2 um), where satellites of one row differ."""
    looks: float = 1.0
    """Equivalent number of looks of the detected radar product; 1 where its maker states none."""
    quality_layer: str | None = None
    """Asset that says which pixels are cloud, shadow, snow; None where the sensor ships none."""
    quality_layers: tuple[QualityLayer, ...] = ()
    """All such layers, with what their numbers mean."""
    licence: str = ""
    """Licence of the data."""
    traps: tuple[str, ...] = ()
    """What goes wrong with it elsewhere, each with a link."""

    def band(self, name: str) -> Band:
        """The band of that name or common name; KeyError names what there is."""
        for band in self.bands:
            if name in (band.name, band.common_name):
                return band
        raise KeyError(f"{self.id} has no band {name}; it has {[b.name for b in self.bands]}")

    def asset(self, provider: str, band: str) -> str:
        """The key of the asset that holds a band in a provider's items."""
        return self.assets.get(provider, {}).get(band, band)

    def irradiance_of(self, platform: str, band: str) -> float | None:
        """Solar irradiance at one astronomical unit, W / (m2 um), of that satellite's band; None where unknown."""
        return self.irradiance.get(platform, {}).get(band, self.band(band).irradiance)


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

_SCL = QualityLayer(
    "SCL",
    "classes",
    {
        0: "no data",
        1: "saturated or defective",
        2: "cast shadow",
        3: "cloud shadow",
        4: "vegetation",
        5: "not vegetated",
        6: "water",
        7: "unclassified",
        8: "cloud, medium probability",
        9: "cloud, high probability",
        10: "thin cirrus",
        11: "snow or ice",
    },
    {"earth-search": "scl", "planetary-computer": "SCL", "cdse": "SCL_20m"},
)

_S2_EARTH_SEARCH = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B10": "cirrus",
    "B11": "swir16",
    "B12": "swir22",
}

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
    encoding="uint16",
    valid_range=(1, 65535),
    collections={
        "earth-search": ("sentinel-2-c1-l2a", "sentinel-2-l1c"),
        "planetary-computer": ("sentinel-2-l2a",),
        "cdse": ("sentinel-2-l2a", "sentinel-2-l1c"),
        "local": ("sentinel-2-l2a", "sentinel-2-l1c"),
    },
    assets={"earth-search": _S2_EARTH_SEARCH, "cdse": {n: f"{n}_{g:.0f}m" for n, _, _, _, g in _S2}},
    quality_layer="SCL",
    quality_layers=(_SCL,),
    licence="Copernicus Sentinel data terms",
    traps=(
        "the radiometric offset came with baseline 04.00 and reprocessing carried it back: a date tells nothing"
        " (https://github.com/torchgeo/torchgeo/issues/3224)",
        "items say that the offset is not in the pixels where it is, and the reverse"
        " (https://github.com/Element84/earth-search/issues/66)",
    ),
)

_QA_PIXEL = QualityLayer(
    "QA_PIXEL",
    "bits",
    {
        0: "fill",
        1: "dilated cloud",
        2: "cirrus",
        3: "cloud",
        4: "cloud shadow",
        5: "snow",
        6: "clear",
        7: "water",
        8: "cloud confidence (2 bits)",
        10: "cloud shadow confidence (2 bits)",
        12: "snow confidence (2 bits)",
        14: "cirrus confidence (2 bits)",
    },
    {"planetary-computer": "qa_pixel", "earth-search": "qa_pixel", "usgs": "qa_pixel"},
)
_QA_RADSAT = QualityLayer(
    "QA_RADSAT",
    "bits",
    {**{n: f"band {n + 1} saturated" for n in range(7)}, 8: "band 9 saturated", 11: "terrain occlusion"},
    {"planetary-computer": "qa_radsat", "earth-search": "qa_radsat", "usgs": "qa_radsat"},
)
_OLI = (
    ("B1", "coastal", 443.0, 16.0),
    ("B2", "blue", 482.0, 60.0),
    ("B3", "green", 561.5, 57.0),
    ("B4", "red", 654.5, 37.0),
    ("B5", "nir08", 865.0, 28.0),
    ("B6", "swir16", 1608.5, 85.0),
    ("B7", "swir22", 2200.5, 187.0),
)

LANDSAT = Sensor(
    id="landsat",
    platforms=("landsat-8", "landsat-9"),
    modality="ms",
    bands=_optical(30.0, *_OLI),
    law="reflectance",
    quantities={
        **dict.fromkeys(("L1TP", "L1GT", "L1GS"), "toa_reflectance"),
        **dict.fromkeys(("L2SP", "L2SR"), "surface_reflectance"),
    },
    units="1",
    formats=("landsat",),
    geolocation="affine",
    nodata=0,
    encoding="uint16",
    valid_range=(1, 65535),
    collections={
        "planetary-computer": ("landsat-c2-l2",),
        "earth-search": ("landsat-c2-l2",),
        "usgs": ("landsat-c2l2-sr", "landsat-c2l1"),
        "local": ("landsat-c2-l2", "landsat-c2-l1tp", "landsat-c2-l1gt", "landsat-c2-l1gs"),
    },
    assets={p: {n: c for n, c, _, _ in _OLI} for p in ("planetary-computer", "earth-search", "usgs")},
    quality_layer="QA_PIXEL",
    quality_layers=(_QA_PIXEL, _QA_RADSAT),
    licence="public domain (USGS)",
    traps=(
        "a reprocessed scene leaves dead links in catalogues that copied it (https://github.com/Element84/earth-search)",
        "surface reflectance is trusted for DN 7273 to 43636 only; negatives lie below"
        " (https://www.usgs.gov/landsat-missions/landsat-collection-2-surface-reflectance)",
        "level 1 is not divided by the sun's elevation, and the scene's one angle is off by a degree at its corners"
        " (https://www.usgs.gov/landsat-missions/using-usgs-landsat-level-1-data-product)",
    ),
)

_WORLDVIEW_2 = {
    "C": 1773.81,
    "B": 2007.27,
    "G": 1829.62,
    "Y": 1701.85,
    "R": 1538.85,
    "RE": 1346.09,
    "N": 1053.21,
    "N2": 856.599,
}

WORLDVIEW = Sensor(
    id="worldview",
    platforms=("worldview-2", "worldview-3"),
    modality="opt",
    bands=(
        Band("C", "coastal", 427.0, 50.0, gsd_m=2.0, irradiance=1757.89),
        Band("B", "blue", 478.0, 60.0, gsd_m=2.0, irradiance=2004.61),
        Band("G", "green", 546.0, 70.0, gsd_m=2.0, irradiance=1830.18),
        Band("Y", "yellow", 608.0, 40.0, gsd_m=2.0, irradiance=1712.07),
        Band("R", "red", 659.0, 60.0, gsd_m=2.0, irradiance=1535.33),
        Band("RE", "rededge", 724.0, 40.0, gsd_m=2.0, irradiance=1348.08),
        Band("N", "nir", 833.0, 125.0, gsd_m=2.0, irradiance=1055.94),
        Band("N2", "nir09", 949.0, 180.0, gsd_m=2.0, irradiance=858.77),
    ),
    law="radiance",
    quantities=dict.fromkeys(("LV1B", "LV2A", "LV3A", "LV3B", "LV3C", "LV3D", "LV3X"), "toa_reflectance"),
    units="1",
    formats=("worldview",),
    geolocation="affine",
    nodata=0,
    encoding="uint16",
    valid_range=(1, 65535),
    collections={"local": ("worldview",)},
    irradiance={"worldview-2": _WORLDVIEW_2},
    licence="commercial (Maxar EULA)",
    traps=(
        "radiance takes the absolute calibration factor over the effective bandwidth, per band; the vendor's yearly"
        " gain and offset of up to 15 % are in no metadata file"
        " (https://dg-cms-uploads-production.s3.amazonaws.com/uploads/document/file/209/"
        "ABSRADCAL_FLEET_2016v0_Rel20170606.pdf)",
        "the open data `visual` asset is stretched to 8 bits: no radiance can be made of it"
        " (https://maxar-opendata.s3.amazonaws.com/events/catalog.json)",
    ),
)

_CHINA_BRAZIL = (
    ("B", "blue", 485.0, 70.0, 1984.65),
    ("G", "green", 555.0, 70.0, 1823.40),
    ("R", "red", 660.0, 60.0, 1536.38),
    ("N", "nir", 830.0, 120.0, 981.91),
)
"""Four bands at 450-520, 520-590, 630-690 and 770-890 nm, with Thuillier's (2003) irradiance over CBERS's."""

GAOFEN_2 = Sensor(
    id="gaofen-2",
    platforms=("gaofen-2", "gaofen-1"),
    modality="opt",
    bands=_optical(3.24, *(row[:4] for row in _CHINA_BRAZIL)),
    law="radiance",
    quantities={"L1A": "toa_reflectance"},
    units="1",
    formats=("gaofen2",),
    geolocation="rpc",
    nodata=0,
    encoding="uint16",
    valid_range=(1, 1023),
    collections={"local": ("gaofen-2-l1a",)},
    licence="China Centre for Resources Satellite Data and Application terms",
    traps=(
        "gain and bias are published once a year outside of the product, and differ by camera"
        " (https://renrendoc.com/paper/215672794.html)",
        "StartTime and CenterTime are Beijing time, ReceiveTime is UTC"
        " (https://github.com/Terradue/Stars/tree/main/src/Stars.Data.Tests/Resources/CNSA)",
    ),
)

_UDM2 = QualityLayer(
    "UDM2",
    "bands",
    {
        1: "clear",
        2: "snow",
        3: "shadow",
        4: "light haze",
        5: "heavy haze",
        6: "cloud",
        7: "confidence, per cent",
        8: "unusable (UDM1 bits)",
    },
)

PLANETSCOPE = Sensor(
    id="planetscope",
    platforms=("planetscope",),
    modality="opt",
    bands=_optical(
        3.0,
        ("coastal_blue", "coastal", 441.5, 21.0),
        ("blue", "blue", 490.0, 50.0),
        ("green_i", "green05", 531.0, 36.0),
        ("green", "green", 565.0, 36.0),
        ("yellow", "yellow", 610.0, 20.0),
        ("red", "red", 665.0, 30.0),
        ("rededge", "rededge071", 705.0, 16.0),
        ("nir", "nir08", 865.0, 40.0),
    ),
    law="reflectance",
    quantities={"SR": "surface_reflectance", "L3B": "toa_reflectance", "L1B": "toa_reflectance"},
    units="1",
    formats=("planetscope",),
    geolocation="affine",
    nodata=0,
    encoding="uint16",
    valid_range=(1, 65535),
    collections={"local": ("planetscope-sr", "planetscope-l3b", "planetscope-l1b")},
    quality_layer="UDM2",
    quality_layers=(_UDM2,),
    licence="commercial (Planet EULA)",
    traps=(
        "reflectanceCoefficient holds the sun and its distance already: dividing by the sun's elevation divides twice"
        " (https://github.com/planetlabs/notebooks)",
        "four-band scenes of the first Doves are blue 455-515, green 500-590, red 590-670, nir 780-860 nm: wider than"
        " the row's (https://support.planet.com/hc/en-us/articles/35928274738333)",
    ),
)

_CMASK = QualityLayer("CMASK", "classes", {127: "clear", 255: "cloud or no data"}, {"inpe": "CMASK"})

CBERS_4A = Sensor(
    id="cbers-4a",
    platforms=("cbers-4a",),
    modality="ms",
    bands=tuple(Band(n, c, w, d, gsd_m=8.0, irradiance=e) for n, c, w, d, e in _CHINA_BRAZIL),
    law="radiance",
    quantities={"L4-SR": "surface_reflectance", "L4-DN": "toa_reflectance", "L2-DN": "toa_reflectance"},
    units="1",
    formats=("cbers4a",),
    geolocation="affine",
    nodata=0,
    encoding="uint16, int16 with -9999 at L4-SR",
    collections={
        "inpe": ("CB4A-WPM-L4-DN-1", "CB4A-MUX-L4-SR-1", "CB4A-MUX-L4-DN-1", "CB4A-WFI-L4-SR-1", "CB4A-WFI-L4-DN-1"),
        "local": ("cbers-4a-l4-sr", "cbers-4a-l4-dn", "cbers-4a-l2-dn"),
    },
    assets={"inpe": {"B": "BAND1", "G": "BAND2", "R": "BAND3", "N": "BAND4"}},
    quality_layer="CMASK",
    quality_layers=(_CMASK,),
    licence="CC BY-SA 3.0 (INPE)",
    traps=(
        "the three cameras number the same four bands 1-4 (WPM), 5-8 (MUX) and 13-16 (WFI)"
        " (https://docs.disasterscharter.org/concepts/opt/cbers-4)",
        "early WPM products have no absoluteCalibrationCoefficient in their XML: nothing says what a DN is worth"
        " (https://github.com/Terradue/Stars/tree/main/src/Stars.Data.Tests/Resources/INPE)",
        "the cloud mask's collection announces classes 0 to 4, its files hold 127 and 255"
        " (https://data.inpe.br/bdc/stac/v1/collections/CB4A-WFI-L4-SR-1)",
    ),
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
    encoding="uint16 amplitude; float32 power at RTC",
    valid_range=(1, 65535),
    looks=4.4,
    collections={
        "planetary-computer": ("sentinel-1-rtc", "sentinel-1-grd"),
        "asf": ("OPERA_L2_RTC-S1_V1",),
        "earth-search": ("sentinel-1-grd",),
        "cdse": ("sentinel-1-grd",),
        "local": ("sentinel-1-grd",),
    },
    assets={p: {"VV": "vv", "VH": "vh"} for p in ("planetary-computer", "earth-search", "cdse", "asf")},
    licence="Copernicus Sentinel data terms",
    traps=(
        "a GRD has no affine: its pixels are placed by orbit, timing and height, never by a bounding box"
        " (https://github.com/gjoseph92/stackstac/issues/181)",
        "RTC items keep the old proj:transform after a scene was reprocessed in place"
        " (https://github.com/microsoft/PlanetaryComputer/issues/417)",
        "some RTC scenes are filled with zeros (https://github.com/microsoft/PlanetaryComputer/issues/493)",
    ),
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
    encoding="complex int16",
    valid_range=(-32768, 32767),
    collections={"cdse": ("sentinel-1-slc",), "local": ("sentinel-1-slc",)},
    licence="Copernicus Sentinel data terms",
    traps=(
        "a swath is a row of bursts that overlap in time: each has a grid of its own, and zeros between them"
        " (https://github.com/bopen/xarray-sentinel)",
        "thermal noise is a power: it can be taken off a mean of |S|^2, never off S (https://sentinel.esa.int/documents/"
        "247904/2142675/Thermal-Denoising-of-Products-Generated-by-Sentinel-1-IPF)",
    ),
)

_PALSAR_MASK = QualityLayer(
    "PALSAR_MASK",
    "classes",
    {0: "no data", 50: "ocean and water", 100: "layover", 150: "shadow", 255: "land"},
    {"planetary-computer": "mask"},
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
    encoding="uint16 amplitude; complex at L1.1",
    valid_range=(1, 65535),
    collections={
        "planetary-computer": ("alos-palsar-mosaic",),
        "local": ("alos-2-mosaic", "alos-2-l1.5", "alos-2-l2.1", "alos-2-l3.1", "alos-2-l1.1"),
    },
    quality_layers=(_PALSAR_MASK,),
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
    encoding="int16 I and Q; uint16 amplitude at L2",
    valid_range=(-32768, 32767),
    collections={"local": ("gaofen-3-l1a", "gaofen-3-l2")},
    licence="China Centre for Resources Satellite Data and Application terms",
    traps=(
        "qualify value and constant differ per polarisation; the full scale is 32767 at L1A and 65535 at L2"
        " (https://github.com/ytkz11/SAR-IMAGE)",
    ),
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
    encoding="complex64 or complex int16",
    collections={"capella": ("capella-open-data",), "local": ("capella-slc",)},
    licence="CC BY 4.0; CC BY-SA 4.0 for SpaceNet 6",
    traps=("each polarisation has a scale factor of its own (https://spacenet.ai/sn6-challenge/)",),
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
    encoding="complex of two half or single floats",
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
    {
        s.id: s
        for s in (
            WORLDVIEW,
            GAOFEN_2,
            PLANETSCOPE,
            SENTINEL_2,
            LANDSAT,
            CBERS_4A,
            SENTINEL_1,
            ALOS_2,
            GAOFEN_3,
            SENTINEL_1_SLC,
            CAPELLA,
            NISAR,
        )
    }
)
"""Every instrument by its id."""
