"""Cube: the Zarr schema; create, write a date with its overviews, open."""

from catalog.cube.schema import (
    Description,
    assemble,
    attributes,
    crop,
    geobox,
    pixel_coordinates,
    usable,
    usable_share,
    valid_share,
)
from catalog.cube.store import CHUNK, SCHEMA, SHARD, Window, create, finish, open, read_look, write, write_look

__all__ = [
    "CHUNK",
    "SCHEMA",
    "SHARD",
    "Description",
    "Window",
    "assemble",
    "attributes",
    "create",
    "crop",
    "finish",
    "geobox",
    "open",
    "pixel_coordinates",
    "read_look",
    "usable",
    "usable_share",
    "valid_share",
    "write",
    "write_look",
]
