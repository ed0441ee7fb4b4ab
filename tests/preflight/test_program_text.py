"""What is read from the text of a compiled program: products, exchanges, loops, arrays."""

from __future__ import annotations

import pytest

from seqjax.preflight.program_text import Collective, ProgramText

OF_A_CARD = """
HloModule jit_steps, is_scheduled=true

%fused (a.1: bf16[4,8], b.1: bf16[8,16]) -> f32[4,16] {
  %a.1 = bf16[4,8]{1,0} parameter(0)
  %b.1 = bf16[8,16]{1,0} parameter(1)
  %inner = f32[99,99]{1,0} broadcast(%a.1), dimensions={}
  ROOT %dot.1 = f32[4,16]{1,0} dot(%a.1, %b.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%turn (t: (s32[], bf16[4,8], bf16[8,16])) -> (s32[], bf16[4,8], bf16[8,16]) {
  %t = (s32[], bf16[4,8]{1,0}, /*index=2*/bf16[8,16]{1,0}) parameter(0)
  %x = bf16[4,8]{1,0} get-tuple-element(%t), index=1
  %w = bf16[8,16]{1,0} get-tuple-element(%t), index=2
  %y = f32[4,16]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused
  ROOT %out = (s32[], bf16[4,8]{1,0}, bf16[8,16]{1,0}) tuple(%t, %x, %w)
}

%again (t.2: (s32[], bf16[4,8], bf16[8,16])) -> pred[] {
  %t.2 = (s32[], bf16[4,8]{1,0}, bf16[8,16]{1,0}) parameter(0)
  ROOT %lt = pred[] compare(%t.2, %t.2), direction=LT
}

%sum (p: f32[], q: f32[]) -> f32[] {
  %p = f32[] parameter(0)
  %q = f32[] parameter(1)
  ROOT %add = f32[] add(%p, %q)
}

ENTRY %main (x.3: bf16[4,8], w.3: bf16[8,16], g: f32[256]) -> f32[256] {
  %x.3 = bf16[4,8]{1,0} parameter(0)
  %w.3 = bf16[8,16]{1,0} parameter(1)
  %g = f32[256]{0} parameter(2)
  %start = (s32[], bf16[4,8]{1,0}, bf16[8,16]{1,0}) tuple(%g, %x.3, %w.3)
  %loop = (s32[], /*1*/bf16[4,8]) while(%start), condition=%again, body=%turn, x={"known_trip_count":{"n":"10"},"x":[]}
  %q.3 = bf16[2,3,4,8]{3,2,1,0} custom-call(%x.3), custom_call_target="__cudnn$fmhaSoftmax"
  %blas = (f32[2,4,16], s8[32]) custom-call(%k.1, %k.2), custom_call_target="__cublas$gemm","lhs_batch_dimensions":["0"]
  %k.1 = bf16[2,4,8]{2,1,0} copy(%x.3)
  %k.2 = bf16[2,8,16]{2,1,0} copy(%w.3)
  %gather = (f32[256]{0}, f32[1024]{0}) all-gather-start(%g), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %reduced = f32[256]{0} all-reduce(%g), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, to_apply=%sum
}
"""

OF_A_TPU = """
%turn (t: (s32[])) -> (s32[]) {
  %a = bf16[8,4,128,32]{3,2,1,0:T(8,128)(2,1)S(1)} constant({...})
  %b = bf16[8,4,128,32]{3,2,1,0:T(8,128)(2,1)} constant({...})
  %s = f32[8,4,128,128]{3,2,1,0:T(8,128)} convolution(%a, %b), window={size=8x4 stride=7x3 lhs_dilate=8x4}
  ROOT %t = (s32[]{:T(128)}) tuple(%a)
}

%again (t.2: (s32[])) -> pred[] {
  %limit = s32[]{:T(128)} constant(16)
  %t.2 = (s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t.2), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (p: s32[]) -> s32[] {
  %p = s32[]{:T(128)} parameter(0)
  %start = (s32[]{:T(128)}) tuple(%p)
  %loop = (s32[]{:T(128)}) while(%start), condition=%again, body=%turn
  ROOT %out = s32[]{:T(128)} get-tuple-element(%loop), index=0
}
"""


def test_products_are_counted_in_loops_fusions_and_libraries() -> None:
    found = ProgramText(OF_A_CARD)
    assert found.product_flops == pytest.approx(10 * 2 * 4 * 8 * 16 + 2 * 2 * 4 * 8 * 16)
    assert found.turns == 10


def test_a_batched_product_of_a_tpu_is_no_convolution() -> None:
    found = ProgramText(OF_A_TPU)
    assert found.product_flops == pytest.approx(16 * 2 * (8 * 4) * 128 * 32 * 128)
    assert found.turns == 16


def test_a_loop_over_steps_counts_once() -> None:
    unknown = OF_A_TPU.replace("constant(16)", "parameter(1)")
    assert ProgramText(unknown).product_flops == pytest.approx(2 * (8 * 4) * 128 * 32 * 128)
    assert ProgramText(unknown).turns == 0


def test_exchanges_have_their_bytes_and_devices() -> None:
    gather, reduced = ProgramText(OF_A_CARD).collectives
    assert gather == Collective("all-gather", 1024.0, 4, 1) and gather.sent == 3 * 1024
    assert reduced == Collective("all-reduce", 1024.0, 4, 1) and reduced.sent == 2 * 3 / 4 * 1024
    listed = OF_A_CARD.replace("[2,4]<=[8]", "{{0,1,2},{3,4,5}}")
    assert ProgramText(listed).collectives[0].devices == 3


def test_arrays_within_fusions_are_none_of_the_memory() -> None:
    found = ProgramText(OF_A_CARD)
    assert ("f32", (99, 99)) not in found.arrays
    assert {("bf16", (4, 8)), ("f32", (4, 16)), ("f32", (1024,))} <= found.arrays
    assert found.kernels == {"__cudnn$fmhaSoftmax": 1}


def test_parts_of_a_lowered_program_for_one_device_are_done_by_all() -> None:
    lowered = """
xla.sdy.manual_computation_body.1 {
  a = f32[2,8]{1,0} parameter(0)
  b = f32[8,4]{1,0} parameter(1)
  ROOT dot = f32[2,4]{1,0} dot(a, b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY main.2 {
  x = f32[2,8]{1,0} parameter(0)
  w = f32[8,4]{1,0} parameter(1)
  ROOT y = f32[2,4]{1,0} call(x, w), to_apply=xla.sdy.manual_computation_body.1
}
"""
    assert ProgramText(lowered, devices=4).product_flops == pytest.approx(4 * 2 * 2 * 8 * 4)


@pytest.mark.parametrize(
    "groups",
    [
        "mesh['a'=16,'b'=2] {'a'}",
        "mesh['a'=16,'b'=1,'c'=2], device_ids=([2,16]T(1,0)) {'a'}",
        "mesh['a'=4,'b'=2,'c'=4] {'a','c'}",
        "[2,16]<=[32]",
        "{{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15},{16}}",
    ],
)
def test_devices_of_an_exchange_are_read_in_every_form(groups: str) -> None:
    head = "ENTRY %e (g: f32[8]) -> f32[8] {\n  %g = f32[8]{0} parameter(0)\n"
    line = f"  ROOT %r = f32[8]{{0}} all-reduce(%g), replica_groups={groups}, to_apply=%sum\n"
    (found,) = ProgramText(head + line + "}\n").collectives
    assert found.devices == 16
