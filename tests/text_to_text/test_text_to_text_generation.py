"""Answers of encoder-decoder models are transformers' own, token by token, and so are their log-probabilities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from text_to_text_models import KINDS, build_model, build_tokenizer, load, rows, save_model

from tunesmith.errors import DataError, ModelError
from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.forward import forward, hidden_states
from tunesmith.records import Example, Message, Where
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.tokens.pack import pack, pack_prompts

SHAPES = [(9, 2), (14, 2), (5, 2), (7, 2)]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(request.param, tmp_path_factory.mktemp(request.param))


def prompts(base: Any) -> list[Prompt]:
    return [Prompt(ids=e.source_ids, row_id=e.row_id) for e in rows(base, *SHAPES)]  # type: ignore[arg-type]


def transformers_greedy(model: Any, prompt: Prompt, num_tokens: int) -> list[int]:
    ids = torch.from_numpy(prompt.ids)[None]
    out = model.generate(ids, max_new_tokens=num_tokens, do_sample=False, num_beams=1)
    return [int(i) for i in out[0, 1:]]


def test_greedy_answers_are_those_of_transformers(folder: Path) -> None:
    base = load(folder)
    asked = prompts(base)
    expected = [transformers_greedy(base.model, prompt, 12) for prompt in asked]
    rollouts = LocalGenerator(base, max_rows=3).generate(asked, Sampling(max_new_tokens=12))
    assert [rollout.ids.tolist() for rollout in rollouts] == expected
    # Control: the answers hang on the source, and are no single repeated token.
    assert len({tuple(ids) for ids in expected}) > 1
    assert max(len(set(ids)) for ids in expected) > 2


def test_greedy_answers_with_an_adapter_are_those_of_peft(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base, plain = load(folder), load(folder)
    role = add_adapter(base, "default", AdapterConfig(r=4, lora_alpha=8), seed=1)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="SEQ_2_SEQ_LM")
    theirs = get_peft_model(plain.model, lora).double().eval()
    weights = dict(plain.model.named_parameters())
    for i, (name, parameter) in enumerate(role.parameters.items()):
        drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)).double()
        parameter.data, weights[name].data = drawn * 0.3, drawn * 0.3
    asked, sampling = prompts(base), Sampling(max_new_tokens=12)
    rollouts = LocalGenerator(base).generate(asked, sampling, "default")
    for prompt, rollout in zip(asked, rollouts, strict=True):
        ids = theirs.generate(
            input_ids=torch.from_numpy(prompt.ids)[None], max_new_tokens=12, do_sample=False, num_beams=1
        )
        assert rollout.ids.tolist() == ids[0, 1:].tolist()
    bare = LocalGenerator(base).generate(asked, sampling)
    assert [r.ids.tolist() for r in bare] != [r.ids.tolist() for r in rollouts]


def test_log_probabilities_are_those_of_the_whole_pass(folder: Path) -> None:
    base = load(folder)
    sampling = Sampling(max_new_tokens=10, temperature=1.5, seed=3)
    for prompt, rollout in zip(prompts(base), LocalGenerator(base).generate(prompts(base), sampling), strict=True):
        weight = np.ones(len(rollout.ids) + 1, np.float32)
        weight[0] = 0.0
        ids = np.concatenate([base.decoder_prefix, rollout.ids])
        example = Example(ids=ids, loss_weight=weight, row_id=0, where=Where("t"), source_ids=prompt.ids)
        whole, _ = forward(base, pack([example]), "reference_logprobs")
        np.testing.assert_allclose(rollout.logprobs, whole.numpy(), rtol=1e-5, atol=1e-6)


def test_samples_do_not_depend_on_the_batch_and_stream_whole(folder: Path) -> None:
    base = load(folder)
    asked, sampling = prompts(base), Sampling(max_new_tokens=10, temperature=1.0, top_p=0.9, seed=4)
    together = LocalGenerator(base).generate(asked, sampling)
    alone = [LocalGenerator(base).generate([prompt], sampling)[0] for prompt in asked]
    assert [r.ids.tolist() for r in together] == [r.ids.tolist() for r in alone]
    assert ["".join(LocalGenerator(base).stream(prompt, sampling)) for prompt in asked] == [r.text for r in together]


def test_a_forced_first_word_is_given_as_transformers_gives_it(tmp_path: Path) -> None:
    folder = save_model("bart", tmp_path)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "forced_bos_token_id": 40}))
    base = load(folder)
    assert base.decoder_prefix == (2, 40)
    prompt = prompts(base)[0]
    (rollout,) = LocalGenerator(base).generate([prompt], Sampling(max_new_tokens=8))
    assert [40, *rollout.ids.tolist()] == transformers_greedy(base.model, prompt, 9)


def test_source_and_answer_have_the_whole_context_each(tmp_path: Path) -> None:
    base = load(save_model("bart", tmp_path))
    assert base.context_tokens == 128
    fits, too_long = (Prompt(ids=np.full(n, 9), row_id=0) for n in (128, 129))
    assert LocalGenerator(base).generate([fits], Sampling(max_new_tokens=127))[0].ids.size
    for prompt, num_tokens in ((too_long, 4), (fits, 128)):
        with pytest.raises(DataError, match="the model reads 128"):
            LocalGenerator(base).generate([prompt], Sampling(max_new_tokens=num_tokens))


def test_streams_of_the_wrong_kind_are_refused(folder: Path, load_causal: Any) -> None:
    base = load(folder)
    with pytest.raises(ValueError, match="source stream"):
        hidden_states(base, pack_prompts([np.array([3, 4])], [0], None))
    with pytest.raises(ValueError, match="source stream"):
        hidden_states(load_causal(), pack(rows(base, (4, 3))))


@pytest.fixture
def load_causal(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("load")


def test_what_cannot_be_run_right_is_refused(tmp_path: Path) -> None:
    import transformers as t

    (tmp_path / "marian").mkdir()
    marian = t.MarianConfig(vocab_size=272, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
                            decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, pad_token_id=0,
                            eos_token_id=1, decoder_start_token_id=0, max_position_embeddings=32)  # fmt: skip
    t.MarianMTModel(marian).save_pretrained(tmp_path / "marian")
    build_tokenizer("t5").save_pretrained(tmp_path / "marian")
    with pytest.raises(ModelError, match="'marian' are not supported"):
        load(tmp_path / "marian")
    model = build_model("t5", decoder_start_token_id=None)
    model.generation_config.decoder_start_token_id = None
    model.save_pretrained(tmp_path / "t5")
    build_tokenizer("t5").save_pretrained(tmp_path / "t5")
    with pytest.raises(ModelError, match="names no decoder_start_token_id"):
        load(tmp_path / "t5")


def test_a_head_that_is_not_the_models_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.models import encoder_decoder

    plain = encoder_decoder.logits_of
    monkeypatch.setattr(encoder_decoder, "logits_of", lambda hidden, head: 1.1 * plain(hidden, head))
    with pytest.raises(ModelError, match="its head makes logits"):
        load(folder)


@pytest.mark.parametrize("kind", ["mt5", "umt5", "pegasus"])
def test_their_kin_give_transformers_loss(kind: str, tmp_path: Path) -> None:
    import transformers as t

    torch.manual_seed(0)
    t5: dict[str, Any] = {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    bart = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64,
            "forced_eos_token_id": None}  # fmt: skip
    sizes = {"vocab_size": 272, "d_model": 32, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    config = t.AutoConfig.for_model(kind, **sizes, **(bart if kind == "pegasus" else t5))
    t.AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    build_tokenizer("t5").save_pretrained(tmp_path)
    base = load(tmp_path)
    (example,) = rows(base, (9, 6))
    ours, _ = forward(base, pack([example]), "ce_sum")
    assert example.source_ids is not None
    source, labels = (torch.from_numpy(x)[None] for x in (example.source_ids, example.ids[1:]))
    with torch.no_grad():
        theirs = base.model(input_ids=source, labels=labels).loss * 6
    assert float(ours) == pytest.approx(float(theirs), rel=1e-10)
    rollouts = LocalGenerator(base).generate([Prompt(ids=example.source_ids, row_id=0)], Sampling(max_new_tokens=6))
    assert rollouts[0].ids.tolist() == transformers_greedy(base.model, Prompt(ids=example.source_ids, row_id=0), 6)


def test_the_likelihood_of_given_words_is_that_of_transformers(folder: Path) -> None:
    base = load(folder)
    question, words = (Message(role="user", content="Who was there?"),), ("the man", "another")
    (scored,) = LocalLikelihood(base).score([(question, words)])
    source = torch.tensor(base.tokenizer("Who was there?")["input_ids"])[None]
    for said, one in zip(words, scored, strict=True):
        ids = base.tokenizer(said)["input_ids"][:-1]  # the end is not asked for; BART also begins
        given = torch.tensor([[*base.decoder_prefix, *ids]])
        with torch.no_grad():
            logits = base.model(input_ids=source, decoder_input_ids=given).logits[0].double()
        logprobs = torch.log_softmax(logits[len(base.decoder_prefix) - 1 : -1], -1)
        expected = logprobs.gather(1, torch.tensor(ids)[:, None]).sum()
        assert one.logprob == pytest.approx(float(expected), abs=1e-6)
        assert one.num_tokens == len(ids)
