"""The start of a training run: its network, and its precision and threads."""

import numpy as np
import torch

from dive.errors import ModelError, OutputError
from dive.feeds.feed import Batch
from dive.models.network import ALONE as ONE_VIEW
from dive.models.network import Network, require_trainable
from dive.models.registry import family_of, network_versions
from dive.progress import Progress
from dive.randomness import epoch_order
from dive.training.device import Runtime, device_name
from dive.training.precision import NO_TF32, choose_precision, precisions
from dive.training.saved_state import Journal, SavedState
from dive.training.spec import RunSpec
from dive.training.step import Inputs
from dive.versions import warn_if_others


def new_network(
    spec: RunSpec, device: torch.device, resumed: bool, progress: Progress, processes: int = 1
) -> Network:
    """The network of a run on `device`, with the weights that the run begins with.

    resumed: whether the run has a saved state. Its weights are loaded later, so this function then skips the
    pretrained ones. processes: the number of processes that train the network together. Raises ModelError if
    the network cannot be built, or cannot be trained on such views.
    """
    network, shape = spec.architecture.build(spec.seed).on(device), spec.images.space.shape
    name = spec.architecture.name
    if refusal := family_of(name).refusal(name, max(network.sees(shape))):
        raise ModelError(refusal)
    require_trainable(network, spec.architecture, shape, *_least(spec, processes))
    if spec.initial is not None and not resumed:
        views = network.normalised(network.blank(spec.architecture.channels, shape))
        progress.note(spec.initial.put_into(network.body, views))
    return network


def _least(spec: RunSpec, processes: int) -> tuple[int, str]:
    """The smallest number of views that the network sees at once, and advice if it does not accept one."""
    least = spec.smallest_share(processes)
    if spec.last_batch == 1:
        return least, ONE_VIEW
    if spec.smallest_share() > 1:
        return least, (
            f"with {processes} processes, one of them gets a single image of a batch: change "
            "schedule.batch_size"
        )
    whole = "a batch" if min(spec.parts(0)) == 1 else "the last batch of an epoch"
    return least, (
        f"with schedule.accumulate {spec.schedule.accumulate}, a part of {whole} has a single image: "
        "lower it, or change schedule.batch_size"
    )


def try_precisions(
    spec: RunSpec, network: Network, inputs: Inputs, device: torch.device, processes: int
) -> Runtime:
    """The runtime for the recipe's precision; `auto` is decided by a trial on a part of the first batch.

    processes: the number of processes that train together; the trial has as many samples as the largest share
    of one of them. Raises DiveError if the device does not have the precision.
    """
    if spec.precision != "auto" or len(precisions(device)) == 1:
        return choose_precision(spec.precision, device, network)  # nothing to try
    order = epoch_order(spec.seed, 1, spec.hashes)[: spec.largest_share(processes)]
    clean = np.full_like(order, spec.images.space.clean_id)
    first = Batch(order, clean, np.zeros_like(order))
    inputs.begin([first])
    inputs.load()
    places = tuple(torch.from_numpy(index).to(device) for index in (first.rows, first.ids, first.columns))
    objective = spec.objective.to(device)
    return choose_precision(
        spec.precision,
        device,
        network,
        inputs.images.batch(*places),
        lambda logits: objective(logits, *inputs.targets(*places)),
    )


def runtime_of(state: SavedState, spec: RunSpec, device: torch.device, progress: Progress) -> Runtime:
    """The precision and threads of a stopped run, with which it is resumed.

    Raises OutputError if the recipe has another precision, or the run is in TF32 and the device has none.
    """
    path = Journal(spec.out).state_path
    if spec.precision not in ("auto", state.precision):
        raise OutputError(
            f"{path} is an unfinished run in {state.precision}, not {spec.precision}; "
            f"give --precision {state.precision} to resume it, or --force to start over"
        )
    if state.precision == "tf32" and "tf32" not in precisions(device):
        raise OutputError(
            f"{path} is an unfinished run in tf32: {NO_TF32} on {device_name(device)}; "
            "resume it on such a device, or --force to start over"
        )
    threads = torch.get_num_threads()
    if device.type == "cpu" and state.threads != threads:
        threads = state.threads
        progress.note(f"resuming with the {threads} threads of the stopped run")
    warn_if_others(state.versions, f"{path}", progress, network_versions(spec.architecture.name))
    done = len(state.history)
    progress.note(f"resuming after epoch {done} of {state.epochs} in {state.precision} ({path})")
    return Runtime(device, state.precision, "as the stopped run", threads)
