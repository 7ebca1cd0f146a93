"""A data set's images on a device, and batches of their views as a network takes them."""

import numpy as np
import torch

from dive.views.space import ViewSpace


class ViewedImages:
    """A data set's images on a device, from which batches of normalised views are taken.

    images: (N, H, W, channels) uint8. mean, std: per channel, for pixels in [0, 1].
    """

    def __init__(
        self,
        images: np.ndarray,
        space: ViewSpace,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        self.space = space
        self._prepared = space.prepare(torch.from_numpy(np.ascontiguousarray(images)).to(device))
        scale = 255 * torch.tensor(std, dtype=torch.float32, device=device)
        self._scale, self._shift = (
            1 / scale,
            -255 * torch.tensor(mean, dtype=torch.float32, device=device) / scale,
        )

    def __len__(self) -> int:
        return len(self._prepared)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self._prepared.shape[-1]

    def batch(self, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Normalised views, (B, channels, H, W) float32 in channels-last memory."""
        pixels = self.space.render(self._prepared, rows, ids)
        normalised = pixels.float() * self._scale + self._shift  # (B, H, W, channels)
        return normalised.permute(0, 3, 1, 2)
