"""A network for export: it takes RGB images and contains all of its preprocessing."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from dive.errors import ModelError
from dive.models.network import Network
from dive.printable import printable, shortened

_LUMA = (19595.0, 38470.0, 7471.0)  # Pillow's weights of red, green and blue for greyscale, in 1/65536


class Deployed(nn.Module):
    """RGB images (B, H, W, 3) uint8 to logits (B, C), for one H and W.

    It contains the network's resize and normalisation. For a network of one channel, images are converted to
    greyscale, with the same integers as Pillow's `convert("L")`. A resize is a product with one fixed matrix
    per side. It computes the same as the network's own resize (bilinear, antialiased), and needs no operator
    that a format may lack.

    network: in eval mode. channels: the number that it takes, 1 or 3. shape: (H, W) of the images.

    >>> from dive.models.network import Architecture
    >>> network = Architecture("resnet8", classes=10, channels=1, mean=(0.3,), std=(0.4,), size=16).build()
    >>> Deployed(network.eval(), 1, (8, 8))(torch.zeros(2, 8, 8, 3, dtype=torch.uint8)).shape
    torch.Size([2, 10])
    """

    rows: torch.Tensor
    columns: torch.Tensor
    luma: torch.Tensor

    def __init__(self, network: Network, channels: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.grey = network, channels == 1
        sees = network.sees(shape)
        self.resized = sees != shape
        if self.resized:
            for name, before, after in zip(("rows", "columns"), shape, sees, strict=True):
                self.register_buffer(name, _resizing(before, after), persistent=False)
        self.register_buffer("luma", torch.tensor(_LUMA)[:, None, None], persistent=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of images (B, H, W, 3) uint8."""
        pixels = pictures.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
        if self.grey:  # all sums are integers below 2²⁴, which float32 represents exactly
            pixels = torch.floor(((pixels * self.luma).sum(1, keepdim=True) + 32768) / 65536)
        if self.resized:
            pixels = self.rows @ pixels @ self.columns.T
        return self.network.body(self.network.standardised(pixels))


def _resizing(before: int, after: int) -> torch.Tensor:
    """The matrix (after, before) of the resize of one side by `torch.nn.functional.interpolate`."""
    columns = torch.eye(before)[None, None]  # column i is the unit vector i
    resized = F.interpolate(columns, (after, before), mode="bilinear", antialias=True)
    return resized[0, 0]


def program_of(deployed: Deployed, shape: tuple[int, int]) -> torch.export.ExportedProgram:
    """The network as a program of torch.export, for any number of images of (H, W).

    Raises ModelError if torch cannot export it, for example because its control flow depends on the values
    of tensors.
    """
    pictures = torch.zeros(2, *shape, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad(), quietly():
            program = torch.export.export(deployed.eval(), (pictures,), dynamic_shapes=({0: batch},))
    except Exception as error:  # a network may raise anything
        said = shortened(printable(" ".join(f"{type(error).__name__}: {error}".split())), 200)
        raise ModelError(f"torch.export cannot export the network ({said})") from error
    for node in program.graph.nodes:  # a stack trace would disclose paths on this machine
        node.meta.pop("stack_trace", None)
    return program


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Within it, torch's exporters do not print, log or warn; their exceptions say what is wrong."""
    disabled, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            with warnings.catch_warnings(action="ignore"):
                yield
    finally:
        logging.disable(disabled)
