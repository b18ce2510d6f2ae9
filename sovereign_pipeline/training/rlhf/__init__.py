"""RLHF: prompts, rewards, sampling, the policy, and the common parts of PPO, RLOO and GRPO."""
