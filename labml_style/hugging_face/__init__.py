"""Memory tokens around a Hugging Face decoder.

A causal decoder of the package `transformers` gets memory tokens: vectors that stand
before each segment, where they are read, and after it, where they are written. The
result is a model of this site, so `Training`, `evaluate`, `generate`, `save` and `load`
take it unchanged. In a copy of the repository `pip install ".[hf]"` brings what is
needed.

    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    from labml_style import generate, load, save
    from labml_style.hugging_face import RecurrentMemoryWrapper

    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=24)
    gpt2 = GPT2LMHeadModel(config)  # or a trained one
    model = RecurrentMemoryWrapper(gpt2, memory_tokens=4, segment_length=16)
    text = torch.randint(config.vocab_size, (2, 60))
    memory = None
    with torch.no_grad():
        for segment in text[:, :48].split(16, dim=1):
            logits, memory, _ = model.eval()(segment, memory)
    more = generate(model, text[:, 48:], 20, memory=memory, temperature=0.0)
    again = load(save(model, "model.safetensors"))

`generate` returns the prompt and what follows; with temperature 0 it takes the most
likely token each time. The file holds the decoder's weights too; `model.decoder` is the
decoder. `memory.tokens` is `[batch, memory_tokens, d_model]`. The memory is written
after a full segment. A shorter one is answered and then forgotten, so give whole
segments until the text ends.

A small GPT-2 learns to copy in half a minute, to less than 0.1 bits. A sample is 12
symbols, a sign, and 11 of the symbols again, over 4 segments of 6 tokens; what is asked
for are all 12. An update takes `truncation` segments, and the loss of each reaches back
to the first of them; here that is a whole sample. The usual initial weights are too
small for so narrow a model, hence `initializer_range`.

    from labml_style import Training, TrainingConfig, evaluate
    from labml_style.lab.segments import CopyStream

    sizes = dict(vocab_size=9, n_embd=64, n_layer=2, n_head=4)
    sizes |= dict(n_positions=32, initializer_range=0.1)
    sizes |= dict(bos_token_id=0, eos_token_id=0)
    names = "resid_pdrop", "embd_pdrop", "attn_pdrop"
    config = GPT2Config(**sizes, **dict.fromkeys(names, 0.0))
    gpt2 = GPT2LMHeadModel(config)
    model = RecurrentMemoryWrapper(gpt2, memory_tokens=6, segment_length=6)
    how = TrainingConfig(steps=200, learning_rate=3e-3, warmup=50, truncation=4)
    task = CopyStream(12, 6, batch=32, samples=1000)
    for update in Training(model, task, how):
        print(update.number, update.bits)
    test = CopyStream(12, 6, batch=32, samples=8, seed=1)
    print(evaluate(model, test).mean)  # bits; a guess has 3

For a text of your own take `labml_style.TextStream`, with the ids of the decoder's
tokenizer, in the place of the task.

GPT-2, Llama and GPT-NeoX are tested. Other decoders should run if they keep keys and
values in each layer, as Mistral, Qwen and Gemma do; Mamba does not and is refused.
Gradient checkpointing is refused too, as `transformers` drops the cache there.

Source: Bulatov et al. 2022, section 3.2; Bulatov et al. 2023 (arXiv 2304.11062).
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from labml_style.contract import (
    Config,
    Model,
    Output,
    Past,
    check_memory,
    check_written,
    integer,
)
from labml_style.recurrent_memory import RecurrentMemory, RecurrentTokens

__all__ = ["RecurrentMemoryWrapper", "RecurrentMemoryWrapperConfig"]


@dataclass(frozen=True, kw_only=True)
class RecurrentMemoryWrapperConfig(Config):
    """Sizes of the memory, and the decoder's own config.

    Attributes:
        decoder: plain values of the decoder's config, `model.config.to_dict()`.
        memory_tokens: vectors that are read and written, m; 0 is the decoder alone.
        segment_length: most tokens in one call.

    Raises:
        ValueError: a value is outside its range, or the decoder has too few positions.
    """

    decoder: dict[str, Any]
    memory_tokens: int
    segment_length: int

    def __post_init__(self) -> None:
        if not isinstance(self.decoder, dict):
            raise ValueError(
                f"decoder is {self.decoder!r}; expected a dict of a config"
            )
        self.put("decoder", json.loads(json.dumps(self.decoder)))  # as from a file
        self.put("memory_tokens", integer("memory_tokens", self.memory_tokens, 0))
        self.put("segment_length", integer("segment_length", self.segment_length, 1))
        integer("vocab_size of the decoder", self.vocabulary, 1)
        integer("hidden_size of the decoder", self.d_model, 1)
        most = self._find("max_position_embeddings", "n_positions")
        needed = self.segment_length + 2 * self.memory_tokens
        if most is not None and most < needed:
            raise ValueError(
                f"the decoder has {most} positions; expected at least {needed}, for "
                f"segment_length {self.segment_length} and twice memory_tokens "
                f"{self.memory_tokens}: lower one of them, or build the decoder with "
                "more positions"
            )

        window = self._find("sliding_window")
        if window is not None and window < needed:
            raise ValueError(
                f"the decoder attends {window} tokens back, its sliding_window; "
                f"expected at least {needed}, so that write tokens see the segment"
            )

    @property
    def vocabulary(self) -> int:
        """How many different tokens there are."""
        return self._find("vocab_size")

    @property
    def d_model(self) -> int:
        """Width of the vectors of tokens and memory."""
        return self._find("word_embed_proj_dim", "hidden_size", "n_embd", "d_model")

    # Families of decoders have different names for the same number.
    def _find(self, *names: str) -> Any:
        return next((self.decoder[n] for n in names if n in self.decoder), None)


class RecurrentMemoryWrapper(Model):
    """A decoder of Hugging Face whose memory is a few tokens that it reads and writes.

    A segment is three passes through the same decoder, which share its key-value cache:
    the read tokens, the text, the write tokens. What the decoder returns for the write
    tokens, after its final norm, is read at the next segment. Read and write tokens are
    the same vectors. At the start of a text these are learned.

    In its mask it differs from `RecurrentMemoryTransformer`: a decoder of others is
    causal everywhere, so no memory token sees later ones of its block. The authors'
    code around GPT-2 does the same.

    Args:
        model: a `...ForCausalLM` of `transformers` with attention in each layer. It is
            not copied.
        memory_tokens: vectors that are read and written, m; 0 is the decoder alone.
        segment_length: most tokens in one call. With 2 * m it must fit into the
            decoder's positions.

    Raises:
        ValueError: the model is no such decoder, or a number is outside its range.

    Source: Bulatov et al. 2022, section 3.2; Bulatov et al. 2023.
    """

    config: RecurrentMemoryWrapperConfig
    lengths = ("segment_length",)
    memory_type: Any = RecurrentMemory
    key_shape: tuple[int, int, int] = (0, 0, 0)

    def __init__(self, model: Any, memory_tokens: int, segment_length: int) -> None:
        super().__init__()
        if not hasattr(model, "get_input_embeddings"):
            raise ValueError(
                f"model is of type {type(model).__name__}, without "
                "get_input_embeddings; expected a causal decoder of transformers"
            )
        values = model.config.to_dict()
        sizes: Any = {"memory_tokens": memory_tokens, "segment_length": segment_length}
        self.config = RecurrentMemoryWrapperConfig(decoder=values, **sizes)
        self.decoder = model
        self.key_shape = self.try_out()
        if memory_tokens:
            # Memory tokens start as large as the decoder's own vectors.
            n = self.config.vocabulary
            some = torch.arange(0, n, max(n // 1000, 1), device=self.like.device)
            with torch.no_grad():
                known = self.embed(some[None])
            given: Any = SimpleNamespace(
                memory_tokens=memory_tokens, d_model=known.shape[-1], initial_std=1.0
            )
            self.tokens = RecurrentTokens(given).to(known)
            torch.nn.init.normal_(self.tokens.start, std=known.std().item())

    @classmethod
    def from_config(cls, config: RecurrentMemoryWrapperConfig) -> Self:
        """Build the decoder too, with weights drawn anew; nothing is downloaded.

        Raises:
            ImportError: the package `transformers` is missing.
            ValueError: the config is that of no causal decoder.
        """
        try:
            from transformers import AutoConfig, AutoModelForCausalLM
        except ImportError as error:
            raise ImportError(
                f"a RecurrentMemoryWrapper needs the package transformers ({error}): "
                "pip install labml-style[hf], or .[hf] in a copy of the repository"
            ) from error
        try:
            known: Any = AutoConfig.for_model(**config.decoder)
        except Exception as error:  # families check their values in different ways
            raise ValueError(f"transformers knows no such decoder: {error}") from error
        model = AutoModelForCausalLM.from_config(known)
        return cls(model, config.memory_tokens, config.segment_length)

    def forward(
        self, tokens: Tensor, memory: Any = None, attention_mask: Tensor | None = None
    ) -> Output:
        """Run a segment; only a full one is written to the memory.

        Padding fills a segment as tokens do. Padding on the right changes no logits of
        the tokens before it, but it fills the segment, so that the memory is written.
        Padding on the left changes the distance to the memory, and so logits.

        Args:
            tokens: `[batch, time]` int64, 1 <= time <= `segment_length`.
            memory: of the segments before it; None at the start of a text.
            attention_mask: `[batch, time]` bool or int64, 1 for a token and 0 for
                padding, to which nothing attends; None where there is none.

        Returns:
            Logits `[batch, time, vocabulary]`, of the text alone, and the new memory,
            whose gradient is not stopped.

        Raises:
            ValueError: tokens, memory or mask do not fit; the message names both sides.
        """
        self.check(tokens, memory)
        mask, m, batch = attention_mask, self.config.memory_tokens, len(tokens)
        if mask is not None:
            check_mask(mask, tokens)
            mask = pad(mask.to(tokens), (m, 0), value=1)
        cache = self.cache(self.past(memory, batch))
        logits = self.run_states(self.embed(tokens), cache, mask).logits
        if m and tokens.shape[1] == self.config.segment_length:
            mask = None if mask is None else pad(mask, (0, m), value=1)
            write = self.tokens(memory, batch)
            output = self.run_states(write, cache, mask, states=True)
            memory = self.memory_type((), output.hidden_states[-1].to(self.like))
        elif memory is None:
            none = self.like.new_zeros(batch, 0, self.config.d_model)
            memory = self.memory_type((), none)
        return Output(logits, memory, {})

    def past(self, memory: Any, batch: int | None = None) -> Past:
        """Return keys and values of the read tokens."""
        if not self.config.memory_tokens:
            return Past([None] * self.key_shape[0])
        if batch is None:
            batch = 1 if memory is None else memory.batch
        cache = self.cache()
        self.run_states(self.tokens(memory, batch), cache)
        return Past([(layer.keys, layer.values) for layer in cache.layers])

    def run(
        self, tokens: Tensor, past: Past, begin: int = 0, positions: Any = None
    ) -> tuple[Tensor, list[Tensor], list[Any]]:
        """Run tokens `[batch, time]` of a segment through the decoder, as `Model.run`.

        Returns:
            Logits `[batch, time, vocabulary]`; no inputs of layers, which stay in the
            decoder; for each layer its part of the cache, with `keys` and `values`.
        """
        cache = self.cache(past)
        return self.run_states(self.embed(tokens), cache).logits, [], cache.layers

    def embed(self, tokens: Tensor) -> Any:
        """Return the decoder's vectors of tokens, `[batch, time, d_model]`."""
        return self.decoder.get_input_embeddings()(tokens)

    def cache(self, past: Past | None = None) -> Any:
        """Return keys and values in the form that `transformers` has for them."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, pair in enumerate(past.pairs if past else ()):
            if pair is not None:
                cache.update(*pair, layer)
        return cache

    # Positions go on from pass to pass. Some versions of `transformers` have another
    # name for the cache.
    def run_states(
        self, x: Tensor, cache: Any, mask: Tensor | None = None, states: bool = False
    ) -> Any:
        """Run vectors of text or of memory tokens through the decoder.

        Args:
            x: `[batch, time, d_model]`.
            cache: of the slots before them; theirs are added to it.
            mask: `[batch, slots + time]`, 0 for padding; None where there is none.
            states: whether `hidden_states` are wanted.

        Returns:
            What the decoder returns: `logits`, and `hidden_states` of its layers.
        """
        begin = cache.get_seq_length()
        end = begin + x.shape[1]
        names = inspect.signature(self.decoder.forward).parameters
        name = "cache" if "cache" in names else "past_key_values"
        output = self.decoder(
            inputs_embeds=x,
            attention_mask=mask,
            position_ids=torch.arange(begin, end, device=x.device)[None],
            use_cache=True,
            output_hidden_states=states,
            **{name: cache},
        )
        if {layer.get_seq_length() for layer in cache.layers} != {end}:
            raise self.unfit(f"did not cache {end} keys in each layer")
        return output

    def unfit(self, what: str) -> ValueError:
        """Return what to raise for a decoder that cannot be used."""
        return ValueError(
            f"{type(self.decoder).__name__} {what}; expected a causal decoder of "
            "transformers, a ...ForCausalLM, that takes inputs_embeds and fills a "
            "key-value cache in each layer, and that trains without gradient "
            "checkpointing"
        )

    # A decoder that does not fit would give wrong numbers much later. So it is tried
    # with two tokens when it is wrapped. The second must not change the first; vectors
    # must give the logits that tokens give; and other vectors must run.
    def try_out(self) -> tuple[int, int, int]:
        """Return `key_shape`, as it is found.

        Raises:
            ValueError: the decoder cannot be used; the message says why.
        """
        modes = [(module, module.training) for module in self.modules()]
        tokens, cache = torch.arange(2, device=self.like.device)[None], self.cache()
        self.eval()
        try:
            with torch.enable_grad():
                x = self.embed(tokens).detach().requires_grad_()
                logits = self.run_states(x, cache).logits
                (slope,) = torch.autograd.grad(logits[:, 0].sum(), x)
                error = (self.decoder(tokens).logits - logits).abs().max()
                output = self.run_states(2 * x, self.cache(), states=True)
                widths = x.shape[-1], output.hidden_states[-1].shape[-1]
        except (AttributeError, IndexError, RuntimeError, TypeError) as failure:
            raise self.unfit(f"does not run ({failure})") from failure
        finally:
            for module, mode in modes:
                module.training = mode
        if slope[:, 1].any():
            raise self.unfit("lets a token see later ones")
        if error > logits.abs().max() / 100:
            raise self.unfit("has other logits for inputs_embeds than for tokens")
        if widths != (self.config.d_model,) * 2:
            raise self.unfit(f"takes vectors and gives states of width {widths}")
        keys = cache.layers[0].keys
        return len(cache.layers), keys.shape[1], keys.shape[3]

    def positions(self, past: Past) -> list[Tensor | None]:
        """Return None for each layer: a decoder has its positions inside."""
        return [None] * self.key_shape[0]

    def check_memory(self, memory: Any, batch: int | None = None) -> None:
        """Raise a `ValueError` where a memory is not of this model and batch."""
        width, m = self.config.d_model, self.config.memory_tokens
        check_memory(memory, self.memory_type, batch, width, self.like, layers=0)
        check_written(memory, m)


def check_mask(mask: Any, tokens: Tensor) -> None:
    """Raise a `ValueError` where a mask is not `[batch, time]` bool or int64."""
    kind, shape = getattr(mask, "dtype", type(mask)), getattr(mask, "shape", ())
    if kind not in (torch.bool, torch.int64) or shape != tokens.shape:
        raise ValueError(
            f"attention_mask is {kind} of shape {list(shape)}; expected torch.bool or "
            f"torch.int64 of shape {list(tokens.shape)}, for the tokens of this "
            "segment without memory tokens"
        )
