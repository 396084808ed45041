"""What LLVM can do with many bytes at once and numba has no words for; it becomes the best that each processor offers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 64  # bytes that `letters` looks at
SLACK = 32  # bytes that must follow what `move` moves, in both arrays
ROWS = 128  # values that `lower` lowers: with their factors and summands all that 32 registers of 512 bits hold

_BYTES, _HALF = ir.VectorType(ir.IntType(8), BLOCK), ir.VectorType(ir.IntType(8), SLACK)
_MASK, _WORDS, _LANES = ir.IntType(64), ir.VectorType(ir.IntType(32), 16), 16
_FIRST = ir.Constant(ir.IntType(32), 0)


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
def lower(typing_context: Any, hashes: Any, count: Any, factors: Any, summands: Any, least: Any, row: Any) -> Any:
    """Lower least[i] to the least of factors[i] * hash + summands[i] over hashes[:count], for i = row to row + ROWS - 1.

    All arrays are uint32. The values stay in registers while the hashes go by, one after the other.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def address(array: int, step: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
            return builder.bitcast(builder.gep(data, [builder.add(arguments[5], step)]), _WORDS.as_pointer())

        steps = [ir.Constant(arguments[5].type, first) for first in range(0, ROWS, _LANES)]
        factor, summand, values = ([builder.load(address(array, step), align=4) for step in steps] for array in (2, 3, 4))
        kept = [cgutils.alloca_once_value(builder, value) for value in values]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        with cgutils.for_range(builder, arguments[1]) as loop:
            one = builder.insert_element(ir.Constant(_WORDS, None), builder.load(builder.gep(data, [loop.index])), _FIRST)
            every = builder.shuffle_vector(one, one, ir.Constant(_WORDS, [0] * _LANES))
            for place, times, plus in zip(kept, factor, summand, strict=True):
                value, before = builder.add(builder.mul(times, every), plus), builder.load(place)
                builder.store(builder.select(builder.icmp_unsigned("<", value, before), value, before), place)
        for place, step in zip(kept, steps, strict=True):
            builder.store(builder.load(place), address(4, step), align=4)
        return context.get_dummy_value()

    return types.void(hashes, types.int64, factors, summands, least, types.int64), generate


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
