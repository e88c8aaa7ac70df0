"""The live state in memory: trees, arrays, layouts, staging."""
