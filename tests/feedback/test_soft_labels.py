"""Soft labels and their sources on the way to pairs: weights by source, people against models, both directions."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import pytest
import torch

from tunesmith.data.preferences import PreferenceDataConfig, load_preferences
from tunesmith.errors import ConfigError, DataError
from tunesmith.feedback import schema
from tunesmith.feedback.agreement_report import report_agreement
from tunesmith.feedback.judgements import Compared, Rated, Thumbed
from tunesmith.feedback.prefer import PreferConfig, prefer
from tunesmith.feedback.store import FeedbackStore
from tunesmith.feedback.transfer import ImportOptions, export_store, import_files
from tunesmith.losses.preference import dpo_loss, pairwise_reward_loss
from tunesmith.recipes.feedback_prefer import FeedbackPreferConfig, describe, make_preferences
from tunesmith.records import Message

FACTS = {"method": "constitution label", "principles": ["kind"], "opinions": [{"log_odds": [0.5, -1.0]}]}


@pytest.fixture
def store(tmp_path: Path) -> FeedbackStore:
    return FeedbackStore.open(tmp_path / "f.db", create=True)


def asked(store: FeedbackStore, text: str = "q", num: int = 2) -> tuple[str, list[str]]:
    prompt = store.add_prompt([Message(role="user", content=text)])
    return prompt, [store.add_candidate(prompt, f"answer {i} to {text}") for i in range(num)]


# Where a judgement comes from -----------------------------------------------------------------------------------------


def test_provenance_is_kept_exported_and_never_changed(store: FeedbackStore, tmp_path: Path) -> None:
    prompt, pair = asked(store)
    key = store.add_judgement(
        prompt, pair, Compared(p=0.8), annotator="ai:m", source="ai", provenance=FACTS, judgement_id="one"
    )
    # Put in again, the first time counts.
    store.add_judgement(prompt, pair, Compared(p=0.8), annotator="ai:m", judgement_id="one", provenance={"other": 1})
    plain = store.add_judgement(prompt, pair, Compared("A"), annotator="ann")
    assert {one.id: one.provenance for one in store.judgements()} == {key: FACTS, plain: {}}
    export_store(store, tmp_path / "out")
    with FeedbackStore.open(tmp_path / "g.db", create=True) as other:
        import_files(other, [tmp_path / "out"], ImportOptions())
        assert other.digest() == store.digest()
        assert {one.id: one.provenance for one in other.judgements()} == {key: FACTS, plain: {}}
    with sqlite3.connect(store.path) as raw, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw.execute("DELETE FROM provenance")
    (tmp_path / "bad.jsonl").write_text(
        '{"prompt": "q", "chosen": "a", "rejected": "b", "judgement": {"provenance": "me"}}'
    )
    with pytest.raises(DataError, match=r"judgement\.provenance: an object is expected"):
        import_files(store, [tmp_path / "bad.jsonl"], ImportOptions())


def test_a_store_of_the_first_schema_is_brought_up_to_date_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FeedbackStore.open(tmp_path / "new.db", create=True) as new:
        prompt, pair = asked(new)
        new.add_judgement(prompt, pair, Compared("A"), annotator="ann", judgement_id="one")
        digest = new.digest()
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
    with sqlite3.connect(tmp_path / "old.db", isolation_level=None) as raw:
        schema.prepare(raw, tmp_path / "old.db")
        with sqlite3.connect(tmp_path / "new.db") as full:
            for table in ("prompts", "candidates", "judgements", "judged"):
                for row in full.execute(f"SELECT * FROM {table}"):
                    raw.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    monkeypatch.undo()
    with FeedbackStore.open(tmp_path / "old.db") as old:
        assert old.digest() == digest
        (one,) = old.judgements()
        assert one.value == Compared("A") and one.provenance == {}
        old.add_judgement(prompt, pair, Compared(p=0.3), annotator="ai:m", source="ai", provenance=FACTS)
        assert old.digest() != digest


# Weights by source ----------------------------------------------------------------------------------------------------


def test_sources_are_weighed_and_left_out_by_their_weight(store: FeedbackStore) -> None:
    prompt, (a, b) = asked(store)
    store.add_judgement(prompt, [a, b], Compared("A"), annotator="ann", source="human")
    store.add_judgement(prompt, [b, a], Compared(p=0.9), annotator="ai:m", source="ai")
    store.add_judgement(prompt, [a, b], Compared("A"), annotator="file", source="import", weight=2.0)
    store.add_judgement(prompt, [a], Rated(5), annotator="ai:m", source="ai")
    store.add_judgement(prompt, [b], Rated(1), annotator="ai:m", source="ai")

    def pair(**weights: float) -> tuple[float, float, dict[str, int]]:
        found = prefer(store, PreferConfig(source_weights=weights))
        (one,) = found.prompts[0].pairs
        return one.weight_for, one.weight_against, found.left_out

    # Of the model: 0.8 for b by its comparison, 0.5 for a by its grades.
    assert pair() == (pytest.approx(3.5), pytest.approx(0.8), {})
    assert pair(ai=0.5)[:2] == (pytest.approx(3.25), pytest.approx(0.4))
    assert pair(human=0.5, ai=0.5, **{"import": 0.25})[:2] == (pytest.approx(1.25), pytest.approx(0.4))
    assert pair(ai=0) == (3.0, 0, {"judgement of source ai, of weight 0": 3})
    assert prefer(store, PreferConfig()).sources == {"human": 1, "ai": 3, "import": 1}
    with pytest.raises(ValueError):
        PreferConfig(source_weights={"ai": -1})
    with pytest.raises(ValueError):
        PreferConfig(source_weights={"machine": 1})  # type: ignore[dict-item]


def test_conflicts_between_people_and_models_are_called_so(store: FeedbackStore, tmp_path: Path) -> None:
    for text, votes in {
        "against": (("ann", "human", "A"), ("ai:m", "ai", "B")),
        "among people": (("ann", "human", "A"), ("bob", "human", "B")),
        "mixed": (("ann", "human", "A"), ("bob", "human", "B"), ("ai:m", "ai", "B")),
        "imported": (("f", "import", "A"), ("ai:m", "ai", "B"), ("ai:n", "ai", "B")),
    }.items():
        prompt, pair = asked(store, text)
        for annotator, source, outcome in votes:
            store.add_judgement(prompt, pair, Compared(outcome), annotator=annotator, source=source)  # type: ignore[arg-type]
    found = prefer(store, PreferConfig())
    names = {prompt.prompt_id: prompt.prompt[0].content for prompt in found.prompts}
    assert {names[one.prompt_id]: one.people_against_ai for one in found.conflicts} == {
        "against": True, "among people": False, "mixed": False, "imported": True,
    }  # fmt: skip
    assert found.summary()["conflicts_people_against_ai"] == 2
    config = FeedbackPreferConfig(store=str(store.path), output_dir=str(tmp_path / "out"))
    said = describe(make_preferences(config), config)
    assert "4 conflicts (2 of people against models), where the majority's surplus is the pair's weight:" in said
    assert "by source: 4 ai, 5 human, 1 import" in said


def test_people_and_models_are_compared_on_the_pairs_both_judged(store: FeedbackStore) -> None:
    """A probability is taken for the likelier answer: as if the model had said so, and a tie at 0.5."""
    for i, p in enumerate([0.9, 0.8, 0.2, 0.4, 0.5, 0.7]):
        prompt, pair = asked(store, f"q{i}")
        said = "tie" if p == 0.5 else "A" if p > 0.5 else "B"
        store.add_judgement(prompt, pair[::-1], Compared("B" if i < 3 else "A"), annotator="ann")
        store.add_judgement(prompt, pair, Compared(p=p), annotator="ai:m", source="ai")
        store.add_judgement(prompt, pair, Compared(said), annotator="outright", source="ai")  # type: ignore[arg-type]
    (report,) = report_agreement(store.judgements())
    assert report.left_out == {} and report.items == 6
    assert report.cohen["ai:m", "outright"].value == 1.0
    assert report.cohen["ann", "ai:m"] == report.cohen["ann", "outright"]
    value = report.cohen["ann", "ai:m"].value
    assert value is not None and 0 < value < 1, "they agree on three of six"


# What training makes of p ---------------------------------------------------------------------------------------------


def cross_entropy(p: float, gap: torch.Tensor) -> torch.Tensor:
    return -p * torch.nn.functional.logsigmoid(gap) - (1 - p) * torch.nn.functional.logsigmoid(-gap)


def gradient(loss: torch.Tensor, at: torch.Tensor) -> float:
    (found,) = torch.autograd.grad(loss, at)
    return float(found)


@pytest.mark.parametrize("p", [0.5001, 0.7, 0.95, 0.2])
def test_one_direction_pulls_as_the_soft_label_does_at_a_draw_and_both_do_so_everywhere(
    store: FeedbackStore, tmp_path: Path, p: float
) -> None:
    """Written both ways, a pairwise loss is the cross-entropy to p; in one direction only its pull at equal scores."""
    prompt, pair = asked(store)
    store.add_judgement(prompt, pair, Compared(p=p), annotator="ai:m", source="ai")
    weights = {}
    for both in (False, True):
        out = tmp_path / str(both)
        config = FeedbackPreferConfig(store=str(store.path), output_dir=str(out), both_ways=both)
        report = make_preferences(config)
        assert report.preferences.conflicts == [] and report.preferences.num_pairs == 1
        (group,) = load_preferences(PreferenceDataConfig(train=str(out / "pairs.jsonl"), validation_share=0)).train
        first = [message.content for (message,) in group.answers].index("answer 0 to q")
        weights[both] = {one.better == first: one.weight for one in group.pairs}
    assert weights[True] == {True: pytest.approx(p), False: pytest.approx(1 - p)}
    assert weights[False] == {p > 0.5: pytest.approx(abs(2 * p - 1))}

    def pairwise(both: bool, gap: torch.Tensor) -> torch.Tensor:
        scores = {True: gap, False: torch.zeros_like(gap)}
        return sum(
            (pairwise_reward_loss(scores[a][None], scores[not a][None], torch.tensor([w], dtype=torch.float64))[0]
             for a, w in weights[both].items()),
            torch.zeros((), dtype=torch.float64),
        )  # fmt: skip

    for at, pull_alike in ((0.0, True), (1.5, False), (-2.0, False)):
        gap = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        wanted = gradient(cross_entropy(p, gap), gap)
        assert gradient(pairwise(True, gap), gap) == pytest.approx(wanted, abs=1e-12)
        assert (gradient(pairwise(False, gap), gap) == pytest.approx(wanted, abs=1e-9)) == pull_alike


def test_dpo_on_both_directions_has_its_optimum_at_p() -> None:
    p, beta = torch.tensor([0.7, 0.3], dtype=torch.float64), 0.1
    h, zero = torch.zeros((), dtype=torch.float64, requires_grad=True), torch.zeros((), dtype=torch.float64)
    for kind, at in (("sigmoid", math.log(0.7 / 0.3) / beta), ("ipo", (2 * 0.7 - 1) / (2 * beta))):
        h.data.fill_(at)
        better, worse = torch.stack([h, zero]), torch.stack([zero, h])
        loss, _, _ = dpo_loss(better, worse, zero.expand(2), zero.expand(2), beta=beta, kind=kind, weight_P=p)  # type: ignore[arg-type]
        assert gradient(loss, h) == pytest.approx(0, abs=1e-12)
    # In one direction only, no finite gap is the best.
    loss, _, _ = dpo_loss(better[:1], worse[:1], zero[None], zero[None], beta=beta, weight_P=2 * p[:1] - 1)
    assert gradient(loss, h) < 0


def test_both_ways_of_people_is_the_share_of_their_votes(store: FeedbackStore) -> None:
    prompt, (a, b) = asked(store)
    for name, outcome in (("ann", "A"), ("bob", "A"), ("eve", "A"), ("dan", "B")):
        store.add_judgement(prompt, [a, b], Compared(outcome), annotator=name)  # type: ignore[arg-type]
    store.add_judgement(prompt, [a], Thumbed(True), annotator="ann")
    (one,) = prefer(store, PreferConfig(both_ways=True)).prompts[0].pairs
    assert (one.weight, one.weight_back) == (3.0, 1.0)
    assert (one.weight_for, one.weight_against) == (3.0, 1.0)


@pytest.mark.parametrize("undecided", [Compared(p=0.5), Compared(p=0.5 + 1e-9), Compared("tie")])
def test_an_undecided_label_draws_the_target_of_both_ways_to_the_middle(
    store: FeedbackStore, undecided: Compared
) -> None:
    """A person says A, a model 1/2: three quarters, with a p of exactly 1/2 as with one beside it."""
    prompt, (a, b) = asked(store)
    store.add_judgement(prompt, [a, b], Compared("A"), annotator="ann")
    store.add_judgement(prompt, [b, a], undecided, annotator="ai:m", source="ai")
    (one,) = prefer(store, PreferConfig(both_ways=True)).prompts[0].pairs
    assert one.better == a and one.weight / (one.weight + one.weight_back) == pytest.approx(0.75)
    assert set(one.sources) == {"human", "ai"} and len(one.judgements) == 2
    (one,) = prefer(store, PreferConfig()).prompts[0].pairs
    assert (one.weight, one.weight_back) == (pytest.approx(1.0), 0.0)


def test_an_unknown_source_names_the_key(tmp_path: Path) -> None:
    from tunesmith.config import load_config

    words = ["store=a.db", "output_dir=o", "source_weights.robot=1"]
    with pytest.raises(ConfigError, match="source_weights"):
        load_config(FeedbackPreferConfig, None, words)
    config, _ = load_config(FeedbackPreferConfig, None, [*words[:2], "source_weights.ai=0.5"])
    assert config.source_weights == {"ai": 0.5}
