"""Release adapters: requests, approvals, transitions, trials, reviews, known issues, recalls and purges."""
