"""The operators that a traced program may call: functions of tensors and sizes, which read and write nothing else."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

_NAME = re.compile(r"torch\.ops\.aten\.([a-z_][a-z_0-9]*)\.([A-Za-z_0-9]+)")
_MADE_OF_NOTHING = frozenset(
    "arange complex empty empty_like eye full full_like linspace logspace ones ones_like polar rand rand_like randint "
    "randint_like randn randn_like tensor tril_indices triu_indices zeros zeros_like".split()
)
_JOINING = frozenset(
    "atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors bucketize cartesian_prod cat cdist column_stack "
    "concat concatenate dstack einsum hstack meshgrid row_stack searchsorted stack tensordot vander vstack".split()
)
_OTHERS = frozenset(
    "affine_grid_generator feature_dropout feature_dropout_ grid_sampler grid_sampler_3d lift_fresh lift_fresh_copy "
    "native_batch_norm rsub std_mean sym_constrain_range sym_constrain_range_for_size sym_numel sym_size sym_stride "
    "var_mean view_as_complex view_as_real "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d _assert_scalar _assert_tensor_metadata _cdist_forward _conj "
    "_convolution _fft_c2c _fft_c2r _fft_r2c _local_scalar_dense _log_softmax _native_batch_norm_legit "
    "_native_batch_norm_legit_no_training _pad_circular _pad_enum _prelu_kernel _scaled_dot_product_attention_math "
    "_scaled_dot_product_flash_attention_for_cpu _shape_as_tensor _softmax _stack _to_copy _trilinear _unsafe_index "
    "_unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d _weight_norm _weight_norm_interface".split()
)
# Methods of tensors that change which memory a tensor uses, or make tensors of other kinds than dense ones.
_MEMORY = re.compile(
    r".*_backward|backward|set_|resize_?|resize_as.*|record_stream|pin_memory|is_pinned|.*mkldnn.*|.*sparse.*|"
    r"q_.*|int_repr|dequantize|c?col_indices|c?row_indices|indices|values|data|retain.*|requires_grad_"
)
_PLAIN = re.compile(
    r"(Optional\[|List\[)*(Tensor|int|SymInt|float|bool|number|Scalar|str|ScalarType|Layout|Device|MemoryFormat|"
    r"Generator)\]*"
)
LARGEST_EXPONENT = 64


def operator_named(target: str) -> Callable[..., Any]:
    """The function with that name in the file of a program.

    Raises:
        ValueError: it is none that a program may call.
    """
    if found := _NAME.fullmatch(target):
        return _tensor_operator(found[1], found[2])
    try:
        return _ARITHMETIC[target]
    except KeyError:
        raise ValueError(f"it calls {target[:80]!r}") from None


@cache
def _tensor_operator(name: str, overload: str) -> Callable[..., Any]:
    refused = ValueError(f"it calls 'torch.ops.aten.{name[:60]}.{overload[:30]}'")
    if _MEMORY.fullmatch(name) or not _is_public(name):
        raise refused
    try:
        found = getattr(getattr(torch.ops.aten, name), overload)
    except AttributeError:
        raise refused from None
    if not isinstance(found, torch._ops.OpOverload) or not all(map(_is_plain, found._schema.arguments)):
        raise refused
    return found


def _is_public(name: str) -> bool:
    """Whether people who write networks call it so, or under that name without the underscore of in-place forms."""
    if name in _MADE_OF_NOTHING | _JOINING | _OTHERS:
        return True
    if name.startswith("_"):
        return False
    places = (torch.Tensor, torch.nn.functional, torch._C._nn)
    return name.startswith(("fft_", "linalg_", "special_")) or any(
        hasattr(place, form) for place in places for form in (name, name.removesuffix("_"))
    )


def _is_plain(argument: Any) -> bool:
    return _PLAIN.fullmatch(str(argument.type)) is not None


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
