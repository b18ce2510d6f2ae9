"""Learning from a reward: prompts, rewards, sampling, the policy, and what PPO, RLOO and GRPO share."""
