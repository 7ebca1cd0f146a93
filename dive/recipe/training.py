"""The recipe's parts `optimizer`, a dataclass for each kind, and `schedule`."""

from dataclasses import dataclass

from dive.recipe import bounds
from dive.recipe.bounds import one_of, within
from dive.recipe.keys import RATE, key
from dive.recipe.keys import kind as named

# Of every optimiser: what a value must be, and what it means.
LR = (RATE, "learning rate that the warm-up ends at and the decay begins from")
_DECAY = within(0, 1)
_STEPS = 10**9  # of the longest schedule


@dataclass(frozen=True)
class Optimizer:
    """What every optimiser has in common."""

    kind: str
    lr: float
    weight_decay: float
    body_factor: float = key(
        1.0,
        within(0, 1000),
        "learning rate of all but the last linear layer, as a multiple of `lr`; 1 without `model.weights`",
    )
    clip_norm: float | None = key(
        None,
        within(1e-6, 1e6),
        "largest L2 norm of all gradients together, to which a larger one is scaled down; null is none",
    )


@dataclass(frozen=True)
class Sgd(Optimizer):
    """SGD with momentum; weight decay on every parameter."""

    kind: str = named("sgd")
    lr: float = key(0.1, *LR)
    weight_decay: float = key(2e-4, _DECAY, "share of each parameter that is added to its gradient")
    momentum: float = key(0.9, within(0, 0.9999), "share of the sum of earlier gradients that a step keeps")


@dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019); decoupled weight decay, on every parameter."""

    kind: str = named("adamw")
    lr: float = key(1e-3, *LR)
    weight_decay: float = key(
        0.05, _DECAY, "share of each parameter, times the learning rate, that a step takes away"
    )
    betas: tuple[float, ...] = key(
        (0.9, 0.999),
        bounds.numbers(*bounds.BETAS),
        "decay rates of the means of gradients and of their squares",
    )
    eps: float = key(1e-8, within(1e-12, 1), "what is added to the root of the mean of squares")


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up of the learning rate, then decay.

    The length is `epochs` with `warmup_epochs`, or `iterations` with `warmup_iterations`, which are steps;
    the pair that is not used is null. A step is one batch. The epoch in which the iterations end is gone
    through to its end: with `steps` at the same rate, with a cosine at 0, which moves the statistics of batch
    norm alone.
    """

    epochs: int | None = key(200, within(*bounds.EPOCHS), "length in epochs")
    iterations: int | None = key(None, within(1, _STEPS), "length in steps")
    batch_size: int = key(128, within(1, 1_000_000), "images of a batch, in all processes together")
    accumulate: int = key(
        1,
        within(1, 1024),
        "parts that a batch is gone through in, to take the memory of one; batch norm sees the parts",
    )
    warmup_epochs: int | None = key(5, within(0, 1_000_000), "warm-up in epochs, at most `epochs`")
    warmup_iterations: int | None = key(None, within(0, _STEPS), "warm-up in steps, at most `iterations`")
    warmup_from: float = key(0.0, within(0, 1), "share of `optimizer.lr` that the warm-up begins from")
    decay: str = key(
        "steps",
        one_of("steps", "cosine"),
        "`steps`: times `gamma` after each milestone; `cosine`: to 0 at the end",
    )
    milestones: tuple[int, ...] = key(
        (120, 160),
        within(1, 1_000_000),
        "epochs after which the rate is lowered, increasing; `[]` with a cosine or `iterations`",
    )
    gamma: float = key(0.01, within(0, 1), "factor of the learning rate after each milestone")

    @property
    def length(self) -> tuple[int, int]:
        """Length and warm-up, in iterations where those are given, else in epochs."""
        given = (self.epochs, self.warmup_epochs)
        if self.iterations is not None:
            given = (self.iterations, self.warmup_iterations)
        length, warmup = given
        if length is None or warmup is None:
            raise ValueError("a schedule has a length and a warm-up in one unit")
        return length, warmup
