"""`sovereign experiment`: train the trials of an experiment, and compare them."""

from typing import Annotated

import typer
from rich.markup import escape

from sovereign_pipeline.base.errors import RecipeError, SovereignError
from sovereign_pipeline.cli.terminal import Group, Home, Result, out, print_next, print_rows
from sovereign_pipeline.policy.experiment import experiment_names, load_experiment, settings_of

ExperimentName = Annotated[str, typer.Argument(help="Name of the experiment.")]

experiment = Group(no_args_is_help=True, help="Train a line with several settings, and compare the results.")


@experiment.command("list")
def experiment_list(home: Home) -> Result:
    """List all experiments. Exits with status 1 if the file of an experiment is invalid."""
    institution, rows, broken = home.institution, [], list[SovereignError]()
    for name in experiment_names(home.settings.data):
        try:
            described, line = load_experiment(home.settings.data, name, institution)
            number = len(settings_of(described, line))
        except RecipeError as error:
            broken.append(error)
            continue
        rows.append({"experiment": name, "line": described.line, "vary": ", ".join(described.vary), "trials": number})
    return Result(rows, "Experiments", errors=broken)


@experiment.command("run")
def experiment_run(home: Home, name: ExperimentName) -> None:
    """Train the unfinished trials of an experiment. Registers no adapter.

    First builds the line's datasets, if they are stale. Run the command again to resume an interrupted experiment. See
    docs/how-to/experiments.md.
    """
    from sovereign_pipeline.dagster.definitions import chain_job, experiment_job
    from sovereign_pipeline.dagster.experiments import run
    from sovereign_pipeline.dagster.resources import open_instance

    jobs = (chain_job, experiment_job)
    run(open_instance(home.settings), jobs, home.settings, name, lambda text: out.print(escape(text)))
    print_next(f"sovereign experiment show {name}")


@experiment.command("show")
def experiment_show(home: Home, name: ExperimentName) -> Result:
    """Compare the finished trials, and write a page with a plot. Prints a diff that changes the line's recipe to the
    best trial's.

    Apply the diff under change control, and run the line. The gates then evaluate the adapter on held-out documents.
    """
    from sovereign_pipeline.dagster.experiments import diff_of, opened, rows_of, summary_of, write_page
    from sovereign_pipeline.training.experiments import read_results

    described, of_trials, workplace = opened(home.settings, name)
    results = read_results(workplace, described, of_trials)
    diff = diff_of(home.settings, results)
    page = write_page(home.settings, described, results, diff)

    def show() -> None:
        print_rows(rows_of(results), f"{name} on {described.line}, {results.classification}")
        out.print(escape(summary_of(results)))
        if diff:
            out.print(f"\n{escape(diff)}")
        out.print(f"Page: {escape(str(page))}")
        if not results.is_complete:
            print_next(f"sovereign experiment run {name}")

    best = results.best
    data = {
        "experiment": name,
        "line": described.line,
        "classification": results.classification,
        "complete": results.is_complete,
        "seconds": round(results.seconds, 1),
        "best": best.setting.number if best is not None else None,
        "trials": results.trials,
        "diff": diff,
        "page": page,
    }
    return Result(data, show)
