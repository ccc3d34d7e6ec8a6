import os
import subprocess
import sys

import pytest
import yaml

import visionsparse as vs
from visionsparse.errors import ConfigError, UnknownNameError
from visionsparse.registry import MODELS
from visionsparse.zoo import SYSTEMS, variants

pytestmark = pytest.mark.newest_torch


def test_models_are_listed_by_pattern_and_task():
    assert "biformer_tiny" in vs.list_models("biformer*", task="classification")
    assert vs.list_models("*", task="classification") == [
        n for n, v in variants().items() if v.task == "classification"
    ]
    assert vs.list_models("nothing*") == []


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(UnknownNameError, match="'clasification' is not a task. Did you mean 'classification'"):
        vs.list_models(task="clasification")


def test_an_unknown_model_names_the_near_misses():
    with pytest.raises(
        UnknownNameError, match="'biformer_tinny' is not a model of visionsparse. Did you mean 'biformer_tiny'"
    ):
        vs.create_model("biformer_tinny")


def test_an_unknown_argument_names_the_near_misses():
    with pytest.raises(ConfigError, match="biformer_tiny has no argument 'depth'. Did you mean 'depths'"):
        vs.create_model("biformer_tiny", depth=(1, 1, 1, 1))


def test_a_model_is_created_in_train_mode_with_its_overrides():
    model = vs.create_model("biformer_nano", num_classes=7)
    assert model.training
    assert model.num_classes == 7


@pytest.mark.parametrize("name", variants())
def test_every_variant_has_a_builder_that_says_which_arguments_it_takes(name):
    assert {"in_chans", "drop_path_rate"} <= variants()[name].argument_names()


@pytest.mark.parametrize("metafile", sorted(SYSTEMS.glob("*/metafile.yml")), ids=lambda path: path.parent.name)
def test_a_metafile_names_its_system_its_source_and_its_licence(metafile):
    facts = yaml.safe_load(metafile.read_text())
    assert facts["system"] == metafile.parent.name
    assert facts["paper"] and facts["code"] and facts["licence"]


def test_a_model_is_built_from_a_registry_type():
    model = MODELS.build(dict(type="biformer_nano", num_classes=3))
    assert model.num_classes == 3


def test_a_foreign_config_builds_a_model_without_importing_the_package_first():
    script = (
        "from mmengine.registry import MODELS\n"
        "model = MODELS.build(dict(type='visionsparse.biformer_nano', num_classes=3))\n"
        "print(type(model).__module__, model.num_classes)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    module, num_classes = done.stdout.split()[-2:]
    assert module.startswith("visionsparse.models.biformer."), done.stderr
    assert num_classes == "3"


def test_a_config_of_another_project_builds_our_net_as_its_backbone(tmp_path):
    (tmp_path / "detector.py").write_text(
        "default_scope = 'theirs'\n"
        "model = dict(type='Detector', backbone=dict(type='visionsparse.biformer_tiny', depths=(1, 1, 1, 1)))\n"
    )
    script = (
        "from mmengine import Config, DefaultScope\n"
        "from mmengine.model import BaseModel\n"
        "from mmengine.registry import MODELS as ROOT, Registry\n"
        "MODELS = Registry('model', parent=ROOT, scope='theirs')\n"
        "@MODELS.register_module()\n"
        "class Detector(BaseModel):\n"
        "    def __init__(self, backbone, data_preprocessor=None):\n"
        "        super().__init__(data_preprocessor)\n"
        "        self.backbone = MODELS.build(backbone)\n"
        "    def forward(self, inputs, data_samples=None, mode='tensor'): ...\n"
        "config = Config.fromfile('detector.py')\n"
        "DefaultScope.get_instance('theirs', scope_name='theirs')\n"
        "net = MODELS.build(config.model).backbone\n"
        "print(type(net).__module__, len(net.stages))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SYSTEMS.parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout.split()[-2:] == ["visionsparse.models.biformer.net", "4"], done.stderr


@pytest.mark.parametrize("order", ["import visionsparse, timm", "import timm, visionsparse"])
def test_timm_knows_our_names_whichever_is_imported_first(order):
    script = f"{order}\nprint(timm.create_model('biformer_nano', num_classes=3).num_classes)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split()[-1:] == ["3"], done.stderr


@pytest.mark.parametrize("create", ["vs", "timm"])
def test_features_only_gives_raw_maps_and_their_description(create):
    import timm
    import torch

    maker = vs.create_model if create == "vs" else timm.create_model
    net = maker("biformer_tiny", features_only=True).eval()
    with torch.no_grad():
        maps = net(torch.randn(1, 3, 224, 224))
    assert net.feature_info.channels() == [64, 128, 256, 512]
    assert net.feature_info.reduction() == [4, 8, 16, 32]
    assert [tuple(m.shape) for m in maps] == [(1, 64, 56, 56), (1, 128, 28, 28), (1, 256, 14, 14), (1, 512, 7, 7)]
