"""The Earth's data: scenes, physical units, cubes, maps and the STAC items that tie them together."""
