"""Folders of images as sources of chips: PNG, JPEG, TIFF and whatever else GDAL opens."""

# Shape suffixes: C channels, H rows, W columns.
# rasterio is imported where it is used only: this file must import where only torch and numpy are installed.

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ringmoe.errors import DataError
from ringmoe.modality import BandSpec, Modality
from ringmoe.pictures import READ_ERRORS, Lost, Picture, Place, in_parts, reason

STRICT = {"GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE", "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO"}
"""Without these GDAL 3.x gives a damaged JPEG as grey, and a PNG cut short as whatever the memory held, in silence."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".jp2")
"""Of the files that a folder is searched for."""


@dataclass(frozen=True)
class ImageKind:
    """What the pixels of some images are: plain files do not say."""

    sensor: str
    """Row of catalog.sensors where there is one, else any name."""
    modality: Modality
    """The family of instruments."""
    bands: tuple[BandSpec, ...]
    """One per raster band, in the files' order; a complex one once."""
    quantity: str
    """As in surface_reflectance, or digital_number where nobody knows better."""
    units: str = "1"
    """Units of the quantity."""
    gsd_m: float | None = None
    """Ground sampling distance in metres; None takes each file's georeference, in metres."""
    scale: float = 1.0
    """What one count is worth, as in 1 / 255."""
    nodata: float | None = None
    """Count that means a band has no data; None takes what the file says of whole pixels."""
    looks: float | None = None
    """Equivalent number of looks of detected radar; None takes that of the sensor's row."""


class _Opened(NamedTuple):
    """What an image says of itself."""

    picture: Picture
    """Its name, size and place."""
    gsd_m: float
    """Of the kind, or of the file."""
    dtype: str
    """Of its counts."""


class ImageSource:
    """Images of one kind and one pixel size.

    Parameters
    ----------
    kind
        What the pixels are.
    files
        One for each picture.
    pictures
        Name, size and place of each.
    gsd_m
        Of all of them.
    dtype
        Of the counts.
    """

    mapped = False

    def __init__(
        self, kind: ImageKind, files: Sequence[Path], pictures: Sequence[Picture], gsd_m: float, dtype: str
    ) -> None:
        self.kind, self.files, self.pictures = kind, tuple(files), tuple(pictures)
        self.lost: Sequence[Lost] = ()
        bands = [{k: v for k, v in asdict(band).items() if k != "part"} for band in kind.bands]
        self.attrs: Mapping[str, Any] = {
            "sensor": kind.sensor,
            "modality": kind.modality.value,
            "quantity": kind.quantity,
            "units": kind.units,
            "gsd_m": gsd_m,
            "bands": bands,
            "looks": kind.looks,
            "tile": str(self.files[0].parent) if files else "no image",
            "counts": {"dtype": dtype, "scale": kind.scale},
        }

    def read(self, picture: int, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C, h, w) in the kind's units, NaN where a band has no data, and where any has some (h, w)."""
        import rasterio
        from rasterio.windows import Window

        window = Window.from_slices(rows, columns)
        channels = list(range(1, len(self.kind.bands) + 1))
        with rasterio.Env(**STRICT), rasterio.open(self.files[picture]) as image:
            counts = image.read(channels, window=window)
            valid = image.dataset_mask(window=window) > 0
        missing = np.zeros(counts.shape, dtype=bool) if self.kind.nodata is None else counts == self.kind.nodata
        if np.iscomplexobj(counts):
            counts, missing = in_parts(counts), missing.repeat(2, axis=0)
        pixels = counts.astype(np.float32) * np.float32(self.kind.scale)
        pixels[missing | ~valid] = np.nan
        return pixels, np.isfinite(pixels).any(axis=0)


def open_images(files: str | Path | Sequence[str | Path], kind: ImageKind) -> list[ImageSource]:
    """Images as sources, one for each pixel size there is.

    Files that cannot be opened, or have too few raster bands, are listed as lost; a sampler refuses too many of them.

    Parameters
    ----------
    files
        Files, or a folder, of which all images below it are taken in the order of their paths.
    kind
        What their pixels are.

    Raises
    ------
    DataError
        When there is no image, or neither the kind nor a file says how large its pixels are.
    """
    from rasterio.errors import NotGeoreferencedWarning

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # plain images have none, as their kind knows
    paths = image_files(files) if isinstance(files, str | Path) else [Path(file) for file in files]
    opened: dict[tuple[float, str], tuple[list[Path], list[Picture]]] = {}
    lost: list[Lost] = []
    for path in paths:
        try:
            found = _opened(path, kind)
        except READ_ERRORS as error:
            lost.append(Lost(str(path), reason(error)))
            continue
        group = opened.setdefault((found.gsd_m, found.dtype), ([], []))
        group[0].append(path)
        group[1].append(found.picture)
    sources = [ImageSource(kind, *group, gsd_m, dtype) for (gsd_m, dtype), group in opened.items()]
    if not sources:
        first = f", as {lost[0].name} ({lost[0].reason})" if lost else ""
        raise DataError(
            f"there is no image of modality {kind.modality.value}",
            item=f"{files if isinstance(files, str | Path) else 'the files given'}: {len(lost)} unreadable{first}",
            enough=f"one file {', '.join(SUFFIXES)} of {len(kind.bands)} raster bands",
            todo="check the folder and the description of its bands",
        )
    sources[0].lost = tuple(lost)
    return sources


def image_files(folder: str | Path) -> list[Path]:
    """All images below a folder, by path."""
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)


def _opened(path: Path, kind: ImageKind) -> _Opened:
    import rasterio

    with rasterio.open(path) as image:
        if image.count < len(kind.bands):
            raise ValueError(f"{image.count} raster bands instead of {len(kind.bands)}")
        a, b, left, d, e, top = tuple(image.transform)[:6]
        metric = image.crs is not None and image.crs.is_projected
        square = abs(b) + abs(d) <= 1e-9 * abs(a) and abs(a + e) <= 1e-6 * abs(a)
        place = Place(image.crs.to_string(), left, top, a) if metric and square else None
        gsd_m = kind.gsd_m
        if gsd_m is None and place is not None:
            gsd_m = a * float(image.crs.linear_units_factor[1])
        if gsd_m is None:
            raise DataError(
                "nobody says how large the pixels of an image are",
                item=str(path),
                enough="a ground sampling distance in metres, or a file with square pixels in a projected CRS",
                todo="state it: ImageKind(gsd_m=...)",
            )
        return _Opened(Picture(str(path), image.height, image.width, place), gsd_m, image.dtypes[0])
