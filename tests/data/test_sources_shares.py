"""Parts of a data set that has none of its own: a test share of one tree, and validation parts."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import TreeBuilder, noise, png
from hypothesis import given
from hypothesis import strategies as st

from dive.data.images import LabelledImages
from dive.data.longtail import draw
from dive.data.sources.folder import open_folder
from dive.data.sources.shares import set_aside
from dive.data.sources.source import Source, Split
from dive.errors import DataError, RecipeError
from dive.recipe.reading import load

COUNTS = {"ant": 10, "bee": 4, "cat": 2, "dog": 1}


def one_tree(counts: dict[str, int] = COUNTS, top: str = "") -> dict[str, bytes]:
    """Files `<class>/<number>.png` of noise."""
    seeds = iter(range(10_000))
    return {
        f"{top}{label}/{i:03d}.png": png(noise(next(seeds))) for label, n in counts.items() for i in range(n)
    }


def parts(source: Source) -> dict[str, list[str]]:
    return {
        name: split.keys for name in ("train", "test", "val") if (split := getattr(source, name)) is not None
    }


def naive_share(keys: list[str], share: float) -> set[str]:
    """What is set aside, class by class: the first by SHA-256 of 0 and the key."""
    chosen = set()
    for label in {key.split("/")[0] for key in keys}:
        members = [key for key in keys if key.split("/")[0] == label]
        members.sort(key=lambda key: hashlib.sha256(b"0\0" + key.encode()).digest())
        count = round(share * len(members))
        if count == 0 and len(members) > 1:
            count = 1
        if count == len(members):
            count -= 1
        chosen |= set(members[:count])
    return chosen


@pytest.mark.parametrize("form", ["files", "archive"])
@pytest.mark.parametrize("share", [None, 0.5, 0.9])
def test_one_tree_is_divided_as_by_a_plain_loop(tree: TreeBuilder, form: str, share: float | None) -> None:
    names = one_tree()
    source = open_folder(getattr(tree, form)(names), test_share=share)
    expected = naive_share(list(names), 0.2 if share is None else share)
    assert source.test.keys == sorted(expected) and source.val is None
    assert source.train.keys == sorted(set(names) - expected)
    assert source.classes == tuple(COUNTS)
    for split in (source.train, source.test):
        for position, key in enumerate(split.keys):
            assert source.classes[split.labels[position]] == key.split("/")[0]
            assert png(split.read(position)) == names[key] or np.array_equal(
                split.read(position), noise(list(names).index(key))
            )
            assert split.files is not None and split.files.content(position) == names[key]


def test_every_class_keeps_a_training_image_and_has_a_test_image_where_it_has_two(tree: TreeBuilder) -> None:
    source = open_folder(tree.files(one_tree()), test_share=0.9)
    assert np.bincount(source.train.labels).tolist() == [1, 1, 1, 1]
    assert np.bincount(source.test.labels, minlength=4).tolist() == [9, 3, 1, 0]


@pytest.mark.parametrize("top", ["photos/", "my photos/"])
def test_an_archive_may_keep_one_tree_in_one_folder(tree: TreeBuilder, top: str) -> None:
    plain, inner = open_folder(tree.files(one_tree())), open_folder(tree.archive(one_tree(top=top)))
    assert parts(plain) == parts(inner)


def test_the_test_part_does_not_depend_on_the_seed_of_the_draw(tree: TreeBuilder) -> None:
    root = tree.files(one_tree({"ant": 30, "bee": 20}))
    sources = [open_folder(root) for _ in range(2)]
    rows = [draw(s.train, s.classes, 3.0, seed) for s, seed in zip(sources, (0, 1), strict=True)]
    assert not np.array_equal(*rows) and parts(sources[0]) == parts(sources[1])


def test_stray_files_of_one_tree_are_no_images(tree: TreeBuilder) -> None:
    names = one_tree()
    stray = {"README.txt": b"x", "cover.png": b"x", ".hidden/a.png": b"x", "ant/notes.txt": b"x"}
    assert parts(open_folder(tree.files(names | stray, "other"))) == parts(open_folder(tree.files(names)))


def test_folders_below_a_class_of_one_tree_belong_to_it_and_links_are_followed(tree: TreeBuilder) -> None:
    root = tree.files({"ant/a/1.png": png(noise(0)), "ant/b/1.png": png(noise(1))})
    elsewhere = tree.files({"1.png": png(noise(2)), "2.png": png(noise(3))}, "elsewhere")
    (root / "bee").symlink_to(elsewhere)
    keys = [*parts(open_folder(root)).values()]
    assert sorted(sum(keys, [])) == ["ant/a/1.png", "ant/b/1.png", "bee/1.png", "bee/2.png"]


@pytest.mark.parametrize("form", ["files", "archive"])
def test_a_share_of_what_the_folder_has_itself_is_refused(tree: TreeBuilder, form: str) -> None:
    names = tree.images({"ant": 3, "bee": 2})
    with pytest.raises(DataError, match=r"has train/ and test/, .* data\.test_share must be null"):
        open_folder(getattr(tree, form)(names), test_share=0.2)
    names |= {"val/ant/1.png": png(noise(7))}
    with pytest.raises(DataError, match=r"has a val/, .* data\.val_share must be null"):
        open_folder(getattr(tree, form)(names), val_share=0.2)


def test_the_folder_above_one_with_train_and_test_is_refused_with_the_right_one(tree: TreeBuilder) -> None:
    inner = {f"flowers/{name}": content for name, content in tree.images({"ant": 3, "bee": 2}).items()}
    root = tree.files(inner | {"other/x.png": png(noise(0))})
    with pytest.raises(DataError, match="give it with --data") as caught:
        open_folder(root)
    assert str(root / "flowers") in str(caught.value)


def test_a_folder_without_any_image_of_a_class_names_both_layouts(tree: TreeBuilder) -> None:
    with pytest.raises(DataError, match=r"no images in train/<class>/ and test/<class>/, nor in <class>/"):
        open_folder(tree.files({"cover.png": png(noise(0))}))


def test_one_image_of_each_class_leaves_none_for_a_test(tree: TreeBuilder) -> None:
    with pytest.raises(DataError, match="only one image of each class, so none is left for a test set"):
        open_folder(tree.files(one_tree({"ant": 1, "bee": 1})))
    with pytest.raises(
        DataError, match=r"only one training image of each class; data\.val_share must be null"
    ):
        open_folder(tree.files(one_tree({"ant": 2, "bee": 2}), "pairs"), val_share=0.2)


@pytest.mark.parametrize("form", ["files", "archive"])
def test_a_val_folder_is_the_validation_part_and_leaves_the_others_as_they_are(
    tree: TreeBuilder, form: str
) -> None:
    names = tree.images({"ant": 3, "bee": 2})
    without = open_folder(getattr(tree, form)(names))
    source = open_folder(getattr(tree, form)(names | {"val/bee/x.png": png(noise(99))}, f"with.{form}.zip"))
    assert source.val is not None and source.val.keys == ["bee/x.png"]
    assert source.val.labels.tolist() == [1] and np.array_equal(source.val.read(0), noise(99))
    assert parts(source) == parts(without) | {"val": ["bee/x.png"]}


def test_a_class_of_val_that_training_lacks_is_refused(tree: TreeBuilder) -> None:
    names = tree.images({"ant": 3, "bee": 2}) | {"val/cow/x.png": png(noise(9))}
    with pytest.raises(DataError, match="val/ has classes that train/ has no images of: cow"):
        open_folder(tree.files(names))


def test_one_file_in_training_and_validation_is_refused(tree: TreeBuilder) -> None:
    root = tree.files(tree.images({"ant": 3, "bee": 2}))
    (root / "val" / "ant").mkdir(parents=True)
    (root / "val" / "ant" / "x.png").symlink_to(root / "train" / "ant" / "000.png")
    with pytest.raises(DataError, match="are one file"):
        open_folder(root)


def test_a_val_share_is_of_the_training_images_whatever_the_layout(tree: TreeBuilder) -> None:
    for root in (tree.files(one_tree(), "one"), tree.files(tree.images(COUNTS), "two")):
        plain, source = open_folder(root), open_folder(root, val_share=0.3)
        expected = naive_share(plain.train.keys, 0.3)
        assert source.val is not None and source.val.keys == sorted(expected)
        assert source.train.keys == sorted(set(plain.train.keys) - expected)
        assert source.test.keys == plain.test.keys
        assert np.bincount(source.train.labels, minlength=4).min() >= 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.floats(0.001, 0.9))
def test_shares_of_any_counts_leave_some_and_take_some(counts: list[int], share: float) -> None:
    keys = [f"{label}/{i}" for label, n in enumerate(counts) for i in range(n)]
    labels = np.repeat(np.arange(len(counts)), counts)
    aside = set_aside(keys, labels, share)
    assert {key for key, taken in zip(keys, aside, strict=True) if taken} == naive_share(keys, share)
    for label, n in enumerate(counts):
        taken = int(aside[labels == label].sum())
        assert taken < n and (taken >= 1 or n == 1)


def test_a_subset_of_a_split_has_its_keys_labels_and_pictures() -> None:
    pixels = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
    split = Split(["a", "b", "c", "d"], np.array([0, 1, 0, 1]), lambda i: pixels[i])
    part = split.subset(np.array([1, 3]))
    assert part.keys == ["b", "d"] and part.labels.tolist() == [1, 1] and part.files is None
    assert np.array_equal(part.read(1), pixels[3])


@pytest.mark.parametrize("key", ["test_share", "val_share"])
@pytest.mark.parametrize("value", ["0", "0.95", "-1", "nan"])
def test_a_share_out_of_bounds_is_refused_by_its_key(key: str, value: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"data.{key}")):
        load(None, ("data.kind=folder", f"data.{key}={value}"))


def test_pictures_of_the_validation_part_are_opened_and_one_that_is_not_there_is_refused(
    tree: TreeBuilder,
) -> None:
    root = str(tree.files(one_tree()))
    images = LabelledImages("folder", {"root": root, "val_share": 0.3}, "val")
    assert set(images) == naive_share(open_folder(root).train.keys, 0.3)
    with pytest.raises(DataError, match="has no validation set"):
        LabelledImages("folder", {"root": root}, "val")


def test_shares_do_not_change_what_a_recipe_says_of_its_data() -> None:
    recipe = load(None, ("data.kind=folder", "data.root=x", "data.test_share=0.4", "data.val_share=0.1"))
    assert recipe.data.place() == {"root": "x", "test_share": 0.4, "val_share": 0.1}
    assert recipe.data.identity() == {"kind": "folder", "imbalance": None, "seed": 0}
    assert Path(recipe.data.place()["root"]) == Path("x")
