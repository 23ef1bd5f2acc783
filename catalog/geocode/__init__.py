"""Radar pixels onto the Earth: range-Doppler from orbit and height, or rational polynomials; never an affine."""

from catalog.geocode.range_doppler import RadarGrid, bistatic_reference_s, image_coordinates, incidence_angle
from catalog.geocode.resample import geocode, refuse_affine
from catalog.geocode.rpc import place_by_rpc

__all__ = [
    "RadarGrid",
    "bistatic_reference_s",
    "geocode",
    "image_coordinates",
    "incidence_angle",
    "place_by_rpc",
    "refuse_affine",
]
