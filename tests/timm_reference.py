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
from ringmoe.export import timm_tensors


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


def swin(config: RingMoEConfig, channels: int, pixels: int, *, mlp_ratio: float) -> nn.Module:
    """timm's model of the widths, depths, heads and window of a configuration; its output is the last map, normed."""
    return swin_module().SwinTransformerV2(
        img_size=pixels,
        in_chans=channels,
        num_classes=0,
        global_pool="",
        embed_dim=config.dim,
        depths=config.depths,
        num_heads=config.heads,
        window_size=config.window,
        mlp_ratio=mlp_ratio,
        drop_path_rate=0.0,
    )


def twin(model: RingMoE, channels: int, pixels: int) -> nn.Module:
    """timm's model with the weights and the dtype of ours, which has one modality and no routed experts."""
    reference = swin(model.config, channels, pixels, mlp_ratio=model.config.mlp_ratio)
    reference.to(model.norm.weight.dtype).load_state_dict(timm_tensors(model))
    return exact(reference).eval()


def exact(reference: nn.Module) -> nn.Module:
    """The same with tables of relative positions in double precision; timm computes them in float32."""
    for module in reference.modules():
        if hasattr(module, "relative_coords_table"):
            table = relative_positions(*module.window_size)
            before = module.relative_coords_table
            torch.testing.assert_close(before.double(), table, rtol=0, atol=1e-6)
            module.relative_coords_table = table.to(before.dtype)
    return reference


def relative_positions(rows: int, cols: int) -> Tensor:
    """sign(d) log2(1 + 8 |d| / (side - 1)) / log2(8) of every offset in a window, (1, 2 rows - 1, 2 cols - 1, 2)."""
    sides = [torch.arange(1 - side, side, dtype=torch.float64) * 8 / max(side - 1, 1) for side in (rows, cols)]
    offsets = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1)[None]
    return torch.sign(offsets) * torch.log2(1 + offsets.abs()) / 3
