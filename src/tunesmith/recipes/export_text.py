"""What an export says: on the screen, and in the page beside the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.evals.parity import Parity


def describe(result: Mapping[str, Any], parity: Parity | None) -> list[str]:
    """Lines for the screen: what was written, how it compares, what to do next."""
    types = ", ".join(f"{count} {kind}" for kind, count in result["tensor_types"].items())
    lines = [f"wrote {result['file']} ({result['bytes'] / 1e6:,.1f} MB; tensors: {types})"]
    lines += describe_parity(parity) if parity is not None else []
    lines += [f"note: {note}" for note in result["notes"]]
    create = f"ollama create {Path(result['file']).stem} -f {result['modelfile']}"
    return [*lines, f"next: {_run(result, result['file'])}   or   {create}"]


def _run(result: Mapping[str, Any], file: str) -> str:
    return f"llama-cli -m BASE.gguf --lora {file}" if result["lora_only"] else f"llama-cli -m {file}"


def describe_parity(parity: Parity) -> list[str]:
    """Lines that say what the check found."""
    first = parity.first
    lines = [
        f"llama.cpp: {parity.same_texts}/{parity.num_texts} awkward texts tokenised alike; "
        f"{parity.same_tokens}/{parity.num_tokens} greedy tokens the same, "
        f"{parity.same_continuations}/{parity.num_prompts} prompts continued alike; "
        f"{parity.tokens_per_second:.0f} tokens/s.",
        f"perplexity of {parity.num_text_tokens} tokens: ours {parity.perplexity_ours:.4g}, the file's "
        f"{parity.perplexity_file:.4g} ({parity.gap.value:+.2%} [{parity.gap.low:+.2%}, {parity.gap.high:+.2%}]; "
        f"{parity.allowed_gap:.2%} is allowed for {parity.quant}).",
    ]
    if first is not None:
        lines.append(
            f"first other token: number {first.position} after {first.prompt!r}: ours {first.ours!r} (ahead by "
            f"{first.our_gap:.3g}), llama.cpp {first.theirs!r} (ahead by {first.their_gap:.3g})."
        )
    return lines


def readme(result: Mapping[str, Any], source: str, base: str) -> str:
    """A short page: what the file is, how to run it, how it was checked."""
    name = Path(result["file"]).name
    lora_only = result["lora_only"]
    what = "the LoRA matrices of" if lora_only else "the merged weights of"
    parity = result["parity"]
    checked = "Not compared with llama.cpp."
    if parity is not None:
        checked = (
            f"llama.cpp gave {parity['same_tokens']} of {parity['num_tokens']} greedy tokens as the trained model; "
            f"perplexity {parity['perplexity_file']:.4g} against {parity['perplexity_ours']:.4g} "
            f"({parity['gap']['value']:+.2%}, {parity['num_text_tokens']} tokens); "
            f"{parity['same_texts']} of {parity['num_texts']} awkward texts tokenised alike."
        )
    notes = "".join(f"- {note}\n" for note in result["notes"])
    needs = f"It needs the GGUF of its base: `tunesmith export {base} --output .`.\n\n" if lora_only else ""
    return f"""# {name}

Written by `tunesmith export`: {what} `{source}` (base: `{base}`), {result["bytes"] / 1e6:,.1f} MB.

{needs}    {_run(result, name)}
    ollama create my-model -f {Path(result["modelfile"]).name}

{checked}
{notes}"""
