"""What every test shares: the folder of exact worlds on the path, one thread, and `refuses`."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from turningpoint.cli import main
from turningpoint.errors import TurningpointError

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None)  # other cases every time: make check-all
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@contextlib.contextmanager
def _refuses(match: str = "", kind: type[TurningpointError] = TurningpointError) -> Iterator[None]:
    with pytest.raises(kind, match=match) as caught:
        yield
    text = str(caught.value)
    assert text.endswith("."), text
    assert "\n" not in text, text
    assert not re.search(r"\. [A-Z]", text), f"more than one sentence: {text}"


@pytest.fixture
def refuses():
    """``with refuses("text"):`` the block raises a TurningpointError of one sentence holding the text."""
    return _refuses


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder: its exit status, what it printed, what it complained."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            status = end.code or 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
