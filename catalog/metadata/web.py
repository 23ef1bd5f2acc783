"""Files on the web: which addresses are such, and GDAL's options for them where nobody says otherwise."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import rasterio.env

USUAL: Mapping[str, str] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "VSI_CACHE": "TRUE",
}
"""For files on the web, where nobody says otherwise: no listing of folders, few retries, no wait without end."""
REMOTE = re.compile(r"(?:https?|ftp|s3|gs|gcs|az|abfs|adls|oss|swift)://|/vsi(?:curl|s3|gs|az|adls|oss|swift)")


def remote(href: str) -> bool:
    """Whether a file is read across a network."""
    return REMOTE.search(href) is not None


def remote_options(*, again: bool = False) -> dict[str, str]:
    """The options of USUAL that neither the environment nor an open rasterio.Env sets; to pass to rasterio.Env.

    Parameters
    ----------
    again
        After a refusal: GDAL then keeps nothing of what it heard of files on the web, refusals included.
    """
    known = {*os.environ, *open_options()}
    fresh = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/http"} if again else {}
    return {k: v for k, v in USUAL.items() if k not in known} | fresh


def open_options() -> Mapping[str, Any]:
    """The options of the rasterio.Env that is open."""
    return rasterio.env.getenv() if rasterio.env.hasenv() else {}
