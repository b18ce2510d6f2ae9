"""Run blind reviews: people compare a candidate's answers with an opponent's, without knowing which model wrote which
answer."""
