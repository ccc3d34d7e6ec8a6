"""Training and testing a config: `train` and `test`, on top of mmengine's Runner."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from torch import nn

from visionsparse.checkpoint import load_checkpoint
from visionsparse.config import check_config, load_config
from visionsparse.engine.base_runner import Runner
from visionsparse.engine.device import choose_device, process_group
from visionsparse.engine.recipe import check_same_recipe, recipe
from visionsparse.engine.resume import Resumable, find_checkpoint
from visionsparse.engine.stopping import noting_signals
from visionsparse.errors import ConfigError, UserError
from visionsparse.files import free_space, no_room, sweep, write_text
from visionsparse.parts import parts_folder, remove_parts

_TRAIN_KEYS = ("train_dataloader", "train_cfg", "optim_wrapper")
_VAL_KEYS = ("val_dataloader", "val_cfg", "val_evaluator")
_TEST_KEYS = ("test_dataloader", "test_cfg", "test_evaluator")
_AMP_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def train(
    config: str | Path,
    *,
    work_dir: str | Path | None = None,
    resume: bool | str | Path = False,
    load_from: str | Path | None = None,
    amp: bool | str | None = None,
    compile: bool = False,
    seed: int | None = None,
    deterministic: bool = False,
    device: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Trains what a config describes; one process of it under torchrun.

    Args:
        config: path or name of a config.
        work_dir: where checkpoints and logs go; `work_dirs/<config name>` by default.
        resume: True goes on from the newest checkpoint of work_dir that opens, or starts if there is none; a path goes
            on from that file.
        load_from: start from the weights of this file, path or URL, in any known layout; a head of another number of
            classes is left out.
        amp: mixed precision: "bf16", "fp16" (GPU only), True for what the device does best, "off" for float32, or None
            for what the config says (where that is fp16, float32 on a CPU).
        compile: compile the net with torch.compile.
        seed: of everything random; else the resumed run's, else the config's, else drawn and recorded.
        deterministic: only operations that give the same bits each time; an error where there is none.
        device: "cpu", "cuda", "cuda:1" or "auto".
        options: changes to the config, by dotted key.

    Returns: the trained task model.

    Raises:
        ConfigError: a config, flag or device that is wrong; before anything is trained.
        UserError: its other kinds, for checkpoints and data; also for a loss that is not finite.
    """
    cfg = load_config(config, options)
    _need(cfg, _TRAIN_KEYS, "It has no training recipe; it is there for `visionsparse test`")
    _drop(cfg, *_TEST_KEYS)
    place = choose_device(device)
    folder = _writable_folder(work_dir or cfg.get("work_dir") or Path("work_dirs") / Path(cfg.filename).stem)
    cfg.work_dir = str(folder)
    resume, load_from = resume or cfg.get("resume") or False, load_from or cfg.get("load_from")
    _drop(cfg, "resume", "load_from")
    if compile:
        cfg.compile = True
    _checked(cfg)
    notes = _set_precision(cfg, amp, place)
    with _one_line_errors(), process_group(place):
        found = Resumable()
        if resume:
            found = find_checkpoint(folder, None if resume is True else resume)
        _set_randomness(cfg, seed, deterministic, found)
        settings = recipe(cfg)
        _keep_what_decides(cfg, settings, found)
        swept = sweep(folder) if is_main_process() else []
        runner = Runner.from_cfg(cfg, place)
        runner.recipe = settings
        if swept:
            runner.logger.info(f"removed {len(swept)} unfinished files of a killed run: {', '.join(swept)}")
        for note in [*notes, *found.notes]:
            runner.logger.info(note)
        if found.path:
            runner._resume, runner._load_from = True, str(found.path)
            runner.resumable[str(found.path)] = found.checkpoint
        elif load_from:
            runner.logger.info(f"{load_from}: {load_checkpoint(runner.plain_model, load_from, strict=False)}")
        with noting_signals() as runner.stop_request:
            try:
                runner.train()
            finally:
                runner.end_workers()
        best = runner.message_hub.runtime_info.get("best_ckpt")
        runner.logger.info(f"done; best checkpoint {best}" if best else f"done; checkpoints in {folder}")
        return runner.plain_model


def test(
    config: str | Path,
    checkpoint: str | Path,
    *,
    out: str | Path | None = None,  # noqa: PT028  (not a test function)
    device: str | None = None,  # noqa: PT028
    options: Mapping[str, Any] | None = None,  # noqa: PT028
) -> dict[str, Any]:
    """Evaluates a checkpoint on the test set of a config; one process of it under torchrun.

    Args:
        config: path or name of a config.
        checkpoint: path or URL, in any known layout; must fit the model in every name and shape.
        out: a JSON file for the result. Until it is written, what is finished lies beside it (in results.json.parts for
            results.json): the same call goes on there, on any number of processes.
        device, options: as in `train`.

    Returns: what the metrics measure (`top1`, `top5`, `ece`, `num_images` for classification) and know in detail
        (`per_class`, `confusion_matrix`), then `precision`, `config`, `checkpoint`, `layout`, `model`, `device`. Plain.

    Raises:
        UserError: of the kind that the mistake is of.
    """
    cfg = load_config(config, options)
    _need(cfg, _TEST_KEYS, "There is nothing to test on")
    _drop(cfg, *_TRAIN_KEYS, *_VAL_KEYS, "param_scheduler", "auto_scale_lr", "resume", "load_from", "compile")
    hooks = cfg.get("default_hooks", {})
    cfg.default_hooks = {name: hook for name, hook in hooks.items() if hook and hook.get("type") != "EMAHook"}
    cfg.default_hooks["checkpoint"] = None
    cfg.custom_hooks = [hook for hook in cfg.get("custom_hooks") or [] if hook.get("type") != "EMAHook"]
    place = choose_device(device)
    _checked(cfg)
    if out is not None and Path(out).is_dir():
        raise ConfigError(f"--out {out}: can't be written: Is a directory. Choose another file.")
    with _one_line_errors(), process_group(place), tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = Runner.from_cfg(cfg, place)
        report = load_checkpoint(runner.plain_model, checkpoint)
        runner.logger.info(f"{checkpoint}: {report}")
        if out is not None:
            runner.parts_folder = parts_folder(out)
        result = dict(runner.test())
        for metric in runner.test_evaluator.metrics:
            if hasattr(metric, "details"):
                result.update(metric.details())
    net = cfg.model.get("backbone", cfg.model)
    result.update(
        precision="fp16" if runner.test_loop.fp16 else "fp32",
        config=str(config),
        checkpoint=str(checkpoint),
        layout=report.layout,
        model=net.get("type"),
        device=str(place),
    )
    if out is not None and is_main_process():
        _write_json(result, Path(out))
        remove_parts(parts_folder(out))
    return result


def _need(cfg: Config, keys: tuple[str, ...], meaning: str) -> None:
    missing = [key for key in keys if cfg.get(key) is None]
    if missing:
        raise ConfigError(f"{cfg.filename}: no {', '.join(missing)}. {meaning}.")


def _drop(cfg: Config, *keys: str) -> None:
    for key in keys:
        cfg.pop(key, None)


def _checked(cfg: Config) -> None:
    """Fills in the types that mmengine leaves open, so that check_config knows them, and runs it."""
    cfg.default_scope = "visionsparse"
    for key, kind in (("train_cfg", "EpochBasedTrainLoop"), ("val_cfg", "ValLoop"), ("test_cfg", "TestLoop")):
        loop = cfg.get(key)
        if loop is not None and "type" not in loop:
            loop["type"] = kind if loop.pop("by_epoch", True) or key != "train_cfg" else "IterBasedTrainLoop"
    if "optim_wrapper" in cfg:
        cfg.optim_wrapper.setdefault("type", "OptimWrapper")
    check_config(cfg)


def _set_precision(cfg: Config, amp: bool | str | None, place: torch.device) -> list[str]:
    """Puts the precision into `cfg`; returns what to tell the user about it."""
    wrapper = cfg.optim_wrapper
    becomes_float32 = not amp and wrapper.get("dtype") == "float16" and place.type == "cpu"
    if becomes_float32 or amp == "off":
        wrapper.type = "OptimWrapper"
        wrapper.pop("dtype", None)
    if becomes_float32:
        return ["training in float32: float16, which the config asks for, needs a GPU (--amp bf16 works here)"]
    if not amp or amp == "off":
        return []
    if amp is True:
        amp = "bf16" if place.type == "cpu" or torch.cuda.is_bf16_supported() else "fp16"
    if amp not in _AMP_DTYPES:
        raise ConfigError(f"--amp {amp}: expected bf16, fp16 or off.")
    if amp == "fp16" and place.type == "cpu":
        raise ConfigError("--amp fp16: the CPU has no loss scaling, gradients would underflow. Use --amp bf16.")
    wrapper.update(type="AmpOptimWrapper", dtype=_AMP_DTYPES[amp])
    return []


def _set_randomness(cfg: Config, seed: int | None, deterministic: bool, found: Resumable) -> None:
    stored = found.meta.get("seed")
    if None not in (seed, stored) and seed != stored:
        raise ConfigError(f"--seed {seed}: {found.path} was trained with seed {stored}. Leave --seed out to go on.")
    randomness = dict(cfg.get("randomness") or {})
    for known in (stored, seed):
        if known is not None:
            randomness["seed"] = known
            break
    randomness["deterministic"] = deterministic or randomness.get("deterministic", False)
    if randomness["deterministic"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses in deterministic mode
    cfg.randomness = {"seed": None, **randomness}


def _keep_what_decides(cfg: Config, settings: dict[str, Any], found: Resumable) -> None:
    """Refuses to resume under another recipe, and keeps the global batch on another number of processes."""
    if found.path is None:
        return
    if isinstance(found.meta.get("recipe"), dict):
        check_same_recipe(found.path, found.meta["recipe"], settings)
    global_batch_size, processes = found.meta.get("global_batch_size"), get_world_size()
    if not isinstance(global_batch_size, int):
        return
    if global_batch_size % processes:
        raise ConfigError(
            f"{found.path}: was trained in batches of {global_batch_size}, which {processes} processes can't share "
            f"equally. Start as many as divide {global_batch_size}."
        )
    share = global_batch_size // processes
    if share != cfg.train_dataloader.batch_size:
        found.notes.append(f"{processes} x {share} samples an iteration, to keep the batch of {global_batch_size}")
        cfg.train_dataloader.batch_size = share


def _writable_folder(folder: str | Path) -> Path:
    """The folder, made if need be and probed by writing: permissions say little, to root nothing."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"--work-dir {folder}: can't be written: {error.strerror}. Choose another folder.") from error
    return Path(folder)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """A data-loading process hands on an error with its traceback in the message: takes the message out of it.

    A full disk becomes a UserError that names the file.
    """
    try:
        yield
    except OSError as error:
        line = no_room(error)
        if line is None:
            raise
        raise UserError(line) from error
    except UserError as error:
        text = str(error).strip()
        if not text.startswith("Caught "):
            raise
        raise type(error)(text.rsplit("\n", 1)[-1].split(": ", 1)[-1]) from error


def _write_json(result: dict[str, Any], path: Path) -> None:
    try:
        write_text(path, json.dumps(result) + "\n")
    except OSError as error:
        message = f"--out {path}: can't be written: {error.strerror}.{free_space(path.parent)} Choose another file."
        raise ConfigError(message) from error
