# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced embed` and `ced search`: embeddings in a file, and the windows in it that sound like a recording."""

import errno
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
from click.testing import Result
from typer.testing import CliRunner

from ced_model import AudioTagger
from ced_model.cli.app import app
from ced_model.cli.progress import RunProgress
from ced_model.embedding_index import EmbeddingIndex, join_embeddings
from ced_model.messages import clock

MODEL = Path(__file__).parents[1] / "golden" / "micro_hub"


def ced(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def only_error(result: Result, exit_code: int = 2) -> str:
    assert result.exit_code == exit_code and result.stdout == "", result.output
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("model: ")]
    assert line.startswith("ced: ")
    return line


@pytest.fixture
def sounds(tmp_path: Path, resources: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with four recordings in `sounds`."""
    monkeypatch.chdir(tmp_path)
    for name in ("misc_crow", "perc_bell", "loop_tabla", "guit_e_slide"):
        (tmp_path / "sounds").mkdir(exist_ok=True)
        shutil.copy(resources / f"{name}.flac", tmp_path / "sounds")
    return tmp_path / "sounds"


@pytest.mark.parametrize("extension", ["npz", "parquet"])
def test_embeddings_are_those_of_the_tagger_and_other_libraries_read_them(sounds, extension):
    result = ced("embed", "sounds", "-m", MODEL, "-o", f"index.{extension}", "--window", 1, "--hop", 0.5)
    assert result.exit_code == 0, result.output
    tagger = AudioTagger(MODEL)
    paths = sorted(str(path.relative_to(sounds.parent)) for path in sounds.iterdir())
    expected = [*tagger.embeddings(paths, window_s=1, hop_s=0.5)]
    index = EmbeddingIndex.load(f"index.{extension}")
    assert index.files == paths and index.made_by["weights"] == tagger.fingerprint
    vectors = np.concatenate([each.embeddings for each in expected])
    np.testing.assert_allclose(index.embeddings, vectors, atol=1e-5)
    np.testing.assert_array_equal(index.start_s, np.concatenate([each.start_s for each in expected]))
    assert len(index) == sum(len(each.start_s) for each in expected)
    if extension == "npz":
        with np.load("index.npz") as file:
            np.testing.assert_array_equal(file["embeddings"], index.embeddings)
    else:
        table = pyarrow.parquet.read_table("index.parquet").to_pandas()
        assert list(table.columns) == ["file", "start_s", "end_s", "embedding"]
        np.testing.assert_array_equal(np.stack(table["embedding"]), index.embeddings)
        assert sorted(table["file"].unique()) == paths


def test_an_interrupted_run_is_continued(sounds, monkeypatch):
    count = RunProgress.count

    def interrupt(self: RunProgress, failed: bool) -> None:
        count(self, failed)
        if self.done == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "count", interrupt)
        result = ced("embed", "sounds", "-m", MODEL, "-o", "index.npz")
    journal = sounds.parent / "index.npz.journal"
    assert f"ced: interrupted; 2 results so far in {journal}: continue with --resume" in only_error(result, 130)
    with open(journal, "ab") as file:
        file.write(b'{"file": "not written to its en')
    refused = ced("embed", "sounds", "-m", "no/such", "-o", "index.npz").stderr  # no model is loaded
    assert refused == f"ced: {journal} has the results of an unfinished run: use --resume, or use --overwrite\n"
    again = ["embed", "sounds", "-m", MODEL, "-o", "index.npz", "--resume"]
    assert "--window 2: expected not given, as when" in only_error(ced(*again, "--window", 2))
    result = ced(*again)
    assert result.exit_code == 0 and "2 of 4 inputs were already done" in result.stderr
    assert not journal.exists()
    assert ced("embed", "sounds", "-m", MODEL, "-o", "all.npz").exit_code == 0
    first, second = EmbeddingIndex.load("index.npz"), EmbeddingIndex.load("all.npz")
    assert first.files == second.files
    np.testing.assert_allclose(first.embeddings, second.embeddings, atol=1e-5)


def test_if_the_index_cannot_be_written_the_results_are_kept(sounds, monkeypatch):
    def save(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "index.npz")

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingIndex, "save", save)
        result = ced("embed", "sounds", "-m", MODEL, "-o", "index.npz")
    line = f"{sounds.parent / 'index.npz'}: No space left on device; 4 results so far in {sounds.parent / 'index.npz'}"
    assert f"ced: {line}.journal: continue with --resume" in only_error(result, 1)
    result = ced("embed", "sounds", "-m", MODEL, "-o", "index.npz", "--resume")
    assert result.exit_code == 0 and "4 of 4 inputs were already done" in result.stderr


def test_recordings_are_added_and_failed_ones_tried_again(sounds):
    (sounds / "broken.wav").write_bytes(b"RIFF")
    result = ced("embed", "sounds", "-m", MODEL, "-o", "index.npz")
    assert result.exit_code == 1 and "sounds/broken.wav: " in result.stderr
    assert "5 embeddings of 4 recordings" in result.stdout
    shutil.copy(sounds / "misc_crow.flac", sounds / "broken.wav")
    result = ced("embed", "sounds", "-m", MODEL, "-o", "index.npz", "--resume")
    assert result.exit_code == 0 and "6 embeddings of 5 recordings" in result.stdout
    assert "index.npz exists: use --resume" in only_error(ced("embed", "sounds", "-m", MODEL, "-o", "index.npz"))
    result = ced("embed", sounds / "perc_bell.flac", "-m", MODEL, "-o", "index.npz", "--overwrite")
    assert result.exit_code == 0 and "index.npz: 1 embedding of 1 recording\n" in result.stdout
    assert len(EmbeddingIndex.load("index.npz")) == 1


def test_a_recording_is_found_by_a_part_of_it_and_the_hits_are_cut(sounds):
    assert ced("embed", "sounds", "-m", MODEL, "-o", "index.npz", "--window", 0.5, "--hop", 0.25).exit_code == 0
    samples, rate = soundfile.read(sounds / "loop_tabla.flac", always_2d=True)
    soundfile.write("query.wav", samples[rate // 2 : rate], rate)
    result = ced("search", "query.wav", "index.npz", "-k", 4, "--clips", "hits", "--json", "-m", MODEL)
    assert result.exit_code == 0, result.output
    hits = json.loads(result.stdout)
    assert hits[0]["file"] == "sounds/loop_tabla.flac" and hits[0]["start_s"] == 0.5
    assert hits[0]["score"] > 0.999 and len(hits) == 4
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    spans = [(hit["file"], hit["start_s"], hit["end_s"]) for hit in hits]
    assert not any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a in spans for b in spans if a is not b)
    cut, cut_rate = soundfile.read("hits/001_loop_tabla_0.50.wav", always_2d=True)
    assert cut_rate == rate
    np.testing.assert_array_equal(cut, samples[rate // 2 : rate])
    assert len(list(Path("hits").iterdir())) == 4
    table = ced("search", "query.wav", sounds / "misc_crow.flac", "index.npz")
    assert table.exit_code == 0 and "sounds/misc_crow.flac" in table.stdout and "sounds/loop_tabla.flac" in table.stdout
    assert "expected a new or empty folder" in only_error(ced("search", "query.wav", "index.npz", "--clips", "hits"))


def test_search_compares_every_window_by_cosine():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 8)).astype(np.float32)
    bounds = np.arange(200.0)
    index = join_embeddings([("a.wav", bounds, bounds + 1, vectors)], 8, {"weights": "x"})
    queries = rng.normal(size=(3, 8))
    cosines = (vectors @ queries.T) / np.linalg.norm(vectors, axis=1)[:, None] / np.linalg.norm(queries, axis=1)
    order = np.argsort(-cosines.max(axis=1))[:10]
    hits = index.search(queries, 10)
    assert [hit.start_s for hit in hits] == list(order)
    np.testing.assert_allclose([hit.score for hit in hits], cosines.max(axis=1)[order], atol=1e-6)
    assert [hit.query for hit in hits] == list(cosines.argmax(axis=1)[order])


def test_an_index_of_another_model_or_something_else_is_refused_in_one_line(sounds, random_model):
    crow = sounds / "misc_crow.flac"
    assert ced("embed", crow, "-m", MODEL, "-o", "index.npz").exit_code == 0
    line = only_error(ced("search", crow, "index.npz", "-m", random_model), 1)
    assert f"index.npz has embeddings of another model ({MODEL}) than {random_model}: use that model" in line
    line = only_error(ced("embed", crow, "-m", random_model, "-o", "index.npz", "--resume"))
    assert f"index.npz was begun with another model, {MODEL}: resume with that one, or use --overwrite" in line
    np.savez("other.npz", embeddings=np.zeros((3, 2)))
    Path("text.npz").write_text("no")
    Path("cut.npz").write_bytes(Path("index.npz").read_bytes()[:500])
    Path("other.parquet").write_bytes(b"PAR1")
    for name in ("other.npz", "text.npz", "cut.npz", "other.parquet"):
        assert f"'{name}' is not a file of embeddings, or damaged" in only_error(ced("search", crow, name))
    assert "'none.npz': there is no such file" in only_error(ced("search", crow, "none.npz"))
    shutil.copytree(MODEL, "moved")
    assert ced("embed", crow, "-m", "./moved", "-o", "moved.npz").exit_code == 0
    shutil.rmtree("moved")
    line = only_error(ced("search", crow, "moved.npz"), 1)
    assert line == "ced: moved.npz was made with the model ./moved, which cannot be found: give its folder with --model"
    assert ced("search", crow, "moved.npz", "-m", MODEL).exit_code == 0
    assert "expected recordings to search for" in only_error(ced("search", "index.npz"))
    swapped = "ced: crow.wav: expected a file made by ced embed; give index.npz last, after the recordings"
    assert only_error(ced("search", "index.npz", "crow.wav")) == swapped
    assert "none.wav: cannot be opened" in only_error(ced("search", "none.wav", "index.npz"), 1)
    assert "--output x.txt: expected a name that ends in .npz or .parquet" in only_error(
        ced("embed", crow, "-o", "x.txt")
    )
    assert "there is no folder" in only_error(ced("embed", crow, "-o", "none/x.npz"))
    assert "--window 60: expected" in only_error(ced("embed", crow, "-m", MODEL, "-o", "x.npz", "--window", 60))
    assert not Path("x.npz.journal").exists()


def test_failed_inputs_are_rows_of_nan_or_results_with_an_error(sounds, caplog):
    tagger = AudioTagger(MODEL)
    crow, broken = sounds / "misc_crow.flac", sounds / "broken.wav"
    broken.write_bytes(b"RIFF")
    rows = tagger.embed([crow, broken, crow], errors="skip")
    assert np.isfinite(rows).all(axis=1).tolist() == [True, False, True]
    np.testing.assert_allclose(rows[0], tagger.embed(crow), atol=1e-5)
    assert "broken.wav" in caplog.text
    with pytest.raises(ValueError, match="broken.wav"):
        tagger.embed([broken])
    with pytest.raises(ValueError, match="errors='ignore'"):
        tagger.embed([crow], errors="ignore")
    good, bad = tagger.embeddings([crow, broken], window_s=0.5)
    assert bad.error is not None and bad.embeddings.shape == (0, 48)
    np.testing.assert_allclose(good.mean(), tagger.embed(crow, window_s=0.5), atol=1e-5)
    assert good.start_s[0] == 0 and good.end_s[-1] == pytest.approx(good.duration_s)


class FakeCard(ModuleType):
    """A replacement of sounddevice that records what is played; optionally without a loudspeaker."""

    class PortAudioError(Exception):
        pass

    def __init__(self, has_output: bool = True, fails: bool = False) -> None:
        super().__init__("sounddevice")
        self.has_output, self.fails = has_output, fails
        self.played: list[tuple[np.ndarray, int]] = []

    def query_devices(self, device: Any, kind: str) -> dict[str, Any]:
        if not self.has_output:
            raise self.PortAudioError("Error querying device -1")
        return {"name": kind}

    def play(self, samples: np.ndarray, samplerate: int, blocking: bool) -> None:
        if self.fails:
            raise self.PortAudioError("Invalid sample rate", -9997)
        self.played.append((samples, samplerate))


@pytest.fixture
def index(sounds: Path) -> Path:
    assert ced("embed", "sounds", "-m", MODEL, "-o", "index.npz", "--window", 1).exit_code == 0
    return sounds.parent / "index.npz"


def test_hits_are_played_the_best_first(sounds, index, monkeypatch):
    card = FakeCard()
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    query = sounds / "misc_crow.flac"
    result = ced("search", query, index, "-k", 3, "--play", "--json", "--clips", "hits", "-m", MODEL)
    assert result.exit_code == 0, result.output
    hits = json.loads(result.stdout)
    assert [line for line in result.stderr.splitlines() if line.startswith("playing ")] == [
        f"playing {rank}: {hit['file']} at {clock(hit['start_s'])}; Ctrl-C ends it" for rank, hit in enumerate(hits, 1)
    ]
    for hit, (samples, rate), path in zip(hits, card.played, sorted(Path("hits").iterdir()), strict=True):
        expected, expected_rate = soundfile.read(path, always_2d=True)
        assert rate == expected_rate == soundfile.info(hit["file"]).samplerate and samples.dtype == np.float32
        np.testing.assert_allclose(samples, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (None, "--play requires sounddevice: pip install sounddevice"),
        (FakeCard(has_output=False), "--play: no output device was found"),
        (FakeCard(fails=True), "--play: Invalid sample rate"),
    ],
)
def test_missing_requirements_of_playing_are_one_line(sounds, index, monkeypatch, card, message):
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    result = ced("search", sounds / "misc_crow.flac", index, "--play", "-m", MODEL)
    assert result.exit_code == 1 and result.stderr.splitlines()[-1] == f"ced: {message}"
    assert ("score" in result.stdout) == bool(card and card.fails)
