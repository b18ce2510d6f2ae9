"""What an institution decides for all its lines, and for one of them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign_pipeline.base.errors import RecipeError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.policy.institution import Institution, load_institution
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS
from sovereign_pipeline.policy.trainer import Here
from sovereign_pipeline.privacy.corrections import WordLists
from sovereign_pipeline_tests.conftest import LADDER


def load(tmp_path: Path, **policy: Any) -> Institution:
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "lamps.yaml").touch()
    content = {"name": "Lamp Office", "classification": LADDER, **policy}
    (tmp_path / "institution.yaml").write_text(yaml.safe_dump(content))
    return load_institution(tmp_path)


def test_what_is_not_named_is_replaced_or_kept_by_default(tmp_path: Path) -> None:
    treatments = load(tmp_path).treatments("lamps")
    assert treatments == {kind: "keep" if kind in KEPT_BY_DEFAULT else "replace" for kind in KINDS}
    assert treatments["NAME"] == treatments["IBAN"] == "replace"


def test_the_trainer_runs_here_unless_the_institution_says_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path).trainer == Here()


def test_the_forms_in_the_pages_are_valid(tmp_path: Path) -> None:
    folder = PROJECT_ROOT / "docs" / "how-to"
    page = "".join((folder / f"{name}.md").read_text(encoding="utf-8") for name in ("personal-data", "hardware"))
    forms = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)]
    (lists,) = [form for form in forms if "same_person" in form]
    WordLists.model_validate(lists)
    forms = [form for form in forms if not form.keys() & {"privacy", "same_person"}]  # the former is a recipe's
    for number, form in enumerate(forms):
        (tmp_path / str(number)).mkdir()
        load(tmp_path / str(number), **form)
    assert [form["trainer"]["where"] for form in forms] == ["kubernetes", "ray"]


def test_a_line_goes_before_the_institution(tmp_path: Path) -> None:
    institution = load(
        tmp_path, sensitive={"CR": "keep", "IBAN": "stop"}, sensitive_by_line={"lamps": {"CR": "replace"}}
    )
    here, elsewhere = institution.treatments("lamps"), institution.treatments("other")
    assert (here["CR"], here["IBAN"]) == ("replace", "stop")
    assert (elsewhere["CR"], elsewhere["IBAN"]) == ("keep", "stop")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"sensitive": {"PASPORT": "keep"}}, r"'sensitive'.*'PASPORT'.*did you mean 'PASSPORT'"),
        ({"sensitive_by_line": {"lamps": {"FONE": "stop"}}}, r"'FONE'.*did you mean 'PHONE'"),
        ({"sensitive": {"PHONE": "hide"}}, r"sensitive\.PHONE"),
        ({"sensitive_by_line": {"lampz": {}}}, r"lampz.*no such line; did you mean 'lamps'"),
        ({"serving": {"roles": {"desk": {"clearance": "SECRTE"}}}}, r"serving\.roles\.desk: 'SECRTE'.*'SECRET'"),
        (
            {"serving": {"roles": {"desk": {"clearance": "SECRET", "lines": ["lampz"]}}}},
            r"serving\.roles\.desk\.lines\.lampz.*no such line; did you mean 'lamps'",
        ),
        ({"serving": {"lines": {"lampz": {}}}}, r"serving\.lines\.lampz.*no such line; did you mean 'lamps'"),
        ({"serving": {"lines": {"lamps": {"privacy": {"requests": "hide"}}}}}, r"privacy\.requests'"),
        ({"serving": {"lines": {"lamps": {"privcy": {}}}}}, r"did you mean 'privacy'"),
        ({"trainer": {"image": "i"}}, r"'trainer': say where the trainer runs"),
        ({"trainer": {"where": "kubernets"}}, r"'trainer'.*'here', 'kubernetes', 'ray'"),
        ({"trainer": {"where": "kubernetes", "imgae": "i"}}, r"imgae' is not a known key; did you mean 'image'"),
        ({"trainer": {"where": "kubernetes", "volumes": [{"clam": "c"}]}}, r"clam' is not a known key; .*'claim'"),
        ({"trainer": {"where": "kubernetes", "volumes": [{"path": "srv"}]}}, r"'srv' must be an absolute path"),
        ({"trainer": {"where": "kubernetes", "volumes": []}}, r"'trainer\.kubernetes\.volumes'"),
        ({"trainer": {"where": "ray", "adress": "http://head:8265"}}, r"did you mean 'address'"),
        ({"trainer": {"where": "ray", "address": "head:6379"}}, r"'trainer\.ray\.address'"),
        ({"trainer": {"where": "here", "gpus": 1}}, r"gpus' is not a known key; known here: where"),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest(tmp_path: Path, policy: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, **policy)
