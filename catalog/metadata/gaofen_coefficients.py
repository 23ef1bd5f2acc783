"""Gaofen-1 and 2: absolute calibration coefficients of each year with their source, and solar irradiance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

BANDS = ("B", "G", "R", "N")
"""Order of the table's numbers, which is that of the image's raster bands."""

NOTICE = "https://renrendoc.com/paper/215672794.html"
"""The centre's own notice for 2017 (CRESDA, absolute calibration of the land satellites), with
L = Gain DN + Bias in W m-2 sr-1 um-1."""

COMPILED = "https://github.com/desertstsung/Snowy-Dove, sd_radcalcoeff_{year}.pro, after the notice of CRESDA"
"""Where the notices of the other years are typed out; its numbers of 2017 are those of the notice."""

IRRADIANCE_SOURCE = "band means published by CRESDA, as open calibration scripts hold them; of Gaofen-2 in one of them"
"""No document with the irradiance was at hand: two independent scripts agree on Gaofen-1's PMS; its WFV and Gaofen-2
stand in one."""

Four = tuple[float, float, float, float]


@dataclass(frozen=True)
class Coefficients:
    """L = gain DN + bias of one camera in one year, W m-2 sr-1 um-1."""

    gain: Four
    """Per digital number, blue, green, red, near infrared."""
    source: str
    """Where the numbers are from."""
    bias: Four = (0.0, 0.0, 0.0, 0.0)
    """At digital number 0."""


def _year(year: int, gain: Four, bias: Four = (0.0, 0.0, 0.0, 0.0)) -> tuple[int, Coefficients]:
    return year, Coefficients(gain, NOTICE if year == 2017 else COMPILED.format(year=year), bias)


COEFFICIENTS: Mapping[str, Mapping[int, Coefficients]] = MappingProxyType(
    {
        "GF1 PMS1": dict(
            [
                _year(2013, (0.2082, 0.1672, 0.1748, 0.1883), (4.6186, 4.8768, 4.8924, -9.4771)),
                _year(2014, (0.2247, 0.1892, 0.1889, 0.1939)),
                _year(2015, (0.2110, 0.1802, 0.1806, 0.1870)),
                _year(2016, (0.2320, 0.1870, 0.1795, 0.1960)),
                _year(2017, (0.1424, 0.1177, 0.1194, 0.1135)),
                _year(2018, (0.1530, 0.1356, 0.1366, 0.1272)),
            ]
        ),
        "GF1 PMS2": dict(
            [
                _year(2013, (0.2072, 0.1776, 0.1770, 0.1909), (7.5348, 3.9395, -1.7445, -7.2053)),
                _year(2014, (0.2419, 0.2047, 0.2009, 0.2058)),
                _year(2015, (0.2242, 0.1887, 0.1882, 0.1963)),
                _year(2016, (0.2240, 0.1851, 0.1793, 0.1863)),
                _year(2017, (0.1460, 0.1248, 0.1274, 0.1255)),
                _year(2018, (0.1523, 0.1382, 0.1403, 0.1334)),
            ]
        ),
        "GF1 WFV1": dict(
            [
                _year(2014, (0.2004, 0.1648, 0.1243, 0.1563)),
                _year(2015, (0.1816, 0.1560, 0.1412, 0.1368)),
                _year(2016, (0.1843, 0.1477, 0.1220, 0.1365)),
                _year(2017, (0.2165, 0.1685, 0.1354, 0.1507)),
                _year(2018, (0.1824, 0.1546, 0.1270, 0.1344)),
                _year(2019, (0.2144, 0.1647, 0.1228, 0.1213)),
                _year(2020, (0.19319, 0.16041, 0.12796, 0.13405)),
            ]
        ),
        "GF1 WFV2": dict(
            [
                _year(2014, (0.1733, 0.1383, 0.1122, 0.1391)),
                _year(2015, (0.1684, 0.1527, 0.1373, 0.1263)),
                _year(2016, (0.1929, 0.1540, 0.1349, 0.1359)),
                _year(2017, (0.2097, 0.1630, 0.1339, 0.1521)),
                _year(2018, (0.1851, 0.1538, 0.1231, 0.1314)),
                _year(2019, (0.2368, 0.1745, 0.1254, 0.1163)),
                _year(2020, (0.2057, 0.1648, 0.1260, 0.1187)),
            ]
        ),
        "GF1 WFV3": dict(
            [
                _year(2014, (0.1391, 0.1514, 0.1257, 0.1462)),
                _year(2015, (0.1770, 0.1589, 0.1385, 0.1344)),
                _year(2016, (0.1753, 0.1565, 0.1480, 0.1322)),
                _year(2017, (0.1870, 0.1619, 0.1295, 0.1383)),
                _year(2018, (0.1894, 0.1728, 0.1343, 0.1373)),
                _year(2019, (0.2139, 0.1797, 0.1344, 0.1337)),
                _year(2020, (0.2106, 0.1825, 0.1346, 0.1187)),
            ]
        ),
        "GF1 WFV4": dict(
            [
                _year(2014, (0.1713, 0.1600, 0.1497, 0.1435)),
                _year(2015, (0.1886, 0.1645, 0.1467, 0.1378)),
                _year(2016, (0.1973, 0.1714, 0.1500, 0.1572)),
                _year(2017, (0.1770, 0.1521, 0.1322, 0.1349)),
                _year(2018, (0.1866, 0.1599, 0.1307, 0.1251)),
                _year(2019, (0.2442, 0.1945, 0.1547, 0.1037)),
                _year(2020, (0.2522, 0.2029, 0.1528, 0.1031)),
            ]
        ),
        "GF2 PMS1": dict(
            [
                _year(2014, (0.1585, 0.1883, 0.1740, 0.1897), (-0.8765, -0.9742, -0.7652, -0.7233)),
                _year(2015, (0.1457, 0.1604, 0.1550, 0.1731)),
                _year(2016, (0.1322, 0.1550, 0.1477, 0.1613)),
                _year(2017, (0.1193, 0.1530, 0.1424, 0.1569)),
                _year(2018, (0.1356, 0.1736, 0.1644, 0.1788)),
                _year(2019, (0.1453, 0.1826, 0.1727, 0.1908)),
                _year(2020, (0.1378, 0.1778, 0.1700, 0.1858)),
            ]
        ),
        "GF2 PMS2": dict(
            [
                _year(2014, (0.1748, 0.1817, 0.1741, 0.1975), (-0.5930, -0.2717, -0.2879, -0.2773)),
                _year(2015, (0.1761, 0.1843, 0.1677, 0.1830)),
                _year(2016, (0.1762, 0.1856, 0.1754, 0.1980)),
                _year(2017, (0.1434, 0.1595, 0.1511, 0.1685)),
                _year(2018, (0.1859, 0.2072, 0.1934, 0.2180)),
                _year(2019, (0.1750, 0.1902, 0.1770, 0.1968)),
                _year(2020, (0.1752, 0.1919, 0.1804, 0.1968)),
            ]
        ),
    }
)
"""Satellite and camera to the coefficients of each year.

Left out, because what was found cannot be trusted: the wide cameras of 2013 (numbers of another form, about 6, whose
law no document at hand gives), the PMS cameras of Gaofen-1 after 2018 (both cameras with the same numbers) and 2021
(a copy of 2020, as its compiler says)."""

IRRADIANCE: Mapping[str, Four] = MappingProxyType(
    {
        "GF1 PMS1": (1944.98, 1854.42, 1542.63, 1080.81),
        "GF1 PMS2": (1945.34, 1854.15, 1543.62, 1081.93),
        "GF1 WFV1": (1968.66, 1849.43, 1570.88, 1078.97),
        "GF1 WFV2": (1955.02, 1847.56, 1568.89, 1087.96),
        "GF1 WFV3": (1956.54, 1840.78, 1540.95, 1083.98),
        "GF1 WFV4": (1968.12, 1841.69, 1540.30, 1069.53),
        "GF2 PMS1": (1941.53, 1854.15, 1541.48, 1086.43),
        "GF2 PMS2": (1940.93, 1853.99, 1541.39, 1086.51),
    }
)
"""Satellite and camera to solar irradiance at one astronomical unit, W m-2 um-1."""
