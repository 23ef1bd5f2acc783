"""The same bits from the same seed: deterministic kernels, fixed threads, a random state that is given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_FILL: Any = torch.utils.deterministic


@contextmanager
def deterministic(
    seed: int | None = None, *, threads: int | None = None, device: torch.device | str = "cpu"
) -> Iterator[None]:
    """Run what is inside reproducibly; settings and random state from before come back after.

    On a CPU equal seeds, weights, inputs and threads give equal bits. On CUDA an operation without a deterministic
    kernel warns and runs.

    Parameters
    ----------
    seed
        Of all random numbers drawn inside; None goes on from the state there is.
    threads
        Of torch; None leaves them. Sums depend on their number.
    device
        Whose random state is kept, beside the CPU's.
    """
    kind = torch.device(device)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    count, fill = torch.get_num_threads(), _FILL.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True, warn_only=kind.type != "cpu")
        _FILL.fill_uninitialized_memory = False
        torch.set_num_threads(threads or count)
        with torch.random.fork_rng([kind] if kind.type == "cuda" else []):
            if seed is not None:
                torch.manual_seed(seed)
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        _FILL.fill_uninitialized_memory = fill
        torch.set_num_threads(count)
