"""A network as a program without dive takes it: RGB pictures go in, with all that is done to them inside."""

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

_LUMA = (19595.0, 38470.0, 7471.0)  # Pillow's weights of red, green and blue in 1/65536, for one channel


class Deployed(nn.Module):
    """Pictures (B, H, W, 3) uint8 RGB to logits (B, C), for one H and W.

    The network's resize and normalisation are inside. For a network of one channel, pictures are made grey as
    Pillow's `convert("L")` does, to the same whole numbers. A resize is a product with one fixed matrix a
    side, which is the same as the network's own (bilinear, antialiased) and needs no operator that a format
    may lack.

    network: in eval mode. channels: that it takes, 1 or 3. shape: (H, W) of the pictures.

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
        """Logits (B, C) of pictures (B, H, W, 3) uint8."""
        pixels = pictures.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
        if self.grey:  # all sums are whole numbers below 2²⁴, which float32 has exactly
            pixels = torch.floor(((pixels * self.luma).sum(1, keepdim=True) + 32768) / 65536)
        if self.resized:
            pixels = self.rows @ pixels @ self.columns.T
        return self.network.body(self.network.standardised(pixels))


def _resizing(before: int, after: int) -> torch.Tensor:
    """The matrix (after, before) by which `torch.nn.functional.interpolate` resizes one side."""
    columns = torch.eye(before)[None, None]  # each a picture of one bright row
    resized = F.interpolate(columns, (after, before), mode="bilinear", antialias=True)
    return resized[0, 0]


def program_of(deployed: Deployed, shape: tuple[int, int]) -> torch.export.ExportedProgram:
    """The network as a program of torch.export, for any number of pictures of (H, W).

    Raises ModelError where torch cannot make one of it, for example because what the network does depends on
    the values it sees.
    """
    pictures = torch.zeros(2, *shape, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad(), quietly():
            program = torch.export.export(deployed.eval(), (pictures,), dynamic_shapes=({0: batch},))
    except Exception as error:  # of any network, which may do anything
        said = shortened(printable(" ".join(f"{type(error).__name__}: {error}".split())), 200)
        raise ModelError(f"torch.export cannot make a program of the network ({said})") from error
    for node in program.graph.nodes:  # where the source files lie is nobody's affair
        node.meta.pop("stack_trace", None)
    return program


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Within it torch's exporters print, log and warn of nothing: what they raise says what is wrong."""
    disabled, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            with warnings.catch_warnings(action="ignore"):
                yield
    finally:
        logging.disable(disabled)
