"""`init_model` and `infer`: what they answer, on what images, and how they refuse."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import visionsparse as vs
from visionsparse import apis
from visionsparse.errors import CheckpointError, ConfigError, DataError, InputError, UnknownNameError

CLASSES = ["n01", "n02", "n03"]
CONFIG = """
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="biformer_nano", depths=(1, 1), embed_dims=(32, 64), topks=(4, 4), regions_per_side=4, num_classes=3
    ),
    data_preprocessor=dict(type="ImageNormalizer", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
)
test_dataloader = dict(dataset=dict(type="Digits", split="val", pipeline=[
    dict(type="Resize", size=32), dict(type="CenterCrop", size=32),
]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A config, a checkpoint as training writes it, one of weights alone, and a picture."""
    folder = tmp_path_factory.mktemp("apis")
    (folder / "config.py").write_text(CONFIG)
    torch.manual_seed(0)
    state = apis.init_model(folder / "config.py", device="cpu").state_dict()
    meta = {"classes": CLASSES, "class_names": ["cat", "dog", "ant"]}
    torch.save({"state_dict": state, "meta": meta}, folder / "trained.pth")
    torch.save(state, folder / "weights.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return apis.init_model(folder / "config.py", folder / "trained.pth", device="cpu")


def test_an_answer_is_what_the_net_gives_for_the_prepared_image(folder, model):
    image = Image.open(folder / "picture.png").resize((40, 32), Image.Resampling.BILINEAR).crop((4, 0, 36, 32))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        scores = model.backbone((pixels[None] - 0.5) / 0.25).softmax(dim=1)[0]
    names = ["cat", "dog", "ant"]

    (answer,) = vs.infer(model, folder / "picture.png")

    best = scores.argsort(descending=True).tolist()
    assert answer["path"] == str(folder / "picture.png")
    assert (answer["label"], answer["class_name"]) == (best[0], names[best[0]])
    assert answer["score"] == pytest.approx(scores.max().item(), abs=1e-5)
    assert [name for name, _ in answer["top5"]] == [names[label] for label in best]
    assert [score for _, score in answer["top5"]] == pytest.approx(scores[best].tolist(), abs=1e-5)


def test_a_path_a_picture_an_array_and_a_tensor_give_one_answer(folder, model):
    image = Image.open(folder / "picture.png")
    pixels = np.array(image)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255

    answers = vs.infer(model, [str(folder / "picture.png"), image, pixels, tensor])

    assert [answer["path"] for answer in answers] == [str(folder / "picture.png"), None, None, None]
    assert [answer["label"] for answer in answers] == [answers[0]["label"]] * 4
    assert [answer["score"] for answer in answers] == pytest.approx([answers[0]["score"]] * 4, abs=1e-6)


def test_batches_do_not_change_the_answers_nor_their_order(model):
    images = [np.full((8, 8, 3), grey, dtype=np.uint8) for grey in (0, 60, 120, 180, 240)]

    at_once, in_pairs = vs.infer(model, images), vs.infer(model, images, batch_size=2)

    assert [answer["label"] for answer in in_pairs] == [answer["label"] for answer in at_once]
    assert [a["score"] for a in in_pairs] == pytest.approx([a["score"] for a in at_once], abs=1e-6)
    assert vs.infer(model, []) == []


@pytest.mark.parametrize(("mode", "size"), [("L", (1, 1)), ("P", (9, 5)), ("CMYK", (33, 33)), ("I;16", (6, 6))])
def test_odd_images_are_taken(model, tmp_path, mode, size):
    path = tmp_path / ("odd.jpg" if mode == "CMYK" else "odd.png")
    Image.new(mode, size).save(path)

    assert vs.infer(model, path)[0]["class_name"] in model.class_names


def test_a_name_gets_the_published_evaluation_protocol():
    import timm

    model = apis.init_model("biformer_tiny", device="cpu")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 260, 3), dtype=np.uint8))
    facts = timm.create_model("biformer_tiny").default_cfg
    expected = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=facts))(image)

    for transform in model.pipeline:
        image = transform(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]

    torch.testing.assert_close(model.data_preprocessor({"inputs": pixels})["inputs"][0], expected)
    assert model.class_names[0] == "tench, Tinca tinca"
    assert not model.training


def test_classes_without_names_are_numbered(folder):
    model = apis.init_model(folder / "config.py", folder / "weights.pth", device="cpu")

    assert model.class_names == ["class 0", "class 1", "class 2"]


def test_the_picture_of_an_answer_is_written(folder, model, tmp_path):
    image = tmp_path / "n02" / "picture.png"
    image.parent.mkdir()
    image.write_bytes((folder / "picture.png").read_bytes())

    path = apis.draw_inference(model, [image], vs.infer(model, image), tmp_path / "out" / "picture.png")

    assert Image.open(path).size[0] > 700  # the image and two routed stages


def test_a_name_without_weights_is_refused(folder):
    with pytest.raises(InputError, match=r"^biformer_nano: no checkpoint given, and a net with random weights has no"):
        vs.infer("biformer_nano", folder / "picture.png")


def test_an_unknown_name_gets_its_near_misses_among_models_and_configs():
    with pytest.raises(UnknownNameError, match=r"'biformer_tinny' is neither a config nor a model.*'biformer_tiny'"):
        apis.init_model("biformer_tinny")


def test_a_net_without_classes_is_refused():
    with pytest.raises(ConfigError, match=r"biformer_small_det is a backbone without classes"):
        apis.init_model("biformer_small_det")


def test_a_config_without_a_test_set_is_refused(tmp_path):
    (tmp_path / "config.py").write_text('model = dict(type="ImageClassifier", backbone=dict(type="biformer_nano"))')

    with pytest.raises(ConfigError, match=r"config\.py: needs `model` and `test_dataloader`"):
        apis.init_model(tmp_path / "config.py")


def test_a_wrong_key_of_the_model_is_named(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG.replace("num_classes", "num_clases"))

    with pytest.raises(ConfigError, match=r"model\.backbone\.num_clases: .* Did you mean 'num_classes'"):
        apis.init_model(tmp_path / "config.py")


def test_a_checkpoint_of_other_classes_is_refused_by_name(folder):
    with pytest.raises(CheckpointError, match=r"trained\.pth: does not fit .* you trained goes by its config"):
        apis.init_model("biformer_nano", folder / "trained.pth", device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_clear_error(folder):
    with pytest.raises(InputError, match=r"cuda: torch .* sees no GPU here"):
        apis.init_model(folder / "config.py", device="cuda")


@pytest.mark.parametrize("device", ["gpu", "meta"])
def test_an_unknown_device_is_refused(folder, device):
    with pytest.raises(InputError, match=rf"{device}: expected cpu, cuda"):
        apis.init_model(folder / "config.py", device=device)


def test_a_missing_and_a_broken_file_are_named(folder, model, tmp_path):
    (tmp_path / "cut.png").write_bytes((folder / "picture.png").read_bytes()[:500])

    with pytest.raises(DataError, match=r"nowhere\.png: no such image file"):
        vs.infer(model, [folder / "picture.png", tmp_path / "nowhere.png"])
    with pytest.raises(DataError, match=r"cut\.png: corrupt or truncated"):
        vs.infer(model, [folder / "picture.png", tmp_path / "cut.png"])


def test_an_image_in_memory_that_is_none_is_named_by_its_place(model):
    with pytest.raises(InputError, match=r"inputs\[1\]: array \(4, 4\) of float64: expected \(height"):
        vs.infer(model, [np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((4, 4))])


def test_a_plain_net_is_refused():
    with pytest.raises(InputError, match=r"Linear: expected a model of init_model"):
        vs.infer(torch.nn.Linear(2, 2), [])


def test_a_model_takes_no_second_checkpoint(folder, model):
    with pytest.raises(InputError, match=r"checkpoint goes with a name"):
        vs.infer(model, [], checkpoint=folder / "trained.pth")


def test_weights_that_are_not_numbers_give_no_answer(folder):
    model = apis.init_model(folder / "config.py", device="cpu")
    model.backbone.head.weight.data.fill_(float("nan"))

    with pytest.raises(CheckpointError, match=r"the scores are not finite numbers: the weights are broken"):
        vs.infer(model, folder / "picture.png")


def test_images_of_different_sizes_need_a_pipeline_that_fixes_one(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG.split("pipeline=")[0] + "pipeline=[]))")
    model = apis.init_model(tmp_path / "config.py", device="cpu")

    with pytest.raises(InputError, match=r"images of \(4, 4\) and \(5, 4\) pixels in one batch: .* fixes no size"):
        vs.infer(model, [np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((5, 4, 3), dtype=np.uint8)])


def test_a_batch_of_no_images_is_refused(model):
    with pytest.raises(InputError, match=r"batch_size=0: expected at least 1"):
        vs.infer(model, [], batch_size=0)


def test_train_and_test_are_calls_of_this_module_too():
    from visionsparse.engine import runner

    assert (apis.train, apis.test) == (runner.train, runner.test)
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        _ = apis.tain


def test_importing_the_calls_imports_nothing_heavy():
    script = (
        "import sys, visionsparse.apis; sys.exit(any(name in sys.modules for name in ('torch', 'mmengine', 'timm')))"
    )

    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
