"""Where things live; alone reads the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

EMBEDDED_PREFECT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # a refusal is printed once, in its four parts, not as Prefect's traceback
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}
"""What an embedded run asks of Prefect where the environment does not say otherwise."""


OffsetPolicy = Literal["error", "trust-product", "trust-pixels"]
"""As `catalog.calibrate.offset.Policy`; written out, for settings are read before the catalogue is imported."""


class Settings(BaseSettings):
    """Read from RINGMOE_* variables; every verb's options override them."""

    model_config = SettingsConfigDict(env_prefix="RINGMOE_", frozen=True)

    home: Path = Path("ringmoe-data")
    """Folder of everything an embedded run keeps."""
    stac_url: str | None = None
    """Where the first of `provider` lies: a team's own API, or a mirror; None takes its own address."""
    provider: str = "local"
    """Who is asked for scenes, in order, comma between: local for registered scenes, earth-search, ..."""
    fill: str = ""
    """A provider that fills what the others lack."""
    offline: bool = False
    """Whether a search only replays what was answered before."""
    anew: bool = False
    """Whether a search asks again even for what is settled."""
    dask_address: str | None = None
    """A running Dask scheduler; None starts a local cluster when there is work for it."""
    workers: int = Field(default_factory=lambda: max(1, min(4, os.cpu_count() or 1)))
    """Worker processes of the local Dask cluster."""
    threads: int = Field(default_factory=lambda: max(1, os.cpu_count() or 1))
    """Threads of torch; part of what makes a CPU run repeatable."""
    keep_every: int = Field(default=100, ge=1)
    """Steps of training between two states, from which a killed run goes on."""
    loaders: int = Field(default=2, ge=0)
    """Threads of a training process that make batches ahead of the steps that need them."""
    unit_seconds: float | None = Field(default=3600.0, gt=0)
    """How long one cube or composite may be at work before it is ended and listed; None is no limit."""
    performance_report: Path | None = None
    """HTML file for Dask's account of what its workers did."""
    offset_policy: OffsetPolicy = "error"
    """What to do where a scene's metadata and pixels contradict each other on its radiometric offset."""

    @property
    def root(self) -> Path:
        """`home`, absolute."""
        return self.home.absolute()

    @property
    def sandbox(self) -> Path:
        """The procedural Earth: products, DEM and truth."""
        return self.root / "sandbox"

    @property
    def scenes(self) -> Path:
        """Static STAC catalogue of registered products, labels and DEMs."""
        return self.root / "scenes"

    @property
    def published(self) -> Path:
        """Static STAC catalogue of cubes, models and maps: the ledger."""
        return self.root / "catalog"


def prepare(settings: Settings, *, debug: bool = False) -> None:
    """Point Prefect, GDAL and OpenMP where they belong; call before Prefect and torch are imported.

    An existing PREFECT_API_URL (a team's server) is left as it is.
    """
    if "PREFECT_API_URL" not in os.environ:
        prefect_home = os.environ.setdefault("PREFECT_HOME", str(settings.root / "prefect"))
        Path(prefect_home).parent.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
    for name, value in EMBEDDED_PREFECT.items():
        os.environ.setdefault(name, "INFO" if debug and name.endswith("LOGGING_LEVEL") else value)
    if not debug:  # workers that a full disk or Ctrl-C ends would each show a traceback
        os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    os.environ.setdefault("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
    # Waiting OpenMP threads that spin long make training tens of times slower beside any other load, and threads that
    # do not spin at all make it 1.7 times slower on a quiet machine; this count was best of both (measured, libgomp).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
