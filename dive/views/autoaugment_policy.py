"""AutoAugment's CIFAR-10 policy: its operations as tables, and applying them to batches.

The operations are those of torchvision with nearest-neighbour interpolation and zeros outside the image. A
whole batch goes through the same sequence of tensor operations, whichever operation each of its images gets:
move pixels (an index), change their values (a table of 256), mix with grey or blur (a ratio). For an
operation that an image does not get, these are the identity.

Results are the same on every device, in every batch, and inside a CUDA graph. Pixels are integers, and every
sum over them is exact. The few steps in floating point are single additions, multiplications, and divisions
of one tensor by another, whose rounding IEEE 754 defines. Division by a Python number is avoided, because
CUDA multiplies by the reciprocal instead. A product and a sum are two operations and are never fused.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torchvision.transforms import AutoAugment, AutoAugmentPolicy
from torchvision.transforms import functional as transforms

# How an operation changes the values of pixels: by a fixed table, or depending on the image.
_FIXED, _AUTO_CONTRAST, _EQUALIZE, _CONTRAST = range(4)
_GREY, _BLUR = range(2)


@dataclass(frozen=True)
class Policy:
    """Every operation of the policy at its magnitude, by number; 0 is the identity.

    operations: (25 pairs, 2 stages, 2 signs) numbers of operations. chances: (25, 2) their probabilities.
    places: (operations, H·W) the index of the source of each pixel, H·W if the source is outside the image.
    values: (operations, 256) the new value of each value, unless it depends on the image.
    rule: (operations,) how values change. partner: (operations,) what is mixed in.
    ratio, rest: (operations,) the weight of the image, and that of the partner or of the mean in contrast.
    """

    operations: torch.Tensor
    chances: torch.Tensor
    places: torch.Tensor
    values: torch.Tensor
    rule: torch.Tensor
    partner: torch.Tensor
    ratio: torch.Tensor
    rest: torch.Tensor

    def to(self, device: torch.device) -> "Policy":
        """The tables on a device."""
        return Policy(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def hash(self) -> str:
        """SHA-256 over every table in hexadecimal, independent of device and dtypes.

        The tables are computed by torchvision, so that the hash changes if another release of torchvision
        would give other pixels.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(vars(self).items()):
            digest.update(f"{name} {tuple(tensor.shape)} ".encode())
            exact = "<f8" if tensor.is_floating_point() else "<i8"  # without rounding
            digest.update(tensor.cpu().numpy().astype(exact).tobytes())
        return digest.hexdigest()

    def operation(
        self, stage: int, pair: torch.Tensor, chance: torch.Tensor, sign: torch.Tensor
    ) -> torch.Tensor:
        """The number of the operation in stage 0 or 1 for each view's draws, int64 below 2⁵³: (B,).

        pair, chance, sign: (B,), the draws of the pair of operations, of whether this one is applied, and of
        its sign.
        """
        row = pair % len(self.operations)
        number = self.operations[row, stage, sign % 2]
        return torch.where(chance.double() * 2.0**-53 < self.chances[row, stage], number, 0)

    def apply(self, pixels: torch.Tensor, operation: torch.Tensor) -> torch.Tensor:
        """Images (B, H, W, 3) uint8 after one operation (B,) each, of the same shape and dtype."""
        pixels = self._move(pixels, operation)
        ratio, rest = (t[operation][:, None, None, None] for t in (self.ratio, self.rest))
        rule = self.rule[operation][:, None, None]
        pixels = self._revalue(pixels, operation, rule, ratio, rest)
        partner = torch.where(
            self.partner[operation][:, None, None, None] == _GREY, _grey(pixels), _blur(pixels)
        )
        mixed = ratio * pixels + rest * partner
        return torch.where(rule[..., None] == _CONTRAST, pixels, mixed.clamp(0, 255).to(torch.uint8))

    def _move(self, pixels: torch.Tensor, operation: torch.Tensor) -> torch.Tensor:
        b, h, w, c = pixels.shape
        with_outside = torch.nn.functional.pad(pixels.view(b, h * w, c), (0, 0, 0, 1))
        places = self.places[operation][:, :, None].expand(-1, -1, c)
        return with_outside.gather(1, places).view(b, h, w, c)

    def _revalue(
        self,
        pixels: torch.Tensor,
        operation: torch.Tensor,
        rule: torch.Tensor,
        ratio: torch.Tensor,
        rest: torch.Tensor,
    ) -> torch.Tensor:
        b, h, w, c = pixels.shape
        index = pixels.permute(0, 3, 1, 2).reshape(b, c, h * w).long()
        histogram = torch.zeros(b, c, 256, dtype=torch.int64, device=pixels.device)
        histogram.scatter_add_(2, index, torch.ones_like(index))
        mean = _mean(_grey(pixels))[:, None, None]
        level = torch.arange(256, device=pixels.device)
        contrast = (ratio[..., 0] * level + rest[..., 0] * mean).clamp(0, 255).to(torch.uint8)  # (B, 1, 256)
        values = self.values[operation][:, None, :].expand(-1, c, -1)  # (B, channels, 256)
        values = torch.where(rule == _CONTRAST, contrast, values)
        values = torch.where(rule == _AUTO_CONTRAST, _auto_contrast(histogram, level), values)
        values = torch.where(rule == _EQUALIZE, _equalize(histogram, level), values)
        return values.gather(2, index).view(b, c, h, w).permute(0, 2, 3, 1)


def _auto_contrast(histogram: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """New values (B, C, 256) that stretch each channel from its darkest and lightest pixel to 0 and 255."""
    present = histogram > 0
    darkest = torch.where(present, level, 255).amin(dim=2, keepdim=True)
    lightest = torch.where(present, level, 0).amax(dim=2, keepdim=True)
    span = (lightest - darkest).float()
    stretched = (level - darkest).float() * (255 * (torch.ones_like(span) / span))  # rounded as 255 / span is
    return torch.where(lightest > darkest, stretched.clamp(0, 255), level).to(torch.uint8)


def _equalize(histogram: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """New values (B, C, 256) that spread each channel's histogram, as PIL's equalize does."""
    lightest = torch.where(histogram > 0, level, 0).amax(dim=2, keepdim=True)
    step = (histogram.sum(dim=2, keepdim=True) - histogram.gather(2, lightest)) // 255
    below = histogram.cumsum(dim=2) - histogram
    spread = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    spread = torch.where(level == 0, 0, spread)
    return torch.where(step > 0, spread, level).to(torch.uint8)


def _grey(pixels: torch.Tensor) -> torch.Tensor:
    """Luminance (B, H, W, 1) of pixels (B, H, W, 3), both uint8."""
    red, green, blue = pixels.unbind(dim=3)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8)[..., None]


def _mean(grey: torch.Tensor) -> torch.Tensor:
    """The mean of each image (B, H, W, 1) uint8: (B,) float32, nearest to the exact mean.

    The sum is an integer. For fewer than 2²⁸ pixels, its quotient in float64 rounds to the same float32 as
    the exact quotient.
    """
    total = grey.long().sum(dim=(1, 2, 3)).double()
    return (total / torch.full_like(total, grey[0].numel())).float()


def _blur(pixels: torch.Tensor) -> torch.Tensor:
    """The mean of each inner pixel, with weight 5, and its eight neighbours: (B, H, W, 3) uint8.

    Pixels on the edge keep their values.
    """
    wide = pixels.int()
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = (2 * (around + 4 * wide[:, 1:-1, 1:-1]) + 13) // 26  # rounded; a thirteenth is never a half
    blurred = pixels.clone()
    blurred[:, 1:-1, 1:-1] = inner.to(torch.uint8)
    return blurred


def cifar10_policy(height: int, width: int) -> Policy:
    """torchvision's CIFAR-10 policy for images of a height and width in pixels."""
    source = AutoAugment(AutoAugmentPolicy.CIFAR10)
    magnitudes = source._augmentation_space(10, (height, width))
    numbers: dict[tuple[str, float], int] = {("Identity", 0.0): 0}
    operations = torch.zeros(len(source.policies), 2, 2, dtype=torch.int64)
    chances = torch.zeros(len(source.policies), 2, dtype=torch.float64)
    for i, policy in enumerate(source.policies):
        for stage, (name, chance, bin_) in enumerate(policy):
            steps, signed = magnitudes[name]
            magnitude = 0.0 if bin_ is None else float(steps[bin_])
            chances[i, stage] = chance
            for sign in range(2):
                key = (name, -magnitude if signed and sign == 0 else magnitude)
                operations[i, stage, sign] = numbers.setdefault(key, len(numbers))
    rows = [_operation(name, magnitude, height, width) for name, magnitude in numbers]
    columns = (torch.stack(column) for column in zip(*rows, strict=True))
    return Policy(operations, chances, *columns)


def _operation(name: str, magnitude: float, height: int, width: int) -> tuple[torch.Tensor, ...]:
    """The entries of one operation: places, values, rule, partner, ratio and rest."""
    level = torch.arange(256, dtype=torch.uint8)
    places = torch.arange(height * width)
    values, rule, partner, ratio = level, _FIXED, _GREY, 1.0
    if name in _GEOMETRIC:
        numbered = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width)
        moved = _GEOMETRIC[name](numbered, magnitude).view(-1).long()
        places = torch.where(moved == 0, height * width, moved - 1)
    elif name == "Brightness":
        values = transforms.adjust_brightness(level.view(1, 1, 256), 1.0 + magnitude).view(256)
    elif name == "Posterize":
        values = transforms.posterize(level.view(1, 1, 256), int(magnitude)).view(256)
    elif name == "Solarize":
        values = transforms.solarize(level.view(1, 1, 256), magnitude).view(256)
    elif name == "Invert":
        values = transforms.invert(level.view(1, 1, 256)).view(256)
    elif name in ("AutoContrast", "Equalize", "Contrast"):
        rule = {"AutoContrast": _AUTO_CONTRAST, "Equalize": _EQUALIZE, "Contrast": _CONTRAST}[name]
    if name in ("Color", "Sharpness", "Contrast"):
        ratio = 1.0 + magnitude
        partner = _BLUR if name == "Sharpness" else _GREY
    weights = (torch.tensor(ratio, dtype=torch.float32), torch.tensor(1.0 - ratio, dtype=torch.float32))
    return places, values, torch.tensor(rule), torch.tensor(partner), *weights


def _shear_y(image: torch.Tensor, magnitude: float) -> torch.Tensor:
    shear = [0.0, math.degrees(math.atan(magnitude))]
    return transforms.affine(image, 0.0, [0, 0], 1.0, shear, center=[0, 0])


# Geometric operations on images (1, H, W). Applied to pixel numbers, they show the source of each pixel.
_GEOMETRIC = {
    "ShearY": _shear_y,
    "TranslateX": lambda image, m: transforms.affine(image, 0.0, [int(m), 0], 1.0, [0.0, 0.0]),
    "TranslateY": lambda image, m: transforms.affine(image, 0.0, [0, int(m)], 1.0, [0.0, 0.0]),
    "Rotate": transforms.rotate,
}
