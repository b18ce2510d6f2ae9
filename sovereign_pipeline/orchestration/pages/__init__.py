"""What an asset's page shows of one materialization, read from the artifact's own files.

What belongs here: presentation, and the order of what is shown. What does not: judging, or anything that would show
text of a document.
"""
