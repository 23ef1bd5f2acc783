"""Addresses that open for a while are signed just before they are opened, and renewed when they expired."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from stac_faults import Faulty, sentinel2, serving

from catalog.errors import ServiceError
from catalog.patience import Patience
from catalog.read import read
from catalog.search.dialect import scene_of
from catalog.signing import MARGIN, ContainerSigner, Token, TokenService, signed, signer_of, use_signer

HREF = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/32/T/B04.tif"
START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class Tokens:
    """Gives out numbered tokens of 45 minutes."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.given: list[tuple[str, str]] = []

    def __call__(self, account: str, container: str) -> Token:
        self.given.append((account, container))
        return Token(f"sv=1&sig=n{len(self.given)}", self.clock() + timedelta(minutes=45))


def test_a_token_is_kept_until_shortly_before_it_expires() -> None:
    """One token for 43 minutes of reads, another one when less than two minutes are left."""
    clock = Clock()
    tokens = Tokens(clock)
    sign = ContainerSigner(tokens, clock)
    for minutes in (0, 10, 42.9):
        clock.now = START + timedelta(minutes=minutes)
        assert sign(HREF) == f"{HREF}?sv=1&sig=n1"
    clock.now = START + timedelta(minutes=45) - MARGIN + timedelta(seconds=1)
    assert sign(HREF) == f"{HREF}?sv=1&sig=n2"
    assert tokens.given == [("sentinel2l2a01", "sentinel2-l2")] * 2


def test_each_container_has_its_token() -> None:
    """Account and container, not the file."""
    tokens = Tokens(Clock())
    sign = ContainerSigner(tokens, Clock())
    sign(HREF)
    sign(HREF.replace("B04", "B08"))
    sign("https://landsateuwest.blob.core.windows.net/landsat-c2/a.tif")
    assert tokens.given == [("sentinel2l2a01", "sentinel2-l2"), ("landsateuwest", "landsat-c2")]


def test_an_expired_signature_in_an_item_is_replaced_and_one_that_holds_is_left() -> None:
    """se and sig in the address: until two minutes before its end it is left alone, afterwards renewed."""
    clock = Clock()
    sign = ContainerSigner(Tokens(clock), clock)
    own = f"{HREF}?se=2026-01-01T12%3A30%3A00Z&sig=own"
    assert sign(own) == own
    clock.now = START + timedelta(minutes=29)
    assert sign(own) == f"{HREF}?sv=1&sig=n1"
    assert sign(f"{HREF}?se=never&sig=own") == f"{HREF}?sv=1&sig=n1"


def test_files_elsewhere_are_not_signed() -> None:
    """Other hosts, paths and S3 keep their address; no token is asked for."""
    tokens = Tokens(Clock())
    sign = ContainerSigner(tokens, Clock())
    for href in ("/data/B04.tif", "s3://bucket/B04.tif", "https://example.com/B04.tif"):
        assert sign(href) == href
    assert tokens.given == []


def test_a_scene_s_provider_decides_how_its_files_are_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ringmoe:provider` names it; a local scene names none; a signer of one's own takes the provider's place."""
    monkeypatch.setattr("catalog.signing._SIGNERS", {})
    use_signer("planetary-computer", lambda href: href + "?mine")
    assert signed(HREF, {"ringmoe:provider": "planetary-computer"}) == HREF + "?mine"
    assert signed(HREF, {"ringmoe:provider": "earth-search"}) == HREF
    assert signed(HREF, {"ringmoe:provider": "local"}) == HREF
    assert signed(HREF, {}) == HREF


def test_planetary_computer_has_a_token_service_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says where tokens are given out; a signer travels to a worker with them."""
    monkeypatch.setattr("catalog.signing._SIGNERS", {})
    sign = signer_of("planetary-computer")
    assert isinstance(sign, ContainerSigner)
    assert sign.fetch == TokenService("https://planetarycomputer.microsoft.com/api/sas/v1/token")
    sign.tokens["sentinel2l2a01", "sentinel2-l2"] = Token("sig=x", datetime.now(UTC) + timedelta(hours=1))
    assert pickle.loads(pickle.dumps(sign))(HREF) == f"{HREF}?sig=x"


class _Service(Faulty):
    """Gives out tokens, or an answer without one."""

    good = True

    def answer(self, path: str, body: Any) -> Any:
        said = {"token": f"sig={path}", "msft:expiry": "2026-01-01T12:45:00Z"}
        return said if self.good else {"message": "no such container"}


def test_a_token_service_that_throttles_is_asked_again_and_one_without_a_token_is_told() -> None:
    """429 and a dropped connection cost time; an answer without a token is an error in four parts."""
    quick = Patience(retries=3, first_wait_s=0.001)
    with serving(_Service((), lambda n, path: ("429", "drop", "ok")[min(n, 2)])) as service:
        fetch = TokenService(service.url, quick)
        assert fetch("a", "c") == Token("sig=/a/c", datetime(2026, 1, 1, 12, 45, tzinfo=UTC))
        assert len(service.seen) == 3
        service.good = False
        with pytest.raises(ServiceError, match="gives no token") as caught:
            fetch("a", "c")
        assert caught.value.item == f"{service.url}/a/c"
    with pytest.raises(ServiceError, match="gives no token"):
        TokenService(service.url, Patience(1, 0.001))("a", "c")


def test_reading_signs_just_before_it_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signer is asked at each read, not at the search: the second read opens the renewed address."""
    monkeypatch.setattr("catalog.signing._SIGNERS", {})
    for name in ("n1", "n2"):
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", width=8, height=8, count=1, dtype="uint16", crs="EPSG:32632",
            transform=Affine(10, 0, 600000, 0, -10, 5200040), driver="GTiff",
        ) as file:  # fmt: skip
            file.write(np.full((1, 8, 8), int(name[1]), "uint16"))
    item = sentinel2("a", "2024-06-01T10:00:00Z", bbox=(10.3, 46.9, 10.4, 47.0))
    for asset in item["assets"].values():
        asset |= {"href": "expired", "proj:shape": [8, 8], "proj:transform": [10, 0, 600000, 0, -10, 5200040]}
    scene = scene_of(item, "planetary-computer")
    grid = GeoBox((8, 8), Affine(10, 0, 600000, 0, -10, 5200040), "EPSG:32632")
    monkeypatch.setattr("catalog.read.files._beyond", lambda scene, header: False)
    reads = iter(("n1", "n2"))
    use_signer("planetary-computer", lambda href: str(tmp_path / f"{next(reads)}.tif"))
    assert [float(read(scene, grid, ["B04"]).mean()) for _ in range(2)] == [1.0, 2.0]
