"""`onnx`: an ONNX model, which ONNX Runtime and other runtimes run. Writing one needs the extra `onnx`."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dive.errors import ModelError
from dive.files import open_regular, readable_size
from dive.models.formats.format import LOGITS, MARK, PICTURES, Format, Network

if TYPE_CHECKING:
    import numpy as np
    import torch

NEEDED = ("onnx", "onnxscript")
LARGEST = 2**31 - 1  # bytes of a protobuf message
_BEGINNING = b"\x08"  # the tag of ir_version, the first field of a model
_TAIL = 1 << 22  # bytes at the end of a file that contain the metadata, which follow the network


class Onnx(Format):
    """One file that includes the weights; the metadata are its `metadata_props`."""

    suffix = ".onnx"

    def require(self) -> None:
        """Raise ModelError if onnx or onnxscript is not installed."""
        for name in NEEDED:
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise ModelError(
                    f"--format onnx needs {name}, which cannot be imported ({error}); "
                    "pip install 'dive-longtail[onnx]'"
                ) from error

    def written(self, program: "torch.export.ExportedProgram", metadata: Mapping[str, str]) -> bytes:
        """The model, without the names of source files that torch stores with its nodes."""
        import torch

        size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
        if size > LARGEST:
            raise ModelError(
                f"an ONNX file holds at most {readable_size(LARGEST)}, but the weights take "
                f"{readable_size(size)}; use --format pt2"
            )
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=[PICTURES], output_names=[LOGITS]
        )
        assert exported is not None
        model = exported.model
        for node in model.graph.all_nodes():
            node.metadata_props.clear()
        model.metadata_props.clear()
        model.metadata_props.update(metadata)
        return exported.model_proto.SerializeToString()

    def opened(self, content: bytes) -> Network | None:
        """The model, run by ONNX Runtime on the CPU; None if ONNX Runtime is not installed."""
        try:
            runtime = importlib.import_module("onnxruntime")
        except ImportError:
            return None
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

        def run(pictures: "np.ndarray") -> "np.ndarray":
            (logits,) = session.run([LOGITS], {PICTURES: pictures})
            return logits

        return run

    def is_own(self, path: Path) -> bool:
        """Whether a file begins like an ONNX model and has dive's mark in its metadata."""
        try:
            with open_regular(path) as file:
                beginning = file.read(len(_BEGINNING))
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
                return beginning == _BEGINNING and MARK.encode() in file.read()
        except OSError:
            return False
