"""Checkpoint -> smaller checkpoint, block by block: in the memory of the largest block, not of the model."""

# Shape suffixes: C width, M modality.

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ringmoe.errors import PruneError
from ringmoe.integrate import Method, dense_block, weighted
from ringmoe.modality import Modality
from ringmoe.moe import Survivors
from ringmoe.ondisk import Opened, fill, open_on_disk, prefixes
from ringmoe.prune import block_tensors, silenced, survivors_of_blocks
from ringmoe.rebuild import PLAIN, Streaming, rebuild
from ringmoe.usage import Usage, networks

__all__ = ["Streaming", "integrate_streamed", "select_streamed"]


def select_streamed(
    parent: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    modalities: Sequence[Modality] | None = None,
    survivors: Sequence[Survivors] | None = None,
    usage: Usage | None = None,
    how: Streaming = PLAIN,
) -> str:
    """The sub-model of some modalities, or of some routed experts; the digest of the checkpoint written.

    What is written is what `ringmoe.checkpoint.save` writes of `slice_modalities` or `with_survivors` of the parent.

    Parameters
    ----------
    parent
        A checkpoint; it is only read. A head comes along as it is.
    out
        A folder that is not there yet, or empty; the checkpoint appears in it whole or not at all.
    modalities
        To keep; None for all.
    survivors
        Routed experts to keep of these modalities, block by block; None for all.
    usage
        Profile of the parent; needed where experts fall silent, whose means go into the shared experts' biases.

    Raises
    ------
    PruneError
        The model has not one of these modalities or experts, the profile is of another one or missing, the weights are
        quantised, or `out` is taken.
    CheckpointError
        The parent is damaged, or `out` cannot be written.
    StorageFull
        The disk has no room; found out before work starts.
    """
    opened = open_on_disk(parent, verify=False)
    model, old = opened.model, survivors_of_blocks(opened.model)
    rows = rows_of(model.modalities, model.modalities if modalities is None else modalities)
    left = [_of_rows(each, rows) for each in old]
    new = left if survivors is None else list(survivors)
    check_survivors(left, new)
    biases = _means(opened, usage, left, new)
    config = replace(model.config, survivors=None)
    if any(kept != config.survivors_of(i, len(rows)) for i, kept in enumerate(new)):
        config = replace(config, survivors=tuple(new))
    contract = model.contract.only([model.modalities[i] for i in rows])

    def cut(index: int, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name in tensors:
            bias_C = biases[index] if name == "shared.2.bias" else None
            yield from block_tensors({name: tensors[name]}, old[index], new[index], rows, bias_C).items()

    return rebuild(opened, out, config, contract, cut, how)


def integrate_streamed(
    parent: str | os.PathLike[str],
    out: str | os.PathLike[str],
    usage: Usage,
    method: Method = "neurons",
    *,
    how: Streaming = PLAIN,
) -> str:
    """One dense network a block, as of `ringmoe.integrate.integrate`; the digest of the checkpoint written.

    Parameters
    ----------
    usage
        Profile of the parent.
    method
        neurons, kc, ks or ka.

    Raises
    ------
    PruneError, CheckpointError, StorageFull
        As of `select_streamed`; PruneError also where there is no such method or no expert.
    """
    opened = open_on_disk(parent, verify=False)
    model = opened.model
    usage.check(model)
    config = replace(model.config, specialized=0, collaborative=0, shared=1, survivors=None)

    def dense(index: int, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        layer, width = model.blocks()[index].experts, model.blocks()[index].norm1.weight.numel()
        fill(layer, tensors)
        found = dense_block(weighted(usage, index, networks(layer)), width * config.mlp_ratio, method)
        layer.to("meta")
        dtype = model.stored.like[f"{prefixes(model)[index]}norm1.weight"].dtype
        yield from ((name, tensor.to(dtype)) for name, tensor in found.items())

    return rebuild(opened, out, config, model.contract, dense, how)


def rows_of(modalities: Sequence[Modality], keep: Sequence[Modality]) -> list[int]:
    """Places of the modalities to keep among a model's; PruneError where it has not one of them."""
    if not keep or any(m not in modalities for m in keep):
        raise PruneError(
            f"The model has no sub-model of {', '.join(keep) or 'no modality'}",
            item=f"a model of {', '.join(modalities)}",
            enough="one or more of its modalities",
            todo="name modalities that the checkpoint has learned",
        )
    return [i for i, m in enumerate(modalities) if m in keep]


def _of_rows(old: Survivors, rows: Sequence[int]) -> Survivors:
    return replace(
        old,
        specialized=tuple(old.specialized[i] for i in rows),
        silent_specialized=tuple(old.silent_of(i) for i in rows),
    )


def check_survivors(old: Sequence[Survivors], new: Sequence[Survivors]) -> None:
    """PruneError where experts are to be kept that a model has not."""
    if len(old) != len(new) or any(len(a.specialized) != len(b.specialized) for a, b in zip(old, new, strict=True)):
        raise PruneError(
            "The experts to keep are those of another model",
            item=f"{len(new)} blocks, {len(new[0].specialized) if new else 0} modalities",
            enough=f"{len(old)} blocks, {len(old[0].specialized)} modalities",
            todo="choose them from a profile of this very model",
        )
    for block, (a, b) in enumerate(zip(old, new, strict=True)):
        pairs = [*zip(a.specialized, b.specialized, strict=True), (a.collaborative, b.collaborative)]
        if any(set(kept) - set(had) for had, kept in pairs):
            raise PruneError(
                f"Block {block} cannot keep experts that it has not",
                item=str(b),
                enough=f"some of {a}",
                todo="choose them from a profile of this very model, after its last pruning",
            )


def _means(
    opened: Opened, usage: Usage | None, old: Sequence[Survivors], new: Sequence[Survivors]
) -> list[Tensor | None]:
    """What experts that fall silent leave in the shared expert's bias, block by block."""
    quiet = any(
        set(b.silent_collaborative) - set(a.silent_collaborative)
        or any(set(b.silent_of(row)) - set(a.silent_of(row)) for row in range(len(b.specialized)))
        for a, b in zip(old, new, strict=True)
    )
    if not quiet:
        return [None] * len(new)
    if usage is None or usage.modalities != tuple(opened.model.modalities) or not opened.model.config.shared:
        raise PruneError(
            "Experts cannot fall silent without their means",
            item=str(opened.tensors.folder),
            enough="a profile of this very model, all its modalities kept, and a shared expert that takes the means",
            todo="slice the model first and profile it, or let tokens take their best survivor",
        )
    usage.check(opened.model)
    return [silenced(usage, i, a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
