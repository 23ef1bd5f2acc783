"""Pixels onto the Earth: range-Doppler from orbit and height, or rational polynomials; never an invented affine."""

from catalog.geocode.affine import invented, refuse_affine
from catalog.geocode.flattening import flatten, gamma_area, terrain_on
from catalog.geocode.heights import Dem, ellipsoidal_heights, vertical_reference
from catalog.geocode.orbit_place import place_by_orbit
from catalog.geocode.range_doppler import RadarGrid, bistatic_reference_s, image_coordinates, incidence_angle, sight
from catalog.geocode.resample import geocode, geocode_by_rpc, resample_map
from catalog.geocode.rpc import place_by_rpc
from catalog.geocode.rpc_forward import image_of
from catalog.geocode.terrain import look_on_terrain, surroundings

__all__ = [
    "Dem",
    "RadarGrid",
    "bistatic_reference_s",
    "ellipsoidal_heights",
    "flatten",
    "gamma_area",
    "geocode",
    "geocode_by_rpc",
    "image_coordinates",
    "image_of",
    "incidence_angle",
    "invented",
    "look_on_terrain",
    "place_by_orbit",
    "place_by_rpc",
    "refuse_affine",
    "resample_map",
    "sight",
    "surroundings",
    "terrain_on",
    "vertical_reference",
]
