"""Name models: loaded from where they are, refused where they are not."""

import pytest

from sovereign_pipeline.errors import PrivacyError
from sovereign_pipeline.privacy.name_models import load_name_model, name_model_directory


def test_a_missing_model_names_the_command_to_install_it() -> None:
    with pytest.raises(PrivacyError, match="pip install no-such-model"):
        load_name_model("en", "no_such_model")
    with pytest.raises(PrivacyError, match="no spaCy model"):
        name_model_directory("/nowhere/at/all")
