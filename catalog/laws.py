"""What a scene's own metadata, else its item, says of its calibration: the constants and their record."""

from __future__ import annotations

from collections.abc import Sequence

from catalog.calibrate.constants import Calibration, ReflectanceScale
from catalog.calibrate.offset import Policy
from catalog.errors import CalibrationError
from catalog.formats import Disputed, format_named
from catalog.scene import Scene


def constants_of(scene: Scene, bands: Sequence[str], offset_policy: Policy = "error") -> Calibration:
    """The constants that calibrate those bands of a scene: by its product's metadata files, else by its item.

    Parameters
    ----------
    offset_policy
        What to do where metadata contradict each other or the pixels; only formats that know of such contradictions
        (`formats.Disputed`) ask for it.

    Raises
    ------
    MetadataError, CalibrationError
        Naming the file and field at fault, or what the item lacks.
    """
    module = format_named(scene.format)
    if isinstance(module, Disputed):
        found = module.resolve_offset(scene, bands, offset_policy)
    else:
        found = module.calibration(scene, bands)
    return found or _by_item(scene, bands)


def _by_item(scene: Scene, bands: Sequence[str]) -> ReflectanceScale:
    """Scale and offset of the item itself, where no metadata file came with the product."""
    sources = {b: scene.bands[b] for b in bands}
    missing = [b for b, s in sources.items() if s.scale is None]
    if missing:
        raise CalibrationError(
            f"neither a metadata file nor raster:scale says what a digital number of {', '.join(missing)} is worth",
            item=scene.id,
            enough="the product's metadata file among the assets, or raster:scale and raster:offset per band",
            todo="register the product with its metadata",
        )
    scale = {b: float(s.scale or 0.0) for b, s in sources.items()}
    offset = {b: float(s.offset or 0.0) for b, s in sources.items()}
    return ReflectanceScale(scale, offset, "item: raster:scale and raster:offset")
