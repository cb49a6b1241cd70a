# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress, as the log of a run and who looks at it are told."""

import json

import pytest

from downsample_plugin.engine import progress as module
from downsample_plugin.engine.progress import Progress, noted_progress, progress


@pytest.mark.parametrize(
    "state, text",
    [
        ((0, 100, 0.0), "0 of 100 images done (0%)"),
        ((50, 200, 5.0), "50 of 200 images done (25%), 5 a second, about 30 s left"),
        ((500, 9000, 2321.7), "500 of 9000 images done (6%), 2322 a second, about 4 s left"),
        ((100, 10000, 27.5), "100 of 10000 images done (1%), 28 a second, about 6 min left"),
        ((0, 1_000_000, 123.4), "0 of 1000000 images done (0%), 123 a second, about 2 h 15 min left"),
        ((200, 200, 5.0), "200 of 200 images done (100%)"),
        ((0, 0, 0.0), "0 of 0 images done (0%)"),
    ],
)
def test_words(state, text):
    assert str(Progress(*state)) == text


def test_log_and_note(tmp_path, monkeypatch, capsys):
    """Of 1000 images 600 were done before; 100 more in 20 s are 5 a second, not 35."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    note = tmp_path / "note.json"
    with progress(1000, str(note)) as advance:
        advance(600)
        assert json.loads(note.read_text())[:2] == [600, 1000]
        clock[0] = 0.5
        advance(1)
        assert json.loads(note.read_text())[0] == 600  # too soon for another
        clock[0] = 20.0
        advance(99)
        assert noted_progress(note) == Progress(700, 1000, 5.0)
    assert capsys.readouterr().out == "700 of 1000 images done (70%), 5 a second, about 1 min left\n"
    assert not note.exists()
    assert noted_progress(note) is None


def test_a_note_that_cannot_be_written_stops_nothing(tmp_path, capsys):
    with progress(3, str(tmp_path / "gone" / "note.json")) as advance:
        advance(0)
        advance(3)
    assert "3 of 3 images done (100%)" in capsys.readouterr().out
