"""What LLVM can do with many bytes at once and numba has no words for; it becomes the best that each processor offers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 64  # bytes that `letters` looks at
SLACK = 32  # bytes that must follow what `move` moves, in both arrays

_BYTES, _HALF = ir.VectorType(ir.IntType(8), BLOCK), ir.VectorType(ir.IntType(8), SLACK)
_MASK = ir.IntType(64)


@intrinsic
def letters(typing_context: Any, text: Any, at: Any, folded: Any) -> Any:
    """Write text[at : at + BLOCK] (uint8) to folded[:BLOCK] in lower case, with blanks for what is no ASCII letter or digit.

    Returns two uint64, bit i for byte i: the letters and digits; what is not ASCII, or an apostrophe.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_place(context, builder, signature, arguments, 0, 1, _BYTES), align=1)

        def within(first: str, count: int, of: Any) -> Any:
            return builder.icmp_unsigned("<", builder.sub(of, _all(ord(first))), _all(count))

        small = builder.select(within("A", 26, value), builder.or_(value, _all(0x20)), value)
        plain = builder.or_(within("a", 26, small), within("0", 10, value))
        special = builder.or_(builder.icmp_signed("<", value, _all(0)), builder.icmp_signed("==", value, _all(ord("'"))))
        blanked = builder.select(plain, small, _all(ord(" ")))
        target = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        builder.store(blanked, builder.bitcast(target, _BYTES.as_pointer()), align=1)
        masks = [builder.bitcast(bits, _MASK) for bits in (plain, special)]
        return context.make_tuple(builder, signature.return_type, masks)

    return types.UniTuple(types.uint64, 2)(text, at, folded), generate


@intrinsic
def move(typing_context: Any, source: Any, begin: Any, target: Any, place: Any) -> Any:
    """Copy source[begin : begin + SLACK] to target[place : place + SLACK], both uint8."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_place(context, builder, signature, arguments, 0, 1, _HALF), align=1)
        builder.store(value, _place(context, builder, signature, arguments, 2, 3, _HALF), align=1)
        return context.get_dummy_value()

    return types.void(source, begin, target, place), generate


@intrinsic
def lowest(typing_context: Any, bits: Any) -> Any:
    """The number of the lowest bit that is set in a uint64; 64 where none is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.false_bit)

    return types.uint64(types.uint64), generate


def _place(context: Any, builder: Any, signature: Any, arguments: Any, array: int, index: int, kind: ir.Type) -> Any:
    data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
    return builder.bitcast(builder.gep(data, [arguments[index]]), kind.as_pointer())


def _all(value: int) -> ir.Constant:
    return ir.Constant(_BYTES, [value] * BLOCK)
