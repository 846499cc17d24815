from pathlib import Path

import pytest
from fuzz.targets import TARGETS, fuzz_one

# `cryptography` warns of odd serial numbers, and will refuse them one day.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

CORPUS = Path(__file__).parent / "corpus"
INPUTS = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", INPUTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_input_of_the_corpus_is_read_or_refused(path: Path) -> None:
    fuzz_one(path.parent.name, path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_every_parser_reads_a_good_input_and_refuses_its_pieces(name: str) -> None:
    good = (CORPUS / name / "good").read_bytes()
    parse, _ = TARGETS[name]
    parse(good)
    for size in range(0, len(good), max(1, len(good) // 200)):
        fuzz_one(name, good[:size])
        fuzz_one(name, good[:size] + b"\xff" + good[size + 1 :])
