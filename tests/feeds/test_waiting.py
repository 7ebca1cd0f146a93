"""How long a device waits for batches: on a processor by its clock, on CUDA between events."""

import threading
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from host_space import HostCropFlip, OnDemand

from dive.data.pictures import HeldPictures
from dive.feeds import waiting
from dive.feeds.feed import Batch, side_thread
from dive.feeds.images import Images, StreamedImages
from dive.feeds.waiting import PENDING, DeviceWaits, HostWaits, waits_of
from dive.views.crop_flip import CropFlip

CPU = torch.device("cpu")


def test_each_device_has_its_way_of_counting():
    assert type(waits_of(CPU)) is HostWaits and type(waits_of(torch.device("cuda", 1))) is DeviceWaits


def test_a_thread_beside_works_with_the_device_that_it_is_for(monkeypatch):
    chosen = []

    def choose(device: torch.device) -> None:
        chosen.append((threading.current_thread().name, device))

    monkeypatch.setattr(torch.cuda, "set_device", choose)
    for device in (CPU, torch.device("cuda", 1)):
        with side_thread(device, "aside") as pool:
            assert pool.submit(lambda: threading.current_thread().name).result() == "aside_0"
    assert chosen == [("aside_0", torch.device("cuda", 1))]


def test_a_processor_waits_while_the_block_lasts_and_not_between(monkeypatch):
    clock = iter([0.0, 0.5, 7.0, 9.0, 20.0, 20.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    waits = HostWaits()
    for _ in range(2):
        with waits:
            pass
    assert waits.seconds == 2.5
    waits.begin()
    assert waits.seconds == 0
    with waits:
        pass
    assert waits.seconds == 0.25


@dataclass
class Device:
    """A device that works through what is enqueued: the host's time and when the device will be done."""

    now: float = 0.0
    busy_until: float = 0.0

    def enqueue(self, seconds: float) -> None:
        self.busy_until = max(self.busy_until, self.now) + seconds


class Event:
    """As torch.cuda.Event of that device."""

    device: ClassVar[Device]

    def record(self) -> None:
        self.reached = max(self.device.busy_until, self.device.now)

    def synchronize(self) -> None:
        self.device.now = max(self.device.now, self.reached)

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end.reached - self.reached)


@pytest.mark.parametrize(
    ("reading", "step", "expected"),
    [(0.5, 2.0, 0.5), (2.0, 2.0, 2.0), (3.0, 2.0, 3.0 + 9 * 1.0)],
    ids=["faster than the device", "as fast", "slower"],
)
def test_a_device_waits_only_while_it_has_no_work(reading, step, expected, monkeypatch):
    """Ten batches, one after the other; it has nothing to do while the first is read."""
    device = Device()
    monkeypatch.setattr(Event, "device", device, raising=False)
    monkeypatch.setattr(waiting, "_event", Event)
    waits = DeviceWaits()
    for _ in range(2):  # two epochs, and between them a pause that is none of these waits
        waits.begin()
        for _ in range(10):
            with waits:
                device.now += reading
            device.enqueue(step)
            assert device.busy_until - device.now <= (PENDING + 1) * step  # the host is not far ahead
        assert waits.seconds == pytest.approx(expected)
        device.now = device.busy_until + 5


class Slow(OnDemand):
    """Pictures that take their time."""

    def read(self, row: int) -> np.ndarray:
        time.sleep(0.02)
        return super().read(row)


@pytest.mark.parametrize(
    "space", [CropFlip((6, 6), 1, True), HostCropFlip(6, 1, True)], ids=["device", "host"]
)
def test_a_streamed_feed_tells_how_long_its_batches_were_waited_for(space):
    feed = StreamedImages(Slow([np.zeros((6, 6, 3), dtype=np.uint8)] * 8, (6, 6)), space, 4, CPU, 0)
    plan = list(Batch(np.arange(8), np.zeros(8, dtype=np.int64), np.zeros(8, dtype=np.int64)).split(4))
    for _ in range(2):
        feed.begin(plan)
        assert feed.waited == 0
        start = time.perf_counter()
        feed.load()
        assert 4 * 0.02 <= feed.waited <= time.perf_counter() - start
        time.sleep(0.1)
        before = time.perf_counter()
        feed.load()
        assert feed.waited <= time.perf_counter() - before + (before - start) - 0.1


def test_resident_pictures_are_not_waited_for():
    images = Images(HeldPictures(np.zeros((8, 6, 6, 3), dtype=np.uint8)), CropFlip((6, 6), 1, True), CPU)
    assert images.resident and images.feed(4).waited is None
