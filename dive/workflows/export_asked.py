"""What an export needs of its teachers: logits, or features, the inputs of their last linear layers."""

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
    """What an export computes with a network.

    viewer: the network, or a callable that returns its features. head: the last linear layer, if features are
    stored. features: D, the number of features; None if the network does not end in one Linear.
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
        """What the encoding `store` needs of `network`.

        paths: the teachers, for messages. shape: (H, W) of the views. Raises DiveError if there is no such
        encoding, ModelError if it stores features and the network does not end in one Linear.
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
        """A note on the size of so many views in each possible encoding, and on a much smaller one, if any.

        chosen: the encoding of the export.
        """
        a_view = row_sizes(classes, self.features)
        told = ", ".join(f"{files.readable_size(views * size)} in {name}" for name, size in a_view.items())
        better = recommended(a_view)
        if better is None or 2 * a_view[better] >= a_view[chosen]:
            return f"the rows take {told}"
        return f"the rows take {told}; --store {better} saves more than half of {chosen}"
