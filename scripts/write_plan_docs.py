"""Write the computed parts of docs/plan.md: known claims beside what the planner says, machines, and shipped shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.models.known_shapes import KNOWN_SHAPES
from tunesmith.models.machines import GPUS
from tunesmith.models.memory import weight_bytes
from tunesmith.models.shape import open_shape
from tunesmith.recipes.plan_model import ModelPlan, Option, PlanConfig, plan_model

PAGE = Path(__file__).parents[1] / "docs" / "plan.md"
QUERY_AND_VALUE = ["q_proj", "v_proj"]


def plan_of(model: str, gpu: str, *, quantization: str = "none", tokens: int = 512, **adapter: Any) -> ModelPlan:
    """The plan of one row of ``tokens`` tokens at a time."""
    return plan_model(
        PlanConfig(
            model=model,
            gpu=gpu,
            quantization=quantization,  # type: ignore[arg-type]
            micro_batch_tokens=tokens,
            max_length=tokens,
            adapter=adapter,  # type: ignore[arg-type]
        )
    )


def least(plan: ModelPlan, *, paged: bool = False) -> str:
    """The smallest option in GB; paged: with the moments in the computer's memory."""
    return f"{min(o.memory.total for o in plan.options if o.paged_optimizer == paged) / 1e9:.1f} GB"


def fitting(plan: ModelPlan) -> str:
    """Whether anything fits, and what."""
    if plan.choice is None:
        return "does not fit"
    paged = ", moments paged" if plan.choice.paged_optimizer else ""
    again = "checkpointing" if plan.choice.checkpointing else "no checkpointing"
    return f"fits in {plan.choice.memory.total / 1e9:.1f} GB ({again}{paged})"


def recomputing(plan: ModelPlan) -> Option:
    """The first option that computes every layer again."""
    return next(option for option in plan.options if option.checkpointing is True)


def claims() -> list[tuple[str, str, str]]:
    """(what is claimed and where, what the planner says and with which settings, why they differ)."""
    return [*lora_claims(), *qlora_claims()]


def lora_claims() -> list[tuple[str, str, str]]:
    """LoRA's (arXiv:2106.09685), and what is said since."""
    gpt3 = plan_of("gpt3-175b-like", "h200", r=4, target_modules=QUERY_AND_VALUE)
    gpt3_full = plan_of("gpt3-175b-like", "h200", method="full")
    seven = plan_of("llama-7b-like", "a100-80gb", r=8, target_modules=QUERY_AND_VALUE)
    seven_full = plan_of("llama-7b-like", "a100-80gb", method="full")
    ranks = {r: plan_of("gpt3-175b-like", "h200", r=r, target_modules=QUERY_AND_VALUE).cost.parameters for r in (1, 8)}
    return [
        (
            "GPT-3 175B: 4.7M and 37.7M parameters learn (LoRA, table 4)",
            f"{ranks[1]:,} with r 1 and {ranks[8]:,} with r 8 on query and value",
            "none",
        ),
        (
            "GPT-3 175B: a checkpoint of 35 MB in place of 350 GB with r 4 on query and value (LoRA, 4.2)",
            f"{2 * gpt3.cost.saved_parameters / 1e6:.1f} MB and {2 * gpt3.shape.parameters / 1e9:.0f} GB at 16 bits; "
            "our files are fp32, twice that",
            "none",
        ),
        (
            "GPT-3 175B: training memory falls from 1.2 TB to 350 GB (LoRA, 4.2)",
            f"{recomputing(gpt3_full).memory.total / 1e12:.1f} TB and {recomputing(gpt3).memory.total / 1e9:.0f} GB, "
            "one row of 512 tokens, checkpointing",
            "the paper does not say what its 1.2 TB hold; ours are fp32 weights, gradients and both moments",
        ),
        (
            "7B: from billions of parameters to a few millions (folklore, after LoRA)",
            f"{seven.shape.parameters:,} to {seven.cost.parameters:,} with r 8 on query and value "
            f"({100 * seven.trainable_share:.3f} %)",
            "none",
        ),
        (
            "7B: full tuning needs more than 100 GB (folklore)",
            f"{recomputing(seven_full).memory.total / 1e9:.0f} GB, one row of 512 tokens, checkpointing; "
            f"A100 of 80 GB: {fitting(seven_full)}",
            "16 bytes a parameter and little else; paging moves the moments, half of them, to the computer's memory",
        ),
    ]


def qlora_claims() -> list[tuple[str, str, str]]:
    """QLoRA's (arXiv:2305.14314)."""
    seven = plan_of("llama-7b-like", "a100-80gb", quantization="4bit", r=8, target_modules=QUERY_AND_VALUE)
    four_bits = weight_bytes(seven.shape, 2, quantized=True)
    thirteen = plan_of("llama-13b-like", "a100-40gb", quantization="4bit", r=64)
    thirty_three = plan_of("llama-33b-like", "rtx3090", quantization="4bit", r=64)
    sixty_five = plan_of("llama-65b-like", "a6000", quantization="4bit", r=64)
    sixty_five_full = plan_of("llama-65b-like", "h200", method="full")
    rows = (seven.shape.layers + 1) * seven.shape.width * 2
    inputs, recomputed = (o.memory.activations / 512 for o in (seven.options[0], recomputing(seven)))
    return [
        (
            "7B in 4 bits: the base takes 5,048 MB (QLoRA, 2)",
            f"{four_bits / 1e6:,.0f} MB: 4.127 bits for {seven.shape.linear_weights / 1e9:.2f}B, 16 for the rest",
            "ours is what the tensors hold; the paper's is measured, and does not say what else is in it",
        ),
        (
            "7B in 4 bits: activations fall from 567 MB a row to 18 MB with checkpointing (QLoRA, 2)",
            f"{inputs / 1e6:.2f} and {recomputed / 1e6:.3f} MB a token, so {18e6 / rows:.0f} tokens are 18 MB and "
            f"{567e6 / inputs:.0f} are 567 MB",
            "the paper gives no length of its rows, and counts the gradients of LoRA's inputs alone",
        ),
        (
            "13B QLoRA on one A100",
            f"A100 of 40 GB: {fitting(thirteen)}, r 64 on all maps, one row of 512 tokens",
            "none",
        ),
        (
            "33B QLoRA on one card of 24 GB (QLoRA, 1)",
            f"RTX 3090: {least(thirty_three, paged=True)} of {thirty_three.machine.memory_bytes / 1e9:.1f} with paged "
            f"moments, r 64, one row of 512 tokens; {fitting(thirty_three)} where a tenth stays free",
            "the paper's adapters and gradients are 16-bit, ours fp32",
        ),
        (
            "65B QLoRA on one card of 48 GB, in place of more than 780 GB (QLoRA, 1)",
            f"A6000: {fitting(sixty_five)}, r 64, one row of 512 tokens; {least(sixty_five)} without paging; full "
            f"{recomputing(sixty_five_full).memory.total / 1e9:,.0f} GB",
            "780 GB are 12 bytes a parameter (16-bit weights and gradients), ours 16; r 64 learns 0.8B parameters",
        ),
    ]


def claims_table() -> list[str]:
    """As Markdown."""
    return [
        "| claim | the planner | difference |",
        "|---|---|---|",
        *(f"| {claim} | {says} | {why} |" for claim, says, why in claims()),
    ]


def machines_table() -> list[str]:
    """As Markdown."""
    rows = [f"| `{name}` | {mib / 1024:.0f} | {'yes' if bf16 else 'no'} |" for name, (mib, bf16) in GPUS.items()]
    return ["| machine | GiB | bf16 |", "|---|---|---|", *rows]


def shapes_table() -> list[str]:
    """As Markdown."""
    out = ["| shape | parameters | layers | width | in 16 bits | in 4 bits |", "|---|---|---|---|---|---|"]
    for name in KNOWN_SHAPES:
        shape = open_shape(name)
        sizes = [f"{weight_bytes(shape, 2, quantized=q) / 1e9:.2f} GB" for q in (False, True)]
        out.append(f"| `{name}` | {shape.parameters:,} | {shape.layers} | {shape.width} | {sizes[0]} | {sizes[1]} |")
    return out


PARTS = {"claims": claims_table, "machines": machines_table, "shapes": shapes_table}


def with_tables(text: str) -> str:
    """The page with its computed tables made anew."""
    for name, make in PARTS.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        text = (
            before + f"<!-- {name} -->\n" + "\n".join(make()) + "\n<!-- end -->\n" + rest.partition("<!-- end -->\n")[2]
        )
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
