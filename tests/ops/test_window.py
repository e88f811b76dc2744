"""Tests of the geometry of an axis against an enumeration of all outputs and taps."""

import re
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnn_jax import errors, ops
from cnn_jax.ops.window import Axis

each_step = pytest.mark.parametrize(("stride", "dilation"), list(product(range(1, 5), range(1, 5))))


def axes(stride: int, dilation: int, least: int) -> list[Axis]:
    """Returns all small axes with an output and a padding of at least `least` (may be negative)."""
    sizes, kernels, pads = range(1, 7), range(1, 5), range(least, 6)
    every = product(sizes, kernels, pads, (least, 0, 1, 5))
    found = [Axis(size, taps, stride, dilation, low, high) for size, taps, low, high in every]
    return [axis for axis in found if axis.output > 0]


def reads(axis: Axis) -> set[tuple[int, int, int]]:
    """Returns (output, tap, place) for each place that an output reads through a tap.

    A place is the index of an input or of a zero of the padding.
    """
    places = range(-axis.low, axis.size + axis.high)
    return {
        (output, tap, axis.stride * output + axis.dilation * tap - axis.low)
        for output, tap in product(range(axis.output + 2), range(axis.kernel))
        if axis.stride * output + axis.dilation * (axis.kernel - 1) - axis.low in places
    }


@each_step
def test_outputs_are_those_whose_taps_all_read_a_place(stride: int, dilation: int) -> None:
    for axis in axes(stride, dilation, least=-2):
        outputs = {output for output, _, _ in reads(axis)}
        assert outputs == set(range(axis.output)), axis


@each_step
def test_positions_are_those_that_hold_an_input(stride: int, dilation: int) -> None:
    for axis in axes(stride, dilation, least=0):
        holding = {(place + axis.low) // stride for place in range(axis.size)}
        first = axis.first_position
        assert holding == set(range(first, first + axis.positions)), axis


@each_step
def test_phases_have_the_reads_of_the_axis(stride: int, dilation: int) -> None:
    for axis in axes(stride, dilation, least=0):
        found = set()
        for remainder in range(stride):
            taps, phase = axis.phase(remainder)
            if not taps:
                continue
            assert phase.output == axis.positions, (axis, remainder)
            for index, tap in product(range(phase.output), range(len(taps))):
                # The taps are in reverse order. The phase's inputs are the outputs of the axis.
                output = phase.stride * index + phase.dilation * tap - phase.low
                place = stride * (axis.first_position + index) + remainder - axis.low
                if output in range(axis.output) and place in range(axis.size):
                    found.add((output, taps[len(taps) - 1 - tap], place))
        expected = {read for read in reads(axis) if read[2] in range(axis.size)}
        assert found == expected, axis


@pytest.mark.parametrize("window", [(1, 1), (2, 3), (3, 3), (5, 4)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
def test_same_padding_matches_lax(window: tuple[int, int], stride: tuple[int, int]) -> None:
    for size in ((7, 7), (8, 8), (1, 9), (12, 5)):
        expected = lax.padtype_to_pads(size, window, stride, "SAME")
        assert ops.paddings("SAME", size, window, stride) == expected, size
        x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        same, explicit = (
            jax.make_jaxpr(lambda x, pads=pads: ops.max_pool(x, window, stride, pads))(x)
            for pads in ("SAME", expected)
        )
        assert str(same) == str(explicit), size


def test_half_padding_is_half_the_window_on_each_side() -> None:
    assert ops.paddings("HALF", (8, 8), (3, 6), (2, 2)) == [(1, 1), (3, 3)]
    x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    np.testing.assert_array_equal(ops.max_pool(x, 3, 2, "HALF"), ops.max_pool(x, 3, 2, 1))


@pytest.mark.parametrize("padding", [2, (2, 2), [2, 2], ((2, 2), (2, 2)), np.array([2, 2])])
def test_pixels_are_one_number_or_one_for_each_axis_or_side(padding: Any) -> None:
    assert ops.paddings(padding, (8, 8), (5, 5), (1, 1)) == [(2, 2), (2, 2)]


def test_valid_padding_is_none() -> None:
    assert ops.paddings("VALID", (8, 8), (3, 3), (1, 1)) == [(0, 0), (0, 0)]


@pytest.mark.parametrize("padding", ["FULL", 1.5, -1, (1, -1), (1, 2, 3), ((1, 2), 3.0), None])
def test_unknown_padding_is_an_error(padding: Any) -> None:
    message = f"unknown padding {padding!r}; allowed: HALF, SAME, VALID, or pixels"
    with pytest.raises(errors.UserError, match=re.escape(message)):
        ops.paddings(padding, (8, 8), (3, 3), (1, 1))
