"""Statistics over tasks: Holm by its own words, findings with their direction, what could have been found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tunesmith.evals.compare_many import compare_many
from tunesmith.evals.run import Answer, TaskResult
from tunesmith.evals.task import Item, Reply, Request, Task, bare_prompt
from tunesmith.records import Message, Verdict
from tunesmith.stats import exact_mcnemar_p


def result(
    task: str, label: str, values: Sequence[float], *, metric: str = "exact", groups: Sequence[str] = ()
) -> TaskResult:
    ratio = metric == "bits_per_byte"
    items = tuple(
        Item(id=str(i), messages=(), target="t", group=groups[i] if groups else None) for i in range(len(values))
    )
    answers = tuple(
        Answer(
            item=item,
            reply=Reply(request=Request(item=item, messages=())),
            verdict=Verdict(values={metric: value, "side": value / 2, "bits": value * 8, "bytes": 8.0}),
        )
        for item, value in zip(items, values, strict=True)
    )
    made = Task(
        name=task,
        version=1,
        items=items,
        solver=bare_prompt,
        scorer=lambda item, reply: Verdict(values={}),
        metrics=("side", metric),
        ratios={metric: ("bits", "bytes")} if ratio else {},
    )
    return TaskResult(task=made, label=label, answers=answers)


def pair(task: str, only_first: int, only_second: int, ties: int = 4) -> tuple[TaskResult, TaskResult]:
    first = [1.0] * only_first + [0.0] * only_second + [1.0] * ties
    second = [0.0] * only_first + [1.0] * only_second + [1.0] * ties
    return result(task, "base", first), result(task, "tuned", second)


def test_holm_is_over_all_tasks_and_only_headlines_are_tested() -> None:
    discordant = {"a": (0, 12), "b": (2, 11), "c": (9, 1), "d": (3, 4)}
    made = compare_many([pair(name, *counts) for name, counts in discordant.items()], dict.fromkeys("abcd", "exact"))
    p_values = [exact_mcnemar_p(*counts) for counts in discordant.values()]
    assert [one.p for one in made] == p_values
    # By Holm's words: times 4 the smallest, times 3 the next, and never below one that came before.
    order = sorted(p_values)
    steps = [min(1.0, max((4 - i) * order[i] for i in range(rank + 1))) for rank in range(4)]
    assert [one.p_holm for one in made] == pytest.approx([steps[order.index(p)] for p in p_values])
    # b passes alone and not among four; a passes both.
    assert made[1].p < 0.05 < made[1].p_holm
    assert [one.finding for one in made] == ["better", "nothing found", "nothing found", "nothing found"]
    assert compare_many([pair("b", 2, 11)], {"b": "exact"})[0].finding == "better"
    assert compare_many([pair("c", 12, 0)], {"c": "exact"})[0].finding == "worse"
    fewer_errors = [replace(one, task=replace(one.task, losses=frozenset({"exact"}))) for one in pair("c", 12, 0)]
    assert compare_many([(fewer_errors[0], fewer_errors[1])], {"c": "exact"})[0].finding == "better"
    assert set(made[0].differences) == {"exact", "side"} and made[0].headline == "exact"


def test_less_bits_a_byte_is_better() -> None:
    base = result("read", "base", [1.2 + i / 50 for i in range(12)], metric="bits_per_byte")
    tuned = result("read", "tuned", [1.0 + i / 50 for i in range(12)], metric="bits_per_byte")
    made = compare_many([(base, tuned)], {"read": "bits_per_byte"})[0]
    assert made.differences["bits_per_byte"].value == pytest.approx(-0.2)
    assert made.finding == "better"
    assert compare_many([(tuned, base)], {"read": "bits_per_byte"})[0].finding == "worse"


def test_items_and_mean_in_two_directions_are_called_mixed() -> None:
    base, tuned = [0.5] * 12, [0.6] * 11 + [0.0]
    for value in (0.0, -20.0):
        tuned[-1] = value
        made = compare_many([(result("g", "base", base), result("g", "tuned", tuned))], {"g": "exact"})[0]
        assert made.p_holm < 0.05
        assert made.finding == ("better" if value == 0.0 else "mixed")


def test_what_could_have_been_found_shrinks_with_items_and_grows_with_tests() -> None:
    def smallest(times: int, num_pairs: int) -> float:
        pairs = [pair(f"t{i}", 5 * times, 6 * times, ties=29 * times) for i in range(num_pairs)]
        value = compare_many(pairs, {first.task.name: "exact" for first, _ in pairs})[0].smallest
        assert value is not None
        return value

    assert smallest(8, 1) < smallest(2, 1) < smallest(2, 5)
    # Of 320 items, the McNemar test finds this difference 4 times in 5: simulated with numpy.
    import numpy as np

    difference, share, n = smallest(8, 1), 11 / 40, 320
    draws = np.random.default_rng(0).multinomial(
        n, [(share + difference) / 2, (share - difference) / 2, 1 - share], size=400
    )
    found = np.mean([exact_mcnemar_p(int(a), int(b)) < 0.05 for a, b, _ in draws])
    # The exact test is a little stricter than the formula's normal limit.
    assert 0.70 < found < 0.86


def test_graded_values_tell_their_power_from_the_spread_of_differences() -> None:
    base = [i % 7 / 7 for i in range(60)]
    tuned = [(i * 3) % 7 / 7 for i in range(60)]
    made = compare_many([(result("g", "base", base), result("g", "tuned", tuned))], {"g": "exact"})[0]
    differences = [b - a for a, b in zip(base, tuned, strict=True)]
    mean = sum(differences) / 60
    error = math.sqrt(sum((d - mean) ** 2 for d in differences)) / 60
    assert made.smallest == pytest.approx((1.959964 + 0.841621) * error, rel=0.05)
    same = compare_many([(result("g", "base", base), result("g", "tuned", base))], {"g": "exact"})[0]
    assert same.smallest is None and same.finding == "nothing found"


def test_items_of_one_group_are_no_independent_evidence() -> None:
    first, second = [0.0] * 12, [1.0] * 12
    alone = compare_many([(result("t", "a", first), result("t", "b", second))], {"t": "exact"})[0]
    groups = [str(i // 6) for i in range(12)]
    pairs = [(result("t", "a", first, groups=groups), result("t", "b", second, groups=groups))]
    grouped = compare_many(pairs, {"t": "exact"})[0]
    assert alone.finding == "better" and alone.p == pytest.approx(2 / 2**12)
    assert grouped.p == 0.5 and grouped.finding == "nothing found"


def test_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="different items"):
        compare_many([(result("t", "a", [1.0]), result("t", "b", [1.0, 0.0]))], {"t": "exact"})


def test_other_words_are_refused() -> None:
    first, second = pair("t", 1, 2)
    said = (Message(role="user", content="Mind the units."),)
    answers = tuple(replace(a, reply=Reply(request=Request(item=a.item, messages=said))) for a in second.answers)
    with pytest.raises(ValueError, match="'base' and 'tuned' were asked in different words"):
        compare_many([(first, replace(second, answers=answers))], {"t": "exact"})
