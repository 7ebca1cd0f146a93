"""What an export computes of its teachers: logits, or the features that their last Linear maps to logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dive import files
from dive.cache.encodings.codec import Head
from dive.cache.encodings.registry import ENCODINGS, recommended, row_sizes
from dive.errors import DiveError, ModelError
from dive.models.ensemble import AnyNetwork
from dive.models.features import features_of
from dive.training.inference import Viewer


@dataclass(frozen=True)
class Asked:
    """What an export computes of a network.

    viewer: the network, or a wrapper that returns its features. features: their number D; None for logits.
    """

    viewer: Viewer
    head: Head | None
    features: int | None

    @classmethod
    def of(
        cls,
        network: AnyNetwork,
        store: str,
        paths: Sequence[Path],
        channels: int,
        shape: tuple[int, int],
    ) -> "Asked":
        """What an encoding stores of the teachers' network, which is given views of (H, W).

        Raises DiveError if there is no such encoding, ModelError if it stores features and the network does
        not end in one Linear.
        """
        encoding = ENCODINGS.get(store)
        if encoding is None:
            raise DiveError(f"--store {store[:40]!r}: give one of {', '.join(ENCODINGS)}")
        blank = network.blank(channels, shape)
        pixels = 37 * torch.arange(blank.numel(), device=blank.device) % 256
        views = pixels.to(torch.uint8).view(blank.shape)
        try:
            found = features_of(network, views)
        except ModelError as error:
            if encoding.of_features:
                of = " or ".join(map(str, paths))
                raise ModelError(f"--store {store}: the network of {of}: {error}") from error
            return cls(network, None, None)
        if not encoding.of_features:
            return cls(network, None, found.count)
        weight, bias = (tensor.cpu().numpy() for tensor in (found.weight, found.bias))
        return cls(found, Head(weight, bias), found.count)

    def sizes(self, views: int, classes: int, chosen: str) -> str:
        """The size of so many views in each encoding that the teacher allows, and a smaller one to choose."""
        a_view = row_sizes(classes, self.features)
        told = ", ".join(f"{name} {files.readable_size(views * size)}" for name, size in a_view.items())
        better = recommended(a_view)
        if better is None or 2 * a_view[better] >= a_view[chosen]:
            return f"the rows take in {told}"
        return f"the rows take in {told}; --store {better} saves more than half of {chosen}"
