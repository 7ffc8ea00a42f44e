"""Programs that somebody else sent: read without running anything of them."""

import io
import json
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.contracts import Contract
from gansdk.errors import CheckpointError, Unsupported
from gansdk.modules.inference import inference_form
from gansdk.modules.programs import file as program_file
from gansdk.modules.programs.file import read_program
from gansdk.modules.programs.guards import guarded
from gansdk.modules.programs.operators import ALLOWED, operator_named
from gansdk.modules.programs.program import load_program, save_program, trace_program
from gansdk.testing.networks import NETWORKS

CONTRACT = Contract(channels_in=3, channels_out=3, size=(16, 16), scale=2, multiple_of=2)
GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


class SkipNet(nn.Module):
    """Half the size and back, beside a skip; a tied weight, a list of tensors, sizes that are computed, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.PReLU(4))
        self.up = nn.ConvTranspose2d(4, 4, 4, 2, 1)
        self.out = nn.Conv2d(7, 3, 3, padding=1)
        self.again = nn.Conv2d(3, 3, 3, padding=1)
        self.other = nn.Conv2d(3, 3, 3, padding=1)
        self.other.weight = self.again.weight
        self.register_buffer("mean", torch.rand(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        image = torch.tanh(self.out(torch.cat([self.up(self.down(x)), x - self.mean], 1)))
        first, second = torch.chunk(self.other(self.again(image)).relu_(), 2, dim=3)
        image = image + torch.cat([first, second], 3) + torch.tensor([0.5])
        height, width = x.shape[-2:]
        return F.interpolate(image, size=(2 * height, width * 2), mode="bicubic", align_corners=False)


def fresh() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SkipNet().eval()


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def program() -> bytes:
    return save_program(trace_program(inference_form(fresh(), CONTRACT), CONTRACT))


def changed(program: bytes, name: str, change) -> bytes:
    """The archive with one record replaced, or added."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as old, zipfile.ZipFile(buffer, "w") as new:
        root = old.namelist()[0].split("/")[0]
        names = dict.fromkeys([*old.namelist(), f"{root}/{name}"])
        for record in names:
            content = old.read(record) if record in old.namelist() else b""
            new.writestr(record, change(content) if record == f"{root}/{name}" else content)
    return buffer.getvalue()


def replaced(old: str, new: str):
    def change(content: bytes) -> bytes:
        text = content.decode()
        assert old in text
        return text.replace(old, new, 1).encode()

    return change


def pickled(path: Path) -> bytes:
    """A pickle that makes a file when it is read."""

    class Touch:
        def __reduce__(self):
            return (Path.touch, (path,))

    buffer = io.BytesIO()
    torch.save((Touch(),), buffer)
    return buffer.getvalue()


def test_a_program_without_pickles_is_read_back_and_takes_any_size(program, tmp_path):
    (tmp_path / "model.pt2").write_bytes(program)
    loaded = load_program((tmp_path / "model.pt2").read_bytes(), tmp_path / "model.pt2").eval()
    for shape in [(1, 3, 16, 16), (3, 3, 10, 30)]:
        assert torch.equal(loaded(noise(*shape)), fresh()(noise(*shape)))
    assert not any(b".pkl" in name.encode() for name in zipfile.ZipFile(io.BytesIO(program)).namelist())


@pytest.mark.parametrize(
    ("record", "old", "new"),
    [
        ("models/model.json", '"torch.ops.aten.tanh.default"', '"torch.os.system"'),
        ("models/model.json", '"torch.ops.aten.tanh.default"', '"_operator.call"'),
        ("models/model.json", '"torch.ops.aten.tanh.default"', '"torch.ops.aten.from_file.default"'),
        ("models/model.json", '"torch.ops.aten.tanh.default"', '"#made.up"'),
        ("models/model.json", '"builtins.tuple'.replace('"', '\\"'), '\\"os.environ'),
        ("data/weights/model_weights_config.json", '"use_pickle": false', '"use_pickle": true'),
    ],
)
def test_a_program_that_would_run_code_is_refused(record, old, new, program, tmp_path):
    path = tmp_path / "model.pt2"
    path.write_bytes(changed(program, record, replaced(old, new)))
    with pytest.raises(CheckpointError, match="without executing it") as caught:
        load_program(path.read_bytes(), path)
    assert "it " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "record", ["data/sample_inputs/model.pt", "data/weights/model.pt", "data/constants/opaque_obj_0", "extra/x"]
)
def test_a_program_with_a_pickle_is_refused_unread(record, program, tmp_path):
    path = tmp_path / "model.pt2"
    path.write_bytes(changed(program, record, lambda _: pickled(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match="it holds"):
        load_program(path.read_bytes(), path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_a_file_that_is_no_program_is_refused(content, tmp_path):
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a program"):
        load_program((tmp_path / "model.pt2").read_bytes(), tmp_path / "model.pt2")


def test_a_truncated_program_is_refused(program, tmp_path):
    (tmp_path / "model.pt2").write_bytes(program[: len(program) // 2])
    with pytest.raises(CheckpointError, match="not a program"):
        load_program((tmp_path / "model.pt2").read_bytes(), tmp_path / "model.pt2")


# What the parsed file says counts, not its text.


def read(content: bytes):
    return load_program(content, Path("model.pt2"))


def edited(program: bytes, record: str, edit) -> bytes:
    """The archive with a JSON record after `edit` changed its value in place."""

    def change(content: bytes) -> bytes:
        value = json.loads(content)
        edit(value)
        return json.dumps(value).encode()

    return changed(program, record, change)


def signature(graph: dict) -> dict:
    return next(entry["signature"] for entry in graph["graph_module"]["module_call_graph"] if entry["signature"])


def node(graph: dict, target: str) -> dict:
    return next(node for node in graph["graph_module"]["graph"]["nodes"] if f".{target}." in node["target"])


def test_the_program_gives_the_very_images_of_torchs_own_reader(program):
    own, theirs = read(program), torch.export.load(io.BytesIO(program)).module()
    for shape in [(1, 3, 16, 16), (3, 3, 10, 30)]:
        assert torch.equal(own(noise(*shape)), theirs(noise(*shape)))
    assert dict(own.program.named_parameters()).keys() == {name for name, _ in fresh().named_parameters()}


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """The name of a module that leaves a mark when it is imported, and where."""
    (tmp_path / "gansdk_trap.py").write_text(
        f"import enum, pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nclass Kind(enum.Enum):\n    ONE = 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "ran"
    sys.modules.pop("gansdk_trap", None)


def nested(kind: str, context: object) -> str:
    """The spec of inputs with one part of another kind."""
    leaf = {"type": None, "context": None, "children_spec": []}
    part = {"type": kind, "context": json.dumps(context), "children_spec": [leaf]}
    none = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    return json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": [part, none]}])


ENUM = {"__enum__": True, "fqn": "gansdk_trap.Kind", "name": "ONE"}
SPECS = [
    nested("builtins.dict", [ENUM]).replace("__enum__", "\\\\u005f_enum__"),
    nested("builtins.dict", [ENUM]).replace("__enum__", "\\u005f_enum__"),
    nested("builtins.dict", [ENUM]),
    nested("collections.OrderedDict", [ENUM]),
    nested("collections.defaultdict", {"default_factory_module": "gansdk_trap", "default_factory_name": "Kind"}),
    nested("collections.namedtuple", {"class_name": "gansdk_trap.Kind", "fields": ["a"]}),
    nested("gansdk_trap.Kind", None),
    nested("torch.Size", None),
    "[1, null]",
    "[" * 5000,
    json.dumps([2, None]),
]


@pytest.mark.parametrize("side", ["in_spec", "out_spec"])
@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_no_spec_of_inputs_or_outputs_imports_a_module(spec, side, program, trap):
    content = edited(program, GRAPH, lambda graph: signature(graph).update({side: spec}))
    with pytest.raises(CheckpointError, match="without executing it"):
        read(content)
    assert not trap.exists()


def test_metadata_is_never_looked_up(program, trap):
    def edit(graph: dict) -> None:
        for call in graph["graph_module"]["graph"]["nodes"]:
            call["metadata"] = {
                "source_fn_stack": "a,gansdk_trap.Kind",
                "torch_fn": "gansdk_trap",
                "custom": "[" * 9999,
            }
        graph["guards_code"] = ["__import__('gansdk_trap')"]
        graph["verifiers"] = ["gansdk_trap"]

    read(edited(program, GRAPH, edit))(noise(1, 3, 16, 16))
    assert not trap.exists()


def add_input(name: str, argument: object):
    def edit(graph: dict) -> None:
        node(graph, "tanh")["inputs"].append({"name": name, "arg": argument, "kind": 2})

    return edit


def call(target: str, **arguments: object):
    """The last step becomes another call."""

    def edit(graph: dict) -> None:
        step = graph["graph_module"]["graph"]["nodes"][-1]
        step["target"] = target
        step["inputs"] = [{"name": name, "arg": arg, "kind": 1} for name, arg in arguments.items()]

    return edit


IMAGE = {"as_tensor": {"name": "x"}}
EDITS = {
    "nested graph": add_input("x", {"as_graph": {"name": "g", "graph": {}}}),
    "custom object": add_input("x", {"as_custom_obj": {"name": "o", "class_fqn": "gansdk_trap.Kind"}}),
    "operator": add_input("x", {"as_operator": "torch.os.system"}),
    "two kinds": add_input("x", {"as_int": 1, "as_none": True}),
    "unknown argument": add_input("more", {"as_int": 1}),
    "value of nowhere": add_input("x", {"as_tensor": {"name": "later"}}),
    "huge size": call("torch.ops.aten.zeros.default", size={"as_ints": [2**20, 2**20]}),
    "huge count": call("torch.ops.aten.arange.default", end={"as_int": 2**40}),
    "number beyond 64 bits": call("torch.ops.aten.arange.default", end={"as_int": 10**40}),
    "text for a number": call("torch.ops.aten.arange.default", end={"as_int": "1"}),
    "other device": call("torch.ops.aten.zeros.default", size={"as_ints": [1]}, device={"as_device": {"type": "cuda"}}),
    "file": call("torch.ops.aten.from_file.default", filename={"as_string": "/etc/passwd"}),
    "memory": call("torch.ops.aten.set_.source_Tensor", self=IMAGE, source=IMAGE),
    "packed pointers": call("torch.ops.aten.fbgemm_linear_fp16_weight.default", input=IMAGE),
    "private": call("torch.ops.aten._embedding_bag.default", weight=IMAGE),
    "other namespace": call("torch.ops.prims.device_put.default", a=IMAGE),
    "attribute": call("torch.ops.aten.__class__.default", a=IMAGE),
    "schema": lambda graph: graph["schema_version"].update(major=99),
    "no nodes": lambda graph: graph["graph_module"]["graph"].update(nodes=[]),
    "list of nodes": lambda graph: graph["graph_module"]["graph"].update(nodes={}),
    "no graph": lambda graph: graph.clear(),
    "two images": lambda graph: graph["graph_module"]["graph"]["outputs"].append(IMAGE),
    "unknown parameter": lambda graph: graph["graph_module"]["signature"]["input_specs"].pop(),
    "name of a method": lambda graph: graph["graph_module"]["signature"]["input_specs"][0]["parameter"].update(
        parameter_name="forward"
    ),
    "long name": lambda graph: node(graph, "tanh")["outputs"][0]["as_tensor"].update(name="x" * 10**6),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_whatever_our_own_exporter_does_not_write_is_refused(edit, program, trap):
    with pytest.raises(CheckpointError, match="without executing it") as caught:
        read(edited(program, GRAPH, edit))
    assert len(str(caught.value)) < 800
    assert not trap.exists()


def meta(config: dict) -> dict:
    return config["config"]["down.0.weight"]["tensor_meta"]


TENSORS = {
    "more than held": lambda config: meta(config).update(sizes=[{"as_int": 20_000}] * 2, strides=[{"as_int": 0}] * 2),
    "beyond the end": lambda config: meta(config).update(storage_offset={"as_int": 10**9}),
    "negative": lambda config: meta(config).update(storage_offset={"as_int": -1}),
    "symbolic": lambda config: meta(config).update(sizes=[{"as_expr": {"expr_str": "s1"}}]),
    "sparse": lambda config: meta(config).update(layout=1),
    "other device": lambda config: meta(config).update(device={"type": "cuda", "index": 0}),
    "other record": lambda config: config["config"]["down.0.weight"].update(path_name="../model"),
    "pickled": lambda config: config["config"]["down.0.weight"].update(use_pickle=True),
    "almost pickled": lambda config: config["config"]["down.0.weight"].update(use_pickle=0),
    "missing": lambda config: config["config"].pop("down.0.weight"),
}


@pytest.mark.parametrize("edit", TENSORS.values(), ids=TENSORS)
def test_tensors_that_the_file_does_not_hold_are_refused(edit, program):
    with pytest.raises(CheckpointError, match="without executing it"):
        read(edited(program, WEIGHTS, edit))


def test_a_key_that_stands_twice_is_refused(program):
    twice = replaced('"use_pickle": false', '"use_pickle": true, "use_pickle": false')
    with pytest.raises(CheckpointError, match="twice"):
        read(changed(program, WEIGHTS, twice))


def test_records_that_unpack_to_more_than_the_file_holds_are_refused(program):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.namelist():
            new.writestr(record, bytes(10**7) if record.endswith("weight_0") else old.read(record))
    with pytest.raises(CheckpointError, match="claim more bytes"):
        read(buffer.getvalue())


def test_sizes_that_grow_without_bound_stop(program):
    def edit(graph: dict) -> None:
        steps = graph["graph_module"]["graph"]["nodes"]
        size = next(step["name"] for step in steps if ".sym_size." in step["target"])
        place = next(index for index, step in enumerate(steps) if step["name"] == size) + 1
        for index in range(80):
            own = {"as_sym_int": {"as_name": size if not index else f"grown{index - 1}"}}
            steps.insert(
                place + index,
                {
                    "target": "_operator.mul",
                    "inputs": [{"name": "a", "arg": own, "kind": 1}, {"name": "b", "arg": own, "kind": 1}],
                    "outputs": [{"as_sym_int": {"as_name": f"grown{index}"}}],
                    "metadata": {},
                },
            )

    grown = read(edited(program, GRAPH, edit))
    with pytest.raises(ValueError, match="64 bits"):
        grown(noise(1, 3, 16, 16))


DANGEROUS = [
    "_native_batch_norm_legit.default",
    "_native_batch_norm_legit_no_training.default",
    "native_batch_norm.default",
    "ctc_loss.IntList",
    "ctc_loss.Tensor",
    "new_empty_strided.default",
    "empty_strided.default",
    "set_.source_Tensor",
    "resize_.default",
    "as_strided.default",
    "max_unpool2d.default",
    "upsample_bilinear2d.default",
    "from_file.default",
]


@pytest.mark.parametrize("name", DANGEROUS)
def test_operators_that_crash_or_read_the_memory_of_others_are_refused(name, program):
    with pytest.raises(ValueError, match="it calls"):
        operator_named(f"torch.ops.aten.{name}")
    with pytest.raises(CheckpointError, match="it calls"):
        read(edited(program, GRAPH, call(f"torch.ops.aten.{name}", self=IMAGE)))


def test_every_operator_that_is_allowed_exists():
    assert all(str(operator_named(f"torch.ops.aten.{name}")) == f"aten.{name}" for name in ALLOWED)


def aten(name: str):
    return guarded(operator_named(f"torch.ops.aten.{name}"))


ONES = torch.ones(3)
LEAST = torch.tensor([-(2**63)])
WRONG = {
    "batch norm's mean": ("batch_norm.default", None, None, torch.zeros(1), ONES, False, 0.1, 1e-5, False),
    "batch norm's variance": ("batch_norm.default", None, None, ONES, torch.ones(3, 1), True, 0.1, 1e-5, False),
    "batch norm's weight": ("batch_norm.default", torch.ones(5), None, ONES, ONES, False, 0.1, 1e-5, False),
    "instance norm's mean": (
        "instance_norm.default",
        None,
        None,
        torch.ones(2),
        torch.ones(2),
        False,
        0.1,
        1e-5,
        False,
    ),
    "grid": ("grid_sampler.default", torch.zeros(1, 2, 2, 2), 7, 0, False),
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_arguments_that_torch_would_trust_are_checked(arguments):
    name, *rest = arguments
    with pytest.raises(ValueError, match=r"norm|grid"):
        aten(name)(noise(1, 3, 4, 4), *rest)


@pytest.mark.parametrize("divisor", [torch.tensor([-1]), torch.tensor([0]), -1])
def test_whole_numbers_are_not_divided_by_0_or_minus_1(divisor):
    overload = "Tensor" if isinstance(divisor, Tensor) else "Scalar"
    modulo = [aten(f"{name}.{overload}") for name in ("remainder", "fmod", "remainder_")]
    rounded = [partial(aten(f"div.{overload}_mode"), rounding_mode=mode) for mode in ("trunc", "floor")]
    for divide in [*modulo, *rounded, aten("floor_divide.default") if overload == "Tensor" else modulo[0]]:
        with pytest.raises(ValueError, match="by 0 or -1"):
            divide(LEAST.clone(), divisor)


def test_other_divisions_run():
    assert aten("floor_divide.default")(torch.arange(4), 2).tolist() == [0, 0, 1, 1]
    assert aten("div.Tensor")(LEAST, torch.tensor([-1])).item() == 2.0**63
    assert aten("remainder.Scalar")(torch.ones(1), -1).item() == 0
    assert aten("div.Tensor_mode")(torch.arange(4), torch.tensor(2), rounding_mode="floor").tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["_weight_norm.default", "_weight_norm_interface.default"])
def test_a_normalised_weight_has_a_length_for_each_slice(name):
    with pytest.raises(ValueError, match="lengths"):
        aten(name)(torch.ones(1000, 3), torch.ones(1, 1), 0)


def test_a_recurrent_layer_has_weights_of_its_own_sizes():
    net = nn.GRU(3, 2)
    weights = list(net._flat_weights)
    run = partial(aten("gru.input"), torch.ones(4, 1, 3), torch.zeros(1, 1, 2))
    assert run(weights, True, 1, 0.0, False, False, False)[0].shape == (4, 1, 2)
    with pytest.raises(ValueError, match="recurrent"):
        run([torch.ones(1, 1), *weights[1:]], True, 1, 0.0, False, False, False)


def test_memory_that_nobody_wrote_is_zero():
    for make in (
        partial(aten("empty.memory_format"), [64]),
        partial(aten("empty_like.default"), torch.ones(64)),
        partial(aten("new_empty.default"), torch.ones(1), [64]),
    ):
        assert not make().any()
    with pytest.raises(ValueError, match="complex"):
        aten("zeros.default")([1], dtype=torch.complex128)


@pytest.mark.parametrize("entry", [entry for entry in NETWORKS if len(entry.shape) == 4], ids=lambda entry: entry.name)
def test_every_network_that_can_be_traced_is_read_back(entry):
    net, example = entry.build(), entry.example(size=(16, 16))
    made = net(example)
    if not isinstance(made, Tensor):
        pytest.skip("makes more than one image")
    contract = Contract(
        channels_in=example.shape[1], channels_out=made.shape[1], size=(16, 16), multiple_of=entry.multiple_of or 1
    )
    try:
        content = save_program(trace_program(inference_form(net, contract), contract))
    except Unsupported:
        pytest.skip("cannot be traced")
    torch.testing.assert_close(read_program(content)(example), made)


def test_a_thousand_names_of_one_record_share_its_memory(program):
    def edit(config: dict) -> None:
        own = config["config"]["down.0.weight"]
        for index in range(1000):
            shape = {"sizes": [{"as_int": 1 + index % 50}], "strides": [{"as_int": 1}]}
            config["config"][f"alias{index}"] = {**own, "tensor_meta": {**own["tensor_meta"], **shape}}

    with zipfile.ZipFile(io.BytesIO(edited(program, WEIGHTS, edit))) as archive:
        records = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    tensors = program_file._tensors(records, program_file.WEIGHTS, WEIGHTS.removeprefix(program_file.WEIGHTS))
    aliases = [tensor for name, tensor in tensors.items() if name.startswith("alias")]
    assert len(aliases) == 1000
    assert {tensor.untyped_storage().data_ptr() for tensor in aliases} == {
        tensors["down.0.weight"].untyped_storage().data_ptr()
    }


def test_texts_among_arguments_are_no_names_of_values():
    net = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3), nn.GELU("tanh")).eval()
    contract = Contract(channels_in=3, channels_out=3, size=(16, 16))
    loaded = read_program(save_program(trace_program(inference_form(net, contract), contract)))
    assert torch.equal(loaded(noise(1, 3, 16, 16)), net(noise(1, 3, 16, 16)))
