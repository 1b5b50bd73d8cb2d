"""Documents: a classifier, its stream, the loader, and the experiment about them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labml_style import documents
from labml_style.corpora import Corpus
from labml_style.documents import (
    Document,
    DocumentStream,
    RecurrentMemoryClassifier,
    RecurrentMemoryClassifierConfig,
    load_hyperpartisan,
)
from labml_style.lab import runner
from labml_style.lab.experiments import documents as experiment
from labml_style.lab.experiments.documents import PassageStream, SourceTask, by_place
from labml_style.lab.presets import Verdict, find, verdict
from labml_style.recurrent_memory import LearnedTokens
from labml_style.streams import Batch, TextStream
from labml_style.training import Training, TrainingConfig, evaluate

PADDING = 11
SIZES: dict[str, Any] = dict(
    vocabulary=12,
    classes=3,
    padding=PADDING,
    d_model=8,
    heads=2,
    layers=2,
    d_ff=12,
    segment_length=4,
    memory_tokens=3,
)


def make(**changes: Any) -> Any:
    """Build a classifier in float64, with weights so large that a difference shows."""
    torch.manual_seed(0)
    config = RecurrentMemoryClassifierConfig(**SIZES | changes)
    model = RecurrentMemoryClassifier(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model


def document(length: int, seed: int = 0) -> Tensor:
    """Return `[length]` tokens, none of them padding."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(PADDING, (length,), generator=rng)


def follow(model: Any, tokens: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
    """Read `[batch, time]` segment by segment; return the last answer and memory."""
    logits: Any = None
    for segment in tokens.split(model.config.segment_length, dim=1):
        logits, memory, _ = model(segment, memory)
    return logits[:, -1], memory


def padded(rows: list[Tensor], length: int) -> Tensor:
    """Fill rows up to `[rows, length]`."""
    fill = [torch.full((length - len(row),), PADDING) for row in rows]
    return torch.stack([torch.cat(both) for both in zip(rows, fill, strict=True)])


def close(one: Tensor, other: Tensor) -> bool:
    assert one.shape == other.shape
    return torch.allclose(one, other, rtol=1e-12, atol=1e-12)


# The classifier


def naive(model: Any, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One document's segment `[time]` and memory `[tokens, d]`, in plain loops."""
    w, config = dict(model.named_parameters()), model.config
    d, heads = config.d_model, config.heads
    x = torch.cat([memory, w["embedding.table.weight"][tokens] * d**0.5])
    n, width = len(x), d // heads
    rates = 10000 ** (-torch.arange(0, d, 2).double() / d)

    def normed(x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    for i in range(config.layers):
        at = f"layers.{i}.attention"
        q, both = x @ w[f"{at}.q.weight"].T, x @ w[f"{at}.kv.weight"].T
        k, v = both[:, :d], both[:, d:]
        read = torch.zeros(n, d, dtype=torch.float64)
        for h in range(heads):
            own = slice(h * width, (h + 1) * width)
            near, far = w[f"{at}.u"][h, 0], w[f"{at}.v"][h, 0]
            for a in range(n):
                scores = []
                for b in range(n):  # all of them: later ones are at distances below 0
                    angles = (a - b) * rates
                    wave = torch.cat([angles.sin(), angles.cos()])
                    place = (w[f"{at}.position.weight"] @ wave)[own]
                    score = (q[a, own] + near) @ k[b, own] + (q[a, own] + far) @ place
                    scores.append(score / width**0.5)
                read[a, own] = torch.stack(scores).softmax(0) @ v[:, own]
        read = read @ w[f"{at}.out.weight"].T
        x = normed(x + read, f"layers.{i}.attention_residual.output_norm")
        ff = f"layers.{i}.feed_forward"
        inner = (x @ w[f"{ff}.inner.weight"].T + w[f"{ff}.inner.bias"]).clamp(min=0)
        y = inner @ w[f"{ff}.outer.weight"].T + w[f"{ff}.outer.bias"]
        x = normed(x + y, f"layers.{i}.feed_forward_residual.output_norm")
    written = x[: len(memory)]
    return w["head.weight"] @ written.mean(0) + w["head.bias"], written


@torch.no_grad()
def test_it_is_dense_attention_over_one_block_and_the_segment() -> None:
    model, tokens = make(), document(7)
    logits, memory, auxiliary = model(tokens[None, :4])
    wanted, written = naive(model, tokens[:4], model.tokens.start)
    assert logits.shape == (1, 4, 3) and auxiliary == {}
    assert close(logits[0], wanted.expand(4, 3)), "the same in each column"
    assert close(memory.tokens[0], written)
    logits, memory, _ = model(tokens[None, 4:], memory)
    wanted, written = naive(model, tokens[4:], written)
    assert close(logits[0], wanted.expand(3, 3)) and close(memory.tokens[0], written)


@pytest.mark.parametrize("gradients", [True, False])
def test_a_short_document_gives_what_it_gives_alone(gradients: bool) -> None:
    model = make()
    rows = [document(n, seed=n) for n in (5, 12, 1, 16, 8, 3)]
    with torch.set_grad_enabled(gradients):
        answers, memory = follow(model, padded(rows, 16))
        for lane, row in enumerate(rows):
            answer, alone = follow(model, row[None])
            assert close(answers[lane], answer[0])
            assert close(memory.tokens[lane], alone.tokens[0])
        # Nor does it matter what the others are, or how long they go on.
        fewer, _ = follow(model, padded(rows[:1], 20))
        assert close(fewer, answers[:1])


@torch.no_grad()
def test_more_padding_changes_nothing() -> None:
    model = make(segment_length=8)
    row, memory = document(3)[None], follow(model, document(8)[None])[1]
    for held in (None, memory):
        wanted = model(row, held)
        for columns in range(4, 9):
            found = model(padded([row[0]], columns), held)
            assert close(found.logits[:, :3], wanted.logits)
            assert close(found.memory.tokens, wanted.memory.tokens)
    # It is hidden wherever it stands: what is asked is that nobody sees it.
    blind = make(padding=None, segment_length=8)
    seen = [blind(padded([row[0]], n)).logits[:, :3] for n in (4, 8)]
    assert not close(*seen), "without it, padding is read as a token"
    table = model.embedding.table.weight
    before = model(padded([row[0]], 8)).logits
    table[PADDING] += 100.0
    assert close(model(padded([row[0]], 8)).logits, before)


@torch.no_grad()
def test_a_segment_of_padding_leaves_the_memory_as_it_was() -> None:
    model, nothing = make(), torch.full((2, 4), PADDING)
    answers, memory = follow(model, torch.stack([document(8), document(8, seed=1)]))
    after = model(nothing, memory)
    assert after.memory.tokens.equal(memory.tokens)
    assert after.logits.equal(answers[:, None].expand(2, 4, 3))
    mixed = torch.stack([nothing[0], document(4, seed=2)])
    mixed_after = model(mixed, memory).memory.tokens
    assert mixed_after[0].equal(memory.tokens[0])
    assert not close(mixed_after[1], memory.tokens[1])
    # A lane that was reset, and then has padding alone, is at the start of a text.
    fresh = model(mixed, memory.reset(torch.tensor([True, False])))
    assert fresh.memory.tokens[0].equal(model.tokens.start)
    row = document(4, seed=3)[None].expand(2, -1)
    found = model(row, fresh.memory).logits[0]
    assert close(found, model(row).logits[0])


def test_padding_gets_no_gradient_and_gives_none() -> None:
    found = []
    for length in (6, 8, 16):
        model = make()
        answers, _ = follow(model, padded([document(6)], length))
        answers.logsumexp(-1).sum().backward()
        found.append({k: p.grad for k, p in model.named_parameters()})
        assert not found[-1]["embedding.table.weight"][PADDING].any()
    for one in found[1:]:
        assert all(close(grad, found[0][name]) for name, grad in one.items())


@torch.no_grad()
def test_earlier_segments_matter_through_the_memory_alone() -> None:
    last, early = document(4), [document(8, seed=1), document(8, seed=2)]
    rows = torch.stack([torch.cat([one, last]) for one in early])
    answers, _ = follow(make(), rows)
    assert not close(answers[0], answers[1])
    answers, memory = follow(make(tokens=LearnedTokens), rows)
    assert close(answers[0], answers[1]) and memory.nbytes == 0
    assert close(answers[:1], follow(make(tokens=LearnedTokens), last[None])[0])
    model = make()
    _, memory = follow(model, rows[:, :8])
    answers, _ = follow(model, rows[:, 8:], memory.reset(torch.tensor([True, True])))
    assert close(answers[0], answers[1])
    answers, _ = follow(model, rows[:, 8:], memory.select(torch.tensor([0, 0])))
    assert close(answers[0], answers[1]), "the same memory, the same answer"


@torch.no_grad()
def test_tokens_without_recurrence_answer_padding_as_they_start() -> None:
    model = make(tokens=LearnedTokens)
    answers, _ = follow(model, padded([document(4)], 8))
    assert close(answers[0], model.head(model.tokens.start.mean(0)))


def test_the_gradient_reaches_the_first_segment_through_the_memory() -> None:
    tokens = torch.tensor([[9, 9, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8]])
    for cut in (False, True):
        model, memory = make(), None
        for segment in tokens.split(4, dim=1):
            memory = memory.detach() if memory is not None and cut else memory
            logits, memory, _ = model(segment, memory)
        (logits[:, -1] * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
        rows = model.embedding.table.weight.grad.any(1)
        assert rows[9].item() == (not cut) == rows[1].item()
        assert rows[5:9].all() and not rows[[0, 10, PADDING]].any()


def test_dropout_is_for_training_alone() -> None:
    model, tokens = make(dropout=0.5), document(4)[None]
    assert model(tokens).logits.equal(model(tokens).logits)
    model.train()
    assert not close(model(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": 1}, "classes is 1; expected an integer of at least 2"),
        ({"classes": 2.0}, "classes is 2.0; expected an integer"),
        ({"padding": 12}, "padding is 12; expected a token below vocabulary 12; give"),
        ({"padding": -1}, "padding is -1; expected an integer of at least 0"),
        ({"padding": True}, "padding is True; expected an integer"),
        ({"layout": "decoder"}, "layout is 'decoder' .*expected 'encoder'"),
        ({"layout": "both"}, "layout is 'both'; expected"),
        ({"memory_loss": 0.1}, "memory_loss 0.1; expected 'encoder' and 0: a class"),
        ({"memory_length": 4}, "memory_length is 4; expected 0"),
        ({"memory_tokens": 0}, "memory_tokens is 0; expected"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        RecurrentMemoryClassifierConfig(**SIZES | changes)


# The stream


def stream_of(lengths: tuple[int, ...], **changes: Any) -> DocumentStream:
    """Return documents of these lengths, labelled 0, 1, 2, 0, ..."""
    rows = [document(n, seed=n) for n in lengths]
    labels = [i % 3 for i in range(len(rows))]
    sizes: dict[str, Any] = dict(segments=3, segment_length=4, batch=2, padding=PADDING)
    return DocumentStream(rows, labels, **sizes | changes)


def whole(stream: DocumentStream, group: int) -> Batch:
    """Return the segments of a batch of documents, side by side."""
    first = group * stream.segments
    parts = [stream.at(first + i) for i in range(stream.segments)]
    assert [part.reset.tolist() for part in parts] == [
        [i == 0] * stream.batch for i in range(stream.segments)
    ]
    tokens, targets = (torch.cat([p[k] for p in parts], dim=1) for k in (0, 1))
    return Batch(tokens, targets, parts[0].reset)


def test_a_document_is_padded_or_cut_and_its_label_stands_at_the_end() -> None:
    stream = stream_of((5, 12, 1, 30))
    assert len(stream) == 6
    for group, lengths in enumerate([(5, 12), (1, 30)]):
        found = whole(stream, group)
        rows = [document(n, seed=n)[:12] for n in lengths]
        assert found.tokens.equal(padded(rows, 12))
        assert found.targets[:, -1].tolist() == [(2 * group + i) % 3 for i in (0, 1)]
        assert (found.targets[:, :-1] == -100).all()
        assert found.tokens.dtype == found.targets.dtype == torch.int64


def test_lanes_without_a_document_are_padding_and_not_scored() -> None:
    last = whole(stream_of((5, 12, 7)), 1)
    assert (last.tokens[1] == PADDING).all() and (last.targets[1] == -100).all()
    assert last.targets[0, -1] == 2
    alone = whole(stream_of((5,), batch=3), 0)
    assert (alone.tokens[1:] == PADDING).all() and (alone.targets[1:] == -100).all()


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("seed", [None, 0, 3])
def test_an_epoch_has_each_document_once(batch: int, seed: int | None) -> None:
    stream, orders = stream_of((1, 2, 3, 4, 5, 6, 7), batch=batch, seed=seed), []
    groups = len(stream) // 3
    for epoch in range(3):
        found = [whole(stream, epoch * groups + i) for i in range(groups)]
        tokens = torch.cat([one.tokens for one in found])
        labels = torch.cat([one.targets[:, -1] for one in found])
        lengths = (tokens != PADDING).sum(1)
        orders.append([n for n in lengths.tolist() if n])
        for n, label in zip(lengths.tolist(), labels.tolist(), strict=True):
            assert label == ((n - 1) % 3 if n else -100)
    assert all(sorted(order) == [1, 2, 3, 4, 5, 6, 7] for order in orders)
    kept = seed is None
    assert (orders[0] == [1, 2, 3, 4, 5, 6, 7]) == kept
    assert (orders[0] == orders[1]) == kept, "the order is drawn anew"


def test_a_batch_is_a_function_of_its_number() -> None:
    stream, again = stream_of((3, 5, 8), seed=1), stream_of((3, 5, 8), seed=1)
    assert [x.tokens.tolist() for x in stream] == [
        again.at(i).tokens.tolist() for i in range(6)
    ]
    assert stream.position == 6
    other = stream_of((3, 5, 8), seed=2)
    assert any(not other.at(i).tokens.equal(again.at(i).tokens) for i in range(18))


def test_a_position_belongs_to_these_documents_and_labels() -> None:
    state = stream_of((3, 5, 8), seed=1).state_dict()
    stream_of((3, 5, 8), seed=1).load_state_dict(state)
    rows = [document(n, seed=n) for n in (3, 5, 8)]
    sizes: dict[str, Any] = dict(segments=3, segment_length=4, batch=2, padding=PADDING)
    for other in (
        stream_of((3, 5, 7), seed=1),
        stream_of((3, 5, 8), seed=2),
        stream_of((3, 5, 8)),
        stream_of((3, 5, 8), seed=1, batch=3),
        stream_of((3, 5, 8), seed=1, padding=12),
        DocumentStream(rows, [0, 1, 1], **sizes, seed=1),
        DocumentStream(rows[::-1], [0, 1, 2], **sizes, seed=1),
    ):
        with pytest.raises(ValueError, match="settings|saved"):
            other.load_state_dict(state)


def test_documents_are_whatever_is_plainly_a_text() -> None:
    sizes: dict[str, Any] = dict(segments=1, segment_length=3, batch=3, padding=256)
    rows = [b"abc", [97, 98], torch.tensor([97], dtype=torch.uint8)]
    found = DocumentStream(rows, torch.tensor([2, 0, 1]), **sizes).at(0)
    assert found.tokens.tolist() == [[97, 98, 99], [97, 98, 256], [97, 256, 256]]
    assert found.targets[:, -1].tolist() == [2, 0, 1]
    held = DocumentStream([bytes([0, 255])], [0], **sizes)
    assert held.at(0).tokens[0].tolist() == [0, 255, 256]


@pytest.mark.parametrize(
    ("given", "changes", "said"),
    [
        (([], []), {}, "0 documents and 0 labels; give at least one"),
        (([[1]], [0, 1]), {}, "1 documents and 2 labels; give .*one label for each"),
        (([[1], []], [0, 1]), {}, r"documents\[1\] is empty or holds 11"),
        (([b"", b"a"], [0, 1]), {}, r"documents\[0\] is empty or holds 11"),
        (([[1], [2, 11]], [0, 1]), {}, r"documents\[1\] .* holds 11, the padding; lea"),
        (([[1]], [-1]), {}, r"labels\[0\] is -1; expected an integer of at least 0"),
        (([[1]], [0.5]), {}, r"labels\[0\] is 0.5; expected an integer"),
        ((["abc"], [0]), {}, "tokens are a str; encode the text first"),
        (([[1]], [0]), {"segments": 0}, "segments is 0; expected"),
        (([[1]], [0]), {"segment_length": 0}, "segment_length is 0; expected"),
        (([[1]], [0]), {"batch": 0}, "batch is 0; expected"),
        (([[1]], [0]), {"padding": -1}, "padding is -1; expected"),
        (([[1]], [0]), {"seed": -1}, "seed is -1; expected"),
    ],
)
def test_documents_that_do_not_fit_are_refused(
    given: tuple[list[Any], list[Any]], changes: dict[str, Any], said: str
) -> None:
    sizes: dict[str, Any] = dict(segments=2, segment_length=4, batch=2, padding=PADDING)
    with pytest.raises(ValueError, match=said):
        DocumentStream(*given, **sizes | changes)


# Together


def test_an_evaluation_does_not_depend_on_who_stands_beside() -> None:
    model, lengths = make(), (5, 12, 1, 16, 8, 3, 9)
    bits = []
    for batch, segments in ((1, 3), (2, 3), (4, 3), (7, 3), (9, 3)):
        stream = stream_of(lengths, batch=batch, segments=segments)
        found = evaluate(model, stream)
        assert found.scored.tolist() == [0, 0, 0, 7]
        bits.append(found.mean)
    short = (5, 12, 1, 8, 3, 9)  # none is cut, so that more segments add padding alone
    bits = [x - bits[0] for x in bits]
    more = [evaluate(model, stream_of(short, segments=n)).mean for n in (3, 5)]
    assert max(map(abs, bits)) < 1e-12 and abs(more[0] - more[1]) < 1e-12


@pytest.mark.parametrize("truncation", [3, 1])
def test_the_loop_of_the_site_trains_it(truncation: int) -> None:
    """The first token says the class; with truncation 1 the loop runs as well."""
    labels = [i % 2 for i in range(8)]
    rows = [[label, *document(11, i) // 2 + 4] for i, label in enumerate(labels)]
    lengths = dict(segments=3, segment_length=4, batch=8, padding=PADDING)
    stream = DocumentStream(rows, labels, **lengths, seed=0)
    torch.manual_seed(0)
    sizes = SIZES | dict(classes=2, d_model=16, d_ff=32, layers=1, initial_std=0.1)
    model = RecurrentMemoryClassifier(RecurrentMemoryClassifierConfig(**sizes))
    how = TrainingConfig(
        steps=40, learning_rate=0.02, truncation=truncation, accumulate=3 // truncation
    )
    updates = list(Training(model, stream, how))
    assert abs(updates[0].bits - 1) < 0.5 and updates[-1].bits < 0.1
    assert evaluate(model, stream).mean < 0.1


# The articles

ARTICLES = """<?xml version="1.0" encoding="UTF-8"?>
<articles>
<article id="0000001" published-at="2017-09-10" title="Rain &amp; wind">
<p>It will <a href="https://example.org" type="external">rain</a>, they say.</p><p>
Take   a coat.</p></article>
<article id="0000002" title="A shouted headline">Bare words
<q>They are all liars</q> caf\u00e9</article>
<article id="0000007" title="Empty"></article>
</articles>
"""
TRUTH = """<articles>
<article hyperpartisan="true" id="0000002" labeled-by="article" url="https://b"/>
<article hyperpartisan="false" id="0000001" labeled-by="article" url="https://a"/>
<article hyperpartisan="false" id="0000007" labeled-by="article" url="https://c"/>
</articles>
"""


def written(folder: Path, articles: str = ARTICLES, truth: str = TRUTH) -> list[Path]:
    paths = [folder / "articles.xml", folder / "truth.xml"]
    for path, content in zip(paths, (articles, truth), strict=True):
        path.write_text(content, encoding="utf-8")
    return paths


def test_articles_are_loaded_with_their_labels(tmp_path: Path) -> None:
    articles, truth = written(tmp_path)
    found = load_hyperpartisan(articles, str(truth))
    assert found == [
        Document("Rain & wind It will rain, they say. Take a coat.", 0),
        Document("A shouted headline Bare words They are all liars caf\u00e9", 1),
        Document("Empty", 0),
    ]
    with pytest.raises(FileNotFoundError, match="nowhere.xml"):
        load_hyperpartisan(tmp_path / "nowhere.xml", truth)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("articles", "</articles>", "", "articles.xml is no XML .*; give the whole"),
        ("truth", TRUTH, "", "truth.xml is no XML"),
        ("truth", TRUTH, "<articles/>", "truth.xml: id '' is there 0 times, of 0; exp"),
        ("articles", ARTICLES, "<p/>", "articles.xml: id '' is there 0 times"),
        ("truth", 'id="0000007"', "", "truth.xml: id '' is there 1 times, of 3; expec"),
        ("truth", "0000007", "0000001", "truth.xml: id '0000001' is there 2 times"),
        ("articles", "0000002", "0000007", "articles.xml: id '0000007' is there 2 tim"),
        ("truth", "0000007", "0000008", "truth.xml has no article '0000007'.*give two"),
        ("truth", "</articles>", "<article id='9'/></articles>",
         "articles.xml has no article '9'"),
        ("truth", '"true"', '"mixed"', "truth.xml: .* '0000002' is 'mixed'; expected "),
        ("truth", 'hyperpartisan="true"', "", "of article '0000002' is None; expected"),
        ("truth", TRUTH, ARTICLES, "of article '0000001' is None; .*articles first"),
    ],
)  # fmt: skip
def test_articles_that_do_not_fit_are_refused(
    file: str, old: str, new: str, said: str, tmp_path: Path
) -> None:
    content = {"articles": ARTICLES, "truth": TRUTH}
    assert old in content[file]
    content[file] = content[file].replace(old, new)
    with pytest.raises(ValueError, match=said) as refused:
        load_hyperpartisan(*written(tmp_path, **content))
    assert str(tmp_path) in str(refused.value), "the file is named"


def test_the_example_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path)
    monkeypatch.chdir(tmp_path)
    about = documents.__doc__ or ""
    example = [line[4:] for line in about.splitlines() if line.startswith("    ")]
    code = "\n".join(example).replace("steps=100", "steps=2").replace("499", "16")
    exec(code, {})
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["1", "2"]


def test_importing_it_is_quiet_and_light() -> None:
    code = """if True:
        import sys, labml_style.documents
        heavy = "matplotlib", "torch._dynamo", "labml_style.lab"
        print(*(name for name in heavy if name in sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")


# The experiment


def passages(**changes: Any) -> PassageStream:
    """Two texts that no byte has in common with each other, nor with the noise."""
    texts = [torch.arange(10, 90), torch.arange(110, 190)]
    noise = torch.zeros(256).index_fill(0, torch.arange(10), 0.1)
    sizes: dict[str, Any] = dict(
        passage=5, segments=3, segment_length=8, batch=16, samples=20
    )
    return PassageStream([x.to(torch.uint8) for x in texts], noise, **sizes | changes)


def test_one_segment_holds_a_passage_and_the_rest_is_noise() -> None:
    stream, seen = passages(), Counter[tuple[int, int]]()
    for number in range(20):
        tokens, answers, places = stream.draw(torch.Generator().manual_seed(number))
        for row, answer, place in zip(tokens, answers, places, strict=True):
            held = row[row >= 10]
            first = held[0]
            assert held.equal(torch.arange(5) + first) and (first > 100) == answer
            where = (row >= 10).nonzero()[:, 0]
            assert where.equal(torch.arange(5) + where[0])
            assert where[0] // 8 == where[-1] // 8 == place
            seen[int(answer), int(place)] += 1
    assert set(seen) == {(a, p) for a in (0, 1) for p in range(3)}
    assert min(seen.values()) > 320 / 6 / 2
    batch = stream.at(2)
    assert batch.tokens.shape == (16, 8) and not batch.reset.any()
    assert {*batch.targets[:, -1].tolist()} == {0, 1}
    assert (batch.targets[:, :-1] == -100).all() and (stream.at(0).targets < 0).all()


def test_a_position_belongs_to_these_texts_and_this_noise() -> None:
    state = passages().state_dict()
    passages().load_state_dict(state)
    stream = passages()
    more: Any = dict(passage=5, segments=3, segment_length=8, batch=16, samples=20)
    for other in (
        passages(seed=1),
        passages(passage=4),
        PassageStream(stream.texts[::-1], stream.noise, **more),
        PassageStream(stream.texts, stream.noise.flip(0), **more),
    ):
        with pytest.raises(ValueError, match="settings|saved"):
            other.load_state_dict(state)
    for wrong, most in ((9, 8), (0, 8)):
        with pytest.raises(
            ValueError, match=f"passage is {wrong}; expected 1 to {most}"
        ):
            passages(passage=wrong)
    with pytest.raises(ValueError, match="passage is 81; expected 1 to 80, .*text 80"):
        passages(passage=81, segment_length=99)


class Reader(nn.Module):
    """Knows the answer for so many segments after the passage; else it says 0."""

    def __init__(self, keeps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.keeps = keeps

    def forward(
        self, tokens: Tensor, memory: Any
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        memory = (memory or [])[-self.keeps :] if self.keeps else []
        held = [*memory, tokens]
        right = (torch.stack([one.amax(1) for one in held]) > 100).any(0).long()
        return nn.functional.one_hot(right, 2)[:, None].expand(-1, 8, -1), held, {}


def test_right_answers_are_counted_by_distance() -> None:
    stream = passages(samples=50)
    drawn = [stream.draw(experiment.generator(0, i))[1:] for i in range(50)]
    answers, places = (torch.cat([one[k] for one in drawn]) for k in (0, 1))
    for keeps in (0, 1, 2):
        model = Reader(keeps).train()
        found = by_place(model, stream, corpus=None, warm_up=0)["answers"]
        assert model.training and list(found) == ["0", "1", "2"]
        for back in range(3):
            zero = (answers[places == 2 - back] == 0).double().mean().item()
            wanted = 1.0 if back <= keeps else zero
            assert found[str(back)] == pytest.approx(wanted, abs=1e-4)
    few = by_place(Reader(0), passages(batch=1, samples=1))["answers"]
    assert len(few) == 1, "a distance that was not drawn is left out"
    with pytest.raises(
        ValueError, match="by_place is given a TextStream; expected a P"
    ):
        by_place(Reader(0), TextStream(torch.arange(20), 2, 4))


def small(name: str) -> Corpus:
    """Stand in for a corpus: each part has bytes of its own."""
    first = 100 * ("python" in name)
    train, valid, test = (
        (torch.arange(60) % 6 + first + 10 * i).to(torch.uint8) for i in range(3)
    )
    return Corpus(name, train, valid, test, source="made up")


def test_the_parts_of_the_corpora_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "load_corpus", small)
    task = SourceTask()
    assert task.noise.sum().item() == pytest.approx(1)
    assert task.noise[:6].sum().item() == pytest.approx(0.5)
    assert task.noise[100:106].sum().item() == pytest.approx(0.5)
    streams = {split: task.measured(48, 2, split) for split in ("valid", "test")}
    streams = {"train": task.stream(48, 2, 7)} | streams
    for i, (split, stream) in enumerate(streams.items()):
        assert stream.segments == 4 and stream.batch == 2
        texts = [getattr(small(name), split) for name in task.sources]
        assert all(a.equal(b) for a, b in zip(stream.texts, texts, strict=True))
        tokens, answers, _ = stream.draw(torch.Generator().manual_seed(0))
        foreign = {*range(10 * i, 10 * i + 6), *range(100 + 10 * i, 106 + 10 * i)}
        noise = {*range(6), *range(100, 106)}
        assert {*tokens.flatten().tolist()} <= noise | foreign
    assert streams["train"].seed == 7 and len(streams["test"]) > len(streams["valid"])


def test_the_preset_names_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = find("documents")
    runner.check(preset)
    base, cut, last = (preset.arms[k] for k in ("recurrent", "detached", "learned"))
    assert replace(cut, training=base.training) == base
    assert replace(last, config=base.config) == base
    assert (base.training.truncation, cut.training.accumulate) == (4, 4)
    assert SourceTask.segments == 4 and cut.training.truncation == 1
    built = [runner.build(arm) for arm in preset.arms.values()]
    counted = {sum(p.numel() for p in one.parameters()) for one in built}
    assert len(counted) == 1, "arms have as many parameters"

    monkeypatch.setattr(experiment, "load_corpus", small)
    monkeypatch.setattr(SourceTask, "measured", lambda *_: passages(segment_length=48))
    config = replace(base.config, d_model=8, d_ff=8)
    model = runner.build(replace(base, config=config))
    facts = runner.measure(model, SourceTask(), base.measures["test"])
    assert facts["scored"] == 320 and {*facts["answers"]} == {"0", "1", "2"}
    assert facts["state_bytes"] == 4 * 8 * 4, "tokens, width, bytes of a number"


def judged(**changed: list[float]) -> Verdict:
    """Judge a made-up record: shares far back in three seeds, then in the last one."""
    shares = {
        "recurrent": [0.83, 0.85, 0.81, 0.86],
        "detached": [0.78, 0.80, 0.76, 0.82],
        "learned": [0.51, 0.49, 0.52, 0.89],
        "fading": [0.02],
    } | changed
    [fading] = shares.pop("fading")
    runs = []
    for arm, (*far, last) in shares.items():
        for seed, share in enumerate(far):
            back = {"1": share + fading, "2": share, "3": share - fading}
            measures = {"test": {"answers": {"0": last} | back}}
            runs.append({"arm": arm, "seed": seed, "measures": measures})
    return verdict(find("documents"), {"runs": runs})


def test_the_judge_says_what_is_in_the_record() -> None:
    found = judged()
    assert found.verdict == "holds", found
    assert "recurrent tokens answer 81% to 85% right and learned ones 49%" in found.text
    assert "detached ones answer 76% to 80% there" in found.text
    assert "adds 5.0 points in the mean, 5.0 over seeds" in found.text
    assert "3 segments back recurrent tokens lose 4.0 points on one" in found.text
    assert "learned tokens answer 89% right" in found.text


@pytest.mark.parametrize(
    ("changed", "said", "against"),
    [
        ({"detached": [0.78, 0.6, 0.76, 0.8]}, "in part", False),
        ({"detached": [0.84, 0.84, 0.84, 0.8]}, "in part", False),
        ({"learned": [0.5, 0.5, 0.5, 0.79]}, "in part", False),
        ({"fading": [0.06]}, "in part", False),
        ({"recurrent": [0.69, 0.85, 0.81, 0.8]}, "does not hold", False),
        ({"learned": [0.56, 0.55, 0.56, 0.9]}, "does not hold", False),
        ({"recurrent": [0.5, 0.52, 0.51, 0.9]}, "does not hold", True),
        ({"learned": [0.61, 0.6, 0.62, 0.9]}, "does not hold", True),
        ({"detached": [0.84, 0.86, 0.82, 0.8]}, "does not hold", True),
    ],
)
def test_the_judge_changes_its_mind(
    changed: dict[str, list[float]], said: str, against: bool
) -> None:
    found = judged(**changed)
    assert found.verdict == said and "Not as expected" in found.text
    assert found.text.endswith(f"it {'came' if against else 'did not come'}.")
