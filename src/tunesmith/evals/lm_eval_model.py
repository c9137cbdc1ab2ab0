"""A model of ours as lm-evaluation-harness wants it: its LM class over our likelihoods and our generator.

The harness tokenises and cuts texts by its own rules, which its base class brings; ours is the arithmetic. lm-eval is
imported inside, since it is optional.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunesmith.errors import DataError, MissingExtraError
from tunesmith.evals.subject import Subject
from tunesmith.models.roles import Base
from tunesmith.randomness import derive_seed
from tunesmith.records import Example, Likelihood, Where
from tunesmith.rollout.generate import Generator, Prompt
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.rollout.local_writer import LocalWriter
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling

# Context and continuation as token ids.
Pair = tuple[list[int], list[int]]
_REQUESTS_AT_ONCE = 64
# Most answers of a suite end at a stop text soon: all are tried with so many tokens first.
_FIRST_TOKENS = 32
_DEFAULT_NEW_TOKENS = 256


@dataclass(slots=True)
class HarnessParts:
    """What a local subject is made of; num_cut counts contexts cut at their beginning, as the harness has it."""

    base: Base
    adapter: str | None
    likelihood: LocalLikelihood
    generator: Generator
    identity: Mapping[str, str]
    results: ResultsFile
    on_progress: Callable[[int, int], None] = lambda done, asked: None
    seed: int = 0
    num_cut: int = 0
    num_done: int = 0
    num_asked: int = 0
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def tokenizer(self) -> Any:
        """The adapter's own where it has one."""
        return self.base.tokenizer_of(self.adapter)

    @property
    def max_ids(self) -> int:
        """The longest sequence, the last target among it."""
        return self.base.context_tokens_of(self.adapter)


def harness_parts(subject: Subject, results: ResultsFile) -> HarnessParts:
    """The parts of a subject on this machine. Raises DataError for one that has none, or reads by an encoder."""
    writer, likelihood = subject.writer, subject.likelihood
    place = f"subject {subject.label}"
    if not isinstance(writer, LocalWriter) or not isinstance(likelihood, LocalLikelihood):
        raise DataError(
            place, "it is not on this machine.", "lm-eval has model classes of its own for endpoints: use its command."
        )
    if likelihood.base.is_encoder_decoder:
        raise DataError(place, "encoder-decoder models cannot run the harness's tasks here.", "Take a decoder model.")
    return HarnessParts(
        base=likelihood.base,
        adapter=likelihood.adapter,
        likelihood=likelihood,
        generator=writer.generator,
        identity={**likelihood.identity, **subject.identity},
        results=results,
    )


def harness_model(parts: HarnessParts) -> Any:
    """An instance of lm_eval.api.model.LM: loglikelihood, loglikelihood_rolling and generate_until on our model.

    Its max_length counts inputs, one fewer than the model's context, for the last target lies within. Raises
    MissingExtraError.
    """
    try:
        from lm_eval.api.model import TemplateLM
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    except ImportError:
        raise MissingExtraError(
            "lm-eval", "lm-evaluation-harness is not installed.", "pip install 'tunesmith[eval]'"
        ) from None
    tokenizer = parts.tokenizer

    class TunesmithLM(TemplateLM):  # type: ignore[misc]
        max_length = parts.max_ids - 1
        max_gen_toks = _DEFAULT_NEW_TOKENS
        tokenizer_name = parts.identity["tokenizer_digest"]
        eot_token_id = tokenizer.eos_token_id
        prefix_token_id = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            if add_special_tokens is None:
                # A text that begins with the begin token must not get a second one.
                add_special_tokens = not string.startswith(tokenizer.decode(self.prefix_token_id))
            return list(tokenizer.encode(string, add_special_tokens=add_special_tokens))

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            return log_likelihoods(parts, [(context, continuation) for _, context, continuation in requests])

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
            pairs: list[Pair] = []
            owner: list[int] = []
            for number, request in enumerate(requests):
                ids = self.tok_encode(request.args[0])
                windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
                own = [make_disjoint_window(window) for window in windows]
                pairs += own
                owner += [number] * len(own)
            totals = [0.0] * len(requests)
            for number, (logprob, _) in zip(owner, log_likelihoods(parts, pairs), strict=True):
                totals[number] += logprob
            return totals

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
            return generate_until(parts, [(*request.args, self.tok_encode(request.args[0])) for request in requests])

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            last = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
            return str(tokenizer.apply_chat_template(chat_history, tokenize=False, **last))

    return TunesmithLM()


def log_likelihoods(parts: HarnessParts, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
    """(nats, whether greedy) of each continuation; a context too long loses its beginning, and is counted.

    Raises DataError for a continuation beyond the model's context.
    """
    fitting = []
    for number, (context, continuation) in enumerate(pairs, 1):
        if len(continuation) >= parts.max_ids or not continuation or not context:
            cause = f"a continuation of {len(continuation)} tokens, the model reads {parts.max_ids}."
            raise DataError(Where("request", number), cause, "Leave the task out.")
        room = parts.max_ids - len(continuation)
        parts.num_cut += len(context) > room
        fitting.append((context[-room:], continuation))

    def compute(batch: Sequence[int]) -> list[list[Any]]:
        return [[one.logprob, one.greedy] for one in _score(parts.likelihood, [fitting[i] for i in batch])]

    return [(float(logprob), bool(greedy)) for logprob, greedy in _kept(parts, "loglikelihood", fitting, compute)]


def _score(likelihood: LocalLikelihood, pairs: Sequence[Pair]) -> list[Likelihood]:
    """A context is computed once for its continuations, as far as they fit a pack together."""
    groups: list[list[int]] = []
    open_groups: dict[tuple[int, ...], tuple[list[int], int]] = {}
    for i, (context, continuation) in enumerate(pairs):
        group, size = open_groups.get(tuple(context), ([], 0))
        if not group or size + len(continuation) > likelihood.micro_batch_tokens:
            group, size = [], len(context)
            groups.append(group)
        group.append(i)
        open_groups[tuple(context)] = (group, size + len(continuation))
    scored = likelihood.score_examples([[_example(*pairs[i], i + 1) for i in group] for group in groups])
    out = {i: one for group, own in zip(groups, scored, strict=True) for i, one in zip(group, own, strict=True)}
    return [out[i] for i in range(len(pairs))]


def _example(context: list[int], continuation: list[int], number: int) -> Example:
    weight = np.zeros(len(context) + len(continuation), np.float32)
    weight[len(context) :] = 1.0
    ids = np.array([*context, *continuation], np.int64)
    return Example(ids=ids, loss_weight=weight, row_id=0, where=Where("request", number))


def generate_until(parts: HarnessParts, asked: Sequence[tuple[str, Mapping[str, Any], list[int]]]) -> list[str]:
    """Answers to (context, the task's generation settings, the context's ids), each cut before its first stop text.

    Raises DataError for settings our sampling does not know.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    settings = [
        sampling_of(normalize_gen_kwargs(dict(given), _DEFAULT_NEW_TOKENS), parts.seed) for _, given, _ in asked
    ]
    prompts, keys = [], []
    for (context, _, ids), (sampling, stops) in zip(asked, settings, strict=True):
        room = parts.max_ids - sampling.max_new_tokens
        if room < 1:
            raise DataError(
                "generation_kwargs",
                f"{sampling.max_new_tokens} new tokens leave no room for a context.",
                "Ask for fewer.",
            )
        parts.num_cut += len(ids) > room
        # A context asked several times is drawn anew each time.
        key = json.dumps([context, sampling.model_dump(), stops])
        prompts.append(
            Prompt(
                ids=np.array(ids[-room:], np.int64), row_id=derive_seed(0, "lm_eval", context), sample=parts.seen[key]
            )
        )
        keys.append([key, parts.seen[key]])
        parts.seen[key] += 1

    def compute(batch: Sequence[int]) -> list[str]:
        return _answers(parts, [prompts[i] for i in batch], [settings[i] for i in batch])

    return [str(text) for text in _kept(parts, "generate_until", keys, compute)]


def _answers(
    parts: HarnessParts, prompts: Sequence[Prompt], settings: Sequence[tuple[Sampling, list[str]]]
) -> list[str]:
    texts = [""] * len(prompts)
    todo = list(range(len(prompts)))
    for most_tokens in (_FIRST_TOKENS, None):
        going_on = []
        for sampling in {settings[i][0].model_dump_json(): settings[i][0] for i in todo}.values():
            own = [i for i in todo if settings[i][0] == sampling]
            tokens = min(most_tokens or sampling.max_new_tokens, sampling.max_new_tokens)
            short = sampling.model_copy(update={"max_new_tokens": tokens})
            rollouts = parts.generator.generate([prompts[i] for i in own], short, parts.adapter)
            for i, rollout in zip(own, rollouts, strict=True):
                texts[i] = cut_at_stop(rollout.text, settings[i][1])
                if rollout.stop_reason == "length" and tokens < sampling.max_new_tokens and texts[i] == rollout.text:
                    going_on.append(i)
        todo = going_on
    return texts


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of its stop texts."""
    return text[: min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=len(text))]


def sampling_of(settings: Mapping[str, Any], seed: int) -> tuple[Sampling, list[str]]:
    """The harness's generation settings as ours, with their stop texts. Raises DataError for one we do not know."""
    rest = dict(settings)
    until, do_sample = list(rest.pop("until")), bool(rest.pop("do_sample", False))
    sampling = Sampling(
        max_new_tokens=rest.pop("max_gen_toks"),
        temperature=float(rest.pop("temperature", 1.0)) if do_sample else 0.0,
        top_p=float(rest.pop("top_p", 1.0)) if do_sample else 1.0,
        top_k=int(rest.pop("top_k", 0)) if do_sample else 0,
        seed=seed,
    )
    # Without sampling these have no say.
    ignored = () if do_sample else ("temperature", "top_p", "top_k")
    unknown = {name: value for name, value in rest.items() if name not in ignored and (name, value) != ("num_beams", 1)}
    if unknown:
        raise DataError("generation_kwargs", f"{unknown} is not known here.", "Leave the task out, or change its file.")
    return sampling, until


def _kept(
    parts: HarnessParts, kind: str, asked: Sequence[Any], compute: Callable[[Sequence[int]], Sequence[Any]]
) -> list[Any]:
    """What the results file knows, and the rest computed portion by portion and kept there."""
    keys = [_key(parts.identity, kind, one) for one in asked]
    missing: dict[str, int] = {}
    for i, key in enumerate(keys):
        if key not in parts.results:
            missing.setdefault(key, i)
    todo = list(missing.values())
    parts.num_asked += len(todo)
    for start in range(0, len(todo), _REQUESTS_AT_ONCE):
        batch = todo[start : start + _REQUESTS_AT_ONCE]
        rows = []
        for i, one in zip(batch, compute(batch), strict=True):
            answer = one if kind == "generate_until" else ""
            rows.append({"key": keys[i], "answer": answer, "stop_reason": "end_of_turn", "said": one})
        parts.results.append(rows)
        parts.num_done += len(batch)
        parts.on_progress(parts.num_done, parts.num_asked)
    return [parts.results[key]["said"] for key in keys]


def _key(identity: Mapping[str, str], kind: str, asked: Any) -> str:
    return hashlib.sha256(json.dumps([dict(identity), "lm_eval", kind, asked], sort_keys=True).encode()).hexdigest()
