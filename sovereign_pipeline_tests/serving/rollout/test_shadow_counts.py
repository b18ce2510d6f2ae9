"""What several gateways counted of shadow answers, and what `sovereign adapters hold` says of it."""

import json

from typer.testing import CliRunner

from sovereign_pipeline.cli import app
from sovereign_pipeline.serving.rollout.shadow_counts import AnswerOf, ShadowTally, compared, shadow_directory
from sovereign_pipeline.serving.rollout.telemetry import Telemetry, counts_directory, directory_of, shadow_of
from sovereign_pipeline_tests.serving.flags.conftest import LINE, Desk
from sovereign_pipeline_tests.serving.flags.conftest import desk as desk
from sovereign_pipeline_tests.serving.flags.conftest import office as office

LAMP, QUAY = AnswerOf("The lamp is mended.", 5, 1.0), AnswerOf("The quay is closed.", 6, 4.0)


def test_what_gateways_counted_adds_up_and_a_damaged_file_hides_no_hold(desk: Desk) -> None:
    desk.in_production()
    desk.rules(share=0.5, shadow=0.2)
    desk.staged()
    flag, directory = desk.follow(), counts_directory(desk.settings)
    assert shadow_of(directory, flag) == ShadowTally()
    assert flag.staged is not None
    comparison = directory_of(directory, LINE, flag.staged, flag.began)
    for pair in ((LAMP, LAMP), (QUAY, LAMP)):
        gateway = Telemetry(directory)
        gateway.shadow.add(comparison, ShadowTally(drawn=2, dropped=1))
        gateway.shadow.add(comparison, compared("Is the lamp lit?", *pair, is_likeliest=True))
        gateway.shadow.write()

    def told() -> dict[str, str]:
        result = CliRunner().invoke(app, ["adapters", "hold", LINE, "--json"], env=desk.settings.to_environment())
        assert result.exit_code == 0, result.output
        facts: dict[str, str] = json.loads(result.stdout)
        return facts

    facts = told()
    assert facts["shadow"] == "2 of 4 requests compared, 0 lost, 2 dropped"
    assert facts["shadow, likeness"] == "1 of 2 equal; 62% before the first other word"
    assert facts["shadow, seconds"] == "2.00, as given 1.00"
    assert facts["outcome"] == "open"
    (shadow_directory(comparison) / "other.json").write_text("{")
    assert told()["outcome"] == "open" and "cannot be read. Remove the file." in told()["shadow"]
