"""The command line: verbs, their options, and one line for every error a user can cause.

Nothing heavy is imported here, so that ``opennpe --help`` answers at once; each verb imports what
it needs.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from opennpe.cli import fpga
from opennpe.cli.errors import CheckFailed
from opennpe.golden.errors import DataError, OpenNPEError

__all__ = ["app", "main"]

HELP = "OpenNPE: from a number format to a network on silicon, exact to the bit."


class _App(typer.Typer):
    """A typer application whose errors are one line and a status."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        sys.exit(main(*args, **kwargs))


app = _App(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich would take most of the time to answer
)

app.add_typer(fpga.app, name="fpga")

Model = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The network, in ONNX.")]
DataFile = Annotated[
    Path,
    typer.Option("--data", metavar="FILE.npz", help="Arrays named as the inputs (or x), labels y."),
]
Formats = Annotated[
    list[str] | None,
    typer.Option("--format", "-f", help="A format, or several with commas; may be repeated."),
]
Policies = Annotated[
    list[Path] | None,
    typer.Option("--policy", "-p", metavar="P.toml", help="A format policy; may be repeated."),
]
SpecName = Annotated[str, typer.Option("--spec", help="The engine, a name of the catalog.")]
Underflow = Annotated[
    str | None,
    typer.Option(help="Rounding next to zero, minpos or zero; the spec's unless given."),
]
Samples = Annotated[
    int | None, typer.Option(min=1, help="Run the first N samples only.", metavar="N")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the simulator.")]
Calibration = Annotated[
    Path | None,
    typer.Option(metavar="FILE.npz", help="Inputs that set the scales; the data's first 32 else."),
]
Method = Annotated[str, typer.Option(help="How scales are chosen: mse, maxabs or percentile.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main(args: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 a check failed, 2 bad input, 130 Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    command = typer.main.get_command(app)
    try:
        status = command.main(args=args, prog_name="opennpe", standalone_mode=False)
    except OpenNPEError as error:
        return _complain(str(error))
    except CheckFailed as error:
        return _complain(f"check failed: {error}", 1)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has left: nothing to say to it
        return 141
    except Exception as error:
        # The usage errors of whichever click typer carries; anything else is a bug of ours.
        if not hasattr(error, "format_message"):
            raise
        return _complain(str(error.format_message()))
    return status if isinstance(status, int) else 0


def _complain(message: str, status: int = 2) -> int:
    print(f"opennpe: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def _split(names: list[str] | None) -> tuple[str, ...]:
    """``a,b`` and ``posit(8,2)``: commas inside brackets do not separate."""
    found = []
    for text in names or ():
        depth, start = 0, 0
        for index, char in enumerate(text + ","):
            depth += (char == "(") - (char == ")")
            if char == "," and depth <= 0:
                found.append(text[start:index].strip())
                start = index + 1
    return tuple(name for name in found if name)


@app.command()
def sim(
    model: Model,
    data: DataFile,
    out: Annotated[Path, typer.Option(help="Folder for results.", metavar="DIR")],
    format: Formats = None,
    policy: Policies = None,
    spec: SpecName = "EDGE_4X4",
    underflow: Underflow = None,
    check: Annotated[
        int, typer.Option(min=0, metavar="N", help="Replay N tiles of each layer on the RTL.")
    ] = 0,
    samples: Samples = None,
    metric: Annotated[str, typer.Option(help="top1, top5, l2 or cosine; auto chooses.")] = "auto",
    calibration: Calibration = None,
    method: Method = "mse",
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of the tiles sampled by --check.")] = 0,
    as_json: Json = False,
) -> int:
    """Run a network in each format, next to FP32."""
    from opennpe.cli import cost_quick, simulate, tables
    from opennpe.cli.progress import reporter

    with reporter() as progress:
        result = simulate.simulate(
            model,
            data,
            formats=_split(format),
            policies=policy or (),
            spec=spec,
            underflow=underflow,
            check=check,
            samples=samples,
            metric=metric,
            calibration=calibration,
            method=method,
            threads=threads,
            seed=seed,
            out=out,
            progress=progress,
        )
    if as_json:
        _print_json(result.summary())
    else:
        costs = [cost_quick.line(name, found) for name, found in result.costs.items()]
        written = [f"results: {out}"]
        tables.show(tables.run_table(result), tables.check_lines(result), costs, written)
    return 0


@app.command()
def formats(
    name: Annotated[
        str | None, typer.Argument(metavar="[FORMAT]", help="Show the codes of this format.")
    ] = None,
    as_json: Json = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the list as a Markdown table.")
    ] = False,
) -> int:
    """List the number formats, or show what each code of one means."""
    from opennpe.cli import format_tables, tables

    rows = format_tables.codes(name) if name else format_tables.listing()
    if as_json:
        _print_json({**format_tables.describe(name), "codes": rows} if name else rows)
    elif as_markdown and not name:
        print(format_tables.markdown(rows))
    elif name:
        tables.show(tables.code_table(format_tables.describe(name), rows))
    else:
        tables.show(tables.format_table(rows))
    return 0


@app.command()
def check(
    model: Model,
    data: DataFile,
    tiles: Annotated[int, typer.Option(min=1, help="Tiles of each layer.", metavar="N")] = 2,
    format: Formats = None,
    policy: Policies = None,
    spec: SpecName = "EDGE_4X4",
    underflow: Underflow = None,
    samples: Samples = 4,
    calibration: Calibration = None,
    method: Method = "mse",
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampled tiles.")] = 0,
    as_json: Json = False,
) -> int:
    """Replay tiles of a run on the RTL, bit for bit.

    Writes nothing.
    """
    from opennpe.cli import simulate, tables
    from opennpe.cli.progress import reporter

    with reporter() as progress:
        result = simulate.simulate(
            model,
            data,
            formats=_split(format),
            policies=policy or (),
            spec=spec,
            underflow=underflow,
            check=tiles,
            samples=samples,
            calibration=calibration,
            method=method,
            threads=threads,
            seed=seed,
            progress=progress,
        )
    if as_json:
        runs = result.summary()["runs"]
        _print_json({name: run["rtl_replay"] for name, run in runs.items()})
    else:
        tables.show(tables.check_lines(result))
    return 0


@app.command()
def cost(
    spec: Annotated[
        list[str] | None, typer.Option("--spec", help="A spec of the catalog; may be repeated.")
    ] = None,
    liberty: Annotated[
        str, typer.Option(metavar="FILE", help="ihp130, asap7, or Liberty files of your own.")
    ] = "ihp130",
    network: Annotated[
        Path | None, typer.Option(metavar="MODEL.onnx", help="Estimate a run of this network.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE.npz", help="Inputs of the network.")
    ] = None,
    format: Formats = None,
    clock: Annotated[float | None, typer.Option(metavar="MHZ", help="Clock of the run.")] = None,
    external: Annotated[
        float | None, typer.Option(metavar="PJ", help="External memory, pJ per bit.")
    ] = None,
    power_gating: Annotated[
        bool, typer.Option("--power-gating", help="Switch idle engines off.")
    ] = False,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="How gates are made: timing, sized, booth or stock; +gated."
        ),
    ] = "timing",
    csv: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for CSV files.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="A page of it all.")] = None,
    roofline: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="The run's roofline, a picture.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Area, clock and energy of a spec, from its own gates."""
    from opennpe.cli import cost as costing
    from opennpe.cli import cost_files, cost_tables, tables
    from opennpe.cli.progress import reporter

    with reporter() as progress:
        report = costing.cost(
            _split(spec) or ("EDGE_4X4",),
            liberty,
            network,
            data,
            formats=_split(format),
            clock_mhz=clock,
            external_pj_per_bit=external,
            power_gating=power_gating,
            recipe=recipe,
            progress=progress,
        )
    cost_files.write(report, csv, html, roofline)
    if as_json:
        _print_json(report.summary())
    else:
        written = [f"wrote {path}" for path in (csv, html, roofline) if path is not None]
        tables.show(*cost_tables.lines(report), written)
    return 0


@app.command()
def quantize(
    model: Model,
    data: DataFile,
    out: Annotated[Path, typer.Option(help="The network file.", metavar="NET.npz")],
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="One format for everything.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", "-p", metavar="P.toml", help="A format policy.")
    ] = None,
    method: Method = "mse",
    as_json: Json = False,
) -> int:
    """Calibrate a network and write it to one file."""
    from opennpe.cli import quantizing, tables

    network = quantizing.quantize(model, data, out, format=format, policy=policy, method=method)
    if as_json:
        _print_json(quantizing.summary(network))
    else:
        tables.show(tables.network_table(quantizing.summary(network)), [f"network: {out}"])
    return 0


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE.toml", help="A recipe, or the name of a shipped one.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run.", metavar="DIR")],
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--anew",
            help="Go on with the run in the folder, or begin anew; goes on if there is one.",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pt", help="A trained float network instead of the first float stages."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of training.")] = None,
    simulated: Annotated[
        int | None,
        typer.Option(
            "--sim", min=0, metavar="N", help="Run N test samples in the simulator too; 0: all."
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Train a network for its formats, by a recipe."""
    from opennpe.cli import extras, tables

    extras.need_torch("train")
    from opennpe.cli import train as training

    report = training.train(
        recipe, out, resume=resume, start=start, threads=threads, simulated=simulated
    )
    if as_json:
        _print_json(report.summary())
    else:
        tables.show(training.result_table(report), training.result_lines(report))
    return 0


@app.command()
def assign(
    model: Model,
    calibration: Annotated[
        Path, typer.Option(metavar="FILE.npz", help="Inputs that scales and errors come from.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.", metavar="DIR")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE.npz", help="Compare the mixes on it.")
    ] = None,
    budget_bytes: Annotated[
        float | None, typer.Option(metavar="N", help="Bytes of weights, scales included.")
    ] = None,
    budget_size_percent: Annotated[
        float | None, typer.Option(metavar="P", help="The same, of the weights in float32.")
    ] = None,
    budget_energy: Annotated[
        float | None, typer.Option(metavar="UJ", help="Energy of a sample, chip and memory.")
    ] = None,
    budget_cycles: Annotated[
        float | None, typer.Option(metavar="N", help="Cycles of a sample.")
    ] = None,
    budget_loss: Annotated[
        float | None, typer.Option(metavar="E", help="Measured error of the outputs.")
    ] = None,
    minimise: Annotated[
        str,
        typer.Option(help="With --budget-loss: weight_bytes, energy_pj or cycles."),
    ] = "energy_pj",
    method: Annotated[str, typer.Option(help="exact, greedy or evolve.")] = "exact",
    measure: Annotated[str, typer.Option(help="Distance of outputs: kl, mse or auto.")] = "auto",
    by: Annotated[
        str, typer.Option(help="Errors that are summed: output, or fisher (needs PyTorch).")
    ] = "output",
    formats: Annotated[
        str, typer.Option(help="Formats to assign, with commas.")
    ] = "fp4,posit4,posit8,posit16",
    output: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Of the outputs; the widest else.")
    ] = None,
    first: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Of the first layer; fp4xposit8: both.")
    ] = None,
    last: Annotated[str | None, typer.Option(metavar="FORMAT", help="Of the last layer.")] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER=FORMAT", help="Of one layer; may be repeated."),
    ] = None,
    spec: SpecName = "EDGE_4X4",
    samples: Annotated[
        int, typer.Option(min=1, metavar="N", help="Calibration samples to look at.")
    ] = 128,
    evaluations: Annotated[
        int, typer.Option(min=1, metavar="N", help="Mixes that evolve measures.")
    ] = 120,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    as_json: Json = False,
) -> int:
    """Choose a format for every layer, under a budget."""
    from opennpe.cli import assign as assigning
    from opennpe.cli import assign_files, tables
    from opennpe.cli.progress import reporter

    budgets = assigning.Budgets(
        budget_bytes, budget_size_percent, budget_energy, budget_cycles, budget_loss, minimise
    )
    settings = assigning.Settings(
        formats=_split([formats]),
        output=output,
        first=first,
        last=last,
        pins=assigning.read_pins(pin or ()),
        method=method,
        measure=measure,
        by=by,
        evaluations=evaluations,
        seed=seed,
        spec=spec,
    )
    with reporter() as progress:
        result = assigning.assign(
            model,
            calibration,
            budgets,
            settings,
            data=data,
            samples=samples,
            out=out,
            progress=progress,
        )
    if as_json:
        _print_json(assign_files.summary(result))
    else:
        written = [f"policy: {out / 'policy.toml'}"]
        tables.show(assign_files.mix_table(result), assign_files.lines(result), written)
    return 0


@app.command()
def bench(
    format: Formats = None,
    networks: Annotated[
        bool, typer.Option("--networks", help="Whole networks against PyTorch instead.")
    ] = False,
    coprocessor: Annotated[
        bool, typer.Option("--coprocessor", help="The co-processor's gates against its model.")
    ] = False,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Sparse kernels against dense ones, and storage.")
    ] = False,
    sparse_engine: Annotated[
        bool, typer.Option("--sparse-engine", help="Cycles of sparse layers against dense ones.")
    ] = False,
    softmax: Annotated[
        bool, typer.Option("--softmax", help="Softmax of two passes against three and PyTorch's.")
    ] = False,
    pictures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the benchmark's pictures there.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the matrices (1024) or of the image (224)."),
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds; medians count.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Threads of both sides.")] = 1,
    as_json: Json = False,
) -> int:
    """Time the kernels against float32 BLAS."""
    from opennpe.cli import bench_command

    flags = (networks, coprocessor, sparse, sparse_engine, softmax)
    chosen = [kind for kind, flag in zip(bench_command.KINDS[1:], flags, strict=True) if flag]
    if len(chosen) > 1:
        raise DataError(f"bench times one thing at a time, got --{' and --'.join(chosen)}")
    kind = chosen[0] if chosen else bench_command.KINDS[0]
    if pictures is not None:
        bench_command.check_pictures(kind)
    notes = bench_command.fair_environment(threads)  # read when NumPy and Numba are loaded
    from opennpe.cli import tables
    from opennpe.cli.progress import reporter

    with reporter() as progress:
        report, table, size = bench_command.run_bench(
            kind, _split(format), size, repeat, threads, progress
        )
    if pictures is not None:
        bench_command.save_pictures(kind, report, pictures)
    if as_json:
        found = report.summary()
        found["notes"] = notes + found["notes"]
        _print_json({"size": size, "threads": threads, **found})
    else:
        tables.show(table, [*map(str, report.claims), *notes, *report.notes])
    return 0


@app.command()
def rtl(
    out: Annotated[Path, typer.Option(help="Folder for the Verilog.", metavar="DIR")],
    spec: SpecName = "EDGE_4X4",
    coprocessor: Annotated[
        bool, typer.Option("--coprocessor", help="The whole co-processor as well.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Write the engine's Verilog and a manifest of its ports and latency."""
    from opennpe.cli import tables, verilog

    files = verilog.write(out, spec, coprocessor)
    about = verilog.describe(files)
    if as_json:
        _print_json(about)
    else:
        tables.show(tables.port_table(about["manifest"]), [f"wrote {path}" for path in files])
    return 0


@app.command()
def disasm(
    program: Annotated[Path, typer.Argument(metavar="PROGRAM", help="A program file.")],
    as_json: Json = False,
) -> int:
    """Print a program of the co-processor: what lies where, and its commands."""
    from opennpe.cli import disasm as text

    about = text.describe(program)
    if as_json:
        _print_json(about)
    else:
        print("\n".join(text.lines(about)))
    return 0


@app.command()
def run(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="MODEL.onnx, a network file .npz, or a program."),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE.npz", help="Arrays named as the inputs (or x)."),
    ] = None,
    backend: Annotated[str, typer.Option(help="rtl, sim, golden or serial.")] = "sim",
    spec: Annotated[
        str | None, typer.Option("--spec", help="A name of the catalog; EDGE_4X4 unless given.")
    ] = None,
    format: Formats = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", "-p", metavar="P.toml", help="A format policy.")
    ] = None,
    underflow: Underflow = None,
    samples: Annotated[
        int, typer.Option(min=1, metavar="N", help="Run the first N samples, one by one.")
    ] = 1,
    latency: Annotated[
        int, typer.Option(metavar="L", help="Cycles until memory answers a burst.")
    ] = 20,
    interval: Annotated[
        int, typer.Option(metavar="I", help="Cycles from a beat of memory to the next.")
    ] = 1,
    check: Annotated[
        bool, typer.Option("--check", help="Compare every tensor and counter.")
    ] = False,
    sparse: Annotated[
        str,
        typer.Option(help="Layers to run sparse: auto, cycles, bytes, never or always."),
    ] = "auto",
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Timeline for ui.perfetto.dev.")
    ] = None,
    waves: Annotated[
        Path | None, typer.Option(metavar="FILE.fst", help="Waveforms of the RTL, .fst or .vcd.")
    ] = None,
    port: Annotated[
        str | None, typer.Option(help="A board's serial port, or 'simulated'.", metavar="PORT")
    ] = None,
    baud: Annotated[int | None, typer.Option(metavar="N", help="Rate of that port.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Codes and values of the outputs.")
    ] = None,
    calibration: Calibration = None,
    method: Method = "mse",
    threads: Threads = None,
    as_json: Json = False,
) -> int:
    """Run a network on the co-processor and count its cycles."""
    from opennpe.cli import run as running
    from opennpe.cli.progress import reporter

    with reporter() as progress:
        report = running.run(
            source,
            data,
            backend=backend,
            spec=spec,
            formats=_split(format),
            policy=policy,
            underflow=underflow,
            calibration=calibration,
            method=method,
            samples=samples,
            latency=latency,
            interval=interval,
            check=check,
            sparse=sparse,  # type: ignore[arg-type] # a word that it refuses if it does not know it
            trace=trace,
            waves=waves,
            port=port,
            baud=baud,
            out=out,
            threads=threads,
            progress=progress,
        )
    if as_json:
        _print_json(report.summary())
    else:
        from opennpe.cli import run_tables, tables

        written = [f"wrote {path}" for path in (trace, waves, out) if path is not None]
        lines = run_tables.report_lines(report)
        tables.show(run_tables.layer_table(report), lines, written)
    return 0


@app.command()
def doctor(as_json: Json = False) -> int:
    """Say what is installed and how to cure the rest.

    Exit status 0 if all that `make sim` needs is there, else 2.
    """
    from opennpe.cli import doctor as examination

    findings = examination.examine()
    fit = examination.ready(findings)
    if as_json:
        _print_json({"ready": fit, "findings": [item.summary() for item in findings]})
    else:
        from opennpe.cli import tables

        tables.show(tables.doctor_table(findings), tables.doctor_lines(findings))
    return 0 if fit else 2
