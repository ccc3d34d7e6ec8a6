from __future__ import annotations

import pytest
import torch
from torch import nn

from visionsparse.errors import ConfigError, DataError
from visionsparse.tasks import ImageClassifier, ImageNormalizer


class Fixed(nn.Module):
    """Gives its weight's rows as logits, whatever it is given."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))

    def forward(self, x):
        return self.logits[: len(x)]


@pytest.fixture
def inputs():
    return torch.zeros(2, 3, 4, 4)


def test_smoothing_spreads_its_share_over_all_classes(inputs):
    label = torch.tensor([2, 0])
    logits = Fixed().logits.detach()
    target = 0.7 * torch.eye(3)[label] + 0.3 / 3
    expected = -(target * logits.log_softmax(1)).sum(1).mean()

    loss = ImageClassifier(Fixed(), label_smoothing=0.3)(inputs, label, mode="loss")["loss"]

    torch.testing.assert_close(loss, expected)


def test_predictions_are_probabilities_with_label_and_index(inputs):
    first, second = ImageClassifier(Fixed())(inputs, torch.tensor([2, 1]), torch.tensor([7, 8]), mode="predict")

    torch.testing.assert_close(first["scores"], torch.tensor([1.0, 2.0, 3.0]).softmax(0))
    assert (first["label"], first["index"]) == (2, 7)
    assert (second["label"], second["index"]) == (1, 8)


def test_predictions_need_no_labels(inputs):
    assert ImageClassifier(Fixed())(inputs, mode="predict")[0]["label"] is None


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_without_a_class_is_refused_with_both_numbers(inputs, label):
    with pytest.raises(DataError, match=rf"label {label} is out of range: the model has 3 classes"):
        ImageClassifier(Fixed())(inputs, torch.tensor([0, label]), mode="loss")


def test_a_smoothing_of_one_or_more_is_refused():
    with pytest.raises(ConfigError, match="label_smoothing is 1"):
        ImageClassifier(Fixed(), label_smoothing=1.0)


def test_the_net_can_be_given_as_a_config():
    assert ImageClassifier(dict(type="biformer_nano", num_classes=5)).num_classes == 5


@pytest.mark.parametrize("as_bytes", [True, False])
def test_pixels_are_normalised_by_channel(as_bytes):
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    normalizer = ImageNormalizer(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))

    inputs = normalizer({"inputs": pixels if as_bytes else pixels / 255, "label": torch.tensor([0, 1])})["inputs"]

    torch.testing.assert_close(inputs[:, 1], (pixels[:, 1] / 255 - 0.2) / 0.25)
    assert inputs.dtype == torch.float32


def test_a_checkpoint_holds_nothing_but_the_net():
    assert set(ImageClassifier(Fixed()).state_dict()) == {"backbone.logits"}
