"""How files on the web are opened: GDAL's options, credentials and signers, the same here and on every Dask worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dask.distributed import Client, WorkerPlugin

from catalog import signing
from catalog.metadata.web import open_options

FAMILIES = ("GDAL_", "CPL_", "VSI_", "AWS_", "AZURE_", "GS_", "GOOGLE_", "OSS_", "SWIFT_", "CURL_", "EARTHDATA_")
"""Variables that say how files are reached begin so."""
OF_THIS_MACHINE = ("GDAL_DATA", "GDAL_DRIVER_PATH", "CPL_TMPDIR", "GDAL_NUM_THREADS", "GDAL_CACHEMAX")
"""Those that hold for one machine only."""


@dataclass(frozen=True)
class Settings(WorkerPlugin):
    """What reading files on the web takes beside their addresses. Its text names secrets and shows none."""

    name = "ringmoe read settings"

    options: Mapping[str, str] = field(repr=False)
    """Environment variables of FAMILIES, credentials among them."""
    signers: Mapping[str, Callable[[str], str]] = field(default_factory=dict, repr=False)
    """Provider to what makes its addresses open."""

    def __str__(self) -> str:
        return f"Settings({', '.join(sorted(self.options))}; signers of {', '.join(self.signers) or 'none'})"

    __repr__ = __str__

    def setup(self, worker: Any) -> None:
        """Take them over in a worker's process; GDAL looks its environment up at every opening."""
        os.environ.update(self.options)
        for provider, signer in self.signers.items():
            signing.use_signer(provider, signer)


def here() -> Settings:
    """The settings of this process: environment, the rasterio.Env that is open, and signers."""
    options = {k: v for k, v in os.environ.items() if _travels(k)}
    options |= {k: _text(v) for k, v in open_options().items() if _travels(k)}
    return Settings(options, signing.signers())


def carry(client: Client) -> Settings:
    """Put this process's settings in force on all workers of a cluster, local or remote, those to come included.

    Files of credentials (AWS_SHARED_CREDENTIALS_FILE and the like) travel as paths: they must lie there too.
    """
    settings = here()
    client.register_plugin(settings, name=settings.name)
    return settings


def _travels(name: str) -> bool:
    return name.startswith(FAMILIES) and name not in OF_THIS_MACHINE


def _text(value: Any) -> str:
    return {True: "YES", False: "NO"}.get(value, str(value)) if isinstance(value, bool) else str(value)
