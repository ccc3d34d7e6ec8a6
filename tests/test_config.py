import ast
import inspect

import pytest

from visionsparse.config import (
    CONFIGS,
    TOP_LEVEL_KEYS,
    check_config,
    list_configs,
    load_config,
    resolve_config,
)
from visionsparse.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write(text, name="config.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def message_of(call, *args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["biformer/biformer_nano_digits", "biformer/biformer_nano_digits.py"])
def test_an_installed_config_is_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_config(name).resolve() == (CONFIGS / "biformer/biformer_nano_digits.py").resolve()


def test_a_file_in_the_current_folder_comes_before_an_installed_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "biformer").mkdir()
    (tmp_path / "biformer/biformer_nano_digits.py").write_text("compile = True\n")
    assert load_config("biformer/biformer_nano_digits").compile is True


def test_a_missing_config_names_the_near_misses():
    message = message_of(resolve_config, "biformer/biformer_nano_digit")
    assert "Did you mean 'biformer/biformer_nano_digits'?" in message


def test_a_config_named_without_its_folder_is_suggested_with_it():
    assert "Did you mean 'biformer/biformer_nano_digits'?" in message_of(resolve_config, "biformer_nano_digits")


@pytest.mark.parametrize(
    "text",
    [
        "import os\n",
        "from mmengine.config import read_base\n",
        "train_cfg = dict(max_epochs=int(3))\n",
        "train_cfg = dict(max_epochs=3 * 10)\n",
        "def f():\n    pass\n",
        "model = dict(**{})\n",
        "work_dir = f'{1}'\n",
    ],
)
def test_code_in_a_config_is_refused_with_its_line(write, text):
    path = write("log_level = 'INFO'\n" + text)
    message = message_of(load_config, path)
    assert message.startswith(f"{path}:2: a config is data")


def test_code_in_a_base_is_refused_too(write):
    base = write("import os\n", "base.py")
    path = write("_base_ = ['base.py']\n")
    assert message_of(load_config, path).startswith(f"{base}:1")


def test_a_config_that_does_not_parse_is_refused(write):
    path = write("model = dict(\n")
    assert f"{path}: can't be read as a config" in message_of(load_config, path)


def test_an_unknown_top_level_key_is_refused_with_its_near_miss(write):
    path = write("trian_cfg = dict(max_epochs=1)\n")
    assert "'trian_cfg' is not a config key. Did you mean 'train_cfg'" in message_of(load_config, path)


def test_an_unknown_leading_key_of_an_override_is_refused(write):
    message = message_of(load_config, write("compile = True\n"), {"optim_wraper.optimizer.lr": 1.0})
    assert message.startswith("--cfg-options optim_wraper.optimizer.lr: 'optim_wraper' is not a config key.")
    assert "Did you mean 'optim_wrapper'" in message


def test_overrides_reach_nested_keys(write):
    path = write("optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1.0))\n")
    assert load_config(path, {"optim_wrapper.optimizer.lr": 0.5}).optim_wrapper.optimizer.lr == 0.5


def test_an_override_that_does_not_fit_names_itself(write):
    path = write("compile = True\n")
    assert "--cfg-options" in message_of(load_config, path, {"compile.deeper.still": 1})


def test_an_unknown_model_name_is_refused_before_anything_is_built(write):
    path = write("model = dict(type='ImageClassifier', backbone=dict(type='biformer_tny'))\n")
    message = message_of(check_config, load_config(path))
    assert message.startswith(f"{path}: model.backbone.type: 'biformer_tny' is not known. Did you mean 'biformer_tiny'")


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("model.backbone.depth", "model = dict(backbone=dict(type='biformer_tiny', depth=(1, 1, 1, 1)))\n"),
        (
            "optim_wrapper.optimizer.learning_rate",
            "optim_wrapper = dict(optimizer=dict(type='AdamW', learning_rate=1))\n",
        ),
        (
            "train_dataloader.dataset.pipeline[0].sizes",
            "train_dataloader = dict(dataset=dict(type='Digits', pipeline=[dict(type='Resize', sizes=3)]))\n",
        ),
        ("val_evaluator.topk_", "val_evaluator = dict(type='ClassificationMetric', topk_=1)\n"),
    ],
)
def test_an_unknown_argument_names_its_field(write, field, text):
    path = write(text)
    assert message_of(check_config, load_config(path)).startswith(f"{path}: {field}: ")


@pytest.mark.parametrize("name", list_configs())
def test_every_installed_config_loads_and_names_only_what_exists(name):
    check_config(load_config(name))


@pytest.mark.parametrize("name", list_configs())
def test_every_installed_config_says_in_its_header_how_to_run_it(name):
    header = ast.get_docstring(ast.parse(resolve_config(name).read_text()))
    assert header and f" {name}" in header and "visionsparse t" in header


@pytest.mark.parametrize(
    "text",
    [
        "custom_hooks = [dict(type='FiniteLossHook', priority='LOW')]\n",
        "optim_wrapper = dict(type='AmpOptimWrapper', constructor='NoDecayConstructor', dtype='bfloat16')\n",
    ],
)
def test_what_the_runner_takes_out_before_building_is_accepted(write, text):
    check_config(load_config(write(text)))


def test_the_known_top_level_keys_are_those_that_a_run_reads():
    from mmengine.runner import Runner

    runner_arguments = set(inspect.signature(Runner).parameters)
    assert runner_arguments - {"cfg"} | {"compile", "find_unused_parameters"} == TOP_LEVEL_KEYS
