"""What a raster file says of itself: shape, CRS, affine, tags, and whether every block of it is there."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from catalog.errors import AssetError
from catalog.metadata.tiff import bytes_needed
from catalog.metadata.web import remote, remote_options


@dataclass(frozen=True)
class RasterHeader:
    """The header of one raster file."""

    href: str
    """Where it lies."""
    driver: str
    """GDAL's name of the format, as in GTiff."""
    count: int
    """Number of raster bands."""
    shape: tuple[int, int]
    """Rows, columns."""
    dtype: str
    """Of the first raster band, as in uint16, complex64, complex_int16."""
    crs: str | None
    """As in EPSG:32632; None where the file names none."""
    transform: tuple[float, float, float, float, float, float] | None
    """Affine a, b, c, d, e, f; None where the file has none."""
    nodata: float | None
    """Of the first raster band."""
    tags: Mapping[str, str]
    """The file's own tags."""

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """West, south, east, north in the file's CRS, of the rectangle around its corners."""
        if self.transform is None:
            return None
        xs, ys = zip(*self.corners, strict=True)
        return (min(xs), min(ys), max(xs), max(ys))

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """Outer corners in the file's CRS: upper left, upper right, lower right, lower left."""
        a, b, c, d, e, f = self.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        rows, cols = self.shape
        return tuple((a * x + b * y + c, d * x + e * y + f) for x, y in ((0, 0), (cols, 0), (cols, rows), (0, rows)))


@contextmanager
def opened(href: str) -> Iterator[DatasetReader]:
    """A raster, opened for reading; whatever GDAL refuses in the block is an AssetError that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with _reaching(href), rasterio.open(href) as dataset:
                yield dataset
    except RasterioError as error:
        raise unreadable(href, error) from None


def _reaching(href: str) -> AbstractContextManager[Any]:
    return rasterio.Env(**remote_options()) if remote(href) else nullcontext()


def unreadable(href: str, error: Exception | str) -> AssetError:
    """The error of a file that cannot be read, to be raised by the caller."""
    missing = "://" not in href and not Path(href).exists()
    return AssetError(
        "a file is missing" if missing else f"a file cannot be read ({error})",
        item=href,
        enough="the whole file, as its provider published it",
        todo="fetch the file again, then register the product again",
    )


def read_header(href: str) -> RasterHeader:
    """The header of a raster file.

    Raises
    ------
    AssetError
        Missing, or no raster that GDAL can open.
    """
    with opened(href) as src:
        # Of a file placed by ground control points rasterio still gives the points' CRS; of its windows GDAL
        # makes a shift by whole pixels.
        t = src.transform
        plain = t.is_identity or ("srcwin=" in href and (t.a, t.b, t.d, t.e) == (1, 0, 0, 1))
        return RasterHeader(
            href=href,
            driver=src.driver,
            count=src.count,
            shape=(src.height, src.width),
            dtype=str(src.dtypes[0]),
            crs=None if plain or src.crs is None else _crs_name(src),
            transform=None if plain else tuple(float(v) for v in src.transform[:6]),  # type: ignore[arg-type]
            nodata=src.nodatavals[0],
            tags=dict(src.tags()),
        )


def check_complete(href: str, decode: bool = True) -> None:
    """Refuse a local file that ends before its last block, or (`decode`) whose last block cannot be decoded.

    Raises
    ------
    AssetError
        Naming the file, and how many bytes are missing where the format says so.
    """
    path = Path(href)
    with opened(href) as src:
        if src.driver in ("GTiff", "COG"):
            _check_blocks(path)
        elif src.driver == "JP2OpenJPEG":
            _check_codestream(path)
        if not decode:
            return
        rows, cols = src.block_shapes[0]
        row, col = (src.height - 1) // rows * rows, (src.width - 1) // cols * cols
        src.read(1, window=Window(col, row, src.width - col, src.height - row))


def _crs_name(src: DatasetReader) -> str:
    code = src.crs.to_epsg()
    return f"EPSG:{code}" if code else str(src.crs.to_wkt())


def _check_blocks(path: Path) -> None:
    """A TIFF's size against what its directories list; no block is decoded."""
    short = (bytes_needed(path) or 0) - path.stat().st_size
    if short > 0:
        raise unreadable(str(path), f"cut off: it ends {short} bytes before its last block or tag")


def _check_codestream(path: Path) -> None:
    """A JPEG 2000 file must hold its code stream to the end-of-codestream marker (ISO 15444-1, A.4.4)."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        place = 0
        while place + 8 <= size:
            file.seek(place)
            length, kind = struct.unpack(">I4s", file.read(8))
            if length == 1:
                (length,) = struct.unpack(">Q", file.read(8))
            end = size if length == 0 else place + length
            if kind == b"jp2c":
                file.seek(max(end - 2, 0))
                if end > size or file.read(2) != b"\xff\xd9":
                    raise unreadable(str(path), "cut off: its code stream has no end")
                return
            if length and length < 8:
                break
            place = end
    if path.read_bytes()[:2] != b"\xff\x4f":
        raise unreadable(str(path), "cut off: it holds no code stream")
