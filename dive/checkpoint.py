"""Checkpoints: weights with everything needed to know and to rebuild the model.

A checkpoint is a plain `torch.save` file that any torch can open. Its zip comment holds the SHA-256
of everything before the comment, which is verified before the file is unpickled (torch itself does
not check the CRCs in its zip), and it is loaded with `weights_only=True`.
"""

import hashlib
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import torch

from dive import __version__
from dive.errors import CheckpointError
from dive.files import replacing, sha256
from dive.models import build_model
from dive.models.resnet import CifarResNet

FORMAT = "dive-checkpoint"
VERSION = 1
_SEAL_PREFIX = b"dive-sha256:"
_SEAL_LENGTH = len(_SEAL_PREFIX) + 64
_END_RECORD = b"PK\x05\x06"
_COMMENT_FIELD = 20  # offset of the comment's length in the zip's end record, two bytes


def save(path: Path, document: dict[str, Any]) -> None:
    """Write a document of tensors and plain values to `path`, sealed, whole or not at all."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, "producer": f"dive {__version__}", **document}, buffer)
    content = buffer.getbuffer()
    end = len(content) - _COMMENT_FIELD - 2
    assert bytes(content[end : end + 4]) == _END_RECORD, "torch.save wrote a zip with a comment"
    struct.pack_into("<H", content, len(content) - 2, _SEAL_LENGTH)
    with replacing(path) as file:
        file.write(content)
        file.write(_SEAL_PREFIX + sha256(content).encode())


def load(path: Path) -> dict[str, Any]:
    """The document saved at `path`, tensors on the CPU; raises CheckpointError if it is not whole."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    body, seal = content[:-_SEAL_LENGTH], content[-_SEAL_LENGTH:]
    if not seal.startswith(_SEAL_PREFIX):
        raise CheckpointError(f"{path} is not a checkpoint of dive's, or was cut short")
    if seal != _SEAL_PREFIX + sha256(body).encode():
        raise CheckpointError(
            f"{path} is corrupt: its content does not match its seal; restore or train it again"
        )
    try:
        document = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is sealed but not a file of plain tensors and values") from error
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has format {document.get('format')} version {document.get('version')}; "
            f"this dive reads {FORMAT} version {VERSION}"
        )
    return document


def load_finished(path: Path) -> dict[str, Any]:
    """The document of a finished model; raises CheckpointError if `path` holds no such thing."""
    document = load(path)
    if "model" not in document or document.get("kind") not in ("teacher", "student"):
        raise CheckpointError(f"{path} holds the state of an unfinished run, not a finished model")
    return document


def load_model(path: Path) -> tuple[CifarResNet, dict[str, Any]]:
    """The finished model at `path` with its document; raises CheckpointError if it is not one."""
    document = load_finished(path)
    try:
        architecture = document["architecture"]
        named = (architecture["name"], architecture["classes"], architecture["channels"])
        _require_weights_of(*named, document["model"])
        model = build_model(*named)
        model.load_state_dict(document["model"])
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not hold the weights of a {document.get('architecture', {}).get('name')} as this "
            f"dive knows it: it says {document.get('architecture')}"
        ) from error
    return model, document


def _require_weights_of(name: str, classes: int, channels: int, state: dict[str, torch.Tensor]) -> None:
    """Raise ValueError unless the weights have an architecture's shapes, before memory is taken for it."""
    if int(name.removeprefix("resnet")) > len(state):
        raise ValueError("fewer weights than layers")
    with torch.device("meta"):
        shapes = {
            key: value.shape for key, value in build_model(name, classes, channels).state_dict().items()
        }
    if {key: value.shape for key, value in state.items()} != shapes:
        raise ValueError("weights of other shapes")


def weights_hash(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and values of a state dict, independent of file and device."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
