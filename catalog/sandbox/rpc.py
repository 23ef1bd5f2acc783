"""Rational polynomial coefficients fitted to a radar frame, and the RPB text that carries them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Rpc:
    """Line and sample as ratios of cubic polynomials of place and height; whole numbers are pixel centres."""

    offset: FloatArray
    """Line, sample, latitude, longitude, height."""
    scale: FloatArray
    """In the same order."""
    line: tuple[FloatArray, FloatArray]
    """Numerator and denominator, 20 coefficients each, in the order of `terms`."""
    sample: tuple[FloatArray, FloatArray]
    """Numerator and denominator."""

    def project(self, longitude_deg: FloatArray, latitude_deg: FloatArray, height_m: FloatArray
                ) -> tuple[FloatArray, FloatArray]:  # fmt: skip
        """Line and sample of places; any one shape."""
        lat, lon, h = (
            (v - o) / s
            for v, o, s in zip((latitude_deg, longitude_deg, height_m), self.offset[2:], self.scale[2:], strict=True)
        )
        basis = terms(lon, lat, h)
        ratios = [(basis @ n) / (basis @ d) for n, d in (self.line, self.sample)]
        return ratios[0] * self.scale[0] + self.offset[0], ratios[1] * self.scale[1] + self.offset[1]


def terms(lon: FloatArray, lat: FloatArray, h: FloatArray) -> FloatArray:
    """The 20 cubic terms (..., 20) in the order of RPC00B (NITF STDI-0002, E.2.5)."""
    p, q, r = lon, lat, h
    one = np.ones_like(p)
    rows = (
        one, p, q, r, p * q, p * r, q * r, p * p, q * q, r * r, p * q * r, p**3, p * q * q, p * r * r, p * p * q,
        q**3, q * r * r, p * p * r, q * q * r, r**3,
    )  # fmt: skip
    return np.stack(rows, -1)


def fit(longitude_deg: FloatArray, latitude_deg: FloatArray, height_m: FloatArray, line: FloatArray, sample: FloatArray
        ) -> Rpc:  # fmt: skip
    """Fit to points (n,) by linearised least squares with a small ridge on the denominators."""
    columns = (line, sample, latitude_deg, longitude_deg, height_m)
    offset = np.array([(c.max() + c.min()) / 2 for c in columns])
    scale = np.array([(c.max() - c.min()) / 2 for c in columns])
    offset, scale = offset.round(8), np.maximum(scale, 1e-6).round(8)
    y_line, y_sample, lat, lon, h = ((c - o) / s for c, o, s in zip(columns, offset, scale, strict=True))
    basis = terms(lon, lat, h)
    return Rpc(offset, scale, _ratio(basis, y_line), _ratio(basis, y_sample))


def _ratio(basis: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    system = np.concatenate([basis, -y[:, None] * basis[:, 1:]], axis=1)
    ridge = np.diag(np.r_[np.full(20, 1e-9), np.full(19, 1e-4)]) * np.sqrt(len(y))
    left, right = np.concatenate([system, ridge]), np.concatenate([y, np.zeros(39)])
    solved = np.linalg.lstsq(left, right, rcond=None)[0]
    return solved[:20], np.r_[1.0, solved[20:]]


def rpb(model: Rpc, satellite: str, band: str) -> str:
    """The RPB text of a model."""
    names = ("line", "samp", "lat", "long", "height")
    offsets = "".join(f"\t{n}Offset = {v:.8f};\n" for n, v in zip(names, model.offset, strict=True))
    scales = "".join(f"\t{n}Scale = {v:.8f};\n" for n, v in zip(names, model.scale, strict=True))
    coefficients = "".join(
        f"\t{name} = (\n" + ",\n".join(f"\t\t\t{v:+.15E}" for v in values) + ");\n"
        for name, values in (
            ("lineNumCoef", model.line[0]),
            ("lineDenCoef", model.line[1]),
            ("sampNumCoef", model.sample[0]),
            ("sampDenCoef", model.sample[1]),
        )
    )
    return (
        f'satId = "{satellite}";\nbandId = "{band}";\nSpecId = "RPC00B";\nBEGIN_GROUP = IMAGE\n\terrBias = 0.0;\n'
        f"\terrRand = 0.0;\n{offsets}{scales}{coefficients}END_GROUP = IMAGE\nEND;\n"
    )
