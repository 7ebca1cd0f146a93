"""The formats that networks are exported in, by name: a module each beside this one. No torch."""

from dive.models.formats.format import Format
from dive.models.formats.onnx import Onnx
from dive.models.formats.pt2 import Pt2

FORMATS: dict[str, Format] = {
    "pt2": Pt2(),  # torch.export
    "onnx": Onnx(),
}
