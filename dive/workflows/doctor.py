"""What `dive doctor` finds on this machine, for bug reports. It never fails."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dive import memory
from dive.files import readable_size
from dive.printable import printable, shortened
from dive.version import __version__

EXTRAS = {
    "demo": ("scikit-learn",),
    "timm": ("timm",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "tensorboard": ("tensorboard",),
    "report": ("plotly",),
}
PLACES = ("cache", "checkpoints")
BATCH = 128  # size of the batch that precisions are tried on, that of the paper's experiment
# The features of a processor that decide how fast torch is, as /proc/cpuinfo names them.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")


@dataclass(frozen=True)
class Finding:
    """One thing that was examined. name: what. value: what was found, in words. ok: whether it works."""

    name: str
    value: str
    ok: bool = True


def examine(precision: bool = True) -> list[Finding]:
    """The findings that a bug report needs. One that fails has the error as its value, and is not ok.

    If something cannot be found out, the value of its finding is the error, and `ok` is false.

    precision: whether to try the precisions on this device with the paper's network, which takes seconds.

    >>> findings = examine(precision=False)
    >>> findings[0].name, all(finding.value for finding in findings)
    ('dive', True)
    """
    parts: list[tuple[str, Callable[[], str]]] = [
        ("dive", _dive),
        ("Python", lambda: f"{platform.python_version()}, {sys.executable}"),
        ("system", platform.platform),
        ("torch", _torch),
        ("torchvision", _torchvision),
        ("CUDA", _cuda),
        ("processor", _processor),
        ("threads", _threads),
        ("NumPy", lambda: _version("numpy")),
        ("HDF5", _hdf5),
        ("Pillow", _pillow),
        ("memory", _memory),
        *((f"disk of {place}/", partial(_disk, Path(place))) for place in PLACES),
        *((f"extra {name}", partial(_extra, names)) for name, names in EXTRAS.items()),
    ]
    if precision:
        parts.append(("precision auto", _precision))
    return [_found(name, part) for name, part in parts]


def _found(name: str, part: Callable[[], str]) -> Finding:
    try:
        return Finding(name, printable(part()))
    except (Exception, SystemExit) as error:  # a broken library may raise anything while it is imported
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding(name, shortened(printable(said), 300), ok=False)


def _version(name: str) -> str:
    """The version of a package, which is imported; raises what its import raises."""
    return str(importlib.import_module(name).__version__)


def _dive() -> str:
    import dive

    return f"{__version__}, {Path(dive.__file__).parent}"


def _torch() -> str:
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    return f"{torch.__version__}, built for {built}"


def _torchvision() -> str:
    import torchvision

    return str(torchvision.__version__)


def _cuda() -> str:
    """CUDA devices with their memory; if there are none, the reason, as far as it is known."""
    import torch

    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            return "none: this torch is built without CUDA"
        if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
            return "none: CUDA_VISIBLE_DEVICES is empty"
        if not Path("/proc/driver/nvidia/version").exists():
            return "none: there is no NVIDIA driver"
        return f"none, though there is a driver: {_driver()}"
    devices = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        devices.append(
            f"cuda:{number} {properties.name}, capability {properties.major}.{properties.minor}, "
            f"{readable_size(free)} of {readable_size(total)} free"
        )
    return "; ".join([*devices, f"driver {_driver()}", f"cuDNN {torch.backends.cudnn.version()}"])


def _driver() -> str:
    """The version of the NVIDIA driver, from /proc; `unknown` if it is not found there."""
    words = Path("/proc/driver/nvidia/version").read_text().split("\n")[0].split()
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")


def _processor() -> str:
    from dive.training.device import processor

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    features = [feature for feature in _FEATURES if feature in flags]
    return f"{processor()}; {', '.join(features) or 'none of the features that torch asks for'}"


def _threads() -> str:
    import torch

    cores = len(os.sched_getaffinity(0))
    variable = os.environ.get("OMP_NUM_THREADS")
    told = f", OMP_NUM_THREADS={variable}" if variable else ""
    return f"torch computes with {torch.get_num_threads()} of {cores} usable cores{told}"


def _hdf5() -> str:
    import h5py

    return f"{h5py.version.hdf5_version}, h5py {h5py.__version__}"


def _pillow() -> str:
    import PIL
    from PIL import features

    turbo = features.version_feature("libjpeg_turbo")
    jpeg = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg') or 'missing'}"
    return f"{PIL.__version__}, {jpeg}"


def _memory() -> str:
    return f"{readable_size(memory.available())} of {readable_size(_total_memory())} free"


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _disk(place: Path) -> str:
    """Free disk space in a folder, or in the working directory if the folder does not exist yet."""
    there = place if place.exists() else Path()
    usage = shutil.disk_usage(there)
    writable = "" if os.access(there, os.W_OK) else ", which cannot be written to"
    absent = "" if place.exists() else " (not created yet)"
    return f"{readable_size(usage.free)} of {readable_size(usage.total)} free{absent}{writable}"


def _extra(packages: tuple[str, ...]) -> str:
    """The versions of an extra's packages."""
    told = []
    for name in packages:
        try:
            told.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            told.append(f"{name} is not installed")
    return ", ".join(told)


def _precision() -> str:
    """The precision that `--precision auto` selects for a training step of the paper's network, and why."""
    import torch

    from dive.models.network import Architecture
    from dive.recipe.reading import load
    from dive.training.device import choose_device
    from dive.training.precision import choose_precision

    recipe, device = load(None), choose_device("auto")
    given = recipe.model.input
    architecture = Architecture(recipe.model.name, 100, 3, given.mean, given.std, given.size)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator).to(torch.uint8).to(device)
    labels = (torch.arange(BATCH) % 100).to(device)
    network = architecture.build().on(device)
    loss = partial(torch.nn.functional.cross_entropy, target=labels)
    chosen = choose_precision("auto", device, network, batch, loss)
    return f"{chosen.precision} on {device} ({recipe.model.name}, batches of {BATCH}: {chosen.reason})"
