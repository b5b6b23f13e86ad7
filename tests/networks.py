"""Networks of every kind, with the shape of their data: what the engine is tested on.

Not in a test's own file, where pytest rewrites `assert`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """A residual block with normalisation, a stride and a shortcut of its own."""

    def __init__(self, read: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(read, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or read != out:
            self.downsample = nn.Sequential(nn.Conv2d(read, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.layers = nn.ModuleList([Residual(4, 4, 1), Residual(4, 6, 2)])
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.fc(torch.flatten(self.pool(x), 1))


class MobileBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, 3, padding="same", groups=4)
        self.multiplied = nn.Conv2d(4, 8, (3, 1), stride=2, groups=4)
        self.grouped = nn.Conv2d(8, 6, 1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.depthwise(x) + x)
        x = F.hardswish(self.multiplied(x))
        return self.norm(self.grouped(x)).mean((2, 3))


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(3, 5, 3, padding=1, padding_mode="circular"),
            nn.BatchNorm1d(5),
            nn.LeakyReLU(0.1),
            nn.MaxPool1d(2),
            nn.Conv1d(5, 4, 2, dilation=2, groups=1),
            nn.AvgPool1d(2, stride=1, padding=1),
        )
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x).mean(dim=-1))


class Encoder(nn.Module):
    """A transformer's block, with a class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.position = nn.Parameter(torch.zeros(6, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.feed_forward = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Dropout(0.1), nn.Linear(12, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        x = self.norm1(x + self.attention(x, x, x)[0])
        x = self.norm2(x + self.feed_forward(x))
        return self.head(x[:, 0])


class Torchs(nn.Module):
    """PyTorch's own encoder."""

    def __init__(self, norm_first: bool, batch_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, norm_first=norm_first, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        if self.batch_first:
            return self.encoder(x, mask=torch.ones(x.size(1), x.size(1), dtype=torch.bool).triu(1)).mean(1)
        return self.encoder(x.transpose(0, 1)).mean(0)


class CausalSelfAttention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.c_attn, self.c_proj, self.fused = nn.Linear(8, 24), nn.Linear(8, 8), fused
        self.register_buffer("mask", torch.tril(torch.ones(6, 6)).view(1, 1, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(8, dim=2)
        k = k.view(B, T, 2, C // 2).transpose(1, 2)
        q = q.view(B, T, 2, C // 2).transpose(1, 2)
        v = v.view(B, T, 2, C // 2).transpose(1, 2)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            att = att.masked_fill(self.mask[:, :, :T, :T] == 0, float("-inf"))
            y = F.softmax(att, dim=-1) @ v
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        return self.c_proj(y)


class GPT(nn.Module):
    """A small language model; its last layer is tied to its first."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(11, 8, padding_idx=0), nn.Embedding(6, 8)
        self.drop = nn.Dropout(0.1)
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(8), CausalSelfAttention(fused), nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.lm_head = nn.Linear(8, 11, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> Tensor:
        _, t = idx.size()
        pos = torch.arange(0, t, dtype=torch.long, device=idx.device)
        x = self.drop(self.wte(idx) + self.wpe(pos))
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return self.lm_head(x).transpose(1, 2)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.GroupNorm(1, 3), nn.SiLU())
        self.down2 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.ELU())
        self.up = nn.Upsample(scale_factor=2)
        self.transposed = nn.ConvTranspose2d(4, 2, 2, stride=2)
        self.out = nn.Conv2d(9, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(first)
        wide = F.interpolate(second, scale_factor=2)
        return self.out(torch.cat([first, self.up(second) - wide + wide, self.transposed(second)], dim=1))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 2)
        self.fc1, self.fc2 = nn.Linear(16, 6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.ones(()))
        self.slope = nn.Parameter(torch.full((4,), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x), inplace=True), 2)
        x = F.prelu(self.conv2(F.pad(x, (0, 1, 1, 0))), self.slope)
        x = F.dropout(x, 0.25, training=self.training)
        x = F.avg_pool2d(x, 2, stride=1)
        x = F.adaptive_avg_pool2d(x, 2)
        x = x.view(x.size(0), -1)
        x = self.scale * torch.tanh(self.fc1(x)) - 0.5
        return F.log_softmax(self.fc2(x), dim=-1)


class Mixer(nn.Module):
    """Axes that change places, and patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 6, 2, stride=2)
        self.norm = nn.LayerNorm(6)
        self.tokens, self.channels = nn.Linear(9, 9), nn.Linear(6, 6)
        self.mixed = nn.Parameter(torch.eye(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm(x).permute(0, 2, 1)).permute(0, 2, 1)
        x = x + self.channels(x) @ self.mixed
        low, high = x.chunk(2, dim=-1)
        return torch.stack([low.sum(1), high.amax(1)], dim=1).squeeze(-1).unsqueeze(1)


class Swish(nn.Module):
    """A layer that no table knows, with a branch that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 5:
            raise ValueError("five features, please")
        y = x.clone()
        y[:, 0] = 0
        return y * torch.sigmoid(self.beta * x)


class Recurrent(nn.Module):
    """What even vmap does not know runs for one member after another, the rest does not."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        outputs, (hidden, _) = self.lstm(x)
        return self.head(outputs[:, -1] + hidden[0])


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        z = y.sub_(x)
        y.mul_(2).add_(0.5 * x)
        return self.outer(F.relu(y, inplace=False)).sigmoid_() + z


class Gram(nn.Module):
    """Samples meet: what depends on others is right too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        x = x - x.mean(0)
        return torch.softmax(x @ x.t(), dim=0) @ x + torch.einsum("bi,bj->bi", x, x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def tied_sequence() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    return module


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)), (5,)),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 3),
        ),
        (1, 7, 8),
    ),
    "norms on shared data": (
        lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4), nn.Softplus(), nn.BatchNorm1d(4), nn.LayerNorm(4)),
        (5,),
    ),
    "statistics of the batch": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.PReLU()), (5,)
    ),
    "features of a sequence": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(6), nn.Softmax(-1), nn.Linear(4, 2)), (6, 3)
    ),
    "resnet": (ResNet, (2, 6, 6)),
    "depthwise": (MobileBlock, (4, 7, 6)),
    "one dimension": (OneDimensional, (3, 9)),
    "encoder": (Encoder, (5, 3)),
    "torch's encoder": (lambda: Torchs(False, True), (5, 8)),
    "torch's encoder, norm and sequence first": (lambda: Torchs(True, False), (5, 8)),
    "gpt": (lambda: GPT(True), (6,)),
    "gpt by hand": (lambda: GPT(False), (5,)),
    "u-net": (UNet, (1, 4, 6)),
    "functional": (Functional, (1, 10, 10)),
    "mixer": (Mixer, (1, 6, 6)),
    "unknown layer": (lambda: nn.Sequential(nn.Linear(4, 5), Swish(), nn.Linear(5, 2)), (4,)),
    "recurrent": (Recurrent, (4, 3)),
    "in place": (InPlace, (4,)),
    "samples meet": (Gram, (4,)),
    "tied": (Tied, (4,)),
    "tied sequence": (tied_sequence, (4,)),
}  # fmt: skip
