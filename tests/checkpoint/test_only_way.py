"""What came in a file is read by visionsparse/checkpoint alone: no other code can be made to run what a pickle says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("visionsparse", "models", "tools", "configs", "scripts", "benchmarks")
READER = Path("visionsparse/checkpoint/reading.py")  # calls torch.load, behind its checks and with weights_only=True
CONFIGS = Path("visionsparse/config.py")  # calls Config.fromfile, once the file is known to hold literals only

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy", "code"}
FUNCTIONS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    *("unsafe_load", "full_load", "load_all", "read_pickle", "fromfile", "load_state_dict_from_url", "load_url"),
    *("CheckpointLoader", "_load_checkpoint", "Unpickler", "load_from_http", "load_from_local", "load_module"),
}
LOADERS = {"torch", "jit", "hub", "package", "yaml", "mmengine", "fileio", "serialization"}


def python_files() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if not any((ROOT / folder / part).is_symlink() for part in path.relative_to(ROOT / folder).parts[:1]):
                yield path.relative_to(ROOT)


def ways_to_run_a_file(source: str) -> list[str]:
    """What in the source reads pickles or runs text, as `line: code`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        is_way = False
        if isinstance(node, ast.Import):
            is_way = any(alias.name.split(".")[0] in MODULES for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            module = node.module or ""
            is_way = module.split(".")[0] in MODULES or bool(names & METHODS)
            is_way |= "load_checkpoint" in names and module.split(".")[0] != "visionsparse"
            is_way |= "load" in names and module.split(".")[0] in LOADERS
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            is_way = node.func.id in FUNCTIONS
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).split(".")[-1]
            is_way = node.attr in METHODS or (node.attr == "load" and owner in LOADERS)
        elif isinstance(node, ast.keyword):
            is_way = node.arg == "allow_pickle" and getattr(node.value, "value", None) is not False
            is_way |= node.arg == "weights_only" and getattr(node.value, "value", None) is not True
        if is_way:
            found.append(f"{getattr(node, 'lineno', 0)}: {ast.unparse(node)}")
    return found


def test_no_other_code_reads_pickles_or_runs_text() -> None:
    ways = {path: ways_to_run_a_file((ROOT / path).read_text()) for path in python_files()}

    assert len(ways) > 50
    assert [way.partition(": ")[2] for way in ways.pop(READER)] == ["import pickle", "torch.load"]
    assert [way.partition(": ")[2] for way in ways.pop(CONFIGS)] == ["Config.fromfile"]
    assert not {path: found for path, found in ways.items() if found}


def test_the_search_finds_what_it_looks_for() -> None:
    for way in (
        "import torch\nx = torch.load(path)",
        "from torch import load",
        "torch.hub.load('a/b', 'c')",
        "torch.load(path, weights_only=False)",
        "import pickle as p",
        "from pickle import loads",
        "import joblib",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "Config.fromfile(path)",
        "from mmengine.runner import load_checkpoint",
        "from mmengine.runner.checkpoint import CheckpointLoader",
        "torch.hub.load_state_dict_from_url(url)",
    ):
        assert ways_to_run_a_file(way), way
    assert not ways_to_run_a_file("model.eval()\nyaml.safe_load(text)\nnp.load(path, allow_pickle=False)")
