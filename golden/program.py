"""A program: a command list, the memory image it works on, and what lies where.

The file is a magic number, a version, the length of a JSON head, the head, the image and the
SHA-256 of all before. Files are untrusted: everything is checked on reading.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import activations, formats
from opennpe.golden.commands import KINDS, Command, decode
from opennpe.golden.errors import OpenNPEError, ProgramError
from opennpe.golden.layout import Axis, Layout, walked
from opennpe.golden.machine import Window
from opennpe.golden.network import Tensor
from opennpe.golden.registers import VERSION
from opennpe.golden.spec import CoprocessorSpec
from opennpe.golden.whole import replacing

__all__ = ["MAGIC", "ROLES", "HostLayer", "Output", "Program", "Symbol", "facts", "load", "save"]

MAGIC = b"ONPEPROG"
SCHEMA = "opennpe.program/1"
ROLES = ("input", "output", "kept", "constant", "stream")
"""What a tensor outside is for: given, wanted, kept to be compared, or the program's own."""
MAX_HEAD, MAX_BYTES = 64 << 20, 1 << 32
_PREFIX = struct.Struct("<8sIQ")
_DIGEST = hashlib.sha256().digest_size
Codes = NDArray[Any]


@dataclass(frozen=True)
class Symbol:
    """A tensor in the memory outside.

    Attributes:
        name: the network's name of it.
        address: of its first byte.
        layout: its lines.
        shape: as the network has it; the same codes in the same order.
        scale: exponent of its unit.
        role: one of ``ROLES``.
        axes: how the codes in the order of ``shape`` lie in the layout, outermost first; unless
            given they are channels, then pixels.
        channel: the first channel, where there are axes.
    """

    name: str
    address: int
    layout: Layout
    shape: tuple[int, ...]
    scale: int
    role: str
    axes: tuple[Axis, ...] = ()
    channel: int = 0

    @property
    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Channel and pixel of every code, row-major (codes,)."""
        layout = self.layout
        if not self.axes:
            codes = np.arange(layout.channels * layout.pixels)
            return codes // layout.pixels, codes % layout.pixels
        return walked(self.axes, self.channel)

    def write(self, memory: NDArray[np.uint8], codes: Codes) -> None:
        """Put the tensor's codes, of its shape, into the memory."""
        layout = self.layout
        shaped = np.zeros((layout.channels, layout.pixels), dtype=np.asarray(codes).dtype)
        shaped[self.places] = np.asarray(codes).reshape(-1)
        data = layout.pack(shaped.reshape(-1, layout.height, layout.width)).astype("<u2").tobytes()
        memory[self.address : self.address + layout.bytes] = np.frombuffer(data, dtype=np.uint8)

    def read(self, memory: NDArray[np.uint8]) -> Codes:
        """The tensor's codes, in its shape."""
        raw = memory[self.address : self.address + self.layout.bytes]
        words = raw.view("<u2").reshape(self.layout.lines, self.layout.columns)
        codes = self.layout.unpack(words).reshape(self.layout.channels, self.layout.pixels)
        return np.asarray(codes[self.places].reshape(self.shape))


@dataclass(frozen=True)
class HostLayer:
    """A softmax that the host computes from a tensor read back."""

    name: str
    input: Tensor
    output: Tensor
    axis: int
    log: bool

    def run(self, codes: Codes, underflow: formats.Underflow) -> Codes:
        """Codes of the output, as golden defines them."""
        soft = activations.softmax(self.input.decode(codes), self.axis, self.log)
        return self.output.encode(soft, underflow)


@dataclass(frozen=True)
class Output:
    """A tensor the network gives: the symbol it is read from, and the layer left to the host."""

    tensor: Tensor
    symbol: str
    host: HostLayer | None = None


def facts(spec: CoprocessorSpec) -> dict[str, Any]:
    """What a program depends on: shape, memories and rounding of a co-processor."""
    memory = spec.memory
    names = ("buffer_lines", "operand_lines", "weight_lines", "parameter_tiles", "command_units")
    return {
        "rows": spec.array.rows,
        "columns": spec.array.columns,
        "underflow": spec.underflow,
        "shift_bits": spec.engine.shift_bits,
        "kinds": " ".join(kind for kind in KINDS if not spec.lacks(kind)),
        **{name: getattr(memory, name) for name in names},
        **{f"softmax_{name}": value for name, value in vars(spec.softmax_unit).items()},
        **{f"norm_{name}": value for name, value in vars(spec.norm_unit).items()},
    }


@dataclass(frozen=True, eq=False)
class Program:
    """A network compiled for a co-processor.

    Attributes:
        name: the network's.
        spec: name of the specification.
        facts: what :func:`facts` gave of it.
        image: uint8, commands, weights, parameters, tables and constants.
        origin: byte address of the image.
        size: bytes of memory the program works in, image included.
        address: byte address of the command list.
        lines: lines of it that a start loads.
        list_bytes: its length.
        window: what it reads and writes.
        symbols: tensors outside.
        outputs: what the network gives.
        layers: the layer each command belongs to, in order.
    """

    name: str
    spec: str
    facts: Mapping[str, Any]
    image: NDArray[np.uint8]
    origin: int
    size: int
    address: int
    lines: int
    list_bytes: int
    window: Window
    symbols: tuple[Symbol, ...]
    outputs: tuple[Output, ...]
    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        line = 2 * int(self.facts["columns"])
        end = self.origin + len(self.image)
        if not 0 <= self.origin <= end <= self.size <= MAX_BYTES:
            raise ProgramError(f"an image up to byte {end} in {self.size} bytes of memory")
        if not self.origin <= self.address <= self.address + self.list_bytes <= end:
            raise ProgramError("the command list lies outside the image")
        if self.address % line:
            raise ProgramError(f"the command list begins at byte {self.address}, inside a line")
        w = self.window
        for low, high in ((w.read_base, w.read_limit), (w.write_base, w.write_limit)):
            if not 0 <= low <= high <= self.size:
                raise ProgramError(f"a window from {low} to {high} in {self.size} bytes of memory")
        names = set()
        for symbol in self.symbols:
            if symbol.role not in ROLES or symbol.address % line or symbol.name in names:
                raise ProgramError(f"tensor '{symbol.name}' is described twice or falsely")
            if symbol.layout.columns != self.facts["columns"]:
                raise ProgramError(f"tensor '{symbol.name}' has lines of another width")
            if not 0 <= symbol.address <= symbol.address + symbol.layout.bytes <= self.size:
                raise ProgramError(f"tensor '{symbol.name}' lies outside the memory")
            if not _whole(symbol) or any(n < 1 for n in symbol.shape):
                raise ProgramError(f"tensor '{symbol.name}' has a shape that is not its layout's")
            names.add(symbol.name)
        for output in self.outputs:
            if output.symbol not in names:
                raise ProgramError(f"output '{output.tensor.name}' is read from no tensor there is")
            _check_output(output, self.symbol(output.symbol))
        if len(self.layers) != len(self.commands):
            raise ProgramError(
                f"{len(self.commands)} commands and layer names for {len(self.layers)}"
            )

    @property
    def commands(self) -> list[tuple[int, Command]]:
        """Offset in the list, in bytes, and command of each, the end included.

        Raises:
            ProgramError: a list that is none.
        """
        first = self.address - self.origin
        return list(decode(self.image[first : first + self.list_bytes].tobytes()))

    def symbol(self, name: str) -> Symbol:
        """The tensor called ``name``.

        Raises:
            ProgramError: no such tensor outside.
        """
        for symbol in self.symbols:
            if symbol.name == name:
                return symbol
        raise ProgramError(f"the program keeps no tensor '{name}' outside")

    def of(self, *roles: str) -> list[Symbol]:
        """Tensors of these roles."""
        return [symbol for symbol in self.symbols if symbol.role in roles]

    def check(self, spec: CoprocessorSpec) -> None:
        """Refuse to run on another co-processor than the one compiled for.

        Raises:
            ProgramError: naming the first difference.
        """
        for name, value in facts(spec).items():
            if self.facts.get(name) != value:
                raise ProgramError(
                    f"program '{self.name}' is for {name} {self.facts.get(name)} ({self.spec}), "
                    f"{spec.name} has {value}: compile it for {spec.name}"
                )

    def memory(self, inputs: Mapping[str, Codes]) -> NDArray[np.uint8]:
        """The memory before a run: the image and the inputs' codes (a sample, axis 0 of extent 1).

        Raises:
            ProgramError: an input missing.
        """
        memory = np.zeros(self.size, dtype=np.uint8)
        memory[self.origin : self.origin + len(self.image)] = self.image
        for symbol in self.of("input"):
            if symbol.name not in inputs:
                raise ProgramError(f"the input '{symbol.name}' is missing")
            symbol.write(memory, formats.get(symbol.layout.format).check_codes(inputs[symbol.name]))
        return memory

    def results(self, memory: NDArray[np.uint8]) -> dict[str, Codes]:
        """Codes of outputs and kept tensors after a run; the host's layers run here."""
        found = {s.name: s.read(memory) for s in self.of("output", "kept")}
        for output in self.outputs:
            codes = self.symbol(output.symbol).read(memory)
            if output.host is not None:
                shaped = codes.reshape(output.host.input.shape)
                codes = output.host.run(shaped, self.facts["underflow"])
            found[output.tensor.name] = np.asarray(codes).reshape(output.tensor.shape)
        return found


def _whole(symbol: Symbol) -> bool:
    """Whether a tensor's axes walk over as many codes as it has, all of them in its layout."""
    total, layout = math.prod(symbol.shape), symbol.layout
    if not symbol.axes:
        return total == layout.channels * layout.pixels
    last = {"channel": symbol.channel, "pixel": 0}
    for axis in symbol.axes:
        if axis.of not in last or axis.size < 1 or axis.stride < 1:
            return False
        last[axis.of] += (axis.size - 1) * axis.stride
    inside = last["channel"] < layout.channels and last["pixel"] < layout.pixels
    return inside and symbol.channel >= 0 and total == math.prod(a.size for a in symbol.axes)


def _check_output(output: Output, symbol: Symbol) -> None:
    """Refuse an output that is not the tensor it is read from, or a softmax along no axis."""
    host = output.host
    read = output.tensor if host is None else host.input
    fits = read.format == symbol.layout.format and read.scale == symbol.scale
    fits &= math.prod(read.shape) == math.prod(symbol.shape) and min(read.shape, default=1) > 0
    if host is not None:
        rank = len(read.shape)
        fits &= host.output.shape == read.shape and -rank <= host.axis < rank
        fits &= output.tensor == host.output
    if not fits:
        raise ProgramError(f"output '{output.tensor.name}' does not fit tensor '{symbol.name}'")


def save(program: Program, path: str | Path) -> None:
    """Write a program; the file appears whole or not at all.

    Raises:
        ProgramError: the file cannot be written.
    """
    head = {
        "schema": SCHEMA,
        **{
            name: getattr(program, name)
            for name in ("name", "spec", "origin", "size", "address", "lines", "list_bytes")
        },
        "facts": dict(program.facts),
        "window": dataclasses.asdict(program.window),
        "symbols": [dataclasses.asdict(s) for s in program.symbols],
        "outputs": [dataclasses.asdict(o) for o in program.outputs],
        "layers": _runs(program.layers),
        "image_bytes": len(program.image),
    }
    text = json.dumps(head, allow_nan=False).encode()
    data = _PREFIX.pack(MAGIC, VERSION, len(text)) + text + program.image.tobytes()
    file = Path(path)
    try:
        with replacing(file) as temporary:
            temporary.write_bytes(data + hashlib.sha256(data).digest())
    except OSError as error:
        raise ProgramError(f"cannot write '{file}': {error.strerror or error}") from error


def load(path: str | Path) -> Program:
    """Read a program.

    Raises:
        ProgramError: no program file, another version, damage, or contents that contradict
            themselves.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES + MAX_HEAD:
            raise ProgramError(f"'{file}' is too large for a program")
        data = file.read_bytes()
    except OSError as error:
        raise ProgramError(f"cannot read '{file}': {error.strerror or error}") from error
    if len(data) < _PREFIX.size + _DIGEST or not data.startswith(MAGIC):
        raise ProgramError(f"'{file}' is no program file")
    _, version, length = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise ProgramError(f"'{file}' is of version {version}, expected {VERSION}: compile again")
    body = data[:-_DIGEST]
    if hashlib.sha256(body).digest() != data[-_DIGEST:]:
        raise ProgramError(f"'{file}' is damaged: its checksum is wrong")
    if length > min(MAX_HEAD, len(body) - _PREFIX.size):
        raise ProgramError(f"'{file}' has a head of {length} bytes")
    image = np.frombuffer(body[_PREFIX.size + length :], dtype=np.uint8)
    try:
        head = json.loads(body[_PREFIX.size : _PREFIX.size + length])
        if head["schema"] != SCHEMA or head["image_bytes"] != len(image):
            raise ProgramError(f"'{file}' is no program of {SCHEMA}")
        return _program(head, image)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, OpenNPEError):
            raise ProgramError(f"'{file}': {error}") from error
        raise ProgramError(f"'{file}' is no program file: {type(error).__name__}") from error


def _program(head: dict[str, Any], image: NDArray[np.uint8]) -> Program:
    known = facts(CoprocessorSpec())
    for name, value in known.items():
        if type(head["facts"][name]) is not type(value):
            raise ProgramError(f"{name} is {head['facts'][name]!r}")
    formats.check_underflow(head["facts"]["underflow"])
    names = ("origin", "size", "address", "lines", "list_bytes")
    numbers = {name: _integer(head[name]) for name in names}
    return Program(
        name=str(head["name"]),
        spec=str(head["spec"]),
        facts={name: head["facts"][name] for name in known},
        image=image,
        **numbers,
        window=Window(**{name: _integer(value) for name, value in head["window"].items()}),
        symbols=tuple(_symbol(item) for item in head["symbols"]),
        outputs=tuple(_output(item) for item in head["outputs"]),
        layers=_unrun(head["layers"], len(image)),
    )


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ProgramError(f"expected a number, got {value!r}")
    return value


def _symbol(item: dict[str, Any]) -> Symbol:
    place = item["layout"]
    sizes = ("channels", "height", "width", "fold", "columns")
    known = {name: _integer(place[name]) for name in sizes}
    layout = Layout(format=str(place["format"]), packed=place["packed"] is True, **known)
    shape = tuple(_integer(n) for n in item["shape"])
    return Symbol(
        str(item["name"]),
        _integer(item["address"]),
        layout,
        shape,
        _integer(item["scale"]),
        str(item["role"]),
        tuple(Axis(str(a["of"]), _integer(a["size"]), _integer(a["stride"])) for a in item["axes"]),
        _integer(item["channel"]),
    )


def _tensor(item: dict[str, Any]) -> Tensor:
    formats.get(item["format"])
    shape = tuple(_integer(n) for n in item["shape"])
    return Tensor(str(item["name"]), shape, item["format"], _integer(item["scale"]))


def _output(item: dict[str, Any]) -> Output:
    host = item["host"]
    if host is not None:
        host = HostLayer(
            str(host["name"]),
            _tensor(host["input"]),
            _tensor(host["output"]),
            _integer(host["axis"]),
            bool(host["log"]),
        )
    return Output(_tensor(item["tensor"]), str(item["symbol"]), host)


def _runs(names: tuple[str, ...]) -> list[list[Any]]:
    """Names with how often each is repeated."""
    found: list[list[Any]] = []
    for name in names:
        if found and found[-1][0] == name:
            found[-1][1] += 1
        else:
            found.append([name, 1])
    return found


def _unrun(runs: list[list[Any]], most: int) -> tuple[str, ...]:
    if sum(_integer(count) for _, count in runs) > most:
        raise ProgramError("more layer names than commands")
    return tuple(str(name) for name, count in runs for _ in range(count))
