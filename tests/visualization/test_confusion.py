"""The confusion matrix picture."""

import numpy as np
import pytest
from PIL import Image

from visionsparse.errors import InputError
from visionsparse.visualization import draw_confusion_matrix


@pytest.mark.parametrize("num_classes", [2, 10, 41, 1000])
def test_a_picture_is_drawn_for_few_and_for_many_classes(tmp_path, num_classes):
    matrix = np.diag(np.full(num_classes, 9)) + np.eye(num_classes, k=1, dtype=int)

    path = draw_confusion_matrix(matrix, [f"class {label}" for label in range(num_classes)], tmp_path / "a" / "c.png")

    assert min(Image.open(path).size) >= 500


def test_a_class_without_images_is_no_error(tmp_path):
    draw_confusion_matrix(np.zeros((3, 3), dtype=int), ["a", "b", "c"], tmp_path / "c.png")


def test_a_lone_confusion_of_a_thousand_classes_is_still_seen(tmp_path):
    matrix = np.diag(np.full(1000, 9))
    without = draw_confusion_matrix(matrix, ["x"] * 1000, tmp_path / "without.png")
    matrix[100, 901] = 9
    with_one = draw_confusion_matrix(matrix, ["x"] * 1000, tmp_path / "with.png")

    def upper_right(path):  # of the matrix, which is the left half of the picture
        return np.asarray(Image.open(path).convert("L"), dtype=int)[70:400, 500:800]

    assert np.abs(upper_right(with_one) - upper_right(without)).max() > 50


def test_class_names_that_do_not_fit_the_matrix_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"matrix has shape \(3, 3\) but there are 2 class names: give one per class"):
        draw_confusion_matrix(np.eye(3), ["a", "b"], tmp_path / "c.png")
