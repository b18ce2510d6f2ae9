"""Run blind reviews: people compare answers of candidate and opponent without knowing which model wrote an answer."""
