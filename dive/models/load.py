"""Loading the network of a finished checkpoint."""

from pathlib import Path

from dive.models import checkpoint
from dive.models.network import Network


def load_model(path: str | Path, own: str | None = None) -> Network:
    """The network of a finished checkpoint, a `torch.nn.Module` in eval mode on the CPU.

    It takes uint8 views (B, channels, H, W), resizes and normalises them itself, and returns logits (B, C).
    Its attribute `body` is the network without this preprocessing.

    path: the checkpoint.
    own: the custom network (`package.module:callable`) that the checkpoint may import and call. A checkpoint
        of a custom network that is not given here is refused.

    Raises CheckpointError if the file is missing or corrupt, is not a finished model, or has a network that
    cannot be built.

    >>> import dive, torch
    >>> network = dive.load_model("checkpoints/digits_lt_bbn/teacher.pt")
    >>> network(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape
    torch.Size([2, 10])
    """
    network, _ = checkpoint.load_model(Path(path), () if own is None else (own,))
    return network.eval()
