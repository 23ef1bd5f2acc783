"""What one flow hands the next: an address, never the thing; and what a flow is asked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flows.settings import OffsetPolicy, Settings


class ItemRef(BaseModel):
    """An item of the published catalogue."""

    model_config = ConfigDict(frozen=True)

    collection: str
    """cubes, composites, models, maps or versions."""
    id: str
    """Id of the item, which ends in the id of its unit of work."""
    href: str
    """Path of the item's JSON."""
    asset: str
    """Path of what it is about: a Zarr store, a checkpoint folder, a COG."""
    checksum: str
    """Multihash of that."""
    fresh: bool = False
    """True when this run made it, False when it was found finished."""

    @classmethod
    def of(cls, item: Mapping[str, Any], path: Path, *, asset: str = "cube", fresh: bool) -> ItemRef:
        """The address of an item, which lies at `path`, and of the asset it is about."""
        about = item["assets"][asset]
        return cls(
            collection=item["collection"],
            id=item["id"],
            href=str(path),
            asset=str((path.parent / about["href"]).resolve()),
            checksum=about["file:checksum"],
            fresh=fresh,
        )


class Area(BaseModel):
    """A part of the Earth."""

    model_config = ConfigDict(frozen=True)

    geometry: dict[str, Any]
    """GeoJSON Polygon or MultiPolygon in EPSG:4326."""
    name: str = "area"
    """How reports call it."""

    @classmethod
    def box(cls, bbox: Sequence[float], name: str = "area") -> Area:
        """West, south, east, north in degrees; west beyond east crosses the antimeridian."""
        from catalog.grid import area_from_bbox

        return cls(geometry=area_from_bbox(bbox).json, name=name)


class Period(BaseModel):
    """First and last day, both included."""

    model_config = ConfigDict(frozen=True)

    start: dt.date
    end: dt.date

    @model_validator(mode="after")
    def _ordered(self) -> Period:
        if self.start > self.end:
            raise ValueError(f"the period ends ({self.end}) before it begins ({self.start})")
        return self

    def __str__(self) -> str:
        return f"{self.start}/{self.end}"


class Where(BaseModel):
    """Where things live for one run; the settings, made explicit so that a worker elsewhere sees the same."""

    model_config = ConfigDict(frozen=True)

    scenes: Path
    """Static catalogue of registered scenes."""
    published: Path
    """Static catalogue and ledger of what runs make."""
    stac_url: str | None = None
    """Where the first provider lies; None takes its own address, and serves `scenes` for local."""
    providers: tuple[str, ...] = ("local",)
    """Who is asked for scenes, in order: keys of the sensors' `collections`."""
    fill: str = ""
    """A provider that fills what the others lack; empty asks none."""
    offline: bool = False
    """Only replay answers that were kept."""
    anew: bool = False
    """Ask again even for what is settled."""
    dask_address: str | None = None
    """A Dask scheduler; None starts a local cluster."""
    workers: int = Field(default=2, ge=1)
    """Processes of the local cluster."""
    threads: int = Field(default=2, ge=1)
    """Threads of torch."""
    keep_every: int = Field(default=100, ge=1)
    """Steps between two states of a training run, from which a killed one goes on."""
    loaders: int = Field(default=2, ge=0)
    """Threads of each training process that make batches ahead; which batches, they do not decide."""
    unit_seconds: float | None = Field(default=3600.0, gt=0)
    """How long a unit may be at work before it is ended; None is no limit."""
    performance_report: Path | None = None
    """HTML file for Dask's account of what its workers did."""
    offset_policy: OffsetPolicy = "error"
    """What to do where a scene's metadata and pixels contradict each other on its radiometric offset."""

    @property
    def searches(self) -> Path:
        """Answered parts of searches, beside what is published."""
        return self.published.parent / "searches"

    @property
    def training(self) -> Path:
        """Records and states of training runs, beside what is published."""
        return self.published.parent / "training"

    @classmethod
    def of(cls, settings: Settings) -> Where:
        """From the settings."""
        return cls(
            scenes=settings.scenes,
            published=settings.published,
            stac_url=settings.stac_url,
            providers=tuple(name for name in settings.provider.replace(" ", "").split(",") if name),
            fill=settings.fill,
            offline=settings.offline,
            anew=settings.anew,
            dask_address=settings.dask_address,
            workers=settings.workers,
            threads=settings.threads,
            keep_every=settings.keep_every,
            loaders=settings.loaders,
            unit_seconds=settings.unit_seconds,
            performance_report=settings.performance_report,
            offset_policy=settings.offset_policy,
        )


class IngestRequest(BaseModel):
    """Scenes of an area and a period become cubes."""

    area: Area
    """Where to look and to cut tiles."""
    period: Period
    """When to look."""
    sensors: tuple[str, ...]
    """Rows of catalog.sensors."""
    tile_m: float = Field(default=15_360.0, gt=0)
    """Side of a tile."""
    every: Literal["month", "year", "period"] = "year"
    """The part of the calendar that shares a cube, as `catalog.units.Every`; smaller parts share more between runs."""
    engine: Literal["odc", "stackstac"] = "odc"
    """Which library reads and warps."""
    flattened: bool = False
    """Whether detected radar becomes terrain-flattened gamma nought; needs a DEM."""
    dilate_m: float = Field(default=0.0, ge=0)
    """Metres by which cloud and shadow of quality layers grow."""


class CompositeRequest(BaseModel):
    """Cubes of an area become one picture per tile and period."""

    area: Area
    """Every tile that touches it, whole."""
    period: Period
    """When to look."""
    sensors: tuple[str, ...]
    """Rows of catalog.sensors."""
    method: Literal["median", "medoid", "clearest"] = "median"
    """As in catalog.composite."""
    every: Literal["month", "quarter", "year", "whole"] = "month"
    """Parts of the calendar that the period is cut at; whole is one."""


class PretrainRequest(BaseModel):
    """Cubes become a checkpoint."""

    area: Area
    """Only pixels within are seen."""
    preset: str = "nano"
    """A name of ringmoe.presets."""
    steps: int = Field(default=120, ge=1)
    """Steps of the optimiser."""
    chips: int = Field(default=32, ge=1)
    """Chips a batch, over all modalities and all processes."""
    chip_px: int = Field(default=64, ge=64, multiple_of=32)
    """Side of a chip."""
    accumulate: int = Field(default=1, ge=1)
    """Batches a step."""
    mix: dict[str, float] | None = None
    """Share of each modality among the chips, by opt, ms, sar_l1 and sar_l2, over any sum; each must have a cube. None
    takes the paper's 70, 20, 5 and 5 as far as there are cubes."""
    turns: bool = True
    """Lay chips in any of the eight ways of a square; complex radar is mirrored only."""
    scale: tuple[float, float] = (0.7, 1.4)
    """Least and greatest factor of the pixel size of optical and multispectral chips; radar stays as it is."""
    rate: float = Field(default=3e-4, gt=0)
    """Peak learning rate; a tenth of the steps warm up to it."""
    sparse: bool = False
    """Encode what is shown alone; what is hidden enters behind the encoder."""
    views: float = Field(default=0.5, ge=0)
    """Weight of telling which two chips are of one place; above 0 every place is cut twice."""
    without: tuple[str, ...] = ()
    """Terms of the loss left out, by the names that the losses have before their slash."""
    most_lost: float = Field(default=0.05, ge=0, le=1)
    """Share of the blocks of pixels that may be unreadable; a run stops above it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What matrix products are computed in."""
    processes: int = Field(default=1, ge=1)
    """Processes that share the work, on a machine with GPUs one for each."""
    experts: int = Field(default=1, ge=1)
    """Processes over which the experts of every block are spread; divides those there are. 1: each holds them all."""
    recompute: Literal["nothing", "activations", "branches"] = "nothing"
    """What the backward pass computes again to save memory, as `ringmoe.recompute` says; no value changes."""
    moments: Literal["float32", "bfloat16", "8bit"] = "float32"
    """What the optimiser keeps its two moments of every weight in."""
    compiled: bool = False
    """Compile every block, once its losses were found to be those of the eager model; one process."""
    seed: int = Field(default=0, ge=0)
    """Another seed, another run."""

    @model_validator(mode="after")
    def _possible(self) -> PretrainRequest:
        if self.processes % self.experts:
            raise ValueError(
                f"{self.processes} processes cannot spread experts over {self.experts}: a divisor of {self.processes}"
            )
        if self.compiled and self.processes > 1:
            raise ValueError(f"no model is compiled in {self.processes} processes: one process")
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"factors of the pixel size from {low:g} to {high:g}: a least above 0, and none less")
        if self.mix is not None and not (min(self.mix.values(), default=0.0) >= 0 and sum(self.mix.values()) > 0):
            raise ValueError(f"shares of modalities {self.mix}: none below 0, and one above")
        return self


class AdaptRequest(BaseModel):
    """A checkpoint and labels become a model for a map."""

    area: Area
    """Only labels within are seen."""
    period: Period
    """The looks that are composited and labelled."""
    sensor: str = "sentinel-2"
    """Whose cubes are mapped."""
    steps: int = Field(default=150, ge=1)
    """Batches."""
    chips: int = Field(default=16, ge=1)
    """Chips a step."""
    chip_px: int = Field(default=64, ge=64, multiple_of=32)
    """Side of a chip."""
    rate: float = Field(default=4e-3, gt=0)
    """Peak learning rate; a tenth of the steps warm up to it."""
    seed: int = Field(default=0, ge=0)
    """Another seed, another run."""


class PruneRequest(BaseModel):
    """A model becomes smaller: modality slice, fewer experts, dense integration, recovery."""

    to: str | None = None
    """How small, as `flows.sizes.parse` reads it; None goes all the way to one dense expert a block."""
    collaborative: int = Field(default=1, ge=0)
    """Collaborative experts kept in each block before integration."""
    criterion: Literal["usage", "norm", "error"] = "error"
    """By what experts are kept: how often chosen, as in the paper; what they add; what the layer loses without them."""
    dropped: Literal["survivor", "mean"] = "mean"
    """A token whose expert is gone takes its best survivor, or nothing plus the mean output of what is gone, which
    loses a third as much (bench_prune)."""
    method: Literal["neurons", "kc", "ks", "ka"] = "neurons"
    """How experts become one dense FFN."""
    refit: bool = True
    """Whether its second matrix is then solved so that it answers as the experts did."""
    profile: Path | None = None
    """A profile of the slice, as an earlier run published it; None makes one."""
    streamed: bool = False
    """Cut block by block, from file to file, in the memory of the largest block instead of the model's; what comes of
    it is then neither refitted nor taught nor scored, which needs whole models."""
    steps: int = Field(default=60, ge=1)
    """Recovery steps, distilling and again fine-tuning."""
    distil_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of distilling: a model that was cut well is near its teacher, and 1e-3 takes it away again."""
    rate: float = Field(default=2e-3, gt=0)
    """Peak learning rate of fine-tuning."""
    seed: int = Field(default=0, ge=0)
    """Another seed, another run."""


class InferRequest(BaseModel):
    """A model maps an area."""

    area: Area
    period: Period
    sensor: str = "sentinel-2"
    tile_px: int = Field(default=128, ge=32, multiple_of=32)
    overlap_px: int = Field(default=32, ge=0)
    composite: Literal["median", "medoid", "clearest"] = "median"
    parcels: Path | None = None
    """Vector file of parcels to count areas in."""
    parcel_name: str | None = None
    """Column that names them; None takes the row number."""
    features: bool = False
    """Map what the encoder sees even where the model has a head; without a head, that is all there is to map."""
    components: int = Field(default=16, ge=1, le=256)
    """Bands of such a feature map."""


class RunRequest(BaseModel):
    """The whole house, from scenes to a published map."""

    where: Where
    ingest: IngestRequest
    pretrain: PretrainRequest
    adapt: AdaptRequest | None = None
    """None where there are no labels: the run ends with cubes and a pre-trained model."""
    prune: PruneRequest = Field(default_factory=PruneRequest)
    infer: InferRequest | None = None
