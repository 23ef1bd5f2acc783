"""Addresses of files that open only for a while: signed just before they are opened, renewed when they expired."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests

from catalog.errors import ServiceError
from catalog.patience import TRANSIENT, Again, Patience, persist, retry_after_s
from catalog.providers import PROVIDERS

AZURE = ".blob.core.windows.net"
"""Hosts whose files are opened with a token of their container."""
MARGIN = timedelta(minutes=2)
"""A token that expires sooner is renewed: a read begun with it would end without."""


@dataclass(frozen=True)
class Token:
    """What opens the files of one container for a while."""

    text: str
    """Query string to append, without the question mark."""
    expires: datetime
    """UTC."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class ContainerSigner:
    """Signs Azure addresses with a token of their container, kept until shortly before it expires.

    Parameters
    ----------
    fetch
        Storage account and container to a fresh token.
    clock
        Now, UTC.
    """

    fetch: Callable[[str, str], Token]
    clock: Callable[[], datetime] = _now
    tokens: dict[tuple[str, str], Token] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock, repr=False)

    def __call__(self, href: str) -> str:
        """An address that opens now; one of another host, or with a signature that still holds, as it is."""
        parts = urlsplit(href)
        if not (parts.hostname or "").endswith(AZURE) or self._holds(parts.query):
            return href
        account, container = str(parts.hostname).removesuffix(AZURE), parts.path.split("/")[1]
        with self.lock:
            token = self.tokens.get((account, container))
            if token is None or token.expires - self.clock() < MARGIN:
                token = self.tokens[account, container] = self.fetch(account, container)
        return f"{href.split('?')[0]}?{token.text}"

    def _holds(self, query: str) -> bool:
        """Whether an address is signed already (sig) and its expiry (se) is far enough."""
        fields = parse_qs(query)
        if "sig" not in fields or "se" not in fields:
            return False
        try:
            return _utc(fields["se"][0]) - self.clock() >= MARGIN
        except ValueError:
            return False

    def __getstate__(self) -> dict[str, Any]:
        return {"fetch": self.fetch, "clock": self.clock, "tokens": dict(self.tokens)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self.lock = threading.Lock()


@dataclass(frozen=True)
class TokenService:
    """A service that gives out tokens by account and container, as Planetary Computer's.

    https://planetarycomputer.microsoft.com/docs/concepts/sas/
    """

    url: str
    """Its root; a token lies at `root/account/container`."""
    patience: Patience = field(default_factory=Patience)
    """How often a refusal is borne."""

    def __call__(self, account: str, container: str) -> Token:
        """A fresh token.

        Raises
        ------
        ServiceError
            The service gives none.
        """
        href = f"{self.url}/{account}/{container}"
        try:
            said = persist(lambda: self._once(href), self.patience, [])
            return Token(str(said["token"]), _utc(str(said["msft:expiry"])))
        except (Again, requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise ServiceError(
                f"a token service gives no token ({type(error).__name__}: {str(error)[:160]})",
                item=href,
                enough="an answer with token and msft:expiry",
                todo="check the network, then run the same command again; finished work is kept",
            ) from None

    def _once(self, href: str) -> Any:
        try:
            answer = requests.get(href, timeout=60)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise Again(f"{type(error).__name__}: {str(error)[:160]}") from None
        if answer.status_code in TRANSIENT:
            raise Again(f"HTTP {answer.status_code}", retry_after_s(answer.headers))
        answer.raise_for_status()
        return answer.json()


def _utc(text: str) -> datetime:
    stamp = datetime.fromisoformat(text)
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)


_SIGNERS: dict[str, Callable[[str], str]] = {}


def signer_of(provider: str) -> Callable[[str], str]:
    """What makes a provider's addresses open: the signer set for it, else its token service's, else nothing."""
    if provider not in _SIGNERS:
        row = PROVIDERS.get(provider)
        _SIGNERS[provider] = ContainerSigner(TokenService(row.token_url)) if row and row.token_url else _as_it_is
    return _SIGNERS[provider]


def use_signer(provider: str, signer: Callable[[str], str]) -> None:
    """Sign a provider's addresses otherwise in this process, as with credentials of one's own."""
    _SIGNERS[provider] = signer


def signers() -> dict[str, Callable[[str], str]]:
    """Provider to signer, of those in use in this process, as another process takes them over."""
    return dict(_SIGNERS)


def signed(href: str, properties: Mapping[str, Any]) -> str:
    """An address as it opens now; call it just before opening, with the scene's properties.

    Parameters
    ----------
    href
        Path or URL of a file of a scene.
    properties
        The scene's; `ringmoe:provider` names who answered it, local files need none.
    """
    provider = properties.get("ringmoe:provider")
    return href if provider is None else signer_of(str(provider))(href)


def _as_it_is(href: str) -> str:
    return href
