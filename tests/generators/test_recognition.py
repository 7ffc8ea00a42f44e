"""Reading weights without executing them, and recognising whose they are."""

from __future__ import annotations

import importlib
import io
import json
import pickle
import pickletools
import struct
import time
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from gansdk.contracts import Contract
from gansdk.errors import CheckpointError, CheckpointMismatch, Unsupported
from gansdk.generators.recognition import detect, recognise
from gansdk.generators.wrapping import WrappedAdapter
from gansdk.interfaces import Variant
from gansdk.modules.weights import CONTAINERS, read_state, read_weights
from gansdk_adapters.networks.edsr import EDSR, EDSRSizes
from gansdk_adapters.networks.sizes import Sizes
from gansdk_adapters.networks.srresnet import MSRResNet, SRResNet, SRResNetSizes
from gansdk_adapters.networks.vdsr import VDSR
from gansdk_adapters.sr import SuperResolution

WEIGHTS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.tensor([1.0, 2.0])}


def adapters():
    return {"sr": SuperResolution()}


def same(state, expected=WEIGHTS):
    return list(state) == list(expected) and all(torch.equal(state[key], expected[key]) for key in expected)


class Theirs(nn.Module):
    """Somebody else's VDSR: the published keys, another class."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        blocks = [nn.Sequential(OrderedDict(conv=nn.Conv2d(4, 4, 3, padding=1, bias=False))) for _ in range(2)]
        self.residual_layer = nn.Sequential(*blocks)
        self.output = nn.Conv2d(4, 1, 3, padding=1, bias=False)

    def forward(self, x):
        return x + self.output(self.residual_layer(F.relu(self.input(x))))


# Files.


@pytest.mark.parametrize("suffix", ["pth", "pt", "ckpt", "safetensors"])
def test_weights_are_read_from_every_kind_of_file(tmp_path, suffix):
    path = tmp_path / f"net.{suffix}"
    if suffix == "safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path)
    state = read_state(path)
    assert sorted(state) == sorted(WEIGHTS)
    assert all(torch.equal(state[key], WEIGHTS[key]) for key in WEIGHTS)
    assert same(read_state(str(path)), state)


def test_the_old_file_format_of_torch_is_read(tmp_path):
    torch.save(WEIGHTS, tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    assert same(read_state(tmp_path / "net.pth"))


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_are_opened(tmp_path, container):
    torch.save({"epoch": 3, container: WEIGHTS, "optimizer": {"state": {}}}, tmp_path / "net.pth")
    assert same(read_state(tmp_path / "net.pth"))


@pytest.mark.parametrize("container", ["net", "weights", "model_state", "generator_weights"])
def test_the_only_network_of_a_file_is_found_under_any_key_and_its_place_is_told(tmp_path, container):
    optimiser = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 1e-4}]}
    content = {"step": torch.tensor(3), "optim": optimiser, "nested": {container: WEIGHTS}, "loss": torch.ones(4)}
    torch.save(content, tmp_path / "net.pth")
    assert same(read_state(tmp_path / "net.pth"))
    assert read_weights(tmp_path / "net.pth")[1] == f"nested.{container}"


def test_of_several_networks_the_generator_must_be_told(tmp_path):
    torch.save({"first": WEIGHTS, "second": WEIGHTS}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"several networks \(first, second\)"):
        read_state(tmp_path / "net.pth")
    raw = {key: tensor + 1 for key, tensor in WEIGHTS.items()}
    torch.save({"g": raw, "d": raw, "g_ema": WEIGHTS}, tmp_path / "net.pth")
    assert same(read_state(tmp_path / "net.pth"))


def test_a_count_under_a_number_is_left_out_and_weights_there_are_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(2, 2), 7: torch.zeros(())}, tmp_path / "net.pth")
    assert set(read_state(tmp_path / "net.pth")) == {"conv.weight"}
    torch.save({"conv.weight": torch.zeros(2, 2), 7: torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="neither named tensors"):
        read_state(tmp_path / "net.pth")


def test_a_step_among_the_weights_is_left_out_and_scalars_of_layers_stay(tmp_path):
    torch.save({"step": torch.tensor(3), **WEIGHTS, "norm.count": torch.tensor(1)}, tmp_path / "net.pth")
    assert same(read_state(tmp_path / "net.pth"), {**WEIGHTS, "norm.count": torch.tensor(1)})


def test_a_container_that_holds_itself_is_refused(tmp_path):
    endless = {}
    endless["model"] = endless["other"] = endless
    torch.save(endless, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="named tensors"):
        read_state(tmp_path / "net.pth")


def test_averaged_weights_are_preferred_and_nesting_is_followed(tmp_path):
    raw = {key: tensor + 1 for key, tensor in WEIGHTS.items()}
    torch.save({"model": {"params": raw, "params_ema": WEIGHTS}}, tmp_path / "net.pth")
    assert same(read_state(tmp_path / "net.pth"))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed(tmp_path, prefix):
    torch.save({f"{prefix}{key}": tensor for key, tensor in WEIGHTS.items()}, tmp_path / "net.pth")
    assert same(read_state(tmp_path / "net.pth"))


def test_a_part_called_module_keeps_its_name(tmp_path):
    weights = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    torch.save(weights, tmp_path / "net.pth")
    assert same(read_state(tmp_path / "net.pth"), weights)


def test_numbers_beside_the_weights_are_left_out_and_parameters_become_tensors(tmp_path):
    parameters = {key: nn.Parameter(tensor) for key, tensor in WEIGHTS.items()}
    torch.save({"epoch": 3, **parameters}, tmp_path / "net.pth")
    state = read_state(tmp_path / "net.pth")
    assert same(state)
    assert not any(tensor.requires_grad for tensor in state.values())


def unreadable(tmp_path):
    whole, cut, cut_safe = tmp_path / "whole.pth", tmp_path / "cut.pth", tmp_path / "cut.safetensors"
    torch.save(nn.Conv2d(1, 1, 1), whole)
    torch.save(WEIGHTS, cut)
    cut.write_bytes(cut.read_bytes()[:-200])
    save_file(WEIGHTS, cut_safe)
    cut_safe.write_bytes(cut_safe.read_bytes()[:-4])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "image.pth").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    (tmp_path / "code.pth").write_bytes(pickle.dumps(print))
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    torch.save({}, tmp_path / "nothing.pth")
    torch.save({"epoch": 3, "other": {"G": "elsewhere"}}, tmp_path / "unknown.pth")
    torch.save({0: torch.ones(1)}, tmp_path / "numbered.pth")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.pth", "no file"),
        ("folder", "folder"),
        ("whole.pth", r"torch\.save\(net\.state_dict"),
        ("code.pth", r"torch\.save\(net\.state_dict"),
        ("cut.pth", "truncated"),
        ("cut.safetensors", "truncated"),
        ("empty.pth", "not a checkpoint"),
        ("empty.safetensors", "safetensors"),
        ("text.pth", "not a checkpoint"),
        ("image.pth", "not a checkpoint"),
        ("list.pth", "a list"),
        ("nothing.pth", "nothing"),
        ("unknown.pth", "'epoch', 'other'"),
        ("numbered.pth", "named tensors"),
    ],
)
def test_what_is_no_state_dict_is_refused_in_one_paragraph(tmp_path, name, words):
    with pytest.raises(CheckpointError, match=words) as refusal:
        read_state(unreadable(tmp_path) / name)
    assert "\n" not in str(refusal.value)
    assert name in str(refusal.value)


def test_a_checkpoint_is_never_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (type(tmp_path).mkdir, (tmp_path / "executed",))

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError):
        read_state(tmp_path / "bomb.pth")
    assert not (tmp_path / "executed").exists()


@given(cut=st.integers(0, 1500), flip=st.integers(0, 1500), value=st.integers(0, 255))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path_factory, cut, flip, value):
    path = tmp_path_factory.mktemp("damaged") / "net.pth"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=cut % 2 == 0)
    content = bytearray(path.read_bytes())
    content[flip % len(content)] = value
    path.write_bytes(content[: len(content) - cut // 4])
    try:
        state = read_state(path)
    except CheckpointError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


# Files that were made to do harm.


def deep(file, content: bytes) -> None:
    """torch's archive around a pickle written by hand."""
    torch.save({}, file)
    repacked(file, {"data.pkl": content})


def repacked(file, changes, compression=zipfile.ZIP_STORED) -> None:
    """The archive with the contents of some records replaced, by the end of their names."""
    with zipfile.ZipFile(file) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(file, "w", compression) as new:
        for name, content in records.items():
            new.writestr(name, next((text for end, text in changes.items() if name.endswith(end)), content))


def bomb(file) -> None:
    torch.save({"a.weight": torch.zeros(2, 2)}, file)
    repacked(file, {"data/0": bytes(5 * 10**7)}, zipfile.ZIP_DEFLATED)


def hole(file) -> None:
    torch.save(WEIGHTS, file)
    with file.open("r+b") as opened:
        opened.truncate(12 * 2**30)


def made_of(name: str, *arguments: object):
    """What unpickles as a call of the function with that name."""
    module, _, kind = name.rpartition(".")
    function = getattr(importlib.import_module(module), kind)
    return type("Made", (), {"__reduce__": lambda self: (function, arguments)})()


def exploding() -> dict:
    inner = {"x": 1}
    for _ in range(5):
        inner = {f"key{index}": inner for index in range(300)}
    return inner


def called(name: str, *arguments: bytes) -> bytes:
    """A call of that global, in the words of a pickle."""
    module, _, kind = name.rpartition(".")
    return f"c{module}\n{kind}\n(".encode() + b"".join(arguments) + b"tR"


def text(content: str) -> bytes:
    encoded = content.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def valued(value: bytes) -> bytes:
    """A state dict with that for its only weight."""
    return b"\x80\x02}" + text("conv.weight") + value + b"s."


SHARED = b"K\x01" + b"".join(b"q" + bytes([index]) + b"h" + bytes([index]) + b"\x86" for index in range(60))
"""A tuple of itself, of itself and so on: small to write and endless to hash."""
MADE = {
    "numbers called a tensor": called("torch.FloatTensor", number(4), number(4)),
    "gigabytes called a tensor": called("torch.FloatTensor", number(100_000), number(10_000)),
    "a tensor of no file": called("torch.Tensor", number(4)),
    "a tensor that grows": called("torch.Tensor", number(1))
    + b"("
    + called("torch.Tensor", number(1))
    + number(0)
    + b"(M\xf4\x01t(K\x01ttb",
    "whole numbers called a tensor": called("torch.LongTensor", number(4)),
    "a storage of no file": called("torch.FloatStorage", number(4)),
    "a rebuilt type": called("torch._tensor._rebuild_from_type_v2", b"ctorch\nFloatTensor\n" * 2, b"(K\x04t", b"}"),
    "counted text": called("collections.Counter", text("abc")),
    "punycode": called("_codecs.encode", text("".join(chr(0x4E00 + index % 20_000) for index in range(50_000))))[:-2]
    + text("punycode")
    + b"tR",
    "a tuple as a key": b"}" + SHARED + b"K\x01s",
    "a tuple as a key of pairs": called("collections.OrderedDict", b"](" + SHARED + b"K\x01\x86e"),
    "numbers of one hash as keys": b"}("
    + b"".join(b"\x8a\x0c" + (index * (2**61 - 1)).to_bytes(12, "little") + b"N" for index in range(2, 10**5))
    + b"u",
    "a tuple in a set": called("__builtin__.set", b"](" + SHARED + b"e"),
    "a dict without its methods": called("collections.OrderedDict") + b"}" + text("items") + b"K\x01sb",
    "a function among the values": b"]ccollections\nOrderedDict\na",
    "a storage that is not there": b"(("
    + text("storage")
    + b"ctorch\nFloatStorage\n"
    + text("9")
    + text("cpu")
    + b"K\x04tQ",
}


def replaced_keys(file, keys: bytes, *, data: bool) -> None:
    """The old format with another list of storages, with or without their bytes."""
    torch.save(WEIGHTS, file, _use_new_zipfile_serialization=False)
    content = io.BytesIO(file.read_bytes())
    for _ in range(4):
        list(pickletools.genops(content))
    begin = content.tell()
    list(pickletools.genops(content))
    file.write_bytes(content.getvalue()[:begin] + keys + (content.read() if data else b""))


def many_entries(file, count: int = 400_000) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"a{index}": entry for index in range(count)}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)


HARMFUL = {
    **{name: lambda file, value=value: deep(file, valued(value)) for name, value in MADE.items()},
    "old format without values": lambda file: replaced_keys(file, pickle.dumps([], 2), data=False),
    "old format with values of nothing": lambda file: replaced_keys(file, pickle.dumps(["1", "2"], 2), data=True),
    "deep tuples as a key": lambda file: deep(file, b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s."),
    "deep tuples, kept and fetched": lambda file: deep(file, b"\x80\x02})" + b"\x85q\x000h\x00" * 10**5 + b"K\x01s."),
    "deep lists": lambda file: deep(file, b"\x80\x02}X\x01\0\0\0a" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"s."),
    "archive that unpacks to more": bomb,
    "hole": hole,
    "stride of 0": lambda file: torch.save({"a.weight": torch.zeros(1).expand(20_000, 20_000, 3, 3)}, file),
    "stride of 0, old format": lambda file: torch.save(
        {"a.weight": torch.zeros(1).expand(20_000, 20_000)}, file, _use_new_zipfile_serialization=False
    ),
    "a thousand names of one tensor": lambda file: torch.save(
        dict.fromkeys((f"a{index}.weight" for index in range(1000)), torch.zeros(500, 500)), file
    ),
    "overlapping windows": lambda file: torch.save({"a.weight": torch.zeros(20_000).unfold(0, 10_000, 1)}, file),
    "nested": lambda file: torch.save({"a.weight": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])}, file),
    "quantized": lambda file: torch.save(
        {"a.weight": torch.quantize_per_tensor(torch.zeros(2, 2), 0.1, 0, torch.qint8)}, file
    ),
    "complex": lambda file: torch.save({"a.weight": torch.zeros(2, 2, dtype=torch.complex64)}, file),
    "key with NUL": lambda file: torch.save({"a\0.weight": torch.zeros(2, 2)}, file),
    "key of a megabyte": lambda file: torch.save({"a" * 10**6 + ".weight": torch.zeros(2, 2)}, file),
    "keys that are no text": lambda file: torch.save({("a" * 10**6,): torch.zeros(2, 2)}, file),
    "container of a megabyte": lambda file: torch.save({"a" * 10**6: {"b" * 10**6: 3}}, file),
    "tensor as a key": lambda file: torch.save({torch.zeros(2): torch.zeros(2, 2)}, file),
    "shared references": lambda file: torch.save(exploding(), file),
    "endless container": lambda file: torch.save({"x": 1, **loop()}, file),
    "very many tensors": lambda file: torch.save(
        dict.fromkeys((f"body.{index}.conv1.weight" for index in range(20_000)), torch.zeros(1, 1, 1, 1)), file
    ),
}


def loop() -> dict:
    endless: dict = {}
    endless.update({f"key{index}": endless for index in range(50)})
    return endless


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", HARMFUL.values(), ids=HARMFUL)
def test_what_claims_more_than_it_holds_or_nests_without_end_is_refused_at_once(tmp_path, make):
    make(tmp_path / "net.pth")
    began = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        read_state(tmp_path / "net.pth")
    assert time.monotonic() - began < 20
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_a_number_is_never_made_into_memory(tmp_path):
    torch.save({"a": made_of("builtins.bytearray", 10)}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="weights do not have"):
        read_state(tmp_path / "net.pth")


@pytest.mark.parametrize("count", [41_000, 400_000])
def test_a_safetensors_file_of_too_many_tensors_is_refused_at_once(tmp_path, count):
    many_entries(tmp_path / "net.safetensors", count)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="its header"):
        read_state(tmp_path / "net.safetensors")
    assert time.monotonic() - began < 20


def beside() -> dict:
    """What trainers keep beside the weights."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    adam = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 1, 4, 4)).sum().backward()
    adam.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [2, 2, 3])
    return {
        "optimizer": adam.state_dict(),
        "scheduler": schedule.state_dict(),
        "others": [torch.Size([3]), torch.float32, torch.device("cuda:0"), b"\xff", {1, 2}, 1j, (None, True, 2**70)],
        "network": network.state_dict(),
    }


@pytest.mark.parametrize(
    ("dtype", "is_zip"),
    [
        *((dtype, is_zip) for dtype in (torch.float32, torch.float16, torch.bfloat16) for is_zip in (True, False)),
        (torch.float8_e4m3fn, True),  # torch itself cannot read its old format of these
    ],
)
def test_what_trainers_keep_beside_the_weights_does_not_hinder_reading_them(tmp_path, dtype, is_zip):
    content = {**beside(), "shared": torch.zeros(4)[1:], "empty": torch.zeros(0, 3)}
    weights = {key: tensor.to(dtype) for key, tensor in content.pop("network").items()}
    content["params"] = OrderedDict(weights)
    content["params"]._metadata = OrderedDict({"": {"version": 1}})
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=is_zip)
    state = read_state(tmp_path / "net.pth")
    assert list(state) == list(weights)
    assert all(torch.equal(state[key].float(), weights[key].float()) for key in weights)


def test_parameters_with_attributes_are_read(tmp_path):
    parameters = {key: nn.Parameter(tensor) for key, tensor in WEIGHTS.items()}
    parameters["conv.weight"].is_sharded_by = 3
    torch.save(parameters, tmp_path / "net.pth")
    assert same(read_state(tmp_path / "net.pth"))


def test_dicts_that_python_2_wrote_as_pairs_are_read(tmp_path):
    pairs = [[key, tensor] for key, tensor in WEIGHTS.items()]
    torch.save(made_of("collections.OrderedDict", pairs), tmp_path / "net.pth")
    assert same(read_state(tmp_path / "net.pth"))


def test_a_safetensors_file_that_is_a_hole_is_refused_unread(tmp_path):
    header = json.dumps({"a.weight": {"dtype": "F32", "shape": [3 * 2**30], "data_offsets": [0, 12 * 2**30]}}).encode()
    with (tmp_path / "net.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 12 * 2**30)
    with pytest.raises(CheckpointError, match="are on the disk"):
        read_state(tmp_path / "net.safetensors")


def test_tied_weights_are_read(tmp_path):
    shared = torch.rand(4, 4)
    torch.save({f"block{index}.weight": shared for index in range(30)}, tmp_path / "net.pth")
    assert len(read_state(tmp_path / "net.pth")) == 30


def test_a_network_that_a_few_tensors_cannot_fill_is_not_built(monkeypatch):
    endless = Variant(name="endless", build=lambda: nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(10**7))))
    monkeypatch.setattr(SuperResolution, "variants", lambda self, state: [endless])
    with pytest.raises(CheckpointError, match="more parts than the 2 tensors of the checkpoint"):
        recognise(WEIGHTS, adapters())


# Recognition.


def test_a_checkpoint_without_batch_counters_loads():
    state = SRResNet(SRResNetSizes(width=2, blocks=1, scale=2)).state_dict()
    old = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    loaded = recognise(old, adapters()).module.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_half_precision_weights_become_float32():
    network = VDSR(Sizes(width=4, blocks=2, channels=1))
    halves = {key: tensor.half() for key, tensor in network.state_dict().items()}
    loaded = recognise(halves, adapters()).module.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in loaded.values())
    assert all(torch.equal(loaded[key], halves[key].float()) for key in halves)


def test_weights_of_whole_numbers_are_no_weights():
    state = MSRResNet(Sizes(width=4, blocks=2, scale=2)).state_dict()
    state["conv_last.bias"] = state["conv_last.bias"].to(torch.int8)
    with pytest.raises(CheckpointMismatch, match=r"conv_last\.bias holds torch\.int8 values"):
        recognise(state, adapters())


@pytest.mark.parametrize("hollow", [lambda: torch.zeros(2, 2).to_sparse(), lambda: torch.zeros(2, device="meta")])
def test_sparse_tensors_and_those_without_values_are_refused_by_name(tmp_path, hollow):
    torch.save({"a": torch.zeros(2), "b": hollow()}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"sparse or have no values, 'b'"):
        read_state(tmp_path / "net.pth")


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_program_of_torchscript_is_called_one(tmp_path):
    torch.jit.script(nn.Conv2d(3, 3, 1)).save(tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="TorchScript program") as raised:
        read_state(tmp_path / "net.pt")
    assert "weights_only" not in str(raised.value)


def test_recognising_leaves_the_weights_and_the_global_random_numbers_alone():
    state = EDSR(EDSRSizes(width=2, blocks=1, scale=2)).state_dict()
    copies = {key: tensor.clone() for key, tensor in state.items()}
    before = torch.get_rng_state()
    generator = recognise(state, adapters(), "edsr.pth")
    assert torch.equal(torch.get_rng_state(), before)
    for tensor in generator.module.state_dict().values():
        tensor.add_(1)
    assert same(state, copies)
    assert generator.source == "edsr.pth"


def test_the_adapter_of_a_generator_knows_its_scale():
    generator = recognise(EDSR(EDSRSizes(width=2, blocks=1, scale=3)).state_dict(), adapters())
    assert generator.adapter.degrade(torch.ones(1, 3, 12, 12)).shape == (1, 3, 4, 4)


def test_a_wrong_checkpoint_is_refused_naming_the_nearest_and_what_differs():
    state = dict(EDSR(EDSRSizes(width=4, blocks=2, scale=2)).state_dict())
    state["tail.1.weight"] = torch.zeros(3, 4, 5, 5)
    state["body.0.body.3.weight"] = state.pop("body.1.body.2.weight")
    with pytest.raises(CheckpointMismatch) as refusal:
        recognise(state, adapters(), "mine.pth")
    message = str(refusal.value)
    assert "mine.pth" in message
    assert "EDSR x2, 4 channels, 2 blocks of the adapter 'sr', but 3 keys differ" in message
    assert "tail.1.weight is (3, 4, 5, 5) instead of (3, 4, 3, 3)" in message
    assert "body.1.body.2.weight (4, 4, 3, 3) is missing" in message
    assert "body.0.body.3.weight (4, 4, 3, 3) is unexpected" in message
    assert "\n" not in message


def test_only_the_first_five_differences_are_listed():
    state = dict(EDSR(EDSRSizes(width=4, blocks=2, scale=2)).state_dict())
    state |= {f"extra.{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(CheckpointMismatch, match="9 keys differ") as refusal:
        recognise(state, adapters())
    assert str(refusal.value).count("unexpected") == 5


@pytest.mark.parametrize("known", [{}, {"sr": SuperResolution()}], ids=["no-adapters", "sr"])
def test_a_checkpoint_like_nothing_known_is_refused_with_its_keys(known):
    with pytest.raises(CheckpointMismatch, match=r"conv\.weight \(2, 3\)"):
        recognise(WEIGHTS, known)


# Modules.


def test_a_network_of_the_family_is_detected_by_type_and_kept():
    network = VDSR(Sizes(width=4, blocks=2, channels=1))
    generator = detect(network, adapters())
    assert generator.module is network
    assert generator.taps == {"stem": "input", "body1": "residual_layer.0", "body2": "residual_layer.1"}
    assert generator.source.endswith("VDSR")


def test_anothers_class_with_the_published_keys_is_detected_and_kept():
    network = Theirs()
    generator = detect(network, adapters())
    assert generator.module is network
    assert generator.contract == SuperResolution().contract(VDSR(Sizes(width=4, blocks=2, channels=1)))
    assert generator.taps == {"stem": "input", "body1": "residual_layer.0", "body2": "residual_layer.1"}
    adapter = generator.adapter
    assert adapter.accepts(network)
    assert adapter.contract(network) == generator.contract
    assert adapter.rebuild(network, width=2).sizes.width == 8
    assert adapter.degrade(torch.ones(1, 1, 8, 8)).shape == (1, 1, 8, 8)
    with pytest.raises(Unsupported):
        adapter.describe(network)


class Renamed(nn.Module):
    """MSRResNet with the part names of MMSR."""

    def __init__(self) -> None:
        super().__init__()
        for name, part in MSRResNet(Sizes(width=4, blocks=2, scale=2)).named_children():
            self.add_module({"body": "recon_trunk", "conv_hr": "HRconv"}.get(name, name), part)


def test_taps_follow_the_names_of_anothers_class():
    generator = detect(Renamed(), adapters())
    assert generator.taps == {"stem": "conv_first", "body1": "recon_trunk.0", "body2": "recon_trunk.1"}


def test_taps_that_anothers_class_does_not_have_are_left_out():
    class Bare(nn.Module):
        """Holds the weights of `Theirs` without its parts."""

        def state_dict(self, *args, **kwargs):
            return Theirs().state_dict()

    assert detect(Bare(), adapters()).taps == {}


def test_an_unknown_module_is_not_detected():
    assert detect(nn.Conv2d(3, 3, 3), adapters()) is None
    assert detect(nn.ReLU(), adapters()) is None


def test_an_adapter_without_binding_serves_as_it_is():
    adapter = WrappedAdapter(Contract(channels_in=3, channels_out=3, size=(8, 8)), {})
    network = nn.Conv2d(3, 3, 1)
    generator = detect(network, {"wrapped": adapter})
    assert generator.adapter is adapter
    assert generator.contract.size == (8, 8)
