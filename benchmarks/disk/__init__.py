"""A disk that remembers every write, and what it might have held when the power went."""
