"""A provider's pages; alone in speaking the STAC API: a page that fails is asked again, a count that fails is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pystac
import requests
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from catalog.errors import ServiceError
from catalog.patience import TRANSIENT, Again, Patience, persist, retry_after_s

T = TypeVar("T")
Document = dict[str, Any]
"""An item as the provider answered it."""

EMPTY_PAGES = 3
"""Empty pages in a row after which no further one is asked for, though there is a link to it."""
TIMEOUT_S = 60.0
"""How long a server may say nothing."""


class Shortfall(ServiceError):
    """A provider states another count of matching items than it answers; nothing replaces it silently."""


@dataclass(frozen=True)
class Answer:
    """All pages of one question to one provider."""

    items: tuple[Document, ...]
    """As answered, in the order of the provider, each once."""
    stated: int | None
    """How many items the provider says match; None where it does not say."""
    refused: tuple[str, ...] = ()
    """Refusals that passed, one per repeated page."""
    notes: tuple[str, ...] = ()
    """What was odd about the answer."""

    @property
    def verified(self) -> bool:
        """Whether the count was stated and is what came."""
        return self.stated == len(self.items)


class PageIO(StacApiIO):
    """HTTP of pystac-client in which every request, hence every page, is repeated on its own.

    Parameters
    ----------
    patience
        How often and how late.
    timeout_s
        How long a server may say nothing.
    """

    def __init__(self, patience: Patience, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(max_retries=None, timeout=timeout_s)
        self.patience = patience
        self.timeout_s = timeout_s  # a client that opens with this sets `timeout` back to none
        self.refused: list[str] = []

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of one JSON document; ServiceError when the tries are used up, APIError for any other refusal."""
        how: dict[str, Any] = {"json": parameters} if (method or "GET").upper() == "POST" else {"params": parameters}

        def once() -> str:
            return self._once(href, (method or "GET").upper(), headers, how)

        try:
            return persist(once, self.patience, self.refused)
        except Again as error:
            raise _unanswered(href, str(error), self.patience) from None

    def get_pages(
        self, url: str, method: str | None = None, parameters: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Every page, empty ones included: they hold the count too, and pystac-client would drop them.

        Raises
        ------
        ServiceError
            The links to the next page go in a circle.
        """
        page = self.read_json(url, method=method, parameters=parameters)
        yield page
        seen: set[str] = set()
        empty = 0
        while (link := next((k for k in page.get("links", ()) if k["rel"] == "next"), None)) and empty < EMPTY_PAGES:
            if (text := json.dumps(link, sort_keys=True)) in seen:
                raise _unanswered(url, "its links to the next page go in a circle", self.patience)
            seen.add(text)
            page = self.read_json(pystac.Link.from_dict(link), parameters=parameters)
            empty = 0 if page.get("features") or page.get("collections") else empty + 1
            yield page

    def _once(self, href: str, method: str, headers: dict[str, str] | None, how: Mapping[str, Any]) -> str:
        try:
            answer = self.session.request(method, href, headers=headers, timeout=self.timeout_s, **how)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise Again(f"{type(error).__name__}: {str(error)[:160]}") from None
        if answer.status_code in TRANSIENT:
            raise Again(f"HTTP {answer.status_code}", retry_after_s(answer.headers))
        if not answer.ok:
            raise APIError.from_response(answer)
        try:
            json.loads(answer.content)
        except ValueError:
            raise Again("an answer that is cut short or no JSON") from None
        return answer.content.decode("utf-8")


def _unanswered(href: str, reason: str, patience: Patience) -> ServiceError:
    return ServiceError(
        f"a STAC API does not answer as it should ({reason[:200]})",
        item=href,
        enough=f"an answer within {patience.retries + 1} tries",
        todo="check the address and that the server is up, then run the same command again",
    )


def opened(url: str, patience: Patience | None = None, timeout_s: float = TIMEOUT_S) -> Client:
    """A client of an API whose requests are repeated one by one.

    Raises
    ------
    ServiceError
        Naming the address, when it does not answer.
    """
    return asking(url, lambda: Client.open(url, stac_io=PageIO(patience or Patience(), timeout_s)))


def asking(url: str, ask: Callable[[], T]) -> T:
    """What an API answers; whatever goes wrong on the way is a ServiceError that names it."""
    try:
        return ask()
    except ServiceError as error:
        raise type(error)(error.what, item=url, enough=error.enough, todo=error.todo) from None
    except APIError as error:
        status = "" if error.status_code is None else f"HTTP {error.status_code}: "
        raise _unanswered(url, f"{status}{' '.join(str(error).split())[:160]}", Patience()) from None
    except (requests.RequestException, pystac.STACError, OSError, ValueError, KeyError) as error:
        raise _unanswered(url, f"{type(error).__name__}: {error}", Patience()) from None


def ask(
    client: Client,
    url: str,
    collections: Sequence[str],
    where: Mapping[str, Any],
    interval: str | None,
    page: int = 250,
) -> Answer:
    """Every item of some collections that touches an area and a period.

    Parameters
    ----------
    client, url
        Of `opened`, and where it was opened.
    collections
        Their ids.
    where
        `bbox` (west, south, east, north in degrees, west < east) or `intersects` (GeoJSON).
    interval
        As STAC writes it, or None.
    page
        Items asked for at a time.

    Raises
    ------
    ServiceError
        A page fails for good; two different items of one id.
    Shortfall
        The provider states another count than came.
    """
    io = client._stac_io
    assert isinstance(io, PageIO)  # as `opened` makes them
    before = len(io.refused)
    search = asking(url, lambda: client.search(collections=list(collections), limit=page, datetime=interval, **where))
    pages = asking(url, lambda: list(io.get_pages(search.url, search.method, search.get_parameters())))
    refused = tuple(io.refused[before:])
    return counted(url, pages, refused)


def counted(url: str, pages: Sequence[Mapping[str, Any]], refused: tuple[str, ...] = ()) -> Answer:
    """Pages as one answer, held against the count that the provider states.

    The count of the last page is the one that counts: a collection that still grows states another on each.
    """
    features = [feature for page in pages for feature in page.get("features", ())]
    items = once(url, features)
    counts = [count for count in map(_stated, pages) if count is not None]
    notes = []
    if len(features) > len(items):
        notes.append(f"{len(features) - len(items)} items came on two pages and are kept once")
    if len(set(counts)) > 1:
        notes.append(f"the stated count moved from {counts[0]} to {counts[-1]} while paging")
    stated = counts[-1] if counts else None
    if stated is not None and stated != len(items):
        lacking = stated - len(items)
        raise Shortfall(
            f"a STAC API states {stated} matching items and answers {len(items)}: "
            + (f"{lacking} are missing" if lacking > 0 else f"{-lacking} too many"),
            item=url,
            enough=f"{stated} different items",
            todo="run the same search again; if it stays so, ask for shorter periods or another provider",
        )
    return Answer(tuple(items), stated, refused, tuple(notes))


def once(url: str, items: Iterable[Document]) -> list[Document]:
    """Items without those that paging repeated; two different items of one id are refused."""
    unique: dict[tuple[str, str], Document] = {}
    for item in items:
        key = (str(item.get("collection")), str(item.get("id")))
        if unique.setdefault(key, item) != item:
            raise ServiceError(
                "an API answers two different items of one id",
                item=f"{url}: {'/'.join(key)}",
                enough="one item per id",
                todo="search again; report it to the provider if it stays",
            )
    return list(unique.values())


def _stated(page: Mapping[str, Any]) -> int | None:
    """numberMatched, or the older context extension's."""
    count = page.get("numberMatched", (page.get("context") or {}).get("matched"))
    return None if count is None else int(count)
