"""Blocks for the zoo that mix positions by matrix products: attention in its spellings, and recurrent layers.

All keep (N, C, H, W). No channel of theirs can be removed, but what they compute must be counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Spelling = Literal["baddbmm", "einsum", "scaled-dot-product", "tensordot", "inference-mode"]


class PositionAttention(nn.Module):
    """Every position reads all others, weighed by the products of their channels."""

    def __init__(self, channels: int, spelling: Spelling) -> None:
        super().__init__()
        self.spelling = spelling
        self.project = nn.Conv2d(channels, 3 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        return x + self._mix(query, key, value).transpose(1, 2).reshape(x.shape)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, positions, C), three times, to the same."""
        scale = query.shape[-1] ** -0.5
        match self.spelling:
            case "scaled-dot-product":
                return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
            case "einsum":
                weights = torch.einsum("bic,bjc->bij", query, key) * scale
                return torch.einsum("bij,bjc->bic", weights.softmax(-1), value)
            case "tensordot":
                rows = [torch.tensordot(q, k, dims=([1], [1])) for q, k in zip(query, key, strict=True)]
                return torch.stack([row.softmax(-1).mm(v) for row, v in zip(rows, value, strict=True)])
            case "baddbmm":
                bias = torch.zeros(1, 1, 1, device=query.device)
                weights = torch.baddbmm(bias, query, key.transpose(1, 2), beta=0, alpha=scale)
                return weights.softmax(-1).bmm(value)
            case "inference-mode":
                with torch.inference_mode():
                    return torch.matmul(torch.matmul(query, key.mT).softmax(-1), value)


class MultiHead(nn.Module):
    """PyTorch's own attention layer over positions."""

    def __init__(self, channels: int, *, heads: int = 2) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return x + cast("Tensor", self.attention(tokens, tokens, tokens)[0]).transpose(1, 2).reshape(x.shape)


class Scanlines(nn.Module):
    """A recurrent layer along every row of pixels, in both directions."""

    def __init__(self, channels: int, kind: Callable[..., nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.rows = kind(channels, channels, batch_first=True, bidirectional=True)
        self.merge = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        rows = self.rows(x.permute(0, 2, 3, 1).reshape(n * h, w, c))[0]
        return x + cast("Tensor", self.merge(rows.reshape(n, h, w, 2 * c).permute(0, 3, 1, 2)))


class LearnedBasis(nn.Module):
    """Channels mixed by a parameter that no layer owns: matrix products with `addmm` and with `@`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.eye(channels))
        self.offset = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(-1, c)
        mixed = torch.addmm(self.offset, pixels, self.basis) + pixels @ self.basis.T
        return mixed.reshape(n, h, w, c).permute(0, 3, 1, 2)
