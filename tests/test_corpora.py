"""Corpora and vocabularies: the right bytes, the right counts, no substitute."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labml_style.corpora import (
    CORPORA,
    Corpus,
    WordVocabulary,
    demo_corpus,
    load_corpus,
    load_split,
)
from labml_style.lab import download
from labml_style.lab.counting import counting_bits

# Words


def test_words_are_ranked_and_ties_are_alphabetical() -> None:
    words = WordVocabulary.from_text("b a b\nc a b\n\n")
    assert words.words == ["<eos>", "b", "a", "c", "<unk>"]
    assert words.encode("c x\n\n").tolist() == [3, 4, 0, 0]
    assert words.encode(words.decode(torch.tensor([3, 1]))).tolist() == [3, 1, 0]
    assert WordVocabulary.from_text("b a b\nc a b\n", 1).words == [
        "b",
        "<unk>",
        "<eos>",
    ]
    with pytest.raises(ValueError, match="'b' comes 2 times"):
        WordVocabulary(["a", "b", "b"])


@given(st.lists(st.integers(0, 6), max_size=40))
def test_decoded_words_encode_to_the_same_numbers(numbers: list[int]) -> None:
    words = WordVocabulary(["<eos>", "<unk>", "a", "b", ",", "=", "@-@"])
    closed = torch.tensor([*numbers, 0])
    assert words.encode(words.decode(closed)).equal(closed)


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\f", "\v", "\x1c"])
def test_lines_end_at_line_feeds_alone(inside: str) -> None:
    text = f"a{inside}b c\r\nd\n\ne"
    words = WordVocabulary.from_text(text)
    assert words.encode(text).tolist().count(words.number["<eos>"]) == 4
    plain = "a b c\nd\n\ne"
    assert words.words == WordVocabulary.from_text(plain).words
    assert words.encode(text).equal(words.encode(plain))
    for end, lines in (("", 1), ("\n", 1), ("\r\n", 1), ("\n\n", 2)):
        ends = words.encode(f"a{end}") == words.number["<eos>"]
        assert ends.sum() == lines and ends[-1]


def test_a_byte_order_mark_is_no_part_of_the_first_word() -> None:
    words = WordVocabulary.from_text("\ufeffa b\na")
    assert words.words == WordVocabulary.from_text("a b\na").words
    assert words.encode("\ufeffa").equal(words.encode("a"))


@pytest.mark.parametrize("odd", [-100, -1, 4])
def test_numbers_of_no_word_are_refused(odd: int) -> None:
    words = WordVocabulary(["<eos>", "<unk>", "a", "b"])
    with pytest.raises(ValueError, match=f"numbers hold {odd}; expected 0 to 3 for 4"):
        words.decode(torch.tensor([2, odd, 3]))


@pytest.mark.parametrize(("split", "count"), [("valid", 217_646), ("test", 245_569)])
def test_wikitext_counts_are_the_published_ones(split: str, count: int) -> None:
    folder = download.data_folder()
    if folder is None or not (folder / f"wikitext-2-{split}.txt").is_file():
        pytest.skip(f"wikitext-2-{split}.txt is not in LABML_STYLE_DATA")
    text = load_split("wikitext-2", split).numpy().tobytes().decode()
    words = WordVocabulary.from_text(text)
    assert len(words.encode(text)) == count


def test_no_words_are_no_numbers() -> None:
    assert WordVocabulary.from_text("a b").encode("").dtype == torch.int64


# Corpora


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of the reader's, an empty cache, and no network."""
    monkeypatch.setenv("LABML_STYLE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    nowhere = {k: f._replace(url="") for k, f in download.FILES.items()}
    monkeypatch.setattr(download, "FILES", nowhere)
    return tmp_path


def put(folder: Path, name: str, content: bytes) -> None:
    """Write a file, and declare it the published one."""
    file = download.FILES[name]
    (folder / file.name).write_bytes(content)
    download.FILES[name] = file._replace(
        size=len(content), digest="", start=content[:9]
    )


def joined(corpus: Corpus) -> bytes:
    return b"".join(part.numpy().tobytes() for part in corpus[1:4])


def test_the_last_tenth_is_held_out(folder: Path) -> None:
    content = bytes(range(200)) * 5
    put(folder, "tiny-shakespeare", content)
    corpus = load_corpus("tiny-shakespeare")
    assert [len(part) for part in corpus[1:4]] == [900, 50, 50]
    assert joined(corpus) == content
    assert corpus.train.dtype == torch.uint8
    assert corpus.text("test") == content[950:].decode(errors="replace")


@pytest.mark.parametrize("whole", [True, False])
def test_four_megabytes_are_the_start_of_enwik8(folder: Path, whole: bool) -> None:
    content = b"<mediawiki " + bytes(range(251)) * 16_000
    if whole:
        put(folder, "enwik8", content + b"the rest")
    else:
        put(folder, "enwik8-4mb", content[:4_000_000])
    corpus = load_corpus("enwik8-4mb")
    assert [len(p) for p in corpus[1:4]] == [3_600_000, 200_000, 200_000]
    assert joined(corpus) == content[:4_000_000]
    assert ("no published digest" in corpus.source) is not whole


def test_a_part_of_wikitext_loads_alone(folder: Path) -> None:
    put(folder, "wikitext-2-valid", b" = Valid = \n")
    assert load_split("wikitext-2", "valid").numpy().tobytes() == b" = Valid = \n"
    with pytest.raises(FileNotFoundError, match="wikitext-2-train.txt is not here"):
        load_corpus("wikitext-2")
    put(folder, "wikitext-2-train", b" = Train = \n")
    put(folder, "wikitext-2-test", b" = Test = \n")
    assert (
        joined(load_corpus("wikitext-2")).split()
        == b"= Train = = Valid = = Test =".split()
    )


def test_python_docs_are_in_every_python() -> None:
    corpus = load_corpus("python-docs")
    text = b"".join(part.numpy().tobytes() for part in corpus[1:4]).decode()
    assert len(text) > 200_000 and "lambda" in text
    assert load_split("python-docs", "test").equal(corpus.test)
    costs = [counting_bits(corpus, order) for order in (0, 1, 2)]
    assert 8 > costs[0] > costs[1] > costs[2], "each byte of context is worth something"


def test_a_missing_corpus_is_never_replaced(folder: Path) -> None:
    for name in set(CORPORA) - {"python-docs"}:
        with pytest.raises(FileNotFoundError, match="Put it"):
            load_corpus(name)
    with pytest.raises(ValueError, match="corpus is 'text8'; expected one of tiny"):
        load_corpus("text8")
    with pytest.raises(ValueError, match="split is 'dev'"):
        load_split("python-docs", "dev")


def test_the_demo_says_which_text_it_took(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo_corpus().name == "python-docs"
    assert capsys.readouterr().out.startswith("python-docs: ")
    put(folder, "tiny-shakespeare", b"word " * 100)
    assert demo_corpus().name == "tiny-shakespeare"
    (folder / "tinyshakespeare.txt").write_bytes(b"word " * 99)
    with pytest.raises(ValueError, match="495 bytes"):
        demo_corpus()


def test_the_demo_does_not_wait_for_a_dead_network(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        file = download.FILES["tiny-shakespeare"]
        url = f"http://127.0.0.1:{port}/x"
        download.FILES["tiny-shakespeare"] = file._replace(url=url)
        began = time.monotonic()
        assert demo_corpus(seconds=0.3).name == "python-docs"
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("name", ["tiny-shakespeare", "enwik8-4mb"])
def test_the_real_files_pass_their_checks(name: str) -> None:
    found = download.data_folder()
    if found is None or not (found / download.FILES[name].name).is_file():
        pytest.skip(f"{download.FILES[name].name} is not in LABML_STYLE_DATA")
    corpus = load_corpus(name)
    assert len(joined(corpus)) == download.FILES[name].size
