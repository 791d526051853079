"""Verilog whose memories give wrong bits where a line is read in the cycle of its write."""

from __future__ import annotations

import re

__all__ = ["poisoned"]

MEMORY = re.compile(
    r"\(\* no_rw_check = 32'd1 \*\)\n  reg \[(?P<top>\d+):0\] (?P<name>\S+) +\[\d+:0\];\n"
    r"  always @\(posedge clk\) begin\n(?P<writes>.*?)\n  end\n"
    r"(?P<reads>  reg \[\d+:0\] _\d+_;\n  always @\(posedge clk\) begin\n.*?\n  end\n)",
    re.DOTALL,
)
LINE = r" ?\[((?:[^\[\]]|\[[^\]]*\])*)\]"
"""Of a memory, maybe a part of a signal."""


def poisoned(text: str, same: bool = True) -> tuple[str, int]:
    """The Verilog of a design, changed, and its memories that are told ``no_rw_check``.

    ``same``: reads are spoilt by a write of the same line only; else by any write of the memory.
    """

    def spoil(found: re.Match[str]) -> str:
        name, bits = re.escape(found["name"]), int(found["top"]) + 1
        writes = re.findall(rf"if \((.*?)\)\n +{name}{LINE}(?:\[\d+:\d+\])? <=", found["writes"])
        assert writes, found[0]

        def read(given: re.Match[str]) -> str:
            line = given[2].strip()
            at = " | ".join(
                f"(({enable}) && {line} == {where.strip()} )" if same else f"({enable})"
                for enable, where in writes
            )
            return f"<= {given[1]} ^ {{{bits}{{{at}}}}};"

        reads, count = re.subn(rf"<= ({name}{LINE});", read, found["reads"])
        assert count == 1, found[0]
        return found[0].replace(found["reads"], reads)

    changed, count = MEMORY.subn(spoil, text)
    assert count == text.count("no_rw_check"), count
    return changed, count
