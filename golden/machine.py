"""What a program does: the co-processor's commands in exact integers, one after the other.

Units run in list order here; that they may overlap only as far as the ``wait_`` fields allow is
checked by :mod:`opennpe.golden.hazards`. docs/coprocessor.md is the prose to this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import commands as C
from opennpe.golden import exact, formats, lanes, machine_kinds, machine_rows
from opennpe.golden.errors import DeviceError, ProgramError
from opennpe.golden.registers import CAUSES
from opennpe.golden.spec import UNIT_BYTES, CoprocessorSpec

__all__ = [
    "Executed",
    "Machine",
    "Window",
    "exec_places",
    "exec_slots",
    "widened",
]

ADDRESS_WORDS = 1 << 16
"""Operand addresses wrap here, and earlier at the memory's end."""
Words = NDArray[np.uint16]
Ints = NDArray[Any]


@dataclass(frozen=True)
class Window:
    """Bytes outside that may be read, and those that may be written."""

    read_base: int
    read_limit: int
    write_base: int
    write_limit: int


@dataclass(frozen=True)
class Executed:
    """A command that ran: its offset in the list, in bytes, and the command."""

    offset: int
    command: C.Command


def stop(cause: int, text: str) -> DeviceError:
    """The error of a command that the co-processor stops at; ``cause`` indexes CAUSES."""
    return DeviceError(f"{CAUSES[cause]}: {text}")


def widened(words: Words, widen: int) -> Words:
    """Lines (n, columns) of a narrow format to 2 n or 4 n of a wider one, code by code."""
    if widen >= len(C.WIDEN):
        raise stop(1, f"widening {widen}")
    pair = C.WIDEN[widen]
    if pair is None:
        return words
    codes = lanes.unpack(pair[0], words.reshape(-1))
    wide = formats.widen_table(*pair)[codes].reshape(-1, lanes.lanes(pair[1]))
    return lanes.pack(pair[1], wide).reshape(-1, words.shape[1])


def exec_slots(spec: CoprocessorSpec, command: C.Command) -> tuple[int, int]:
    """Rows with a pixel of their own in a tile, and pixel lines of the whole exec."""
    kind = C.KINDS[command["kind"]]
    if kind == "sparse":
        return spec.array.rows >> command["block_rows"], command["lines"] >> command["block_rows"]
    return 1 if kind in C.ROW_KINDS else spec.array.rows, command["lines"]


def exec_places(spec: CoprocessorSpec, command: C.Command) -> tuple[Ints, Ints, Ints]:
    """Input row, input column and base word of every pixel: int64 (lines, folds) each."""
    folds, (rows, lines) = 1 << command["fold"], exec_slots(spec, command)
    slots, tiles = rows * folds, -(-lines // rows)
    place = np.zeros((tiles, 3, slots), dtype=np.int64)
    if tiles:
        at = np.array([[command["iy"]], [command["ix"]], [command["base"]]], dtype=np.int64)
        small = np.array([[0], [command["stride_x"]], [command["pixel_step"]]], dtype=np.int64)
        for slot in range(slots):
            place[0, :, slot] = at[:, 0]
            at = _wrapped(command, at + small)
    large = np.array(
        [[command["tile_y"]], [command["tile_x"]], [command["tile_step"]]], dtype=np.int64
    )
    for tile in range(1, tiles):
        place[tile] = _wrapped(command, place[tile - 1] + large)
    iy, ix, base = (place[:, i].reshape(tiles * rows, folds)[:lines] for i in range(3))
    return iy, ix, base


def _wrapped(command: C.Command, place: Ints) -> Ints:
    """Places past the end of their row move to the next."""
    past = place[1] >= command["limit"]
    place[0] += past * command["stride_y"]
    place[1] -= past * command["span"]
    place[2] = (place[2] + past * command["wrap_step"]) % ADDRESS_WORDS
    return place


@dataclass
class _Memories:
    buffer: Words
    operands: Words
    weights: Words
    parameters: Words
    table: Words
    commands: Words
    sums: Any = None
    nan: Any = None
    trace: list[Executed] = field(default_factory=list)


class Machine:
    """A co-processor by definition.

    Args:
        spec: its shape.

    Raises:
        SpecError: an array that the co-processor does not come in.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        spec.check_coprocessor()
        self.spec = spec
        memory, columns = spec.memory, spec.line_words
        self.command_lines = memory.command_units * UNIT_BYTES // spec.line_bytes

        def empty(*shape: int) -> Words:
            return np.zeros((*shape, columns), dtype=np.uint16)

        self.state = _Memories(
            empty(memory.buffer_lines),
            empty(memory.operand_lines),
            empty(memory.weight_lines),
            empty(memory.parameter_tiles, C.PARAMETER_LINES),
            empty(C.TABLE_LINES),
            empty(self.command_lines),
        )

    def run(
        self, memory: NDArray[np.uint8], program: int, program_lines: int, window: Window
    ) -> list[Executed]:
        """Run a command list to its end.

        Args:
            memory: uint8, the memory outside from byte 0 on; stores change it.
            program: byte address of the list.
            program_lines: lines of it to load at the start.
            window: what may be read and written.

        Returns:
            The commands that ran, in order, with the end.

        Raises:
            DeviceError: what makes the co-processor stop; the message begins with its cause.
            ProgramError: a list that loads itself too late, too early or to another place.
        """
        self.memory, self.window = memory, window
        self.taken, self.loaded = 0, 0
        if not 1 <= program_lines <= self.command_lines // 2:
            raise ProgramError(
                f"a start loads 1 to {self.command_lines // 2} lines of the list, got "
                f"{program_lines}"
            )
        first = {"target": C.TARGETS.index("commands"), "lines": program_lines}
        self._load(C.Command("load", {**first, "address": program}))
        trace = self.state.trace = []
        for offset, command in self._fetch():
            trace.append(Executed(offset, command))
            if command.op != "end":
                getattr(self, f"_{command.op}")(command)
        return trace

    # -- the dispatcher ----------------------------------------------------------------------
    def _fetch(self) -> Iterator[tuple[int, C.Command]]:
        op = ""
        while op != "end":
            offset, data = self.taken * self.spec.line_bytes, self._lines(C.unit_count("end"))
            if data[0] & 15 >= len(C.OPS):
                raise stop(1, f"opcode {data[0] & 15} at byte {offset} of the list")
            op = C.OPS[data[0] & 15]
            data += self._lines(C.unit_count(op) - 1)
            end = C.encode(C.Command("end"))
            yield offset, next(C.decode(data + end))[1]

    def _lines(self, units: int) -> bytes:
        """The next units of the list."""
        data = b""
        for _ in range(units * UNIT_BYTES // self.spec.line_bytes):
            if self.taken == self.loaded:
                raise ProgramError(f"the list stops at line {self.taken}: nothing loads the rest")
            line = self.state.commands[self.taken % self.command_lines]
            data += line.astype("<u2").tobytes()
            self.taken += 1
        return data

    # -- load, fill, store -------------------------------------------------------------------
    def _outside(self, command: C.Command, limits: tuple[int, int], cause: int) -> slice:
        """The bytes outside that a load or a store touches."""
        size = self.spec.line_bytes
        first = command["address"]
        last = first + command["lines"] * size
        if first % size or not command["lines"]:
            raise stop(1, f"{command['lines']} lines from byte {first}")
        if not limits[0] <= first <= last <= min(limits[1], len(self.memory)):
            raise stop(cause, f"bytes {first} to {last}, window {limits[0]} to {limits[1]}")
        return slice(first, last)

    def _load(self, command: C.Command) -> None:
        window = self.window
        self._check_load(command)
        where = self._outside(command, (window.read_base, window.read_limit), 3)
        words = self.memory[where].view("<u2").reshape(-1, self.spec.line_words)
        words = widened(words.astype(np.uint16), command["widen"])
        line, target = command["line"], C.TARGETS[command["target"]]
        count = len(words)
        if target == "commands":
            self._take_commands(line, words)
        elif target == "weights":
            ring = self.state.weights
            if line >= len(ring) or count > len(ring):
                raise stop(2, f"{count} lines at {line} of the weights")
            ring[(line + np.arange(count)) % len(ring)] = words
        elif target == "parameters":
            tiles = words.reshape(-1, C.PARAMETER_LINES, self.spec.line_words)
            _put(self.state.parameters, line, tiles, target)
        else:
            _put(getattr(self.state, target), line, words, target)

    def _check_load(self, command: C.Command) -> None:
        """Refuse what is illegal by itself, wherever it reads and writes."""
        if command["target"] >= len(C.TARGETS):
            raise stop(1, f"load target {command['target']}")
        target, widen = C.TARGETS[command["target"]], command["widen"]
        if widen and (target not in C.WIDENED or widen >= len(C.WIDEN)):
            raise stop(1, f"widening {widen} of {target}")
        if target == "parameters" and command["lines"] % C.PARAMETER_LINES:
            raise stop(1, f"{command['lines']} lines of parameters")

    def _take_commands(self, line: int, words: Words) -> None:
        ring = self.state.commands
        if line != self.loaded % len(ring):
            raise ProgramError(f"the list goes on at line {self.loaded % len(ring)}, not {line}")
        if self.loaded + len(words) - self.taken > len(ring):
            raise ProgramError("a load of commands overwrites some that have not been read")
        ring[(line + np.arange(len(words))) % len(ring)] = words
        self.loaded += len(words)

    def _fill(self, command: C.Command) -> None:
        o, i, r = np.ogrid[: command["outer"], : command["inner"], : command["run"]]
        lines = (
            command["source"] + o * command["outer_stride"] + i * command["inner_stride"] + r
        ).reshape(-1)
        if not lines.size:
            raise stop(1, "a fill of nothing")
        if lines.max() >= len(self.state.buffer):
            raise stop(2, f"line {lines.max()} of the buffer")
        words = widened(self.state.buffer[lines], command["widen"])
        ring = self.state.operands
        keep = words[-len(ring) :]
        first = command["line"] + len(words) - len(keep)
        ring[(first + np.arange(len(keep))) % len(ring)] = keep

    def _store(self, command: C.Command) -> None:
        window = self.window
        where = self._outside(command, (window.write_base, window.write_limit), 4)
        line, count = command["line"], command["lines"]
        if line + count > len(self.state.buffer):
            raise stop(2, f"line {line + count - 1} of the buffer")
        words = self.state.buffer[line : line + count].astype("<u2")
        self.memory[where] = np.frombuffer(words.tobytes(), dtype=np.uint8)

    # -- exec --------------------------------------------------------------------------------
    def _exec(self, command: C.Command) -> None:
        names = [self.spec.mac.formats[command[m]] for m in ("mode_a", "mode_b", "out")]
        kind = command["kind"]
        if formats.get(names[0]).bits != formats.get(names[1]).bits or kind >= len(C.KINDS):
            raise stop(1, f"kind {kind} in {names[0]} by {names[1]}")
        if (1 << command["fold"]) > self.spec.line_words or command["fold"] > 2:
            raise stop(1, f"fold {command['fold']}")
        if self.spec.lacks(C.KINDS[kind]):
            raise stop(1, f"a {C.KINDS[kind]}, for which {self.spec.name} has no gates")
        if C.KINDS[kind] not in C.SUM_KINDS:
            what = machine_kinds.illegal(self.spec, command)
            if what:
                raise stop(1, what)
            own = "rows" if C.KINDS[kind] in C.ROW_KINDS else C.KINDS[kind]
            getattr(self, f"_{own}")(command, names)
            return
        whole = command["begin"] and command["finish"]
        if not whole and (command["tiles"] != 1 or command["lines"] > self.spec.array.rows):
            raise stop(1, "a part of a sum of more than one tile")
        tiles = [self._tile(command, names, n) for n in range(command["tiles"])]
        if command["finish"]:
            self._results(command, names, np.stack(tiles))

    def _lines_of(self, command: C.Command, offset: Ints) -> Ints:
        """Codes (places, offsets, columns, lanes) of whole lines of operands."""
        iy, ix, base = (part[:, 0] for part in exec_places(self.spec, command))
        columns = self.spec.line_words
        first = (base[:, None] + offset) // columns * columns
        inside = _inside(command, iy, ix, 0, 0)[:, None, None]
        name = self.spec.mac.formats[command["mode_a"]]
        return self._read(command, name, first[..., None] + np.arange(columns), inside)

    def _sparse(self, command: C.Command, names: list[str]) -> None:
        """Output channels by a stream of records, pixels in columns and lanes."""
        spec, a = self.spec, names[0]
        block = 1 << command["block_rows"]
        weights = self.state.weights
        lines = (command["weight_line"] + np.arange(command["stream_lines"])) % len(weights)

        def read(channels: Ints) -> Ints:
            return self._lines_of(command, channels * spec.line_words)

        try:
            sums, nan = machine_kinds.sparse_sums(spec, command, weights[lines], read)
        except ProgramError as error:
            raise stop(8, str(error)) from error
        channel = np.arange(command["tiles"] * block)
        tile = command["parameter"] + channel // spec.line_words
        if tile[-1] >= len(self.state.parameters):
            raise stop(2, f"channel tile {tile[-1]} of the parameters")
        found = [self._parameters(self.state.parameters[t], a) for t in np.unique(tile)]
        # A channel's numbers are those of its column's lane 0.
        bias, shift = (np.concatenate([f[i][:, 0] for f in found])[channel] for i in (0, 1))
        by_channel = (1, command["tiles"], block, 1, 1)
        sums = exact.plus(sums, bias.reshape(by_channel))
        exponent = exact.grid(a, names[1]) + shift.reshape(by_channel)
        exponent = np.broadcast_to(exponent, sums.shape)
        codes = exact.rounded(names[2], sums, nan, exponent, spec.underflow)
        if command["clamp"]:
            codes = exact.clamped(names[2], codes, command["low"], command["high"])
        share = spec.array.rows // block
        for q in range(len(codes)):
            line = command["out_line"] + q // share * command["out_tile"]
            line += q % share * command["out_block"]
            flat = codes[q].reshape(len(channel), spec.line_words, -1)
            self._write(line, lanes.pack(names[2], flat))

    def _transpose(self, command: C.Command, names: list[str]) -> None:
        """An element of every row's pixel becomes part of a line of pixels."""
        spec, name = self.spec, names[0]
        codes = self._elements(command, name, 0)[:, 0]
        share = lanes.lanes(name)
        for element, tile, own in machine_kinds.transposed(codes, spec.array.rows):
            line = command["out_line"] + element + tile // share * command["out_tile"]
            self._write_part(line, name, own[None], tile % share * len(own))

    def _rows(self, command: C.Command, names: list[str]) -> None:
        """Softmax or norm of rows of whole lines."""
        spec = self.spec
        codes = self._lines_of(command, np.arange(command["blocks"]) * command["block_step"])
        lines, blocks = codes.shape[:2]
        found = machine_rows.row_results(spec, command, codes.reshape(lines, -1))
        shaped = found.reshape(lines, blocks, spec.line_words, -1).transpose(1, 0, 2, 3)
        self._results(command, names, shaped)

    def _tile(self, command: C.Command, names: list[str], n: int) -> Ints:
        """Result codes (lines, columns, lanes) of one channel tile, or nothing yet."""
        a, b, out = names
        weights = exact.Operand(b, lanes.unpack(b, self._weight_lines(command, n)))
        if C.KINDS[command["kind"]] == "dense":
            sums, nan = self._dense(command, a, n, weights)
        else:
            sums, nan = self._depth(command, a, n, weights)
        parameter = command["parameter"] + n
        if parameter >= len(self.state.parameters):
            raise stop(2, f"channel tile {parameter} of the parameters")
        bias, shift = self._parameters(self.state.parameters[parameter], a)
        if command["begin"]:
            sums = exact.plus(sums, bias)
        else:
            sums, nan = exact.plus(sums, self.state.sums), nan | self.state.nan
        if not command["finish"]:
            self.state.sums, self.state.nan = sums, nan
            return np.zeros(0)
        exponent = exact.grid(a, b) + shift
        return exact.rounded(out, sums, nan, exponent, self.spec.underflow)

    def _parameters(self, words: Words, mode: str) -> tuple[Ints, Ints]:
        """Biases (columns, lanes) as Python integers and shifts as int64."""
        bits, count = self.spec.engine.lane_accumulator_bits(mode), lanes.lanes(mode)
        groups = [sum(int(w) << 16 * i for i, w in enumerate(column)) for column in words[:8].T]
        bias = np.array(
            [[_signed(g >> lane * bits, bits) for lane in range(count)] for g in groups],
            dtype=object,
        )
        if all(abs(b) < 1 << 62 for b in bias.flat):
            bias = bias.astype(np.int64)
        shifts = words[8 : 8 + count].T.astype(np.int64)
        half = 1 << (self.spec.engine.shift_bits - 1)
        return bias, (shifts & (2 * half - 1) ^ half) - half

    def _weight_lines(self, command: C.Command, n: int) -> Words:
        """The weight lines (steps, columns) of one channel tile."""
        per_word = lanes.lanes(self.spec.mac.formats[command["mode_a"]])
        steps = C.weight_steps(C.KINDS[command["kind"]], command, per_word)
        ring = self.state.weights
        return ring[(command["weight_line"] + n * steps + np.arange(steps)) % len(ring)]

    def _read(self, command: C.Command, name: str, address: Ints, inside: Ints) -> Ints:
        """Codes (..., lanes) of operand words, 0 outside the input."""
        flat = self.state.operands.reshape(-1)
        words = np.where(inside, flat[address % ADDRESS_WORDS % len(flat)], 0)
        return lanes.unpack(name, words)

    def _elements(self, command: C.Command, name: str, n: int) -> Ints:
        """Codes (lines, folds, steps) of every pixel's sum for a channel tile."""
        iy, ix, base = exec_places(self.spec, command)
        per_word = lanes.lanes(name)
        found = []
        for block, y, x in _taps(command):
            last = block == command["blocks"] - 1
            words = np.arange(command["last_words"] if last else command["words"])
            offset = _offset(command, n, block, y, x)
            inside = _inside(command, iy, ix, y, x)[..., None]
            codes = self._read(command, name, base[..., None] + offset + words, inside)
            codes = codes.reshape(*iy.shape, -1)
            if last:
                codes = codes[..., : codes.shape[-1] - per_word + command["last_elements"]]
            found.append(codes)
        return np.concatenate(found, axis=-1)

    def _dense(
        self, command: C.Command, name: str, n: int, weights: exact.Operand
    ) -> tuple[Any, Any]:
        left = exact.Operand(name, self._elements(command, name, n))
        folds, columns = 1 << command["fold"], self.spec.line_words
        parts = []
        for fold in range(folds):
            group = slice(fold * columns // folds, (fold + 1) * columns // folds)
            parts.append(exact.matmul(left.at(np.s_[:, fold]), weights.at(np.s_[:, group])))
        return exact.joined(parts)

    def _depth(
        self, command: C.Command, name: str, n: int, weights: exact.Operand
    ) -> tuple[Any, Any]:
        iy, ix, base = exec_places(self.spec, command)
        columns, folds = self.spec.line_words, 1 << command["fold"]
        fold, own = (
            np.arange(columns) // (columns // folds),
            np.arange(columns) % (columns // folds),
        )
        iy, ix, base = iy[:, fold], ix[:, fold], base[:, fold] + own
        taps = []
        for block, y, x in _taps(command):
            inside = _inside(command, iy, ix, y, x)
            address = base + _offset(command, n, block, y, x)
            if ((address - own)[inside] % (columns // folds)).any():
                raise stop(1, "a pixel that straddles column groups")
            codes = self._read(command, name, address, inside)
            taps.append((codes, inside[..., None]))
        if C.KINDS[command["kind"]] == "max":
            best = exact.maximum(name, taps)
            return exact.elementwise([exact.Operand(name, best)], weights)
        return exact.elementwise([exact.Operand(name, codes) for codes, _ in taps], weights)

    def _results(self, command: C.Command, names: list[str], codes: Ints) -> None:
        """Codes (tiles, lines, columns, lanes) to the buffer."""
        _, _, out = names
        if command["clamp"]:
            codes = exact.clamped(out, codes, command["low"], command["high"])
        if command["table"]:
            if formats.get(out).bits > 8:
                raise stop(1, f"a table of {out} codes")
            entries = self.state.table[codes, np.arange(codes.shape[2])[:, None]]
            codes = entries & ((1 << formats.get(out).bits) - 1)
        wide, per_word = lanes.lanes(names[0]), lanes.lanes(out)
        if wide != per_word and command["fold"]:
            raise stop(1, "folded results of another width")
        tiles, lines, columns, _ = codes.shape
        # Codes of a channel tile are in channel order: the columns' lanes one after the other.
        if per_word > wide:
            ratio = per_word // wide
            for n in range(tiles):
                line = command["out_line"] + n // ratio * command["out_tile"]
                part = codes[n].reshape(lines, -1)
                self._write_part(line, out, part, n % ratio * part.shape[1])
            return
        words = lanes.pack(out, codes.reshape(tiles, lines, -1, per_word))
        for n in range(tiles):
            for j in range(wide // per_word):
                line = command["out_line"] + n * command["out_tile"] + j * command["out_block"]
                self._write(line, words[n, :, j * columns : (j + 1) * columns])

    def _write_part(self, line: int, out: str, codes: Ints, first: int) -> None:
        """Some codes of each line; the rest of it stays."""
        words = self.state.buffer[line : line + len(codes)]
        if len(words) < len(codes):
            raise stop(2, f"line {line + len(codes) - 1} of the buffer")
        held = lanes.unpack(out, words)
        held.reshape(len(words), -1)[:, first : first + codes.shape[1]] = codes
        self._write(line, lanes.pack(out, held))

    def _write(self, line: int, words: Words) -> None:
        if line + len(words) > len(self.state.buffer):
            raise stop(2, f"line {line + len(words) - 1} of the buffer")
        self.state.buffer[line : line + len(words)] = words


def _put(memory: Words, line: int, words: Words, name: str) -> None:
    if line + len(words) > len(memory):
        raise stop(2, f"line {line + len(words) - 1} of the {name}")
    memory[line : line + len(words)] = words


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (value >> (bits - 1) << bits)


def _taps(command: C.Command) -> Iterator[tuple[int, int, int]]:
    for block in range(command["blocks"]):
        for y in range(command["kernel_y"]):
            for x in range(command["kernel_x"]):
                yield block, y, x


def _offset(command: C.Command, n: int, block: int, y: int, x: int) -> int:
    return (
        n * command["channel_step"]
        + block * command["block_step"]
        + y * command["tap_y"]
        + x * command["tap_x"]
    )


def _inside(command: C.Command, iy: Ints, ix: Ints, y: int, x: int) -> Ints:
    row, column = iy + y * command["dilation_y"], ix + x * command["dilation_x"]
    return np.asarray(
        (row >= 0) & (row < command["height"]) & (column >= 0) & (column < command["width"])
    )
