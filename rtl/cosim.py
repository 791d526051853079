"""The whole co-processor, Verilated, with a memory on its bus: programs run on its gates.

Every handshake is judged while it happens: payload that changes before it is taken, an illegal
burst, a burst outside its window, a beat without a burst. What is found ends the run with an
error that names the cycle. Nothing waits for ever: a co-processor that neither moves a beat nor
takes a step of a sum for ``PATIENCE`` cycles is an error.
"""

from __future__ import annotations

import ctypes
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import DataError, DeviceError, ToolError
from opennpe.golden.registers import (
    CAUSES,
    COUNTERS,
    REGISTERS,
    Counters,
    MemorySettings,
    capabilities,
)
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import tools, verilated
from opennpe.rtl.top_verilog import TOP, coprocessor_verilog, hierarchical, layout

__all__ = [
    "CHANNELS",
    "EVENT",
    "PATIENCE",
    "Cosim",
    "Done",
    "Mischief",
    "Start",
    "build",
    "waves_kind",
]

HARNESS = Path(__file__).with_name("cosim.cpp")
PATIENCE = 200_000
"""Cycles without a beat on the bus or a step of a sum after which the co-processor hangs."""
SLICE = 10_000
"""Cycles at a time between two looks at the clock, at Ctrl-C and at progress."""
CHANNELS = ("AR", "R", "AW", "W", "B")
EVENT = np.dtype(
    [("cycle", "<i8"), ("channel", "<i4"), ("beats", "<i4"), ("address", "<u4"), ("resp", "<u4")]
)
"""A handshake; ``cycle`` counts from the one that accepts the start, ``beats`` are its burst's."""
Waves = Literal["", "fst", "vcd"]
RUNNING, INTERRUPT, FAILED = range(3)
BUSY, DONE, ERROR = 1, 2, 4
"""Bits of the register ``status``."""
START, CLEAR = 1, 2
"""Bits of the register ``control``."""


@dataclass(frozen=True)
class Start:
    """What a start is told, a register each: see :data:`opennpe.golden.registers.REGISTERS`.

    The windows hold byte addresses; their limits are exclusive.
    """

    program: int
    program_lines: int
    read_base: int
    read_limit: int
    write_base: int
    write_limit: int


@dataclass(frozen=True)
class Mischief:
    """What the memory does beside its duty.

    Attributes:
        pressure: chance in 256 that a channel rests in a cycle.
        seed: decides when.
        fail_read_beat: this beat read, counted from 0, is answered SLVERR.
        fail_write_burst: this burst written is dropped and answered SLVERR.
    """

    pressure: int = 0
    seed: int = 0
    fail_read_beat: int | None = None
    fail_write_burst: int | None = None


@dataclass(frozen=True, eq=False)
class Done:
    """A run that ended well.

    Attributes:
        counters: the co-processor's own.
        cycles: clock cycles simulated, register accesses included.
        seconds: wall time of the simulation.
        dropped: beats written outside the memory.
        events: ``EVENT`` (N,), handshakes of the bus in order, as many as were asked for.
    """

    counters: Counters
    cycles: int
    seconds: float
    dropped: int
    events: NDArray[Any]


class _Settings(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64 if name == "seed" else ctypes.c_int64)
        for name in (
            *(field.name for field in dataclasses.fields(MemorySettings)),
            *("read_base", "read_limit", "write_base", "write_limit"),
            *("fail_read_beat", "fail_write_burst", "seed", "pressure", "events"),
        )
    ]


class _Totals(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("cycles", "read_bursts", "read_beats", "write_bursts", "write_beats")
    ] + [("dropped", ctypes.c_int64)]


class Cosim:
    """The co-processor of a spec behind its registers, and ``memory``, the memory on its bus.

    Built once a spec and kept in the user's cache: :mod:`opennpe.rtl.verilated`.

    Args:
        spec: whose co-processor.
        memory_bytes: size of the memory, from address 0 on.
        waves: "fst" or "vcd" makes a build that can :meth:`trace`, and that runs slower.
        verilog: Verilog of another design with the same top module and ports.

    Raises:
        SpecError: a spec the co-processor has no gates for.
        ToolError: Verilator or the compiler is missing, or the build failed.

    Attributes:
        memory: uint8 (memory_bytes,), the memory itself.
    """

    def __init__(
        self,
        spec: CoprocessorSpec,
        memory_bytes: int,
        waves: Waves = "",
        verilog: str | None = None,
    ) -> None:
        self.spec = spec
        self._handle: int | None = None
        self.path = build(spec, waves, verilog)
        self.waves = waves
        self._library = ctypes.CDLL(str(self.path))
        for name, result, *arguments in _FUNCTIONS:
            function = getattr(self._library, f"cosim_{name}")
            function.restype, function.argtypes = result, arguments
        self._handle = self._library.cosim_create(memory_bytes)
        pointer = self._library.cosim_memory(self._handle)
        self.memory: NDArray[np.uint8] = np.ctypeslib.as_array(pointer, shape=(memory_bytes,))

    def close(self) -> None:
        """Release the simulation; ``memory`` is gone with it."""
        if self._handle is not None:
            self.memory = np.zeros(0, dtype=np.uint8)
            self._library.cosim_destroy(self._handle)
            self._handle = None

    def __enter__(self) -> Cosim:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Not close(): at the interpreter's end NumPy may be gone.
        if self._handle is not None:
            self._library.cosim_destroy(self._handle)

    # -- registers ---------------------------------------------------------------------------
    def read(self, register: str | int) -> int:
        """A register, by name or byte offset.

        Raises:
            DeviceError: it is not answered, or answered with an error.
        """
        value = ctypes.c_uint32()
        self._library.cosim_read(self._handle, _offset(register), ctypes.byref(value))
        self._judge()
        return value.value

    def write(self, register: str | int, value: int) -> None:
        """Set a register; errors as in :meth:`read`."""
        self._write(register, value)

    def _write(self, register: str | int, value: int, starts: bool = False) -> None:
        self._library.cosim_write(self._handle, _offset(register), value, starts)
        self._judge()

    def counters(self) -> Counters:
        """The performance counters, as they stand."""
        values = {}
        for name in COUNTERS:
            offset = REGISTERS[name]
            values[name] = self.read(offset) | self.read(offset + 4) << 32
        return Counters(**values)

    def check_identity(self) -> None:
        """Compare the registers that describe the co-processor with the spec.

        Raises:
            DeviceError: a register that says something else.
        """
        for name, expected in capabilities(self.spec).items():
            found = self.read(name)
            if found != expected:
                raise DeviceError(
                    f"the co-processor's register {name} holds {found:#x}, {self.spec.name} has "
                    f"{expected:#x}: program and co-processor do not fit"
                )

    # -- runs --------------------------------------------------------------------------------
    def reset(self, cycles: int = 2) -> None:
        """Reset the co-processor; what is under way on the bus is forgotten."""
        self._library.cosim_reset(self._handle, cycles)

    def trace(self, path: str | Path | None, first: int = 0, last: int = 1 << 62) -> None:
        """Write waveforms of cycles ``first`` to ``last`` (exclusive) of each run; None ends it.

        Raises:
            ToolError: the build has no waveforms.
        """
        if path is not None and not self.waves:
            raise ToolError("this build has no waveforms: make the Cosim with waves='fst'")
        name = None if path is None else str(path).encode()
        self._library.cosim_trace(self._handle, name, first, last)

    def begin(
        self,
        start: Start,
        settings: MemorySettings | None = None,
        mischief: Mischief | None = None,
        events: int = 0,
    ) -> None:
        """Set the registers and start, without waiting; see :meth:`run`."""
        mischief = mischief or Mischief()
        values = dataclasses.asdict(settings or MemorySettings()) | dataclasses.asdict(mischief)
        values |= {k: v for k, v in vars(start).items() if not k.startswith("program")}
        values = {k: -1 if v is None else v for k, v in values.items()}
        given = _Settings(**values, events=events)
        self._library.cosim_begin(self._handle, ctypes.byref(given))
        for name, value in vars(start).items():
            self.write(name, value)
        self.write("interrupt", 1)
        self._write("control", START, starts=True)

    def step(self, cycles: int) -> bool:
        """Simulate so many cycles, fewer if the interrupt is raised; whether it is.

        Raises:
            DeviceError: a handshake against the rules.
        """
        status = self._library.cosim_run(self._handle, cycles)
        self._judge()
        return bool(status == INTERRUPT)

    def run(
        self,
        start: Start,
        settings: MemorySettings | None = None,
        *,
        mischief: Mischief | None = None,
        events: int = 0,
        cycle_limit: int | None = None,
        patience: int = PATIENCE,
        progress: Callable[[int], object] | None = None,
    ) -> Done:
        """Start a program that lies in ``memory`` and wait for its interrupt.

        Args:
            start: where the program lies and what it may touch.
            settings: how fast the memory answers.
            mischief: back-pressure and errors of the memory.
            events: handshakes to record at most.
            cycle_limit: cycles after which the run is given up.
            patience: cycles without progress after which it hangs.
            progress: called with the cycles simulated since the last call.

        Raises:
            DeviceError: the co-processor stopped with an error, broke a rule of the bus or hangs;
                after the last two only :meth:`reset` brings it back.
        """
        begun = time.perf_counter()
        self.begin(start, settings, mischief, events)
        self._wait(cycle_limit, patience, progress)
        seconds = time.perf_counter() - begun
        status = self.read("status")
        if status & ERROR or status & BUSY or not status & DONE:
            raise DeviceError(f"the co-processor stopped with an error: {self._cause(status)}")
        counters = self.counters()
        self.write("control", CLEAR)
        if self.read("status"):
            raise DeviceError(f"status is {self.read('status'):#x} after it was cleared")
        totals = self.totals()
        return Done(counters, totals["cycles"], seconds, totals["dropped"], self.events())

    def totals(self) -> dict[str, int]:
        """Cycles, bursts and beats since the start, and beats dropped, as the memory saw them."""
        totals = _Totals()
        self._library.cosim_totals(self._handle, ctypes.byref(totals))
        return {name: int(getattr(totals, name)) for name, _ in _Totals._fields_}

    def events(self) -> NDArray[Any]:
        """``EVENT`` (N,), the handshakes recorded since the start."""
        first = ctypes.c_void_p()
        count = self._library.cosim_events(self._handle, ctypes.byref(first))
        if not count:
            return np.zeros(0, dtype=EVENT)
        data = ctypes.string_at(first, count * EVENT.itemsize)
        return np.frombuffer(data, dtype=EVENT)

    def _wait(
        self, limit: int | None, patience: int, progress: Callable[[int], object] | None
    ) -> None:
        simulated, looked, busy = 0, 0, -1
        step = max(1, min(SLICE, patience // 2))
        while True:
            ahead = step if limit is None else min(step, limit - simulated)
            ended = self.step(ahead)
            now = self.totals()["cycles"]
            if progress is not None:
                progress(now - simulated)
            simulated = now
            if ended:
                return
            if limit is not None and simulated >= limit:
                raise DeviceError(f"the co-processor is not done after {limit} cycles")
            quiet = self._library.cosim_quiet(self._handle)
            if min(quiet, simulated - looked) >= patience:
                found, looked = self.counters().busy, simulated
                if found == busy:
                    raise DeviceError(
                        f"the co-processor hangs: no beat on the bus and no step of a sum for "
                        f"{patience} cycles up to cycle {simulated}; cause: {self._cause()}"
                    )
                busy = found

    def _cause(self, status: int | None = None) -> str:
        status = self.read("status") if status is None else status
        cause, culprit = self.read("cause"), self.read("culprit")
        text = CAUSES[cause] if cause < len(CAUSES) else f"unknown cause {cause}"
        return f"{text} (status {status:#x}, {culprit} commands dispatched)"

    def _judge(self) -> None:
        failure = self._library.cosim_failure(self._handle).decode()
        if failure:
            raise DeviceError(f"the co-processor breaks a rule of its bus: {failure}")
        refused = self._library.cosim_refused(self._handle)
        if refused >= 0:
            raise DeviceError(f"register {refused:#x} is answered with an error: there is none")


def build(spec: CoprocessorSpec, waves: Waves = "", verilog: str | None = None) -> Path:
    """The shared library of a co-processor, from the cache if it is there.

    Raises:
        SpecError: a spec the co-processor has no gates for.
        ToolError: Verilator or the compiler is missing, or the build failed.
    """
    if waves not in ("", "fst", "vcd"):
        raise DataError(f"waveforms are written as fst or vcd, not '{waves}'")
    text = verilog
    if text is None:
        text = verilated.remembered(lambda: coprocessor_verilog(spec), TOP, repr(spec))
    sources = {
        f"{TOP}.v": hierarchical(text),
        "layout.h": layout(spec, waves),
        HARNESS.name: HARNESS.read_text(),
    }
    flags: Sequence[str] = ("--hierarchical",) if "hier_block" in sources[f"{TOP}.v"] else ()
    if waves == "fst":
        tools.check_headers("lz4.h", "zlib.h")
    if waves:
        flags = (*flags, f"--trace-{waves}")
    return verilated.library(TOP, sources, flags)


def waves_kind(path: str | Path | None) -> Waves:
    """The kind of waveforms that a file's suffix asks for, "" without a file.

    Raises:
        ToolError: another suffix.
    """
    kinds: dict[str, Waves] = {".fst": "fst", ".vcd": "vcd"}
    if path is None:
        return ""
    suffix = Path(path).suffix
    if suffix not in kinds:
        raise ToolError(f"waveforms go to a .fst or a .vcd file, not '{path}'")
    return kinds[suffix]


def _offset(register: str | int) -> int:
    return REGISTERS[register] if isinstance(register, str) else register


_POINTER = ctypes.c_void_p
_FUNCTIONS: tuple[tuple[Any, ...], ...] = (
    ("create", _POINTER, ctypes.c_int64),
    ("destroy", None, _POINTER),
    ("memory", ctypes.POINTER(ctypes.c_uint8), _POINTER),
    ("begin", None, _POINTER, ctypes.POINTER(_Settings)),
    ("reset", None, _POINTER, ctypes.c_int64),
    ("run", ctypes.c_int, _POINTER, ctypes.c_int64),
    ("write", ctypes.c_int, _POINTER, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_int),
    ("read", ctypes.c_int, _POINTER, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32)),
    ("refused", ctypes.c_int64, _POINTER),
    ("quiet", ctypes.c_int64, _POINTER),
    ("failure", ctypes.c_char_p, _POINTER),
    ("totals", None, _POINTER, ctypes.POINTER(_Totals)),
    ("events", ctypes.c_int64, _POINTER, ctypes.POINTER(_POINTER)),
    ("trace", None, _POINTER, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64),
)
