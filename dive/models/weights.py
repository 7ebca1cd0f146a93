"""The initial weights of a network: finds and reads them, compares them with the network, and loads them."""

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
_WITHIN = ("model", "state_dict")  # the keys of the weights in files with more than weights
_PARALLEL = "module."  # the prefix that DataParallel gives to every name
_COUNT = "num_batches_tracked"  # missing in files from before torch 0.4.1


@dataclass(frozen=True)
class InitialWeights:
    """The initial weights of a network, before they are read.

    network: the name of the network. given: a path, or a name that the network's library knows. fact: a
    permanent identification, wherever the weights are stored: `sha256:…` of a file, or the name; for a name
    such as `DEFAULT`, the name that it stands for. head: `new` or `keep`.
    """

    network: str
    given: str
    fact: str
    head: str

    @property
    def file(self) -> Path | None:
        """The file of the weights; None if they are weights of the library."""
        return files.user_path(self.given, "model.weights") if self.fact.startswith(FILE) else None

    def put_into(self, body: nn.Module, views: torch.Tensor) -> str:
        """Load the weights into a newly built network; returns a sentence that says what was loaded.

        views: (B, channels, H, W) normalised, for one pass that finds the head. If `head` is `new`, the head
        keeps the values that it was built with. Raises ModelError if the weights cannot be read or
        downloaded, or do not fit; the message names tensors that do not fit.
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
            return f"{self.network} starts from {self._shown}, including its head"
        linear = body.get_submodule(where or "")
        assert isinstance(linear, nn.Linear)
        return (
            f"{self.network} starts from {self._shown}; its last linear layer, {where}, is new: "
            f"{linear.in_features} features to {linear.out_features} classes"
        )

    def classes(self, body: nn.Module, views: torch.Tensor) -> int | None:
        """The number of classes of the weights, which may differ from that of `body`; None if it is unknown.

        It is known if the output of the network is that of a linear layer. body: the network, with any number
        of classes. views: as for `put_into`.
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
        except Exception as error:  # libraries raise many kinds of errors
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
    """The weights that a name or a path stands for; a name of the library has precedence over a path.

    Nothing is downloaded. A file is read to compute its SHA-256. Raises ModelError if there are no such
    weights, or no such network.
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
        known = f", nor one of its named weights: {', '.join(names)}" if names else ""
        raise ModelError(f"model.weights {printable(given)} of {network} is not a file{known}")
    return InitialWeights(network, given, FILE + digest, head)


def read_file(path: Path, fact: str) -> Mapping[str, torch.Tensor]:
    """The state dict in a file that `torch.save` wrote.

    The file contains only a state dict, or has it under `model` or `state_dict`, or is a checkpoint of dive.
    fact: the `sha256:…` that the file must have. Raises ModelError if it is no such file.
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
        raise ModelError(
            f"model.weights {printable(str(path))} holds no state dict (a mapping of names to tensors)"
        )
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
