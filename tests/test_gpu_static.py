"""The reader of machine code, on listings small enough to check by eye, and the predictions made from it."""

from __future__ import annotations

import pytest

from benchmarks import sass

pytest.importorskip("triton")

LISTING = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   LDG.E.U8 R8, desc[UR4][R2.64+0x10] ;
        /*0030*/              @!P0 FADD R9, R9, R8 ;
        /*0040*/                   MUFU.EX2 R10, R4 ;
.L_x_1:
        /*0050*/                   LDG.E.64 R4, desc[UR4][R2.64] ;
        /*0060*/                   MUFU.RCP R11, R10 ;
        /*0070*/               @P1 BRA `(.L_x_1) ;
        /*0080*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0090*/              @!UP0 BRA `(.L_x_0) ;
.L_x_2:
        /*00a0*/                   STL [R1], R11 ;
        /*00b0*/               @P0 BRA `(.L_x_2) ;
        /*00c0*/                   EXIT ;
.L_x_3:
        /*00d0*/                   BRA `(.L_x_3);
"""

FLAT_LOOP = """
.L_x_0:
        /*0010*/                   LDG.E R4, desc[UR4][R2.64] ;
        /*0020*/                   LDL R5, [R1] ;
        /*0030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0040*/               @P0 BRA `(.L_x_0) ;
        /*0050*/                   EXIT ;
"""


def test_instructions_lose_their_predicates() -> None:
    opcodes = [instruction.opcode for instruction in sass.parse(LISTING).instructions]
    assert opcodes[3] == "FADD"
    assert opcodes[9] == "BRA"
    assert len(opcodes) == 14


def test_main_loops_are_the_innermost_of_the_first_outermost() -> None:
    (loop,) = sass.main_loops(sass.parse(LISTING))
    assert [instruction.opcode for instruction in loop.instructions] == ["LDG.E.64", "MUFU.RCP", "BRA"]


def test_a_loop_without_another_is_its_own_main_loop() -> None:
    (loop,) = sass.main_loops(sass.parse(FLAT_LOOP))
    assert len(loop.instructions) == 4
    assert (loop.spills, loop.barriers, loop.load_bytes) == (1, 1, (4,))


def test_a_program_without_loops_has_none() -> None:
    only_exit = "        /*0010*/  EXIT ;\n.L_x_0:\n        /*0020*/  BRA `(.L_x_0);\n"
    assert sass.main_loops(sass.parse(only_exit)) == ()


def test_counts_special_functions() -> None:
    (loop,) = sass.main_loops(sass.parse(LISTING))
    assert loop.count("MUFU") == 1
    assert loop.count("LDG", "BRA") == 2


@pytest.mark.parametrize(
    ("opcode", "expected"),
    [
        ("LDG.E", 4),
        ("LDG.E.64", 8),
        ("LDG.E.128", 16),
        ("LDG.E.128.CONSTANT", 16),
        ("LDG.E.U8", 1),
        ("LDG.E.U16", 2),
        ("LDG.E.S8", 1),
        ("LDG.E.ENL2.256", 32),
    ],
)
def test_memory_bytes(opcode: str, expected: int) -> None:
    assert sass.memory_bytes(opcode) == expected


def test_resources() -> None:
    usage = " Function kernel:\n  REG:96 STACK:8 SHARED:64 LOCAL:0 CONSTANT[0]:592 TEXTURE:0\n"
    assert sass.parse_resources(usage) == sass.Resources(registers=96, stack=8)
    with pytest.raises(ValueError, match="no registers"):
        sass.parse_resources("nothing")


@pytest.mark.parametrize(
    ("instructions", "mufu", "bytes_", "bound"),
    [(10.0, 1.0, 8.0, "bytes"), (100.0, 1.0, 2.0, "issue"), (10.0, 20.0, 2.0, "mufu")],
)
def test_prediction_names_the_longest_time(instructions: float, mufu: float, bytes_: float, bound: str) -> None:
    gpu_static = pytest.importorskip("benchmarks.gpu_static")
    measured = gpu_static.Measurement("k", "v", 90, 32, 0, 16, 0, instructions, mufu, bytes_, ())
    gpu = gpu_static.Gpu("test", 90, processors=100, clock=1.0, bandwidth=1.0)
    prediction = gpu_static.predict(measured, gpu)
    assert prediction.bound == bound
    assert (prediction.share == 1.0) == (bound == "bytes")
    # 100 processors of 128 lanes at 0.9 GHz issue 11.52 instructions a picosecond.
    if bound == "issue":
        assert prediction.picoseconds == pytest.approx(instructions / 11.52)
