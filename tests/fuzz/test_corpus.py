"""What the fuzzer found once, tried again: the kept corpus, without a fuzzer."""

import importlib.util

import pytest

from tests.fuzz.coverage_guided import CORPUS, MAX_LENGTH, main
from tests.fuzz.source import Source
from tests.fuzz.targets import TARGETS

#: Bounds of the corpus: it is in the repository, and tried at each run.
MOST_FILES, MOST_BYTES = 600, 100_000

#: The fewest inputs of a target that are worth something.
FEWEST = 3


def kept(target):
    """Return the inputs that are kept for a target."""
    return sorted((CORPUS / target).iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_all_that_was_found_once_holds(target):
    """Each input of the corpus, by name."""
    for path in kept(target):
        try:
            TARGETS[target](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{target} fails for {path.name}") from error


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 100, bytes(300)])
def test_a_target_takes_any_bytes(target, data):
    """Also none at all."""
    TARGETS[target](data)


def test_the_corpus_is_small_and_belongs_to_the_targets():
    """A folder for each, of short inputs."""
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    files = [path for target in TARGETS for path in kept(target)]
    sizes = [path.stat().st_size for path in files]
    assert len(files) <= MOST_FILES and sum(sizes) <= MOST_BYTES
    assert max(sizes) <= MAX_LENGTH
    assert all(len(kept(target)) >= FEWEST for target in TARGETS)


def test_choices_end_in_zeros():
    """When the bytes are used up."""
    source = Source(b"\x05\xff\x01ab")
    assert source.number(3) == 1 and source.number(1000) == 0x1FF
    assert source.some() == b"b" and not source.more
    assert source.byte() == 0 and source.rest() == b"" and source.choice("xy") == "x"
    pieces = Source(b"\x00\x02").pieces(b"abcdefgh")
    assert pieces == [b"a", b"bcd", b"e", b"f", b"gh"]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: it has wheels for Linux on x86-64",
)
def test_a_minute_of_fuzzing_finds_nothing(tmp_path, capsys):
    """Of all targets together; as much as a change can wait for."""
    status = main(["--seconds", "60", "--work", str(tmp_path)])
    output = capsys.readouterr().out
    assert status == 0, output
    for target in TARGETS:
        assert f"{target}: " in output and f"{target}: ? inputs" not in output
