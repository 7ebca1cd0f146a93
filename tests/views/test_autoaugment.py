"""AutoAugment and Cutout against torchvision's own transforms, image by image, with the same draws."""

import contextlib
import dataclasses
import functools
import hashlib
import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import chain
import folders
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import AutoAugment, AutoAugmentPolicy
from torchvision.transforms import functional as transforms

from dive.cache.reader import LogitCache
from dive.cache.writer import CacheWriter
from dive.data.pictures import HeldPictures
from dive.errors import OutputError
from dive.feeds.images import Images
from dive.models.network import Architecture
from dive.randomness import hash64
from dive.recipe import recipe
from dive.training import loop
from dive.views import autoaugment_policy
from dive.views.autoaugment import AutoAugmentCutout, _draws
from dive.views.autoaugment_policy import _CONTRAST, Policy, _grey, _mean
from dive.views.crop_flip import CropFlip
from dive.views.draw import FreeViews
from dive.views.registry import view_space

POLICY = AutoAugment(AutoAugmentPolicy.CIFAR10)
IDS = st.integers(1, 2**62 - 1)


@functools.cache
def images(height: int = 32, width: int = 32) -> np.ndarray:
    """Noise, a ramp, one colour, two colours, dark and light images, (8, H, W, 3) uint8."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (3, height, width, 3))
    ramp = np.linspace(0, 255, height * width * 3).reshape(1, height, width, 3)
    plain = np.full((1, height, width, 3), 137)
    halves = np.where(np.arange(width)[:, None] < width // 2, [3, 200, 90], [250, 201, 90])
    smooth = generator.integers(0, 80, (1, 4, 4, 3)).repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)
    light = 255 - smooth // 3
    whole = [noise, ramp, plain, np.broadcast_to(halves, (1, height, width, 3))]
    return np.concatenate([*whole, smooth[:, :height, :width], light[:, :height, :width]]).astype(np.uint8)


def hashed(number: int) -> list[int]:
    """The eight draws of a view id, by NumPy's unsigned integers."""
    return (hash64(number, np.arange(8, dtype=np.uint64)) >> np.uint64(11)).tolist()


def by_torchvision(image: np.ndarray, number: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The view of id `number` of an image (H, W, 3), padded by 4 and flipped, from PIL-like single steps."""
    height, width = image.shape[:2]
    crop, policy, chance_1, chance_2, sign_1, sign_2, hole_y, hole_x = hashed(number)
    crop %= 162
    dy, dx, flip = crop // 18, crop // 2 % 9, crop % 2
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    cut = padded[dy : dy + height, dx : dx + width]
    cut = cut[:, ::-1] if flip else cut
    # torchvision draws uniform numbers p <= chance; ours are below it. Equal ones do not occur.
    draws = (
        policy % 25,
        torch.tensor([chance_1 / 2**53, chance_2 / 2**53]),
        torch.tensor([sign_1 % 2, sign_2 % 2]),
    )
    monkeypatch.setattr(POLICY, "get_params", lambda _: draws)
    tensor = POLICY(torch.from_numpy(cut.copy()).permute(2, 0, 1))
    result = tensor.permute(1, 2, 0).numpy().copy()
    y, x = hole_y % height, hole_x % width
    top, left = y - height // 4, x - width // 4
    result[max(0, top) : top + height // 2, max(0, left) : left + width // 2] = 0
    return result


def render(
    space: AutoAugmentCutout, rows: list[int], ids: list[int], shape: tuple[int, int] = (32, 32)
) -> np.ndarray:
    prepared = space.prepare(torch.from_numpy(images(*shape)))
    return space.render(prepared, torch.tensor(rows), torch.tensor(ids)).numpy()


@pytest.mark.parametrize(
    ("shape", "count"), [((32, 32), 600), ((24, 40), 600), ((30, 30), 200), ((28, 20), 200), ((33, 31), 200)]
)
def test_views_are_those_of_torchvisions_policy(shape, count, monkeypatch):
    space = AutoAugmentCutout(shape, 4, True)
    numbers = (hash64(7, np.arange(count, dtype=np.uint64)) >> np.uint64(2)).astype(np.int64).tolist()
    rows = [i % len(images()) for i in range(len(numbers))]
    views = render(space, rows, numbers, shape)
    for row, number, view in zip(rows, numbers, views, strict=True):
        expected = by_torchvision(images(*shape)[row], number, monkeypatch)
        np.testing.assert_array_equal(view, expected, err_msg=f"image {row}, view {number}")


def every_operation() -> list[tuple[str, int | None, int]]:
    found = {(name, step, sign) for pair in POLICY.policies for name, _, step in pair for sign in (0, 1)}
    return sorted(found, key=str)


@pytest.mark.parametrize(("name", "step", "sign"), every_operation())
def test_every_operation_of_the_policy_is_torchvisions(name, step, sign):
    tables: Policy = AutoAugmentCutout((32, 32), 4, True)._policy
    place = next(
        (i, k) for i, pair in enumerate(POLICY.policies) for k in (0, 1) if pair[k][::2] == (name, step)
    )
    number = tables.operations[(*place, sign)]
    batch = torch.from_numpy(images())
    steps, signed = POLICY._augmentation_space(10, (32, 32))[name]
    magnitude = 0.0 if step is None else float(steps[step]) * (-1 if signed and sign == 0 else 1)
    found = tables.apply(batch, number.expand(len(batch)))
    from torchvision.transforms.autoaugment import _apply_op

    for image, ours in zip(batch, found, strict=True):
        theirs = _apply_op(
            image.permute(2, 0, 1), name, magnitude, transforms.InterpolationMode.NEAREST, None
        )
        assert torch.equal(ours, theirs.permute(1, 2, 0))


def nearest_float32(quotient: Fraction) -> np.float32:
    """The float32 nearest to a fraction, the even one of two."""
    guess = np.float32(float(quotient))
    around = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(around, key=lambda x: (abs(Fraction(float(x)) - quotient), int(x.view(np.uint32)) & 1))


SIZES = [(1, 1), (8, 8), (30, 30), (28, 20), (33, 31), (401, 307)]


@pytest.mark.parametrize("size", SIZES)
def test_the_mean_of_an_image_is_the_float32_nearest_to_its_exact_quotient(size):
    generator = np.random.default_rng(1)
    grey = np.stack([generator.integers(low, 256, (*size, 1), dtype=np.uint8) for low in range(0, 256, 15)])
    for picture, mean in zip(grey, _mean(torch.from_numpy(grey)), strict=True):
        exact = Fraction(int(picture.astype(np.int64).sum()), picture.size)
        assert mean.numpy() == nearest_float32(exact)


@pytest.mark.parametrize("size", [(30, 30), (28, 20), (33, 31), (300, 301)])
def test_contrast_is_that_of_the_exact_mean(size):
    tables = AutoAugmentCutout(size, 4, True)._policy
    batch = torch.from_numpy(images(*size))[::3]
    numbers = torch.nonzero(tables.rule == _CONTRAST)[:, 0]
    assert len(numbers) >= 4
    for number in numbers:
        ratio, rest = (float(table[number]) for table in (tables.ratio, tables.rest))
        for image, found in zip(batch, tables.apply(batch, number.expand(len(batch))), strict=True):
            grey = transforms.rgb_to_grayscale(image.permute(2, 0, 1))
            mean = nearest_float32(Fraction(int(grey.long().sum()), grey.numel()))
            blended = np.float32(ratio) * image.numpy().astype(np.float32) + np.float32(rest) * mean
            np.testing.assert_array_equal(found, blended.clip(0, 255).astype(np.uint8))


class Reciprocals(TorchDispatchMode):
    """Divides by a number as CUDA's kernels do: it multiplies by the reciprocal."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.div and args[0].is_floating_point():
            divisor = args[1]
            if not isinstance(divisor, torch.Tensor) or divisor.dim() == 0:
                return args[0] * (torch.ones(1, dtype=args[0].dtype) / divisor)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [(30, 30), (28, 20), (33, 31)])
def test_views_stay_the_same_where_a_division_by_a_number_multiplies_by_its_reciprocal(size):
    space, pixels = AutoAugmentCutout(size, 4, True), torch.from_numpy(images(*size))
    prepared, rows = space.prepare(pixels), torch.arange(500) % len(pixels)
    ids = torch.from_numpy((hash64(3, np.arange(500, dtype=np.uint64)) >> np.uint64(2)).astype(np.int64))
    means = _mean(_grey(pixels))
    with Reciprocals():
        sums = torch.arange(100_000).float()
        assert not torch.equal(sums / 900, sums / torch.full_like(sums, 900))  # it does make a difference
        assert torch.equal(_mean(_grey(pixels)), means)
        views = space.render(prepared, rows, ids)
    assert torch.equal(views, space.render(prepared, rows, ids))


class OnePathAlone(TorchDispatchMode):
    """Fails at an operation in floating point whose rounding is not the same on every device."""

    EXACT = {
        "add",
        "sub",
        "mul",
        "div",
        "clamp",
        "where",
        "_to_copy",
        "lt",
        "copy_",
        "ones_like",
        "full_like",
    }
    MOVES = {"unbind", "slice", "select", "index", "view", "unsqueeze", "expand", "alias", "detach", "gather"}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [x for x in args if isinstance(x, torch.Tensor)]
        result = func(*args, **(kwargs or {}))
        made = [x for x in (result if isinstance(result, (tuple, list)) else [result])]
        if any(x.is_floating_point() for x in (*given, *made) if isinstance(x, torch.Tensor)):
            name = func.overloadpacket.__name__
            assert name in self.EXACT | self.MOVES, name
            if name == "div":
                assert len(given) == 2 and all(x.dim() for x in given), "a division by a number"
            if name in ("add", "sub"):
                assert (kwargs or {}).get("alpha", 1) == 1, "a fused sum"
        return result


def test_every_step_in_floating_point_is_one_that_ieee_754_rounds_in_one_way():
    space, pixels = AutoAugmentCutout((30, 30), 4, True), torch.from_numpy(images(30, 30))
    prepared, ids = space.prepare(pixels), torch.arange(100)
    with OnePathAlone():
        space.render(prepared, ids % len(pixels), ids)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [(32, 32), (30, 30), (33, 31)])
def test_a_view_is_the_same_on_a_gpu(size):
    space, pixels = AutoAugmentCutout(size, 4, True), torch.from_numpy(images(*size))
    rows = torch.arange(500) % len(pixels)
    ids = torch.from_numpy((hash64(3, np.arange(500, dtype=np.uint64)) >> np.uint64(2)).astype(np.int64))
    on_cpu = space.render(space.prepare(pixels), rows, ids)
    described = space.describe()
    assert torch.equal(space.render(space.prepare(pixels.cuda()), rows.cuda(), ids.cuda()).cpu(), on_cpu)
    assert space.describe() == described and space._policy.hash() == described["tables_hash"]


def test_the_identity_changes_nothing():
    tables = AutoAugmentCutout((32, 32), 4, True)._policy
    batch = torch.from_numpy(images())
    assert torch.equal(tables.apply(batch, torch.zeros(len(batch), dtype=torch.int64)), batch)


@given(st.lists(st.integers(0, 2**62 - 1), min_size=1, max_size=5))
def test_draws_are_hashes_of_the_id(numbers):
    assert _draws(torch.tensor(numbers)).tolist() == [hashed(number) for number in numbers]


def test_draws_are_even():
    draws = _draws(torch.arange(1, 40_001)).numpy()
    for column, sides in zip(draws.T, (162, 25, 10, 10, 2, 2, 32, 32), strict=True):
        scaled = column * sides // 2**53 if sides == 10 else column % sides
        expected = len(draws) / sides
        chi_squared = ((np.bincount(scaled.astype(int), minlength=sides) - expected) ** 2 / expected).sum()
        assert chi_squared < sides + 5 * np.sqrt(2 * sides) + 10


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 7), IDS | st.just(0)), min_size=1, max_size=6))
def test_a_view_does_not_depend_on_its_batch(asked):
    space = AutoAugmentCutout((32, 32), 4, True)
    together = render(space, *map(list, zip(*asked, strict=True)))
    for (row, number), view in zip(asked, together, strict=True):
        np.testing.assert_array_equal(render(space, [row], [number])[0], view)


def test_the_clean_view_is_the_image():
    space = AutoAugmentCutout((32, 32), 4, True)
    np.testing.assert_array_equal(render(space, list(range(8)), [space.clean_id] * 8), images())


def test_a_recipe_names_the_space_and_free_views_are_drawn_from_it():
    space = view_space("autoaugment", (32, 32), **recipe.AutoAugment().keys())
    assert isinstance(space, AutoAugmentCutout) and space.size is None
    crops, described = CropFlip((32, 32), 4, True).describe(), space.describe()
    assert described.items() >= (crops | {"kind": "autoaugment"}).items()
    assert re.fullmatch("[0-9a-f]{64}", described["tables_hash"])
    hashes = hash64(1, np.arange(1000, dtype=np.uint64))
    ids, columns = FreeViews(space).draw(0, 1, hashes)
    assert len(set(ids.tolist())) == 1000 and ids.min() > 0 and not columns.any()
    assert not np.array_equal(ids, FreeViews(space).draw(0, 2, hashes)[0])


def test_batches_are_normalised_as_of_any_space():
    feed = Images(HeldPictures(images()), AutoAugmentCutout((32, 32), 4, True), torch.device("cpu")).feed(8)
    network = Architecture("resnet8", 2, 3, (0.5,) * 3, (0.25,) * 3).build()
    batch = network.normalised(
        feed.batch(torch.arange(8), torch.arange(8), torch.zeros(8, dtype=torch.int64))
    )
    pixels = torch.from_numpy(render(AutoAugmentCutout((32, 32), 4, True), list(range(8)), list(range(8))))
    torch.testing.assert_close(batch, (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)


def by_hand(tables: Policy) -> str:
    """SHA-256 over every number of every table, packed one by one."""
    digest = hashlib.sha256()
    for name in ("chances", "operations", "partner", "places", "ratio", "rest", "rule", "values"):
        table = getattr(tables, name)
        kind = "<d" if table.dtype in (torch.float32, torch.float64) else "<q"
        digest.update(f"{name} {tuple(table.shape)} ".encode())
        digest.update(b"".join(struct.pack(kind, number) for number in table.flatten().tolist()))
    return digest.hexdigest()


def test_the_tables_hash_is_that_of_every_number_in_every_table():
    space = AutoAugmentCutout((30, 28), 4, True)
    tables = space._policy
    assert space.describe()["tables_hash"] == tables.hash() == by_hand(tables)
    for name, table in vars(tables).items():
        changed = table.clone()
        changed.view(-1)[-1] += 1
        assert dataclasses.replace(tables, **{name: changed}).hash() != tables.hash(), name


def test_the_tables_hash_does_not_depend_on_how_the_tables_are_kept():
    tables = AutoAugmentCutout((8, 8), 4, True)._policy
    other = {
        name: table.double() if table.is_floating_point() else table.int()
        for name, table in vars(tables).items()
    }
    other["places"] = tables.places.t().contiguous().t()  # in another order in memory
    assert Policy(**other).hash() == tables.to(torch.device("cpu")).hash() == tables.hash()


def test_spaces_of_images_of_other_sizes_have_other_tables():
    sizes = ((32, 32), (32, 16), (16, 32), (30, 30))
    assert len({AutoAugmentCutout(size, 4, True).describe()["tables_hash"] for size in sizes}) == 4


def turn_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a release of torchvision might: rotations by up to 31 degrees instead of 30."""
    space = AutoAugment._augmentation_space

    def wider(self: AutoAugment, bins: int, size: tuple[int, int]) -> dict:
        return space(self, bins, size) | {"Rotate": (torch.linspace(0.0, 31.0, bins), True)}

    monkeypatch.setattr(AutoAugment, "_augmentation_space", wider)


def draw_other_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release whose policy draws one operation a little more often."""
    policies = AutoAugment._get_policies

    def changed(self: AutoAugment, policy: AutoAugmentPolicy) -> list:
        (first, second), *others = policies(self, policy)
        return [((first[0], first[1] + 0.1, first[2]), second), *others]

    monkeypatch.setattr(AutoAugment, "_get_policies", changed)


def round_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release whose rotation selects other pixels, with the same policy and magnitudes."""
    monkeypatch.setitem(
        autoaugment_policy._GEOMETRIC, "Rotate", lambda image, m: transforms.rotate(image, m, center=[0, 0])
    )


@pytest.mark.parametrize("change", [turn_further, draw_other_policies, round_otherwise])
def test_another_torchvision_is_another_space(change, monkeypatch):
    before = AutoAugmentCutout((32, 32), 4, True).describe()
    change(monkeypatch)
    after = AutoAugmentCutout((32, 32), 4, True).describe()
    assert {key for key in before if before[key] != after[key]} == {"tables_hash"}


@dataclasses.dataclass(frozen=True)
class Insects:
    """A folder with a teacher and a cache of fifty views of small photographs, and how they were made."""

    folder: Path
    told: tuple[object, ...]
    record: dict

    @property
    def sampling(self) -> tuple[object, ...]:
        """The command that verifies 300 stored views with the teacher."""
        teacher = Path("checkpoints/insects/teacher.pt")
        return ("verify", "cache/insects.h5", "--sample", 300, "--teacher", teacher, "--json", "--quiet")


@pytest.fixture(scope="module")
def insects(tmp_path_factory) -> Insects:
    folder = tmp_path_factory.mktemp("insects")
    with contextlib.chdir(folder):
        config = folders.write_recipe(Path("insects.yaml"), folders.write_images(Path("images")))
        told = ("--config", config, "--precision", "fp32", "--set", "views.kind=autoaugment", "--quiet")
        chain.succeed("teacher", *told)
        return Insects(folder, told, chain.succeed("export-logits", *told, "--json").document)


def test_a_cache_made_with_another_torchvisions_tables_is_refused_by_student_verify_and_export(
    insects, monkeypatch
):
    monkeypatch.chdir(insects.folder)
    with monkeypatch.context() as stopping:
        stopping.setattr(CacheWriter, "finish", raising(OutputError("stopped before its end")))
        assert "stopped" in chain.dive("export-logits", *insects.told, "--out", "stopped.h5").complaint
    draw_other_policies(monkeypatch)
    differs = r"tables_hash: [0-9a-f]{12}, now [0-9a-f]{12}\)"
    for words in (insects.sampling, ("student", *insects.told, "--out", "refused.pt")):
        complaint = chain.dive(*words).complaint
        assert re.search(
            rf"insects\.h5 holds views for which .* gives other pixels \(views\.{differs}", complaint
        )
    complaint = chain.dive("export-logits", *insects.told, "--out", "stopped.h5").complaint
    assert re.search(rf"stopped\.h5\.part .* \(view_space\.{differs}", complaint)


def test_a_teacher_stopped_under_another_torchvisions_tables_is_not_resumed(insects, monkeypatch):
    monkeypatch.chdir(insects.folder)
    monkeypatch.setattr(loop, "SAVING_SHARE", float("inf"))
    words = ("teacher", *insects.told, "--out", "half.pt")
    with chain.stopped_at(5):
        assert chain.dive(*words).code == 130
    with monkeypatch.context() as other:
        draw_other_policies(other)
        complaint = chain.dive(*words).complaint
    assert re.search(r"half\.state .* \(view_space\.tables_hash: [0-9a-f]{12}, now [0-9a-f]{12}\)", complaint)
    chain.succeed(*words)


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_a_student_learns_from_fifty_stored_views_that_the_teacher_says_again(insects, monkeypatch):
    monkeypatch.chdir(insects.folder)
    told, record = insects.told, insects.record
    assert record["shape"] == [16, 50, 3] and record["identity"]["views"] == "50"
    cache = LogitCache(Path("cache/insects.h5"))
    assert cache.views.dtype == np.int64 and len(set(cache.views.ravel().tolist())) == 16 * 50
    said = chain.succeed(*insects.sampling).document
    assert said["sampled"]["agreement"] == 1 and said["sampled"]["largest"] < 0.01
    assert chain.succeed("student", *told, "--json").document["kind"] == "student"
    chain.succeed("export-logits", *told, "--views", "clean", "--out", "clean.h5")
    chain.succeed("student", *told, "--cache", "clean.h5", "--free-views", "--out", "free.pt")
    complaint = chain.dive("export-logits", *told, "--views", "all", "--out", "all.h5").complaint
    assert "--views 'all': give clean (these views are unbounded)" in complaint
    plain = tuple("views.kind=crop_flip" if word == "views.kind=autoaugment" else word for word in told)
    complaint = chain.dive("student", *plain, "--out", "other.pt", "--cache", cache.path).complaint
    assert "views.kind: autoaugment, now crop_flip" in complaint
