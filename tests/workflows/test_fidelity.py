"""How far stored targets are from exact ones, against scipy-free formulas and the field's figures."""

import math
from pathlib import Path

import caches
import chain
import numpy as np
import pytest
import torch

from dive.cache.encodings.codec import Codec, Head
from dive.cache.encodings.registry import ENCODINGS
from dive.cache.reader import LogitCache
from dive.errors import CacheError
from dive.feeds.feed import Batch
from dive.feeds.images import Images
from dive.models import checkpoint
from dive.models.features import FeatureNetwork
from dive.progress import SILENT
from dive.recipe.reading import load
from dive.training.device import Runtime
from dive.training.inference import outputs
from dive.views.crop_flip import CropFlip
from dive.workflows import fidelity
from dive.workflows.convert import ConvertOptions, convert
from dive.workflows.data import load_training
from dive.workflows.fidelity import Comparison, compare

A, B = Path("a.h5"), Path("b.h5")


def naive(exact: np.ndarray, stored: np.ndarray, temperature: float) -> tuple[float, float]:
    """Mean KL(exact ‖ stored) and KL(exact ‖ uniform), class by class."""
    kls, signals = [], []
    for z, s in zip(exact.tolist(), stored.tolist(), strict=True):
        t, q = (np.exp(np.array(x) / temperature) for x in (z, s))
        t, q = t / t.sum(), q / q.sum()
        kls.append(sum(a * math.log(a / b) for a, b in zip(t, q, strict=True)))
        signals.append(sum(a * math.log(a * len(t)) for a in t))
    return float(np.mean(kls)), float(np.mean(signals))


def test_divergences_agree_with_a_naive_loop():
    exact, stored = (
        caches.random_logits(9, 4, 6).reshape(-1, 6),
        caches.random_logits(9, 4, 6, 1).reshape(-1, 6),
    )
    comparison = Comparison()
    for start in (0, 11, 24):
        stop = {0: 11, 11: 24, 24: 36}[start]
        comparison.add(exact[start:stop], stored[start:stop])
    assert [one.temperature for one in comparison.fidelities()] == [1, 2, 6, 12]
    for one in comparison.fidelities():
        kl, signal = naive(exact, stored, one.temperature)
        assert one.kl == pytest.approx(kl, rel=1e-9) and one.signal == pytest.approx(signal, rel=1e-9)
        assert one.share == pytest.approx(kl / signal, rel=1e-9)
    assert comparison.pairs == 36 and comparison.largest == np.abs(exact - stored).max()
    assert comparison.agreement == (exact.argmax(1) == stored.argmax(1)).mean()


def test_a_target_that_tells_nothing_has_no_share():
    comparison = Comparison()
    comparison.add(np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32))
    assert [one.share for one in comparison.fidelities()] == [None] * 4


def test_caches_are_joined_by_key_and_compared_in_all_their_views():
    logits = caches.random_logits(11, 3, 4)
    other = logits + caches.random_logits(11, 3, 4, seed=1, scale=0.1)
    cache = caches.write_cache(A, logits, store="float32", labels=[0] * 11)
    order = np.random.default_rng(0).permutation(11)
    keys = [cache.keys[row] for row in order]
    exact = caches.write_cache(B, other[order], store="float32", labels=[0] * 11, keys=keys)
    found = compare(cache, exact, None, 0, SILENT)
    flat = [z.reshape(-1, 4) for z in (other, logits)]
    assert found.pairs == 33 and found.largest == np.abs(flat[0] - flat[1]).max()
    assert found.fidelities()[0].kl == pytest.approx(naive(*flat, 1)[0], rel=1e-6)
    some = compare(cache, exact, 10, 3, SILENT)
    assert some.pairs == 10 and some.document() == compare(cache, exact, 10, 3, SILENT).document()
    assert some.document() != compare(cache, exact, 10, 4, SILENT).document()


def test_a_large_cache_is_compared_in_pieces(monkeypatch):
    cache = caches.write_cache(A, caches.random_logits(11, 3, 4))
    exact = caches.write_cache(B, caches.random_logits(11, 3, 4, seed=1))
    whole = compare(cache, exact, None, 0, SILENT).document()
    monkeypatch.setattr(fidelity, "_ROWS_AT_ONCE", 5)
    pieces = compare(cache, exact, None, 0, SILENT).document()
    assert pieces.pop("fidelity")[2]["kl"] == pytest.approx(whole.pop("fidelity")[2]["kl"], rel=1e-12)
    assert pieces == whole


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"keys": [f"other {i}" for i in range(6)]}, "samples"),
        ({"classes": ("x", "y", "z")}, "classes"),
        ({"digests": np.ones((6, 16), np.uint8)}, "images"),
        ({"views": np.zeros((6, 2), np.int32)}, "views"),
        ({"identity": {"view_space": {"kind": "autoaugment"}}}, "views .view_space"),
    ],
)
def test_a_cache_of_other_samples_or_views_is_refused(change, what):
    logits = caches.random_logits(6, 2, 3)
    caches.write_cache(A, logits)
    caches.write_cache(B, logits, **change)
    with pytest.raises(CacheError, match=f"b.h5 has other {what}.* than a.h5"):
        compare(LogitCache(A), LogitCache(B), None, 0, SILENT)
    assert "b.h5 has other" in chain.dive("verify", A, "--against", B, "--quiet").complaint


def test_verify_shows_how_far_a_converted_cache_is_from_its_source(digits):
    convert(digits.features_cache, ConvertOptions("int8", A))
    document = chain.succeed("verify", A, "--against", digits.features_cache, "--json", "--quiet").document
    told = document["against"]
    assert told["pairs"] == 399 * 9 and told["agreement"] > 0.98 and document["store"] == "int8"
    exact, stored = (caches.decoded(path).reshape(-1, 10) for path in (digits.features_cache, A))
    for one in told["fidelity"]:
        kl, signal = naive(exact, stored, one["temperature"])
        assert one["kl"] == pytest.approx(kl, rel=0.01, abs=1e-9) and one["signal"] == pytest.approx(
            signal, rel=1e-4
        )
        assert 0 < one["share"] < 1e-3
    shown = chain.succeed("verify", A, "--against", digits.features_cache, "--sample", 50).out
    assert "KL(exact ‖ stored)" in shown and "50 views: largest difference" in shown


def test_verify_shows_how_far_a_cache_is_from_its_teacher(digits):
    words = ("verify", digits.features_cache, "--sample", 200, "--teacher", digits.teacher)
    sampled = chain.succeed(*words, "--json", "--quiet").document["sampled"]
    assert 0 < sampled["largest"] < sampled["allowed"]
    assert [one["temperature"] for one in sampled["fidelity"]] == [1, 2, 6, 12]
    assert all(0 <= one["kl"] < 1e-6 and one["signal"] > 1e-3 for one in sampled["fidelity"])
    shown = chain.succeed(*words).out
    assert "teacher run again" in shown and "Targets from features" in shown


def test_sample_alone_and_a_teacher_without_it_are_mistakes(digits):
    for words in (("--sample", 5), ("--teacher", "t.pt"), ("--teacher", "t.pt", "--against", "b.h5")):
        outcome = chain.dive("verify", digits.cache, *words)
        assert outcome.code == 2 and "--teacher FILE needs --sample N" in outcome.complaint


# KL(exact ‖ stored) in nats at T = 1, 2 and 6 of the recorded teacher, as it was first measured.
MEASURED = {
    "float16": (3.2e-7, 2.9e-7, 3.7e-8),
    "int8": (2.1e-5, 2.6e-5, 1.1e-5),
    "features": (5.2e-8, 5.9e-8, 1.6e-8),
    "features-int8": (5.0e-5, 5.1e-5, 1.5e-5),
}


@pytest.mark.slow
def test_every_encoding_keeps_the_targets_of_the_recorded_teacher(shared_data, repository):
    """On CIFAR-100-LT, on random views; at most twice the divergence that was measured first."""
    teacher = repository / "results" / "cifar100_lt_bbn" / "teacher.pt"
    if not teacher.exists():
        pytest.skip(f"the recorded teacher is not at {teacher}")
    network, document = checkpoint.load_model(teacher)
    train = load_training(load(document["recipe"], (f"data.root={shared_data}",)), SILENT)
    generator = np.random.default_rng(1)
    rows, ids = generator.integers(0, len(train), 1000), generator.integers(0, 162, 1000)
    space = CropFlip((32, 32), pad=4, flip=True)
    images, cpu = Images(train.pictures, space, torch.device("cpu")), torch.device("cpu")
    network.eval()
    asked = FeatureNetwork(network, network.blank(3, (32, 32)))
    plan = list(Batch(rows, ids, ids).split(200))
    logits, features = (
        torch.cat(list(outputs(viewer, images, plan, Runtime(cpu, "fp32")))).numpy()
        for viewer in (network, asked)
    )
    head = Head(asked.weight.numpy(), asked.bias.numpy())
    for store, measured in MEASURED.items():
        codec = Codec(ENCODINGS[store], 100, head if store.startswith("features") else None)
        comparison = Comparison()
        comparison.add(logits, codec.decode(codec.encode(logits if codec.head is None else features)))
        found = [one.kl for one in comparison.fidelities()[:3]]
        assert all(kl <= 2 * before for kl, before in zip(found, measured, strict=True)), (store, found)
        assert comparison.fidelities()[2].signal == pytest.approx(0.453, rel=0.2)
