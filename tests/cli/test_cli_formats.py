"""``opennpe formats`` and the answers to a wrong command line."""

import json
import resource
import subprocess
import sys

import pytest
from opennpe.cli.main import main
from opennpe.golden import formats

pytestmark = pytest.mark.fast


def test_help_answers_at_once_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from opennpe.cli.main import main; status = main(['--help'])\n"
        "heavy = {'numpy', 'numba', 'onnx', 'matplotlib', 'amaranth'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    best = float("inf")
    for _ in range(3):
        # The processor's time: what else the machine does is not ours to answer for.
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime
        best = min(best, spent)
        assert done.returncode == 0, done.stderr
        assert "sim" in done.stdout and "formats" in done.stdout
    assert best < 0.5


def test_the_list_holds_every_named_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {name for name in formats.names() if "(" not in name}
    assert [name for name, row in rows.items() if row["engine"]] == list(formats.ENGINE_FORMATS)
    assert rows["fp4"]["maxpos"] == 6 and rows["posit8"]["nan_codes"] == 1


@pytest.mark.parametrize("name", ["fp4", "posit4", "posit8", "posit(6,2)", "fp8_e5m2", "int8"])
def test_codes_show_what_they_decode_to(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats", name, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["codes"]
    fmt = formats.get(name)
    assert len(rows) == 1 << fmt.bits
    for row in rows:
        value = float(fmt.decode(row["code"]))
        assert float(str(row["value"]).replace("NaR", "nan")) == pytest.approx(value, nan_ok=True)
        assert int(row["bits"], 2) == row["code"]


@pytest.mark.parametrize(
    "arguments", [["formats"], ["formats", "posit8"], ["formats", "--markdown"]]
)
def test_tables_print(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) > 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["formats", "posit5"], "unknown format 'posit5': expected one of fp4"),
        (["formats", "posit(99,1)"], "expected 2 to 16"),
        (["formats", "mxfp4", "--json"], "show the codes of fp4"),
        (["formats", "--nonsense"], "No such option"),
        (["nonsense"], "No such command"),
        (["sim"], "Missing argument"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("opennpe: error: ") and message in captured.err
    assert captured.err.count("\n") == 1 and not captured.out
