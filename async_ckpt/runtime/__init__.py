"""Acts, never decides: carries out what the machine commands."""
