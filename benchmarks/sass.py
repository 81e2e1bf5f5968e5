"""Reads what a kernel was compiled to: its loops, and what one turn of them costs."""

from __future__ import annotations

import re
from typing import NamedTuple

_LABEL = re.compile(r"^\s*(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?P<text>.*?)\s*;")
_BRANCH = re.compile(r"\bBRA\b.*`\((\.L_x_\d+)\)")
_PREDICATE = re.compile(r"^@!?U?P\w+\s+")
_RESOURCES = re.compile(r"REG:(\d+)\s+STACK:(\d+)")
_WIDTH_BITS = re.compile(r"\.(?:[US])?(8|16|32|64|128|256)\b")


class Instruction(NamedTuple):
    """One machine instruction: its opcode with modifiers, and what it jumps to, if it does."""

    opcode: str
    jumps_to: str | None

    @property
    def base(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.split(".", 1)[0]


class Program(NamedTuple):
    """The instructions of a kernel and where its labels point."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]


class Resources(NamedTuple):
    """Registers and bytes of stack of a thread."""

    registers: int
    stack: int


class Loop(NamedTuple):
    """The instructions of one turn of an innermost loop."""

    instructions: tuple[Instruction, ...]

    def count(self, *bases: str) -> int:
        """Number of instructions with one of these opcodes."""
        return sum(instruction.base in bases for instruction in self.instructions)

    @property
    def load_bytes(self) -> tuple[int, ...]:
        """Bytes that each global load of the loop brings to a thread, in order."""
        return tuple(memory_bytes(i.opcode) for i in self.instructions if i.base == "LDG")

    @property
    def spills(self) -> int:
        """Loads and stores of local memory."""
        return self.count("LDL", "STL")

    @property
    def barriers(self) -> int:
        """Points where the threads of a block wait for one another."""
        return self.count("BAR")


def memory_bytes(opcode: str) -> int:
    """Bytes a thread moves with a memory instruction: 4 unless a modifier says otherwise."""
    width = _WIDTH_BITS.search(opcode)
    return int(width[1]) // 8 if width else 4


def parse(listing: str) -> Program:
    """The program in a listing of `nvdisasm -c`."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        if found := _INSTRUCTION.match(line):
            text = _PREDICATE.sub("", found["text"])
            branch = _BRANCH.search(text)
            instructions.append(Instruction(text.split()[0], branch[1] if branch else None))
    return Program(tuple(instructions), labels)


def main_loops(program: Program) -> tuple[Loop, ...]:
    """The innermost loops of the first outermost one, in program order: backward branches are loops.

    What comes after it treats the last, incomplete tile. The branch to itself behind the end of a kernel is
    no loop.
    """
    spans = sorted(
        {
            (program.labels[instruction.jumps_to], position)
            for position, instruction in enumerate(program.instructions)
            if instruction.jumps_to is not None and program.labels.get(instruction.jumps_to, position) < position
        },
        key=lambda span: (span[0], -span[1]),
    )
    if not spans:
        return ()
    inside = [span for span in spans if _holds(spans[0], span)] or [spans[0]]
    innermost = [span for span in inside if not any(_holds(span, other) for other in inside)]
    return tuple(Loop(program.instructions[first : last + 1]) for first, last in innermost)


def _holds(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return span != other and span[0] <= other[0] and other[1] <= span[1]


def parse_resources(usage: str) -> Resources:
    """Registers and stack in the output of `cuobjdump -res-usage`.

    Raises:
        ValueError: if it names none.
    """
    found = _RESOURCES.search(usage)
    if found is None:
        raise ValueError("no registers in the resource usage that cuobjdump printed")
    return Resources(int(found[1]), int(found[2]))
