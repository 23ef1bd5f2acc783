"""RPB files (RPC00B as text, beside each channel of a product) -> rational polynomial coefficients."""

from __future__ import annotations

import re
from pathlib import Path

from rasterio.rpc import RPC

from catalog.metadata.xml import finite, refuse

_SCALARS = {
    "line_off": "lineOffset",
    "samp_off": "sampOffset",
    "lat_off": "latOffset",
    "long_off": "longOffset",
    "height_off": "heightOffset",
    "line_scale": "lineScale",
    "samp_scale": "sampScale",
    "lat_scale": "latScale",
    "long_scale": "longScale",
    "height_scale": "heightScale",
}
_POLYNOMIALS = {
    "line_num_coeff": "lineNumCoef",
    "line_den_coeff": "lineDenCoef",
    "samp_num_coeff": "sampNumCoef",
    "samp_den_coeff": "sampDenCoef",
}


def read_rpb(path: Path) -> RPC:
    """Offsets, scales and four polynomials of twenty coefficients; heights are above the ellipsoid.

    Raises
    ------
    MetadataError
        Naming the field that is missing, not finite or not twenty long.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise refuse(path, "the file", f"cannot be read ({error.strerror})", "an RPB text file") from error
    numbers = {ours: finite(path, theirs, _value(path, text, theirs)) for ours, theirs in _SCALARS.items()}
    for ours, theirs in _SCALARS.items():
        if ours.endswith("scale") and numbers[ours] <= 0:
            raise refuse(path, theirs, f"{numbers[ours]} divides nothing", "a number above 0")
    return RPC(**numbers, **{ours: _twenty(path, text, theirs) for ours, theirs in _POLYNOMIALS.items()})


def _value(path: Path, text: str, field: str) -> str:
    found = re.search(rf"\b{field}\s*=\s*([^;(]+);", text)
    if found is None:
        raise refuse(path, field, "is missing", f"a line {field} = NUMBER;")
    return found[1].strip()


def _twenty(path: Path, text: str, field: str) -> list[float]:
    found = re.search(rf"\b{field}\s*=\s*\(([^)]*)\)", text)
    if found is None:
        raise refuse(path, field, "is missing", f"{field} = (twenty numbers);")
    values = [finite(path, field, part) for part in found[1].replace(",", " ").split()]
    if len(values) != 20:
        raise refuse(path, field, f"has {len(values)} coefficients", "twenty")
    return values
