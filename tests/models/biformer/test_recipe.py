"""The published ImageNet recipe, `visionsparse train biformer/biformer_small_in1k`, on the embedded digits."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.tiny import TinyNet  # registers it
from tests.models.biformer.trial import VARIANTS, WITHOUT_VALIDATION, evaluation, nano, on_digits, recipe, records
from visionsparse.checkpoint import read_checkpoint
from visionsparse.config import load_config
from visionsparse.engine.optim import NoDecayConstructor
from visionsparse.engine.runner import test as evaluate
from visionsparse.engine.runner import train
from visionsparse.registry import MODELS, PARAM_SCHEDULERS


def check_trial(variant: str, digits: Path, work_dir: Path, more: dict[str, Any]) -> None:
    options = {**on_digits(digits), **WITHOUT_VALIDATION, **more}

    model = train(recipe(variant), work_dir=work_dir, amp="bf16", device="cpu", options=options)

    losses = [record["loss"] for record in records(work_dir, "loss")]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert type(model.backbone).__name__ == "BiFormer"


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_recipe_runs_two_iterations(variant: str, digits: Path, tmp_path: Path) -> None:
    check_trial(variant, digits, tmp_path, {"model.backbone.depths": (1, 1, 1, 1)})


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_recipe_runs_two_iterations_at_its_full_depth(variant: str, digits: Path, tmp_path: Path) -> None:
    check_trial(variant, digits, tmp_path, {})


def published_rate(epoch: int, images_a_step: int) -> float:
    """DeiT's trainer: timm's cosine of 300 epochs, told after each epoch the number of that epoch."""
    peak = 5e-4 * images_a_step / 512
    t = max(0, epoch - 1)
    if t < 5:
        return 1e-6 + t * (peak - 1e-6) / 5
    return 1e-5 + 0.5 * (peak - 1e-5) * (1 + math.cos(math.pi * t / 300))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_learning_rate_is_the_published_one_at_every_epoch(variant: str) -> None:
    config = load_config(recipe(variant))
    images_a_step = 8 * config.train_dataloader.batch_size
    optimizer = torch.optim.SGD(TinyNet().parameters(), lr=config.optim_wrapper.optimizer.lr * images_a_step / 512)
    scheduler = PARAM_SCHEDULERS.build({**config.param_scheduler, "optimizer": optimizer, "end": 300})
    rates = []
    for _ in range(config.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()

    assert images_a_step == 1024 and max(rates) == pytest.approx(1e-3, rel=1e-3)
    assert rates[:2] == [1e-6, 1e-6]
    assert rates == pytest.approx([published_rate(epoch, 1024) for epoch in range(300)], rel=1e-12)


def test_a_whole_run_follows_it_scaled_by_batch_and_accumulation(digits: Path, tmp_path: Path) -> None:
    """300 epochs of one iteration each, as logged."""
    options = {
        **on_digits(digits, size=32, batch_size=10),
        **WITHOUT_VALIDATION,
        "model.backbone": dict(_delete_=True, type="TinyNet", num_classes=10),
        "optim_wrapper.accumulative_counts": 4,
        "train_cfg.max_epochs": 300,
    }

    train(recipe("small"), work_dir=tmp_path, amp="off", device="cpu", options=options)

    rates = [record["lr"] for record in records(tmp_path, "loss")]
    assert rates == pytest.approx([published_rate(epoch, 4 * 10) for epoch in range(300)], rel=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_parts_of_the_recipe_have_the_published_values(variant: str) -> None:
    config = load_config(recipe(variant))

    erasing, mixup = config.model.batch_augments
    assert erasing == dict(type="RandomErasing", probability=0.25, mode="pixel", max_count=1)
    assert mixup == dict(type="Mixup", mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, prob=1.0)
    assert config.model.label_smoothing == 0.1
    drop_path = {"tiny": 0.1, "small": 0.15, "base": 0.4, "stl": 0.1, "stl_nchw": 0.1}[variant]
    assert config.model.backbone == dict(type=f"biformer_{variant}", drop_path_rate=drop_path)
    assert config.train_dataloader.sampler.repeats == 3
    crop, flip, augment = config.train_dataloader.dataset.pipeline
    assert crop == dict(type="RandomResizedCrop", size=224, interpolation="bicubic")
    assert flip == dict(type="RandomHorizontalFlip")
    assert augment.policy == "rand-m9-mstd0.5-inc1"
    resize, centre = config.test_dataloader.dataset.pipeline
    assert resize == dict(type="Resize", size=int(256 / 224 * 224), interpolation="bicubic")
    assert centre == dict(type="CenterCrop", size=224)
    assert config.test_cfg.fp16 and config.val_cfg.fp16
    wrapper = config.optim_wrapper
    assert wrapper.optimizer == dict(type="AdamW", lr=5e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
    assert (wrapper.type, wrapper.dtype) == ("AmpOptimWrapper", "float16") and "clip_grad" not in wrapper
    assert 1 - config.default_hooks.ema.momentum == pytest.approx(0.99996)
    assert config.default_hooks.ema.update_buffers


def test_weights_of_matrices_and_kernels_decay_and_nothing_else() -> None:
    config = load_config(recipe("tiny"), {"model.backbone.depths": (1, 1, 1, 1), "optim_wrapper.type": "OptimWrapper"})
    model = MODELS.build(config.model)
    wrapper_config = {key: value for key, value in config.optim_wrapper.items() if key not in ("constructor", "dtype")}
    wrapper = NoDecayConstructor(wrapper_config)(model)

    of = {p: group["weight_decay"] for group in wrapper.optimizer.param_groups for p in group["params"]}

    for name, parameter in model.named_parameters():
        assert of[parameter] == (0.05 if parameter.ndim >= 2 else 0.0), name


def test_fp16_of_the_recipe_becomes_float32_on_a_cpu_and_says_so(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(recipe("small"), work_dir=tmp_path, device="cpu", options={**nano(digits, 0), "train_cfg.max_epochs": 1})

    assert "training in float32: float16, which the config asks for, needs a GPU" in capsys.readouterr().out


# The middle of an epoch: between two batches of one step, and after a step; then the end of an epoch within a step.
@pytest.mark.parametrize(("iteration", "num_workers"), [(5, 0), (4, 2), (3, 0)])
def test_the_whole_recipe_resumes_to_the_same_bits(
    iteration: int, num_workers: int, straight: Path, digits: Path, tmp_path: Path
) -> None:
    train(
        recipe("small"),
        work_dir=tmp_path,
        resume=straight / f"iter_{iteration}.pth",
        amp="bf16",
        deterministic=True,
        device="cpu",
        options=nano(digits, num_workers),
    )

    ours, theirs = read_checkpoint(tmp_path / "iter_9.pth"), read_checkpoint(straight / "iter_9.pth")
    for part in ("state_dict", "ema_state_dict"):
        assert [name for name, value in theirs[part].items() if not torch.equal(ours[part][name], value)] == []
    for number, state in theirs["optimizer"]["state"].items():
        assert all(torch.equal(ours["optimizer"]["state"][number][name], value) for name, value in state.items())
    assert not torch.equal(
        read_checkpoint(straight / "iter_5.pth")["state_dict"]["backbone.head.weight"],
        theirs["state_dict"]["backbone.head.weight"],
    )


def test_averaged_weights_are_what_validation_and_test_evaluate(straight: Path, digits: Path, tmp_path: Path) -> None:
    options = evaluation(digits)
    file = read_checkpoint(straight / "iter_9.pth")
    averaged, raw = file["state_dict"], file["ema_state_dict"]
    assert not torch.equal(averaged["backbone.head.weight"], raw["module.backbone.head.weight"])

    result = evaluate(recipe("small"), straight / "iter_9.pth", device="cpu", options=options)

    validated = records(straight, "ece")[-1]
    assert (result["ece"], result["top1"]) == (pytest.approx(validated["ece"]), pytest.approx(validated["top1"]))
    alone = {name.removeprefix("module."): value for name, value in raw.items() if name != "steps"}
    torch.save({"state_dict": alone}, tmp_path / "raw.pth")
    assert evaluate(recipe("small"), tmp_path / "raw.pth", device="cpu", options=options)["ece"] != result["ece"]


def test_evaluation_in_fp16_becomes_float32_on_a_cpu_and_says_so(
    straight: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(recipe("small"), straight / "iter_9.pth", device="cpu", options=evaluation(digits))

    assert result["precision"] == "fp32"
    assert "evaluating in float32: float16, which the config asks for, needs a GPU" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_share_the_recipe_and_scale_its_learning_rate(digits: Path, tmp_path: Path) -> None:
    options = {**nano(digits, 0), **WITHOUT_VALIDATION, "train_dataloader.batch_size": 2}
    options.update({"param_scheduler.warmup_lr": 1e-6, "optim_wrapper.optimizer.lr": 0.5})
    words = [f"{key}={value!r}" for key, value in options.items()]
    torchrun = f"{Path(sys.executable).parent / 'torchrun'} --nproc-per-node 2 -m visionsparse.tools.train".split()

    done = subprocess.run(
        [*torchrun, recipe("small"), "--device", "cpu", "--work-dir", str(tmp_path), "--cfg-options", *words],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    images_a_step = 2 * 2 * 2  # batch, accumulation, processes
    assert f"learning rate {0.5 * images_a_step / 512:.3g} for {images_a_step} images a step" in done.stdout
    third_epoch = records(tmp_path, "loss")[-1]["lr"]
    assert third_epoch == pytest.approx(1e-6 + (0.5 * images_a_step / 512 - 1e-6) / 5)
