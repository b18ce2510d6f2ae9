"""Presidio as its documentation shows it: AnalyzerEngine, and AnonymizerEngine where asked, text by text, one process.

Runs in an environment of its own (`presidio-requirements.txt`), so that neither disturbs the other: an installed
Presidio makes every start of spaCy seconds longer. Reads JSON strings, a line each; writes the spans of each, and the
time it took.
"""

import argparse
import json
import logging
import time
import warnings
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--anonymize", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import tldextract
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider
    from presidio_anonymizer import AnonymizerEngine

    # It would otherwise fetch the list of suffixes.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=())
    texts = [json.loads(line) for line in arguments.texts.read_text(encoding="utf-8").splitlines()]
    started = time.monotonic()
    configuration = {"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": arguments.model}]}
    analyzer = AnalyzerEngine(nlp_engine=NlpEngineProvider(nlp_configuration=configuration).create_engine())
    anonymizer = AnonymizerEngine()
    loaded, processor_loaded = time.monotonic(), time.process_time()
    spans = []
    for text in texts:
        found = analyzer.analyze(text=text, language="en")
        if arguments.anonymize:
            anonymizer.anonymize(text=text, analyzer_results=found)
        spans.append([(each.start, each.end, each.entity_type) for each in found])
    result = {
        "loading": loaded - started,
        "seconds": time.monotonic() - loaded,
        "processor_seconds": time.process_time() - processor_loaded,
        "characters": sum(map(len, texts)),
        "spans": spans,
    }
    arguments.result.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
