"""The views of the draw without a cache: those that an export stores, for teachers of other programs."""

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import chain
import numpy as np
import pytest
import torch
from foreign import Logits
from photographs import HERE, RECIPE, write_photographs
from torch.utils.data import DataLoader

import dive
from dive.errors import DataError, OptionError, RecipeError

FOLDER = """\
name: several
data: {kind: folder, root: pictures}
views: {kind: crop_flip, pad: 1, flip: true, size: 16, seed: 3}
model: {name: resnet8, input: {mean: [0.4, 0.5, 0.6], std: [0.2, 0.25, 0.3]}}
schedule: {epochs: 1, batch_size: 6, warmup_epochs: 0, milestones: []}
"""


@dataclass(frozen=True)
class Exported:
    """What dive exported: the recipe as a user names it, the choice of views, teacher and cache."""

    recipe: Path
    views: str | int | None
    teacher: Path
    cache: dive.LogitCache
    images: str


def exported(recipe: Path, views: int | None) -> Exported:
    """A teacher of an epoch and its cache of photographs, which are in pictures/."""
    words = ("--config", recipe, *HERE)
    choice = () if views is None else ("--views", views)
    chain.succeed("teacher", *words, "--epochs", 1, "--out", "t.pt")
    chain.succeed(
        "export-logits", *words, "--teacher", "t.pt", "--out", "c.h5", "--store", "float32", *choice
    )
    return Exported(recipe, views, Path("t.pt"), dive.open_cache("c.h5"), "pictures")


def of_digits(digits: chain.Chain) -> Exported:
    """All nine views, as an export of the digits stores without a choice, in float16."""
    return Exported(chain.CONFIG, None, digits.teacher, dive.open_cache(digits.cache), "digits_lt/bbn")


def of_drawn_digits(digits: chain.Chain) -> Exported:
    """Four drawn views of each of the digits."""
    return Exported(chain.CONFIG, "04", digits.teacher, dive.open_cache(digits.drawn_cache), "digits_lt/bbn")


def of_photographs(_: chain.Chain) -> Exported:
    """Three views each of photographs of several sizes, which are read on demand."""
    write_photographs(Path("pictures"))
    Path("photographs.yaml").write_text(RECIPE)
    return exported(Path("photographs.yaml"), 3)


def of_one_size(_: chain.Chain) -> Exported:
    """Photographs of several sizes that views.size brings to one, in memory."""
    write_photographs(Path("pictures"))
    Path("several.yaml").write_text(FOLDER)
    return exported(Path("several.yaml"), None)


KINDS = (of_digits, of_drawn_digits, of_photographs, of_one_size)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def export(request: pytest.FixtureRequest, digits: chain.Chain) -> Exported:
    """Each of the exports above."""
    made: Callable[[chain.Chain], Exported] = request.param
    return made(digits)


def test_they_are_those_that_an_export_stores_and_their_logits_are_imported_as_its(export: Exported) -> None:
    cache, drawn = export.cache, dive.DrawnViews(export.recipe, export.views)
    assert drawn.keys == cache.keys and drawn.classes == cache.classes
    np.testing.assert_array_equal(drawn.labels, cache.labels)
    np.testing.assert_array_equal(drawn.class_counts, cache.class_counts)
    np.testing.assert_array_equal(drawn.views, cache.views)
    assert drawn.views.dtype == cache.views.dtype and len(drawn) == cache.views.size

    stored = dive.CachedViews(cache, dive.open_images(export.images))
    for item in range(0, len(drawn), 1 if len(drawn) < 500 else 31):
        row, column = item // cache.shape[1], item % cache.shape[1]
        pixels = drawn.pixels(row, column)
        np.testing.assert_array_equal(pixels, stored.pixels(row, column))
        assert drawn[item].dtype == torch.uint8 and drawn[item].is_contiguous()
        np.testing.assert_array_equal(drawn[item].numpy(), pixels.transpose(2, 0, 1))

    network = dive.load_model(export.teacher)
    with torch.no_grad():
        given = torch.cat([network(batch) for batch in DataLoader(drawn, batch_size=256)])
    logits = given.reshape(*drawn.views.shape, -1).numpy()
    file = Logits(drawn.keys, logits, list(drawn.classes), drawn.views).save(Path("logits.npz"))
    options = dive.ImportOptions(prior="none", out=Path("imported.h5"), store="float32")
    record = dive.import_logits(dive.load_recipe(export.recipe), file, options).record
    assert (record["missing"], record["unknown"]) == (0, 0)
    assert record["identity"]["views"] == cache.identity["views"]
    imported = dive.open_cache("imported.h5").whole()
    rounding = 2**-10 if cache.store == "float16" else 1e-5
    np.testing.assert_allclose(imported, cache.whole(), rtol=rounding, atol=1e-5)


def test_a_batch_has_the_items_one_by_one(export: Exported) -> None:
    drawn = dive.DrawnViews(export.recipe, export.views)
    items = np.random.default_rng(0).permutation(len(drawn))[:30].tolist()
    items += [items[0], -1, -len(drawn), len(drawn) - 1]
    batch = drawn.__getitems__(items)
    assert len(batch) == len(items)
    for item, view in zip(items, batch, strict=True):
        row, column = divmod(item % len(drawn), export.cache.shape[1])
        assert view.dtype == torch.uint8 and view.is_contiguous()
        np.testing.assert_array_equal(view.numpy(), drawn.pixels(row, column).transpose(2, 0, 1))


def test_a_dataloader_asks_for_a_batch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, asked = dive.DrawnViews("digits_lt/bbn", 4, transform=torch.Tensor.float), []
    given = dive.DrawnViews.__getitems__
    monkeypatch.setattr(
        dive.DrawnViews, "__getitems__", lambda self, items: asked.append(items) or given(self, items)
    )
    batches = list(DataLoader(drawn, batch_size=600))
    assert [len(items) for items in asked] == [600, 600, 396]
    assert torch.equal(torch.cat(batches)[777], drawn[777]) and drawn[777].dtype == torch.float32


def test_a_view_of_the_digits_is_the_picture_cropped(digits: chain.Chain) -> None:
    drawn, images = dive.DrawnViews(chain.CONFIG), dive.open_images(chain.CONFIG)
    assert len(drawn) == 9 * 399 < 9 * len(images)
    for item in (0, 4, 3000, len(drawn) - 1):
        padded = np.pad(images[drawn.keys[item // 9]][..., 0], 1)
        dy, dx = divmod(item % 9, 3)
        np.testing.assert_array_equal(drawn[item][0].numpy(), padded[dy : dy + 8, dx : dx + 8])


@pytest.mark.parametrize("views", ["clean", 1, 4, 9, "all"])
def test_a_recipe_of_any_form_and_views_of_any_form_are_taken(views: str | int) -> None:
    count = {"clean": 1, "all": 9}.get(views, views)
    drawn = dive.DrawnViews(dive.load_recipe(chain.CONFIG, "data.imbalance=10"), views)
    assert drawn.views.shape == (len(drawn.keys), count) and len(drawn.keys) > 399
    again = dive.DrawnViews("digits_lt/bbn", str(views))
    assert again.views.shape == (399, count)
    if views == "clean":
        pixels = dive.open_images("digits_lt/bbn")[again.keys[7]]
        np.testing.assert_array_equal(again.pixels(7, 0), pixels)


@pytest.mark.parametrize("views", ["some", "", 0, -1, 10, 2.5, True])
def test_other_views_are_refused(views: object) -> None:
    with pytest.raises(OptionError, match="give all, clean, or a number from 1 to 9"):
        dive.DrawnViews("digits_lt/bbn", views)


def test_an_unknown_recipe_and_missing_pictures_are_refused() -> None:
    with pytest.raises(RecipeError):
        dive.DrawnViews("no/such")
    Path("photographs.yaml").write_text(RECIPE)
    with pytest.raises(DataError, match="pictures"):
        dive.DrawnViews("photographs.yaml")


def test_items_are_counted_from_either_end_and_there_are_no_more() -> None:
    drawn = dive.DrawnViews("digits_lt/bbn", 4)
    assert torch.equal(drawn[-1], drawn[4 * 399 - 1]) and torch.equal(drawn[np.int64(5)], drawn[5])
    for item in (4 * 399, -4 * 399 - 1):
        with pytest.raises(IndexError, match=f"there is no view {item}: there are 1596"):
            drawn[item]
        with pytest.raises(IndexError, match=f"there is no view {item}: there are 1596"):
            drawn.__getitems__([0, item])


def test_a_transform_is_given_the_uint8_view() -> None:
    given: list[torch.Tensor] = []
    drawn = dive.DrawnViews("digits_lt/bbn", transform=lambda view: given.append(view) or "made")
    assert drawn[0] == "made"
    assert given[0].dtype == torch.uint8 and given[0].shape == (1, 8, 8)


def write_archive() -> None:
    """The photographs as a .zip, in which every reader has to find its place, and their recipe."""
    write_photographs(Path("pictures"), {"ant": 17, "bee": 12, "cat": 9})
    with zipfile.ZipFile("pictures.zip", "w") as archive:
        for path in sorted(Path("pictures").rglob("*.jpg")):
            archive.write(path, path.relative_to("pictures"))
    Path("archive.yaml").write_text(RECIPE.replace("root: pictures", "root: pictures.zip"))


def test_it_is_pickled_and_reads_photographs_from_their_files_again() -> None:
    write_archive()
    drawn = dive.DrawnViews("archive.yaml", 3)
    content = pickle.dumps(drawn)
    assert len(content) < 20_000
    again = pickle.loads(content)
    assert again.keys == drawn.keys and len(again) == len(drawn)
    np.testing.assert_array_equal(again.views, drawn.views)
    for item in range(0, len(drawn), 7):
        assert torch.equal(again[item], drawn[item])
    held = pickle.loads(pickle.dumps(dive.DrawnViews("digits_lt/bbn", 4)))
    assert torch.equal(held[77], dive.DrawnViews("digits_lt/bbn", 4)[77])


@pytest.mark.parametrize(
    "start",
    [
        "fork",
        pytest.param("forkserver", marks=pytest.mark.slow),
        pytest.param("spawn", marks=pytest.mark.slow),
    ],
)
def test_workers_give_the_same_views_however_they_are_started(start: str) -> None:
    write_archive()
    for recipe in ("archive.yaml", chain.CONFIG):
        drawn = dive.DrawnViews(recipe, 7)
        here = torch.cat(list(DataLoader(drawn, batch_size=16)))
        loader = DataLoader(drawn, batch_size=16, num_workers=2, multiprocessing_context=start)
        assert torch.equal(torch.cat(list(loader)), here)


def test_a_photograph_that_changed_is_an_error() -> None:
    write_photographs(Path("pictures"))
    Path("photographs.yaml").write_text(RECIPE)
    drawn = dive.DrawnViews("photographs.yaml", "clean")
    path = Path("pictures/train") / drawn.keys[0]
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"000\.jpg has changed since it was indexed"):
        drawn[0]
