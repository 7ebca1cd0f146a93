"""The parts `optimizer` (a dataclass for each kind) and `schedule` of a recipe."""

from dataclasses import dataclass

from dive.recipe import bounds
from dive.recipe.bounds import one_of, within
from dive.recipe.keys import RATE, key
from dive.recipe.keys import kind as named

# A key of every optimiser: what a value must be, and what it means.
LR = (RATE, "learning rate at the end of the warm-up, from which the decay starts")
_DECAY = within(0, 1)
_STEPS = 10**9  # in the longest schedule


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
        "largest L2 norm of all gradients together; larger gradients are scaled down; null: no limit",
    )


@dataclass(frozen=True)
class Sgd(Optimizer):
    """SGD with momentum; weight decay on every parameter."""

    kind: str = named("sgd")
    lr: float = key(0.1, *LR)
    weight_decay: float = key(
        2e-4, _DECAY, "weight decay: this multiple of each parameter is added to its gradient"
    )
    momentum: float = key(0.9, within(0, 0.9999), "momentum factor")


@dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019); decoupled weight decay, on every parameter."""

    kind: str = named("adamw")
    lr: float = key(1e-3, *LR)
    weight_decay: float = key(
        0.05, _DECAY, "weight decay: a step subtracts this, times the learning rate, times the parameter"
    )
    betas: tuple[float, ...] = key(
        (0.9, 0.999),
        bounds.numbers(*bounds.BETAS),
        "decay rates of the running means of the gradient and of its square",
    )
    eps: float = key(1e-8, within(1e-12, 1), "term added to the denominator for numerical stability")


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up of the learning rate, then decay.

    The length is given by `epochs` and `warmup_epochs`, or by `iterations` and `warmup_iterations` in steps
    of one batch; the other two are null. The epoch in which the iterations end is always completed: with
    `steps` at an unchanged learning rate, with `cosine` at rate 0, which only updates the statistics of batch
    norm.
    """

    epochs: int | None = key(200, within(*bounds.EPOCHS), "length in epochs")
    iterations: int | None = key(None, within(1, _STEPS), "length in steps")
    batch_size: int = key(128, within(1, 1_000_000), "images per batch, over all processes together")
    accumulate: int = key(
        1,
        within(1, 1024),
        "parts of a batch, processed in turn to save memory; batch norm sees one part at a time",
    )
    warmup_epochs: int | None = key(5, within(0, 1_000_000), "warm-up in epochs, at most `epochs`")
    warmup_iterations: int | None = key(None, within(0, _STEPS), "warm-up in steps, at most `iterations`")
    warmup_from: float = key(
        0.0, within(0, 1), "learning rate at the start of the warm-up, as a share of `optimizer.lr`"
    )
    decay: str = key(
        "steps",
        one_of("steps", "cosine"),
        "`steps`: multiply by `gamma` after each milestone; `cosine`: decay to 0 at the end",
    )
    milestones: tuple[int, ...] = key(
        (120, 160),
        within(1, 1_000_000),
        "epochs after which the rate is lowered, in ascending order; `[]` with `cosine` or `iterations`",
    )
    gamma: float = key(
        0.01, within(0, 1), "factor by which the learning rate is multiplied after each milestone"
    )

    @property
    def length(self) -> tuple[int, int]:
        """Length and warm-up, in iterations if those are given, otherwise in epochs."""
        given = (self.epochs, self.warmup_epochs)
        if self.iterations is not None:
            given = (self.iterations, self.warmup_iterations)
        length, warmup = given
        if length is None or warmup is None:
            raise ValueError("a schedule has a length and a warm-up in one unit")
        return length, warmup
