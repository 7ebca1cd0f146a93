"""Weights that a network begins with: found, read, compared with the network, and put into it."""

import io
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dive import files
from dive.errors import CheckpointError, ModelError
from dive.models import checkpoint
from dive.models.head import last_linear
from dive.models.registry import family_of, require_known
from dive.printable import excerpt, printable, shortened

FILE = "sha256:"
_WITHIN = ("model", "state_dict")  # where other programs put the weights in a file of more than those
_PARALLEL = "module."  # what DataParallel puts before every name
_COUNT = "num_batches_tracked"  # lacking in files older than torch 0.4.1


@dataclass(frozen=True)
class InitialWeights:
    """Weights for a network of a name, not read yet.

    given: a path or a name that the network's library knows. fact: what they are for good, wherever they lie:
    `sha256:…` of a file, or the name, not one that stands for the latest. head: `new` or `keep`.
    """

    network: str
    given: str
    fact: str
    head: str

    @property
    def file(self) -> Path | None:
        """The file that they are in, None where a library has them."""
        return files.user_path(self.given, "model.weights") if self.fact.startswith(FILE) else None

    def put_into(self, body: nn.Module, views: torch.Tensor) -> str:
        """Give the weights to a freshly built network; returns in a sentence what was taken.

        views: (B, channels, H, W) normalised, for one pass to find the head. With `new` the head keeps
        the values it was built with. Raises ModelError where weights cannot be had or do not fit, and says
        which.
        """
        state = self._read(views.shape[1])
        own = body.state_dict()
        head: set[str] = set()
        if self.head == "new":
            where = last_linear(body, views)
            if where is None:
                raise ModelError(
                    f"model.head new: {self.network} does not end in a linear layer that could be replaced; "
                    "give model.head keep, with weights of as many classes as the data"
                )
            head = {name for name in own if name.rpartition(".")[0] == where}
        body_of = {name: tensor for name, tensor in state.items() if name not in head}
        self._require_fit(body_of, {name: tensor for name, tensor in own.items() if name not in head})
        try:
            body.load_state_dict(body_of, strict=False)
        except (RuntimeError, TypeError) as error:
            raise ModelError(f"model.weights {self._shown} cannot be read into {self.network}") from error
        if not head:
            return f"{self.network} begins with {self._shown}, its head too"
        linear = body.get_submodule(where or "")
        assert isinstance(linear, nn.Linear)
        return (
            f"{self.network} begins with {self._shown}; its last linear layer, {where}, is new: "
            f"{linear.in_features} features to {linear.out_features} classes"
        )

    def classes(self, body: nn.Module, views: torch.Tensor) -> int | None:
        """How many classes the weights tell apart, whatever the network's own; None where that is not known.

        views: as for `put_into`. It is known of weights of a network whose output is a linear layer's.
        """
        where = last_linear(body, views)
        weight = None if where is None else self._read(views.shape[1]).get(f"{where}.weight")
        return None if weight is None or weight.dim() != 2 else len(weight)

    @property
    def _shown(self) -> str:
        return printable(self.given)

    def _read(self, channels: int) -> Mapping[str, torch.Tensor]:
        if self.fact.startswith(FILE):
            return read_file(files.user_path(self.given, "model.weights"), self.fact)
        try:
            return family_of(self.network).pretrained(self.network, self.given, channels)
        except Exception as error:  # a library's, of many kinds
            text = shortened(printable(" ".join(f"{type(error).__name__}: {error}".split())), 200)
            raise ModelError(
                f"model.weights {self._shown} of {self.network} cannot be downloaded ({text}); download them "
                "elsewhere and give the file"
            ) from error

    def _require_fit(self, state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
        missing = [name for name in own if name not in state and not name.endswith(_COUNT)]
        unexpected = [name for name in state if name not in own]
        shapes = [name for name in state if name in own and state[name].shape != own[name].shape]
        faults = []
        if missing:
            faults.append(f"{len(missing)} of its {len(own)} tensors missing ({_some(missing)})")
        if unexpected:
            faults.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
        if shapes:
            sizes = f"{list(state[shapes[0]].shape)} instead of {list(own[shapes[0]].shape)}"
            faults.append(f"{len(shapes)} of another shape ({_some(shapes, 1)}: {sizes})")
        if faults:
            advice = "; model.head new replaces the head" if self.head == "keep" and not missing else ""
            raise ModelError(
                f"model.weights {self._shown} do not fit {self.network}: {', '.join(faults)}{advice}"
            )


def _some(names: Iterable[str], most: int = 2) -> str:
    shown = [excerpt(name)[1:-1] for name in names]
    return ", ".join(shown[:most] + ["…"] * (len(shown) > most))


def initial_weights(network: str, given: str, head: str = "new") -> InitialWeights:
    """The weights that a name or a path stands for; a library's name comes first.

    Nothing is downloaded, a file is read for its SHA-256. Raises ModelError where there are none, or no such
    network.
    """
    require_known(network)
    family = family_of(network)
    names = family.weights(network)
    if given in names:
        return InitialWeights(network, given, family.canonical(network, given), head)
    try:
        digest = files.file_sha256(files.user_path(given, "model.weights"))
    except OSError as error:
        raise ModelError(f"cannot read model.weights {printable(given)}: {error.strerror}") from error
    if digest is None:
        known = f", nor one of the weights that it has: {', '.join(names)}" if names else ""
        raise ModelError(f"model.weights {printable(given)} of {network} is no file{known}")
    return InitialWeights(network, given, FILE + digest, head)


def read_file(path: Path, fact: str) -> Mapping[str, torch.Tensor]:
    """The state dict in a file of `torch.save`, be it alone, under `model` or `state_dict`, or dive's own.

    fact: `sha256:…` that the file must have. Raises ModelError where it is no such file.
    """
    try:
        with files.open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise ModelError(f"cannot read model.weights {printable(str(path))}: {error.strerror}") from error
    if FILE + files.sha256(content) != fact:
        raise ModelError(f"model.weights {printable(str(path))} was changed while it was being read")
    if checkpoint.is_own(path):
        try:
            return checkpoint.load_finished(path)["model"]
        except CheckpointError as error:
            raise ModelError(f"model.weights: {error}") from error
    try:
        found: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"model.weights {printable(str(path))} is not a file of tensors that torch.save wrote "
            "(torch.load with weights_only refuses it)"
        ) from error
    for key in _WITHIN:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not _is_state(found):
        raise ModelError(f"model.weights {printable(str(path))} holds no state dict, names to tensors")
    if all(name.startswith(_PARALLEL) for name in found):
        return {name.removeprefix(_PARALLEL): tensor for name, tensor in found.items()}
    return found


def _is_state(found: Any) -> bool:
    return (
        isinstance(found, Mapping)
        and len(found) > 0
        and all(isinstance(name, str) and _is_dense(value) for name, value in found.items())
    )


def _is_dense(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
