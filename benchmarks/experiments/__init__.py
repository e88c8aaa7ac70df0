"""What is measured; each module has ``async def measure(job, run, directory)`` and fills ``run``."""
