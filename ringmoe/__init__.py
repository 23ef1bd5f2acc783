"""The model: one encoder for optical, multispectral and radar pixels, a mixture of experts that can be pruned."""
