"""The first batch as the model gets it: the one that training really starts with, and the same for the same seed."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.tiny import TinyNet, tiny_config, write_config, write_images
from visionsparse.engine.runner import train
from visionsparse.errors import ConfigError, InputError
from visionsparse.first_batch import first_batch
from visionsparse.registry import MODELS
from visionsparse.tasks.classification import IMAGENET_MEAN, IMAGENET_STD, ImageClassifier

SEEN = []


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def config(images):
    return write_config(images / "tiny.py", tiny_config(images))


@MODELS.register_module()
class WatchedNet(TinyNet):
    """Remembers what it was trained on."""

    def forward(self, x):
        if self.training:
            SEEN.append(x.detach().clone())
        return super().forward(x)


@MODELS.register_module()
class HalvingClassifier(ImageClassifier):
    """Mixes each image half and half with its neighbour in the batch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.batch_augments = ["halves"]

    def augment(self, inputs, label):
        shares = torch.nn.functional.one_hot(label, self.num_classes).float()
        return (inputs + inputs.roll(1, 0)) / 2, (shares + shares.roll(1, 0)) / 2


def pixels(inputs):
    """(B, 3, height, width) normalised as (B, height, width, 3) in 0 to 255."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return 255 * (inputs * std + mean).permute(0, 2, 3, 1).numpy()


def test_it_is_the_batch_that_training_starts_with(images, tmp_path):
    SEEN.clear()
    config = write_config(tmp_path / "c.py", tiny_config(images) | {"train_cfg": dict(max_epochs=1)})
    options = {"model.backbone.type": "WatchedNet"}

    batch = first_batch(config, num=6, options=options)
    assert not SEEN
    train(config, work_dir=tmp_path / "run", options=options)

    assert np.abs(pixels(SEEN[0]) - batch.images[0]).max() <= 0.51  # rounding
    assert not np.array_equal(batch.images[0], batch.images[1])  # another epoch flips others


def test_the_originals_are_the_files_of_those_samples(images, config):
    batch = first_batch(config, num=4)

    files = {path: np.asarray(Image.open(path)) for path in (images / "train").rglob("*.png")}
    for original, label in zip(batch.originals, batch.labels, strict=True):
        (path,) = [path for path, content in files.items() if np.array_equal(content, original)]
        assert path.parent.name == batch.class_names[label] == f"class{label}"
    for original, image in zip(batch.originals, batch.images[0], strict=True):
        assert np.array_equal(original, image) or np.array_equal(original[:, ::-1], image)


def test_one_seed_gives_one_batch_and_another_seed_another(config):
    one, again, other = (first_batch(config, options={"randomness.seed": seed}) for seed in (3, 3, 4))

    assert all(np.array_equal(a, b) for a, b in zip(one.images, again.images, strict=True))
    assert not np.array_equal(one.images[0], other.images[0])


def test_batch_augmentation_is_that_of_the_whole_batch_with_its_soft_targets(images, tmp_path):
    config = write_config(tmp_path / "c.py", tiny_config(images))

    plain = first_batch(config, num=6)
    mixed = first_batch(config, num=2, options={"model.type": "HalvingClassifier"})

    last, first = (plain.images[0][index].astype(float) for index in (5, 0))
    assert np.abs(mixed.images[0][0] - (last + first) / 2).max() <= 0.51
    expected = torch.zeros(3)
    expected[plain.labels[0]] += 0.5
    expected[plain.labels[5]] += 0.5
    assert torch.equal(mixed.targets[0][0], expected)


def test_a_recipes_mixup_and_erasing_are_those_of_training(images, tmp_path):
    SEEN.clear()
    augments = [dict(type="RandomErasing", probability=1.0), dict(type="Mixup", mixup_alpha=0.8, cutmix_alpha=1.0)]
    model = dict(type="ImageClassifier", backbone=dict(type="WatchedNet"), batch_augments=augments)
    config = write_config(tmp_path / "c.py", tiny_config(images) | {"train_cfg": dict(max_epochs=1), "model": model})

    batch = first_batch(config, num=6)
    train(config, work_dir=tmp_path / "run")

    assert np.abs(pixels(SEEN[0]).clip(0, 255) - batch.images[0]).max() <= 0.51
    assert batch.targets[0].shape == (6, 3)
    assert batch.targets[0].sum(dim=1).tolist() == pytest.approx([1.0] * 6, abs=1e-5)


def test_validation_is_in_order_and_not_mixed(images, config):
    batch = first_batch(config, split="val", versions=1, num=3, options={"model.type": "HalvingClassifier"})

    assert batch.labels == batch.targets[0].tolist() == [0, 0, 0]
    assert all(
        np.array_equal(image, original) for image, original in zip(batch.images[0], batch.originals, strict=True)
    )


@pytest.mark.parametrize("num", [0, 7])
def test_more_samples_than_the_batch_has_are_refused(config, num):
    with pytest.raises(InputError, match=rf"num={num}: a batch of train has 6 samples: choose 1 to 6 of them"):
        first_batch(config, num=num)


def test_a_config_without_training_data_is_refused():
    with pytest.raises(ConfigError, match=r"needs `model` and `train_dataloader` to show a batch of train"):
        first_batch("biformer/biformer_nano_digits", options={"train_dataloader": None})


def test_a_typo_in_the_pipeline_is_named(images, tmp_path):
    options = {"train_dataloader.dataset.pipeline": [dict(type="RandomHorizontalFlop")]}
    config = write_config(tmp_path / "c.py", tiny_config(write_images(tmp_path / "images")))

    with pytest.raises(ConfigError, match=r"'RandomHorizontalFlop' is not known. Did you mean 'RandomHorizontalFlip'"):
        first_batch(config, options=options)
