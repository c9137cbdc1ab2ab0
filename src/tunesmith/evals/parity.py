"""Does the file that will be served answer as the model that was trained? Asked of llama.cpp, not hoped for.

The same texts must become the same tokens, the same prompts be continued with the same tokens, and held-out text be as
likely. Our side is the base with its adapter unmerged, in fp32, as it was trained and measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.errors import DataError
from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.export.families import served_context
from tunesmith.models.forward import hidden_states
from tunesmith.models.llama_cpp import LlamaCpp
from tunesmith.models.roles import Base
from tunesmith.models.token_rows import head_for
from tunesmith.records import Example, Message, Where
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.stats import Interval, bootstrap_ratio
from tunesmith.tokens.continuation import text_examples
from tunesmith.tokens.pack import pack_prompts
from tunesmith.tokens.render import render_prompt

PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "My parcel is late. What can I do?",
    "Count from 1 to 7.",
)
NUM_NEW_TOKENS = 24
# Texts on which tokenizers part: digits, blanks, line ends, contractions, scripts, emoji, accents, control characters.
AWKWARD_TEXTS = (
    "3.14159, 2026-11-26, 1234567890 and 007",
    "two  blanks,   three,\ttabs\t\tand trailing   ",
    "line\nline\n\n\nline\r\n  indented\n\n1. first\n2. second\n",
    "I'm, you're, it's, we'LL, DON'T, o'clock",
    "naïve café, Ærøskøbing, Straße, Łódź",
    "日本語のテキスト, 中文, 한국어, العربية, עברית, हिन्दी, ไทย",
    "😀👍🏽 👩‍👩‍👧 🇫🇷 ✓ → ∑ ½",
    "def f(x):\n    return {'a': [x**2, -x]}  # done",
    "https://example.org/a_b?c=%20&d=1#e user@example.org",
    "CamelCase snake_case SHOUTING miXed",
    "\u200bzero\u200bwidth, nb\u00a0space, soft\u00adhyphen",
    "",
    " ",
    "\n",
)
# Largest gap between the perplexities, as a share of ours; what was measured stands in docs/export.md.
PERPLEXITY_GAPS = {
    "f32": 0.001, "f16": 0.002, "bf16": 0.02, "q8_0": 0.01, "q6_k": 0.02, "q5_1": 0.05, "q5_0": 0.05, "q5_k_m": 0.05,
    "q5_k_s": 0.05, "q4_1": 0.15, "q4_0": 0.15, "q4_k_m": 0.1, "q4_k_s": 0.15,
}  # fmt: skip
# A token that differs is a tie, not a fault, where ours likes both so nearly the same (difference of logits).
TIES = {"f32": 0.01, "f16": 0.05, "bf16": 0.2}


@dataclass(frozen=True, slots=True)
class Difference:
    """The first token llama.cpp would have said otherwise. gaps: how far each side's two logits are apart."""

    prompt: str
    position: int
    ours: str
    theirs: str
    our_gap: float
    their_gap: float


@dataclass(frozen=True, slots=True)
class Parity:
    """What a check found; ``faults`` is empty where the file serves what was trained.

    same_tokens of num_tokens: of what ours says, token by token after ours' own words. first, worst: of the tokens that
    differ the first, and the one ours is surest of. gap: perplexity of the file over
    ours, minus 1, with its paired 95 % bootstrap interval over the texts.
    """

    quant: str
    num_prompts: int
    same_continuations: int
    num_tokens: int
    same_tokens: int
    first: Difference | None
    worst: Difference | None
    num_texts: int
    same_texts: int
    perplexity_ours: float
    perplexity_file: float
    gap: Interval
    num_text_tokens: int
    allowed_gap: float
    tokens_per_second: float
    faults: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ours:
    """Our side of the comparison, worked out once for any number of files. nats: of each chunk of the texts."""

    prompts: list[str]
    prompt_ids: list[list[int]]
    answers: list[list[int]]
    chunks: list[Example]
    nats: list[float]

    @property
    def num_scored(self) -> list[int]:
        """Scored tokens of each chunk."""
        return [len(chunk.ids) - 1 for chunk in self.chunks]


def our_side(base: Base, adapter: str | None, texts: Sequence[str]) -> Ours:
    """What base and adapter say to the prompts, greedily, and how likely they find the texts.

    Both within what the file will say the model reads. Raises DataError where not even one prompt fits into that.
    """
    tokenizer, context = base.tokenizer_of(adapter), served_context(base.model.config)
    rendered = [(text, render_prompt([Message(role="user", content=text)], tokenizer)) for text in PROMPTS]
    asked = [(text, ids) for text, ids in rendered if len(ids) < context]
    if not asked:
        raise DataError(base.resolved.name, f"reads {context} tokens, which no prompt fits.", "Add --no-check.")
    room = context - max(len(ids) for _, ids in asked)
    prompts = [Prompt(ids=ids, row_id=i) for i, (_, ids) in enumerate(asked)]
    answers = LocalGenerator(base, weights="full").generate(
        prompts, Sampling(max_new_tokens=min(NUM_NEW_TOKENS, room)), adapter
    )
    chunks = [
        chunk
        for number, text in enumerate(texts)
        for chunk in text_examples(text, tokenizer, max_tokens=context, where=Where("text", number + 1))
    ]
    scored = LocalLikelihood(base, adapter, chat_template=False).score_examples([[chunk] for chunk in chunks])
    return Ours(
        [text for text, _ in asked],
        [ids.tolist() for _, ids in asked],
        [answer.ids.tolist() for answer in answers],
        chunks,
        [-one.logprob for (one,) in scored],
    )


def compare(
    base: Base,
    adapter: str | None,
    ours: Ours,
    file: Path,
    quant: str,
    *,
    lora: Path | None = None,
    allowed_gap: float | None = None,
) -> Parity:
    """Open a file in llama.cpp and compare it with ours. Raises ModelError where it does not load."""
    longest = max(len(p) + len(a) for p, a in zip(ours.prompt_ids, ours.answers, strict=True))
    longest = max(longest, *(len(chunk.ids) for chunk in ours.chunks))
    tokenizer = base.tokenizer_of(adapter)
    with LlamaCpp(file, context_tokens=longest, threads=torch.get_num_threads(), lora=lora) as theirs:
        texts = _awkward_texts(tokenizer)
        unlike = [text for text in texts if theirs.tokenize(text) != _ids(tokenizer, text)]
        total, others = _tokens(base, adapter, ours, theirs, tokenizer)
        begin = perf_counter()
        said = [theirs.greedy(p, len(a)) for p, a in zip(ours.prompt_ids, ours.answers, strict=True)]
        seconds = perf_counter() - begin
        nats = [_nats(theirs, chunk) for chunk in ours.chunks]
        unstopped = [i for i in sorted(base.end_ids_of(adapter)) if not theirs.ends_generation(i)]
    counts = ours.num_scored
    excess = bootstrap_ratio([b - a for a, b in zip(ours.nats, nats, strict=True)], counts, seed=0)
    parity = Parity(
        quant=quant,
        num_prompts=len(said),
        # llama.cpp also stops at tokens that end a text in other models of the family.
        same_continuations=sum(a == b[: len(a)] for a, b in zip(said, ours.answers, strict=True)),
        num_tokens=total,
        same_tokens=total - len(others),
        first=others[0] if others else None,
        worst=max(others, key=lambda other: other.our_gap, default=None),
        num_texts=len(texts),
        same_texts=len(texts) - len(unlike),
        perplexity_ours=math.exp(sum(ours.nats) / sum(counts)),
        perplexity_file=math.exp(sum(nats) / sum(counts)),
        gap=Interval(*(math.expm1(bound) for bound in (excess.value, excess.low, excess.high))),
        num_text_tokens=sum(counts),
        allowed_gap=PERPLEXITY_GAPS[quant] if allowed_gap is None else allowed_gap,
        tokens_per_second=sum(map(len, said)) / seconds,
    )
    parity.faults.extend(_faults(parity, unlike, [tokenizer.convert_ids_to_tokens(i) for i in unstopped]))
    return parity


def _awkward_texts(tokenizer: Any) -> list[str]:
    around = [f"a{token}b {token} \n{token}" for token in map(str, tokenizer.added_tokens_decoder.values())]
    return [*AWKWARD_TEXTS, *around[:32]]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _tokens(
    base: Base, adapter: str | None, ours: Ours, theirs: LlamaCpp, tokenizer: Any
) -> tuple[int, list[Difference]]:
    """(tokens, those both would not say): each after the same words, which are ours."""
    total, others = 0, list[Difference]()
    for text, prompt, answer in zip(ours.prompts, ours.prompt_ids, ours.answers, strict=True):
        ids = [*prompt, *answer[:-1]]
        logits_TV = theirs.logits(ids)[len(prompt) - 1 :]
        choices = logits_TV.argmax(1).tolist()
        total += len(answer)
        if choices == answer:
            continue
        ours_TV = _our_logits(base, adapter, ids)[len(prompt) - 1 :]
        for at, pair in enumerate(zip(answer, choices, strict=True)):
            if pair[0] != pair[1]:
                words = [tokenizer.decode([token]) for token in pair]
                gaps = [float(abs(row_V[pair[0]] - row_V[pair[1]])) for row_V in (ours_TV[at], logits_TV[at])]
                others.append(Difference(text, at + 1, words[0], words[1], *gaps))
    return total, others


@torch.no_grad()
def _our_logits(base: Base, adapter: str | None, ids: list[int]) -> NDArray[np.float32]:
    hidden_TD = hidden_states(base, pack_prompts([np.array(ids)], [0], adapter))
    head, _, _ = head_for(base.token_rows, base.head, [adapter], "none")
    logits_TV: NDArray[np.float32] = logits_of(hidden_TD, head).float().cpu().numpy()
    return logits_TV


def _nats(theirs: LlamaCpp, chunk: Example) -> float:
    """Negative log-likelihood of a chunk's tokens after its first."""
    logits_TV = theirs.logits(chunk.ids.tolist())[:-1].astype(np.float64)
    top_T = logits_TV.max(1)
    sums_T = np.log(np.exp(logits_TV - top_T[:, None]).sum(1)) + top_T
    return float((sums_T - logits_TV[np.arange(len(sums_T)), chunk.ids[1:]]).sum())


def _faults(parity: Parity, unlike: Sequence[str], unstopped: Sequence[str]) -> list[str]:
    faults = [f"llama.cpp reads other tokens in {text!r}." for text in unlike[:3]]
    faults += [f"llama.cpp does not stop at {token!r}." for token in unstopped]
    # Not a number must not pass for a small one.
    if not abs(parity.gap.value) <= parity.allowed_gap:
        faults.append(
            f"perplexity {parity.perplexity_file:.4g} is {parity.gap.value:+.2%} from ours "
            f"({parity.perplexity_ours:.4g}), {parity.allowed_gap:.2%} is allowed for {parity.quant}."
        )
    worst = parity.worst
    if parity.quant in TIES and worst is not None and worst.our_gap > TIES[parity.quant]:
        faults.append(
            f"token {worst.position} after {worst.prompt!r} is {worst.theirs!r}, ours is {worst.ours!r} by "
            f"{worst.our_gap:.3g} (logits)."
        )
    return faults
