"""ResNet-18 as in torchvision, in PyTorch and in flax, under the same names of layers."""

import flax.linen as nn
import jax.numpy as jnp
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, stride of the first of two blocks


class TorchBlock(torch.nn.Module):
    def __init__(self, inputs, channels, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(channels)
        self.conv2 = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or inputs != channels:
            conv = torch.nn.Conv2d(inputs, channels, 1, stride, bias=False)
            self.downsample = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(channels))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet18(torch.nn.Module):
    def __init__(self, classes=1000):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(64)
        inputs = 64
        for i, (channels, stride) in enumerate(STAGES, start=1):
            blocks = TorchBlock(inputs, channels, stride), TorchBlock(channels, channels, 1)
            setattr(self, f"layer{i}", torch.nn.Sequential(*blocks))
            inputs = channels
        self.fc = torch.nn.Linear(inputs, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.nn.functional.max_pool2d(x, 3, 2, padding=1)
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return self.fc(x.mean((2, 3)))


def _convolve(channels, size, stride, name):
    padding = size // 2
    return nn.Conv(channels, (size, size), stride, padding, use_bias=False, name=name)


class FlaxBlock(nn.Module):
    channels: int
    stride: int
    norm: type

    @nn.compact
    def __call__(self, x, train):
        def norm(name):
            return self.norm(use_running_average=not train, momentum=0.9, name=name)

        y = nn.relu(norm("bn1")(_convolve(self.channels, 3, self.stride, "conv1")(x)))
        y = norm("bn2")(_convolve(self.channels, 3, 1, "conv2")(y))
        if x.shape != y.shape:
            x = _convolve(self.channels, 1, self.stride, "downsample_0")(x)
            x = norm("downsample_1")(x)
        return nn.relu(x + y)


class FlaxResNet18(nn.Module):
    norm: type  # flax.linen.BatchNorm or ours
    classes: int = 1000

    @nn.compact
    def __call__(self, x, train=False):
        x = _convolve(64, 7, 2, "conv1")(x)
        x = nn.relu(self.norm(use_running_average=not train, momentum=0.9, name="bn1")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for i, (channels, stride) in enumerate(STAGES, start=1):
            x = FlaxBlock(channels, stride, self.norm, name=f"layer{i}_0")(x, train)
            x = FlaxBlock(channels, 1, self.norm, name=f"layer{i}_1")(x, train)
        return nn.Dense(self.classes, name="fc")(jnp.mean(x, (1, 2)))


def flax_path(name):
    """The path of PyTorch's "layer1.0.downsample.1": "layer1_0/downsample_1"."""
    parts = name.replace("downsample.", "downsample_").split(".")
    return "/".join(["_".join(parts[:2]), *parts[2:]] if parts[0].startswith("layer") else parts)


def with_products(params, model):
    """Flax's parameters with PyTorch's kernels of the convolutions and of the linear layer."""
    flat = flatten_dict(params, sep="/")
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            axes = (2, 3, 1, 0) if isinstance(module, torch.nn.Conv2d) else (1, 0)
            kernel = module.weight.detach().numpy().transpose(axes)
            assert flat[f"{flax_path(name)}/kernel"].shape == kernel.shape
            flat[f"{flax_path(name)}/kernel"] = jnp.array(kernel)
            if module.bias is not None:
                flat[f"{flax_path(name)}/bias"] = jnp.array(module.bias.detach().numpy())
    return unflatten_dict(flat, sep="/")
