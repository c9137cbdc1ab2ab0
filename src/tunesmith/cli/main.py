"""``tunesmith <verb>``: parse, call a recipe, say what was written and what to do next.

Heavy imports stay inside the verbs, so that ``tunesmith --help`` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import (
    adapter,
    advise,
    after,
    card,
    classify,
    compare_methods,
    constitution,
    data,
    dpo,
    evaluate,
    experiment,
    export,
    feedback,
    judge,
    mt_bench,
    plan,
    ppo,
    quantize,
    redteam,
    reward,
    score,
    serve,
    tokenizer,
    winrate,
)
from tunesmith.cli.shared import (
    AdapterPaths,
    Debug,
    DecodingWeights,
    Json,
    MinP,
    ModelName,
    Overrides,
    RepetitionPenalty,
    as_called,
    errors_in_one_paragraph,
    print_lines,
)
from tunesmith.runtime import tune_process

app = typer.Typer(
    name="tunesmith",
    cls=evaluate.Verbs,
    help="From your own rows to an adapted, measured language model on the machine you have.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for group in (adapter, constitution, data, experiment, feedback, judge, redteam, tokenizer):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])
VERBS: tuple[Callable[..., None], ...] = (
    plan.plan, quantize.quantize, after.after, reward.reward, score.score, dpo.dpo, ppo.ppo, winrate.winrate,
    classify.classify, classify.predict, card.card, advise.advise, export.export,
    compare_methods.compare_methods, serve.serve,
)  # fmt: skip
for verb in VERBS:
    app.command()(verb)
app.command("eval")(evaluate.evaluate)
app.command(evaluate.MT_BENCH, hidden=True)(mt_bench.mt_bench)


@app.command()
def sft(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe; `ls recipes` shows the shipped ones.")],
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tune a base on your rows. Example: tunesmith sft recipes/chat.yaml data.train=rows.jsonl learning_rate=5e-4."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.prepare import SFTConfig
        from tunesmith.recipes.sft import describe_result, train

        config, notes = load_config(SFTConfig, recipe, overrides or [])
        trained = train(config)
        if as_json:
            typer.echo(json.dumps(trained.as_dict()))
        else:
            print_lines([*notes, *describe_result(trained, config, as_called(recipe, overrides))])
        if trained.interrupted:
            raise typer.Exit(130)


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option("--output-dir", help="Where the run and the report are written.")] = Path(
        "runs/demo"
    ),
    full: Annotated[bool, typer.Option("--full", help="All rows instead of the stated subset.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Keys all randomness.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """A support desk's tickets: measure the base, tune it, measure again, report. Example: tunesmith demo --full."""
    with errors_in_one_paragraph(debug):
        from tunesmith.recipes.demo import DemoConfig, run_demo

        config = DemoConfig(output_dir=str(output_dir), full=full, seed=seed)
        result = run_demo(config, say=(lambda _: None) if as_json else typer.echo)
        if as_json:
            typer.echo(json.dumps(result))


@app.command()
def generate(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts; none: one a line from standard input.")] = None,
    model: ModelName = "smollm2-135m-instruct",
    adapter: AdapterPaths = None,
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0)] = 0.0,
    top_p: Annotated[float, typer.Option()] = 1.0,
    top_k: Annotated[int, typer.Option(min=0)] = 0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="A text that ends an answer; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    weights: DecodingWeights = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer prompts. Example: tunesmith generate --adapter runs/demo 'My parcel KX-12345 is late.'

    Several adapters on one base, each of which answers every prompt: --adapter runs/demo --adapter runs/other.
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.chat import Session
        from tunesmith.rollout.generate import Sampling

        texts = prompts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
        how = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p, "stop": stop or []}
        how |= {"max_new_tokens": max_new_tokens, "repetition_penalty": repetition_penalty, "seed": seed}
        sampling = build_config(Sampling, how, place="generate")
        session = Session.open_all(model, adapter or [], weights)
        for text, called, rollout in session.answer_each(texts, system, sampling):
            row: dict[str, Any] = {"prompt": text, "answer": rollout.text, "stop_reason": rollout.stop_reason}
            row |= {"adapter": called or None, "adapter_digest": rollout.adapter_digest}
            label = f"[{called}] " if len(session.adapters) > 1 else ""
            typer.echo(json.dumps(row, ensure_ascii=False) if as_json else label + rollout.text)


@app.command()
def chat(
    model: ModelName = "smollm2-135m-instruct",
    adapter: AdapterPaths = None,
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 512,
    temperature: Annotated[float, typer.Option(min=0)] = 0.0,
    top_p: Annotated[float, typer.Option()] = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Annotated[int, typer.Option()] = 0,
    weights: DecodingWeights = "auto",
    debug: Debug = False,
) -> None:
    """Talk to a model, streaming; /help lists the commands. Example: tunesmith chat --adapter runs/demo."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.chat import Session, talk
        from tunesmith.rollout.generate import Sampling

        how = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "min_p": min_p}
        how |= {"repetition_penalty": repetition_penalty, "seed": seed}
        sampling = build_config(Sampling, how, place="chat")
        talk(Session.open_all(model, adapter or [], weights), system, sampling, read=_read_line(), write=_write)


def _read_line() -> Callable[[], str | None]:
    """A reader of the user's lines; None at the end of the input."""
    prompt = "you> " if sys.stdin.isatty() else ""

    def read() -> str | None:
        try:
            return input(prompt)
        except EOFError:
            return None

    return read


def _write(text: str) -> None:
    typer.echo(text, nl=False)
    sys.stdout.flush()


@app.command()
def version() -> None:
    """The versions of tunesmith and of what it stands on."""
    from importlib.metadata import version as of

    for name in ("tunesmith", "torch", "transformers", "peft", "datasets"):
        typer.echo(f"{name} {of(name)}")


def main() -> None:
    """Entry point of the console script."""
    tune_process()
    app()


if __name__ == "__main__":
    main()
