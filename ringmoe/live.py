"""Bytes of tensors alive at once while something runs; the same number every time, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Counts storages that operations make, from their first tensor to their last; what was there does not count.

    What an operation needs for itself and frees before it ends is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._holders: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count what it leaves."""
        given = {_place(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                place = _place(tensor)
                if place in self._holders or place not in given:
                    self._hold(tensor, place)
        return out

    def _hold(self, tensor: Tensor, place: int) -> None:
        if place not in self._holders:
            self._holders[place] = 0
            self.now += tensor.untyped_storage().nbytes()
            self.most = max(self.most, self.now)
        self._holders[place] += 1
        weakref.finalize(tensor, self._release, place, tensor.untyped_storage().nbytes())

    def _release(self, place: int, size: int) -> None:
        self._holders[place] -= 1
        if not self._holders[place]:
            del self._holders[place]
            self.now -= size


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def most_bytes(run: Callable[[], object]) -> int:
    """Most bytes of tensors that a call has made and not let go of, at any one time."""
    with Live() as live:
        run()
    return live.most
