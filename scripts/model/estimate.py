"""Works out whether a model fits into memory, and what to change if it does not.

What an engine needs on each card, against what it may take of it:

    weights / cards + cache + working memory + reserve  <=  memory x GPU_MEMORY

cache, for one token of one conversation and each layer that looks back:
    2 (keys and values) x key-value heads x size of a head x bytes of a value
where cards share the heads, and hold at least one each. Multi-head latent attention (DeepSeek)
keeps kv_lora_rank + qk_rope_head_dim values for a layer instead, on every card. A layer with a
sliding window keeps no more tokens than its window. Llama 3 8B: 2 x 8 x 128 x 2 bytes x 32 layers
= 128 KiB a token, so 1 GiB for 8192 tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.model import GIB, WeightsFailed, size
from scripts.model.header import Tensor

SHARE = 0.92
"""gpu_memory_utilization of vLLM 0.32.0 (vllm/config/cache.py) where nothing else is set."""

RESERVE = 2 * GIB
"""CUDA's context, loaded kernels and captured graphs, which vLLM counts within its share since
0.21. Of the graphs alone its log said "can take additional 1~3 GiB memory per GPU". An allowance:
this project has measured no GPU."""

RESERVE_TOGETHER = GIB // 2
"""Buffers by which several cards talk to each other (NCCL). An allowance as well."""

LLAMACPP_STEP = 256
"""Tokens in one step of llama.cpp: n_ubatch in services/engine/llamacpp.py."""
LLAMACPP_RESERVE = 64 << 20
"""The program itself, and its buffers for asks."""


def usual_batch(card_bytes: int) -> int:
    """Tokens in one step if nothing is set (vllm/engine/arg_utils.py, API server)."""
    if card_bytes >= 160 * GIB:
        return 16_384
    return 8192 if card_bytes >= 70 * GIB else 2048


@dataclass(frozen=True)
class Layer:
    """What a layer keeps of a conversation."""

    heads: int
    """Key-value heads; 0: it keeps the same for every card (latent attention)."""
    values: int
    """Numbers kept for a token, for one head (or for all of it)."""
    window: int | None = None
    """Tokens that it looks back; None: all."""


@dataclass(frozen=True)
class Shape:
    """Of a model, what its need of memory follows from."""

    weight_bytes: int
    linear_bytes: int
    """Of these in matrices that `--quantization` would make smaller; 0: quantised already."""
    layers: tuple[Layer, ...]
    attention_heads: int
    hidden: int
    intermediate: int
    """Inner size of the feed-forward part, of all experts together that one token meets."""
    vocabulary: int
    longest_context: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How it shall be served."""

    context: int
    slots: int
    card_bytes: int
    cards: int = 1
    share: float = SHARE
    cache: str = ""
    """KV_CACHE."""
    quantization: str = ""
    batch: int | None = None
    by_llamacpp: bool = False
    """By llama.cpp in main memory: `card_bytes` is what it may take of it."""


@dataclass(frozen=True)
class Need:
    """Bytes for one card."""

    weights: int
    one: int
    """Cache of one conversation of full length."""
    all: int
    """Cache where every slot has one."""
    working: int
    reserve: int
    usable: int

    @property
    def fixed(self) -> int:
        return self.weights + self.working + self.reserve

    @property
    def room(self) -> int:
        """What is left for the cache; may be less than nothing."""
        return self.usable - self.fixed

    @property
    def starts(self) -> bool:
        """vLLM starts where one conversation of full length fits; llama.cpp takes all at once."""
        return self.room >= self.one

    @property
    def holds_all(self) -> bool:
        return self.room >= self.all


def need_of(shape: Shape, plan: Plan) -> Need:
    """What one card has to hold."""
    value_bytes = 1 if plan.cache.startswith(("fp8", "int8")) else 2
    weights = shape.weight_bytes
    if plan.quantization.startswith("fp8"):
        weights -= shape.linear_bytes // 2
    step = LLAMACPP_STEP if plan.by_llamacpp else plan.batch or usual_batch(plan.card_bytes)
    number = 4 if plan.by_llamacpp else 2
    # Residual, normalised input, attention's input and output; both halves of the gate and their
    # product. For the last token of each slot: scores, probabilities and their sorting, in 32 bits.
    working = step * (4 * shape.hidden + 3 * shape.intermediate) * number // plan.cards
    scored = step if plan.by_llamacpp else plan.slots
    working += scored * shape.vocabulary * (4 if plan.by_llamacpp else 12)
    one = cache_of(shape, plan.context, plan.cards, value_bytes)
    all_slots = one * plan.slots
    if plan.by_llamacpp:
        return Need(weights, all_slots, all_slots, working, LLAMACPP_RESERVE, plan.card_bytes)
    reserve = RESERVE + (RESERVE_TOGETHER if plan.cards > 1 else 0)
    usable = int(plan.card_bytes * plan.share)
    return Need(-(-weights // plan.cards), one, all_slots, working, reserve, usable)


def cache_of(shape: Shape, tokens: int, cards: int, value_bytes: int) -> int:
    """Bytes on one card for so many tokens of one conversation."""
    total = 0
    for layer in shape.layers:
        heads = max(1, -(-layer.heads // cards)) if layer.heads else 1
        kept = tokens if layer.window is None else min(tokens, layer.window)
        total += heads * layer.values * kept * value_bytes
    return total


def shape_of_tensors(config: Mapping[str, Any], tensors: Sequence[Tensor]) -> Shape:
    """From config.json and the headers of safetensors files. Raises WeightsFailed."""
    text = _text_part(config)
    layers = _whole(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    heads = _whole(text, "num_attention_heads", "n_head", "n_heads")
    hidden = _whole(text, "hidden_size", "n_embd", "d_model")
    if not (layers and heads and hidden):
        raise WeightsFailed(
            "config.json does not tell layers, heads and hidden size: this kind of model cannot be "
            "estimated; start it and see"
        )
    notes = []
    linear = sum(
        it.bytes
        for it in tensors
        if it.dtype in ("BF16", "F16", "F32") and len(it.shape) >= 2 and not _is_embedding(it.name)
    )
    if "vision_config" in config:
        notes.append("what pictures take while they are read is not counted")
    if text.get("quantization_config") or config.get("quantization_config"):
        linear = 0
    kept, more = _layers_of_config(text, layers, heads, hidden)
    scaled = text.get("rope_scaling") or text.get("rope_parameters")
    limit = _whole(text, "max_position_embeddings", "n_positions", "max_seq_len")
    experts = _whole(text, "num_experts_per_tok", "moe_topk") or 1
    return Shape(
        sum(it.bytes for it in tensors),
        linear,
        kept,
        heads,
        hidden,
        max(
            _whole(text, "intermediate_size", "n_inner", "ffn_hidden_size") or 4 * hidden,
            (_whole(text, "moe_intermediate_size") or 0) * experts,
        ),
        _whole(text, "vocab_size") or 0,
        None if isinstance(scaled, dict) and scaled.get("factor") else limit,
        tuple(notes + more),
    )


def _layers_of_config(
    text: Mapping[str, Any], layers: int, heads: int, hidden: int
) -> tuple[tuple[Layer, ...], list[str]]:
    if rank := _whole(text, "kv_lora_rank"):
        latent = Layer(0, rank + (_whole(text, "qk_rope_head_dim") or 0))
        return (latent,) * layers, []
    kv_heads = _whole(
        text, "num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num"
    )
    if not kv_heads:
        kv_heads = 1 if text.get("multi_query") is True else heads
    full = Layer(kv_heads, 2 * (_whole(text, "head_dim") or hidden // heads))
    told = 0 if text.get("use_sliding_window") is False else _whole(text, "sliding_window")
    window = told or None
    near = dataclasses.replace(full, window=window)
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        # Layers of another kind keep a state of fixed size (linear attention, Mamba).
        by_kind = {"full_attention": full, "sliding_attention": near, "attention": full}
        found = [by_kind[str(kind)] for kind in kinds if str(kind) in by_kind]
        notes = ["states of layers without attention are not counted"] * (len(found) < layers)
        return tuple(found), notes
    every = _whole(text, "sliding_window_pattern")
    if window and every:
        return tuple(full if (n + 1) % every == 0 else near for n in range(layers)), []
    return (near,) * layers, []


def shape_of_gguf(header: Mapping[str, Any], weight_bytes: int) -> Shape:
    """From the keys of a GGUF file. Raises WeightsFailed."""
    kind = str(header.get("general.architecture", ""))

    def number(name: str) -> int:
        value = header.get(f"{kind}.{name}")
        return value if isinstance(value, int) else 0

    layers, heads, hidden = (
        number(name) for name in ("block_count", "attention.head_count", "embedding_length")
    )
    if not (layers and hidden):
        raise WeightsFailed(
            "the GGUF file does not tell its layers and their size: this kind of model cannot be "
            "estimated; start it and see"
        )
    told = header.get(f"{kind}.attention.head_count_kv", heads)
    per_layer = [int(it) for it in told] if isinstance(told, list) else [int(told)] * layers
    usual = hidden // heads if heads else 0
    values = (number("attention.key_length") or usual) + (number("attention.value_length") or usual)
    vocabulary = header.get("tokenizer.ggml.tokens")
    return Shape(
        weight_bytes,
        0,
        tuple(Layer(count, values) for count in per_layer if count),
        heads or 1,
        hidden,
        number("feed_forward_length") or 4 * hidden,
        vocabulary if isinstance(vocabulary, int) else number("vocab_size"),
        number("context_length") or None,
    )


def report(name: str, shape: Shape, plan: Plan) -> tuple[bool, str]:
    """Whether the plan works, and the arithmetic, verdict and advice in lines."""
    need = need_of(shape, plan)
    per_token = cache_of(shape, 1, plan.cards, 1 if plan.cache.startswith(("fp8", "int8")) else 2)
    where = (
        "main memory" if plan.by_llamacpp else "on the GPU" if plan.cards == 1 else "on each GPU"
    )
    lines = [
        f"{name}, {where}:",
        f"  weights          {size(need.weights):>10}",
        f"  working memory   {size(need.working):>10}",
        f"  reserve          {size(need.reserve):>10}",
        f"  left for context {size(max(need.room, 0)):>10}   of {size(need.usable)}",
        f"  one token takes  {size(per_token):>10}   {plan.context} tokens: {size(need.one)}"
        if not plan.by_llamacpp
        else f"  one token takes  {size(per_token):>10}   {plan.slots} slots of {plan.context} "
        f"tokens: {size(need.all)}",
        *(f"  ({note})" for note in shape.notes),
    ]
    obstacle = _obstacle(shape, plan)
    if obstacle:
        lines.append(f"It does not start: {obstacle}")
        return False, "\n".join(lines)
    if need.holds_all:
        lines.append(f"It fits: {plan.slots} conversations of {plan.context} tokens at once.")
        return True, "\n".join(lines)
    if need.starts:
        held = need.room // need.one
        lines.append(
            f"It fits and starts. Of {plan.slots} slots {held} can have the full {plan.context} "
            "tokens at once; when more is asked for, answers wait for each other. For all of them:"
        )
    else:
        lines.append(f"It does not fit: {size(need.one - need.room)} are missing. What would do:")
    lines += [f"  - {line}" for line in advice(shape, plan)]
    return need.starts, "\n".join(lines)


def _obstacle(shape: Shape, plan: Plan) -> str:
    if shape.longest_context and plan.context > shape.longest_context:
        return (
            f"it was made for {shape.longest_context} tokens at most: set CONTEXT_TOKENS to that "
            "or less."
        )
    if shape.attention_heads % plan.cards:
        return (
            f"its {shape.attention_heads} attention heads cannot be shared among {plan.cards} "
            f"cards: set GPU_COUNT to a number that divides them."
        )
    return ""


def advice(shape: Shape, plan: Plan) -> list[str]:
    """Single changes by which it would fit, or hold all conversations if it fits already."""
    starts = need_of(shape, plan).starts

    def works(changed: Plan, of: Shape = shape) -> bool:
        need = need_of(of, changed)
        return need.holds_all if starts else need.starts

    found = []
    context = _largest(
        lambda n: works(dataclasses.replace(plan, context=n * 256)), plan.context // 256
    )
    if context:
        found.append(f"a shorter context: CONTEXT_TOKENS={context * 256}")
    slots = _largest(lambda n: works(dataclasses.replace(plan, slots=n)), plan.slots)
    if slots:
        found.append(f"fewer answers at once: ENGINE_SLOTS={slots}")
    if plan.by_llamacpp:
        missing = need_of(shape, plan)
        found.append(
            f"more memory: ENGINE_MEMORY={-(-(missing.fixed + missing.all) // (1 << 20))}m"
        )
        return found
    if not plan.cache and works(dataclasses.replace(plan, cache="fp8")):
        found.append("half of the memory for the same context: KV_CACHE=fp8")
    if not plan.quantization and shape.linear_bytes:
        if works(dataclasses.replace(plan, quantization="fp8")):
            found.append("smaller weights: QUANTIZATION=fp8")
        smaller = dataclasses.replace(
            shape,
            # 4 bits and a quarter for each group's scale, instead of 16.
            weight_bytes=shape.weight_bytes - shape.linear_bytes * 73 // 100,
            linear_bytes=0,
        )
        if works(plan, smaller):
            found.append(
                "the same model quantised to 4 bits (AWQ, GPTQ), about "
                f"{size(smaller.weight_bytes)} of weights"
            )
    for cards in (2, 4, 8):
        more = dataclasses.replace(plan, cards=cards)
        if cards > plan.cards and not shape.attention_heads % cards and works(more):
            found.append(f"more cards of this kind: GPU_COUNT={cards}")
            break
    return found or ["no single change: take a smaller model, or a card with more memory"]


def _largest(works: Callable[[int], bool], below: int) -> int:
    """The largest number less than `below` with which it works; 0 if there is none."""
    low, high = 0, max(below, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if works(middle) else (low, middle)
    return low


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("text_config", "llm_config", "language_config"):
        part = config.get(name)
        if isinstance(part, dict) and part:
            return part
    return config


def _whole(config: Mapping[str, Any], *names: str) -> int:
    """The first of these keys that is a whole number above 0; else 0."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def _is_embedding(name: str) -> bool:
    return "embed" in name or "lm_head" in name or "wte" in name
