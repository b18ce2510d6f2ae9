"""Run blind reviews: people compare a candidate's answers with its opponent's, without knowing whose they are."""
