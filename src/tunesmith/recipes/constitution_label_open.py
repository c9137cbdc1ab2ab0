"""What ``tunesmith constitution label`` opens: the base, and who judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from tunesmith.constitution.principles import Constitution
from tunesmith.evals.judge import Judge, LikelihoodJudge, WriterJudge
from tunesmith.models.load import load_base
from tunesmith.models.resolve import EMBEDDED_MODEL
from tunesmith.models.roles import Base
from tunesmith.recipes.constitution_judges import CONTROLS, EACH, ControlJudge, EachJudge
from tunesmith.recipes.constitution_label_config import LabelConfig
from tunesmith.recipes.feedback_open import base_of_first
from tunesmith.recipes.judge_open import LOCAL, open_judge
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Writer, Written

# How many tokens a judge has worked through so far.
Tokens = Callable[[], int]


def open_base(config: LabelConfig) -> Base:
    """The base that draws and, unless it is told otherwise, judges. Raises ModelError."""
    return load_base(_with_base_of_adapters(config))


def _with_base_of_adapters(config: LabelConfig) -> LabelConfig:
    """The settings with the first adapter's base where no other model is named."""
    name = config.model_name_or_path
    if name == EMBEDDED_MODEL:
        name = base_of_first(config.adapters) or name
    return config.model_copy(update={"model_name_or_path": name})


def open_labelling_judge(
    config: LabelConfig, constitution: Constitution, base: Base | None
) -> tuple[Judge, Tokens, list[str]]:
    """The judge, a count of the tokens it read and wrote, and what is to be said of it.

    base: one in memory, which a local judge without a model of its own uses. Raises ModelError, ConfigError.
    """
    control = next((one for one in CONTROLS if one == config.judge), None)
    if control is not None:
        note = f"judge: the control '{control}', which reads nothing; its labels show what no judgement looks like."
        return ControlJudge(control, config.seed), lambda: 0, [note]
    notes = list[str]()
    if config.judge in (LOCAL, EACH) and base is None and config.judge_model is None:
        base = open_base(config)
        notes += base.notes
    same = config.model_copy(update={"judge": LOCAL}) if config.judge == EACH else config
    # What is in memory is the adapters' base: a judge of another name is another one.
    judge, more = open_judge(same, _with_base_of_adapters(config), base)
    if isinstance(judge, WriterJudge):
        counting = _Counting(judge.writer)
        judge.writer = counting
        return judge, lambda: counting.num_tokens, [*notes, *more]
    assert isinstance(judge, LikelihoodJudge) and isinstance(judge.model, LocalLikelihood)
    model = judge.model
    if config.judge == EACH:
        each = EachJudge(model, constitution, config.demonstrations)
        return each, lambda: model.num_tokens, [*notes, *more]
    return judge, lambda: model.num_tokens, [*notes, *more]


class _Counting:
    """A writer that counts the tokens which the one behind it reports."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self.num_tokens = writer, 0

    @property
    def identity(self) -> Mapping[str, str]:
        return self._writer.identity

    def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        for index, written in self._writer.write(asked, sampling):
            self.num_tokens += sum(int(written.details.get(name, 0)) for name in ("prompt_tokens", "new_tokens"))
            yield index, written
