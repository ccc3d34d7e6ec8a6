from __future__ import annotations

import json
import logging
import multiprocessing
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper

from tests.engine.tiny import tiny_config, write_config, write_images
from visionsparse.checkpoint import read_checkpoint
from visionsparse.datasets import EpochSampler, ImageNet
from visionsparse.engine.base_runner import Runner
from visionsparse.engine.device import choose_device
from visionsparse.engine.runner import test as evaluate
from visionsparse.engine.runner import train
from visionsparse.engine.seeding import seed_everything
from visionsparse.errors import CheckpointError, ConfigError, DataError, UserError

pytestmark = pytest.mark.newest_torch

ONE_EPOCH = {"train_cfg.max_epochs": 1}


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(config, work_dir=folder)
    return folder / "epoch_3.pth"


def test_training_leaves_checkpoints_the_config_and_the_numbers_of_the_curves(checkpoint):
    folder = checkpoint.parent
    assert (folder / "tiny.py").is_file()
    (scalars,) = folder.glob("**/scalars.json")
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert any("loss" in record for record in records)
    assert sum("top1" in record for record in records) == 3


def test_the_config_that_training_leaves_can_be_trained_again(checkpoint, tmp_path):
    train(checkpoint.parent / "tiny.py", work_dir=tmp_path, options=ONE_EPOCH)

    assert (tmp_path / "epoch_1.pth").is_file()


def test_two_runs_with_one_seed_are_equal_and_with_another_differ(config, tmp_path):
    def final(name, seed):
        train(config, work_dir=tmp_path / name, seed=seed, options=ONE_EPOCH)
        return read_checkpoint(tmp_path / name / "epoch_1.pth")["ema_state_dict"]["module.backbone.stem.weight"]

    one, again, other = final("one", 7), final("again", 7), final("other", 8)

    torch.testing.assert_close(one, again, rtol=0, atol=0)
    assert not torch.equal(one, other)


def test_test_gives_the_metrics_first_and_then_the_details(config, checkpoint, tmp_path):
    result = evaluate(config, checkpoint, out=tmp_path / "results.json")

    written = json.loads((tmp_path / "results.json").read_text())
    assert written == result
    assert list(written)[:5] == ["top1", "top5", "ece", "num_images", "num_skipped"]
    assert written["num_images"] == 18
    assert written["top5"] == 100.0  # three classes
    assert [entry["class"] for entry in written["per_class"]] == ["class0", "class1", "class2"]
    assert sum(map(sum, written["confusion_matrix"])) == 18
    assert written["model"] == "TinyNet"
    assert written["checkpoint"] == str(checkpoint)


def test_test_takes_the_averaged_weights_and_agrees_with_validation(config, checkpoint):
    (scalars,) = checkpoint.parent.glob("**/scalars.json")
    validated = [json.loads(line) for line in scalars.read_text().splitlines() if "top1" in line][-1]

    result = evaluate(config, checkpoint)

    assert result["top1"] == pytest.approx(validated["top1"])
    assert result["ece"] == pytest.approx(validated["ece"])


def test_another_models_checkpoint_is_refused(config, checkpoint):
    with pytest.raises(CheckpointError, match=r"epoch_3\.pth"):
        evaluate(
            config, checkpoint, options={"model.backbone": dict(_delete_=True, type="biformer_nano", num_classes=3)}
        )


def test_fine_tuning_leaves_the_head_out_where_the_classes_differ(checkpoint, tmp_path, capsys):
    config = write_config(tmp_path / "four.py", tiny_config(write_images(tmp_path / "images", num_classes=4)))
    options = {**ONE_EPOCH, "model.backbone.num_classes": 4, "optim_wrapper.optimizer.lr": 0.0}

    model = train(config, work_dir=tmp_path / "work", load_from=checkpoint, options=options)

    source = read_checkpoint(checkpoint)["state_dict"]
    torch.testing.assert_close(model.backbone.stem.weight.detach(), source["backbone.stem.weight"])
    assert model.backbone.head.weight.shape == (4, 8)
    assert "backbone.head.weight" in capsys.readouterr().out
    averaged = read_checkpoint(tmp_path / "work/epoch_1.pth")["state_dict"]
    torch.testing.assert_close(averaged["backbone.stem.weight"], source["backbone.stem.weight"])


def test_other_classes_in_data_than_in_the_model_are_refused_before_training(config, tmp_path):
    with pytest.raises(ConfigError, match=r"the data has 3 classes, but the model 7"):
        train(config, work_dir=tmp_path, options={"model.backbone.num_classes": 7})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.backbone.type": "TinyNett"}, "Did you mean 'TinyNet'"),
        ({"train_cfg.max_epoch": 3}, "Did you mean 'max_epochs'"),
        ({"optim_wrapper.accumulative_count": 3}, "Did you mean 'accumulative_counts'"),
        ({"optim_wrapper.optimizer.type": "AdamV"}, "Did you mean"),
        ({"default_hooks.logger": dict(type="LogerHook")}, "Did you mean 'LoggerHook'"),
        ({"val_evaluator.top_k": 3}, "Did you mean 'topk'"),
    ],
)
def test_a_wrong_key_or_name_in_the_config_is_refused_with_the_near_miss(config, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train(config, work_dir=tmp_path, options=options)


def test_a_config_without_a_recipe_can_not_be_trained(images, tmp_path):
    config = {key: value for key, value in tiny_config(images).items() if key != "optim_wrapper"}

    with pytest.raises(ConfigError, match=r"no optim_wrapper\. It has no training recipe"):
        train(write_config(tmp_path / "c.py", config), work_dir=tmp_path)


def test_a_loss_that_is_not_finite_stops_training_and_names_iteration_term_and_files(config, images, tmp_path):
    message = rf"iteration 2 \(epoch 1\): loss is nan, .* on {images}/train/class\d/\d+\.png, .* and 4 more \(all in "
    options = {"optim_wrapper.optimizer.lr": float("inf"), "optim_wrapper.accumulative_counts": 1, **ONE_EPOCH}
    with pytest.raises(UserError, match=message):
        train(config, work_dir=tmp_path, options=options)
    assert not list(tmp_path.glob("*.pth"))
    order = EpochSampler(range(48), seed=3)
    expected = [key.index for key in order][6:12]
    dataset = ImageNet(str(images))
    named = (tmp_path / "not_finite_iter_2.txt").read_text().splitlines()
    assert named == [dataset.files.path(index) for index in expected]


def test_an_error_in_a_data_worker_is_one_line(tmp_path):
    images = write_images(tmp_path / "images")
    (images / "train/class0/000.png").write_bytes(b"no picture")
    config = write_config(tmp_path / "c.py", tiny_config(images))

    with pytest.raises(DataError, match=r"000\.png") as caught:
        train(config, work_dir=tmp_path / "work", options={"train_dataloader.num_workers": 1})
    assert "\n" not in str(caught.value)


def test_mixed_precision_trains_on_a_cpu(config, tmp_path):
    train(config, work_dir=tmp_path, amp="bf16", options=ONE_EPOCH)

    assert read_checkpoint(tmp_path / "epoch_1.pth")["state_dict"]["backbone.stem.weight"].dtype == torch.float32


def test_fp16_on_a_cpu_is_refused_before_training(config, tmp_path):
    with pytest.raises(ConfigError, match=r"--amp fp16: .* Use --amp bf16"):
        train(config, work_dir=tmp_path, amp="fp16", device="cpu")


def test_the_learning_rate_grows_with_batch_accumulation_and_processes():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=5e-4)
    wrapper = OptimWrapper(optimizer, accumulative_counts=4)
    of_two_processes = SimpleNamespace(
        train_dataloader=SimpleNamespace(batch_size=128), world_size=2, logger=logging.getLogger(__name__)
    )

    Runner.scale_lr(of_two_processes, wrapper, dict(enable=True, base_batch_size=512))

    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("base", [None, 0, "512"])
def test_scaling_without_the_batch_that_the_rate_is_for_is_refused(config, tmp_path, base):
    options = {**ONE_EPOCH, "auto_scale_lr": dict(enable=True, base_batch_size=base)}

    with pytest.raises(ConfigError, match=r"auto_scale_lr.base_batch_size is .*, expected the images"):
        train(config, work_dir=tmp_path, options=options)


def test_no_data_worker_outlives_training(config, tmp_path):
    persistent = {"train_dataloader.num_workers": 1, "train_dataloader.persistent_workers": True}
    of_other_tests = set(multiprocessing.active_children())

    train(config, work_dir=tmp_path, options={**ONE_EPOCH, **persistent})

    assert set(multiprocessing.active_children()) <= of_other_tests


def test_a_compiled_net_keeps_its_names(config, tmp_path):
    train(config, work_dir=tmp_path, options={"compile": dict(backend="eager"), **ONE_EPOCH})

    names = read_checkpoint(tmp_path / "epoch_1.pth")["state_dict"]
    assert "backbone.stem.weight" in names
    assert not [name for name in names if "_orig_mod" in name]


def test_a_work_dir_that_can_not_be_written_is_refused(config, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"--work-dir .*file: can't be written"):
        train(config, work_dir=tmp_path / "file")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"--device cuda: torch .* sees no GPU here\. Use --device cpu\."):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cpu:x", "mps", ""])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(ConfigError, match="expected cpu, cuda, cuda:NUMBER or auto"):
        choose_device(name)


def test_seeding_is_a_function_of_the_position():
    def draw(*position):
        seed_everything(*position)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw(1, 0, "iteration", 5) == draw(1, 0, "iteration", 5)
    assert len({draw(1, 0, "iteration", 5), draw(1, 1, "iteration", 5), draw(1, 0, "epoch", 5)}) == 3
