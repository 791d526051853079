"""The command line of Yosys that SymbiYosys calls, over pyosys: ``[-q] [-l LOG] SCRIPT``."""

from __future__ import annotations

import sys

from pyosys import libyosys


def main(words: list[str]) -> None:
    script, log = "", ""
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            if word.endswith("l"):
                log = words.pop(0)
        else:
            script = word
    if not script:
        raise SystemExit("expected a script of Yosys commands")
    design = libyosys.Design()
    libyosys.run_pass(f"tee {f'-q -o {log}' if log else ''} script {script}", design)


if __name__ == "__main__":
    main(sys.argv[1:])
