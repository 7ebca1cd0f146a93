"""A finished model for programs that only use it."""

from pathlib import Path

from dive.models import checkpoint
from dive.models.network import Network


def load_model(path: str | Path, own: str | None = None) -> Network:
    """The network of a finished checkpoint, in eval mode, on the CPU.

    It takes uint8 views (B, channels, H, W) and gives logits (B, C); its `body` is the bare network, which
    takes normalised views. own: the name of a network of your own, `package.module:callable`; a checkpoint of
    such a network is refused where it is not named here. Raises CheckpointError where the file is not a
    whole checkpoint.

    >>> import dive, torch
    >>> network = dive.load_model("checkpoints/digits_lt_bbn/teacher.pt")
    >>> network(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape
    torch.Size([2, 10])
    """
    network, _ = checkpoint.load_model(Path(path), () if own is None else (own,))
    return network.eval()
