"""timm's Swin V2 as the reference: imported without torchvision, which timm loads and Swin V2 never uses."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ringmoe.backbone import RingMoE, RingMoEConfig


class _Torchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serves `torchvision` and whatever is below it as modules whose every attribute is an empty class."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Dummies(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


class _Empty(type):
    """A class that has every attribute, each again such a class."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (), {})


class _Dummies(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (), {})


@contextmanager
def _dummy_torchvision() -> Iterator[None]:
    """Only while timm is imported: nothing else of the process may take the dummies for the real thing."""
    finder = _Torchvision()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            if isinstance(sys.modules[name], _Dummies):
                del sys.modules[name]


def available() -> bool:
    """Whether timm is installed; a bare GPU machine has none."""
    return importlib.util.find_spec("timm") is not None


def swin_module() -> Any:
    """`timm.models.swin_transformer_v2`."""
    with _dummy_torchvision():
        import timm.models.swin_transformer_v2 as module
    return module
