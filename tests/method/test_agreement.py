"""Whether predictions tell anything of labels, by hand."""

import numpy as np
import pytest

from dive.method.agreement import Agreement


def agreement(confusion: list[list[int]]) -> Agreement:
    """Of a table of images by label (rows) and prediction (columns)."""
    table = np.array(confusion)
    return Agreement.of(table.sum(axis=0), table.sum(axis=1), int(np.trace(table)), int(table.sum()))


def test_a_balanced_teacher_of_a_large_class_is_above_chance_though_naming_that_class_is_right_more_often():
    found = agreement([[380, 70], [5, 45]])  # 450 and 50 images
    assert found.accuracy == 0.85 < 450 / 500
    assert found.chance == pytest.approx(0.77 * 0.9 + 0.23 * 0.1)  # 385 and 115 are predicted
    assert not found.tells_nothing


@pytest.mark.parametrize(("images", "right"), [(100, 65), (400, 230), (2500, 1325)])
def test_of_a_chance_of_one_half_three_standard_errors_more_tell_nothing_yet(images, right):
    """1/2 + 3·√(1/4 / images) is the bound, here `right` of the images."""
    counts = np.array([images // 2, images // 2])
    found = [Agreement.of(counts, counts, count, images) for count in (right - 1, right + 1)]
    assert [one.chance for one in found] == [0.5, 0.5]
    assert [one.tells_nothing for one in found] == [True, False]


def test_classes_changed_over_and_one_class_named_always_tell_nothing():
    assert agreement([[70, 380], [45, 5]]).tells_nothing
    assert agreement([[450, 0], [50, 0]]).tells_nothing
