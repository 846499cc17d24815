"""Coverage-guided fuzzing of one parser: ``fuzz.py TARGET [libFuzzer options]``.

It begins with ``corpus/TARGET``, which every test run replays: an input that breaks a
parser belongs there. What it finds on its way stays in ``build/fuzz``. `make fuzz`
gives each parser a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["authz_server"]):
    from targets import TARGETS, fuzz_one


def main() -> None:
    """Run until a time limit of libFuzzer's, or for ever."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(f"usage: fuzz.py {{{','.join(TARGETS)}}} [options]")
    name = sys.argv.pop(1)
    here = Path(__file__).parent
    found = here.parents[1] / "build" / "fuzz" / name
    found.mkdir(parents=True, exist_ok=True)
    folders = [str(found), str(here / "corpus" / name)]
    atheris.Setup([*sys.argv, *folders], lambda data: fuzz_one(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
