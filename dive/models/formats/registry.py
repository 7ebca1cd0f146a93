"""The formats of exported networks, by name, one module each. Importing this module does not import torch."""

from dive.models.formats.format import Format
from dive.models.formats.onnx import Onnx
from dive.models.formats.pt2 import Pt2

FORMATS: dict[str, Format] = {
    "pt2": Pt2(),  # torch.export
    "onnx": Onnx(),
}
