"""List files of the field: parsed, checked, and compared with the published counts of Places-LT."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import noise, png

from dive.data.longtail import shot_groups
from dive.data.sources import lists
from dive.data.sources.lists import open_lists
from dive.data.sources.names import read_class_names
from dive.data.sources.registry import open_source
from dive.errors import DataError

NAMES = {  # label, for each name
    "train/zebra/a.jpg": 0,
    "train/zebra/b.jpg": 0,
    "train/ant/c.jpg": 1,
}
TEST = {"val/ant/x.jpg": 1, "val/zebra/y.jpg": 0}
Writer = Callable[..., tuple[Path, str, str]]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes pictures and lists; gives root and the two lists."""

    def written(train: str | None = None, test: str | None = None) -> tuple[Path, str, str]:
        root = tmp_path / "root"
        for seed, name in enumerate((*NAMES, *TEST)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(png(noise(seed, 6 + seed, 8)))
        texts = {
            "train.txt": train if train is not None else "".join(f"{n} {c}\n" for n, c in NAMES.items()),
            "test.txt": test if test is not None else "".join(f"{n} {c}\n" for n, c in TEST.items()),
        }
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        return root, str(tmp_path / "train.txt"), str(tmp_path / "test.txt")

    return written


def test_a_list_names_pictures_and_labels_in_the_order_of_their_paths(write: Writer) -> None:
    root, train, test = write()
    source = open_lists(root, train, test)
    assert source.classes == ("zebra", "ant")
    assert source.train.keys == ["train/ant/c.jpg", "train/zebra/a.jpg", "train/zebra/b.jpg"]
    assert source.train.labels.tolist() == [1, 0, 0] and source.test.labels.tolist() == [1, 0]
    for position, key in enumerate(source.train.keys):
        seed = list(NAMES).index(key)
        assert np.array_equal(source.train.read(position), noise(seed, 6 + seed, 8))


def test_the_order_of_the_lines_does_not_matter(write: Writer) -> None:
    root, train, test = write()
    first = open_lists(root, train, test).train
    lines = Path(train).read_text().splitlines()
    Path(train).write_text("\n".join(reversed(lines)) + "\n\n")
    again = open_lists(root, train, test).train
    assert again.keys == first.keys and np.array_equal(again.labels, first.labels)


def test_a_json_list_is_the_text_list(write: Writer, tmp_path: Path) -> None:
    root, train, test = write()
    entries = [{"image_id": i, "fpath": n, "category_id": c} for i, (n, c) in enumerate(NAMES.items())]
    (tmp_path / "train.json").write_text(json.dumps({"annotations": entries, "num_classes": 2}))
    found = open_lists(root, str(tmp_path / "train.json"), test)
    expected = open_lists(root, train, test)
    assert (found.classes, found.train.keys) == (expected.classes, expected.train.keys)
    assert np.array_equal(found.train.labels, expected.train.labels)


def test_names_with_spaces_are_read_up_to_the_last_one(write: Writer) -> None:
    root, train, test = write(train="train/zebra/a.jpg 0\ntrain/my ant/c d.jpg 1\n")
    assert open_lists(root, train, test).train.keys == ["train/my ant/c d.jpg", "train/zebra/a.jpg"]


def test_classes_that_share_folders_are_called_by_their_numbers(write: Writer) -> None:
    train = "train/zebra/a.jpg 0\ntrain/zebra/b.jpg 1\n"
    root, train, test = write(train=train)
    assert open_lists(root, train, test).classes == ("0", "1")


def test_a_class_below_others_is_called_by_what_tells_it_apart(write: Writer) -> None:
    train = "train/house/indoor/a.jpg 0\ntrain/house/outdoor/b.jpg 1\ntrain/zebra/a.jpg 2\n"
    root, train, test = write(train=train, test="val/zebra/y.jpg 2\n")
    assert lists._class_names(lists._read(Path(train)), 3) == ("house/indoor", "house/outdoor", "zebra")


def test_a_file_of_class_names_names_the_classes(write: Writer, tmp_path: Path) -> None:
    root, train, test = write()
    (tmp_path / "names.txt").write_text("Grévy's zebra\nbullet ant\n")
    place = {"train_list": train, "test_list": test, "classes": str(tmp_path / "names.txt")}
    assert open_source("list", root=root, **place).classes == ("Grévy's zebra", "bullet ant")
    (tmp_path / "names.txt").write_text("one\n")
    with pytest.raises(DataError, match="names 1 classes, .* has labels up to 1"):
        open_lists(root, train, test, str(tmp_path / "names.txt"))


@pytest.mark.parametrize(
    ("train", "complaint"),
    [
        ("train/zebra/a.jpg zero\n", "line 1: the label must be a whole number from 0, not 'zero'"),
        ("train/zebra/a.jpg 0\ntrain/ant/c.jpg -1\n", "line 2: the label must be .* not '-1'"),
        ("train/zebra/a.jpg\n", "line 1: give `relative/path label`"),
        ("/train/zebra/a.jpg 0\n", "line 1: '/train/zebra/a.jpg' must be a relative path without"),
        ("../a.jpg 0\n", "must be a relative path without"),
        ("train/zebra/a\0.jpg 0\n", "line 1: 'train/zebra/a.x00.jpg' is not a file name in UTF-8"),
        ("train/zebra/a.jpg 0\ntrain/zebra/a.jpg 0\n", "names train/zebra/a.jpg twice"),
        ("train/zebra/a.jpg 0\ntrain/ant/c.jpg 2\n", "labels up to 2 but no image of class 1"),
        ("train/zebra/a.jpg 0\nval/zebra/y.jpg 0\ntrain/ant/c.jpg 1\n", "val/zebra/y.jpg is in .* and in "),
        (
            "train/zebra/a.jpg 0\n",
            "has val/ant/x.jpg of class 1, .* classes up to 0; are they lists of the same",
        ),
        ("", "names no image"),
        ("train/zebra/a.jpg 99999999999\n", "the label must be a whole number"),
    ],
)
def test_a_malformed_list_is_refused_naming_the_line(write: Writer, train: str, complaint: str) -> None:
    root, train, test = write(train=train)
    with pytest.raises(DataError, match=complaint):
        open_lists(root, train, test)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"annotations": [{"fpath": "a"}]}', '{"annotations": 3}', "nonsense"]
)
def test_another_json_document_is_refused(write: Writer, tmp_path: Path, content: str) -> None:
    root, _, test = write()
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(DataError, match="is not in the format of BagofTricks-LT"):
        open_lists(root, str(tmp_path / "train.json"), test)


def test_a_list_that_is_not_there_or_no_text_is_refused(write: Writer, tmp_path: Path) -> None:
    root, train, test = write()
    with pytest.raises(DataError, match="cannot read the list none.txt: No such file"):
        open_lists(root, "none.txt", test)
    Path(train).write_bytes(b"\xff\xfe a 0")
    with pytest.raises(DataError, match="is not a text file in UTF-8"):
        open_lists(root, train, test)


def test_a_root_one_folder_too_deep_or_too_high_is_told(write: Writer) -> None:
    root, train, test = write()
    with pytest.raises(DataError, match=f"but {root} does: give --data {root}$"):
        open_lists(root / "train", train, test)
    with pytest.raises(DataError, match=f"but {root} does: give --data {root}$"):
        open_lists(root.parent, train, test)
    with pytest.raises(DataError, match="there is no folder elsewhere"):
        open_lists("elsewhere", train, test)
    (root.parent / "other" / "place").mkdir(parents=True)
    with pytest.raises(DataError, match="must be the folder that the list's paths are relative to"):
        open_lists(root.parent / "other" / "place", train, test)


def test_a_picture_that_is_missing_is_named_when_it_is_read(write: Writer) -> None:
    root, train, test = write()
    (root / "train/zebra/b.jpg").unlink()
    source = open_lists(root, train, test)
    with pytest.raises(DataError, match="train/zebra/b.jpg cannot be read: No such file"):
        source.train.read(2)


def test_places_lt_has_its_published_classes_and_counts(
    monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    folder = repository.parent / "shared" / "data" / "lists"
    if not folder.is_dir():
        pytest.skip(f"the list files are not at {folder}")
    monkeypatch.setattr(lists, "_check_root", lambda *_: None)  # the pictures are not here
    source = open_lists("places", *(str(folder / f"Places_LT_{part}.txt") for part in ("train", "test")))
    counts = np.bincount(source.train.labels)
    assert (len(source.train.keys), len(source.test.keys), len(source.classes)) == (62_500, 36_500, 365)
    assert (counts.max(), counts.min()) == (4980, 5)
    assert {shot: len(members) for shot, members in shot_groups(counts).items()} == {
        "many": 131,
        "medium": 163,
        "few": 71,
    }


def test_a_list_for_validation_is_a_part_of_its_own(write: Writer, tmp_path: Path) -> None:
    root, train, test = write()
    plain = open_lists(root, train, test)
    (root / "more.png").write_bytes(png(noise(40)))
    (tmp_path / "val.txt").write_text("more.png 1\n")
    source = open_lists(root, train, test, val_list=str(tmp_path / "val.txt"))
    assert plain.val is None and source.val is not None
    assert source.val.keys == ["more.png"] and source.val.labels.tolist() == [1]
    assert np.array_equal(source.val.read(0), noise(40))
    assert (source.train.keys, source.test.keys) == (plain.train.keys, plain.test.keys)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("train/ant/c.jpg 1", "a validation image would be trained on"),
        ("val/ant/x.jpg 1", "a test image would be used for validation"),
        ("more.png 9", "are they lists of the same data set"),
    ],
)
def test_a_list_for_validation_that_is_not_apart_is_refused(
    write: Writer, tmp_path: Path, line: str, fault: str
) -> None:
    root, train, test = write()
    (tmp_path / "val.txt").write_text(line)
    with pytest.raises(DataError, match=fault):
        open_lists(root, train, test, val_list=str(tmp_path / "val.txt"))


@pytest.mark.parametrize("spelling", ["./val/zebra/y.jpg", "val//zebra/y.jpg", "val/./zebra//y.jpg"])
def test_a_picture_under_another_spelling_is_the_same_picture(write: Writer, spelling: str) -> None:
    root, train, test = write(train=f"{spelling} 0\ntrain/ant/c.jpg 1\n")
    with pytest.raises(
        DataError, match=r"val/zebra/y\.jpg is in .* and in .*: a test image would be trained on"
    ):
        open_lists(root, train, test)
    Path(train).write_text(f"{spelling} 0\nval/zebra/y.jpg 0\n")
    with pytest.raises(DataError, match=r"names val/zebra/y\.jpg twice"):
        open_lists(root, train, test)
    Path(train).write_text("".join(f"./{name} {label}\n" for name, label in NAMES.items()))
    assert open_lists(root, train, test).train.keys == [f"./{name}" for name in sorted(NAMES)]


@pytest.mark.parametrize("label", [1.0, None, True, [1], {}, -1, 10**30, "1.0", "", "9" * 5000, "²"])
def test_a_json_label_that_is_no_whole_number_is_refused_in_one_line(
    write: Writer, tmp_path: Path, label: object
) -> None:
    root, _, test = write()
    entries = [{"fpath": name, "category_id": number} for name, number in NAMES.items()]
    entries[1]["category_id"] = label
    (tmp_path / "train.json").write_text(json.dumps({"annotations": entries}))
    with pytest.raises(DataError, match="annotation 2: the label must be a whole number from 0") as caught:
        open_lists(root, str(tmp_path / "train.json"), test)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train/\ud800.jpg", "train/a\0.jpg"])
def test_a_json_name_that_no_file_has_is_refused_in_one_line(
    write: Writer, tmp_path: Path, name: str
) -> None:
    root, _, test = write()
    entries = [{"fpath": name, "category_id": 0}]
    (tmp_path / "train.json").write_text(json.dumps({"annotations": entries}))
    with pytest.raises(DataError, match="annotation 1: .* is not a file name in UTF-8") as caught:
        open_lists(root, str(tmp_path / "train.json"), test)
    assert str(caught.value).isprintable()


def test_a_json_label_may_be_a_text_of_digits(write: Writer, tmp_path: Path) -> None:
    root, train, test = write()
    entries = [{"fpath": name, "category_id": str(label)} for name, label in NAMES.items()]
    (tmp_path / "train.json").write_text(json.dumps({"annotations": entries}))
    found = open_lists(root, str(tmp_path / "train.json"), test).train.labels
    assert np.array_equal(found, open_lists(root, train, test).train.labels)


def test_a_file_that_names_two_classes_alike_is_refused(write: Writer, tmp_path: Path) -> None:
    root, train, test = write()
    (tmp_path / "names.txt").write_text("crane\n\n crane\n")
    with pytest.raises(DataError, match=r"the class names .*names\.txt have 'crane' twice; rename one"):
        open_lists(root, train, test, str(tmp_path / "names.txt"))
    with pytest.raises(DataError, match="'crane' twice"):
        read_class_names(tmp_path / "names.txt")


def test_a_byte_order_mark_is_no_part_of_a_name(write: Writer, tmp_path: Path) -> None:
    root, train, test = write()
    plain = open_lists(root, train, test)
    for path in (train, test):
        Path(path).write_bytes(b"\xef\xbb\xbf" + Path(path).read_bytes())
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfzebra\r\nant\r\n")
    marked = open_lists(root, train, test, str(tmp_path / "names.txt"))
    assert (marked.classes, marked.train.keys, marked.test.keys) == (
        ("zebra", "ant"),
        plain.train.keys,
        plain.test.keys,
    )
    entries = [{"fpath": name, "category_id": label} for name, label in NAMES.items()]
    (tmp_path / "train.json").write_text(json.dumps({"annotations": entries}), encoding="utf-8-sig")
    assert open_lists(root, str(tmp_path / "train.json"), test).train.keys == plain.train.keys


@pytest.mark.parametrize("key", ["train_list", "test_list", "val_list", "classes"])
def test_a_list_in_the_home_folder_of_nobody_names_its_own_key(write: Writer, key: str) -> None:
    root, train, test = write()
    places = {"train_list": train, "test_list": test, key: "~nobody-at-all/list.txt"}
    with pytest.raises(DataError, match=rf"~nobody-at-all/list.txt: .* give another --set data\.{key}"):
        open_lists(root, **places)
