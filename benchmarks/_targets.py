"""Accelerators that are not here, described in words: XLA compiles for them on any CPU.

Importing it sets the environment of the compilers and makes JAX look for no device.
"""

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

jax.config.update("jax_platforms", "cpu")
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",  # do not ask a cloud's metadata server what this machine is
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several processes may compile at once
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # kernels are chosen without measuring them: there is no GPU to do it on
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0",
}

TPU_PACKAGES = ("libtpu",)
GPU_PACKAGES = ("jax-cuda12-plugin", "jax-cuda12-pjrt")


class Target(NamedTuple):
    """Four devices of one kind.

    Attributes:
        platform: JAX's name for it.
        packages: What must be installed to compile for it.
        topology: What the platform wants to know about the devices.
    """

    platform: str
    packages: tuple[str, ...]
    topology: dict[str, Any]


def _nvidia(device: str) -> Target:
    description = (Path(__file__).parent / f"{device}.txtpb").read_text()
    return Target("cuda", GPU_PACKAGES, {"topology": "1x1x4", "target_config": description})


TARGETS = {
    "v5e": Target("tpu", TPU_PACKAGES, {"topology_name": "v5e:2x2"}),
    "v6e": Target("tpu", TPU_PACKAGES, {"topology_name": "v6e:2x2"}),
    "h100": _nvidia("h100"),
}


def devices(name: str) -> Sequence[jax.Device]:
    """Return the four devices of a target, for shardings only: nothing can run on them."""
    target = TARGETS[name]
    return topologies.get_topology_desc(platform=target.platform, **target.topology).devices


def missing(names: list[str]) -> list[str]:
    """Return the packages that are needed for these targets and not installed."""
    needed = {package: None for name in names for package in TARGETS[name].packages}
    return [package for package in needed if _version(package) is None]


def versions() -> str:
    """Describe what compiles, in one line."""
    packages = ("jax", *TPU_PACKAGES, *GPU_PACKAGES, "flax", "dm-haiku", "equinox")
    found = [f"{package} {_version(package) or 'missing'}" for package in packages]
    return f"Python {platform.python_version()}, {', '.join(found)}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
