"""What speaks of a Sentinel-2 scene's radiometric offset: its XML, its item, its provider's rule, its pixels."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from rasterio.enums import Resampling

from catalog.calibrate.floor import PixelVerdict, pixel_verdicts
from catalog.calibrate.offset import USUAL_STEP_DN, Claim, steps_of
from catalog.errors import AssetError, CalibrationError, MetadataError
from catalog.metadata import sentinel2
from catalog.metadata.raster import opened
from catalog.scene import Scene, metadata_file
from catalog.sensors import SENTINEL_2
from catalog.signing import signed

SAMPLE_PX = 256
"""Side of the decimated sample of each band."""

APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
"""Flags by which a provider says that it took the offset off the pixels it serves."""

BASELINES = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version", "ringmoe:baseline")
"""Item fields that name the processing baseline."""


@dataclasses.dataclass(frozen=True)
class ProviderRule:
    """How one provider writes its items of one collection."""

    provider: str
    """Its name."""
    collection: str
    """Collection id."""
    marks: tuple[str, ...]
    """Parts of addresses, or beginnings of property names, by which such an item is known."""
    raster_is_a_claim: bool
    """Whether raster:offset tells of the pixels served; False where it repeats what ESA's product had."""
    says: str
    """The rule, for the record."""
    link: str
    """Where it is from."""


_EARTH_SEARCH = ("earth-search", "earthsearch:", "sentinel-cogs", "e84-earth-search")

RULES = (
    ProviderRule(
        "Planetary Computer",
        "sentinel-2-l2a",
        ("planetarycomputer", "sentinel2l2a01.blob"),
        True,
        "pixels as ESA delivered them, no offset in the item: the baseline tells",
        "https://github.com/microsoft/PlanetaryComputer/issues/134",
    ),
    ProviderRule(
        "Earth Search",
        "sentinel-2-l2a",
        _EARTH_SEARCH,
        False,
        "raster:offset repeats ESA's number; the flag tells whether the pixels still hold it",
        "https://github.com/Element84/earth-search/issues/66",
    ),
    ProviderRule(
        "Earth Search",
        "sentinel-2-c1-l2a",
        _EARTH_SEARCH,
        True,
        "pixels as ESA delivered them, raster:offset per band",
        "https://github.com/Element84/earth-search/issues/41",
    ),
    ProviderRule(
        "Copernicus Data Space",
        "sentinel-2-l2a",
        ("dataspace.copernicus", "eodata"),
        True,
        "pixels as ESA delivered them, raster:offset per band",
        "https://github.com/sentinel-hub/titiler-openeo/pull/322",
    ),
)


@dataclasses.dataclass(frozen=True)
class Heard:
    """All that metadata say."""

    claims: tuple[Claim, ...]
    """In the order of trust."""
    notes: tuple[str, ...]
    """What was read and is no claim."""
    quantification: float
    """Digital numbers per unit of reflectance."""
    scale_source: str
    """Where that is from."""


def claims_of(scene: Scene) -> Heard:
    """Ask the product's files, the item's fields and the provider's rule.

    Raises
    ------
    MetadataError, CalibrationError
        A baseline that is none, a scale that divides nothing, two scales; naming file or item and field.
    """
    product = sentinel2.read_product(metadata_file(scene, "product")) if "product" in scene.metadata else None
    tile = sentinel2.read_tile(metadata_file(scene, "tile")) if "tile" in scene.metadata else None
    rule, flag = provider_rule(scene), _flag(scene)
    notes = [f"{rule.provider} {rule.collection}: {rule.says} ({rule.link})"] if rule else []
    scale, scale_source = _quantification(scene, product)
    delivered = [*_by_files(product, tile), *_by_baseline(scene)]
    served = _by_raster(scene, scale)
    if flag and flag[1]:
        notes += [f"{c.source}: {_short(c)} in ESA's product, before {flag[0]}" for c in delivered]
        taken_off = Claim(f"{flag[0]} true", dict.fromkeys(scene.bands, 0.0))
        claims = [taken_off, *_unless_repeated(served, rule, notes)]
    else:
        notes += [f"{flag[0]} false: the pixels hold what ESA's product had"] if flag else []
        from_files = [c for c in delivered if not c.source.startswith("item")]
        from_item = [c for c in delivered if c.source.startswith("item")]
        whole = bool(flag) or rule is None or rule.raster_is_a_claim
        claims = [*from_files, *_unless_repeated(served, rule, notes), *(from_item if whole else [])]
        if not whole:
            claims += [c for c in from_item if not any(c.offset_dn.values())]
            notes.append("the flag is missing: whether the offset was taken off is not said")
    return Heard(tuple(claims), tuple(notes), scale, scale_source)


def provider_rule(scene: Scene) -> ProviderRule | None:
    """The rule of a scene's provider, known by addresses and property names; None where nothing tells."""
    places = [scene.href, *(s.href for s in scene.bands.values()), *scene.properties]
    for rule in RULES:
        if rule.collection == scene.collection and any(m in p for m in rule.marks for p in places):
            return rule
    return None


def verdicts_of(scene: Scene, claims: Sequence[Claim], quantification: float) -> dict[str, PixelVerdict]:
    """What the pixels of all bands of a scene allow, from one coarse sample of each.

    Raises
    ------
    AssetError
        A file is missing or unreadable.
    """
    question = _Question(
        files=tuple((b, s.href, s.index, s.nodata) for b, s in scene.bands.items()),
        checksums=tuple(sorted(scene.checksums.items())),
        steps=tuple(steps_of(claims, list(scene.bands)).items()),
        quantification=quantification,
        properties=scene.properties,
    )
    try:
        return dict(_answer(question))
    except AssetError as error:
        raise AssetError(error.what, item=f"{scene.id}: {error.item}", enough=error.enough, todo=error.todo) from None


@dataclasses.dataclass(frozen=True)
class _Question:
    """All that determines the verdicts on a scene, whose every tile asks for them."""

    files: tuple[tuple[str, str, int, float | None], ...]
    """Band, address, raster band and no-data."""
    checksums: tuple[tuple[str, str], ...]
    """Of the scene's assets."""
    steps: tuple[tuple[str, float], ...]
    """Band to the size of the offset in question."""
    quantification: float
    """Digital numbers per unit of reflectance."""
    properties: Mapping[str, Any] = dataclasses.field(compare=False)
    """Of the scene, by which addresses are signed."""


@lru_cache(maxsize=4096)
def _answer(question: _Question) -> Mapping[str, PixelVerdict]:
    centres = {name: SENTINEL_2.band(name).centre_nm or 0.0 for name, *_ in question.files}
    return pixel_verdicts(_samples(question), centres, dict(question.steps), question.quantification)


def _samples(question: _Question) -> dict[str, np.ndarray]:
    """Each band decimated to one grid, NaN where nothing was measured and beside it: edges mix with no-data."""
    files = [(b, signed(href, question.properties), index, nodata) for b, href, index, nodata in question.files]
    shapes = []
    for _, href, _, _ in files:
        with opened(href) as source:
            shapes.append(source.shape)
    shape = tuple(min(SAMPLE_PX, max(s[axis] for s in shapes)) for axis in (0, 1))
    found = {}
    for band, href, index, nodata in files:
        with opened(href) as source:
            values = source.read(index, out_shape=shape, resampling=Resampling.nearest).astype(np.float32)
            reach = max(2, math.ceil(2 * shape[0] / source.shape[0]))
        empty = ~np.isfinite(values) | (values == (nodata or 0.0)) | (values == 0)
        found[band] = np.where(_grown(empty, reach), np.nan, values)
    return found


def _grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """A mask and all within `reach` pixels along rows and columns; the image's own edge adds nothing."""
    grown = mask.copy()
    for axis in (0, 1):
        base = grown.copy()
        for step in range(1, reach + 1):
            forward, back = [slice(None)] * 2, [slice(None)] * 2
            forward[axis], back[axis] = slice(step, None), slice(None, -step)
            grown[tuple(forward)] |= base[tuple(back)]
            grown[tuple(back)] |= base[tuple(forward)]
    return grown


def _by_files(product: sentinel2.ProductMetadata | None, tile: sentinel2.TileMetadata | None) -> list[Claim]:
    """The product XML's list, else its baseline; and the tile XML's baseline."""
    claims = []
    if product is not None:
        found = sentinel2.radiometry(product, None)  # refuses a list that is missing though the baseline asks for it
        claims += [Claim(found.source, found.offsets)] if product.offsets is not None else []
    for known, field in ((product, "PROCESSING_BASELINE"), (tile, "TILE_ID")):
        if known is not None and not (known is product and claims):
            claim = f"baseline {known.baseline} ({field} of {known.path.name})"
            claims.append(_baseline_claim(known.baseline, claim, str(known.path), field))
    if product is not None and product.offsets is not None and tile is not None:
        listed, ruled = (any(c.offset_dn.values()) for c in (claims[0], claims[-1]))
        claims = claims[:1] if listed == ruled else claims
    return claims


def _by_baseline(scene: Scene) -> list[Claim]:
    """The baseline that the item names."""
    for field in BASELINES:
        text = scene.properties.get(field)
        if text is not None:
            source = f"item: baseline {text} ({field})"
            return [_baseline_claim(str(text), source, f"item {scene.id}", field)]
    return []


def _baseline_claim(text: str, source: str, item: str, field: str) -> Claim:
    """0 before 04.00, ESA's offset from it on; a baseline not yet known is refused."""
    version = re.fullmatch(r"0?(\d)\.(\d{2})", text)
    if version is None or not 1 <= int(version[1]) <= sentinel2.LAST_KNOWN_MAJOR:
        raise MetadataError(
            f"{field}: {text!r} is no processing baseline whose offset is known",
            item=item,
            enough=f"a baseline from 01.00 to {sentinel2.LAST_KNOWN_MAJOR:02d}.99, as in 05.11",
            todo="correct the field, or take the scene from its product with its metadata files",
        )
    later = (int(version[1]), int(version[2])) >= sentinel2.OFFSET_BASELINE
    return Claim(source, dict.fromkeys(sentinel2.BAND_NAMES, -USUAL_STEP_DN if later else 0.0))


def _by_raster(scene: Scene, quantification: float) -> list[Claim]:
    """raster:offset of the item's bands as digital numbers; a scale without an offset says 0."""
    offsets: dict[str, float] = {}
    for band, source in scene.bands.items():
        if source.scale is not None or source.offset is not None:
            physical = 0.0 if source.offset is None else source.offset
            if not math.isfinite(physical):
                raise _bad_scale(scene, band, "raster:offset", physical)
            offsets[band] = round(physical * quantification, 3) + 0.0
    return [Claim("item: raster:offset", offsets)] if offsets else []


def _unless_repeated(served: list[Claim], rule: ProviderRule | None, notes: list[str]) -> list[Claim]:
    if rule is None or rule.raster_is_a_claim:
        return served
    notes += [f"{c.source} says {_short(c)}, which this provider repeats from ESA's product" for c in served]
    return []


def _quantification(scene: Scene, product: sentinel2.ProductMetadata | None) -> tuple[float, str]:
    """DN per unit of reflectance by product, item, or ESA's rule; two that differ are refused."""
    found = [] if product is None else [(product.quantification, f"{product.path.name}")]
    for band, source in scene.bands.items():
        if source.scale is not None:
            if not math.isfinite(source.scale) or source.scale <= 0:
                raise _bad_scale(scene, band, "raster:scale", source.scale)
            found.append((round(1 / source.scale, 6), f"item: raster:scale of {band}"))
    for value, source_name in found[1:]:
        if abs(value - found[0][0]) > 1e-6 * found[0][0]:
            raise CalibrationError(
                f"two quantifications: {found[0][1]} says {found[0][0]:g}, {source_name} says {value:g}",
                item=scene.id,
                enough="one quantification for all bands",
                todo="register the product again from its folder, or take it from another provider",
            )
    return found[0] if found else (sentinel2.QUANTIFICATION, "ESA's rule: 10000 in every baseline")


def _bad_scale(scene: Scene, band: str, field: str, value: float) -> CalibrationError:
    return CalibrationError(
        f"{field} of {band} is {value}",
        item=f"item {scene.id}",
        enough="a finite number, of a scale one above 0, as in 0.0001",
        todo="correct the item, or register the product from its folder",
    )


def _flag(scene: Scene) -> tuple[str, bool] | None:
    """The field by which a provider says whether it took the offset off, and what it says."""
    for field in APPLIED:
        value = scene.properties.get(field)
        if isinstance(value, bool):
            return f"item: {field}", value
        if value is not None:
            raise MetadataError(
                f"{field}: {value!r} is neither true nor false",
                item=f"item {scene.id}",
                enough="true or false",
                todo="correct the item, or take the scene from another provider",
            )
    return None


def _short(claim: Claim) -> str:
    values: Mapping[str, float] = claim.offset_dn
    return " or ".join(f"{v:g}" for v in sorted(set(values.values())))
