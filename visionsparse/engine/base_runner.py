"""mmengine's Runner with what is different here: the device asked for, safe checkpoints, checks, a quiet console."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import all_reduce_params, is_main_process
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner as _Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from visionsparse._version import __version__
from visionsparse.checkpoint import save_checkpoint
from visionsparse.engine.plain import restore_message_hub, to_plain
from visionsparse.engine.progress import ProgressBarHook
from visionsparse.engine.recipe import recipe
from visionsparse.engine.resume import read_training_checkpoint
from visionsparse.engine.stopping import StopRequest, shielded
from visionsparse.errors import CheckpointError, ConfigError
from visionsparse.files import naming
from visionsparse.registry import DATASETS

_RUN_NUMBERS = itertools.count()  # mmengine keeps loggers and message hubs by experiment name, for the whole process


class Runner(_Runner):
    """Trains or tests one config on one device a process."""

    parts_folder: Path | None = None  # where the test loop keeps what is finished

    def __init__(self, *, device: torch.device, **kwargs: Any) -> None:
        self.device = device
        self.recipe: dict[str, Any] = {}  # what of the config a resumed run must share; goes into checkpoints
        self.resumable: dict[str, Any] = {}  # checkpoints that are read already, by path
        self.stop_request = StopRequest()
        super().__init__(**kwargs)

    @classmethod
    def from_cfg(cls, cfg: Config, device: torch.device | None = None) -> Runner:
        """The runner that `cfg` describes, on the CPU if no device is given; `cfg` is not changed."""
        cfg = copy.deepcopy(cfg)
        known = inspect.signature(_Runner).parameters
        arguments = {key: value for key, value in cfg.items() if key in known}
        arguments["experiment_name"] = f"{cfg.get('experiment_name') or 'visionsparse'}-{next(_RUN_NUMBERS)}"
        arguments["launcher"] = "pytorch" if dist.is_initialized() else "none"
        runner = cls(device=device or torch.device("cpu"), cfg=cfg, **arguments)
        runner.recipe = recipe(cfg)
        return runner

    @property
    def plain_model(self) -> nn.Module:
        """The task model without the wrapper of distributed training."""
        return self.model.module if isinstance(self.model, MMDistributedDataParallel) else self.model

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        """mmengine's logger; the console gets one short line a record, the log file everything."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = functools.partial(_raise_naming, handler.baseFilename)
            else:
                handler.addFilter(_is_for_people)
                handler.setFormatter(_ShortFormatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        return logger

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Moves the model to this run's device (mmengine would take any GPU it sees); under torchrun, wraps it."""
        model = model.to(self.device)
        if not self.distributed:
            return revert_sync_batchnorm(model)
        return MMDistributedDataParallel(
            module=model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.get("find_unused_parameters", False),
        )

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """mmengine's, and those that no run goes without."""
        ours = {
            "seeding": {"type": "StatelessSeedHook"},
            "finite_loss": {"type": "FiniteLossHook"},
            "skipped_images": {"type": "SkippedImagesHook"},
            "stop": {"type": "StopHook"},
            "progress_bar": {"type": "ProgressBarHook"},
        }
        if self.distributed:
            ours["sync_buffers"] = {"type": "SyncBuffersHook"}  # else each process has its own BatchNorm statistics
        super().register_default_hooks({**ours, **(hooks or {})})

    def build_dataloader(
        self, dataloader: DataLoader | dict[str, Any], seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """mmengine's loader; the data set gets the run's seed, and must have as many classes as the model.

        Raises:
            ConfigError: the numbers of classes differ; names both.
        """
        if isinstance(dataloader, dict):
            dataloader = copy.deepcopy(dataloader)
            dataset = dataloader["dataset"]
            kind = DATASETS.get(dataset["type"]) if isinstance(dataset, dict) else None
            if kind is not None and "seed" in inspect.signature(kind).parameters:
                dataset.setdefault("seed", seed)
            if self.device.type == "cpu":
                dataloader.pop("pin_memory", None)  # torch would warn
            if not dataloader.get("num_workers"):
                for needs_workers in ("persistent_workers", "prefetch_factor"):
                    dataloader.pop(needs_workers, None)
        loader = _Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        loader.worker_init_fn = shielded(loader.worker_init_fn)
        classes = getattr(loader.dataset, "classes", None)
        num_classes = getattr(self.plain_model, "num_classes", None)
        if classes is not None and num_classes is not None and len(classes) != num_classes:
            raise ConfigError(
                f"the data has {len(classes)} classes, but the model {num_classes}. "
                f"Set model.backbone.num_classes={len(classes)}."
            )
        return loader

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: dict[str, Any] | None = None) -> None:
        """Scales the learning rate with the images of an optimiser step: batch size, accumulation, processes.

        mmengine's forgets accumulation. Only where `auto_scale_lr` is `dict(enable=True, base_batch_size=...)`.

        Raises:
            ConfigError: `base_batch_size` is no number of images.
        """
        if not auto_scale_lr or not auto_scale_lr.get("enable"):
            return
        base = auto_scale_lr.get("base_batch_size")
        if not isinstance(base, int) or base < 1:
            raise ConfigError(f"auto_scale_lr.base_batch_size is {base!r}, expected the images that lr is meant for.")
        images = self.train_dataloader.batch_size * optim_wrapper._accumulative_counts * self.world_size
        for group in optim_wrapper.optimizer.param_groups:
            group["lr"] *= images / base
        rate = optim_wrapper.optimizer.param_groups[0]["lr"]
        self.logger.info(f"learning rate {rate:.3g} for {images} images a step")

    def end_workers(self) -> None:
        """Ends persistent data workers: the garbage collector would wait five seconds for each, in vain."""
        for loop in (self._train_loop, self._val_loop):
            loader = getattr(loop, "dataloader", None)
            if isinstance(loader, DataLoader):
                loader._iterator = None

    def train(self) -> nn.Module:
        """mmengine's; the terminal is given back whatever happens."""
        with self._progress_bar_closed():
            return super().train()

    def test(self) -> dict[str, float]:
        """mmengine's; the terminal is given back whatever happens."""
        with self._progress_bar_closed():
            return super().test()

    @contextmanager
    def _progress_bar_closed(self) -> Iterator[None]:
        try:
            yield
        finally:
            for hook in self.hooks:
                if isinstance(hook, ProgressBarHook):
                    hook.close()

    def _maybe_compile(self, target: str) -> None:
        """Compiles the net in place, for training and validation; names in checkpoints stay as they are."""
        options = self.cfg.get("compile")
        if options:
            net = getattr(self.plain_model, "backbone", self.plain_model)
            net.compile(**(options if isinstance(options, dict) else {}))
            self.logger.info("compiling the net: the first iterations take minutes")

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: None = None,
    ) -> None:
        """Writes a checkpoint of plain values, whole or not at all. Every process must call it; one writes."""
        pending = self._pending_gradients() if save_optimizer else {}
        if self.distributed and self.plain_model.training:  # BatchNorm statistics are each process's own meanwhile
            all_reduce_params([b for b in self.plain_model.buffers() if b.is_floating_point()], op="mean")
        if not is_main_process():
            return
        position = {"epoch": self.epoch + by_epoch, "iter": self.iter + (not by_epoch)}
        dataset = self.train_dataloader.dataset
        checkpoint = {
            "meta": {
                **position,
                **(meta or {}),
                "cfg": self.cfg.pretty_text,
                "classes": getattr(dataset, "classes", None),
                "class_names": getattr(dataset, "class_names", None),
                "seed": self.seed,
                "recipe": self.recipe,
                "num_samples": len(dataset),
                "iterations_per_epoch": len(self.train_dataloader),
                "global_batch_size": (self.train_dataloader.batch_size or 1) * self.world_size,
                "time": time.strftime("%Y-%m-%d %H:%M:%S"),
                "visionsparse_version": __version__,
                "mmengine_version": mmengine.__version__,
                "torch_version": str(torch.__version__),
            },
            "state_dict": dict(self.plain_model.state_dict()),
            "message_hub": self.message_hub.state_dict(),
        }
        if save_optimizer:
            checkpoint["optimizer"] = self.optim_wrapper.state_dict()
            checkpoint["pending_gradients"] = pending
        if save_param_scheduler and self.param_schedulers:
            checkpoint["param_schedulers"] = [scheduler.state_dict() for scheduler in self.param_schedulers]
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        save_checkpoint(to_plain(checkpoint), Path(out_dir) / filename)

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = True, revise_keys: Any = ()
    ) -> dict[str, Any]:
        """Reads a checkpoint of `save_checkpoint` to go on from.

        Raises:
            CheckpointError: unreadable, not of a training run, or of another model.
            ConfigError: the data has other classes or another number of samples.
        """
        checkpoint = self.resumable.pop(filename, None) or read_training_checkpoint(filename)
        self._check_same_data(filename, checkpoint["meta"])
        dataset = self.train_dataloader.dataset
        checkpoint["meta"]["dataset_meta"] = getattr(dataset, "metainfo", None)  # mmengine compares them, as pickles
        checkpoint["message_hub"] = restore_message_hub(checkpoint["message_hub"])
        try:
            self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
            self.plain_model.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{filename}: is not of this config's model: {reason}") from error
        parameters = dict(self.plain_model.named_parameters())
        for name, gradient in checkpoint.get("pending_gradients", {}).items():
            parameters[name].grad = gradient.to(parameters[name])
        self._has_loaded = True
        return checkpoint

    def _check_same_data(self, filename: str, meta: dict[str, Any]) -> None:
        """Refuses data of other classes or another size than those of the checkpoint with this `meta`."""
        loader, again = self.train_dataloader, f"or start anew from its weights: --load-from {filename}"
        if meta.get("classes") != to_plain(getattr(loader.dataset, "classes", None)):
            raise ConfigError(f"{filename}: was trained on other classes than the data has. Restore the data, {again}")
        num_samples, here = meta.get("num_samples"), len(loader.dataset)
        if num_samples not in (None, here):
            raise ConfigError(
                f"{filename}: was trained on {num_samples} samples, the data has {here}. Restore the data, {again}"
            )
        iterations, here = meta.get("iterations_per_epoch"), len(loader)
        if iterations not in (None, here):
            raise ConfigError(
                f"{filename}: had {iterations} iterations an epoch, here are {here}: in {self.world_size} processes "
                f"drop_last leaves out another number of samples. Start as many as it had, {again}"
            )

    def _pending_gradients(self) -> dict[str, Tensor]:
        """Gradients that await their optimiser step: without them a run that accumulates resumes to other numbers."""
        wrapper = self.optim_wrapper
        if not isinstance(wrapper, OptimWrapper) or wrapper.should_update():
            return {}
        pending = {n: p.grad.detach().clone() for n, p in self.plain_model.named_parameters() if p.grad is not None}
        if self.distributed:  # they are synchronised at the step only; their mean is what that step would use
            for gradient in pending.values():
                dist.all_reduce(gradient)
                gradient /= self.world_size
        return pending


def _raise_naming(file: str, record: logging.LogRecord) -> None:
    """A log line that can't be written ends the run; logging would print a traceback for each and go on."""
    with naming(file):
        raise  # what the handler has caught


_NOT_FOR_PEOPLE = (
    "Exp name:",
    "Resumed iteration number is not divisible",  # not so: the checkpoint has the pending gradients
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)


def _is_for_people(record: logging.LogRecord) -> bool:
    """Keeps off the console: dumps of many lines, and mmengine's remarks about itself."""
    message = record.getMessage()
    return "\n" not in message and not message.startswith(_NOT_FOR_PEOPLE)


class _ShortFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if record.levelno <= logging.INFO else f"{line}  [{record.levelname.lower()}]"
