"""Digital numbers to physical units, one function per law; arrays may be lazy, NaN is no-data, negatives stay."""

from catalog.calibrate.backscatter import (
    backscatter_from_amplitude,
    backscatter_from_constant,
    power_as_stored,
    power_from_db,
    power_to_db,
)
from catalog.calibrate.complex_amplitude import amplitude_factor, complex_from_gain, complex_from_scale
from catalog.calibrate.lut import AzimuthBlock, interpolate_lut, noise_power
from catalog.calibrate.quality import from_qa_pixel, from_scl, from_valid
from catalog.calibrate.reflectance import (
    earth_sun_distance_au,
    radiance_from_dn,
    reflectance_from_dn,
    toa_reflectance_from_radiance,
)

__all__ = [
    "AzimuthBlock",
    "amplitude_factor",
    "backscatter_from_amplitude",
    "backscatter_from_constant",
    "complex_from_gain",
    "complex_from_scale",
    "earth_sun_distance_au",
    "from_qa_pixel",
    "from_scl",
    "from_valid",
    "interpolate_lut",
    "noise_power",
    "power_as_stored",
    "power_from_db",
    "power_to_db",
    "radiance_from_dn",
    "reflectance_from_dn",
    "toa_reflectance_from_radiance",
]
