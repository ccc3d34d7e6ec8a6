from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from visionsparse.errors import ConfigError, DataError
from visionsparse.evaluation import ClassificationMetric


def samples(scores, labels):
    return [{"scores": row, "label": int(label), "index": None} for row, label in zip(scores, labels, strict=True)]


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 8, (500,), generator=generator)
    logits = 3 * torch.randn(500, 8, generator=generator)
    logits[torch.arange(500), labels] += 2
    return logits.softmax(1), labels


def evaluate(scores, labels, order=slice(None), batch=64, **kwargs):
    metric = ClassificationMetric(**kwargs)
    scores, labels = scores[order], labels[order]
    for start in range(0, len(labels), batch):
        metric.process(None, samples(scores[start : start + batch], labels[start : start + batch]))
    return metric.evaluate(len(labels)), metric


def ece_by_definition(scores, labels, bins=15):
    confidence, predicted = scores.double().max(1)
    right = predicted == labels
    error = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            gap = right[inside].double().mean() - confidence[inside].mean()
            error += float(inside.double().mean() * gap.abs())
    return error


def test_the_numbers_are_those_of_scikit_learn_and_of_the_definition(predictions):
    scores, labels = predictions
    result, metric = evaluate(scores, labels)

    for k in (1, 5):
        expected = 100 * top_k_accuracy_score(labels.numpy(), scores.numpy(), k=k, labels=range(8))
        assert result[f"top{k}"] == pytest.approx(expected)
    assert result["ece"] == pytest.approx(ece_by_definition(scores, labels), abs=1e-7)
    assert result["num_images"] == 500
    np.testing.assert_array_equal(
        metric.details()["confusion_matrix"], confusion_matrix(labels.numpy(), scores.argmax(1).numpy())
    )


def test_skipped_images_are_left_out_and_counted(predictions):
    scores, labels = predictions
    expected, _ = evaluate(scores[::2], labels[::2])
    metric = ClassificationMetric()
    for start in range(0, 500, 50):
        batch = samples(scores[start : start + 50], labels[start : start + 50])
        metric.process(None, [{**sample, "skipped": place % 2 == 1} for place, sample in enumerate(batch)])

    assert metric.evaluate(500) == {**expected, "num_images": 250, "num_skipped": 250}


def test_a_data_set_of_skipped_images_alone_has_no_result(predictions):
    metric = ClassificationMetric()
    metric.process(None, [{**sample, "skipped": True} for sample in samples(*predictions)])
    with pytest.raises(DataError, match="all 500 images of the data set were skipped"):
        metric.evaluate(500)


def test_the_result_depends_on_neither_order_nor_batches(predictions):
    once, _ = evaluate(*predictions)
    shuffled, _ = evaluate(*predictions, order=torch.randperm(500), batch=17)

    assert once == shuffled  # to the last bit


def test_accuracy_per_class_is_over_the_images_of_the_class():
    scores = torch.eye(3)[[0, 1, 1, 1]]
    metric = ClassificationMetric()
    metric.dataset_meta = {"classes": ["n1", "n2", "n3"], "class_names": ["ant", "bee", "cat"]}
    metric.process(None, samples(scores, [0, 0, 1, 1]))
    metric.evaluate(4)

    assert metric.details()["per_class"] == [
        {"class": "n1", "class_name": "ant", "num_images": 2, "top1": 50.0},
        {"class": "n2", "class_name": "bee", "num_images": 2, "top1": 100.0},
        {"class": "n3", "class_name": "cat", "num_images": 0, "top1": None},
    ]


def test_a_constant_net_is_not_right_by_ties():
    scores = torch.full((4, 4), 0.25)

    assert evaluate(scores, torch.arange(4))[0]["top1"] == 25.0


def test_top5_of_fewer_classes_means_all_of_them():
    assert evaluate(torch.eye(3), torch.tensor([1, 2, 0]))[0]["top5"] == 100.0


def test_a_topk_of_more_classes_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"top-5, but there are 3 classes"):
        evaluate(torch.eye(3), torch.arange(3), topk=(1, 5))


@pytest.mark.parametrize("topk", [(), (0,), (1, -1)])
def test_a_topk_that_is_none_is_refused(topk):
    with pytest.raises(ConfigError, match="topk is"):
        ClassificationMetric(topk=topk)


def test_a_label_out_of_range_is_refused_with_both_numbers():
    with pytest.raises(DataError, match="label 3 is out of range: the model has 3 classes"):
        evaluate(torch.eye(3), torch.tensor([0, 1, 3]))


def test_an_image_that_was_counted_twice_is_noticed():
    metric = ClassificationMetric()
    metric.process(None, samples(torch.eye(3), [0, 1, 2]))

    with pytest.raises(DataError, match="counted 3 images of a data set of 2"):
        metric.evaluate(2)


def test_each_evaluation_starts_afresh():
    metric = ClassificationMetric()
    for label in (0, 1):
        metric.process(None, samples(torch.eye(3)[:1], [label]))
        assert metric.evaluate(1)["top1"] == (100.0 if label == 0 else 0.0)
