"""The memory model: what a training step and a generation hold, in bytes, as pure functions of a shape and a setting.

Counted from what our kernels keep for the backward pass; tests/models/test_memory.py holds the counts against what
autograd really keeps. An element is a number in the dtype that activations have.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tunesmith.kernels.attention import MATMUL_MAX_TOKENS
from tunesmith.kernels.head_loss import CHUNK_ROWS
from tunesmith.kernels.native_attention import FEW_PIECES
from tunesmith.models.adapter_cost import AdapterCost
from tunesmith.models.blocks import Checkpointing
from tunesmith.models.shape import LinearMap, Shape

# NF4 in blocks of 64 whose magnitudes lie in 8 bits in blocks of 256, with an fp32 scale each: 4 + 8/64 + 32/(64 * 256)
# (QLoRA, arXiv:2305.14314, section 3).
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
FP32 = 4
# Tensors of the inner width that transformers' own feed-forward part keeps, by activation; gelu_new is many products.
ACTIVATIONS_KEEP = {"relu": 1, "gelu": 2, "gelu_pytorch_tanh": 2, "silu": 2, "gelu_new": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a job runs. element_bytes: of a number in the compute dtype.

    on_cpu: short rows' scores are then kept, unless our kernels in C run, which keep none: ``compiled`` is how many
    threads they have, 0 without them. each_token: the loss needs each token's entropy or the head learns, so that
    logits are not their own gradients.
    longest_tokens: the longest row; micro_batch_tokens: tokens that go through the model together, at least that many.
    paged_optimizer: the moments lie in the computer's memory wherever the card's runs out.
    """

    element_bytes: int
    quantized: bool
    checkpointing: Checkpointing
    micro_batch_tokens: int
    longest_tokens: int
    on_cpu: bool
    paged_optimizer: bool = False
    compiled: int = 0
    each_token: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes at the peak of a training step, by what they are for.

    process: the libraries' own. activations and attention: what is kept of the forward pass until the backward pass
    uses it, all but the rows' attention scores, and these. head: the loss over the vocabulary. working: what one layer
    needs beyond that while it runs backward, which is a time when the head is done. heap: what glibc's heap holds but
    cannot use again, on a CPU.
    """

    process: int
    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    attention: int
    head: int
    working: int
    heap: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def weight_bytes(shape: Shape, element_bytes: int, *, quantized: bool, full: bool = False) -> int:
    """The base in memory: in one dtype; in 4 bits where its linear maps are; in fp32 where all of it learns."""
    if full:
        return FP32 * shape.parameters
    if not quantized:
        return element_bytes * shape.parameters
    return round(shape.linear_weights * NF4_BITS / 8) + element_bytes * (shape.parameters - shape.linear_weights)


def kv_cache_bytes(shape: Shape, element_bytes: int, num_rows: int, num_tokens: int) -> int:
    """Keys and values of ``num_rows`` rows of ``num_tokens`` tokens in every layer."""
    return 2 * shape.layers * shape.kv_width * element_bytes * num_rows * num_tokens


def training_memory(shape: Shape, cost: AdapterCost, setting: Setting, *, process_bytes: int = 0) -> Memory:
    """What a step holds at its peak, from the second step on.

    Gradients are counted whole: from the second micro-batch on they stand beside what the forward pass keeps. AdamW's
    two moments are updated in place by its fused step.
    """
    tokens, element = step_tokens(cost, setting), setting.element_bytes
    head = _head_bytes(shape, cost, setting, tokens)
    backward = _backward_bytes(shape, cost, setting, tokens)
    if setting.checkpointing == "attention" and shape.fast:
        again = _feed_forward_bytes(shape, cost, setting, tokens)
        kept = shape.layers * (layer_bytes(shape, cost, setting, tokens) - again) + _casts_bytes(shape, cost, element)
        scores, working = shape.layers * score_bytes(shape, setting, tokens), again + backward
    elif not setting.checkpointing:
        kept = shape.layers * layer_bytes(shape, cost, setting, tokens) + _casts_bytes(shape, cost, element)
        scores, working = shape.layers * score_bytes(shape, setting, tokens), backward
    elif shape.fast:
        # Every layer keeps its input alone; one at a time is run again before it runs backward.
        kept, scores = (shape.layers + 1) * tokens * shape.width * element, 0
        working = layer_bytes(shape, cost, setting, tokens) + score_bytes(shape, setting, tokens) + backward
        working += _casts_bytes(shape, cost, element) // shape.layers
    else:
        # transformers' modules are run again a row at a time, with all their layers.
        row = min(tokens, setting.longest_tokens + cost.virtual_tokens)
        kept, scores = tokens * shape.width * element, 0
        again = layer_bytes(shape, cost, setting, row) + score_bytes(shape, setting, row)
        working = shape.layers * again + _backward_bytes(shape, cost, setting, row) + _casts_bytes(shape, cost, element)
    if shape.fast:
        kept += 2 * shape.head_width * tokens * element
    return Memory(
        process=process_bytes,
        weights=weight_bytes(shape, element, quantized=setting.quantized, full=cost.full),
        adapter=0 if cost.full else FP32 * cost.parameters,
        gradients=FP32 * cost.parameters,
        optimizer=0 if setting.paged_optimizer else 2 * FP32 * cost.parameters,
        activations=kept,
        attention=scores,
        head=head,
        working=max(0, working - head),
        heap=_heap_bytes(shape, setting, tokens) if setting.on_cpu else 0,
    )


def step_tokens(cost: AdapterCost, setting: Setting) -> int:
    """Tokens that go through the model together; virtual ones run once a pack."""
    return max(setting.micro_batch_tokens, setting.longest_tokens) + cost.virtual_tokens


def layer_bytes(shape: Shape, cost: AdapterCost, setting: Setting, tokens: int) -> int:
    """What one layer keeps of ``tokens`` tokens, attention scores left out."""
    element, width, inner, query = setting.element_bytes, shape.width, shape.inner_width, shape.query_width
    # A token of an encoder-decoder model runs through one of its two halves.
    layers = shape.layers * (2 if shape.encoder_decoder else 1)
    own = -(-cost.own_values // layers) * element + -(-cost.dropped_values // layers) * (element + 1)
    if shape.encoder_decoder:
        return tokens * (_encoder_decoder_values(shape) * element + own + 16)
    if not shape.fast:
        # A root of each RMSNorm, a mean and a root of each LayerNorm; flash attention's sums.
        statistics = FP32 * ((2 if _is_gated(shape) else 4) + (0 if shape.capped else shape.heads))
        return tokens * (_reference_values(shape, setting) * element + own + statistics)
    # Both norms' inputs with an fp32 root each; q, k, v and what attention gives; the two inputs of SwiGLU.
    values = 2 * width + 2 * query + 2 * shape.kv_width + 2 * inner
    values += 0 if cost.dropped_values else _inputs_kept(shape, cost.inputs, setting)
    # Where no scores are kept, each row's sum of exponentials is.
    sums = FP32 * shape.heads if not scores_kept(setting) else 0
    return tokens * (values * element + own + 2 * FP32 + sums)


def _feed_forward_bytes(shape: Shape, cost: AdapterCost, setting: Setting, tokens: int) -> int:
    """What a layer's feed-forward part keeps beyond its input, small products of adapters left out."""
    learn = {name.rpartition(".")[2] for name in cost.inputs}
    values = 2 * shape.inner_width
    if not cost.dropped_values:
        values += shape.width if learn & {"gate_proj", "up_proj"} else 0
        values += shape.inner_width if "down_proj" in learn else 0
    return tokens * (values * setting.element_bytes + FP32)


def _inputs_kept(shape: Shape, names: tuple[str, ...], setting: Setting) -> int:
    """Elements a token of the inputs of maps whose weights or matrices learn; maps of one input share it."""
    learn = {name.rpartition(".")[2] for name in names}
    values = 0
    if learn & {"q_proj", "k_proj", "v_proj"}:
        values += shape.width
    # Laid out anew from rows where scores are kept, else what attention gave itself.
    if "o_proj" in learn and scores_kept(setting):
        values += shape.query_width
    if learn & {"gate_proj", "up_proj"}:
        values += shape.width
    return values + (shape.inner_width if "down_proj" in learn else 0)


def _reference_values(shape: Shape, setting: Setting) -> int:
    """Elements a token that a layer of transformers' own modules keeps with adapters on all its maps."""
    gated = _is_gated(shape)
    values = 4 * shape.width + 2 * shape.query_width + 2 * shape.kv_width
    # Llama's kind of norm is computed in fp32.
    values += 2 * shape.width if gated and setting.element_bytes < FP32 else 0
    return values + shape.inner_width * (4 if gated else ACTIVATIONS_KEEP.get(shape.activation, 5))


def _is_gated(shape: Shape) -> bool:
    """Whether the feed-forward part is gated, as it is where norms are RMSNorms."""
    return any("gate" in one.name for one in shape.linear_maps)


def _encoder_decoder_values(shape: Shape) -> int:
    """The same of an encoder-decoder model, an upper bound: a token runs through one of its two halves."""
    return 12 * shape.width + 9 * shape.query_width + 2 * shape.kv_width + 5 * shape.inner_width


def scores_kept(setting: Setting) -> bool:
    """Whether attention by batched products keeps its probabilities; rows up to a length do, and only on a CPU."""
    return setting.on_cpu and not setting.compiled


def score_bytes(shape: Shape, setting: Setting, tokens: int) -> int:
    """What attention keeps of ``tokens`` tokens in one layer: probabilities of as long rows as keep them."""
    if shape.encoder_decoder:
        return 3 * tokens * shape.heads * setting.longest_tokens * setting.element_bytes
    if shape.capped and not shape.fast:
        return 2 * FP32 * tokens * shape.heads * setting.longest_tokens
    if not (shape.fast and scores_kept(setting)):
        return 0
    return tokens * shape.heads * min(setting.longest_tokens, MATMUL_MAX_TOKENS) * setting.element_bytes


def _casts_bytes(shape: Shape, cost: AdapterCost, element: int) -> int:
    """Full tuning multiplies copies of its fp32 weights in the compute dtype, and keeps them for the backward pass."""
    return shape.linear_weights * element if cost.full and element < FP32 else 0


def _head_bytes(shape: Shape, cost: AdapterCost, setting: Setting, tokens: int) -> int:
    """The loss: logits of a chunk in fp32 with two more of their size, the states, their copy and their gradient.

    Compiled, the logits of a sum of losses become their own gradient.
    """
    element, chunk = setting.element_bytes, min(CHUNK_ROWS, tokens)
    in_place = setting.compiled and shape.fast and not (setting.each_token or cost.full)
    logits = element if in_place else 3 * FP32
    held = logits * chunk * shape.vocab_size + 3 * tokens * shape.width * element
    if cost.full:
        # The head's gradient as it is summed up, one chunk's part of it, and the weight in the compute dtype.
        held += shape.vocab_size * shape.width * (2 * FP32 + (element if element < FP32 else 0))
    return held


def _backward_bytes(shape: Shape, cost: AdapterCost, setting: Setting, tokens: int) -> int:
    """What the layer that runs needs beyond what is kept: SwiGLU's backward pass, the states' gradient, a 4-bit map."""
    element = setting.element_bytes
    held = tokens * (3 * shape.inner_width + shape.width) * element
    if shape.fast and scores_kept(setting) and element < FP32:
        # Scores are softmaxed in fp32 before the feed-forward part has kept anything.
        wide = 2 * FP32 // element + 1
        scores = wide * score_bytes(shape, setting, tokens)
        held = max(held, scores - tokens * (2 * shape.width + 3 * shape.inner_width + shape.query_width) * element)
    if setting.compiled and shape.fast:
        held = max(held, _attention_bytes(shape, setting, tokens))
    if setting.quantized:
        # One map at a time is unpacked: its levels in fp32, then its weights.
        held += max((_one(m) for m in shape.linear_maps), default=0) * (FP32 + element)
    if cost.full:
        held += shape.vocab_size * shape.width * FP32
    return held


def _attention_bytes(shape: Shape, setting: Setting, tokens: int) -> int:
    """What compiled attention needs while it runs backward.

    Gradients of its result, queries, keys and values; the latter two's sums in fp32, one a query head where there are
    few rows; in each thread a row's keys and values, laid out three times.
    """
    gradients = 2 * (shape.query_width + shape.kv_width) * tokens * setting.element_bytes
    few = tokens // setting.longest_tokens * (shape.kv_width // shape.head_width) < FEW_PIECES
    sums = 2 * (shape.query_width if few else shape.kv_width) * tokens * FP32
    return gradients + sums + 3 * setting.compiled * setting.longest_tokens * shape.head_width * setting.element_bytes


def _heap_bytes(shape: Shape, setting: Setting, tokens: int) -> int:
    """What the heap loses to holes: one layer's working set a layer. Measured, not derived.

    Counted live bytes are right within 3 %, but tensors of many sizes come and go in the heap, which grows from the
    second micro-batch on (bench/LOG.md). The size is read off two settings and was held against others:
    bench/RESULTS-plan.md.
    """
    return shape.layers * tokens * (3 * shape.inner_width + shape.width) * setting.element_bytes


def _one(linear: LinearMap) -> int:
    return linear.inputs * linear.outputs
