"""Serve the web page on which operators rate pairs and guess, one at a time."""
