"""The terms of OMGD: known values, literal transcriptions, ranges, and VGG-16 with weights that are somebody's."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gansdk
from gansdk.contracts import MAIN, Contract, Observation
from gansdk.errors import CheckpointError, ContractError, GansdkWarning, IncompatibleParts, InvalidOption
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.generators.wrapping import ReconstructionTask
from gansdk.interfaces import Stage
from gansdk.testing.perceptual import made_up_vgg16
from gansdk.toolkit.terms import TermSum
from gansdk.training.offline_regime import OfflineRegime
from gansdk.training.processes import Processes
from gansdk_distillers.channel import channel
from gansdk_distillers.connected import NormedConnector, channel_distance
from gansdk_distillers.distances import total_variation
from gansdk_distillers.omgd.distiller import omgd
from gansdk_distillers.perceptual import gram, perceptual
from gansdk_distillers.ssim import moments, similarity, ssim
from gansdk_distillers.variation import tv

TAPS = {"first": "0", "second": "2"}


def waves() -> tuple[Tensor, Tensor]:
    """The images of the golden values: smooth, 1x3x64x64, float64."""
    i = torch.arange(64, dtype=torch.float64)[:, None]
    j = torch.arange(64, dtype=torch.float64)[None, :]
    c = torch.arange(3, dtype=torch.float64)[:, None, None]
    return torch.sin(0.05 * i + 0.08 * j + c)[None], 0.8 * torch.cos(0.03 * i - 0.06 * j + 0.5 * c)[None]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pictures(n: int = 2, c: int = 3, side: int = 16, seed: int = 0) -> Tensor:
    return normal(n, c, side, side, seed=seed, dtype=torch.float32).clamp(-1, 1)


def ssim_of(x: Tensor, y: Tensor) -> Tensor:
    return similarity(x, y, moments(x), moments(y))


def network(seed: int = 0, width: int = 4, channels: int = 3) -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
        ).eval()


def stage(*terms, channels: int = 3, output_range=(-1.0, 1.0), taps=TAPS) -> Stage:
    contract = Contract(
        channels_in=channels, channels_out=channels, size=(16, 16), output_range=output_range, input_range=output_range
    )
    return Stage(
        student=ElasticStudent.of(gansdk.wrap(network(1, 3, channels), contract=contract, taps=TAPS)),
        teachers=(FrozenTeacher(network(0, 4, channels), contract, taps),),
        task=ReconstructionTask(),
        steps=4,
        rng=torch.Generator().manual_seed(0),
        processes=Processes("cpu"),
        terms=terms,
    )


def value(distiller, student: Tensor, *teachers: Tensor, given: Stage | None = None) -> Tensor:
    """The unweighted term, as a regime computes it."""
    (term,) = distiller.terms
    term.prepare()
    given = given or stage(term)
    terms = TermSum(given, *given.teachers * len(teachers))
    total, told = terms(Observation(student, {}), *(Observation(image, {}) for image in teachers))
    torch.testing.assert_close(total, term.weight * told[term.name])
    return total / term.weight


# Known values (part E of the facts about OMGD), float64.


def test_structural_similarity_of_two_waves_has_its_known_value():
    x, y = waves()
    assert ssim_of(x, y).item() == pytest.approx(0.119856, abs=1e-6)
    assert ssim_of(x, x).item() == pytest.approx(1.0, abs=1e-12)


def test_total_variation_and_gram_matrix_of_a_wave_have_their_known_values():
    x, _ = waves()
    assert total_variation(x).item() == pytest.approx(1000.793861, abs=1e-6)
    expected = [[0.166847, 0.090581, -0.068964], [0.090581, 0.167060, 0.089945], [-0.068964, 0.089945, 0.166159]]
    torch.testing.assert_close(gram(x)[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_distance_of_channels_has_its_known_value():
    s = torch.arange(16, dtype=torch.float64).view(1, 2, 2, 4) / 10
    t = torch.arange(24, dtype=torch.float64).view(1, 3, 2, 4) / 20
    rows = torch.tensor([[1, 0], [0, 1], [1, -1]], dtype=torch.float64)
    connected = torch.einsum("oc,nchw->nohw", rows, s)
    assert F.relu(connected).mean((2, 3))[0].tolist() == pytest.approx([0.35, 1.15, 0.0])
    assert t.mean((2, 3))[0].tolist() == pytest.approx([0.175, 0.575, 0.975])
    assert channel_distance(connected, t).item() == pytest.approx(0.437292, abs=1e-6)


@pytest.mark.parametrize(("n", "factor"), [(1, 3.92), (4, 15.7)])
def test_the_weight_of_total_variation_per_pixel_grows_with_the_batch_as_its_doc_says(n, factor):
    image = normal(n, 3, 256, 256)
    assert 1e-5 * total_variation(image) / total_variation(image, mean=True) == pytest.approx(factor, rel=3e-3)


# Literal transcriptions.


def literal_ssim(x: Tensor, y: Tensor) -> float:
    """Section A3 written out: a window of 11x11 around every pixel, zeros beyond the border."""
    g = torch.tensor([math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)], dtype=torch.float32)
    g = (g / g.sum()).to(x.dtype)
    window = g[:, None] * g[None, :]
    total, count = 0.0, 0
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            a, b = (F.pad(image[n, c], (5, 5, 5, 5)) for image in (x, y))
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
                    mu_p, mu_q = (window * p).sum(), (window * q).sum()
                    var_p, var_q = (window * p * p).sum() - mu_p**2, (window * q * q).sum() - mu_q**2
                    cov = (window * p * q).sum() - mu_p * mu_q
                    top = (2 * mu_p * mu_q + 0.01**2) * (2 * cov + 0.03**2)
                    total += float(top / ((mu_p**2 + mu_q**2 + 0.01**2) * (var_p + var_q + 0.03**2)))
                    count += 1
    return total / count


@pytest.mark.parametrize("shape", [(2, 3, 6, 9), (1, 1, 13, 4)])
def test_structural_similarity_is_the_windows_formula_at_every_pixel(shape):
    x, y = normal(*shape), 0.5 * normal(*shape) + 0.5 * normal(*shape, seed=1)
    assert ssim_of(x, y).item() == pytest.approx(literal_ssim(x, y), rel=1e-10)


def test_total_variation_is_the_sum_over_neighbours():
    x = normal(2, 3, 4, 5)
    total = sum(
        abs(float(x[n, c, i + di, j + dj] - x[n, c, i, j]))
        for n in range(2)
        for c in range(3)
        for di, dj in ((0, 1), (1, 0))
        for i in range(4 - di)
        for j in range(5 - dj)
    )
    assert total_variation(x).item() == pytest.approx(total, rel=1e-12)


def test_gram_matrices_are_sums_over_pixels():
    x = normal(2, 3, 4, 5)
    for n in range(2):
        for a in range(3):
            for b in range(3):
                expected = float((x[n, a] * x[n, b]).sum()) / (3 * 4 * 5)
                assert gram(x)[n, a, b].item() == pytest.approx(expected, rel=1e-12)


def literal_channels(state, ids, x: Tensor, y: Tensor) -> Tensor:
    """Section A3.1: 1x1 without bias, batch norm over batch and space, ReLU, mean over space, mean square."""
    z = torch.einsum("oc,nchw->nohw", state["connector.weight"][:, ids], x)
    mean, var = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), unbiased=False, keepdim=True)
    scale, shift = (state[f"norm.{name}"][:, None, None] for name in ("weight", "bias"))
    z = torch.relu((z - mean) / (var + 1e-5).sqrt() * scale + shift)
    return ((z.mean((2, 3)) - y.mean((2, 3))) ** 2).mean()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_channel_distillation_is_the_formula_behind_connectors_that_follow_channel_ids(reduction):
    term = channel(reduction=reduction).terms[0]
    given = stage(term)
    small = given.student.carve(gansdk.Plan({"0": (0, 2), "2": (1, 2)}))
    given = Stage(**{name: getattr(given, name) for name in Stage.__dataclass_fields__} | {"student": small})
    term.bind(given)
    state = term.state_dict()
    assert {tap: tuple(s["connector.weight"].shape) for tap, s in state.items()} == {"first": (4, 3), "second": (4, 3)}
    assert all("running_mean" not in s and "connector.bias" not in s for s in state.values())
    x = pictures()
    own, other = (part.observe(x, tuple(TAPS)) for part in (given.student, given.teachers[0]))
    ids = {"first": [0, 2], "second": [1, 2]}
    losses = [literal_channels(state[tap], ids[tap], own.features[tap], other.features[tap]) for tap in TAPS]
    expected = sum(losses) if reduction == "sum" else sum(losses) / 2
    torch.testing.assert_close(term(own, other), expected, rtol=1e-5, atol=1e-7)


def test_connectors_start_as_the_papers_do_and_need_no_bias():
    made = NormedConnector(100, 300, rng=torch.Generator().manual_seed(0), device=torch.device("cpu")).requires_grad_(
        False
    )
    assert float(made.connector.weight.std()) == pytest.approx(0.02, rel=0.02)
    assert float(made.norm.weight.mean()) == pytest.approx(1.0, abs=5e-3)
    assert float(made.norm.weight.std()) == pytest.approx(0.02, rel=0.1)
    assert not made.norm.bias.any()
    assert len(list(made.parameters())) == 3


# Published sizes (A3.1): connectors from a student of ngf 16 to a teacher of ngf 64.
@pytest.mark.parametrize(
    ("widths", "count"),
    [([(64, 256)] * 4, 67_584), ([(32, 128), (128, 512), (256, 1024), (64, 256)], 352_000)],
    ids=["resnet", "unet"],
)
def test_connectors_have_the_published_sizes(widths, count):
    rng, device = torch.Generator(), torch.device("cpu")
    made = [NormedConnector(s, t, rng=rng, device=device) for s, t in widths]
    assert sum(p.numel() for part in made for p in part.parameters()) == count


WEIGHTS = made_up_vgg16()


def literal_vgg(image: Tensor) -> list[Tensor]:
    """relu1_2, relu2_2, relu3_3 and relu4_3 of an image in [-1, 1], without ImageNet's mean and deviation."""
    x, found, index = (image + 1) / 2, [], 0
    for count in (2, 2, 3, 3):
        for _ in range(count):
            weight, bias = (WEIGHTS[f"features.{index}.{name}"] for name in ("weight", "bias"))
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
            index += 2
        found.append(x)
        x = F.max_pool2d(x, 2)
        index += 1
    return found


def literal_perceptual(s: Tensor, t: Tensor, style: float = 1e4, feature: float = 10.0) -> Tensor:
    ours, theirs = literal_vgg(s), literal_vgg(t)
    total = feature * (ours[1] - theirs[1]).abs().mean()
    for a, b in zip(ours, theirs, strict=True):
        n, c, h, w = a.shape
        grams = [torch.bmm(f.view(n, c, h * w), f.view(n, c, h * w).transpose(1, 2)) / (c * h * w) for f in (a, b)]
        total = total + style * (grams[0] - grams[1]).abs().mean()
    return total


@pytest.mark.parametrize("weights", [(1e4, 10.0), (0.0, 10.0), (1e4, 0.0)])
def test_style_and_features_are_the_papers_formulas(weights):
    style, feature = weights
    s, t = pictures(), pictures(seed=1)
    ours = value(perceptual(WEIGHTS, style_weight=style, feature_weight=feature), s, t)
    torch.testing.assert_close(ours, literal_perceptual(s, t, style, feature), rtol=1e-4, atol=1e-6)


def test_luma_is_repeated_and_other_channels_are_refused():
    s, t = pictures(c=1), pictures(c=1, seed=1)
    term = perceptual(WEIGHTS)
    ours = value(term, s, t, given=stage(*term.terms, channels=1))
    torch.testing.assert_close(
        ours, literal_perceptual(s.expand(-1, 3, -1, -1), t.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-6
    )
    for channels in (1, 3):
        term.terms[0].check((1, channels, 16, 16))
    with pytest.raises(IncompatibleParts, match="these have 2"):
        term.terms[0].check((1, 2, 16, 16))


@pytest.mark.parametrize("made", [ssim, tv, lambda: perceptual(WEIGHTS)], ids=["ssim", "tv", "perceptual"])
def test_terms_on_images_mean_the_same_for_every_value_range(made):
    s, t = pictures(), pictures(seed=1)
    expected = value(made(), s, t)
    low, high = 0.0, 255.0
    distiller = made()
    given = stage(*distiller.terms, output_range=(low, high))
    ours = value(distiller, *((image + 1) / 2 * (high - low) + low for image in (s, t)), given=given)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


def test_vgg_sees_the_students_image_once_however_many_teachers_there_are():
    term = perceptual(WEIGHTS)
    term.terms[0].prepare()
    calls = []
    term.terms[0]._network.register_forward_hook(lambda part, args, out: calls.append(args[0].requires_grad))
    s, t, u = pictures().requires_grad_(), pictures(seed=1), pictures(seed=2)
    total = value(term, s, t, u)
    assert calls == [True, False, False]
    torch.testing.assert_close(total, literal_perceptual(s, t) + literal_perceptual(s, u), rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(total, s)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("made", [ssim, lambda: perceptual(WEIGHTS)], ids=["ssim", "perceptual"])
def test_gradients_reach_the_student_only(made):
    s, t = pictures().requires_grad_(), pictures(seed=1).requires_grad_()
    value(made(), s, t).backward()
    assert s.grad.abs().max() > 0
    assert t.grad is None


def test_gradients_of_the_similarity_are_those_of_finite_differences():
    s, t = normal(1, 2, 4, 5).requires_grad_(), normal(1, 2, 4, 5, seed=1)
    torch.autograd.gradcheck(lambda x: ssim_of(x, t), (s,))


# What is refused, and what is told.


def test_terms_that_do_not_fix_colours_cannot_train_a_student_alone():
    for made in (tv(), channel(), perceptual(WEIGHTS, feature_weight=0.0)):
        with pytest.raises(IncompatibleParts, match="colors and brightness"):
            OfflineRegime(task_weight=0.0).bind(stage(*made.terms))
    for made in (ssim(), perceptual(WEIGHTS)):
        OfflineRegime(task_weight=0.0).bind(stage(*made.terms))


def test_every_route_needs_a_term_that_fixes_its_colours():
    regime = OfflineRegime(task_weight=0.0)
    own = {route: [replace_routes(ssim(), (route,))] for route in ("A2B", "B2A")}
    regime.check([*own["A2B"], *own["B2A"]], ("A2B", "B2A"))
    regime.check(own["A2B"], ("A2B",))
    with pytest.raises(IncompatibleParts, match="of the student's images on the route 'B2A'"):
        regime.check(own["A2B"], ("A2B", "B2A"))


def replace_routes(made, routes):
    (term,) = made.terms
    term.routes = routes
    return term


def test_without_weights_the_perceptual_term_says_how_to_get_them_or_what_to_drop(monkeypatch, tmp_path):
    import timm

    original = timm.create_model

    def refuse(name, pretrained=False, **options):
        if pretrained:
            raise OSError("offline")
        return original(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(CheckpointError, match=r"vgg16.*\(weights='vgg16.pth'\), or omit the term\."):
        perceptual().terms[0].prepare()
    with pytest.raises(
        CheckpointError,
        match=r"\(perceptual='vgg16.pth'\), or omit the term \(perceptual=None, on .*perceptual=null\)",
    ):
        omgd().terms[1].prepare()
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        perceptual(str(tmp_path / "none.pth")).terms[0].prepare()
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="do not fit"):
        perceptual(tmp_path / "part.pth").terms[0].prepare()


def test_perceptual_none_drops_style_and_features_and_says_so():
    with pytest.warns(GansdkWarning, match="without OMGD's style and feature"):
        made = omgd(perceptual=None)
    assert [term.name for term in made.terms] == ["ssim", "tv", "channel"]
    assert [(term.name, term.weight) for term in omgd(WEIGHTS).terms] == [
        ("ssim", 10.0),
        ("perceptual", 1.0),
        ("tv", 1e-5),
        ("channel", 50.0),
    ]
    assert (omgd(WEIGHTS).terms[1].style_weight, omgd(WEIGHTS).terms[1].feature_weight) == (1e4, 10.0)
    assert [term.name for term in omgd(style_weight=0, feature_weight=0, channel_weight=0).terms] == ["ssim", "tv"]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: ssim(0), "weight=0 must be"),
        (lambda: tv(reduction="max"), "'sum', 'mean'"),
        (lambda: channel(weight=-1), "weight=-1"),
        (lambda: channel(taps=["a", "a"]), "different names"),
        (lambda: perceptual(style_weight=0, feature_weight=0), "nothing to compare"),
        (lambda: perceptual(style_weight=-1), "from zero"),
    ],
)
def test_options_that_make_no_sense_are_refused(made, words):
    with pytest.raises(InvalidOption, match=words):
        made()


def test_taps_that_the_teacher_lacks_are_left_out_and_named_never_matched_by_place():
    term = channel().terms[0]
    with pytest.warns(GansdkWarning, match=r"skips .*\(first\) and compares second"):
        term.bind(stage(term, taps={"second": "2"}))
    assert list(term.state_dict()) == ["second"]
    with pytest.raises(IncompatibleParts, match="no common tap"):
        TermSum(stage(term, taps={}), stage(taps={}).teachers[0])
    term = channel(taps=["first"]).terms[0]
    with pytest.raises(IncompatibleParts, match="'first' is not offered"):
        TermSum(stage(term, taps={"second": "2"}), stage(taps={"second": "2"}).teachers[0])


def test_one_value_per_channel_cannot_be_normalised_and_is_refused():
    made = NormedConnector(2, 3, rng=torch.Generator(), device=torch.device("cpu"))
    with pytest.raises(IncompatibleParts, match="more than one value per channel"):
        made(torch.ones(1, 2, 1, 1), torch.arange(2))
    assert made(torch.ones(2, 2, 1, 1), torch.arange(2)).shape == (2, 3, 1, 1)


@pytest.mark.parametrize(("weights", "smallest"), [({"style_weight": 0}, 2), ({}, 8)])
def test_images_that_vgg_cannot_see_are_refused_before_it_sees_any(weights, smallest):
    (term,) = perceptual(made_up_vgg16(), **weights).terms
    term.prepare()
    term.bind(stage(term))
    term.check((1, 3, smallest, smallest))
    term.encode(Observation(torch.zeros(1, 3, smallest, smallest), {}))
    for shape in ((1, 3, smallest - 1, 64), (1, 3, 64, smallest - 1)):
        with pytest.raises(IncompatibleParts, match=f"below {smallest} pixels.*{shape[2]}x{shape[3]}"):
            term.check(shape)
        with pytest.raises(RuntimeError, match="too small"):
            term.encode(Observation(torch.zeros(shape), {}))


def test_an_image_that_was_not_observed_is_refused():
    with pytest.raises(ContractError, match="observe with image=True"):
        ssim().terms[0].encode(Observation(None, {}))


def test_terms_alone_distil_a_wrapped_generator_offline(noise):
    terms = [{"name": "perceptual", "weights": WEIGHTS}, "ssim", "tv", "channel"]
    given = gansdk.wrap(network(), contract=Contract(channels_in=3, channels_out=3, size=(16, 16)), taps=TAPS)
    result = gansdk.compress(given, budget="1.5x", distiller=terms, data=noise, steps=2, batch_size=2, device="cpu")
    assert {"perceptual", "ssim", "tv", "channel"} <= set(result.history[-1])


@pytest.fixture
def noise():
    class Noise(gansdk.DataSource):
        pairing = gansdk.Pairing.INPUTS_ONLY

        def train_batch(self, size, *, seed, step):
            return gansdk.Batch({MAIN: pictures(size, seed=step % 997)})

        def images(self, split):
            yield gansdk.Batch({MAIN: pictures(1, seed=9999)})

    return Noise()
