"""The file `proof.json`: its form is stored in artifacts and must not change unnoticed."""

from sovereign_pipeline.split import PROOF
from sovereign_pipeline.split.proof import Proof
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.split.chain import materialize, split_stage

STORED = """\
{
  "parameters": {
    "held_out_share": 0.12,
    "near_duplicate_jaccard": 0.7,
    "by_author": false,
    "by_date": true,
    "paraphrases": null,
    "seed": 7,
    "least_held_out_share": 0.1,
    "words_per_shingle": 5,
    "characters_per_shingle_arabic": 9,
    "minhash": {
      "permutations": 256,
      "seed": 7,
      "bands": 85,
      "rows_per_band": 3,
      "compared_share": 0.613734,
      "recall_at_threshold": 0.999126
    }
  },
  "rows": {
    "train": 51,
    "held_out": 8
  },
  "letters": {
    "train": 51,
    "held_out": 8
  },
  "preferences": {
    "train": 0,
    "held_out": 0
  },
  "held_out_share_of_letters": 0.135593,
  "components": {
    "count": 56,
    "held_out": 8,
    "largest": {
      "rows": 2,
      "first_id": "R-00000",
      "side": "train"
    }
  },
  "near_duplicates": {
    "pairs": 3,
    "copies": 3,
    "candidates_compared": 0,
    "rows_in_large_buckets": 0,
    "found_by_exhaustive_check_only": 0
  },
  "crossing": {
    "case": 0,
    "link": 0,
    "equal_text": 0,
    "near_duplicate": 0,
    "contained_text": 0
  },
  "crossing_check": {
    "near_duplicates": "every pair across the sides that prefix, size and position do not rule out, exactly",
    "recall": 1.0,
    "pairs_compared": 0
  },
  "contained_texts": {
    "pairs": 3,
    "boilerplate_above_texts": 20,
    "least_shingles_in_common": 6,
    "boilerplate_documents": 0,
    "boilerplate_documents_held_out": 0,
    "crossing_by_fields": {
      "request ~ request": 0,
      "request ~ response": 0,
      "request ~ rejected": 0,
      "request ~ letter": 0,
      "response ~ request": 0,
      "response ~ response": 0,
      "response ~ rejected": 0,
      "response ~ letter": 0,
      "rejected ~ request": 0,
      "rejected ~ response": 0,
      "rejected ~ rejected": 0,
      "rejected ~ letter": 0,
      "letter ~ request": 0,
      "letter ~ response": 0,
      "letter ~ rejected": 0,
      "letter ~ letter": 0
    }
  },
  "date_cut": {
    "first_day_held_out": "2024-01-25",
    "newest_training_day": "2024-01-24",
    "older_documents_held_out_with_their_group": 0
  }
}
"""


def test_the_proof_is_stored_in_the_same_form_byte_for_byte(institution: DemoInstitution) -> None:
    institution.recipe["split"] = {"by_date": True}
    institution.rows = [letter(number, date=f"2024-01-{number % 28 + 1:02d}") for number in range(56)]
    institution.rows += [letter(number, id=f"S-{number}", date="2024-01-02") for number in range(3)]
    split, _ = materialize(institution.workplace(), split_stage())
    assert split.file(PROOF).read_text() == STORED
    assert Proof.model_validate_json(STORED).to_json() == STORED
