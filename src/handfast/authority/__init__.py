"""The keys that sign, and what they sign. Reads no evidence, decides nothing, adds no name. Imports ``core`` only."""
