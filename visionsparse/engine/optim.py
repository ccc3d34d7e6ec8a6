"""Optimiser rules: which parameters decay, and mixed precision on CPU and GPU alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn

from visionsparse.errors import ConfigError
from visionsparse.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class NoDecayConstructor:
    """Builds the optimiser with two parameter groups: weight decay for matrices and kernels, none for the rest.

    The rest: tensors of at most one dimension (biases, norms) and what a module's `no_weight_decay()` names.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        if paramwise_cfg:
            raise ConfigError(
                f"optim_wrapper.paramwise_cfg: NoDecayConstructor takes none, got {paramwise_cfg}. "
                "Name the parameters in the net's no_weight_decay(), or use DefaultOptimWrapperConstructor."
            )
        self.config = dict(optim_wrapper_cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The optimiser wrapper for `model` (also in its DistributedDataParallel wrapper)."""
        optimizer = dict(self.config.pop("optimizer"))
        decay, no_decay = split_by_decay(getattr(model, "module", model))
        optimizer["params"] = [{"params": decay}, {"params": no_decay, "weight_decay": 0.0}]
        return OPTIM_WRAPPERS.build({"type": "OptimWrapper", **self.config, "optimizer": OPTIMIZERS.build(optimizer)})


def split_by_decay(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(parameters that decay, parameters that don't) of those that are trained."""
    named = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (no_decay if parameter.ndim <= 1 or name in named else decay).append(parameter)
    return decay, no_decay


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """mmengine's optimiser wrapper with autocast: bfloat16 anywhere, float16 with loss scaling on CUDA.

    mmengine's class of this name refuses the CPU.

    Args:
        dtype: "bfloat16" or "float16".
        **kwargs: those of OptimWrapper (`optimizer`, `accumulative_counts`, `clip_grad`).

    Raises:
        ConfigError: another dtype, or float16 for a model on the CPU.
    """

    def __init__(self, dtype: str = "bfloat16", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if dtype not in ("bfloat16", "float16"):
            raise ConfigError(f"optim_wrapper.dtype is {dtype!r}, expected 'bfloat16' or 'float16'.")
        self.dtype = getattr(torch, dtype)
        # bfloat16 has float32's range and needs no scaling; a disabled scaler passes everything through
        self.scaler = torch.amp.GradScaler("cuda", enabled=dtype == "float16" and torch.cuda.is_available())

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast around the forward pass, besides what the base class does for gradient accumulation."""
        device = next(model.parameters()).device.type
        if device == "cpu" and self.dtype == torch.float16:
            raise ConfigError("fp16 on a CPU: gradients underflow without a scaler, and it is slower. Use --amp bf16.")
        with super().optim_context(model), torch.autocast(device, self.dtype):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Backward of the scaled loss."""
        super().backward(self.scaler.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Clips and steps on unscaled gradients; skips the step where a scaled one overflowed."""
        if self.clip_grad_kwargs:
            self.scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state and the scaler's."""
        return {**super().state_dict(), "loss_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads both; a run without mixed precision has no scaler, which is fine."""
        state_dict = dict(state_dict)
        self.scaler.load_state_dict(state_dict.pop("loss_scaler", {}) or self.scaler.state_dict())
        super().load_state_dict(state_dict)
