"""What a model needs of memory, against figures known elsewhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from scripts.model import GIB, WeightsFailed
from scripts.model.estimate import (
    Plan,
    advice,
    cache_of,
    need_of,
    report,
    shape_of_gguf,
    shape_of_tensors,
    usual_batch,
)
from scripts.model.header import (
    Tensor,
    kind_of_gguf,
    kind_of_tensors,
    read_gguf,
    read_tensors,
)
from tests.unit.adyton.weights import LLAMA_3_8B, SMOLLM2, gguf, tensors

KIB = 1 << 10
PLAN = Plan(context=8192, slots=16, card_bytes=48 * GIB)

LLAMA_3_70B = LLAMA_3_8B | {
    "num_hidden_layers": 80, "num_attention_heads": 64, "hidden_size": 8192,
    "intermediate_size": 28672,
}  # fmt: skip
QWEN3_8B = LLAMA_3_8B | {"num_hidden_layers": 36, "head_dim": 128, "sliding_window": None}
LLAMA_2_7B = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096}
DEEPSEEK_V3 = {
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
    "hidden_size": 7168, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "vocab_size": 129280,
}  # fmt: skip
FALCON_7B = {"n_layer": 32, "n_head": 71, "hidden_size": 4544, "multi_query": True}
QWEN3_NEXT = {
    "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
    "hidden_size": 2048, "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}  # fmt: skip


def linear(parameters: float) -> list[Tensor]:
    """So many 16-bit numbers in one matrix."""
    return [Tensor("a.weight", "BF16", (1, int(parameters)), 2 * int(parameters))]


@pytest.mark.parametrize(
    ("config", "per_token"),
    [
        (LLAMA_3_8B, 128 * KIB),
        (LLAMA_3_70B, 320 * KIB),
        (LLAMA_2_7B, 512 * KIB),
        (QWEN3_8B, 144 * KIB),
        (DEEPSEEK_V3, 61 * 576 * 2),  # 70 KB, as its authors' report says
        (FALCON_7B, 8 * KIB),
        (QWEN3_NEXT, 2 * KIB),
        ({"text_config": LLAMA_3_8B, "vision_config": {}}, 128 * KIB),
    ],
)
def test_cache_of_a_token(config: dict[str, Any], per_token: int) -> None:
    """In 16 bits, and half of it in 8."""
    shape = shape_of_tensors(config, [])

    assert cache_of(shape, 1, 1, 2) == per_token
    assert cache_of(shape, 1000, 1, 1) == 500 * per_token


def test_cache_is_shared_among_cards() -> None:
    """By heads, of which each card has one at least; latent attention is on every card whole."""
    llama, deepseek = (shape_of_tensors(it, []) for it in (LLAMA_3_70B, DEEPSEEK_V3))

    assert [cache_of(llama, 1, cards, 2) // KIB for cards in (1, 2, 8, 16)] == [320, 160, 40, 40]
    assert cache_of(deepseek, 1, 8, 2) == cache_of(deepseek, 1, 1, 2)


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({"sliding_window": 4096}, 32 * 4096),
        ({"sliding_window": 4096, "use_sliding_window": False}, 32 * 10_000),
        ({"sliding_window": 1024, "sliding_window_pattern": 8}, 28 * 1024 + 4 * 10_000),
        (
            {"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 16},
            16 * 128 + 16 * 10_000,
        ),
    ],
)
def test_windows_bound_what_is_kept(more: dict[str, Any], tokens: int) -> None:
    """Of 10,000 tokens, in each layer as its config says."""
    shape = shape_of_tensors(LLAMA_3_8B | more, [])

    assert cache_of(shape, 10_000, 1, 2) == tokens * 4 * KIB


def test_llama_3_8b_on_48_gib() -> None:
    """16 GB of weights leave room for all of 16 conversations of 8192 tokens, a GiB each."""
    shape = shape_of_tensors(LLAMA_3_8B, linear(8.03e9))
    need = need_of(shape, PLAN)

    assert need.one == GIB
    assert need.all == 16 * GIB
    assert need.weights == 16_060_000_000
    assert 0.2 * GIB < need.working < GIB
    assert need.holds_all
    does, text = report("Llama", shape, PLAN)
    assert does
    assert "one token takes     128 KiB   8192 tokens: 1.0 GiB" in text
    assert "It fits: 16 conversations of 8192 tokens at once." in text


def test_model_that_fits_with_fewer_conversations() -> None:
    """It starts, and the advice is what holds all of them: each change by itself is enough."""
    shape = shape_of_tensors(LLAMA_3_8B, linear(8.03e9))
    plan = dataclasses.replace(PLAN, card_bytes=24 * GIB)

    does, text = report("Llama", shape, plan)

    assert does
    assert "Of 16 slots 4 can have the full 8192 tokens at once" in text
    assert "ENGINE_SLOTS=4" in text
    assert "GPU_COUNT=2" in text
    changes: list[dict[str, Any]] = [{"slots": 4}, {"cards": 2}]
    assert all(need_of(shape, dataclasses.replace(plan, **it)).holds_all for it in changes)
    assert not need_of(shape, dataclasses.replace(plan, slots=5)).holds_all


def test_model_that_does_not_fit() -> None:
    """70 billion parameters on one card: what would do is named, and what would not is not."""
    shape = shape_of_tensors(LLAMA_3_70B, linear(70.6e9))

    does, text = report("Llama", shape, PLAN)

    assert not does
    assert "It does not fit:" in text
    assert "KV_CACHE" not in text
    assert "CONTEXT_TOKENS" not in text
    assert "quantised to 4 bits" in text
    assert "GPU_COUNT=4" in text


def test_settings_of_the_cache_and_the_weights_count() -> None:
    """KV_CACHE halves the one, QUANTIZATION the matrices among the other."""
    weights = [*linear(1e9), Tensor("model.embed_tokens.weight", "BF16", (10, 10), 200)]
    shape = shape_of_tensors(LLAMA_3_8B, weights)

    small = need_of(shape, dataclasses.replace(PLAN, cache="fp8", quantization="fp8"))

    assert small.one == GIB // 2
    assert small.weights == 1_000_000_000 + 200


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (dataclasses.replace(PLAN, context=16_384), "made for 8192 tokens at most"),
        (dataclasses.replace(PLAN, cards=3), "cannot be shared among 3 cards"),
    ],
)
def test_what_vllm_refuses(plan: Plan, says: str) -> None:
    """However much memory there is."""
    does, text = report("Llama", shape_of_tensors(LLAMA_3_8B, linear(1e9)), plan)

    assert not does
    assert says in text


def test_stretched_context_has_no_limit_here() -> None:
    """RoPE scaling makes it longer than the config's number."""
    config = LLAMA_3_8B | {"rope_scaling": {"factor": 4.0, "rope_type": "yarn"}}

    assert shape_of_tensors(config, []).longest_context is None


def test_larger_cards_take_larger_steps() -> None:
    """vLLM's own defaults by memory."""
    assert [usual_batch(n * GIB) for n in (24, 48, 96, 180)] == [2048, 2048, 8192, 16384]


def test_llamacpp_by_its_gguf(tmp_path: Path) -> None:
    """The small model in the image: 23 KB a token, all slots at once."""
    (tmp_path / "w.gguf").write_bytes(gguf(SMOLLM2))
    header = read_gguf(tmp_path / "w.gguf")
    shape = shape_of_gguf(header, 92 << 20)
    plan = Plan(context=2048, slots=4, card_bytes=2 * GIB, by_llamacpp=True)

    assert kind_of_gguf(header) == "Q4_1"
    assert cache_of(shape, 1, 1, 2) == 23_040
    assert need_of(shape, plan).one == 4 * 2048 * 23_040
    assert report("Small", shape, plan)[0]
    tight = dataclasses.replace(plan, card_bytes=250 << 20)
    does, text = report("Small", shape, tight)
    assert not does
    (memory,) = [line for line in advice(shape, tight) if "ENGINE_MEMORY" in line]
    enough = int(memory.rpartition("=")[2].removesuffix("m")) << 20
    assert need_of(shape, dataclasses.replace(plan, card_bytes=enough)).starts
    assert "fewer answers at once" in text


def test_gguf_with_heads_by_layer() -> None:
    """Some layers of hybrid models keep nothing."""
    header: dict[str, Any] = SMOLLM2 | {"llama.attention.head_count_kv": [3, 0, 1]}

    assert cache_of(shape_of_gguf(header, 0), 1, 1, 2) == 4 * 128 * 2


def test_files_that_are_not_what_they_say(tmp_path: Path) -> None:
    """Cut off, grown, nonsense, or of a size that cannot be."""
    whole, path = tensors({"a": (8, 8)}), tmp_path / "w"
    path.write_bytes(whole)
    assert [tensor.bytes for tensor in read_tensors(path)] == [128]
    for content in (
        whole[:-1],
        whole + b"x",
        b"",
        whole[:5],
        b"\xff" * 64,
        b"\x02" + bytes(7) + b"[]",
    ):
        path.write_bytes(content)
        with pytest.raises(WeightsFailed, match="no whole safetensors file"):
            read_tensors(path)
    good = gguf(SMOLLM2)
    for content in (
        good[:-3],
        b"GGUF",
        b"GGUF\x01" + good[5:],
        good[:16] + b"\xff" * 8 + good[24:],
    ):
        path.write_bytes(content)
        with pytest.raises(WeightsFailed, match="no GGUF file"):
            read_gguf(path)


def test_kinds_of_safetensors() -> None:
    """By most of the bytes, and by what the config says of quantisation."""
    both = [Tensor("a", "I32", (), 100), Tensor("b", "F16", (), 10)]
    config = {"quantization_config": {"quant_method": "awq", "bits": 4}}

    assert kind_of_tensors(both, {}) == "I32"
    assert kind_of_tensors(both, config) == "I32 (awq, 4 bits)"
    assert shape_of_tensors(LLAMA_3_8B | config, linear(1e9)).linear_bytes == 0


def test_config_that_tells_too_little() -> None:
    """A sentence instead of a wrong number."""
    with pytest.raises(WeightsFailed, match="cannot be estimated; start it and see"):
        shape_of_tensors({"model_type": "rwkv"}, [])
