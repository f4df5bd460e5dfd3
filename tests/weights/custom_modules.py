"""Modules that use their weights by hand: sliced, scaled, shared, stacked, looked up, in lists, copied."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def small(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


class Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = small(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        first, rest = w[0], w[1:, ::2]
        return (
            x[:, ::2] @ rest.t() + (x @ first)[:, None] + (x @ w[..., [1, 2]].repeat(2, 2).narrow(0, 0, 8)).sum(1, True)
        )


class Scaled(nn.Module):
    """Equalized learning rate, as in StyleGAN: the gain is applied at every use."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = small(6, 8)
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias[None], x, (self.weight * 0.3).t()) + F.linear(x, 2 * self.weight / 3 - 0.1)


class Modulated(nn.Module):
    """A convolution whose weight is modulated and demodulated for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 6, 4, 3, 3))
        self.affine = nn.Linear(5, 4)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weight = self.weight * self.affine(style)[:, None, :, None, None]
        weight = weight * (weight.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
        y = F.conv2d(x.reshape(1, n * c, h, w), weight.flatten(0, 1), padding=1, groups=n)
        return y.view(n, 6, h, w)


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = small(8, 6)
        self.back = small(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight.t()) + x @ self.weight
        return F.linear(y, self.back) + y @ self.back.T + torch.mm(y, self.back.mT) + self.back.matmul(y.t()).t()


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, dim=[1, 2, 3], keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (deviation + 1e-5), self.bias)


class Einsum(nn.Module):
    """Grouped projections by einsum over a three-dimensional weight, and one over two weights at once."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.randn(2, 8, 4) / 3)
        self.out = nn.Parameter(torch.randn(2, 4, 6) / 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bi,hid->bhd", x, self.heads)
        return torch.einsum("bhd,hdo->bo", y, self.out) + torch.einsum("bi,hid,hdo->bo", x, self.heads, self.out)


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ParameterList([small(8, 8), small(8, 8)])
        self.named = nn.ParameterDict({"down": small(4, 8), "up": small(6, 4)})

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.layers:
            x = torch.tanh(F.linear(x, weight))
        x = F.linear(x, self.layers[0])
        for weight in self.named.values():
            x = x @ weight.t()
        return x + F.linear(x @ self.named["up"], self.named["up"])


class Tied(nn.Module):
    """Two layers that share one parameter, and a third that uses it transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.back = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.back.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.second(torch.tanh(self.first(x))))
        return y @ self.back.weight + self.back.bias


class Reused(nn.Module):
    """One layer called twice, and registered under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.same = self.layer

    def forward(self, x: Tensor) -> Tensor:
        return self.same(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class EmbeddingAndHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=0)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, index: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(index)))


class Root(nn.Module):
    """Parameters of the root module itself, of three dimensions, broadcast over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.scales = nn.Parameter(torch.randn(2, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)[:, :5] + self.positions
        y += self.positions
        return torch.sin(y) * self.scales.flatten().sum() + self.token.squeeze() * self.scales[0, 1]


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = small(4, 8), small(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.a, self.b])
        pair = torch.stack((self.a, self.b))
        return (
            F.linear(x, both) + F.linear(x, pair.mean(0)).repeat(1, 2) + x @ torch.block_diag(self.a, self.b)[:, :8].t()
        )


class Normalised(nn.Module):
    """Cosine similarity to prototypes, and a norm of the weight as a penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = small(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        cosine = F.linear(F.normalize(x), F.normalize(self.prototypes))
        return cosine + torch.cdist(x, self.prototypes) + self.prototypes.norm() + (self.prototypes**2).sum()


class Gathered(nn.Module):
    """Rows chosen by index in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.table = small(11, 8)
        self.register_buffer("order", torch.randperm(11))

    def forward(self, index: Tensor) -> Tensor:
        table = self.table
        picked = table[index] + table.index_select(0, index.flatten()).view(*index.shape, 8)
        picked = picked + torch.gather(table, 0, index.reshape(-1, 1).expand(-1, 8)).view_as(picked)
        return (
            picked + table[self.order].sum(0) + torch.take(table, index)[..., None] + F.embedding(index, weight=table)
        )


class Experts(nn.Module):
    """A mixture whose experts are stacked in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 8, 5) / 3)
        self.down = nn.Parameter(torch.randn(3, 5, 6) / 2)
        self.bias = nn.Parameter(torch.randn(3, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.expand(3, *x.shape)
        y = torch.baddbmm(self.bias, torch.relu(torch.bmm(batch, self.up)) + 0.1 * torch.bmm(batch, self.up), self.down)
        return y.sum(0) + sum(x @ up @ down for up, down in zip(self.up, self.down, strict=True))


class Arithmetic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8) / 3)
        self.v = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        w, v = self.w, self.v
        mixed = -w + v - 0.5 * w * v / (1 + abs(w)) + 1 / (2 + v**2) + 2**w - (+v) % 1.5 + (w > v) * w
        return x @ mixed + w @ x.t() @ x + (v @ w.mT) @ x.t() @ x + x @ (w @ v) + torch.where(w < 0, v, w).sum()


class Keywords(nn.Module):
    """The operations called by keyword, and with the weight in unusual argument positions."""

    def __init__(self) -> None:
        super().__init__()
        self.w = small(8, 8)
        self.k = nn.Parameter(torch.randn(4, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = (
            F.linear(input=x, weight=self.w, bias=self.w[0])
            + F.linear(self.w, x[:1]).t()
            + torch.addmm(input=self.w[0], mat1=x, mat2=self.w)
        )
        y = (
            y
            + torch.addmm(x @ x.t() @ x, x, self.w, beta=0.5, alpha=2)
            + torch.matmul(input=x, other=self.w)
            + F.linear(self.w, self.w).sum(0)
        )
        z = F.conv1d(input=y.view(-1, 4, 2), weight=self.k, padding=1) + torch.conv1d(
            y.view(-1, 4, 2), self.k, None, 1, "same"
        )
        return z + torch.conv_transpose1d(z, self.k, padding=1) + F.conv1d(self.k, self.k[:, :, :1]).mean()


class Fork(nn.Module):
    """A weight that is copied, changed and used: the copy is a plain tensor, and may be written to."""

    def __init__(self) -> None:
        super().__init__()
        self.w = small(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        changed = self.w.clone().mul_(2)
        changed[0] = changed[0] * 3
        left, right = self.w.chunk(2, dim=1)
        upper, lower = self.w.split([3, 5])
        return (
            x @ changed
            + torch.tril(self.w).sum() * x
            + torch.cat([x @ left, x @ right], 1)
            + F.pad(x @ upper.t(), (0, 5))
            + (x @ lower.t()).sum()
        )
