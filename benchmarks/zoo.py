"""Models as people have them, each walked by the plain loop that its user would write and by `landscape.walk`.

A row a model, with random weights and synthetic data. Printed side by side, measured in one run: seconds of the loop,
from two files to its losses, with the best of a few batch sizes; how many times as fast is `landscape.walk`, from the
same files (`whole`; loop and walk are each in a process that has imported its modules and did nothing else, medians of
5 in turns), in a second call (`second`), and evaluating the points alone (`alone`; both in one warm process); the most
memory of either beside that before, in MiB, and how many times the parameters our walk needs `beyond` the loop; and the
largest relative difference of losses, which must be at most 1e-6. `limit` is the share of `alone` that products,
convolutions and the mixing of networks would take at the machine's best. With one thread the times are the processor's,
which other work on the machine changes little.

`--all-verbs` also goes from checkpoints to a curve, its barrier, a plane, figures and the top eigenvalue of a small
part of each model, and says what fails. Rows whose library is missing are left out, or with `--require` make the exit
status 1.

    OMP_NUM_THREADS=1 python benchmarks/zoo.py [--only NAME] [--all-verbs] [--require] [--smoke]
"""

import argparse
import concurrent.futures
import copy
import dataclasses
import functools
import importlib
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape
import landscape.evaluation.walk
import landscape.problems.registry
from landscape.engine.stack import template_of
from landscape.space.family import line

if __package__:
    from benchmarks.machine import machine, operations
else:  # run as a script
    from machine import machine, operations

__all__ = ["main"]

POINTS, RUNS = 21, 5

LIBRARIES = ("torchvision", "timm", "transformers", "peft", "lightning")

#: Relative difference of losses up to which they are the same.
SAME = 1e-6

State = dict[str, Tensor]

#: A user's loss of a network on a batch, and how much it weighs.
Theirs = Callable[[nn.Module, Any], tuple[Tensor, Any]]


@dataclasses.dataclass(kw_only=True)
class Case:
    """A model, the loop's batches by their size and its loss, and what `from_model` is given.

    Args:
        make: Makes the model, with random weights.
        data: What `from_model` gets as data; without `batches` the loop gets parts of it.
        theirs: The user's loss of a batch, a mean, and its weight.
        ours: Further arguments of `from_model`.
        sizes: Batch sizes that the loop tries; 0 is everything at once.
        batches: Where batches have one size, what gives them.
        head: Of which parameters the top eigenvalue is found.
        grad: Whether the loss takes derivatives.
    """

    make: Callable[[], nn.Module]
    data: Any
    theirs: Theirs
    ours: dict[str, Any]
    sizes: tuple[int, ...] = (0, 64, 256)
    batches: Iterable[Any] | None = None
    head: str
    grad: bool = False
    batchnorm: Any = None

    def parts(self, size: int) -> Iterable[Any]:
        """The loop's batches."""
        return split(self.data, size) if self.batches is None else self.batches

    def problem(self) -> landscape.Problem:
        """Ours."""
        return landscape.Problem.from_model(self.make(), self.data, **self.ours)

    def place(self, seed: int) -> nn.Module:
        """A model with random weights, and random statistics of BatchNorm."""
        torch.manual_seed(seed)
        module = self.make().eval()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
        return module


def split(tensors: Any, size: int) -> list[Any]:
    """Batches of a tuple or dict of tensors."""
    if isinstance(tensors, dict):
        columns = [split(each, size) for each in tensors.values()]
        return [dict(zip(tensors, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(tensors, tuple):
        return list(zip(*(split(each, size) for each in tensors), strict=True))
    return list(tensors.split(size or len(tensors)))


# The loop -------------------------------------------------------------------------------------------------------------


def plain_walk(case: Case, network: nn.Module, start: State, end: State, size: int, points: int) -> list[float]:
    """What a user writes: mix the state dicts, load them, add up the loss."""
    batches, losses = case.parts(size), []
    for alpha in torch.linspace(0, 1, points, dtype=torch.float64).tolist():
        mixed = {
            name: (1 - alpha) * start[name] + alpha * end[name] if start[name].is_floating_point() else start[name]
            for name in start
        }
        network.load_state_dict(mixed)
        total, count = 0.0, 0.0
        with torch.set_grad_enabled(case.grad):
            for batch in batches:
                loss, weight = case.theirs(network, batch)
                total += loss.item() * float(weight)
                count += float(weight)
        losses.append(total / count)
    return losses


# The models -----------------------------------------------------------------------------------------------------------

ROWS: dict[str, tuple[tuple[str, ...], Callable[[], Case]]] = {}


def row(name: str, *needs: str) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    """Enter a function that makes a case, with the libraries that it needs."""

    def enter(make: Callable[[], Case]) -> Callable[[], Case]:
        ROWS[name] = needs, make
        return make

    return enter


def case_of(name: str) -> Case:
    """The same at each call."""
    torch.manual_seed(0)
    _, make = ROWS[name]
    return make()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole_numbers(most: int, *shape: int, seed: int = 1) -> Tensor:
    """Whole numbers below `most`."""
    return torch.randint(0, most, shape, generator=torch.Generator().manual_seed(seed))


def classified(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    """The usual loss of classes."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets), len(targets)


def classes(make: Callable[[], nn.Module], inputs: Tensor, **given: Any) -> Case:
    """Cross-entropy of 10 classes."""
    data = inputs, whole_numbers(10, len(inputs))
    return Case(**{"make": make, "data": data, "theirs": classified, "ours": {"loss": "cross_entropy"}, **given})


def perceptron(width: int) -> nn.Module:
    """64-W-W-10."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


for _width in (16, 64, 256, 1024):
    row(f"MLP {_width}")(
        functools.partial(lambda width: classes(lambda: perceptron(width), drawn(1797, 64), head="4.bias"), _width)
    )


def convolutional(channels: int) -> nn.Module:
    """Two convolutions, pooled."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels * 64, 10),
    )


@row("MLP 5000, 97 MiB")
def large() -> Case:
    return classes(lambda: perceptron(5000), drawn(64, 64), head="4.bias", sizes=(0,))


for _width in (8, 32):
    row(f"CNN {_width}")(
        functools.partial(
            lambda width: classes(lambda: convolutional(width), drawn(1024, 1, 16, 16), head="6.bias"), _width
        )
    )


class Block(nn.Module):
    """Two convolutions with a connection around them."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class ResNet(nn.Module):
    """Residual blocks on small images."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module], colours: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(colours, channels, 3, padding=1)
        self.blocks = nn.Sequential(Block(channels, norm), nn.AvgPool2d(2), Block(channels, norm))
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


@row("ResNet 16")
def resnet16() -> Case:
    return classes(lambda: ResNet(16, lambda _: nn.Identity()), drawn(256, 3, 16, 16), head="head.bias")


@row("ResNet 16, BatchNorm")
def resnet16_norm() -> Case:
    make = functools.partial(ResNet, 16, nn.BatchNorm2d)
    return classes(make, drawn(256, 3, 16, 16), head="head.bias", batchnorm="interpolate")


@row("ResNet 64, 32 px")
def resnet64() -> Case:
    make = functools.partial(ResNet, 64, nn.BatchNorm2d)
    return classes(make, drawn(64, 3, 32, 32), head="head.bias", batchnorm="interpolate", sizes=(0, 8, 16))


class Encoder(nn.Module):
    """A transformer encoder over tokens, with a class a sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(100, width), nn.Parameter(torch.randn(16, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(tokens) + self.place).mean(1))


@row("encoder 64")
def encoder64() -> Case:
    return classes(lambda: Encoder(64), whole_numbers(100, 256, 16), head="head.bias", sizes=(0, 32, 64))


@row("encoder 256")
def encoder256() -> Case:
    return classes(lambda: Encoder(256), whole_numbers(100, 64, 16), head="head.bias", sizes=(0, 16, 32))


def padded(count: int, length: int, vocabulary: int) -> dict[str, Tensor]:
    """Token sequences of several lengths as a collator makes them: padded, with labels that are -100 there."""
    tokens = whole_numbers(vocabulary, count, length)
    mask = (torch.arange(length) < 5 + whole_numbers(length - 4, count, 1, seed=2)).long()
    return {"input_ids": tokens * mask, "attention_mask": mask, "labels": torch.where(mask > 0, tokens, -100)}


def counted(batch: dict[str, Tensor]) -> Tensor:
    """How many tokens a causal model's loss is a mean over."""
    return (batch["labels"][:, 1:] != -100).sum()


def gpt2_model() -> nn.Module:
    """A small GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity_error()
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=500,
            n_positions=32,
            n_embd=64,
            n_layer=2,
            n_head=4,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def own_tokens(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The model's own loss, which is a mean over tokens."""
    return model(**batch).loss, counted(batch)


@row("GPT-2, own loss", "transformers")
def gpt2_own() -> Case:
    batches = split(padded(64, 32, 500), 16)
    given = {"batch_loss": "own", "batch_weight": counted}
    return Case(
        make=gpt2_model, data=batches, batches=batches, theirs=own_tokens, ours=given, sizes=(16,), head="*ln_f.bias"
    )


def gpt2_pair(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Sum and count of tokens."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"][:, 1:]
    total = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="sum", ignore_index=-100)
    return total, (labels != -100).sum()


def gpt2_mean(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The same as a mean and its weight."""
    total, count = gpt2_pair(model, batch)
    return total / count, count


@row("GPT-2, loss of one's own", "transformers")
def gpt2_function() -> Case:
    given = {"batch_loss": gpt2_pair, "batch_size": 32}
    return Case(
        make=gpt2_model,
        data=padded(64, 32, 500),
        theirs=gpt2_mean,
        ours=given,
        sizes=(16, 32, 0),
        head="*ln_f.bias",
    )


@row("BERT classifier", "transformers")
def bert() -> Case:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=500,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        num_labels=4,
    )
    data = padded(128, 32, 500)
    data["labels"] = whole_numbers(4, 128)
    batches = split(data, 32)
    return Case(
        make=lambda: BertForSequenceClassification(config),
        data=batches,
        batches=batches,
        theirs=lambda model, batch: (model(**batch).loss, len(batch["labels"])),
        ours={"batch_loss": "own"},
        sizes=(32,),
        head="classifier.bias",
    )


class NanoGPT(nn.Module):
    """A causal language model that returns logits and loss, its output layer tied to its embedding."""

    def __init__(self, width: int = 64, vocabulary: int = 65, length: int = 64) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(NanoBlock(width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), ignore_index=-1)


class NanoBlock(nn.Module):
    """Causal attention and a perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = (each.view(n, t, 4, c // 4).transpose(1, 2) for each in self.qkv(self.norm1(x)).split(c, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).contiguous().view(n, t, c))
        return x + self.mlp(self.norm2(x))


@row("nanoGPT, tied weights")
def nano() -> Case:
    batches = split((whole_numbers(65, 64, 64), whole_numbers(65, 64, 64, seed=2)), 16)
    return Case(
        make=NanoGPT,
        data=batches,
        batches=batches,
        theirs=lambda model, batch: (model(*batch)[1], len(batch[0])),
        ours={"batch_loss": "own"},
        sizes=(16,),
        head="norm.bias",
    )


@row("Lightning module", "lightning")
def lightning_module() -> Case:
    import lightning

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = convolutional(16)

        def training_step(self, batch: Any, index: int = 0) -> Tensor:
            inputs, targets = batch
            return F.cross_entropy(self.body(inputs), targets)

    return Case(
        make=Classifier,
        data=(drawn(768, 1, 16, 16), whole_numbers(10, 768)),
        theirs=lambda model, batch: (model.training_step(batch), len(batch[1])),
        ours={"batch_loss": lambda model, batch: model.training_step(batch), "batch_size": 256},
        head="body.6.bias",
    )


@row("ViT (timm)", "timm")
def vit() -> Case:
    from timm.models.vision_transformer import VisionTransformer

    def make() -> nn.Module:
        return VisionTransformer(img_size=32, patch_size=8, embed_dim=96, depth=3, num_heads=4, num_classes=10)

    return classes(make, drawn(96, 3, 32, 32), head="head.bias", sizes=(0, 16, 32))


@row("resnet18 (torchvision)", "torchvision")
def resnet18() -> Case:
    from torchvision.models import resnet18 as build

    make = functools.partial(build, num_classes=10)
    return classes(make, drawn(96, 3, 32, 32), head="fc.bias", batchnorm="interpolate", sizes=(0, 8, 16))


@row("ConvNeXt (timm)", "timm")
def convnext() -> Case:
    from timm.models.convnext import ConvNeXt

    def make() -> nn.Module:
        return ConvNeXt(num_classes=10, depths=(1, 1, 1, 1), dims=(16, 32, 64, 96))

    return classes(make, drawn(64, 3, 64, 64), head="head.fc.bias", sizes=(0, 8, 32))


class UNet(nn.Module):
    """Two levels, with a connection across."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.out, self.head = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.down(x))
        deep = F.relu(self.deep(F.max_pool2d(top, 2)))
        return self.head(F.relu(self.out(torch.cat([top, self.up(deep)], 1))))


@row("U-Net, ignored pixels")
def unet() -> Case:
    targets = whole_numbers(5, 48, 32, 32)
    targets[:, :5] = 255
    loss = nn.CrossEntropyLoss(ignore_index=255)
    return Case(
        make=UNet,
        data=(drawn(48, 3, 32, 32), targets),
        theirs=lambda model, batch: (loss(model(batch[0]), batch[1]), (batch[1] != 255).sum()),
        ours={"loss": loss},
        sizes=(0, 8, 16),
        head="head.bias",
    )


class Recurrent(nn.Module):
    """An LSTM, whose last output is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


@row("LSTM")
def lstm() -> Case:
    return classes(Recurrent, drawn(512, 24, 16), head="head.bias")


class VAE(nn.Module):
    """A variational autoencoder that draws in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
        self.decoder = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean) if self.training else mean
        return self.decoder(latent), mean, log_variance


def elbo(model: nn.Module, batch: tuple[Tensor]) -> dict[str, Tensor]:
    """Reconstruction and divergence."""
    (x,) = batch
    found, mean, log_variance = model(x)
    reconstruction = F.mse_loss(found, x, reduction="sum") / len(x)
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
    return {"loss": reconstruction + divergence, "divergence": divergence}


@row("VAE")
def vae() -> Case:
    return Case(
        make=VAE,
        data=(drawn(2048, 64),),
        theirs=lambda model, batch: (elbo(model, batch)["loss"], len(batch[0])),
        ours={"batch_loss": elbo},
        head="decoder.2.bias",
    )


def residual(model: nn.Module, batch: Tensor) -> Tensor:
    """Of Poisson's equation in one dimension."""
    x = batch.clone().requires_grad_()
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (curved,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    ends = model(torch.tensor([[0.0], [1.0]], dtype=x.dtype))
    return (curved + math.pi**2 * torch.sin(math.pi * x)).square().mean() + ends.square().mean()


@row("PINN")
def pinn() -> Case:
    return Case(
        make=lambda: nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)),
        data=torch.linspace(0, 1, 1024)[:, None],
        theirs=lambda model, batch: (residual(model, batch), len(batch)),
        ours={"batch_loss": residual},
        sizes=(0,),
        head="4.*",
        grad=True,
    )


def info_nce(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Each sample's pair is to be found among those of its batch."""
    one, other = (F.normalize(model(each), dim=1) for each in batch)
    return F.cross_entropy(one @ other.T / 0.1, torch.arange(len(one)))


@row("InfoNCE")
def contrastive() -> Case:
    x = drawn(1024, 64)
    batches = split((x, x + 0.3 * drawn(1024, 64, seed=1)), 128)
    return Case(
        make=lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32)),
        data=batches,
        batches=batches,
        theirs=lambda model, batch: (info_nce(model, batch), len(batch[0])),
        ours={"batch_loss": info_nce},
        sizes=(128,),
        head="2.bias",
    )


class TwoInputs(nn.Module):
    """An image and some numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.numbers, self.head = nn.Linear(6, 16), nn.Linear(128 + 16, 1)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        return self.head(torch.cat([self.image(image), F.relu(self.numbers(numbers))], 1))[:, 0]


def two_inputs_loss(model: nn.Module, batch: tuple[tuple[Tensor, Tensor], Tensor]) -> Tensor:
    """Squares."""
    (image, numbers), targets = batch
    return F.mse_loss(model(image, numbers), targets)


@row("two inputs")
def two_inputs() -> Case:
    return Case(
        make=TwoInputs,
        data=((drawn(768, 1, 16, 16), drawn(768, 6)), drawn(768)),
        theirs=lambda model, batch: (two_inputs_loss(model, batch), len(batch[1])),
        ours={"batch_loss": two_inputs_loss, "batch_size": 256},
        sizes=(0, 64, 256),
        head="head.bias",
    )


@row("LoRA (peft)", "peft", "transformers")
def lora() -> Case:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)
    base = gpt2_model()

    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers whose weights lie the other way round
            return get_peft_model(
                copy.deepcopy(base), LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights=False)
            )

    batches = split(padded(64, 32, 500), 16)
    given = {"batch_loss": "own", "batch_weight": counted}
    return Case(
        make=make, data=batches, batches=batches, theirs=own_tokens, ours=given, sizes=(16,), head="*h.1*lora_A*"
    )


CLASS_WEIGHTS = torch.linspace(0.5, 2, 10)


def weighed(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """With weights of classes."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets, weight=CLASS_WEIGHTS), CLASS_WEIGHTS[targets].sum()


@row("class weights")
def class_weights() -> Case:
    given = {"loss": nn.CrossEntropyLoss(weight=CLASS_WEIGHTS)}
    return classes(lambda: perceptron(128), drawn(1797, 64), theirs=weighed, ours=given, head="4.bias")


@row("lambda, class weights")
def class_weights_lambda() -> Case:
    given = {"loss": lambda outputs, targets: F.cross_entropy(outputs, targets, weight=CLASS_WEIGHTS)}
    return classes(lambda: convolutional(16), drawn(768, 1, 16, 16), theirs=weighed, ours=given, head="6.bias")


@row("smoothed labels")
def smoothed() -> Case:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)

    def theirs(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        return loss(model(batch[0]), batch[1]), len(batch[1])

    return classes(lambda: perceptron(64), drawn(1797, 64), theirs=theirs, ours={"loss": loss}, head="4.bias")


class Tagger(nn.Module):
    """A tag for each token: logits [sample, tag, token]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(500, 32), nn.GRU(32, 48, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, 12)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0]).transpose(1, 2)


@row("tagger, padded tokens")
def tagger() -> Case:
    data = padded(256, 24, 500)
    tags = torch.where(data["labels"] == -100, -100, data["labels"] % 12)
    return Case(
        make=Tagger,
        data=(data["input_ids"], tags),
        theirs=lambda model, batch: (F.cross_entropy(model(batch[0]), batch[1]), (batch[1] != -100).sum()),
        ours={"loss": nn.CrossEntropyLoss()},
        sizes=(0, 32, 64, 128),
        head="head.bias",
    )


@row("DataLoader, streamed")
def streamed() -> Case:
    dataset = [(x, int(y)) for x, y in zip(drawn(768, 1, 16, 16), whole_numbers(10, 768), strict=True)]
    loader = torch.utils.data.DataLoader(dataset, batch_size=64)
    return classes(lambda: convolutional(16), drawn(1), data=loader, batches=loader, sizes=(64,), head="6.bias")


class Autoencoder(nn.Module):
    """A decoder that is the encoder transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, 128)
        self.bias = nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.encoder(x)), self.encoder.weight.T, self.bias)


@row("autoencoder, mse")
def autoencoder() -> Case:
    x = drawn(2048, 64)
    return Case(
        make=Autoencoder,
        data=(x, x),
        theirs=lambda model, batch: (F.mse_loss(model(batch[0]), batch[1]), len(batch[0])),
        ours={"loss": "mse"},
        head="bias",
    )


# Measurement ----------------------------------------------------------------------------------------------------------


def declare_operators() -> None:
    """Declare two operators of torchvision's as far as its import asks for them, where its compiled part is of another
    build of torch: its networks need none of them.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            _OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except ImportError:
        pass


_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


@functools.cache
def there(library: str) -> bool:
    """Whether it can be imported: one that was built for another torch raises whatever it likes."""
    try:
        importlib.import_module(library)
    except Exception:
        return False
    return True


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it gives."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    found = call()
    return clock() - begun, found


def resident(what: str) -> int:
    """Bytes of memory in use, `VmRSS`, or the most of them since the process began, `VmHWM`; 0 where there is no
    /proc.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


@dataclasses.dataclass(frozen=True)
class Whole:
    """A line from two files to its losses, in a process that did nothing before: its seconds and bytes at most."""

    seconds: float
    bytes: int
    losses: list[float]
    engine: str = ""


def whole(name: str, folder: Path, size: int | None, points: int) -> Whole:
    """By the plain loop with batches of a `size`; without one by `landscape.walk`."""
    case = case_of(name)
    paths, network = (folder / "a.pt", folder / "b.pt"), case.make().eval()

    def loop() -> Any:
        a, b = (torch.load(path) for path in paths)
        return plain_walk(case, network, a, b, size or 0, points)

    def ours() -> Any:
        problem = landscape.Problem.from_model(network, case.data, **case.ours)
        return landscape.walk(*paths, problem=problem, points=points, batchnorm=case.batchnorm)

    before = resident("VmRSS")
    spent, found = seconds(ours if size is None else loop)
    most = resident("VmHWM") - before
    if size is not None:
        return Whole(spent, most, found)
    return Whole(spent, most, found["loss"][0].tolist(), found.about["backend"])


@dataclasses.dataclass(frozen=True)
class Again:
    """Ratios of seconds, the loop's by ours, once everything is warm: of another whole call, and of the points alone;
    the share of these that the machine's limit takes; with the largest relative difference of losses, and bytes of the
    parameters.
    """

    second: float
    alone: float
    limit: float
    difference: float
    parameters: int


def best_size(name: str, folder: Path, runs: int) -> int:
    """The batch size with which the loop is fastest; on the way two checkpoints are written."""
    case = case_of(name)
    for seed, path in enumerate(("a.pt", "b.pt"), start=1):
        torch.save(case.place(seed).state_dict(), folder / path)
    a, b = (case.place(seed).state_dict() for seed in (1, 2))
    network, tried = case.make().eval(), {}
    for size in case.sizes if runs > 1 else ():
        loop = functools.partial(plain_walk, case, network, a, b, size)
        loop(2)
        tried[size] = min(seconds(lambda loop=loop: loop(3))[0] for _ in range(2))
    return min(tried, key=tried.__getitem__) if tried else case.sizes[0]


def again(name: str, size: int, points: int, runs: int) -> Again:
    """The loop, a whole call and the points alone in turns."""
    case = case_of(name)
    a, b = case.place(1), case.place(2)
    network = copy.deepcopy(a)
    problem = case.problem()
    walk = functools.partial(landscape.walk, a, b, problem=problem, points=points, batchnorm=case.batchnorm)
    plain: Any = problem.plain(batchnorm=case.batchnorm)
    family = line(template_of(a), template_of(b))
    which, along = torch.zeros(points, dtype=torch.long), torch.linspace(0, 1, points, dtype=torch.float64)
    calls = {
        "loop": lambda: plain_walk(case, network, a.state_dict(), b.state_dict(), size, points),
        "second": walk,
        "alone": lambda: plain(family.points(which, along)),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    found: dict[str, Any] = {}
    for call in (walk, calls["alone"]):
        call()
    for _ in range(runs):
        for label, call in calls.items():
            spent, found[label] = seconds(call)
            times[label].append(spent)
    theirs = torch.tensor(found["loop"], dtype=torch.float64)
    ours = torch.as_tensor(found["second"]["loss"][0]), found["alone"]["loss"]
    difference = max(float(((each - theirs) / theirs).abs().max()) for each in ours)
    # Processes of their own are disturbed alike; here each may have its undisturbed moment.
    best = {label: min(each) for label, each in times.items()}
    parameters = sum(tensor.nbytes for tensor in a.state_dict().values())
    counted = operations(lambda: plain(family.points(which[:1], along[:1])))
    least = points * machine().seconds(counted, 3 * parameters)  # two networks are read at each point, and one written
    limit = least / best["alone"]
    return Again(best["loop"] / best["second"], best["loop"] / best["alone"], limit, difference, parameters)


def failures(name: str) -> list[str]:
    """What fails of a row on the way from checkpoints on disk to a curve, a barrier, a figure, a plane and a top
    eigenvalue.
    """
    case = case_of(name)
    problem, given = case.problem(), {"batchnorm": case.batchnorm}
    failed = []

    def tried(verb: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # whatever it may be, it is said
            failed.append(f"{verb}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            return None

    with tempfile.TemporaryDirectory() as path:
        places = [Path(path, f"{seed}.pt") for seed in (1, 2, 3)]
        for seed, place in enumerate(places, start=1):
            torch.save(case.place(seed).state_dict(), place)
        a, b, c = places
        walked = tried("walk", lambda: landscape.walk(a, b, problem=problem, points=3, **given))
        plane = tried("plane", lambda: landscape.plane(a, b, c, problem=problem, points=3, **given))
        bent = tried(
            "curvature",
            lambda: landscape.curvature(a, problem=problem, only=[case.head], max_products=30, tolerance=1e-3, **given),
        )
        for result in filter(None, (walked, plane)):
            file = Path(path, f"{result.kind}.png")
            tried(f"figure of a {result.kind}", lambda result=result, file=file: result.plot().figure.savefig(file))
        if plane is not None:
            states = torch.load(a), torch.load(b)
            theirs = plain_walk(case, case.make().eval(), *states, case.sizes[0], 2)
            wrong = [mark.name for mark, loss in zip(plane.marks, theirs, strict=False) if not same(mark.loss, loss)]
            failed += [f"plane: the loss of {each} is not the loop's" for each in wrong]
        if walked is not None and not math.isfinite(landscape.barriers(walked).above_chord[0]):
            failed.append("the barrier is not finite")
        if bent is not None and not math.isfinite(bent.eigenvalues[0, 0]):
            failed.append("the top eigenvalue is not finite")
    return failed


def same(one: float, other: float) -> bool:
    """Whether two losses are the same."""
    return abs(one - other) <= SAME * abs(other)


def fresh(call: Callable[..., Any], *given: Any) -> Any:
    """What a call gives in a process that has imported the libraries and did nothing else."""
    context = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where the server finds this file
    context.set_forkserver_preload([Path(__file__).stem])
    with concurrent.futures.ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        return pool.submit(call, *given).result()


def measure(name: str, points: int, runs: int) -> tuple[str, bool]:
    """A row of the table, and whether the losses are the loop's."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        size = fresh(best_size, name, folder, runs)
        wholes: list[list[Whole]] = [[], []]
        for _ in range(runs):
            for each, found in zip((size, None), wholes, strict=True):
                found.append(fresh(whole, name, folder, each, points))
    loop, ours = (
        {key: statistics.median(getattr(each, key) for each in found) for key in ("seconds", "bytes")}
        for found in wholes
    )
    theirs, first = (torch.tensor(found[-1].losses, dtype=torch.float64) for found in wholes)
    warm = fresh(again, name, size, points, min(runs, 3))
    difference = max(warm.difference, float(((first - theirs) / theirs).abs().max()))
    beyond = (ours["bytes"] - loop["bytes"]) / warm.parameters
    row = (
        f"{name:26} {size or 'all':>5} {loop['seconds']:7.3f} {loop['seconds'] / ours['seconds']:6.2f} "
        f"{warm.second:6.2f} {warm.alone:6.2f} {warm.limit:6.0%} "
        f"{loop['bytes'] / 2**20:6.0f} {ours['bytes'] / 2**20:6.0f} {beyond:6.1f} "
        f"{difference:8.1e}  {wholes[1][-1].engine}"
    )
    return row, difference <= SAME


def main() -> int:
    """Print a row a model; exit status 1 where one differs from its loop, or fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="Show that it runs: 3 points, once.")
    parser.add_argument("--only", action="append", default=[], help="Rows whose name contains this; several times.")
    parser.add_argument("--require", action="store_true", help="Exit status 1 where a row's library is missing.")
    parser.add_argument("--all-verbs", action="store_true", help="Planes, barriers and curvature too.")
    arguments = parser.parse_args()
    points, runs = (3, 1) if arguments.smoke else (POINTS, RUNS)
    print(f"{points} points, {torch.get_num_threads()} threads, CPU; how many times as fast as the loop, MiB at most")
    print(machine())
    print(
        f"{'model':26} {'batch':>5} {'loop s':>7} {'whole':>6} {'second':>6} {'alone':>6} {'limit':>6} "
        f"{'loop':>6} {'ours':>6} "
        f"{'beyond':>6} {'differs':>8}  engine",
        flush=True,
    )
    wrong, missing = [], []
    for name, (needs, _) in ROWS.items():
        if arguments.only and not any(each in name for each in arguments.only):
            continue
        if lacking := [each for each in needs if not there(each)]:
            missing.append(name)
            print(f"{name:26} left out: {', '.join(lacking)} cannot be imported", flush=True)
            continue
        try:
            row_, alike = measure(name, points, runs)
            failed = fresh(failures, name) if arguments.all_verbs else []
        except ImportError as error:  # some libraries load their parts when they are used
            missing.append(name)
            print(f"{name:26} left out: {', '.join(needs)} cannot be imported ({error})", flush=True)
            continue
        except Exception as error:  # a model that cannot be walked is what this looks for
            wrong.append(name)
            print(f"{name:26} FAILS: {type(error).__name__}: {error}", flush=True)
            continue
        print(row_ + ("" if alike else "  DIFFERS"), flush=True)
        for line_ in failed:
            print(f"    {line_}", flush=True)
        if failed or not alike:
            wrong.append(name)
    if wrong:
        print(f"wrong: {', '.join(wrong)}")
    return int(bool(wrong) or (arguments.require and bool(missing)))


declare_operators()
for _library in LIBRARIES:
    there(_library)  # before any process begins to measure

if __name__ == "__main__":
    sys.exit(main())
