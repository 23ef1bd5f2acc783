"""Blocks or a model -> COG and STAC item, derived_from what it was made of; alone writes maps and items."""

from catalog.publish.cog import Block, MapClass, write_map
from catalog.publish.items import (
    Sources,
    commit,
    cube_item,
    lonlat,
    map_item,
    model_item,
    new_item,
)
from catalog.publish.links import COLLECTIONS, relink

__all__ = [
    "COLLECTIONS",
    "Block",
    "MapClass",
    "Sources",
    "commit",
    "cube_item",
    "lonlat",
    "map_item",
    "model_item",
    "new_item",
    "relink",
    "write_map",
]
