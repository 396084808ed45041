from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencepiece
import yaml

from model.tokenizer import PIECES, SPECIAL, Tokenizer
from stages._params import load_section, to_plain
from stages._runner import StageError, StageIO
from stages.tokenizer import Params, composition, fertility, run, sample, script, sentences, shares, train, trainer
from tests.support.text import documents, text, write_documents

ROOT = Path(__file__).resolve().parents[3]
SMALL = Params(
    vocab_size=1500,
    character_coverage=0.999,
    sample_bytes=200_000,
    english_share=0.5,
    split_digits=True,
    blank_runs=4,
    max_piece_characters=16,
    seed_pieces=15_000,
    pad_multiple=128,
    threads=2,
    seed=1,
)


def project(root: Path, params: Params = SMALL) -> Path:
    """A folder in which `python -m stages.tokenizer` runs: graph, parameters, documents."""
    folder = root / "data/decontaminate"
    write_documents(folder / "train", documents("en", 1, 20, 4000) + documents("zh", 1, 10, 4000))
    write_documents(folder / "heldout", documents("en", 2, 2, 3000) + documents("zh", 2, 2, 3000))
    graph = {"stages": {"tokenizer": {"deps": ["data/decontaminate"], "outs": ["data/tokenizer"]}}}
    (root / "dvc.yaml").write_text(yaml.safe_dump(graph), encoding="utf-8")
    (root / "params.yaml").write_text(yaml.safe_dump({"tokenizer": to_plain(params)}), encoding="utf-8")
    return root


def run_in(root: Path, params: Params = SMALL) -> tuple[Path, dict[str, Any]]:
    io = StageIO("tokenizer", root, ["data/decontaminate"], "data/tokenizer")
    io.output.mkdir(parents=True)
    return io.output, run(params, io)


def test_the_laptop_profile_has_a_valid_section() -> None:
    assert load_section(Params, ROOT / "params.yaml", "tokenizer").vocab_size > 8192


def test_two_folders_and_two_machines_give_the_same_bytes(tmp_path: Path) -> None:
    """Run as it is run for real: as a process of its own, sandboxed, in places of different depth, with fewer cores."""
    found = []
    for name, cores in (("a", os.sched_getaffinity(0)), ("another/much/longer/path", {min(os.sched_getaffinity(0))})):
        root = tmp_path / name
        root.mkdir(parents=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(len(cores))}
        pinned = (
            f"import os, runpy; os.sched_setaffinity(0, {cores}); runpy.run_module('stages.tokenizer', run_name='__main__')"
        )
        subprocess.run([sys.executable, "-c", pinned], cwd=project(root), env=environment, check=True)
        found.append({path.name: path.read_bytes() for path in sorted((root / "data/tokenizer").iterdir())})
    assert list(found[0]) == ["manifest.json", "report.json", "tokenizer.json", "tokenizer.model"]
    assert found[0] == found[1]
    assert str(tmp_path).encode() not in b"".join(found[0].values())


def test_outputs(tmp_path: Path) -> None:
    output, counts = run_in(project(tmp_path))
    tokenizer = Tokenizer(output / "tokenizer.model")
    described = json.loads((output / "tokenizer.json").read_text(encoding="utf-8"))
    assert described["piece_count"] == tokenizer.piece_count == counts["pieces"] == 1500
    assert described["padded_size"] == 1536
    assert described["special"] == {
        "pad": 0, "unk": 1, "eod": 2, "mask": 3, "gmask": 4, "smask": 5, "sop": 6, "eop": 7,
    }  # fmt: skip
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert sum(report["composition"].values()) == 1500
    assert report["composition"]["special"] == 8
    assert report["composition"]["byte"] == 256
    assert report["composition"]["digit"] == 10  # though the text has none
    for language in ("en", "zh"):
        row = report["heldout"][language]
        held = documents(language, 2, 2, 3000)
        assert row["documents"] == 2
        assert row["bytes"] == sum(len(document["text"].encode()) for document in held)
        assert row["tokens"] == sum(len(tokenizer.encode(document["text"])) for document in held)
        assert row["tokens_per_byte"] == round(row["tokens"] / row["bytes"], 4)
    assert report["heldout"]["en"]["bytes_per_token"] > 2.5


def test_the_embedding_is_padded_for_every_rank(tmp_path: Path) -> None:
    output, _ = run_in(project(tmp_path), replace(SMALL, pad_multiple=128, tensor_parallel=5))
    described = json.loads((output / "tokenizer.json").read_text(encoding="utf-8"))
    assert (described["padded_size"], described["pad_multiple"]) == (1920, 640)


def test_the_published_vocabulary_is_padded_as_published() -> None:
    params = load_section(Params, ROOT / "profiles/130b.yaml", "tokenizer")
    multiple = params.pad_multiple * params.tensor_parallel
    assert -(-(params.vocab_size + len(PIECES)) // multiple) * multiple == 150_528


def test_the_report_counts_by_source(tmp_path: Path) -> None:
    root = project(tmp_path)
    write_documents(root / "data/decontaminate/heldout", documents("zh", 3, 3, 500, source="verse"))
    output, _ = run_in(root)
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert {lang: list(rows) for lang, rows in report["sources"].items()} == {"en": ["made-en"], "zh": ["made-zh", "verse"]}
    for lang, rows in report["sources"].items():
        for name in ("documents", "bytes", "characters", "tokens", "byte_pieces", "uncovered"):
            assert sum(row[name] for row in rows.values()) == report["heldout"][lang][name]
    ours, icetk = report["comparison"]["ours"], report["comparison"]["icetk"]
    assert ours["pieces"] == 1500 == sum(ours[kind] for kind in ("common", "english", "chinese", "other"))
    assert icetk["pieces"] == 130_000 == sum(icetk[kind] for kind in ("common", "english", "chinese", "other"))
    assert "icetk" in icetk["source"]


def test_coverage_is_the_share_of_characters_with_a_piece(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(text("en", 1, 60_000).split("\n"), replace(SMALL, vocab_size=600)))
    tokenizer = Tokenizer(path)
    characters = "a é 龘 \U0001f409 z"
    known = sum(not any(tokenizer.is_byte(piece) for piece in tokenizer.encode(character)) for character in characters)
    row = fertility(tokenizer, [{"lang": "en", "text": characters}])["en"]
    assert row["coverage"] == round(known / len(characters), 6) < 1
    assert row["uncovered"] == 3


def test_the_sample_has_the_asked_for_ratio(tmp_path: Path) -> None:
    rows = documents("en", 1, 60, 4000) + documents("zh", 1, 30, 4000)
    available = {lang: sum(len(row["text"].encode()) for row in rows if row["lang"] == lang) for lang in ("en", "zh")}
    params = replace(SMALL, sample_bytes=100_000, english_share=0.25)
    taken = {"en": 0, "zh": 0}
    for line in sample(rows, shares(params, available), 1):
        taken["en" if line.isascii() else "zh"] += len(line.encode())
    assert taken["en"] == pytest.approx(25_000, rel=0.15)
    assert taken["zh"] == pytest.approx(75_000, rel=0.15)


def test_a_scarce_language_sets_the_size_of_both() -> None:
    share = shares(replace(SMALL, sample_bytes=1000), {"en": 10_000, "zh": 200})
    assert share == {"en": 0.02, "zh": 1.0}
    assert shares(replace(SMALL, sample_bytes=1000, english_share=1.0), {"en": 500}) == {"en": 1.0, "zh": 0.0}


def test_a_missing_language_is_refused() -> None:
    with pytest.raises(StageError, match="no training document in 'zh'"):
        shares(SMALL, {"en": 10_000})


def test_the_sample_is_a_draw_by_document_and_seed() -> None:
    rows = documents("en", 1, 8, 2000)
    half = {"en": 0.5, "zh": 0.0}
    whole = list(sample(rows, half, 7))
    assert whole == [line for row in rows for line in sample([row], half, 7)]
    assert whole != list(sample(rows, half, 8))
    assert list(sample(rows, {"en": 1.0}, 7)) == [line for row in rows for line in sentences(row["text"])]
    assert list(sample(documents("zh", 1, 2, 500), half, 7)) == []


def test_sentences_lose_nothing_but_line_ends_and_stay_short() -> None:
    long = text("zh", 3, 20_000).replace("\n", "")
    found = list(sentences(f"first\n\n{long}\nlast"))
    assert "".join(found) == f"first{long}last"
    assert max(len(line.encode()) for line in found) <= 4096
    assert list(sentences("")) == []


@pytest.mark.parametrize("vocab_size", [512, 60_000])
def test_a_vocabulary_that_does_not_fit_the_text_is_refused(vocab_size: int) -> None:
    """The message gives the size that does fit, and that size trains."""
    lines = text("zh", 1, 20_000).split("\n")
    params = replace(SMALL, vocab_size=vocab_size, character_coverage=1.0)
    with pytest.raises(StageError, match=r"SentencePiece could not train: .*[Vv]ocabulary size") as caught:
        train(lines, params)
    found = re.search(
        rf"of {vocab_size:,} pieces .*: at (least|most) ([\d,]+)\. .*set tokenizer.vocab_size to (\d+)", str(caught.value)
    )
    assert found is not None
    assert found[1] == ("least" if vocab_size == 512 else "most")
    size = int(found[3])
    assert size == int(found[2].replace(",", ""))
    model = train(lines, replace(params, vocab_size=size))
    assert sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size() == size
    with pytest.raises(StageError, match="at least" if vocab_size == 512 else "at most"):
        train(lines, replace(params, vocab_size=size - 1 if vocab_size == 512 else size + 1))


def test_a_sample_without_a_blank_is_refused(tmp_path: Path) -> None:
    root = project(tmp_path)
    rows = [row | {"text": row["text"].replace(" ", "")} for row in documents("zh", 1, 10, 4000)]
    shutil.rmtree(root / "data/decontaminate/train")
    write_documents(root / "data/decontaminate/train", rows)
    with pytest.raises(StageError, match=r"cannot be used: .*loses text.*text with blanks too"):
        run_in(root, replace(SMALL, english_share=0.0, vocab_size=1000))


def test_a_sample_that_breaks_off_is_not_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def lines() -> Iterator[str]:
        yield "a line"
        raise OSError("the shard is gone")

    program, trained = tmp_path / "trainer.py", tmp_path / "trained"
    program.write_text(f"import sys; sys.stdin.buffer.read(); open({str(trained)!r}, 'w').close()", encoding="utf-8")
    monkeypatch.setattr(trainer, "__file__", str(program))
    with pytest.raises(OSError, match="the shard is gone"):
        train(lines(), SMALL)
    assert not trained.exists()
    train(["a line"], SMALL)
    assert trained.exists()


def test_the_process_that_waits_has_loaded_nothing_that_reads_documents(tmp_path: Path) -> None:
    """It stands beside a trainer that takes a gigabyte."""
    program = tmp_path / "trainer.py"
    program.write_text("import sys; sys.stdout.write('a model of ' + sys.stdin.read())", encoding="utf-8")
    code = (
        "import json, pathlib, sys; import stages._runner; from stages._params import load_section\n"
        "from stages.tokenizer import Params, train, trainer\n"
        f"params = load_section(Params, pathlib.Path('params.yaml'), 'tokenizer'); trainer.__file__ = {str(program)!r}\n"
        "def lines():\n    import pyarrow, numpy\n    yield 'one'\n    yield 'two'\n"
        "print(json.dumps([train(lines(), params).decode(), sorted({'numpy', 'pyarrow', 'sentencepiece'} & set(sys.modules))]))"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    assert json.loads(said) == ["a model of one\ntwo\n", []]


def test_what_the_sample_raises_comes_back_as_it_was(tmp_path: Path) -> None:
    class OddError(Exception):
        """Cannot be pickled: no module has it."""

    def lines(error: Exception) -> Iterator[str]:
        yield "a line"
        raise error

    with pytest.raises(StageError, match=r"a row is bad \(file f, row 3\)"):
        train(lines(StageError("a row is bad", file="f", row=3)), SMALL)
    with pytest.raises(StageError, match="OddError: by itself"):
        train(lines(OddError("by itself")), SMALL)


def test_a_training_process_that_is_killed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "trainer.py"
    program.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", encoding="utf-8")
    monkeypatch.setattr(trainer, "__file__", str(program))
    with pytest.raises(StageError, match=r"ended with status -9.*lower tokenizer.sample_bytes"):
        train(text("en", 1, 60_000).split("\n"), SMALL)


@pytest.mark.parametrize("lines", [[], ["", ""]])
def test_an_empty_sample_is_refused(lines: list[str]) -> None:
    with pytest.raises(StageError, match=r"the training sample holds no line of text .*raise tokenizer.sample_bytes"):
        train(lines, SMALL)


def test_text_that_is_not_utf8_is_refused_with_file_and_row(tmp_path: Path) -> None:
    file = project(tmp_path) / "data/decontaminate/train/documents/made-zh-00000.parquet"
    table = pq.read_table(file)
    content = [row.encode() for row in table["text"].to_pylist()]
    content[2] += b"\xed\xa0\x80"  # a surrogate
    broken = pa.Array.from_buffers(pa.large_string(), len(content), pa.array(content, pa.large_binary()).buffers())
    pq.write_table(table.set_column(table.schema.get_field_index("text"), table.schema.field("text"), broken), file)
    with pytest.raises(StageError, match=r"text is not UTF-8 .*train/documents/made-zh-00000.parquet, row 2"):
        run_in(tmp_path)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_an_empty_document_is_refused_with_file_and_row(tmp_path: Path, split: str) -> None:
    rows = documents("zh", 4, 3, 3000)
    rows[1]["text"] = ""
    write_documents(project(tmp_path) / "data/decontaminate" / split, rows)
    with pytest.raises(StageError, match=rf"'made-zh/1' is empty \(file data/decontaminate/{split}/documents/.*, row 1\)"):
        run_in(tmp_path)


@pytest.mark.parametrize("column", ["text", "doc_id"])
def test_documents_without_a_column_are_refused(tmp_path: Path, column: str) -> None:
    file = project(tmp_path) / "data/decontaminate/train/documents/made-en-00000.parquet"
    pq.write_table(pq.read_table(file).drop([column]), file)
    with pytest.raises(StageError, match=rf"there is no column '{column}' \(file data/decontaminate/train/documents/made-en"):
        run_in(tmp_path)


def test_a_shard_cut_short_on_disk_is_named(tmp_path: Path) -> None:
    file = project(tmp_path) / "data/decontaminate/heldout/documents/made-zh-00000.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(StageError, match=r"cut short: .*heldout/documents/made-zh-00000.parquet.*dvc repro"):
        run_in(tmp_path)


def test_lines_with_marks_of_the_trainer_do_not_hurt(tmp_path: Path) -> None:
    lines = [*text("en", 1, 60_000).split("\n"), "\u2581 \u2585 \t <unk> [MASK]", "\x00", " " * 50]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(lines, replace(SMALL, vocab_size=600)))
    tokenizer = Tokenizer(path)
    assert "[MASK]" not in [tokenizer.piece(index) for index in range(SPECIAL.eop + 1, tokenizer.piece_count)]
    assert composition(tokenizer)["blank"] >= 5  # newline, tab, runs of 2 to 4 blanks
    assert [len(tokenizer.encode(blanks)) for blanks in (" ", "  ", "    ", "\n", "\t")] == [1] * 5


def test_fertility_counts_bytes_of_rare_characters(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(text("en", 1, 60_000).split("\n"), replace(SMALL, vocab_size=600)))
    row = {"lang": "zh", "text": "龘龘"}
    assert fertility(Tokenizer(path), [row]) == {
        "zh": {
            "documents": 1,
            "bytes": 6,
            "characters": 2,
            "tokens": 6,
            "byte_pieces": 6,
            "uncovered": 2,
            "tokens_per_character": 3.0,
            "tokens_per_byte": 1.0,
            "bytes_per_token": 1.0,
            "byte_fallback_share": 1.0,
            "coverage": 0.0,
        }
    }
    assert fertility(Tokenizer(path), []) == {}


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        ("\u2581the", "latin"),
        ("é", "latin"),
        ("的", "han-character"),
        ("\u2581的", "han-character"),
        ("我们", "han-word"),
        ("\u2581\u2581", "blank"),
        ("\n", "blank"),
        ("7", "digit"),
        ("，", "punctuation"),
        ("ж", "other-letter"),
        ("x，", "mixed"),
    ],
)
def test_script(piece: str, expected: str) -> None:
    assert script(piece) == expected
