"""The operators that a traced program may call: functions of tensors and sizes, which read and write nothing else."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch

_NAME = re.compile(r"torch\.ops\.aten\.([A-Za-z_][A-Za-z_0-9]*\.[A-Za-z_0-9]+)")
_CONVOLUTIONS = frozenset(
    "conv1d.default conv2d.default conv3d.default conv1d.padding conv2d.padding conv3d.padding "
    "conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input linear.default".split()
)
_NORMS = frozenset(
    "batch_norm.default instance_norm.default group_norm.default layer_norm.default rms_norm.default "
    "_weight_norm.default _weight_norm_interface.default linalg_vector_norm.default linalg_norm.default norm.Scalar "
    "norm.ScalarOpt_dim norm.ScalarOpt_dtype norm.ScalarOpt_dim_dtype cosine_similarity.default dropout.default "
    "dropout_.default feature_dropout.default feature_dropout_.default alpha_dropout.default alpha_dropout_.default "
    "feature_alpha_dropout.default feature_alpha_dropout_.default".split()
)
_ACTIVATIONS = frozenset(
    "relu.default relu_.default relu6.default relu6_.default prelu.default leaky_relu.default leaky_relu_.default "
    "elu.default elu_.default selu.default selu_.default celu.default celu_.default gelu.default silu.default "
    "silu_.default mish.default mish_.default hardswish.default hardswish_.default hardsigmoid.default "
    "hardsigmoid_.default hardtanh.default hardtanh_.default softplus.default softshrink.default hardshrink.default "
    "threshold.default threshold_.default tanh.default tanh_.default sigmoid.default sigmoid_.default "
    "log_sigmoid.default rrelu.default rrelu_.default glu.default softmax.int log_softmax.int logit.default "
    "special_expit.default".split()
)
_FUNCTIONS = frozenset(
    "exp.default exp_.default exp2.default expm1.default log.default log_.default log2.default log10.default "
    "log1p.default log1p_.default sqrt.default sqrt_.default rsqrt.default rsqrt_.default square.default "
    "square_.default reciprocal.default reciprocal_.default abs.default abs_.default neg.default neg_.default "
    "sign.default sign_.default sgn.default round.default round_.default floor.default floor_.default ceil.default "
    "ceil_.default trunc.default trunc_.default frac.default sin.default sin_.default cos.default cos_.default "
    "tan.default asin.default acos.default atan.default sinh.default cosh.default asinh.default acosh.default "
    "atanh.default erf.default erf_.default erfc.default erfinv.default sinc.default nan_to_num.default "
    "nan_to_num_.default isnan.default isinf.default isfinite.default logical_not.default logical_not_.default "
    "logical_and.default logical_or.default logical_xor.default bitwise_not.default maximum.default minimum.default "
    "fmax.default fmin.default atan2.default hypot.default logaddexp.default deg2rad.default rad2deg.default "
    "positive.default angle.default real.default imag.default conj.default resolve_conj.default resolve_neg.default "
    "_conj.default vdot.default absolute.default negative.default complex.default polar.default view_as_real.default "
    "view_as_complex.default".split()
)
_ARITHMETICS = frozenset(
    "add.Tensor add.Scalar add_.Tensor add_.Scalar sub.Tensor sub.Scalar sub_.Tensor sub_.Scalar rsub.Tensor "
    "rsub.Scalar mul.Tensor mul.Scalar mul_.Tensor mul_.Scalar div.Tensor div.Scalar div_.Tensor div_.Scalar "
    "div.Tensor_mode div.Scalar_mode div_.Tensor_mode div_.Scalar_mode true_divide.Tensor true_divide.Scalar "
    "multiply.Tensor multiply_.Tensor multiply.Scalar subtract.Tensor subtract_.Tensor subtract.Scalar divide.Tensor "
    "divide_.Tensor true_divide_.Tensor divide.Scalar floor_divide.default floor_divide.Scalar floor_divide_.Tensor "
    "floor_divide_.Scalar remainder.Tensor remainder.Scalar remainder.Scalar_Tensor remainder_.Tensor "
    "remainder_.Scalar fmod.Tensor fmod.Scalar fmod_.Tensor fmod_.Scalar pow.Tensor_Tensor pow.Tensor_Scalar "
    "pow.Scalar pow_.Tensor pow_.Scalar float_power.Tensor_Tensor float_power.Tensor_Scalar addcmul.default "
    "addcmul_.default addcdiv.default addcdiv_.default lerp.Scalar lerp.Tensor lerp_.Scalar lerp_.Tensor "
    "clamp.default clamp.Tensor clamp_.default clamp_.Tensor clip.default clip.Tensor clip_.default clamp_min.default "
    "clamp_min.Tensor clamp_min_.default clamp_min_.Tensor clamp_max.default clamp_max.Tensor clamp_max_.default "
    "clamp_max_.Tensor max.other min.other round.decimals where.self where.ScalarSelf where.ScalarOther where.Scalar "
    "masked_fill.Scalar masked_fill.Tensor masked_fill_.Scalar masked_fill_.Tensor eq.Tensor eq.Scalar ne.Tensor "
    "ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor gt.Scalar ge.Tensor ge.Scalar __and__.Tensor "
    "__and__.Scalar __or__.Tensor __or__.Scalar __xor__.Tensor __xor__.Scalar bitwise_and.Tensor bitwise_and.Scalar "
    "bitwise_or.Tensor bitwise_or.Scalar bitwise_xor.Tensor bitwise_xor.Scalar".split()
)
_SHAPES = frozenset(
    "cat.default concat.default concatenate.default stack.default hstack.default vstack.default dstack.default "
    "chunk.default split.Tensor split.sizes split_with_sizes.default tensor_split.sections tensor_split.indices "
    "unbind.int unsafe_chunk.default unsafe_split.Tensor meshgrid.default meshgrid.indexing broadcast_tensors.default "
    "broadcast_to.default narrow.default slice.Tensor select.int index.Tensor index_put.default index_put_.default "
    "index_select.default gather.default take_along_dim.default scatter.src scatter.value scatter_.src scatter_.value "
    "scatter_add.default scatter_add_.default slice_scatter.default select_scatter.default copy_.default fill_.Scalar "
    "fill_.Tensor zero_.default roll.default rot90.default flip.default fliplr.default flipud.default permute.default "
    "movedim.int movedim.intlist moveaxis.int moveaxis.intlist transpose.int transpose_.default swapaxes.default "
    "swapdims.default t.default mT.default adjoint.default numpy_T.default matrix_H.default mH.default "
    "reshape.default reshape_as.default view.default view_as.default _unsafe_view.default flatten.using_ints "
    "unflatten.int ravel.default unsqueeze.default unsqueeze_.default squeeze.default squeeze.dim squeeze.dims "
    "squeeze_.dim expand.default expand_as.default repeat.default repeat_interleave.self_int tile.default "
    "contiguous.default clone.default detach.default detach_.default alias.default unfold.default diagonal.default "
    "diag.default diag_embed.default tril.default triu.default to.dtype to.device to.dtype_layout to.other "
    "_to_copy.default type_as.default lift_fresh_copy.default one_hot.default embedding.default im2col.default "
    "col2im.default".split()
)
_RESAMPLING = frozenset(
    "pixel_shuffle.default pixel_unshuffle.default channel_shuffle.default native_channel_shuffle.default pad.default "
    "constant_pad_nd.default reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default "
    "replication_pad1d.default replication_pad2d.default replication_pad3d.default upsample_nearest1d.vec "
    "upsample_nearest2d.vec upsample_nearest3d.vec _upsample_nearest_exact1d.vec _upsample_nearest_exact2d.vec "
    "_upsample_nearest_exact3d.vec upsample_linear1d.vec upsample_bilinear2d.vec upsample_trilinear3d.vec "
    "upsample_bicubic2d.vec _upsample_bilinear2d_aa.vec _upsample_bicubic2d_aa.vec avg_pool1d.default "
    "avg_pool2d.default avg_pool3d.default max_pool1d.default max_pool2d.default max_pool3d.default "
    "max_pool2d_with_indices.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default "
    "adaptive_avg_pool3d.default adaptive_max_pool1d.default adaptive_max_pool2d.default adaptive_max_pool3d.default "
    "grid_sampler.default affine_grid_generator.default fft_fft.default fft_ifft.default fft_rfft.default "
    "fft_irfft.default fft_fft2.default fft_ifft2.default fft_rfft2.default fft_irfft2.default fft_fftn.default "
    "fft_ifftn.default fft_rfftn.default fft_irfftn.default fft_fftshift.default fft_ifftshift.default".split()
)
_REDUCTIONS = frozenset(
    "mean.default mean.dim sum.default sum.dim_IntList prod.default prod.dim_int amax.default amin.default "
    "max.default max.dim min.default min.dim argmax.default argmin.default var.default var.dim var.correction "
    "std.default std.dim std.correction var_mean.default var_mean.dim var_mean.correction std_mean.default "
    "std_mean.dim std_mean.correction logsumexp.default cumsum.default cumprod.default all.default all.dim all.dims "
    "any.default any.dim any.dims sort.default sort.stable argsort.default topk.default median.default "
    "median.dim".split()
)
_ATTENTION = frozenset(
    "matmul.default bmm.default mm.default mv.default dot.default addmm.default baddbmm.default outer.default "
    "einsum.default tensordot.default scaled_dot_product_attention.default lstm.input gru.input rnn_tanh.input "
    "rnn_relu.input".split()
)
_MADE = frozenset(
    "arange.default arange.start arange.start_step linspace.default eye.default eye.m zeros.default "
    "zeros_like.default ones.default ones_like.default full.default full_like.default empty.memory_format "
    "empty_like.default new_empty.default new_zeros.default new_ones.default new_full.default scalar_tensor.default "
    "rand.default rand_like.default randn.default randn_like.default normal_.default uniform_.default".split()
)
_SIZES = frozenset(
    "sym_size.int sym_stride.int sym_numel.default sym_constrain_range.default sym_constrain_range_for_size.default "
    "_assert_scalar.default _assert_tensor_metadata.default".split()
)
ALLOWED = frozenset().union(
    _CONVOLUTIONS,
    _NORMS,
    _ACTIVATIONS,
    _FUNCTIONS,
    _ARITHMETICS,
    _SHAPES,
    _RESAMPLING,
    _REDUCTIONS,
    _ATTENTION,
    _MADE,
    _SIZES,
)
"""What torch.export writes of image generators, by name and overload."""
LARGEST_EXPONENT = 64


def operator_named(target: str) -> Callable[..., Any]:
    """The function with that name in the file of a program.

    Raises:
        ValueError: it is none that a program may call.
    """
    if target in _ARITHMETIC:
        return _ARITHMETIC[target]
    if (match := _NAME.fullmatch(target)) and match[1] in ALLOWED:
        name, overload = match[1].split(".")
        operator_: Callable[..., Any] = getattr(getattr(torch.ops.aten, name), overload)
        return operator_
    raise ValueError(f"it calls {target[:80]!r}")


def _within_64_bits(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, refusing whole numbers that no tensor's size can be: Python's would grow without bound."""

    def bounded(*args: Any) -> Any:
        if any(type(value) is int and abs(value) >= 2**63 for value in args):
            raise ValueError("a size has more than 64 bits")
        result = function(*args)
        if type(result) is int and abs(result) >= 2**63:
            raise ValueError("a size has more than 64 bits")
        return result

    return bounded


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(exponent, (int, float)) and abs(exponent) > LARGEST_EXPONENT:
        raise ValueError(f"a size has the exponent {exponent}, beyond {LARGEST_EXPONENT}")
    return base**exponent


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    name: _within_64_bits(function)
    for name, function in {
        **{
            f"_operator.{name}": getattr(operator, name)
            for name in "add sub mul floordiv truediv mod neg pos and_ or_ eq ne lt le gt ge".split()
        },
        **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
        **{
            f"torch.sym_{name}": getattr(torch, f"sym_{name}")
            for name in ("int", "float", "max", "min", "ite", "not", "sqrt")
            if hasattr(torch, f"sym_{name}")
        },
        "_operator.pow": _power,
    }.items()
}
