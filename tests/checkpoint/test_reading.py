"""Reading checkpoint files that are broken or hostile: one line of error, no code run, no memory taken."""

from __future__ import annotations

import argparse
import collections
import http.server
import io
import os
import pickle
import resource
import struct
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors.torch
import torch

from visionsparse.checkpoint.reading import read_checkpoint
from visionsparse.errors import CheckpointError

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # what a legacy torch file starts with


def plain_content() -> dict[str, Any]:
    weight = torch.arange(6.0).reshape(2, 3)
    state = collections.OrderedDict(weight=weight, tied=weight, strided=weight.t()[1:], half=weight.bfloat16())
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    return {
        "model": state,
        "optimizer": {"step": torch.tensor(3), "lrs": [0.1, 1e-3], "milestones": collections.Counter([3, 3, 5])},
        "args": argparse.Namespace(lr=0.1, names=["a"], betas=(0.9, 0.999)),
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "classes": {1, 2},
        "epoch": 2**70,
        "parameter": torch.nn.Parameter(torch.zeros(0, 2)),
        "none": None,
    }


def refusal(path: Path | str) -> str:
    """The one line that `path` is refused with."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def zip_of(path: Path, data_pkl: bytes, *others: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in [("archive/data.pkl", data_pkl), ("archive/version", b"3\n"), *others]:
            archive.writestr(name, data)
    return path


def asks_for(function: Any, *arguments: Any, protocol: int = 2) -> bytes:
    """A pickle of `{"model": function(*arguments)}`."""

    class Call:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return function, arguments

    return pickle.dumps({"model": Call()}, protocol=protocol)


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_all_that_a_training_file_holds_is_read(tmp_path: Path, is_zip: bool) -> None:
    content = plain_content()
    torch.save(content, tmp_path / "last.pth", _use_new_zipfile_serialization=is_zip)

    found = read_checkpoint(tmp_path / "last.pth")

    assert found.keys() == content.keys()
    assert all(torch.equal(found["model"][name], tensor) for name, tensor in content["model"].items())
    assert found["model"]["weight"].data_ptr() == found["model"]["tied"].data_ptr()
    simple = content.keys() - {"model", "optimizer", "parameter"}
    assert {key: found[key] for key in simple} == {key: content[key] for key in simple}


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_the_format_is_told_by_content_not_by_name(tmp_path: Path, name: str) -> None:
    tensors = {"weight": torch.ones(2, 3)}
    (tmp_path / name).write_bytes(safetensors.torch.save(tensors))
    torch.save(tensors, tmp_path / f"torch-{name}")

    for path in (tmp_path / name, tmp_path / f"torch-{name}"):
        assert torch.equal(read_checkpoint(path)["weight"], tensors["weight"])


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3, 0.6, 0.95, 0.999])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, form: str, fraction: float) -> None:
    path = tmp_path / "cut.pth"
    if form == "safetensors":
        path.write_bytes(safetensors.torch.save({"weight": torch.ones(100)}))
    else:
        torch.save({"weight": torch.ones(100)}, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()

    path.write_bytes(whole[: int(len(whole) * fraction)])

    assert "Download or copy it again" in refusal(path)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_a_flipped_bit_is_refused_or_does_no_harm(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "flipped.pth"
    torch.save({"weight": torch.ones(4), "bias": torch.ones(2)}, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()

    for position in range(0, len(whole), 7 if is_zip else 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :])
        try:
            content = read_checkpoint(path)
        except CheckpointError:
            continue
        is_unharmed = content.keys() == {"weight", "bias"} and all(bool((x == 1).all()) for x in content.values())
        assert is_unharmed or not is_zip  # the legacy format has no checksums


@pytest.mark.parametrize(("protocol", "named"), [(0, "DICT"), (2, "posix.system"), (4, "posix.system")])
@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, form: str, protocol: int, named: str) -> None:
    ran = tmp_path / "ran"
    hostile = asks_for(os.system, f"touch {ran}", protocol=protocol)
    path = tmp_path / "hostile.pth"
    if form == "zip":
        zip_of(path, hostile)
    else:
        start = b"".join(pickle.dumps(part, protocol=2) for part in (MAGIC, VERSION, {}))
        path.write_bytes((start if form == "legacy" else b"") + hostile)

    message = refusal(path)

    assert not ran.exists()
    assert named in message or form == "plain pickle"


@pytest.mark.parametrize(
    ("hostile", "named"),
    [
        (asks_for(bytearray, 2**31), "builtins.bytearray"),
        (asks_for(getattr, {}, "clear"), "builtins.getattr"),
        (asks_for(eval, "1"), "builtins.eval"),
        (asks_for(torch.UntypedStorage, 2**31), "UntypedStorage"),
        (asks_for(torch.Tensor, 2**30), "torch.Tensor"),
        (asks_for(numpy.zeros, 2**31), "numpy.zeros"),
        (opcodes(b"(X\x01\x00\x00\x00aios\nsystem\n"), "os.system"),
        (opcodes(b"ctorch\nfloat32\n)R"), "torch.float32"),
        (opcodes(b"ctorch._utils\n_rebuild_parameter\n(]\x89Nt", b"R"), "_rebuild_parameter"),
        (opcodes(b"cargparse\nNamespace\n(K\x01t\x81"), "Namespace"),
        (opcodes(b"cargparse\nNamespace\n)\x81](K\x01eb"), "no dict"),
        (opcodes(b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsNsb"), "_metadata"),
        (opcodes(b"](" + b"N" * 400 + b"eq\x00", b"(" + b"cbuiltins\nset\nh\x00\x85R" * 40 + b"t"), "swell"),
        (opcodes(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NJ\xff\xff\xff\x7ftQ"), "bytes"),
        (opcodes(b"X\x06\x00\x00\x00moduleQ"), "no storage"),
    ],
)  # fmt: skip
def test_a_pickle_gets_nothing_but_what_weights_need(tmp_path: Path, hostile: bytes, named: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    message = refusal(zip_of(tmp_path / "hostile.pth", hostile))

    assert named in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB: a quarter of a GiB


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (7,), (1,)), (5, (2,), (1,)), (0, (2, 2), (5, 1)), (-1, (1,), (1,)), (0, (2,), (-1,)), (0, (2,), (1, 1))],
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(
    tmp_path: Path, offset: int, size: Any, stride: Any
) -> None:
    class Reaching:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, collections.OrderedDict())

    storage = torch.ones(6).untyped_storage()
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=2)
    pickler.persistent_id = lambda value: ("storage", torch.FloatStorage, "0", "cpu", 6) if value is storage else None  # type: ignore[method-assign]
    pickler.dump({"weight": Reaching()})

    message = refusal(zip_of(tmp_path / "reaching.pth", buffer.getvalue(), ("archive/data/0", bytes(24))))

    assert "storage" in message


@pytest.mark.parametrize(
    "name",
    ["../x", "archive/../x", "/x", "archive//x", "archive\\..\\x", "other/x", "archive/DATA.pkl", "archive/a\n"],
)
def test_a_zip_entry_of_an_odd_name_is_refused(tmp_path: Path, name: str) -> None:
    path = zip_of(tmp_path / "odd.pth", pickle.dumps({}, protocol=2), (name, b"x"))

    assert "name" in refusal(path)


def test_a_zip_entry_that_says_it_is_a_folder_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "folder.pth", pickle.dumps({}, protocol=2))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 38] |= 0x10  # the first entry's attributes
    path.write_bytes(content)

    assert "folder" in refusal(path)


def test_a_compressed_zip_is_refused_without_unpacking_it(tmp_path: Path) -> None:
    zeros = ("archive/data/0", bytes(2**24))
    path = zip_of(tmp_path / "swollen.pth", pickle.dumps({}, protocol=2), zeros, compression=zipfile.ZIP_DEFLATED)

    assert "compressed" in refusal(path)


@pytest.mark.parametrize("after", [b"x", b"PK\x05\x06" + bytes(18)])
def test_a_zip_with_something_behind_or_before_it_is_refused(tmp_path: Path, after: bytes) -> None:
    path = tmp_path / "two.pth"
    torch.save({"weight": torch.ones(2)}, path)
    whole = path.read_bytes()

    for content in (whole + after, whole + whole, b"PK\x03\x04" + whole):
        path.write_bytes(content)
        refusal(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Not Found</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (pickle.dumps({"weight": 1}), "plain pickle"),
        (bytes(257) + b"ustar" + bytes(300), "tar file"),
        (b"\x89PNG\r\n\x1a\n", "neither a torch nor a safetensors file"),
        (struct.pack("<Q", 40) + b'{"weight": {"dtype": "F32"}}'.ljust(40), "can't be read"),
    ],
)
def test_what_is_no_checkpoint_is_called_by_its_name(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)

    assert expected in refusal(path)


def test_a_file_that_holds_no_dict_or_a_program_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    zip_of(tmp_path / "program.pth", b"", ("archive/constants.pkl", b""))

    assert "holds a list, expected a dict" in refusal(tmp_path / "list.pth")
    assert "TorchScript" in refusal(tmp_path / "program.pth")


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "epoch_10.pth")

    assert "Did you mean 'epoch_10.pth'?" in refusal(tmp_path / "epoch_1.pth")
    assert "is a folder" in refusal(tmp_path)
    assert "nor is there a folder" in refusal(tmp_path / "gone" / "a.pth")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_url_is_fetched_once_into_the_cache(tmp_path: Path, hub_cache: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "best.pth")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/best.pth"
        found = [read_checkpoint(url) for _ in range(2)]
        with pytest.raises(CheckpointError, match=r"/gone\.pth: can't be fetched: .*404"):
            read_checkpoint(url.replace("best", "gone"))
        server.shutdown()

    assert all(torch.equal(content["weight"], torch.ones(2)) for content in found)
    assert asked.count("/best.pth") == 1
    assert len(list(hub_cache.rglob("*best.pth"))) == 1


def test_a_url_that_nobody_answers_is_one_line(hub_cache: Path) -> None:
    assert "can't be fetched" in refusal("http://127.0.0.1:9/best.pth")
