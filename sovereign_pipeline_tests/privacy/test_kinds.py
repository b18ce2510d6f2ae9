"""Every kind of personal data is proved by the canaries. A failure says what is missing for a new kind."""

import pytest

from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.privacy.scrubbing import CANARIES


@pytest.mark.parametrize("kind", sorted(set(KINDS) - KEPT_BY_DEFAULT))
def test_each_canary_proves_that_it_is_found(kind: Kind) -> None:
    without = [canary.document.language for canary in CANARIES if kind not in dict(canary.planted)]
    assert not without, (
        f"No {kind} is planted in the canary of {', '.join(without)}. Plant an invented value in its text and name it "
        f"in `planted` (privacy/canaries.json); or add {kind} to KEPT_BY_DEFAULT (policy/personal_data.py)."
    )
