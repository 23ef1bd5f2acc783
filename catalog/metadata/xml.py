"""An XML metadata file with its fields found by path or refused by name; entity bombs are refused too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from catalog.errors import MetadataError

T = TypeVar("T")


def refuse(path: Path, field: str, problem: str, enough: str = "") -> MetadataError:
    """The error of one field of one metadata file, to be raised by the caller."""
    return MetadataError(
        f"{field}: {problem}",
        item=str(path),
        enough=enough or f"a metadata file whose {field} can be read",
        todo="fetch the product's metadata file again",
    )


def utc(path: Path, field: str, text: str) -> datetime:
    """ISO 8601 text, read as UTC where it names no zone (as Sentinel-1's and Gaofen's do)."""
    try:
        stamp = datetime.fromisoformat(text.strip())
    except ValueError:
        raise refuse(path, field, f"{text!r} is no time", "a time as in 2023-08-21T22:19:41.024Z") from None
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)


def finite(path: Path, field: str, text: str) -> float:
    """A finite number."""
    try:
        number = float(text)
    except ValueError:
        raise refuse(path, field, f"{text!r} is no number", "a number") from None
    if not np.isfinite(number):
        raise refuse(path, field, f"{text!r} is not finite", "a finite number")
    return number


@dataclass(frozen=True)
class XmlNode:
    """One element of a metadata file; paths skip namespaces."""

    path: Path
    """The file, named in every refusal."""
    element: Element
    """The element itself."""

    @property
    def tag(self) -> str:
        """Name without its namespace."""
        return str(self.element.tag).rpartition("}")[2]

    def children(self, field: str) -> list[XmlNode]:
        """Every element below that answers `a/b/c`, each step a direct child; empty where there is none."""
        nodes = [self]
        for step in field.split("/"):
            nodes = [XmlNode(self.path, c) for n in nodes for c in n.element if XmlNode(self.path, c).tag == step]
        return nodes

    def descendants(self, tag: str) -> list[XmlNode]:
        """Every element of that name at any depth, in document order."""
        nodes = (XmlNode(self.path, e) for e in self.element.iter() if isinstance(e.tag, str))
        return [n for n in nodes if n.tag == tag]

    def node(self, field: str) -> XmlNode:
        """The first element at `a/b/c`, or MetadataError naming it."""
        found = self.children(field)
        if not found:
            raise refuse(self.path, field, "is missing")
        return found[0]

    def text(self, field: str) -> str:
        """The text at `a/b/c`; MetadataError where it is missing or empty."""
        text = (self.node(field).element.text or "").strip()
        if not text:
            raise refuse(self.path, field, "is empty")
        return text

    def number(self, field: str) -> float:
        """The finite number at `a/b/c`."""
        return finite(self.path, field, self.text(field))

    def integer(self, field: str) -> int:
        """The whole number at `a/b/c`."""
        number = self.number(field)
        if number != int(number):
            raise refuse(self.path, field, f"{number} is not a whole number")
        return int(number)

    def time(self, field: str) -> datetime:
        """The UTC time at `a/b/c`."""
        return utc(self.path, field, self.text(field))

    def optional(self, read: Callable[[str], T], field: str) -> T | None:
        """`read(field)`, or None where no such element is there; a damaged one is still refused."""
        return read(field) if self.children(field) else None

    def vector(self, field: str) -> np.ndarray:
        """Blank-separated numbers at `a/b/c` as float64 (n,), checked against the element's `count`."""
        node = self.node(field)
        try:
            values = np.array((node.element.text or "").split(), dtype=np.float64)
        except ValueError:
            raise refuse(self.path, field, "holds something that is no number", "a list of numbers") from None
        count = node.element.get("count")
        if count is not None and int(count) != values.size:
            raise refuse(self.path, field, f"says {count} values and holds {values.size}")
        if not np.isfinite(values).all():
            raise refuse(self.path, field, "holds a value that is not finite")
        return values


def read_xml(path: Path, root: str = "") -> XmlNode:
    """Parse a metadata file.

    Parameters
    ----------
    path
        The file.
    root
        Name its root element must have, without namespace; any where empty.

    Raises
    ------
    MetadataError
        Missing, truncated, another document, or one that declares entities.
    """
    try:
        node = XmlNode(
            path, fromstring(path.read_bytes(), forbid_dtd=False, forbid_entities=True, forbid_external=True)
        )
    except OSError as error:
        raise refuse(path, "the file", f"cannot be read ({error.strerror})", "a readable XML file") from None
    except ParseError as error:
        raise refuse(path, "the XML", f"is damaged or cut off ({error})", "a well-formed XML file") from None
    except DefusedXmlException as error:
        problem = f"declares entities, which no product does ({type(error).__name__})"
        raise refuse(path, "the XML", problem, "an XML file without entity declarations") from None
    if root and node.tag != root:
        raise refuse(path, "the root element", f"is {node.tag}", f"a document whose root is {root}")
    return node
