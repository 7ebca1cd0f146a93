"""Checkpoints: the weights of a model with everything that is needed to identify and rebuild it.

A checkpoint is a plain `torch.save` file that any torch can open. Its zip comment holds the SHA-256 of
everything before the comment: the seal. The seal is verified before the file is unpickled, because torch
itself does not check the CRCs in its zip. The file is loaded with `weights_only=True`.
"""

import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from dive import structure as s
from dive.errors import CheckpointError, ModelError
from dive.files import open_regular, sha256, write_bytes
from dive.models.network import Architecture, Network
from dive.models.registry import build_model, family_of, network_versions
from dive.outputs import Kind
from dive.printable import excerpt
from dive.recipe import records
from dive.recipe.earlier import upgraded
from dive.version import __version__

FORMAT = "dive-checkpoint"
VERSION = records.VERSION
_SEAL_PREFIX = b"dive-sha256:"
_SEAL_LENGTH = len(_SEAL_PREFIX) + 64
_END_RECORD = b"PK\x05\x06"
_COMMENT_FIELD = 20  # offset of the comment's length (two bytes) in the zip's end record
_START = 4096  # bytes at the start of a file, in which torch.save puts FORMAT as plain text


def save(path: Path, document: dict[str, Any]) -> None:
    """Write a document of tensors and plain values to `path` with a seal, whole or not at all."""
    write_bytes(path, sealed(document))


def sealed(document: dict[str, Any]) -> memoryview:
    """The bytes of the file that `save` writes."""
    buffer = io.BytesIO()
    own = {"format": FORMAT, "version": VERSION, "producer": f"dive {__version__}"}
    torch.save({**own, **document, **own}, buffer)  # first, because `is_own` looks for them at the start
    with buffer.getbuffer() as content:
        end = len(content) - _COMMENT_FIELD - 2
        assert bytes(content[end : end + 4]) == _END_RECORD, "torch.save wrote a zip with a comment"
        struct.pack_into("<H", content, len(content) - 2, _SEAL_LENGTH)
        seal = _SEAL_PREFIX + sha256(content).encode()
    buffer.seek(0, os.SEEK_END)
    buffer.write(seal)
    return buffer.getbuffer()


def is_own(path: Path) -> bool:
    """Whether a file was written by dive, judged by its start and its end; it may be damaged in between."""
    try:
        with open_regular(path) as file:
            start = file.read(_START)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _SEAL_LENGTH))
            end = file.read()
    except OSError:
        return False
    return end.startswith(_SEAL_PREFIX) or (start[:2] == b"PK" and FORMAT.encode() in start)


KIND = Kind("a checkpoint", is_own)


def load(path: Path) -> dict[str, Any]:
    """The document saved at `path`, with its tensors on the CPU.

    Raises CheckpointError if the file is missing or damaged, was not written by dive, or has a version that
    cannot be read.
    """
    content = _sealed_content(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > len(content):
                raise ValueError("it unpacks to more than it holds")
        document = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a forged pickle or archive may raise any exception
        raise CheckpointError(f"{path} is sealed but not a file of plain tensors and values") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is sealed but holds {excerpt(document)}, not a document")
    if fault := _not_plain(document):
        raise CheckpointError(f"{path} is sealed but not a file of plain tensors and values: {fault}")
    form, version = document.get("format"), document.get("version")
    if form != FORMAT or version not in range(1, VERSION + 1):
        told = " version ".join(str(value)[:60] for value in (form, version))
        raise CheckpointError(
            f"{path} has format {told}; this version of dive reads {FORMAT} up to version {VERSION}"
        )
    if document.get("kind") != "state":
        return upgraded(document)
    if version != VERSION:
        raise CheckpointError(f"{path} is the state of a run of another version of dive ({version})")
    return document


def _sealed_content(path: Path) -> bytes:
    """The bytes of a file whose seal matches its content; a file without a seal is not read whole."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _SEAL_LENGTH))
            if not file.read().startswith(_SEAL_PREFIX):
                raise CheckpointError(f"{path} was not written by dive as a checkpoint, or was cut short")
            file.seek(0)
            content = file.read()
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no checkpoint {path}; dive teacher and dive student write them"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    body, seal = content[:-_SEAL_LENGTH], content[-_SEAL_LENGTH:]
    if seal != _SEAL_PREFIX + sha256(body).encode():
        raise CheckpointError(
            f"{path} is corrupt: its content does not match its seal; restore or train it again"
        )
    return content


def _not_plain(value: Any, level: int = 0) -> str:
    """Why a document is not made of tensors and plain values only, as a clause; empty if it is."""
    if isinstance(value, torch.Tensor):
        dense = value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"
        if not dense or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            return "it holds a tensor without values of its own"
        return ""
    if level > s.MOST_LEVELS:
        return "it is nested too deeply"
    if isinstance(value, dict | list | tuple):
        items = value.values() if isinstance(value, dict) else value
        return next(filter(None, (_not_plain(item, level + 1) for item in items)), "")
    return s.not_plain(value)


def load_finished(path: Path) -> dict[str, Any]:
    """The document of the finished model at `path`; raises CheckpointError if it is not one."""
    document = load(path)
    if "model" not in document or document.get("kind") == "state":
        raise CheckpointError(f"{path} holds the state of an unfinished run, not a finished model")
    if fault := _fault_of_finished(document):
        raise CheckpointError(f"{path} is sealed but not a checkpoint as dive writes it: {fault}")
    return document


def _fault_of_finished(document: dict[str, Any]) -> str:
    fault = records.fault_of({key: value for key, value in document.items() if key != "model"})
    model = document["model"]
    if not isinstance(model, dict) or not all(isinstance(value, torch.Tensor) for value in model.values()):
        return fault or "its model is not a mapping of names to tensors"
    return fault


def load_model(path: Path, own: Collection[str] = ()) -> tuple[Network, dict[str, Any]]:
    """The network and the document of a finished model; raises CheckpointError if `path` is not one.

    own: the custom networks (`package.module:callable`) that may be imported. A file that names another
    custom network is refused, because its author would choose which code runs here.
    """
    document = load_finished(path)
    architecture = Architecture.of(document["architecture"])
    try:
        _require_named(architecture.name, own, path)
        _require_weights_of(architecture, document)
        network = architecture.build()
        network.body.load_state_dict(document["model"])
    except ModelError as error:
        raise CheckpointError(f"{path} has a network that cannot be built here: {error}") from error
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not hold the weights of a {excerpt(architecture.name)[1:-1]} of "
            f"{architecture.classes} classes and {architecture.channels} channels as "
            f"{_other_source(architecture.name, document) or 'this version of dive builds it'}"
        ) from error
    if weights_hash(document["model"]) != document["weights_hash"]:
        raise CheckpointError(f"{path} contradicts itself: its weights do not match its weights hash")
    return network, document


def _other_source(name: str, document: Mapping[str, Any]) -> str:
    """A clause for an error, if the network was trained with another version of its source; else empty."""
    here, made_with = network_versions(name), document["versions"]
    if all(made_with.get(part) == version for part, version in here.items()):
        return ""
    return "its source here builds it, which is another version than it was trained with"


def _require_named(name: str, own: Collection[str], path: Path) -> None:
    """Raise CheckpointError if opening the network would run code that only the file names."""
    if family_of(name).runs_named_code and name not in own:
        raise CheckpointError(
            f"{path} has a custom network: opening it would import and call {excerpt(name)}; "
            "if that is a network of your own, give its name with --model or as model.name of the recipe"
        )


def _require_weights_of(architecture: Architecture, document: Mapping[str, Any]) -> None:
    """Raise ValueError unless the weights and classes fit an architecture (see `_without_memory`)."""
    given = (len(architecture.mean), len(architecture.std))
    if given != (architecture.channels, architecture.channels):
        raise ValueError("a normalisation of other channels")
    if len(document["classes"]) != architecture.classes:
        raise ValueError("other classes than it lists")
    body = _without_memory(architecture)
    if not same_tensors(document["model"], body.state_dict()):
        raise ValueError("weights of other shapes")


def _without_memory(architecture: Architecture) -> nn.Module:
    """A network whose weights have shapes but no values; raises RuntimeError if it cannot be built so.

    A custom network is built with values, because its code may do anything while it is built.
    """
    made = (architecture.name, architecture.classes, architecture.channels)
    if family_of(architecture.name).runs_named_code:
        return build_model(*made)
    try:
        with torch.device("meta"):
            return build_model(*made)
    except RuntimeError:  # it computes its shapes from small tensors, which have no values on `meta`
        with _Unfilled():
            return build_model(*made)


class _Unfilled(TorchFunctionMode):
    """Within it, `torch.empty`, which makes most weights, allocates no memory; other tensors have values."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def same_tensors(found: Mapping[Any, Any], wanted: Mapping[Any, torch.Tensor]) -> bool:
    """Whether a mapping read from a file has tensors with the names, shapes and dtypes of `wanted`."""
    if not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        return False
    kinds = [{name: (t.shape, t.dtype) for name, t in state.items()} for state in (found, wanted)]
    return kinds[0] == kinds[1]


def weights_hash(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the names, dtypes, shapes and values of a state dict; independent of file and device."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
