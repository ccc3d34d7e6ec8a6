"""Runs the golden cases of BiFormer: nets, dense-task backbones, and lone attention operators.

`run(case)` reads what the case says of itself (variant, args, inputs, outputs, extra), translates published argument
names, builds the thing through the public names, and gives back every output and gradient that the case lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import visionsparse as vs
from tests.golden.golden import Case
from visionsparse.models.biformer.attention import FullAttention
from visionsparse.models.biformer.model import BiFormer, BiFormerBackbone
from visionsparse.models.biformer.routing import BiLevelRoutingAttention, FloorRegionRoutingAttention

Outputs = dict[str, Any]

ARGUMENTS = {  # published name -> ours, where they differ
    "depth": "depths",
    "embed_dim": "embed_dims",
    "mlp_ratio": "mlp_ratios",
    "n_win": "regions_per_side",
    "side_dwconv": "lepe_kernel_size",
    "before_attn_dwconv": "pos_embed_kernel_size",
    "kv_per_win": "kv_per_region",
    "kv_per_wins": "kv_per_regions",
}
MEANINGLESS = {  # accepted by the published constructors without an effect on what they compute in eval mode
    *("type", "pe", "pe_stages", "use_checkpoint_stages", "disable_bn_grad", "norm_eval", "pretrained"),
    *("kv_downsample_kernel", "kv_downsample_kernels", "representation_size", "norm_layer", "attn_drop", "proj_drop"),
}


def run(case: Case) -> Outputs:
    """Every output that the case lists, and `grad/NAME` norms of the published parameters where it lists them."""
    variant, args = case.meta["variant"], case.meta.get("args") or {}
    if variant in OPERATORS:
        return OPERATORS[variant](case, args)
    if variant in vs.list_models("biformer*", task="classification"):
        return run_net(case, vs.create_model(variant, **our_arguments(args)))
    if args.get("type") == "BiFormer_mm" or variant.endswith(" backbone"):
        return run_net(case, BiFormerBackbone(**our_arguments(args)))
    raise NotImplementedError(f"{variant}: the BiFormer adapter runs classifiers, BiFormer_mm backbones and operators.")


def our_arguments(args: dict[str, Any]) -> dict[str, Any]:
    """Published constructor arguments under our names."""
    ours = {ARGUMENTS.get(name, name): value for name, value in args.items() if name not in MEANINGLESS}
    if ours.get("pos_embed_kernel_size") is not None:
        ours["pos_embed_kernel_size"] = max(0, ours["pos_embed_kernel_size"])
    return {name: value for name, value in ours.items() if value is not None}


def run_net(case: Case, net: BiFormer) -> Outputs:
    found: Outputs = {}
    is_nchw = net.operator == "nchw"

    def keep(name: str, is_channel_last: bool = False) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] = output.permute(0, 3, 1, 2) if is_channel_last and is_nchw else output

        return hook

    for number, stage in enumerate(net.stages, start=1):
        embed = net.stem if number == 1 else stage.downsample
        embed.register_forward_hook(keep(f"embed{number}"))
        stage.register_forward_hook(keep(f"stage{number}"))
        stage.blocks[-1].attn.register_forward_hook(keep(f"attn{number}", is_channel_last=True))
        stage.blocks[-1].mlp.register_forward_hook(keep(f"mlp{number}", is_channel_last=True))

    def forward(call: Callable[..., Any], inputs: dict[str, Tensor]) -> Outputs:
        out = call(inputs["x"])
        found.update({f"out{i}": level for i, level in enumerate(out)} if isinstance(out, list) else {"logits": out})
        return {name: found[name] for name in case.meta["outputs"] if not name.startswith("grad_")}

    return run_module(case, net, forward, loss=sum_of_mean_squares)


def run_attention(case: Case, attn: nn.Module, is_nchw: bool) -> Outputs:
    def forward(call: Callable[..., Any], inputs: dict[str, Tensor]) -> Outputs:
        x = inputs["x"].permute(0, 2, 3, 1) if is_nchw else inputs["x"]
        out = call(x)
        outputs = {"out": out.permute(0, 3, 1, 2) if is_nchw else out}
        if isinstance(attn, BiLevelRoutingAttention):
            with torch.no_grad():
                routing = attn.routing(x)
                probabilities = attn.attention(x)
            outputs["r_weight"], outputs["r_idx"] = routing.weights, routing.routes
            # published: the legacy operator folds images and regions into one axis
            outputs["attn"] = probabilities if is_nchw else probabilities.transpose(1, 2).flatten(0, 1)
        return outputs

    return run_module(case, attn, forward, loss=mean_square_of_out)


def with_lepe_size(case: Case, args: dict[str, Any]) -> dict[str, Any]:
    """`args` with `side_dwconv`, which the published default decides where the case is silent: the weights show it."""
    lepe = case.meta["state"].get("lepe.weight")
    return {"side_dwconv": lepe[0][-1] if lepe else 0, **args}


def run_legacy_routing(case: Case, args: dict[str, Any]) -> Outputs:
    return run_attention(case, BiLevelRoutingAttention(**our_arguments(with_lepe_size(case, args))), is_nchw=False)


def run_nchw_routing(case: Case, args: dict[str, Any]) -> Outputs:
    # it takes any size, has no other width for queries, and its published backends agree
    args = {name: value for name, value in args.items() if name not in ("auto_pad", "qk_dim", "attn_backend")}
    return run_attention(case, FloorRegionRoutingAttention(**our_arguments(with_lepe_size(case, args))), is_nchw=True)


def run_full(case: Case, args: dict[str, Any]) -> Outputs:
    return run_attention(case, FullAttention(**our_arguments(args)), is_nchw=False)


def run_full_nchw(case: Case, args: dict[str, Any]) -> Outputs:
    return run_attention(case, FullAttention(**our_arguments(args), lepe_on="value"), is_nchw=True)


def run_plain(case: Case, args: dict[str, Any]) -> Outputs:
    return run_attention(case, FullAttention(**our_arguments(args), lepe_kernel_size=0), is_nchw=False)


def run_regional(case: Case, args: dict[str, Any]) -> Outputs:
    inputs = case.inputs()
    maps = {name: inputs[name].requires_grad_() for name in ("query", "key", "value")}
    region_graph = torch.from_numpy(case.extra("region_graph"))
    heads = [x.unflatten(1, (region_graph.shape[1], -1)).permute(0, 1, 3, 4, 2) for x in maps.values()]
    out, attention = vs.ops.routed_attention(
        *heads,
        region_graph,
        region_size=args["region_size"],
        kv_region_size=args.get("kv_region_size"),
        scale=args.get("scale"),
        return_attention=True,
    )
    out = out.permute(0, 1, 4, 2, 3).flatten(1, 2)
    out.square().mean().backward()
    gradients = {f"grad_{name}": x.grad for name, x in maps.items()}
    norms = {f"grad/{name}": gradient_norm(x) for name, x in maps.items()}
    return {"out": out, "attn": attention} | gradients | norms


OPERATORS: dict[str, Callable[[Case, dict[str, Any]], Outputs]] = {
    "BiLevelRoutingAttention": run_legacy_routing,
    "nchwBRA": run_nchw_routing,
    "AttentionLePE": run_full,
    "nchwAttentionLePE": run_full_nchw,
    "Attention": run_plain,
    "regional_routing_attention_torch": run_regional,
}


def run_module(
    case: Case, module: nn.Module, forward: Callable[..., Outputs], loss: Callable[[Outputs], Tensor]
) -> Outputs:
    """Loads the published weights, runs `forward(call, inputs)`, and adds the gradients that the case asks for."""
    module.eval()
    vs.load_checkpoint(module, case.state_dict())
    inputs = case.inputs()
    input_gradients = [name for name in inputs if f"grad_{name}" in case.meta["outputs"]]
    if not case.grad_names and not input_gradients:
        with torch.no_grad():
            return forward(module, inputs)

    published = case.state_dict()
    for name in case.grad_names:
        published[name].requires_grad_()
    for name in input_gradients:
        inputs[name].requires_grad_()
    weights = vs.convert_state_dict(module, published)
    outputs = forward(lambda x: functional_call(module, weights, (x,)), inputs)
    loss(outputs).backward()
    outputs |= {f"grad_{name}": inputs[name].grad for name in input_gradients}
    return outputs | {f"grad/{name}": gradient_norm(published[name]) for name in case.grad_names}


def gradient_norm(parameter: Tensor) -> float:
    return 0.0 if parameter.grad is None else float(parameter.grad.norm())


def sum_of_mean_squares(outputs: Outputs) -> Tensor:
    return sum(out.square().mean() for out in outputs.values())


def mean_square_of_out(outputs: Outputs) -> Tensor:
    return outputs["out"].square().mean()
