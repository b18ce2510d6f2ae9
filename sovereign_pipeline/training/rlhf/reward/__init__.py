"""What a reply is worth: tools in the sandbox, commands, the line's reward model, and their weighted mean.

What does not belong here: what an algorithm learns from it.
"""
