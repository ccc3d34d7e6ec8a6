from __future__ import annotations

import numpy as np
import pytest
import timm.data
import torch
import torch.nn.functional as F
from torch import Tensor

from visionsparse.engine.seeding import seed_everything
from visionsparse.errors import ConfigError
from visionsparse.tasks import ImageClassifier, Mixup, RandomErasing


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    """Images of noise and one class each."""
    images = torch.randn(size, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    return images, torch.eye(size)


def test_mixup_blends_each_image_and_target_with_the_batch_reversed() -> None:
    images, targets = batch()
    np.random.seed(0)

    mixed, mixed_targets = Mixup(mixup_alpha=0.8, cutmix_alpha=0)(images.clone(), targets)

    share = mixed_targets[0, 0].item()
    assert 0 < share < 1
    torch.testing.assert_close(mixed_targets, share * targets + (1 - share) * targets.flip(0))
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0))


def test_cutmix_pastes_one_box_and_weighs_the_targets_by_its_area() -> None:
    images, targets = batch()
    np.random.seed(0)

    mixed, mixed_targets = Mixup(mixup_alpha=0, cutmix_alpha=1.0)(images.clone(), targets)

    is_pasted = (mixed != images).all(dim=1)
    rows, columns = is_pasted[0].any(dim=1), is_pasted[0].any(dim=0)
    assert torch.equal(is_pasted[0], rows[:, None] & columns[None, :])
    assert torch.equal(mixed, torch.where(is_pasted[:, None], images.flip(0), images))
    share = 1 - is_pasted[0].double().mean().item()
    assert 0 < share < 1
    torch.testing.assert_close(mixed_targets, share * targets + (1 - share) * targets.flip(0))


def test_images_and_smoothed_targets_are_timms_draw_by_draw() -> None:
    """timm.data.Mixup with the published arguments: mixup 0.8, cutmix 1.0, switch 0.5, prob 1, smoothing 0.1."""
    images, _ = batch()
    label = torch.tensor([2, 0, 1, 1, 0, 2])
    theirs = timm.data.Mixup(
        mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, prob=1.0, mode="batch", label_smoothing=0.1, num_classes=3
    )
    ours = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, prob=1.0)
    smoothed = F.one_hot(label, 3) * 0.9 + 0.1 / 3

    for seed in range(50):
        np.random.seed(seed)
        expected = theirs(images.clone(), label)
        np.random.seed(seed)
        torch.testing.assert_close(ours(images.clone(), smoothed), expected)


def test_of_an_odd_batch_the_middle_image_stays_itself() -> None:
    images, targets = batch(5)

    for seed in range(4):
        np.random.seed(seed)
        mixed, mixed_targets = Mixup()(images.clone(), targets)
        torch.testing.assert_close(mixed[2], images[2])
        torch.testing.assert_close(mixed_targets[2], targets[2])


def test_batches_are_mixed_with_the_given_probability() -> None:
    images, targets = batch()
    np.random.seed(0)
    mixup = Mixup(prob=0.3)

    mixed = sum(mixup(images.clone(), targets)[1] is not targets for _ in range(1000))

    assert mixed == pytest.approx(300, abs=5 * (1000 * 0.3 * 0.7) ** 0.5)


def test_erasing_fills_one_rectangle_of_the_published_size_with_normal_noise() -> None:
    images = torch.full((200, 3, 64, 64), 100.0)
    seed_everything(0)

    erased, _ = RandomErasing(probability=1.0, mode="pixel", max_count=1)(images, torch.zeros(200, 2))

    is_erased = (erased != 100).all(dim=1)
    rows, columns = is_erased.any(dim=2), is_erased.any(dim=1)
    assert torch.equal(is_erased, rows[:, :, None] & columns[:, None, :])
    areas = is_erased.double().mean(dim=(1, 2))
    assert areas.min() > 0.015 and areas.max() < 0.35  # 2 % to a third, rounded to pixels
    noise = erased[(erased != 100)]
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)


def test_a_quarter_of_the_images_is_erased() -> None:
    images = torch.zeros(1000, 1, 16, 16)
    seed_everything(0)

    erased, _ = RandomErasing()(images, torch.zeros(1000, 2))

    count = (erased != 0).flatten(1).any(dim=1).sum().item()
    assert count == pytest.approx(250, abs=5 * (1000 * 0.25 * 0.75) ** 0.5)


@pytest.mark.parametrize("augment", [RandomErasing(), Mixup()], ids=lambda augment: type(augment).__name__)
def test_the_number_of_the_iteration_decides_the_draws(augment) -> None:
    def at_iteration(number: int) -> Tensor:
        seed_everything(0, 0, "iteration", number)
        images, targets = batch(64)
        return augment(images, targets)[0]

    assert torch.equal(at_iteration(5), at_iteration(5))
    assert not torch.equal(at_iteration(5), at_iteration(6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixup(mixup_alpha=0, cutmix_alpha=0), "expected one above 0"),
        (lambda: Mixup(mixup_alpha=-1), "expected one above 0, none below"),
        (lambda: Mixup(prob=2), "prob is 2, expected a probability"),
        (lambda: Mixup(switch_prob=-0.5), "switch_prob is -0.5, expected a probability"),
        (lambda: RandomErasing(probability=25), "probability is 25, expected a probability"),
        (lambda: RandomErasing(mode="pixels"), "mode is 'pixels', expected 'pixel', 'rand' or 'const'"),
        (lambda: RandomErasing(max_count=0), "max_count is 0, expected 1 or more"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


class Linear(torch.nn.Module):
    """One logit a colour, and what it was given."""

    num_classes = 3

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x.mean(dim=(2, 3))


def test_the_loss_is_the_cross_entropy_of_augmented_images_and_targets() -> None:
    images, _ = batch()
    label = torch.tensor([2, 0, 1, 1, 0, 2])
    before = images.clone()
    model = ImageClassifier(Linear(), label_smoothing=0.1, batch_augments=[dict(type="Mixup", cutmix_alpha=0)])
    np.random.seed(0)

    loss = model(images, label, mode="loss")["loss"]

    np.random.seed(0)
    mixed, targets = Mixup(cutmix_alpha=0)(images.clone(), F.one_hot(label, 3) * 0.9 + 0.1 / 3)
    expected = -(targets * mixed.mean(dim=(2, 3)).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    assert torch.equal(images, before)


@pytest.mark.parametrize("mode", ["loss", "predict", "tensor"])
def test_nothing_is_augmented_outside_of_training(mode: str) -> None:
    images, _ = batch()
    model = ImageClassifier(Linear(), batch_augments=[Mixup(), RandomErasing()]).eval()

    model(images, torch.zeros(6, dtype=torch.int64), mode=mode)

    assert torch.equal(model.backbone.seen, images)
