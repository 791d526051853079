"""What a program can run on: golden's machine, the simulator, the Verilated gates, one day a board.

A back-end takes a program and the codes of its inputs and gives the codes of its outputs and kept
tensors. All of them give the same codes; those that count give the same counters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.commands import KINDS
from opennpe.golden.errors import DeviceError, ProgramError
from opennpe.golden.machine import Machine
from opennpe.golden.network import Network
from opennpe.golden.program import Program
from opennpe.golden.registers import IDENTITY, VERSION, Counters, MemorySettings
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["Backend", "Board", "Golden", "Run", "Sim", "Verilator", "check_capabilities"]

Codes = NDArray[Any]
Advance = Callable[[int], object]
"""Told of cycles simulated, or other steps, since the last call."""


@dataclass(frozen=True, eq=False)
class Run:
    """What came of a run.

    Attributes:
        tensors: codes of outputs and kept tensors by name.
        counters: what the co-processor counted; None where nothing counts.
        seconds: wall time of the run itself, without building or compiling.
        timing: the cycle model's times of every command, where it ran.
    """

    tensors: Mapping[str, Codes]
    counters: Counters | None
    seconds: float
    timing: Any = None


class Backend(Protocol):
    """Something that runs programs."""

    def run(self, program: Program, inputs: Mapping[str, Codes], settings: MemorySettings) -> Run:
        """Run one sample.

        Args:
            program: compiled for the back-end's spec.
            inputs: codes by name, axis 0 of extent 1.
            settings: how fast the memory outside answers, where that can be chosen.

        Raises:
            ProgramError: a program for another co-processor.
            DeviceError: the co-processor stopped with an error.
        """


class Board(Protocol):
    """What a co-processor on a board must offer to become a back-end, by whatever cable.

    Registers are those of :data:`opennpe.golden.registers.REGISTERS`, by byte offset; memory is
    the one on the co-processor's bus, by byte address. A back-end writes ``Program.memory``, sets
    the registers named in :class:`opennpe.golden.machine.Window` and the program's, writes 1 to
    ``control``, waits, and reads the results back.
    """

    def read_register(self, offset: int) -> int:
        """A 32-bit register."""

    def write_register(self, offset: int, value: int) -> None:
        """Set a 32-bit register."""

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of the memory."""

    def write_memory(self, address: int, data: bytes) -> None:
        """Change bytes of the memory."""

    def wait(self, seconds: float) -> bool:
        """Wait for the interrupt, so long at most; whether it came."""


def check_capabilities(read: Callable[[str], int], program: Program) -> None:
    """Compare what a co-processor says of itself with what a program was compiled for.

    Args:
        read: gives a register by name.

    Raises:
        DeviceError: no co-processor of ours answers.
        ProgramError: the program is for another one; the first difference is named.
    """
    identity, version = read("identity"), read("version")
    if identity != IDENTITY:
        raise DeviceError(f"no co-processor: identity is {identity:#010x}, not {IDENTITY:#010x}")
    if version != VERSION:
        raise DeviceError(f"the co-processor is of version {version}, programs of {VERSION}")
    array, tiles, kinds = read("array"), read("parameter_tiles"), read("kinds")
    found = {
        "rows": array & 0xFF,
        "columns": array >> 8 & 0xFF,
        "parameter_tiles": tiles & 0xFFFF,
        "command_units": tiles >> 16,
        "kinds": " ".join(kind for i, kind in enumerate(KINDS) if kinds >> i & 1),
        **{name: read(name) for name in ("buffer_lines", "operand_lines", "weight_lines")},
    }
    for name, value in found.items():
        if program.facts[name] != value:
            raise ProgramError(
                f"program '{program.name}' is for {name} {program.facts[name]} ({program.spec}), "
                f"the co-processor has {value}: compile it again"
            )


class Golden:
    """Golden's machine: commands by definition, slow, no cycles."""

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec

    def run(self, program: Program, inputs: Mapping[str, Codes], settings: MemorySettings) -> Run:
        """As :meth:`Backend.run`; ``settings`` change nothing."""
        program.check(self.spec)
        memory = program.memory(inputs)
        begun = time.perf_counter()
        Machine(self.spec).run(memory, program.address, program.lines, program.window)
        return Run(program.results(memory), None, time.perf_counter() - begun)


class Sim:
    """The simulator: tensors by its kernels, counters by the cycle model.

    Args:
        spec: the co-processor.
        network: what the program was compiled from; without it only counters are known.
        threads: of the kernels.
    """

    def __init__(
        self, spec: CoprocessorSpec, network: Network | None = None, threads: int | None = None
    ) -> None:
        self.spec, self.network, self.threads = spec, network, threads

    def run(self, program: Program, inputs: Mapping[str, Codes], settings: MemorySettings) -> Run:
        """As :meth:`Backend.run`."""
        from opennpe import sim
        from opennpe.sim.coprocessor import cycles

        program.check(self.spec)
        begun = time.perf_counter()
        timing = cycles(self.spec, program, settings)
        tensors: dict[str, Codes] = {}
        if self.network is not None:
            known = self.network.tensors
            names = tuple(s.name for s in program.of("output", "kept") if s.name in known)
            tensors, _ = sim.run(self.spec, self.network, inputs, self.threads, keep=names)
        seconds = time.perf_counter() - begun
        return Run(tensors, timing.counters, seconds, timing)


class Verilator:
    """The gates, Verilated, with a memory on their bus; built once a spec and kept.

    Args:
        spec: the co-processor.
        waves: a file for waveforms, ``.fst`` or ``.vcd``; such a build is another and slower.
        window: cycles (first, behind the last) that the waveforms show.
        advance: told of cycles as they pass.
        mischief: :class:`opennpe.rtl.cosim.Mischief` of the memory.

    Raises:
        SpecError: a spec the co-processor has no gates for.
        ToolError: a tool is missing, or the file's suffix is no format of waveforms.
    """

    def __init__(
        self,
        spec: CoprocessorSpec,
        waves: str | Path | None = None,
        window: tuple[int, int] = (0, 1 << 62),
        advance: Advance | None = None,
        mischief: Any = None,
    ) -> None:
        from opennpe.rtl import cosim

        self.spec, self.waves, self.window = spec, waves, window
        self.advance, self.mischief = advance, mischief
        kind: Literal["", "fst", "vcd"] = cosim.waves_kind(waves)
        self._cosim = cosim
        self._kind = kind
        self._machine: Any = None
        self.library = cosim.build(spec, kind)

    def close(self) -> None:
        """Release the simulation."""
        if self._machine is not None:
            self._machine.close()
            self._machine = None

    def run(self, program: Program, inputs: Mapping[str, Codes], settings: MemorySettings) -> Run:
        """As :meth:`Backend.run`; also fails where a handshake of the bus breaks a rule."""
        program.check(self.spec)
        memory = program.memory(inputs)
        machine = self._fit(len(memory))
        machine.memory[: len(memory)] = memory
        check_capabilities(machine.read, program)
        start = self._cosim.Start(
            program=program.address, program_lines=program.lines, **vars(program.window)
        )
        try:
            if self.waves is not None:
                machine.trace(self.waves, *self.window)
            done = machine.run(start, settings, mischief=self.mischief, progress=self.advance)
        except BaseException:
            self.close()  # only a reset brings it back, and its waveforms are to be whole
            raise
        if self.waves is not None:
            machine.trace(None)
        if done.dropped:
            raise DeviceError(f"{done.dropped} beats were written outside the memory")
        found = np.array(machine.memory[: len(memory)])
        return Run(program.results(found), done.counters, done.seconds)

    def _fit(self, size: int) -> Any:
        """A simulation with so many bytes of memory at least."""
        if self._machine is None or len(self._machine.memory) < size:
            self.close()
            self._machine = self._cosim.Cosim(self.spec, size, self._kind)
        return self._machine
