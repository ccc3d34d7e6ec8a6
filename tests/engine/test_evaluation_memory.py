"""A hundred thousand samples take no more memory than two thousand, in `test` and in `infer`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).parents[2]
MIB = 2**20

SCRIPT = """
import json, resource, sys
from pathlib import Path
import torch
from PIL import Image
from torch.utils.data import Dataset
from tests.engine.tiny import TinyNet, write_config
from visionsparse.apis import init_model, test
from visionsparse.infer_files import answers, infer_files
from visionsparse.registry import DATASETS
from visionsparse.tools.infer import _write_json

@DATASETS.register_module()
class Synthetic(Dataset):
    metainfo = {"classes": ["a", "b", "c"], "class_names": ["a", "b", "c"]}

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return {"inputs": torch.full((3, 4, 4), index % 256, dtype=torch.uint8), "label": index % 3, "index": index}

loader = dict(batch_size=200, collate_fn=dict(type="default_collate"), dataset=dict(type="Synthetic", size=1))
loader["sampler"] = dict(type="EpochSampler", shuffle=False, round_up=False)
config = dict(model=dict(type="ImageClassifier", backbone=dict(type="TinyNet")), test_dataloader=loader, test_cfg={})
write_config(Path("c.py"), {**config, "test_evaluator": dict(type="ClassificationMetric")})
torch.save({"state_dict": {f"backbone.{k}": v for k, v in TinyNet().state_dict().items()}}, "c.pth")

def measured(work):
    work(2_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = work(100_000)
    return {"count": count, "grown": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)}

def evaluate(size):
    options = {"test_dataloader.dataset.size": size}
    return test("c.py", "c.pth", out=f"{size}.json", device="cpu", options=options)["num_images"]

def infer(size):
    Image.new("RGB", (4, 4)).save("one.png")
    paths = ["one.png"] * size
    model = init_model("c.py", "c.pth", device="cpu")
    model.pipeline = []
    parts = infer_files(model, paths, f"{size}.parts")
    _write_json(answers(model, paths, parts), Path(f"{size}_answers.json"))
    with open(f"{size}_answers.json") as lines:
        return sum('"path"' in line for line in lines)

print(json.dumps(measured({"test": evaluate, "infer": infer}[sys.argv[1]])))
"""


@pytest.mark.parametrize("tool", ["test", "infer"])
def test_memory_is_flat_in_the_number_of_samples(tool, tmp_path):
    (tmp_path / "run.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}

    done = subprocess.run(
        [sys.executable, "run.py", tool], cwd=tmp_path, env=environment, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["count"] == 100_000
    # a row of scores and a dict an image, as mmengine keeps them, would be over 60 MiB
    assert measured["grown"] < 24 * MIB
