import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gansdk.contracts import Observation
from gansdk.errors import ContractError, IncompatibleParts, InvalidOption
from gansdk.toolkit.resampling import _weights, bicubic
from gansdk_distillers.distances import pixel_distance
from gansdk_distillers.kernel_alignment import batch_kernel_alignment, gka, global_kernel_alignment
from gansdk_distillers.pixel import pixel
from gansdk_distillers.ssim import _gaussian, moments, similarity
from gansdk_distillers.taps import spread
from gansdk_distillers.wavelet import _filters, transform, wavelet, wavelet_distance

ALIGNMENTS = [global_kernel_alignment, batch_kernel_alignment]
BANDS = ["high", "low", "all"]
BASES = ["haar", "db2", "db3", "sym4", "coif1", "bior2.2", "rbio3.1", "dmey"]
lenient = settings(derandomize=True, deadline=None, max_examples=40)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def features(n: int = 2, c: int = 3, h: int = 4, w: int = 5, *, seed: int = 0) -> Tensor:
    return F.relu(normal(n, c, h, w, seed=seed))


def waves() -> tuple[Tensor, Tensor]:
    """The images of the golden values: smooth, 1x3x64x64, float64."""
    i = torch.arange(64, dtype=torch.float64)[:, None]
    j = torch.arange(64, dtype=torch.float64)[None, :]
    c = torch.arange(3, dtype=torch.float64)[:, None, None]
    return torch.sin(0.05 * i + 0.08 * j + c)[None], 0.8 * torch.cos(0.03 * i - 0.06 * j + 0.5 * c)[None]


def seen(image: Tensor | None = None, **taps: Tensor) -> Observation:
    return Observation(image, taps)


# Images


@pytest.mark.parametrize(
    ("levels", "norm", "expected"),
    [(1, "l1", 0.031169), (3, "l1", 0.670851), (4, "l1", 2.735227), (3, "l2", 0.579239), (4, "l2", 8.811910)],
)
def test_the_haar_distance_of_two_waves_has_its_known_value(levels, norm, expected):
    assert wavelet_distance(*waves(), levels=levels, norm=norm).item() == pytest.approx(expected, abs=1e-6)


def test_every_haar_level_of_two_waves_has_its_known_value():
    sums = [0.0] + [wavelet_distance(*waves(), levels=levels).item() for levels in range(1, 5)]
    assert np.diff(sums) == pytest.approx([0.031169, 0.126117, 0.513565, 2.064376], abs=1e-6)


@lenient
@given(
    st.sampled_from(BASES),
    st.integers(1, 19),
    st.integers(1, 19),
    st.integers(1, 3),
    st.sampled_from(["l1", "l2"]),
    st.sampled_from(BANDS),
    st.integers(0, 99),
)
def test_the_transform_is_that_of_pywavelets_at_any_side(basis, height, width, levels, norm, bands, seed):
    s, t = normal(2, 2, height, width, seed=seed), normal(2, 2, height, width, seed=seed + 100)

    def measure(x):
        return np.abs(x).mean() if norm == "l1" else np.square(x).mean()

    expected = 0.0
    low, rest = (s - t).numpy(), s - t
    for _ in range(levels):
        low, details = pywt.dwt2(low, basis, mode="zero")
        rest, own = transform(rest, basis)
        for ours, theirs in zip((rest, *own), (low, *details), strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-11)
        expected += measure(np.stack(details)) if bands != "low" else 0.0
    expected += measure(low) if bands != "high" else 0.0
    ours = wavelet_distance(s, t, basis=basis, levels=levels, norm=norm, bands=bands)
    assert ours.item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("basis", "sides"), [("haar", [128, 64, 32]), ("db3", [130, 67, 36])])
def test_levels_of_a_256_pixel_image_have_the_sizes_of_the_papers_transforms(basis, sides):
    rest, seen_sides = normal(1, 1, 256, 256), []
    for _ in sides:
        rest, details = transform(rest, basis)
        assert {band.shape for band in (rest, *details)} == {(1, 1, rest.shape[-1], rest.shape[-1])}
        seen_sides.append(rest.shape[-1])
    assert seen_sides == sides


@lenient
@given(st.integers(1, 3), st.floats(-10, 10), st.integers(0, 99))
def test_a_constant_added_to_the_image_leaves_the_haar_distance(levels, shift, seed):
    s, t = normal(1, 2, 16, 24, seed=seed), normal(1, 2, 16, 24, seed=seed + 100)
    torch.testing.assert_close(wavelet_distance(s + shift, t, levels=levels), wavelet_distance(s, t, levels=levels))


@lenient
@given(st.sampled_from(BASES), st.sampled_from(["l1", "l2"]), st.sampled_from(BANDS), st.integers(0, 99))
def test_the_wavelet_distance_is_symmetric_and_nothing_between_equal_images(basis, norm, bands, seed):
    s, t = normal(1, 3, 16, 12, seed=seed), normal(1, 3, 16, 12, seed=seed + 100)
    options = {"basis": basis, "norm": norm, "bands": bands}
    torch.testing.assert_close(wavelet_distance(s, t, **options), wavelet_distance(t, s, **options))
    assert wavelet_distance(s, t, **options) > 0.0
    assert wavelet_distance(s, s, **options) == 0.0


def test_the_low_band_sees_a_constant_that_the_details_do_not():
    s = normal(1, 3, 16, 16)
    assert wavelet_distance(s + 1.0, s, bands="high").item() == pytest.approx(0.0, abs=1e-12)
    for bands in ("low", "all"):  # three orthonormal levels scale a constant by 2 each
        assert wavelet_distance(s + 1.0, s, bands=bands).item() == pytest.approx(8.0)


def test_equal_images_have_no_distance_and_a_finite_gradient():
    s = normal(1, 3, 9, 7).requires_grad_()
    for loss in (pixel_distance(s, s.detach()), wavelet_distance(s, s.detach(), basis="db2")):
        loss.backward()
        assert loss.item() == 0.0
    assert s.grad.abs().max() == 0.0


@pytest.mark.parametrize("basis", ["haar", "db3"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_gradients_of_image_distances_are_those_of_finite_differences(basis, norm):
    s, t = normal(1, 2, 5, 6).requires_grad_(), normal(1, 2, 5, 6, seed=1)
    torch.autograd.gradcheck(lambda x: wavelet_distance(x, t, basis=basis, levels=2, norm=norm), (s,))
    torch.autograd.gradcheck(lambda x: pixel_distance(x, t, norm=norm), (s,))


def test_pixel_distances_are_the_means_of_absolute_values_and_squares():
    s, t = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(pixel_distance(s, t, norm="l1"), F.l1_loss(s, t))
    torch.testing.assert_close(pixel_distance(s, t, norm="l2"), F.mse_loss(s, t))


@pytest.mark.parametrize("distance", [pixel_distance, wavelet_distance])
def test_images_of_different_shapes_are_refused_instead_of_broadcast(distance):
    with pytest.raises(ContractError, match="images are"):
        distance(normal(2, 3, 8, 8), normal(1, 3, 8, 8))


# Kernel alignment


def literal_alignment(x: Tensor, y: Tensor) -> Tensor:
    """Linear kernels between all pairs of pixels of all images, one by one."""
    xs = [x[n, :, i, j] for n in range(x.shape[0]) for i in range(x.shape[2]) for j in range(x.shape[3])]
    ys = [y[n, :, i, j] for n in range(y.shape[0]) for i in range(y.shape[2]) for j in range(y.shape[3])]
    of_x, of_y = x.new_zeros(len(xs), len(xs)), y.new_zeros(len(ys), len(ys))
    for a in range(len(xs)):
        for b in range(len(xs)):
            of_x[a, b], of_y[a, b] = (xs[a] * xs[b]).sum(), (ys[a] * ys[b]).sum()
    return (of_x * of_y).sum() / (of_x.square().sum().sqrt() * of_y.square().sum().sqrt())


@pytest.mark.parametrize(("n", "c1", "c2"), [(1, 1, 1), (1, 3, 3), (2, 2, 5), (3, 4, 1)])
def test_the_papers_form_is_the_alignment_of_kernels_between_pixels(n, c1, c2):
    x, y = features(n, c1, 3, 2), features(n, c2, 3, 2, seed=1)
    torch.testing.assert_close(global_kernel_alignment(x, y), literal_alignment(x, y), rtol=1e-12, atol=0.0)


def test_the_released_form_is_the_cosine_of_grams_between_images():
    x, y = features(4, 3), features(4, 5, 2, 2, seed=1)
    kernels = [np.einsum("achw,bchw->ab", f.numpy(), f.numpy()).ravel() for f in (x, y)]
    cosine = kernels[0] @ kernels[1] / (np.linalg.norm(kernels[0]) * np.linalg.norm(kernels[1]))
    assert batch_kernel_alignment(x, y).item() == pytest.approx(cosine, rel=1e-12)


@lenient
@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 99), st.sampled_from([1e-6, 0.3, 1.0, 1e4]))
def test_rotating_and_scaling_channels_keeps_an_alignment_of_one(n, c, seed, scale):
    x = features(n, c, seed=seed) + 0.1
    rotation, _ = torch.linalg.qr(normal(c, c, seed=seed))
    y = scale * torch.einsum("dc,nchw->ndhw", rotation, x)
    for align in ALIGNMENTS:
        assert align(x, y).item() == pytest.approx(1.0, abs=1e-9)


@lenient
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_an_alignment_is_symmetric_and_between_zero_and_one(n, c1, c2, seed):
    x, y = normal(n, c1, 2, 3, seed=seed), normal(n, c2, 2, 3, seed=seed + 100)
    for align in ALIGNMENTS:
        value = align(x, y)
        assert -1e-12 <= value <= 1 + 1e-12
        torch.testing.assert_close(value, align(y, x))


def test_of_one_image_the_released_form_is_one_without_gradient_and_the_papers_is_not():
    x, y = features(1).requires_grad_(), features(1, seed=1)
    released = batch_kernel_alignment(x, y)
    (gradient,) = torch.autograd.grad(released, x)
    assert released.item() == pytest.approx(1.0)
    assert gradient.abs().max() < 1e-12
    papers = global_kernel_alignment(x, y)
    (gradient,) = torch.autograd.grad(papers, x)
    assert papers < 0.95
    assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("zeros", ["student", "teacher", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_of_zeros_align_with_nothing_and_have_finite_gradients(align, zeros, dtype):
    x = (features() * (zeros == "teacher")).to(dtype).requires_grad_()
    value = align(x, (features(seed=1) * (zeros == "student")).to(dtype))
    value.backward()
    assert value == 0.0
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_aligned_in_float32(align, dtype):
    x = (features(2, 8, 16, 16) * 3e3).to(dtype).requires_grad_()
    y = (features(2, 8, 16, 16, seed=1) * 3e3).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = align(x, y)
    value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), align(x.detach().double(), y.double()), rtol=1e-5, atol=0.0)
    assert x.grad.isfinite().all()


def test_half_precision_images_are_compared_in_float32():
    s, t = normal(1, 3, 16, 16, dtype=torch.float32), normal(1, 3, 16, 16, seed=1, dtype=torch.float32)
    s, t = s.half(), t.half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = pixel_distance(s, t), wavelet_distance(s, t), wavelet_distance(s, t, basis="db2")
    expected = pixel_distance(s.double(), t.double()), wavelet_distance(s.double(), t.double())
    assert {value.dtype for value in values} == {torch.float32}
    torch.testing.assert_close(torch.stack(values[:2]).double(), torch.stack(expected), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("size", [1e-8, 1e8])
def test_very_small_and_very_large_features_align_as_any_others(size):
    x, y = features(2, 4).float(), features(2, 4, seed=1).float()
    for align in ALIGNMENTS:
        torch.testing.assert_close(align(size * x, size * y), align(x, y), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("align", ALIGNMENTS)
def test_gradients_of_alignments_are_those_of_finite_differences(align):
    x, y = normal(2, 3, 2, 3).requires_grad_(), normal(2, 2, 2, 3, seed=1)
    torch.autograd.gradcheck(lambda s: align(s, y), (x,))


@pytest.mark.parametrize("align", ALIGNMENTS)
def test_memory_layout_does_not_change_an_alignment(align):
    x, y = features(2, 3), features(2, 3, seed=1)
    torch.testing.assert_close(align(x.contiguous(memory_format=torch.channels_last), y), align(x, y))


def test_maps_of_different_sides_are_refused_by_the_papers_form():
    with pytest.raises(ContractError, match="equal N, H and W"):
        global_kernel_alignment(features(h=4), features(h=2))
    with pytest.raises(ContractError, match="batch is 1"):
        batch_kernel_alignment(features(1), features(2))


# Terms and their options


@pytest.mark.parametrize(
    "distiller", [pixel(), pixel(norm="l2"), wavelet(), wavelet(basis="db3"), gka(), gka(variant="released")]
)
def test_gradients_reach_the_student_only(distiller):
    (term,) = distiller.terms
    s, t = normal(2, 3, 8, 8).requires_grad_(), normal(2, 3, 8, 8, seed=1).requires_grad_()
    f, g = features(2, 3).requires_grad_(), features(2, 4, seed=1).requires_grad_()
    term(seen(s, body=f), seen(t, body=g)).backward()
    assert (s.grad is None) != (f.grad is None)
    assert t.grad is None
    assert g.grad is None


def test_gka_is_minus_the_sum_or_the_mean_over_taps():
    student, teacher = seen(a=features(seed=1), b=features(seed=2)), seen(a=features(seed=3), b=features(seed=4))
    values = [global_kernel_alignment(student.features[tap], teacher.features[tap]) for tap in "ab"]
    torch.testing.assert_close(gka().terms[0](student, teacher), -(values[0] + values[1]))
    torch.testing.assert_close(gka(reduction="mean").terms[0](student, teacher), -(values[0] + values[1]) / 2)
    torch.testing.assert_close(gka(taps=["b"]).terms[0](student, teacher), -values[1])


@given(st.integers(1, 40))
@lenient
def test_default_taps_are_at_most_four_different_ones_with_the_first_and_the_last(number):
    available = tuple(f"body{i}" for i in range(number))
    chosen = spread(available, 4)
    assert len(chosen) == len(set(chosen)) == min(4, number)
    assert (chosen[0], chosen[-1]) == (available[0], available[-1])
    assert list(chosen) == sorted(chosen, key=available.index)


def test_gka_refuses_taps_that_nobody_offers():
    with pytest.raises(IncompatibleParts, match="'neck' is not offered"):
        gka(taps=["stem", "neck"]).terms[0].taps(["stem", "body"])
    with pytest.raises(IncompatibleParts, match="no common tap"):
        gka().terms[0].taps([])


def test_only_the_released_form_needs_two_images():
    gka().terms[0].check((1, 3, 16, 16))
    gka(variant="released").terms[0].check((2, 3, 16, 16))
    with pytest.raises(IncompatibleParts, match="batches of at least 2"):
        gka(variant="released").terms[0].check((1, 3, 16, 16))


@given(side=st.integers(8, 200), levels=st.integers(1, 8), basis=st.sampled_from(["haar", "db3", "sym4"]))
def test_levels_are_allowed_as_far_as_pywavelets_finds_them_useful(side, levels, basis):
    (term,) = wavelet(levels=levels, basis=basis).terms
    if levels <= pywt.dwt_max_level(side, pywt.Wavelet(basis).dec_len):
        return term.check((1, 3, side, side + 5))
    with pytest.raises(IncompatibleParts, match="Lower levels"):
        term.check((1, 3, side, side + 5))


@pytest.mark.parametrize("levels", range(1, 7))
def test_every_allowed_level_of_haar_is_blind_to_brightness(levels):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    (term,) = wavelet(levels=levels).terms
    term.check(image.shape)
    assert float(wavelet_distance(image + 0.5, image, levels=levels)) < 1e-5
    assert float(wavelet_distance(image + 0.5, image, levels=7)) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_filters_are_copied_to_a_device_once(dtype):
    first = _filters("db3", dtype, torch.device("cpu"))
    assert first.dtype == dtype
    assert _filters("db3", dtype, torch.device("cpu")) is first


def test_only_pixels_and_the_low_band_anchor_colours_and_brightness():
    distillers = (pixel(), wavelet(), gka(), wavelet(bands="low"), wavelet(bands="all"))
    assert [d.terms[0].anchors_low_frequencies for d in distillers] == [True, False, False, True, True]


def test_the_wavelet_defaults_are_the_papers():
    (term,) = wavelet().terms
    values = (term.weight, term.basis, term.levels, term.norm, term.bands, term.routes)
    assert values == (0.4, "haar", 3, "l1", "high", None)


@pytest.mark.parametrize(
    ("factory", "options", "hint"),
    [
        (pixel, {"norm": "l3"}, "'l1', 'l2'"),
        (pixel, {"weight": 0}, "above zero"),
        (pixel, {"weight": float("nan")}, "above zero"),
        (wavelet, {"basis": "morl"}, "'bior1.1'"),
        (wavelet, {"levels": 0}, "integer >= 1"),
        (wavelet, {"levels": 2.0}, "integer >= 1"),
        (wavelet, {"norm": "mse"}, "'l1', 'l2'"),
        (wavelet, {"bands": "middle"}, "'high', 'low', 'all'"),
        (wavelet, {"routes": "A2B"}, "list of different names"),
        (gka, {"variant": "cka"}, "'paper', 'released'"),
        (gka, {"reduction": "max"}, "'sum', 'mean'"),
        (gka, {"taps": "stem"}, "list of different names"),
        (gka, {"taps": []}, "list of different names"),
        (gka, {"weight": "1"}, "above zero"),
    ],
)
def test_unknown_options_are_refused_with_the_choices(factory, options, hint):
    with pytest.raises(InvalidOption, match=hint):
        factory(**options)


def test_constants_that_an_inference_made_first_serve_a_training():
    for made in (_gaussian, _filters, _weights):
        made.cache_clear()
    images = [torch.rand(1, 3, 16, 16) for _ in range(2)]

    def values(x, y):
        yield similarity(x, y, moments(x), moments(y))
        yield wavelet_distance(x, y, levels=1, basis="db3")
        yield bicubic(x, 8, 8).sum()

    with torch.inference_mode():
        assert len(list(values(*images))) == 3
    student = images[0].clone().requires_grad_()
    torch.stack(list(values(student, images[1]))).sum().backward()
    assert student.grad.abs().sum() > 0
