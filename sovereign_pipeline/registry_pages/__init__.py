"""What readers see of the registry: one adapter from an answer to its documents, and the list of all adapters.

Read alone, and shown in two forms: pages that ask who reads, and a file that holds everything itself. No text of a
document, prompt or reply is ever among it.
"""
