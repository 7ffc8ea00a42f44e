"""The student: taps by original channel ids, carving again and again, and how norms run in training and inference."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gansdk
from gansdk.contracts import Contract
from gansdk.errors import ContractError
from gansdk.generators.elastic_student import ElasticStudent


class Net(nn.Module):
    """A stem, two blocks behind norms, and an in-place activation behind the tap `first`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(6)
        self.first = nn.Conv2d(6, 5, 3, padding=1)
        self.first_norm = nn.InstanceNorm2d(5, affine=True, track_running_stats=True)
        self.widen = nn.Conv2d(5, 12, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.head = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.stem_norm(self.stem(x)))
        x = F.relu(self.first(x), inplace=True)
        return torch.tanh(self.head(self.shuffle(self.widen(self.first_norm(x)))))


TAPS = {"stem": "stem_norm", "first": "first", "joined": "widen", "up": "shuffle"}
SMALLER = gansdk.Plan({"stem": (0, 2, 3, 5), "first": (1, 2, 4), "widen": (0, 2)})


def generator(inference="eval"):
    contract = Contract(channels_in=3, channels_out=3, size=(8, 8), scale=2, inference=inference)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = Net().eval()
        with torch.no_grad():
            for norm in (net.stem_norm, net.first_norm):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2.0)
                norm.weight.normal_()
    return gansdk.wrap(net, contract=contract, taps=TAPS)


@pytest.fixture
def student():
    return ElasticStudent.of(generator())


def images(count=2):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max()))


# Taps and plans.


def test_a_whole_student_shows_what_the_generator_shows(student):
    given = generator()
    seen = student.observe(images(), student.taps)
    with torch.no_grad():
        assert torch.equal(seen.image, given.module(images()))
    assert student.taps == tuple(TAPS)
    assert [student.width(tap) for tap in student.taps] == [6, 5, 12, 3]
    assert all(student.channels(tap).tolist() == list(range(student.width(tap))) for tap in student.taps)
    assert all(seen.features[tap].shape[1] == student.width(tap) for tap in student.taps)


def test_the_channels_of_a_tap_are_ids_of_the_whole_network(student):
    student.activate(SMALLER)
    assert student.channels("stem").tolist() == [0, 2, 3, 5]
    assert student.channels("first").tolist() == [1, 2, 4]
    assert student.channels("joined").tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert student.channels("up").tolist() == [0, 2]
    assert [student.width(tap) for tap in student.taps] == [6, 5, 12, 3]


def test_an_active_plan_and_a_carved_student_show_the_same_features_and_image(student):
    carved = student.carve(SMALLER)
    student.activate(SMALLER)
    ours, theirs = (one.observe(images(), student.taps) for one in (student, carved))
    close(ours.image, theirs.image)
    for tap in student.taps:
        close(ours.features[tap], theirs.features[tap])
        assert torch.equal(student.channels(tap), carved.channels(tap))
        assert carved.width(tap) == student.width(tap)
        assert theirs.features[tap].shape[1] == len(carved.channels(tap))


def test_features_of_a_tap_are_the_whole_networks_where_nothing_in_front_was_removed(student):
    whole = student.observe(images(), ["stem"]).features["stem"]
    carved = student.carve(SMALLER)
    found = carved.observe(images(), ["stem"]).features["stem"]
    close(found, whole[:, carved.channels("stem")])


def test_carving_twice_equals_carving_the_composed_plan_once_with_original_ids(student):
    later = gansdk.Plan({"stem": (1, 3), "first": (0, 2), "widen": (1,)})
    twice = student.carve(SMALLER).carve(later)
    once = student.carve(SMALLER.then(later))
    assert twice.channels("stem").tolist() == [2, 5]
    assert twice.channels("first").tolist() == [1, 4]
    assert twice.channels("joined").tolist() == [8, 9, 10, 11]
    assert twice.width("joined") == 12
    assert all(torch.equal(twice.channels(tap), once.channels(tap)) for tap in student.taps)
    assert torch.equal(twice.observe(images()).image, once.observe(images()).image)
    whole = twice.space.full_plan()
    assert twice.cost(whole) == once.cost(whole) == student.cost(SMALLER.then(later))


def test_carving_leaves_the_student_its_plan_and_its_weights(student):
    before = {name: tensor.clone() for name, tensor in student.module.state_dict().items()}
    student.activate(SMALLER)
    carved = student.carve(gansdk.Plan({"stem": (0,)}))
    with torch.no_grad():
        for parameter in carved.parameters():
            parameter.add_(1.0)
    assert student.plan == SMALLER
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.module.state_dict().items())


def test_the_generators_own_module_is_never_touched():
    given = generator()
    given.module.requires_grad_(False)
    given.module.train()
    before = {name: tensor.clone() for name, tensor in given.module.state_dict().items()}
    student = ElasticStudent.of(given)
    student.train()
    student.observe(images()).image.sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.module.state_dict().items())
    assert all(not p.requires_grad and p.grad is None for p in given.module.parameters())
    assert given.module.training


def test_gradients_of_a_subnet_reach_only_its_part_of_the_shared_weights(student):
    student.activate(SMALLER)
    student.observe(images()).image.square().sum().backward()
    grad = student.module.stem.weight.grad
    assert (grad[[0, 2, 3, 5]].flatten(1).abs().sum(1) > 0).all()
    assert not grad[[1, 4]].any()


def test_taps_are_read_before_an_in_place_activation_overwrites_them(student):
    assert (student.observe(images(), ["first"]).features["first"] < 0).any()


def test_without_image_only_features_are_given(student):
    seen = student.observe(images(), ["first"], image=False)
    assert seen.image is None
    assert set(seen.features) == {"first"}


def test_an_unknown_tap_is_refused_by_naming_those_there_are(student):
    with pytest.raises(ContractError, match="stem, first, joined, up"):
        student.observe(images(), ["nowhere"])


def test_folded_weights_are_noted_and_the_student_still_equals_the_generator():
    given = generator()
    nn.utils.parametrizations.weight_norm(given.module.first)
    student = ElasticStudent.of(given)
    assert any("first.weight" in note for note in student.space.notes)
    with torch.no_grad():
        close(student.observe(images()).image, given.module(images()))


def test_the_state_of_a_student_is_loaded_back_into_another(student):
    other = ElasticStudent.of(generator())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.1)
    other.load_state_dict(student.state_dict())
    assert torch.equal(other.observe(images()).image, student.observe(images()).image)


# What a carved student takes along.


def test_inheriting_all_keeps_every_kept_weight(student):
    carved = student.carve(SMALLER).module
    whole = student.module
    assert torch.equal(carved.first.weight, whole.first.weight[[1, 2, 4]][:, [0, 2, 3, 5]])
    assert torch.equal(carved.stem_norm.running_mean, whole.stem_norm.running_mean[[0, 2, 3, 5]])


def test_inheriting_norms_makes_every_other_weight_fresh(student):
    carved, norms = student.carve(SMALLER).module, student.carve(SMALLER, inherit="norms").module
    for name in ("stem_norm", "first_norm"):
        ours, theirs = norms.get_submodule(name).state_dict(), carved.get_submodule(name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for name in ("stem", "first", "widen", "head"):
        assert not torch.equal(norms.get_submodule(name).weight, carved.get_submodule(name).weight)


def test_inheriting_nothing_makes_norms_fresh_too(student):
    fresh = student.carve(SMALLER, inherit="none").module
    assert torch.equal(fresh.stem_norm.weight, torch.ones(4))
    assert torch.equal(fresh.stem_norm.running_mean, torch.zeros(4))
    assert torch.equal(fresh.first_norm.running_var, torch.ones(3))


@pytest.mark.parametrize("inherit", ["none", "norms", "all"])
def test_carving_gives_the_same_weights_every_time_and_moves_no_global_random_number(student, inherit):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = student.carve(SMALLER, inherit=inherit)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = student.carve(SMALLER, inherit=inherit)
    assert torch.equal(first.observe(images()).image, second.observe(images()).image)
    assert first.cost(first.space.full_plan()) == student.cost(SMALLER)


# Norms.


def statistics(student):
    return [buffer.clone() for name, buffer in student.module.named_buffers() if name.endswith(("mean", "var"))]


def test_a_student_with_inherited_weights_trains_as_it_will_run(student):
    expected = student.observe(images()).image
    before = statistics(student)
    student.train()
    assert student.module.training
    assert torch.equal(student.observe(images()).image, expected)
    assert all(torch.equal(a, b) for a, b in zip(statistics(student), before, strict=True))
    student.train(False)
    assert not any(part.training for part in student.module.modules())


def test_a_student_with_fresh_weights_tracks_statistics_while_it_trains(student):
    fresh = student.carve(SMALLER, inherit="none")
    before = statistics(fresh)
    fresh.train()
    fresh.observe(images())
    assert not any(torch.equal(a, b) for a, b in zip(statistics(fresh), before, strict=True))


def test_inference_with_batch_statistics_normalises_by_the_batch_and_keeps_the_running_ones():
    student = ElasticStudent.of(generator("batch-statistics"))
    oracle = generator().module.train()
    before = statistics(student)
    student.train(False)
    with torch.no_grad():
        close(student.observe(images()).image, oracle(images()))
    assert all(torch.equal(a, b) for a, b in zip(statistics(student), before, strict=True))


def test_a_subnet_with_batch_statistics_equals_its_carved_student():
    student = ElasticStudent.of(generator("batch-statistics"))
    carved = student.carve(SMALLER)
    student.activate(SMALLER)
    close(student.observe(images()).image, carved.observe(images()).image)
