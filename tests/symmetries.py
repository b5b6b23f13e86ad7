"""Networks with their symmetries written out by hand, and copies of them that compute the same function."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from landscape.engine.stack import Stack, template_of
from landscape.space.symmetry import Axis, Element, Group, Move, Symmetry


def orders_alone(symmetry: Symmetry) -> Symmetry:
    """The same units without their scales and signs."""
    return Symmetry(tuple(Group(group.size, group.axes) for group in symmetry if group.permutes))


def rectified(size: int, here: str, following: str, inner: int = 1) -> Group:
    """Units whose activation lets positive factors through."""
    axes = (Axis(f"{here}.weight", 0), Axis(f"{here}.bias", 0), Axis(f"{following}.weight", 1, inner=inner))
    return Group(size, axes, scalings=((1, 1, -1),))


def mlp() -> tuple[nn.Module, Symmetry, Tensor]:
    net = nn.Sequential(
        nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    groups = (rectified(9, "0", "2"), rectified(7, "2", "4"), rectified(8, "4", "6"))
    return net, Symmetry(groups), torch.randn(20, 5)


def odd_mlp() -> tuple[nn.Module, Symmetry, Tensor]:
    net = nn.Sequential(
        nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 3)
    )
    groups = (
        Group(size, (Axis(f"{k}.weight", 0), Axis(f"{k}.bias", 0), Axis(f"{k + 2}.weight", 1)), flips=((1, 1, 1),))
        for size, k in ((9, 0), (7, 2), (8, 4))
    )
    return net, Symmetry(tuple(groups)), torch.randn(20, 5)


def cnn() -> tuple[nn.Module, Symmetry, Tensor]:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 3)
    )
    return net, Symmetry((rectified(6, "0", "2"), rectified(5, "2", "6", inner=4))), torch.randn(10, 2, 8, 8)


def normalised_cnn() -> tuple[nn.Module, Symmetry, Tensor]:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU()
    )
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)])
    with torch.no_grad():
        for layer in (net[1], net[4]):
            for tensor in (layer.weight, layer.bias, layer.running_mean):
                tensor.normal_()
    groups = []
    for size, conv, norm, following in ((6, "0", "1", "3"), (5, "3", "4", "8")):
        names = [f"{conv}.weight", *([f"{conv}.bias"] if conv == "3" else [])]
        names += [f"{norm}.running_mean", f"{norm}.running_var"]
        axes = [*(Axis(name, 0) for name in names), Axis(f"{norm}.weight", 0), Axis(f"{norm}.bias", 0)]
        powers = (*[0] * len(names), 1, 1, -1)
        # Before the normalisation a sign is taken back by its weight; an exact scale there is none next to an eps.
        flips = (*(1 if "var" not in name else 0 for name in names), 1, 0, 0)
        groups.append(Group(size, (*axes, Axis(f"{following}.weight", 1)), scalings=(powers,), flips=(flips,)))
    return net, Symmetry(tuple(groups)), torch.randn(10, 2, 8, 8)


class Residual(nn.Module):
    """A stem, two blocks that add to its channels, a head."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), norm(6), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), norm(8))
            for _ in range(2)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x).relu()
        return self.head(x.mean((2, 3)))


def batch_resnet() -> tuple[nn.Module, Symmetry, Tensor]:
    net = Residual(nn.BatchNorm2d)
    stats = ("weight", "bias", "running_mean", "running_var")
    stream = [Axis("stem.weight", 0), Axis("stem.bias", 0), Axis("head.weight", 1)]
    inside = []
    for k in range(2):
        stream += [Axis(f"blocks.{k}.0.weight", 1), Axis(f"blocks.{k}.3.weight", 0), Axis(f"blocks.{k}.3.bias", 0)]
        stream += [Axis(f"blocks.{k}.4.{name}", 0) for name in stats]
        axes = [Axis(f"blocks.{k}.0.weight", 0), Axis(f"blocks.{k}.0.bias", 0)]
        axes += [*(Axis(f"blocks.{k}.1.{name}", 0) for name in stats), Axis(f"blocks.{k}.3.weight", 1)]
        inside.append(Group(6, tuple(axes), scalings=((0, 0, 1, 1, 0, 0, -1),)))
    return net, Symmetry((Group(8, tuple(stream)), *inside)), torch.randn(10, 2, 5, 5)


def group_resnet() -> tuple[nn.Module, Symmetry, Tensor]:
    """Channels change places within a group of GroupNorm, and such groups with each other (of the inner layers)."""
    net = Residual(lambda channels: nn.GroupNorm(2, channels))
    groups = []
    for k in range(2):
        names = [f"blocks.{k}.0.weight", f"blocks.{k}.0.bias", f"blocks.{k}.1.weight", f"blocks.{k}.1.bias"]
        for start in (0, 3):
            axes = [*(Axis(name, 0, start) for name in names), Axis(f"blocks.{k}.3.weight", 1, start)]
            groups.append(Group(3, tuple(axes), scalings=((0, 0, 1, 1, -1),)))
        axes = [*(Axis(name, 0, inner=3) for name in names), Axis(f"blocks.{k}.3.weight", 1, inner=3)]
        groups.append(Group(2, tuple(axes)))
    return net, Symmetry(tuple(groups)), torch.randn(10, 2, 5, 5)


class Recurrent(nn.Module):
    """An LSTM and a head on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def lstm() -> tuple[nn.Module, Symmetry, Tensor]:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    axes, flips = [], []
    for name in names:  # gates i, f, g, o: the sign of a unit is that of its g
        axes += [Axis(f"lstm.{name}", 0, 0, 2), Axis(f"lstm.{name}", 0, 14), Axis(f"lstm.{name}", 0, 21)]
        flips += [0, 1, 0]
    axes += [Axis("lstm.weight_hh_l0", 1), Axis("head.weight", 1)]
    return Recurrent(), Symmetry((Group(7, tuple(axes), flips=((*flips, 1, 1),)),)), torch.randn(10, 6, 4)


class Attending(nn.Module):
    """Blocks of attention and a perceptron that add to a stream, without normalisation of other things than tokens."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "before": nn.LayerNorm(8),
                    "qkv": nn.Linear(8, 24),
                    "out": nn.Linear(8, 8),
                    "after": nn.LayerNorm(8),
                    "up": nn.Linear(8, 12),
                    "down": nn.Linear(12, 8),
                }
            )
            for _ in range(2)
        )
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 11, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            q, k, v = (
                each.unflatten(-1, (4, 2)).transpose(1, 2) for each in block["qkv"](block["before"](x)).chunk(3, -1)
            )
            seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            x = x + block["out"](seen.transpose(1, 2).flatten(2))
            x = x + block["down"](block["up"](block["after"](x)).relu())
        return self.head(self.last(x))


def transformer(*, causal: bool = False) -> tuple[nn.Module, Symmetry, Tensor]:
    net = Attending(causal=causal)
    stream, groups = [Axis("embed.weight", 1), Axis("head.weight", 1)], []
    for k in range(2):
        at = f"blocks.{k}"
        stream += [Axis(f"{at}.{layer}.weight", 1) for layer in ("qkv", "up")]
        stream += [Axis(f"{at}.{layer}.{name}", 0) for layer in ("out", "down") for name in ("weight", "bias")]
        stream += [Axis(f"{at}.{layer}.{name}", 0) for layer in ("before", "after") for name in ("weight", "bias")]
        heads = (
            Axis(f"{at}.qkv.weight", 0, 0, 3, 2),
            Axis(f"{at}.qkv.bias", 0, 0, 3, 2),
            Axis(f"{at}.out.weight", 1, inner=2),
        )
        qk, vo = (
            [Axis(f"{at}.qkv.{name}", 0, start, 4) for name in ("weight", "bias") for start in starts]
            for starts in ((0, 8), (16,))
        )
        groups += [Group(4, heads), Group(2, tuple(qk), ((1, -1, 1, -1),), ((1, 1, 1, 1),))]
        groups += [Group(2, (*vo, Axis(f"{at}.out.weight", 1, 0, 4)), ((1, 1, -1),), ((1, 1, 1),))]
        groups += [rectified(12, f"{at}.up", f"{at}.down")]
    stream += [Axis("last.weight", 0), Axis("last.bias", 0)]
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            if "before" in name or "after" in name or "last" in name:
                tensor.add_(0.3 * torch.randn_like(tensor))
    return net, Symmetry((Group(8, tuple(stream)), *groups)), torch.randint(11, (6, 7))


NETWORKS: Mapping[str, Callable[[], tuple[nn.Module, Symmetry, Tensor]]] = {
    "mlp": mlp,
    "odd_mlp": odd_mlp,
    "cnn": cnn,
    "normalised_cnn": normalised_cnn,
    "batch_resnet": batch_resnet,
    "group_resnet": group_resnet,
    "lstm": lstm,
    "encoder": transformer,
    "decoder": lambda: transformer(causal=True),
}


def made(name: str, seed: int = 0) -> tuple[nn.Module, Symmetry, Tensor]:
    """A network in float64, its symmetry and inputs for it."""
    torch.manual_seed(seed)
    net, symmetry, inputs = NETWORKS[name]()
    return net.double().eval(), symmetry, inputs.double() if inputs.is_floating_point() else inputs


def element(symmetry: Symmetry, seed: int = 0, spread: float = 1.0) -> Element:
    """One that is drawn: all orders alike, scales lognormal, signs even."""
    rng = np.random.default_rng(seed)
    return tuple(
        Move(
            number,
            rng.permutation(group.size) if group.permutes else None,
            np.exp(spread * rng.standard_normal((len(group.scalings), group.size))) if group.scalings else None,
            rng.choice([-1.0, 1.0], (len(group.flips), group.size)) if group.flips else None,
        )
        for number, group in enumerate(symmetry)
    )


def noisy(stack: Stack, share: float, seed: int = 0) -> Stack:
    """Each parameter with so much of its tensor's root mean square as noise."""
    generator = torch.Generator().manual_seed(seed)
    return Stack(
        {
            name: tensor
            + share * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator).double()
            for name, tensor in stack.tensors.items()
        },
        stack.buffers,
    )


def outputs(net: nn.Module, stack: Stack, inputs: Tensor) -> Tensor:
    """What the single member of a stack makes of inputs."""
    with torch.no_grad():
        found: Tensor = torch.func.functional_call(net, stack.state_dict(0), (inputs,))
    return found


def stack_of(net: nn.Module) -> Stack:
    """The network as a stack of one."""
    return template_of(net).map(lambda tensor: tensor.clone())
