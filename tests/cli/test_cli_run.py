"""``opennpe run`` from end to end on a small network, and one line for every misuse."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import cli_models as models
import numpy as np
import pytest
from opennpe.cli import run as running
from opennpe.cli.errors import CheckFailed
from opennpe.cli.main import main
from opennpe.cli.quantizing import quantize
from opennpe.golden import catalog, formats, program, reference, storage
from opennpe.golden.commands import UNITS
from opennpe.golden.registers import COUNTERS
from opennpe.host.compile import compile

SPEC = catalog.EDGE_2X2


@pytest.fixture
def case(tmp_path: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    data = tmp_path / "data.npz"
    np.savez(data, x=rng.normal(size=(5, 2, 8, 8)), y=rng.integers(0, 5, 5))
    model = models.save(models.classifier(), tmp_path / "model.onnx")
    return {"model": model, "data": data}


def run(case: dict[str, Path], *more: str, source: Path | None = None) -> int:
    where = source or case["model"]
    return main(["run", str(where), "--data", str(case["data"]), "--spec", SPEC.name, *more])


def summary(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.fast
def test_a_model_in_the_simulator(
    case: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(case) == 0
    shown = capsys.readouterr().out
    assert all(layer in shown for layer in ("conv1", "conv2", "pool", "fc"))
    assert "cycles a sample" in shown and "scores: " in shown
    assert run(case, "--json", "-f", "posit16", "--samples", "3") == 0
    found = summary(capsys)
    assert found["schema"] == "opennpe.run/1" and found["samples"] == 3
    assert set(found["counters"]) == set(COUNTERS)
    assert found["model_cycles"] == found["counters"]["cycles"]
    assert sum(layer["cycles"] for layer in found["layers"]) == found["model_cycles"]
    assert sum(layer["busy"] for layer in found["layers"]) == found["counters"]["busy"]
    macs = {layer["name"]: layer["macs"] for layer in found["layers"]}
    assert sum(n or 0 for n in macs.values()) == 64 * 6 * 18 + 9 * 6 * 9 + 30
    assert all(0 < x["utilisation"] <= 1 for x in found["layers"] if x["macs"])
    assert len(found["outputs"]["scores"]) == 3 * 5


@pytest.mark.fast
def test_a_slow_memory_takes_longer(
    case: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cycles = []
    for latency, interval in ((1, 1), (20, 1), (20, 4), (100, 4)):
        more = ("--latency", str(latency), "--interval", str(interval))
        assert run(case, "--json", *more) == 0
        found = summary(capsys)
        assert found["memory_cycles"]["read_latency"] == latency
        assert found["memory_cycles"]["write_interval"] == interval
        cycles.append(found["model_cycles"])
    assert cycles == sorted(set(cycles))


@pytest.mark.fast
def test_outputs_are_golden_s_and_checks_pass(
    case: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.npz"
    assert run(case, "--check", "--out", str(out), "--samples", "2", "-f", "fp4") == 0
    assert re.search(r"checked: \d+ tensors, \d+ codes identical", capsys.readouterr().out)
    network = quantize(case["model"], case["data"], format="fp4")
    x = np.load(case["data"])["x"].astype(np.float32)
    with np.load(out) as found:
        for index in range(2):
            expected = reference.evaluate(SPEC, network, {"image": x[index : index + 1]})["scores"]
            assert np.array_equal(found["scores/codes"][index], expected)
            values = network.tensors["scores"].decode(expected)
            assert np.array_equal(found["scores/values"][index], values)


@pytest.mark.fast
def test_networks_and_programs_run_too(
    case: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = quantize(case["model"], case["data"], format="posit8")
    storage.save(network, tmp_path / "net.npz")
    compiled = compile(network, SPEC)
    program.save(compiled, tmp_path / "net.npe")
    assert run(case, "--json", source=tmp_path / "net.npz") == 0
    from_network = summary(capsys)
    for backend in ("sim", "golden"):
        assert run(case, "--json", "--backend", backend, source=tmp_path / "net.npe") == 0
        found = summary(capsys)
        assert found["model_cycles"] == from_network["model_cycles"]
        if backend == "golden":
            assert found["outputs"] == from_network["outputs"] and found["counters"] is None
    # A program alone is enough to count its cycles, on the spec that it names.
    assert main(["run", str(tmp_path / "net.npe"), "--json"]) == 0
    assert summary(capsys)["counters"] == from_network["counters"]


@pytest.mark.fast
def test_a_timeline_is_a_valid_trace(case: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    assert run(case, "--trace", str(file)) == 0
    events = json.loads(file.read_text())["traceEvents"]
    threads = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert threads == {"layers", *UNITS}
    slices = [e for e in events if e["ph"] == "X"]
    assert {"conv1", "conv2", "pool", "fc"} <= {e["name"] for e in slices}
    for thread in {e["tid"] for e in slices}:
        own = sorted((e["ts"], e["dur"]) for e in slices if e["tid"] == thread)
        assert all(duration > 0 for _, duration in own)
        assert all(a + d <= b for (a, d), (b, _) in pairwise(own))
    counters = [e for e in events if e["ph"] == "C"]
    assert counters and all(0 <= e["args"]["value"] <= 100 for e in counters)
    assert not list(tmp_path.glob(".*"))


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown backend": (("--backend", "board"), "unknown backend 'board': expected one of rtl"),
    "unknown spec": (("--spec", "HUGE"), "unknown spec 'HUGE'"),
    "no co-processor": (("--spec", "EDGE_1X1"), "2 to 16 rows"),
    "no latency": (("--latency", "0"), "read_latency of the memory is at least 1 cycle, got 0"),
    "no interval": (("--interval", "-1"), "read_interval of the memory is at least 1"),
    "two formats": (("-f", "fp4,posit8"), "one format or policy, got fp4, posit8"),
    "format and policy": (("-f", "fp4", "-p", "p.toml"), "one format or policy, got fp4, p.toml"),
    "unknown format": (("-f", "posit5"), "unknown format 'posit5'"),
    "no policy": (("-p", "nowhere.toml"), "nowhere.toml"),
    "no calibration": (("--calibration", "nowhere.npz"), "no data file 'nowhere.npz'"),
    "waves of a simulation": (("--waves", "a.fst"), "--waves needs --backend rtl, not sim"),
    "strange waves": (("--backend", "rtl", "--waves", "a.png"), r"a \.fst or a \.vcd file"),
    "waves nowhere": (("--backend", "rtl", "--waves", "nowhere/a.fst"), "folder does not exist"),
    "trace nowhere": (("--trace", "nowhere/a.json"), "folder does not exist"),
    "no samples": (("--samples", "0"), "samples"),
    "unknown rule": (("--underflow", "half"), "expected 'minpos' or 'zero'"),
}


@pytest.mark.fast
@pytest.mark.parametrize("name", BAD)
def test_misuse_is_one_line_and_leaves_nothing(
    name: str,
    case: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    more, message = BAD[name]
    before = sorted(tmp_path.rglob("*"))
    assert run(case, *more) == 2
    assert_one_line(capsys, message)
    assert sorted(tmp_path.rglob("*")) == before


def assert_one_line(capsys: pytest.CaptureFixture[str], message: str) -> None:
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("opennpe: error: ")]
    assert len(errors) == 1 and re.search(message, errors[0]), captured.err
    assert captured.err.splitlines()[-1] == errors[0] and not captured.out


@pytest.mark.fast
def test_sources_that_are_none(
    case: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = quantize(case["model"], case["data"], format="posit8")
    program.save(compile(network, SPEC), tmp_path / "net.npe")
    storage.save(network, tmp_path / "net.npz")
    damaged = bytearray((tmp_path / "net.npe").read_bytes())
    damaged[99] ^= 1
    (tmp_path / "damaged.npe").write_bytes(damaged)
    (tmp_path / "text.npe").write_text("hello\n" * 99)
    for name, more, message in (
        ("nothing.onnx", (), "nothing.onnx"),
        ("nothing.npz", (), "nothing.npz"),
        ("nothing.npe", (), "nothing.npe"),
        ("text.npe", (), "is no program file"),
        ("damaged.npe", (), "checksum is wrong"),
        ("net.npe", ("--spec", "EDGE_4X4"), "is for rows 2 .* EDGE_4X4 has 4"),
        ("net.npe", ("-f", "fp4"), "has its formats already"),
        ("net.npz", ("-p", "p.toml"), "has its formats already"),
    ):
        assert run(case, *more, source=tmp_path / name) == 2, name
        assert_one_line(capsys, message)
    for source, backend, message in (
        (case["model"], "sim", "a model is calibrated by inputs"),
        (tmp_path / "net.npe", "golden", "the golden backend runs on inputs"),
    ):
        assert main(["run", str(source), "--backend", backend]) == 2
        assert_one_line(capsys, message)


@pytest.mark.fast
def test_a_wrong_bit_and_a_wrong_count_fail_the_check(
    case: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = running.Sim.run

    def wrong_bit(self: Any, *arguments: Any) -> Any:
        found = right(self, *arguments)
        found.tensors["scores"].reshape(-1)[3] ^= 1
        return found

    options: dict[str, Any] = {"spec": SPEC.name, "check": True}
    monkeypatch.setattr(running.Sim, "run", wrong_bit)
    with pytest.raises(CheckFailed, match=r"'scores' differs in 1 of 5 codes, first at \(0, 3\)"):
        running.run(case["model"], case["data"], **options)
    assert run(case, "--check") == 1
    monkeypatch.setattr(running.Sim, "run", right)
    counted = running.cycles

    def wrong_count(*arguments: Any) -> Any:
        timing = counted(*arguments)
        object.__setattr__(timing.counters, "busy", timing.counters.busy + 1)
        return timing

    monkeypatch.setattr(running, "cycles", wrong_count)
    with pytest.raises(CheckFailed, match="the cycle model"):
        running.run(case["model"], case["data"], **options)


@pytest.mark.rtl
def test_a_model_on_the_gates(
    case: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in formats.ENGINE_FORMATS:
        more = ("--backend", "rtl", "-f", name, "--check", "--samples", "2", "--json")
        assert run(case, *more, "--latency", "7", "--interval", "2") == 0
        found = summary(capsys)
        assert found["backend"] == "rtl" and found["checked"]["tensors"] >= 4
        assert found["counters"]["cycles"] == found["model_cycles"] > 0


@pytest.mark.rtl
@pytest.mark.regress
def test_waveforms_of_the_gates(case: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "run.vcd"
    assert run(case, "--backend", "rtl", "--waves", str(file), "--samples", "2") == 0
    with file.open() as text:
        head = [next(text) for _ in range(5000)]
    assert any("bus__arvalid" in line for line in head)
    assert any("execute" in line for line in head)
