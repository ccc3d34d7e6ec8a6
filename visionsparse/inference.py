"""What `init_model` puts together: a classifier by name, how its images are prepared, what its classes are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from visionsparse.config import check_config, list_configs, load_config, model_of, resolve_config
from visionsparse.errors import ConfigError, UnknownNameError, did_you_mean
from visionsparse.registry import MODELS
from visionsparse.zoo import Variant, list_models, variant, variants


def find(config_or_name: str | Path) -> Path | Variant:
    """The config file or the model of the zoo that the name means; a config comes first.

    Raises:
        UnknownNameError: neither; names the near misses of both.
    """
    try:
        return resolve_config(config_or_name)
    except ConfigError:
        name = str(config_or_name)
        if name in variants():
            return variant(name)
        hint = did_you_mean(name, [*list_configs(), *variants()])
        raise UnknownNameError(f"{name!r} is neither a config nor a model of visionsparse.{hint}") from None


def classifier(found: Path | Variant) -> tuple[Any, list]:
    """(task model with random weights, transforms of a PIL image) of a config file or a model of the zoo.

    Raises:
        ConfigError: the config lacks a part or has a wrong one, or the model is no classifier.
    """
    from visionsparse.datasets.transforms import build_pipeline

    model, pipeline = _of_variant(found) if isinstance(found, Variant) else _of_config(found)
    with DefaultScope.overwrite_default_scope("visionsparse"):
        built = MODELS.build(model)
        built.settings = repr((model, pipeline))  # with the weights, all that its answers depend on
        return built, build_pipeline(pipeline)


def _of_config(path: Path) -> tuple[dict, list]:
    config = load_config(path)
    loader = config.get("test_dataloader") or config.get("val_dataloader")
    if not loader or "model" not in config:
        raise ConfigError(f"{path}: needs `model` and `test_dataloader` (or `val_dataloader`) for inference.")
    model = model_of(config)
    pipeline = loader["dataset"].get("pipeline", [])
    # Only what is built here: the rest of a config may need data or packages that inference doesn't.
    check_config(Config({"model": model, "pipeline": pipeline}, filename=str(path)))
    return model, pipeline


def _of_variant(entry: Variant) -> tuple[dict, list]:
    if entry.task != "classification":
        hint = did_you_mean(entry.name, list_models(task="classification"))
        raise ConfigError(f"{entry.name} is a {entry.task} without classes: inference needs a classifier.{hint}")
    protocol, size = entry.facts["timm"], entry.facts["input_size"][1:]
    pipeline = [
        dict(type="Resize", size=int(min(size) / protocol["crop_pct"]), interpolation=protocol["interpolation"]),
        dict(type="CenterCrop", size=size),
    ]
    normalizer = dict(type="ImageNormalizer", mean=protocol["mean"], std=protocol["std"])
    return dict(type="ImageClassifier", backbone=dict(type=entry.name), data_preprocessor=normalizer), pipeline


def class_names_of(checkpoint: dict[str, Any], num_classes: int) -> tuple[list[str] | None, list[str]]:
    """(names of the class folders or None, readable names) of a model with that checkpoint.

    Our training files say them (`meta.classes`, `meta.class_names`); else 1000 classes are ImageNet's, and others are
    numbered.
    """
    meta = checkpoint.get("meta")
    names = {}
    for key in ("classes", "class_names"):
        listed = meta.get(key) if isinstance(meta, dict) else None
        if isinstance(listed, list | tuple) and len(listed) == num_classes:
            names[key] = [str(name) for name in listed]
    classes = names.get("classes")
    if "class_names" in names:
        return classes, names["class_names"]
    if num_classes == 1000:
        from timm.data import ImageNetInfo

        return classes, list(ImageNetInfo().label_descriptions())
    return classes, [f"class {label}" for label in range(num_classes)]
